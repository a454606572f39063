"""A folder that readers see change at one instant, or not at all.

It is a symbolic link to a release, a folder beside it. A release is put together out of
sight, from files of the standing release where they are the same and from the result
cache where they are not; then the link is moved to it. A killed build leaves the standing
site as it is. Releases that were replaced are kept, for whoever is reading from them and
for a rollback.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.documents import Published, SiteFile, SourceError
from tasks.files import locked
from tasks.publish.target import (
    MANIFEST,
    Manifest,
    ManifestFile,
    PublishError,
    Release,
    chosen,
    contents,
    decode_manifest,
    manifest_of,
    page_count,
    published,
)

if TYPE_CHECKING:  # SQLAlchemy is slow to import, and a build that changes nothing needs none
    from tasks.result_cache import ResultCache


class LocalTarget:
    """A folder on this machine.

    Raises:
        SourceError: Something that docmill did not make is in the way.
    """

    def __init__(self, location: str | Path, kept: int) -> None:
        """Look whether a site may go there.

        Args:
            location: The folder.
            kept: How many releases are kept besides the one that stands.
        """
        self.kept = kept
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
        if release.parent != self._kept_at:
            raise SourceError(
                f"out {self.location!r}: exists, and docmill did not make it; choose another folder"
            )

    @property
    def location(self) -> str:
        """The folder's path."""
        return str(self.path)

    @property
    def hidden(self) -> tuple[Path, ...]:
        """What a walk over the source must not enter."""
        return self.path, self.home

    def standing(self) -> Manifest | None:
        """The manifest of the site that readers see, if every file of it is there unchanged."""
        manifest = _manifest_in(self.path)
        return manifest if manifest and manifest.files == _intact_files(self.path) else None

    def reach(self) -> None:
        """See whether a release could be put beside the folder, and the folder made a link to it.

        Raises:
            PublishError: It could not.
            SourceError: Something that docmill did not make is in the way.
        """
        self._refuse_foreign()
        for needed in (self.path.parent, self._kept_at):
            there = next(folder for folder in (needed, *needed.parents) if folder.exists())
            if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
                raise PublishError(f"out {self.location!r}: {there} cannot be written to by this user")

    def publish(self, files: Mapping[str, SiteFile], cache: ResultCache) -> Published:
        """Make `files` the site.

        Raises:
            PublishError: The target cannot be written.
        """
        try:
            with locked(self.home / "lock"):
                return self._publish(files, cache)
        except OSError as error:
            raise PublishError(f"out {self.location!r}: {error.strerror or error}") from error

    def _publish(self, files: Mapping[str, SiteFile], cache: ResultCache) -> Published:
        self._refuse_foreign()  # what is in the way may have come since the build began
        manifest = manifest_of(files)
        before = _manifest_in(self.path)
        kept = self._kept_at / manifest.release
        if self.standing() != manifest:
            if _is_whole(kept):
                self._let_stand(kept)
            else:
                self._switch(self._assembled(manifest, files, cache))
        return published(self.location, manifest, before)

    def releases(self) -> list[Release]:
        """The releases that can stand again, the one that stood last first."""
        return [
            Release(folder.name, folder.stat().st_mtime, page_count(manifest), folder == self.path.resolve())
            for folder in reversed(self._by_age())
            if (manifest := _manifest_in(folder)) is not None
        ]

    def rollback(self, name: str | None) -> Release:
        """Let a release stand again; without a name, the one that stood before.

        Raises:
            PublishError: The target cannot be written, or the release is not whole.
            SourceError: There is no such release.
        """
        chosen(self.releases(), name, self.location)  # where there is none, nothing is touched
        try:
            with locked(self.home / "lock"):
                self._refuse_foreign()
                release = chosen(self.releases(), name, self.location)
                if not _is_whole(self._kept_at / release.name):
                    raise PublishError(
                        f"out {self.location!r}: release {release.name} is damaged; choose another"
                    )
                self._let_stand(self._kept_at / release.name)
                return release
        except OSError as error:
            raise PublishError(f"out {self.location!r}: {error.strerror or error}") from error

    def _let_stand(self, folder: Path) -> None:
        os.utime(folder)  # it is the one that stood last
        self._switch(folder)

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
        for batch in contents(fresh, files, cache):
            for name, data in batch.items():
                (staging / name).write_bytes(data)
        (staging / MANIFEST).unlink(missing_ok=True)
        (staging / MANIFEST).write_bytes(manifest.encode())
        return staging.rename(self._free_release(manifest.release))

    def _staging(self) -> Path:
        """A folder to put a release together in.

        An old release serves, if more are kept than need be: most of its files are
        those of the new one, and deleting a tree takes longer than mending it.
        """
        self._kept_at.mkdir(parents=True, exist_ok=True)
        for left in self.home.glob("staging-*"):
            shutil.rmtree(left, ignore_errors=True)
        staging = Path(tempfile.mkdtemp(dir=self.home, prefix="staging-"))
        old = [release for release in self._by_age() if release != self.path.resolve()]
        spare = old[: max(0, len(old) - self.kept + 1)]
        for release in spare[:-1]:
            shutil.rmtree(release)
        if spare:
            spare[-1].replace(staging)
        staging.chmod(0o755)
        return staging

    @property
    def _kept_at(self) -> Path:
        return self.home / "releases"

    def _by_age(self) -> list[Path]:
        """All releases, the one that stood last at the end."""
        if not self._kept_at.is_dir():
            return []
        return sorted(self._kept_at.iterdir(), key=lambda release: release.stat().st_mtime_ns)

    def _free_release(self, name: str) -> Path:
        """A folder for a release; one of the same content may be there, damaged, and be read."""
        release, count = self._kept_at / name, 1
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


def _manifest_in(folder: Path) -> Manifest | None:
    try:
        return decode_manifest((folder / MANIFEST).read_bytes())
    except OSError:
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


def _is_whole(folder: Path) -> bool:
    """Whether a release holds all that its manifest lists, as it was published, and nothing else."""
    manifest = _manifest_in(folder)
    if manifest is None or manifest.files != _intact_files(folder):
        return False
    return sum(len(names) for _, _, names in os.walk(folder)) == len(manifest.files) + 1


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
