"""Products in int8 by the kernel: exact, and a row's bits are its own; with tiles and without."""

import subprocess
import sys

import pytest
import torch

from models.int8 import Int8Linear, PackedLinear, Shared, quantized_rows

from .conftest import NEEDS_CPP, NEEDS_VNNI

pytestmark = [NEEDS_CPP, NEEDS_VNNI]

SIZES = [(1, 1, 1), (7, 200, 31), (12, 64, 32), (31, 4864, 8), (64, 256, 768), (300, 96, 200), (33, 65, 33)]
# With AMX tiles there are two ways to multiply, of which a process has one.
WITHOUT_TILES = f"""
import sys
from pathlib import Path
from models.kernels import build, load
build(Path(sys.argv[1]), "-U__AMX_INT8__")
load(Path(sys.argv[1]))
import torch
from tests.models.test_kernels import check_exact
assert not torch.ops.docmill.int8_by_tiles()
for size in {SIZES}:
    check_exact(*size)
"""


def check_exact(rows, inputs, outputs):
    torch.manual_seed(rows * inputs)
    x, weight = (torch.randint(-127, 128, (n, inputs), dtype=torch.int8) for n in (rows, outputs))
    x[:, 0], x[0], weight[0] = 127, -127, -127
    scales, column_scales, bias = torch.rand(rows, 1), torch.rand(outputs), torch.randn(outputs)
    given = x.float() * scales
    rounded, found = quantized_rows(given)
    expected = (rounded.long() @ weight.long().T).float() * column_scales * found
    assert torch.equal(rounded, x)
    for offset in (None, bias):
        product = PackedLinear([Int8Linear(weight, column_scales, offset, Shared())])
        result = torch.ops.docmill.int8_linear(given, product.weight, column_scales, offset)
        assert torch.equal(result, expected if offset is None else expected + offset)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_sums_are_exact(kernels, size, threads):
    torch.set_num_threads(threads)
    check_exact(*size)


def test_sums_are_exact_in_tiles_beside_those_of_torch(kernels):
    if not kernels.int8_by_tiles():
        pytest.skip("this processor has no AMX, or the system does not lend it")
    halves = torch.randn(64, 256).bfloat16(), torch.randn(256, 256).bfloat16()
    before = torch.nn.functional.linear(*halves)
    check_exact(64, 256, 768)
    assert torch.equal(torch.nn.functional.linear(*halves), before)


def test_sums_are_exact_without_tiles(tmp_path):
    command = [sys.executable, "-c", WITHOUT_TILES, tmp_path / "kernels.so"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_row_is_the_same_in_any_company(kernels, threads):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    linear = PackedLinear(
        [Int8Linear(torch.randint(-9, 9, (70, 96)).to(torch.int8), torch.rand(70), None, Shared())]
    )
    x = torch.randn(300, 96)
    (together,) = linear.outputs(x)
    for first, size in ((0, 1), (5, 2), (30, 7), (64, 64), (100, 129)):
        (apart,) = linear.outputs(x[first : first + size].clone())
        assert torch.equal(apart, together[first : first + size])


@pytest.mark.parametrize("largest", [0.0, 1e-30, 1e-12, 0.1, 1e30, 3e38])
def test_rows_are_rounded_as_they_are_without_the_kernel(kernels, largest):
    torch.manual_seed(0)
    weight = torch.randint(-127, 128, (40, 100), dtype=torch.int8)
    plain = Int8Linear(weight, torch.rand(40) / 1e6, None, Shared())
    x = (torch.rand(3, 100) * 2 - 1) * largest
    assert torch.equal(PackedLinear([plain]).outputs(x)[0], plain(x))


@pytest.mark.parametrize("column", [0, 17, 99])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_gives_no_numbers_and_spoils_no_other_row(kernels, column, value):
    product = PackedLinear(
        [layer := Int8Linear(torch.ones(40, 100).to(torch.int8), torch.ones(40), None, Shared())]
    )
    x = torch.ones(3, 100)
    x[1, column] = value
    (out,) = product.outputs(x)
    assert out[1].isnan().all()
    assert torch.equal(out[::2], layer(torch.ones(2, 100)))


def test_odd_tensors_are_served_or_refused(kernels):
    product = PackedLinear([Int8Linear(torch.ones(40, 100).to(torch.int8), torch.ones(40), None, Shared())])
    x = torch.randn(100, 6).T
    assert torch.equal(product.outputs(x)[0], product.outputs(x.contiguous())[0])
    assert product.outputs(torch.empty(0, 100))[0].shape == (0, 40)
    with pytest.raises(RuntimeError):
        product.outputs(x.double())
    with pytest.raises(RuntimeError, match="askew"):
        askew = torch.cat([torch.zeros(1, dtype=torch.uint8), product.weight])[1:]
        kernels.int8_linear(x, askew, product.scale, None)
    assert kernels.int8_linear(x.to("meta"), product.weight, product.scale.to("meta"), None).shape == (6, 40)


@pytest.mark.parametrize("weights", [32 * 64 - 1, 64 * 64])
def test_weights_of_another_size_are_refused(kernels, weights):
    with pytest.raises(RuntimeError):
        kernels.int8_linear(torch.zeros(2, 64), torch.zeros(weights, dtype=torch.uint8), torch.ones(32), None)
