"""Which request is computed when, and at which fixed shape. Pure: no torch, no text, tested without a model.

A bucket is a fixed shape: prompts are prefilled in groups of so many tokens, and decoded in a pool of a fixed
row count over a fixed KV length. Buckets with the same KV length share a pool. A request's bucket follows
from its own lengths alone, because the bits of a row depend on the shape it is computed at.

A padded group has a row for each prompt, all padded to the bucket's length. A packed one is a single row,
with as many prompts behind each other as it has room for; there are then few buckets, for groups of so many
tokens as the longest of their prompts take.

In scope: the bucket table, the queues, which step comes next, which slot a request gets, the accounting.
Not in scope: what a step does (the engine), what a prompt is, out-of-memory handling.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count, islice, pairwise
from typing import NamedTuple, TypeVar

_DECODE_ROWS = 64
_PREFILL_TOKENS = 1024
_PREFILL_ROWS = (4, 8)
_WHOLE_VECTORS = 64  # tokens in a group, a multiple of: see models.activations
_KV_BUDGET = 4 << 30  # bytes for all pools together
_PACKED_PER_ROW = 24  # tokens of a packed group: with more, few rows could not be refilled often enough
_CONSIDERED = 256  # prompts that may fill a gap: enough to leave next to none, few enough to look through

_Item = TypeVar("_Item")


class Bucket(NamedTuple):
    """One fixed shape, in tokens; `prompt_length` is without the shared prefix, `kv_length` with it."""

    prompt_length: int
    kv_length: int


@dataclass(frozen=True, slots=True)
class BucketPolicy:
    """How a bucket table is laid out: what `docmill model tune` finds for a machine.

    A prefill takes as many prompts as `prefill_tokens` hold; more would fill the machine no better and only
    add dummies. Prompts are padded to one of `prompts_per_doubling` lengths per doubling, or to the next of
    `edges` where there are any, unless they are packed.
    """

    decode_rows: int = _DECODE_ROWS
    prefill_tokens: int = _PREFILL_TOKENS
    prompts_per_doubling: int = 8
    edges: tuple[int, ...] = ()  # ascending, in tokens

    @classmethod
    def for_packing(cls) -> "BucketPolicy":
        """Return the default for packed groups, which need fewer tokens to leave next to no dummies."""
        return cls(prefill_tokens=512)

    def smaller(self) -> "BucketPolicy | None":
        """Return a policy that takes half the memory for keys and values; None if there is none."""
        rows = self.decode_rows // 2
        return replace(self, decode_rows=rows) if rows >= _PREFILL_ROWS[1] else None


@dataclass(frozen=True, slots=True)
class BucketTable:
    """All shapes that an engine computes at.

    `prompt_lengths` and `kv_lengths` are ascending, in tokens; `prefix_length` is the length of the shared
    prefix, which lies in front of every prompt in the KV cache and is counted in `kv_lengths`. In a `packed`
    table `prompt_lengths` are those of groups.
    """

    prompt_lengths: tuple[int, ...]
    kv_lengths: tuple[int, ...]
    decode_rows: int = _DECODE_ROWS
    prefix_length: int = 0
    prefill_tokens: int = _PREFILL_TOKENS
    packed: bool = False

    def __post_init__(self) -> None:
        for name, lengths in (("prompt_lengths", self.prompt_lengths), ("kv_lengths", self.kv_lengths)):
            if not lengths or lengths[0] < 1 or any(a >= b for a, b in pairwise(lengths)):
                raise ValueError(f"{name} must be positive and ascending, not {lengths}")
        if self.decode_rows < _PREFILL_ROWS[1]:
            raise ValueError(f"decode_rows must be at least {_PREFILL_ROWS[1]}, not {self.decode_rows}")
        if uneven := [n for n in self.prompt_lengths if n * self.prefill_rows(n) % _WHOLE_VECTORS]:
            raise ValueError(
                f"a group of prompts must fill whole vectors of {_WHOLE_VECTORS}: not so at {uneven}"
            )

    @classmethod
    def fitting(
        cls,
        policy: BucketPolicy,
        *,
        max_prompt: int,
        max_new: int,
        prefix: int,
        context: int,
        kv_bytes_per_token: int,
        packed: bool,
    ) -> "BucketTable":
        """Return the table for prompts of up to `max_prompt` tokens and `max_new` tokens after them.

        `context` is the number of positions the model has; a table never exceeds it. `kv_bytes_per_token`
        is the size of the keys and values of one token in all layers; fewer rows are decoded at once where
        all pools together would outgrow a fixed budget, and in one pool where the fewest rows still would.
        That is the least there is, and not refused if it is more than the budget. The budget is a constant
        and not the free memory of the moment, because shapes decide the bits. Raises ValueError when not
        even one prompt token fits.
        """
        room = context - prefix
        lengths = _prompt_lengths(policy, max_prompt)
        prompts = tuple(length for length in lengths if length < room)
        if not prompts:
            raise ValueError(f"a context of {context} tokens leaves no room for prompts behind {prefix}")
        longest = min(prompts[-1] + max_new, room)
        pools = (longest,) if packed else _ladder(longest, 64, per_doubling=1)
        pools = tuple(prefix + min(length, longest) for length in pools)
        rows = policy.decode_rows
        most = _KV_BUDGET // kv_bytes_per_token  # tokens
        while rows > _PREFILL_ROWS[1] and (rows + 1) * sum(pools) > most:
            rows //= 2
        if (rows + 1) * sum(pools) > most:
            pools = pools[-1:]
        if packed:
            prompts = _groups(min(policy.prefill_tokens, _PACKED_PER_ROW * rows), prompts[-1])
        return cls(prompts, pools, rows, prefix, policy.prefill_tokens, packed)

    @property
    def spare_slot(self) -> int:
        """The slot of a pool that is no row's, and takes what is computed of dummies."""
        return self.decode_rows

    @property
    def slots(self) -> int:
        """How many a pool has."""
        return self.decode_rows + 1

    def bucket(self, prompt: int, new: int) -> Bucket | None:
        """Return the bucket for `prompt` prefilled and `new` decoded tokens; None if none holds them."""
        prompt_length = next((length for length in self.prompt_lengths if length >= prompt), None)
        if prompt_length is None:
            return None
        padded = prompt if self.packed else prompt_length
        needed = self.prefix_length + max(padded, prompt + new)
        kv_length = next((length for length in self.kv_lengths if length >= needed), None)
        return None if kv_length is None else Bucket(prompt_length, kv_length)

    def prefill_rows(self, prompt_length: int) -> int:
        """Return the fixed number of rows in a prefill of this length: one, or a power of two."""
        return 1 if self.packed else _prefill_rows(prompt_length, self.prefill_tokens)

    def as_key(self) -> dict[str, int | list[list[int]]]:
        """Return the table as plain values: what decides the shapes and therefore the bits."""
        return {
            "prefill": [[self.prefill_rows(length), length] for length in self.prompt_lengths],
            "decode": [[self.decode_rows, length] for length in self.kv_lengths],
            "prefix_length": self.prefix_length,
            "packed": self.packed,
        }


def _prefill_rows(length: int, tokens: int) -> int:
    """Return how many prompts, padded to a length, take about so many tokens."""
    fewest, rows = _PREFILL_ROWS
    while rows > fewest and rows * length > tokens:
        rows //= 2
    return rows


def _prompt_lengths(policy: BucketPolicy, longest: int) -> tuple[int, ...]:
    """Return what prompts of up to `longest` tokens are padded to."""
    if not policy.edges:
        return _ladder(longest, 8, policy.prompts_per_doubling)
    edges = (*(edge for edge in policy.edges if edge < longest), longest)
    return tuple(sorted({_whole(edge, policy.prefill_tokens) for edge in edges}))


def _whole(length: int, tokens: int) -> int:
    """Return the least length from this on at which a group of prompts fills whole vectors."""
    return next(n for n in count(length) if n * _prefill_rows(n, tokens) % _WHOLE_VECTORS == 0)


def _groups(smallest: int, longest: int) -> tuple[int, ...]:
    """Return lengths of whole vectors from about `smallest` on, each twice the last, that reach `longest`."""
    lengths = [-(-smallest // _WHOLE_VECTORS) * _WHOLE_VECTORS]
    while lengths[-1] < longest:
        lengths.append(2 * lengths[-1])
    return tuple(lengths)


def _ladder(longest: int, finest: int, per_doubling: int) -> tuple[int, ...]:
    """Return ascending multiples of `finest` that reach `longest`, so many per doubling."""
    lengths = [finest]
    while lengths[-1] < longest:
        step = (1 << lengths[-1].bit_length() - 1) // per_doubling
        lengths.append(lengths[-1] + max(finest, step))
    return tuple(lengths)


@dataclass(frozen=True, slots=True)
class Prefill:
    """Compute the KV of these requests' prompts and put it into these slots of the bucket's pool.

    There may be fewer requests than the group has room for; the rest is dummies.
    """

    bucket: Bucket
    tickets: tuple[int, ...]
    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Decode:
    """Advance every row of the pool with this KV length by one token; `tickets` maps slots to requests."""

    kv_length: int
    tickets: dict[int, int]


@dataclass(slots=True)
class Accounting:
    """How much of what was computed was wanted."""

    prompt_tokens: int = 0
    computed_prompt_tokens: int = 0
    groups: int = 0
    useful_row_steps: int = 0
    row_steps: int = 0
    steps: int = 0

    @property
    def padding_efficiency(self) -> float:
        """Real prompt tokens per computed one, dummies included."""
        return self.prompt_tokens / self.computed_prompt_tokens if self.computed_prompt_tokens else 1.0

    @property
    def occupancy(self) -> float:
        """Row-steps of the decoder that advanced a request, per executed one."""
        return self.useful_row_steps / self.row_steps if self.row_steps else 1.0


@dataclass(slots=True)
class _PaddedQueue:
    """Prompts that wait for a group with a row for each."""

    rows: int
    waiting: dict[int, int] = field(default_factory=dict)  # ticket → real tokens, in order of arrival

    def next_group(self, free: int) -> tuple[list[int], bool]:
        """Return the tickets that would go next into so many free slots, and whether that leaves no dummy."""
        ready = min(self.rows, len(self.waiting))
        return (list(islice(self.waiting, ready)) if ready <= free else []), ready == self.rows


@dataclass(slots=True)
class _PackedQueue:
    """Prompts that wait for a group that takes as many as there is room for."""

    tokens: int
    slots: int  # of the pool
    waiting: dict[int, int] = field(default_factory=dict)

    def next_group(self, free: int) -> tuple[list[int], bool]:
        """Return the tickets that would go next into so many free slots, and whether no more could go.

        First fit, in order of arrival. Where it is slots that run out, the group waits for more of them,
        until half the pool is free.
        """
        tickets: list[int] = []
        room = self.tokens
        for ticket, tokens in islice(self.waiting.items(), _CONSIDERED):
            if tokens > room:
                continue
            if len(tickets) == free:
                return (tickets, True) if 2 * free >= self.slots else ([], False)
            tickets.append(ticket)
            room -= tokens
        return tickets, len(tickets) < len(self.waiting)


@dataclass(slots=True)
class _Pool:
    rows: int
    active: dict[int, int] = field(default_factory=dict)  # slot → ticket
    queues: dict[int, _PaddedQueue | _PackedQueue] = field(default_factory=dict)  # by prompt length

    @property
    def free(self) -> int:
        return self.rows - len(self.active)

    def slots(self, count: int) -> tuple[int, ...]:
        return tuple([slot for slot in range(self.rows) if slot not in self.active][:count])


class Scheduler:
    """Decides the next step from what waits and what runs; holds no tensors and no text."""

    def __init__(self, table: BucketTable, accounting: Accounting) -> None:
        self._table = table
        self._accounting = accounting
        self._pools = {length: _Pool(table.decode_rows) for length in table.kv_lengths}

    def add(self, ticket: int, bucket: Bucket, prompt: int) -> None:
        """Queue a request that has `prompt` real tokens to prefill in `bucket`."""
        queues, length = self._pools[bucket.kv_length].queues, bucket.prompt_length
        if length not in queues:
            rows = self._table.decode_rows
            packed = self._table.packed
            queues[length] = (
                _PackedQueue(length, rows) if packed else _PaddedQueue(self._table.prefill_rows(length))
            )
        queues[length].waiting[ticket] = prompt

    def release(self, kv_length: int, slot: int) -> None:
        """Free the slot of a request that is finished."""
        del self._pools[kv_length].active[slot]

    def next_step(self, *, more_may_come: bool) -> Prefill | Decode | None:
        """Return what to compute next, or None when nothing waits and nothing runs.

        Full prefill groups come first: they cost no padding and fill the pools. A group with dummies is
        computed where waiting cannot help (nothing more may come) or where a pool would otherwise run half
        empty. Then the fullest pool decodes; the others keep their rows until it is their turn.
        """
        group = self._longest_queue(full=True) or self._longest_queue(full=False, thin_pools=more_may_come)
        if group:
            return self._prefill(*group)
        kv_length, pool = max(self._pools.items(), key=lambda item: len(item[1].active))
        return self._decode(kv_length, pool) if pool.active else None

    def _longest_queue(self, *, full: bool, thin_pools: bool = False) -> tuple[Bucket, list[int]] | None:
        """Return the bucket with the most requests of which some can be prefilled now, and which those are.

        With `full`, only groups without a dummy count; with `thin_pools`, only pools at most half of whose
        rows are active.
        """
        longest, found = 0, None
        for kv_length, pool in self._pools.items():
            if thin_pools and len(pool.active) * 2 > pool.rows:
                continue
            for prompt_length, queue in pool.queues.items():
                if len(queue.waiting) <= longest:
                    continue
                tickets, is_full = queue.next_group(pool.free)
                if tickets and (is_full or not full):
                    longest, found = len(queue.waiting), (Bucket(prompt_length, kv_length), tickets)
        return found

    def _prefill(self, bucket: Bucket, tickets: list[int]) -> Prefill:
        pool = self._pools[bucket.kv_length]
        waiting, slots = pool.queues[bucket.prompt_length].waiting, pool.slots(len(tickets))
        pool.active.update(zip(slots, tickets, strict=True))
        self._accounting.prompt_tokens += sum(waiting.pop(ticket) for ticket in tickets)
        computed = self._table.prefill_rows(bucket.prompt_length) * bucket.prompt_length
        self._accounting.computed_prompt_tokens += computed
        self._accounting.groups += 1
        return Prefill(bucket, tuple(tickets), slots)

    def _decode(self, kv_length: int, pool: _Pool) -> Decode:
        self._accounting.useful_row_steps += len(pool.active)
        self._accounting.row_steps += pool.rows
        self._accounting.steps += 1
        return Decode(kv_length, dict(pool.active))


def in_order(numbered: Iterable[tuple[int, _Item]]) -> Iterator[_Item]:
    """Yield items by ascending number (0, 1, 2 …, each once), as soon as those before them are there."""
    waiting: dict[int, _Item] = {}
    expected = 0
    for number, item in numbered:
        waiting[number] = item
        while expected in waiting:
            yield waiting.pop(expected)
            expected += 1
