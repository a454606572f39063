"""Tokens of many texts one behind the other, without padding: their KV cache, and attention over it.

Where shapes are fixed, attention reads a pool's whole length for every slot, and padding for every prompt.
Here each token says which slot and position it has; its keys and values go there, and it attends to what lies
before it in that slot, by a kernel in C++. A pool may be as long as the longest request without the
short ones paying for it, and prompts of any lengths share a pass.

In scope: building and loading the kernel, the attention call that uses it, the cache. Not in scope: devices
other than the CPU, where `models.attention` serves.
"""

from pathlib import Path

import torch
from torch._inductor.cpp_builder import CppBuilder, CppTorchOptions
from torch._inductor.cpu_vec_isa import pick_vec_isa
from transformers import AttentionInterface
from transformers.cache_utils import Cache

RAGGED_ATTENTION = "docmill_ragged"

_SOURCE = Path(__file__).with_name("ragged_attention.cpp")
_WHOLE_LINE = 16  # float32 lanes of the widest vectors; a head is a multiple of them
_NO_WINDOW = 1 << 40


def serves(layers: list[torch.Tensor]) -> bool:
    """Tell whether the kernel reads keys and values like these, by type, device and head size."""
    first = layers[0]
    readable = first.dtype in (torch.float32, torch.bfloat16) and first.shape[3] % _WHOLE_LINE == 0
    return first.device.type == "cpu" and readable


def build_kernel(file: Path) -> None:
    """Compile the kernel. Raises what the compiler raises."""
    options = CppTorchOptions(vec_isa=pick_vec_isa(), shared=True)
    builder = CppBuilder(file.stem, [str(_SOURCE)], options, output_dir=str(file.parent))
    builder.build()
    Path(builder.get_target_file_path()).rename(file)


def load_kernel(file: Path) -> None:
    """Make the kernel known to torch."""
    if not hasattr(torch.ops.docmill, "ragged_attention"):  # else it is, from a folder that holds the same
        torch.ops.load_library(file)


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
        keys.index_put_(self._places, key_states[0].transpose(0, 1))
        values.index_put_(self._places, value_states[0].transpose(0, 1))
        return keys, values
