"""Overrides onto symbols: from here on, a human's text is a human's text, wherever it stands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from tasks.chunk.contradictions import hint
from tasks.chunk.docstrings import mentioned
from tasks.documents import Doubt, Slot, Symbol
from tasks.keys import digest
from tasks.overrides import Override

_CODE_LENGTH = 16  # hex digits: enough to tell two versions of one symbol apart


def overridden(
    symbols: Sequence[Symbol], overrides: Iterable[Override]
) -> tuple[list[Symbol], tuple[Doubt, ...]]:
    """The symbols of a file with the texts that a human decided on, and the overrides that are in doubt."""
    found = {symbol.name: symbol for symbol in symbols}
    doubts = []
    for override in overrides:
        symbol = found.get(override.name)
        if symbol is None:
            why: str | None = f"there is no such symbol{hint(override.name, found)}"
        else:
            why = _doubt(override, symbol, symbols)
        if why is not None:
            doubts.append(Doubt(override.symbol, override.slot, why))
        if symbol is not None and _takes(symbol, override.slot) and not _is_human(symbol, override.slot):
            found[override.name] = _with(symbol, override)
    return [found[symbol.name] for symbol in symbols], tuple(doubts)


def _doubt(override: Override, symbol: Symbol, symbols: Sequence[Symbol]) -> str | None:
    if not _takes(symbol, override.slot):
        return f"the {symbol.kind} has no {override.slot}{hint(override.slot, symbol.expected)}"
    if _is_human(symbol, override.slot):
        return "the docstring has a text of its own, which is shown"
    if override.code is None:
        return "it does not say for which code it was written: docmill overrides SOURCE --accept"
    if override.code != code_of(symbol, symbols):
        return "the code has changed since it was written"
    return None


def _takes(symbol: Symbol, slot: str) -> bool:
    """Whether a symbol can have such a text: no parameter is documented that is not there."""
    return slot in ("summary", "description") or slot in symbol.expected or slot in symbol.slots


def _is_human(symbol: Symbol, slot: str) -> bool:
    return any(_alike(name, slot) and text.origin == "human" for name, text in symbol.slots.items())


def _alike(one: str, other: str) -> bool:
    """Whether two slots are the same; an exception may be written with its module or without."""
    if one.startswith("raises.") and other.startswith("raises."):
        return one.rpartition(".")[2] == other.rpartition(".")[2]
    return one == other


def _with(symbol: Symbol, override: Override) -> Symbol:
    slots = {name: slot for name, slot in symbol.slots.items() if name != override.slot}
    if override.text is None:
        # What is not expected is neither asked of a model nor counted as missing.
        expected = tuple(name for name in symbol.expected if name != override.slot)
        suppressed = (*symbol.suppressed, override.slot)
        return replace(symbol, slots=slots, expected=expected, suppressed=suppressed)
    text = override.text.strip()
    slots[override.slot] = Slot(" ".join(text.split()) if override.slot == "summary" else text, "human")
    mentions = dict.fromkeys((*symbol.mentions, *mentioned(text)))
    return replace(symbol, slots=slots, mentions=tuple(mentions))


def code_of(symbol: Symbol, symbols: Iterable[Symbol]) -> str:
    """A digest of what a text about a symbol is about.

    Of a function it is its code, without docstring, comments and formatting; of a class or a module its head
    and the heads of its members; of an attribute its value.
    """
    inside = f"{symbol.name}." if symbol.name else ""
    members = [
        (other.name, other.kind, other.signature)
        for other in symbols
        if not symbol.code and other.name and other.name.rpartition(".")[0] == inside[:-1]
    ]
    head = [symbol.kind, symbol.signature, symbol.value, symbol.decorators, symbol.labels]
    return digest([head, symbol.code, members])[:_CODE_LENGTH]
