"""Files that are there as a whole or not at all."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Give a place to write to, alone in a folder beside `path`; it becomes `path` when all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        staged = Path(scratch) / path.name
        yield staged
        staged.rename(path)


def discard(path: Path) -> None:
    """Remove a folder that others may look at: at once from its place, then from the disk."""
    aside = tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-")
    with aside as scratch, suppress(FileNotFoundError):  # if another process was faster
        path.rename(Path(scratch) / path.name)
