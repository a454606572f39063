"""How near the bundled model's texts come to a human's, beside what needs no language model.

    python benchmarks/quality.py [--work DIR] [--forms]

On the packages that were held out of training. DIR is the folder of `python -m models.training`; packages,
pairs and baselines that are not there are made, which takes ten minutes and 1.5 GB. Intervals are 95 %, by
paired bootstrap. Texts are computed in float32, as in the card; beside that stands what int8 loses, of the
weights (where DIR holds the model as it was trained) and of the products (where a CPU has VNNI), and what a
build shows of each: with VNNI, that of the products. `--forms` measures only this.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from build import machine

from models.config import BUNDLED, Compute, ModelConfig
from models.int8 import is_fast
from models.load import ModelMeta, load
from models.metrics import METRICS, lead, scores
from models.training import corpus, evaluate, pairs
from models.training.evaluate import SETTINGS, TASKS, Task
from models.training.pairs import Pair
from models.training.tokenizer import Encoder

HERE = Path(__file__).resolve().parent
LABELS = {
    "name": "the name, split into words",
    "neighbour": "nearest neighbour (TF-IDF)",
    "shuffled": "control: the model's texts dealt out at random",
    "constant": "control: one sentence for everything",
    "model": "bundled model",
}

AS_SHIPPED = "as shipped, computed in float32"

Rows = Iterator[str]


class Form(NamedTuple):
    """What a form of the model writes: by task, the BLEU of each text, with the names as they are and masked,
    and what a build shows of it.
    """

    bleu: dict[str, list[list[float]]]
    said: dict[str, dict[str, float]]


def held_out(work: Path) -> list[Pair]:
    """The held-out pairs."""
    if not (work / "pairs" / "test.jsonl").exists():
        corpus.download(corpus.packages(), work / "packages")
        pairs.prepare(work / "packages", work / "pairs")
    return pairs.load(work / "pairs" / "test.jsonl")


def baselines(work: Path, test: list[Pair]) -> Path:
    """The file of what the baselines answer."""
    others = work / "baselines-test.json"
    if not others.exists():
        evaluate.baselines(pairs.load(work / "pairs" / "train.jsonl"), test, others)
    return others


def floors_of(meta: ModelMeta) -> dict[Task, float]:
    """Above which certainty each task's texts are shown; nothing for what the model is not asked."""
    asked = {task: meta.asks.get(task.subject, {}).get(task.slot) for task in TASKS}
    return {task: floor for task, floor in asked.items() if floor is not None}


def forms(work: Path) -> dict[str, tuple[Path, Compute]]:
    """By name, other forms of the model: its folder, and the type in which its layers multiply."""
    found: dict[str, tuple[Path, Compute]] = {
        "float32, as trained": (work / "whole", "float32"),
        "int8, products too": (BUNDLED, "int8"),
    }
    if not is_fast():
        del found["int8, products too"]
    return {name: form for name, form in found.items() if form[0].exists()}


def form_of(folder: Path, compute: Compute, test: list[Pair], floors: Mapping[Task, float]) -> Form:
    """What a form of the model writes."""
    loaded = load(ModelConfig(model=str(folder), device="cpu", dtype=compute))
    written = [evaluate.write(loaded, Encoder(folder), test, masked=masked) for masked in (False, True)]
    found = Form({}, {})
    for task in TASKS:
        places = list(evaluate.places_of(task, test))
        human = [test[i].texts[slot] for i, slot in places]
        texts = [[w[i][slot].text if slot in w[i] else "" for i, slot in places] for w in written]
        bleu = [scores("bleu", mine, human) for mine in texts]
        found.bleu[str(task)] = [of_setting.tolist() for of_setting in bleu]
        if task in floors:
            certainty = np.array([evaluate.certainty_of(written[0], place) for place in places])
            found.said[str(task)] = evaluate.said_of(certainty, bleu[0], floors[task])
    return found


def differences(
    shipped: dict[str, list[list[float]]], other: dict[str, list[list[float]]]
) -> dict[str, list[dict[str, Any]]]:
    """By task, how much more BLEU another form has than the shipped one computed in float32."""
    return {
        task: [
            {
                "bleu": sum(theirs) / len(theirs) - sum(mine) / len(mine),
                "interval": lead(theirs, mine),
            }
            for mine, theirs in zip(shipped[task], other[task], strict=True)
        ]
        for task in shipped
        if shipped[task][0]
    }


def table(task: str, found: dict[str, Any]) -> Rows:
    """Scores and leads of one task, or of all."""
    yield f"\n{task}, {found['texts']:,} texts"
    yield f"{'':<50}" + "".join(f"{m + (', masked' if n else ''):>16}" for m in METRICS for n in (0, 1))
    for who, label in LABELS.items():
        values = (found["scores"][who][m][n] for m in METRICS for n in (0, 1))
        yield f"{label:<50}" + "".join(f"{value:16.1f}" for value in values)
    for other in ("name", "neighbour"):
        intervals = (found["lead"][other][m][n] for m in METRICS for n in (0, 1))
        yield f"{'lead over the ' + other:<50}" + "".join(f"{a:+8.1f} …{b:+6.1f}" for a, b in intervals)
    if "said" in found:
        yield f"said: {shown(found['said'])}"


def shown(said: Mapping[str, float]) -> str:
    """What a build shows."""
    return f"{said['share']:.1%} of the texts, BLEU {said['bleu']:.1f}"


def difference(setting: str, found: dict[str, Any]) -> str:
    """A difference with its interval."""
    low, high = found["interval"]
    return f"{setting} {found['bleu']:+.2f} ({low:+.2f} … {high:+.2f})"


def main() -> None:
    """Measure, print the tables, and keep the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache/docmill/training")
    parser.add_argument(
        "--forms", action="store_true", help="only what forms of the model write, no baselines"
    )
    arguments = parser.parse_args()
    work: Path = arguments.work
    test = held_out(work)
    floors = floors_of(evaluate.load_exactly(BUNDLED).meta)
    figures: dict[str, Any] = {}
    if not arguments.forms:
        figures = evaluate.run(BUNDLED, baselines(work, test), test, floors, work / "quality.json")
    shipped = form_of(BUNDLED, "float32", test, floors)
    others = {name: form_of(*form, test, floors) for name, form in forms(work).items()}
    compared = {name: differences(shipped.bleu, other.bleu) for name, other in others.items()}
    kinds = {**figures["tasks"], "all": figures["all"]} if figures else {}
    for task, found in kinds.items():
        if found["texts"]:
            print("\n".join(table(task, found)))
    for name, by_task in compared.items():
        print(f"\n{name}, against int8 weights computed in float32, BLEU")
        for task, of_settings in by_task.items():
            print(f"  {task:<20}" + "  ".join(map(difference, SETTINGS, of_settings)))
    said_by = {name: form.said for name, form in {AS_SHIPPED: shipped, **others}.items()}
    for name, of_form in said_by.items():
        print("\n".join(f"{name}, what a build shows of {task}: {shown(of)}" for task, of in of_form.items()))
    results = {"machine": machine(), **figures, "forms": compared, "said by forms": said_by}
    file = HERE / "results" / f"quality-{datetime.now(UTC):%Y-%m-%d}.json"
    file.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
