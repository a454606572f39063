"""The attention kernel against torch's own, and against itself in other company."""

import shutil

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from models.ragged import load_kernel

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="building the kernel takes a C++ compiler")


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    load_kernel(tmp_path_factory.mktemp("kernel") / "ragged_attention.so")
    return torch.ops.docmill.ragged_attention


def plain(query, keys, values, positions, scale, window):
    behind = positions[:, :, None] - torch.arange(keys.shape[2])
    visible = ((behind >= 0) & (behind < window))[:, None].expand(len(keys), 1, -1, -1)
    out = scaled_dot_product_attention(
        query.transpose(1, 2), keys, values, attn_mask=visible, scale=scale, enable_gqa=True
    )
    return out.transpose(1, 2)


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (8, 2), (14, 2), (9, 3), (16, 1)])
@pytest.mark.parametrize("size", [16, 32, 48, 80, 128])
@pytest.mark.parametrize("window", [1, 7, 1 << 40])
def test_prefill_and_decoding_agree_with_torch(kernel, heads, kv_heads, size, window):
    torch.manual_seed(heads * size)
    for rows, queries, columns in ((3, 1, 70), (5, 1, 1), (2, 21, 21), (2, 40, 57)):
        query = torch.randn(rows, queries, heads, size)
        keys, values = (torch.randn(rows, kv_heads, columns, size) for _ in range(2))
        positions = torch.randint(columns, (rows, 1), dtype=torch.int32)
        if queries > 1:
            positions = torch.arange(columns - queries, columns, dtype=torch.int32)[None]
        asked = (query, keys, values, positions, size**-0.5, window)
        torch.testing.assert_close(kernel(*asked), plain(*asked), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("queries", [1, 9])
def test_a_row_is_the_same_bit_for_bit_in_any_company_and_in_a_longer_pool(kernel, queries):
    torch.manual_seed(0)
    query, (keys, values) = torch.randn(12, queries, 8, 32), torch.randn(2, 12, 2, 60, 32)
    positions = torch.randint(30, 60, (12, queries), dtype=torch.int32)
    together = kernel(query, keys, values, positions, 0.2, 1 << 40)
    some = [7, 2, 11]
    apart = kernel(query[some], keys[some], values[some], positions[some], 0.2, 1 << 40)
    assert torch.equal(apart, together[some])
    longer = (torch.cat([part, torch.randn(12, 2, 33, 32)], dim=2) for part in (keys, values))
    assert torch.equal(kernel(query, *longer, positions, 0.2, 1 << 40), together)
