"""The forward passes: prefill and decode at the fixed shapes of a bucket table, on one model.

A prefill only fills the KV cache; logits come from decoding steps alone, so that there is one shape per
pool at which a token is ever chosen. The model code is transformers' own.

In scope: tensors in, tensors out, the KV of the shared prefix, the pools, what the machine is.
Not in scope: when to run what (`models.batching`), what tokens mean (`models.engine`).
"""

import os
from collections.abc import Sequence

import torch
import transformers

from models.activations import settle
from models.attention import ATTENTION, Layers, PoolCache, PrefillCache, distances
from models.batching import Bucket, BucketTable
from models.config import ExecutionProfile
from models.load import LoadedModel
from models.machine import KERNEL_LIMITS

_FILLER = 0  # a token that pads prompts and idle rows; nothing ever sees what it computes


class Runner:
    """Runs a model at the shapes of `table`, with the KV of `prefix` (tokens) in front of every prompt."""

    def __init__(self, loaded: LoadedModel, table: BucketTable, prefix: Sequence[int]) -> None:
        self._model = loaded.model
        self._model.set_attn_implementation(ATTENTION)
        settle(self._model)
        self._device, self._compute = loaded.device, loaded.compute
        self._table = table
        self._pools: dict[int, PoolCache] = {}
        self._prefix: Layers = self._forward_prompts([prefix], [], start=0) if prefix else []

    @torch.inference_mode()
    def prefill(self, bucket: Bucket, prompts: Sequence[Sequence[int]], slots: Sequence[int]) -> None:
        """Compute the KV of `prompts` (tokens, at most a group) and put it into `slots` of the pool."""
        rows = self._table.prefill_rows(bucket.prompt_length)
        padded = [[*prompt, *[_FILLER] * (bucket.prompt_length - len(prompt))] for prompt in prompts]
        padded += [[_FILLER] * bucket.prompt_length] * (rows - len(prompts))
        layers = self._forward_prompts(padded, self._prefix, start=self._table.prefix_length)
        self._pool(bucket.kv_length).fill(list(slots), layers, self._table.prefix_length)

    @torch.inference_mode()
    def decode(self, kv_length: int, fed: dict[int, tuple[int, int]]) -> tuple[list[int], list[float]]:
        """Feed one token to each slot; return the likeliest next token and its log-probability, by slot.

        `fed` maps slots to (token, position). Slots it leaves out are idle: their results mean nothing, and
        they write into the last column, which a row that gets that far overwrites before it sees it.
        """
        idle = (_FILLER, kv_length - 1)
        rows = [fed.get(slot, idle) for slot in range(self._table.decode_rows)]
        tokens, positions = torch.tensor(rows, device=self._device).T[:, :, None].unbind()
        pool = self._pool(kv_length)
        pool.write_at(positions[:, 0])
        out = self._model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=distances(positions, kv_length),
            past_key_values=pool,
            use_cache=True,
        )
        logits = out.logits[:, -1].float()
        likeliest = logits.argmax(-1)
        chosen = logits.gather(1, likeliest[:, None])[:, 0]
        return likeliest.tolist(), (chosen - logits.logsumexp(-1)).tolist()

    def profile(self) -> ExecutionProfile:
        """Return what the bits of the output depend on besides the weights and the request."""
        on_cpu = self._device.type == "cpu"
        return ExecutionProfile(
            device="cpu" if on_cpu else torch.cuda.get_device_name(self._device),
            instruction_set=_cpu_kernels() if on_cpu else _cuda_kernels(self._device),
            dtype=self._compute,
            torch=str(torch.__version__),
            transformers=transformers.__version__,
            threads=torch.get_num_threads(),
            float32_matmul_precision=torch.get_float32_matmul_precision(),
            compiled=False,
            buckets=self._table.as_key(),
        )

    @torch.inference_mode()
    def _forward_prompts(self, prompts: Sequence[Sequence[int]], prefix: Layers, start: int) -> Layers:
        tokens = torch.tensor(prompts, device=self._device)
        length = tokens.shape[1]
        positions = torch.arange(start, start + length, device=self._device)[None]
        cache = PrefillCache(prefix)
        self._model.base_model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=distances(positions, start + length),
            past_key_values=cache,
            use_cache=True,
        )
        return cache.collected

    def _pool(self, kv_length: int) -> PoolCache:
        if kv_length not in self._pools:
            self._pools[kv_length] = PoolCache(self._table.decode_rows, kv_length, self._prefix)
        return self._pools[kv_length]


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
