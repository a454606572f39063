"""How good the bundled model's texts are, beside two baselines that know no language model.

In scope: the baselines, the controls, coverage against quality, the floors below which the model is silent.
Not in scope: the metrics (models.metrics), the pairs (pairs), speed (benchmarks).

What is measured is a `Task`: the summaries of functions, of classes, of modules; and of functions what is
said of parameters, results and exceptions. Each is measured with the name as it is and with it masked.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from models.baselines import Neighbours
from models.checks import checked
from models.config import GenerationConfig, ModelConfig
from models.engine import Completion, Engine, Frame, Request
from models.int8 import is_fast
from models.load import LoadedModel, load
from models.metrics import METRICS, lead, scores
from models.prompts import NEUTRAL_NAME, OPENING_TOKENS, SLOT_TOKENS, slot_groups, slot_opening
from models.training.pairs import Pair, Subject
from models.training.tokenizer import MAX_ANSWER_TOKENS, MAX_PROMPT_TOKENS, Encoder
from models.words import sentence_of

# Written with the test packages in sight, most of whose functions are networkx's: the hardest control.
ONE_FOR_ALL = "Return a list of the given nodes in the graph."
SETTINGS = ("named", "masked")
GOOD_ENOUGH = 18.0  # BLEU that what is shown has to reach on the validation packages
_LEAST_TEXTS = 20  # that are shown there, to tell anything
_SHARES = tuple(share / 20 for share in range(1, 21))


class Task(NamedTuple):
    """One kind of text: of which subject, and which slot without its name."""

    subject: Subject
    slot: str

    def __str__(self) -> str:
        return f"{self.subject}.{self.slot}"


TASKS = (
    Task("function", "summary"),
    Task("class", "summary"),
    Task("module", "summary"),
    Task("function", "param"),
    Task("function", "returns"),
    Task("function", "raises"),
)
# The certainty from which on a task's texts are shown: where of those of the validation packages one in
# twenty is wrong to readers who do not know who wrote what; of other tasks they are nowhere so few. A model
# that is trained anew is to be read anew (docs/decisions/2026-11-27-floors-by-a-reader.md).
READ = {Task("function", "summary"): -0.37}


@dataclass(frozen=True)
class Text:
    """A text that a model wrote, the mean log-probability of its tokens, whether all of it may be shown."""

    text: str
    certainty: float
    stands: bool = True


def tasks_of(pair: Pair) -> Iterator[Task]:
    """The tasks that a pair is an example of, once for each of its texts."""
    return (Task(pair.subject, slot.partition(".")[0]) for slot in pair.texts)


Texts = list[dict[str, Text]]  # for each pair, by slot
Answers = list[dict[str, str]]


# --- what is compared


def write(loaded: LoadedModel, encoder: Encoder, pairs: list[Pair], *, masked: bool = False) -> Texts:
    """Return the model's greedy text for every slot that a human filled; nothing for what is too long.

    Whether it stands is only said of what is not masked, for masked names a build never sees.
    """
    generation = GenerationConfig(
        max_prompt_tokens=MAX_PROMPT_TOKENS + OPENING_TOKENS, max_new_tokens=MAX_ANSWER_TOKENS, stop=()
    )
    engine = Engine(loaded, generation)
    found: Texts = [{} for _ in pairs]
    for completion, asked in _answers(engine, _requests(encoder, pairs, masked)):
        for slot, text, ended, certainty in zip(
            asked.slots, completion.texts, completion.ended, completion.logprobs, strict=True
        ):
            name = slot.partition(".")[2] or pairs[asked.place].name.rpartition(".")[2]
            _, dropped = checked(text, asked.prompt, ended, loaded.meta.plain_words, name)
            found[asked.place][slot] = Text(text.strip(), certainty, masked or not dropped)
    return found


class _Asked(NamedTuple):
    """A request: its prompt, the number of its pair, the slots that it is for."""

    prompt: str
    place: int
    slots: list[str]


def _requests(encoder: Encoder, pairs: list[Pair], masked: bool) -> Iterator[_Asked]:
    for index, pair in enumerate(pairs):
        if (prompt := encoder.prompt(pair, masked=masked)) is not None:
            yield from (_Asked(prompt, index, slots) for slots in slot_groups(pair.texts, MAX_ANSWER_TOKENS))


def _answers(engine: Engine, wanted: Iterable[_Asked]) -> Iterator[tuple[Completion, _Asked]]:
    """Yield each completion with what was asked."""
    under_way: dict[str, _Asked] = {}

    def requests() -> Iterator[Request]:
        for number, asked in enumerate(wanted):
            under_way[str(number)] = asked
            frames = (Frame(slot_opening(slot), SLOT_TOKENS[slot.partition(".")[0]]) for slot in asked.slots)
            yield Request(str(number), asked.prompt, tuple(frames))

    for completion in engine.generate(requests()):
        yield completion, under_way.pop(completion.id)


def baselines(taught: list[Pair], test: list[Pair], path: Path) -> None:
    """Write to `path` what needs no language model: for each test pair, by slot, named and masked."""
    answers: dict[str, list[Answers]] = {"name": [_names(test), _names(test, masked=True)], "neighbour": []}
    for masked in (False, True):
        code = _masked_code if masked else _code
        by_subject = {
            subject: Neighbours([(code(pair), pair.texts) for pair in taught if pair.subject == subject])
            for subject in {task.subject for task in TASKS}
        }
        answers["neighbour"].append([by_subject[p.subject].nearest(code(p), p.texts) for p in test])
    path.write_text(json.dumps(answers) + "\n", encoding="utf-8")


def _code(pair: Pair) -> str:
    return pair.code


def _masked_code(pair: Pair) -> str:
    return pair.masked_code


def _names(pairs: list[Pair], *, masked: bool = False) -> Answers:
    """A slot's own name, split into words; a summary's and a result's is that of the function."""
    own = [NEUTRAL_NAME if masked else pair.name.rpartition(".")[2] for pair in pairs]
    return [
        {slot: sentence_of(slot.partition(".")[2] or name) for slot in pair.texts}
        for pair, name in zip(pairs, own, strict=True)
    ]


def controls(written: list[Texts], pairs: list[Pair]) -> dict[str, list[Answers]]:
    """Return what scores without reading the code: the model's texts dealt at random, and one for all."""
    shuffled: list[Answers] = []
    for texts in written:
        dealt: Answers = [{} for _ in pairs]
        for task in TASKS:
            places = list(places_of(task, pairs))
            order = np.random.default_rng(0).permutation(len(places))
            for (index, slot), other in zip(places, (places[n] for n in order), strict=True):
                given = texts[other[0]].get(other[1])
                dealt[index][slot] = given.text if given else ""
        shuffled.append(dealt)
    return {"shuffled": shuffled, "constant": [[dict.fromkeys(p.texts, ONE_FOR_ALL) for p in pairs]] * 2}


def places_of(task: Task, pairs: list[Pair]) -> Iterator[tuple[int, str]]:
    """Where a task's texts are: the pair's number, and the slot."""
    for index, pair in enumerate(pairs):
        if pair.subject == task.subject:
            yield from ((index, slot) for slot in pair.texts if slot.partition(".")[0] == task.slot)


# --- figures


def run(
    model: Path, others: Path, test: list[Pair], floors: Mapping[Task, float], report: Path
) -> dict[str, Any]:
    """Return the figures for `model` beside the answers of the `others`; keep every text in `report`."""
    loaded, encoder = load_exactly(model), Encoder(model)
    written = [write(loaded, encoder, test), write(loaded, encoder, test, masked=True)]
    answers = json.loads(others.read_text(encoding="utf-8")) | controls(written, test)
    answers["model"] = [_plain(texts) for texts in written]
    everywhere = [place for task in TASKS for place in places_of(task, test)]
    figures: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "floors": {str(task): floor for task, floor in floors.items()},
        "tasks": {
            str(task): figures_of(task, test, answers, written[0], floors.get(task, 0.0)) for task in TASKS
        },
        "all": compared(scores_of(everywhere, test, answers), everywhere),
    }
    texts = [
        {
            "package": pair.package,
            "subject": pair.subject,
            "name": pair.name,
            "slot": slot,
            "human": human,
            "model": answers["model"][0][index].get(slot, ""),
            "masked": answers["model"][1][index].get(slot, ""),
            "certainty": round(text.certainty, 3) if (text := written[0][index].get(slot)) else None,
            "stands": bool(text and text.stands),
        }
        for index, pair in enumerate(test)
        for slot, human in pair.texts.items()
    ]
    report.write_text(json.dumps(figures | {"texts": texts}, indent=1) + "\n", encoding="utf-8")
    return figures


def figures_of(
    task: Task, pairs: list[Pair], answers: Mapping[str, list[Answers]], written: Texts, floor: float
) -> dict[str, Any]:
    """Return a task's scores by contender, metric and setting, its lead, its curve, what is said."""
    places = list(places_of(task, pairs))
    if not places:
        return {"texts": 0}
    of_each = scores_of(places, pairs, answers)
    certainty = np.array([certainty_of(written, place) for place in places])
    bleu, stands = of_each["model", "bleu", "named"], np.isfinite(certainty)
    return compared(of_each, places) | {
        "stands": float(stands.mean()),
        "curve": curve(certainty[stands], bleu[stands]),
        "said": said_of(certainty, bleu, floor),
    }


OfEach = dict[tuple[str, str, str], np.ndarray]  # a score of each text, by contender, metric and setting


def scores_of(
    places: list[tuple[int, str]], pairs: list[Pair], answers: Mapping[str, list[Answers]]
) -> OfEach:
    """Return the scores of the texts at these places."""
    references = [pairs[index].texts[slot] for index, slot in places]
    return {
        (who, metric, setting): scores(metric, [given[n][i].get(s, "") for i, s in places], references)
        for who, given in answers.items()
        for metric in METRICS
        for n, setting in enumerate(SETTINGS)
    }


def compared(of_each: OfEach, places: list[tuple[int, str]]) -> dict[str, Any]:
    """Return how many texts there are, the mean scores, and the model's lead over the baselines."""
    subjects = [index for index, _ in places]
    return {
        "texts": len(places),
        "scores": {
            who: {m: [float(of_each[who, m, s].mean()) for s in SETTINGS] for m in METRICS}
            for who in dict.fromkeys(who for who, _, _ in of_each)
        },
        "lead": {
            other: {
                m: [lead(of_each["model", m, s], of_each[other, m, s], subjects) for s in SETTINGS]
                for m in METRICS
            }
            for other in ("name", "neighbour")
        },
    }


def said_of(certainty: np.ndarray, bleu: np.ndarray, floor: float) -> dict[str, float]:
    """What a build would show: which share of texts, and their mean BLEU."""
    said = certainty >= floor
    return {"share": float(said.mean()), "bleu": float(bleu[said].mean()) if said.any() else 0.0}


def certainty_of(written: Texts, place: tuple[int, str]) -> float:
    """How sure the model is of a text; not at all of what it did not write or what may not be shown."""
    text = written[place[0]].get(place[1])
    return text.certainty if text and text.stands else -math.inf


def curve(certainty: np.ndarray, bleu: np.ndarray) -> list[dict[str, float]]:
    """Coverage against quality: of the surest share of texts, the least certainty and the mean BLEU."""
    order = np.argsort(-certainty, kind="stable")
    points = []
    for share in _SHARES if len(order) else ():
        chosen = order[: max(1, round(share * len(order)))]
        points.append(
            {"share": share, "floor": float(certainty[chosen[-1]]), "bleu": float(bleu[chosen].mean())}
        )
    return points


def floors(written: Texts, pairs: list[Pair]) -> dict[Task, float]:
    """Return the floors that readers set, of those tasks whose texts above are good enough by BLEU, too."""
    found = {}
    for task, floor in READ.items():
        scores = [
            METRICS["bleu"](written[index][slot].text, pairs[index].texts[slot])
            for index, slot in places_of(task, pairs)
            if certainty_of(written, (index, slot)) >= floor
        ]
        if len(scores) >= _LEAST_TEXTS and np.mean(scores) >= GOOD_ENOUGH:
            found[task] = floor
    return found


def worth_asking(figures: Mapping[str, Any]) -> list[Task]:
    """Return the tasks at which the model beats both baselines by every metric, with the name and without."""
    return [
        task
        for task in TASKS
        if (of_task := figures["tasks"][str(task)])["texts"]
        and all(
            mine > theirs
            for other in ("name", "neighbour")
            for metric in METRICS
            for mine, theirs in zip(
                of_task["scores"]["model"][metric], of_task["scores"][other][metric], strict=True
            )
        )
    ]


def lost_in_int8(whole: Texts, model: Path, pairs: list[Pair]) -> dict[str, float]:
    """Return the BLEU that a model's texts lose, all tasks together, to those of the `whole` one in float32.

    `weights` is what storing it as int8 costs, `products` what that and multiplying in int8 cost together,
    left out where this CPU does not do it.
    """
    before = _mean_bleu(whole, pairs)
    types: dict[str, Literal["float32", "int8"]] = {"weights": "float32"}
    if is_fast():
        types["products"] = "int8"
    return {
        name: before - _mean_bleu(write(_loaded(model, compute), Encoder(model), pairs), pairs)
        for name, compute in types.items()
    }


def _mean_bleu(written: Texts, pairs: list[Pair]) -> float:
    places = [(index, slot) for index, texts in enumerate(written) for slot in texts]
    texts = [written[index][slot].text for index, slot in places]
    return float(scores("bleu", texts, [pairs[index].texts[slot] for index, slot in places]).mean())


def load_exactly(model: Path) -> LoadedModel:
    """Return a model that computes in float32, so that every machine gets the same figures."""
    return _loaded(model, "float32")


def _loaded(model: Path, compute: Literal["float32", "int8"]) -> LoadedModel:
    return load(ModelConfig(model=str(model), device="cpu", dtype=compute))


def _plain(texts: Texts) -> Answers:
    return [{slot: text.text for slot, text in of_pair.items()} for of_pair in texts]
