"""Names, code and sentences as words.

In scope: which words there are, when two of them are the same. Not in scope: what is made of that (checks,
baselines, metrics).
"""

import re
from collections.abc import Collection
from functools import cache, lru_cache
from typing import Any

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")
_SHORTEST_BEGINNING = 3  # letters: `dir` is short for "directory"


def words(text: str) -> list[str]:
    """Return the words in identifiers, literals and prose, in lower case."""
    return [word.lower() for word in _WORD.findall(text)]


def sentence_of(name: str) -> str:
    """Return a name as a sentence: `read_csvFile` is "Read csv file."."""
    return " ".join(words(name)).capitalize() + "."


@lru_cache(maxsize=100_000)
def stem(word: str) -> str:
    """Return what a word has in common with its other forms, by Porter's second algorithm for English.

    https://snowballstem.org/algorithms/english/stemmer.html
    """
    return _stemmer().stemWord(word)


def stems(text: str) -> list[str]:
    """Return the stems of the words of a text."""
    return [stem(word) for word in words(text)]


def is_among(stem: str, others: Collection[str]) -> bool:
    """Return whether a stem is one of others, or a short form of one, or one of them a short form of it."""
    return stem in others or any(_is_short_for(stem, other) or _is_short_for(other, stem) for other in others)


def _is_short_for(short: str, long: str) -> bool:
    return len(short) >= _SHORTEST_BEGINNING and long.startswith(short)


@cache
def _stemmer() -> Any:
    import snowballstemmer  # which reads the rules of thirty languages

    return snowballstemmer.stemmer("english")
