"""Pairs of code and texts: what the bundled model is taught and measured with.

In scope: reading functions, classes and modules from source without running it, pairing each with what its
docstring says, removing what the splits have in common.
Not in scope: which texts of a docstring are worth learning (docstrings), how code becomes a prompt
(models.prompts), tokens (tokenizer).
"""

import ast
import hashlib
import json
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from models.prompts import (
    NEUTRAL_MODULE,
    Function,
    PromptError,
    class_head,
    definitions,
    masked,
    masked_class,
    members,
    normalized,
    outline,
)
from models.training.corpus import Package, Split, packages, sources
from models.training.docstrings import summary, texts_of
from models.words import words

_SAME_NAME_AND_SUMMARY = 3  # copies of `close`: "Close the connection." that are worth learning from
_SAME_SUMMARY = 50
_OF_ONE_PACKAGE = 10_000
_SHINGLE = 5  # words of code
_NEAR_DUPLICATE = 0.7  # share of the larger function's shingles that both have
_COMMON_SHINGLE = 50  # a shingle in more held-out functions than this tells nothing

_PLAIN = 0.9  # of the packages whose summaries of functions hold a word that says nothing of their code
_LARGE = 200  # summaries, from which on a package counts there

_WORD = re.compile(r"\w+|[^\w\s]")


Subject = Literal["function", "class", "module"]  # packages are modules with more members


@dataclass(frozen=True)
class Pair:
    """What a model reads and what a human wrote about it.

    `code` is the normalized source of a function, or the outline of a class, module or package. `owner` is
    the head of a method's class. `texts` are the human's by slot: `summary`, and of a function `param.x`,
    `returns` and `raises.E`, in that order.
    """

    package: str
    subject: Subject
    name: str
    owner: str
    code: str
    masked_code: str
    texts: dict[str, str]


def read(files: Iterable[tuple[str, str]], package: str) -> Iterator[Pair]:
    """Yield the pairs of a package's files, given with their paths; a file that does not parse has none."""
    trees = {path: tree for path, text in files if (tree := _parsed(text)) is not None}
    headlines = {
        _dotted(path): text for path, tree in trees.items() if (text := _summary_of(tree)) is not None
    }
    for path, tree in trees.items():
        for node, owner in definitions(tree):
            pair = (
                _of_class(node, package)
                if isinstance(node, ast.ClassDef)
                else _of_function(node, owner, package)
            )
            if pair is not None:
                yield pair
        children = _children(path, trees) if path.endswith("/__init__.py") else []
        if (pair := _of_module(path, tree, children, headlines, package)) is not None:
            yield pair


def _parsed(text: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _dotted(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _children(package_path: str, paths: Iterable[str]) -> list[str]:
    """Return the modules right inside a package, by dotted name."""
    package = _dotted(package_path)
    names = sorted(_dotted(path) for path in paths)
    return [name for name in names if name.rpartition(".")[0] == package and not _last(name).startswith("_")]


def _last(dotted: str) -> str:
    return dotted.rpartition(".")[2]


def _summary_of(node: Function | ast.ClassDef | ast.Module) -> str | None:
    docstring = ast.get_docstring(node, clean=False)
    return None if docstring is None else summary(docstring)


def _of_function(node: Function, owner: str, package: str) -> Pair | None:
    docstring = ast.get_docstring(node, clean=False)
    if docstring is None or node.name.startswith("test") or _is_stub(node):
        return None
    texts = texts_of(docstring, _parameters(node, bool(owner)), _raised(node))
    if not texts:
        return None
    try:
        return Pair(package, "function", node.name, owner, normalized(node), normalized(masked(node)), texts)
    except PromptError:
        return None


def _parameters(node: Function, in_class: bool) -> list[str]:
    """Return the names of the parameters, without the instance or class that a method gets."""
    plain = [*node.args.posonlyargs, *node.args.args]
    is_static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
    others = [node.args.vararg, *node.args.kwonlyargs, node.args.kwarg]
    return [a.arg for a in (*plain[in_class and not is_static :], *others) if a is not None]


def _raised(node: Function) -> list[str]:
    """Return the exceptions that the function itself raises, as written."""
    statements = [part.exc for part in ast.walk(node) if isinstance(part, ast.Raise)]
    classes = [raised.func if isinstance(raised, ast.Call) else raised for raised in statements]
    names = [ast.unparse(c) for c in classes if isinstance(c, ast.Name | ast.Attribute)]
    return list(dict.fromkeys(name for name in names if name.rpartition(".")[2][:1].isupper()))


def _of_class(node: ast.ClassDef, package: str) -> Pair | None:
    lines, text = members(node), _summary_of(node)
    if text is None or not lines or node.name.startswith("Test"):
        return None
    known = {
        member.name: summary
        for member in node.body
        if isinstance(member, Function | ast.ClassDef) and (summary := _summary_of(member)) is not None
    }
    neutral = class_head(masked_class(node))
    return _of_outline("class", node.name, class_head(node), neutral, lines, known, text, package)


def _of_module(
    path: str, tree: ast.Module, children: list[str], headlines: dict[str, str], package: str
) -> Pair | None:
    name, text = _dotted(path), headlines.get(_dotted(path))
    lines = members(tree) | {_last(child): f"module {_last(child)}" for child in children}
    if text is None or not lines:
        return None
    known = {
        member.name: summary
        for member in tree.body
        if isinstance(member, Function | ast.ClassDef) and (summary := _summary_of(member)) is not None
    } | {_last(child): headlines[child] for child in children if child in headlines}
    kind = "package" if path.endswith("/__init__.py") else "module"
    return _of_outline(
        "module", name, f"{kind} {name}:", f"{kind} {NEUTRAL_MODULE}:", lines, known, text, package
    )


def _of_outline(
    subject: Subject,
    name: str,
    head: str,
    neutral: str,
    lines: dict[str, str],
    summaries: dict[str, str],
    text: str,
    package: str,
) -> Pair:
    """Return the pair of an outline; every other one is without summaries, as where nobody wrote any.

    Which one does not depend on its name, so that what was moved is still known for a copy.
    """
    bare = outline(neutral, lines, {})
    known = summaries if _digest(bare)[0] % 2 else {}
    codes = outline(head, lines, known), outline(neutral, lines, known)
    return Pair(package, subject, name, "", *codes, {"summary": text})


def _is_stub(node: Function) -> bool:
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
    held_out = {"validation": not_in(train, validation), "test": not_in(train, test)}
    for split, pairs in {"train": train, **held_out}.items():
        write(pairs, folder / f"{split}.jsonl")


def _of_package(package: Package, wheels: Path) -> list[Pair]:
    return list(read(sources(package, wheels), package.name))


def _unique(pairs: Iterable[Pair]) -> list[Pair]:
    """Keep one of those that are equal but for their name."""
    return list({_digest(pair.masked_code): pair for pair in pairs}.values())


def _limited(pairs: Iterable[Pair]) -> list[Pair]:
    """Keep a few of those that differ in code but not in what is learned from them."""
    seen: Counter[object] = Counter()
    kept = []
    for pair in pairs:
        said = pair.texts.get("summary") or next(iter(pair.texts.values()))
        keys = {(pair.name, said): _SAME_NAME_AND_SUMMARY, said: _SAME_SUMMARY}
        if all(seen[key] < limit for key, limit in keys.items()):
            seen.update(keys.keys())
            kept.append(pair)
    return kept


def _balanced(pairs: Iterable[Pair]) -> list[Pair]:
    """Keep the first pairs of each package, lest the largest one decide how everything sounds."""
    seen: Counter[tuple[str, Subject]] = Counter()
    kept = []
    for pair in pairs:
        seen[pair.package, pair.subject] += 1
        if seen[pair.package, pair.subject] <= _OF_ONE_PACKAGE:
            kept.append(pair)
    return kept


def apart_from(held_out: list[Pair], pairs: list[Pair]) -> list[Pair]:
    """Return `pairs` without those whose code is nearly that of a held-out one."""
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


def not_in(taught: list[Pair], pairs: list[Pair]) -> list[Pair]:
    """Return `pairs` without those whose code is that of a taught one, but for the name.

    Code that many held-out functions share is near none of them by its shingles: short accessors above all.
    """
    known = {_digest(pair.masked_code) for pair in taught}
    return [pair for pair in pairs if _digest(pair.masked_code) not in known]


def plain_words(pairs: list[Pair]) -> list[str]:
    """Return the words that nearly every large package uses somewhere, which so say little of any code."""
    summaries = [
        (p.package, p.texts["summary"]) for p in pairs if p.subject == "function" and "summary" in p.texts
    ]
    sizes = Counter(package for package, _ in summaries)
    large = {package for package, size in sizes.items() if size >= _LARGE}
    used = Counter(
        word for package, word in {(p, w) for p, text in summaries for w in words(text)} if package in large
    )
    return sorted(word for word, count in used.items() if count >= _PLAIN * len(large))


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
