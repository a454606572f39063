"""What each module's page shows of other modules: users, subclasses, children, texts.

Made for the whole site at once, from what the resolver found; a page's key is made from
its inputs, so that a page is drawn again exactly when one of them changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

import msgspec

from tasks.documents import Completions, Links, Outline, Slot
from tasks.keys import digest_bytes
from tasks.render.diagram import Uses
from tasks.render.links import FileLinks
from tasks.render.pages import Child, PageInputs, Reference, References, Users
from tasks.render.prose import plain_text
from tasks.resolve import Index, is_test, overridden_text, split_id

# A page names this many users of a symbol; the rest are counted.
_REFERENCES_SHOWN = 40

# A user of a symbol: its module's rank in reading order, and its qualified name there.
_User = tuple[int, str]


class InputsBuilder:
    """Collects what pages show of each other, one module's Links at a time."""

    def __init__(self, index: Index, outlines: Mapping[str, Outline]) -> None:
        self.index, self.outlines = index, outlines
        self._links_digests: dict[str, str] = {}
        self._public: dict[str, frozenset[str]] = {}
        self._inherited: dict[str, dict[str, tuple[str, str]]] = {}
        self._users: dict[str, list[_User]] = {}
        self._subclasses: dict[str, list[_User]] = {}
        self._parts_used: dict[str, dict[str, set[str]]] = {}
        order = sorted(index.by_path.values(), key=lambda s: (is_test(s.path), s.name, s.path))
        self._modules = [(surface.path, surface.name) for surface in order]
        self._ranks = {surface.path: rank for rank, surface in enumerate(order)}

    def add(self, path: str, encoded: bytes) -> None:
        """Take one module's Links in, as the cache holds them."""
        links = msgspec.json.decode(encoded, type=Links)
        self._links_digests[path] = digest_bytes(encoded)
        self._public[path] = public = frozenset(links.public)
        self._inherited[path] = self._texts_of_overridden(links, public)
        rank = self._ranks[path]
        for used, users in links.uses.items():
            shown = {user if user in public else self._public_ancestor(user, public) for user in users}
            self._users.setdefault(used, []).extend((rank, user) for user in shown if user is not None)
        self._add_parts(path, {split_id(used)[0] for used in links.uses})
        for name, bases in links.bases.items():
            if name in public:
                for base in bases:
                    self._subclasses.setdefault(base, []).append((rank, name))

    def _add_parts(self, path: str, used: set[str]) -> None:
        """Note which part of which package uses which, for one module and the files that it uses."""
        if is_test(path):
            return
        user = self.index.by_path[path].name.split(".")
        for other in used:
            parts = self.index.by_path[other].name.split(".")
            depth = next((i for i, (a, b) in enumerate(zip(user, parts, strict=False)) if a != b), None)
            if depth is not None:
                package = self._parts_used.setdefault(".".join(user[:depth]), {})
                package.setdefault(user[depth], set()).add(parts[depth])

    def uses(self, package: str) -> Uses:
        """Which parts of a package use which; the parts of "" are the top-level modules."""
        found = self._parts_used.get(package, {})
        return tuple((user, tuple(sorted(used))) for user, used in sorted(found.items()))

    def _texts_of_overridden(self, links: Links, public: frozenset[str]) -> dict[str, tuple[str, str]]:
        """For each public override: the definition that its text can come from."""
        found = ((name, overridden_text(ids, self.outlines)) for name, ids in links.overrides.items())
        return {name: text for name, text in found if text is not None and name in public}

    @staticmethod
    def _public_ancestor(user: str, public: frozenset[str]) -> str | None:
        while user not in public:
            if not user:
                return None
            user = user.rpartition(".")[0]
        return user

    @property
    def documented(self) -> frozenset[str]:
        """The paths of modules that have a page: those with anything public to show."""
        return frozenset(path for path, names in self._public.items() if names)

    def build(
        self,
        source_pages: Mapping[str, str],
        files: FileLinks,
        headlines: Mapping[str, Slot],
        completions: Completions,
    ) -> list[PageInputs]:
        """The inputs of every page, in order of path.

        Args:
            source_pages: By path, the site's own page of the source; empty without such pages.
            files: Where relative links lead.
            headlines: By path, the summaries of modules that have one.
            completions: By path, symbol and slot, what a model wrote.
        """
        used_by = self._by_path(self._users)
        subclasses = self._by_path(self._subclasses)
        children = self._children(headlines)
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
                self.uses(self.index.by_path[path].name),
                used_by.get(path, {}),
                subclasses.get(path, {}),
                {n: t for n, t in self._inherited[path].items() if n not in self.outlines[path].texts},
                {name: dict(slots) for name, slots in completions.get(path, {}).items()},
                self._files(path, files),
            )
            for path in sorted(self._public)
        ]

    def _files(self, path: str, files: FileLinks) -> dict[str, str]:
        """Where the relative links of a module's docstrings lead, and those of texts that it inherits."""
        others = {split_id(symbol_id)[0] for symbol_id, _ in self._inherited[path].values()}
        found: dict[str, str] = {}
        for one in (path, *sorted(others - {path})):
            for written in self.outlines[one].files:
                if (href := files.of_docstring(written, one)) is not None:
                    found.setdefault(unquote(written), href)
        return found

    def _by_path(self, found: Mapping[str, list[_User]]) -> dict[str, dict[str, References]]:
        pages: dict[str, dict[str, References]] = {}
        for symbol_id, users in found.items():
            path, name = split_id(symbol_id)
            if name in self._public[path]:
                itself = (self._ranks[path], name)
                if others := [user for user in users if user != itself]:
                    pages.setdefault(path, {})[name] = self._references(others)
        return pages

    def _references(self, users: list[_User]) -> References:
        """Users in reading order, tests last."""
        first = sorted(users)[:_REFERENCES_SHOWN]
        groups: dict[int, list[str]] = {}
        for rank, name in first:
            groups.setdefault(rank, []).append(name)
        return References(tuple(self._group(rank, names) for rank, names in groups.items()), len(users))

    def _group(self, rank: int, names: list[str]) -> Users:
        path, module = self._modules[rank]
        return Users(module, self.index.page_hrefs[path], tuple(names))

    def _crumbs(self, name: str) -> tuple[Reference, ...]:
        parts = name.split(".")
        crumbs = []
        for length in range(1, len(parts) + 1):
            surface = self.index.by_name.get(".".join(parts[:length]))
            linked = surface is not None and length < len(parts) and self._public.get(surface.path)
            crumbs.append(
                Reference(
                    parts[length - 1], self.index.page_hrefs[surface.path] if linked and surface else ""
                )
            )
        return tuple(crumbs)

    def _children(self, headlines: Mapping[str, Slot]) -> dict[str, list[Child]]:
        children: dict[str, list[Child]] = {}
        for path, surface in self.index.by_path.items():
            parent, _, _ = surface.name.rpartition(".")
            if parent and self._public.get(path):
                child = Child(surface.name, self.index.page_hrefs[path], headlines.get(path))
                children.setdefault(parent, []).append(child)
        return {parent: sorted(found, key=lambda c: c.name) for parent, found in children.items()}


def headlines_of(outlines: Mapping[str, Outline], completions: Completions) -> dict[str, Slot]:
    """By path, the summaries of modules: a human's, or else a model's."""
    written = {
        path: Slot(symbols[""]["summary"].replace("`", ""), "model")
        for path, symbols in completions.items()
        if "summary" in symbols.get("", {})
    }
    human = {path: Slot(plain_text(o.headline), "human") for path, o in outlines.items() if o.headline}
    return written | human
