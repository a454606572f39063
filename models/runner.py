"""Tokens in, tokens out: prefill and decode at the fixed shapes of a bucket table, on one model.

Padded, as the passes are (PaddedRunner), or packed and compiled (PackedRunner).

In scope: the KV of the shared prefix, the pools, dummies and idle slots, what the machine is.
Not in scope: when to run what (`models.batching`), what tokens mean (`models.engine`).
"""

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import torch
import transformers

from models import int8
from models.activations import settle
from models.attention import ATTENTION
from models.batching import Bucket, BucketTable
from models.compiled import CompiledPass
from models.config import ExecutionProfile
from models.graphs import FixedStep, graph_memory
from models.load import LoadedModel
from models.machine import KERNEL_LIMITS, code_digest, processor
from models.memory import memory_errors_named
from models.passes import DecodePass, PrefillPass, RaggedPass

_FILLER = 0  # a token that pads prompts and idle rows; nothing ever sees what it computes


class Runner(ABC):
    """The KV cache of a model at the shapes of `table`, with `prefix` (tokens) in front of every prompt.

    What computes at these shapes is a subclass.
    """

    machine_code = ""  # a digest of compiled passes

    @memory_errors_named()
    def __init__(self, loaded: LoadedModel, table: BucketTable, prefix: Sequence[int]) -> None:
        loaded.model.set_attn_implementation(ATTENTION)
        settle(loaded.model)
        int8.unpack(loaded.model)
        self._loaded, self._device = loaded, loaded.device
        self._table = table
        self._pools: dict[int, list[torch.Tensor]] = {}
        with torch.inference_mode():
            tokens = torch.tensor([prefix or [_FILLER]], device=self._device)
            self._opening = PrefillPass(loaded.model)(tokens, [])
        self._prefix = self._opening if prefix else []

    def profile(self) -> ExecutionProfile:
        """Return what the bits of the output depend on besides the weights and the request."""
        return ExecutionProfile(
            **machine_of(self._loaded),
            compiled=self.machine_code,
            code=code_digest(),
            buckets=self._table.as_key(),
        )

    @abstractmethod
    def prefill(self, bucket: Bucket, prompts: Sequence[Sequence[int]], slots: Sequence[int]) -> None:
        """Compute the KV of `prompts` (tokens, at most a group) and put it into `slots` of the pool."""

    @abstractmethod
    def decode(self, kv_length: int, fed: dict[int, tuple[int, int]]) -> tuple[list[int], list[float]]:
        """Feed one token to each slot; return the likeliest next token and its log-probability, by slot.

        `fed` maps slots to (token, position). Slots it leaves out are idle: their results mean nothing, and
        they write into the first column behind the prefix, which the text that gets the slot overwrites
        before it reads it.
        """

    def _fed(self, fed: dict[int, tuple[int, int]]) -> list[tuple[int, int]]:
        """Return a token and a position for every slot."""
        idle = (_FILLER, self._table.prefix_length)
        return [fed.get(slot, idle) for slot in range(self._table.decode_rows)]

    def _pool(self, kv_length: int) -> list[torch.Tensor]:
        """Return the keys and values of a pool, allocated when it is first asked for."""
        if kv_length not in self._pools:
            self._pools[kv_length] = [
                part.new_zeros(self._table.slots, part.shape[1], kv_length, part.shape[3])
                for part in self._opening
            ]
            for target, opening in zip(self._pools[kv_length], self._opening, strict=True):
                length = self._table.prefix_length
                target[:, :, :length] = opening[:, :, :length]
        return self._pools[kv_length]


class PaddedRunner(Runner):
    """Runs the passes as they are, on groups of prompts padded to one length."""

    def __init__(self, loaded: LoadedModel, table: BucketTable, prefix: Sequence[int]) -> None:
        super().__init__(loaded, table, prefix)
        self._prefill_pass, self._decode_pass = PrefillPass(loaded.model), DecodePass(loaded.model)
        self._graph_memory = graph_memory(loaded.model)
        self._prefills: dict[Bucket, FixedStep] = {}
        self._decodings: dict[int, FixedStep] = {}  # by KV length

    @torch.inference_mode()
    @memory_errors_named()
    def prefill(self, bucket: Bucket, prompts: Sequence[Sequence[int]], slots: Sequence[int]) -> None:
        """Pad the prompts and fill the group with dummies."""
        if bucket not in self._prefills:
            pool = self._pool(bucket.kv_length)
            compute = partial(_fill, self._prefill_pass, self._prefix, self._table.prefix_length, pool)
            self._prefills[bucket] = FixedStep(compute, self._device, self._graph_memory)
        dummies = self._table.prefill_rows(bucket.prompt_length) - len(prompts)
        padded = [[*prompt, *[_FILLER] * (bucket.prompt_length - len(prompt))] for prompt in prompts]
        padded += [[_FILLER] * bucket.prompt_length] * dummies
        self._prefills[bucket](padded, [*slots, *[self._table.spare_slot] * dummies])

    @torch.inference_mode()
    @memory_errors_named()
    def decode(self, kv_length: int, fed: dict[int, tuple[int, int]]) -> tuple[list[int], list[float]]:
        """Decode all slots of the pool."""
        if kv_length not in self._decodings:
            used = [part[: self._table.decode_rows] for part in self._pool(kv_length)]
            compute = partial(self._decode_pass, pool=used)
            self._decodings[kv_length] = FixedStep(compute, self._device, self._graph_memory)
        step = self._decodings[kv_length]
        step(*zip(*self._fed(fed), strict=True))
        likeliest, logprobs = step.results()
        return likeliest.tolist(), logprobs.tolist()


def _fill(
    prefill: PrefillPass,
    prefix: list[torch.Tensor],
    start: int,
    pool: list[torch.Tensor],
    tokens: torch.Tensor,
    slots: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """Put the keys and values of `tokens` (rows × length) into slots of a pool, from column `start` on.

    No method: steps that referred to their runner would keep its pools until garbage is looked for.
    """
    for target, source in zip(pool, prefill(tokens, prefix), strict=True):
        target[slots, :, start : start + source.shape[2]] = source
    return ()


class PackedRunner(Runner):
    """Runs a pass compiled into the folder `compiled`, on prompts one behind the other."""

    @memory_errors_named()
    def __init__(
        self, loaded: LoadedModel, table: BucketTable, prefix: Sequence[int], compiled: Path
    ) -> None:
        super().__init__(loaded, table, prefix)
        self._opening = [part.to(loaded.kv_dtype(packed=True)) for part in self._opening]
        name = _name_of_machine_code(loaded)
        self._pass = CompiledPass(RaggedPass(loaded.model), compiled, name, self._opening)
        self.machine_code = self._pass.digest()
        self._all = torch.arange(table.decode_rows)

    @torch.inference_mode()
    @memory_errors_named()
    def prefill(self, bucket: Bucket, prompts: Sequence[Sequence[int]], slots: Sequence[int]) -> None:
        """Compute the prompts in one row; their keys and values go to the pool by themselves."""
        start = self._table.prefix_length
        lengths = [len(prompt) for prompt in prompts]
        dummies = bucket.prompt_length - sum(lengths)
        tokens = [*chain.from_iterable(prompts), *[_FILLER] * dummies]
        of_slots = chain.from_iterable(repeat(slot, n) for slot, n in zip(slots, lengths, strict=True))
        positions = chain.from_iterable(range(start, start + n) for n in lengths)
        places = [*of_slots, *[self._table.spare_slot] * dummies], [*positions, *[0] * dummies]
        self._run(bucket.kv_length, tokens, places, self._all[:2])  # no fewer can be wanted

    @torch.inference_mode()
    @memory_errors_named()
    def decode(self, kv_length: int, fed: dict[int, tuple[int, int]]) -> tuple[list[int], list[float]]:
        """Decode all slots of the pool."""
        tokens, positions = zip(*self._fed(fed), strict=True)
        places = range(self._table.decode_rows), positions
        likeliest, logprobs = self._run(kv_length, tokens, places, self._all)
        return likeliest.tolist(), logprobs.tolist()

    def _run(
        self,
        kv_length: int,
        tokens: Sequence[int],
        places: tuple[Sequence[int], Sequence[int]],
        wanted: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the pass on tokens at `places`, their slots and their positions."""
        slots_and_positions = torch.tensor(places).T.contiguous()
        return self._pass(torch.tensor(tokens), slots_and_positions, wanted, self._pool(kv_length))


def machine_of(loaded: LoadedModel) -> dict[str, Any]:
    """Return the part of an execution profile that is not the engine's to choose."""
    return {"dtype": loaded.compute, **machine_with(loaded.device)}


def machine_with(device: torch.device) -> dict[str, Any]:
    """Return what of `machine_of` is the same for all models on a device."""
    on_cpu = device.type == "cpu"
    return {
        "device": "cpu" if on_cpu else torch.cuda.get_device_name(device),
        "instruction_set": _cpu_kernels() if on_cpu else _cuda_kernels(device),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }


def _name_of_machine_code(loaded: LoadedModel) -> str:
    """Return a digest of all that compiled passes depend on, the type of keys and values among it."""
    kept_as = str(loaded.kv_dtype(packed=True))
    depends = [loaded.fingerprint, machine_of(loaded), kept_as, processor(), code_digest()]
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:32]


def _cpu_kernels() -> str:
    """Name what CPU kernels are chosen and blocked by: dispatch level, extensions, cache sizes."""
    capabilities = torch.cpu.get_capabilities()
    extensions = sorted(name for name, value in capabilities.items() if value is True)
    caches = [
        f"{name}={capabilities[name]}" for name in ("l1d_cache_size", "l2_cache_size") if name in capabilities
    ]
    architecture = capabilities.get("architecture", "unknown")
    limits = [f"{name}={os.environ[name]}" for name in KERNEL_LIMITS if name in os.environ]
    return " ".join([architecture, torch.backends.cpu.get_cpu_capability(), *extensions, *caches, *limits])


def _cuda_kernels(device: torch.device) -> str:
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor} cuda {torch.version.cuda} cudnn {torch.backends.cudnn.version()}"
