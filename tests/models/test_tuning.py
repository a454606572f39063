"""What tuning tries, keeps and remembers, on tiny models."""

import gc
import json
import shutil
import weakref
from random import Random

import pytest
import torch
import torch._inductor.config as inductor

from models import int8, tuning
from models.batching import BucketPolicy
from models.config import GenerationConfig, ModelConfig, ModelError, OutOfMemoryError
from models.engine import Frame, Request
from models.load import META_FILE
from models.machine import machine_digest
from models.quantize import quantize_folder
from models.runner import PaddedRunner
from models.tuning import Speed, Trial, Tuning, load_tuned, remembered, tune, tuned_engine

from .conftest import number_prompts

GENERATION = GenerationConfig(max_prompt_tokens=64, max_new_tokens=8, stop=())
ASKED = [Request(str(n), prompt, (Frame("", 6),)) for n, prompt in enumerate(number_prompts(40))]


@pytest.fixture(autouse=True)
def short_trials(monkeypatch):
    monkeypatch.setattr(tuning, "_TRIAL_SECONDS", 0.05)


def tuned(loaded, home, seconds, told=None):
    return tune(
        lambda compiled: loaded, GENERATION, home, ASKED, seconds, (told if told is not None else []).append
    )


def test_without_time_the_default_is_measured_and_kept(loaded, tmp_path):
    told = []
    tuning = tuned(loaded(), tmp_path, 0, told)
    assert tuning.policy == BucketPolicy() and not tuning.compiled
    assert tuple(told) == tuning.trials and len(told) == 1
    assert tuning.speed and tuning.speed.output_tokens_per_request > 1
    assert remembered(loaded(), tmp_path) == tuning


def test_with_little_time_what_was_found_before_stays(loaded, tmp_path):
    tuned(loaded(), tmp_path, 0)
    kept = Tuning(policy=BucketPolicy(decode_rows=16))
    tuning._file(loaded(), tmp_path).write_text(kept.model_dump_json())
    assert tuned(loaded(), tmp_path, 0).policy == kept.policy
    tuning._file(loaded(), tmp_path).write_text("{")
    assert tuned(loaded(), tmp_path, 0).policy == BucketPolicy()


def test_what_cannot_be_compiled_is_told_and_the_search_goes_on(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "_speed", lambda engine, sample: trial(1).speed)
    told = []
    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}):
        found = tuned(loaded(), tmp_path, 600, told)
    assert "C++ compiler" in told[1].failure
    assert not found.compiled and not any(trial.compiled for trial in told[2:])
    assert {trial.policy.decode_rows for trial in told} == {8, 16, 32, 64, 128}


def test_the_prompts_at_hand_decide_the_edges_of_one_trial(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "_EDGES", 4)
    monkeypatch.setattr(tuning, "_speed", lambda engine, sample: trial(1).speed)
    told = []
    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}):
        tuned(loaded(), tmp_path, 600, told)
    (edges,) = {trial.policy.edges for trial in told if trial.policy.edges}
    lengths = [len(request.prompt.split()) - 1 for request in ASKED]
    shares = [sum(length <= edge for length in lengths) / len(lengths) for edge in edges]
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1], abs=0.1)


def test_no_trial_is_so_short_that_the_last_texts_decide(loaded, tmp_path, monkeypatch):
    """With fewer texts than some times the rows, most rows are idle, and the fewest seem to be best."""
    occupied, measure = [], tuning._speed

    def noted(engine, sample):
        speed = measure(engine, sample)
        occupied.append((len(sample), engine.stats.occupancy))
        return speed

    monkeypatch.setattr(tuning, "_speed", noted)
    told = []
    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}):
        tuned(loaded(), tmp_path, 600, told)
    rows = [trial.policy.decode_rows for trial in told if trial.speed]
    assert len(rows) == len(occupied) > 4
    for count, (texts, occupancy) in zip(rows, occupied, strict=True):
        assert texts >= 4 * count
        assert occupancy > 0.5


def test_a_trial_without_enough_memory_leaves_it_to_the_next(loaded, tmp_path, monkeypatch):
    runners, make, decode = [], tuning._engine, PaddedRunner.decode

    def fail(self, kv_length, fed):
        if self._table.decode_rows >= 64:
            raise OutOfMemoryError("the device is out of memory")
        return decode(self, kv_length, fed)

    def noted(*arguments):
        assert not any(runner() for runner in runners)
        engine = make(*arguments)
        runners.append(weakref.ref(engine._runner))
        return engine

    monkeypatch.setattr(PaddedRunner, "decode", fail)
    monkeypatch.setattr(tuning, "_engine", noted)
    told = []
    gc.disable()  # it would come too late
    try:
        with inductor.patch({"cpp.cxx": ("no-such-compiler",)}):
            found = tuned(loaded(), tmp_path, 600, told)
    finally:
        gc.enable()
    assert told[0].failure == "the device is out of memory" and len(runners) > 3
    assert found.policy.decode_rows < 64


def test_if_no_trial_can_run_one_line_says_why(loaded, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no step can be taken\nat all")

    monkeypatch.setattr(PaddedRunner, "decode", fail)
    with (
        inductor.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(ModelError, match=r"no step can be taken$"),
    ):
        tuned(loaded(), tmp_path, 600)


def test_engines_follow_what_was_kept(loaded, tmp_path):
    plain = tuned_engine(loaded(), GENERATION, tmp_path)
    kept = Tuning(policy=BucketPolicy(decode_rows=16))
    tuning._file(loaded(), tmp_path).parent.mkdir()
    tuning._file(loaded(), tmp_path).write_text(kept.model_dump_json())
    engine = tuned_engine(loaded(), GENERATION, tmp_path)
    assert all(rows == 16 for rows, _ in engine.profile.buckets["decode"])
    assert engine.profile.as_key() != plain.profile.as_key()
    assert tuned_engine(loaded("gemma"), GENERATION, tmp_path).profile.buckets == plain.profile.buckets


@pytest.fixture
def meant_for_int8(saved, tmp_path, monkeypatch):
    """Give the folder of a tiny model that is meant for int8, on what seems to be a processor with AMX."""
    source = shutil.copytree(saved(), tmp_path / "source")
    (source / META_FILE).write_text(json.dumps({"int8_products": True}))
    monkeypatch.setattr(int8, "_is_exact", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True, "avx512_vnni": True})
    return quantize_folder(source, tmp_path / "int8")


def test_a_model_is_loaded_in_the_type_that_what_was_kept_is_fastest_in(meant_for_int8, tmp_path):
    config = ModelConfig(model=str(meant_for_int8), device="cpu")
    plain = load_tuned(config, tmp_path)
    assert plain.compute == "bfloat16"
    file = tuning._file(plain, tmp_path)
    file.parent.mkdir()
    file.write_text(Tuning(compiled=True).model_dump_json())
    compiled = load_tuned(config, tmp_path)
    assert compiled.compute == "int8"
    assert tuning._file(compiled, tmp_path) == file


def test_every_trial_has_the_model_as_its_passes_want_it(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "_speed", lambda engine, sample: trial(1).speed)
    asked = []

    def load_for(compiled):
        asked.append(compiled)
        return loaded()

    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}):
        tune(load_for, GENERATION, tmp_path, ASKED, 600, lambda trial: None)
    assert asked == [False, True, False]


def trial(rate, rows=64):
    speed = Speed(
        prompt_tokens_per_second=1,
        output_tokens_per_second=1,
        step_seconds=1,
        requests_per_second=rate,
        output_tokens_per_request=1,
    )
    return Trial(policy=BucketPolicy(decode_rows=rows), compiled=False, speed=speed)


def test_a_trial_replaces_the_best_only_if_it_is_clearly_faster():
    search = tuning._Search(BucketPolicy(), False, (), (8, 16, 32))
    for rows, rate in ((64, 100.0), (32, 101.0), (16, 120.0), (8, 119.0)):
        search.add(trial(rate, rows))
    assert search.best.policy.decode_rows == 16


@pytest.mark.parametrize(
    ("before", "best", "kept"),
    [
        ((100, 104, 90), (110, 95, 98), 100),  # it was faster once
        ((100, 101, 99), (110, 108, 109), 109),
        ((100, 100, 100), (104, 102, 102), 100),  # by less than is worth other texts
        ((100, 80, 120), (131, 130, 129), 100),  # by less than trials of the same differ
    ],
)
def test_what_was_kept_stays_unless_another_is_faster_beyond_noise(before, best, kept):
    left = {64: list(before), 32: list(best)}
    order = []

    def again(of):
        order.append(of.policy.decode_rows)
        return trial(left[order[-1]].pop(0), order[-1])

    found = tuning._kept_of(again(trial(1)), again(trial(1, 32)), again)
    assert order == [64, 32] * 3
    assert found.speed.requests_per_second == kept


def test_noise_alone_changes_nothing_that_was_kept(loaded, tmp_path, monkeypatch):
    rng, told = Random(1), []
    monkeypatch.setattr(tuning, "_speed", lambda engine, sample: trial(rng.uniform(80, 120)).speed)
    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}):
        found = tuned(loaded(), tmp_path, 600, told)
    rates = [of.speed.requests_per_second for of in told if of.speed]
    assert max(rates) > rates[0] * 1.03  # or there was no noise to speak of
    assert found.policy == BucketPolicy()
    assert found.trials == tuple(told)


@pytest.mark.parametrize(
    ("failing", "rows"),
    [
        ({64}, 16),  # what was kept before fails when it is tried again
        ({16}, 64),  # what was faster does
        ({16, 64}, 64),
    ],
)
def test_what_fails_when_it_is_tried_again_is_not_kept(loaded, tmp_path, monkeypatch, failing, rows):
    measured = []

    def speed(engine, sample):
        measured.append(rows := engine.decode_rows)
        if rows in failing and measured.count(rows) > 1:
            raise OutOfMemoryError("the device is out of memory")
        return trial(200 if rows == 16 else 100).speed

    monkeypatch.setattr(tuning, "_speed", speed)
    told = []
    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}):
        found = tuned(loaded(), tmp_path, 600, told)
    failed = [of.policy.decode_rows for of in told if of.failure == "the device is out of memory"]
    assert sorted(failed) == sorted([*failing] * 2)
    assert found.policy.decode_rows == rows
    assert found.speed and remembered(loaded(), tmp_path) == found


def test_a_damaged_file_is_refused_by_name(loaded, tmp_path):
    tuned(loaded(), tmp_path, 0)
    file = tuning._file(loaded(), tmp_path)
    file.write_text(file.read_text()[:40])
    with pytest.raises(ModelError, match=rf"{file.name}.*remove it, or tune the model again"):
        tuned_engine(loaded(), GENERATION, tmp_path)


def test_tuning_again_changes_what_a_build_remembers(loaded, saved, tmp_path):
    before = machine_digest(str(saved()), tmp_path)
    tuned(loaded(), tmp_path, 0)
    assert machine_digest(str(saved()), tmp_path) != before
