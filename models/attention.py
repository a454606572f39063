"""The attention call and the KV cache at fixed shapes, in the terms of transformers' own model code.

Every token lies in the KV cache at the column of its position, so what a query may see follows from
distances alone: a key is visible if it is not in the future and, in a sliding layer, not beyond the window.
Padding lies in the future of every real token until real tokens overwrite it. The engine hands the
distances to the model in place of a four-dimensional attention mask, which transformers passes through to
every layer untouched.

In scope: `attend`, registered under the name ATTENTION; the caches of a prefill and of a decoding pool.
Not in scope: which rows hold what (the engine), when anything runs (the scheduler).
"""

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.cache_utils import Cache

ATTENTION = "docmill_fixed_shape"


def distances(positions: torch.Tensor, kv_length: int) -> torch.Tensor:
    """Return how far each column lies behind each query: rows × 1 × queries × `kv_length`, int32."""
    columns = torch.arange(kv_length, dtype=torch.int32, device=positions.device)
    return positions.to(torch.int32)[:, None, :, None] - columns


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attend from `query` (rows × heads × queries × size) to the keys that the distances leave visible."""
    visible = attention_mask >= 0
    if sliding_window is not None:
        visible &= attention_mask < sliding_window
    rows, heads, queries, size = query.shape
    if queries > 1:
        out = scaled_dot_product_attention(
            query, key, value, attn_mask=visible, scale=scaling, enable_gqa=heads > key.shape[1]
        )
        return out.transpose(1, 2).contiguous(), None
    # The query heads that share a KV head are taken as several queries of it: faster, by half.
    grouped = query.view(rows, key.shape[1], -1, size)
    out = scaled_dot_product_attention(grouped, key, value, attn_mask=visible, scale=scaling)
    return out.reshape(rows, 1, heads, -1), None


AttentionInterface.register(ATTENTION, attend)


class PrefillCache(Cache):
    """Shows the model the shared prefix in front of the prompts and collects the prompts' keys and values."""

    def __init__(self, prefix: list[torch.Tensor]) -> None:
        super().__init__(layers=[])
        self._prefix = prefix
        self.collected: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep the new keys and values of a layer and return them behind those of the prefix."""
        self.collected += (key_states, value_states)
        if not self._prefix:
            return key_states, value_states
        keys, values = (
            part.expand(key_states.shape[0], -1, -1, -1)  # not len(), which an exporter takes for a constant
            for part in self._prefix[2 * layer_idx : 2 * layer_idx + 2]
        )
        return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)


class DecodeCache(Cache):
    """Writes one token per slot into a pool of slots × KV heads × columns × head size."""

    def __init__(self, pool: list[torch.Tensor], positions: torch.Tensor) -> None:
        super().__init__(layers=[])
        self._pool = pool
        slots, heads = (torch.arange(size, device=positions.device) for size in pool[0].shape[:2])
        self._places = (slots[:, None], heads, positions[:, None])

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values of a layer and return all columns of all slots."""
        keys, values = self._pool[2 * layer_idx : 2 * layer_idx + 2]
        keys.index_put_(self._places, key_states.squeeze(2))
        values.index_put_(self._places, value_states.squeeze(2))
        return keys, values
