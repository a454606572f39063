"""What a model is asked about a file's symbols: prompts made of code, frames made of slots.

The model fills slots; it never writes a name, a type or structure. Each missing slot is
a frame: forced text, then the model's own until the line or its limit ends. Prompts hold
normalized code only: no docstring, no comment, no formatting.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping

from msgspec import Struct

from models.prompts import PROMPT_VERSION, SUMMARY_SEPARATOR, PromptError, elided
from tasks.documents import Module, Symbol

# Raised whenever the same code would lead to other requests.
ASKING_VERSION = (2, PROMPT_VERSION)

_HEADING_TOKENS = 16
SUMMARY_TOKENS = 48
_LIMITS = {"summary": SUMMARY_TOKENS, "param": 32, "returns": 32, "raises": 32}

# Tokens that a model writes for one request at most, forced ones included.
LONGEST_ANSWER = 256

INSTRUCTION = (
    "You write reference documentation. Describe the following Python code. "
    "Answer with one short factual sentence for each heading, in plain English, without Markdown.\n\n"
)

Definition = ast.FunctionDef | ast.AsyncFunctionDef


class SlotFrame(Struct, frozen=True):
    """A slot to fill: its name, the text forced upon the model before it, and a limit in tokens."""

    slot: str
    text: str
    limit: int


class Asked(Struct, frozen=True):
    """One request: the symbol, the prompt as rendered, and the slots to fill, in order."""

    symbol: str
    prompt: str
    frames: tuple[SlotFrame, ...]


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
    return Manner(("function", "method", "property"), tuple(_LIMITS), opening)


def asked_of(module: Module, source: str, manner: Manner, fits: Callable[[str], bool]) -> list[Asked]:
    """The requests for all symbols of a file that lack a text a model could write.

    Whether a symbol is public, or has its text from elsewhere, is looked at later.

    Args:
        module: The parsed file.
        source: Its text.
        manner: How the model is asked.
        fits: Whether a prompt is short enough.
    """
    wanted = {s.name: groups for s in module.symbols if (groups := list(_frame_groups(s, manner)))}
    if not wanted:
        return []
    nodes = _definitions(source)
    found = []
    for symbol in module.symbols:
        node = nodes.get((symbol.line, symbol.name.rpartition(".")[2].partition("#")[0]))
        if symbol.name in wanted and node is not None:
            try:
                prompt = elided(node, fits)
            except PromptError:
                continue  # too long or too deep even without its body: there is nothing to ask
            found += [Asked(symbol.name, prompt, frames) for frames in wanted[symbol.name]]
    return found


def _frame_groups(symbol: Symbol, manner: Manner) -> Iterator[tuple[SlotFrame, ...]]:
    """The frames for what a symbol lacks; those of many parameters take more than one request."""
    if symbol.kind not in manner.kinds or "summary" in symbol.slots:
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


def _definitions(source: str) -> Mapping[tuple[int, str], Definition]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(source)
    return {
        (node.decorator_list[0].lineno if node.decorator_list else node.lineno, node.name): node
        for node in ast.walk(tree)
        if isinstance(node, Definition)
    }
