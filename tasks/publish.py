"""Site → target: a folder that readers see change at one instant, or not at all.

A local target is a symbolic link to a release, a folder beside it. A release is put
together out of sight, from files of the standing release where they are the same and
from the result cache where they are not; then the link is moved to it. A killed build
leaves the standing site as it is. The release that was replaced is kept, for whoever
is reading from it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from tasks.documents import DocmillError, Published, SiteFile, SourceError
from tasks.keys import digest

if TYPE_CHECKING:  # SQLAlchemy is slow to import, and a build that changes nothing needs none
    from tasks.result_cache import ResultCache

MANIFEST = "manifest.json"

# Whoever reads from the release that was just replaced can go on doing so.
_REPLACED_RELEASES_KEPT = 1
_BATCH = 64


class ManifestFile(Struct, frozen=True):
    """One file of a site: SHA-256 in hexadecimal, and size in bytes."""

    digest: str
    size: int


class Manifest(Struct, frozen=True):
    """Every file of a site but the manifest itself, by path."""

    version: int
    release: str
    files: dict[str, ManifestFile]


class PublishError(DocmillError):
    """The target cannot be written; what stands there is untouched."""


class LocalTarget:
    """A folder on this machine.

    Raises:
        SourceError: Something that docmill did not make is in the way.
    """

    def __init__(self, location: str | Path) -> None:
        if "://" in str(location):
            raise SourceError(f"out {str(location)!r}: sites go to folders of this machine so far")
        path = Path(os.path.abspath(Path(location).expanduser()))  # noqa: PTH100 - OUT itself is a link
        self.path = path.parent.resolve() / path.name
        self.home = self.path.parent / f".{self.path.name}.docmill"
        self._refuse_foreign()

    def _refuse_foreign(self) -> None:
        try:  # one look: another publisher may be at work
            release = Path(self.path.parent, os.readlink(self.path))  # noqa: PTH115
        except FileNotFoundError:
            return
        except OSError:  # no link
            if self.path.is_dir() and not any(self.path.iterdir()):
                return
            release = self.path
        if release.parent != self.home / "releases":
            raise SourceError(
                f"out {str(self.path)!r}: exists, and docmill did not make it; choose another folder"
            )

    @property
    def hidden(self) -> tuple[Path, ...]:
        """What a walk over the source must not enter."""
        return self.path, self.home

    def standing(self) -> Manifest | None:
        """The manifest of the site that readers see, if every file of it is there unchanged."""
        manifest = _manifest_in(self.path)
        return manifest if manifest and manifest.files == _intact_files(self.path) else None

    def publish(self, files: Mapping[str, SiteFile], cache: ResultCache) -> Published:
        """Make `files` the site.

        Raises:
            PublishError: The target cannot be written.
        """
        try:
            with self._locked():
                return self._publish(files, cache)
        except OSError as error:
            raise PublishError(f"out {str(self.path)!r}: {error.strerror or error}") from error

    def _publish(self, files: Mapping[str, SiteFile], cache: ResultCache) -> Published:
        self._refuse_foreign()  # what is in the way may have come since the build began
        manifest = _manifest_of(files)
        before = _manifest_in(self.path)
        old = before.files if before else {}
        if self.standing() != manifest:
            self._switch(self._assembled(manifest, files, cache))
        pages = [name for name in manifest.files if name.endswith(".html")]
        written = sum(old.get(name) != manifest.files[name] for name in pages)
        removed = sum(name.endswith(".html") and name not in manifest.files for name in old)
        return Published(str(self.path), manifest.release, len(pages), written, removed)

    def _assembled(self, manifest: Manifest, files: Mapping[str, SiteFile], cache: ResultCache) -> Path:
        """A new release, complete."""
        staging = self._staging()
        present = _intact_files(staging)
        _remove_others(staging, manifest, present)
        standing = _intact_files(self.path)
        fresh = []
        for name, file in manifest.files.items():
            if present.get(name) == file:
                continue
            (staging / name).unlink(missing_ok=True)
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            if standing.get(name) == file:
                os.link(f"{self.path}/{name}", f"{staging}/{name}")
            else:
                fresh.append(name)
        for batch in _batches(iter(fresh)):
            contents = cache.get_many(files[name].key for name in batch)
            self._refuse_damaged({name: contents.get(files[name].key, b"") for name in batch}, files, cache)
            for name in batch:
                (staging / name).write_bytes(contents[files[name].key])
        (staging / MANIFEST).unlink(missing_ok=True)
        (staging / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        return staging.rename(self._free_release(manifest.release))

    def _refuse_damaged(
        self, contents: Mapping[str, bytes], files: Mapping[str, SiteFile], cache: ResultCache
    ) -> None:
        """Nothing is published that is not what was made and checked; the next build makes it again."""
        damaged = [n for n, data in contents.items() if hashlib.sha256(data).hexdigest() != files[n].digest]
        if damaged:
            cache.discard(files[name].key for name in damaged)
            raise PublishError(
                f"result cache: {damaged[0]} is not what was made"
                f"{f', nor are {len(damaged) - 1} more' if damaged[1:] else ''}; removed, so build again"
            )

    def _staging(self) -> Path:
        """A folder to put a release together in.

        An old release serves, if more are kept than need be: most of its files are
        those of the new one, and deleting a tree takes longer than mending it.
        """
        releases = self.home / "releases"
        releases.mkdir(parents=True, exist_ok=True)
        for left in self.home.glob("staging-*"):
            shutil.rmtree(left, ignore_errors=True)
        staging = Path(tempfile.mkdtemp(dir=self.home, prefix="staging-"))
        standing = self.path.resolve()
        old = sorted((r for r in releases.iterdir() if r != standing), key=lambda r: r.stat().st_mtime_ns)
        spare = old[: len(old) - _REPLACED_RELEASES_KEPT + 1]
        for release in spare[:-1]:
            shutil.rmtree(release)
        if spare:
            spare[-1].replace(staging)
        staging.chmod(0o755)
        return staging

    def _free_release(self, name: str) -> Path:
        """A folder for a release; one of the same content may be there, damaged, and be read."""
        release, count = self.home / "releases" / name, 1
        while release.exists():
            count += 1
            release = release.with_name(f"{name}-{count}")
        return release

    def _switch(self, release: Path) -> None:
        link = self.home / f"link-{os.getpid()}"
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(release, self.path.parent))
        if self.path.is_dir() and not self.path.is_symlink():
            self.path.rmdir()  # an empty folder, as _refuse_foreign saw
        link.replace(self.path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One publisher at a time; the system frees the lock of one that was killed."""
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _manifest_in(folder: Path) -> Manifest | None:
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError):
        return None


def _intact_files(folder: Path) -> dict[str, ManifestFile]:
    """Of what a release's manifest lists: the files that are as they were published.

    They have the right size and were not written to after the manifest.
    """
    manifest = _manifest_in(folder)
    if manifest is None:
        return {}
    newest = (folder / MANIFEST).stat().st_mtime_ns
    return {
        name: file for name, file in manifest.files.items() if _is_intact(f"{folder}/{name}", file, newest)
    }


def _is_intact(path: str, file: ManifestFile, newest: int) -> bool:
    try:
        info = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(info.st_mode) and info.st_size == file.size and info.st_mtime_ns <= newest


def _remove_others(folder: Path, manifest: Manifest, present: Mapping[str, ManifestFile]) -> None:
    """Delete what an old release held and the new one does not, empty folders too."""
    for parent, _, names in os.walk(folder, topdown=False):
        prefix = os.path.relpath(parent, folder)
        for name in names:
            path = name if prefix == "." else f"{prefix}/{name}"
            if path not in manifest.files or path not in present:
                os.unlink(f"{parent}/{name}")  # noqa: PTH108 - thousands of files
        if prefix != ".":
            with suppress(OSError):  # it still holds something
                os.rmdir(parent)  # noqa: PTH106


def _manifest_of(files: Mapping[str, SiteFile]) -> Manifest:
    listed = {name: ManifestFile(file.digest, file.size) for name, file in sorted(files.items())}
    return Manifest(1, digest(listed)[:16], listed)


def _batches(names: Iterator[str]) -> Iterator[list[str]]:
    while batch := list(islice(names, _BATCH)):
        yield batch
