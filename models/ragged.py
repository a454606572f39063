"""Attention that reads what a query may see and no padding: a C++ kernel for compiled passes.

At a fixed shape, attention reads a pool's whole length for every slot, and all of a prompt for each of its
tokens; this one stops at a query's own position. A pool may therefore be as long as the longest request
without the short ones paying for it.

In scope: building and loading the kernel, the attention call that uses it. Not in scope: types other than
float32 and devices other than the CPU, where `models.attention` serves.
"""

from pathlib import Path

import torch
from torch._inductor.cpp_builder import CppBuilder, CppTorchOptions
from torch._inductor.cpu_vec_isa import pick_vec_isa
from transformers import AttentionInterface

from models.staging import appearing

RAGGED_ATTENTION = "docmill_ragged"

_SOURCE = Path(__file__).with_name("ragged_attention.cpp")
_WHOLE_LINE = 16  # float32 lanes of the widest vectors; a head is a multiple of them
_NO_WINDOW = 1 << 40


def serves(layers: list[torch.Tensor]) -> bool:
    """Tell whether the kernel reads keys and values like these, by type, device and head size."""
    first = layers[0]
    return first.device.type == "cpu" and first.dtype == torch.float32 and first.shape[3] % _WHOLE_LINE == 0


def load_kernel(file: Path) -> None:
    """Make the kernel known to torch, built as `file` if it is not there. Raises what the compiler raises."""
    if not file.exists():
        with appearing(file) as staged:
            options = CppTorchOptions(vec_isa=pick_vec_isa(), shared=True)
            builder = CppBuilder(file.stem, [str(_SOURCE)], options, output_dir=str(staged.parent))
            builder.build()
            Path(builder.get_target_file_path()).rename(staged)
    if hasattr(torch.ops.docmill, "ragged_attention"):
        return  # once in a process, from whichever folder came first: they hold the same
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
    """Attend from `query` (rows × heads × queries × size), as `models.attention.attend` does."""
    out = torch.ops.docmill.ragged_attention(
        query.transpose(1, 2),
        key,
        value,
        attention_mask[:, 0, :, 0].contiguous(),  # the distance to the first column: the position
        query.shape[3] ** -0.5 if scaling is None else scaling,
        sliding_window or _NO_WINDOW,
    )
    return out, None


AttentionInterface.register(RAGGED_ATTENTION, attend_ragged)
