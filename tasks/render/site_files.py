"""The files that describe a whole site: home, lists, search index, inventories, assets.

What changes with every build (revision, navigation, search index) lives in scripts that
pages load, so that a page changes only with what it shows itself.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

import msgspec
from markupsafe import Markup

from tasks.documents import SiteFile, Slot, SlotCounts, Snapshot
from tasks.files import read_file, read_text
from tasks.render.diagram import Uses, diagram
from tasks.render.fragments import Fragment
from tasks.render.links import FileLinks, article_pages, resolved, within_article
from tasks.render.pages import Child, PageInputs, Reference, Site, assets, drawn, relative
from tasks.render.prose import page_html
from tasks.resolve import distinct_names
from tasks.result_cache import ResultCache


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
        self._articles = article_pages(file.path for file in snapshot.prose)
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
        yield from sorted(assets().values())
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

    def _prose_references(self) -> list[Reference]:
        pages = sorted(self._articles.items())
        return [Reference(path, quote(page)) for path, page in pages if page != "index.html"]

    def _prose(self) -> Iterator[tuple[str, bytes]]:
        links = FileLinks(self._articles, self._sources)
        home, home_path = Markup(""), ""
        for path, page in self._articles.items():
            text = read_text(self.snapshot.root, path, self._digests[path])
            images: set[str] = set()
            content = page_html(
                text,
                partial(_rewritten, links, path=path, page=page),
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

    def _picture(self, source: str, path: str, page: str, images: set[str]) -> str | None:
        """Where an image of a Markdown file is in the site; it is noted as one that is needed."""
        file = resolved(source, path)
        if file not in self._images:
            return None
        images.add(file)
        return relative(page, quote(self._images[file]))

    def _page(self, template: str, page: str, **values: Any) -> bytes:
        return drawn(template, self.site, page, **values).encode()


def _rewritten(links: FileLinks, written: str, path: str, page: str) -> str | None:
    """Where a relative link of a Markdown file leads, seen from its page."""
    target, _, fragment = written.partition("#")
    if not target:
        return within_article(fragment) if fragment else None
    href = links.of_article(written, path)
    return relative(page, href) if href is not None else None


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
