"""What a model is asked about a file's symbols: prompts made of code, frames made of slots.

The model fills slots; it never writes a name, a type or structure. Each missing slot is
a frame: forced text, then the model's own until the line or its limit ends. A function's
prompt is its normalized code: no docstring, no comment, no formatting. What has parts is
described from their docs.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from msgspec import Struct

from models.prompts import (
    PROMPT_VERSION,
    SUMMARY_SEPARATOR,
    Definition,
    PromptError,
    class_head,
    definitions,
    elided,
    elided_outline,
    members,
    outline,
)
from tasks.documents import Module, Symbol

# Raised whenever the same code would lead to other requests.
ASKING_VERSION = (4, PROMPT_VERSION)

_HEADING_TOKENS = 16
SUMMARY_TOKENS = 48
_ALL_KINDS = ("function", "method", "property", "class", "module", "package")
_LIMITS = {"summary": SUMMARY_TOKENS, "param": 32, "returns": 32, "raises": 32}

# Tokens that a model writes for one request at most, forced ones included.
LONGEST_ANSWER = 256

INSTRUCTION = (
    "You write reference documentation. Describe the following Python code. "
    "Answer with one short factual sentence for each heading, in plain English, without Markdown.\n\n"
)


class SlotFrame(Struct, frozen=True):
    """A slot to fill: its name, the text forced upon the model before it, and a limit in tokens."""

    slot: str
    text: str
    limit: int


class Member(Struct, frozen=True):
    """A part of what is described: its symbol's id, its line in the outline, its summary if it has one."""

    id: str
    line: str
    summary: str | None = None


class Asked(Struct, frozen=True):
    """One request: the symbol, what is read, and the slots to fill, in order.

    `text` is a function's prompt, or the head of an outline with these members.
    """

    symbol: str
    text: str
    frames: tuple[SlotFrame, ...]
    is_outline: bool = False
    members: tuple[Member, ...] = ()

    @property
    def slots(self) -> frozenset[str]:
        """The names of the slots."""
        return frozenset(frame.slot for frame in self.frames)

    def prompt(self, summaries: Mapping[str, str], fits: Callable[[str], bool]) -> str:
        """The prompt as rendered.

        Args:
            summaries: By id, the summaries of members that a model wrote.
            fits: Whether a prompt is short enough.
        """
        if not self.is_outline:
            return self.text
        lines = {member.id: member.line for member in self.members}
        known = {member.id: member.summary for member in self.members if member.summary is not None}
        return elided_outline(outline(self.text, lines, {**summaries, **known}), fits)


class RawText(Struct, frozen=True):
    """A completion as the engine gave it: per frame the text, whether the model ended it, log-probability."""

    texts: tuple[str, ...]
    ended: tuple[bool, ...]
    logprobs: tuple[float, ...]


class Manner(Struct, frozen=True):
    """How a model is asked: for which kinds of symbols and which slots.

    `opening` is forced before the first heading (a chat template's start of an answer);
    `separator` replaces all headings for a model that was trained on one slot alone.
    """

    kinds: tuple[str, ...]
    slots: tuple[str, ...]
    opening: str = ""
    separator: str | None = None
    answer_tokens: int = LONGEST_ANSWER


def trained_manner(kinds: Iterable[str], slots: Iterable[str]) -> Manner:
    """The manner of a model that was trained on code followed by its summary."""
    return Manner(tuple(kinds), tuple(slots), separator=SUMMARY_SEPARATOR)


def chat_manner(opening: str) -> Manner:
    """The manner of a model that follows instructions."""
    return Manner(_ALL_KINDS, tuple(_LIMITS), opening)


def asked_of(
    module: Module, names: Collection[str], source: str, manner: Manner, fits: Callable[[str], bool]
) -> list[Asked]:
    """The requests for those symbols of a file that lack a text a model could write.

    Args:
        module: The parsed file.
        names: The qualified names of symbols that may be asked about.
        source: The file's text.
        manner: How the model is asked.
        fits: Whether a prompt is short enough.
    """
    symbols = [symbol for symbol in module.symbols if symbol.name in names]
    wanted = {symbol.name: groups for symbol in symbols if (groups := list(_frame_groups(symbol, manner)))}
    if not wanted:
        return []
    try:
        reader = _Reader(module, source, fits)
    except (RecursionError, MemoryError):  # it could just be parsed, but not from here
        return []
    found = []
    for symbol in symbols:
        for frames in wanted.get(symbol.name, ()):
            try:
                asked = reader.asked(symbol, frames)
            except PromptError:
                continue  # too long or too deep even without its body: there is nothing to ask
            if asked is not None:
                found.append(asked)
    return found


class _Reader:
    """What a model reads of each symbol of a file."""

    def __init__(self, module: Module, source: str, fits: Callable[[str], bool]) -> None:
        self.module, self.fits = module, fits
        self.tree = _parsed(source)
        self.nodes = {_place(node): (node, owner) for node, owner in definitions(self.tree)}
        self.symbols = {symbol.name: symbol for symbol in module.symbols}

    def asked(self, symbol: Symbol, frames: tuple[SlotFrame, ...]) -> Asked | None:
        """A request; None for what is neither a function nor has parts."""
        if symbol.kind in ("module", "package"):
            # The modules of a package, which other files tell of, come to these members later.
            head = f"{symbol.kind} {self.module.name}:"
            return self._outline("", frames, head, members(self.tree))
        name = symbol.name.rpartition(".")[2].partition("#")[0]
        node, owner = self.nodes.get((symbol.line, name), (None, ""))
        if node is None:
            return None
        if isinstance(node, ast.ClassDef):
            lines = {f"{symbol.name}.{name}": line for name, line in members(node).items()}
            return self._outline(symbol.name, frames, class_head(node), lines)
        return Asked(symbol.name, elided(node, owner, self.fits), frames)

    def _outline(
        self, name: str, frames: tuple[SlotFrame, ...], head: str, lines: Mapping[str, str]
    ) -> Asked:
        elided_outline(head, self.fits)  # raises if not even the head fits
        parts = tuple(self._member(member, line) for member, line in lines.items())
        return Asked(name, head, frames, is_outline=True, members=parts)

    def _member(self, name: str, line: str) -> Member:
        symbol = self.symbols.get(name)
        summary = symbol.slots.get("summary") if symbol else None
        # What is derived of special methods says the same of every class.
        written = summary.text if summary and summary.origin == "human" else None
        return Member(f"{self.module.path}::{name}", line, written)


def _frame_groups(symbol: Symbol, manner: Manner) -> Iterator[tuple[SlotFrame, ...]]:
    """The frames for what a symbol lacks; those of many parameters take more than one request."""
    if symbol.kind not in manner.kinds:
        return
    missing = [s for s in symbol.expected if s not in symbol.slots and s.partition(".")[0] in manner.slots]
    group: list[SlotFrame] = []
    used = 0
    for slot in missing:
        kind, _, name = slot.partition(".")
        cost = _LIMITS[kind] + len(name) + _HEADING_TOKENS  # no token is shorter than a character
        if group and used + cost > manner.answer_tokens:
            yield tuple(group)
            group, used = [], 0
        text = manner.separator or _heading(kind, name, first=not group)
        group.append(SlotFrame(slot, text if group else manner.opening + text, _LIMITS[kind]))
        used += cost
    if group:
        yield tuple(group)


def _heading(kind: str, name: str, first: bool) -> str:
    title = {
        "summary": "Summary",
        "param": f"Parameter {name}",
        "returns": "Returns",
        "raises": f"Raises {name} if",
    }
    return ("" if first else "\n") + f"{title[kind]}:"


def _parsed(source: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source)


def _place(node: Definition) -> tuple[int, str]:
    """The line where a definition begins, decorators included, and its name."""
    return (node.decorator_list[0].lineno if node.decorator_list else node.lineno), node.name
