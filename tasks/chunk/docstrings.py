"""Docstrings taken apart: Google's, NumPy's, Sphinx's and Epytext's style, read by griffe.

A text stays as the human wrote it. Sections that have no place of their own (examples, notes …)
follow the description as Markdown, so that no text is lost. Whether a documented parameter
exists is the caller's to decide.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from griffe import Docstring, DocstringSectionKind, Parser
from msgspec import Struct, field
from msgspec.structs import asdict

from tasks.chunk.sections import parts
from tasks.chunk.sections.code import marked, unmarked
from tasks.chunk.sections.entries import is_prose

# griffe reports doubtful docstrings through its logger; the readers of a build log did not ask.
logging.getLogger("griffe").setLevel(logging.CRITICAL)

# Beyond this size a docstring is data, not prose: it is kept as it is, not searched for sections.
_LONGEST_PARSED = 200_000

_OPTIONS: dict[Parser | None, dict[str, bool]] = {
    Parser.google: {"warnings": False, "returns_named_value": False, "returns_multiple_items": False},
    Parser.numpy: {"warnings": False},
    Parser.sphinx: {"warnings": False},
}

_SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bcf)(?<!\bvs)(?<!\b[A-Z])[.!?](?=\s+\S)")
_NAMES = re.compile(r"[A-Za-z_][\w.]*(?:,\s*[A-Za-z_][\w.]*)*,?")
_MENTION = re.compile(
    r"(?<![\w:+-]):[\w:+-]{1,80}:`(?:[^`<]*<)?[~!]?\.?(?P<role>[A-Za-z_][\w.]*)(?:\(\))?>?`"
    r"|`~?(?P<quoted>[A-Za-z_][\w.]*)(?:\(\))?`"
    r"|\]\[(?P<referred>[A-Za-z_][\w.]*)\]|\[(?P<alone>[A-Za-z_][\w.]*)\]\[\]"  # as mkdocstrings has them
)
# A link to no other host, nor to an anchor alone: `[title](a.md)`, `[1]: a.md`, `` `title <a.md>`_ ``.
_FILE = r"(?![A-Za-z][\w+.-]*:|//|#)[^\s<>()`]{1,500}"
_FILE_LINK = re.compile(
    rf"(?:\]\(<?|^ {{0,3}}\[[^\]\n]+\]: *<?)(?P<markdown>{_FILE})|<(?P<rst>{_FILE})>`_", re.MULTILINE
)
_METHODS = re.compile(r"^Methods[ \t]*:?[ \t]*$", re.MULTILINE)
_ITEM = re.compile(r"[-*+] |\d+[.)] ")  # of a list
_ITEMS = re.compile(rf"^ *(?:{_ITEM.pattern})", re.MULTILINE)
_SHORTEST_TEXT = 5  # words where types stand, that nothing follows
_DIRECTIVES = re.compile(r"(?:\.\. [\w-]+::.*(?:\n(?:[ \t]+\S.*|[ \t]*))*\n?)+")
_BLANK_LINES = re.compile(r"\n[ \t]*\n")
_UNDERLINE = re.compile(r"^[=\-~^*#`'\"+.:_]{3,}\s*$")


class ParsedDocstring(Struct):
    """A docstring taken apart: each text as written, dedented.

    `types` are those that it gives parameters, and, as `return`, what is returned or yielded;
    `attribute_types` those of attributes; `defaults` are what it gives parameters beside their types.
    """

    summary: str = ""
    description: str = ""
    parameters: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    returns: str = ""
    raises: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    attribute_types: dict[str, str] = field(default_factory=dict)
    defaults: dict[str, str] = field(default_factory=dict)


def parse(text: str) -> ParsedDocstring:
    """Take a cleaned docstring apart, each section in the style that it is written in."""
    parsed = ParsedDocstring()
    rest: list[str] = []
    for section in _sections(text):
        _take(section, parsed, rest)
    prose = rest.pop(0) if rest and not rest[0].startswith("**") else ""
    parsed.summary, description = split_summary(prose)
    parsed.description = "\n\n".join(part for part in (description, *rest) if part)
    return _unmarked(parsed)


def _unmarked(parsed: ParsedDocstring) -> ParsedDocstring:
    for name, said in asdict(parsed).items():
        plain = unmarked(said) if isinstance(said, str) else {n: unmarked(text) for n, text in said.items()}
        setattr(parsed, name, plain)
    return parsed


def split_summary(prose: str) -> tuple[str, str]:
    """Split prose into its first sentence, on one line, and all that follows.

    Directives of reStructuredText that come first are of what follows, and no sentence.
    """
    prose = prose.strip("\n")
    if directives := _DIRECTIVES.match(prose):
        summary, description = (
            split_summary(prose[directives.end() :]) if directives.end() < len(prose) else ("", "")
        )
        return summary, "\n\n".join(part for part in (directives[0].strip("\n"), description) if part)
    paragraph, _, rest = _cut(prose, _BLANK_LINES)
    lines = paragraph.split("\n")
    if len(lines) > 1 and _UNDERLINE.match(lines[1]):
        paragraph, rest = lines[0], "\n".join(lines[2:]) + ("\n\n" + rest if rest else "")
    end = _SENTENCE_END.search(paragraph)
    sentence, after = (paragraph[: end.end()], paragraph[end.end() :]) if end else (paragraph, "")
    rest = "\n\n".join(part for part in (after.strip(), rest.strip("\n")) if part)
    return " ".join(sentence.split()), rest


def _cut(text: str, pattern: re.Pattern[str]) -> tuple[str, str, str]:
    found = pattern.search(text)
    return (text[: found.start()], found.group(), text[found.end() :]) if found else (text, "", "")


def _sections(text: str) -> Iterator[Any]:
    if len(text) > _LONGEST_PARSED:
        yield from Docstring(text).parse(None)
        return
    for style, part in parts(marked(text)):
        # The line before keeps griffe from taking the first line's indentation for that of all.
        for section in Docstring(f"\n{part}").parse(style, **_OPTIONS.get(style, {})):
            if section.kind is DocstringSectionKind.functions and _METHODS.search(part):
                section.title = "Methods"  # which is "Functions" to griffe
            yield section


def _take(section: Any, parsed: ParsedDocstring, rest: list[str]) -> None:
    kinds = DocstringSectionKind
    kind, value = section.kind, section.value
    if kind is kinds.text:
        rest.append(value)
    elif kind in (kinds.parameters, kinds.other_parameters):
        for before, item in pairwise([None, *value]):
            if before and item.name == "optional" and item.description == before.description:
                continue  # "name, optional", which has no type
            for name in item.name.split(","):  # NumPy describes several at once
                _take_parameter(name.strip("`").lstrip(" *\\`").strip(), item, parsed)
    elif kind is kinds.attributes:
        for item in value:
            _add(parsed.attributes, item.name, item.description)
            if kind_of_value := str(item.annotation or "").strip():
                parsed.attribute_types.setdefault(item.name, kind_of_value)
    elif kind in (kinds.returns, kinds.yields):
        if (more := _take_returns(value, parsed)) is not None:
            rest.append(_titled(section.title or kind.value.capitalize(), more))
    elif kind is kinds.raises:
        for item in value:
            if name := str(item.annotation or "").strip("`~:. "):
                _add(parsed.raises, name, item.description)
    elif kind is kinds.examples:
        rest.append(_titled(section.title or "Examples", "\n\n".join(_example(*part) for part in value)))
    elif kind is kinds.admonition:
        title = section.title or value.kind.title()
        rest.append(
            _titled(title, _see_also(value.contents) if title.lower() == "see also" else value.contents)
        )
    elif kind is kinds.deprecated:
        rest.append(_titled("Deprecated", f"{value.version}: {value.description}"))
    else:
        title = section.title or kind.value.replace("_", " ").capitalize()
        rest.append(_titled(title, listing({_label(item): item.description for item in value}, {})))


def _take_parameter(name: str, item: Any, parsed: ParsedDocstring) -> None:
    if name == "None" and not item.description.strip():
        return  # there are none
    _add(parsed.parameters, name, item.description)
    if item.annotation is not None and str(item.annotation).strip():
        parsed.types.setdefault(name, str(item.annotation).strip())
        if item.value is not None:
            parsed.defaults.setdefault(name, str(item.value).strip())


def _add(texts: dict[str, str], name: str, text: str) -> None:
    """Add what is said of a name to what was said before."""
    said = [texts[name]] if texts.get(name) else []
    texts[name] = "\n\n".join([*said, text.strip()] if text.strip() not in said else said)


def _take_returns(items: list[Any], parsed: ParsedDocstring) -> str | None:
    """What is returned: of one thing the type and the text, of several a list; all of it if that is taken."""
    returned = [_returned(item) for item in items]
    if len(returned) == 1:
        name, kind, text = returned[0]
        told = ": ".join(part for part in (f"`{name}`" if name else "", text.strip()) if part)
        if not (kind and "return" in parsed.types) and not (told and parsed.returns):
            parsed.types |= {"return": kind} if kind else {}
            parsed.returns = told or parsed.returns
            return None
    elif not parsed.returns and "return" not in parsed.types:
        parsed.returns = _list_of_results(returned)
        return None
    return _list_of_results(returned)


def _list_of_results(returned: list[tuple[str, str, str]]) -> str:
    lines = []
    for name, kind, text in returned:
        head = " ".join(part for part in (f"`{name}`" if name else "", f"({kind})" if kind else "") if part)
        lines.append("- " + "\n  ".join(f"{head}: {text.strip()}".strip(": ").split("\n")))
    return "\n".join(lines)


def _returned(item: Any) -> tuple[str, str, str]:
    """Name, type and text; a "type" that reads as prose or as a list is the beginning of the text."""
    name, kind, text = getattr(item, "name", "") or "", str(item.annotation or "").strip(), item.description
    if (item := _ITEM.match(kind)) and not _ITEMS.search(text):
        kind = kind[item.end() :]
    reads_so = is_prose(kind) and (bool(text) or len(kind.split()) >= _SHORTEST_TEXT)
    if kind and (_ITEM.match(kind) or reads_so):
        return name, "", f"{kind}: {text}" if text else kind
    return name, kind, text


def _label(item: Any) -> str:
    return str(getattr(item, "name", "") or getattr(item, "annotation", "") or "")


def _example(kind: DocstringSectionKind, text: str) -> str:
    return f"```pycon\n{text}\n```" if kind is DocstringSectionKind.examples else text


def _see_also(text: str) -> str:
    """NumPy's list of related names, one a line with a phrase behind a colon, as a list."""
    entries: list[str] = []
    for line in text.splitlines():
        names, colon, phrase = line.partition(" :")
        if line[:1].isspace() and entries:
            entries[-1] += f" {line.strip()}"
        elif _NAMES.fullmatch(names.strip()):
            quoted = ", ".join(f"`{name}`" for name in re.split(r"[,\s]+", names.strip(" ,")))
            entries.append(f"- {quoted}" + (f": {phrase.strip()}" if colon and phrase.strip() else ""))
        elif line.strip():
            return text
    return "\n".join(entries)


def _titled(title: str, body: str) -> str:
    return f"**{title}**\n\n{body}"


def listing(entries: Mapping[str, str], types: Mapping[str, str]) -> str:
    """Markdown list of names and texts, with the types that are known."""
    heads = {name: f"`{name}` ({types[name]})" if name in types else f"`{name}`" for name in entries}
    return "\n".join(f"- {heads[name]}: " + "\n  ".join(text.split("\n")) for name, text in entries.items())


def mentioned(text: str) -> Iterator[str]:
    """The dotted names that a text refers to, by a role or in backticks."""
    for match in _MENTION.finditer(text) if "`" in text or "][" in text else ():
        yield (match["role"] or match["quoted"] or match["referred"] or match["alone"]).rstrip(".")


def linked_files(text: str) -> Iterator[str]:
    """The relative links of a text, as written."""
    for match in _FILE_LINK.finditer(text) if "](" in text or "]:" in text or ">`_" in text else ():
        yield match["markdown"] or match["rst"]
