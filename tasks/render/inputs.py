"""What each module's page shows of other modules: users, subclasses, children, texts.

Made for the whole site at once, from what the resolver found; a page's key is made from
its inputs, so that a page is drawn again exactly when one of them changed.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from tasks.documents import Links, Outline
from tasks.generate import Completions
from tasks.keys import digest_bytes
from tasks.render.pages import Child, PageInputs, Reference, References
from tasks.resolve import Index, Target, split_id, without_ordinal

# A page names this many users of a symbol; the rest are counted.
_REFERENCES_SHOWN = 40

_TEST_PARTS = ("tests", "test", "testing", "conftest")


class InputsBuilder:
    """Collects what pages show of each other, one module's Links at a time."""

    def __init__(self, index: Index, outlines: Mapping[str, Outline]) -> None:
        self.index, self.outlines = index, outlines
        self._links_digests: dict[str, str] = {}
        self._public: dict[str, frozenset[str]] = {}
        self._inherited: dict[str, dict[str, tuple[str, str]]] = {}
        self._users: dict[str, list[tuple[str, str]]] = {}
        self._subclasses: dict[str, list[tuple[str, str]]] = {}

    def add(self, path: str, encoded: bytes) -> None:
        """Take one module's Links in, as the cache holds them."""
        links = msgspec.json.decode(encoded, type=Links)
        self._links_digests[path] = digest_bytes(encoded)
        self._public[path] = public = frozenset(links.public)
        self._inherited[path] = self._texts_of_overridden(links, public)
        for used, users in links.uses.items():
            shown = dict.fromkeys(self._public_ancestor(user, public) for user in users)
            self._users.setdefault(used, []).extend((path, user) for user in shown if user is not None)
        for name, bases in links.bases.items():
            if name in public:
                for base in bases:
                    self._subclasses.setdefault(base, []).append((path, name))

    def _texts_of_overridden(self, links: Links, public: frozenset[str]) -> dict[str, tuple[str, str]]:
        """For each override without a text: the nearest definition that has one."""
        found = {}
        for name, ids in links.overrides.items():
            if name in public:
                for symbol_id in ids:
                    path, overridden = split_id(symbol_id)
                    if (text := self.outlines[path].texts.get(overridden)) is not None:
                        found[name] = (symbol_id, text)
                        break
        return found

    @staticmethod
    def _public_ancestor(user: str, public: frozenset[str]) -> str | None:
        while user not in public:
            if not user:
                return None
            user = user.rpartition(".")[0]
        return user

    def build(self, source_pages: Mapping[str, str], completions: Completions) -> list[PageInputs]:
        """The inputs of every page, in order of path.

        Args:
            source_pages: By path, the site's own page of the source; empty without such pages.
            completions: By path, symbol and slot, what a model wrote.
        """
        used_by = self._by_path(self._users)
        subclasses = self._by_path(self._subclasses)
        children = self._children()
        return [
            PageInputs(
                path,
                self.index.by_path[path].name,
                self.index.pages[path],
                source_pages.get(path, ""),
                self.outlines[path].module_digest,
                self._links_digests[path],
                self._crumbs(self.index.by_path[path].name),
                tuple(children.get(self.index.by_path[path].name, ())),
                used_by.get(path, {}),
                subclasses.get(path, {}),
                {n: t for n, t in self._inherited[path].items() if n not in self.outlines[path].texts},
                {name: dict(slots) for name, slots in completions.get(path, {}).items()},
            )
            for path in sorted(self._public)
        ]

    def has_page(self, path: str) -> bool:
        """Whether a module has anything public to show."""
        return bool(self._public.get(path))

    def _by_path(self, found: Mapping[str, list[tuple[str, str]]]) -> dict[str, dict[str, References]]:
        pages: dict[str, dict[str, References]] = {}
        for symbol_id, users in found.items():
            path, name = split_id(symbol_id)
            if name in self._public[path]:
                others = [user for user in users if user != (path, name)]
                if others:
                    pages.setdefault(path, {})[name] = self._references(others)
        return pages

    def _references(self, users: list[tuple[str, str]]) -> References:
        """Users in reading order, tests last."""
        named = sorted((self._is_test(path), self.index.by_path[path].name, name, path) for path, name in set(users))
        first = tuple(
            Reference(f"{module}.{without_ordinal(name)}" if name else module, self._href(path, name))
            for _, module, name, path in named[:_REFERENCES_SHOWN]
        )
        return References(first, len(named))

    def _href(self, path: str, name: str) -> str:
        return self.index.href(Target(self.index.by_path[path], name)) or self.index.page_hrefs[path]

    def _is_test(self, path: str) -> bool:
        parts = path.removesuffix(".py").split("/")
        return any(part in _TEST_PARTS for part in parts) or parts[-1].startswith("test_")

    def _crumbs(self, name: str) -> tuple[Reference, ...]:
        parts = name.split(".")
        crumbs = []
        for length in range(1, len(parts) + 1):
            surface = self.index.by_name.get(".".join(parts[:length]))
            linked = surface is not None and length < len(parts) and self.has_page(surface.path)
            crumbs.append(Reference(parts[length - 1], self.index.page_hrefs[surface.path] if linked and surface else ""))
        return tuple(crumbs)

    def _children(self) -> dict[str, list[Child]]:
        children: dict[str, list[Child]] = {}
        for path, surface in self.index.by_path.items():
            parent, _, _ = surface.name.rpartition(".")
            if parent and self.has_page(path):
                child = Child(surface.name, self.index.page_hrefs[path], self.outlines[path].headline)
                children.setdefault(parent, []).append(child)
        return {parent: sorted(found, key=lambda c: c.name) for parent, found in children.items()}
