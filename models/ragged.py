"""Tokens of many texts one behind the other, without padding: their KV cache, and attention over it.

Where shapes are fixed, attention reads a pool's whole length for every slot, and padding for every prompt.
Here each token says which slot and position it has; its keys and values go there, and it attends to what lies
before it in that slot, by a kernel in C++. A pool may be as long as the longest request without the
short ones paying for it, and prompts of any lengths share a pass.

In scope: the attention call, the cache. Not in scope: the kernel (`models.kernels`), devices other than
the CPU, where `models.attention` serves.
"""

import torch
from transformers import AttentionInterface
from transformers.cache_utils import Cache

RAGGED_ATTENTION = "docmill_ragged"

_WHOLE_LINE = 16  # float32 lanes of the widest vectors; a head is a multiple of them
_NO_WINDOW = 1 << 40


def serves(layers: list[torch.Tensor]) -> bool:
    """Tell whether the kernel reads keys and values like these, by type, device and head size."""
    first = layers[0]
    readable = first.dtype in (torch.float32, torch.bfloat16) and first.shape[3] % _WHOLE_LINE == 0
    return first.device.type == "cpu" and readable


def attend_ragged(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attend from `query` (1 × heads × tokens × size) to a pool.

    The engine hands slots and positions (1 × 1 × tokens × 2) to the model in place of a four-dimensional
    attention mask, which transformers passes through to every layer untouched.
    """
    out = torch.ops.docmill.ragged_attention(
        query[0].transpose(0, 1),
        key,
        value,
        attention_mask[0, 0],
        query.shape[3] ** -0.5 if scaling is None else scaling,
        sliding_window or _NO_WINDOW,
    )
    return out[None], None


AttentionInterface.register(RAGGED_ATTENTION, attend_ragged)


class RaggedCache(Cache):
    """Writes tokens to their slots and positions in a pool of slots × KV heads × columns × head size."""

    def __init__(self, pool: list[torch.Tensor], places: torch.Tensor) -> None:
        super().__init__(layers=[])
        self._pool = pool
        slots, positions = places.unbind(1)
        heads = torch.arange(pool[0].shape[1], device=places.device)
        self._places = (slots[:, None], heads, positions[:, None])

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values of a layer (1 × KV heads × tokens × size) and return the pool."""
        keys, values = self._pool[2 * layer_idx : 2 * layer_idx + 2]
        keys.index_put_(self._places, key_states[0].transpose(0, 1).to(keys.dtype))
        values.index_put_(self._places, value_states[0].transpose(0, 1).to(values.dtype))
        return keys, values
