"""The ragged pass as machine code, made once for a model and a machine, and kept on disk.

torch.export traces it through transformers' model code, AOTInductor turns it into fused C++ loops around
the matrix products, and what it made is loaded in milliseconds from then on. All sizes stay open, so that one
compilation serves prefill and decoding. Weights are not copied: the compiled code reads those of the model.

In scope: export, compilation, the folder where the results lie. Not in scope: what the pass computes
(`models.passes`), when compiling is worth its time (`models.tuning`).

Format: https://docs.pytorch.org/docs/stable/torch.compiler_aot_inductor.html
"""

import hashlib
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from pathlib import Path

import torch
from torch._inductor import aoti_compile_and_package, aoti_load_package
from torch.export import Dim, export

from models import ragged
from models.attention import ATTENTION
from models.config import ModelError
from models.passes import RaggedPass
from models.staging import appearing

_log = logging.getLogger(__name__)

_MOST = 1 << 20  # a bound that the exporter asks for
# Like no size of a model, which the exporter would take for equal.
_EXAMPLE_TOKENS, _EXAMPLE_WANTED, _EXAMPLE_SLOTS, _EXAMPLE_COLUMNS = 19, 11, 5, 23
_NO_COMPILING = "the model cannot be compiled here (install g++, or run `docmill model tune` without it)"
_KERNEL, _PASS, _DIGESTS = "ragged_attention.so", "pass.pt2", "digests"
_WORKSHOP = "TORCHINDUCTOR_CACHE_DIR"
_OPTIONS = {"aot_inductor.package_constants_in_so": False}


class CompiledPass:
    """The compiled ragged pass of one model on one machine; `folder` holds nothing else.

    Whatever decides the machine code must decide the folder: the weights' shapes, the libraries, the
    processor, the number of threads.
    """

    def __init__(self, plain: RaggedPass, folder: Path, layers: list[torch.Tensor]) -> None:
        """Load `plain` for pools of any size; compile it if need be. Raises ModelError.

        `layers` are some keys and values, by turns, as the pools will hold them: what counts is their type,
        their number and the size of their heads.
        """
        if not ragged.serves(layers):
            raise ModelError(f"{_NO_COMPILING}: there is no kernel for its attention")
        if not _is_intact(folder):
            _log.warning("docmill: compiling the model for this machine, which takes about a minute, once")
            shutil.rmtree(folder, ignore_errors=True)
            _make(plain, layers, folder)
        self._digests = (folder / _DIGESTS).read_bytes()
        with _one_line(f"what is in {folder} cannot be loaded (remove it, and it is made again)"):
            ragged.load_kernel(folder / _KERNEL)
            self._package = aoti_load_package(str(folder / _PASS))
        named = chain(
            plain.named_parameters(remove_duplicate=False), plain.named_buffers(remove_duplicate=False)
        )
        used = set(self._package.get_constant_fqns())
        weights = {name: tensor for name, tensor in named if name in used}
        self._package.load_constants(weights, check_full_update=True, user_managed=True)

    def __call__(
        self, tokens: torch.Tensor, places: torch.Tensor, wanted: torch.Tensor, pool: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Do as RaggedPass does, for two or more tokens, two or more of them wanted."""
        likeliest, logprobs = self._package(tokens, places, wanted, pool)
        return likeliest, logprobs

    def digest(self) -> str:
        """Return a digest of all that was loaded: what compilers make of the same source may differ."""
        return hashlib.sha256(self._digests).hexdigest()


def _is_intact(folder: Path) -> bool:
    """Tell whether all is there as it was written: damaged machine code brings down the process."""
    try:
        return (folder / _DIGESTS).read_text(encoding="utf-8") == _digests(folder)
    except (OSError, ValueError):
        return False


def _digests(folder: Path) -> str:
    files = [(folder / name).read_bytes() for name in (_KERNEL, _PASS)]
    return "\n".join(hashlib.sha256(file).hexdigest() for file in files)


def _make(plain: RaggedPass, layers: list[torch.Tensor], folder: Path) -> None:
    """Compile the kernel and the pass into `folder`, which appears at once. Raises ModelError."""
    with _one_line(_NO_COMPILING):
        try:
            with appearing(folder) as staged:
                staged.mkdir(mode=0o700)
                ragged.build_kernel(staged / _KERNEL)
                ragged.load_kernel(staged / _KERNEL)
                _compile(plain, layers, staged / _PASS)
                (staged / _DIGESTS).write_text(_digests(staged), encoding="utf-8")
        except OSError:
            if not _is_intact(folder):  # or else another process was faster
                raise


def _compile(plain: RaggedPass, layers: list[torch.Tensor], file: Path) -> None:
    """Compile the pass and write `file`."""
    device = layers[0].device
    tokens = torch.zeros(_EXAMPLE_TOKENS, dtype=torch.long, device=device)
    places = torch.zeros(_EXAMPLE_TOKENS, 2, dtype=torch.long, device=device)
    wanted = torch.arange(_EXAMPLE_WANTED, device=device)
    sizes = [(_EXAMPLE_SLOTS, part.shape[1], _EXAMPLE_COLUMNS, part.shape[3]) for part in layers]
    pool = [part.new_zeros(size) for part, size in zip(layers, sizes, strict=True)]
    count = Dim("tokens", min=2, max=_MOST)
    open_pool = {0: Dim("slots", min=2, max=_MOST), 2: Dim("columns", min=2, max=_MOST)}
    open_sizes = ({0: count}, {0: count}, {0: Dim("wanted", min=2, max=_MOST)}, [open_pool] * len(pool))
    depth = sys.getrecursionlimit()
    with _own_workshop(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about itself
        try:
            plain.model.set_attn_implementation(ragged.RAGGED_ATTENTION)
            with torch.no_grad():
                program = export(plain, (tokens, places, wanted, pool), dynamic_shapes=open_sizes)
            aoti_compile_and_package(program, package_path=str(file), inductor_configs=_OPTIONS)
        finally:
            plain.model.set_attn_implementation(ATTENTION)
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
