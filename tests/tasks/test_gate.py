"""The gate against pages that say what is not so, by the thousand, and against pages that are right."""

from __future__ import annotations

import datetime
import hashlib
import importlib.util
import json
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from flows.pipeline import Pipeline
from flows.settings import Settings
from tasks.documents import Checked, Finding, SiteFile, SourceError
from tasks.gate import check_site
from tasks.generate.asking import RawText
from tasks.generate.writer import Writer
from tasks.ingest import open_source
from tasks.waivers import judge, read_waivers

ROUNDS = 8

# --- corruptions: each makes one thing wrong on a page, or gives None where the page has no such thing

Corruption = Callable[[str, random.Random], str | None]

ROW = re.compile(r"<tr><th><code>.*?</tr>\n", re.DOTALL)
PARAMETERS = re.compile(r'<table class="params">.*?</table>\n', re.DOTALL)
SECTION = re.compile(r'<section class="symbol (\w+)" id="([^"]+)">')
SIGNATURE = re.compile(r'(<pre class="sig">)(.*?)(</pre>)', re.DOTALL)


def replaced(html: str, match: re.Match[str], group: int, text: str) -> str:
    return html[: match.start(group)] + text + html[match.end(group) :]


def one_of(pattern: str | re.Pattern[str], html: str, rng: random.Random) -> re.Match[str] | None:
    found = list(
        re.finditer(pattern, html, re.DOTALL) if isinstance(pattern, str) else pattern.finditer(html)
    )
    return rng.choice(found) if found else None


def renamed_parameter(html: str, rng: random.Random) -> str | None:
    match = one_of(r"<tr><th><code>(\**\w+)</code>", html, rng)
    return replaced(html, match, 1, f"{match[1]}_of_old") if match else None


def missing_parameter(html: str, rng: random.Random) -> str | None:
    table = one_of(PARAMETERS, html, rng)
    row = one_of(ROW, table[0], rng) if table else None
    return replaced(html, table, 0, table[0].replace(row[0], "", 1)) if table and row else None


def missing_table(html: str, rng: random.Random) -> str | None:
    table = one_of(PARAMETERS, html, rng)
    return replaced(html, table, 0, "") if table else None


def swapped_parameters(html: str, rng: random.Random) -> str | None:
    tables = [t for t in PARAMETERS.finditer(html) if len(ROW.findall(t[0])) > 1]
    if not tables:
        return None
    table = rng.choice(tables)
    first, second = rng.sample(ROW.findall(table[0]), 2)
    if first == second:
        return None
    swapped = table[0].replace(first, "\0").replace(second, first).replace("\0", second)
    return replaced(html, table, 0, swapped)


def extra_parameter(html: str, rng: random.Random) -> str | None:
    table = one_of(PARAMETERS, html, rng)
    row = '<tr><th><code>timeout</code></th><td><span class="req">required</span></td></tr>\n</table>'
    return replaced(html, table, 0, table[0].replace("</table>", row)) if table else None


def parameter_of_an_attribute(html: str, rng: random.Random) -> str | None:
    match = one_of(r'<section class="symbol (?:attribute|class)" id=.*?</h\d>\n()', html, rng)
    row = '<table class="params"><tr><th><code>x</code></th><td></td></tr></table>'
    return replaced(html, match, 1, row) if match else None


def wrong_default(html: str, rng: random.Random) -> str | None:
    match = one_of(r'<span class="def">= <code>(.*?)</code></span>', html, rng)
    return replaced(html, match, 1, "4711") if match else None


def lost_default(html: str, rng: random.Random) -> str | None:
    match = one_of(r'(<span class="def">= <code>.*?</code></span>)', html, rng)
    return replaced(html, match, 1, '<span class="req">required</span>') if match else None


def wrong_type(html: str, rng: random.Random) -> str | None:
    match = one_of(
        r"<tr><th><code>\**\w+</code>(?: <small>[\w ]+</small>)?</th><td><code>(.*?)</code>", html, rng
    )
    return replaced(html, match, 1, "Quaternion") if match else None


def wrong_kind(html: str, rng: random.Random) -> str | None:
    match = one_of(r"<tr><th><code>\w+</code>()</th>", html, rng)
    return replaced(html, match, 1, " <small>keyword only</small>") if match else None


def renamed_in_signature(html: str, rng: random.Random) -> str | None:
    match = one_of(r'<pre class="sig">[^<]*def \w+\((?:self, |cls, )?(\w+)[^<]*</pre>', html, rng)
    return replaced(html, match, 1, f"{match[1]}2") if match else None


def lost_in_signature(html: str, rng: random.Random) -> str | None:
    match = one_of(r'<pre class="sig">[^<]*def \w+\((?:self, |cls, )?(\w+, )[^<]*</pre>', html, rng)
    return replaced(html, match, 1, "") if match else None


def wrong_base(html: str, rng: random.Random) -> str | None:
    match = one_of(r'<pre class="sig">class \w+\((.*?)\)</pre>', html, rng)
    return replaced(html, match, 1, "Singleton") if match else None


def wrong_value(html: str, rng: random.Random) -> str | None:
    match = one_of(r'<pre class="sig">\w+ = ([^<]{1,60})</pre>', html, rng)
    return replaced(html, match, 1, "'no such value'") if match and match[1] != "…" else None


def wrong_result(html: str, rng: random.Random) -> str | None:
    match = one_of(r"<dl class=\"facts\"><dt>(?:Returns|Yields) <code>(.*?)</code></dt>", html, rng)
    return replaced(html, match, 1, "Quaternion") if match else None


def lost_result(html: str, rng: random.Random) -> str | None:
    match = one_of(r"<dl class=\"facts\"><dt>(?:Returns|Yields)( <code>.*?</code>)</dt>", html, rng)
    return replaced(html, match, 1, "") if match else None


def lost_value(html: str, rng: random.Random) -> str | None:
    match = one_of(r'<pre class="sig">\w+(?:: [^<=]+)?( = [^<]{1,60})</pre>', html, rng)
    return replaced(html, match, 1, "") if match else None


def renamed_heading(html: str, rng: random.Random) -> str | None:
    match = one_of(
        r'<section [^>]*>\n<h\d class="name">.*?<a href="#[^"]*">(?:<span>[^<]*</span>)?(\w+)</a>', html, rng
    )
    return replaced(html, match, 1, "renamed") if match else None


def another_kind(html: str, rng: random.Random) -> str | None:
    match = one_of(SECTION, html, rng)
    kinds = {"class", "function", "method", "property", "attribute"} - {match[1]} if match else ()
    return replaced(html, match, 1, rng.choice(sorted(kinds))) if match else None


def generator_or_not(html: str, rng: random.Random) -> str | None:
    match = one_of(r"<dl class=\"facts\"><dt>(Returns|Yields)", html, rng)
    return replaced(html, match, 1, {"Returns": "Yields", "Yields": "Returns"}[match[1]]) if match else None


def invented_exception(html: str, rng: random.Random) -> str | None:
    match = one_of(r'<section class="symbol (?:function|method)" id=.*?</pre>\n()', html, rng)
    raises = '<dl class="facts"><dt>Raises</dt><dd><code>FlatTyreError</code></dd></dl>'
    return replaced(html, match, 1, raises) if match else None


def dead_page(html: str, rng: random.Random) -> str | None:
    match = one_of(r'<a href="((?!https?:|mailto:)[^"#]+)(?:#[^"]*)?"', html, rng)
    return replaced(html, match, 1, "no.such.module.html") if match else None


def dead_anchor(html: str, rng: random.Random) -> str | None:
    match = one_of(r'<a href="(?:(?!https?:|mailto:)[^"#]*)#([^"]+)"', html, rng)
    return replaced(html, match, 1, rng.choice(["no_such_name", "Gone", "Goner"])) if match else None


def stale_line(html: str, rng: random.Random) -> str | None:
    match = one_of(r'<section [^>]*>\n<h\d class="name">.*?class="source" href="[^"#]*#L(\d+)"', html, rng)
    return replaced(html, match, 1, str(int(match[1]) + rng.choice([-1, 1]))) if match else None


def source_of_another_file(html: str, rng: random.Random) -> str | None:
    match = re.search(r'<h1>.*class="source" href="([^"]+)"', html)
    return replaced(html, match, 1, "../src/networkx/convert.py.html") if match else None


def renamed_symbol(html: str, rng: random.Random) -> str | None:
    match = one_of(SECTION, html, rng)
    return replaced(html, match, 2, f"{match[2]}_renamed") if match else None


def symbol_of_another_page(html: str, rng: random.Random) -> str | None:
    match = re.search(r'()(?:<p class="legend">|<footer>)', html)
    section = (
        '<section class="symbol function" id="launch_of_rockets"><h3 class="name"><a class="source" '
        'href="#dm-main" data-line="3">source</a></h3>'
        '<pre class="sig">def launch_of_rockets()</pre></section>'
    )
    return replaced(html, match, 1, section) if match else None


def invented_name(rng: random.Random) -> str:
    """A name that nobody has, in one of the shapes in which code stands in a sentence."""
    a, b = ("".join(rng.choices("bcdfgklmnprtvz", k=5)) for _ in range(2))
    calls = (f"{a}()", f"{a}.{b}()", f"{a}_{b}(x)")
    joined = (f"{a}_{b}", f"_{a}", f"__{a}__", f"{a.upper()}_{b.upper()}", f"{a}.{b}")
    capitals = (a + b.capitalize(), a.capitalize() + b.capitalize(), a.upper() + b)
    return rng.choice((*calls, *joined, *capitals, f"<code>{a}</code>", f"<code>{a} + {b}</code>"))


def invented_identifier(html: str, rng: random.Random) -> str | None:
    match = one_of(r'<section class="symbol \w+" id=.*?</h\d>\n()', html, rng)
    said = f"Calls {invented_name(rng)} twice."
    text = f'<div class="summary"><p>{said} <span class="mark model">model</span></p></div>\n'
    return replaced(html, match, 1, text) if match else None


def name_in_a_models_text(html: str, rng: random.Random) -> str | None:
    top = max(html.find("<section class="), 0)  # above it is the module's own text, which others list
    match = one_of(r'<(?:p|td|dd)>[^<]*() <span class="mark model">', html[top:], rng)
    changed = replaced(html[top:], match, 1, f" It is {invented_name(rng)}.") if match else ""
    return html[:top] + changed if top and match else None


def another_summary(html: str, rng: random.Random) -> str | None:
    match = one_of(r'</code></a></th><td>([^<]+) <span class="mark model">', html, rng)
    return replaced(html, match, 1, "Return what was not said.") if match else None


CORRUPTIONS: dict[Corruption, set[str]] = {
    renamed_parameter: {"unknown-parameter"},
    missing_parameter: {"missing-parameter"},
    missing_table: {"missing-parameter"},
    swapped_parameters: {"parameter-order"},
    extra_parameter: {"unknown-parameter"},
    parameter_of_an_attribute: {"unknown-parameter"},
    wrong_default: {"wrong-parameter"},
    lost_default: {"wrong-parameter"},
    wrong_type: {"wrong-parameter"},
    wrong_kind: {"wrong-parameter"},
    renamed_in_signature: {"wrong-signature"},
    lost_in_signature: {"wrong-signature"},
    wrong_base: {"wrong-signature"},
    wrong_value: {"wrong-signature"},
    wrong_result: {"wrong-returns"},
    lost_result: {"wrong-returns"},
    lost_value: {"wrong-signature"},
    renamed_heading: {"wrong-signature"},
    another_kind: {"wrong-signature"},
    generator_or_not: {"wrong-returns"},
    invented_exception: {"unknown-exception"},
    dead_page: {"dead-link", "stale-line"},
    dead_anchor: {"dead-link", "stale-line"},
    stale_line: {"stale-line"},
    source_of_another_file: {"stale-line", "dead-link"},
    renamed_symbol: {"unknown-symbol", "stale-line"},
    symbol_of_another_page: {"unknown-symbol"},
    invented_identifier: {"invented-identifier"},
    name_in_a_models_text: {"invented-identifier"},
    another_summary: {"stale-summary"},
}
# What is wrong there because of them.
FOLLOWING: dict[Corruption, set[str]] = {renamed_parameter: {"missing-parameter"}}


# --- sites to corrupt


class Rig:
    """A site that was rendered and not published, and the gate over it."""

    def __init__(self, source: Path, out: Path, model: str = "none") -> None:
        settings = Settings(out=str(out), model=model, processes=1)
        self.pipeline = Pipeline(open_source(str(source), None, out), settings)
        self.snapshot = self.pipeline.ingest()
        parsed = self.pipeline.chunk(self.snapshot)
        generated = self.pipeline.generate(self.snapshot, parsed)
        self.files = self.pipeline.render(self.snapshot, parsed, generated).files
        self.cache = self.pipeline.cache
        self.pages = [name for name in self.files if name.startswith("api/")]

    def content(self, name: str) -> str:
        key = self.files[name].key
        return self.cache.get_many([key])[key].decode()

    def check(self, others: dict[str, str] | None = None) -> Checked:
        """The gate's findings where some pages are others."""
        files = dict(self.files)
        for name, text in (others or {}).items():
            data = text.encode()
            digest = hashlib.sha256(data).hexdigest()
            files[name] = SiteFile(f"corrupted:{digest[:40]}", digest, len(data))
            self.cache.put_many({files[name].key: data})
        return check_site(files, self.snapshot, self.pipeline.source.has, self.cache, self.pipeline.workers)


# Beside the workshop: texts of another file's class, a dead link in one, comments that read like links.
MORE = {
    "racks": "class Rack:\n    def hang(self, tool):\n        '''Hang a tool; see [`guide`](gone.html).'''\n",
    "walls": """\
from workshop.racks import Rack

#Gone are the others, and see Goner.
class WallRack(Rack):
    def hang(self, tool, *, with_hook=True):
        return tool if with_hook else None

    def fold_up(self, hook_count):
        return "#Gone", hook_count


def clear_wall(wall: WallRack, keep_hooks=False) -> int:
    return len(wall.hooks) if keep_hooks else 0
""",
}
WORKSHOP = Path(__file__).parents[1] / "testdata" / "workshop"


@pytest.fixture(scope="module")
def rigs(tmp_path_factory, asked_for_all) -> Any:
    """Rigs by package, each made once; that of the workshop with a model."""
    made: dict[str, Rig] = {}

    def rig(package: str) -> Rig:
        if package not in made:
            folder = tmp_path_factory.mktemp(package)
            if package == "workshop":
                shutil.copytree(WORKSHOP, folder / "source")
                for name, code in MORE.items():
                    (folder / "source" / "workshop" / f"{name}.py").write_text(code)
                made[package] = Rig(folder / "source", folder / "site", str(asked_for_all))
                return made[package]
            installed = Path(importlib.util.find_spec(package).origin).parent
            shutil.copytree(installed, folder / "source" / package, ignore=shutil.ignore_patterns("*.pyc"))
            made[package] = Rig(folder / "source", folder / "site")
        return made[package]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield rig
    for rig in made.values():
        rig.pipeline.__exit__(None, None, None)


@pytest.mark.parametrize("package", ["click", "networkx"])
def test_clean_sites_have_no_findings(rigs, package) -> None:
    checked = rigs(package).check()
    assert checked.findings == ()
    assert checked.pages == sum(name.endswith(".html") for name in rigs(package).files)


def test_a_clean_site_of_a_model_blames_humans_only(rigs) -> None:
    found = rigs("workshop").check().findings
    assert {(f.rule, f.author) for f in found} == {("dead-link", "human")}
    assert {(f.page, f.where) for f in found} >= {
        (f"api/workshop.{name}.html", "workshop/racks.py:3") for name in ("racks", "walls")
    }


def died(finding: Finding, originals: dict[str, str], corrupted: dict[str, str]) -> bool:
    """Whether a link is dead because the anchor that it leads to was taken away."""
    led = re.fullmatch(r"a link leads to (\S+)#(\S+); that page has no such anchor", finding.message)
    if finding.rule != "dead-link" or led is None or led[1] not in corrupted:
        return False
    mark = f'id="{led[2]}"'
    return mark in originals[led[1]] and mark not in corrupted[led[1]]


def test_every_corruption_is_caught(rigs, capsys) -> None:
    chosen, caught, cases, falsely = Counter(), Counter(), Counter(), 0
    for package in ("click", "networkx", "workshop"):
        rig, rng = rigs(package), random.Random(package)
        originals = {name: rig.content(name) for name in rig.pages}
        for _ in range(ROUNDS):
            corrupted, expected = {}, {}
            for name, html in originals.items():
                for way in sorted(
                    CORRUPTIONS, key=lambda way: (chosen[way], rng.random())
                ):  # rare ones first
                    text = way(html, rng)
                    if text is not None and text != html:
                        corrupted[name], expected[name] = text, way
                        chosen[way] += 1
                        break
            found: dict[str, list[Finding]] = {}
            for finding in rig.check(corrupted).findings:
                if finding.author != "human":
                    found.setdefault(finding.page, []).append(finding)
            for name, way in expected.items():
                cases[way.__name__] += 1
                if {finding.rule for finding in found.get(name, ())} & CORRUPTIONS[way]:
                    caught[way.__name__] += 1
                else:
                    print(f"missed: {package} {name} {way.__name__}: {found.get(name)}")  # noqa: T201
            for name, findings in found.items():
                way = expected.get(name)
                allowed = CORRUPTIONS[way] | FOLLOWING.get(way, set()) if way else set()
                others = [f for f in findings if not died(f, originals, corrupted)]
                wrong = [f for f in others if f.rule not in allowed]
                # A corruption is of one symbol; a link's finding is of the file.
                more = len({f.symbol for f in others if f.rule != "dead-link"}) > 1
                if wrong or more:
                    falsely += 1
                    print(f"false: {package} {name} {way and way.__name__}: {wrong or others}")  # noqa: T201
    with capsys.disabled():
        print(  # noqa: T201
            f"\ngate: {sum(caught.values()):,} of {sum(cases.values()):,} corruptions caught, "
            f"{len(cases)} ways; {falsely} false alarms"
        )
    assert caught == cases
    assert falsely == 0
    assert set(cases) == {way.__name__ for way in CORRUPTIONS}
    assert sum(cases.values()) > 3000


def listed_wrongly(symbol: dict[str, Any], rng: random.Random) -> None:
    """Make one thing wrong in what `symbols.json` says of a function."""
    parameters = symbol["parameters"]
    one = rng.choice(parameters)
    ways: list[Callable[[], object]] = [
        lambda: parameters.append(GHOST),
        lambda: parameters.remove(one),
        lambda: one.update(name=f"{one['name']}_of_old"),
        lambda: one.update(default="4711"),
        lambda: one.update(annotation="Quaternion"),
        lambda: one.update(kind={"keyword_only": "positional_only"}.get(one["kind"], "keyword_only")),
        lambda: symbol.update(returns="Quaternion"),
        lambda: symbol.update(line=symbol["line"] + 1_000_000),
        lambda: symbol.update(signature=symbol["signature"].replace("(", "_of_old(", 1)),
        lambda: symbol["slots"].update({"param.ghost": {"text": "It.", "origin": "human"}}),
        lambda: symbol["slots"].update({"raises.Ghost": {"text": "It.", "origin": "derived"}}),
    ]
    rng.choice(ways)()


@pytest.mark.parametrize("package", ["click", "networkx"])
def test_every_corruption_of_symbols_json_is_caught(rigs, package) -> None:
    rig, rng = rigs(package), random.Random(package)
    for _ in range(2):
        symbols = json.loads(rig.content("symbols.json"))
        chosen = rng.sample([symbol for symbol in symbols if symbol["parameters"]], 300)
        ids = {symbol["id"] for symbol in chosen}
        for symbol in chosen:
            listed_wrongly(symbol, rng)
        found = rig.check({"symbols.json": json.dumps(symbols)}).findings
        assert {finding.symbol for finding in found} == ids
        assert {(finding.page, finding.author) for finding in found} == {("symbols.json", "docmill")}


# --- code that changed under pages that did not


@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        ("def f(a, b=1):", "def f(a, c=1):", "unknown-parameter"),
        ("def f(a, b=1):", "def f(a, b=2):", "wrong-parameter"),
        ("def f(a, b=1):", "def f(b, a=1):", "parameter-order"),
        ("def f(a, b=1):", "def f(a, b=1, *, c):", "missing-parameter"),
        ("def f(a, b=1):", "async def f(a, b=1):", "wrong-signature"),
        ("def f(a, b=1):", "\n\ndef f(a, b=1):", "stale-line"),
        ("def f(a, b=1):", "def g(a, b=1):", "unknown-symbol"),
        ("class C(Exception):", "class C(OSError):", "wrong-signature"),
        ("x: int = 3", "x: int = 4", "wrong-signature"),
        ("x: int = 3", "x: str = 3", "wrong-signature"),
        ("    def m(self, k): ", "    @staticmethod\n    def m(self, k): ", "missing-parameter"),
        ("    def m(self, k): ", "    def m(self, k, /): ", "wrong-parameter"),
        ('"""F."""', '"""G."""', "stale-source"),
        ("class C(Exception):", "class C(Exception:", "unknown-symbol"),
    ],
)
def test_pages_of_older_code_are_caught(tmp_path, home, before, after, rule) -> None:
    source = tmp_path / "source"
    source.mkdir()
    file = source / "mod.py"
    code = '''
def f(a, b=1):
    """F."""


class C(Exception):
    x: int = 3

    def m(self, k): ...
'''
    file.write_text(code)
    rig = Rig(source, tmp_path / "site")
    assert rig.check().findings == ()
    assert before in code
    file.write_text(code.replace(before, after, 1))
    rig.snapshot = rig.pipeline.ingest()
    assert rule in {finding.rule for finding in rig.check().findings}


LISTED = """\
class C(Exception):
    x: int = 3

    @property
    def p(self) -> int: ...

    def m(self, k, /, *args: int, z=1, **kw) -> str: ...
"""
M, X = "m.py::C.m", "m.py::C.x"
DERIVED = {"text": "It.", "origin": "derived"}
GHOST = {"name": "ghost", "kind": "keyword_only", "annotation": None, "default": None}


@pytest.mark.parametrize(
    ("symbol", "change", "rule"),
    [
        (M, lambda s: s["parameters"].append(GHOST), "unknown-parameter"),
        (M, lambda s: s["parameters"].pop(1), "missing-parameter"),
        (M, lambda s: s["parameters"].pop(0), "missing-parameter"),
        (M, lambda s: s["parameters"].reverse(), "parameter-order"),
        (M, lambda s: s["parameters"].append(s["parameters"][-1]), "parameter-order"),
        (M, lambda s: s["parameters"][1].update(kind="positional_or_keyword"), "wrong-parameter"),
        (M, lambda s: s["parameters"][2].update(kind="var_keyword"), "wrong-parameter"),
        (M, lambda s: s["parameters"][2].update(annotation="str"), "wrong-parameter"),
        (M, lambda s: s["parameters"][2].update(annotation=None), "wrong-parameter"),
        (M, lambda s: s["parameters"][1].update(annotation="any thing"), "wrong-parameter"),
        (M, lambda s: s["parameters"][3].update(default="2"), "wrong-parameter"),
        (M, lambda s: s["parameters"][3].update(default=None), "wrong-parameter"),
        (M, lambda s: s["parameters"][4].update(default="no thing"), "wrong-parameter"),
        (
            M,
            lambda s: s["slots"].update({"param.ghost": {"text": "It.", "origin": "human"}}),
            "unknown-parameter",
        ),
        (M, lambda s: s["slots"].update({"raises.Ghost": DERIVED}), "unknown-exception"),
        (X, lambda s: s["slots"].update({"raises.Ghost": DERIVED}), "unknown-exception"),
        ("m.py::", lambda s: s["slots"].update({"raises.Ghost": DERIVED}), "unknown-exception"),
        (M, lambda s: s.update(signature="def m(self) -> str"), "wrong-signature"),
        (M, lambda s: s.update(returns=None), "wrong-returns"),
        (M, lambda s: s.update(kind="function"), "wrong-signature"),
        (M, lambda s: s.update(line=s["line"] - 1), "stale-line"),
        (M, lambda s: s.update(id="m.py::C.n"), "unknown-symbol"),
        (M, lambda s: s.update(id="other.py::C.m"), "unknown-symbol"),
        (M, lambda s: s.update(path="gone.py"), "unknown-symbol"),
        (X, lambda s: s.update(signature="x: int = 4"), "wrong-signature"),
        (X, lambda s: s.update(returns="str"), "wrong-returns"),
        (X, lambda s: s["parameters"].append(GHOST), "unknown-parameter"),
        ("m.py::C.p", lambda s: s["parameters"].clear(), "missing-parameter"),
        ("m.py::C", lambda s: s.update(signature="class C(OSError)"), "wrong-signature"),
        ("m.py::", lambda s: s["parameters"].append(GHOST), "unknown-parameter"),
        ("m.py::", lambda s: s.update(kind="class"), "wrong-signature"),
        ("_inner.py::f", lambda s: s["parameters"].append(GHOST), "unknown-parameter"),
    ],
)
def test_what_symbols_json_says_wrongly_is_caught(tmp_path, home, symbol, change, rule) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "m.py").write_text(LISTED)
    (source / "_inner.py").write_text("def f(a, b=1): ...\n")  # which has no page
    rig = Rig(source, tmp_path / "site")
    assert rig.check().findings == ()
    symbols = json.loads(rig.content("symbols.json"))
    change(next(s for s in symbols if s["id"] == symbol))
    findings = rig.check({"symbols.json": json.dumps(symbols)}).findings
    assert [(f.rule, f.author, f.page) for f in findings] == [(rule, "docmill", "symbols.json")]


def test_a_type_that_is_no_python_is_caught(tmp_path, home) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "m.py").write_text("def f(x, *args): ...\n")
    rig = Rig(source, tmp_path / "site")
    html, cell = rig.content("api/m.html"), "<td><code>list of int</code>"
    for name in ("x", r"\*args"):
        wrong = re.sub(rf"(<code>{name}</code></th>)<td>", rf"\1{cell}", html)
        assert wrong != html
        assert [f.rule for f in rig.check({"api/m.html": wrong}).findings] == ["wrong-parameter"]


def test_odd_code_has_no_findings(tmp_path, home) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "README.md").write_text("# Odd\n\n[the code](odd.py#L3), [here](#odd)\n")
    (source / "odd.py").write_text(ODD)
    rig = Rig(source, tmp_path / "site")
    assert [str(finding) for finding in rig.check().findings] == []
    shown = rig.content("api/odd.html")
    for name in ("no_receiver", "stars_only", "positional", "chosen", "made", "prop", "Ünïcode"):
        assert f'id="{name}"' in shown or f'.{name}"' in shown


ODD = '''\
"""Odd definitions."""
from __future__ import annotations
from typing import overload, TypeVar
import sys, functools

T = TypeVar("T")
a, (b, *c) = 1, (2, 3)
d = e = {
    "k": [1, 2],
}

if sys.platform == "win32":
    def chosen(x): ...
elif sys.platform == "linux":
    def chosen(x, y): ...
else:
    try:
        def chosen(x, y, z): ...
    except ImportError:
        chosen = None


@overload
def many(x: int) -> int: ...
@overload
def many(x: str, *, strict: bool = ...) -> str: ...
def many(x, *, strict=False):
    """Many."""
    return x


def positional(a, b=1, /, c=(1,), *args: int, d, e: "str" = "<b>&amp;</b>", **kw) -> dict[str, "T"]:
    """Docs.

    Returns:
        What is made.
    """
    def inner(q):
        yield q
    if a:
        raise ValueError(f"no {a}")
    raise KeyError("none") from None


async def made(
    long_parameter_name_number_one: int = 1_000_000,  # a comment, with a comma
    long_parameter_name_number_two: str = """three
    lines""",
    *,
    long_parameter_name_number_three=lambda x, y=1: (x, y),
) -> None:
    """Made."""
    yield 1


def starred(*args: *Ts, a=(b := 1), c=(lambda: (yield)), d=-1 if a else 2, e=f"{a!r:>{b}}"): ...


def no_parameters_but_a_name_so_long_that_its_signature_is_longer_than_a_line_can_be_expected_to_be(): ...


class Ünïcode(dict, metaclass=type):
    """Class."""

    prop: int = 3
    __slots__ = ("q",)

    def __init__(self, x, y=[1, 2]):
        self.x, self.z = x, y
        self.y: int = y
        if x:
            self.w = 1

    def no_receiver(*, key): ...

    def stars_only(*args, **kwargs): ...

    @staticmethod
    def static(self, x): ...

    @classmethod
    def made(cls, x=sys.maxsize): ...

    @property
    def prop2(self) -> int:
        """Prop."""
        return 1

    @prop2.setter
    def prop2(self, value): ...

    @functools.cached_property
    def cached(self): ...

    class Inner:
        def m(self, /, x): ...

    def twice(self, a): ...

    def twice(self, b): ...

    async def gen(self):
        """Gen.

        Yields:
            Things.
        """
        yield 1
'''


# --- what follows from findings

TODAY = datetime.date(2026, 3, 1)
WRONG = Finding("wrong-parameter", "docmill", "m.py::f", "f: a is wrong", "api/m.html", 3, "m.py", 1)
DEAD = Finding("dead-link", "human", "README.md", "a link leads nowhere", "index.html", 9, "README.md", 4)
WAIVER = """
[[waiver]]
rule = "wrong-parameter"
symbol = "m.py::f"
reason = "known, see issue 7"
expires = {}
"""


def waivers(folder: Path, text: str):
    (folder / "docmill.waivers.toml").write_text(text)
    return read_waivers(folder)


def test_docmills_own_errors_block_and_a_humans_warn() -> None:
    judgement = judge(Checked(2, (WRONG, DEAD)), (), False, TODAY)
    assert (judgement.blocking, judgement.warnings) == ((WRONG,), (DEAD,))
    assert judge(Checked(2, (WRONG, DEAD)), (), True, TODAY).blocking == (WRONG, DEAD)


def test_a_waiver_holds_through_its_last_day(tmp_path) -> None:
    found = Checked(2, (WRONG,))
    last = judge(found, waivers(tmp_path, WAIVER.format("2026-03-01")), True, TODAY)
    assert (last.blocking, last.warnings, last.waived) == ((), (), (WRONG,))
    after = judge(found, waivers(tmp_path, WAIVER.format("2026-02-28")), False, TODAY)
    assert after.blocking == (WRONG,)
    assert "expired on 2026-02-28" in after.warnings[0].message


def test_a_waiver_that_waives_nothing_is_told_of(tmp_path) -> None:
    judgement = judge(Checked(2, ()), waivers(tmp_path, WAIVER.format("2026-03-01")), False, TODAY)
    assert [finding.rule for finding in judgement.warnings] == ["stale-waiver"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[waiver]]\nrule = 1\n", "waiver 1: rule: give text, in quotes"),
        (WAIVER.format('"soon"'), "waiver 1: expires: give a date like 2027-01-31, without quotes"),
        (WAIVER.format('"2026-03-01"'), "without quotes"),
        (WAIVER.format("2026-03-01T10:00:00"), "give a date"),
        (WAIVER.format('2026-03-01\nauthor = "me"'), "author: there are docmill, model, human"),
        (WAIVER.format("2026-03-01") + WAIVER.partition("expires")[0], "waiver 2: expires is missing"),
        (WAIVER.format("2026-03-01").replace("[[waiver]]", "[waiver]"), "begin with [[waiver]], in two"),
        (WAIVER.format("2026-03-01").replace("[[waiver]]", "[[waivers]]"), "'waivers' is unknown; "),
        (WAIVER.format("2026-03-01").replace("wrong-parameter", "wrong"), "'wrong' is no rule; "),
        (WAIVER.format("2026-03-01").replace("wrong-parameter", "stale-waiver"), "cannot be waived"),
        (WAIVER.format("2026-03-01").replace("known, see issue 7", " "), "give a reason"),
        (WAIVER.format("2026-03-01").replace("reason", "because"), "'because' is unknown; "),
        ("[[waiver", "]]"),
        ("\xff", "Invalid statement (at line 1, column 1)"),
    ],
)
def test_a_waiver_that_cannot_be_used_is_refused(tmp_path, text, said) -> None:
    with pytest.raises(SourceError, match=re.escape(said)) as error:
        waivers(tmp_path, text)
    assert str(error.value).startswith("docmill.waivers.toml: ")
    assert "\n" not in str(error.value)


def test_a_file_of_waivers_that_is_no_text_is_refused(tmp_path) -> None:
    (tmp_path / "docmill.waivers.toml").write_bytes(b"# \xff")
    with pytest.raises(SourceError, match=r"docmill\.waivers\.toml: is no text in UTF-8, from byte 3 on"):
        read_waivers(tmp_path)


PIPE = pytest.param("mkfifo", marks=pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes"))


@pytest.mark.parametrize("make", ["mkdir", "symlink", PIPE])
def test_what_is_no_file_of_waivers_is_refused(tmp_path, make) -> None:
    arguments = ("m.py",) if make == "symlink" else ()
    getattr(os, make)(*arguments, tmp_path / "docmill.waivers.toml")
    with pytest.raises(SourceError, match=r"docmill\.waivers\.toml: is (a link|no regular file)"):
        read_waivers(tmp_path)


def test_a_wrong_page_is_not_published(tmp_path, docmill, monkeypatch) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "m.py").write_text("def f(a, b): ...\n")
    status, before, _ = docmill(source)
    assert status == 0
    standing = (tmp_path / "site" / "api" / "m.html").read_bytes()
    (source / "m.py").write_text("def f(a, b, c): ...\n")
    monkeypatch.setattr("tasks.render.pages._shown", lambda symbol: symbol.parameters[:1])
    status, report, printed = docmill(source)
    assert status == 1
    assert "nothing is published" in printed.err
    assert "missing-parameter" in printed.err
    assert report["gate"]["blocking"] == 2
    assert {f["outcome"] for f in report["findings"]} == {"blocking"}
    assert (report["symbols"], report["pages"]) == (2, before["pages"] | {"written": 0})
    assert (report["slots"]["empty"], report["published"]) == (before["slots"]["empty"] + 1, None)
    assert (tmp_path / "site" / "api" / "m.html").read_bytes() == standing


def test_where_memory_is_out_a_build_fails_and_the_next_one_does_not(tmp_path, docmill, monkeypatch) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "m.py").write_text("def f(a): ...\n")

    def out_of_memory(_source: str) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr("tasks.gate.Code", out_of_memory)
        status, report, printed = docmill(source)
    assert (status, report["findings"]) == (1, [])
    assert printed.err.startswith("docmill: gate: memory is out while reading m.py")
    assert docmill(source)[0] == 0


def test_a_dead_link_in_a_readme_warns(tmp_path, docmill) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "m.py").write_text("x = 1\n")
    (source / "README.md").write_text("# Title\n\nSee [there](#nowhere).\n")
    status, report, printed = docmill(source)
    assert status == 0
    assert report["gate"] == {"pages": 4, "blocking": 0, "warnings": 1, "waived": 0}
    assert "README.md:3: dead-link" in printed.out
    (source / "docmill.toml").write_text("strict_human = true\n")
    assert docmill(source)[0] == 1
    (source / "docmill.waivers.toml").write_text(
        WAIVER.format("2999-01-01").replace("wrong-parameter", "dead-link").replace("m.py::f", "README.md")
    )
    status, report, printed = docmill(source)
    assert (status, report["gate"]["waived"]) == (0, 1)
    assert "\n  1 waived\n" in printed.out


def test_links_that_code_hosts_follow_are_no_dead_ones(tmp_path, docmill) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "m.py").write_text("x = 1\ny = 2\n")
    links = ("#top", "m.py#L1-L2", "m.py#L2C1-L2C5", "#install", "docs/guide.md#Top")
    (source / "docs").mkdir()
    (source / "docs" / "guide.md").write_text("# Guide\n")
    (source / "README.md").write_text(
        '# Title\n\n<a name="install"></a>\n\n'
        + " ".join(f"[x]({link})" for link in links)
        + " [y](m.py#L9-L10)\n"
    )
    status, report, printed = docmill(source)
    assert (status, report["gate"]["warnings"]) == (0, 1), printed.out
    home = (tmp_path / "site" / "index.html").read_text()
    assert 'name="md-install"' in home and 'href="#md-install"' in home and 'href="#top"' in home
    assert home.count('href="src/m.py.html#L1"') == 1 and 'href="src/m.py.html#L2"' in home


TABLE = """\
def g(a, b):
    '''Sum.

    Args:
        a: One.

            | mode | meaning |
            |------|---------|
            | r    | read    |
        b: Two.
    '''
"""


def test_tables_in_a_text_are_no_parameters(tmp_path, docmill) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "m.py").write_text(TABLE)
    status, report, _ = docmill(source)
    assert (status, report["findings"]) == (0, [])
    assert (tmp_path / "site" / "api" / "m.html").read_text().count("<table") == 2


def test_links_of_docstrings_lead_to_the_files_that_they_mean(tmp_path, docmill) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    for name in (
        "docs/guide.md",
        "docs/concepts/models.md",
        "docs/a/twice.md",
        "docs/b/twice.md",
        "pkg/near.md",
    ):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("# Title\n")
    links = {
        "near.md": "../doc/pkg/near.md.html",
        "../docs/guide.md#title": "../doc/docs/guide.md.html#md-title",
        "docs/guide.md": "../doc/docs/guide.md.html",
        "../../concepts/models/#title": "../doc/docs/concepts/models.md.html#md-title",
        "../concepts/models.html": "../doc/docs/concepts/models.md.html",
        "other.py#L1-L2": "../src/pkg/other.py.html#L1",
        "https://example.org/near.md": "https://example.org/near.md",
    }
    dead = ["twice.md", "later.md", "../docs/guide.md#nowhere"]
    (source / "pkg" / "other.py").write_text('"""See [pkg.m.f][]."""\n\nx = 1\n')
    (source / "pkg" / "m.py").write_text(
        'def f():\n    """Do.\n\n' + "".join(f"    [x]({link})\n" for link in (*links, *dead)) + '    """\n'
    )
    status, report, printed = docmill(source)
    page = (site / "api" / "pkg.m.html").read_text()
    assert status == 0
    assert re.findall(r'<a href="([^"]+)"[^>]*>x<', page)[: len(links)] == list(links.values())
    where = [finding["where"] for finding in report["findings"] if finding["rule"] == "dead-link"]
    assert where == ["pkg/m.py:11", "pkg/m.py:12", "pkg/m.py:13"], printed.out
    assert 'href="pkg.m.html#f"' in (site / "api" / "pkg.other.html").read_text()
    twice = "".join(f'def {name}():\n    """Do [x](gone.md)."""\n\n' for name in "gh")
    (source / "pkg" / "twice.py").write_text(twice)
    found = [f["where"] for f in docmill(source)[1]["findings"] if "gone" in f["message"]]
    assert found == ["pkg/twice.py:2", "pkg/twice.py:5"]
    (source / "pkg" / "twice.py").unlink()
    docmill(source)

    (source / "docs" / "later.md").write_text("# Later\n")
    status, report, _ = docmill(source)
    assert (status, report["gate"]["warnings"], report["pages"]["written"]) == (
        0,
        2,
        3,
    )  # its own, the home page
    assert 'href="../doc/docs/later.md.html"' in (site / "api" / "pkg.m.html").read_text()


def test_a_humans_links_are_the_humans_however_they_are_written(tmp_path, docmill) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "README.md").write_text(
        "[x](#caf%C3%A9) [y](#a&amp;b) [z](#x\\_y) <a href='#z&quot;q'>x</a> [v][r]\n\n[r]: #de&amp;f\n"
    )
    (source / "m.py").write_text(
        'def f():\n    """See [x](#a&amp;b), [y](#caf\\u00e9) and [a](b\\\\_c.md)."""\n'
    )
    status, report, _ = docmill(source)
    assert (status, {f["outcome"] for f in report["findings"]}) == (0, {"warnings"})
    assert len(report["findings"]) == 8


def test_names_of_files_with_brackets(tmp_path, docmill) -> None:
    source = tmp_path / "source"
    (source / "p").mkdir(parents=True)
    (source / "p" / "](x).py").write_text('x = (y := 3)\nz: (w := 1) = 2\n\n\nclass A(x, y=(v := 1)): "x"\n')
    (source / "A [b](c) d.md").write_text("# Title\n")
    assert docmill(source)[0] == 0


def test_a_dead_link_of_a_docstring_is_its_authors(tmp_path, docmill) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "m.py").write_text(
        'x = 1\n\ndef f():\n    """Do `K[1](kind=K[\'k\'])` or [so](kind=K[\'k\'])."""\n'
    )
    status, report, _ = docmill(source)
    assert (status, [f["where"] for f in report["findings"]]) == (0, ["m.py:4"])


def test_a_dead_image_of_a_docstring_is_its_authors(tmp_path, docmill) -> None:
    source = tmp_path / "source"
    source.mkdir()
    images = "Do ![a](a.png).\n\n    Args:\n        x: ![b](b.png)\n\n    Returns:\n        ![c](c.png)\n    "
    (source / "m.py").write_text(f'def f(x):\n    """{images}"""\n    return x\n')
    status, report, _ = docmill(source)
    assert (status, [f["where"] for f in report["findings"]]) == (0, ["m.py:2", "m.py:5", "m.py:8"])


def test_links_in_documented_types_and_results_are_their_authors(tmp_path, docmill) -> None:
    source = tmp_path / "source"
    source.mkdir()
    docstring = (
        "Do.\n\n    Args:\n        a ([int](type.html)): A.\n\n    Returns:\n        [It](gone.html).\n    "
    )
    (source / "m.py").write_text(f'def f(a):\n    """{docstring}"""\n    return a\n')
    status, report, _ = docmill(source)
    assert (status, [f["where"] for f in report["findings"]]) == (0, ["m.py:5", "m.py:8"])


def test_a_dead_link_around_code_is_its_authors_in_whichever_file_it_was_written(tmp_path, docmill) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "base.py").write_text(
        "class Base:\n    def run(self):\n        '''Run; see [`guide`](guide.html).'''\n"
    )
    (source / "sub.py").write_text(
        "from base import Base\n\n\nclass Sub(Base):\n    def run(self):\n        return 1\n"
    )
    status, report, _ = docmill(source)
    assert [(f["page"], f["where"]) for f in report["findings"]] == [
        ("api/base.html", "base.py:3"),
        ("api/sub.html", "base.py:3"),
    ]
    assert status == 0


def test_a_dead_link_around_code_is_its_authors_however_it_is_written(tmp_path, docmill) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "m.py").write_text(
        'def f():\n    """See [`a`](b\\\\_c.md), [`b`](gone\\x2ehtml) and [`c`](<no file.md>)."""\n\n'
        "#: See [`d`](gone.md).\nx = 1\n\n\n"
        'class C:\n    """A class.\n\n    See [`e`][e].\n\n    [e]: gone.html#part\n    """\n'
    )
    status, report, _ = docmill(source)
    assert sorted(f["where"] for f in report["findings"]) == ["m.py:13", *["m.py:2"] * 3, "m.py:4"]
    assert status == 0


OF_ANOTHER = """\
from a import Client

#Gone for now
x = "#Gone", "](#Gone_again) <#Gone-by>"


def f(c: Client):
    '''Take a `Client`, [see](https://example.org/#Gone).'''
"""


def test_a_dead_link_of_docmills_is_no_humans_whatever_reads_like_it(tmp_path, home) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.py").write_text("class Client: ...\n")
    (source / "b.py").write_text(OF_ANOTHER)
    rig = Rig(source, tmp_path / "site")
    html = rig.content("api/b.html")
    link = '<a href="a.html#Client" rel="noopener noreferrer"><code>Client</code></a>'
    assert html.count(link) == 1
    for wrong in ("a.html#Gone", "#Gone"):
        checked = rig.check({"api/b.html": html.replace(link, link.replace("a.html#Client", wrong))})
        assert [(f.rule, f.author) for f in checked.findings] == [("dead-link", "docmill")]


def test_a_waiver_of_a_dead_link_is_of_a_humans_unless_it_says_otherwise(tmp_path) -> None:
    link = WAIVER.format("2026-03-01").replace("wrong-parameter", "dead-link").replace("m.py::f", "README.md")
    own = replace(DEAD, author="docmill")
    judgement = judge(Checked(2, (DEAD, own)), waivers(tmp_path, link), False, TODAY)
    assert (judgement.waived, judgement.blocking) == ((DEAD,), (own,))
    judgement = judge(Checked(2, (own,)), waivers(tmp_path, f'{link}author = "docmill"\n'), False, TODAY)
    assert judgement.waived == (own,)


def test_a_property_has_no_parameters(tmp_path, home) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "m.py").write_text("class C:\n    @property\n    def p(self): return 1\n")
    rig = Rig(source, tmp_path / "site")
    row = '<table class="params"><tr><th><code>ghost</code></th><td></td></tr></table>'
    before, head, after = rig.content("api/m.html").partition('<section class="symbol property"')
    html = before + head + after.replace("</pre>\n", f"</pre>\n{row}", 1)
    assert [f.rule for f in rig.check({"api/m.html": html}).findings] == ["unknown-parameter"]


NAMED = """\
class HTTPPool:
    def get_all(self, key_name):
        return self.held_back[key_name]
"""


COMMENTED = """\
# See launch_rockets, and `steer`.
import os.path as file_paths
from a_package import Engine as MainEngine

LIMITS: "BoundType" = {"max_load": b"raw_bytes"}


def go(self_made, /, *all_stages, key_word=1):  # calls stop_all
    global world_state
    match self_made:
        case {"tank": 1, **other_parts}:
            pass
        case MainEngine(fuel_left=0):
            file_paths.os_name(in_orbit=key_word)
    return f"{self_made!r}: all_done"
"""


@pytest.mark.parametrize("name", ["launch_rockets", "<code>steer</code>", "stop_all"])
def test_a_name_in_a_comment_is_none_of_the_code(tmp_path, home, name) -> None:
    assert says_of_commented(tmp_path, name) == ["invented-identifier"]


@pytest.mark.parametrize("what", ["{} objects", "an instance of {}", "a subclass of {}", "the {} class"])
def test_a_word_that_is_said_to_be_a_class_is_one_of_the_code(tmp_path, home, what) -> None:
    assert says_of_commented(tmp_path, what.format("Widget")) == ["invented-identifier"]
    assert says_of_commented(tmp_path / "known", what.format("Engine")) == []


def test_every_name_of_the_code_may_be_said(tmp_path, home) -> None:
    """In whatever place of the syntax it stands."""
    code = COMMENTED.split("\n", 1)[1].replace("# calls stop_all", "")
    names = dict.fromkeys(re.findall(r"[^\W\d]\w*", code))
    assert len(names) >= 30
    assert says_of_commented(tmp_path, " ".join(f"<code>{name}</code>" for name in names)) == []


def says_of_commented(folder: Path, said: str) -> list[str]:
    """The rules that a model breaks which says something of a function."""
    source = folder / "source"
    source.mkdir(parents=True)
    (source / "m.py").write_text(COMMENTED)
    rig = Rig(source, folder / "site")
    before, head, after = rig.content("api/m.html").partition('<section class="symbol function"')
    text = f'<div class="summary"><p>Uses {said}. <span class="mark model">model</span></p></div>\n'
    html = before + head + after.replace("</pre>\n", f"</pre>\n{text}", 1)
    return [finding.rule for finding in rig.check({"api/m.html": html}).findings]


def test_what_a_model_may_name_the_gate_lets_through(tmp_path, docmill, monkeypatch, asked_for_all) -> None:
    """Every name that any prompt holds, each in a sentence of its own."""
    source = tmp_path / "source" / "pkg"
    source.mkdir(parents=True)
    (source / "__init__.py").write_text("from pkg._private_parts import PartOfAll\n")
    (source / "_private_parts.py").write_text("class PartOfAll:\n    def go(self): ...\n")
    (source / "http_client.py").write_text(NAMED)
    (source / "vendored_code.py").write_text('"""Holds some_secret_thing."""\nx_y = 1\n')
    (tmp_path / "source" / "docmill.toml").write_text('private = ["*.vendored_code"]\n')
    override = {"symbol": "pkg/http_client.py::HTTPPool.get_all", "slot": "summary", "text": "Asks a_server."}
    entry = "".join(f'{name} = "{value}"\n' for name, value in override.items())
    (tmp_path / "source" / "docmill.overrides.toml").write_text(f"[[override]]\n{entry}")
    sent = []

    def write(self, requests):
        for key, prompt, frames in requests:
            sent.append(prompt)
            names = re.findall(r"[^\W\d]\w*", prompt)
            texts = [
                text.format(name)
                for name in dict.fromkeys(names)
                for text in ("Uses `{}`.", "Is a {} object.")
            ]
            texts += ["Holds `half. Another` half.", "Has `a` Ghost class.", "Is an `instance` of Ghost."]
            yield key, RawText((" ".join(texts),) * len(frames), (True,) * len(frames), (0.0,) * len(frames))

    monkeypatch.setattr(Writer, "write", write)
    status, report, _ = docmill(tmp_path / "source", "--model", str(asked_for_all))
    assert (status, report["findings"][1:]) == (0, [])  # the first: for which code the override is
    assert "package pkg:\n    class PartOfAll\n    module http_client: Uses" in "\n".join(sent)
    assert any("a_server" in prompt for prompt in sent) and not any("vendored" in p for p in sent)
    site = tmp_path / "site"
    assert "Uses <code>http_client</code>." in (site / "api" / "pkg.http_client.html").read_text()
    pages = "".join(f.read_text() for f in site.rglob("*.html"))
    assert "Another" not in pages and "Ghost" not in pages and "Is a HTTPPool object." in pages


def test_links_of_a_readme_to_files_that_are_not_there(tmp_path, docmill) -> None:
    source = tmp_path / "source"
    (source / "docs").mkdir(parents=True)
    (source / "m.py").write_text("x = 1\n")
    (source / "LICENSE").write_text("free\n")
    (source / "README.md").write_text(
        "---\ntitle: x\n---\n# Title\n\n[a](LICENSE) [b](docs/) [c](gone.md)\n![p](gone.png)\n"
        '<a href="gone.html">x</a> [web](https://example.org/gone) [out](../../issues) [q](#title)\n'
        "[d](/docs/page.md#top) [e](docs/gone%20too.md 'title')\n"
    )
    (source / "docs" / "page.md").write_text("# Top\n\n[up](../README.md) [away](README.md)\n")
    _, report, _ = docmill(source)
    found = {(f["where"], f["message"].split()[4].rstrip(",")) for f in report["findings"]}
    assert found == {
        ("README.md:6", "gone.md"),
        ("README.md:7", "gone.png"),
        ("README.md:8", "gone.html"),
        ("README.md:9", "docs/gone"),
        ("docs/page.md:3", "docs/README.md"),
    }


def test_links_of_a_readme_that_leave_the_repository(tmp_path, docmill) -> None:
    source = tmp_path / "source"
    (source / "docs").mkdir(parents=True)
    for name in ("m.py", "setup.cfg", "docs/a&b c.md", "docs/my?.md"):
        (source / name).write_text("x = 1\n")
    (tmp_path / "outside.md").write_text("# Not of the repository\n")
    right = (
        *("../../issues/new?title=x", "../..", "../../actions/workflows/ci.yml/badge.svg", "."),
        *("../../blob/v1/gone.py", "../main/setup.cfg", "mailto:ann@example.org", "//example.org/gone.md"),
        *("docs", "/docs/"),
        *("setup.cfg?raw=true#L1", "/m.py", "docs/a%26b%20c.md", "docs/my%3f.md?plain=1", "#title", "?tab=x"),
    )
    wrong = ("../outside.md", "../../../etc/passwd", "/etc/passwd", "/../outside.md", "../main/gone.cfg")
    wrong += ("docs/..%2F..%2Foutside.md", "../../outside.md", "..", "....md", "docs/../gone.cfg?raw=true")
    (source / "README.md").write_text(
        "# Title\n\n"
        + "".join(f"- [x]({link})\n" for link in (*wrong, *right))
        + '\n<a href="docs/a&amp;b c.md">x</a> <!-- <a href="gone.md">x</a> -->\n'
        + '\n<a class="x" href=../outside.md>x</a>\n<img src="../outside.png">\n![x](../outside.gif)\n'
    )
    status, report, _ = docmill(source)
    lines = [*range(3, 3 + len(wrong)), *(6 + len(wrong) + len(right) + n for n in range(3))]
    assert {f["rule"] for f in report["findings"]} == {"dead-link"}
    assert sorted(int(f["where"].removeprefix("README.md:")) for f in report["findings"]) == lines
    assert status == 0
    home = (tmp_path / "site" / "index.html").read_text()
    assert "outside" not in home and "passwd" not in home
    assert 'href="doc/docs/my%3F.md.html"' in home and 'href="src/m.py.html"' in home
    (source / "docmill.toml").write_text("strict_human = true\n")
    assert docmill(source)[0] == 1


def test_links_of_a_folder_may_lead_through_its_repository(tmp_path, docmill) -> None:
    source = tmp_path / "repository" / "packages" / "one"
    source.mkdir(parents=True)
    (tmp_path / "repository" / ".git").mkdir()
    (tmp_path / "repository" / "LICENSE").write_text("free\n")
    (source / "m.py").write_text("x = 1\n")
    right = ("../../LICENSE", "/LICENSE", "/m.py", "../..", "../../../../issues", "../../../main/LICENSE")
    wrong = ("../../gone.md", "../../../outside.md", "/gone.md")
    (source / "README.md").write_text("".join(f"- [x]({link})\n" for link in (*right, *wrong)))
    _, report, _ = docmill(source)
    assert sorted(f["where"] for f in report["findings"]) == ["README.md:7", "README.md:8", "README.md:9"]


def test_files_that_are_no_part_of_a_snapshot_are_looked_at_again(tmp_path, docmill) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "m.py").write_text("x = 1\n")
    (source / "README.md").write_text("# Title\n\n![logo](logo.svg) [free](LICENSE)\n")
    (source / "LICENSE").write_text("free\n")

    def dead() -> list[str]:
        return [finding["message"].split()[4] for finding in docmill(source)[1]["findings"]]

    assert dead() == ["logo.svg,"]
    (source / "logo.svg").write_text("<svg/>")
    assert dead() == []
    (source / "LICENSE").unlink()
    assert dead() == ["LICENSE,"]
    assert dead() == ["LICENSE,"]


CONTRADICTING = '''\
def f(count: int, name="x", scale=1.0, flag=False):
    """Do.

    Parameters
    ----------
    cuont : int
        Mistyped.
    count : str
        A number.
    name : str, default 'y'
        A name.
    scale : float, default 1
        As it is.
    flag : bool, default: True
        Another.

    Returns
    -------
    int
        Nothing.
    """
    print(count)


def keywords(a, **kwargs):
    """Do.

    Args:
        a (int): Known.
        b: One of the others.
    """


class C:
    """A class.

    :param size: Known.
    :param colour: Not known.
    :param weight: An attribute.
    """

    weight = 3

    def __init__(self, size): ...

    def abstract(self):
        """Left to others.

        Returns:
            What they return.
        """
        raise NotImplementedError

    @property
    def degree(self):
        """A view.

        Args:
            node: Of the view.
        """
        return lambda node: 1

    def repeated(self, *args, size=None):
        """Do.

        Parameters
        ----------
        args1, args2 : int
            Some.
        size : int, default 3
            What None stands for.
        """

    def generator(self):
        """Yield.

        Yields:
            Things.
        """
        yield 1
'''


OF_CLASSES = '''\
import functools
from dataclasses import dataclass
from typing import NamedTuple


class Base:
    """It.

    Args:
        x: In other words.
        ghost: Nobody.
    """

    def __init__(self, x):
        """It.

        Args:
            x: One.
        """


class Inherits(Base):
    """It.

    Args:
        x: One.
        ghost: Nobody, but who knows.
    """


@dataclass
class Point:
    """It.

    Args:
        x: One.
        ghost: Nobody.
    """

    x: int


class Pair(NamedTuple):
    """It.

    Args:
        x: One.
        ghost: Nobody.
    """

    x: int


class New:
    """It.

    Args:
        x: One.
        ghost: Nobody.
    """

    def __new__(cls, x): ...


@unknown
class Decorated:
    """It.

    Args:
        ghost: Perhaps.
    """


class Assigned:
    """It.

    Args:
        ghost: Perhaps.
    """

    __init__ = Base.__init__


class Bare:
    """It.

    Args:
        x:
    """

    def __init__(self, x):
        """It.

        Args:
            x: One.
        """


@functools.lru_cache(maxsize=None)
def cached(a):
    """Do.

    :param ghost: Nobody.
    """


@unknown
def decorated(a):
    """Do.

    :param ghost: Perhaps.
    """


def nothing():
    """Do.

    Returns:
        None
    """


def nothing_more():
    """Do.

    Returns:
        Nothing, but what was there stays.
    """


def nothing_at_all() -> None:
    """Do.

    Parameters
    ----------
    None

    Returns
    -------
    None
    """
'''


def test_classes_and_cached_functions_are_held_to_their_docstrings(tmp_path, docmill) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "m.py").write_text(OF_CLASSES)
    status, report, _ = docmill(source, "--model", "none")
    assert status == 0
    assert [(f["symbol"], f["where"]) for f in report["findings"]] == [
        (f"m.py::{name}", f"m.py:{line}")
        for name, line in (("Base", 11), ("Point", 37), ("Pair", 48), ("New", 59), ("cached", 103))
    ]
    symbols = {s["id"]: s for s in json.loads((tmp_path / "site" / "symbols.json").read_bytes())}
    described = {
        name: symbols[f"m.py::{name}"]["slots"]["description"]["text"] for name in ("Base", "Inherits")
    }
    assert described["Base"] == (
        "**Described, but not in the signature**\n\n- `ghost`: Nobody.\n\n"
        "**Parameters, by the docstring**\n\n- `x`: In other words."
    )
    assert described["Inherits"].startswith("**Parameters, by the docstring**\n\n- `x`: One.\n- `ghost`: ")
    assert "description" not in symbols["m.py::Bare"]["slots"]
    assert symbols["m.py::New.__new__"]["slots"]["param.x"]["text"] == "One."


def test_docstrings_that_contradict_their_signature(tmp_path, docmill) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "m.py").write_text(CONTRADICTING)
    status, report, printed = docmill(source)
    assert status == 0
    assert [(f["where"], f["rule"], f["symbol"]) for f in report["findings"]] == [
        ("m.py:6", "described-parameter", "m.py::f"),
        ("m.py:8", "described-type", "m.py::f"),
        ("m.py:10", "described-default", "m.py::f"),
        ("m.py:14", "described-default", "m.py::f"),
        ("m.py:17", "described-result", "m.py::f"),
        ("m.py:38", "described-parameter", "m.py::C"),
    ]
    assert "did you mean count" in printed.out
