"""The fastest way to run a model on a machine, found by trying, and kept.

Trials run real requests under one policy each, from what gains most to what gains least, as far as the time
goes. What they choose is a file per model and machine; engines made with `tuned_engine` follow it from then
on. It is part of the execution profile, so that texts of before and after are told apart.

In scope: which trials, which wins, the file, speeds to foretell costs from. Not in scope: where requests come
from, what is printed.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.batching import BucketPolicy
from models.config import GenerationConfig, ModelConfig, ModelError
from models.engine import Engine, EngineStats, Request
from models.load import LoadedModel, load
from models.runner import machine_with
from models.staging import appearing

_GAIN = 1.03  # what a trial must do better than the best before it: less is not worth other texts
_REPEATS = 2  # more trials, each, of the best and of what was kept before: one may be noise
_TRIAL_SECONDS = 4.0  # of generation, roughly, in each trial
_WARM_UP = 32  # requests
# A trial fills all rows this often: of fewer texts, the last few decide, which leave most rows idle.
_FILLINGS = 4
# Beside the default. A step with four times the rows took a GPU 1.4 times as long.
_ROWS = {"cpu": (8, 16, 32, 128), "cuda": (32, 128, 256, 512)}
_PACKED_TOKENS = (256, 1024)  # likewise
_EDGES = 24  # of buckets for padded prompts, by the lengths of those at hand
_FORMAT = 2  # of the file


class Speed(BaseModel):
    """What a trial measured; rates are per second of the kind of work that they name."""

    model_config = ConfigDict(frozen=True)

    prompt_tokens_per_second: Annotated[float, Field(gt=0, description="prefilled")]
    output_tokens_per_second: Annotated[float, Field(gt=0, description="decoded")]
    step_seconds: Annotated[float, Field(gt=0, description="from one token of a text to its next")]
    requests_per_second: Annotated[float, Field(gt=0, description="prefill and decoding together")]
    output_tokens_per_request: Annotated[float, Field(gt=0)]


class Trial(BaseModel):
    """A policy, and how fast it was; or why it could not run."""

    model_config = ConfigDict(frozen=True)

    policy: BucketPolicy
    compiled: bool
    speed: Speed | None = None
    failure: str | None = None


class Tuning(BaseModel):
    """What was chosen for a model on a machine, and the trials that it was chosen from."""

    model_config = ConfigDict(frozen=True)

    policy: BucketPolicy = BucketPolicy()
    compiled: bool = False
    speed: Speed | None = None
    trials: tuple[Trial, ...] = ()


def load_tuned(config: ModelConfig, home: Path) -> LoadedModel:
    """Return the model that `config` names, in the type that is the fastest as `tune` found it runs best.

    Raises as `models.load.load` does.
    """
    return load(config, lambda fingerprint, device: _read(_place(fingerprint, device, home)).compiled)


def tuned_engine(
    loaded: LoadedModel,
    generation: GenerationConfig,
    home: Path,
    *,
    prefix: str = "",
    rows: int | None = None,
) -> Engine:
    """Return an engine for a model, run as `tune` found best, or with so many `rows` at a time.

    `home` is where what was found and compiled code lie.
    """
    tuning = remembered(loaded, home)
    policy = replace(tuning.policy, decode_rows=rows) if rows else tuning.policy
    return _engine(loaded, generation, home, prefix, policy, tuning.compiled)


def remembered(loaded: LoadedModel, home: Path) -> Tuning:
    """Return what was found for a model on this machine, or the defaults. Raises ModelError."""
    return _read(_file(loaded, home))


def _read(file: Path) -> Tuning:
    try:
        return Tuning.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return Tuning()
    except ValidationError as error:
        raise ModelError(f"{file} is damaged: remove it, or tune the model again") from error


def remember_rows(loaded: LoadedModel, home: Path, rows: int) -> None:
    """Have engines for a model run with so many rows from now on.

    For when a device had no memory for more. What was measured no longer holds, and is dropped.
    """
    tuning = remembered(loaded, home)
    policy = replace(tuning.policy, decode_rows=rows)
    _keep(Tuning(policy=policy, compiled=tuning.compiled), _file(loaded, home))


def tune(
    load_for: Callable[[bool], LoadedModel],
    generation: GenerationConfig,
    home: Path,
    requests: Sequence[Request],
    seconds: float,
    tell: Callable[[Trial], None],
    *,
    prefix: str = "",
) -> Tuning:
    """Try policies on `requests` until `seconds` have passed, keep the best, and return it.

    What was found before is tried first, so that little time makes nothing worse. A trial that has begun is
    finished, and one always is. In the end the best and what was found before are tried in turn, and that
    stays unless it is slower by more than the trials of either differ. `load_for` loads the model for passes
    that are compiled (True) or are not; `tell` is told of each trial. Raises ModelError if none can run.
    """
    deadline = time.monotonic() + seconds
    bench = _Bench(load_for, generation, home, requests, prefix)
    file = _file(bench.model(compiled=False), home)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        before = _read(file)
    except ModelError:  # damaged, and about to be written anew
        before = Tuning()
    rows = _ROWS[bench.model(compiled=False).device.type]
    search = _Search(before.policy, before.compiled, bench.edges(), rows)
    tried: list[dict[str, Any]] = []
    for policy, compiled in search.candidates():
        engine = None  # its memory is the next one's
        try:
            engine = bench.engine(policy, compiled)
            if engine.profile.buckets in tried:
                continue
            tried.append(engine.profile.buckets)
            trial = bench.trial(engine, policy, compiled)
        except (ModelError, RuntimeError) as error:
            trial = _failed(policy, compiled, error)
        search.add(trial)
        tell(trial)
        if search.best.speed is not None and time.monotonic() > deadline:
            break
    if search.best.speed is None:
        raise ModelError(search.trials[-1].failure)

    def again(trial: Trial) -> Trial:
        search.trials.append(repeated := bench.again(trial))
        tell(repeated)
        return repeated

    engine = None
    best = _kept_of(search.trials[0], search.best, again)
    tuning = Tuning(policy=best.policy, compiled=best.compiled, speed=best.speed, trials=tuple(search.trials))
    _keep(tuning, file)
    return tuning


def _failed(policy: BucketPolicy, compiled: bool, error: ModelError | RuntimeError) -> Trial:
    # Its words alone are kept: the error holds frames, and these all that the engine allocated.
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return Trial(policy=policy, compiled=compiled, failure=reason)


def _kept_of(before: Trial, best: Trial, again: Callable[[Trial], Trial]) -> Trial:
    """Return a trial of what is to be kept, when both were tried again: with the median speed of them.

    What fails then is not kept, unless both do.
    """
    if best is before or before.speed is None:
        return best
    of_each = [before], [best]
    for _ in range(_REPEATS):
        for trials in of_each:
            trials.append(again(trials[0]))
    worked = [sorted((t for t in trials if t.speed), key=_rate) for trials in of_each]
    before_fails, best_fails = (len(some) <= _REPEATS for some in worked)
    before, best = (trials[len(trials) // 2] for trials in worked)
    if before_fails or best_fails:
        return before if best_fails else best
    noise = max(_rate(trials[-1]) - _rate(trials[0]) for trials in worked)
    needed = max(noise, (_GAIN - 1) * _rate(before))
    return best if _rate(best) - _rate(before) > needed else before


def _rate(trial: Trial) -> float:
    return trial.speed.requests_per_second if trial.speed else 0.0


class _Bench:
    """What trials take: requests, and a model that is loaded for the passes of each, one at a time."""

    def __init__(
        self,
        load_for: Callable[[bool], LoadedModel],
        generation: GenerationConfig,
        home: Path,
        requests: Sequence[Request],
        prefix: str,
    ) -> None:
        self._load_for, self._generation, self._home = load_for, generation, home
        self._requests, self._prefix = requests, prefix
        self._loaded: dict[bool, LoadedModel] = {}
        self._counts: dict[bool, int] = {}  # of requests in a trial, by whether it is compiled

    def model(self, compiled: bool) -> LoadedModel:
        """Return the model as such passes want it; two would take twice the memory."""
        if compiled not in self._loaded:
            self._loaded.clear()
            self._loaded[compiled] = self._load_for(compiled)
        return self._loaded[compiled]

    def edges(self) -> tuple[int, ...]:
        """Return lengths that part the prompts of the requests into groups of about the same size."""
        encode = self.model(compiled=False).encode
        lengths = sorted(
            len(encode(request.prompt, trusted=False)) + len(encode(request.frames[0].text, trusted=True)) - 1
            for request in self._requests
        )
        places = (len(lengths) * part // _EDGES - 1 for part in range(1, _EDGES + 1))
        return tuple(sorted({max(lengths[place], 1) for place in places}))

    def engine(self, policy: BucketPolicy, compiled: bool) -> Engine:
        """Return an engine under a policy."""
        return _engine(self.model(compiled), self._generation, self._home, self._prefix, policy, compiled)

    def trial(self, engine: Engine, policy: BucketPolicy, compiled: bool) -> Trial:
        """Measure such an engine."""
        if compiled not in self._counts:
            self._counts[compiled] = _count(engine, self._requests)
        count = max(self._counts[compiled], _FILLINGS * policy.decode_rows)
        sample = list(islice(cycle(self._requests), count))
        return Trial(policy=policy, compiled=compiled, speed=_speed(engine, sample))

    def again(self, trial: Trial) -> Trial:
        """Repeat a trial; it may fail this time."""
        policy, compiled = trial.policy, trial.compiled
        try:
            return self.trial(self.engine(policy, compiled), policy, compiled)
        except (ModelError, RuntimeError) as error:
            return _failed(policy, compiled, error)


class _Search:
    """Which trials come next, given those before: first `policy`, `compiled` or not.

    `rows` are tried at once, one after another, and `edges` are for one trial.
    """

    def __init__(
        self, policy: BucketPolicy, compiled: bool, edges: tuple[int, ...], rows: tuple[int, ...]
    ) -> None:
        self.trials: list[Trial] = []
        self._edges, self._rows = edges, rows
        self.best = Trial(policy=policy, compiled=compiled)

    def candidates(self) -> Iterator[tuple[BucketPolicy, bool]]:
        """Yield policies and whether to compile, each once what is known by then is worth it."""
        yield self.best.policy, self.best.compiled
        yield BucketPolicy(), False
        yield BucketPolicy.for_packing(), True
        for rows in self._rows:
            yield replace(self.best.policy, decode_rows=rows), self.best.compiled
        if self.best.compiled:
            for tokens in _PACKED_TOKENS:
                yield replace(self.best.policy, prefill_tokens=tokens), True
        else:
            yield replace(self.best.policy, prefill_tokens=2 * self.best.policy.prefill_tokens), False
            yield replace(self.best.policy, prompts_per_doubling=4, edges=()), False
            yield replace(self.best.policy, edges=self._edges), False

    def add(self, trial: Trial) -> None:
        """Note a trial, and whether it is the best by far enough."""
        self.trials.append(trial)
        if trial.speed is None:
            return
        before = self.best.speed
        if before is None or trial.speed.requests_per_second > before.requests_per_second * _GAIN:
            self.best = trial


def _engine(
    loaded: LoadedModel,
    generation: GenerationConfig,
    home: Path,
    prefix: str,
    policy: BucketPolicy,
    compiled: bool,
) -> Engine:
    folder = home / "compiled" if compiled else None
    return Engine(loaded, generation, prefix=prefix, policy=policy, compiled=folder)


def _count(engine: Engine, requests: Sequence[Request]) -> int:
    """Return how many of `requests`, over and over if need be, take about the time of a trial."""
    count, seconds = _WARM_UP // 2, 0.0
    engine.generate_all(requests[:_WARM_UP])
    while seconds < _TRIAL_SECONDS / 8:  # a few texts take far longer, each, than many
        count *= 2
        some = list(islice(cycle(requests), count))
        started = time.perf_counter()
        engine.generate_all(some)
        seconds = time.perf_counter() - started
    return max(_WARM_UP, round(count * _TRIAL_SECONDS / seconds))


def _speed(engine: Engine, sample: Sequence[Request]) -> Speed:
    if engine.profile.device == "cpu":
        engine.generate_all(sample[:_WARM_UP])
    else:  # every shape is recorded at its second use
        for _ in range(2):
            engine.generate_all(sample)
    engine.stats = EngineStats()
    engine.generate_all(sample)
    stats = engine.stats
    return Speed(
        prompt_tokens_per_second=stats.prompt_tokens / stats.prefill_seconds,
        output_tokens_per_second=stats.output_tokens / stats.decode_seconds,
        step_seconds=stats.decode_seconds / stats.accounting.steps,
        requests_per_second=len(sample) / stats.seconds,
        output_tokens_per_request=stats.output_tokens / len(sample),
    )


def _keep(tuning: Tuning, file: Path) -> None:
    with appearing(file) as staged:
        staged.write_text(tuning.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _file(loaded: LoadedModel, home: Path) -> Path:
    return _place(loaded.fingerprint, loaded.device, home)


def _place(fingerprint: str, device: torch.device, home: Path) -> Path:
    name = json.dumps([_FORMAT, fingerprint, machine_with(device)], sort_keys=True)
    return home / "tuned" / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"
