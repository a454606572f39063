"""Files read as the snapshot saw them, and written whole or not at all."""

from __future__ import annotations

import fcntl
import os
import stat
import tokenize
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

from tasks.documents import SourceError
from tasks.keys import digest_bytes

_UTF_8 = "utf-8-sig"
# What stands for other characters in encodings that escape them.
_ESCAPES = rb"\n\u0041+AEE-~~" + b"\x1b(B"


def read_file(root: str, path: str, digest: str) -> bytes:
    """The content of a source's file, if it still is what the snapshot says.

    Raises:
        SourceError: It changed, went, or became a link since.
    """
    try:
        descriptor = os.open(Path(root, path), os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            data = file.read()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read any more ({error.strerror}); run again") from error
    if digest_bytes(data) != digest:
        raise SourceError(f"{path}: changed while it was being read; run again")
    return data


def read_text(root: str, path: str, digest: str) -> str:
    """The text of a source's file, if it still is what the snapshot says.

    Raises:
        SourceError: It changed, went, or became a link since.
    """
    return text_of(read_file(root, path, digest), path)


def text_of(data: bytes, path: str) -> str:
    """A file's text: UTF-8, unless a Python file declares another encoding.

    Raises:
        ValueError: It is none; the message says where.
    """
    encoding = _declared(data, path)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        name = "UTF-8" if encoding == _UTF_8 else encoding
        raise ValueError(f"not {name} at byte {error.start}") from error


def _declared(data: bytes, path: str) -> str:
    """The encoding to read a file in: not one that escapes characters, or is none of text."""
    if path.endswith((".py", ".pyi")):
        with suppress(SyntaxError, LookupError, ValueError):
            encoding, _ = tokenize.detect_encoding(BytesIO(data).readline)
            if not encoding.startswith("utf-8") and _ESCAPES.decode(encoding) == _ESCAPES.decode():
                return encoding
    return _UTF_8


def read_committed(root: Path, name: str) -> str:
    """The text of a file that a source's root holds for docmill; "" where there is none.

    Raises:
        SourceError: It is a link, which could lead out of the source, no regular file, or no text.
    """
    file = root / name
    try:
        mode = file.lstat().st_mode
        if not stat.S_ISREG(mode):
            what = "a link, which could lead out of the source" if stat.S_ISLNK(mode) else "no regular file"
            raise SourceError(f"{name}: is {what}")
        return file.read_bytes().decode()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise SourceError(f"{name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{name}: is no text in UTF-8, from byte {error.start + 1} on") from error


def write_whole(file: Path, data: bytes, durable: bool = False) -> None:
    """Write a file that readers see complete: the old content, then the new.

    `durable` is for what no crash of the machine may lose: it is on the disk afterwards.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    # Machines that share a folder, and containers, may each have a process of that number.
    temporary = file.with_name(f".{file.name}.{os.uname().nodename}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        if durable:
            _sync(temporary)
        temporary.replace(file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        _sync(file.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(file: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock that one process of a machine has at a time; the system frees that of a killed one.

    `waiting` is called if another has it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
