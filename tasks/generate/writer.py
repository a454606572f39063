"""The model as the generate stage sees it: how it is asked, what its texts depend on, its answers.

Loading a model takes seconds, so that this is done when the first text is missing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from models.batching import BucketPolicy
from models.config import GenerationConfig, ModelConfig, ModelError, OutOfMemoryError
from models.engine import Frame, Request
from models.limits import PromptLimit
from models.load import LoadedModel, device_of, load
from models.prompts import OPENING_TOKENS, SLOT_TOKENS, slot_opening
from models.quantize import METHODS, prepared
from models.tuning import load_tuned, remember_rows, remembered, tuned_engine
from tasks.documents import DocmillError, SourceError, TextOrigin, first_line
from tasks.files import locked
from tasks.generate.answers import Rendered
from tasks.generate.asking import (
    INSTRUCTION,
    Manner,
    RawText,
    SlotFrame,
    chat_manner,
    trained_manner,
)
from tasks.keys import digest

_log = logging.getLogger(__name__)

_SHORTEST_PROMPT, _LONGEST_PROMPT = 48, 1024  # tokens of code; a few lines at least


@dataclass(frozen=True)
class Brief:
    """How a loaded model is asked: what stands before and after a prompt, and how long all may be."""

    manner: Manner
    prefix: str
    opening: str
    generation: GenerationConfig
    room: int  # tokens for a prompt alone


def brief_of(loaded: LoadedModel) -> Brief:
    """The brief of a model, by what it was trained for or by its chat template.

    Raises:
        SourceError: Its context is too short, or its template cannot be used.
    """
    with _as_docmill_error():
        return _brief_of(loaded)


def _brief_of(loaded: LoadedModel) -> Brief:
    meta = loaded.meta
    if meta.prompt is not None:
        prefix, opening = "", slot_opening("summary")
        manner = trained_manner(meta.asks, meta.max_answer_tokens or SLOT_TOKENS["summary"])
        forced = 1 if all(slots == ("summary",) for slots in manner.slots.values()) else OPENING_TOKENS
        room = (meta.max_prompt_tokens or _LONGEST_PROMPT) - 1 + forced
    else:
        prefix, opening = loaded.render_chat(INSTRUCTION)
        manner = chat_manner(opening)
        forced = len(loaded.encode(opening, trusted=True)) + OPENING_TOKENS
        room = min(
            _LONGEST_PROMPT, loaded.context - manner.answer_tokens - len(loaded.encode_opening(prefix))
        )
        if room - forced < _SHORTEST_PROMPT:
            raise ModelError(
                f"a context of {loaded.context:,} tokens leaves {max(room - forced, 0)} for code beside the "
                "instruction and the answer: use a model with a longer one"
            )
    generation = GenerationConfig(max_prompt_tokens=room, max_new_tokens=manner.answer_tokens)
    # What is forced at the beginning of an answer counts as prompt.
    return Brief(manner, prefix, opening, generation, room - forced)


def load_model(
    model: str, quantize: str, device: str, home: Path, *, compiled: bool | None = None
) -> LoadedModel:
    """Load a model that the settings name, in the form that they name.

    Args:
        model: As in the settings, like `quantize` and `device`.
        home: Where models are prepared, and what was tuned is kept.
        compiled: Whether its passes will be compiled; None if that is as it was tuned.

    Raises:
        SourceError: It cannot be loaded, or is not one that the engine serves.
        DocmillError: There is no memory for it.
    """
    with _as_docmill_error():
        config = ModelConfig.model_validate({"model": model, "quantize": quantize, "device": device})
        if quantize in METHODS:
            config = config.model_copy(update={"model": str(prepared(model, quantize, home))})
        return load_tuned(config, home) if compiled is None else load(config, lambda *_: compiled)


@contextmanager
def engine_held(device: str, home: Path) -> Iterator[None]:
    """Have a device to oneself for writing: engines that share one take each other's memory and processors.

    Models are loaded without it, since only one that is loaded tells whether any text is missing. Keys and
    values, which take most of the memory, are allocated with the first text.

    Raises:
        SourceError: There is no such device.
    """
    with _as_docmill_error():
        kind = device_of(device).type
    with locked(home / f"engine-{kind}.lock", _say_that_it_waits):
        yield


def _say_that_it_waits() -> None:
    _log.warning("docmill: waits for the engine, which another build has")


class Writer:
    """A loaded model, run as it was tuned, or with so many `rows` at a time.

    Raises:
        SourceError: The model cannot be loaded or is not one that the engine serves.
        DocmillError: There is no memory for it.
    """

    manner: Manner
    fits: PromptLimit

    def __init__(self, model: str, quantize: str, device: str, home: Path, rows: int | None = None) -> None:
        self._loaded = loaded = load_model(model, quantize, device, home)
        self._home = home
        self.meta = loaded.meta
        brief = brief_of(loaded)
        with _as_docmill_error():
            self.speed = remembered(loaded, home).speed
            self.engine = tuned_engine(loaded, brief.generation, home, prefix=brief.prefix, rows=rows)
        self.manner = brief.manner
        self.fits = loaded.limit(brief.room)  # a prompt, with what is forced after it
        self.identity: dict[str, Any] = {
            "fingerprint": loaded.fingerprint,
            "prefix": brief.prefix,
            "generation": brief.generation.model_dump(mode="json"),
            "profile": self.engine.profile.as_key(),
        }

    @property
    def fewer_rows(self) -> int | None:
        """Half the rows that this one runs with; None if there is no less."""
        policy = BucketPolicy(decode_rows=self.engine.decode_rows).smaller()
        return policy.decode_rows if policy else None

    def remember_rows(self) -> None:
        """Have writers made from now on run with the rows that this one runs with."""
        remember_rows(self._loaded, self._home, self.engine.decode_rows)

    @property
    def origin(self) -> TextOrigin:
        """What this model's texts come from, to tell why one is new."""
        decoding = digest([self.identity["prefix"], self.identity["generation"]])
        return TextOrigin(digest(self.identity["fingerprint"]), decoding, digest(self.identity["profile"]))

    def tokens_read(self, request: Rendered) -> int:
        """How many tokens a request has the model read: its prompt, and what is forced."""
        forced = sum(self.engine.count_forced_tokens(f.text) for f in request.wanted.asked.frames)
        return self.engine.count_tokens(request.prompt) + forced

    def most_tokens(self, request: Rendered) -> int:
        """The most tokens that a request can take, read and written."""
        return self.tokens_read(request) + sum(f.limit for f in request.wanted.asked.frames)

    def write(
        self, requests: Iterable[tuple[str, str, tuple[SlotFrame, ...]] | None]
    ) -> Iterator[tuple[str, RawText]]:
        """Answers under the keys of their requests, as they are finished.

        Args:
            requests: Key, prompt and frames of each; None while the next one waits for an answer.
        """
        framed = (r and Request(r[0], r[1], tuple(Frame(f.text, f.limit) for f in r[2])) for r in requests)
        for answer in self.engine.generate(framed):
            yield answer.id, RawText(answer.texts, answer.ended, answer.logprobs)

    def statistics(self, model: str) -> dict[str, Any]:
        """What the report says of the engine."""
        stats = self.engine.stats
        return {
            "model": model,
            "profile": self.identity["profile"],
            "prompt_tokens": stats.prompt_tokens,
            "output_tokens": stats.output_tokens,
            "seconds": round(stats.seconds, 3),
            "padding_efficiency": round(stats.padding_efficiency, 4),
            "occupancy": round(stats.occupancy, 4),
        }


@contextmanager
def _as_docmill_error() -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise SourceError(f"{where}: {first['msg']}, not {first['input']!r}") from error
    except OutOfMemoryError as error:  # with no text under way, so that fewer rows would not help
        raise DocmillError(
            f"model: {error}, with nothing but the model in it: use a smaller one, or a quantized form"
        ) from error
    except (ModelError, ValueError) as error:
        raise SourceError(f"model: {first_line(error)}") from error
