"""A Prefect server that writes to SQLite without refusals and stalls: `python -m infra.server server start`.

Prefect begins most transactions as DEFERRED. They read, and when they come to write and another has written
since, SQLite refuses at once ("database is locked"). Where they do wait it is for up to 60 seconds, in a
thread of the connection; if Python then collects a cursor of that connection as garbage, in the event loop's
thread, the loop waits too, and with it whoever has the lock. Here they take turns in the event loop before
they begin. What Prefect writes without a transaction waits in SQLite still, but not that long
(docs/decisions/2026-11-27-a-prefect-server-on-sqlite.md).

And it does not hold back for 15 minutes, as Prefect does, what it is told of a run whose event before that it
has not seen, because it was started since: automations would run again what crashed as late as that.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from prefect.cli import app
from prefect.server.database.configurations import SQLITE_BEGIN_MODE, AioSqliteConfiguration
from prefect.server.database.dependencies import set_database_config
from prefect.server.events.ordering import memory as event_order
from prefect.server.utilities.database import get_dialect
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

_TURN_S = 10.0
_BUSY_MS = 5000
_COLLECTED_AFTER_S = 0.1
_EVENT_WAITS = timedelta(seconds=20)  # for the one before it


class Sqlite(AioSqliteConfiguration):
    """SQLite, in which one transaction at a time may write."""

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
        if self._writer is asyncio.current_task():  # inside of another one, which it would wait for
            async with super().begin_transaction(session, with_for_update) as transaction:
                yield transaction
            return
        async with self._turn(), super().begin_transaction(session, with_for_update=True) as transaction:
            await session.connection()  # begins it
            # What is asked meanwhile on other connections is not to have the lock, too.
            mode = SQLITE_BEGIN_MODE.set("DEFERRED")
            try:
                yield transaction
            finally:
                SQLITE_BEGIN_MODE.reset(mode)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait until no other task writes, or for so long that SQLite may decide."""
        try:
            async with asyncio.timeout(_TURN_S):
                await self._turns.acquire()
        except TimeoutError:
            yield
            return
        self._writer = asyncio.current_task()
        try:
            yield
        except asyncio.CancelledError:
            # The error's traceback is in a cycle with a cursor that keeps the connection, and so the lock.
            asyncio.get_running_loop().call_later(_COLLECTED_AFTER_S, gc.collect)
            raise
        finally:
            self._writer = None
            self._turns.release()


def main() -> None:
    """Prefect's command line, whose server has such a database where it has SQLite."""
    event_order.PRECEDING_EVENT_LOOKBACK = _EVENT_WAITS
    url = PREFECT_API_DATABASE_CONNECTION_URL.value()
    if get_dialect(url).name == "sqlite":
        set_database_config(Sqlite(url))
    app()


if __name__ == "__main__":
    main()
