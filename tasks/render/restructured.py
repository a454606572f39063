"""reStructuredText of docstrings, turned into Markdown: roles, literals, directives, doctests, tables."""

from __future__ import annotations

import csv
import re
import textwrap
from collections.abc import Mapping
from itertools import takewhile

from tasks.chunk.sections.code import is_underline
from tasks.chunk.sections.entries import NAMES, WORD, is_prose

_RST_HINT = re.compile(
    r"``|:\w+:`|\.\. |::|>>> |`_|\]_|`~?\w|\|\w|(?<!=)={2,} +=|\+[-=]{2,}"
    r"|^ *(?:([-=~^\"'*+#])\1{2,} *$|#\. |\| )|^\S.*\n {2,}\S",
    re.MULTILINE,
)
_NO_TITLE = re.compile(r">>>|\.\.\.? |[-*+|] | {4}|([-=~^\"'*+#])\1*$")
_UNDERLINE = re.compile(r"([-=~^\"'*+#])\1{2,}")
_LEAST_OF_CODE = 4  # spaces before a line of Markdown that is code
_NUMBERED = re.compile(r"^( *)#(?=\. )", re.MULTILINE)  # by whoever draws the list
# What stands above its definition: one word, or names and of what kind they are. No code, no item of a list.
_TERM = re.compile(
    rf" *(?!(?:{WORD}|class|def)\b|[-*+>|#@$:.]|\(?\d+[.)])"
    rf"(?:[^\s=|]+(?<![(\[{{,;\\])(?<!\):)(?: \.\.\.)?|{NAMES}\s*:\s(?P<kind>[^=]*[^\s(\[{{,;\\]))\s*"
)
_LINE_OF_BLOCK = re.compile(r" *\| (?=.*\w)(.*[^|\s])\s*")
_ROLE = re.compile(r"(?<![\w:+-]):([a-zA-Z][\w:+-]{0,80}):`([^`]+)`")
_TITLED = re.compile(r"([^<>]*)<([^<>]+)>", re.S)
NAME = re.compile(r"\.?[A-Za-z_][\w.]*(?:\(\))?")
_DOCUMENTS = {"pep": "PEP", "rfc": "RFC"}
_LITERAL = re.compile(r"``(.+?)``", re.S)
_FOOTNOTE = re.compile(r"\[(\d+|[#*]\w*|[A-Za-z]\w*)\]_(?!\w)")
_TABLE_EDGE = re.compile(r" *(?:\+[-=][-=+]*(?<=\+)|={2,}(?: +={2,})+) *")
_HYPERLINK = re.compile(r"`([^`<]+)<([^`<>\s]+)>`__?")
_WEB = re.compile(r"https?://|mailto:")
# The scheme of links to symbols, until they are drawn.
REFERS_TO = "docmill-name:"
_REFERENCE = re.compile(r"`([^`]+)`__?(?!\w)")
_DIRECTIVE = re.compile(r"^( *)\.\. +([a-zA-Z][\w:-]*):: ?(.*)$")
_CITATION = re.compile(r"^( *)\.\. +\[([^\]]+)\] ?")
_TARGET_OR_COMMENT = re.compile(r"^ *\.\. ")
_OPTION = re.compile(r"^ *:([\w-]+):(?:\s+(.*))?$")
_FIRST_CELL = re.compile(r"(\* +)-(?: +(.*)|$)")  # of a row of a list-table
_BLOCK = re.compile(r" *(?:[-*+] |.*::$)")  # which no cell of a table holds
_MOST_CELLS = 10_000
_FENCE = re.compile(r"^ *(```|~~~)")
_CODE_DIRECTIVES = {
    "code",
    "code-block",
    "sourcecode",
    "highlight",
    "ipython",
    "plot",
    "math",
    "parsed-literal",
}
_ADMONITIONS = {
    name: name.capitalize()
    for name in (
        *("note", "warning", "tip", "hint", "important", "caution", "danger", "attention", "todo"),
        "error",
    )
} | {"seealso": "See also"}
_VERSIONS = {"versionadded": "Added in", "versionchanged": "Changed in", "deprecated": "Deprecated since"}
_EXTERNAL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:|[/\\]{2}")
_IGNORED_IN_URLS = re.compile(r"^[\x00-\x20]+|[\t\n\r]")
_DEEPEST_DIRECTIVE = 10


def to_markdown(text: str) -> str:
    """Turn the reStructuredText that docstrings use into Markdown; Markdown stays as it is."""
    if not _RST_HINT.search(text):
        return text
    return "\n".join(_blocks(text.expandtabs().split("\n")))


def is_external(href: str) -> bool:
    """Whether a browser would take an address to another host or scheme."""
    return _EXTERNAL.match(_IGNORED_IN_URLS.sub("", href)) is not None


def _blocks(lines: list[str], depth: int = 0) -> list[str]:
    if depth > _DEEPEST_DIRECTIVE:
        return lines
    out: list[str] = []
    position = 0
    while position < len(lines):
        line = lines[position]
        if not line.strip() or _is_overline(lines, position):
            out.append("")
            position += 1
        elif _is_title(lines, position):
            out += ["", f"#### {_inline(line.strip())}", ""]
            position += 2
        elif _FENCE.match(line):
            position = _copy_fence(lines, position, out)
        elif line.lstrip().startswith(">>> "):
            position = _doctest(lines, position, out)
        elif directive := _DIRECTIVE.match(line):
            position = _directive(directive, lines, position, out, depth)
        elif citation := _CITATION.match(line):
            out.append(f"{citation[1]}\\[{citation[2]}\\] {_inline(line[citation.end() :])}")
            position += 1
        elif _TARGET_OR_COMMENT.match(line):
            _, position = _indented(lines, position + 1, _indent(line))
        elif _TABLE_EDGE.fullmatch(line):
            position = _table(lines, position, out)
        elif line.rstrip().endswith("::") and line.strip():
            position = _literal_block(lines, position, out)
        elif _is_term(lines, position):
            position = _definition(lines, position, out, depth)
        else:
            end = position + 1
            while end < len(lines) and _goes_on(lines[end]):
                end += 1
            out += _inline(_paragraph(lines[position:end])).split("\n")
            position = end
    return out


def _is_term(lines: list[str], position: int) -> bool:
    """Whether a line is a word that the deeper ones below define."""
    line, following = lines[position], lines[position + 1] if position + 1 < len(lines) else ""
    if not following.strip() or not _indent(line) < min(_indent(following), _LEAST_OF_CODE):
        return False
    term = _TERM.fullmatch(line)
    return term is not None and not is_prose(term["kind"] or "")


def _definition(lines: list[str], position: int, out: list[str], depth: int) -> int:
    block, end = _indented(lines, position + 1, _indent(lines[position]))
    first, *others = _blocks(block, depth + 1)
    said = [f":   {first}", *(f"    {line}" if line else "" for line in others)]
    margin = " " * _indent(lines[position])
    out += [
        "",
        *(margin + line if line else "" for line in (_inline(lines[position].strip()), "", *said)),
        "",
    ]
    return end


def _is_title(lines: list[str], position: int) -> bool:
    """Whether a line begins a part: it is ruled, and no paragraph's last."""
    title, rule = lines[position], lines[position + 1].strip() if position + 1 < len(lines) else ""
    before = lines[position - 1].strip() if position else ""
    if not title.strip() or _NO_TITLE.match(title) or before not in ("", rule):
        return False
    if not _UNDERLINE.fullmatch(rule):
        return False
    return len(rule) >= len(title.strip()) or is_underline(lines, position + 1)


def _is_overline(lines: list[str], position: int) -> bool:
    rule = lines[position].strip()
    return (
        _UNDERLINE.fullmatch(rule) is not None
        and not rule.startswith("~")  # a fence
        and [line.strip() for line in lines[position + 2 : position + 3]] == [rule]
        and _is_title([rule, *lines[position + 1 : position + 3]], 1)
    )


def _paragraph(lines: list[str]) -> str:
    """A paragraph, or an item of a list; of a line block, whose lines begin with a bar, line by line."""
    block = [*map(_LINE_OF_BLOCK.fullmatch, lines)]
    if all(block):
        return "\\\n".join(line[1] for line in block if line)
    return _NUMBERED.sub(r"\g<1>1", "\n".join(lines))


def _goes_on(line: str) -> bool:
    """Whether a line can only be more of the paragraph before it."""
    special = (_FENCE, _DIRECTIVE, _CITATION, _TARGET_OR_COMMENT, _TABLE_EDGE)
    stripped = line.strip()
    return bool(stripped) and not (
        stripped.startswith(">>> ") or stripped.endswith("::") or any(p.match(line) for p in special)
    )


def _table(lines: list[str], position: int, out: list[str]) -> int:
    """A table of reStructuredText, as it is drawn there."""
    end = position
    while end < len(lines) and lines[end].strip():
        end += 1
    out += ["", *_fenced(textwrap.dedent("\n".join(lines[position:end])).split("\n"), "text"), ""]
    return end


def _inline(text: str) -> str:
    text = _LITERAL.sub(lambda m: f"`{_one_line(m[1])}`", text)
    text = _ROLE.sub(_role, text)
    text = _HYPERLINK.sub(_hyperlink, text)
    text = _FOOTNOTE.sub(r"\\[\1\\]", text)
    return _REFERENCE.sub(lambda m: m[0] if not m[0].endswith("_") else _one_line(m[1]), text)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _hyperlink(match: re.Match[str]) -> str:
    title, address = _one_line(match[1]), match[2]
    if address.endswith("_"):  # the name of a target that stands elsewhere, and is not drawn
        return title
    return f"[{title}]({address})" if _WEB.match(address) or not is_external(address) else title


def _role(match: re.Match[str]) -> str:
    role, content = match[1].lower(), _one_line(match[2])
    titled = _TITLED.fullmatch(content)
    if role in _DOCUMENTS:
        return f"{_DOCUMENTS[role]} {(titled[1].rstrip() or titled[2]) if titled else content}"
    name = (titled[2] if titled else content).lstrip("~!")
    shown = (titled and titled[1].rstrip()) or (
        name.rpartition(".")[2] if content.startswith("~") else name.lstrip(".")
    )
    if shown == name or not NAME.fullmatch(name):
        return f"`{shown}`"
    return f"[`{shown}`]({REFERS_TO}{name.lstrip('.').removesuffix('()')})"


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _indented(lines: list[str], position: int, margin: int) -> tuple[list[str], int]:
    """The block that is indented deeper than `margin`, dedented, and where it ends."""
    start = position
    while position < len(lines) and (not lines[position].strip() or _indent(lines[position]) > margin):
        position += 1
    block = textwrap.dedent("\n".join(lines[start:position])).strip("\n")
    return block.split("\n") if block else [], position


def _copy_fence(lines: list[str], position: int, out: list[str]) -> int:
    marker = lines[position].strip()[:3]
    out.append(lines[position])
    position += 1
    while position < len(lines):
        out.append(lines[position])
        position += 1
        if out[-1].strip() == marker:
            break
    return position


def _doctest(lines: list[str], position: int, out: list[str]) -> int:
    margin = _indent(lines[position])
    block = []
    while position < len(lines) and lines[position].strip() and _indent(lines[position]) >= margin:
        block.append(lines[position][margin:])
        position += 1
    out += ["", *_fenced(block, "pycon"), ""]
    return position


def _fenced(block: list[str], language: str) -> list[str]:
    fence = "````" if any("```" in line for line in block) else "```"
    return [fence + language, *block, fence]


def _literal_block(lines: list[str], position: int, out: list[str]) -> int:
    line = lines[position].rstrip()
    block, end = _indented(lines, position + 1, _indent(line))
    if not block:
        out.append(_inline(line))
        return position + 1
    introduction = line[:-1] if not line.endswith(" ::") and line.strip() != "::" else line[:-2].rstrip()
    if introduction.strip():
        out.append(_inline(introduction))
    out += ["", *_fenced(block, "pycon" if block[0].startswith(">>>") else "python"), ""]
    return end


def _directive(match: re.Match[str], lines: list[str], position: int, out: list[str], depth: int) -> int:
    name, argument = match[2].lower(), match[3].strip()
    block, end = _indented(lines, position + 1, len(match[1]))
    given = [*takewhile(bool, map(_OPTION.match, block))]
    options = {option[1].lower(): (option[2] or "").strip() for option in given if option}
    block = "\n".join(block[len(given) :]).strip("\n").split("\n") if len(block) > len(given) else []
    title = options.get("caption") if name in _CODE_DIRECTIVES else argument
    titled = ["", *([f"**{_inline(title)}**", ""] if title else [])]
    if name in _CODE_DIRECTIVES:
        language = {"math": "latex"}.get(name, argument if name != "plot" else "python")
        body = [argument, *block] if name == "math" and argument else block
        out += [*titled, *_fenced(body, language), ""]
    elif name in _ADMONITIONS:
        body = _blocks([argument, *block] if argument else block, depth + 1)
        out += ["", f"> **{_ADMONITIONS[name]}**", ">", *(f"> {line}" for line in body), ""]
    elif name in _VERSIONS:
        first, *others = _blocks(block, depth + 1) or [""]
        out += ["", f"*{_VERSIONS[name]} {argument}.* {first}".rstrip(), *others, ""]
    elif name == "csv-table":
        out += [*titled, *_csv_table(block, options), ""]
    elif name == "list-table" and (table := _list_table(block, options)):
        out += [*titled, *table, ""]
    else:
        said = [_inline(options["alt"]), ""] if options.get("alt") else []
        out += [*titled, *said, *_blocks(block, depth + 1), ""]
    return end


def _csv_table(block: list[str], options: Mapping[str, str]) -> list[str]:
    written = options.get("delim", ",")
    delimiter = {"tab": "\t", "space": " "}.get(written, written)
    header = [options["header"]] if "header" in options else []
    lines = [*header, *block]
    try:
        read = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, skipinitialspace=True)
        rows = [row for row in read if row]
    except (csv.Error, TypeError):  # of a delimiter that is none
        rows = []
    return _drawn(rows, bool(header) or _has_head(options)) or _fenced(lines, "text")


def _list_table(block: list[str], options: Mapping[str, str]) -> list[str]:
    """The table of a list of lists, `* - a` a row's first cell and `- b` a further one; none of others."""
    rows: list[list[str]] = []
    first = _FIRST_CELL.match(block[0]) if block else None
    margin = len(first[1]) if first else 0
    for line in block:
        if cell := _FIRST_CELL.match(line):
            rows.append([cell[2] or ""])
        elif line.strip() and rows and _indent(line) >= margin:
            if line[margin : margin + 1] == "-":
                rows[-1].append(line[margin + 1 :])
            elif _indent(line) > margin and not _BLOCK.match(line):
                rows[-1][-1] += f" {line}"
            else:
                return []
        elif line.strip():
            return []
    return _drawn(rows, _has_head(options))


def _has_head(options: Mapping[str, str]) -> bool:
    return options.get("header-rows", "0") not in ("", "0")


def _drawn(rows: list[list[str]], has_head: bool) -> list[str]:
    """A table in Markdown, which has a head in any case; none of rows that would take too many cells."""
    width = max(map(len, rows), default=0)
    if not rows or width * len(rows) > _MOST_CELLS:
        return []
    head, body = (rows[0], rows[1:]) if has_head else ([], rows)
    filled = [*head, *[""] * (width - len(head))]
    lines = [" | ".join(map(_cell, row)) for row in (filled, *body)]
    return [f"| {lines[0]} |", "|---" * width + "|", *(f"| {line} |" for line in lines[1:])]


def _cell(text: str) -> str:
    return _one_line(_inline(text)).replace("|", "\\|")
