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

_KEYWORDS = "|".join(sorted(set(keyword.kwlist) - {"None", "True", "False"}))
_TOKEN = re.compile(
    r"""
    (?P<c>\#[^\n]*)
  | (?P<s>(?:\b[rbfuRBFU]{1,2})?(?:
        \"{3}[^\\"]*(?:(?:\\.|\"{1,2}(?!\"))[^\\"]*)*\"{3}
      | '{3}[^\\']*(?:(?:\\.|'{1,2}(?!'))[^\\']*)*'{3}
      | "[^"\\\n]*(?:\\.[^"\\\n]*)*"
      | '[^'\\\n]*(?:\\.[^'\\\n]*)*'))
  | (?P<k>\b(?:KEYWORDS)\b)
  | (?P<v>\b(?:None|True|False|self|cls)\b)
  | (?P<m>\b\d[\w.]*)
  | (?P<d>^[ \t]*@[\w.]+)
    """.replace("KEYWORDS", _KEYWORDS),
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)


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
    lines = coloured(source).replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")
    return Markup("\n".join([f'<i id="L{number}"></i>{line}' for number, line in enumerate(lines, 1)]))


def _coloured(match: re.Match[str]) -> str:
    return f'<b class="{match.lastgroup}">{match.group()}</b>'
