"""What is faster in C++ than in torch: attention over ragged prompts, and products in int8.

In scope: building the two, making them known to torch (`torch.ops.docmill`). Not in scope: where what was
built lies (`models.compiled`), what calls it (`models.ragged`, `models.int8`).
"""

from pathlib import Path

import torch
from torch._inductor.cpp_builder import CppBuilder, CppTorchOptions
from torch._inductor.cpu_vec_isa import pick_vec_isa

# Rounding as in torch: neither products and sums in one step nor products with reciprocals.
_AS_WRITTEN = ("-ffp-contract=off", "-fno-unsafe-math-optimizations")
SOURCES = tuple(sorted(Path(__file__).parent.glob("*.cpp")))


def build(file: Path, *flags: str) -> None:
    """Compile the kernels into `file`. Raises what the compiler raises."""
    options = CppTorchOptions(vec_isa=pick_vec_isa(), shared=True, extra_flags=(*_AS_WRITTEN, *flags))
    builder = CppBuilder(file.stem, [str(source) for source in SOURCES], options, output_dir=str(file.parent))
    builder.build()
    Path(builder.get_target_file_path()).rename(file)


def load(file: Path) -> None:
    """Make the kernels known to torch."""
    if not hasattr(torch.ops.docmill, "ragged_attention"):  # else they are, from a folder that holds the same
        torch.ops.load_library(file)
