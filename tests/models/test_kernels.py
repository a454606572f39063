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
from tests.models.test_kernels import check_exact
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
    assert (rounded - x).abs().max() == 0
    for offset in (None, bias):
        product = PackedLinear([Int8Linear(weight, column_scales, offset, Shared(quantized_rows))])
        result = torch.ops.docmill.int8_linear(given, product.weight, column_scales, offset)
        assert torch.equal(result, expected if offset is None else expected + offset)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_sums_are_exact(kernels, size, threads):
    torch.set_num_threads(threads)
    check_exact(*size)


def test_sums_are_exact_without_tiles(tmp_path):
    command = [sys.executable, "-c", WITHOUT_TILES, tmp_path / "kernels.so"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_row_is_the_same_in_any_company(kernels):
    linear = PackedLinear(
        [Int8Linear(torch.randint(-9, 9, (70, 96)).to(torch.int8), torch.rand(70), None, None)]
    )
    x = torch.randn(300, 96)
    (together,) = linear.outputs(x)
    for first, size in ((0, 1), (5, 2), (30, 7), (64, 64), (100, 129)):
        (apart,) = linear.outputs(x[first : first + size].clone())
        assert torch.equal(apart, together[first : first + size])


@pytest.mark.parametrize("row", [0.0, 1e-30, 1e-12, 0.1, 1e30])
def test_rows_are_rounded_as_they_are_without_the_kernel(kernels, row):
    weight = torch.randint(-127, 128, (40, 100), dtype=torch.int8)
    plain = Int8Linear(weight, torch.rand(40) / 1e6, None, Shared(quantized_rows))
    x = torch.linspace(-row, row, 100).repeat(3, 1)
    assert torch.equal(PackedLinear([plain]).outputs(x)[0], plain(x))


@pytest.mark.parametrize("weights", [32 * 64 - 1, 64 * 64])
def test_weights_of_another_size_are_refused(kernels, weights):
    with pytest.raises(RuntimeError):
        kernels.int8_linear(torch.zeros(2, 64), torch.zeros(weights, dtype=torch.uint8), torch.ones(32), None)
