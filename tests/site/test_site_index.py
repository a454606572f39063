"""The page that lists all sites, in a browser: on a desk, on a phone, and to whoever cannot see it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tasks.render.site_index import Listed, index_files
from tasks.result_cache import ResultCache
from tests.site.test_site import PHONE, violations

LONG = "a-repository-whose-name-is-as-long-as-names-may-be-and-has-no-space"
SITES = [
    Listed(
        *("click", "main", "https://docs.example.org/click/main/", "/srv/docs/click/main"),
        revision="0123456789abcdef0123456789abcdef01234567",
        published=datetime(2026, 11, 26, 2, 3, tzinfo=UTC),
        pages=1_234,
        share_with_text=0.82,
    ),
    Listed("flask", "main", "https://docs.example.org/flask/", "/srv/docs/flask"),
    Listed(LONG, "a/branch/" + "x" * 80, None, f"s3://docs/{'y' * 120}"),
    Listed(
        *("<script>alert(1)</script>", "b\u202e", None, "/srv/docs/<b>"),
        published=datetime(2026, 1, 2, tzinfo=UTC),
    ),
]


@pytest.fixture(scope="module")
def index(sites, server) -> str:
    folder = sites / "all"
    folder.mkdir()
    cache = ResultCache(f"sqlite:///{sites}/results.sqlite")
    files = index_files(SITES, cache)
    for name, file in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(cache.get_many([file.key])[file.key])
    cache.close()
    return f"{server}all/index.html"


@pytest.mark.parametrize("device", [{}, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_and_axe_finds_nothing(opened, index, device, theme):
    page = opened(index, color_scheme=theme, **device)
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0
    assert violations(page) == []


@pytest.mark.parametrize("device", [{}, PHONE], ids=["desktop", "phone"])
def test_it_is_a_table_of_all_sites(opened, index, device):
    page = opened(index, **device)
    assert page.get_by_role("row").count() == 1 + len(SITES)
    click, flask, long, hostile = (page.get_by_role("row").nth(number) for number in (1, 2, 3, 4))
    assert click.get_by_role("link").get_attribute("href") == "https://docs.example.org/click/main/"
    cells = [" ".join(text.split()) for text in click.get_by_role("cell").all_inner_texts()]
    assert cells == ["2026-11-26 02:03 UTC", "0123456789ab", "1,234", "82%"]
    assert flask.get_by_role("link").count() == 0  # there is nothing yet to lead to
    assert long.get_by_role("cell").all_inner_texts() == ["never published"]
    assert "<script>alert(1)</script>" in hostile.get_by_role("rowheader").inner_text()
