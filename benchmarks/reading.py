"""A reader's marks for single sentences: a human's, the bundled model's, and the name split into words.

    python benchmarks/reading.py sheet --work DIR --out DIR     what to read, and the key to it
    python benchmarks/reading.py tally FILE ...                 the marks by who wrote the sentence

The reader sees code and one sentence about it, and not who wrote it, and marks it by the rubric below. The
sentences are of places in the held-out packages, drawn at random; of the model's, as many again are drawn of
those that a build shows, and of those that it drops although the model is sure. DIR is the folder of
benchmarks/quality.py, which has to run before.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quality import floors_of

from models.config import BUNDLED
from models.training import evaluate, pairs
from models.training.evaluate import Task
from models.words import sentence_of

PLACES = 80  # drawn at random each time
RUBRIC = {
    "2": "true of this code, and tells what the name alone does not",
    "1": "true, but no more than the name says, or too vague to help",
    "0": "wrong about this code, or makes no sense",
}


def places(work: Path) -> list[dict[str, Any]]:
    """Every place that the model is asked about: code, slot, and what the three wrote there."""
    floors = floors_of(evaluate.load_exactly(BUNDLED).meta)
    test = pairs.load(work / "pairs" / "test.jsonl")
    of_model = iter(json.loads((work / "quality.json").read_text())["texts"])
    found = []
    for pair in test:
        for slot in pair.texts:
            text, floor = next(of_model), floors.get(Task(pair.subject, slot.partition(".")[0]))
            if floor is not None and text["certainty"] is not None:
                name = slot.partition(".")[2] or pair.name.rpartition(".")[2]
                sentences = {"human": text["human"], "model": text["model"], "name": sentence_of(name)}
                code = "\n".join(filter(None, (pair.owner, pair.code)))
                how = {"sure": text["certainty"] >= floor, "stands": text["stands"]}
                found.append({"code": code, "slot": slot, "sentences": sentences} | how)
    return found


def drawn(work: Path) -> list[dict[str, Any]]:
    """The sentences to be read, in random order, with who wrote them."""
    chance = random.Random(20261123)
    everywhere = places(work)
    some = chance.sample(everywhere, PLACES)
    sure = [place for place in everywhere if place["sure"]]
    shown = chance.sample([place for place in sure if place["stands"]], PLACES)
    dropped = chance.sample([place for place in sure if not place["stands"]], PLACES)
    entries = [
        {**{k: place[k] for k in ("code", "slot")}, "sentence": place["sentences"][who], "by": by}
        for chosen, names in (
            (some, {"human": "human", "model": "model", "name": "name"}),
            (shown, {"model": "model, shown"}),
            (dropped, {"model": "model, sure but dropped"}),
        )
        for place in chosen
        for who, by in names.items()
    ]
    chance.shuffle(entries)
    return entries


def write_sheet(work: Path, out: Path) -> None:
    """Write what is read (`sheet.json`) apart from who wrote it (`key.json`)."""
    out.mkdir(parents=True, exist_ok=True)
    entries = drawn(work)
    sheet = [{"number": n, **{k: e[k] for k in ("code", "slot", "sentence")}} for n, e in enumerate(entries)]
    key = [
        {"number": n, "slot": e["slot"], "sentence": e["sentence"], "by": e["by"]}
        for n, e in enumerate(entries)
    ]
    for name, data in (("sheet", {"rubric": RUBRIC, "sentences": sheet}), ("key", key)):
        (out / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")


def tally(files: list[Path]) -> Iterator[str]:
    """The share of each mark by who wrote the sentence; files are keys in which every entry has a `mark`."""
    marks: dict[str, Counter[str]] = {}
    for file in files:
        for entry in json.loads(file.read_text()):
            marks.setdefault(entry["by"], Counter())[str(entry["mark"])] += 1
    for by, counts in sorted(marks.items()):
        shares = "  ".join(f"{mark}: {counts[mark] / counts.total():4.0%}" for mark in RUBRIC)
        yield f"{by:<24}{counts.total():5} sentences  {shares}"


def main() -> None:
    """Write a sheet, or count the marks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    sheet = commands.add_parser("sheet", help="write what to read")
    sheet.add_argument("--work", type=Path, default=Path.home() / ".cache/docmill/training")
    sheet.add_argument("--out", type=Path, required=True)
    marked = commands.add_parser("tally", help="count the marks")
    marked.add_argument("files", type=Path, nargs="+")
    arguments = parser.parse_args()
    if arguments.command == "sheet":
        write_sheet(arguments.work, arguments.out)
    else:
        print("\n".join(tally(arguments.files)))


if __name__ == "__main__":
    main()
