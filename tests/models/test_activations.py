"""Activations give the same bits wherever an element lies, however many threads there are."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.activations import ACT2FN

from models.activations import GRAIN, UNSPLIT, VECTORS, PlaceIndependent, even_pieces, settle

SHAPES = [(128, 512), (384, 200), (832, 128), (64, 1408), (1024, 150)]


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def uneven(activation):
    """Return the shapes at which equal rows come out unequal."""
    torch.manual_seed(0)
    found = []
    for rows, width in SHAPES:
        out = activation(torch.randn(1, width).expand(rows, width).contiguous())
        if not torch.equal(out, out[:1].expand(rows, width)):
            found.append((rows, width))
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_pytorch_tanh", "gelu_new", "quick_gelu", "relu"])
def test_equal_rows_stay_equal(threads, name, count):
    threads(count)
    assert uneven(PlaceIndependent(ACT2FN[name])) == []


def test_values_are_those_of_the_activation(threads):
    threads(3)
    inputs = torch.randn(7, 3, 8192)
    assert torch.allclose(PlaceIndependent(ACT2FN["silu"])(inputs), ACT2FN["silu"](inputs))


@given(st.integers(1, 3000).map(lambda vectors: vectors * VECTORS), st.integers(1, 64))
def test_pieces_cover_everything_and_are_split_evenly(elements, threads):
    pieces = even_pieces(elements, threads)
    assert sum(pieces) == elements
    for piece in pieces:
        for parts in (min(threads, -(-piece // GRAIN)), threads if piece > UNSPLIT else 1):
            chunk = -(-piece // parts)
            assert parts == 1 or chunk % VECTORS == 0


def test_settling_replaces_every_activation_once():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), ACT2FN["silu"], torch.nn.Sequential(ACT2FN["gelu"]))
    settle(model)
    settle(model)
    found = [module for module in model.modules() if isinstance(module, PlaceIndependent)]
    assert len(found) == 2
    assert not any(isinstance(module.activation, PlaceIndependent) for module in found)
