"""Running out of memory, told from whatever else torch, its allocators and compiled code raise.

In scope: the signs of it. Not in scope: what is done then (`models.tuning`, the caller).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from models.config import OutOfMemoryError

# How torch's allocator for the CPU says it, how C++ does, and how CUDA's driver.
# Compiled code repeats what failed in it said.
_SIGNS = ("can't allocate memory", "std::bad_alloc", "CUDA error: out of memory")


@contextmanager
def memory_errors_named() -> Iterator[None]:
    """Raise OutOfMemoryError for what is raised where an allocation fails."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemoryError("the device is out of memory") from error
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _SIGNS):
            raise
        raise OutOfMemoryError("this machine is out of memory") from error
