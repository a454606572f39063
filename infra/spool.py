"""Pushes that forges were promised to have looked at, until the Prefect server knows of them: a file each.

A crash of the receiver or of its machine loses none. What is found after it may have been passed on already,
which the push's key tells the server.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
from msgspec import Struct

from tasks.documents import SourceError
from tasks.files import write_whole
from tasks.ingest.tree import printable
from tasks.keys import digest

_log = logging.getLogger("docmill.webhook")


class Push(Struct, frozen=True):
    """A push to a branch of a repository of the operator's file."""

    repository: str
    branch: str
    key: str  # of its delivery
    taken: int  # nanoseconds since 1970

    @property
    def site(self) -> tuple[str, str]:
        """What is to be looked at: a repository, and its branch."""
        return self.repository, self.branch


class Spool:
    """A folder of pushes.

    Raises:
        SourceError: There cannot be such a folder.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SourceError(
                f"{folder}: {error.strerror}; pushes are kept there: set XDG_CACHE_HOME to a place on a disk"
            ) from error
        self._folder = folder

    def keep(self, push: Push) -> None:
        """Have a push on the disk.

        Raises:
            OSError: It cannot be written.
        """
        write_whole(self._file(push), msgspec.json.encode(push), durable=True)

    def drop(self, push: Push) -> None:
        """Forget a push."""
        self._file(push).unlink(missing_ok=True)

    def kept(self) -> list[Push]:
        """All pushes, oldest first. A file that is none is left alone, and told of."""
        found = []
        for file in self._folder.glob("*.json"):
            try:
                found.append(msgspec.json.decode(file.read_bytes(), type=Push))
            except FileNotFoundError:  # another receiver has passed it on
                continue
            except (OSError, msgspec.MsgspecError, ValueError) as error:
                _log.warning("%s is no push (%s); remove it", file, printable(str(error)))
        return sorted(found, key=lambda push: push.taken)

    def _file(self, push: Push) -> Path:
        return self._folder / f"{digest(push)}.json"
