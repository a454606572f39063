"""Publishing to a real S3 server: what is sent, what readers see meanwhile, and what goes wrong."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time

import pytest
import s3fs

from tasks.documents import SourceError
from tasks.publish import PublishError, Storage, store
from tasks.publish.local import LocalTarget
from tasks.publish.s3 import S3Target
from tests.conftest import tree_bytes
from tests.s3 import Publishers, Site, site_files, site_of, site_styles


@pytest.fixture
def site(s3_server, s3_proxy, tmp_path, monkeypatch):
    monkeypatch.setattr(s3fs.S3FileSystem, "read_timeout", 1)
    return Site(s3_server, s3_proxy, tmp_path, f"team/{tmp_path.name}")


def test_a_site_in_a_store_is_the_same_as_in_a_folder(site, tmp_path):
    found = site.publish(site_of(1))
    assert (found.target, found.pages, found.written, found.removed) == (site.location, 6, 6, 0)
    LocalTarget(tmp_path / "site", 1).publish(site_files(site_of(1), site.cache), site.cache)
    local = {name: data.decode() for name, data in tree_bytes(tmp_path / "site").items()}
    assert site.shown() | {"manifest.json": site.read("manifest.json")} == local
    assert site.target().standing().release == found.release


def test_only_what_changed_is_sent(site):
    texts = site_of(1, pages=12)
    site.publish(texts)
    assert site.proxy.count("put", ".docmill/objects/") == len(set(texts.values()))
    assert site.proxy.count("copy") == len(texts)
    site.proxy.requests.clear()
    site.publish(texts | {"api/p3.html": "edited"})
    assert site.proxy.count("put", ".docmill/objects/") == 1
    assert [r.key.rpartition("/")[2] for r in site.proxy.requests if r.what == "copy"] == ["p3.html"]
    assert site.proxy.count("put", ".docmill/releases/") == 2
    assert site.proxy.count("put", ".docmill/publishing") == 2
    assert site.proxy.count("put") == 1 + 2 + 2 + 1
    site.proxy.requests.clear()
    site.publish(texts | {"api/p3.html": "edited"})
    assert {repr(r).rpartition("/")[2] for r in site.proxy.requests if r.method != "GET"} == {"publishing"}
    site.proxy.requests.clear()
    site.publish(texts | {"api/p3.html": "edited", "api/moved.html": texts["api/p5.html"]})
    assert (site.proxy.count("put", ".docmill/objects/"), site.proxy.count("copy")) == (0, 1)


def test_how_files_are_served(site):
    storage = Storage(site.proxy.address, "us-east-1", "aws:kms:arn:aws:kms:eu-west-1:1:key/docs")
    files = site_files(
        site_of(1) | {"images/A.PNG": "png", "objects.inv": "inv", "llms.txt": "é"}, site.cache
    )
    S3Target(site.location, 1, storage).publish(files, site.cache)
    style = next(name for name in files if name.endswith(".css"))
    expected = {
        "index.html": ("text/html; charset=utf-8", "no-cache"),
        "manifest.json": ("application/json", "no-cache"),
        style: ("text/css; charset=utf-8", "public, max-age=31536000, immutable"),
        "assets/site.js": ("text/javascript; charset=utf-8", "no-cache"),
        "images/A.PNG": ("image/png", "no-cache"),
        "objects.inv": ("application/octet-stream", "no-cache"),
        "llms.txt": ("text/plain; charset=utf-8", "no-cache"),
    }
    for name, headers in expected.items():
        with site.open(name) as answer:
            assert (answer.headers["Content-Type"], answer.headers["Cache-Control"]) == headers, name
    for request in site.proxy.requests:
        assert "x-amz-acl" not in request.headers
        assert not [name for name in request.headers if name.lower().startswith("x-amz-grant")]
        if request.what in ("put", "copy"):
            assert request.headers["x-amz-server-side-encryption"] == "aws:kms"
            assert request.headers["x-amz-server-side-encryption-aws-kms-key-id"].endswith("key/docs")
        if request.what == "put":
            assert "x-amz-checksum-sha256" in request.headers


def test_pages_come_after_what_they_need_and_the_manifest_last(site):
    style = [next(name for name in site_of(version) if name.endswith(".css")) for version in (1, 2)]

    def published(version: int) -> list[str]:
        """What readers see of a publishing, in order; "" is what is deleted."""
        site.proxy.requests.clear()
        site.publish(site_of(version))
        changes = [r for r in site.proxy.requests if r.what in ("copy", "delete") or "manifest" in r.key]
        return [r.key.removeprefix(f"team/{site.folder.name}/") for r in changes if r.what != "get"]

    first = published(1)
    assert set(first[:4]) == {style[0], "assets/site.js", "assets/search.js", "symbols.json"}
    assert first[-1] == "manifest.json"
    second = published(2)
    assert second[:2] == [style[1], "api/only2.html"]
    assert set(second[2:7]) == {"index.html", *(f"api/p{number}.html" for number in range(4))}
    assert set(second[7:9]) == {"assets/site.js", "symbols.json"}
    assert second[9:] == ["manifest.json", ""]  # and what is deleted, api/only1.html


def test_a_damaged_site_is_noticed_and_put_right(site):
    site.publish(site_of(1))
    damage = {"api/p1.html": None, "assets/site.js": None, "manifest.json": None}
    others = {"index.html": b"not what was published", "symbols.json": b"[2]", "manifest.json": b"{"}
    for name, data in [*damage.items(), *others.items()]:
        site.write(name, data)
        site.proxy.requests.clear()
        assert site.target().standing() is None, name
        site.publish(site_of(1))
        assert site.shown() == site_of(1)
        assert site.proxy.count("put", ".docmill/objects/") == 0
        assert site.proxy.count("copy") == (name != "manifest.json")
    assert site.target().standing() is not None


def test_a_deleted_site_is_published_again(site):
    site.publish(site_of(1))
    for key in site.stored():
        site.write(key, None)
    assert site.target().standing() is None
    assert site.target().releases() == []
    site.publish(site_of(1))
    assert site.shown() == site_of(1)


def test_records_that_went_are_written_again(site):
    release = site.publish(site_of(1)).release
    site.write(f".docmill/releases/{release}", b"{")
    assert site.target().standing() is None
    site.publish(site_of(1))
    assert site.target().standing().release == release


def test_a_store_that_cannot_be_asked_is_an_error(site, monkeypatch):
    site.publish(site_of(1))
    monkeypatch.setattr(store, "_ATTEMPTS", 2)
    nowhere = S3Target(site.location, 1, Storage("http://127.0.0.1:9", "us-east-1"))
    with pytest.raises(PublishError, match="Could not connect to the endpoint URL"):
        nowhere.standing()
    with pytest.raises(PublishError, match="Could not connect to the endpoint URL"):
        nowhere.publish(site_files(site_of(1), site.cache), site.cache)
    site.proxy.fault = lambda: "500"
    with pytest.raises(PublishError, match="injected"):
        site.target().standing()
    del site.proxy.fault
    with pytest.raises(SourceError, match=r"out 's3://none/x': there is no such bucket; create it first"):
        S3Target("s3://none/x", 1, Storage(site.proxy.address, "us-east-1")).standing()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    with pytest.raises(PublishError, match="no AWS credentials; set AWS_PROFILE"):
        site.target().standing()


@pytest.mark.parametrize(
    "location",
    [
        "s3://",
        "s3:///x",
        "s3://B/x",
        "s3://key:secret@bucket/x",
        "s3://bucket/a//b",
        "s3://bucket/../x",
        "s3://bucket/x?y",
    ],
)
def test_what_is_no_location_is_refused_and_not_repeated(location):
    with pytest.raises(SourceError, match="out: give s3://bucket/prefix") as refused:
        S3Target(location, 1, Storage())
    assert "secret" not in str(refused.value)


def test_what_docmill_did_not_put_there_is_not_touched(site):
    site.write("mine.txt", b"mine")
    for attempt in (site.target().standing, lambda: site.publish(site_of(1)), site.target().releases):
        with pytest.raises(SourceError, match="holds what docmill did not put there; choose another prefix"):
            attempt()
    assert site.stored() == {"mine.txt"}


def test_other_sites_and_files_below_a_site_stay(site):
    site.publish(site_of(1))
    site.write("inner/index.html", b"another site")
    site.write("mine.txt", b"mine")
    site.publish(site_of(2))
    others = {"inner/index.html": "another site", "mine.txt": "mine"}
    assert site.shown() == site_of(2) | site_styles(1) | others


def test_releases_are_kept_as_long_as_set_and_can_stand_again(site):
    site.kept = 2
    names = [site.publish(site_of(version)).release for version in range(5)]
    releases = site.target().releases()
    assert [release.name for release in releases] == names[:1:-1]
    assert [release.stands for release in releases] == [True, False, False]
    assert {release.pages for release in releases} == {6}
    assert sorted(k.rpartition("/")[2] for k in site.stored() if "/releases/" in k) == sorted(names[2:])
    contents = {hashlib.sha256(t.encode()).hexdigest() for v in (2, 3, 4) for t in site_of(v).values()}
    assert {k.rpartition("/")[2] for k in site.stored() if "/objects/" in k} == contents
    site.proxy.requests.clear()
    assert site.target().rollback(None).name == names[3]
    assert site.proxy.count("put", ".docmill/objects/") == 0
    assert site.shown() == site_of(3) | site_styles(4)  # of the release before, for its readers
    assert site.target().standing().release == names[3]
    assert site.target().rollback(names[2]).name == names[2]
    assert site.target().rollback(None).name == names[3]
    assert site.publish(site_of(4)).release == names[4]
    with pytest.raises(SourceError, match="no release 'nothing'; docmill releases lists what there is"):
        site.target().rollback("nothing")
    gone = hashlib.sha256(site_of(3)["index.html"].encode()).hexdigest()
    site.write(f".docmill/objects/{gone}", None)
    with pytest.raises(PublishError, match=f"release {names[3]} is damaged; choose another"):
        site.target().rollback(names[3])
    assert site.target().standing().release == names[4]


def test_what_never_stood_is_no_release(site, monkeypatch):
    monkeypatch.setattr(store, "_ATTEMPTS", 1)
    monkeypatch.setattr(store, "_READS", 1)
    first = site.publish(site_of(1)).release
    site.kept = 2  # connects anew

    def cut(request) -> None:
        if request.what == "put" and request.key.endswith("manifest.json"):
            raise ConnectionError

    site.proxy.before = cut
    with pytest.raises(PublishError, match=f"out '{site.location}': "):
        site.publish(site_of(2))
    site.proxy.before = lambda request: None
    assert [(release.name, release.stands) for release in site.target().releases()] == [(first, True)]
    with pytest.raises(SourceError, match="no release stood before"):
        site.target().rollback(None)
    assert site.target().rollback(first).name == first  # which puts it right
    assert site.shown() == site_of(1)


def test_a_rollback_that_breaks_off_can_be_done_again(site, monkeypatch):
    monkeypatch.setattr(store, "_ATTEMPTS", 1)
    monkeypatch.setattr(store, "_READS", 1)
    site.kept = 2
    first, second = (site.publish(site_of(version)).release for version in (1, 2))

    def cut(request) -> None:
        if request.what == "put" and request.key.endswith("manifest.json"):
            raise ConnectionError

    for _ in range(2):
        site.proxy.before = cut
        with pytest.raises(PublishError):
            site.target().rollback(None)
        site.proxy.before = lambda request: None
        assert [release.name for release in site.target().releases()] == [second, first]
    assert site.target().rollback(None).name == first
    assert site.shown().items() >= site_of(1).items()


# --- two at once


def test_of_two_publishers_one_waits_or_is_told(site):
    outcomes: list[object] = []

    def publish(version: int) -> None:
        try:
            files = site_files(site_of(version), site.cache)
            outcomes.append(site.target().publish(files, site.cache).release)
        except PublishError as error:
            outcomes.append(error)

    site.kept = 9
    for start in (0, 2):
        threads = [threading.Thread(target=publish, args=(start + n,)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert site.target().standing() is not None
        versions = (start, start + 1)  # which have the same style
        assert site.shown() in [site_of(v) | site_styles(*range(start)) for v in versions]
    failed = [outcome for outcome in outcomes if not isinstance(outcome, str)]
    assert len(outcomes) == 4
    assert len(failed) <= 2
    for error in failed:
        assert str(error).startswith(
            f"out {site.location!r}: another publisher is at work there; build again"
        )


def test_whoever_comes_second_to_the_manifest_is_told(site):
    """The lease is one line of defence, the condition on the manifest the other."""
    site.publish(site_of(1))

    def interfere(request) -> None:
        if request.what == "put" and request.key.endswith("manifest.json"):
            site.proxy.before = lambda request: None
            site.write("manifest.json", b"{}")

    site.proxy.before = interfere
    with pytest.raises(PublishError, match="another publisher wrote there at the same time; build again"):
        site.publish(site_of(2))
    site.publish(site_of(2))
    assert site.target().standing() is not None


def test_a_publisher_that_lost_its_lease_changes_nothing_more(site, monkeypatch):
    monkeypatch.setattr(s3fs.S3FileSystem, "read_timeout", 15)
    site.publish(site_of(1))
    copies: list[object] = []

    def interfere(request) -> None:
        if request.what == "copy":
            if not copies:
                site.write(".docmill/publishing", b'{"name":"another","count":1,"at_work":true}')
                time.sleep(1.7)
            copies.append(request)

    site.proxy.before = interfere
    site.lease_s = 7
    with pytest.raises(PublishError, match=r"another publisher is at work there|no answer in time"):
        site.publish(site_of(2))
    assert len({request.key for request in copies}) == 1
    assert "only2" not in (site.read("manifest.json") or "")
    assert b"another" in site.open(".docmill/publishing").read()


# --- faults


@pytest.fixture
def reader(site):
    """Looks for pages without their assets, over and over."""
    found: list[str] = []
    ended = threading.Event()

    def read() -> None:
        while not ended.wait(0.4):
            found.extend(site.broken())

    thread = threading.Thread(target=read)
    thread.start()
    yield found
    ended.set()
    thread.join()
    assert found == []


def test_faults_on_the_way_lose_nothing(site, reader):
    site.proxy.share, failures = 0.05, []
    for version in range(1, 6):
        try:
            site.publish(site_of(version))
        except PublishError as error:
            failures.append(str(error))
            site.publish(site_of(version))
        assert site.shown().items() >= site_of(version).items()
    site.proxy.share = 0
    assert site.target().standing() is not None
    assert sum(site.proxy.faults.values()) > 5
    assert [release.stands for release in site.target().releases()] == [True, False, False, False]
    assert site.target().rollback(None)
    assert site.shown().items() >= site_of(4).items()


STEPS = {
    "the lease": ("put", ".docmill/publishing", 0),
    "what is to come": ("put", ".docmill/releases/", 0),
    "first content": ("put", ".docmill/objects/", 0),
    "an asset": ("copy", ".css", 0),
    "a new page": ("copy", "api/only", 0),
    "some pages": ("copy", "api/p", 2),
    "the search index": ("copy", "symbols.json", 0),
    "what has come": ("put", ".docmill/releases/", 1),
    "the manifest": ("put", "manifest.json", 0),
    "the first removal": ("delete", "", 0),
    "the last removal": ("delete", "", 2),
}


def test_publishers_that_are_killed_break_nothing(site, reader):
    """Each is killed as it asks for something, before or after it is done; the next publishing completes."""
    site.kept, publishers = 1, Publishers()
    site.publish(site_of(0))
    for number, (what, key, nth) in enumerate(STEPS.values()):
        version, seen, pids = 2 * number + 2, [], []  # every version has another style

        def kill(request, what=what, key=key, nth=nth, seen=seen, pids=pids, number=number) -> None:
            if request.what == what and key in request.key:
                seen.append(request)
                if len(seen) > nth:
                    os.kill(pids[0], signal.SIGKILL)
                    if number % 2:
                        raise ConnectionError

        setattr(site.proxy, "before" if number % 2 else "after", kill)
        pids.append(publishers.start(site, site_of(version)))
        assert publishers.end() == -signal.SIGKILL, (what, key, nth)
        site.proxy.before = site.proxy.after = lambda request: None
        assert site.broken() == []
        site.write(".docmill/publishing", None)  # or else one would have to wait for it to run out
        following = site_of(version + 1) if number % 3 else site_of(version)
        site.publish(following)
        assert site.shown().items() >= following.items()
        assert not {name for name in site.shown() if "only" in name} - following.keys()
    publishers.close()
    assert len(site.target().releases()) == 2


def test_a_publisher_that_died_is_waited_for_and_replaced(site):
    site.publish(site_of(1))
    site.write(".docmill/publishing", b'{"name":"dead","count":7,"at_work":true}')
    site.lease_s = 6
    start = time.monotonic()
    site.publish(site_of(2))
    assert time.monotonic() - start > site.lease_s
    assert site.target().standing() is not None


def test_of_a_publisher_at_work_is_told(site):
    site.publish(site_of(1))
    site.lease_s, ended = 5, threading.Event()

    def work() -> None:
        count = 0
        while not ended.wait(0.3):
            count += 1
            site.write(".docmill/publishing", b'{"name":"other","count":%d,"at_work":true}' % count)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        time.sleep(0.5)
        with pytest.raises(
            PublishError, match="another publisher is at work there; build again when it is done"
        ):
            site.publish(site_of(2))
    finally:
        ended.set()
        thread.join()
    assert site.shown() == site_of(1)
