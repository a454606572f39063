"""The engine beside what people would use instead: the same weights, the same prompts, one run.

    python benchmarks/engine.py [--models bundled 30m 0.5b] [--device cpu|cuda] [--rounds N] [--prompts N]

The prompts are functions of a pinned release of sympy as docmill shows them to a model, with their true
lengths, in an order dealt out once. Every contender is a process of its own, timed after a warm-up and
without loading or compiling; rounds are interleaved and the median counts. Slow contenders get every n-th
prompt; who has settings to choose from tries them on a sample first. `bundled` ends its texts itself; `30m`
and `0.5b` have random weights and write a fixed number of tokens. A peer takes part where `make peers` has
installed it, in a virtual environment of its own. On a GPU memory is what torch has reserved, which for
`generate_batch` is by design nearly all that there is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.config import Compute, Device
    from models.engine import Engine, Request

HERE = Path(__file__).resolve().parent
MODELS = HERE / ".models"
SOURCE = "sympy"
WARM_UP = 128
BLOCK = 32  # tokens in a page of generate_batch's KV cache
LONGEST = 1500  # seconds for one contender's round; what takes longer is left out


@dataclass(frozen=True)
class Stock:
    """transformers' own `generate`."""

    share: int  # gets every so-many-th prompt
    alone: bool = False
    cache: bool = True
    ordered: bool = False
    quantized: bool = False
    sizes: tuple[int, ...] = (8, 16, 32, 64)  # of batches; the best on a sample counts
    dtype: str = "float32"


@dataclass(frozen=True)
class Continuous:
    """transformers' own `generate_batch`.

    On a GPU it sizes itself. On a CPU it is given room for `rows` texts at a time and passes of `tokens`; the
    best of `sizes` on a sample counts.
    """

    share: int = 1
    sizes: tuple[tuple[int, int], ...] = ((64, 512), (64, 1024), (128, 1024))  # rows, tokens
    dtype: str = "float32"


@dataclass(frozen=True)
class Docmill:
    """The engine; `compute` is the type in which it multiplies."""

    share: int = 1
    compute: Compute = "int8"
    compiled: bool = True


@dataclass(frozen=True)
class Peer:
    """An engine in a virtual environment of its own."""

    name: str
    share: int = 1


Contender = Stock | Continuous | Docmill | Peer

WITHOUT_CACHE = Stock(40, cache=False, ordered=True, sizes=(2, 4, 8, 16))
ON_CPU: dict[str, Contender] = {
    "one by one, no KV cache": Stock(150, alone=True, cache=False),
    "one by one, no KV cache, quanto int8": Stock(150, alone=True, cache=False, quantized=True),
    "batches, sorted, no KV cache": WITHOUT_CACHE,
    "batches, sorted, no KV cache, quanto int8": replace(WITHOUT_CACHE, quantized=True),
    "one by one": Stock(30, alone=True),
    "batches": Stock(5),
    "batches, sorted": Stock(5, ordered=True),
    "batches, sorted, quanto int8": Stock(10, ordered=True, quantized=True),
    "generate_batch": Continuous(5),
    "docmill, float32, not compiled": Docmill(2, "float32", compiled=False),
    "docmill, float32": Docmill(2, "float32"),
    "docmill, bfloat16, not compiled": Docmill(2, "bfloat16", compiled=False),
    "docmill, int8, not compiled": Docmill(2, compiled=False),
    "docmill, int8": Docmill(),
    "OpenVINO GenAI, int8": Peer("openvino"),
    "CTranslate2, int8": Peer("ctranslate2", 2),
    "llama.cpp, Q8_0": Peer("llamacpp", 2),
}
ON_CUDA: dict[str, Contender] = {
    "one by one": Stock(60, alone=True),
    "one by one, bfloat16": Stock(60, alone=True, dtype="bfloat16"),
    "batches, bfloat16": Stock(1, dtype="bfloat16", sizes=(64, 128, 256)),
    "batches, sorted, bfloat16": Stock(1, ordered=True, dtype="bfloat16", sizes=(64, 128, 256)),
    "generate_batch, bfloat16": Continuous(dtype="bfloat16"),
    "docmill, float32": Docmill(compute="float32", compiled=False),
    "docmill, bfloat16": Docmill(compute="bfloat16", compiled=False),
}
CONTENDERS = {"cpu": ON_CPU, "cuda": ON_CUDA}
BASE = "one by one"


@dataclass(frozen=True)
class Workload:
    """Most tokens of a prompt and of an answer; on a CPU, how many prompts settings are tried on.

    Of a model so large that a CPU would take hours, who does not get every prompt gets `fewer` times fewer.
    """

    longest: int
    new: int
    sample: int = 300
    fewer: int = 1

    def share(self, contender: Contender, device: Device) -> int:
        """Which prompts a contender gets: every so-many-th."""
        return contender.share * (self.fewer if device == "cpu" and contender.share > 1 else 1)


WORKLOADS = {
    "bundled": Workload(160, 48),
    "30m": Workload(400, 32),
    "0.5b": Workload(400, 32, sample=64, fewer=5),
}
RANDOM = {
    "30m": {
        "model_type": "llama",
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": 8192,
    },
    "0.5b": {  # the shape of Qwen2-0.5B
        "model_type": "qwen2",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151_936,
    },
}


# --- models and prompts


@dataclass(frozen=True)
class Forms:
    """The same weights in the forms that contenders read: float32, and int8 as docmill stores it."""

    whole: Path
    int8: Path


def forms_of(model: str) -> Forms:
    """Make the folders of a model, or find them."""
    from models.config import BUNDLED
    from models.quantize import quantize_folder

    if model == "bundled":  # no peer reads quanto's int8
        return Forms(dequantized(BUNDLED), BUNDLED)
    whole = random_model(model)
    return Forms(whole, quantize_folder(whole, whole.with_name(f"{whole.name}-int8")))


def random_model(name: str) -> Path:
    """A folder with random weights of a real architecture, and the bundled tokenizer without its ending."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    from models.config import BUNDLED
    from models.staging import appearing

    shape = RANDOM[name] | {"tie_word_embeddings": True, "max_position_embeddings": 4096}
    shape |= {"initializer_range": 0.1, "bos_token_id": None, "eos_token_id": None}
    folder = MODELS / f"{name}-{hashlib.sha256(repr(shape).encode()).hexdigest()[:8]}"
    if not folder.exists():
        torch.manual_seed(0)
        with appearing(folder) as staged:
            AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape)).save_pretrained(staged)
            GenerationConfig().save_pretrained(staged)
            (staged / "tokenizer.json").write_bytes((BUNDLED / "tokenizer.json").read_bytes())
            settings = json.loads((BUNDLED / "tokenizer_config.json").read_bytes())
            settings.pop("eos_token")
            (staged / "tokenizer_config.json").write_text(json.dumps(settings))
            # transformers splits text as the architecture does; peers read this file and are to do the same.
            tokenizer = AutoTokenizer.from_pretrained(staged)
            tokenizer.backend_tokenizer.save(str(staged / "tokenizer.json"))
    return folder


def dequantized(folder: Path) -> Path:
    """The weights of a quantized folder in float32."""
    from models.config import ModelConfig
    from models.load import TOKENIZER_FILES, load
    from models.staging import appearing

    loaded = load(ModelConfig(model=str(folder), dtype="float32"))
    target = MODELS / f"{folder.name}-whole-{loaded.fingerprint[:8]}"
    if not target.exists():
        with appearing(target) as staged:
            loaded.model.save_pretrained(staged)
            for name in TOKENIZER_FILES:
                if (folder / name).exists():
                    (staged / name).write_bytes((folder / name).read_bytes())
    return target


def prompts_for(folder: Path, workload: Workload, most: int) -> list[str]:
    """Functions of the source package as a model is shown them, in an order that is always the same."""
    from models.config import ModelConfig
    from models.load import load

    loaded = load(ModelConfig(model=str(folder), dtype="float32"))
    found = list(functions(lambda text: len(loaded.encode(text, trusted=False)) < workload.longest - 1))
    random.Random(0).shuffle(found)
    return found[:most]


def functions(fits: Callable[[str], bool]) -> Iterator[str]:
    """Every function of the source package that is not a test."""
    from flows.samples import prompts

    root = Path(str(files(SOURCE)))
    return prompts((file for file in sorted(root.rglob("*.py")) if "tests" not in file.parts), fits)


# --- contenders: each gets prompts, and gives token counts and seconds


def stock(folder: Path, prompts: list[str], dtype: str, device: Device) -> tuple[Any, list[list[int]]]:
    """A model as transformers loads it, and the prompts' tokens."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from models.prompts import SUMMARY_SEPARATOR

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval().to(device)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    separator = tokenizer.convert_tokens_to_ids(SUMMARY_SEPARATOR)
    return model, [[*tokenizer(p, add_special_tokens=False)["input_ids"], separator] for p in prompts]


def run_stock(
    how: Stock, folder: Path, prompts: list[str], new: int, sample: int, device: Device
) -> dict[str, Any]:
    """transformers' `generate`, alone or in batches of the best of a few sizes, all of them full."""
    import torch

    model, rows = stock(folder, prompts, how.dtype, device)
    end, pad = model.generation_config.eos_token_id, model.generation_config.pad_token_id
    if how.quantized:
        from optimum.quanto import freeze, qint8, quantize

        quantize(model, weights=qint8)
        freeze(model)
    if not how.alone and len(rows) > max(how.sizes):
        del rows[len(rows) - len(rows) % max(how.sizes) :]
    if how.ordered:
        rows.sort(key=len)

    @torch.inference_mode()
    def generate(batch: list[list[int]]) -> int:
        width = max(map(len, batch))
        out = model.generate(
            torch.tensor([[pad] * (width - len(r)) + r for r in batch], device=device),
            attention_mask=torch.tensor(
                [[0] * (width - len(r)) + [1] * len(r) for r in batch], device=device
            ),
            do_sample=False,
            max_new_tokens=new,
            use_cache=how.cache,
        )[:, width:]
        return out.numel() if end is None else int((out != pad).sum())

    def run(size: int, rows: list[list[int]]) -> tuple[int, float]:
        start = time.perf_counter()
        written = sum(generate(rows[i : i + size]) for i in range(0, len(rows), size))
        return written, time.perf_counter() - start

    generate(rows[:2])
    size = 1 if how.alone else how.sizes[0]
    if not how.alone and len(how.sizes) > 1:
        some = rows[:: max(1, len(rows) // sample)]
        size = min(how.sizes, key=lambda size: run(size, some)[1])
    written, seconds = run(size, rows)
    figures = {"requests": len(rows), "output": written, "prompt": sum(map(len, rows))}
    return figures | {"seconds": seconds, "batch": size}


def run_continuous(
    how: Continuous, folder: Path, prompts: list[str], new: int, sample: int, device: Device
) -> dict[str, Any]:
    """transformers' `generate_batch`, without sharing blocks: prompts of the warm-up would be found again."""
    from transformers import ContinuousBatchingConfig

    model, all_rows = stock(folder, prompts, how.dtype, device)
    model.generation_config.update(do_sample=False, max_new_tokens=new)

    def room(rows: int, tokens: int) -> dict[str, int]:
        blocks = rows * -(-(max(map(len, all_rows)) + new) // BLOCK)
        sizes = {"max_requests_per_batch": rows, "max_batch_tokens": tokens}
        return sizes | {"page_size": BLOCK, "num_blocks": blocks}

    def run(settings: dict[str, int], rows: list[list[int]]) -> tuple[int, float]:
        def generate() -> int:
            out = model.generate_batch(
                rows,
                generation_config=model.generation_config,
                continuous_batching_config=ContinuousBatchingConfig(allow_block_sharing=False, **settings),
                persistent_manager=True,
            )
            assert len(out) == len(rows) and not any(answer.error for answer in out.values())
            return sum(len(answer.generated_tokens) for answer in out.values())

        generate()  # what it is sized by, and warm-up
        start = time.perf_counter()
        written = generate()
        seconds = time.perf_counter() - start
        model.destroy_cached_continuous_batching_manager()
        return written, seconds

    best: dict[str, int] = {}
    if device == "cpu":
        some = all_rows[:: max(1, len(all_rows) // sample)]
        best = min((room(*sizes) for sizes in how.sizes), key=lambda settings: run(settings, some)[1])
    written, seconds = run(best, all_rows)
    settings = ", ".join(f"{name} {value}" for name, value in best.items())
    return {"output": written, "prompt": sum(map(len, all_rows)), "seconds": seconds, "settings": settings}


def run_docmill(how: Docmill, folder: Path, prompts: list[str], new: int, device: Device) -> dict[str, Any]:
    """The engine, its passes compiled or not."""
    from models.config import GenerationConfig, ModelConfig
    from models.engine import Engine, EngineStats, Frame, Request
    from models.load import load
    from models.prompts import SUMMARY_SEPARATOR

    loaded = load(ModelConfig(model=str(folder), dtype=how.compute, device=device))
    longest = max(len(loaded.encode(p, trusted=False)) for p in prompts) + 1
    generation = GenerationConfig(max_prompt_tokens=longest, max_new_tokens=new, stop=())
    start = time.perf_counter()
    engine = Engine(loaded, generation, compiled=MODELS / "compiled" if how.compiled else None)
    made = time.perf_counter() - start
    requests = [Request(str(n), p, (Frame(SUMMARY_SEPARATOR, new),)) for n, p in enumerate(prompts)]
    warm_up(engine, requests)
    engine.stats = EngineStats()
    start = time.perf_counter()
    engine.generate_all(requests)
    seconds = time.perf_counter() - start
    return {
        "output": engine.stats.output_tokens,
        "prompt": engine.stats.prompt_tokens,
        "seconds": seconds,
        "padding_efficiency": round(engine.stats.padding_efficiency, 4),
        "occupancy": round(engine.stats.occupancy, 4),
        "made_in_seconds": round(made, 1),
    }


def warm_up(engine: Engine, requests: list[Request]) -> None:
    """Let all run once that is not to be timed; on a GPU every shape twice, after which it is recorded."""
    if engine.profile.device == "cpu":
        engine.generate_all(requests[:WARM_UP])
        return
    for _ in range(2):
        engine.generate_all(requests)


def contend(
    name: str, forms: Forms, prompts: list[str], new: int, sample: int, device: Device
) -> dict[str, Any]:
    """Run a contender in this process."""
    match CONTENDERS[device][name]:
        case Stock() as how:
            found = run_stock(how, forms.whole, prompts, new, sample, device)
        case Continuous() as how:
            found = run_continuous(how, forms.whole, prompts, new, sample, device)
        case Docmill() as how:
            folder = forms.int8 if how.compute == "int8" else forms.whole
            found = run_docmill(how, folder, prompts, new, device)
    return {"requests": len(prompts), "peak_mb": peak_mb(device)} | found


def peak_mb(device: Device = "cpu") -> int:
    """The most memory that this process ever held, on a GPU that of the GPU, in MB."""
    if device == "cuda":
        import torch

        return round(torch.cuda.max_memory_reserved() / 1e6)
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024 / 1e6)


# --- the run


def in_own_process(
    name: str, forms: Forms, prompts: Path, workload: Workload, device: Device
) -> dict[str, Any]:
    """Run a contender in a process of its own."""
    how = CONTENDERS[device][name]
    program = [sys.executable, __file__, "--device", device, "--contender", name, forms.whole, forms.int8]
    if isinstance(how, Peer):
        program = [python_of(how.name), HERE / "peers" / f"run_{how.name}.py", "run", forms.whole]
    sample = workload.sample if device == "cpu" else 1024
    command = [*program, prompts, workload.new, workload.share(how, device), sample]
    done = subprocess.run(
        [str(c) for c in command], stdout=subprocess.PIPE, text=True, check=True, timeout=LONGEST
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(model: str, device: Device, rounds: int, most: int, only: list[str]) -> dict[str, dict[str, Any]]:
    """All contenders on one model, interleaved; medians of the rounds."""
    MODELS.mkdir(exist_ok=True)
    forms, workload = forms_of(model), WORKLOADS[model]
    prompts = MODELS / f"prompts-{model}.json"
    prompts.write_text(json.dumps(prompts_for(forms.whole, workload, most)))
    taking_part = {
        name: how
        for name, how in CONTENDERS[device].items()
        if (not only or name in only) and (not isinstance(how, Peer) or python_of(how.name).exists())
    }
    for how in taking_part.values():
        if isinstance(how, Peer):
            runner = HERE / "peers" / f"run_{how.name}.py"
            subprocess.run([python_of(how.name), runner, "export", forms.whole], check=True)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in taking_part}
    for _ in range(rounds):
        for name in taking_part:
            try:
                found[name].append(in_own_process(name, forms, prompts, workload, device))
                said: Any = found[name][-1]
            except subprocess.TimeoutExpired:
                said = f"left out: not done after {LONGEST} s"
            except subprocess.CalledProcessError as error:
                said = f"left out: ended with {error.returncode}"
            print(f"{model:<8} {name:<38} {said}", file=sys.stderr, flush=True)
    return {name: median(runs) for name, runs in found.items() if runs}


def python_of(peer: str) -> Path:
    """The interpreter of a peer's virtual environment."""
    return HERE / "peers" / f".venv-{peer}" / "bin" / "python"


def median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The run with the median speed, with its rates; and the lowest and highest speed."""
    speeds = [run["output"] / run["seconds"] for run in runs]
    run = runs[speeds.index(statistics.median_low(speeds))]
    rates = {
        f"{kind}_per_s": round(run[kind] / run["seconds"], 1) for kind in ("requests", "output", "prompt")
    }
    return run | rates | {"range": [round(min(speeds)), round(max(speeds))]}


def with_ratios(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The rows, each with how many times as fast it is as one request at a time, or as the first row."""
    speeds = {name: row["output"] / row["seconds"] for name, row in rows.items()}
    base = speeds.get(BASE, next(iter(speeds.values())))
    return {name: row | {"ratio": round(speeds[name] / base, 2)} for name, row in rows.items()}


def line(model: str, name: str, row: dict[str, Any]) -> str:
    """One row of the table."""
    speeds = f"{row['output_per_s']:8,.0f} out/s {row['prompt_per_s']:8,.0f} in/s {row['ratio']:7.2f}×"
    full = f"{row['padding_efficiency']:.0%} {row['occupancy']:.0%}" if "occupancy" in row else ""
    batch = f"batches of {row['batch']}" if row.get("batch", 1) > 1 else row.get("settings", "")
    return f"{model:<8} {name:<38} {speeds} {row['peak_mb']:6,} MB {full} {batch}"


def machine(device: Device) -> str:
    """Name of the processor, number of cores or of the GPU, version of torch."""
    import torch

    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [text.partition(":")[2].strip() for text in lines if text.startswith("model name")]
    name = names[0] if names else platform.machine()
    return f"{name}, {len(os.sched_getaffinity(0))} cores, torch {torch.__version__}"


def keep(kind: str, results: dict[str, Any]) -> None:
    """Write figures into the day's file of a benchmark, beside those of other models."""
    file = HERE / "results" / f"{kind}-{datetime.now(UTC):%Y-%m-%d}.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(before | results, indent=1) + "\n")


def main() -> None:
    """Parse, measure, print the table and a JSON line, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["bundled", "30m"], choices=list(WORKLOADS))
    parser.add_argument("--device", choices=list(CONTENDERS), default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=3000)
    parser.add_argument("--only", nargs="+", default=[], help="these contenders; keeps no figures")
    parser.add_argument("--contender", nargs=7, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        name, whole, int8, file, new, share, sample = arguments.contender
        prompts = json.loads(Path(file).read_text())[:: int(share)]
        forms = Forms(Path(whole), Path(int8))
        print(json.dumps(contend(name, forms, prompts, int(new), int(sample), arguments.device)))
        return
    kind = "engine" if arguments.device == "cpu" else f"engine-{arguments.device}"
    results: dict[str, Any] = {"machine": machine(arguments.device)}
    for model in arguments.models:
        rounds, most = arguments.rounds, arguments.prompts
        results[model] = rows = with_ratios(measure(model, arguments.device, rounds, most, arguments.only))
        for name, row in rows.items():
            print(line(model, name, row), flush=True)
        if not arguments.only:
            keep(kind, results)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
