"""Pairs of code and summary: what the bundled model is taught and measured with.

In scope: reading functions from source without running it, the first sentence of their docstring, leaving
out noise, removing what the splits have in common.
Not in scope: how code becomes a prompt (models.prompts), tokens (tokenizer).
"""

import ast
import hashlib
import inspect
import json
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from models.prompts import PromptError, masked, normalized
from models.training.corpus import Package, Split, packages, sources

_SHORTEST, _LONGEST = 3, 25  # words of a summary
_SAME_NAME_AND_SUMMARY = 3  # copies of `close`: "Close the connection." that are worth learning from
_SAME_SUMMARY = 50
_OF_ONE_PACKAGE = 10_000
_SHINGLE = 5  # words of code
_NEAR_DUPLICATE = 0.7  # share of the larger function's shingles that both have
_COMMON_SHINGLE = 50  # a shingle in more held-out functions than this tells nothing

_SENTENCE_END = re.compile(r"(?<![ .(]\w)(?<!e\.g)(?<!i\.e)(?<!etc)(?<!vs)(?<!cf)(?<!Eq)[.!?](?=\s|$)")
_ROLE = re.compile(r":(?:\w+:)?\w+:`[~!]?(?:([^`<]+?)\s*<[^`>]*>|([^`]*))`")
_MARKUP = re.compile(r"``?|\*\*|\\")
_NOT_A_SENTENCE = re.compile(
    r"https?:|>>>|::|---| : |[<>{}|\[\]=]|^\W|:$"
    r"|^(args|returns?|parameters?|raises|yields?|examples?|notes?)\b\s*:",
    re.IGNORECASE,
)
_SAYS_NOTHING = re.compile(
    r"^(test|tests|todo|fixme|see|same as|inherit|overrid|overload|internal|private|deprecated|docstring|noqa"
    r"|copyright|initiali[sz]e self|alias|wrapper|placeholder|dummy|constructor|no-?op|do nothing"
    r"|does nothing|not implemented|implements? |helper|magic|dunder)\b",
    re.IGNORECASE,
)
_ASCII = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "...", "\xa0": " "})
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Pair:
    package: str
    name: str
    code: str
    masked_code: str
    summary: str


def summary(docstring: str) -> str | None:
    """Return the cleaned first sentence of `docstring`, or None where it says nothing about the code."""
    paragraph = inspect.cleandoc(docstring).split("\n\n", 1)[0].translate(_ASCII)
    text = _MARKUP.sub("", _ROLE.sub(lambda match: match[1] or match[2], " ".join(paragraph.split())))
    text = _SENTENCE_END.split(text, maxsplit=1)[0].strip()
    words = text.split()
    if not text or not text.isascii() or not _SHORTEST <= len(words) <= _LONGEST:
        return None
    if _NOT_A_SENTENCE.search(text) or _SAYS_NOTHING.search(text):
        return None
    return text[0].upper() + text[1:] + "."


def read(text: str, package: str) -> Iterator[Pair]:
    """Yield the pairs of one file; a file that does not parse has none."""
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (pair := _pair(node, package)):
            yield pair


def _pair(node: ast.FunctionDef | ast.AsyncFunctionDef, package: str) -> Pair | None:
    docstring = ast.get_docstring(node, clean=False)
    if (
        docstring is None
        or node.name.startswith("test")
        or not (text := summary(docstring))
        or _is_stub(node)
    ):
        return None
    try:
        return Pair(package, node.name, normalized(node), normalized(masked(node)), text)
    except PromptError:
        return None


def _is_stub(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether there is no code to summarize: nothing but the docstring, `pass` or a NotImplementedError."""
    return all(
        isinstance(statement, ast.Pass)
        or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        or (isinstance(statement, ast.Raise) and "NotImplemented" in ast.unparse(statement))
        for statement in node.body
    )


def prepare(wheels: Path, folder: Path) -> None:
    """Write `<split>.jsonl` for each split, disjoint from one another, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = packages()
    with ProcessPoolExecutor() as pool:
        of_package = list(pool.map(_of_package, wanted, [wheels] * len(wanted)))
    splits: dict[Split, list[Pair]] = defaultdict(list)
    for package, pairs in zip(wanted, of_package, strict=True):
        splits[package.split] += pairs
    test = _unique(splits["test"])
    validation = apart_from(test, _unique(splits["validation"]))
    train = _balanced(apart_from(test + validation, _limited(_unique(splits["train"]))))
    for split, pairs in {"train": train, "validation": validation, "test": test}.items():
        write(pairs, folder / f"{split}.jsonl")


def _of_package(package: Package, wheels: Path) -> list[Pair]:
    return [pair for text in sources(package, wheels) for pair in read(text, package.name)]


def _unique(pairs: Iterable[Pair]) -> list[Pair]:
    """Keep one of the functions that are equal but for their name."""
    return list({_digest(pair.masked_code): pair for pair in pairs}.values())


def _limited(pairs: Iterable[Pair]) -> list[Pair]:
    """Keep a few of the functions that differ in code but not in what is learned from them."""
    seen: Counter[object] = Counter()
    kept = []
    for pair in pairs:
        keys = {(pair.name, pair.summary): _SAME_NAME_AND_SUMMARY, pair.summary: _SAME_SUMMARY}
        if all(seen[key] < limit for key, limit in keys.items()):
            seen.update(keys.keys())
            kept.append(pair)
    return kept


def _balanced(pairs: Iterable[Pair]) -> list[Pair]:
    """Keep the first pairs of each package, lest the largest one decide how everything sounds."""
    seen: Counter[str] = Counter()
    kept = []
    for pair in pairs:
        seen[pair.package] += 1
        if seen[pair.package] <= _OF_ONE_PACKAGE:
            kept.append(pair)
    return kept


def apart_from(held_out: list[Pair], pairs: list[Pair]) -> list[Pair]:
    """Return `pairs` without those whose code is nearly that of a held-out function."""
    of_held_out = [_shingles(pair.masked_code) for pair in held_out]
    places: dict[int, list[int]] = defaultdict(list)
    for index, shingles in enumerate(of_held_out):
        for shingle in shingles:
            places[shingle].append(index)
    places = {shingle: indexes for shingle, indexes in places.items() if len(indexes) <= _COMMON_SHINGLE}

    def is_new(pair: Pair) -> bool:
        shingles = _shingles(pair.masked_code)
        common = Counter(index for shingle in shingles for index in places.get(shingle, ()))
        return all(
            count < _NEAR_DUPLICATE * max(len(shingles), len(of_held_out[index]))
            for index, count in common.items()
        )

    return list(filter(is_new, pairs))


def _shingles(code: str) -> set[int]:
    words = _WORD.findall(code)
    last = max(len(words) - _SHINGLE, 0)
    return {hash(tuple(words[start : start + _SHINGLE])) for start in range(last + 1)}


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def write(pairs: Iterable[Pair], path: Path) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(pair)) + "\n" for pair in pairs)
    partial.replace(path)


def load(path: Path) -> list[Pair]:
    with path.open(encoding="utf-8") as file:
        return [Pair(**json.loads(line)) for line in file]
