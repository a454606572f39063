"""Reading one revision of a git repository without trusting it.

The revision is fetched into a bare repository of docmill's own, so that the source's
configuration and hooks never apply, and its blobs are written out as plain files: no
checkout, no filters, no submodules, no links. Addresses and revisions are validated
before git sees them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from tasks.documents import SkippedFile, SourceError
from tasks.files import locked
from tasks.ingest.tree import is_documented, printable
from tasks.keys import digest

_PROTOCOLS = ("https", "http", "ssh", "git", "file")
_URL = re.compile(rf"(?:{'|'.join(_PROTOCOLS)})://[^\s\x00-\x1f-][^\s\x00-\x1f]*")
_SCP = re.compile(r"[A-Za-z0-9_][\w.-]*@[A-Za-z0-9][\w.-]*:[^\s\x00-\x1f:-][^\s\x00-\x1f]*")
# What git-check-ref-format(1) allows, less a first character that is an option or a force to git fetch.
_REVISION = re.compile(r"(?![-+/])[^\x00-\x20\x7f~^:?*\[\\]+")
# A revision, and which of its ancestors is meant, each the first parent of the one before: `~2`, `^`.
_ANCESTOR = re.compile(r"(?P<revision>.*?)(?P<steps>(?:~\d{0,4}|\^)*)", re.DOTALL)
_SHORT_SHA = re.compile(r"[0-9a-f]{4,39}")
_SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# How the operator reaches his hosts: keys and certificates.
_OF_THE_OPERATOR = ("GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "GIT_PROXY_COMMAND")
_TIMEOUT = 600
_TREES_KEPT = 3
# A tree that was opened this recently may be read by another build.
_IN_USE_S = 3600


# Of an address with a password or a token in it.
WITH_SECRET = r"^https?://[^/]*@|://[^/@]*:[^/@]*@"


def is_url(location: str) -> bool:
    """Whether a location is a git address of a kind docmill accepts."""
    return bool(_URL.fullmatch(location) or _SCP.fullmatch(location))


def shown(location: str) -> str:
    """A location as reports and messages may name it: without a password or token."""
    return re.sub(r"(?<=://)\S*@", "", location)


def refuse_secret(location: str) -> None:
    """Refuse an address that holds a password or a token: it would stand in arguments and parameters.

    Raises:
        SourceError: It does.
    """
    if re.search(WITH_SECRET, location):
        address = re.sub(r"(?<=://)[^/]*@", "", location)
        raise SourceError(
            f"source {address!r}: its address holds a secret; leave it to ssh or a credential helper"
        )


def validated_revision(revision: str) -> str:
    """The revision as given, if it is a well-formed branch, tag or full SHA.

    The rules are those of git-check-ref-format(1).

    Raises:
        SourceError: It is not.
    """
    malformed = (
        not _REVISION.fullmatch(revision)
        or not revision.isprintable()
        or revision == "@"
        or any(part in revision for part in ("..", "@{", "//"))
        or revision.endswith(("/", ".", ".lock"))
        or any(component.startswith(".") or component.endswith(".lock") for component in revision.split("/"))
    )
    if malformed:
        raise SourceError(
            f"revision {revision!r}: give a branch, a tag or a full SHA, or one before it: main~1"
        )
    return revision


def head_of(folder: Path) -> str | None:
    """The commit that HEAD of a working tree names, read from the files of `.git`.

    git itself is not run: a repository's configuration can make it execute commands.
    """
    try:
        own, shared = _git_folders(folder)
        head = _file_text(own / "HEAD").strip()
        if not head.startswith("ref: "):
            return head if _SHA.fullmatch(head) else None
        name = head.removeprefix("ref: ")
        loose = shared / validated_revision(name)
        if loose.is_file():
            sha = _file_text(loose).strip()
            return sha if _SHA.fullmatch(sha) else None
        for line in _file_text(shared / "packed-refs").splitlines():
            sha, _, packed = line.partition(" ")
            if packed == name and _SHA.fullmatch(sha):
                return sha
    except (OSError, UnicodeDecodeError, SourceError):
        return None
    return None


def is_bare(folder: Path) -> bool:
    """Whether a folder is a repository without a working tree."""
    return all((folder / name).is_dir() for name in ("objects", "refs")) and (folder / "HEAD").is_file()


def repository_of(folder: Path) -> Path:
    """The nearest folder above that is a repository's working tree, or bare; itself if there is none."""
    above = (one for one in (folder, *folder.parents) if (one / ".git").exists() or is_bare(one))
    return next(above, folder)


def _git_folders(folder: Path) -> tuple[Path, Path]:
    """Where a working tree's HEAD is, and where its references are: two places for a linked worktree.

    The files `gitdir:` and `commondir` are those of gitrepository-layout(5).
    """
    own = folder / ".git"
    if own.is_file():
        own = folder / _file_text(own).strip().removeprefix("gitdir: ")
    common = own / "commondir"
    return own, own / _file_text(common).strip() if common.is_file() else own


def _file_text(path: Path) -> str:
    """A file's text; of what is no regular file (a pipe would never end), an error."""
    if not path.is_file():
        raise FileNotFoundError(path)
    return path.read_text()


def tip_of(location: str, branch: str) -> str:
    """The commit that a branch of a repository names now.

    Raises:
        SourceError: The address does not answer or has no such branch.
    """
    name = f"refs/heads/{validated_revision(branch)}"
    listing = _git(None, location, "ls-remote", "--", location, name).decode("utf-8", "replace")
    for line in listing.splitlines():
        sha, _, found = line.partition("\t")
        if found == name and _SHA.fullmatch(sha):
            return sha
    raise SourceError(f"source {shown(location)!r}: has no branch {branch!r}")


class Fetched(NamedTuple):
    """A revision brought here: the folder with what docmill reads of it, its SHA, its paths and links."""

    root: Path
    sha: str
    paths: frozenset[str]
    links: tuple[SkippedFile, ...]


def fetch(location: str, revision: str | None, cache: Path) -> Fetched:
    """Bring one revision of a repository into the cache.

    Args:
        location: A git address (`file://` for a local repository).
        revision: Branch, tag or full SHA, or an ancestor of one as `main~2` or `HEAD^`; None for the default
            branch.
        cache: Folder for bare repositories and extracted trees.

    Raises:
        SourceError: The address does not answer or has no such revision.
    """
    wanted, generations = _parted("HEAD" if revision is None else revision)
    home = cache / digest(location)
    repository = home / "repository"
    with locked(home / "lock"):
        if not (repository / "HEAD").is_file():
            repository.mkdir(parents=True, exist_ok=True)
            _git(repository, location, "init", "--quiet", "--bare", ".")
        for left in repository.glob("*.lock"):  # by a git that was killed; none other runs here
            left.unlink()
        try:
            depth = f"--depth={generations + 1}"
            _git(repository, location, "fetch", "--quiet", "--no-tags", depth, "--", location, wanted)
        except SourceError as error:
            if _SHORT_SHA.fullmatch(wanted):
                raise SourceError(f"{error}; of a commit, give the full SHA") from error
            raise
        named = f"FETCH_HEAD~{generations}^{{commit}}"
        try:
            sha = _git(repository, location, "rev-parse", "--verify", named).decode().strip()
        except SourceError as error:
            if not generations:
                raise
            what = f"{wanted} has no commit {generations} before it (a shallow clone lacks some)"
            raise SourceError(f"source {shown(location)!r}: {what}") from error
        entries = list(_entries(repository, location, sha))
        try:
            read = [e for e in entries if e.mode in _REGULAR and _is_read(e)]
            tree = _extracted(repository, sha, read, home / "trees")
        except OSError as error:
            raise SourceError(f"source {shown(location)!r}: {error.filename!r}: {error.strerror}") from error
    links = tuple(
        SkippedFile(printable(e.path), "symlink", "symbolic links are not followed")
        for e in entries
        if e.mode == _LINK and _name(e) not in _SETTINGS and _is_read(e)
    )
    return Fetched(tree, sha, frozenset(e.path for e in entries), links)


def _parted(revision: str) -> tuple[str, int]:
    """A branch, tag or SHA, and how many commits before it are meant.

    Raises:
        SourceError: It is none.
    """
    found = _ANCESTOR.fullmatch(revision)
    assert found is not None  # of what has no such end, all is the revision
    steps = re.findall(r"~\d*|\^", found["steps"])
    return validated_revision(found["revision"] or revision), sum(int(step[1:] or 1) for step in steps)


_REGULAR = ("100644", "100755")
_LINK = "120000"
_SETTINGS = ("docmill.toml", "docmill.overrides.toml", "docmill.waivers.toml")


class _Entry(NamedTuple):
    mode: str
    blob: str
    path: str


def _entries(repository: Path, location: str, sha: str) -> Iterator[_Entry]:
    """The files of a commit.

    Raises:
        SourceError: A path leaves the tree; no honest repository has one.
    """
    listing = _git(repository, location, "ls-tree", "-r", "-z", "--full-tree", sha)
    for line in os.fsdecode(listing).split("\0")[:-1]:
        description, _, path = line.partition("\t")
        mode, _, blob = description.split(" ")
        parts = path.split("/")
        if not {"", ".", ".."}.isdisjoint(parts):
            raise SourceError(f"source {shown(location)!r}: holds {path!r}, which leaves the tree")
        yield _Entry(mode, blob, path)


def _name(entry: _Entry) -> str:
    return entry.path.rpartition("/")[2]


def _is_read(entry: _Entry) -> bool:
    return is_documented(_name(entry)) or _name(entry) in _SETTINGS


def _extracted(repository: Path, sha: str, entries: list[_Entry], trees: Path) -> Path:
    """The folder with a commit's files; it appears whole or not at all."""
    # An earlier docmill left out what it did not read: settings below the root, now those of packages there.
    target = trees / f"{sha}-{digest(['anywhere', _SETTINGS])[:8]}"
    if target.is_dir():
        os.utime(target)
        return target
    trees.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=trees, prefix=".staging-"))
    try:
        _write_blobs(repository, entries, staging)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    by_age = sorted(
        (t for t in trees.iterdir() if not t.name.startswith(".")), key=lambda t: t.stat().st_mtime
    )
    for old in by_age[:-_TREES_KEPT]:
        if old.stat().st_mtime < time.time() - _IN_USE_S:
            shutil.rmtree(old, ignore_errors=True)
    return target


def _write_blobs(repository: Path, entries: list[_Entry], folder: Path) -> None:
    command = ["git", "--git-dir", str(repository), "cat-file", "--batch"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment(), cwd="/"
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        for entry in entries:
            process.stdin.write(f"{entry.blob}\n".encode())
            process.stdin.flush()
            size = _blob_size(process.stdout.readline(), entry)
            file = folder / entry.path
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("xb") as target:
                _copy(process.stdout, target, size)
            process.stdout.read(1)  # the newline after each blob
        process.stdin.close()


def _blob_size(header: bytes, entry: _Entry) -> int:
    """The size in bytes that `git cat-file --batch` announces: `<sha> blob <size>`."""
    match header.split():
        case [_, b"blob", size]:
            return int(size)
    raise SourceError(f"{entry.path}: not in the fetched repository; run again")


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> None:
    while size:
        piece = source.read(min(size, 1 << 20))
        if not piece:
            raise SourceError("git ended in the middle of a file; run again")
        target.write(piece)
        size -= len(piece)


def _git(repository: Path | None, location: str, *arguments: str) -> bytes:
    safe = ["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"]
    command = ["git", "--git-dir", str(repository), *safe, *arguments]
    if repository is None or arguments[0] == "init":
        command = ["git", *safe, *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=repository or "/",
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except FileNotFoundError as error:
        raise SourceError("git is not installed; it is needed for repositories and revisions") from error
    except subprocess.TimeoutExpired as error:
        raise SourceError(f"source {shown(location)!r}: git gave no answer in {_TIMEOUT} s") from error
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["git failed"]
        why = next((line for line in lines if line.startswith(("fatal: ", "error: "))), lines[-1])
        why = why.removeprefix("fatal: ").removeprefix("error: ")
        raise SourceError(f"source {shown(location)!r}: {why.replace(location, shown(location))}")
    return done.stdout


def _environment() -> dict[str, str]:
    """The caller's environment without what would point git at another repository."""
    kept = {n: v for n, v in os.environ.items() if not n.startswith("GIT_") or n in _OF_THE_OPERATOR}
    kept |= {"GIT_ALLOW_PROTOCOL": ":".join(_PROTOCOLS), "GIT_NO_LAZY_FETCH": "1"}
    return kept | {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true", "LC_ALL": "C"}
