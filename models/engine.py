"""Text from a language model, many requests at a time, each bit for bit as if it were alone.

Every forward pass has one of a small set of fixed shapes (`models.batching`), and the shapes of a request
follow from its own lengths, so what else is computed never shows in its text. The loop is `Engine._steps`:
take requests in, let the scheduler decide, run the step, hand out what is finished.

In scope: streams of requests, forced tokens, what ends a text, log-probabilities, statistics.
Not in scope: what a text is about, eliding prompts that are too long, sampling, recovery from running out of
memory (OutOfMemoryError reaches the caller), several processes or devices.
"""

import itertools
import math
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

from models.batching import (
    Accounting,
    Bucket,
    BucketPolicy,
    BucketTable,
    Decode,
    Prefill,
    Scheduler,
    in_order,
)
from models.config import (
    ExecutionProfile,
    GenerationConfig,
    ModelError,
    NotANumberError,
    PromptTooLongError,
)
from models.load import LoadedModel
from models.runner import PackedRunner, PaddedRunner, Runner

_LOOK_AHEAD = 2048  # requests taken in but not finished: enough to fill groups, few enough for flat memory
_FORCED_TEXTS = 4096  # distinct ones whose tokens are remembered: openings and parameters come again
_BROKEN_CHARACTER = "\ufffd"  # what a tokenizer gives for bytes that are not yet a character


@dataclass(frozen=True, slots=True)
class Frame:
    """A slot: `text` is forced upon the model, which then writes at most `limit` tokens of its own."""

    text: str
    limit: int

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ValueError(f"a frame must leave the model at least one token, not {self.limit}")


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt and the frames that are written after it, in order.

    Special tokens are recognized in frames and in the shared prefix, never in the prompt: a prompt holds text
    that nobody vouches for, and must not be able to end its own turn.
    """

    id: str
    prompt: str
    frames: tuple[Frame, ...]

    def __post_init__(self) -> None:
        if not self.frames:
            raise ValueError(f"request {self.id!r} has no frame for the model to fill")
        if not all(frame.text for frame in self.frames[1:]):
            raise ValueError(f"request {self.id!r}: only the first frame may begin without a text")


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model wrote for a request; the tuples have one entry per frame.

    `texts` is the model's part only, without what ended it. `ended` tells which frames the model ended
    itself; the others were cut at their limit. `logprobs` is the mean natural log-probability of the tokens
    that the model chose, the ending one included. `prompt_tokens` counts what was fed (without the shared
    prefix), `output_tokens` what the model chose.
    """

    id: str
    texts: tuple[str, ...]
    ended: tuple[bool, ...]
    logprobs: tuple[float, ...]
    prompt_tokens: int
    output_tokens: int


@dataclass(slots=True)
class EngineStats:
    """Totals since the engine was made; seconds are time in the engine, not in its caller.

    Tokenizing counts as prefill, finding the text of tokens as decoding.
    """

    prompt_tokens: int = 0
    output_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    accounting: Accounting = field(default_factory=Accounting)

    @property
    def seconds(self) -> float:
        """Time in forward passes, and with what goes into them and comes of them."""
        return self.prefill_seconds + self.decode_seconds

    @property
    def padding_efficiency(self) -> float:
        """Real prompt tokens per computed one, dummies included."""
        return self.accounting.padding_efficiency

    @property
    def occupancy(self) -> float:
        """Row-steps of the decoder that advanced a request, per executed one."""
        return self.accounting.occupancy


class Engine:
    """Generates text for streams of requests that share a prefix.

    `prefix` is the instruction that all prompts begin with; its KV is computed once, and its tokens are split
    from the prompt's, always at the same place. `policy` lays out the bucket table, or `buckets` is one.
    With `compiled`, a folder, prompts are packed, and computed by code that is compiled into that folder if
    it is not there. One stream at a time.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        generation: GenerationConfig | None = None,
        *,
        prefix: str = "",
        policy: BucketPolicy | None = None,
        buckets: BucketTable | None = None,
        compiled: Path | None = None,
    ) -> None:
        self._loaded = loaded
        self._generation = generation or GenerationConfig()
        opening = loaded.encode_opening(prefix)
        packed = compiled is not None
        policy = policy or (BucketPolicy.for_packing() if packed else BucketPolicy())
        self._table = buckets or _table(loaded, self._generation, policy, len(opening), packed)
        if self._table.prefix_length != len(opening):
            raise ModelError(
                f"the bucket table is for a prefix of {self._table.prefix_length} tokens, "
                f"but this one has {len(opening)}: make a table for it"
            )
        self._runner = _runner(loaded, self._table, opening, compiled)
        self._ends = _Ends(loaded, self._generation.stop)
        self._forced = lru_cache(_FORCED_TEXTS)(partial(loaded.encode, trusted=True))
        self._generating = False
        self.stats = EngineStats()

    @property
    def profile(self) -> ExecutionProfile:
        """What the bits of the output depend on besides the weights, the prefix and the request."""
        return self._runner.profile()

    def count_tokens(self, prompt: str) -> int:
        """Return how many tokens a prompt takes, without the shared prefix and the frames."""
        return len(self._loaded.encode(prompt, trusted=False))

    def count_forced_tokens(self, text: str) -> int:
        """Return how many tokens the text of a frame takes."""
        return len(self._forced(text))

    @property
    def decode_rows(self) -> int:
        """How many texts are advanced at once."""
        return self._table.decode_rows

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """Yield completions as they finish, taking requests in as there is room for them.

        An iterator whose next request waits for an earlier completion yields None meanwhile. Raises
        PromptTooLongError for a request that no bucket holds, NotANumberError for one that the model has no
        number for, and ModelError for an empty one, for a None while nothing is being computed, and for a
        second stream beside a running one.
        """
        for _, completion in self._stream(requests):
            yield completion

    def generate_all(self, requests: Iterable[Request]) -> list[Completion]:
        """Return the completions of all requests in the order of the requests; raises as `generate` does."""
        return list(in_order(self._stream(requests)))

    def _stream(self, requests: Iterable[Request | None]) -> Iterator[tuple[int, Completion]]:
        if self._generating:
            raise ModelError("this engine is in the middle of another stream: finish or close that one first")
        self._generating = True
        try:
            yield from self._steps(_Arrivals(requests))
        finally:
            self._generating = False

    def _steps(self, arrivals: "_Arrivals") -> Iterator[tuple[int, Completion]]:
        """Run until nothing is left, yielding the number of each request with its completion."""
        scheduler = Scheduler(self._table, self.stats.accounting)
        sequences: dict[int, _Sequence] = {}
        while True:
            started = time.perf_counter()
            for ticket, request in arrivals.take(_LOOK_AHEAD - len(sequences)):
                sequences[ticket] = sequence = self._admit(request)
                scheduler.add(ticket, sequence.bucket, len(sequence.prompt) - 1)
            self.stats.prefill_seconds += time.perf_counter() - started - arrivals.waited
            started = time.perf_counter()
            finished: list[int] = []
            match scheduler.next_step(more_may_come=arrivals.open):
                case Prefill() as step:
                    self._prefill(step, sequences)
                    self.stats.prefill_seconds += time.perf_counter() - started
                case Decode() as step:
                    finished = self._decode(step, sequences, scheduler)
                    self.stats.decode_seconds += time.perf_counter() - started
                case None if arrivals.open:
                    raise ModelError("the stream waits for completions of requests that it has not handed in")
                case None:
                    return
            for ticket in finished:
                yield ticket, sequences.pop(ticket).completion()

    def _admit(self, request: Request) -> "_Sequence":
        """Tokenize a request and find its bucket."""
        opening, *forced = (self._forced(frame.text) for frame in request.frames)
        prompt = self._loaded.encode(request.prompt, trusted=False) + opening
        if not prompt:
            raise ModelError(f"request {request.id!r} is empty: there is nothing to continue")
        new = sum(frame.limit for frame in request.frames) + sum(map(len, forced))
        bucket = self._table.bucket(len(prompt) - 1, new)
        if bucket is None:
            room = self._table.kv_lengths[-1] - self._table.prefix_length
            raise PromptTooLongError(
                f"request {request.id!r} has {len(prompt)} prompt tokens and up to {new} after them, but the "
                f"largest bucket holds {min(self._table.prompt_lengths[-1] + 1, room)}, and {room} in all: "
                "shorten the prompt"
            )
        return _Sequence(request, bucket, prompt, forced)

    def _prefill(self, step: Prefill, sequences: dict[int, "_Sequence"]) -> None:
        """Compute all but the last token of a group of prompts; that one begins the decoding."""
        group = [sequences[ticket] for ticket in step.tickets]
        self._runner.prefill(step.bucket, [sequence.prompt[:-1] for sequence in group], step.slots)
        for sequence in group:
            sequence.begin(self._table.prefix_length)
            self.stats.prompt_tokens += sequence.prompt_tokens

    def _decode(self, step: Decode, sequences: dict[int, "_Sequence"], scheduler: Scheduler) -> list[int]:
        """Advance a pool by one token and return the tickets of the requests that this finished."""
        fed = {slot: sequences[ticket].next_fed() for slot, ticket in step.tickets.items()}
        tokens, logprobs = self._runner.decode(step.kv_length, fed)
        finished = []
        for slot, ticket in step.tickets.items():
            sequence = sequences[ticket]
            if sequence.feed:
                continue  # forced tokens are left: what the model would have chosen does not matter
            if math.isnan(logprobs[slot]):
                raise NotANumberError(sequence.request.id)
            self.stats.output_tokens += 1
            sequence.choose(tokens[slot], logprobs[slot], self._ends)
            if sequence.is_complete:
                scheduler.release(step.kv_length, slot)
                finished.append(ticket)
        return finished


def _runner(loaded: LoadedModel, table: BucketTable, opening: list[int], compiled: Path | None) -> Runner:
    if table.packed != (compiled is not None):
        raise ModelError("a packed bucket table is for compiled passes, and they for no other")
    return (
        PackedRunner(loaded, table, opening, compiled) if compiled else PaddedRunner(loaded, table, opening)
    )


def _table(
    loaded: LoadedModel, generation: GenerationConfig, policy: BucketPolicy, prefix: int, packed: bool
) -> BucketTable:
    try:
        return BucketTable.fitting(
            policy,
            max_prompt=generation.max_prompt_tokens,
            max_new=generation.max_new_tokens,
            prefix=prefix,
            context=loaded.context,
            kv_bytes_per_token=loaded.kv_bytes_per_token(packed=packed),
            packed=packed,
        )
    except ValueError as error:
        raise ModelError(f"a shared prefix of {prefix} tokens is too long for this model: {error}") from error


class _Ends:
    """Tells whether the tokens of a frame end it, and what text they are."""

    def __init__(self, loaded: LoadedModel, stop: tuple[str, ...]) -> None:
        self._loaded = loaded
        self._stop = stop
        self._may_complete: dict[int, bool] = {}

    def ending(self, tokens: list[int]) -> str | None:
        """Return the text before the end, if the last token brought one; None if the frame goes on."""
        if tokens[-1] in self._loaded.end_tokens:
            return self.text(tokens[:-1])
        if not self._may_complete_stop(tokens[-1]):
            return None
        text = self._loaded.decode(tokens)
        places = [place for place in map(text.find, self._stop) if place >= 0]
        return text[: min(places)].rstrip(_BROKEN_CHARACTER) if places else None

    def text(self, tokens: list[int]) -> str:
        """Return the text of tokens, without the first bytes of a character that was not finished."""
        return self._loaded.decode(tokens).rstrip(_BROKEN_CHARACTER)

    def _may_complete_stop(self, token: int) -> bool:
        """Tell whether a stop string can end in this token; only then is a text decoded."""
        if token not in self._may_complete:
            ends = {stop[-1] for stop in self._stop} | {_BROKEN_CHARACTER}
            self._may_complete[token] = not ends.isdisjoint(self._loaded.decode([token]))
        return self._may_complete[token]


@dataclass(slots=True)
class _Written:
    """What the model chose in one frame."""

    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0
    text: str = ""
    ended: bool = False


@dataclass(slots=True)
class _Sequence:
    """A request in the making: what is still to be fed, and what the model wrote so far."""

    request: Request
    bucket: Bucket
    prompt: list[int]
    forced: list[list[int]]  # tokens of the second frame's text and of those after it
    feed: deque[int] = field(default_factory=deque)
    position: int = 0
    written: list[_Written] = field(default_factory=lambda: [_Written()])
    is_complete: bool = False

    @property
    def prompt_tokens(self) -> int:
        """Tokens that are fed, whatever the model chooses."""
        return len(self.prompt) + sum(map(len, self.forced))

    def begin(self, prefix_length: int) -> None:
        """Line up the last token of the prompt, the others being in the KV cache."""
        self.feed.append(self.prompt[-1])
        self.position = prefix_length + len(self.prompt) - 1

    def next_fed(self) -> tuple[int, int]:
        """Take the next token to feed, and its position."""
        self.position += 1
        return self.feed.popleft(), self.position - 1

    def choose(self, token: int, logprob: float, ends: _Ends) -> None:
        """Add a token that the model chose to the frame; a token that ends the frame is not fed."""
        current = self.written[-1]
        current.tokens.append(token)
        current.logprob += logprob
        text = ends.ending(current.tokens)
        if text is None:
            self.feed.append(token)
            if len(current.tokens) < self.request.frames[len(self.written) - 1].limit:
                return
        current.ended = text is not None
        current.text = ends.text(current.tokens) if text is None else text
        self._next_frame()

    def _next_frame(self) -> None:
        if len(self.written) == len(self.request.frames):
            self.is_complete = True
            return
        self.feed.extend(self.forced[len(self.written) - 1])
        self.written.append(_Written())

    def completion(self) -> Completion:
        """Return what the model wrote."""
        return Completion(
            self.request.id,
            tuple(frame.text for frame in self.written),
            tuple(frame.ended for frame in self.written),
            tuple(frame.logprob / len(frame.tokens) for frame in self.written),
            self.prompt_tokens,
            sum(len(frame.tokens) for frame in self.written),
        )


class _Arrivals:
    """The requests of a stream, numbered as they come; `open` until the last one has.

    `waited` are the seconds that the caller took to make what was last taken.
    """

    def __init__(self, requests: Iterable[Request | None]) -> None:
        self._requests = iter(requests)
        self._tickets = itertools.count()
        self.open = True
        self.waited = 0.0

    def take(self, room: int) -> Iterator[tuple[int, Request]]:
        """Yield at most `room` requests, fewer if the next one is not ready or there is none."""
        self.waited = 0.0
        for _ in range(room):
            asked = time.perf_counter()
            try:
                request = next(self._requests)
            except StopIteration:
                self.open = False
                return
            finally:
                self.waited += time.perf_counter() - asked
            if request is None:
                return
            yield next(self._tickets), request
