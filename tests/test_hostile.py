"""Hostile repositories: nothing escapes, executes or hangs, and each costs one clear line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from benchmarks.signatures import missing_anchors
from infra.cli import main
from tests.conftest import tree_bytes

pytestmark = pytest.mark.timeout(90)

DEPTH = 10_000
HONEST = 'def honest():\n    """An honest function."""\n'


@pytest.fixture
def source(tmp_path) -> Path:
    """A folder with one honest module, to which a test adds what is not."""
    folder = tmp_path / "source"
    put(folder, {"honest.py": HONEST})
    return folder


def put(folder: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())


def git(folder: Path, *arguments: str, data: bytes = b"") -> str:
    safe = ["-c", "user.name=A", "-c", "user.email=a@b", "-c", "core.hooksPath=/dev/null"]
    done = subprocess.run(
        ["git", *safe, *arguments], cwd=folder, input=data, capture_output=True, check=True, timeout=30
    )
    return done.stdout.decode().strip()


def commit(folder: Path) -> None:
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--message=all")


def skipped(report: dict) -> dict[str, str]:
    return {file["path"]: file["reason"] for file in report["skipped_files"]}


def pages(site: Path) -> dict[str, str]:
    return {name: data.decode() for name, data in tree_bytes(site).items() if name.endswith(".html")}


def refusal(capsys, *arguments: str) -> str:
    """Run the command line; it must end with 2 and one line, which is returned."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("docmill: ")
    return line


# --- links and paths


@pytest.mark.parametrize("flags", [(), ("--revision", "main")])
def test_links_are_not_followed(source, docmill, tmp_path, flags):
    outside = tmp_path / "outside"
    put(outside, {"secret.py": "SECRET = 1\n", "secret.md": "SECRET", "docmill.toml": 'title = "SECRET"'})
    put(outside / "folder", {"inner.py": "SECRET = 2\n", "a.png": "SECRET"})
    put(source, {"page.md": "![a](a.png) ![b](folder/a.png) ![c](../outside/folder/a.png) [d](file.py)"})
    (source / "a.png").symlink_to(outside / "folder" / "a.png")
    (source / "file.py").symlink_to(outside / "secret.py")
    (source / "README.md").symlink_to(outside / "secret.md")
    (source / "docmill.toml").symlink_to(outside / "docmill.toml")
    (source / "folder").symlink_to(outside / "folder")
    (source / "loop").symlink_to(source)
    (source / "self.py").symlink_to("self.py")
    commit(source)
    status, report, printed = docmill(source, *flags)
    assert status == 0
    assert skipped(report) == dict.fromkeys(["README.md", "a.png", "file.py", "self.py"], "symlink")
    assert "skipped file.py: symlink, symbolic links are not followed" in printed.out
    assert not [name for name, data in tree_bytes(tmp_path / "site").items() if b"SECRET" in data]


def raw_tree(folder: Path, *entries: tuple[str, str, str]) -> str:
    """A tree object that git itself would not write: (mode, name, object)."""
    data = b"".join(f"{mode} {name}\0".encode() + bytes.fromhex(sha) for mode, name, sha in entries)
    return git(folder, "hash-object", "-t", "tree", "-w", "--stdin", "--literally", data=data)


@pytest.mark.parametrize("kind", ["folder", "slash", "absolute", "twice"])
def test_a_tree_with_impossible_names_is_refused(source, docmill, tmp_path, kind):
    commit(source)
    standing = docmill(source)[1]["published"]
    blob = git(source, "hash-object", "-w", "--stdin", data=b"ESCAPED = 1\n")
    entry = ("100644", "escaped.py", blob)
    match kind:
        case "folder":
            tree = raw_tree(source, ("40000", "..", raw_tree(source, entry)))
        case "slash":
            tree = raw_tree(source, ("100644", "../escaped.py", blob))
        case "absolute":
            tree = raw_tree(source, ("100644", f"{tmp_path}/escaped.py", blob))
        case "twice":
            tree = raw_tree(source, entry, ("40000", "escaped.py", raw_tree(source, entry)))
    git(source, "update-ref", "refs/heads/evil", git(source, "commit-tree", tree, "-m", "x"))
    status, report, printed = docmill(source, "--revision", "evil")
    assert status == 2
    assert len(printed.err.splitlines()) == 1
    assert "escaped.py" in report["error"]
    assert not list(tmp_path.rglob("escaped.py"))
    assert json.loads((tmp_path / "site" / "manifest.json").read_bytes())["release"] == standing["release"]


# --- bytes, sizes, depth


WIDE = "0x" + "f" * 5_000


@pytest.mark.parametrize("model", ["none", "bundled"])
def test_numbers_that_python_does_not_print(source, docmill, tmp_path, model):
    code = f"X = {WIDE}\ndef f(a={WIDE}):\n    return {WIDE}\n"
    code += f'def g(x=("""a\nb""", {WIDE})):\n    return 1\n'
    code += f"class A(B({WIDE})):\n    def m(self):\n        return {WIDE}\n"
    code += f"def h(x):\n    match x:\n        case {WIDE}:\n            return 1\n"
    put(source, {"wide.py": code})
    status, report, _ = docmill(source, "--model", model)
    assert (status, report["skipped_files"]) == (0, [])


@pytest.mark.parametrize("model", ["none", "bundled"])
def test_what_can_just_be_parsed_costs_nothing_else(source, docmill, model):
    put(
        source,
        {f"a{n}.py": "x = y" + ".b" * n + "\ndef f(a):\n    return a\n" for n in range(2_900, 3_000, 4)},
    )
    status, report, _ = docmill(source, "--model", model)
    assert status == 0
    assert 0 < len(report["skipped_files"]) < 25


SLOW = {
    "role": ":a" * 100_000,
    "roles": "``x`` " + ":a" * 100_000,
    "edge": "=" * 200_000,
    "grid": "+" + "-" * 200_000 + "x",
    "columns": "== " * 70_000 + "x",
    "backticks": "`" * 100_000 + "a" * 100_000,
    "footnotes": "[" * 100_000 + "1]_" * 30_000,
    "link": "`a <" * 50_000,
    "comments": "x\n" * 100_000,
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", SLOW)
def test_no_docstring_takes_long(source, docmill, kind):
    put(source, {"slow.py": f"def f():\n    r'''Text.\n\n{SLOW[kind]}\n'''\n"})
    assert docmill(source)[0] == 0


def test_what_is_no_text_is_skipped_with_its_reason(source, docmill):
    put(
        source,
        {
            "nul.py": b"x = 1\0\n",
            "invalid.py": b"x = '\xff\xfe'\n",
            "latin.py": "# -*- coding: ascii -*-\nx = 'é'\n".encode("latin-1"),
            "escaped.py": b"# coding: unicode_escape\nx = '\xff'\n",
            "rot.py": b"# coding: rot13\nx = '\xff'\n",
            "unknown.py": b"# coding: none-such\nx = '\xff'\n",
            "wide.py": "x = 1\n".encode("utf-16"),
            "notes.md": b"\x89PNG\0",
        },
    )
    status, report, printed = docmill(source)
    assert status == 0
    assert skipped(report) == {
        "nul.py": "binary",
        "invalid.py": "encoding",
        "latin.py": "encoding",
        "escaped.py": "encoding",
        "rot.py": "encoding",
        "unknown.py": "encoding",
        "wide.py": "binary",  # as every second byte is NUL
        "notes.md": "binary",
    }
    assert "skipped nul.py: binary, NUL at byte 5" in printed.out


def test_a_huge_file_is_not_read(source, docmill):
    for name in ("huge.py", "huge.md", ".gitignore"):
        with (source / name).open("wb") as file:
            file.truncate(200_000_000)
    status, report, printed = docmill(source)
    assert status == 0
    assert skipped(report) == {"huge.py": "too-large", "huge.md": "too-large"}
    assert "skipped huge.py: too-large, 200,000,000 bytes, the cap is 2,000,000" in printed.out


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
@pytest.mark.parametrize("name", ["pipe.py", "README.md", ".gitignore", "docmill.toml", ".git/HEAD"])
def test_a_pipe_is_not_waited_for(source, docmill, name):
    (source / ".git").mkdir()
    os.mkfifo(source / name)
    status, report, _ = docmill(source)
    assert status == 0
    assert skipped(report) == ({name: "binary"} if name.endswith((".py", ".md")) else {})


TOO_DEEP = {
    "parentheses": "x = " + "(" * DEPTH + ")" * DEPTH,
    "lists": "x = " + "[" * DEPTH + "]" * DEPTH,
    "attributes": "x = a" + ".b" * DEPTH,
    "subscripts": "x = a" + "[0]" * DEPTH,
    "unary": "x = " + "-" * DEPTH + "1",
    "not": "x = " + "not " * DEPTH + "1",
    "calls": "x = f" + "()" * DEPTH,
    "nested calls": "x = " + "f(" * DEPTH + ")" * DEPTH,
    "sums": "x = " + "+".join(["1"] * DEPTH),
    "lambdas": "x = " + "lambda: " * DEPTH + "1",
    "conditionals": "x = " + "a if b else " * DEPTH + "c",
    "blocks": "".join(" " * n + "if x:\n" for n in range(DEPTH // 10)) + " " * (DEPTH // 10) + "pass\n",
    "elif": "if x:\n    pass\n" + "elif x:\n    pass\n" * DEPTH,
    "formatted": "x = " + "f'{" * DEPTH + "1" + "}'" * DEPTH,
    "format specs": "x = f'" + "{x:" * DEPTH + "}" * DEPTH + "'",
}

WIDE = {
    "strings": "x = " + " ".join(["'a'"] * DEPTH),
    "and": "x = " + " and ".join(["a"] * DEPTH),
    "comparison": "x = " + " < ".join(["a"] * DEPTH),
    "targets": " = ".join(["a"] * DEPTH) + " = 1",
    "decorators": "@d\n" * DEPTH + HONEST,
    "with": "with " + ", ".join(["a"] * DEPTH) + ": pass",
    "functions": "".join(" " * n + f"def f{n}():\n" for n in range(95)) + " " * 95 + "pass\n",
    "classes": "".join(" " * n + f"class C{n}:\n" for n in range(95)) + " " * 95 + "pass\n",
}


@pytest.mark.parametrize("kind", TOO_DEEP)
def test_nesting_costs_its_file_only(source, docmill, tmp_path, kind):
    put(source, {"deep.py": TOO_DEEP[kind]})
    status, report, printed = docmill(source)
    assert status == 0
    assert skipped(report) == {"deep.py": "nesting"}
    assert "skipped deep.py: nesting, " in printed.out
    assert (tmp_path / "site" / "api" / "honest.html").is_file()


@pytest.mark.parametrize("kind", WIDE)
def test_what_python_parses_is_documented(source, docmill, kind):
    put(source, {"wide.py": WIDE[kind]})
    status, report, _ = docmill(source)
    assert (status, report["skipped_files"]) == (0, [])


SLOW_MARKDOWN = {
    "brackets": "[" * 20_000,
    "images": "![a](" * 10_000,
    "elements": "<div>" * 100_000,
    "headings": "# a\n" * 10_000,
    "quotes": ">" * 50_000,
    "perl": "```perl\n" + "s{" * 40_000 + "\n```",
    "java": "```java\n" + "a.b " * 40_000 + "\n```",
}

SLOW_DOCSTRINGS = {
    "directives": "".join("   " * n + ".. note:: a\n\n" for n in range(500)),
    "options": ".. code::\n" + "   :a: b\n" * 20_000,
    "titled role": ":a:`" + " " * 50_000 + "x<`",
    "hyperlink": "`" + " " * 50_000 + "x<`",
    "sections": "Args:\n    a: b\n\n" * 2_000,
    "underlines": "a\n---\n" * 5_000,
    "backticks": "``" * 20_000,
}


@pytest.mark.parametrize("text", SLOW_MARKDOWN.values(), ids=SLOW_MARKDOWN)
@pytest.mark.timeout(20)
def test_markdown_cannot_hang_a_build(source, docmill, text):
    put(source, {"README.md": text})
    assert docmill(source)[0] == 0


@pytest.mark.parametrize("text", SLOW_DOCSTRINGS.values(), ids=SLOW_DOCSTRINGS)
@pytest.mark.timeout(20)
def test_a_docstring_cannot_hang_a_build(source, docmill, text):
    put(source, {"slow.py": f'r"""A module.\n\n{text}\n"""\n'})
    assert docmill(source)[0] == 0


@pytest.mark.timeout(20)
@pytest.mark.parametrize("pattern", ["*a" * 12 + "b", "**/a/" * 12 + "b", "!", "\\", "[z-a]", "x" * 10**5])
def test_no_ignore_pattern_can_hang_or_end_a_build(source, docmill, pattern):
    put(source, {".gitignore": f"{pattern}\nleft_out.py\n", "left_out.py": "", "a" * 200 + ".py": ""})
    put(source, {"a/" * 60 + "x.py": ""})
    status, report, _ = docmill(source)
    assert status == 0
    assert report["symbols"] == 4  # honest, its function, a…a and x
    put(source, {"docmill.toml": f"exclude = [{json.dumps(pattern)}]\n"})
    status, report, printed = docmill(source)
    assert (status, len(printed.err.splitlines())) == (0, 0) or "docmill.toml:1: exclude: " in report["error"]


# --- texts

PAYLOADS = [
    "</script><script>evil()</script>",
    "<img src=x onerror=evil()>",
    "<img src=http://evil.example/a.png>",
    "<img src='/\t/evil.example/a.png'>",
    "<img src='\\\\evil.example/a.png'>",
    "![a](http://evil.example/a.png)",
    "![a](//evil.example/a.png)",
    "![a](data:image/svg+xml;base64,AAAA)",
    "[a](javascript:evil())",
    "[a](JaVaScRiPt:evil())",
    "[a](&#106;avascript:evil())",
    "[a](data:text/html,evil)",
    "[a](vbscript:evil())",
    "<a href='java\nscript:evil()'>a</a>",
    "<a href=' \x01javascript:evil()'>a</a>",
    "<svg onload=evil()><animate onbegin=evil()></svg>",
    "<iframe src=http://evil.example></iframe>",
    "<object data=http://evil.example></object>",
    "<link rel=stylesheet href=http://evil.example/a.css>",
    "<style>@import 'http://evil.example'</style>",
    "<div style='background:url(http://evil.example)'>a</div>",
    "<form action=http://evil.example><input type=image src=http://evil.example></form>",
    "<base href=http://evil.example>",
    "<meta http-equiv=refresh content='0;url=http://evil.example'>",
    "<h1 id=dm-main>a</h1><h2 id=dm-nav>b</h2>",
    "`a <javascript:evil()>`_ and :ref:`x <javascript:evil()>`",
    "<https://a.example/\"onmouseover='evil()'>",
    "{{ evil() }} {% include 'x' %}",
    "<!-- --><script>evil()</script><!-- -->",
    "<math><mtext><style><img src=x onerror=evil()></style></mtext></math>",
]

OWN_HEAD = {"link": {"icon", "stylesheet"}, "meta": {"generator", "viewport", None}}
NEVER = {"iframe", "object", "embed", "form", "style", "base", "animate", "math", "frame", "applet"}
LOADING = {"src", "srcset", "poster", "data", "action", "formaction", "background", "xlink:href"}


class Audit(HTMLParser):
    """Collects what on a page could run, load or mislead."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.ids: list[str] = []
        self._in_script = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag in NEVER or (
            tag in OWN_HEAD and attributes.get("name", attributes.get("rel")) not in OWN_HEAD[tag]
        ):
            self.found.append(f"<{tag}>")
        self._in_script = tag == "script"
        for name, value in attrs:
            address = "".join((value or "").split()).replace("\\", "/").lower()
            scheme, colon, _ = address.partition(":")
            if name.startswith("on") or name == "style":
                self.found.append(f"<{tag} {name}>")
            if name in LOADING and (colon or address.startswith("//")):
                self.found.append(f"<{tag} {name}={value!r}>")
            if name == "href" and colon and tag == "a" and scheme not in ("http", "https", "mailto"):
                self.found.append(f"<{tag} {name}={value!r}>")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag):
        self._in_script = False

    def handle_data(self, data):
        if self._in_script and data.strip():
            self.found.append(f"<script>{data[:40]}")


def test_no_text_of_a_repository_runs_or_loads_anything(source, docmill, tmp_path):
    texts = "\n\n".join(PAYLOADS)
    functions = "\n".join(
        f"class C{n}(Base[{payload!r}]):\n"
        f"    {payload!r}\n"
        f"    attribute: {payload!r} = {payload!r}\n"
        f"    def f(self, a: {payload!r} = {payload!r}) -> {payload!r}:\n"
        f"        {('Text ' + payload + chr(10) * 2 + 'Args:' + chr(10) + '    a: ' + payload)!r}\n"
        f"        raise ValueError({payload!r})\n"
        for n, payload in enumerate(PAYLOADS)
    )
    put(
        source,
        {
            "evil.py": f"{texts!r}\n{functions}",
            "broken.py": f"def (: {PAYLOADS[0]}\n",
            "README.md": texts,
            "docs/evil.md": texts,
            "docs/<script>evil()<script>.md": "# x",
            "<img src=x onerror=evil()>.py": HONEST,
            "docmill.toml": f"title = {json.dumps(PAYLOADS[0] + PAYLOADS[1])}\n",
        },
    )
    assert docmill(source)[0] == 0
    for name, page in pages(tmp_path / "site").items():
        audit = Audit(page)
        assert audit.found == [], name
        assert len(set(audit.ids)) == len(audit.ids), name
        assert "</title><" not in page.partition("</title>")[2], name


def test_names_of_a_page_do_not_take_the_layouts_own(source, docmill, tmp_path):
    names = ["main", "search", "content", "toc", "nav", "theme", "Classes", "Functions", "L1", "md", "dm"]
    put(source, {"layout.py": "".join(f"def {name}():\n    '''Text.'''\n" for name in names)})
    put(source, {"README.md": "# dm-main\n\n<h2 id='dm-search'>x</h2>\n\n## dm-main\n"})
    assert docmill(source)[0] == 0
    found = pages(tmp_path / "site")
    for name in ("api/layout.html", "index.html"):
        ids = Audit(found[name]).ids
        assert len(set(ids)) == len(ids), name
        assert ids.count("dm-main") == ids.count("dm-search") == 1
    assert set(names) <= set(Audit(found["api/layout.html"]).ids)


# --- names


def built_whole(docmill, source: Path, site: Path, *paths: str) -> None:
    """Build; every symbol must have its place on a page, and each module a page of its own."""
    status, report, _ = docmill(source)
    assert (status, report["skipped_files"]) == (0, [])
    symbols = json.loads((site / "symbols.json").read_bytes())
    assert missing_anchors(site, symbols) == []
    modules = {s["path"]: s["url"] for s in symbols if s["id"].endswith("::")}
    assert modules.keys() >= set(paths)
    assert len({url.casefold() for url in modules.values()}) == len(modules)
    listed = json.loads((site / "manifest.json").read_bytes())["files"]
    assert listed.keys() | {"manifest.json"} == tree_bytes(site).keys()


def test_modules_named_like_pages_of_the_site(source, docmill, tmp_path):
    names = ["index.py", "modules.py", "search.py", "symbols.py", "manifest.py", "objects.py", "site.py"]
    names += [f"{folder}/__init__.py" for folder in ("assets", "api", "src", "doc")]
    names += ["api/index.py", "assets/search.js.py", "README.py"]
    put(
        source,
        dict.fromkeys(names, HONEST) | {"README.md": "# Home", "index.md": "# i", "api/index.md": "# i"},
    )
    built_whole(docmill, source, tmp_path / "site", *names)
    assert ">Home</h1>" in pages(tmp_path / "site")["index.html"]


def test_names_that_differ_in_case_only(source, docmill, tmp_path):
    names = ["Thing.py", "thing.py", "pkg/a.py", "Pkg/a.py", "PKG/b.py", "Straße.py", "STRASSE.py"]
    put(source, dict.fromkeys(names, "def same(): '''One.'''\ndef Same(): '''Two.'''\n"))
    put(source, {"README.md": "a", "Readme.md": "b", "docs/X.md": "c", "docs/x.md": "d"})
    built_whole(docmill, source, tmp_path / "site", *names)
    folded = [name.casefold() for name in tree_bytes(tmp_path / "site")]
    assert len(set(folded)) == len(folded)


@pytest.mark.parametrize("flags", [(), ("--revision", "main")])
def test_odd_file_names(source, docmill, tmp_path, flags):
    odd = ["a#b", "a?b", "a%20b", "a b", 'a"b', "a'b", "a&lt;b", "a<b>", "ünï", "a\\b", "a;b", "a::b"]
    odd += ["a.b", "a`b", "日本", "-x", "a*b", "[a]", "a:b", "con", "x" * 250, "é" * 120]
    names = [f"{name}.py" for name in odd] + ["clash.py", "clash.py.html/inner.py", "d" * 250 + "/x.py"]
    put(source, dict.fromkeys(names, HONEST))
    put(source, {f"docs/{name}.md": "# Title" for name in odd})
    if flags:
        commit(source)
    built_whole(docmill, source, tmp_path / "site", *names)
    inventory = (tmp_path / "site" / "objects.inv").read_bytes().split(b"\n", 4)[4]
    for line in zlib.decompress(inventory).decode().splitlines():
        assert re.fullmatch(r".+? py:\w+ 1 api/\S+ -", line)


def test_what_is_printed_stays_on_its_line(source, docmill):
    put(source, {"a\n\x1b[31m\u202e.py": HONEST, "b.py": b"\0"})
    status, report, printed = docmill(source)
    assert status == 0
    assert "\x1b" not in printed.out
    assert sum(line.startswith("  skipped ") for line in printed.out.splitlines()) == 2
    assert skipped(report) == {r"a\n\x1b[31m\u202e.py": "encoding", "b.py": "binary"}


def test_code_reads_in_the_order_in_which_it_runs(source, docmill, tmp_path):
    trojan = "user\u202e \u2066# only admins\u2069 \u2066"
    code = (
        f'def f(level="{trojan}"):\n    """שלום \u2067עולם\u2069, `{trojan}`.\n\n    >>> {trojan}\n    """\n'
    )
    put(source, {"m.py": f'{code}    return "{trojan}"\n\n\nX = "{trojan}"\n'})
    status, report, _ = docmill(source)
    assert (status, report["findings"]) == (0, [])
    for name, times in (("api/m.html", 5), ("src/m.py.html", 5)):
        page = (tmp_path / "site" / name).read_text()
        shown = re.sub('<bdi class="control" title="U\\+(2066|2067|2069|202E)">.</bdi>', "", page)
        assert page.count('title="U+202E"') == times
        assert re.findall("[\u202a-\u202e\u2066-\u2069]", shown) == (
            ["\u2067", "\u2069"] if "api" in name else []
        )


def test_a_name_that_is_not_utf8_is_skipped(source, docmill):
    (Path(os.fsencode(source).decode()) / os.fsdecode(b"bad\xff.py")).write_text(HONEST)
    for flags in ((), ("--revision", "main")):
        status, report, _ = docmill(source, *flags)
        assert status == 0
        assert skipped(report) == {"bad\\xff.py": "encoding"}
        if not flags:
            commit(source)


def test_lone_surrogates_are_shown_as_escapes(source, docmill, tmp_path):
    put(
        source,
        {
            "s.py": '"""\\ud800 module."""\n__all__ = ["\\udc00", "f"]\nx = "\\ud800"\n"""\\udfff"""\n'
            'def f(a="\\ud800"):\n    """\\x00 \\x1b \\ud800."""\n    raise ValueError("\\ud800")\n'
        },
    )
    built_whole(docmill, source, tmp_path / "site", "s.py")


# --- git


@pytest.mark.parametrize("flags", [(), ("--revision", "main")])
def test_nothing_that_a_repository_configures_is_run(source, docmill, tmp_path, flags):
    marker, script = tmp_path / "executed", tmp_path / "script"
    script.write_text(f"#!/bin/sh\necho $0 >> {marker}\ncat\n")
    script.chmod(0o755)
    put(source, {".gitattributes": "* filter=evil diff=evil merge=evil text ident\n"})
    put(source, {".gitmodules": f'[submodule "x"]\n path = x\n url = ext::sh -c {script}\n'})
    commit(source)
    put(source, {".git/hooks/" + name: script.read_bytes() for name in ("post-checkout", "pre-auto-gc")})
    for hook in (
        "reference-transaction",
        "post-index-change",
        "fsmonitor-watchman",
        "post-checkout",
        "update",
    ):
        (source / ".git" / "hooks" / hook).write_bytes(script.read_bytes())
        (source / ".git" / "hooks" / hook).chmod(0o755)
    put(source, {"included": f"[core]\n fsmonitor = {script}\n"})
    with (source / ".git" / "config").open("a") as file:
        file.write(
            f"[core]\n fsmonitor = {script}\n sshCommand = {script}\n pager = {script}\n editor = {script}\n"
            f" askPass = {script}\n gitProxy = {script}\n alternateRefsCommand = {script}\n"
            f"[alias]\n fetch = !{script}\n ls-tree = !{script}\n rev-parse = !{script}\n"
            f'[filter "evil"]\n clean = {script}\n smudge = {script}\n process = {script}\n required = true\n'
            f'[diff "evil"]\n command = {script}\n textconv = {script}\n'
            f"[uploadpack]\n packObjectsHook = {script}\n[credential]\n helper = !{script}\n"
            f"[gpg]\n program = {script}\n[include]\n path = {source}/included\n"
            f'[remote "origin"]\n url = ext::{script}\n promisor = true\n uploadpack = {script}\n'
            f"[extensions]\n partialClone = origin\n"
        )
    status, report, _ = docmill(source, *flags)
    assert status == 0, report["error"]
    assert not marker.exists(), marker.read_text()
    subprocess.run(["git", "status"], cwd=source, capture_output=True, check=False, timeout=30)
    assert marker.exists()  # the traps were set


@pytest.mark.parametrize(
    "location",
    [
        *("ext::sh -c touch% executed", "fd::17", "ext::file:///tmp", "--upload-pack=touch executed", "-x"),
        *("ssh://-oProxyCommand=touch executed/x", "ssh://-oProxyCommand=x/y", "git@-oProxyCommand=x:y"),
        *("-oProxyCommand=x@host:y", "file://--upload-pack=x", "https://a b/c", "http://x/\ny", "", "a\0b"),
        *("x" * 5_000, "~no-such-user/x", "\udcff", "s3://bucket/x", "javascript:x", "host:path"),
    ],
)
def test_addresses_that_are_none_are_refused(location, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = tmp_path / "report.json"
    line = refusal(capsys, "build", "--out", "site", "--report", str(report), "--", location)
    assert "source" in line
    assert list(tmp_path.iterdir()) == [report]
    assert json.loads(report.read_bytes())["error"]


@pytest.mark.parametrize(
    "revision",
    [
        *(
            "--upload-pack=touch executed",
            "-x",
            "",
            "a..b",
            "@{u}",
            "HEAD^{/x}",
            "HEAD~1",
            "a b",
            "a\nb",
            "a\0b",
        ),
        *(
            "refs/heads/../x",
            "x;touch executed",
            "$(touch executed)",
            "a:b",
            "x.lock",
            "no-such-branch",
            "+main",
        ),
    ],
)
def test_revisions_that_are_none_are_refused(source, tmp_path, capsys, monkeypatch, revision):
    commit(source)
    monkeypatch.chdir(tmp_path)
    line = refusal(capsys, "build", str(source), "--out", "site", f"--revision={revision}")
    assert "revision" in line or "source" in line
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "site").exists()


def test_a_fetch_that_was_killed_does_not_stand_in_the_way(source, docmill, home):
    commit(source)
    assert docmill(source, "--revision", "main")[0] == 0
    (repository,) = home.glob("cache/docmill/sources/*/repository")
    (repository / "shallow.lock").touch()
    put(source, {"new.py": HONEST})
    commit(source)
    status, report, _ = docmill(source, "--revision", "main")
    assert (status, report["symbols"]) == (0, 4)


# --- settings and sources that cannot be used


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('title = "x"\nout = "/tmp/x"\n', 2, "'out' is the operator's"),
        ('model = "evil/model"\n', 1, "'model' is the operator's"),
        ('\n\nresult_cache = "postgresql://evil"\n', 3, "'result_cache' is the operator's"),
        ("budget = 9\n", 1, "'budget' is the operator's"),
        ("strict = false\n", 1, "'strict' is the operator's"),
        ("max_file_size = 1\n", 1, "'max_file_size' is the operator's"),
        ("processes = 999\n", 1, "'processes' is the operator's"),
        ('# x\nincludes = ["a"]\n', 2, "'includes' is not a setting"),
        ("[tool.docmill]\nx = 1\n", 1, "'tool' is not a setting"),
        ('"title\\n" = 1\n', 1, "is not a setting"),
        ("title = \n", None, "docmill.toml"),
        ("title = 5\n", 1, "title: "),
        ("include = 'a'\n", 1, "include: "),
        ('source_url = "javascript:{path}"\n', 1, "source_url: "),
        ("title = " + "[" * DEPTH + "]" * DEPTH, None, "docmill.toml"),
        (b"title = '\xff'\n", None, "docmill.toml"),
    ],
)
def test_what_a_repository_may_not_set_is_refused(source, docmill, tmp_path, text, line, said):
    standing = docmill(source)[1]["published"]
    put(source, {"docmill.toml": text, "new.py": HONEST})
    status, report, printed = docmill(source)
    assert status == 2
    (printed_line,) = printed.err.splitlines()
    assert said in printed_line
    assert line is None or f"docmill.toml:{line}: " in printed_line
    assert report["error"] in printed_line
    assert json.loads((tmp_path / "site" / "manifest.json").read_bytes())["release"] == standing["release"]


USELESS = {
    "absent": {},
    "empty": {},
    "file": {},
    "no Python": {"README.md": "# x", "data.json": "{}"},
    "broken": {"a.py": "def (:\n", "README.md": "# x"},
    "binary": {"a.py": b"\0"},
    "ignored": {"a.py": HONEST, ".gitignore": "*.py"},
    "excluded": {"a.py": HONEST, "docmill.toml": 'exclude = ["*"]'},
    "private": {"_a.py": HONEST, "_p/b.py": HONEST, "README.md": "# x"},
    "hidden": {".a.py": HONEST, ".hidden/a.py": HONEST, "node_modules/a.py": HONEST},
}


@pytest.mark.parametrize("kind", USELESS)
def test_a_source_without_anything_to_document_leaves_the_site_alone(source, docmill, tmp_path, kind):
    docmill(source)
    before, link = tree_bytes(tmp_path / "site"), (tmp_path / "site").readlink()
    useless = tmp_path / "useless"
    if kind == "file":
        useless.write_text(HONEST)
    elif kind != "absent":
        useless.mkdir()
        put(useless, USELESS[kind])
    status, report, printed = docmill(useless)
    assert status == 2
    (line,) = printed.err.splitlines()
    assert line == f"docmill: {report['error']}"
    assert (report["symbols"], report["published"]) == (0, None)
    assert (tree_bytes(tmp_path / "site"), (tmp_path / "site").readlink()) == (before, link)


def test_a_failure_of_any_kind_is_in_the_report(source, docmill, tmp_path, monkeypatch):
    monkeypatch.setenv("DOCMILL_RESULT_CACHE", f"sqlite:///{source / 'honest.py'}")
    status, report, printed = docmill(source)
    assert status == 1
    assert "file is not a database" in report["error"]
    assert len(printed.err.splitlines()) == 1


def test_strict_makes_a_skipped_file_a_failure(source, docmill):
    put(source, {"broken.py": "def (:\n"})
    status, report, printed = docmill(source, "--strict")
    assert status == 1
    assert printed.err.startswith("docmill: strict: 1 skipped, the first broken.py: line 1")
    assert report["published"] is None
    assert skipped(report) == {"broken.py": "syntax"}


@pytest.mark.parametrize(
    "where", ["foreign folder", "file", "foreign link", "no S3 location", "source itself"]
)
def test_where_a_site_cannot_go_nothing_is_touched(source, tmp_path, capsys, where):
    out = tmp_path / "out"
    match where:
        case "foreign folder":
            put(out, {"mine.txt": "mine"})
        case "file":
            out.write_text("mine")
        case "foreign link":
            put(tmp_path / "elsewhere", {"mine.txt": "mine"})
            out.symlink_to(tmp_path / "elsewhere")
    target = {"no S3 location": "s3://key:secret@bucket/x", "source itself": str(source)}.get(where, str(out))
    before = tree_bytes(tmp_path)
    line = refusal(capsys, "build", str(source), "--out", target)
    assert "docmill: out" in line and "secret" not in line
    assert tree_bytes(tmp_path) == before


@pytest.mark.parametrize("files", [0, 60], ids=["in one process", "in several"])
def test_docmill_never_imports_what_it_documents(source, tmp_path, files):
    """Run where a user would, inside the repository, whose modules are named like docmill's and Python's."""
    evil = f"open({str(tmp_path / 'executed')!r}, 'w').close()\n"
    names = ["json.py", "tasks.py", "flows/__init__.py", "conftest.py", "sitecustomize.py", "setup.py"]
    put(source, dict.fromkeys([*names, "griffe.py", "__main__.py"], evil))
    put(source, {f"m{number}.py": evil for number in range(files)})
    command = [str(Path(sys.executable).parent / "docmill"), "build", ".", "--out", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "executed").exists()
