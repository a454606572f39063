"""`python -m models.training`: download, pairs, tokenizer, training, storage, evaluation, card.

Each step leaves its result under --work and is skipped where the result is there; a killed training run goes
on from its last checkpoint. To start over, remove the folder of the step.
"""

import argparse
import math
import os
from pathlib import Path
from typing import Any

import torch

from models.config import BUNDLED
from models.training import card, corpus, evaluate, export, pairs, tokenizer, train

LAYERS, WIDTH, TOKENS = 6, 512, 410
# A GPU is best kept busy by large steps, and the output layer costs it little.
ON_GPU: dict[str, Any] = {
    "device": "cuda",
    "workers": 1,
    "batch": 65_536,
    "code_share": 1.0,
    "makers": 12,
}
TOLERABLE = 0.3  # BLEU that int8 may cost


def main() -> None:
    arguments = _arguments()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device here: --device cpu takes many hours instead of minutes")
    work: Path = arguments.work
    wheels, data, tokens, runs, whole = (
        work / name for name in ("packages", "pairs", "tokenizer", "run", "whole")
    )
    corpus.download(corpus.packages(), wheels)
    if not (data / "test.jsonl").exists():
        pairs.prepare(wheels, data)
    taught = pairs.load(data / "train.jsonl")[:: arguments.every]
    if not (tokens / "tokenizer.json").exists():
        tokenizer.train((text for pair in taught for text in (pair.code, *pair.texts.values())), tokens)
    held_back = pairs.load(data / "validation.jsonl")
    padding = tokenizer.Encoder(tokens).padding
    plan = train.Plan(
        runs,
        round(arguments.tokens * 1e6),
        LAYERS,
        WIDTH,
        padding,
        bfloat16=arguments.bfloat16,
        **(ON_GPU if arguments.device == "cuda" else {"workers": os.cpu_count() or 1}),
    )
    if not train.is_finished(plan):
        examples, validation = (
            tokenizer.examples(found, tokens, tokens / f"{name}-every-{arguments.every}.npz")
            for name, found in (("train", taught), ("validation", held_back))
        )
        train.run(plan, examples, validation)
    export.assemble(runs / "best", tokens, pairs.plain_words(taught), whole)
    written = evaluate.write(evaluate.load_exactly(whole), tokenizer.Encoder(whole), held_back)
    floors = evaluate.floors(written, held_back)
    export.store(whole, floors, arguments.out)
    lost = evaluate.lost_in_int8(written, arguments.out, held_back)
    if lost["weights"] > TOLERABLE:
        raise SystemExit(f"as int8 the model loses {lost['weights']:.2f} BLEU: store it in another type")
    figures = {}
    for name, found in (("validation", held_back), ("test", pairs.load(data / "test.jsonl"))):
        others = work / f"baselines-{name}.json"
        if not others.exists():
            evaluate.baselines(taught, found, others)
        figures[name] = evaluate.run(arguments.out, others, found, floors, work / f"evaluation-{name}.json")
    # Decided on packages that the figures are not of.
    asked = {
        task: floor for task, floor in floors.items() if task in evaluate.worth_asking(figures["validation"])
    }
    export.store(whole, asked, arguments.out, int8_products=lost.get("products", math.inf) <= TOLERABLE)
    card.write(arguments.out, figures["test"], asked, lost, plan, taught)


def _arguments() -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser = argparse.ArgumentParser(prog="python -m models.training", description=__doc__)
    parser.add_argument(
        "--work", type=Path, default=cache / "docmill" / "training", help="folder of all intermediate results"
    )
    parser.add_argument("--out", type=Path, default=BUNDLED, help="folder of the finished model")
    parser.add_argument(
        "--tokens",
        type=float,
        default=TOKENS,
        metavar="N",
        help="millions of tokens that are read in training",
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="what the model is trained on"
    )
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="multiply matrices in bfloat16: faster on GPUs, with AMX and on a Zen 4, else slower",
    )
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="use every Nth pair only: a trial of the chain"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
