"""Publishing: one switch, no half site, nothing of anyone else's touched."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from tasks.documents import SiteFile, SourceError
from tasks.publish import PublishError
from tasks.publish.local import LocalTarget
from tasks.result_cache import ResultCache
from tests.conftest import tree_bytes


class Publisher:
    """A cache, and sites published from it."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "site"
        self.home = folder / ".site.docmill"
        self.cache = ResultCache(f"sqlite:///{folder}/cache.sqlite")

    def files(self, texts: dict[str, str]) -> dict[str, SiteFile]:
        found = {}
        for name, text in texts.items():
            data = text.encode()
            digest = hashlib.sha256(data).hexdigest()
            self.cache.put_many({f"file:{digest[:40]}": data})
            found[name] = SiteFile(f"file:{digest[:40]}", digest, len(data))
        return found

    def publish(self, texts: dict[str, str]):
        return LocalTarget(self.out, 1).publish(self.files(texts), self.cache)

    def standing(self) -> dict[str, str]:
        found = {name: data.decode() for name, data in tree_bytes(self.out).items()}
        del found["manifest.json"]
        return found

    def releases(self) -> list[Path]:
        return sorted((self.home / "releases").iterdir())


@pytest.fixture
def publisher(tmp_path) -> Publisher:
    return Publisher(tmp_path)


ONE = {"index.html": "one", "api/a.html": "a", "api/b.html": "b", "assets/x.js": "x"}
TWO = {"index.html": "two", "api/a.html": "a", "api/deep/c.html": "c", "assets/x.js": "x"}


def test_a_site_is_a_link_to_a_release(publisher):
    found = publisher.publish(ONE)
    assert (found.pages, found.written, found.removed) == (3, 3, 0)
    assert publisher.out.is_symlink()
    assert publisher.out.resolve().parent == publisher.home / "releases"
    assert not Path(os.readlink(publisher.out)).is_absolute()  # noqa: PTH115 - so that a site can be moved
    assert publisher.standing() == ONE
    assert oct(publisher.out.stat().st_mode)[-3:] == "755"


def test_only_what_changed_is_written(publisher):
    publisher.publish(ONE)
    before = {name: (publisher.out / name).stat() for name in ONE}
    found = publisher.publish(TWO)
    assert (found.pages, found.written, found.removed) == (3, 2, 1)
    assert publisher.standing() == TWO
    for name in ("api/a.html", "assets/x.js"):
        assert (publisher.out / name).stat().st_ino == before[name].st_ino


def test_nothing_new_is_no_new_release(publisher):
    publisher.publish(ONE)
    release = publisher.out.resolve()
    found = publisher.publish(ONE)
    assert (found.written, found.removed) == (0, 0)
    assert publisher.out.resolve() == release
    assert publisher.releases() == [release]


def test_the_release_before_stays_for_its_readers(publisher):
    publisher.publish(ONE)
    reading = publisher.out.resolve()
    publisher.publish(TWO)
    assert (reading / "index.html").read_text() == "one"
    assert (reading / "api" / "b.html").read_text() == "b"


@pytest.mark.parametrize("kept", [1, 3, 4, 7])
def test_as_many_releases_are_kept_as_are_set(publisher, kept):
    for version in range(9):
        files = publisher.files({"index.html": str(version)})
        LocalTarget(publisher.out, kept).publish(files, publisher.cache)
        assert len(publisher.releases()) == min(version, kept) + 1


def test_old_releases_are_reused_and_never_written_through(publisher):
    """Releases share files by hard links; one that is reused must not write into the standing one."""
    for version in range(7):
        site = {f"p{n}.html": f"{n} {version % 3 if n % 2 else version}" for n in range(40)}
        site[f"only{version}/x.html"] = "x"
        standing = publisher.out.resolve() if version else None
        before = tree_bytes(standing) if standing else {}
        publisher.publish(site)
        assert publisher.standing() == site
        assert standing is None or tree_bytes(standing) == before
        assert len(publisher.releases()) <= 2
        assert not list(publisher.home.glob("staging-*"))
        empty = [f for f in publisher.out.resolve().rglob("*") if f.is_dir() and not any(f.iterdir())]
        assert not empty


@pytest.mark.parametrize("damage", ["deleted", "same size", "longer", "link", "folder", "manifest", "extra"])
def test_a_damaged_site_is_not_taken_for_the_standing_one(publisher, damage, tmp_path):
    publisher.publish(ONE)
    file = publisher.out / "api" / "a.html"
    match damage:
        case "deleted":
            file.unlink()
        case "same size":
            file.write_text("z")
        case "longer":
            file.write_text("aaa")
        case "link":
            (tmp_path / "elsewhere").write_text("a")
            file.unlink()
            file.symlink_to(tmp_path / "elsewhere")
        case "folder":
            file.unlink()
            file.mkdir()
        case "manifest":
            (publisher.out / "manifest.json").write_text("{")
        case "extra":
            publisher.publish(TWO)
            (publisher.releases()[0] / "mine.txt").write_text("not a page")
    publisher.publish(ONE)
    assert publisher.standing() == ONE


def test_a_build_that_died_while_publishing_leaves_nothing(publisher):
    publisher.publish(ONE)
    publisher.publish(TWO)
    left = publisher.home / "staging-died"
    publisher.releases()[0].rename(left)
    (left / "index.html").unlink()
    (publisher.home / "link-1").symlink_to("nowhere")
    publisher.publish(ONE)
    assert publisher.standing() == ONE
    assert not left.exists()


def test_readers_never_see_a_mixture(publisher):
    """A reader opens the site again and again while it is published again and again."""
    publisher.publish({f"{n}.html": "first" for n in range(20)})
    seen: list[tuple[int, frozenset[str | None]]] = []
    started = [0]

    def in_time() -> list[frozenset[str | None]]:
        return [found for missed, found in seen if missed == 0]  # only the release before is kept

    def texts() -> frozenset[str | None]:
        try:
            root = publisher.out.resolve(strict=True)
            return frozenset((root / f"{n}.html").read_text() for n in range(20))
        except FileNotFoundError:
            return frozenset([None])

    def read() -> None:
        while started[0] < 500 and len(in_time()) <= 5:
            before = started[0]
            found = texts()
            seen.append((started[0] - before, found))

    reader = threading.Thread(target=read)
    reader.start()
    while reader.is_alive():
        started[0] += 1
        publisher.publish({f"{n}.html": f"{started[0]}" for n in range(20)})
    reader.join()
    assert len(in_time()) > 5
    assert all(len(found) == 1 and None not in found for found in in_time())


def test_two_publishers_wait_for_each_other(publisher):
    sites = [{"index.html": f"{n}", **{f"{m}.html": f"{n}-{m}" for m in range(30)}} for n in range(6)]
    files = [publisher.files(site) for site in sites]
    failed: list[BaseException] = []

    def publish(number: int) -> None:
        try:
            for _ in range(3):
                LocalTarget(publisher.out, 1).publish(files[number], publisher.cache)
        except BaseException as error:  # noqa: BLE001 - a thread's errors are lost otherwise
            failed.append(error)

    threads = [threading.Thread(target=publish, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert publisher.standing() in sites


def test_what_docmill_did_not_make_is_refused(publisher, tmp_path):
    cases = {"folder": tmp_path / "folder", "file": tmp_path / "file", "link": tmp_path / "link"}
    (cases["folder"] / "x").mkdir(parents=True)
    cases["file"].write_text("mine")
    cases["link"].symlink_to(cases["folder"])
    (tmp_path / "dangling").symlink_to("nowhere")
    for path in [*cases.values(), tmp_path / "dangling"]:
        with pytest.raises(SourceError, match="out "):
            LocalTarget(path, 1)


def test_an_empty_folder_and_a_missing_one_are_taken(publisher, tmp_path):
    publisher.out.mkdir()
    publisher.publish(ONE)
    assert publisher.standing() == ONE
    publisher.out = tmp_path / "deep" / "er" / "site"
    publisher.publish(ONE)
    assert publisher.standing() == ONE


def test_a_folder_that_cannot_be_written_is_named(publisher):
    with pytest.raises(PublishError, match="out '/proc/site': "):
        LocalTarget("/proc/site", 1).publish(publisher.files(ONE), publisher.cache)


def test_a_failure_half_way_leaves_the_standing_site(publisher, monkeypatch):
    publisher.publish(ONE)
    written = []

    def full(path: Path, data: bytes) -> int:
        written.append(path)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(PublishError, match="No space left"):
            publisher.publish(TWO)
    assert written
    assert publisher.standing() == ONE
    publisher.publish(TWO)
    assert publisher.standing() == TWO


def test_what_is_not_what_was_made_is_not_published(publisher):
    publisher.publish(ONE)
    name, identity = "api/deep/c.html", publisher.cache.identity()
    files = publisher.files(TWO)
    publisher.cache.discard([files[name].key])
    publisher.cache.put_many({files[name].key: b"C"})
    with pytest.raises(
        PublishError, match=r"result cache: api/deep/c\.html is not what was made; removed, so build again"
    ):
        LocalTarget(publisher.out, 1).publish(files, publisher.cache)
    assert publisher.standing() == ONE
    assert publisher.cache.missing([files[name].key]) == {files[name].key}
    assert publisher.cache.identity() != identity  # nobody relies on it any more
    publisher.publish(TWO)
    assert publisher.standing() == TWO
