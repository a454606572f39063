"""The types in transit between the stages.

All are frozen, all encode to JSON, none knows how it is made or drawn. What a
stage hands on is either one of these or the key under which the result cache
holds one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

Origin = Literal["human", "derived", "model"]
Author = Literal["docmill", "model", "human"]
Kind = Literal["module", "package", "class", "function", "method", "property", "attribute"]
SkipReason = Literal["binary", "encoding", "too-large", "syntax", "nesting", "symlink"]


def first_line(error: BaseException) -> str:
    """What an error says, as a line; without a text, what it is."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class DocmillError(Exception):
    """The root of what docmill raises: one line that says what, where and what to do.

    `skipped` are the files that were left out until then.
    """

    exit_status = 1

    def __init__(self, message: str, skipped: tuple[SkippedFile, ...] = ()) -> None:
        super().__init__(message)
        self.skipped = skipped


class SourceError(DocmillError):
    """A source or an argument that cannot be used; nothing was touched."""

    exit_status = 2


class SourceFile(Struct, frozen=True):
    """One file of a snapshot: path from the source root, size in bytes, content digest."""

    path: str
    size: int
    digest: str


class SkippedFile(Struct, frozen=True):
    """A selected file that is not documented, and why."""

    path: str
    reason: SkipReason
    detail: str


class Snapshot(Struct, frozen=True):
    """The files of a source at one revision.

    `name` is the project's name (the last part of the location), `root` the folder
    the files are read from. `digest` covers all but `root`, which goes into no key.
    """

    name: str
    revision: str | None
    root: str
    digest: str
    code: tuple[SourceFile, ...]
    prose: tuple[SourceFile, ...]
    images: tuple[SourceFile, ...]
    skipped: tuple[SkippedFile, ...]


class Slot(Struct, frozen=True):
    """One text of a Doc and where it came from."""

    text: str
    origin: Origin


class Parameter(Struct, frozen=True, omit_defaults=True):
    """One parameter as written; `kind` is the name of inspect's kind in lower case."""

    name: str
    kind: str
    annotation: str | None = None
    default: str | None = None


class Symbol(Struct, frozen=True, omit_defaults=True):
    """One definition, as its file alone tells it.

    `name` is the qualified name inside the module ("" for the module itself, with `#2`
    for a second definition of the same name). `signature` is the source text of the
    definition's head on one line. `code` digests a function's code without docstring,
    comments and formatting. `slots` holds what a human wrote and what the file
    itself lets one derive. `names` are the dotted names that the definition refers to,
    as written, including those of its signature; `mentions` those that its docstring refers to.
    `decorators` are those that no label tells of, `suppressed` the slots that a human wants
    empty. `doc_types` are the types that the docstring gives parameters and, as `return`,
    the result.
    """

    name: str
    kind: Kind
    line: int
    end_line: int
    signature: str = ""
    parameters: tuple[Parameter, ...] = ()
    returns: str | None = None
    labels: tuple[str, ...] = ()
    overloads: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()
    value: str | None = None
    slots: dict[str, Slot] = {}
    expected: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    code: str = ""
    mentions: tuple[str, ...] = ()
    decorators: tuple[str, ...] = ()
    doc_types: dict[str, str] = {}
    suppressed: tuple[str, ...] = ()


class Module(Struct, frozen=True, omit_defaults=True):
    """One parsed file: the module's symbol first, then its definitions in source order.

    `local_imports` are those made inside functions and classes.
    """

    path: str
    name: str
    symbols: tuple[Symbol, ...]
    local_imports: dict[str, str] = {}


class Surface(Struct, frozen=True, omit_defaults=True):
    """What other files can see of a module; names are resolved on surfaces alone.

    `members` maps qualified names to kinds, `imports` local names to absolute dotted
    targets, `stars` lists modules imported with `*`, `bases` the written bases of each
    class. `exports` is the static value of `__all__`, `module.*` standing for another module's.
    """

    path: str
    name: str
    package: bool
    members: dict[str, Kind]
    imports: dict[str, str] = {}
    stars: tuple[str, ...] = ()
    exports: tuple[str, ...] | None = None
    bases: dict[str, tuple[str, ...]] = {}


class Contradiction(Struct, frozen=True):
    """What a docstring says and its signature does not: the rule, where, and what.

    `symbol` is the qualified name; `span` are the first and the last line of signature and docstring.
    """

    rule: str
    path: str
    symbol: str
    line: int
    message: str
    span: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.symbol} {self.message}"


class Doubt(Struct, frozen=True):
    """An override of a symbol's slot that a human should look at again, and why."""

    symbol: str
    slot: str
    why: str


class Outline(Struct, frozen=True, omit_defaults=True):
    """The small companion of a Module that every build loads for every file.

    `texts` holds a digest of the slots of each documented member of a class, from which
    an override may take its text; `headline` is the module's own summary, which the
    package above it shows. `contradictions` are those of its docstrings, `doubts` those about
    overrides of its texts, `files` the relative links in all of them. A file that could not be parsed
    has `skipped` instead.
    """

    surface: Surface | None = None
    surface_digest: str = ""
    module_digest: str = ""
    headline: str = ""
    texts: dict[str, str] = {}
    contradictions: tuple[Contradiction, ...] = ()
    doubts: tuple[Doubt, ...] = ()
    files: tuple[str, ...] = ()
    skipped: SkippedFile | None = None


class InheritedMembers(Struct, frozen=True):
    """The names of the members that a class has from one base.

    `href` leads to the base; a member's is `href.member`.
    """

    base: str
    href: str
    members: tuple[str, ...]


class Reexport(Struct, frozen=True):
    """A symbol of another module that a module offers as its own."""

    href: str
    kind: Kind


class Links(Struct, frozen=True, omit_defaults=True):
    """What the names of one module refer to in the whole source.

    Hrefs are relative to the site's root and exist for public symbols only. `targets`
    maps a dotted name as written to an href; `mentions` those of docstrings, where a symbol's
    own scope knows them, by symbol. `uses` maps the id of what is used to
    the qualified names of its users here, `bases` gives the ids of each class's bases, `overrides` the ids of
    the definitions that a method overrides, nearest first. `reexports` are the names
    under which a module offers symbols of other modules.
    """

    public: tuple[str, ...] = ()
    targets: dict[str, str] = {}
    mentions: dict[str, dict[str, str]] = {}
    uses: dict[str, tuple[str, ...]] = {}
    bases: dict[str, tuple[str, ...]] = {}
    inherits: dict[str, tuple[InheritedMembers, ...]] = {}
    overrides: dict[str, tuple[str, ...]] = {}
    reexports: dict[str, Reexport] = {}


# What a model wrote: by path, symbol and slot.
Completions = Mapping[str, Mapping[str, Mapping[str, str]]]


class TextOrigin(Struct, frozen=True):
    """Digests of the model, the decoding and the execution profile that texts come from."""

    model: str
    decoding: str
    profile: str


class TextEntry(Struct, frozen=True):
    """What a symbol's text was made from: digests of what was asked, and of what its parts say.

    `parts` is "" for what has no parts, and while their texts are not there.
    """

    request: str
    parts: str = ""


class Generated(Struct, frozen=True):
    """What a model added, how many symbols it took, and what of it is not shown.

    `generated` symbols went to the engine, `reused` ones were answered from the cache;
    `dropped` sentences the checks did not let stand, of `unsure` texts the model was less sure
    than its floor; `unwritten` ones the budget left for another build. `engine` is None where no model
    ran. By path and symbol, `texts` says what was asked; `written` names, by path, the
    symbols that went to the engine.
    """

    completions: Completions = {}
    generated: int = 0
    reused: int = 0
    dropped: int = 0
    unsure: int = 0
    unwritten: int = 0
    engine: dict[str, Any] | None = None
    origin: TextOrigin | None = None
    texts: dict[str, dict[str, TextEntry]] = {}
    written: dict[str, tuple[str, ...]] = {}

    def as_reused(self) -> Generated:
        """The same texts, as a build tells of them that wrote none."""
        return replace(self, generated=0, reused=self.generated + self.reused, engine=None, written={})


class SiteFile(Struct, frozen=True):
    """One file of a site: the key under which the cache holds it, SHA-256 and size."""

    key: str
    digest: str
    size: int


class SlotCounts(Struct, frozen=True):
    """How many slots of public symbols have a text of which origin, and how many none."""

    human: int = 0
    derived: int = 0
    model: int = 0
    empty: int = 0

    def __add__(self, other: SlotCounts) -> SlotCounts:
        return SlotCounts(
            self.human + other.human,
            self.derived + other.derived,
            self.model + other.model,
            self.empty + other.empty,
        )


class PageEntry(Struct, frozen=True):
    """What one page was made from: its key, and digests of its module and of all that it links to."""

    key: str
    module: str
    links: str


class Rendered(Struct, frozen=True):
    """All files of a site by path, what its pages were made from, and what the report says of them."""

    files: dict[str, SiteFile]
    pages: dict[str, PageEntry]
    symbols: int
    slots: SlotCounts


class Finding(Struct, frozen=True, omit_defaults=True):
    """One place where a rule does not hold.

    `author` wrote what breaks the rule. `symbol` is an id (`path::Qualified.name`) or, outside of code,
    a path. `page` and `page_line` say where it shows, `path` and `line` where it comes from; a line of
    0 is not known.
    """

    rule: str
    author: Author
    symbol: str
    message: str
    page: str = ""
    page_line: int = 0
    path: str = ""
    line: int = 0

    @property
    def where(self) -> str:
        """The place to look at: a human's text in its source, all else on its page."""
        if self.author == "human" and self.path:
            return f"{self.path}:{self.line}" if self.line else self.path
        return f"{self.page}:{self.page_line}" if self.page_line else self.page

    def __str__(self) -> str:
        return f"{self.where}: {self.rule}: {self.message}"


class Checked(Struct, frozen=True):
    """What the gate found, and how many pages it looked at."""

    pages: int
    findings: tuple[Finding, ...]


class Published(Struct, frozen=True):
    """What publishing did: the release that stands, and how many pages changed."""

    target: str
    release: str
    pages: int
    written: int
    removed: int
