"""Where Prefect keeps what stages hand on: manifests, by our keys.

Prefect takes a store that does not answer for one that is empty, and a result that could
not be written for one that was. So the store is asked before a stage, and after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from prefect.filesystems import LocalFileSystem, RemoteFileSystem
from prefect.results import get_default_result_storage

from tasks.documents import DocmillError, first_line
from tasks.keys import digest

if TYPE_CHECKING:
    from prefect.filesystems import WritableFileSystem

    from flows.settings import Settings

_PROBE = "docmill-probe"
# s3fs tries five times by itself; by default each of these would be five more, minutes in all.
_PATIENCE: dict[str, Any] = {
    "connect_timeout": 5,
    "read_timeout": 20,
    "retries": {"total_max_attempts": 2, "mode": "standard"},
}


class ResultStorageError(DocmillError):
    """What stages handed on cannot be read or written."""


class S3Results(RemoteFileSystem):
    """A prefix of a bucket, for whoever may read, write and list there and no more.

    Prefect's own would first look for the bucket, which takes another right, and make it where it finds none.
    """

    _block_type_name = "docmill results"

    def write_path(self, path: str, content: bytes, _sync: bool = True) -> str:  # type: ignore[override]
        """Write a result."""
        place = self._resolve_path(path)
        self.filesystem.pipe_file(place, content)
        return place

    def lists(self, path: str) -> bool:
        """Whether there is an object; who reads one that is not there may hear that he must not know."""
        files: Any = self.filesystem
        bucket, key, _ = files.split_path(self._resolve_path(path))
        answer = files.call_s3("list_objects_v2", Bucket=bucket, Prefix=key, MaxKeys=1)
        return any(found["Key"] == key for found in answer.get("Contents", ()))


class ResultStorage:
    """A store of results.

    Attributes:
        block: What Prefect is told to use; None for what it uses untold.
    """

    def __init__(self, settings: Settings) -> None:
        """Connect, as the settings say, else as Prefect's do.

        Raises:
            ResultStorageError: The store cannot be written.
        """
        location = settings.result_storage
        try:
            self.block = _block_of(location, settings) if location else None
            self._store = self.block or cast("Any", get_default_result_storage())
            if not isinstance(self._store, LocalFileSystem | RemoteFileSystem):
                raise TypeError(
                    f"docmill cannot tell what {type(self._store).__name__} lacks; set result_storage"
                )
            self._location = str(self._store.basepath)
            self._store.write_path(_PROBE, b"")
        except Exception as error:
            raise _unreachable(location or "as Prefect is set", error) from error

    def holds(self, key: str) -> bool:
        """Whether there is a result of that key.

        Raises:
            ResultStorageError: The store does not answer.
        """
        try:
            if isinstance(self._store, S3Results) and not self._store.lists(key):
                return False
            self._store.read_path(key)
        except FileNotFoundError:
            return False
        except ValueError as error:  # as Prefect's own folders say it
            if "does not exist" in str(error):
                return False
            raise _unreachable(self._location, error) from error
        except Exception as error:
            raise _unreachable(self._location, error) from error
        return True


def _block_of(location: str, settings: Settings) -> WritableFileSystem:
    if not location.startswith("s3://"):
        block: Any = LocalFileSystem(basepath=location)
    else:
        options: dict[str, Any] = {"config_kwargs": dict(_PATIENCE)}
        if settings.s3_region:
            options["client_kwargs"] = {"region_name": settings.s3_region}
        if settings.s3_endpoint:
            options["endpoint_url"] = settings.s3_endpoint
            options["config_kwargs"]["s3"] = {"addressing_style": "path"}
        if settings.s3_encryption:
            from tasks.publish.store import encryption_as  # s3fs is slow to import

            options["s3_additional_kwargs"] = encryption_as(settings.s3_encryption)
        block = S3Results(basepath=location.rstrip("/"), settings=options)
    # Prefect wants it saved. Nothing of it is secret: credentials come from the environment.
    name = digest([location, settings.s3_endpoint, settings.s3_region, settings.s3_encryption])[:12]
    block.save(f"docmill-results-{name}", overwrite=True)
    return block


def _unreachable(location: str, error: Exception) -> ResultStorageError:
    return ResultStorageError(
        f"result storage {location!r}: {first_line(error)}; nothing is computed again for want of it"
    )
