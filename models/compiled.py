"""The forward passes as machine code, made once for a model and a machine, and kept on disk.

torch.export traces a pass through transformers' model code, AOTInductor turns it into fused C++ loops around
the matrix products, and what it made is loaded in milliseconds from then on. Lengths stay open, so that one
compilation serves all buckets. Weights are not copied: the compiled code reads those of the model.

In scope: export, compilation, the folder where the results lie. Not in scope: what the passes compute
(`models.passes`), when compiling is worth its time (`models.tuning`).

Format: https://docs.pytorch.org/docs/stable/torch.compiler_aot_inductor.html
"""

import hashlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch._inductor import aoti_compile_and_package, aoti_load_package
from torch.export import Dim, export

from models import ragged
from models.attention import ATTENTION
from models.config import ModelError
from models.passes import DecodePass, PrefillPass
from models.staging import appearing

_LONGEST = 1 << 20  # rows, tokens; a bound that the exporter asks for
_EXAMPLE_ROWS, _EXAMPLE_LENGTH = 5, 19  # like no size of a model, which the exporter would take for equal
_NO_COMPILING = "the model cannot be compiled here (`docmill model tune` finds what can be done)"
_WORKSHOP = "TORCHINDUCTOR_CACHE_DIR"
_OPTIONS = {"aot_inductor.package_constants_in_so": False}


class CompiledPasses:
    """The compiled passes of one model on one machine; `folder` holds nothing else.

    Whatever decides the machine code must decide the folder: the weights' shapes, the libraries, the
    processor, the number of threads.
    """

    def __init__(self, folder: Path, layers: list[torch.Tensor]) -> None:
        """`layers` are keys and values like those that the passes will see. Raises ModelError."""
        self._folder = folder
        self._files: set[Path] = set()
        self._attention = ATTENTION
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if ragged.serves(layers):
            self._attention = ragged.RAGGED_ATTENTION
            kernel = folder / "ragged_attention.so"
            with _one_line(_NO_COMPILING):
                ragged.load_kernel(kernel)
            self._files.add(kernel)

    def prefill(self, plain: PrefillPass, prefix: list[torch.Tensor]) -> Callable[..., list[torch.Tensor]]:
        """Return `plain` for two or more prompts of any length behind this prefix. Raises ModelError."""
        behind = prefix[0].shape[2] if prefix else 0
        tokens = torch.zeros(_EXAMPLE_ROWS, _EXAMPLE_LENGTH, dtype=torch.long, device=plain.model.device)
        open_sizes = {0: Dim("rows", min=2, max=_LONGEST), 1: Dim("length", min=2, max=_LONGEST)}
        return self._loaded(
            f"prefill-behind-{behind}", plain, (tokens, prefix), (open_sizes, [None] * len(prefix))
        )

    def decode(
        self, plain: DecodePass, pool: list[torch.Tensor]
    ) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
        """Return `plain` for pools with as many slots as `pool`, of any length. Raises ModelError."""
        slots = len(pool[0])
        each = torch.zeros(slots, dtype=torch.long, device=plain.model.device)
        open_sizes = {2: Dim("columns", min=2, max=_LONGEST)}
        return self._loaded(
            f"decode-{slots}", plain, (each, each.clone(), pool), (None, None, [open_sizes] * len(pool))
        )

    def digest(self) -> str:
        """Return a digest of all that was loaded: what compilers make of the same source may differ."""
        total = hashlib.sha256()
        for file in sorted(self._files):
            total.update(file.name.encode() + file.read_bytes())
        return total.hexdigest()

    def _loaded(self, name: str, plain: PrefillPass | DecodePass, example: Any, open_sizes: Any) -> Any:
        file = self._folder / f"{name}.pt2"
        if not file.exists():
            plain.model.set_attn_implementation(self._attention)
            try:
                _compile(plain, example, open_sizes, file)
            finally:
                plain.model.set_attn_implementation(ATTENTION)
        self._files.add(file)
        with _one_line(f"{file} cannot be loaded (remove it, and it is made again)"):
            package = aoti_load_package(str(file))
        named = chain(
            plain.named_parameters(remove_duplicate=False), plain.named_buffers(remove_duplicate=False)
        )
        used = set(package.get_constant_fqns())
        weights = {name: tensor for name, tensor in named if name in used}
        package.load_constants(weights, check_full_update=True, user_managed=True)
        return package


def _compile(plain: torch.nn.Module, example: Any, open_sizes: Any, file: Path) -> None:
    """Compile and write `file`. Raises ModelError."""
    depth = sys.getrecursionlimit()
    with _one_line(_NO_COMPILING), appearing(file) as staged, _own_workshop(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about itself
        try:
            with torch.no_grad():
                program = export(plain, example, dynamic_shapes=open_sizes)
            aoti_compile_and_package(program, package_path=str(staged), inductor_configs=_OPTIONS)
        finally:
            sys.setrecursionlimit(depth)  # which the compiler raises, and what can be parsed hangs on it


@contextmanager
def _own_workshop() -> Iterator[None]:
    """Have the compiler work in a folder of this process.

    Its usual one can be foreseen by others on the machine, and what it makes there is run.
    """
    before = os.environ.get(_WORKSHOP)
    os.environ[_WORKSHOP] = _workshop().name
    try:
        yield
    finally:
        if before is None:
            del os.environ[_WORKSHOP]
        else:
            os.environ[_WORKSHOP] = before


@lru_cache(maxsize=1)
def _workshop() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="docmill-")


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError) as error:  # a missing compiler, what it cannot do, a damaged file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{what}: {reason}") from error
