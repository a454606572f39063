"""Secrets in code: keys, tokens, passwords, found by detect-secrets, so that docmill repeats none.

What is shown to a model, and what docmill derives from code to show it, goes through here.
Signatures and source pages show code as it is: hiding there what everyone can read in the
repository would only make the documentation wrong.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detect_secrets.plugins.base import BasePlugin

# Raised whenever the same code would be found to hold other secrets.
SECRETS_VERSION = 1

HIDDEN = "..."

# Lines without any of this hold no secret; looking closer at each would take longer than all else.
_SUSPECT = re.compile(
    r"[A-Za-z0-9+/=_.:@~-]{16,}|PRIVATE KEY|PuTTY|://[^/\s]*:[^/\s]*@"
    r"|(?i:pass|pwd|secret|key|token|contrase).{0,40}['\"]"
)
_LITERAL = re.compile(r"""(?P<quote>['"])(?:\\.|(?!(?P=quote)).)*(?P=quote)""")
_LONGEST_LINE = 20_000  # characters; what is longer is data, and hidden as a whole
_ENTROPY = {"Base64 High Entropy String": 4.5, "Hex High Entropy String": 3.0}  # bits; the library's own
_NO_SECRETS = ("Public IP (ipv4)",)


def has_secret(text: str) -> bool:
    """Whether a text, or a piece of code, holds a secret."""
    return any(_secrets(line) for line in text.splitlines() if _SUSPECT.search(line))


def without_secrets(code: str) -> str:
    """Code whose string literals that hold a secret are hidden, as a whole."""
    if not _SUSPECT.search(code):
        return code
    return "\n".join(_hidden(line) if _SUSPECT.search(line) else line for line in code.split("\n"))


def _hidden(line: str) -> str:
    secrets = _secrets(line)
    if not secrets:
        return line

    def hide(literal: re.Match[str]) -> str:
        inside = literal.group()
        quote = literal["quote"]
        return f"{quote}{HIDDEN}{quote}" if any(secret in inside for secret in secrets) else inside

    hidden = _LITERAL.sub(hide, line)
    return hidden if not _secrets(hidden) else HIDDEN


def _secrets(line: str) -> set[str]:
    """What of a line is secret; "" stands for all of one that is too long to be searched."""
    if len(line) > _LONGEST_LINE:
        return {""}
    found = (secret.secret_value for d in _detectors() for secret in d.analyze_line("code.py", line))
    return {secret for secret in found if secret is not None and secret != HIDDEN}


@lru_cache(maxsize=1)
def _detectors() -> list[BasePlugin]:
    # Imported when the first suspicious line is met: most sources have none.
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    classes = get_mapping_from_secret_type_to_class()
    wanted = {name: plugin for name, plugin in classes.items() if name not in _NO_SECRETS}
    return [
        plugin(limit=_ENTROPY[name]) if name in _ENTROPY else plugin()
        for name, plugin in sorted(wanted.items())
    ]
