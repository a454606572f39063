"""The result cache: many keys, many writers, one file."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, text

from tasks.result_cache import ResultCache, ResultCacheError
from tests.postgres import postgresql


@pytest.fixture(scope="module")
def postgres(tmp_path_factory) -> Iterator[str]:
    """The address of a PostgreSQL server of our own, reached through a socket."""
    folder = tmp_path_factory.mktemp("postgres")
    with postgresql(folder, f"-c listen_addresses= -c unix_socket_directories={folder}", "--auth=trust"):
        yield f"postgresql+psycopg://docmill@/{{}}?host={folder}"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/deep/er/results.sqlite"
    server = request.getfixturevalue("postgres")
    name = f"results_{uuid4().hex}"
    engine = create_engine(server.format("postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server.format(name)


@pytest.fixture
def cache(url) -> ResultCache:
    return ResultCache(url)


def test_what_was_put_is_there(cache, url):
    values = {f"key-{n}": b"\0\xff" * n for n in range(1_700)}
    cache.put_many(values)
    assert cache.get_many([*values, "absent"]) == values
    assert ResultCache(url).get_many(values) == values
    assert cache.missing([*values, "absent", "absent"]) == {"absent"}
    assert cache.get_many([]) == {}
    assert cache.missing([]) == set()
    cache.put_many({})


def test_the_first_value_of_a_key_stays(cache):
    cache.put_many({"a": b"one"})
    cache.put_many({"a": b"two", "b": b"three"})
    assert cache.get_many(["a", "b"]) == {"a": b"one", "b": b"three"}


def test_an_identity_lasts_as_long_as_the_content(cache, url, tmp_path):
    assert cache.identity() == cache.identity() == ResultCache(url).identity()
    assert ResultCache(f"sqlite:///{tmp_path}/other.sqlite").identity() != cache.identity()


def test_threads_share_a_cache(cache):
    """As runs of several tasks do, in one process."""
    values = [{f"{t}-{n}": bytes([t, n % 256]) * 5_000 for n in range(150)} for t in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(cache.put_many, values))
        assert list(pool.map(cache.get_many, values)) == values


def test_a_new_file_that_another_is_writing_is_waited_for(tmp_path):
    """SQLite refuses at once to switch such a file to WAL, whatever the timeout."""
    file = tmp_path / "results.sqlite"
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.5, other.execute, ["COMMIT"])
    timer.start()
    cache = ResultCache(f"sqlite:///{file}")
    assert timer.finished.is_set()
    cache.put_many({"a": b"one"})
    timer.join()
    other.close()


WRITER = """
import sys
from tasks.result_cache import ResultCache
url, number = sys.argv[1], int(sys.argv[2])
sys.stdin.readline()
cache = ResultCache(url)
for start in range(0, 1_000, 50):
    keys = range(start, start + 50)
    cache.put_many({f"shared-{n}": b"s%d" % n for n in keys})
    cache.put_many({f"own-{number}-{n}": b"%d-%d" % (number, n) for n in keys})
    assert cache.get_many([f"shared-{n}" for n in keys]) == {f"shared-{n}": b"s%d" % n for n in keys}
print(cache.identity())
"""


def test_several_processes_write_at_once_to_a_cache_that_is_not_there_yet(url):
    command = [sys.executable, "-c", WRITER, url]
    writers = [
        subprocess.Popen([*command, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for n in range(4)
    ]
    for writer in writers:  # all are started; now let them go
        writer.stdin.write("\n")
        writer.stdin.flush()
    told = [writer.communicate(timeout=90)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 4
    assert len(set(told)) == 1
    found = ResultCache(url)
    assert not found.missing(f"shared-{n}" for n in range(1_000))
    assert not found.missing(f"own-{w}-{n}" for w in range(4) for n in range(1_000))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:////proc/nowhere/x.sqlite", "result cache sqlite:////proc/nowhere/x.sqlite: "),
        ("nonsense://x", "nonsense"),
        ("not a url", "no SQLAlchemy URL"),
        ("postgresql://user:secret@127.0.0.1:1/x", "result cache"),
    ],
)
def test_a_cache_that_cannot_be_opened_says_so_in_one_line(url, said):
    with pytest.raises(ResultCacheError) as raised:
        ResultCache(url)
    assert said in str(raised.value)
    assert "secret" not in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "x.sqlite").write_text("no database at all, but long enough to be looked at as one" * 20)
    with pytest.raises(ResultCacheError, match="not a database"):
        ResultCache(f"sqlite:///{tmp_path}/x.sqlite").get_many(["a"])


def test_what_is_discarded_goes_with_all_that_was_stored_beside_it(tmp_path):
    cache = ResultCache(f"sqlite:///{tmp_path}/x.sqlite")
    identity = cache.identity()
    cache.put_many(dict.fromkeys(["page:a", "page:a/drawn", "page:ab", "page:b/drawn"], b"1"))
    cache.discard(["page:a"])
    assert set(cache.get_many(["page:a", "page:a/drawn", "page:ab", "page:b/drawn"])) == {
        "page:ab",
        "page:b/drawn",
    }
    assert cache.identity() != identity
