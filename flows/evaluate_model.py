"""How good a model's texts are where humans wrote some: those are hidden, asked for, and held against.

In scope: which texts, asking for them as a build does, the scores. Not in scope: the metrics
(`models.metrics`), what is shown to the model (`tasks.generate.asking`).
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from flows.settings import cache_home
from models.baselines import Neighbours
from models.checks import checked
from models.config import NotANumberError, OutOfMemoryError
from models.metrics import METRICS, lead, scores
from models.prompts import NEUTRAL_NAME
from models.words import sentence_of
from tasks.chunk import Chunk, chunks_of
from tasks.chunk.docstrings import split_summary
from tasks.chunk.python import parse_module
from tasks.documents import DocmillError, Module, SourceError, Symbol
from tasks.files import read_text
from tasks.generate.asking import Asked, Manner, Member, RawText, asked_of
from tasks.generate.questions import modules_inside, whole_requests
from tasks.generate.writer import Writer
from tasks.ingest import ingest, open_source
from tasks.ingest.tree import Selection
from tasks.resolve import is_private, is_test

_OVERVIEWS = ("class", "module", "package")
_BASELINES = ("name", "neighbour")


class Hidden(Struct, frozen=True):
    """A human's text that the model is to write: of which file and symbol, which slot, its first sentence."""

    path: str
    symbol: str
    kind: str
    slot: str
    text: str


class Written(Struct, frozen=True):
    """What a model wrote in a human's place, and what of it a build would show."""

    text: str
    shown: str


class Measured(Struct, frozen=True):
    """One kind of text: how many, how many a build would show, and means of each metric, from 0 to 100.

    `scores` are by writer and metric, with the names as they are and with them hidden: of every text of the
    `model`; of the `name`, split into words; and of the `neighbour`, what humans say of the most similar code
    among the rest of what was drawn, which knows how this very project words things. `lead` are the 95 %
    intervals, by paired bootstrap, of how much better the model is than these two. `shown` is of the texts
    that a build would show.
    """

    what: str
    texts: int
    texts_shown: int
    share_shown: float
    shown: dict[str, float]
    scores: dict[str, dict[str, tuple[float, float]]]
    lead: dict[str, dict[str, tuple[tuple[float, float], tuple[float, float]]]]


class Evaluation(Struct, frozen=True):
    """The figures of a model on some source; `seconds` are the engine's, for one text on average."""

    measured: list[Measured]
    seconds: float
    dropped: int


def evaluate_model(
    model: str, quantize: str, device: str, source: Path, most: int, tell: Callable[[int, int], None]
) -> Evaluation:
    """Have a model write what humans wrote, and hold the two against each other.

    Args:
        model: As in the settings, like `quantize` and `device`.
        source: A folder with Python files.
        most: Symbols at most, drawn at random, always the same ones.
        tell: Told, as the work goes on, how many requests of how many are answered.

    Raises:
        SourceError: The model cannot be used, or the folder holds nothing that it could be asked about.
        DocmillError: It computes no numbers, or the device has not the memory for it.
    """
    if model == "none":
        raise SourceError("no model is set: name one to evaluate")
    if not source.is_dir():
        raise SourceError(f"{source}: no such folder")
    snapshot = ingest(open_source(str(source), None, cache_home()), Selection(), cache_home())
    writer = Writer(model, quantize, device, cache_home())
    chunks = [c for c in chunks_of(snapshot.code, snapshot.name) if not is_test(c.path)]
    documented, headlines = [], []
    for chunk in chunks:
        for symbol in _symbols(snapshot.root, chunk):
            if _is_public(symbol.name) and any(_texts(chunk.path, symbol, writer.manner)):
                documented.append((chunk, symbol.name))
            if not symbol.name and _is_public(chunk.name):
                summary = symbol.slots.get("summary")
                headlines.append((chunk.path, chunk.name, summary.text if summary else ""))
    drawn = list(_hidden(_drawn(documented, most), snapshot.root, writer.manner))
    hidden = [text for _, _, texts in drawn for text in texts]
    if not hidden:
        raise SourceError(f"{source}: no docstring says anything that the model could be asked for")
    exam = _Exam(writer, modules_inside(headlines))
    for masked in (False, True):
        exam.take(drawn, masked, tell)
    return Evaluation(
        [_measured(what, texts, exam) for what, texts in _by_kind(hidden)],
        writer.engine.stats.seconds / max(1, exam.count),
        exam.dropped,
    )


# A module with a symbol whose texts are hidden, the module's source, and those texts.
_Documented = tuple[Module, str, list[Hidden]]


def _symbols(root: str, chunk: Chunk) -> list[Symbol]:
    """What a file defines; nothing if it cannot be read or parsed."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return parse_module(_source(root, chunk), chunk.path, chunk.name).symbols
    except (UnicodeDecodeError, SyntaxError, RecursionError):
        return []


def _source(root: str, chunk: Chunk) -> str:
    return read_text(root, chunk.path, chunk.digest)


def _is_public(name: str) -> bool:
    return not any(map(is_private, name.split(".")))


def _drawn(documented: list[tuple[Chunk, str]], most: int) -> dict[Chunk, list[str]]:
    """Some symbols by their files."""
    found: dict[Chunk, list[str]] = {}
    for chunk, name in random.Random(0).sample(documented, min(most, len(documented))):
        found.setdefault(chunk, []).append(name)
    return found


def _hidden(drawn: Mapping[Chunk, list[str]], root: str, manner: Manner) -> Iterator[_Documented]:
    """Each symbol without its texts, in a module of its own."""
    for chunk, names in drawn.items():
        source = _source(root, chunk)
        module = Module(chunk.path, chunk.name, tuple(_symbols(root, chunk)))
        for symbol in module.symbols:
            if symbol.name in names:
                texts = list(_texts(chunk.path, symbol, manner))
                yield _without(module, symbol, texts), source, texts


def _texts(path: str, symbol: Symbol, manner: Manner) -> Iterator[Hidden]:
    slots = manner.slots.get(symbol.kind, ())
    for name in symbol.expected:
        slot = symbol.slots.get(name)
        if slot is not None and slot.origin == "human" and name.partition(".")[0] in slots:
            yield Hidden(path, symbol.name, symbol.kind, name, split_summary(slot.text)[0])


def _without(module: Module, symbol: Symbol, texts: Iterable[Hidden]) -> Module:
    """The module, with one symbol that lacks these texts and expects no others."""
    hidden = tuple(text.slot for text in texts)
    slots = {name: slot for name, slot in symbol.slots.items() if name not in hidden}
    bare = replace(symbol, slots=slots, expected=hidden, suppressed=("description",))
    return replace(module, symbols=tuple(bare if s.name == symbol.name else s for s in module.symbols))


class _Exam:
    """What a model wrote for each hidden text, with the names as they are and with them masked."""

    def __init__(self, writer: Writer, inside: Mapping[str, list[Member]]) -> None:
        self.writer, self.inside = writer, inside
        self.written: dict[tuple[bool, str, str, str], Written] = {}
        self.read: dict[tuple[bool, str, str], str] = {}  # the prompts; masked or not, by path and symbol
        self.count = self.dropped = 0

    def take(self, drawn: list[_Documented], masked: bool, tell: Callable[[int, int], None]) -> None:
        """Ask for all texts. Raises DocmillError if the model cannot answer."""
        manner, fits = self.writer.manner, self.writer.fits
        asked = {
            str(number): (module.path, request, request.prompt({}, fits))
            for number, (module, request) in enumerate(
                (module, request)
                for module, source, texts in drawn
                for request in whole_requests(
                    asked_of(module, {texts[0].symbol}, source, manner, fits, hide_names=masked),
                    self.inside.get(module.name, ()),
                )
            )
        }
        requests = ((key, prompt, request.frames) for key, (_, request, prompt) in asked.items())
        try:
            for done, (key, raw) in enumerate(self.writer.write(requests), 1):
                path, request, prompt = asked[key]
                self.read.setdefault((masked, path, request.symbol), prompt)
                self._mark(masked, path, request, prompt, raw)
                tell(done, len(asked))
        except NotANumberError as error:
            path, request, _ = asked[error.request]
            raise DocmillError(f"model: {NotANumberError(f'{path}::{request.symbol}')}") from error
        except OutOfMemoryError as error:
            raise DocmillError(
                f"model: {error}; docmill model tune, or a build, finds how many rows it is for"
            ) from error

    def _mark(self, masked: bool, path: str, request: Asked, prompt: str, raw: RawText) -> None:
        floors = self.writer.meta.asks.get(request.kind, {})
        for frame, text, ended, logprob in zip(
            request.frames, raw.texts, raw.ended, raw.logprobs, strict=True
        ):
            name = request.name_of(frame.slot)
            kept, lost = checked(text, prompt, ended, self.writer.meta.plain_words, name)
            floor = floors.get(frame.slot.partition(".")[0])
            shown = kept if floor is None or logprob >= floor else ""
            self.written[masked, path, request.symbol, frame.slot] = Written(" ".join(text.split()), shown)
            self.count += 1
            self.dropped += lost if not masked else 0

    def answer(self, hidden: Hidden, masked: bool) -> Written:
        """What the model wrote; nothing for what does not fit its prompt."""
        place = masked, hidden.path, hidden.symbol, hidden.slot
        return self.written.get(place, Written("", ""))


def _by_kind(hidden: Iterable[Hidden]) -> Iterator[tuple[str, list[Hidden]]]:
    groups: dict[str, list[Hidden]] = {}
    for text in hidden:
        slot = text.slot.partition(".")[0]
        of = text.kind if text.kind in _OVERVIEWS else "function"
        groups.setdefault(f"{of} {slot}", []).append(text)
    return iter(groups.items())


def _measured(what: str, texts: list[Hidden], exam: _Exam) -> Measured:
    references = [text.text for text in texts]
    answers = [exam.answer(text, masked=False) for text in texts]
    shown = [(answer.shown, text) for answer, text in zip(answers, references, strict=True) if answer.shown]
    named, masked = (_scores(texts, exam, references, is_masked) for is_masked in (False, True))
    numbers = {of: number for number, of in enumerate(dict.fromkeys((t.path, t.symbol) for t in texts))}
    subjects = [numbers[text.path, text.symbol] for text in texts]
    return Measured(
        what,
        len(texts),
        len(shown),
        len(shown) / len(texts),
        {m: float(scores(m, *zip(*shown, strict=True)).mean()) for m in METRICS} if shown else {},
        {
            who: {m: (float(named[who][m].mean()), float(masked[who][m].mean())) for m in METRICS}
            for who in named
        },
        {
            other: {
                m: (
                    lead(named["model"][m], named[other][m], subjects),
                    lead(masked["model"][m], masked[other][m], subjects),
                )
                for m in METRICS
            }
            for other in _BASELINES
        },
    )


def _scores(
    texts: list[Hidden], exam: _Exam, references: list[str], masked: bool
) -> dict[str, dict[str, np.ndarray]]:
    """By writer and metric, the scores of each text."""
    candidates = {
        "model": [exam.answer(text, masked).text for text in texts],
        "name": [_sentence(text, masked) for text in texts],
        "neighbour": _neighbours(texts, exam, masked),
    }
    return {who: {m: scores(m, some, references) for m in METRICS} for who, some in candidates.items()}


def _neighbours(texts: list[Hidden], exam: _Exam, masked: bool) -> list[str]:
    """What humans say of the code that is most similar to each text's."""
    said: dict[tuple[str, str], dict[str, str]] = {}
    for text in texts:
        said.setdefault((text.path, text.symbol), {})[text.slot] = text.text
    places = {of: place for place, of in enumerate(said)}
    codes = [exam.read.get((masked, *of), "") for of in said]
    neighbours = Neighbours(list(zip(codes, said.values(), strict=True)))
    found = [
        neighbours.nearest(code, slots, places[of])
        for (of, slots), code in zip(said.items(), codes, strict=True)
    ]
    return [found[places[text.path, text.symbol]][text.slot] for text in texts]


def _sentence(text: Hidden, masked: bool) -> str:
    """The name of what is described, as a sentence; that of a parameter or an exception is never masked."""
    own = text.symbol.rpartition(".")[2] or PurePosixPath(text.path.removesuffix("/__init__.py")).stem
    return sentence_of(text.slot.partition(".")[2] or (NEUTRAL_NAME if masked else own))
