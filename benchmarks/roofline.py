"""How near the engine comes to what the machine can do: its share of the roofline.

    python benchmarks/roofline.py [--models bundled 30m 0.5b] [--device cpu|cuda] [--prompts N]

A step cannot be faster than its bytes take at the machine's bandwidth, nor than its operations take at the
machine's rate. Both ceilings are measured here, on large tensors. Bytes and operations are counted from the
model's shape and from what was really asked: weights once a step, keys and values of the tokens that are
there, no padding, no idle rows, no dummies. What activations move is left out, so the share is a little low.

    decode:  bytes = steps × weights + tokens attended to × KV,  operations = 2 × parameters × tokens
    prefill: bytes = groups × weights + tokens × KV,             operations = 2 × parameters × tokens
    both:    operations += 4 × layers × heads × head size × tokens attended to

Source: Williams, Waterman, Patterson: Roofline (Communications of the ACM 52:4, 2009).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import HERE, MODELS, WARM_UP, WORKLOADS, forms_of, machine, prompts_for

if TYPE_CHECKING:
    import torch

    from models.engine import Completion, Engine
    from models.load import LoadedModel

COMPUTE = {"cpu": "int8", "cuda": "bfloat16"}
MOVED = 1 << 30  # bytes of the tensor that bandwidth is measured with
SIDE = 4096  # of the matrices that operations are measured with
TIMES = 5


@dataclass(frozen=True)
class Ceilings:
    """What the machine can do: bytes and operations per second."""

    bytes: float
    operations: float


@dataclass(frozen=True)
class Work:
    """What a kind of step has to move and to compute."""

    bytes: float
    operations: float

    def seconds(self, ceilings: Ceilings) -> float:
        """The least time that this takes."""
        return max(self.bytes / ceilings.bytes, self.operations / ceilings.operations)


# --- ceilings


def ceilings(device: torch.device, compute: str) -> Ceilings:
    """Measure both."""
    import torch

    source = torch.ones(MOVED // 4, device=device)
    target = torch.empty_like(source)
    moved = 2 * MOVED / best(lambda: target.copy_(source), device)
    if compute == "int8":
        a = torch.ones(SIDE, SIDE, dtype=torch.int8, device=device)
        seconds = best(lambda: torch._int_mm(a, a.T), device)
    else:
        b = torch.ones(SIDE, SIDE, dtype=getattr(torch, compute), device=device)
        seconds = best(lambda: b @ b.T, device)
    return Ceilings(moved, 2 * SIDE**3 / seconds)


def best(function: Callable[[], Any], device: torch.device) -> float:
    """The shortest of a few times, in seconds."""
    function()
    return min(timed(function, device) for _ in range(TIMES))


def timed(function: Callable[[], Any], device: torch.device) -> float:
    """How long a call takes, in seconds, waited for."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


# --- work


def work(loaded: LoadedModel, engine: Engine, completions: list[Completion]) -> tuple[Work, Work]:
    """What prefill and decoding had to do, at least."""
    config = loaded.model.config
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    attention = 4 * config.num_hidden_layers * heads * size
    layers, layer_bytes, head, head_bytes = weights(loaded)
    accounting = engine.stats.accounting
    prefilled = [c.prompt_tokens - 1 for c in completions]  # the last one begins the decoding
    read = sum(n * (n + 1) // 2 for n in prefilled)
    prefill = Work(
        accounting.groups * layer_bytes + sum(prefilled) * loaded.kv_bytes_per_token,
        2 * layers * sum(prefilled) + attention * read,
    )
    written = engine.stats.output_tokens
    attended = sum(
        c.output_tokens * n + c.output_tokens * (c.output_tokens + 1) // 2
        for c, n in zip(completions, prefilled, strict=True)
    )
    decode = Work(
        accounting.steps * (layer_bytes + head_bytes) + attended * loaded.kv_bytes_per_token,
        2 * (layers + head) * written + attention * attended,
    )
    return prefill, decode


def weights(loaded: LoadedModel) -> tuple[int, int, int, int]:
    """Parameters and bytes of the layers' matrices, and of the output's."""
    import torch

    from models.int8 import Int8Linear

    head = loaded.model.get_output_embeddings()
    found = {True: [0, 0], False: [0, 0]}
    for module in loaded.model.modules():
        if isinstance(module, torch.nn.Linear | Int8Linear):
            of = found[module is head]
            of[0] += module.weight.numel()
            of[1] += module.weight.numel() * module.weight.element_size()
    return (*found[False], *found[True])


# --- the run


def measure(model: str, device: str, most: int) -> dict[str, Any]:
    """Run the engine on a model, and compare with what it cannot be faster than."""
    from models.config import GenerationConfig, ModelConfig
    from models.engine import Engine, EngineStats, Frame, Request
    from models.load import load
    from models.prompts import SUMMARY_SEPARATOR

    MODELS.mkdir(exist_ok=True)
    forms, workload, compute = forms_of(model), WORKLOADS[model], COMPUTE[device]
    folder = forms.int8 if compute == "int8" else forms.whole
    loaded = load(ModelConfig(model=str(folder), dtype=compute, device=device))
    generation = GenerationConfig(max_prompt_tokens=workload.longest, max_new_tokens=workload.new, stop=())
    engine = Engine(loaded, generation, compiled=MODELS / "compiled" if device == "cpu" else None)
    frames = (Frame(SUMMARY_SEPARATOR, workload.new),)
    prompts = prompts_for(forms.whole, workload, most)
    requests = [Request(str(number), prompt, frames) for number, prompt in enumerate(prompts)]
    engine.generate_all(requests[:WARM_UP])
    engine.stats = EngineStats()
    start = time.perf_counter()
    completions = engine.generate_all(requests)
    seconds = time.perf_counter() - start
    limits = ceilings(loaded.device, compute)
    prefill, decode = work(loaded, engine, completions)
    least = prefill.seconds(limits) + decode.seconds(limits)
    return {
        "compute": compute,
        "ceilings": asdict(limits),
        "prefill": asdict(prefill) | {"least_seconds": prefill.seconds(limits)},
        "decode": asdict(decode) | {"least_seconds": decode.seconds(limits)},
        "seconds": seconds,
        "engine_seconds": engine.stats.seconds,
        "share": least / seconds,
    }


def show(model: str, row: dict[str, Any]) -> None:
    """Print the terms of one model."""
    limits = row["ceilings"]
    print(
        f"{model}, {row['compute']}: {limits['bytes'] / 1e9:,.1f} GB/s and "
        f"{limits['operations'] / 1e12:,.3f} Tops/s measured"
    )
    for kind in ("prefill", "decode"):
        term = row[kind]
        by_bytes, by_operations = (term[name] / limits[name] for name in ("bytes", "operations"))
        print(
            f"  {kind:<8} {term['bytes'] / 1e9:8,.1f} GB = {by_bytes:7.3f} s   "
            f"{term['operations'] / 1e12:8,.3f} T = {by_operations:7.3f} s   "
            f"at least {term['least_seconds']:7.3f} s"
        )
    print(f"  took {row['seconds']:.3f} s: {row['share']:.1%} of the roofline")


def main() -> None:
    """Parse, measure, print, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["bundled", "30m"], choices=list(WORKLOADS))
    parser.add_argument("--device", choices=list(COMPUTE), default="cpu")
    parser.add_argument("--prompts", type=int, default=3000)
    arguments = parser.parse_args()
    results: dict[str, Any] = {"machine": machine(arguments.device)}
    for model in arguments.models:
        results[model] = measure(model, arguments.device, arguments.prompts)
        show(model, results[model])
    file = Path(HERE) / "results" / f"roofline-{arguments.device}-{datetime.now(UTC):%Y-%m-%d}.json"
    file.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
