"""What the names of a source refer to, across its files, without running any of them.

An Index is made from the surfaces of all modules; with it the names of one module
become Links. Names are looked up as an import system would: the members of a module,
what it imports, its submodules, what it imports with a star. What a name is bound to at
run time (monkey patches, `__getattr__`, computed imports) is not known here.
"""

from __future__ import annotations

import builtins
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
from griffe import c3linear_merge
from msgspec import Struct

from tasks.chunk import Chunk, load_modules, load_outlines, surfaces
from tasks.documents import InheritedMembers, Links, Module, Outline, Reexport, Surface, Symbol
from tasks.keys import digest, digest_bytes, key
from tasks.result_cache import ResultCache
from tasks.spread import Spread

# Raised whenever the same surfaces would resolve to other Links.
RESOLVE_VERSION = 6

T = TypeVar("T")

_BUILTINS = frozenset(vars(builtins))
_ORDINAL = re.compile(r"#\d+$")
_PLAIN_ANCHOR = re.compile(r"[A-Za-z0-9_.~-]+")
_CLASH_DIGITS = 8
_LONGEST_CHAIN = 40
_TEST_PARTS = {"tests", "test", "conftest"}
# A file system takes 255 bytes; a suffix and a digest come after.
_LONGEST_NAME = 200


def resolve(
    chunks: list[Chunk],
    outlines: Mapping[str, Outline],
    private: tuple[str, ...],
    cache: ResultCache,
    spread: Spread,
) -> dict[str, str]:
    """Resolve the names of all modules, those whose Links the cache holds excepted.

    Args:
        chunks: The parsed files.
        outlines: Their outlines, by path.
        private: Globs of dotted module names that are not public, whatever they are called.
        cache: Where Links are found and put.
        spread: How the work is spread.

    Returns:
        By path, the key of each module's Links.
    """
    everything = digest(sorted((path, outline.surface_digest) for path, outline in outlines.items()))
    keys = {
        chunk.path: key("links", RESOLVE_VERSION, chunk.key, everything, private)
        for chunk in chunks
        if outlines[chunk.path].surface is not None
    }
    missing = cache.missing(keys.values())
    work = [(chunk, keys[chunk.path]) for chunk in chunks if keys.get(chunk.path) in missing]
    spread(resolve_files, work, chunks, private)
    return keys


def resolve_files(
    work: Iterable[tuple[Chunk, str]], cache: ResultCache, chunks: list[Chunk], private: tuple[str, ...]
) -> None:
    """Resolve the names of some modules against all, and store their Links."""
    keys = {chunk.path: links_key for chunk, links_key in work}
    modules = load_modules(cache, (chunk for chunk in chunks if chunk.path in keys))
    index = Index(surfaces(load_outlines(cache, chunks)), private)
    cache.put_many({keys[path]: msgspec.json.encode(index.links(module)) for path, module in modules.items()})


class Target(Struct, frozen=True):
    """A symbol found: the module that holds it, and its qualified name there."""

    module: Surface
    name: str

    @property
    def id(self) -> str:
        """`path::Qualified.name`."""
        return f"{self.module.path}::{self.name}"


def distinct_names(names: Iterable[str]) -> dict[str, str]:
    """Names of pages that stay distinct where case is folded: `name` or `name~digest`.

    Every one of a clashing group is renamed, so that none depends on the others' order;
    so is a page that would be called like a folder of others, or longer than a file may be.
    """
    names = list(names)
    folded = Counter(name.casefold() for name in names)
    folders = {name.casefold()[:end] for name in names for end, c in enumerate(name.casefold()) if c == "/"}
    return {
        name: f"{_cut(name)}~{digest_bytes(name.encode())[:_CLASH_DIGITS]}"
        if folded[name.casefold()] > 1 or f"{name.casefold()}.html" in folders or _cut(name) != name
        else name
        for name in names
    }


def _cut(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.encode()[:_LONGEST_NAME].decode("utf-8", "ignore")


def split_id(symbol_id: str) -> tuple[str, str]:
    """An id's path and qualified name."""
    path, _, name = symbol_id.rpartition("::")
    return path, name


def overridden_text(ids: Iterable[str], outlines: Mapping[str, Outline]) -> tuple[str, str] | None:
    """Of overridden definitions, nearest first, the one that has a text: its id, and the text's digest."""
    for symbol_id in ids:
        path, name = split_id(symbol_id)
        if (text := outlines[path].texts.get(name)) is not None:
            return symbol_id, text
    return None


def without_ordinal(name: str) -> str:
    """A qualified name without `#2`."""
    return _ORDINAL.sub("", name)


def is_test(path: str) -> bool:
    """Whether a file holds tests, by the names that such files and folders go by."""
    parts = path.removesuffix(".py").split("/")
    return not _TEST_PARTS.isdisjoint(parts) or parts[-1].startswith("test_") or parts[-1].endswith("_test")


def is_private(name: str) -> bool:
    """The underscore rule; special names (`__call__`) are not private."""
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


class Index:
    """All modules of a source, by dotted name and by path."""

    def __init__(self, surfaces: Iterable[Surface], private: tuple[str, ...] = ()) -> None:
        self.private = private
        self.by_path = {surface.path: surface for surface in sorted(surfaces, key=lambda s: s.path)}
        self.by_name: dict[str, Surface] = {}
        for surface in self.by_path.values():
            self.by_name.setdefault(surface.name, surface)
        self._answers: dict[tuple[str, str], Any] = {}
        self._outermost: dict[tuple[str, str], Any] = {}
        self._asking: set[tuple[str, str]] = set()
        self._cycles = 0
        self._children: dict[str, dict[str, list[str]]] = {}
        self._public: dict[str, frozenset[str]] = {}

    @cached_property
    def pages(self) -> dict[str, str]:
        """The page of each file, relative to the site's root."""
        shared = Counter(surface.name for surface in self.by_path.values())
        unique = {
            path: s.name if shared[s.name] == 1 else f"{s.name}~{digest_bytes(path.encode())[:_CLASH_DIGITS]}"
            for path, s in self.by_path.items()
        }
        files = distinct_names(unique.values())
        return {path: f"api/{files[name]}.html" for path, name in unique.items()}

    @cached_property
    def page_hrefs(self) -> dict[str, str]:
        """The hrefs of the pages, from the site's root."""
        return {path: quote(page) for path, page in self.pages.items()}

    @cached_property
    def promoted(self) -> dict[str, set[str]]:
        """By path: names that a public module offers, though their own module may be private."""
        promoted: dict[str, set[str]] = {}
        for surface in self.by_path.values():
            if self._is_public_module(surface.name):
                for target in self.offered(surface).values():
                    promoted.setdefault(target.module.path, set()).add(target.name)
        return promoted

    def offered(self, surface: Surface) -> dict[str, Target]:
        """What a module re-exports of other modules of this source.

        With `__all__`, the names it lists; without, what a package imports by name from
        the package's own modules.
        """
        exports = self.exports(surface)
        if exports is not None:
            names = [name for name in exports if name not in surface.members]
        elif surface.package:
            inside = surface.name + "."
            names = [n for n, t in surface.imports.items() if not n.startswith("_") and t.startswith(inside)]
        else:
            names = []
        found = {}
        for name in names:
            target = self.member(surface, name)
            if target is not None and target.name and target.module is not surface:
                found[name] = target
        return found

    def exports(self, surface: Surface) -> dict[str, None] | None:
        """The names in a module's `__all__`, those it takes over from other modules' included."""
        if surface.exports is None:
            return None
        written, nothing = surface.exports, dict[str, None]()
        return self._once("exports", surface.path, lambda: self._exported(surface, written), nothing)

    def _exported(self, surface: Surface, written: tuple[str, ...]) -> dict[str, None]:
        found: dict[str, None] = {}
        for name in written:
            module = self.in_scope(surface, "", name[:-2], {}) if name.endswith(".*") else None
            found.update((self.exports(module.module) or {}) if module else {name: None})
        return found

    def public_names(self, surface: Surface) -> tuple[str, ...]:
        """The qualified names of a module that its readers are meant to use; "" is itself."""
        exports = self.exports(surface)
        promoted = self.promoted.get(surface.path, set())
        is_public = self._is_public_module(surface.name)
        found: dict[str, None] = {}
        for name, kind in surface.members.items():
            plain = without_ordinal(name)
            parent, _, last = plain.rpartition(".")
            if parent:
                visible = parent in found and surface.members.get(parent) == "class" and not is_private(last)
            elif plain in promoted:
                visible = True
            elif exports is not None:
                visible = is_public and plain in exports
            else:
                visible = is_public and not is_private(plain)
            if visible and not (kind == "attribute" and last.startswith("__")):
                found[name] = None
        return ("", *found) if is_public or found else ()

    def _is_public_module(self, name: str) -> bool:
        hidden = any(fnmatchcase(name, pattern) for pattern in self.private)
        return not hidden and not any(is_private(part) for part in name.split("."))

    def href(self, target: Target) -> str | None:
        """Where a public symbol is documented; None for any other."""
        path = target.module.path
        if target.name not in self._public_of(path):
            return None
        page = self.page_hrefs[path]
        return f"{page}#{anchor(target.name)}" if target.name else page

    def _public_of(self, path: str) -> frozenset[str]:
        if path not in self._public:
            self._public[path] = frozenset(self.public_names(self.by_path[path]))
        return self._public[path]

    # --- looking names up

    def resolve(self, dotted: str) -> Target | None:
        """The symbol that an absolute dotted name leads to."""
        return self._once("name", dotted, lambda: self._walk(dotted.split(".")), None)

    def _once(self, kind: str, name: str, find: Callable[[], T], on_cycle: T) -> T:
        """Remember what is found, unless it was found inside a cycle that began elsewhere.

        What leads back to itself leads nowhere. An answer that met such a cycle depends on
        where the question began: it holds for that question alone, so that no answer
        depends on what was asked before.
        """
        question = (kind, name)
        if question in self._answers:
            return self._answers[question]
        if question in self._asking:
            self._cycles += 1
            return on_cycle
        if not self._asking and question in self._outermost:
            return self._outermost[question]
        self._asking.add(question)
        cycles = self._cycles
        try:
            found = find()
        finally:
            self._asking.discard(question)
        if self._cycles == cycles:
            self._answers[question] = found
        elif not self._asking:
            self._outermost[question] = found
        return found

    def _walk(self, parts: list[str]) -> Target | None:
        if len(parts) > _LONGEST_CHAIN:
            return None
        for length in range(1, len(parts) + 1):
            if (surface := self.by_name.get(".".join(parts[:length]))) is not None:
                return self._follow(Target(surface, ""), parts[length:])
        return None

    def _follow(self, target: Target, parts: list[str]) -> Target | None:
        for part in parts:
            found = self.member(target.module, part) if not target.name else self._class_member(target, part)
            if found is None:
                return None
            target = found
        return target

    def member(self, surface: Surface, name: str) -> Target | None:
        """What `name` is in a module's namespace."""
        if name in surface.members:
            return Target(surface, name)
        submodule = f"{surface.name}.{name}"
        imported = surface.imports.get(name)
        if imported is not None and imported != submodule:
            return self.resolve(imported)
        if submodule in self.by_name:
            return Target(self.by_name[submodule], "")
        if imported is not None:
            return None
        if not surface.stars:
            return None
        question = f"{surface.path}::{name}"
        return self._once("star", question, lambda: self._starred(surface, name, {surface.path}), None)

    def _starred(self, surface: Surface, name: str, seen: set[str]) -> Target | None:
        for star in surface.stars:
            source = self.by_name.get(star)
            if source is None or source.path in seen or name.startswith("_"):
                continue
            seen.add(source.path)
            exports = self.exports(source)
            if exports is not None and name not in exports:
                continue
            if name in source.members:
                return Target(source, name)
            if name in source.imports:
                return self.resolve(source.imports[name])
            if (found := self._starred(source, name, seen)) is not None:
                return found
        return None

    def _class_member(self, owner: Target, name: str) -> Target | None:
        qualified = f"{owner.name}.{name}"
        if qualified in owner.module.members:
            return Target(owner.module, qualified)
        if owner.module.members.get(owner.name) != "class":
            return None
        for ancestor in self.ancestors(owner):
            if f"{ancestor.name}.{name}" in ancestor.module.members:
                return Target(ancestor.module, f"{ancestor.name}.{name}")
        return None

    def in_scope(
        self, surface: Surface, scope: str, dotted: str, local_imports: dict[str, str]
    ) -> Target | None:
        """What a dotted name, written inside the definition `scope`, refers to."""
        root, *rest = dotted.split(".")
        if root == "self":
            owner = scope.rpartition(".")[0]
            return self._class_member(Target(surface, owner), rest[0]) if owner and rest else None
        found = self.member(surface, root)
        if found is None and root in local_imports:
            found = self.resolve(local_imports[root])
        while found is None and scope:
            nested = f"{scope}.{root}"
            kind = surface.members.get(nested)
            # A method sees the members of its class in its head alone: `max` in its body is the builtin.
            if kind is not None and (root not in _BUILTINS or kind in ("class", "function")):
                found = Target(surface, nested)
            scope = scope.rpartition(".")[0]
        return None if found is None else self._follow(found, rest)

    # --- classes

    def own_members(self, owner: Target) -> list[str]:
        """The qualified names of what a class itself defines."""
        path = owner.module.path
        if path not in self._children:
            children = self._children[path] = {}
            for name in owner.module.members:
                children.setdefault(name.rpartition(".")[0], []).append(name)
        return self._children[path].get(owner.name, [])

    def bases(self, owner: Target) -> tuple[Target, ...]:
        """The direct bases of a class that this source defines."""
        scope = owner.name.rpartition(".")[0]
        written = owner.module.bases.get(owner.name, ())
        found = (self.in_scope(owner.module, scope, base, {}) for base in written)
        return tuple(t for t in found if t is not None and t.module.members.get(t.name) == "class")

    def ancestors(self, owner: Target) -> tuple[Target, ...]:
        """The bases of a class in method resolution order, itself left out."""
        return self._once("class", owner.id, lambda: self._linearized(owner), ())

    def _linearized(self, owner: Target) -> tuple[Target, ...]:
        bases = [base for base in self.bases(owner) if base.id != owner.id]
        lines = [[base.id, *(a.id for a in self.ancestors(base))] for base in bases]
        known = {t.id: t for base in bases for t in (base, *self.ancestors(base))}
        try:
            order = c3linear_merge(*lines, [base.id for base in bases])
        except ValueError:  # inconsistent bases: Python would refuse the class
            order = list(dict.fromkeys(i for line in lines for i in line))
        return tuple(known[i] for i in order if i != owner.id)

    # --- the links of one module

    def links(self, module: Module) -> Links:
        """Resolve all names of a module."""
        surface = self.by_path[module.path]
        targets: dict[str, str] = {}
        uses: dict[str, dict[str, None]] = {}
        bases: dict[str, tuple[str, ...]] = {}
        inherits: dict[str, tuple[InheritedMembers, ...]] = {}
        overrides: dict[str, tuple[str, ...]] = {}
        mentions: dict[str, dict[str, str]] = {}
        memo: dict[tuple[str, str], Target | None] = {}
        for symbol in module.symbols:
            for name in symbol.names:
                self._use(surface, symbol, name, module.local_imports, memo, targets, uses)
            if symbol.mentions:
                mentions[symbol.name] = dict(self._mentioned(surface, symbol))
            if symbol.kind == "class":
                owner = Target(surface, symbol.name)
                bases[symbol.name] = tuple(base.id for base in self.bases(owner))
                inherits[symbol.name] = tuple(self._inherited(owner))
                overrides.update(self._overrides(owner))
        return Links(
            self.public_names(surface),
            dict(sorted(targets.items())),
            {name: found for name, found in mentions.items() if found},
            {used: tuple(users) for used, users in sorted(uses.items())},
            {name: ids for name, ids in bases.items() if ids},
            {name: groups for name, groups in inherits.items() if groups},
            overrides,
            {
                name: Reexport(href, target.module.members[target.name])
                for name, target in self.offered(surface).items()
                if (href := self.href(target)) is not None
            },
        )

    def _mentioned(self, surface: Surface, symbol: Symbol) -> Iterator[tuple[str, str]]:
        """What a docstring's names refer to: members of its class, names of its module, absolute ones."""
        scope = symbol.name if symbol.kind == "class" else symbol.name.rpartition(".")[0]
        for name in symbol.mentions:
            found = self._follow(Target(surface, scope), name.split(".")) if scope else None
            found = found or self.in_scope(surface, scope, name, {}) or self.resolve(name)
            href = self.href(found) if found is not None else None
            if href is not None:
                yield name, href

    def _use(
        self,
        surface: Surface,
        symbol: Symbol,
        name: str,
        local_imports: dict[str, str],
        memo: dict[tuple[str, str], Target | None],
        targets: dict[str, str],
        uses: dict[str, dict[str, None]],
    ) -> None:
        scope = symbol.name if name.startswith("self.") or "." in symbol.name else ""
        while True:
            if (scope, name) not in memo:
                memo[scope, name] = self.in_scope(surface, scope, name, local_imports)
            found = memo[scope, name]
            if found is not None or "." not in name:
                break
            name = name.rpartition(".")[0]  # of `Class.made.up`, `Class` is used at least
        if found is None or found.id == f"{surface.path}::{symbol.name}":
            return
        uses.setdefault(found.id, {}).setdefault(symbol.name)
        if (href := self.href(found)) is not None and not name.startswith("self."):
            targets.setdefault(name, href)

    def _inherited(self, owner: Target) -> Iterator[InheritedMembers]:
        seen = {name.rpartition(".")[2] for name in self.own_members(owner)}
        for ancestor in self.ancestors(owner):
            page = self.href(ancestor)
            public = self._public_of(ancestor.module.path)
            found = []
            for qualified in self.own_members(ancestor):
                last = qualified.rpartition(".")[2]
                if last not in seen and qualified in public and not (last.startswith("__") or "#" in last):
                    found.append(last)
                seen.add(last)
            if found and page is not None:
                yield InheritedMembers(ancestor.name, page, tuple(found))

    def _overrides(self, owner: Target) -> Iterator[tuple[str, tuple[str, ...]]]:
        ancestors = self.ancestors(owner)
        for qualified in self.own_members(owner) if ancestors else ():
            last = qualified.rpartition(".")[2]
            ids = tuple(
                f"{a.module.path}::{a.name}.{last}"
                for a in ancestors
                if f"{a.name}.{last}" in a.module.members
            )
            if ids:
                yield qualified, ids


def anchor(name: str) -> str:
    """A qualified name as the fragment of an href."""
    return name if _PLAIN_ANCHOR.fullmatch(name) else quote(name, safe=".~_-")
