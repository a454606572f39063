"""Text from a language model, many requests at a time, each bit for bit as if it were alone.

Every forward pass has one of a small set of fixed shapes (`models.batching`), and a request's shapes follow from
its own lengths, so what else is computed never shows in its text. A prefill computes the KV of all but the last
token of a prompt; logits only ever come from decoding steps, which begin with that last token.

In scope: tokens in and out, forced tokens, stop strings, the shared prefix, the running of scheduled steps.
Not in scope: what a text is about, eliding prompts that are too long, sampling, recovery from running out of
memory (the error is torch's own), several processes or devices.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
import transformers

from models.attention import ATTENTION, Layers, PoolCache, PrefillCache, distances
from models.batching import Accounting, Bucket, BucketTable, Decode, Prefill, Scheduler, in_order
from models.config import ExecutionProfile, GenerationConfig, ModelError, PromptTooLongError
from models.load import LoadedModel

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
        return len(self.prompt) + sum(map(len, self.forced))

    def close_frame(self, text: str, *, ended: bool) -> None:
        """Finish the frame and line up what is fed next: the last token if it stands, then the next frame's text."""
        if not ended:
            self.feed.append(self.tokens[-1])
        self.texts.append(text)
        self.ended.append(ended)
        self.means.append(sum(self.logprobs) / len(self.logprobs))
        self.output_tokens += len(self.logprobs)
        if self.frame is not None:
            self.feed.extend(self.forced[len(self.texts) - 1])
        self.tokens, self.logprobs = [], []

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
    """A model with a bucket table, a shared prefix whose KV is computed once, and the pools of its KV cache.

    `prefix` is the instruction that all prompts begin with; its tokens are split from the prompt's, always at
    the same place. `buckets` replaces the default table. One stream is generated at a time.
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
        self._prefix = loaded.encode_opening(prefix)
        self._table = buckets or self._fitting_table()
        if self._table.prefix_length != len(self._prefix):
            raise ModelError(f"the bucket table is for a prefix of {self._table.prefix_length} tokens, not {len(self._prefix)}")
        self._model = loaded.model
        self._model.set_attn_implementation(ATTENTION)
        self._may_stop: dict[int, bool] = {}
        self._prefix_layers: Layers | None = None
        self._pools: dict[int, PoolCache] = {}
        self._busy = False
        self.stats = EngineStats()

    @property
    def profile(self) -> ExecutionProfile:
        """What the bits of the output depend on besides the weights and the request."""
        device = self._loaded.device
        return ExecutionProfile(
            device="cpu" if device.type == "cpu" else torch.cuda.get_device_name(device),
            instruction_set=instruction_set(device),
            dtype=str(self._loaded.dtype).removeprefix("torch."),
            torch=str(torch.__version__),
            transformers=transformers.__version__,
            threads=torch.get_num_threads(),
            float32_matmul_precision=torch.get_float32_matmul_precision(),
            compiled=False,
            buckets=self._table.as_key(),
        )

    def count_tokens(self, prompt: str) -> int:
        """Return how many tokens a prompt takes, without the shared prefix."""
        return len(self._loaded.encode(prompt, trusted=False))

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """Yield completions as they finish, taking requests in as there is room for them.

        An iterator whose next request waits for an earlier completion yields None meanwhile. Raises
        PromptTooLongError for a request that no bucket holds, and ModelError for an empty one, for a None while
        nothing is being computed, and for a second stream beside a running one.
        """
        for _, completion in self._numbered(requests):
            yield completion

    def generate_all(self, requests: Iterable[Request]) -> list[Completion]:
        """Return the completions of all requests in the order of the requests. Raises as `generate` does."""
        return list(in_order(self._numbered(requests)))

    def _numbered(self, requests: Iterable[Request | None]) -> Iterator[tuple[int, Completion]]:
        if self._busy:
            raise ModelError("this engine is generating another stream: finish or close that first")
        self._busy = True
        try:
            yield from _Stream(self, requests)
        finally:
            self._busy = False
