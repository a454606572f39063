"""The report of each site at the server, and the page that lists all sites."""

from __future__ import annotations

import re

import pytest

from flows.settings import operator_file, resolve_settings
from tasks.documents import SourceError


@pytest.fixture
def configured(home, git_repository, tmp_path, server):
    """Two sites in the operator's file, one of them with an address; further settings are given."""
    from prefect.client.orchestration import get_client

    from flows.on_push import limit_of

    def configure(settings: str, url: str | None = "https://docs.example.org/{branch}/a") -> None:
        operator_file().parent.mkdir(parents=True, exist_ok=True)
        operator_file().write_text(
            f'{settings}\n[[repositories]]\nname = "listed.one"\nsource = "{git_repository.url}"\n'
            f'branches = ["main", "new/<b>"]\nout = "{tmp_path}/site&-{{branch}}"\nmodel = "none"\n'
            + (f'url = "{url}"\n' if url else "")
        )

    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(limit_of("listed.one"), 1)
    return configure


def published(**parameters):
    from flows.on_push import on_push

    state = on_push("listed.one", **parameters, return_state=True)
    assert state.name in {"Published", "Unchanged"}
    return state


def rows(page: str) -> list[list[str]]:
    """The text of the table's cells, as a reader sees it."""
    found = re.findall(r"<tr.*?</tr>", page, re.DOTALL)[1:]
    return [
        [" ".join(re.sub(r"<[^>]*>", "", cell).split()) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
        for row in found
    ]


def last_report(key: str) -> str:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        asked = {"artifacts": {"key": {"any_": [key]}}}
        found = client.request("POST", "/artifacts/filter", json=asked).json()
    return max(found, key=lambda one: one["created"])["data"]


def test_sites_are_listed_as_they_are_published(configured, git_repository, tmp_path):
    configured(f'index = "{tmp_path}/index"')
    first = git_repository.push("first")
    published()
    page = (tmp_path / "index" / "index.html").read_text()
    main, new = rows(page)
    assert main[0] == "listed.one main"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", main[1])
    assert main[2:4] == [first[:12], "4"] and main[4].endswith("%")
    assert new == ["listed.one new/&lt;b&gt;", "never published"]
    assert '<a href="https://docs.example.org/main/a">' in page
    assert "<b>" not in page

    git_repository.push("second", branch="new/<b>")
    published(branch="new/<b>")
    page = (tmp_path / "index" / "index.html").read_text()
    assert [len(row) for row in rows(page)] == [5, 5]
    assert '<a href="https://docs.example.org/new-%3Cb%3E/a">' in page

    before = page
    published()  # changes nothing, so that the index stays as it is
    assert (tmp_path / "index" / "index.html").read_text() == before
    second = git_repository.push("third")
    published()
    assert rows((tmp_path / "index" / "index.html").read_text())[0][2] == second[:12]


def test_of_two_runs_that_make_the_index_at_once_none_is_missing(
    configured, git_repository, tmp_path, monkeypatch
):
    from flows import site_index

    made = site_index.index_files
    others = iter(["new/<b>"])

    def index_files(*arguments):
        files = made(*arguments)
        for branch in others:  # between looking and publishing, another run does both
            published(branch=branch)
        return files

    configured(f'index = "{tmp_path}/index"')
    git_repository.push("first")
    git_repository.push("second", branch="new/<b>")
    monkeypatch.setattr(site_index, "index_files", index_files)
    published()
    assert next(others, None) is None
    page = (tmp_path / "index" / "index.html").read_text()
    assert [len(row) for row in rows(page)] == [5, 5]


def test_without_an_address_the_place_is_shown_as_text(configured, git_repository, tmp_path):
    configured(f'index = "{tmp_path}/index"', url=None)
    git_repository.push("first")
    published()
    page = (tmp_path / "index" / "index.html").read_text()
    assert f"{tmp_path}/site&amp;-main" in page
    assert re.findall(r'href="([^"]*)"', re.sub(r"<link.*?>", "", page)) == ["#dm-main", "index.html"]


def test_the_index_goes_to_a_store_as_well(configured, git_repository, tmp_path, s3_server, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    from flows.pipeline import target_of

    place = f"s3://docs/{tmp_path.name}/index"
    store = f's3_endpoint = "http://127.0.0.1:{s3_server}"\ns3_region = "eu-west-1"\n'
    configured(f'{store}index = "{place}"')
    git_repository.push("first")
    published()
    settings = resolve_settings(None, {"out": place}).settings
    assert {"index.html"} == {name for name in target_of(settings).standing().files if "/" not in name}


def test_where_no_index_can_be_made_the_site_is_published_nevertheless(configured, git_repository, tmp_path):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "file").touch()
    configured(f'index = "{tmp_path}/index"')
    git_repository.push("first")
    assert published().name == "Published"
    assert [file.name for file in (tmp_path / "index").iterdir()] == ["file"]


def test_the_report_links_to_the_site_and_holds_its_figures(configured, git_repository, tmp_path):
    from flows.figures import SiteName, last_told

    configured("")
    revision = git_repository.push("first")
    published(rebuild=True)
    site = SiteName("listed.one", "main")
    text = last_report(site.key)
    assert "→ [https://docs.example.org/main/a](https://docs.example.org/main/a)" in text
    figures = last_told([site])[site].figures
    assert (figures.revision, figures.pages, figures.slots["human"]) == (revision, 4, 1)
    assert list(figures.stages) == ["ingest", "chunk", "generate", "render", "gate", "publish"]
    configured("", url=None)
    published(rebuild=True)
    text = last_report(site.key)
    assert f"→ `{tmp_path}/site&-main`" in text and "](" not in text


def test_a_run_that_publishes_nothing_reports_why(configured, git_repository, monkeypatch):
    from flows.on_push import on_push

    monkeypatch.setattr("flows.on_push._AGAIN_AFTER_S", ())
    configured("")
    git_repository.push("3`")  # is no name, and no backtick ends the quotation
    assert on_push("listed.one", return_state=True).is_failed()
    text = last_report("failed")
    assert text.startswith(
        "**Nothing was published**: `source 'bare': holds no Python file that can be parsed"
    )
    assert "- skipped `a.py`: syntax, line 1: " in text


def test_keys_of_reports_are_told_apart():
    from flows.figures import SiteName

    sites = [SiteName("a", "b-c"), SiteName("a-b", "c"), SiteName("a", "B-c"), SiteName("a.b", "c" * 200)]
    assert len({site.key for site in sites}) == 4
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", site.key) for site in sites)


@pytest.mark.parametrize(
    ("settings", "url", "said"),
    [
        ('index = "relative"', None, "index: 'relative': give an absolute path"),
        ('index = "{tmp}/site&-main/"', None, "index: is inside of the out of 'listed.one', or holds it"),
        ('index = "{tmp}/site&-main/all"', None, "index: is inside of the out of 'listed.one', or holds it"),
        ('index = "{tmp}"', None, "index: is inside of the out of 'listed.one', or holds it"),
        ("", "javascript:alert(1)", "give the http(s) address"),
        ("", "https://user:secret@a/{branch}", "give the http(s) address"),
        ("", "https://a/{branch})[b](c", "give the http(s) address"),
        ("", "https://a/b", "its url needs a {branch}"),
        ('failure_url = "https://a"', None, "'failure_url' is a secret: set it in the environment"),
        ('log_format = "xml"', None, "log_format: "),
    ],
)
def test_settings_that_cannot_be_used(configured, tmp_path, settings, url, said):
    configured(settings.replace("{tmp}", str(tmp_path)), url=url)
    with pytest.raises(SourceError) as error:
        resolve_settings(None, {})
    assert said in str(error.value)
    assert "secret@" not in str(error.value)
