"""What docstrings say of symbols, put into their slots; what none takes, into lists in the description."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tasks.chunk import docstrings
from tasks.chunk.docstrings import ParsedDocstring, listing
from tasks.chunk.special_methods import SPECIAL_METHODS
from tasks.chunk.syntax import FunctionNode, always_raises, last_part, never_returns, returns_itself
from tasks.documents import Parameter, Slot, Symbol

_COPIES = ("__copy__", "__deepcopy__")

# Of what has no slot, a title and a text in Markdown that follow the description.
Titled = tuple[str, str]

# Titles of lists of parameters that are no slots: what is not so, and what a file alone cannot tell.
NOT_IN_THE_SIGNATURE = "Described, but not in the signature"
BY_THE_DOCSTRING = "Parameters, by the docstring"
# … and of attributes: that are there, that are not, and of which a file alone cannot tell.
ATTRIBUTES = "Attributes"
NOT_IN_THE_CLASS = "Described, but not in the class"
ATTRIBUTES_BY_THE_DOCSTRING = "Attributes, by the docstring"
# Under which title a property tells what its other functions say.
_TITLES_OF_ACCESSORS = {"setter": "When set", "deleter": "When deleted", "getter": "When read"}
_ORDER = {"summary": 0, "description": 1, "param": 2, "returns": 3, "raises": 4}


def human(**texts: str) -> dict[str, Slot]:
    """The slots that texts of humans fill."""
    return {name: Slot(text, "human") for name, text in texts.items() if text.strip()}


def of_prose(text: str) -> dict[str, Slot]:
    """Summary and description of an attribute, which has no other slots."""
    return of_parsed(docstrings.parse(text) if text else ParsedDocstring())


def of_parsed(parsed: ParsedDocstring) -> dict[str, Slot]:
    """Summary and description of what has no other slots."""
    more = [
        (BY_THE_DOCSTRING, listing(parsed.parameters, parsed.types)),
        (ATTRIBUTES_BY_THE_DOCSTRING, listing(parsed.attributes, parsed.attribute_types)),
        ("Returns", of_result(parsed)),
        ("Raises", listing(parsed.raises, {})),
    ]
    return summary_and_description(parsed, more)


def of_result(parsed: ParsedDocstring) -> str:
    """What a docstring says of a result, as prose."""
    kind = parsed.types.get("return", "")
    return ": ".join(part for part in (f"({kind})" if kind else "", parsed.returns) if part)


def summary_and_description(parsed: ParsedDocstring, more: Iterable[Titled]) -> dict[str, Slot]:
    """Summary and description, with what else a docstring describes behind it."""
    return human(summary=parsed.summary, description=_with_titled(parsed.description, more))


def of_function(
    parsed: ParsedDocstring,
    parameters: Sequence[Parameter],
    raised: Mapping[str, Sequence[str]],
    is_as_written: bool = True,
) -> dict[str, Slot]:
    """What the docstring says of what exists, and what `raise` statements tell.

    A documented parameter that the signature lacks is no slot, for it does not exist; what the
    human wrote of it is kept as prose that says so, or as a keyword where `**kwargs` can take it.

    Args:
        parsed: The docstring, taken apart.
        parameters: Those of the signature.
        raised: By exception, the messages that it is raised with.
        is_as_written: Whether it takes what its signature says; what a decorator takes, a file cannot tell.
    """
    known = {p.name for p in parameters}
    stray = {name: text for name, text in parsed.parameters.items() if name not in known}
    more = [
        (title_of_unknown(parameters, is_as_written), listing(stray, parsed.types)),
        (ATTRIBUTES, listing(parsed.attributes, parsed.attribute_types)),
    ]
    texts = {f"param.{p.name}": parsed.parameters.get(p.name, "") for p in parameters}
    texts["returns"] = parsed.returns
    texts |= {f"raises.{name}": text for name, text in parsed.raises.items()}
    slots = summary_and_description(parsed, more) | human(**texts)
    documented = {last_part(name) for name in parsed.raises}
    for name, messages in raised.items():
        if messages and last_part(name) not in documented:
            slots[f"raises.{name}"] = Slot("; ".join(messages), "derived")
    return slots


def of_special_method(node: FunctionNode) -> dict[str, Slot]:
    """What Python itself says of such a method, unless its code says otherwise."""
    text = SPECIAL_METHODS.get(node.name)
    does_another_thing = always_raises(node) or never_returns(node)
    if text is None or does_another_thing or (node.name in _COPIES and returns_itself(node)):
        return {}
    return {"summary": Slot(text, "derived")}


def types_of_what_exists(parsed: ParsedDocstring, parameters: Sequence[Parameter]) -> dict[str, str]:
    """The types that a docstring gives parameters of the signature and, as `return`, the result."""
    known = {p.name for p in parameters} | {"return"}
    return {name: kind for name, kind in parsed.types.items() if name in known}


def title_of_unknown(parameters: Iterable[Parameter], is_as_written: bool) -> str:
    """What parameters are called that a docstring describes, and a signature lacks."""
    if any(p.kind == "var_keyword" for p in parameters):
        return "Further keyword arguments"
    return NOT_IN_THE_SIGNATURE if is_as_written else BY_THE_DOCSTRING


def with_texts_of_accessor(
    slots: Mapping[str, Slot], accessor: str, told: Mapping[str, Slot]
) -> dict[str, Slot]:
    """A property's texts with those of its setter, deleter or getter, where they say something else."""
    said = {slot.text for slot in slots.values()}
    prose = _as_prose({name: slot for name, slot in told.items() if slot.text not in said})
    titled = f"**{_TITLES_OF_ACCESSORS[accessor]}**\n\n{prose}" if prose else ""
    known = slots["description"].text if "description" in slots else ""
    return _with_description(slots, [] if titled in known else [titled])


def with_texts_of_its_class(
    constructor: Symbol, parsed: ParsedDocstring, is_as_written: bool
) -> tuple[dict[str, Slot], list[Titled]]:
    """A constructor's texts with what its class says of parameters and exceptions, its own first.

    Returns:
        The texts, and what stays with the class: of what the constructor lacks, or says otherwise itself.
    """
    known = {p.name for p in constructor.parameters}
    given = human(
        **{f"param.{name}": text for name, text in parsed.parameters.items() if name in known},
        **{f"raises.{name}": text for name, text in parsed.raises.items()},
    )
    documented = {last_part(name) for name in parsed.raises}
    own = {
        name: slot
        for name, slot in constructor.slots.items()
        if slot.origin == "human" or not (name.startswith("raises.") and last_part(name) in documented)
    }
    texts = ordered(given | own)
    unknown = {name: text for name, text in parsed.parameters.items() if name not in known}
    otherwise = {name: slot.text for name, slot in given.items() if texts[name] != slot}
    more = [(title_of_unknown(constructor.parameters, is_as_written), listing(unknown, parsed.types))]
    for title, kind in ((BY_THE_DOCSTRING, "param."), ("Raises", "raises.")):
        entries = {n.removeprefix(kind): text for n, text in otherwise.items() if n.startswith(kind)}
        more.append((title, listing(entries, parsed.types)))
    return texts, more


def with_text_of_class(slots: Mapping[str, Slot], text: str) -> dict[str, Slot]:
    """An attribute's texts with what its class says of it, behind its own."""
    told = of_prose(text)
    if not slots:
        return told
    return _with_description(slots, [slot.text for slot in told.values() if slot not in slots.values()])


def with_texts_of_overloads(symbol: Symbol, overloads: Sequence[Symbol]) -> dict[str, Slot]:
    """A function's texts, or else those of the first of its overloads that has any.

    What that says of parameters that the function lacks follows as a list, and so does what overloads say
    otherwise, each under its signature.
    """
    described = [overload for overload in overloads if _has_human(overload.slots)]
    if not described:
        return symbol.slots
    told = symbol.slots if _has_human(symbol.slots) else described[0].slots
    known = {f"param.{p.name}" for p in symbol.parameters}
    lacked = [name for name in told if name.startswith("param.") and name not in known]
    differing = [overload for overload in described if overload.slots != told]
    if differing and not _has_human(symbol.slots):
        differing = described  # the first one too, for its text stands above as if it were everyone's
    others: dict[str, str] = {}
    for overload in differing:
        said = [others[overload.signature]] if overload.signature in others else []
        others[overload.signature] = "\n\n".join([*said, _as_prose(overload.slots)])
    stray = {name.removeprefix("param."): told[name].text for name in lacked}
    more = [(BY_THE_DOCSTRING, listing(stray, {})), ("Overloads", listing(others, {}))]
    kept = {name: slot for name, slot in told.items() if name not in lacked}
    return _with_description(symbol.slots | kept, [_with_titled("", more)])


def ordered(slots: dict[str, Slot]) -> dict[str, Slot]:
    """Slots in the order in which a page has them."""
    return dict(sorted(slots.items(), key=lambda item: _ORDER[item[0].split(".", 1)[0]]))


def mentions(symbol: Symbol) -> tuple[str, ...]:
    """The dotted names that a symbol's texts of humans refer to."""
    texts = (slot.text for slot in symbol.slots.values() if slot.origin == "human")
    return tuple(dict.fromkeys(name for text in texts for name in docstrings.mentioned(text)))


def _has_human(slots: Mapping[str, Slot]) -> bool:
    return any(slot.origin == "human" for slot in slots.values())


def _with_description(slots: Mapping[str, Slot], more: Iterable[str]) -> dict[str, Slot]:
    described = [slots["description"].text] if "description" in slots else []
    text = "\n\n".join(part for part in (*described, *more) if part)
    return ordered({**slots, **human(description=text)})


def _with_titled(description: str, more: Iterable[Titled]) -> str:
    titled = [f"**{title}**\n\n{text}" for title, text in more if text]
    return "\n\n".join([*([description] if description else []), *titled])


def _as_prose(slots: Mapping[str, Slot]) -> str:
    """What humans say in slots, as one text."""
    texts = {name: slot.text for name, slot in slots.items() if slot.origin == "human"}

    def listed(kind: str) -> str:
        return listing({n.removeprefix(kind): text for n, text in texts.items() if n.startswith(kind)}, {})

    prose = "\n\n".join(texts[name] for name in ("summary", "description") if name in texts)
    return _with_titled(
        prose,
        [
            ("Parameters", listed("param.")),
            ("Returns", texts.get("returns", "")),
            ("Raises", listed("raises.")),
        ],
    )
