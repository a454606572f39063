"""How near the engine comes to what the machine can do: its share of the roofline.

    python benchmarks/roofline.py [--models bundled 30m 0.5b] [--device cpu|cuda] [--prompts N] [--rounds N]

A step cannot be faster than its bytes take at the machine's bandwidth, nor than its operations take at the
machine's rate. The ceilings are measured in every round: how fast as many bytes are read over and over as a
decoding step reads, which may all lie in a cache; products of large matrices in the type in which the model
multiplies, and in that in which it attends. The ceiling of products in int8 is that of the best code at hand,
not of the processor: `torch._int_mm` or docmill's own kernel, which rounds and scales as well, whichever is
faster. Bytes and operations are counted from the model's shape and from what was asked: no padding, no
dummies, no more steps than there must be if every row is always taken. What activations move is left out. The
round with the median share counts.

    decode:  bytes = steps × weights + tokens attended to × KV
    prefill: bytes = groups × weights + tokens × KV
    both:    products = 2 × parameters × tokens
             attention = 4 × layers × heads × head size × tokens attended to
    least time of each = max(bytes / bandwidth, products / rate + attention / rate)

Source: Williams, Waterman, Patterson: Roofline (Communications of the ACM 52:4, 2009).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from engine import MODELS, WORKLOADS, forms_of, keep, machine, prompts_for, warm_up

if TYPE_CHECKING:
    import torch

    from models.config import Compute, Device
    from models.engine import Completion, Engine, Request
    from models.load import LoadedModel

COMPUTE: dict[Device, Compute] = {"cpu": "int8", "cuda": "bfloat16"}
SIDES = (2048, 4096)  # of the matrices that operations are measured with; the best rate counts
CALLS, TIMES = 8, 5  # the best of so many times so many calls


@dataclass(frozen=True)
class Ceilings:
    """What the machine can do in a second: bytes read, operations of products and of attention."""

    bytes: float
    products: float
    attention: float


@dataclass(frozen=True)
class Work:
    """What a kind of step has to read and to compute."""

    bytes: float
    products: float
    attention: float

    def by_bytes(self, limits: Ceilings) -> float:
        """Seconds that reading takes."""
        return self.bytes / limits.bytes

    def by_operations(self, limits: Ceilings) -> float:
        """Seconds that computing takes."""
        return self.products / limits.products + self.attention / limits.attention

    def least(self, limits: Ceilings) -> float:
        """The least time that this takes, in seconds."""
        return max(self.by_bytes(limits), self.by_operations(limits))


# --- ceilings


def ceilings(device: torch.device, compute: Compute, bytes_a_step: int) -> Ceilings:
    """Measure all three; docmill's kernels are loaded by then."""
    import torch

    read = torch.rand(bytes_a_step // 4, device=device)
    seconds = best(lambda out: torch.sum(read, 0, out=out), read.new_empty(()))
    floats = torch.bfloat16 if compute == "bfloat16" else torch.float32
    attention = products = max(2 * side**3 / of_floats(side, floats, device) for side in SIDES)
    if compute == "int8":
        products = max(2 * side**3 / in_int8(side) for side in SIDES)
    return Ceilings(read.nbytes / seconds, products, attention)


def of_floats(side: int, dtype: torch.dtype, device: torch.device) -> float:
    """Seconds that a product of square matrices takes."""
    import torch

    whole = torch.randint(-100, 100, (side, side), device=device).to(dtype)
    return best(lambda out: torch.mm(whole, whole.T, out=out), torch.empty_like(whole))


def in_int8(side: int) -> float:
    """The same in int8, by torch or by docmill's kernel."""
    import torch

    from models.int8 import Int8Linear, PackedLinear, Shared

    whole = torch.randint(-100, 100, (side, side), dtype=torch.int8)
    out, floats = torch.empty(side, side, dtype=torch.int32), whole.float()
    layer = PackedLinear([Int8Linear(whole, torch.ones(side), None, Shared())])
    by_torch = best(lambda out: torch._int_mm(whole, whole.T, out=out), out)
    by_kernel = best(lambda _: torch.ops.docmill.int8_linear(floats, layer.weight, layer.scale, None), out)
    return min(by_torch, by_kernel)


def best(function: Callable[[torch.Tensor], Any], out: torch.Tensor) -> float:
    """The shortest time of a call, in seconds, out of a few rows of calls."""
    import torch

    def row() -> float:
        start = time.perf_counter()
        for _ in range(CALLS):
            function(out)
        if out.device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / CALLS

    row()
    return min(row() for _ in range(TIMES))


# --- work


@dataclass(frozen=True)
class Weights:
    """Parameters and bytes of the matrices of all layers, and of the output's."""

    layers: int
    layer_bytes: int
    head: int
    head_bytes: int


def weights(loaded: LoadedModel) -> Weights:
    """Count those of a model."""
    import torch

    from models.int8 import Int8Linear

    head = loaded.model.get_output_embeddings()
    found = {True: [0, 0], False: [0, 0]}
    for module in loaded.model.modules():
        if isinstance(module, torch.nn.Linear | Int8Linear):
            of = found[module is head]
            of[0] += module.weight.numel()
            of[1] += module.weight.numel() * module.weight.element_size()
    return Weights(*found[False], *found[True])


def work(
    loaded: LoadedModel, of: Weights, engine: Engine, completions: list[Completion]
) -> tuple[Work, Work]:
    """What prefill and decoding had to do, at least."""
    config = loaded.model.config
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    attention = 4 * config.num_hidden_layers * heads * size
    kept = loaded.kv_bytes_per_token(packed=loaded.device.type == "cpu")
    accounting = engine.stats.accounting
    prompts = [c.prompt_tokens - 1 for c in completions]  # the last token begins the decoding
    prefilled, written = sum(prompts), engine.stats.output_tokens
    groups = math.ceil(prefilled * accounting.groups / accounting.computed_prompt_tokens)
    prefill = Work(
        groups * of.layer_bytes + prefilled * kept,
        2 * of.layers * prefilled,
        attention * sum(n * (n + 1) // 2 for n in prompts),
    )
    attended = sum(
        c.output_tokens * n + c.output_tokens * (c.output_tokens + 1) // 2
        for c, n in zip(completions, prompts, strict=True)
    )
    steps = math.ceil(accounting.useful_row_steps / engine.decode_rows)
    decode = Work(
        steps * (of.layer_bytes + of.head_bytes) + attended * kept,
        2 * (of.layers + of.head) * written,
        attention * attended,
    )
    return prefill, decode


# --- the run


def measure(model: str, device: Device, most: int, rounds: int) -> dict[str, Any]:
    """Run the engine on a model, and compare with what it cannot be faster than."""
    from models.config import GenerationConfig, ModelConfig
    from models.engine import Engine, Frame, Request
    from models.load import load
    from models.prompts import SUMMARY_SEPARATOR

    MODELS.mkdir(exist_ok=True)
    forms, workload, compute = forms_of(model), WORKLOADS[model], COMPUTE[device]
    folder = forms.int8 if compute == "int8" else forms.whole
    loaded = load(ModelConfig(model=str(folder), dtype=compute, device=device))
    generation = GenerationConfig(max_prompt_tokens=workload.longest, max_new_tokens=workload.new, stop=())
    of = weights(loaded)  # as they were loaded: an engine packs them
    engine = Engine(loaded, generation, compiled=MODELS / "compiled" if device == "cpu" else None)
    frames = (Frame(SUMMARY_SEPARATOR, workload.new),)
    prompts = prompts_for(forms.whole, workload, most)
    requests = [Request(str(number), prompt, frames) for number, prompt in enumerate(prompts)]
    warm_up(engine, requests)
    found = [one_round(loaded, of, engine, requests, compute) for _ in range(rounds)]
    found.sort(key=lambda row: row["share"])
    shares = [round(row["share"], 3) for row in found]
    return found[(len(found) - 1) // 2] | {"compute": compute, "shares": shares}


def one_round(
    loaded: LoadedModel, of: Weights, engine: Engine, requests: list[Request], compute: Compute
) -> dict[str, Any]:
    """The ceilings, and the engine under them."""
    from models.engine import EngineStats

    engine.stats = EngineStats()
    start = time.perf_counter()
    completions = engine.generate_all(requests)
    seconds = time.perf_counter() - start
    prefill, decode = work(loaded, of, engine, completions)
    limits = ceilings(loaded.device, compute, round(decode.bytes / engine.stats.accounting.steps))
    least = prefill.least(limits) + decode.least(limits)
    terms = {
        name: asdict(of)
        | {
            "by_bytes": of.by_bytes(limits),
            "by_operations": of.by_operations(limits),
            "least": of.least(limits),
        }
        for name, of in (("prefill", prefill), ("decode", decode))
    }
    return {"ceilings": asdict(limits), "seconds": seconds, "share": least / seconds} | terms


def show(model: str, row: dict[str, Any]) -> None:
    """Print the terms of one model."""
    read, *rates = row["ceilings"].values()
    products, attention = (f"{rate / 1e12:,.3f} T/s" for rate in rates)
    print(f"{model}, {row['compute']}: {read / 1e9:,.1f} GB/s, products {products}, attention {attention}")
    for kind in ("prefill", "decode"):
        of = row[kind]
        operations = (of["products"] + of["attention"]) / 1e12
        print(
            f"  {kind:<8} {of['bytes'] / 1e9:8,.1f} GB = {of['by_bytes']:7.3f} s   "
            f"{operations:8,.3f} T = {of['by_operations']:7.3f} s   at least {of['least']:7.3f} s"
        )
    print(f"  took {row['seconds']:.3f} s: {row['share']:.1%} of the roofline, all rounds {row['shares']}")


def main() -> None:
    """Parse, measure, print, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["bundled", "30m"], choices=list(WORKLOADS))
    parser.add_argument("--device", choices=list(COMPUTE), default="cpu")
    parser.add_argument("--prompts", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    results: dict[str, Any] = {"machine": machine(arguments.device)}
    for model in arguments.models:
        results[model] = measure(model, arguments.device, arguments.prompts, arguments.rounds)
        show(model, results[model])
    keep(f"roofline-{arguments.device}", results)


if __name__ == "__main__":
    main()
