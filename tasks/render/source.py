"""Source files as pages: every line an anchor, tokens coloured.

One regular expression finds the tokens that are worth a colour, on text that is escaped
beforehand. Examples in docstrings are coloured the same way. Pygments, which colours other
languages, would take most of a clean build (docs/decisions/ has the figures).
"""

from __future__ import annotations

import html
import keyword
import re

from markupsafe import Markup

_VALUES = ("None", "True", "False", "self", "cls")
_KEYWORDS = sorted(set(keyword.kwlist) - set(_VALUES))
# What stands before a token is skipped in one go. Wherever that ends, a branch matches (a string
# without an end ends with its line or the text), so that nothing is given back: the time taken
# grows with the text's length and no faster, whatever the text. Without possessive quantifiers,
# which Python 3.11 gets wrong before 3.11.5; the bound on the repetition bounds the memory.
_TOKEN = re.compile(
    r"""
    (?P<plain>(?:[^\w"'\#@]+ | (?!(?:KEYWORDS|VALUES)\b) (?![rbfuRBFU]{1,2}["']) [^\W\d]\w*){0,1000})
    (?:
      (?P<s>[rbfuRBFU]{0,2}(?:
          "{3}[^\\"]*(?:(?:\\.|"{1,2}(?!"))[^\\"]*)*(?:"{3}|\\?\Z)
        | '{3}[^\\']*(?:(?:\\.|'{1,2}(?!'))[^\\']*)*(?:'{3}|\\?\Z)
        | "[^"\\\n]*(?:\\.[^"\\\n]*)*(?:"|(?=\n)|\\?\Z)
        | '[^'\\\n]*(?:\\.[^'\\\n]*)*(?:'|(?=\n)|\\?\Z)))
    | (?P<c>\#[^\n]*)
    | (?P<v>(?:VALUES)\b)
    | (?P<k>(?:KEYWORDS)\b)
    | (?P<m>\d[\w.]*)
    | (?P<d>(?<![\w)\]}])@[\w.]+)
    | @ |
    )
    """.replace("KEYWORDS", "|".join(_KEYWORDS)).replace("VALUES", "|".join(_VALUES)),
    re.VERBOSE | re.DOTALL,
)

_CONTROLS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_CONTROL = re.compile(f"[{_CONTROLS}]")
_CODE = re.compile(r"<(pre|code)\b.*?</\1>", re.DOTALL)
_TEXT = re.compile(r">[^<]+")  # of HTML as the sanitizer and the templates write it: no `>` in an attribute


def coloured(source: str) -> str:
    """Python as HTML; each token that is worth a colour in a `b` whose class names its kind."""
    return _TOKEN.sub(_coloured, html.escape(source, quote=False))


def coloured_console(text: str) -> str:
    """A session of the interactive interpreter: prompts, code and output told apart."""
    return "\n".join(_console_line(line) for line in text.split("\n"))


def _console_line(line: str) -> str:
    prompt, code = line[:4], line[4:]
    if prompt.rstrip() in (">>>", "..."):
        return f'<b class="p">{html.escape(prompt)}</b>{coloured(code)}'
    return f'<b class="o">{html.escape(line, quote=False)}</b>' if line else ""


def highlighted_lines(source: str) -> Markup:
    """A Python file as HTML; line N begins with an element whose id is `LN`."""
    text = source.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")
    return Markup(
        "\n".join(
            [f'<i id="L{number}"></i>{line}' for number, line in enumerate(coloured(text).split("\n"), 1)]
        )
    )


def with_controls_shown(page: str) -> str:
    """A page on which code shows what would have it read in another order than it is run.

    Those are the characters of bidirectional text that enclose others (CVE-2021-42574, "Trojan Source"). Each
    is named, and kept to itself: an element isolates it.
    """
    if not any(control in page for control in _CONTROLS):
        return page
    return _CODE.sub(lambda code: _TEXT.sub(lambda text: _CONTROL.sub(_named, text[0]), code[0]), page)


def _named(control: re.Match[str]) -> str:
    return f'<bdi class="control" title="U+{ord(control[0]):04X}">{control[0]}</bdi>'


def _coloured(match: re.Match[str]) -> str:
    kind = match.lastgroup or "plain"
    if kind == "plain":
        return match[0]
    return f'{match["plain"]}<b class="{kind}">{match[kind]}</b>'
