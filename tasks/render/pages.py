"""Docs into pages: what a template is given, and the templates' environment.

A page is a function of its PageInputs, its Module, its Links and the Site; all four are
in its key. Nothing here knows which page is new or where pages go.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.metadata import version
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from msgspec import Struct

from tasks.documents import Links, Module, Parameter, Slot, Symbol
from tasks.keys import digest, digest_bytes
from tasks.render.diagram import Uses, diagram
from tasks.render.prose import docstring_html, inline_html, plain_html
from tasks.render.source import highlighted_lines, with_controls_shown
from tasks.resolve import anchor, without_ordinal

_DOTTED = re.compile(r"""(?P<string>'[^']*'|"[^"]*")|(?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)""")
_SECTION = re.compile(r"^\*\*[A-Z][\w ]*\*\*$", re.MULTILINE)
_SPECIAL_KINDS = {"var_positional": "*", "var_keyword": "**"}
_GROUPS = (("class", "Classes"), ("function", "Functions"), ("attribute", "Attributes"))
_KIND_NOTES = {"positional_only": "positional only", "keyword_only": "keyword only"}


class Site(Struct, frozen=True):
    """What all pages of a site share."""

    title: str
    source_url: str | None


class Reference(Struct, frozen=True):
    """A link to a symbol: what is shown, and the href from the site's root."""

    title: str
    href: str


class Users(Struct, frozen=True):
    """Symbols of one module; `page` is its href from the site's root."""

    module: str
    page: str
    names: tuple[str, ...]


class References(Struct, frozen=True):
    """The first of many symbols that refer to one, by module, and how many there are."""

    groups: tuple[Users, ...]
    total: int


class Child(Struct, frozen=True):
    """A module inside a package, and its summary."""

    name: str
    href: str
    headline: Slot | None


class PageInputs(Struct, frozen=True):
    """What one module's page shows beyond its own Module and Links.

    `uses` tells which of a package's parts use which. `inherited` names, for an override
    without a text of its own, the id and the slots' digest of the definition that has one;
    `completions` holds what a model wrote, by symbol and slot; `files` gives where relative links of
    docstrings lead, by what is written.
    """

    path: str
    name: str
    page: str
    source_page: str
    module_digest: str
    links_digest: str
    crumbs: tuple[Reference, ...]
    children: tuple[Child, ...]
    uses: Uses
    used_by: dict[str, References]
    subclasses: dict[str, References]
    inherited: dict[str, tuple[str, str]]
    completions: dict[str, dict[str, str]]
    files: dict[str, str]


# --- what templates see


class ParameterView(Struct):
    """One row of a parameter table."""

    name: str
    kind: str
    annotation: Markup | None
    doc_type: Markup | None
    default: str | None
    text: Markup | None
    origin: str


class SlotView(Struct):
    """A text, and whose it is; `block` where it is paragraphs, not words of one."""

    html: Markup
    origin: str
    block: bool


class RaiseView(Struct):
    """One exception, and when it is raised."""

    name: Markup
    text: SlotView | None


class GroupView(Struct):
    """Symbols of one module that refer to a symbol; the page's own module is not named."""

    module: str
    members: list[Reference]


class ReferencesView(Struct):
    """Symbols that refer to one, and how many more there are."""

    groups: list[GroupView]
    total: int
    more: int


class SymbolView(Struct):
    """One symbol as a template draws it; `text_file` is the other file whose text it shows, "" if none."""

    name: str
    owner: str
    anchor: str
    href: str
    kind: str
    labels: tuple[str, ...]
    decorators: tuple[Markup, ...]
    signature: Markup
    overloads: tuple[Markup, ...]
    line: int
    summary: SlotView | None
    description: SlotView | None
    sections: Markup | None
    parameters: list[ParameterView]
    returns: SlotView | None
    returns_type: Markup | None
    returns_doc_type: Markup | None
    raises: list[RaiseView]
    used_by: ReferencesView | None
    subclasses: ReferencesView | None
    inherited: list[tuple[Reference, str, int]]
    inherits_text_from: str | None
    text_file: str
    members: list[SymbolView]


def relative(page: str, href: str) -> str:
    """An href from the site's root, as seen from a page."""
    folder = page[: page.rfind("/") + 1]
    if folder and href.startswith(folder):
        return href[len(folder) :]
    return "../" * page.count("/") + href


class PageView:
    """Builds the views of one module's symbols."""

    def __init__(
        self, inputs: PageInputs, module: Module, links: Links, docs: Mapping[str, Mapping[str, Slot]]
    ) -> None:
        self.inputs, self.module, self.links, self.docs = inputs, module, links, docs
        self.origins: set[str] = set()
        self._own_page = quote(inputs.page) + "#"
        self.targets = {name: self._seen_from_here(href) for name, href in links.targets.items()}
        self.files = {written: relative(inputs.page, href) for written, href in inputs.files.items()}
        own = {s.name: f"#{anchor(s.name)}" for s in module.symbols if s.name in links.public}
        self.own_targets = self.prose_targets = self.targets | own

    def symbols(self) -> tuple[SymbolView, list[SymbolView]]:
        """The module itself, and its public symbols with their members inside them."""
        views: dict[str, SymbolView] = {}
        top: list[SymbolView] = []
        public = set(self.links.public)
        for symbol in self.module.symbols:
            if symbol.name not in public:
                continue
            view = views[symbol.name] = self._symbol(symbol)
            parent = symbol.name.rpartition(".")[0]
            if symbol.name:
                (views[parent].members if parent in views and parent else top).append(view)
        return views[""], top

    def _seen_from_here(self, href: str) -> str:
        if href.startswith(self._own_page):
            return href[len(self._own_page) - 1 :]
        return relative(self.inputs.page, href)

    def _symbol(self, symbol: Symbol) -> SymbolView:
        slots = self.docs.get(symbol.name, {})
        # What it shows may be another's text, whose names its own scope does not know.
        said = {n: self._seen_from_here(href) for n, href in self.links.mentions.get(symbol.name, {}).items()}
        self.prose_targets = self.own_targets | said
        name = without_ordinal(symbol.name)
        mark = anchor(symbol.name)
        owner, dot, last = name.rpartition(".")
        description, sections = self._description(symbol, slots.get("description"))
        text_file, _, owner_of_text = self.inputs.inherited.get(symbol.name, ("", ""))[0].rpartition("::")
        return SymbolView(
            name=last or self.module.name,
            owner=owner + dot,
            anchor=symbol.name,
            href=f"#{mark}",
            kind=symbol.kind,
            labels=symbol.labels,
            decorators=tuple(self._linked(f"@{decorator}", symbol) for decorator in symbol.decorators),
            signature=self._signature(symbol),
            overloads=tuple(self._linked(text, symbol) for text in symbol.overloads),
            line=symbol.line,
            summary=self._slot(slots.get("summary"), inline=True),
            description=description,
            sections=sections,
            parameters=[self._parameter(symbol, p, slots) for p in _shown(symbol)],
            returns=self._slot(slots.get("returns")),
            returns_type=self._linked(symbol.returns, symbol)
            if symbol.returns and symbol.kind != "attribute"
            else None,
            returns_doc_type=None if symbol.returns else self._doc_type(symbol, "return"),
            raises=[self._raise(n.removeprefix("raises."), s) for n, s in self._raised(symbol, slots)],
            used_by=self._references(self.inputs.used_by.get(symbol.name)),
            subclasses=self._references(self.inputs.subclasses.get(symbol.name)),
            inherited=self._inherited(symbol),
            inherits_text_from=owner_of_text or None,
            text_file="" if text_file == self.inputs.path else text_file,
            members=[],
        )

    def _description(self, symbol: Symbol, slot: Slot | None) -> tuple[SlotView | None, Markup | None]:
        """The description; its titled sections (notes, examples) apart, for they follow the parameters."""
        titled = _SECTION.search(slot.text) if slot and slot.origin == "human" and symbol.parameters else None
        if slot is None or titled is None:
            return self._slot(slot), None
        self.origins.add(slot.origin)
        before, after = slot.text[: titled.start()].rstrip(), slot.text[titled.start() :]
        description = SlotView(self._prose(before), slot.origin, True) if before else None
        return description, self._prose(after)

    def _prose(self, text: str) -> Markup:
        return docstring_html(text, self.prose_targets, self.files)

    def _raised(self, symbol: Symbol, slots: Mapping[str, Slot]) -> Iterator[tuple[str, Slot | None]]:
        names = dict.fromkeys(name for name in (*symbol.expected, *slots) if name.startswith("raises."))
        documented = {n.rpartition(".")[2] for n in slots if n.startswith("raises.")}
        for name in names:
            if name in slots or name.rpartition(".")[2] not in documented:
                yield name, slots.get(name)

    def _raise(self, name: str, slot: Slot | None) -> RaiseView:
        return RaiseView(self._linked(name, None), self._slot(slot, inline=True))

    def _slot(self, slot: Slot | None, inline: bool = False) -> SlotView | None:
        if slot is None:
            return None
        self.origins.add(slot.origin)
        if slot.origin != "human":
            return SlotView(plain_html(slot.text), slot.origin, block=False)
        block = not inline or "\n\n" in slot.text
        html = self._prose(slot.text) if block else inline_html(slot.text, self.prose_targets, self.files)
        return SlotView(html, slot.origin, block)

    def _doc_type(self, symbol: Symbol, name: str) -> Markup | None:
        """A type that only the docstring gives."""
        written = symbol.doc_types.get(name)
        return inline_html(written, self.prose_targets) if written else None

    def _parameter(self, symbol: Symbol, parameter: Parameter, slots: Mapping[str, Slot]) -> ParameterView:
        text = self._slot(slots.get(f"param.{parameter.name}"), inline=True)
        return ParameterView(
            _SPECIAL_KINDS.get(parameter.kind, "") + parameter.name,
            _KIND_NOTES.get(parameter.kind, ""),
            None if parameter.annotation is None else self._linked(parameter.annotation, symbol),
            self._doc_type(symbol, parameter.name) if parameter.annotation is None else None,
            parameter.default,
            text.html if text else None,
            text.origin if text else "",
        )

    def _signature(self, symbol: Symbol) -> Markup:
        """The signature with its types linked; one parameter a line where it is long."""
        if (
            symbol.kind == "class"
            and not symbol.decorators
            and symbol.signature == f"class {symbol.name.rpartition('.')[2]}"
        ):
            return Markup("")  # the heading says as much
        head, opened, rest = symbol.signature.partition("(")
        if not opened or len(symbol.signature) <= 88 or symbol.kind in ("attribute", "class"):
            return self._linked(symbol.signature, symbol)
        tail = f" -> {symbol.returns}" if symbol.returns else ""
        body = rest[: len(rest) - len(tail) - 1]
        if not body:
            return self._linked(symbol.signature, symbol)
        pieces = Markup(",\n    ").join(self._linked(piece, symbol) for piece in split_arguments(body))
        ends = self._linked(head, symbol), self._linked(tail, symbol)
        return Markup("{}(\n    {},\n){}").format(ends[0], pieces, ends[1])

    def _linked(self, text: str, symbol: Symbol | None) -> Markup:
        """Source text in which every dotted name that is known is a link.

        Of a symbol only names that its code refers to, which a parameter's own is not, and not itself.
        """
        itself = f"#{anchor(symbol.name)}" if symbol is not None else ""
        parts: list[str] = []
        position = 0
        for match in _DOTTED.finditer(text):
            name = match["name"] or match["string"][1:-1]
            href = self.targets.get(name)
            if href is None or href == itself or (symbol is not None and name not in symbol.names):
                continue
            parts.append(escape(text[position : match.start()]))
            parts.append(Markup('<a href="{}">{}</a>').format(href, match.group()))
            position = match.end()
        parts.append(escape(text[position:]))
        return Markup("").join(parts)

    def _references(self, found: References | None) -> ReferencesView | None:
        if found is None:
            return None
        groups = []
        for group in found.groups:
            own = group.module == self.inputs.name
            page = "" if own else relative(self.inputs.page, group.page)
            members = [
                Reference(without_ordinal(name), f"{page}#{anchor(name)}")
                if name
                else Reference("the module itself", page or "#dm-main")
                for name in group.names
            ]
            groups.append(GroupView("" if own else group.module, members))
        return ReferencesView(groups, found.total, found.total - sum(len(g.names) for g in found.groups))

    def _inherited(self, symbol: Symbol) -> list[tuple[Reference, str, int]]:
        """By base, the names of what a class has from it; a script makes them links when they are shown."""
        groups = []
        for group in self.links.inherits.get(symbol.name, ()):
            base = self._seen_from_here(group.href)
            groups.append((Reference(group.base, base), " ".join(group.members), len(group.members)))
        return groups


_LAMBDA = re.compile(r"(?<![\w.])lambda\b")


def split_arguments(text: str) -> list[str]:
    """Split the source text of parameters at the commas between them."""
    parts, depth, start, quote, lambdas = [], 0, 0, "", 0
    previous = ""
    for index, char in enumerate(text):
        if quote:
            if char == quote and previous != "\\":
                quote = ""
        elif char in "'\"":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif depth == 0 and _LAMBDA.match(text, index):
            lambdas += 1
        elif depth == 0 and char == ":" and lambdas:
            lambdas -= 1  # what it takes ends here
        elif char == "," and depth == lambdas == 0:
            parts.append(text[start:index].strip())
            start = index + 1
        previous = char if not (char == "\\" and previous == "\\") else ""
    return [*parts, text[start:].strip()]


def _shown(symbol: Symbol) -> tuple[Parameter, ...]:
    """A table of parameters leaves out the receiver, which no caller passes."""
    if symbol.kind == "property":
        return ()
    if symbol.kind == "method" and "staticmethod" not in symbol.labels:
        positional = bool(symbol.parameters) and symbol.parameters[0].kind.startswith("positional")
        return symbol.parameters[1:] if positional else symbol.parameters
    return symbol.parameters


# --- templates


def drawn(template: str, site: Site, page: str, **values: Any) -> str:
    """A page of a site from its template."""
    given = {"site": site, "page": page, "root": relative(page, "")}
    return with_controls_shown(_environment().get_template(template).render(given | values))


@lru_cache(maxsize=1)
def _environment() -> Environment:
    """The templates, with everything escaped that is not marked as HTML."""
    env = Environment(
        loader=PackageLoader("tasks", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    env.filters["relative"] = lambda href, page: relative(page, href)
    env.globals["asset"] = lambda name: assets()[name][0]
    return env


@lru_cache(maxsize=1)
def assets() -> dict[str, tuple[str, bytes]]:
    """What all pages are styled and driven by, by name: its path in a site, and its content.

    The path holds the start of the content's SHA-256, so that a browser may keep the file for good and
    a page that another docmill drew still finds its own.
    """
    found = {}
    for file in (files("tasks") / "templates" / "assets").iterdir():
        stem, _, suffix = file.name.rpartition(".")
        data = file.read_bytes()
        found[file.name] = (f"assets/{stem}.{hashlib.sha256(data).hexdigest()[:12]}.{suffix}", data)
    return found


# What shapes a page besides this package and the templates.
_LIBRARIES = ("jinja2", "markdown-it-py", "mdit-py-plugins", "nh3", "pygments")


@lru_cache(maxsize=1)
def drawing_digest() -> str:
    """A digest of all that draws: this package and what it draws by, templates, assets, libraries, Python.

    It takes the place of a version constant: drawing again is cheap, a stale page is not.
    """
    tasks = files("tasks")
    parts = [_content(tasks / name) for name in ("render", "templates", "chunk/sections")]
    docs = (tasks / "generate" / "docs.py").read_bytes()
    versions = [version(name) for name in _LIBRARIES]
    return digest([parts, digest_bytes(docs), versions, sys.version_info[:2]])


def _content(folder: Traversable) -> list[tuple[str, str]]:
    names = sorted(name for name in _walk(folder) if not name.endswith(".pyc"))
    return [(name, digest_bytes((folder / name).read_bytes())) for name in names]


def _walk(folder: Traversable, prefix: str = "") -> Iterator[str]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name


def module_page(
    site: Site, inputs: PageInputs, module: Module, links: Links, docs: Mapping[str, Mapping[str, Slot]]
) -> str:
    """The page of one module."""
    view = PageView(inputs, module, links, docs)
    head, symbols = view.symbols()
    reexports = [Reference(n, relative(inputs.page, r.href)) for n, r in sorted(links.reexports.items())]
    return drawn(
        "module.html",
        site,
        inputs.page,
        source_page=relative(inputs.page, quote(inputs.source_page)) if inputs.source_page else "",
        module=module,
        head=head,
        groups=[
            (title, found) for kind, title in _GROUPS if (found := [s for s in symbols if s.kind == kind])
        ],
        marks=view.origins - {"human"},
        children=inputs.children,
        diagram=diagram(
            inputs.uses,
            {c.name.rpartition(".")[2]: relative(inputs.page, c.href) for c in inputs.children},
        ),
        reexports=reexports,
        crumbs=[Reference(c.title, relative(inputs.page, c.href) if c.href else "") for c in inputs.crumbs],
    )


def source_page(site: Site, page: str, path: str, text: str, module_page: Reference | None) -> str:
    """The page that shows one file."""
    return drawn(
        "source.html",
        site,
        page,
        path=path,
        name=PurePosixPath(path).name,
        code=highlighted_lines(text),
        module_page=module_page,
    )
