"""How near the bundled model's texts come to a human's, beside what needs no language model.

    python benchmarks/quality.py [--work DIR]

On the packages that were held out of training. DIR is the folder of `python -m models.training`; packages,
pairs and baselines that are not there are made, which takes ten minutes and 1.5 GB. Intervals are 95 %, by
paired bootstrap. Texts are computed in float32, as in the card; what int8 loses is shown beside that, of the
weights (where DIR holds the model as it was trained) and of the products (where a CPU has VNNI).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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

Rows = Iterator[str]


def prepared(work: Path) -> tuple[list[Pair], Path]:
    """The held-out pairs, and the file of what the baselines answer."""
    others = work / "baselines-test.json"
    if not (work / "pairs" / "test.jsonl").exists():
        corpus.download(corpus.packages(), work / "packages")
        pairs.prepare(work / "packages", work / "pairs")
    test = pairs.load(work / "pairs" / "test.jsonl")
    if not others.exists():
        evaluate.baselines(pairs.load(work / "pairs" / "train.jsonl"), test, others)
    return test, others


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


def bleu_of(folder: Path, compute: Compute, test: list[Pair]) -> dict[str, list[list[float]]]:
    """By task, the BLEU of each text of a form, with the names as they are and masked."""
    loaded = load(ModelConfig(model=str(folder), device="cpu", dtype=compute))
    written = [evaluate.write(loaded, Encoder(folder), test, masked=masked) for masked in (False, True)]
    found = {}
    for task in TASKS:
        places = list(evaluate.places_of(task, test))
        human = [test[i].texts[slot] for i, slot in places]
        texts = [[w[i][slot].text if slot in w[i] else "" for i, slot in places] for w in written]
        found[str(task)] = [scores("bleu", mine, human).tolist() for mine in texts]
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
    """Scores and leads of one task."""
    yield f"\n{task}, {found['texts']:,} texts"
    yield f"{'':<50}" + "".join(f"{m + (', masked' if n else ''):>16}" for m in METRICS for n in (0, 1))
    for who, label in LABELS.items():
        values = (found["scores"][who][m][n] for m in METRICS for n in (0, 1))
        yield f"{label:<50}" + "".join(f"{value:16.1f}" for value in values)
    for other in ("name", "neighbour"):
        intervals = (found["lead"][other][m][n] for m in METRICS for n in (0, 1))
        yield f"{'lead over the ' + other:<50}" + "".join(f"{a:+8.1f} …{b:+6.1f}" for a, b in intervals)
    said = found["said"]
    yield f"said: {said['share']:.0%} of the texts, BLEU {said['bleu']:.1f}"


def difference(setting: str, found: dict[str, Any]) -> str:
    """A difference with its interval."""
    low, high = found["interval"]
    return f"{setting} {found['bleu']:+.2f} ({low:+.2f} … {high:+.2f})"


def main() -> None:
    """Measure, print the tables, and keep the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache/docmill/training")
    work: Path = parser.parse_args().work
    test, others = prepared(work)
    floors = floors_of(evaluate.load_exactly(BUNDLED).meta)
    figures = evaluate.run(BUNDLED, others, test, floors, work / "quality.json")
    shipped = bleu_of(BUNDLED, "float32", test)
    compared = {n: differences(shipped, bleu_of(*form, test)) for n, form in forms(work).items()}
    for task in TASKS:
        if figures["tasks"][str(task)]["texts"]:
            print("\n".join(table(str(task), figures["tasks"][str(task)])))
    for name, by_task in compared.items():
        print(f"\n{name}, against int8 weights computed in float32, BLEU")
        for said, found in by_task.items():
            print(f"  {said:<20}" + "  ".join(map(difference, SETTINGS, found)))
    results = {"machine": machine(), **figures, "forms": compared}
    file = HERE / "results" / f"quality-{datetime.now(UTC):%Y-%m-%d}.json"
    file.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
