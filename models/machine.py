"""What decides a model's texts, found without loading the model.

In scope: a digest of a model's files, of the libraries and of the machine, made in milliseconds; a digest of
the code that computes.
Not in scope: the execution profile itself, which the engine tells once it is there.
"""

import hashlib
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

from models.config import BUNDLED

_LIBRARIES = ("torch", "transformers", "tokenizers", "optimum-quanto", "snowballstemmer")
KERNEL_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # keep kernels from what a processor has
_VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ATEN_CPU_CAPABILITY", "CUDA_VISIBLE_DEVICES"),
    *KERNEL_LIMITS,
)
# Whose code decides the bits that come out of a forward pass.
_COMPUTING = (
    *("activations.py", "attention.py", "compiled.py", "gptq.py", "graphs.py", "int8.py", "load.py"),
    *("passes.py", "quantize.py", "ragged.py", "runner.py"),
    *("kernels/__init__.py", "kernels/int8_linear.cpp", "kernels/ragged_attention.cpp"),
)


def code_digest() -> str:
    """Return a digest of this package's code as far as it decides the bits of a model's output."""
    sources = [(Path(__file__).parent / name).read_bytes() for name in _COMPUTING]
    return hashlib.sha256(b"\0".join(sources)).hexdigest()


def machine_digest(model: str, home: Path) -> str | None:
    """Return a digest that changes whenever a model's texts may; None for a model that is elsewhere.

    `home` is where `models.tuning` keeps what it found.
    """
    folder = BUNDLED if model == "bundled" else Path(model).expanduser()
    if not folder.is_dir():
        return None
    files, tuned = files_in(folder), files_in(home / "tuned")
    libraries = [version(name) for name in _LIBRARIES]
    variables = [os.environ.get(name) for name in _VARIABLES]
    parts = [files, tuned, libraries, variables, len(os.sched_getaffinity(0)), processor(), _accelerators()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def files_in(folder: Path) -> list[tuple[str, int, int]]:
    """Return name, size and time of each file in a folder."""
    if not folder.is_dir():
        return []
    return sorted((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in folder.iterdir() if f.is_file())


def processor() -> list[str]:
    """Return the processor's name and extensions, which kernels are chosen by."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return [platform.processor(), platform.machine()]
    return sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})


def _accelerators() -> list[str]:
    """Return what the NVIDIA driver tells of each device."""
    devices = Path("/proc/driver/nvidia/gpus").glob("*/information")
    return sorted(line for d in devices for line in d.read_text().splitlines() if line.startswith("Model"))
