"""Content-addressed results in SQL: many keys in, many values out, any number of writers.

A key determines its value, so that two writers of one key write the same bytes and the
first one wins. Values are stored compressed. There is no expiry; whoever wants the space
back deletes the file.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import zstandard
from sqlalchemy import (
    Column,
    Engine,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
    delete,
    event,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.schema import CreateTable

from tasks.documents import DocmillError, first_line

# Below every database's limit on bound parameters.
_KEYS_A_QUERY = 500
_ROWS_A_WRITE = 200
_BUSY_TIMEOUT_S = 60
_COMPRESSION = 1
_IDENTITY = "identity"

_RESULTS = Table(
    "results",
    MetaData(),
    Column("key", String(96), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)


class ResultCacheError(DocmillError):
    """The result cache cannot be read or written."""


class ResultCache:
    """The results of one installation, under any SQLAlchemy URL."""

    def __init__(self, url: str) -> None:
        """Open the cache; the table is made where it is missing.

        Raises:
            ResultCacheError: The database cannot be reached.
        """
        self.url = url
        try:
            self._engine = _open(url)
            self._make_table()
        except (SQLAlchemyError, OSError, ImportError) as error:
            raise ResultCacheError(f"result cache {_shown(url)}: {first_line(error)}") from error

    def _make_table(self) -> None:
        """Make the table where it is missing; of several processes that do so at once, one may fail."""
        try:
            with self._engine.begin() as connection:
                connection.execute(CreateTable(_RESULTS, if_not_exists=True))
        except SQLAlchemyError:
            if not inspect(self._engine).has_table(_RESULTS.name):
                raise

    def identity(self) -> str:
        """A name that no other cache has, and that this one loses with its content."""
        self.put_many({_IDENTITY: uuid.uuid4().hex.encode()})
        return self.get_many([_IDENTITY])[_IDENTITY].decode()

    @property
    def kind(self) -> str:
        """Which database it is: sqlite or postgresql."""
        return self._engine.dialect.name

    def size(self) -> int:
        """How much room it takes, in bytes."""
        of_pages = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
        asked = of_pages if self.kind == "sqlite" else "SELECT pg_total_relation_size('results')"
        try:
            with self._engine.connect() as connection:
                return int(connection.execute(text(asked)).scalar_one())
        except SQLAlchemyError as error:
            raise ResultCacheError(f"result cache {_shown(self.url)}: {first_line(error)}") from error

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """The values of those keys that are there."""
        found: dict[str, bytes] = {}
        decompress = zstandard.ZstdDecompressor().decompress  # of this thread
        for piece in _pieces(dict.fromkeys(keys), _KEYS_A_QUERY):
            rows = self._rows(select(_RESULTS.c.key, _RESULTS.c.value), piece)
            found.update((key, decompress(value)) for key, value in rows)
        return found

    def missing(self, keys: Iterable[str]) -> set[str]:
        """Those keys that have no value yet."""
        wanted = set(keys)
        for piece in _pieces(sorted(wanted), _KEYS_A_QUERY):
            wanted.difference_update(row[0] for row in self._rows(select(_RESULTS.c.key), piece))
        return wanted

    def put_many(self, values: Mapping[str, bytes]) -> None:
        """Store values; a key that is there already keeps the value it has."""
        statement = _insert_or_ignore(self._engine)
        compress = zstandard.ZstdCompressor(level=_COMPRESSION).compress  # of this thread
        try:
            for piece in _pieces(values.items(), _ROWS_A_WRITE):
                with self._engine.begin() as connection:
                    connection.execute(statement, [{"key": k, "value": compress(v)} for k, v in piece])
        except SQLAlchemyError as error:
            raise ResultCacheError(f"result cache {_shown(self.url)}: {first_line(error)}") from error

    def discard(self, keys: Iterable[str]) -> None:
        """Forget values that turned out wrong, what was stored beside them (under `KEY/…`), and this cache's
        name, by which manifests rely on both.
        """
        column = _RESULTS.c.key
        try:
            with self._engine.begin() as connection:
                connection.execute(delete(_RESULTS).where(column == _IDENTITY))
                for key in keys:
                    beside = column.startswith(f"{key}/", autoescape=True)
                    connection.execute(delete(_RESULTS).where((column == key) | beside))
        except SQLAlchemyError as error:
            raise ResultCacheError(f"result cache {_shown(self.url)}: {first_line(error)}") from error

    def _rows(self, query: Any, keys: list[str]) -> list[Any]:
        try:
            with self._engine.connect() as connection:
                return list(connection.execute(query.where(_RESULTS.c.key.in_(keys))).all())
        except SQLAlchemyError as error:
            raise ResultCacheError(f"result cache {_shown(self.url)}: {first_line(error)}") from error


def _open(url: str) -> Engine:
    if make_url(url).get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True)
    if (file := make_url(url).database) and file != ":memory:":
        Path(file).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_S})

    @event.listens_for(engine, "connect")
    def _tune(connection: Any, _record: object) -> None:
        # WAL lets readers go on while one writes; a power cut may lose the last results, never the file.
        _switch_to_wal(connection)
        connection.execute("PRAGMA synchronous=NORMAL")

    return engine


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Wait until nobody else writes; SQLite itself refuses to switch a file then, whatever its timeout."""
    give_up = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.02)


def _insert_or_ignore(engine: Engine) -> Any:
    match engine.dialect.name:
        case "sqlite":
            return sqlite.insert(_RESULTS).on_conflict_do_nothing()
        case "postgresql":
            return postgresql.insert(_RESULTS).on_conflict_do_nothing()
    raise ResultCacheError(f"result cache: {engine.dialect.name} is not supported; use SQLite or PostgreSQL")


def _pieces(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while piece := list(islice(iterator, size)):
        yield piece


def _shown(url: str) -> str:
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "(no SQLAlchemy URL)"
