"""The files that describe a whole site: home, lists, search index, inventories, assets.

What changes with every build (revision, navigation, search index) lives in scripts that
pages load, so that a page changes only with what it shows itself.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

import msgspec
from markupsafe import Markup

from tasks.documents import SiteFile, Slot, SlotCounts, Snapshot
from tasks.files import read_file
from tasks.render.diagram import Uses, diagram
from tasks.render.fragments import Fragment
from tasks.render.pages import Child, PageInputs, Reference, Site, drawn, relative
from tasks.render.prose import page_html
from tasks.resolve import distinct_names
from tasks.result_cache import ResultCache

_README = ("readme.md", "readme.markdown")
_LINES = re.compile(r"(L\d+)(?:C\d+)?(?:-L?\d+(?:C\d+)?)?")


class SiteFiles:
    """Gathers the files of one site, modules first."""

    def __init__(self, site: Site, snapshot: Snapshot, cache: ResultCache, uses: Mapping[str, Uses]) -> None:
        self.site, self.snapshot, self.cache, self.uses = site, snapshot, cache, uses
        self.files: dict[str, SiteFile] = {}
        self.symbols = 0
        self.slots = SlotCounts()
        self._sources: dict[str, str] = {}
        names = distinct_names(image.path for image in snapshot.images)
        self._images = {path: f"images/{name}" for path, name in names.items()}
        self._digests = {file.path: file.digest for file in (*snapshot.prose, *snapshot.images)}
        self._modules: list[Child] = []
        self._symbol_parts: list[bytes] = []
        self._search_parts: list[str] = []
        self._inventory_parts: list[str] = []

    def add_module(self, inputs: PageInputs, key: str, fragment: Fragment, headline: Slot | None) -> None:
        """Take in one module's page and its share of the lists."""
        self.symbols += fragment.symbol_count
        self.slots += fragment.slots
        self._symbol_parts.append(fragment.symbols.encode())
        if not fragment.search:
            return
        self.files[inputs.page] = SiteFile(key, fragment.digest, fragment.size)
        self._modules.append(Child(inputs.name, quote(inputs.page), headline))
        self._search_parts.append(fragment.search)
        self._inventory_parts.append(fragment.inventory)

    def add_source(self, path: str, page: str, key: str, digest: str, size: int) -> None:
        """Take in one source page."""
        self._sources[path] = page
        self.files[page] = SiteFile(key, digest, size)

    def finish(self) -> dict[str, SiteFile]:
        """Make what is left, and return every file by its path in the site."""
        self._modules.sort(key=lambda module: module.name)
        for path, data in self._shared():
            digest = hashlib.sha256(data).hexdigest()
            self.files[path] = SiteFile(f"file:{digest[:40]}", digest, len(data))
            self.cache.put_many({self.files[path].key: data})
        return dict(sorted(self.files.items()))

    def _shared(self) -> Iterator[tuple[str, bytes]]:
        assets = files("tasks") / "templates" / "assets"
        for asset in sorted(assets.iterdir(), key=lambda a: a.name):
            yield f"assets/{asset.name}", asset.read_bytes()
        yield "assets/site.js", _script("docmillSite", self._description())
        yield "assets/search.js", f"window.docmillSearch=[{','.join(self._search_parts)}];\n".encode()
        yield "symbols.json", b"[\n" + b",\n".join(part for part in self._symbol_parts if part) + b"\n]\n"
        yield "objects.inv", self._inventory()
        yield "llms.txt", self._llms().encode()
        yield "modules.html", self._page("modules.html", "modules.html", modules=self._modules)
        yield from self._prose()

    def _description(self) -> dict[str, Any]:
        return {
            "revision": self.snapshot.revision,
            "sourceUrl": self.site.source_url,
            "nav": navigation(self._modules),
            "pages": [[r.title, r.href] for r in self._prose_references()],
        }

    def _inventory(self) -> bytes:
        """Sphinx's inventory, version 2: a text header, then zlib-compressed lines."""
        title = " ".join(self.site.title.split())
        header = (
            "# Sphinx inventory version 2\n"
            f"# Project: {title}\n"
            "# Version: \n"
            "# The remainder of this file is compressed using zlib.\n"
        )
        return header.encode() + zlib.compress("".join(self._inventory_parts).encode())

    def _llms(self) -> str:
        """An overview for language models (llmstxt.org): title, then links with a phrase each."""
        lines = [f"# {self.site.title}", "", "## Modules", ""]
        lines += [f"- [{_plain(m.name)}]({m.href}){_phrase(m.headline)}" for m in self._modules]
        pages = self._prose_references()
        if pages:
            lines += ["", "## Pages", "", *(f"- [{_plain(p.title)}]({p.href})" for p in pages)]
        return "\n".join(lines) + "\n"

    # --- the repository's own pages

    def _prose_pages(self) -> dict[str, str]:
        """By path: the page of each Markdown file; the README at the root is the home page."""
        paths = [file.path for file in self.snapshot.prose]
        names = distinct_names(paths)
        home = next((path for path in paths if path.lower() in _README), None)
        return {path: "index.html" if path == home else f"doc/{names[path]}.html" for path in paths}

    def _prose_references(self) -> list[Reference]:
        pages = self._prose_pages()
        return [Reference(path, quote(page)) for path, page in sorted(pages.items()) if page != "index.html"]

    def _prose(self) -> Iterator[tuple[str, bytes]]:
        pages = self._prose_pages()
        home, home_path = Markup(""), ""
        for path, page in pages.items():
            text = self._content(path).decode("utf-8-sig")
            images: set[str] = set()
            content = page_html(
                text,
                partial(self._rewritten, path=path, page=page, pages=pages),
                partial(self._picture, path=path, page=page, images=images),
            )
            for image in sorted(images):
                yield self._images[image], self._content(image)
            if page == "index.html":
                home, home_path = content, path
            else:
                title = PurePosixPath(path).stem
                yield page, self._page("prose.html", page, title=title, path=path, content=content)
        listed = [Reference(r.title, r.href) for r in self._prose_references()]
        package, parts = self._outermost()
        yield (
            "index.html",
            self._page(
                "index.html",
                "index.html",
                content=home,
                path=home_path,
                modules=parts,
                module_count=len(self._modules),
                diagram=diagram(
                    self.uses.get(package, ()), {m.name.rpartition(".")[2]: m.href for m in parts}
                ),
                pages=listed,
                slots=self.slots,
            ),
        )

    def _outermost(self) -> tuple[str, list[Child]]:
        """What the home page lists: the top-level modules; where there is one, also its parts."""
        top = [m for m in self._modules if "." not in m.name] or self._modules
        if len(top) != 1:
            return "", top
        package = top[0].name
        return package, [m for m in self._modules if m is top[0] or m.name.rpartition(".")[0] == package]

    def _content(self, path: str) -> bytes:
        return read_file(self.snapshot.root, path, self._digests[path])

    def _rewritten(self, href: str, path: str, page: str, pages: dict[str, str]) -> str | None:
        """Where a relative link of a Markdown file leads in the site."""
        target, _, fragment = href.partition("#")
        if not target:
            return _within_article(fragment) if fragment else None
        resolved = _resolved(target, path)
        found = pages.get(resolved) or self._sources.get(resolved)
        if found is None:
            return None
        suffix = ""
        if fragment:
            suffix = _within_source(fragment) if resolved in self._sources else _within_article(fragment)
        return relative(page, quote(found)) + suffix

    def _picture(self, source: str, path: str, page: str, images: set[str]) -> str | None:
        """Where an image of a Markdown file is in the site; it is noted as one that is needed."""
        resolved = _resolved(source, path)
        if resolved not in self._images:
            return None
        images.add(resolved)
        return relative(page, quote(self._images[resolved]))

    def _page(self, template: str, page: str, **values: Any) -> bytes:
        return drawn(template, self.site, page, **values).encode()


def _resolved(href: str, path: str) -> str:
    """The path from the source's root of what a file refers to by a relative one."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), unquote(href)))


def _within_article(fragment: str) -> str:
    """The link to an anchor of a Markdown file; `#top` is where a browser shows any page from."""
    return "#top" if fragment.lower() == "top" else f"#md-{fragment}"


def _within_source(fragment: str) -> str:
    """The link to a line of a source page; of several (`#L3-L7`, as code hosts write it) to the first."""
    lines = _LINES.fullmatch(fragment)
    return f"#{lines[1]}" if lines else f"#{fragment}"


def navigation(modules: list[Child]) -> list[Any]:
    """The tree of modules, each node `[name, href or "", children]`."""
    root: list[Any] = ["", "", []]
    nodes = {"": root}
    for module in modules:
        parts = module.name.split(".")
        for length in range(1, len(parts) + 1):
            name = ".".join(parts[:length])
            if name not in nodes:
                nodes[name] = [parts[length - 1], "", []]
                nodes[name.rpartition(".")[0]][2].append(nodes[name])
        nodes[module.name][1] = module.href
    return root[2]


def _script(name: str, value: Any) -> bytes:
    """A script that sets a global; `</script>` in it cannot end an element, for none holds it."""
    return f"window.{name}=".encode() + msgspec.json.encode(value) + b";\n"


def _plain(text: str) -> str:
    """Text of a repository or a model, so that Markdown finds neither a link nor HTML in it."""
    return re.sub(r"([\\\[\]<])", r"\\\1", text)


def _phrase(headline: Slot | None) -> str:
    """A summary in a list, with its origin where no human wrote it."""
    if headline is None:
        return ""
    return f": {_plain(headline.text)}" + ("" if headline.origin == "human" else f" ({headline.origin})")
