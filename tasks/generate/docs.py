"""Docs put together: what a human wrote, what can be derived, what a model adds.

A human's slot stays as it is. An override without a text of its own takes that of the
definition it overrides, but what is derived from its own code says more of it than what is
derived from that; a model's text comes last.
"""

from __future__ import annotations

from collections.abc import Mapping

from tasks.documents import Module, Slot, Symbol

Doc = dict[str, Slot]

_ORDER = {"summary": 0, "description": 1, "param": 2, "returns": 3, "raises": 4}


def docs_of(
    module: Module,
    inherited: Mapping[str, Mapping[str, Slot]],
    completions: Mapping[str, Mapping[str, str]],
) -> dict[str, Doc]:
    """The Docs of one module's symbols.

    Args:
        module: The parsed file.
        inherited: By symbol, the slots of the definition it overrides.
        completions: By symbol and slot, what a model wrote.
    """
    docs = {}
    for symbol in module.symbols:
        slots = dict(symbol.slots)
        for name, slot in inherited.get(symbol.name, {}).items():
            wanted = name in symbol.expected or (
                name == "description" and "description" not in symbol.suppressed
            )
            mine = slots.get(name)
            if wanted and (mine is None or (mine.origin == "derived" and slot.origin == "human")):
                slots[name] = slot
        for name, text in completions.get(symbol.name, {}).items():
            slots.setdefault(name, Slot(text, "model"))
        docs[symbol.name] = ordered(symbol, slots)
    return docs


def ordered(symbol: Symbol, slots: Mapping[str, Slot]) -> Doc:
    """Slots in the order of a page, parameters in that of the signature."""
    position = {f"param.{p.name}": index for index, p in enumerate(symbol.parameters)}
    return dict(
        sorted(slots.items(), key=lambda item: (_ORDER[item[0].partition(".")[0]], position.get(item[0], 0)))
    )
