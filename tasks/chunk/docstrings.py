"""Docstrings into slots: Google, NumPy and Sphinx style, told apart by griffe.

A slot's text stays as the human wrote it. Sections that no slot takes (examples, notes,
attributes …) follow the description as Markdown, so that no text is lost. Whether a
documented parameter exists is the caller's to decide.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any

from griffe import Docstring, DocstringSectionKind, Parser, parse_google, parse_numpy, parse_sphinx
from griffe import infer_docstring_style as infer_style
from msgspec import Struct, field

from tasks.chunk.sections import is_prose, tidied

# griffe reports doubtful docstrings through its logger; the readers of a build log did not ask.
logging.getLogger("griffe").setLevel(logging.CRITICAL)

# Beyond this size a docstring is data, not prose: it is kept as it is, not searched for sections.
_LONGEST_PARSED = 200_000

_SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bcf)(?<!\bvs)(?<!\b[A-Z])[.!?](?=\s+\S)")
_NAMES = re.compile(r"[A-Za-z_][\w.]*(?:,\s*[A-Za-z_][\w.]*)*,?")
# Sections that griffe does not infer the style from.
_NUMPY_HEADING = re.compile(r"\n[ \t]*(?:See Also|Notes|References|Examples)\n[ \t]*-{3,}[ \t]*\n")
# … and those beside which a line that Google's style could have is prose.
_SURELY_NUMPY = re.compile(r"^(?:Parameters|Returns|Yields|Raises|Attributes)\n-{3,}[ \t]*$", re.MULTILINE)
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
# `{'a', 'b'}` for a type: values to choose from, the first of which griffe takes for the default.
_CHOICE = re.compile(r"""[{'"\d-]|(?:True|False|None)\b""")
_BLANK_LINES = re.compile(r"\n[ \t]*\n")
_UNDERLINE = re.compile(r"^[=\-~^*#`'\"+.:_]{3,}\s*$")


class ParsedDocstring(Struct):
    """A docstring taken apart: each text as written, dedented.

    `types` are those that it gives parameters, and, as `return`, what is returned or yielded;
    `defaults` those that it gives parameters beside their types.
    """

    summary: str = ""
    description: str = ""
    parameters: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    returns: str = ""
    raises: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    defaults: dict[str, str] = field(default_factory=dict)


def parse(text: str) -> ParsedDocstring:
    """Take a cleaned docstring apart.

    The style is inferred from its section headings; a docstring without any is prose.
    """
    parsed = ParsedDocstring()
    rest: list[str] = []
    for section in _sections(text):
        _take(section, parsed, rest)
    prose = rest.pop(0) if rest and not rest[0].startswith("**") else ""
    parsed.summary, description = split_summary(prose)
    parsed.description = "\n\n".join(part for part in (description, *rest) if part)
    return parsed


def split_summary(prose: str) -> tuple[str, str]:
    """Split prose into its first sentence, on one line, and all that follows."""
    prose = prose.strip("\n")
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


def _sections(text: str) -> Iterable[Any]:
    if len(text) > _LONGEST_PARSED:
        return Docstring(text).parse(None)
    style, _ = infer_style(Docstring(f".\n{text}\n."))  # which sees no field in the first and the last line
    if (style is None and _NUMPY_HEADING.search(text)) or (
        style is Parser.google and _SURELY_NUMPY.search(text)
    ):
        style = Parser.numpy
    docstring = Docstring(tidied(text, style))
    if style is Parser.google:
        return parse_google(
            docstring, warnings=False, returns_named_value=False, returns_multiple_items=False
        )
    if style is Parser.numpy:
        return parse_numpy(docstring, warnings=False)
    if style is Parser.sphinx:
        return parse_sphinx(docstring, warnings=False)
    return docstring.parse(None)


def _take(section: Any, parsed: ParsedDocstring, rest: list[str]) -> None:
    kinds = DocstringSectionKind
    kind, value = section.kind, section.value
    if kind is kinds.text:
        rest.append(value)
    elif kind in (kinds.parameters, kinds.other_parameters):
        for item in value:
            for name in item.name.split(","):  # NumPy describes several at once
                _take_parameter(name.strip("`").lstrip(" *\\`").strip(), item, parsed)
    elif kind is kinds.attributes:
        for item in value:
            parsed.attributes.setdefault(item.name, item.description.strip())
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
        rest.append(_titled(title, listing({_label(item): item.description for item in value})))


def _take_parameter(name: str, item: Any, parsed: ParsedDocstring) -> None:
    if name == "None" and not item.description.strip():
        return  # there are none
    _add(parsed.parameters, name, item.description)
    if item.annotation is not None and str(item.annotation).strip():
        parsed.types.setdefault(name, str(item.annotation).strip())
        if item.value is not None and not _CHOICE.match(str(item.annotation)):
            parsed.defaults.setdefault(name, str(item.value).strip())


def _add(texts: dict[str, str], name: str, text: str) -> None:
    """Add what is said of a name to what was said before."""
    said = [texts[name]] if texts.get(name) else []
    texts[name] = "\n\n".join([*said, text.strip()] if text.strip() not in said else said)


def _take_returns(items: list[Any], parsed: ParsedDocstring) -> str | None:
    """What is returned: of one thing the type and the text, of several a list; all of it if that is taken."""
    returned = [_returned(item) for item in items]
    if parsed.returns or "return" in parsed.types:
        return _list_of_results(returned)
    if len(returned) == 1:
        name, kind, text = returned[0]
        if kind:
            parsed.types["return"] = kind
        parsed.returns = (f"`{name}`: {text}" if name and text else text).strip()
    else:
        parsed.returns = _list_of_results(returned)
    return None


def _list_of_results(returned: list[tuple[str, str, str]]) -> str:
    lines = []
    for name, kind, text in returned:
        head = " ".join(part for part in (f"`{name}`" if name else "", f"({kind})" if kind else "") if part)
        lines.append("- " + "\n  ".join(f"{head}: {text.strip()}".strip(": ").split("\n")))
    return "\n".join(lines)


def _returned(item: Any) -> tuple[str, str, str]:
    """Name, type and text; a "type" that reads as prose is the beginning of the text."""
    name, kind, text = getattr(item, "name", "") or "", str(item.annotation or "").strip(), item.description
    if kind and text and is_prose(kind):
        return name, "", f"{kind}: {text}"
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


def listing(entries: dict[str, str]) -> str:
    """Markdown list of names and texts."""
    return "\n".join(f"- `{name}`: " + "\n  ".join(text.split("\n")) for name, text in entries.items())


def mentioned(text: str) -> Iterator[str]:
    """The dotted names that a text refers to, by a role or in backticks."""
    for match in _MENTION.finditer(text) if "`" in text or "][" in text else ():
        yield (match["role"] or match["quoted"] or match["referred"] or match["alone"]).rstrip(".")


def linked_files(text: str) -> Iterator[str]:
    """The relative links of a text, as written."""
    for match in _FILE_LINK.finditer(text) if "](" in text or "]:" in text or ">`_" in text else ():
        yield match["markdown"] or match["rst"]
