"""Files that are there as a whole or not at all."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Give a place to write to, alone in a folder beside `path`; it becomes `path` when all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _beside(path) as scratch:
        staged = scratch / path.name
        yield staged
        staged.rename(path)


def discard(path: Path) -> None:
    """Remove a folder that others may look at: at once from its place, then from the disk."""
    with _beside(path) as scratch, suppress(FileNotFoundError):  # if another process was faster
        path.rename(scratch / path.name)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Give a folder beside `path` for a while; such of processes that were killed are removed."""
    prefix = f".{path.name}.docmill-"
    for left in path.parent.glob(f"{escape(prefix)}*"):
        with suppress(OSError):  # it went meanwhile
            _remove_if_abandoned(left)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix) as scratch, _held(Path(scratch)):
        yield Path(scratch)


def _remove_if_abandoned(folder: Path) -> None:
    if any(folder.iterdir()):  # or else it may be about to be held
        with _held(folder) as abandoned:
            if abandoned:
                shutil.rmtree(folder)


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Hold a folder against other processes, as long as this one lives at most; tell whether that went well.

    It does not where another process holds it, nor on a file system without locks.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = True
    except OSError:
        held = False
    try:
        yield held
    finally:
        os.close(descriptor)
