"""Objects under one prefix of a bucket, through s3fs.

What a request did is known only where an answer came; so whatever is sent here may be
sent twice, and nothing that failed is taken for an absence.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, TypeVar

import s3fs
from botocore.exceptions import BotoCoreError, NoCredentialsError
from msgspec import Struct
from s3fs.core import S3_RETRYABLE_ERRORS

from tasks.documents import SourceError
from tasks.publish.target import PublishError

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
# A `.` or an empty name would mean another key to a browser than to the store.
_PREFIX = re.compile(r"(?:(?!\.\.?(?:/|$))[^/\x00-\x1f\x7f?#\\]+(?:/(?!$)|$))*")

DELETED_AT_ONCE = 1000  # S3 takes no more

_REQUESTS_AT_ONCE = 16
_ATTEMPTS = 5
_READS = 3
_CHANGED_SINCE = {"PreconditionFailed", "ConditionalRequestConflict", "409", "412"}

Item = TypeVar("Item")
Result = TypeVar("Result")


class Stored(Struct, frozen=True):
    """What a store lists of an object: its entity tag, which changes with its content, and size in bytes."""

    etag: str
    size: int


class OvertakenError(PublishError):
    """Somebody else wrote what was to be written."""


class Store:
    """The objects under a prefix, by what follows it.

    Raises:
        SourceError: The location is none of S3's.
    """

    def __init__(
        self, location: str, endpoint: str | None, region: str | None, encryption: str | None
    ) -> None:
        bucket, _, prefix = location.removeprefix("s3://").partition("/")
        prefix = prefix.rstrip("/")
        if not _BUCKET.fullmatch(bucket) or not _PREFIX.fullmatch(prefix):
            raise SourceError(
                "out: give s3://bucket/prefix; s3_endpoint says where that is, and AWS_PROFILE who writes"
            )
        self.location = f"s3://{bucket}/{prefix}".rstrip("/")
        self.bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""
        self._endpoint, self._region = endpoint, region
        self._encryption = encryption_as(encryption)

    @cached_property
    def _files(self) -> Any:
        addressing = {"s3": {"addressing_style": "path"}} if self._endpoint else {}
        found = s3fs.S3FileSystem(
            endpoint_url=self._endpoint,
            client_kwargs={"region_name": self._region} if self._region else {},
            config_kwargs={
                "max_pool_connections": _REQUESTS_AT_ONCE,
                "retries": {"total_max_attempts": _ATTEMPTS, "mode": "standard"},
                "request_checksum_calculation": "when_required",
                **addressing,
            },
            s3_additional_kwargs=self._encryption,
            use_listings_cache=False,
            skip_instance_cache=True,
        )
        found.retries = _READS  # of answers that cannot be read; the rest is tried again below
        return found

    def listed(self, under: str = "") -> dict[str, Stored]:
        """All objects whose names begin so."""
        found: dict[str, Stored] = {}
        more: dict[str, str] = {}
        while True:
            answer = self._call("list_objects_v2", None, Prefix=self._prefix + under, **more)
            for entry in answer.get("Contents", ()):
                found[entry["Key"].removeprefix(self._prefix)] = Stored(_etag(entry), entry["Size"])
            if not answer.get("IsTruncated"):
                return found
            more = {"ContinuationToken": answer["NextContinuationToken"]}

    def get(self, key: str) -> tuple[bytes, str] | None:
        """An object's content and entity tag, if there is such an object.

        To be asked of what was listed: about others a store may say that it must not tell.
        """
        try:
            return self._run(self._read(key))
        except _NoSuchKeyError:
            return None

    async def _read(self, key: str) -> tuple[bytes, str]:
        for left in reversed(range(_READS)):
            answer = await self._files._call_s3("get_object", Bucket=self.bucket, Key=self._prefix + key)
            try:
                async with answer["Body"] as body:
                    return await body.read(), _etag(answer)
            except S3_RETRYABLE_ERRORS:
                if not left:
                    raise
        raise AssertionError

    def put(self, key: str, data: bytes, timeout: float | None = None, **headers: str) -> str:
        """Write an object, which the store holds against its SHA-256; returns its entity tag."""
        checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
        answer = self._call(
            "put_object", timeout, Key=self._prefix + key, Body=data, ChecksumSHA256=checksum, **headers
        )
        return _etag(answer)

    def replace(self, key: str, data: bytes, seen: str | None, timeout: float, **headers: str) -> str:
        """Write an object that is as it was seen (None: not there); returns its entity tag.

        Raises:
            OvertakenError: It is another by now.
        """
        condition = {"IfNoneMatch": "*"} if seen is None else {"IfMatch": f'"{seen}"'}
        try:
            return self.put(key, data, timeout, **condition, **headers)
        except OvertakenError:
            found = self.get(key)
            if found is not None and found[0] == data:  # it was written, and the answer was lost
                return found[1]
            raise

    def copy(self, source: str, key: str, timeout: float, **headers: str) -> str:
        """Copy an object inside the store; returns the copy's entity tag."""
        answer = self._call(
            "copy_object",
            timeout,
            Key=self._prefix + key,
            CopySource={"Bucket": self.bucket, "Key": self._prefix + source},
            MetadataDirective="REPLACE",
            **headers,
        )
        return _etag(answer["CopyObjectResult"])

    def remove(self, keys: Sequence[str], timeout: float) -> None:
        """Delete objects, `DELETED_AT_ONCE` at most; those that are not there are no error."""
        objects = [{"Key": self._prefix + key} for key in keys]
        answer = self._call("delete_objects", timeout, Delete={"Objects": objects, "Quiet": True})
        for error in answer.get("Errors", ()):
            raise PublishError(
                f"out {self.location!r}: {error['Key']}: {error.get('Message', 'not deleted')}"
            )

    def each(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """What `function` returns for each item; many of them at once."""
        with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
            try:
                return list(pool.map(function, items))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _call(self, method: str, timeout: float | None, **arguments: Any) -> Any:
        return self._run(self._files._call_s3(method, Bucket=self.bucket, **arguments), timeout)

    def _run(self, request: Coroutine[Any, Any, Result], timeout: float | None = None) -> Result:
        """The answer to a request, which is given up and sent no more after `timeout` (seconds)."""
        future = asyncio.run_coroutine_threadsafe(request, self._files.loop)
        try:
            return future.result(timeout)
        except (OSError, BotoCoreError, *S3_RETRYABLE_ERRORS) as error:
            raise self._told(error) from error
        finally:
            future.cancel()

    def _told(self, error: Exception) -> Exception:
        """An error as docmill tells it."""
        code = str(getattr(error.__cause__, "response", {}).get("Error", {}).get("Code", ""))
        out = f"out {self.location!r}"
        if code == "NoSuchKey":
            return _NoSuchKeyError(f"{out}: an object is gone that was there; build again")
        if code in _CHANGED_SINCE:
            return OvertakenError(f"{out}: another publisher wrote there at the same time; build again")
        if code == "NoSuchBucket":
            return SourceError(f"{out}: there is no such bucket; create it first")
        if isinstance(error, NoCredentialsError):
            return PublishError(
                f"{out}: no AWS credentials; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and its secret"
            )
        if isinstance(error, PermissionError):
            return PublishError(
                f"{out}: {code or 'access denied'} ({error}); docs/s3.md has the policy it takes"
            )
        return PublishError(f"{out}: {' '.join(str(error).split()) or 'no answer in time'}")


class _NoSuchKeyError(OvertakenError):
    """There is no such object."""


def _etag(answer: Mapping[str, Any]) -> str:
    """An entity tag without its quotes, which some stores leave out now and then."""
    return str(answer["ETag"]).strip('"')


def encryption_as(setting: str | None) -> dict[str, str]:
    """How requests that write ask for the encryption that is set: `AES256`, `aws:kms`, `aws:kms:KEY`."""
    if setting is None:
        return {}
    key = setting.removeprefix("aws:kms").removeprefix(":")
    if setting.startswith("aws:kms") and key:
        return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key}
    return {"ServerSideEncryption": setting}
