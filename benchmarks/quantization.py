"""What quantization gains and costs: size, memory, speed, and how far the texts go from those in float32.

    python benchmarks/quantization.py [--model FOLDER] [--functions N] [--rounds N]

FOLDER holds a model in float32 that was trained as the bundled one was: `whole` in the work folder of
`python -m models.training`. Without it, the bundled model's own weights are read back from int8, and what
int8 lost when it was made does not show. The functions are those of benchmarks/decoding.py. Every form runs
in a process of its own, compiled beforehand; agreement is the share of float32's tokens, read from its texts,
that a form writes too before it first differs. GPTQ takes part where docmill[gptq] is installed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Any

from decoding import functions
from engine import MODELS, WARM_UP, dequantized, peak_mb

from models.config import Compute
from models.int8 import is_fast

HERE = Path(__file__).resolve().parent
LONGEST = 48  # tokens of a text
END = -1  # stands behind the tokens of a text that the model ended itself


@dataclass(frozen=True)
class Form:
    """How weights are stored, and the type in which linear layers multiply."""

    method: str | None
    compute: Compute


FORMS = {
    "float32": Form(None, "float32"),
    "bfloat16": Form(None, "bfloat16"),
    "int8, products in float32": Form("int8", "float32"),
    "int4, products in float32": Form("int4", "float32"),
}
if is_fast():
    FORMS["int8, products in int8"] = Form("int8", "int8")
if find_spec("gptqmodel"):
    FORMS["GPTQ int8, products in float32"] = Form("gptq-int8", "float32")
    FORMS["GPTQ int4, products in float32"] = Form("gptq-int4", "float32")


def stored(whole: Path, form: Form) -> Path:
    """The folder of a form, made if it is not there."""
    from flows.samples import calibration
    from models.quantize import prepare

    return prepare(str(whole), form.method, MODELS, calibration()) if form.method else whole


def write(folder: Path, compute: Compute, prompts: list[str]) -> dict[str, Any]:
    """Have a form write a text for each prompt; its texts, as tokens, and figures."""
    from models.config import GenerationConfig, ModelConfig
    from models.engine import Engine, EngineStats, Frame, Request
    from models.load import load
    from models.prompts import SUMMARY_SEPARATOR

    loaded = load(ModelConfig(model=str(folder), device="cpu", dtype=compute))
    generation = GenerationConfig(max_prompt_tokens=loaded.meta.max_prompt_tokens or 256, stop=())
    engine = Engine(loaded, generation, compiled=MODELS / "compiled")
    frames = (Frame(SUMMARY_SEPARATOR, LONGEST),)
    requests = [Request(str(number), prompt, frames) for number, prompt in enumerate(prompts)]
    engine.generate_all(requests[:WARM_UP])
    engine.stats = EngineStats()
    start = time.perf_counter()
    completions = engine.generate_all(requests)
    seconds = time.perf_counter() - start
    texts = [completion.texts[0] for completion in completions]
    return {
        "texts": texts,
        "tokens": [
            loaded.encode(text, trusted=False) + [END] * completion.ended[0]
            for text, completion in zip(texts, completions, strict=True)
        ],
        "texts_per_s": len(texts) / seconds,
        "output": engine.stats.output_tokens,
        "peak_mb": peak_mb(),
    }


def in_own_process(folder: Path, compute: Compute, prompts: Path) -> dict[str, Any]:
    """`write` in a process of its own, so that memory is that of one form."""
    command = [sys.executable, __file__, "--write", folder, compute, prompts]
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def agreement(mine: list[list[int]], theirs: list[list[int]]) -> float:
    """The share of `theirs` that `mine` holds before the first difference."""
    same = 0
    for a, b in zip(mine, theirs, strict=True):
        same += sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
    return same / sum(map(len, theirs))


def measure(whole: Path, count: int, rounds: int) -> dict[str, dict[str, Any]]:
    """All forms, interleaved; speeds are medians of the rounds."""
    from models.metrics import scores

    asked = shown(whole, count)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in FORMS}
    folders = {name: stored(whole, form) for name, form in FORMS.items()}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(json.dumps([prompt for prompt, _ in asked]))
        file.flush()
        for number in range(rounds + 1):
            for name, form in FORMS.items():
                run = in_own_process(folders[name], form.compute, Path(file.name))
                if number:  # the first one compiles, which takes memory
                    runs[name].append(run)
    exact = runs["float32"][0]
    return {
        name: asdict(FORMS[name])
        | {
            "weights_mb": round(sum(f.stat().st_size for f in folders[name].glob("*.safetensors")) / 1e6, 1),
            "peak_mb": of_form[0]["peak_mb"],
            "texts_per_s": round(statistics.median(run["texts_per_s"] for run in of_form)),
            "output": of_form[0]["output"],
            "same_texts": sum(map(str.__eq__, of_form[0]["texts"], exact["texts"])) / len(asked),
            "agreement": agreement(of_form[0]["tokens"], exact["tokens"]),
            "bleu": float(scores("bleu", of_form[0]["texts"], [summary for _, summary in asked]).mean()),
        }
        for name, of_form in runs.items()
    }


def shown(whole: Path, count: int) -> list[tuple[str, str]]:
    """Functions as the model is shown them, each with what a human wrote."""
    from models.training.tokenizer import Encoder

    pairs = functions(count)
    encoder = Encoder(whole)
    prompts = [(encoder.prompt(pair, masked=False), pair.texts["summary"]) for pair in pairs]
    return [(prompt, summary) for prompt, summary in prompts if prompt is not None]


def main() -> None:
    """Measure every form, print a table and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--functions", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        folder, compute, prompts = arguments.write
        print(json.dumps(write(Path(folder), compute, json.loads(Path(prompts).read_text()))))
        return
    from models.config import BUNDLED

    MODELS.mkdir(exist_ok=True)
    found = measure(arguments.model or dequantized(BUNDLED), arguments.functions, arguments.rounds)
    for name, row in found.items():
        print(
            f"{name:<32} {row['weights_mb']:6.1f} MB  {row['peak_mb']:5,} MB  {row['texts_per_s']:5,} texts/s"
            f"  {row['same_texts']:6.1%} same  {row['agreement']:6.1%} agreed  BLEU {row['bleu']:5.2f}"
        )
    file = HERE / "results" / f"quantization-{datetime.now(UTC):%Y-%m-%d}.json"
    file.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
