"""Text from a language model, many requests at a time, each bit for bit as if it were alone.

Every forward pass has one of a small set of fixed shapes (`models.batching`), and a request's shapes follow from
its own lengths, so what else is computed never shows in its text. A prefill computes the KV of all but the last
token of a prompt; logits only ever come from decoding steps, which begin with that last token.

In scope: tokens in and out, forced tokens, stop strings, the shared prefix, the running of scheduled steps.
Not in scope: what a text is about, eliding prompts that are too long, sampling, recovery from running out of
memory (the error is torch's own), several processes or devices.
"""

import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from models.batching import Accounting, Bucket, BucketTable, Decode, Prefill, Scheduler, in_order
from models.config import ExecutionProfile, GenerationConfig, ModelError, PromptTooLongError
from models.load import LoadedModel
from models.runner import Runner

_LOOK_AHEAD = 2048  # requests taken in but not finished: enough to fill groups, few enough for flat memory
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
    """What the model wrote for a request, frame by frame.

    `texts` is the model's part only, without what ended it. `ended` tells which frames the model ended itself;
    the others were cut at their limit. `logprobs` is the mean natural log-probability of the tokens the model
    chose in a frame, the ending one included. `prompt_tokens` counts what was fed (without the shared prefix),
    `output_tokens` what the model chose.
    """

    id: str
    texts: tuple[str, ...]
    ended: tuple[bool, ...]
    logprobs: tuple[float, ...]
    prompt_tokens: int
    output_tokens: int


@dataclass(slots=True)
class EngineStats:
    """Totals since the engine was made; `seconds` is time in the engine, not in its caller."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    accounting: Accounting = field(default_factory=Accounting)

    @property
    def padding_efficiency(self) -> float:
        """Real prompt tokens per computed one, dummies included."""
        return self.accounting.padding_efficiency

    @property
    def occupancy(self) -> float:
        """Decoder row-steps that advanced a request, per executed one."""
        return self.accounting.occupancy


@dataclass(slots=True)
class _Sequence:
    """A request in the making: what is still to be fed, and what the model wrote so far."""

    request: Request
    bucket: Bucket
    prompt: list[int]
    forced: list[list[int]]  # tokens of the second frame and those after it
    feed: deque[int] = field(default_factory=deque)
    position: int = 0
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)
    means: list[float] = field(default_factory=list)
    output_tokens: int = 0

    @property
    def frame(self) -> Frame | None:
        """The frame being written; None when all are."""
        frames = self.request.frames
        return frames[len(self.texts)] if len(self.texts) < len(frames) else None

    @property
    def prompt_tokens(self) -> int:
        """Tokens that are fed: the prompt and all forced ones."""
        return len(self.prompt) + sum(map(len, self.forced))

    def next_fed(self) -> tuple[int, int]:
        """Take the next token to feed, and its position."""
        self.position += 1
        return self.feed.popleft(), self.position - 1

    def choose(self, token: int, logprob: float) -> None:
        """Add a token that the model chose; unless it closes the frame, it is fed next."""
        self.tokens.append(token)
        self.logprobs.append(logprob)
        self.feed.append(token)

    def close_frame(self, text: str, *, ended: bool) -> None:
        """Finish the frame and line up the next one's forced tokens; a token that ended the frame is not fed."""
        if ended:
            self.feed.pop()
        self.texts.append(text)
        self.ended.append(ended)
        self.means.append(sum(self.logprobs) / len(self.logprobs))
        self.output_tokens += len(self.logprobs)
        if self.frame is not None:
            self.feed.extend(self.forced[len(self.texts) - 1])
        self.tokens, self.logprobs = [], []

    @property
    def completion(self) -> Completion:
        return Completion(
            self.request.id,
            tuple(self.texts),
            tuple(self.ended),
            tuple(self.means),
            self.prompt_tokens,
            self.output_tokens,
        )


class Engine:
    """Generates text for streams of requests that share a prefix.

    `prefix` is the instruction that all prompts begin with; its KV is computed once, and its tokens are split
    from the prompt's, always at the same place. `buckets` replaces the default table. One stream at a time.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        generation: GenerationConfig | None = None,
        *,
        prefix: str = "",
        buckets: BucketTable | None = None,
    ) -> None:
        self._loaded = loaded
        self._generation = generation or GenerationConfig()
        prefix_tokens = loaded.encode_opening(prefix)
        self._table = buckets or self._default_table(len(prefix_tokens))
        if self._table.prefix_length != len(prefix_tokens):
            raise ModelError(
                f"the bucket table is for a prefix of {self._table.prefix_length} tokens, "
                f"but this one has {len(prefix_tokens)}: make a table for it"
            )
        self._runner = Runner(loaded, self._table, prefix_tokens)
        self._stoppers: dict[int, bool] = {}
        self._generating = False
        self.stats = EngineStats()

    @property
    def profile(self) -> ExecutionProfile:
        """What the bits of the output depend on besides the weights, the prefix and the request."""
        return self._runner.profile()

    def count_tokens(self, prompt: str) -> int:
        """Return how many tokens a prompt takes, without the shared prefix and the frames."""
        return len(self._loaded.encode(prompt, trusted=False))

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """Yield completions as they finish, taking requests in as there is room for them.

        An iterator whose next request waits for an earlier completion yields None meanwhile. Raises
        PromptTooLongError for a request that no bucket holds, and ModelError for an empty one, for a None while
        nothing is being computed, and for a second stream beside a running one.
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
        scheduler = Scheduler(self._table, self.stats.accounting)
        sequences: dict[int, _Sequence] = {}
        while True:
            for ticket, request in arrivals.take(_LOOK_AHEAD - len(sequences)):
                sequences[ticket] = self._admit(ticket, request, scheduler)
            started = time.perf_counter()
            step = scheduler.next_step(more_may_come=arrivals.open)
            match step:
                case Prefill():
                    self._prefill(step, sequences)
                    finished = []
                case Decode():
                    finished = self._decode(step, sequences, scheduler)
                case None if arrivals.open:
                    raise ModelError("the stream waits for completions of requests that it has not handed in")
                case None:
                    return
            self.stats.seconds += time.perf_counter() - started
            for ticket in finished:
                yield ticket, sequences.pop(ticket).completion

    def _admit(self, ticket: int, request: Request, scheduler: Scheduler) -> _Sequence:
        sequence = self._sequence(request)
        scheduler.add(ticket, sequence.bucket, len(sequence.prompt) - 1)
        return sequence

    def _default_table(self, prefix: int) -> BucketTable:
        try:
            return BucketTable.fitting(
                max_prompt=self._generation.max_prompt_tokens,
                max_new=self._generation.max_new_tokens,
                prefix=prefix,
                context=self._loaded.context,
                kv_bytes_per_token=self._loaded.kv_bytes_per_token,
            )
        except ValueError as error:
            raise ModelError(f"a prefix of {prefix} tokens does not fit this model: {error}") from error

    def _sequence(self, request: Request) -> _Sequence:
        encode = self._loaded.encode
        opening, *forced = (encode(frame.text, trusted=True) for frame in request.frames)
        prompt = encode(request.prompt, trusted=False) + opening
        if not prompt:
            raise ModelError(f"request {request.id!r} is empty: there is nothing to continue")
        new = 1 + sum(frame.limit for frame in request.frames) + sum(map(len, forced))
        bucket = self._table.bucket(len(prompt) - 1, new)
        if bucket is None:
            raise PromptTooLongError(
                f"request {request.id!r} has {len(prompt)} prompt tokens and up to {new - 1} after them; the largest "
                f"bucket holds {self._table.prompt_lengths[-1] + 1}, and "
                f"{self._table.kv_lengths[-1] - self._table.prefix_length} together: shorten the prompt"
            )
        return _Sequence(request, bucket, prompt, forced)

    def _prefill(self, step: Prefill, sequences: dict[int, _Sequence]) -> None:
        group = [sequences[ticket] for ticket in step.tickets]
        self._runner.prefill(step.bucket, [sequence.prompt[:-1] for sequence in group], step.slots)
        for sequence in group:
            sequence.feed.append(sequence.prompt[-1])
            sequence.position = self._table.prefix_length + len(sequence.prompt) - 1
            self.stats.prompt_tokens += sequence.prompt_tokens

    def _decode(self, step: Decode, sequences: dict[int, _Sequence], scheduler: Scheduler) -> list[int]:
        """Advance a pool by one token and return the tickets of the requests that this finished."""
        fed = {slot: sequences[ticket].next_fed() for slot, ticket in step.tickets.items()}
        tokens, logprobs = self._runner.decode(step.kv_length, fed)
        finished = []
        for slot, ticket in step.tickets.items():
            sequence = sequences[ticket]
            if not sequence.feed:
                self._choose(sequence, tokens[slot], logprobs[slot])
            if sequence.complete:
                scheduler.release(step.kv_length, slot)
                finished.append(ticket)
        return finished

    def _choose(self, sequence: _Sequence, token: int, logprob: float) -> None:
        """Let a sequence have the token that the model chose, and close its frame if this ends it."""
        sequence.choose(token, logprob)
        self.stats.output_tokens += 1
        if token in self._loaded.end_tokens:
            sequence.close_frame(self._text(sequence.tokens[:-1]), ended=True)
        elif (text := self._text_before_stop(sequence.tokens)) is not None:
            sequence.close_frame(text, ended=True)
        elif len(sequence.tokens) == frame.limit:
            sequence.close_frame(self._text(sequence.tokens), ended=False)

    def _text(self, tokens: list[int]) -> str:
        """Return the text of tokens, without the first bytes of a character that was not finished."""
        return self._loaded.decode(tokens).rstrip(_BROKEN_CHARACTER)

    def _text_before_stop(self, tokens: list[int]) -> str | None:
        """Return the text before the first stop string; None if there is no stop string in it."""
        if not self._can_complete_stop(tokens[-1]):
            return None
        text = self._loaded.decode(tokens)
        ends = [at for at in map(text.find, self._generation.stop) if at >= 0]
        return text[: min(ends)].rstrip(_BROKEN_CHARACTER) if ends else None

    def _can_complete_stop(self, token: int) -> bool:
        """Tell whether a stop string may end in this token, so that a text is decoded only where it matters."""
        if token not in self._stoppers:
            piece = self._loaded.decode([token])
            last_characters = {stop[-1] for stop in self._generation.stop} | {_BROKEN_CHARACTER}
            self._stoppers[token] = not last_characters.isdisjoint(piece)
        return self._stoppers[token]


class _Arrivals:
    """The requests of a stream, numbered as they come; `open` until the last one has."""

    def __init__(self, requests: Iterable[Request | None]) -> None:
        self._requests = iter(requests)
        self._tickets = itertools.count()
        self.open = True

    def take(self, room: int) -> Iterator[tuple[int, Request]]:
        """Yield at most `room` requests, fewer if the next one is not ready or there is none."""
        for _ in range(room):
            try:
                request = next(self._requests)
            except StopIteration:
                self.open = False
                return
            if request is None:
                return
            yield next(self._tickets), request
