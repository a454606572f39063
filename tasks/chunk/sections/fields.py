"""Fields, which Sphinx reads: `:param name: text`; those of Epytext, `@param name: text`, become such.

Source of the formats: https://www.sphinx-doc.org/en/master/usage/domains/python.html#info-field-lists
and https://epydoc.sourceforge.net/manual-fields.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tasks.chunk.sections.entries import ABOUT, ABOUT_PARAMETERS, add_titled

_FIELD = re.compile(r":(?P<kind>[A-Za-z]+)(?P<rest>[ \t][^\n]*?)?:(?=\s|$)")
_OF_PARAMETERS = {"param", "parameter", "arg", "argument", "key", "keyword", "kwarg"}
_OF_ATTRIBUTES = {"var", "ivar", "cvar"}
_OF_EXCEPTIONS = {"raise", "raises", "except", "exception"}
_OF_RESULTS = {"return", "returns"}
_OF_TYPES = {"type", "vartype", "rtype"}
KINDS = _OF_PARAMETERS | _OF_ATTRIBUTES | _OF_EXCEPTIONS | _OF_RESULTS | _OF_TYPES
_TITLES = {"param": ABOUT_PARAMETERS, "ivar": ABOUT["attributes"], "raises": ABOUT["raises"]}
_RAISED_BY_ROLE = re.compile(
    r":[a-z]+:?[ \t]+(?::[A-Za-z][\w:+-]{0,80}:`[~!]?(?P<role>[\w.]+)`[ \t]*:?|(?P<name>[A-Z][\w.]*):)"
)
_EPYTEXT = re.compile(rf"^@(?:{'|'.join(sorted(KINDS))})(?:[ \t]+[\w*.]+)?:(?=\s|$)", re.MULTILINE)
_EPYTEXT_FIELD = re.compile(r"^@(?=\w+(?:[ \t]+[\w*.]+)?:(?:\s|$))", re.MULTILINE)


def from_epytext(text: str) -> str:
    """A docstring with Epytext's fields as Sphinx has them."""
    return _EPYTEXT_FIELD.sub(":", text) if _EPYTEXT.search(text) else text


def tidied(text: str) -> str:
    """The prose before, between and behind the fields, and then these, each with its name and told once."""
    prose: list[str] = []
    fields: list[list[str]] = []
    into, after_blank = prose, True
    for line in text.split("\n"):
        if _FIELD.match(line):
            into = []
            fields.append(into)
        elif into is not prose and line[:1].strip() and (after_blank or line.startswith((".. ", "@"))):
            into = prose
            prose.append("")
        # A line of prose that begins with a role would be taken for a field, `:paramref:` for `:param`.
        into.append(f" {line}" if into is prose and line.startswith(":") else line)
        after_blank = not line.strip()
    named: dict[tuple[str, str], list[str]] = {}
    nameless: dict[str, list[str]] = {}
    for field in fields:
        for kind, name, said in _told(field):
            if kind == "other":
                prose += field
            elif not name and kind in ("param", "ivar", "raises"):
                nameless.setdefault(_TITLES[kind], []).extend(said)
            elif (kind, name) in named:
                named[kind, name] += ["", *(f"    {line}" for line in said)]
            else:
                named[kind, name] = [
                    f":{kind} {name}: {said[0]}" if name else f":{kind}: {said[0]}",
                    *said[1:],
                ]
    for kind, of in (("type", "param"), ("vartype", "ivar")):
        for name in [name for known, name in named if known == kind and (of, name) not in named]:
            named[of, name] = [f":{of} {name}:"]
    if ("rtype", "") in named:
        named.setdefault(("returns", ""), [":returns:"])
    for title, said in nameless.items():
        add_titled(prose, title, "\n".join(said))
    return "\n".join([*prose, "", *(line for lines in named.values() for line in lines)]).strip("\n")


def _told(field: list[str]) -> Iterator[tuple[str, str, list[str]]]:
    """What a field tells: of which kind, of what, and the lines that say it."""
    head = _FIELD.match(field[0])
    assert head is not None
    kind, words = head["kind"].lower(), (head["rest"] or "").replace(",", " ").split()
    said = [field[0][head.end() :].strip(), *field[1:]]
    if kind in _OF_PARAMETERS | _OF_ATTRIBUTES:
        of, of_type = ("param", "type") if kind in _OF_PARAMETERS else ("ivar", "vartype")
        name = words[-1].lstrip("*\\") if words else ""
        yield of, name, said
        if len(words) > 1:
            yield of_type, name, [(head["rest"] or "").strip().removesuffix(words[-1]).rstrip(" *\\")]
    elif kind in ("type", "vartype") and len(words) == 1:
        yield kind, words[0].lstrip("*\\"), said
    elif kind in _OF_EXCEPTIONS:
        by_role = _RAISED_BY_ROLE.match(field[0])
        names = [word for word in words if word not in ("or", "and")]
        if by_role:
            yield (
                "raises",
                by_role["role"] or by_role["name"],
                [field[0][by_role.end() :].strip(), *field[1:]],
            )
        elif all(re.fullmatch(r"[A-Za-z_][\w.]*", name) and name[0].isupper() for name in names[1:]):
            for name in names or [""]:
                yield "raises", name, said
        else:
            yield "raises", words[0], [f"{' '.join(words[1:])}: {said[0]}", *said[1:]]
    elif kind in _OF_RESULTS or kind == "rtype":
        if words and kind != "rtype":
            yield "rtype", "", [(head["rest"] or "").strip()]
        yield "rtype" if kind == "rtype" else "returns", "", said
    else:
        yield "other", "", said
