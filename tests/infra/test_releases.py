"""`docmill releases` and `docmill rollback`, on a folder and on a store, after builds as users start them."""

from __future__ import annotations

import pytest

from infra.cli import main
from tests.s3 import Proxy, Site

SECRET = "secret-of-the-operator"


@pytest.fixture(params=["folder", "store"])
def out(request, s3_server, tmp_path, home, monkeypatch):
    """Where sites go, and how a reader gets a page of it."""
    if request.param == "folder":
        yield str(tmp_path / "site"), lambda name: (tmp_path / "site" / name).read_text()
        return
    proxy = Proxy(s3_server)
    settings = home / "config" / "docmill" / "docmill.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text(
        f's3_endpoint = "{proxy.address}"\ns3_region = "eu-west-1"\ns3_encryption = "AES256"\n'
    )
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-of-the-operator")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    site = Site(s3_server, proxy, tmp_path, tmp_path.name)
    yield site.location, site.read
    assert {r.headers["x-amz-server-side-encryption"] for r in proxy.requests if r.what == "copy"} == {
        "AES256"
    }
    proxy.close()


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "a.py").write_text("def first(x):\n    '''Text.'''\n")
    return folder


def test_an_earlier_release_stands_again_until_the_next_build(source, out, docmill, capsys):
    where, read = out
    first = docmill(source, out=where)[1]["published"]["release"]
    (source / "a.py").write_text("def second(x):\n    '''Text.'''\n")
    status, report, printed = docmill(source, out=where)
    second = report["published"]["release"]
    assert (status, report["pages"]["written"]) == (0, 2)
    assert printed.out.endswith(f"{where}/index.html\n")
    assert "second" in read("api/a.html")

    def listed() -> list[list[str]]:
        assert main(["releases", "--out", where]) == 0
        return [line.split("  ") for line in capsys.readouterr().out.splitlines()]

    assert [(line[0], line[2:]) for line in listed()] == [
        (second, ["4 pages", "stands"]),
        (first, ["4 pages"]),
    ]
    assert main(["rollback", "--out", where]) == 0
    assert capsys.readouterr().out.startswith(f"{first} stands, 4 pages; the next build publishes anew\n")
    assert "first" in read("api/a.html")
    assert [line[0] for line in listed()] == [first, second]
    assert main(["rollback", "--out", where, "0000"]) == 2
    assert capsys.readouterr().err == (
        f"docmill: out {where!r}: no release '0000'; docmill releases lists what there is\n"
    )
    assert docmill(source, out=where)[1]["published"]["release"] == second
    assert "second" in read("api/a.html")
    assert [line[0] for line in listed()] == [second, first]


def test_what_is_as_it_was_is_built_no_more_and_an_empty_checkout_replaces_nothing(source, out, docmill):
    where, read = out
    everything = [docmill(source, out=where)]
    everything.append(docmill(source, out=where))
    assert everything[1][0] == 0
    assert [stage["name"] for stage in everything[1][1]["stages"]] == ["ingest"]
    page = read("api/a.html")
    (source / "a.py").unlink()
    everything.append(docmill(source, out=where))
    assert everything[2][0] == 2
    assert "holds no" in everything[2][1]["error"]
    assert read("api/a.html") == page
    assert SECRET not in repr(everything)


def test_where_nothing_was_published_there_is_nothing_to_roll_back_to(tmp_path, capsys):
    where = str(tmp_path / "site")
    assert main(["releases", "--out", where]) == 0
    assert capsys.readouterr().err == f"{where}: no release\n"
    assert main(["rollback", "--out", where]) == 2
    assert "no release stood before" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_release_that_was_changed_does_not_stand_again(source, tmp_path, docmill, capsys):
    first = docmill(source)[1]["published"]["release"]
    (source / "a.py").write_text("x = 1\n")
    docmill(source)
    (tmp_path / ".site.docmill" / "releases" / first / "index.html").write_text("changed")
    assert main(["rollback", "--out", str(tmp_path / "site")]) == 1
    assert f"release {first} is damaged; choose another" in capsys.readouterr().err
