"""What a page says, read from its HTML as a browser would, and from nothing else.

The gate knows the markup of pages as a contract: the classes and elements named here. It
shares no code with the templates and functions that write them.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from functools import lru_cache
from html import unescape
from typing import Literal
from urllib.parse import unquote

from lxml import etree
from msgspec import Struct

_CODE_BEGINS, _CODE_ENDS = b'<pre class="lines"', b"</pre>"
_LINE_ID = re.compile(rb'<i id="L(\d+)"></i>')
_TAG = re.compile(rb"<[^>]*>")
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:|[/\\]{2}")
_LINKS = {"a": "href", "img": "src", "link": "href", "script": "src"}
_IN_A_DOCSTRING = (
    "//main//div[@class='prose' or @class='summary']//*[self::a or self::img]"
    " | //main//table[@class='params']//td[2]//*[self::a or self::img]"
    " | //main//table[@class='params']//td//i//a | //main//dl[@class='facts']//i//a"
    " | //main//dl[@class='facts']/dd//img"
    " | //main//dl[@class='facts']/dd//a[not(parent::code/parent::dd)]"  # where an exception's name is
)


# The text of a human in which a link stands.
Within = Literal["", "docstring", "name", "article"]
_NONE: Within = ""


class ShownParameter(Struct):
    """A row of a table of parameters; `name` has its stars."""

    name: str
    kind: str
    annotation: str | None
    default: str | None
    required: bool
    line: int


class ShownException(Struct):
    """An exception under "Raises"; of a human's own words, the code may know nothing."""

    name: str
    of_a_human: bool
    line: int


class ShownText(Struct):
    """A text that is marked as a model's, and the code in it."""

    text: str
    code: list[str]
    line: int


class ShownSymbol(Struct):
    """All that a page says of one symbol; `name` is its anchor, "" for the module itself.

    `heading` is what stands over it, `returns` the label and the type under it. `line` and `source_line`
    are those of the page and of the source; 0 where the page names none.
    """

    name: str
    kind: str
    heading: str
    line: int
    source_line: int
    signatures: list[str]
    decorators: list[str]
    parameters: list[ShownParameter]
    returns: tuple[str, str] | None
    raises: list[ShownException]
    model_texts: list[ShownText]


class Link(Struct, array_like=True):
    """A link within the site: the file and the anchor that it leads to, and the line that it stands in.

    Of a link in a human's text, `within` says in which: a docstring or an article. Around a name in code it
    may be docmill's all the same. `written` is what such a link has on the page.
    """

    target: str
    anchor: str
    line: int
    within: Within = ""
    written: str = ""


class Page(Struct):
    """A page taken apart.

    `path` is the source file that it documents or shows, "" if none. `source` is the file of the site
    that its source links lead to, "" if they lead elsewhere. `listed` are the pages that it lists with a
    model's summary, and that summary. `words` are what stands in its title, its lists and texts of humans,
    if a model's texts are beside them; `code` is what a source page shows, and `lines` how many lines of it
    can be linked to. `others` are further files whose texts it says that it shows.
    """

    path: str
    source: str
    symbols: list[ShownSymbol]
    listed: list[tuple[str, str]]
    ids: list[str]
    links: list[Link]
    words: str
    code: str | None
    lines: int = 0
    others: tuple[str, ...] = ()


def read_page(name: str, html: bytes) -> Page:
    """Take a page apart.

    Args:
        name: Its path in the site, from which its links lead on.
        html: Its content.

    Raises:
        ValueError: It is no HTML page of docmill's.
    """
    html, code = _without_code(html)
    root = etree.fromstring(html, etree.HTMLParser(encoding="utf-8", huge_tree=True))
    main = None if root is None else root.find(".//main")
    if root is None or main is None:
        raise ValueError(f"{name}: holds no <main>")
    ids = root.xpath("//@id | //a/@name", smart_strings=False)
    if code is not None:
        shown = unescape(_TAG.sub(b"", code).decode())
        path, links, lines = _text(main.find("h1/code")), list(_links(name, root)), _lines(code)
        return Page(path, "", [], [], ids, links, "", shown, lines)
    symbols = []
    module = main.get("data-path", "")
    if module:
        symbols = [_module(main), *(_symbol(section) for section in main.iterfind(".//section[@class]"))]
    source = main.find("h1/a[@class='source'][@href]")
    return Page(
        module or main.get("data-prose", ""),
        _target(name, source.get("href", ""))[0] if source is not None else "",
        symbols,
        list(_listed(name, main)),
        ids,
        list(_links(name, root)),
        _words(main) if any(symbol.model_texts for symbol in symbols) else "",
        None,
        others=tuple(sorted({s.get("data-text-of", "") for s in main.iterfind(".//section[@data-text-of]")})),
    )


def _words(main: etree._Element) -> str:
    """The page's title, what it lists, and what humans wrote of its symbols."""
    places = ("h1/code", "table[@class='listing']", "ul[@class='columns']")
    listed = [element for place in places for element in main.iterfind(place)]
    texts = main.iterfind(".//div[@class]")
    written = [t for t in texts if t.get("class") in ("summary", "prose") and _model_text(t) is None]
    return " ".join(map(_text, (*listed, *written)))


def _without_code(html: bytes) -> tuple[bytes, bytes | None]:
    """A source page without its code, and the code: text and tags alone, far more than elsewhere."""
    start, end = html.find(_CODE_BEGINS), html.rfind(_CODE_ENDS)
    if not 0 <= start < end:
        return html, None
    begins = html.index(b">", start) + 1
    return html[:begins] + html[end:], html[begins:end]


def _lines(code: bytes) -> int:
    """How many lines have an anchor, from the first one on without a gap."""
    numbers = _LINE_ID.findall(code)
    return next((n for n, number in enumerate(numbers) if number != b"%d" % (n + 1)), len(numbers))


def _listed(page: str, main: etree._Element) -> Iterator[tuple[str, str]]:
    for row in main.iterfind("table[@class='listing']//tr"):
        link, cell = row.find(".//a[@href]"), row.find("td")
        text = _model_text(cell) if cell is not None else None
        if link is not None and text is not None:
            yield _target(page, link.get("href", ""))[0], text.text
    for item in main.iterfind("ul[@class='modules']/li"):
        link, text = item.find("a[@href]"), _model_text(item)
        if link is not None and text is not None:
            shown = text.text.removeprefix(_text(link)).removeprefix(" – ")
            yield _target(page, link.get("href", ""))[0], shown


# --- symbols


def _module(main: etree._Element) -> ShownSymbol:
    return _described(main, "", _text(main.find("h1/span[@class='kind']")), 1)


def _symbol(section: etree._Element) -> ShownSymbol:
    kind = (section.get("class") or "").partition(" ")[2]
    return _described(section, section.get("id", ""), kind, _source_line(section))


def _source_line(section: etree._Element) -> int:
    for link in section.iterfind("./*/a[@class='source']"):
        number = link.get("data-line") or (link.get("href") or "").rpartition("#L")[2]
        return int(number) if number.isdecimal() else 0
    return 0


def _described(element: etree._Element, name: str, kind: str, source_line: int) -> ShownSymbol:
    """What stands directly in an element; members are elements of their own."""
    heading = _text(element.find("./*[@class='name']/a"))
    symbol = ShownSymbol(name, kind, heading, _line(element), source_line, [], [], [], None, [], [])
    for child in element:
        match child.tag, child.get("class"):
            case "pre", "sig":
                marked = child.findall("span[@class='decorator']")
                symbol.decorators = [_text(decorator) for decorator in marked]
                text, before = _text(child), "".join(f"{_text(decorator)}\n" for decorator in marked)
                symbol.signatures.append(text.removeprefix(before))
            case "table", "params":
                rows = child.xpath("./tr | ./tbody/tr")  # a human's text may hold tables of its own
                symbol.parameters += map(_parameter, rows)
                cells = (cell for row in rows for cell in row.iterfind("td"))
                symbol.model_texts += [t for cell in cells if (t := _model_text(cell))]
            case "dl", "facts":
                _fact(child, symbol)
                symbol.model_texts += [t for part in child.iterfind("dd") if (t := _model_text(part))]
            case "div", "summary" | "prose":
                if text_of_model := _model_text(child):
                    symbol.model_texts.append(text_of_model)
    return symbol


def _parameter(row: etree._Element) -> ShownParameter:
    kind, cell = row.find("th/small"), row.find("td")
    annotation = None if cell is None else cell.find("code")
    default = None if cell is None else cell.find("span[@class='def']/code")
    return ShownParameter(
        _text(row.find("th/code")),
        _text(kind) if kind is not None else "",
        _text(annotation) if annotation is not None else None,
        _text(default) if default is not None else None,
        cell is not None and cell.find("span[@class='req']") is not None,
        _line(row),
    )


def _fact(element: etree._Element, symbol: ShownSymbol) -> None:
    term = element.find("dt")
    label = (term.text or "").strip() if term is not None else ""
    if label == "Raises":
        for part in element.iterfind("dd"):
            marked = part.find("span[@class]") is not None
            of_a_human = not marked and _text(part) != _text(part.find("code"))
            symbol.raises.append(ShownException(_text(part.find("code")), of_a_human, _line(part)))
    elif term is not None:
        symbol.returns = label, _text(term.find("code"))


def _model_text(element: etree._Element) -> ShownText | None:
    """The text of an element that is marked as a model's."""
    mark = element.find(".//span[@class='mark model']")
    if mark is None:
        return None
    text = _text(element).removesuffix(_text(mark)).strip()
    return ShownText(text, [_text(code) for code in element.iterfind(".//code")], _line(element))


# --- links


def _links(page: str, root: etree._Element) -> Iterator[Link]:
    in_texts: dict[etree._Element, Within] = dict.fromkeys(root.xpath("//article//a"), "article")
    in_texts |= {a: "name" if _is_around_a_name(a) else "docstring" for a in root.xpath(_IN_A_DOCSTRING)}
    for element in root.iter(*_LINKS):
        written = element.get(_LINKS[str(element.tag)])
        if written is None:
            continue
        target, anchor, within = _target(page, written)
        if within:
            text = in_texts.get(element, _NONE)
            yield Link(target, anchor, _line(element), text, written if text else "")
    for element in root.iterfind(".//p[@data-base]"):  # a script makes a link of each name
        target, anchor, _ = _target(page, element.get("data-base", ""))
        link = element.find("a")
        for name in (link.tail or "").split() if link is not None else ():
            yield Link(target, f"{anchor}.{name}", _line(element))


def _is_around_a_name(link: etree._Element) -> bool:
    return [child.tag for child in link] == ["code"] and not link.text and not link[0].tail


def _target(page: str, written: str) -> tuple[str, str, bool]:
    """The file and the anchor that a link leads to, and whether it is one within the site."""
    path, _, anchor = written.partition("#")
    if "%" in anchor:
        anchor = unquote(anchor)
    if not path or path.startswith("?"):
        return page, anchor, True
    file = _file(page[: page.rfind("/") + 1], path)
    return (file, anchor, True) if file is not None else ("", "", False)


@lru_cache(maxsize=20_000)
def _file(folder: str, written: str) -> str | None:
    """The file that a link in a folder's pages leads to; None of one that leads out of the site."""
    if _SCHEME.match(written):
        return None
    path = unquote(written.partition("?")[0])
    file = posixpath.normpath(posixpath.join(folder, path))
    return f"{file}/index.html" if path.endswith("/") else file


def _text(element: etree._Element | None) -> str:
    return "" if element is None else "".join(element.itertext())


def _line(element: etree._Element) -> int:
    return int(element.sourceline or 0)
