"""Links that humans wrote to files of the repository, and where these are in the site."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, unquote

from tasks.resolve import distinct_names

_README = ("readme.md", "readme.markdown")
_LINES = re.compile(r"(L\d+)(?:C\d+)?(?:-L?\d+(?:C\d+)?)?")
# How generators of sites name the page of a Markdown file.
_PAGE_ENDING = re.compile(r"(?:/index)?(?:\.html|/)?$")


def article_pages(paths: Iterable[str]) -> dict[str, str]:
    """By path: the page of each Markdown file; the README at the root is the home page."""
    paths = list(paths)
    names = distinct_names(paths)
    home = next((path for path in paths if path.lower() in _README), None)
    return {path: "index.html" if path == home else f"doc/{names[path]}.html" for path in paths}


class FileLinks:
    """Where in the site a relative link leads.

    Args:
        articles: By path, the pages of Markdown files.
        sources: By path, the pages that show source files.
    """

    def __init__(self, articles: Mapping[str, str], sources: Mapping[str, str]) -> None:
        self._articles, self._sources = articles, sources
        self._by_name: dict[str, list[str]] = {}
        for path in articles:
            self._by_name.setdefault(posixpath.basename(path), []).append(path)

    def of_article(self, written: str, path: str) -> str | None:
        """The href, from the site's root, of a link in a Markdown file; None of what is not there."""
        target, _, fragment = written.partition("#")
        return self._href(resolved(target, path), fragment)

    def of_docstring(self, written: str, path: str) -> str | None:
        """The same of a link in a docstring, whose author may have had another site in mind.

        Seen from the file, then from the repository's root; at last any Markdown file whose path ends like
        the link, if there is just one, for other generators' pages lie elsewhere and end otherwise.
        """
        target, _, fragment = written.partition("#")
        inside = re.sub(r"^(?:\.{0,2}/)+", "", target)
        for candidate in (resolved(target, path), resolved(inside, "")):
            if (href := self._href(candidate, fragment)) is not None:
                return href
        stem = _PAGE_ENDING.sub("", unquote(inside).removesuffix(".md"))
        if not stem:
            return None
        ends = (f"{stem}.md", f"{stem}/index.md")
        named = [path for end in ends for path in self._by_name.get(posixpath.basename(end), ())]
        alike = [path for path in named if f"/{path}".endswith(tuple(f"/{end}" for end in ends))]
        return self._href(alike[0], fragment) if len(alike) == 1 else None

    def _href(self, path: str, fragment: str) -> str | None:
        if path in self._articles:
            return quote(self._articles[path]) + (within_article(fragment) if fragment else "")
        if path in self._sources:
            return quote(self._sources[path]) + (_within_source(fragment) if fragment else "")
        return None


def resolved(written: str, path: str) -> str:
    """The path from the source's root of what a file refers to by a relative one or by one from there."""
    target = unquote(written.partition("?")[0])
    folder = "" if target.startswith("/") else posixpath.dirname(path)
    return posixpath.normpath(posixpath.join(folder, target.lstrip("/")))


def within_article(fragment: str) -> str:
    """The link to an anchor of a Markdown file; `#top` is where a browser shows any page from."""
    return "#top" if fragment.lower() == "top" else f"#md-{fragment}"


def _within_source(fragment: str) -> str:
    """The link to a line of a source page; of several (`#L3-L7`, as code hosts write it) to the first."""
    lines = _LINES.fullmatch(fragment)
    return f"#{lines[1]}" if lines else f"#{fragment}"
