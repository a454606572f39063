"""Training of the bundled model: a small Llama-shaped decoder that continues code with its summary.

In scope: the model's shape, batches, the loss, the optimizers, checkpoints, the curve.
Not in scope: where examples come from (pairs, tokenizer), how good the result is (evaluate).

The schedule follows the clock, so that the run takes the minutes it was given on whatever machine; two runs
with one seed see the same examples in the same order, but not for the same number of steps. One worker
process per core, each with one thread, keeps every core busy on a machine that is shared.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn import functional
from torch.optim import AdamW, Muon, Optimizer
from transformers import LlamaConfig, LlamaForCausalLM

from models.training.tokenizer import MAX_PROMPT_TOKENS, MAX_SUMMARY_TOKENS, VOCABULARY, Example

SEED = 20261122
MASKED_SHARE = 0.3  # of the examples: with the name hidden, only the code can tell
CODE_SHARE = 0.15  # of the code's tokens that take part in the loss; the output layer is what they cost
CODE_WEIGHT = 0.3
TOKENS_PER_BATCH = 4096  # of one worker
POOL = 4096  # examples sorted by length together
VALIDATION_PAIRS = 1000

_MATRIX_RATE, _EMBEDDING_RATE = 0.02, 0.004
_WARM_UP_STEPS = 50
_LARGEST_GRADIENT = 1.0
_SECONDS_BETWEEN_CHECKPOINTS = 240
_SECONDS_BETWEEN_VALIDATIONS = 480
_SECONDS_BETWEEN_LINES = 20
_IGNORED = -100


@dataclass
class Progress:
    """Where a run stands; kept in the checkpoint."""

    seconds: float = 0.0
    step: int = 0
    epoch: int = 0
    batches: int = 0  # of this epoch, of every worker
    tokens: int = 0
    best: float = float("inf")


def new_model(layers: int, width: int, padding: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=2,
        max_position_embeddings=MAX_PROMPT_TOKENS + MAX_SUMMARY_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=None,
        pad_token_id=padding,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config)


def run(
    train: list[Example],
    validation: list[Example],
    padding: int,
    folder: Path,
    minutes: float,
    shape: tuple[int, int],
) -> None:
    """Train for `minutes` in total, resuming from `folder`; leave the best weights in `folder/best`."""
    folder.mkdir(parents=True, exist_ok=True)
    workers = os.cpu_count() or 1
    meeting = folder / "meeting"
    meeting.unlink(missing_ok=True)
    arguments = (workers, meeting, train, validation, padding, folder, minutes * 60, shape)
    torch.multiprocessing.start_processes(_worker, arguments, nprocs=workers, start_method="fork")


def is_finished(folder: Path, minutes: float) -> bool:
    """Whether the run in `folder` has had its `minutes`."""
    state = _saved(folder)
    return state is not None and state["progress"]["seconds"] >= minutes * 60


def _saved(folder: Path) -> dict[str, Any] | None:
    path = folder / "checkpoint.pt"
    return torch.load(path, weights_only=True) if path.exists() else None


def _worker(
    rank: int,
    workers: int,
    meeting: Path,
    train: list[Example],
    validation: list[Example],
    padding: int,
    folder: Path,
    seconds: float,
    shape: tuple[int, int],
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=workers)
    Trainer(rank, workers, padding, folder, shape).train(train, validation, seconds)
    dist.destroy_process_group()


class Trainer:
    """One worker's share of a run; the first worker also validates and writes."""

    def __init__(self, rank: int, workers: int, padding: int, folder: Path, shape: tuple[int, int]) -> None:
        self.rank, self.workers, self.padding, self.folder = rank, workers, padding, folder
        self.model = new_model(*shape, padding)
        self.optimizers = _optimizers(self.model)
        self.peaks = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]
        self.progress = Progress()
        self.curve: list[dict[str, float]] = []
        self._resume()

    def train(self, train: list[Example], validation: list[Example], budget: float) -> None:
        last = time.monotonic()
        checkpointed = validated = reported = self.progress.seconds
        while self._share_clock() < budget:
            for batch in self._batches(train):
                loss = self._step(batch, self.progress.seconds / budget)
                now = time.monotonic()
                self.progress.seconds += now - last
                last = now
                if self._share_clock() >= budget:
                    break
                if self.rank:
                    continue
                if self.progress.seconds - reported > _SECONDS_BETWEEN_LINES:
                    reported = self.progress.seconds
                    print(f"{self._position()} loss {loss:.3f}", flush=True)
                if self.progress.seconds - validated > _SECONDS_BETWEEN_VALIDATIONS:
                    validated = self.progress.seconds
                    self._validate(validation)
                if self.progress.seconds - checkpointed > _SECONDS_BETWEEN_CHECKPOINTS:
                    checkpointed = self.progress.seconds
                    self._checkpoint()
            else:
                self.progress.epoch += 1
                self.progress.batches = 0
        if self.rank == 0:
            self._validate(validation)
            self._checkpoint()

    def _step(self, batch: list[np.ndarray], done: float) -> float:
        self._set_rates(done)
        ids, targets, weights = _tensors(batch, self.padding, self.progress.step * self.workers + self.rank)
        loss = _loss(self.model, ids, targets, weights)
        loss.backward()
        self._average_gradients()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _LARGEST_GRADIENT)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.tokens += ids.numel() * self.workers
        return loss.item()

    def _batches(self, examples: list[Example]) -> Iterator[list[np.ndarray]]:
        """Yield this worker's batches for what is left of the epoch."""
        random = np.random.default_rng([SEED, self.progress.epoch])
        batches = _epoch(examples, random)
        batches = batches[: len(batches) // self.workers * self.workers]
        for start in range(self.progress.batches, len(batches), self.workers):
            self.progress.batches = start + self.workers
            yield batches[start + self.rank]

    def _set_rates(self, done: float) -> None:
        warm = min(1.0, (self.progress.step + 1) / _WARM_UP_STEPS)
        for optimizer, peak in zip(self.optimizers, self.peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * warm * max(0.0, 1 - done)

    def _share_clock(self) -> float:
        """Let every worker go by the first one's clock, so that all make the same number of steps."""
        clock = torch.tensor([self.progress.seconds], dtype=torch.float64)
        dist.broadcast(clock, 0)
        self.progress.seconds = clock.item()
        return self.progress.seconds

    def _average_gradients(self) -> None:
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.workers
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def _validate(self, validation: list[Example]) -> None:
        as_it_is, masked = (
            summary_loss(self.model, validation[:VALIDATION_PAIRS], self.padding, masked)
            for masked in (False, True)
        )
        point = {
            "minutes": round(self.progress.seconds / 60, 1),
            "step": self.progress.step,
            "tokens": self.progress.tokens,
            "loss": round(as_it_is, 4),
            "loss_masked": round(masked, 4),
        }
        self.curve.append(point)
        print(f"{self._position()} validation {point}", flush=True)
        if (mean := (as_it_is + masked) / 2) < self.progress.best:
            self.progress.best = mean
            self.model.save_pretrained(self.folder / "best")
        (self.folder / "curve.json").write_text(json.dumps(self.curve, indent=1) + "\n", encoding="utf-8")

    def _checkpoint(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": vars(self.progress),
            "curve": self.curve,
        }
        partial = self.folder / "checkpoint.partial"
        torch.save(state, partial)
        partial.replace(self.folder / "checkpoint.pt")

    def _resume(self) -> None:
        state = _saved(self.folder)
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.progress = Progress(**state["progress"])
        self.curve = state["curve"]

    def _position(self) -> str:
        now = self.progress
        rate = now.tokens / max(now.seconds, 1)
        return f"{now.seconds / 60:5.1f} min, epoch {now.epoch}, step {now.step}, {rate:,.0f} tokens/s,"


def _optimizers(model: LlamaForCausalLM) -> list[Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings and norms."""
    matrices = [parameter for parameter in model.model.layers.parameters() if parameter.ndim == 2]
    inside = {id(parameter) for parameter in matrices}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    return [
        Muon(matrices, lr=_MATRIX_RATE, weight_decay=0.01, ns_steps=4),
        AdamW(rest, lr=_EMBEDDING_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def _epoch(examples: list[Example], random: np.random.Generator) -> list[list[np.ndarray]]:
    """Return all examples once, in batches of similar length and in random order."""
    order = random.permutation(len(examples))
    hidden = random.random(len(examples)) < MASKED_SHARE
    batches = []
    for start in range(0, len(order), POOL):
        pool = [_sequence(examples[index], bool(hidden[index])) for index in order[start : start + POOL]]
        batches += _cut(sorted(pool, key=len), TOKENS_PER_BATCH)
    return [batches[index] for index in random.permutation(len(batches))]


def _sequence(example: Example, masked: bool) -> np.ndarray:
    """Return an example's tokens, those of the summary marked by an offset of the vocabulary's size."""
    prompt = example.masked_prompt if masked else example.prompt
    return np.concatenate([prompt.astype(np.int64), example.summary.astype(np.int64) + VOCABULARY])


def _cut(sequences: list[np.ndarray], tokens: int) -> list[list[np.ndarray]]:
    batches: list[list[np.ndarray]] = [[]]
    for sequence in sequences:  # sorted, so the last one is the longest
        if (len(batches[-1]) + 1) * len(sequence) > tokens:
            batches.append([])
        batches[-1].append(sequence)
    return [batch for batch in batches if batch]


def _tensors(
    batch: list[np.ndarray], padding: int, seed: int, code_share: float = CODE_SHARE
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ids, the next token where it counts for the loss, and how much it counts."""
    length = max(map(len, batch))
    marked = np.full((len(batch), length), _IGNORED)
    for row, sequence in enumerate(batch):
        marked[row, : len(sequence)] = sequence
    ids = np.where(marked < 0, padding, marked % VOCABULARY)
    following = np.full_like(marked, _IGNORED)
    following[:, :-1] = marked[:, 1:]
    is_summary = following >= VOCABULARY
    is_code = (following >= 0) & ~is_summary
    is_code &= np.random.default_rng([SEED, seed]).random(is_code.shape) < code_share
    targets = np.where(is_summary | is_code, following % VOCABULARY, _IGNORED)
    weights = is_summary / max(is_summary.sum(), 1) + CODE_WEIGHT * is_code / max(is_code.sum(), 1)
    return torch.from_numpy(ids), torch.from_numpy(targets), torch.from_numpy(weights.astype(np.float32))


def _loss(
    model: LlamaForCausalLM, ids: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Return the weighted loss; the output layer runs only where there is a target.

    Padding stands on the right, where a causal model cannot see it: no mask is needed.
    """
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    counts = targets != _IGNORED
    logits = model.lm_head(hidden[counts])
    return (functional.cross_entropy(logits, targets[counts], reduction="none") * weights[counts]).sum()


@torch.inference_mode()
def summary_loss(model: LlamaForCausalLM, examples: list[Example], padding: int, masked: bool) -> float:
    """Return the mean loss per token of the summaries."""
    sequences = sorted((_sequence(example, masked) for example in examples), key=len)
    total, tokens = 0.0, 0
    for batch in _cut(sequences, TOKENS_PER_BATCH):
        ids, targets, weights = _tensors(batch, padding, 0, code_share=0.0)
        count = int((targets != _IGNORED).sum())
        total += _loss(model, ids, targets, weights).item() * count
        tokens += count
    return total / tokens
