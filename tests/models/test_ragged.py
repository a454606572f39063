"""The attention kernel against torch's own, and against itself in other company."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from .conftest import NEEDS_CPP

pytestmark = NEEDS_CPP


@pytest.fixture
def kernel(kernels):
    return kernels.ragged_attention


def plain(query, keys, values, places, scale, window):
    """Attend from each token by itself."""
    out = torch.empty_like(query)
    for token, (slot, position) in enumerate(places.tolist()):
        seen = slice(max(0, position - window + 1), position + 1)
        out[token] = scaled_dot_product_attention(
            query[None, token, :, None],
            keys[None, slot, :, seen],
            values[None, slot, :, seen],
            scale=scale,
            enable_gqa=True,
        )[0, :, 0]
    return out


def placed(*runs):
    """Return slots and positions of tokens: a slot, a first position and a number for each run."""
    return torch.tensor([[slot, start + i] for slot, start, count in runs for i in range(count)])


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (8, 2), (14, 2), (9, 3), (16, 1)])
@pytest.mark.parametrize("size", [16, 32, 48, 80, 128])
@pytest.mark.parametrize("window", [1, 7, 1 << 40])
def test_prompts_and_single_tokens_agree_with_torch(kernel, heads, kv_heads, size, window):
    torch.manual_seed(heads * size)
    keys, values = (torch.randn(6, kv_heads, 70, size) for _ in range(2))
    places = placed((3, 0, 21), (0, 17, 40), (5, 69, 1), (1, 0, 1), (2, 4, 2), (4, 33, 1))
    query = torch.randn(len(places), heads, size)
    asked = (query, keys, values, places, size**-0.5, window)
    torch.testing.assert_close(kernel(*asked), plain(*asked), atol=2e-6, rtol=1e-5)


def test_keys_and_values_may_be_bfloat16(kernel):
    torch.manual_seed(0)
    query, (keys, values) = torch.randn(30, 8, 64).bfloat16(), torch.randn(2, 3, 2, 50, 64).bfloat16()
    places = placed((2, 5, 28), (0, 49, 1), (1, 0, 1))
    out = kernel(query, keys, values, places, 0.125, 1 << 40)
    wanted = plain(query.float(), keys.float(), values.float(), places, 0.125, 1 << 40)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), wanted, atol=4e-3, rtol=8e-3)


def test_a_text_is_the_same_bit_for_bit_in_any_company_and_in_a_longer_pool(kernel):
    torch.manual_seed(0)
    keys, values = torch.randn(2, 12, 2, 60, 32)
    runs = [(7, 0, 9), (2, 30, 30), (11, 12, 1), (0, 59, 1), (5, 0, 40), (9, 3, 2)]
    queries = [torch.randn(count, 8, 32) for _, _, count in runs]
    together = kernel(torch.cat(queries), keys, values, placed(*runs), 0.2, 1 << 40).split(
        [n for *_, n in runs]
    )
    some = [4, 0, 3]
    apart = kernel(
        torch.cat([queries[i] for i in some]), keys, values, placed(*(runs[i] for i in some)), 0.2, 1 << 40
    )
    assert torch.equal(apart, torch.cat([together[i] for i in some]))
    longer = (torch.cat([part, torch.randn(12, 2, 33, 32)], dim=2) for part in (keys, values))
    assert torch.equal(kernel(torch.cat(queries), *longer, placed(*runs), 0.2, 1 << 40), torch.cat(together))


@pytest.mark.parametrize("place", [(6, 0), (-1, 0), (0, 70), (0, -1)])
def test_a_place_outside_the_pool_is_refused(kernel, place):
    keys = torch.zeros(6, 2, 70, 32)
    with pytest.raises(RuntimeError):
        kernel(torch.zeros(1, 4, 32), keys, keys, torch.tensor([place]), 1.0, 9)
