"""What a reader does with a site: search, walk the tree, switch the theme, read on a phone."""

from __future__ import annotations

from pathlib import Path

import pytest

WORKSHOP = Path(__file__).parent.parent / "testdata" / "workshop"

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}

PAGES = {
    "index": "workshop/index.html",
    "module": "click/api/click.core.html",
    "package": "click/api/click.html",
    "source": "workshop/src/workshop/tools.py.html",
    "markdown": "workshop/doc/docs/guide.md.html",
    "modules": "click/modules.html",
}


def results(page) -> list[str]:
    return page.locator("#dm-results .what").all_inner_texts()


def search_for(page, text: str) -> list[str]:
    """Type into the search, from wherever the page has the focus; the names found."""
    if page.evaluate("document.activeElement.id") == "dm-search":
        page.fill("#dm-search", "")
    else:
        page.keyboard.press("/")
    page.keyboard.type(text)
    wait_until(page, "/result|Nothing/.test(document.querySelector('#dm-count').textContent)")
    return results(page)


def chosen(page) -> str:
    """The name that the search field says is active."""
    number = page.get_attribute("#dm-search", "aria-activedescendant")
    assert page.get_attribute(f"#{number}", "aria-selected") == "true"
    assert page.locator("#dm-results [aria-selected=true]").count() == 1
    return page.inner_text(f"#{number} .what")


def wait_until(page, condition: str) -> None:
    """Playwright's own waiting evaluates strings in the page, which the page's policy forbids."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(condition)


def is_in_view(page, element_id: str) -> bool:
    box = page.locator(f"[id='{element_id}']").bounding_box()
    return 0 <= box["y"] < page.viewport_size["height"] / 2


# --- search


def test_search_from_the_keyboard_leads_to_the_symbol(opened, base):
    page = opened(base + "workshop/index.html")
    found = search_for(page, "strike")
    assert found[0] == "Hammer.strike"
    assert found[-1] == "test_strike"
    assert page.get_attribute("#dm-search", "aria-expanded") == "true"
    assert chosen(page) == found[0]
    page.keyboard.press("ArrowDown")
    assert chosen(page) == found[1]
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    assert chosen(page) == found[-1]
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url("**/api/workshop.tools.html#Hammer.strike")
    page.wait_for_timeout(200)
    assert is_in_view(page, "Hammer.strike")


def test_search_finds_by_kind_path_part_and_summary(opened, disk):
    page = opened(disk + "workshop/api/workshop.html")
    assert search_for(page, "class:tool")[0] == "Tool"
    assert page.locator("#dm-results .kind").all_inner_texts() == ["class"] * page.locator(".result").count()
    assert "put" in search_for(page, "store/shelf put")[0]
    assert search_for(page, "shelf.put")[0] == "Shelf.put"
    assert search_for(page, "toolerror")[0] == "ToolError"
    assert search_for(page, "error")[0] == "ToolError"
    assert "Tool.heavy" in search_for(page, "both hands")
    assert search_for(page, "guide")[0] == "docs/guide.md"
    assert search_for(page, "no such thing") == []


@pytest.mark.parametrize("device", [{}, PHONE], ids=["desktop", "phone"])
def test_search_marks_what_no_human_wrote(opened, server, device):
    page = opened(server + "written/index.html", **device)
    page.focus("#dm-search")
    assert search_for(page, "undocumented") == ["undocumented"]
    where = page.locator(".result .where")
    mark = where.locator(".mark.model")
    assert mark.inner_text() == "model"
    assert where.inner_text().partition("model")[2].strip()  # what it wrote stands behind
    inside, around = mark.bounding_box(), where.bounding_box()
    assert inside["x"] + inside["width"] <= around["x"] + around["width"]
    assert search_for(page, "sharpen")[0] == "sharpen"
    assert page.locator("#dm-option-0 .mark").count() == 0  # a human's
    assert search_for(page, "Tool.__init__")[0] == "Tool.__init__"
    assert page.locator("#dm-option-0 .mark.derived").count() == 1


def test_search_shows_the_characters_of_a_text(opened, disk):
    page = opened(disk + "workshop/index.html")
    assert search_for(page, "class:plan")[0] == "Plan"
    assert "</script><script>alert(1)</script>" in page.inner_text("#dm-option-0 .where")


def test_escape_empties_then_leaves_the_search(opened, disk):
    page = opened(disk + "workshop/index.html")
    page.keyboard.press("s")
    page.keyboard.type("shelf")
    page.wait_for_selector(".result")
    page.keyboard.press("Escape")
    assert page.input_value("#dm-search") == ""
    assert not page.is_visible("#dm-found")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement === document.body")


def test_search_finds_within_the_page_it_is_on(opened, disk):
    page = opened(disk + "click/api/click.core.html")
    assert search_for(page, "Context.invoke")[0] == "Context.invoke"
    page.keyboard.press("Enter")
    page.wait_for_url("**#Context.invoke")
    page.wait_for_timeout(200)
    assert is_in_view(page, "Context.invoke")
    assert not page.is_visible("#dm-found")


# --- getting about


def test_the_tree_opens_and_shows_where_one_is(opened, base):
    page = opened(base + "workshop/index.html")
    toggle = page.get_by_role("button", name="Modules in store")
    assert toggle.get_attribute("aria-expanded") == "false"
    toggle.click()
    page.locator("#dm-nav").get_by_role("link", name="shelf").click()
    page.wait_for_url("**/api/workshop.store.shelf.html")
    assert page.inner_text("#dm-nav [aria-current=page]") == "shelf"
    page.keyboard.press("Tab")
    page.focus("#dm-nav [aria-current=page]")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.closest('div').innerText") == "store"
    page.keyboard.press("ArrowLeft")
    assert page.get_by_role("button", name="Modules in store").get_attribute("aria-expanded") == "false"
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.closest('div').innerText") == "tests"


def test_contents_follow_the_scroll(opened, disk):
    page = opened(disk + "click/api/click.core.html#Context.invoke")
    wait_until(page, "document.querySelector('#dm-toc [aria-current]')?.hash === '#Context.invoke'")
    page.locator("#dm-toc").get_by_role("link", name="Group", exact=True).click()
    wait_until(page, "document.querySelector('#dm-toc [aria-current]')?.hash === '#Group'")
    assert page.locator("#dm-toc").get_by_role("link", name="add_command").is_visible()
    page.mouse.move(600, 500)
    page.mouse.wheel(0, 4000)
    wait_until(page, "document.querySelector('#dm-toc [aria-current]')?.hash.startsWith('#Group.')")
    assert page.locator("#dm-toc [aria-current]").is_visible()


def test_breadcrumbs_and_types_are_links(opened, disk):
    page = opened(disk + "workshop/api/workshop.store.shelf.html")
    page.locator("[id='Shelf.put'] .sig").get_by_role("link", name="Tool").click()
    page.wait_for_url("**/api/workshop.tools.html#Tool")
    page.locator(".crumbs").get_by_role("link", name="workshop").click()
    page.wait_for_url("**/api/workshop.html")


def test_source_links_lead_to_the_line(opened, disk):
    page = opened(disk + "workshop/api/workshop.tools.html")
    page.locator("[id='Tool.use'] .source").click()
    page.wait_for_url("**/src/workshop/tools.py.html#L*")
    line = page.url.rpartition("#")[2]
    assert page.evaluate("document.querySelector(':target').id") == line
    page.locator("#L12").click(position={"x": 5, "y": 5})
    page.wait_for_url("**#L12")


def test_a_source_url_is_filled_in(opened, disk):
    lines = (WORKSHOP / "workshop" / "tools.py").read_text().splitlines()
    line = lines.index("class ToolError(Exception):") + 1
    href = opened(disk + "hosted/api/workshop.tools.html").get_attribute("[id='ToolError'] .source", "href")
    assert href == f"https://code.example/HEAD/workshop/tools.py#L{line}"


def test_a_diagram_names_its_parts(opened, disk):
    page = opened(disk + "workshop/index.html")
    assert page.locator(".diagram ol a").all_inner_texts() == ["store", "tools", "units"]
    page.get_by_text("The same as text").click()
    assert "store uses tools, units" in page.inner_text("#dm-drawing-text")


# --- theme, phone, no scripts


def test_the_theme_follows_the_system_until_chosen_and_is_kept(opened, base):
    page = opened(base + "workshop/index.html", color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    page.click("#dm-theme")
    light = page.evaluate(background)
    assert light != dark
    assert page.get_attribute("#dm-theme", "aria-label").startswith("Theme: light")
    page.goto(base + "workshop/api/workshop.tools.html")
    assert page.evaluate(background) == light
    page.reload()
    assert page.evaluate(background) == light
    page.click("#dm-theme")
    page.click("#dm-theme")
    assert page.get_attribute("#dm-theme", "aria-label").startswith("Theme: system")
    page.reload()
    assert page.evaluate(background) == dark


def test_drawers_on_a_phone(opened, base):
    page = opened(base + "click/api/click.core.html", **PHONE)
    assert not page.is_visible("#dm-nav")
    page.click("#dm-menu")
    page.wait_for_selector("#dm-nav", state="visible")
    assert page.evaluate("document.activeElement.closest('#dm-nav') !== null")
    page.keyboard.press("Escape")
    page.wait_for_selector("#dm-nav", state="hidden")
    assert page.evaluate("document.activeElement.id") == "dm-menu"
    page.click("#dm-contents")
    page.locator("#dm-toc").get_by_role("link", name="Parameter", exact=True).click()
    page.wait_for_url("**#Parameter")
    page.wait_for_selector("#dm-toc", state="hidden")
    page.click("#dm-menu")
    page.locator("#dm-nav").get_by_role("link", name="types").click()
    page.wait_for_url("**/api/click.types.html")


@pytest.mark.parametrize("address", PAGES.values(), ids=PAGES)
def test_nothing_is_wider_than_a_phone(opened, disk, address):
    page = opened(disk + address, **PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_usable_without_scripts(opened, disk):
    page = opened(disk + "workshop/api/workshop.tools.html", java_script_enabled=False)
    assert not page.is_visible("#dm-search")
    page.locator("[id='Tool.use'] .source").click()
    page.wait_for_url("**/src/workshop/tools.py.html#L*")
    page.locator("#dm-nav a").click()
    page.wait_for_url("**/modules.html")
    page.get_by_role("link", name="workshop.store.shelf").click()
    assert page.locator("[id='Shelf.put']").is_visible()


def test_no_page_asks_for_more_than_it_has(opened, base, sites):
    page = opened(base + "workshop/index.html")
    pages = sorted((sites / "workshop").resolve().rglob("*.html"))
    assert len(pages) > 15
    for file in pages:
        page.goto(f"{base}workshop/{file.relative_to((sites / 'workshop').resolve()).as_posix()}")
        broken = page.evaluate(
            "[...document.querySelectorAll('a[href*=\"#\"]')].filter(a => a.pathname === location.pathname"
            " && !document.getElementById(decodeURIComponent(a.hash.slice(1)))).map(a => a.hash)"
        )
        assert broken == [], file


# --- accessibility


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("address", PAGES.values(), ids=PAGES)
def test_axe_finds_nothing_on_pages(opened, server, address, theme):
    assert violations(opened(server + address, color_scheme=theme)) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("device", [{}, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize(("site", "text"), [("click", "option"), ("written", "undocumented")])
def test_axe_finds_nothing_in_search_results(opened, server, theme, device, site, text):
    page = opened(f"{server}{site}/index.html", color_scheme=theme, **device)
    page.focus("#dm-search")
    page.keyboard.type(text)
    page.wait_for_selector(".result")
    assert violations(page) == []


def violations(page) -> list[str]:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    found = axe.Axe().run(page).response["violations"]
    return [f"{v['id']}: {node['target']} {node['html'][:120]}" for v in found for node in v["nodes"]]
