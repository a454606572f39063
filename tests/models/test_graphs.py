"""Fixed steps: what goes in and comes out, and, where there is a GPU, that graphs change nothing."""

import pytest
import torch
from transformers import AutoConfig

from models.config import GenerationConfig, ModelConfig
from models.engine import Engine, Frame, Request
from models.graphs import FixedStep, graph_memory, is_recordable
from models.load import load

from .conftest import code_prompts, random_model

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


LONG_ROTATION = {
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 8,
        "long_factor": [2.0] * 8,
        "original_max_position_embeddings": 128,
    }
}


@pytest.mark.parametrize(
    ("architecture", "changes", "recordable"),
    [("llama", {}, True), ("gemma3_text", {}, True), ("gpt2", {}, True), ("phi3", LONG_ROTATION, False)],
)
def test_rotations_that_fetch_positions_cannot_be_recorded(tmp_path, architecture, changes, recordable):
    folder = random_model(architecture, tmp_path / "model", **changes)
    assert is_recordable(AutoConfig.from_pretrained(folder)) is recordable


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


@on_gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_text_is_the_same_on_a_gpu_in_any_company(saved, dtype):
    loaded = load(ModelConfig(model=str(saved("llama", "code")), dtype=dtype, device="cuda"))
    engine = Engine(loaded, GenerationConfig(stop=()), prefix="def f(x):\n")
    requests = asked()
    together = engine.generate_all(requests)
    assert len({completion.texts for completion in together}) > 60
    for first in range(0, 30, 6):
        assert engine.generate_all([requests[first]]) == [together[first]]
        assert engine.generate_all(requests[first : first + 5]) == together[first : first + 5]
