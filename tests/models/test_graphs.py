"""Fixed steps: what goes in and comes out, and, where there is a GPU, that graphs change nothing."""

import gc
import weakref
from contextlib import contextmanager

import pytest
import torch
from transformers import AutoConfig

from models.config import GenerationConfig, ModelConfig
from models.engine import Engine, Frame, Request
from models.graphs import FixedStep, graph_memory, is_recordable
from models.load import load

from .conftest import check_any_company, code_prompts

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch has no CUDA device here")
CPU = torch.device("cpu")


def test_a_step_reads_every_call_and_keeps_its_inputs_in_one_place():
    places = []

    def compute(rows, factor):
        places.append((rows.data_ptr(), factor.data_ptr()))
        return rows.sum(1) * factor, rows.float().mean(1)

    step = FixedStep(compute, CPU, None)
    step([[1, 2], [3, 4]], [10, 100])
    assert [part.tolist() for part in step.results()] == [[30, 700], [1.5, 3.5]]
    step([[0, 1], [0, 2]], [1, 1])
    step([[5, 5], [6, 6]], [1, 2])
    assert [part.tolist() for part in step.results()] == [[10, 24], [5.0, 6.0]]
    assert len(set(places)) == 1


def test_a_step_may_return_nothing():
    kept = torch.zeros(4, dtype=torch.long)

    def keep(numbers):
        kept.copy_(numbers)
        return ()

    step = FixedStep(keep, CPU, None)
    step([1, 2, 3, 4])
    assert step.results() == []
    assert kept.tolist() == [1, 2, 3, 4]


def test_nothing_is_recorded_on_a_cpu(loaded):
    assert graph_memory(loaded().model) is None


PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
GROWING = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}


@pytest.mark.parametrize(
    ("architecture", "rotation", "recordable"),
    [
        ("llama", PLAIN, True),
        ("llama", GROWING, False),
        ("gemma3_text", {"sliding_attention": PLAIN, "full_attention": PLAIN}, True),
        ("gemma3_text", {"sliding_attention": PLAIN, "full_attention": GROWING}, False),
    ],
)
def test_rotations_that_look_at_positions_cannot_be_recorded(architecture, rotation, recordable):
    assert is_recordable(AutoConfig.for_model(architecture, rope_parameters=rotation)) is recordable


def test_a_model_without_rotations_can_be_recorded():
    assert is_recordable(AutoConfig.for_model("gpt2"))


class Recorder:
    """In the place of torch's own where there is no GPU: tells what happens, and computes nothing."""

    def __init__(self, monkeypatch, fails=False):
        self.happened = []
        monkeypatch.setattr("torch.cuda.CUDAGraph", lambda: self)
        monkeypatch.setattr("torch.cuda.graph", self.record)
        self.fails = fails

    @contextmanager
    def record(self, graph, pool):
        self.happened.append("record")
        yield
        if self.fails:
            raise RuntimeError("CUDA error: out of memory")

    def replay(self):
        self.happened.append("replay")


def test_the_second_call_is_recorded_and_those_after_it_replay(monkeypatch):
    recorder = Recorder(monkeypatch)
    read = []

    def compute(numbers):
        read.append(numbers.tolist())
        return (numbers * 2,)

    step = FixedStep(compute, CPU, "memory")
    step([1])
    assert (recorder.happened, step.is_recorded) == ([], False)
    step([2])
    step([3])
    assert recorder.happened == ["record", "replay", "replay"]
    assert step.is_recorded
    assert read == [[1], [2]]  # what is replayed is not computed by Python


def test_a_recording_that_fails_is_none(monkeypatch):
    Recorder(monkeypatch, fails=True)
    step = FixedStep(lambda numbers: (numbers * 2,), CPU, "memory")
    step([1])
    with pytest.raises(RuntimeError, match="out of memory"):
        step([2])
    assert not step.is_recorded
    assert [part.tolist() for part in step.results()] == [[2]]


def test_what_a_runner_holds_goes_with_it(loaded):
    engine = Engine(loaded(), GenerationConfig(stop=()))
    engine.generate_all([Request("a", "1 2 3", (Frame("", 3),))])
    runner = weakref.ref(engine._runner)
    gc.disable()  # it would come too late for the pools of the next engine
    try:
        del engine
        assert runner() is None
    finally:
        gc.enable()


def asked(count=120):
    frames = [(Frame("", 16),), (Frame("x: ", 6), Frame("y: ", 6)), (Frame("Returns", 3),)]
    return [Request(str(n), prompt, frames[n % 3]) for n, prompt in enumerate(code_prompts(count))]


@on_gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "gpt2"])
def test_graphs_write_what_kernels_launched_one_by_one_write(saved, monkeypatch, architecture, dtype):
    loaded = load(ModelConfig(model=str(saved(architecture, "code")), dtype=dtype, device="cuda"))
    recorded = Engine(loaded, GenerationConfig(stop=()), prefix="def f(x):\n")
    monkeypatch.setattr("models.runner.graph_memory", lambda model: None)
    launched = Engine(loaded, GenerationConfig(stop=()), prefix="def f(x):\n")
    assert recorded.generate_all(asked()) == launched.generate_all(asked())
    of_recorded, of_launched = (
        [*engine._runner._prefills.values(), *engine._runner._decodings.values()]
        for engine in (recorded, launched)
    )
    assert sum(step.is_recorded for step in of_recorded) >= 2
    assert not any(step.is_recorded for step in of_launched)


@on_gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_text_is_the_same_on_a_gpu_in_any_company(saved, dtype):
    loaded = load(ModelConfig(model=str(saved("llama", "code")), dtype=dtype, device="cuda"))
    engine = Engine(loaded, GenerationConfig(stop=()), prefix="def f(x):\n")
    check_any_company(engine, asked())
