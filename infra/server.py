"""A Prefect server that writes to SQLite without refusals and stalls: `python -m infra.server server start`.

Prefect begins most transactions as DEFERRED. They read, and when they come to write and another has written
since, SQLite refuses at once ("database is locked"). Where they do wait it is for up to 60 seconds, in a
thread of the connection; if Python then collects a cursor of that connection as garbage, in the event loop's
thread, the loop waits too, and with it whoever has the lock. Here they take turns before they begin, so that
none waits in SQLite for another of this process
(docs/decisions/2026-11-27-a-prefect-server-on-sqlite.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from prefect.cli import app
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.database.dependencies import set_database_config
from prefect.server.utilities.database import get_dialect
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

_TURN_S = 10.0
_BUSY_MS = 2000  # waited for another process, as for a backup


class Sqlite(AioSqliteConfiguration):
    """SQLite, written to by one task at a time."""

    def __init__(self, connection_url: str) -> None:
        super().__init__(connection_url)
        self._turns = asyncio.Lock()
        self._writer: asyncio.Task[Any] | None = None

    def setup_sqlite(self, conn: Any, record: Any) -> None:
        """Prepare a new connection."""
        super().setup_sqlite(conn, record)
        cursor = conn.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
        cursor.close()

    @asynccontextmanager
    async def begin_transaction(
        self, session: AsyncSession, with_for_update: bool = False
    ) -> AsyncIterator[AsyncSessionTransaction]:
        """Begin a transaction that may write, when it is this task's turn."""
        async with (
            self._turn() as is_alone,  # who has the lock from its beginning on is refused nothing
            super().begin_transaction(session, with_for_update or is_alone) as transaction,
        ):
            yield transaction

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[bool]:
        """Wait until no other task writes; whether that came true."""
        if self._writer is asyncio.current_task():  # a transaction inside of another would wait for itself
            yield False
            return
        try:
            async with asyncio.timeout(_TURN_S):
                await self._turns.acquire()
        except TimeoutError:  # SQLite decides, as it would without turns
            yield False
            return
        self._writer = asyncio.current_task()
        try:
            yield True
        finally:
            self._writer = None
            self._turns.release()


def main() -> None:
    """Prefect's command line, whose server has such a database where it has SQLite."""
    url = PREFECT_API_DATABASE_CONNECTION_URL.value()
    if get_dialect(url).name == "sqlite":
        set_database_config(Sqlite(url))
    app()


if __name__ == "__main__":
    main()
