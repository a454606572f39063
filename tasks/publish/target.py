"""What all targets have in common: manifests, releases, and what of a site is to be written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec
from msgspec import Struct

from tasks.documents import DocmillError, Published, SiteFile, SourceError
from tasks.keys import digest

if TYPE_CHECKING:  # SQLAlchemy is slow to import, and a build that changes nothing needs none
    from tasks.result_cache import ResultCache

MANIFEST = "manifest.json"

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

    def encode(self) -> bytes:
        """The content of a site's manifest.json."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1)


class Release(Struct, frozen=True):
    """One site that is kept at a target: since when it stands or last stood (Unix time), and its pages."""

    name: str
    since: float
    pages: int
    stands: bool


class PublishError(DocmillError):
    """The target cannot be read or written, or somebody else is at it."""


class Target(Protocol):
    """Where readers find a site, and where releases that stood before are kept."""

    @property
    def location(self) -> str:
        """A folder, or `s3://bucket/prefix`."""

    @property
    def hidden(self) -> tuple[Path, ...]:
        """What a walk over the source must not enter."""

    def standing(self) -> Manifest | None:
        """The manifest of the site that readers see, if every file of it is there unchanged.

        Raises:
            PublishError: That cannot be found out.
            SourceError: Something that docmill did not make is in the way.
        """

    def reach(self) -> None:
        """See whether a site can be published there, as far as can be seen without changing anything.

        Raises:
            PublishError: It cannot.
            SourceError: Something that docmill did not make is in the way.
        """

    def publish(self, files: Mapping[str, SiteFile], cache: ResultCache) -> Published:
        """Make `files` the site.

        Raises:
            PublishError: The target cannot be written; the next publishing puts right what is amiss.
            SourceError: Something that docmill did not make is in the way.
        """

    def releases(self) -> list[Release]:
        """The releases that can stand again, the one that stood last first.

        Raises:
            PublishError: The target cannot be read.
        """

    def rollback(self, name: str | None) -> Release:
        """Let a release stand again; without a name, the one that stood before.

        Raises:
            PublishError: The target cannot be written, or the release is not whole.
            SourceError: There is no such release.
        """


def manifest_of(files: Mapping[str, SiteFile]) -> Manifest:
    """The manifest of a site; its release is named by all of its content."""
    listed = {name: ManifestFile(file.digest, file.size) for name, file in sorted(files.items())}
    return Manifest(1, digest(listed)[:16], listed)


def decode_manifest(data: bytes) -> Manifest | None:
    """The manifest that `data` holds, if it holds one."""
    try:
        return msgspec.json.decode(data, type=Manifest)
    except msgspec.DecodeError:
        return None


def page_count(manifest: Manifest) -> int:
    """How many pages a site has."""
    return sum(name.endswith(".html") for name in manifest.files)


def published(location: str, manifest: Manifest, before: Manifest | None) -> Published:
    """What it meant for pages that one site took the place of another."""
    old = before.files if before else {}
    pages = [name for name in manifest.files if name.endswith(".html")]
    written = sum(old.get(name) != manifest.files[name] for name in pages)
    removed = sum(name.endswith(".html") and name not in manifest.files for name in old)
    return Published(location, manifest.release, len(pages), written, removed)


def chosen(releases: Iterable[Release], name: str | None, location: str) -> Release:
    """The release of that name; without a name, the one that stood before.

    Raises:
        SourceError: There is none.
    """
    for release in releases:
        if release.name == name or (name is None and not release.stands):
            return release
    what = f"no release {name!r}" if name is not None else "no release stood before"
    raise SourceError(f"out {location!r}: {what}; docmill releases lists what there is")


def contents(
    names: Iterable[str], files: Mapping[str, SiteFile], cache: ResultCache
) -> Iterator[dict[str, bytes]]:
    """The content of these files, in batches: as it was made and checked, or not at all.

    Raises:
        PublishError: The cache holds something else; it is discarded, so that the next build makes it again.
    """
    left = iter(names)
    while batch := list(islice(left, _BATCH)):
        found = cache.get_many(files[name].key for name in batch)
        data = {name: found.get(files[name].key, b"") for name in batch}
        damaged = [n for n in batch if hashlib.sha256(data[n]).hexdigest() != files[n].digest]
        if damaged:
            cache.discard(files[name].key for name in damaged)
            raise PublishError(
                f"result cache: {damaged[0]} is not what was made"
                f"{f', nor are {len(damaged) - 1} more' if damaged[1:] else ''}; removed, so build again"
            )
        yield data
