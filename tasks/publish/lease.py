"""The right to change what readers find in a store, which one publisher has at a time.

A store has no locks, only conditional writes. So whoever publishes writes its name into
an object, and writes it again every now and then. Whoever finds a name there watches it:
one that is written again belongs to somebody at work; one that is not, for long enough,
to somebody who died, and is replaced. Nobody's clock is compared with another's.
"""

from __future__ import annotations

import threading
import time
import uuid
from contextlib import suppress
from types import TracebackType
from typing import Self

import msgspec
from msgspec import Struct

from tasks.publish.store import OvertakenError, Store
from tasks.publish.target import PublishError

LEASE_S = 45.0

# Of the time after which a lease is taken from a publisher that does not renew it.
_RENEWED_EVERY = 0.2
_WATCHED_EVERY = 0.05
_A_REQUEST = 0.4


class _Holder(Struct):
    """Who publishes, or did; with `count`, how often that was written, no content is like another."""

    name: str
    count: int
    at_work: bool


class Lease:
    """Held inside a `with` statement.

    Raises:
        PublishError: Somebody else is publishing there.
    """

    def __init__(self, store: Store, key: str, seconds: float = LEASE_S) -> None:
        self._store, self._key, self._seconds = store, key, seconds
        self._name = uuid.uuid4().hex
        self._count = 0
        self._etag: str | None = None
        self._renewed = 0.0
        self._lost = False
        self._ended = threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True)

    @property
    def request_s(self) -> float:
        """How long a request may take that is sent while the lease is held, in seconds.

        It is over then before anybody else can hold the lease.

        Raises:
            PublishError: Somebody else holds the lease, or might.
        """
        if self._lost:
            raise self._taken()
        if _now() - self._renewed > self._seconds * (1 - _A_REQUEST - _WATCHED_EVERY):
            raise PublishError(
                f"out {self._store.location!r}: the store did not answer for too long to go on; build again"
            )
        return self._seconds * _A_REQUEST

    def __enter__(self) -> Self:
        self._etag = self._vacant()
        try:
            self._write()
        except OvertakenError as error:
            raise self._taken() from error
        self._renewing.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._renewing.join()
        with suppress(PublishError):  # then it runs out by itself
            self._write(at_work=False)

    def _vacant(self) -> str | None:
        """The entity tag of the object when nobody holds the lease, or nobody does any more."""
        seen, since = None, 0.0
        while self._store.listed(self._key) and (found := self._store.get(self._key)):
            holder, etag = _decoded(found[0]), found[1]
            if not holder.at_work:
                return etag
            if seen is None:
                seen, since = holder, _now()
            elif holder != seen:
                raise self._taken()
            elif _now() - since > self._seconds:
                return etag
            time.sleep(self._seconds * _WATCHED_EVERY)
        return None

    def _renew(self) -> None:
        while not self._ended.wait(self._seconds * _RENEWED_EVERY):
            try:
                self._write()
            except OvertakenError:
                self._lost = True
                return
            except PublishError:
                continue  # request_s knows how long that may go on

    def _write(self, at_work: bool = True) -> None:
        start = _now()
        self._count += 1
        data = msgspec.json.encode(_Holder(self._name, self._count, at_work))
        timeout = self._seconds * _A_REQUEST
        try:
            self._etag = self._store.replace(self._key, data, self._etag, timeout)
        except OvertakenError:
            found = self._store.get(self._key)
            if found is None or _decoded(found[0]).name != self._name:
                raise
            # What stands there is an earlier write that was given up, and done nevertheless.
            self._etag = self._store.replace(self._key, data, found[1], timeout)
        self._renewed = start

    def _taken(self) -> PublishError:
        return PublishError(
            f"out {self._store.location!r}: another publisher is at work there; build again when it is done"
        )


def _now() -> float:
    """Seconds by a clock that goes on while the machine sleeps: the lease runs out meanwhile."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _decoded(data: bytes) -> _Holder:
    try:
        return msgspec.json.decode(data, type=_Holder)
    except msgspec.DecodeError:
        return _Holder("", 0, at_work=False)
