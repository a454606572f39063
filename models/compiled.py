"""The ragged pass as machine code, made once for a model on a machine, and kept on disk.

torch.export traces it through transformers' model code, AOTInductor turns it into fused C++ loops around
the matrix products, and what it made is loaded in milliseconds from then on. All sizes stay open, so that
one compilation serves prefill and decoding. Weights are not copied: compiled code reads those of the model.
The kernels that the pass calls (`models.kernels`) are the same for all models, and compiled once for them.

In scope: export, compilation, the folders where the results lie. Not in scope: what the pass computes
(`models.passes`), when compiling is worth its time (`models.tuning`).

Format: https://docs.pytorch.org/docs/stable/torch.compiler_aot_inductor.html
"""

import hashlib
import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path

import torch
from torch._inductor import aoti_compile_and_package
from torch.export import Dim, export
from torch.export.pt2_archive._package import AOTICompiledModel

from models import int8, kernels, ragged
from models.attention import ATTENTION
from models.config import ModelError
from models.machine import code_digest, processor
from models.passes import RaggedPass
from models.staging import appearing, discard

_log = logging.getLogger(__name__)

_MOST = 1 << 20  # a bound that the exporter asks for
# Like no size of a model, which the exporter would take for equal.
_EXAMPLE_TOKENS, _EXAMPLE_WANTED, _EXAMPLE_SLOTS, _EXAMPLE_COLUMNS = 19, 11, 5, 23
_NO_COMPILING = "the model cannot be compiled here (install g++, or run `docmill model tune` without it)"
_DIGEST = "digest"
_WORKSHOP = "TORCHINDUCTOR_CACHE_DIR"
_MODEL = "model"  # what AOTInductor calls the one thing in a package
_OPTIONS = {
    "aot_inductor.package_constants_in_so": False,
    "aot_inductor.precompile_headers": False,  # in a folder that others can foresee, and to be used but once
}


class CompiledPass:
    """The compiled ragged pass of one model on one machine; `home` is where such are kept.

    Whatever decides the machine code must decide `name`: the weights' shapes, the libraries, the processor,
    the number of threads.
    """

    def __init__(self, plain: RaggedPass, home: Path, name: str, layers: list[torch.Tensor]) -> None:
        """Load `plain` for pools of any size; compile it if need be. Raises ModelError.

        `layers` are some keys and values, by turns, as the pools will hold them: what counts is their type,
        their number and the size of their heads.
        """
        if not ragged.serves(layers):
            raise ModelError(f"{_NO_COMPILING}: there is no kernel for its attention")
        in_place = home / _kernels_name() / "kernels.so"
        built, of_kernels = _compiled("the kernels", 20, in_place, kernels.build)
        with _one_line(_not_loaded(built)):
            kernels.load(built)
        with _one_line(_NO_COMPILING):
            int8.pack(plain.model)
        compile_pass = partial(_compile, plain, layers)
        package, of_pass = _compiled("the model", 30, home / name / "pass.pt2", compile_pass)
        with _one_line(_not_loaded(package)):
            self._package = _loaded(package)
        self._digests = of_kernels + of_pass
        named = chain(
            plain.named_parameters(remove_duplicate=False), plain.named_buffers(remove_duplicate=False)
        )
        used = set(self._package.get_constant_fqns())
        # Kept, for the package only points at them, and another engine may have the model give them up.
        self._weights = {name: tensor for name, tensor in named if name in used}
        self._package.load_constants(self._weights, check_full_update=True, user_managed=True)

    def __call__(
        self, tokens: torch.Tensor, places: torch.Tensor, wanted: torch.Tensor, pool: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Do as RaggedPass does, for two or more tokens, two or more of them wanted."""
        # Not by calling the package, which parses its description, as JSON, at every step.
        likeliest, logprobs = self._package.loader.boxed_run([tokens, places, wanted, *pool])
        return likeliest, logprobs

    def digest(self) -> str:
        """Return a digest of all that was loaded: what compilers make of the same source may differ."""
        return hashlib.sha256(self._digests.encode()).hexdigest()


def _kernels_name() -> str:
    """Return a digest of all that the kernels depend on."""
    depends = [torch.__version__, torch.backends.cpu.get_cpu_capability(), processor(), code_digest()]
    return f"kernels-{hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:32]}"


def _not_loaded(file: Path) -> str:
    return f"what is in {file.parent} cannot be loaded (remove it, and it is made again)"


def _compiled(what: str, seconds: int, file: Path, make: Callable[[Path], None]) -> tuple[Path, str]:
    """Return `file` and its digest, made if it is not there as it was written. Raises ModelError.

    Its folder appears at once and holds nothing else. What is damaged is made again: as machine code it
    would bring down the process. `seconds` is how long that takes, about.
    """
    if found := _intact(file):
        return file, found
    _log.warning("docmill: compiling %s for this machine, once: about %d seconds", what, seconds)
    with _one_line(_NO_COMPILING), _own_workshop():
        if file.parent.exists():
            discard(file.parent)
        try:
            with appearing(file.parent) as staged:
                staged.mkdir(mode=0o700)
                make(staged / file.name)
                made = _digest(staged / file.name)
                (staged / _DIGEST).write_text(made, encoding="utf-8")
        except OSError:
            if not (made := _intact(file)):  # or else another process was faster
                raise
    return file, made


def _intact(file: Path) -> str:
    """Return the digest of a file, "" if it is not as it was written."""
    try:
        found = _digest(file)
        return found if (file.parent / _DIGEST).read_text(encoding="utf-8") == found else ""
    except (OSError, ValueError):
        return ""


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _loaded(package: Path) -> AOTICompiledModel:
    """Load a package as torch does, but for a probe of the processor: it compiles and runs code for a second.

    What the processor is decides the package's name already.
    """
    return AOTICompiledModel(torch._C._aoti.AOTIModelPackageLoader(str(package), _MODEL, False, 1, -1))


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
    with warnings.catch_warnings():
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
