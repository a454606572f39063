"""How the bundled model is best decoded: time per text against quality, on functions that it never saw.

    python benchmarks/decoding.py [--functions N]

The functions are those of the validation packages of models/training/corpus.toml, which no weight was fitted
to; the packages that quality is reported on are not touched. All ways run through transformers' own
`generate`, in float32 and the same batches of similar length, so that their times compare; docmill's
own engine is faster, and greedy. Packages are downloaded into benchmarks/.packages.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from models.config import BUNDLED, ModelConfig
from models.load import LoadedModel, load
from models.metrics import scores
from models.training import corpus, pairs
from models.training.tokenizer import SUMMARY_ID, Encoder

HERE = Path(__file__).resolve().parent
PACKAGES = HERE / ".packages"
ROWS = 32
WAYS: dict[str, dict[str, Any]] = {
    "greedy, 12 tokens": {"max_new_tokens": 12},
    "greedy, 24 tokens": {"max_new_tokens": 24},
    "greedy, 48 tokens": {"max_new_tokens": 48},
    "beam 3": {"max_new_tokens": 48, "num_beams": 3},
    "beam 5": {"max_new_tokens": 48, "num_beams": 5},
    "sampling, temperature 0.3": {"max_new_tokens": 48, "do_sample": True, "temperature": 0.3},
    "sampling, temperature 0.7": {"max_new_tokens": 48, "do_sample": True, "temperature": 0.7},
    "sampling, temperature 1.0": {"max_new_tokens": 48, "do_sample": True, "temperature": 1.0},
}
SEEDS = (1, 2, 3)  # for what is sampled: the median counts


def functions(most: int) -> list[pairs.Pair]:
    """Functions with a docstring from the validation packages, the same ones every time."""
    wanted = [package for package in corpus.packages() if package.split == "validation"]
    corpus.download(wanted, PACKAGES)
    found = [
        pair
        for package in wanted
        for pair in pairs.read(corpus.sources(package, PACKAGES), package.name)
        if pair.subject == "function" and "summary" in pair.texts
    ]
    random.Random(0).shuffle(found)
    return found[:most]


@torch.inference_mode()
def written(loaded: LoadedModel, prompts: list[list[int]], padding: int, way: dict[str, Any]) -> list[str]:
    """What the model writes for each prompt."""
    texts = []
    for start in range(0, len(prompts), ROWS):
        rows = prompts[start : start + ROWS]
        width = max(map(len, rows))
        out = loaded.model.generate(
            torch.tensor([[padding] * (width - len(row)) + row for row in rows]),
            attention_mask=torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
            **{"do_sample": False} | way,
        )
        texts += [loaded.decode(tokens) for tokens in out[:, width:].tolist()]
    return texts


def measured(
    loaded: LoadedModel, prompts: list[list[int]], padding: int, references: list[str], way: dict[str, Any]
) -> dict[str, float]:
    """Time and quality of one way; medians over seeds where it is random."""
    found = []
    for seed in SEEDS if way.get("do_sample") else SEEDS[:1]:
        torch.manual_seed(seed)
        start = time.perf_counter()
        texts = written(loaded, prompts, padding, way)
        found.append(
            {
                "ms_per_text": 1000 * (time.perf_counter() - start) / len(texts),
                "bleu": float(scores("bleu", texts, references).mean()),
                "words": statistics.mean(len(text.split()) for text in texts),
            }
        )
    return {name: round(statistics.median(one[name] for one in found), 2) for name in found[0]}


def main() -> None:
    """Measure every way, print a table and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--functions", type=int, default=1000)
    arguments = parser.parse_args()
    loaded = load(ModelConfig(model=str(BUNDLED), device="cpu", dtype="float32"))
    encoder = Encoder(BUNDLED)
    asked = functions(arguments.functions)
    prompts = [(encoder.prompt(pair, masked=False), pair.texts["summary"]) for pair in asked]
    read = [
        ([*encoder.tokenizer.encode(p).ids, SUMMARY_ID], summary) for p, summary in prompts if p is not None
    ]
    read.sort(key=lambda row: len(row[0]))
    rows, references = [row for row, _ in read], [summary for _, summary in read]
    written(loaded, rows[:ROWS], encoder.padding, WAYS["greedy, 12 tokens"])
    results = {}
    for name, way in WAYS.items():
        results[name] = one = measured(loaded, rows, encoder.padding, references, way)
        print(f"{name:<28} {one['ms_per_text']:7.2f} ms  BLEU {one['bleu']:5.2f}  {one['words']:5.1f} words")
    file = HERE / "results" / f"decoding-{datetime.now(UTC):%Y-%m-%d}.json"
    file.write_text(json.dumps({"functions": len(rows)} | results, indent=1) + "\n")


if __name__ == "__main__":
    main()
