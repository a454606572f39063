"""Secrets in code: keys, tokens, passwords, found by detect-secrets, so that docmill repeats none.

What is shown to a model, and what docmill derives from code to show it, goes through here.
Signatures (annotations, defaults, keywords, decorators) and source pages show code as it is: hiding there
what everyone can read in the repository would only make the documentation wrong.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from detect_secrets.plugins.base import BasePlugin

# Part of every key of what is searched: other code, or another library, may find other secrets.
SECRETS_VERSION = (6, version("detect-secrets"))

HIDDEN = "..."

# What every detector's finds have some of: looking closer at each line would take longer than all else.
_NAMED = "(?i:pass|pwd|secret|key|token|credential|contrase)"
_SUSPECT = re.compile(
    r"[A-Za-z0-9+/=_-]{16,}|PRIVATE KEY|PuTTY|AKC|AP[0-9A-F]|://[^/\s:@]{0,100}:[^/\s@]{1,100}@"
    rf"|{_NAMED}.{{0,80}}['\"]|['\"].{{0,80}}{_NAMED}|(?i:bearer|basic) "
    r"|(?i:passw?o?r?d|pwd|token|secret|api_?key)="
    r"|(?i:password|passphrase|passcode|token|secret|key)(?: is|:)? +\S{10}"
)
# A value in which letters and digits take turns in one piece: no word, no version, no path.
_RANDOM = r"(?=[^\s'\"]*?(?=[a-z0-9]{8})(?:[a-z]+\d+[a-z]+\d|\d+[a-z]+\d+[a-z]))([\w+/=.~!@#$%^&*-]{10,})"
# What the library does not look for: a header's value, and a password in a connection string.
_OTHERS = (
    re.compile(r"(?i)\b(?:bearer|basic) +(?=[^\s'\"]*\d)([A-Za-z0-9._~+/-]{8,}=*)"),
    re.compile(r"(?i)(?:^|[;'\"])\s*(?:password|passwd|pwd)=([^;'\"\s{%<$]{4,})(?=[;'\"]|$)"),
    # … and one that stands in a sentence or a command; a digit tells it from a word.
    re.compile(
        r"(?i)(?<![a-z0-9])(?:password|passwd|pwd|token|secret|api_?key)="
        r"(?=[^\s'\"]*\d)([\w+/!@#^*~-]{8,})(?=[\s'\"&;,]|$)"
    ),
    re.compile(r"(?i)\b(?:password|passwd|pwd) ['\"](?=[^\s'\"]*\d)([^\s'\"]{8,})['\"]"),
    re.compile(r"(?i)\b(?:password|passphrase|passcode|token|secret|key)(?: is|:)? +" + _RANDOM + r"(?!\w)"),
    # A literal that is assigned to such a name, or stands behind one: `os.environ.get("API_KEY", "…")`.
    re.compile(
        r"(?i)(?:token|passphrase|passcode|passw\w{0,3}|credential|secret|(?<![a-z])key)s?_?\d*['\"]?\]?\s*"
        r"(?::[^='\"]{1,80})?[=:,]\s*[\[(]?\s*[bru]{0,2}['\"]" + _RANDOM + r"['\"]"
    ),
)
# What stands between a name and its literal, so that the library would not see them together.
_BETWEEN = re.compile(
    r"(?<=\w) *: *[\w.\[\], |]{1,80}(?= *= *[bBrRuU]{0,2}['\"])"  # an annotation
    r"|\b[bBrRuU]{1,2}(?=['\"])|[\[(] *(?=['\"])"  # a prefix, a list
)
_LITERAL = re.compile(r"""(?P<quote>['"])(?:\\.|(?!(?P=quote)).)*(?P=quote)""")
_WORD = re.compile(r"[A-Za-z0-9+/=_-]{16,}")
_A_NAME = re.compile(rf"[A-Za-z_ -]*{_NAMED}[A-Za-z_ -]*")
_LONGEST_LINE = (
    2_000  # characters; what is longer is data, and hidden as a whole: searching it takes too long
)
_ENTROPY = {"Base64 High Entropy String": 4.5, "Hex High Entropy String": 3.0}  # bits; the library's own
_BY_NAME = "Secret Keyword"
_NPM, _NPM_MARK = "NPM tokens", "_authToken"  # slow on lines of slashes
_NO_SECRETS = ("Public IP (ipv4)",)

_Node = TypeVar("_Node", bound=ast.AST)


def has_secret(text: str) -> bool:
    """Whether a text, or a piece of code, holds a secret."""
    return any(True for line in text.splitlines() for _ in _secrets(line))


def without_secrets(code: str) -> str:
    """Code whose string literals that hold a secret are hidden, as a whole."""
    if not _SUSPECT.search(code):
        return code
    return "\n".join(map(_hidden, code.split("\n")))


def told_without_secrets(said: str) -> str:
    """What is said on a line, with each secret in it hidden."""
    for secret in sorted(set(_secrets(said)), key=len, reverse=True):
        # Of some tokens the library finds the beginning.
        said = re.sub(rf"[\w+/=-]*{re.escape(secret)}[\w+/=-]*", HIDDEN, said) if secret else HIDDEN
    return said


def has_secret_literal(node: ast.AST) -> bool:
    """Whether a string in a syntax tree holds a secret, also one that is written in pieces side by side."""
    return any(map(_is_secret, ast.walk(node)))


def without_secret_literals(node: _Node) -> _Node:
    """A syntax tree whose strings that hold a secret are hidden, as a whole; itself if there are none."""
    if not has_secret_literal(node):
        return node
    tree = copy.deepcopy(node)
    for part in ast.walk(tree):
        if _is_secret(part):
            for constant in part.values if isinstance(part, ast.JoinedStr) else [part]:
                if isinstance(constant, ast.Constant):
                    constant.value = HIDDEN.encode() if isinstance(constant.value, bytes) else HIDDEN
    return tree


def _is_secret(part: ast.AST) -> bool:
    """Whether a string says a secret; a formatted one with braces where something is put in."""
    match part:
        case ast.Constant(value=str(text)):
            return has_secret(text)
        case ast.Constant(value=bytes(data)):
            return has_secret(data.decode("latin-1"))
        case ast.JoinedStr(values=values):
            return has_secret("".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in values))
    return False


def _hidden(line: str) -> str:
    secrets = set(_secrets(line))
    if not secrets:
        return line

    def hide(literal: re.Match[str]) -> str:
        inside, quote = literal.group(), literal["quote"]
        return f"{quote}{HIDDEN}{quote}" if any(secret in inside for secret in secrets) else inside

    return _LITERAL.sub(hide, line)


def _secrets(line: str) -> Iterator[str]:
    """What of a line is secret; "" stands for all of one that is too long to be searched."""
    if len(line) > _LONGEST_LINE:
        yield ""
        return
    if not _SUSPECT.search(line):
        return
    from detect_secrets.filters.heuristic import is_sequential_string

    # Entropy is looked for in what is quoted: in a text that holds more, each word may be a secret.
    words = " ".join(f"'{word}'" for word in dict.fromkeys(_WORD.findall(line)))
    plain = _BETWEEN.sub("", line)
    for name, detector in _detectors().items():
        if name == _NPM and _NPM_MARK not in line:
            continue
        for found in detector.analyze_line("code.py", words if name in _ENTROPY else plain):
            secret = found.secret_value or ""
            is_name = name == _BY_NAME and _A_NAME.fullmatch(secret)
            if secret and not is_name and not is_sequential_string(secret):
                yield secret
    for pattern in _OTHERS:
        yield from (secret for secret in pattern.findall(line) if not _A_NAME.fullmatch(secret))


@lru_cache(maxsize=1)
def _detectors() -> dict[str, BasePlugin]:
    # Imported when the first suspicious line is met.
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    classes = get_mapping_from_secret_type_to_class()
    return {
        name: plugin(limit=_ENTROPY[name]) if name in _ENTROPY else plugin()
        for name, plugin in sorted(classes.items())
        if name not in _NO_SECRETS
    }
