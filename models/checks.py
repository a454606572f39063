"""What of a model's text may be shown: whole sentences that name nothing unknown.

Those of a small model, whose errors are mostly words that have nothing to do with the code, consist of
words of the code and plain ones besides, and speak of what the name speaks of.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from models.words import is_among, stem, stems

_ABBREVIATION = r"(?:(?<=\be\.g)|(?<=\bi\.e)|(?<=\betc)|(?<=\bcf)|(?<=\bvs))\."
_SENTENCE = re.compile(rf"[^.!?]*(?:(?:{_ABBREVIATION}|[.!?](?!\s))[^.!?]*)*[.!?]?", re.IGNORECASE)
_BROKEN = re.compile(
    r"(\w)\1{4}|(\w{2,8})\2{2}"  # a stammer
    r"|[\ufffd\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"  # no text
)
# Words that a sentence may say twice.
# fmt: off
_GRAMMAR = frozenset({
    "a", "all", "and", "are", "as", "at", "be", "by", "for", "from", "given", "has", "if", "in",
    "into", "is", "it", "its", "not", "of", "on", "or", "that", "the", "this", "to", "with",
})
# fmt: on
_SPACES = re.compile(r"\s+")
_ENDED_TWICE = re.compile(r"(?<!\.)\.\.$")
_WORD = re.compile(r"[^\W\d]\w*")
_QUOTED = re.compile(r"`([^`]+)`")
_IDENTIFIER = re.compile(
    r"""
    [^\W\d][\w.]*\((?!e?s\))               # a call, and not "file(s)"
  | [^\W\d]\w+(?:\.[^\W\d]\w+)+          # a dotted name, and not "e.g."
  | \w*_\w*                                # an underscore
  | \w*[a-z][A-Z]\w*                       # an inner capital
  | \w*[A-Z]{2}[a-z]{2}\w*                 # an inner word, and not "URLs"
    """,
    re.VERBOSE,
)
# A word with a capital that is said to be a class: "a Widget object", "the class Widget".
_CLASS = r"(?!(?:Python|Unicode)\b)([A-Z][a-z]\w*)"
_SAID_TO_BE_CLASSES = (
    re.compile(rf"(?<=[\w,] ){_CLASS}(?= (?:class|exception|instance|object|subclass)(?:es|s)?\b)"),
    re.compile(rf"\b(?:instances? of|subclass(?:es)? of|class|exception)(?: an?| the)? {_CLASS}"),
)


def checked(
    text: str, prompt: str, ended: bool, plain_words: Iterable[str] | None = None, name: str = ""
) -> tuple[str, int]:
    """The sentences of a text that may stand, and how many were dropped.

    A sentence goes if it names an identifier (in backticks, with `_`, a dot, an inner capital or
    a call's bracket, or a capital where it says that it is a class) that the prompt does not
    hold, if a backtick in it has no partner, if it holds bytes that are no text or stammers, if
    it says a word twice, and the last one if the model was cut off in it. With `plain_words` it
    also goes if it says another word that the prompt does not hold, in whatever form, or leaves
    out one of the name's.

    Args:
        text: As the model wrote it.
        prompt: What it was asked about; its words are what a text may name.
        ended: Whether the model ended the text itself.
        plain_words: What documentation says of whatever it is about; None if any word may be said.
        name: Of what it was asked about.
    """
    known = set(_WORD.findall(prompt))
    sentences = [s.strip() for s in _SENTENCE.findall(_SPACES.sub(" ", text)) if s.strip()]
    cut = bool(sentences) and not ended and not sentences[-1].endswith((".", "!", "?"))
    whole = sentences[:-1] if cut else sentences
    kept = [s for s in whole if _unknown(s) <= known and _is_whole(s) and not _circles(s)]
    if plain_words is not None:
        plain, of_code, of_name = set(map(stem, plain_words)), set(stems(prompt)), set(stems(name))
        kept = [s for s in kept if _is_about(s, of_code, of_name - plain, plain)]
    return " ".join(_ENDED_TWICE.sub(".", s) for s in kept), len(sentences) - len(kept)


def _is_whole(sentence: str) -> bool:
    return not _BROKEN.search(sentence) and sentence.count("`") % 2 == 0


def _circles(sentence: str) -> bool:
    """Whether a sentence explains a word by itself: "Return the state of the state."."""
    words = [word for word in _WORD.findall(sentence.lower()) if word not in _GRAMMAR]
    return len(set(words)) < len(words)


def _is_about(sentence: str, of_code: set[str], of_name: set[str], plain: Collection[str]) -> bool:
    """Whether a sentence says what the name says, each thing once, in words of the code or plain ones."""
    said = stems(sentence)
    of_its_own = [word for word in said if word not in plain]
    return (
        not any(is_among(word, of_its_own[:place]) for place, word in enumerate(of_its_own))
        and all(is_among(word, of_code) for word in of_its_own)
        and all(is_among(word, said) for word in of_name)
    )


def _unknown(sentence: str) -> set[str]:
    """The words of all that looks like code."""
    quoted = " ".join(_QUOTED.findall(sentence))
    plain = sentence.replace("`", "")
    named = (name for pattern in (_IDENTIFIER, *_SAID_TO_BE_CLASSES) for name in pattern.findall(plain))
    return set(_WORD.findall(" ".join((quoted, *named))))
