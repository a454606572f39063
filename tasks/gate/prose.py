"""Links of a repository's Markdown files, as their authors wrote them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from functools import lru_cache
from html import unescape
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token

_IN_HTML = re.compile(
    r"""<(?:a\b[^>]*?\shref|img\b[^>]*?\ssrc)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""", re.IGNORECASE
)
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(?=[\w-]+:|#)(?:.*\n)*?---[ \t]*(?:\n|\Z)")


def links_to_files(text: str, path: str) -> list[tuple[int, str]]:
    """The files of the source that a Markdown file links to, each with the line of the link.

    Args:
        text: The file's content.
        path: Its path from the source root, from which links lead on.
    """
    front = _FRONT_MATTER.match(text)
    skipped = text.count("\n", 0, front.end()) if front else 0
    lines = text.split("\n")
    found = []
    for first, href in _links(_parser().parse(text[front.end() :] if front else text), 0):
        if (target := _file(href, path)) is not None:
            start = first + skipped
            line = next((n for n in range(start, len(lines)) if href in lines[n]), start)
            found.append((line + 1, target))
    return found


def _links(tokens: list[Token], line: int) -> Iterator[tuple[int, str]]:
    for token in tokens:
        at = token.map[0] if token.map else line
        yield from _links(token.children or [], at)
        written = token.attrGet("href") or token.attrGet("src")
        if written:
            yield at, str(written)
        if token.type in ("html_inline", "html_block"):
            found = _IN_HTML.findall(_COMMENT.sub("", token.content))
            yield from ((at, unescape("".join(quoted))) for quoted in found)


def _file(href: str, path: str) -> str | None:
    """What a link leads to, from the source root; None if it leads elsewhere, or into the file itself.

    One that is written from a root stays so, for a source may be a folder in its repository.
    """
    try:
        parts = urlsplit(href.strip())
    except ValueError:
        return None
    if parts.scheme or parts.netloc or not parts.path or "\\" in href:
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), unquote(parts.path)))


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": True}).enable("table")
