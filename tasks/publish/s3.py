"""A site in an S3 store, under addresses that stay, with earlier releases beside it.

A store changes one object at a time. So the content of all releases lies under
`.docmill/objects/`, by its SHA-256, and is sent there first: whatever goes wrong until
then, readers see nothing of it. What they see are copies that the store makes itself, in
an order in which no page is there before what it needs, and the manifest last. The same
copies bring an earlier release back, and put right what a killed publisher left.

    PREFIX/index.html …            what readers see
    PREFIX/manifest.json           which release that is
    PREFIX/.docmill/objects/       contents
    PREFIX/.docmill/releases/      a Record of each release
    PREFIX/.docmill/publishing     who is changing all that
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tasks.documents import Published, SiteFile, SourceError
from tasks.publish.lease import LEASE_S, Lease
from tasks.publish.store import DELETED_AT_ONCE, Store, Stored
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

if TYPE_CHECKING:
    from tasks.publish import Storage
    from tasks.result_cache import ResultCache

_OWN = ".docmill/"
_OBJECTS = f"{_OWN}objects/"
_RECORDS = f"{_OWN}releases/"
_LEASE = f"{_OWN}publishing"

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
}
_OTHER = "application/octet-stream"
_ASK_EACH_TIME = "no-cache"
_FOR_GOOD = "public, max-age=31536000, immutable"
# This much of a file's SHA-256 in its name says that the name holds no other content.
_NAMED_BY = 12


class Record(Struct, frozen=True):
    """A release: since when it stands or last stood (Unix time), and the entity tags that its files had then.

    Of one that never stood, because its publisher died, `since` is 0. `before` is since when it stood the
    time before, which counts if its publisher dies before it stands again.
    """

    manifest: Manifest
    since: float = 0.0
    etags: dict[str, str] = {}
    before: float = 0.0


class _Seen(Struct, frozen=True):
    """What is there at one moment."""

    objects: dict[str, Stored]
    manifest: Manifest | None
    manifest_etag: str | None
    records: dict[str, Record]

    @property
    def standing(self) -> Manifest | None:
        """The manifest that readers see, if every file of it is there as it was published."""
        manifest = self.manifest
        if manifest is None or manifest.release not in self.records:
            return None
        return None if any(self.differing(manifest)) else manifest

    def differing(self, manifest: Manifest) -> Iterator[str]:
        """The files of a manifest that readers do not see, or not like that."""
        known = self._known
        for name, file in manifest.files.items():
            stored = self.objects.get(name)
            if stored is None or known.get((name, stored.etag)) != file:
                yield name

    def lacking(self, manifest: Manifest) -> Iterator[str]:
        """The files of a manifest whose content is not there."""
        for name, file in manifest.files.items():
            stored = self.objects.get(_OBJECTS + file.digest)
            if stored is None or stored.size != file.size:
                yield name

    @property
    def _known(self) -> dict[tuple[str, str], ManifestFile]:
        """By name and entity tag, what an object is."""
        return {
            (name, etag): record.manifest.files[name]
            for record in self.records.values()
            for name, etag in record.etags.items()
        }

    def releases(self) -> list[Release]:
        """What has stood, the last one first."""
        stands = self.manifest.release if self.manifest else None
        found = [
            Release(name, record.since, page_count(record.manifest), name == stands)
            for name, record in self.records.items()
            if record.since
        ]
        return sorted(found, key=lambda release: release.since, reverse=True)


class S3Target:
    """A prefix of a bucket.

    Raises:
        SourceError: The location is none of S3's.
    """

    hidden: tuple[Path, ...] = ()

    def __init__(self, location: str, kept: int, storage: Storage, lease_s: float = LEASE_S) -> None:
        """Connect to nothing yet.

        Args:
            location: `s3://bucket/prefix`.
            kept: How many releases are kept besides the one that stands.
            storage: How the store is spoken to.
            lease_s: How long a publisher that gives no sign of life is waited for, in seconds.
        """
        self._store = Store(location, storage.endpoint, storage.region, storage.encryption)
        self._kept, self._lease_s = kept, lease_s

    @property
    def location(self) -> str:
        """`s3://bucket/prefix`."""
        return self._store.location

    def standing(self) -> Manifest | None:
        """The manifest of the site that readers see, if every file of it is there unchanged.

        Raises:
            PublishError: The store cannot be read.
            SourceError: Something that docmill did not make is there.
        """
        return self._seen_first.standing

    def reach(self) -> None:
        """See whether the store lists what is there; whether it takes anything, only writing shows.

        Raises:
            PublishError: It does not.
        """
        self._store.listed(_LEASE)

    @cached_property
    def _seen_first(self) -> _Seen:
        """What is there when a build first asks; publishing looks anew."""
        return self._look()

    def publish(self, files: Mapping[str, SiteFile], cache: ResultCache) -> Published:
        """Make `files` the site.

        Raises:
            PublishError: The store cannot be written, or somebody else writes there; the next publishing puts
                right what is amiss.
            SourceError: Something that docmill did not make is there.
        """
        self.standing()  # where something foreign is, nothing is written
        with self._lease() as lease:
            seen = self._look()
            manifest = manifest_of(files)
            if manifest.release not in seen.records:
                # Should this die, what is left of it will be found by that.
                self._put_record(Record(manifest), seen, lease)
            self._send(manifest, files, cache, seen)
            self._let_stand(manifest, seen, lease)
        del self._seen_first
        return published(self.location, manifest, seen.manifest)

    def releases(self) -> list[Release]:
        """The releases that can stand again, the one that stood last first.

        Raises:
            PublishError: The store cannot be read.
        """
        return self._look().releases()

    def rollback(self, name: str | None) -> Release:
        """Let a release stand again; without a name, the one that stood before.

        Raises:
            PublishError: The store cannot be written, somebody else writes there, or the release is damaged.
            SourceError: There is no such release.
        """
        chosen(self.releases(), name, self.location)  # where there is none, nothing is touched
        with self._lease() as lease:
            seen = self._look()
            release = chosen(seen.releases(), name, self.location)
            manifest = seen.records[release.name].manifest
            if any(seen.lacking(manifest)):
                raise PublishError(
                    f"out {self.location!r}: release {release.name} is damaged; choose another"
                )
            self._let_stand(manifest, seen, lease)
        return release

    # --- looking

    def _lease(self) -> Lease:
        return Lease(self._store, _LEASE, self._lease_s)

    def _look(self) -> _Seen:
        objects = self._store.listed()
        self._refuse_foreign(objects)
        found = self._store.get(MANIFEST) if MANIFEST in objects else None
        data, etag = found if found is not None else (b"", None)
        names = [key.removeprefix(_RECORDS) for key in objects if key.startswith(_RECORDS)]
        records = self._store.each(self._record, names)
        whole = {record.manifest.release: record for record in records if record is not None}
        manifest = decode_manifest(data)
        if manifest is not None and manifest.release in whole:
            latest = whole[manifest.release].since
            for name, record in whole.items():
                if record.since > latest:  # it was about to stand when its publisher died
                    whole[name] = replace(record, since=record.before)
        return _Seen(objects, manifest, etag, whole)

    def _refuse_foreign(self, objects: Mapping[str, Stored]) -> None:
        known = objects.keys() - {_LEASE}
        if known and not any(key.startswith(_OWN) for key in known):
            raise SourceError(
                f"out {self.location!r}: holds what docmill did not put there; choose another prefix"
            )

    def _record(self, name: str) -> Record | None:
        found = self._store.get(_RECORDS + name)
        try:
            return msgspec.json.decode(found[0], type=Record) if found is not None else None
        except msgspec.DecodeError:
            return None

    def _put_record(self, record: Record, seen: _Seen, lease: Lease) -> None:
        self._store.put(_RECORDS + record.manifest.release, msgspec.json.encode(record), lease.request_s)
        seen.records[record.manifest.release] = record

    # --- changing

    def _send(
        self, manifest: Manifest, files: Mapping[str, SiteFile], cache: ResultCache, seen: _Seen
    ) -> None:
        """Send the contents that are not there yet."""
        lacking = {manifest.files[name].digest: name for name in seen.lacking(manifest)}
        for batch in contents(lacking.values(), files, cache):
            keyed = [(_OBJECTS + files[name].digest, data) for name, data in batch.items()]
            self._store.each(self._put, keyed)

    def _put(self, keyed: tuple[str, bytes]) -> str:
        return self._store.put(*keyed)

    def _let_stand(self, manifest: Manifest, seen: _Seen, lease: Lease) -> None:
        """Let readers see a release whose contents are there."""
        if seen.standing != manifest:
            differing = set(seen.differing(manifest))
            etags = {name: seen.objects[name].etag for name in manifest.files if name not in differing}
            turns = sorted((_turn(name, name in seen.objects), name) for name in differing)
            for _, names in groupby(turns, key=lambda turn: turn[0]):
                etags |= self._show([name for _, name in names], manifest, lease)
            since = max(time.time(), *(record.since + 1e-3 for record in seen.records.values()))
            before = seen.records[manifest.release].since
            self._put_record(Record(manifest, since, etags, before), seen, lease)
            headers = _headers(MANIFEST, "")
            self._store.replace(MANIFEST, manifest.encode(), seen.manifest_etag, lease.request_s, **headers)
        self._tidy(manifest, seen, lease)

    def _show(self, names: list[str], manifest: Manifest, lease: Lease) -> dict[str, str]:
        """Copy contents to where readers find them, in any order; returns the copies' entity tags."""

        def show(name: str) -> str:
            digest = manifest.files[name].digest
            return self._store.copy(_OBJECTS + digest, name, lease.request_s, **_headers(name, digest))

        return dict(zip(names, self._store.each(show, names), strict=True))

    def _tidy(self, manifest: Manifest, seen: _Seen, lease: Lease) -> None:
        """Remove what readers find no more, then releases beyond those that are kept, then their contents."""
        others = [release.name for release in seen.releases() if release.name != manifest.release]
        kept = {name: seen.records[name].manifest for name in (manifest.release, *others[: self._kept])}
        wanted = {*manifest.files, MANIFEST}
        for one in kept.values():  # who has a page of an earlier release open may yet load what it needs
            wanted.update(name for name, file in one.files.items() if _is_named_by_content(name, file.digest))
        named = {name for record in seen.records.values() for name in record.manifest.files}
        needed = {_OBJECTS + file.digest for one in kept.values() for file in one.files.values()}
        for gone in (
            [name for name in named - wanted if name in seen.objects],
            [k for k in seen.objects if k.startswith(_RECORDS) and k.removeprefix(_RECORDS) not in kept],
            [k for k in seen.objects if k.startswith(_OBJECTS) and k not in needed],
        ):
            for start in range(0, len(gone), DELETED_AT_ONCE):
                self._store.remove(gone[start : start + DELETED_AT_ONCE], lease.request_s)


def _turn(name: str, is_there: bool) -> int:
    """When a file is shown: what a page needs before the page, what lists pages after them."""
    is_page = name.endswith(".html")
    if is_there:
        return 2 if is_page else 3
    return 1 if is_page else 0


def _headers(name: str, digest: str) -> dict[str, str]:
    for_good = digest and _is_named_by_content(name, digest)
    return {
        "ContentType": _TYPES.get(PurePosixPath(name).suffix.lower(), _OTHER),
        "CacheControl": _FOR_GOOD if for_good else _ASK_EACH_TIME,
    }


def _is_named_by_content(name: str, digest: str) -> bool:
    return f".{digest[:_NAMED_BY]}." in name
