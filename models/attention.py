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

# Keys and values per layer, each rows × KV heads × tokens × head size.
Layers = list[tuple[torch.Tensor, torch.Tensor]]


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
    """Attend from `query` (rows × heads × queries × size) to the keys that the distances leave visible.

    The query heads that share a KV head are taken as further queries of it, so keys and values are never
    repeated.
    """
    visible = attention_mask >= 0
    if sliding_window is not None:
        visible &= attention_mask < sliding_window
    rows, heads, queries, size = query.shape
    kv_heads = key.shape[1]
    grouped = query.reshape(rows, kv_heads, heads // kv_heads * queries, size)
    visible = visible.repeat(1, 1, heads // kv_heads, 1)
    out = scaled_dot_product_attention(grouped, key, value, attn_mask=visible, scale=scaling)
    return out.reshape(rows, heads, queries, -1).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, attend)


class PrefillCache(Cache):
    """Shows the model the shared prefix in front of the prompts and collects the prompts' keys and values."""

    def __init__(self, prefix: Layers) -> None:
        super().__init__(layers=[])
        self._prefix = prefix
        self.collected: Layers = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep the new keys and values of a layer and return them behind those of the prefix."""
        self.collected.append((key_states, value_states))
        if not self._prefix:
            return key_states, value_states
        keys, values = (part.expand(len(key_states), -1, -1, -1) for part in self._prefix[layer_idx])
        return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)


class PoolCache(Cache):
    """The KV cache of a decoding pool: `rows` slots of `length` columns per layer, allocated once."""

    def __init__(self, rows: int, length: int, prefix: Layers) -> None:
        super().__init__(layers=[])
        self._rows, self._length, self._prefix = rows, length, prefix
        self._layers: Layers = []
        self._columns = torch.empty(0)

    def fill(self, slots: list[int], prompts: Layers, start: int) -> None:
        """Put the first rows of prefilled `prompts` into `slots`, from column `start` on."""
        if not self._layers:
            self._layers = [self._allocate(index, *pair) for index, pair in enumerate(prompts)]
        for stored, fresh in zip(self._layers, prompts, strict=True):
            for target, source in zip(stored, fresh, strict=True):
                target[slots, :, start : start + source.shape[2]] = source[: len(slots)]

    def write_at(self, positions: torch.Tensor) -> None:
        """Say in which column of each slot (rows) the next decoding step writes."""
        self._columns = torch.arange(self._rows, device=positions.device) * self._length + positions

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one token per slot and return all columns of all slots."""
        stored = self._layers[layer_idx]
        for target, source in zip(stored, (key_states, value_states), strict=True):
            columns = target.transpose(1, 2).flatten(0, 1)
            columns.index_copy_(0, self._columns, source.squeeze(2))
        return stored

    def _allocate(
        self, index: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # Memory order is slot, column, head: a token of a slot is one contiguous write for all its heads.
        pair = tuple(
            part.new_zeros(self._rows, self._length, part.shape[1], part.shape[3]).transpose(1, 2)
            for part in (keys, values)
        )
        for target, shared in zip(pair, self._prefix[index] if self._prefix else (), strict=False):
            target[:, :, : shared.shape[2]] = shared
        return pair[0], pair[1]
