"""Links across the site: each leads to a file of it, and to an anchor in that file."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import msgspec
from msgspec import Struct

from tasks.documents import Finding
from tasks.gate.page import Link
from tasks.gate.written import Written

_LINE = re.compile(r"L([1-9]\d*)")
_LLMS_LINK = re.compile(r"^- \[(?:[^\]\\]|\\.)*\]\((\S*?)\)(?=:|$)", re.MULTILINE)


class Anchors(Struct):
    """What links can lead to in one file: its ids, and so many lines `L1`, `L2` …."""

    ids: set[str]
    lines: int = 0

    def has(self, anchor: str) -> bool:
        """Whether a browser finds an anchor there; without one it shows the file from its top."""
        if anchor.lower() in ("", "top") or anchor in self.ids:
            return True
        line = _LINE.fullmatch(anchor)
        return line is not None and int(line[1]) <= self.lines


class Text(Struct, frozen=True):
    """A file in which humans write: as it is spelled, and the links in what it says."""

    spelled: str
    links: Sequence[Written] = ()


def dead_links(
    page: str,
    path: str,
    links: Iterable[Link],
    anchors: Mapping[str, Anchors | None],
    texts: Mapping[str, Text],
) -> Iterator[Finding]:
    """The links of a page that lead nowhere.

    What a human wrote stands in the file just as in the page. In a page of the repository's own
    Markdown, docmill has put links right to the file: there an anchor that is not there is the human's.

    Args:
        page: Its path in the site.
        path: The file that it is made from, "" if none.
        links: Its links.
        anchors: Of every file of the site that they may lead to; None where that has none.
        texts: By path, where a human may have written a link: in the file, in one whose texts it shows, or in
            one that adds texts to it.
    """
    seen: Counter[str] = Counter()  # links that a human wrote alike
    for link in links:
        found = anchors.get(link.target, _NOWHERE)
        if found is not _NOWHERE and (found is None or found.has(link.anchor)):
            continue
        what = f"{link.target}#{link.anchor}" if link.anchor else link.target
        missing = "the site has no such file" if found is _NOWHERE else "that page has no such anchor"
        file, line = _written_in(link, texts, seen[link.written]) if link.written else ("", 0)
        seen[link.written] += 1
        # docmill links names to where they are documented, and puts an article's links right to the file.
        of_a_human = {
            "docstring": True,
            "name": file != "",
            "article": found is not _NOWHERE,
        }
        if not file and link.written and link.within != "name":
            file, line = _spelled_in(link, texts)
        is_a_humans = of_a_human.get(link.within, False)
        yield Finding(
            "dead-link",
            "human" if is_a_humans else "docmill",
            (file if is_a_humans else "") or path or page,
            f"a link leads to {what}; {missing}",
            page,
            link.line,
            file or path,
            line,
        )


_NOWHERE = Anchors(set())


def _written_in(link: Link, texts: Mapping[str, Text], before: int) -> tuple[str, int]:
    """The file and line in which a human wrote a link; "" and 0 if nobody wrote one that reads like it.

    Of several that are alike each on the page is told to be another one, in the order of the file, though a
    page may have another order.
    """
    found = [(path, one.line) for path, text in texts.items() for one in text.links if one.reads_like(link)]
    return found[min(before, len(found) - 1)] if found else ("", 0)


def _spelled_in(link: Link, texts: Mapping[str, Text]) -> tuple[str, int]:
    """The file and line in which something reads like a link that is known to be a human's."""
    found = ((path, _line_of(link, text.spelled)) for path, text in texts.items())
    return next(((path, line) for path, line in found if line), ("", 0))


def _line_of(link: Link, source: str) -> int:
    fragment = link.anchor.removeprefix("md-")
    for wanted in (link.written, unquote(link.written), f"#{fragment}" if fragment else ""):
        if wanted and (at := source.find(wanted)) >= 0:
            return source.count("\n", 0, at) + 1
    return 0


# --- files that describe the site


class _Symbol(Struct):
    url: str | None


def listed_links(files: Mapping[str, bytes]) -> Iterator[tuple[str, Link]]:
    """The links in the files that scripts and other tools read, each with the file's name.

    Raises:
        ValueError: One of them is not what it should be.
    """
    for name, data in files.items():
        for href in _READERS[name](data):
            target, _, anchor = href.partition("#")
            yield name, Link(unquote(target), unquote(anchor), 0)


def _symbols(data: bytes) -> Iterator[str]:
    for symbol in msgspec.json.decode(data, type=list[_Symbol]):
        if symbol.url is not None:
            yield symbol.url


def _inventory(data: bytes) -> Iterator[str]:
    """`name domain:role priority uri shown` a line, after four lines of a header (Sphinx, version 2)."""
    packed = data.split(b"\n", 4)[4]
    for line in zlib.decompress(packed).decode().splitlines():
        yield line.rsplit(" ", 2)[1]


def _llms(data: bytes) -> Iterator[str]:
    yield from _LLMS_LINK.findall(data.decode())


def _search(data: bytes) -> Iterator[str]:
    """`[module, page, [[name, kind, summary …], …], [[name, kind, href], …], summary …]` each."""
    for _module, page, rows, offered, *_summary in _script(data):
        yield page
        yield from (f"{page}#{name}" for name, *_shown in rows)
        yield from (href for _name, _kind, href in offered)


def _navigation(data: bytes) -> Iterator[str]:
    site = _script(data)
    yield from (href for _title, href in site["pages"])
    stack = list(site["nav"])
    while stack:
        _name, href, children = stack.pop()
        if href:
            yield href
        stack += children


def _script(data: bytes) -> Any:
    """The value that a script gives a global."""
    return msgspec.json.decode(data.partition(b"=")[2].rstrip().removesuffix(b";"))


_READERS = {
    "assets/search.js": _search,
    "assets/site.js": _navigation,
    "llms.txt": _llms,
    "objects.inv": _inventory,
    "symbols.json": _symbols,
}
LISTINGS = tuple(_READERS)
