"""The fastest way to run a model on this machine, found on the functions of some source.

In scope: which functions, as a model would be shown them. Not in scope: what is tried and how it is kept
(`models.tuning`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path

from flows.samples import own_files, prompts
from flows.settings import cache_home
from models.config import ModelError
from models.engine import Frame, Request
from models.load import LoadedModel
from models.tuning import Trial, Tuning, tune
from tasks.documents import DocmillError, SourceError
from tasks.generate.writer import Brief, brief_of, engine_held, load_model

_FEWEST = 20


def tune_model(
    model: str, quantize: str, device: str, source: Path | None, seconds: float, tell: Callable[[Trial], None]
) -> Tuning:
    """Try ways to run a model for about so many seconds, and keep the best for later builds.

    Args:
        model: As in the settings, like `quantize` and `device`.
        source: A folder whose functions are like those that will be documented; docmill's own without it.
        seconds: Nothing else is tried later than this; then the best is, again, and what was kept before.
        tell: Told of each trial.

    Raises:
        SourceError: The model cannot be used, or the folder holds too few functions.
    """
    if model == "none":
        raise SourceError("no model is set: name one to tune")
    if source is not None and not source.is_dir():
        raise SourceError(f"{source}: no such folder")

    def load_for(compiled: bool) -> LoadedModel:
        return load_model(model, quantize, device, cache_home(), compiled=compiled)

    files = sorted(source.rglob("*.py")) if source else own_files()
    with engine_held(device, cache_home()):  # beside a build, trials would measure what it leaves
        brief, requests = _asked(load_for(False), files)
        if len(requests) < _FEWEST:
            raise SourceError(f"{source}: holds {len(requests)} functions, too few to measure with")
        try:
            return tune(
                load_for, brief.generation, cache_home(), requests, seconds, tell, prefix=brief.prefix
            )
        except ModelError as error:
            raise DocmillError(f"model: {error}") from error


def _asked(loaded: LoadedModel, files: Iterable[Path]) -> tuple[Brief, list[Request]]:
    brief = brief_of(loaded)
    frames = (Frame(brief.opening, brief.generation.max_new_tokens),)

    def fits(text: str) -> bool:
        return len(loaded.encode(text, trusted=False)) <= brief.room

    shown = list(prompts(files, fits))
    random.Random(0).shuffle(shown)
    return brief, [Request(str(number), prompt, frames) for number, prompt in enumerate(shown)]
