"""Site → target: what readers find is one whole site, whatever happens while the next one comes."""

from __future__ import annotations

from msgspec import Struct

from tasks.documents import SourceError
from tasks.publish.local import LocalTarget
from tasks.publish.target import PublishError, Release, Target

__all__ = ["PublishError", "Release", "Storage", "Target", "open_target"]


class Storage(Struct, frozen=True):
    """How a store is spoken to: address, region, and how it encrypts (`AES256`, `aws:kms`, `aws:kms:KEY`).

    None leaves it to the environment and the bucket. Credentials are the environment's alone.
    """

    endpoint: str | None = None
    region: str | None = None
    encryption: str | None = None


def open_target(location: str, kept: int, storage: Storage) -> Target:
    """The place that a site is published to.

    Args:
        location: A folder, or `s3://bucket/prefix`.
        kept: How many releases are kept besides the one that stands.
        storage: How an S3 store is spoken to.

    Raises:
        SourceError: No site can go there.
    """
    if location.startswith("s3://"):
        from tasks.publish.s3 import S3Target  # s3fs is slow to import

        return S3Target(location, kept, storage)
    if "://" in location:
        scheme = location.partition("://")[0]
        raise SourceError(f"out: sites go to a folder or to s3://bucket/prefix, not to {scheme!r}")
    return LocalTarget(location, kept)
