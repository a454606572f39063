"""Which files of a folder belong to a snapshot, and what is in them.

Symbolic links are never followed. Digests are remembered by stat, as git's index does,
so that an unchanged tree is not read again.
"""

from __future__ import annotations

import os
import re
import stat
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct
from pathspec import GitIgnoreSpec
from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

from tasks.documents import SkippedFile, SkipReason, SourceError, SourceFile
from tasks.files import text_of, write_whole
from tasks.keys import digest_bytes

CODE_SUFFIXES = (".py", ".pyi")
PROSE_SUFFIXES = (".md", ".markdown")
# No SVG: opened by itself, it can run scripts.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp")

# A file changed this recently may change again within the clock's resolution.
_RACY_NS = 2_000_000_000

# Raised whenever the same file would be remembered otherwise.
READING = 2

# What a hostile pattern could cost grows with every wildcard in a name, and every `**`.
_MOST_WILDCARDS = 3
_LARGEST_IGNORE_FILE = 1_000_000
# Names of modules are nested like folders, and so is the navigation.
_DEEPEST_FOLDER = 100


def is_documented(name: str) -> bool:
    """Whether files of this name are read at all; hidden ones are not."""
    return name.endswith(CODE_SUFFIXES + PROSE_SUFFIXES + IMAGE_SUFFIXES) and not name.startswith(".")


# The ignore files above a path, outermost first: the folder that each is in, and its patterns.
_Ignores = tuple[tuple[str, GitIgnoreSpec], ...]


class Selection(Struct, frozen=True):
    """Which files are wanted: globs in gitignore syntax, and a cap in bytes."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_file_size: int = 2_000_000
    honour_gitignore: bool = True


class _Remembered(Struct, frozen=True, array_like=True):
    stamp: tuple[int, int, int, int]
    digest: str
    reason: SkipReason | None
    detail: str


class StatCache:
    """Content digests by (size, mtime, ctime, inode) of each path."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.known: dict[str, _Remembered] = {}
        self.seen: dict[str, _Remembered] = {}
        try:
            self.known = msgspec.json.decode(file.read_bytes(), type=dict[str, _Remembered])
        except (OSError, msgspec.DecodeError):
            self.known = {}

    def look_up(self, path: str, info: os.stat_result) -> _Remembered | None:
        """What is remembered of a path, unless the file may have changed since."""
        found = self.known.get(path)
        return found if found is not None and found.stamp == _stamp(info) else None

    def save(self) -> None:
        """Remember what this walk saw; what is too young to be trusted is left out."""
        horizon = time.time_ns() - _RACY_NS
        kept = {path: entry for path, entry in self.seen.items() if max(entry.stamp[1:3]) < horizon}
        if kept == self.known:
            return
        write_whole(self.file, msgspec.json.encode(kept))


def _stamp(info: os.stat_result) -> tuple[int, int, int, int]:
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino


class Walk:
    """One reading of a folder: selected files, and those that were skipped with a reason."""

    def __init__(self, root: Path, selection: Selection, hidden: Iterable[Path], cache: StatCache) -> None:
        self.root = root
        self.selection = selection
        self.hidden = {str(path) for path in hidden}
        self.cache = cache
        self.include = _patterns(selection.include) if selection.include else None
        self.exclude = _patterns(selection.exclude) if selection.exclude else None
        self.files: list[SourceFile] = []
        self.skipped: list[SkippedFile] = []

    def run(self) -> None:
        """Walk the tree; fill `files` and `skipped`.

        Raises:
            SourceError: A folder or a selected file cannot be read.
        """
        try:
            for entry, path in self._selected():
                self._take(entry, path)
        except OSError as error:
            what = printable(os.path.relpath(os.fsdecode(error.filename), self.root))
            raise SourceError(
                f"source {self.root.name!r}: {what!r}: {error.strerror}; make it readable, or name it in "
                ".gitignore"
            ) from error
        self.files.sort(key=lambda file: file.path)
        self.skipped.sort(key=lambda file: file.path)

    def _selected(self) -> Iterator[tuple[os.DirEntry[str], str]]:
        folders: list[tuple[str, str, _Ignores]] = [(str(self.root), "", ())]
        while folders:
            folder, prefix, ignores = folders.pop()
            with os.scandir(folder) as scan:
                entries = list(scan)
            names = {entry.name for entry in entries}
            if prefix and "pyvenv.cfg" in names:
                continue
            if self.selection.honour_gitignore and ".gitignore" in names:
                ignores = (*ignores, *self._ignore_file(folder, prefix))
            for entry in entries:
                path = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    if self._enters(entry, path, ignores):
                        folders.append((entry.path, path + "/", ignores))
                elif is_documented(entry.name) and self._wanted(path, names, ignores):
                    yield entry, path

    def _ignore_file(self, folder: str, prefix: str) -> Iterator[tuple[str, GitIgnoreSpec]]:
        file = Path(folder, ".gitignore")
        info = file.lstat()
        if stat.S_ISREG(info.st_mode) and info.st_size <= _LARGEST_IGNORE_FILE:
            yield prefix, _patterns(file.read_text("utf-8", "replace").split("\n"))

    def _enters(self, entry: os.DirEntry[str], path: str, ignores: _Ignores) -> bool:
        if entry.name.startswith(".") or entry.name in ("__pycache__", "node_modules"):
            return False
        return entry.path not in self.hidden and not _ignored(path + "/", ignores)

    def _wanted(self, path: str, names: set[str], ignores: _Ignores) -> bool:
        if not self.selects(path) or _ignored(path, ignores):
            return False
        # The module beside a stub is the better source.
        beside = path.endswith(".pyi") and path.rsplit("/", 1)[-1][:-1] in names
        return not (beside and self._wanted(path[:-1], names, ignores))

    def selects(self, path: str) -> bool:
        """Whether the include and exclude globs leave a path in."""
        if self.include is not None and not self.include.match_file(path):
            return False
        return self.exclude is None or not self.exclude.match_file(path)

    def _take(self, entry: os.DirEntry[str], path: str) -> None:
        if (shown := printable(path)) != path:
            detail = "the file's name is not UTF-8, or holds control characters"
            self.skipped.append(SkippedFile(shown, "encoding", detail))
            return
        if path.count("/") > _DEEPEST_FOLDER:
            detail = f"in more than {_DEEPEST_FOLDER} folders"
            self.skipped.append(SkippedFile(path, "nesting", detail))
            return
        info = entry.stat(follow_symlinks=False)
        if entry.is_symlink():
            self.skipped.append(SkippedFile(path, "symlink", "symbolic links are not followed"))
            return
        if not stat.S_ISREG(info.st_mode):
            self.skipped.append(SkippedFile(path, "binary", "not a regular file"))
            return
        remembered = self.cache.look_up(path, info) or self._read(entry.path, info)
        self.cache.seen[path] = remembered
        if info.st_size > self.selection.max_file_size:
            detail = f"{info.st_size:,} bytes, the cap is {self.selection.max_file_size:,}"
            self.skipped.append(SkippedFile(path, "too-large", detail))
        elif remembered.reason:
            self.skipped.append(SkippedFile(path, remembered.reason, remembered.detail))
        else:
            self.files.append(SourceFile(path, info.st_size, remembered.digest))

    def _read(self, file: str, info: os.stat_result) -> _Remembered:
        stamp = _stamp(info)
        if info.st_size > self.selection.max_file_size:
            return _Remembered(stamp, "", None, "")
        data = Path(file).read_bytes()
        if file.endswith(IMAGE_SUFFIXES):
            return _Remembered(stamp, digest_bytes(data), None, "")
        if (position := data.find(b"\0")) >= 0:
            return _Remembered(stamp, "", "binary", f"NUL at byte {position}")
        try:
            text_of(data, file)
        except ValueError as error:
            return _Remembered(stamp, "", "encoding", str(error))
        return _Remembered(stamp, digest_bytes(data), None, "")


def printable(path: str) -> str:
    """A path with backslashes for what is no text: it can end no line and forge no entry."""
    text = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _patterns(lines: Iterable[str]) -> GitIgnoreSpec:
    """Patterns in gitignore syntax."""
    return GitIgnoreSpec.from_lines(lines, _pattern)


def _pattern(line: str) -> GitIgnoreSpecPattern:
    """One line's pattern; it counts for nothing if it is malformed, as in git, or could match forever."""
    if _wildcards(line) <= _MOST_WILDCARDS:
        with suppress(ValueError, re.error), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `[[` may once mean something else to re
            return GitIgnoreSpecPattern(line)
    return GitIgnoreSpecPattern(None)


def is_usable(glob: str) -> bool:
    """Whether a pattern in gitignore syntax selects anything at all."""
    return _pattern(glob).regex is not None


def _wildcards(pattern: str) -> int:
    """The most in one name, or of those that span folders."""
    names = pattern.split("/")
    return max(names.count("**"), *(len(re.findall(r"\*+", name)) for name in names))


def _ignored(path: str, ignores: _Ignores) -> bool:
    """Whether a path is ignored: in the innermost file that speaks of it, the last pattern decides."""
    for prefix, spec in reversed(ignores):
        inside = path[len(prefix) :]
        for pattern in reversed(spec.patterns):
            if _names(pattern, inside):
                return bool(pattern.include)
    return False


def _names(pattern: GitIgnoreSpecPattern, path: str) -> bool:
    """Whether a pattern is about a path itself, not about a folder that the path is in.

    pathspec's expressions end at the path they name, marked `ps_d`, or where the inside begins.
    """
    if pattern.regex is None:
        return False
    is_of_paths = "ps_d" in pattern.regex.groupindex
    return any((match.end() == len(path)) is is_of_paths for match in pattern.regex.finditer(path))
