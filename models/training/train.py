"""Training of the bundled model: a small Llama-shaped decoder that continues code with texts about it.

In scope: the model's shape, batches, the loss, the optimizers, checkpoints, the curve.
Not in scope: where examples come from (pairs, tokenizer), how good the result is (evaluate).

The schedule follows the tokens, so that a run may be killed, go on later, and share its machine: it makes the
same steps, to the bit on a CPU, with the same batches on a GPU. On a CPU one worker process per core, each
with one thread, keeps every core busy; a GPU has one worker, whose batches are made ahead by other processes.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch.nn import functional
from torch.optim import AdamW, Muon, Optimizer
from torch.utils.data import DataLoader
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

from models.training.tokenizer import (
    END_ID,
    MAX_ANSWER_TOKENS,
    MAX_PROMPT_TOKENS,
    SUMMARY_ID,
    VOCABULARY,
    Example,
)

SEED = 20261123
MASKED_SHARE = 0.3  # of the examples: with the name hidden, only the code can tell
CODE_WEIGHT = 0.3
SLOT_WEIGHT = 0.5  # of the tokens of parameters, results and exceptions: there are more of them
WHOLE_SHARE, FIRST_SHARE = 0.5, 0.2  # of the examples: all slots, the first alone; else the later ones
VALIDATION_PAIRS = 1000  # at least, if there are as many
CURVE = "curve.json"  # in a run's folder: the machine it ran on, and a point for each validation

_MATRIX_RATE, _EMBEDDING_RATE = 0.02, 0.004
_WARM_UP_STEPS = 50
_LARGEST_GRADIENT = 1.0
_SECONDS_BETWEEN = {"line": 20, "checkpoint": 240}
_VALIDATIONS = 20  # of a run
_IGNORED = -100
_ATTENTION = "causal-float32"
_WIDTHS = 16  # a batch is padded to a multiple of this many tokens: few shapes

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """What a run is to do."""

    folder: Path
    tokens: int  # to be read, padding included
    layers: int
    width: int
    padding: int  # token
    workers: int
    device: str = "cpu"
    bfloat16: bool = False  # products of matrices; weights and sums stay in float32, on a CPU attention too
    batch: int = 8192  # tokens that a worker reads in a step, padding included
    code_share: float = 0.15  # of the code's tokens that take part in the loss; they cost the output layer
    makers: int = 0  # processes that make batches ahead; with none the worker makes each before its step

    @property
    def steps(self) -> dict[str, Any]:
        """What the steps of a run follow from, besides the examples."""
        names = ("tokens", "layers", "width", "workers", "device", "bfloat16", "batch", "code_share")
        return {name: getattr(self, name) for name in names}


@dataclass
class Progress:
    """Where a run stands; kept in the checkpoint."""

    tokens: int = 0
    step: int = 0
    epoch: int = 0
    batches: int = 0  # of this epoch, of every worker
    seconds: float = 0.0  # pauses not counted
    best: float = float("inf")


class Drawn(NamedTuple):
    """An example as it is read this time."""

    example: int
    is_masked: bool
    part: slice  # of the answer
    length: int  # tokens


class Batch(NamedTuple):
    """Sequences, padded on the right, and what is to be learned from them."""

    ids: torch.Tensor  # rows x length
    places: torch.Tensor  # in the flattened ids: behind which tokens the next one counts
    targets: torch.Tensor  # those next tokens, one for each place
    weights: torch.Tensor  # how much each counts

    def to(self, device: str) -> "Batch":
        return Batch(*(part.to(device, non_blocking=True) for part in self))


def new_model(plan: Plan) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=plan.width,
        intermediate_size=3 * plan.width,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.width // 32,
        num_key_value_heads=2,
        max_position_embeddings=MAX_PROMPT_TOKENS + MAX_ANSWER_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=None,
        pad_token_id=plan.padding,
        eos_token_id=END_ID,
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation("sdpa" if plan.device == "cuda" else _ATTENTION)
    return model


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention in float32: on a CPU, its backward pass in bfloat16 takes up to six times as long."""
    with torch.autocast("cpu", enabled=False):
        mixed = functional.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), is_causal=True, enable_gqa=True
        )
    return mixed.transpose(1, 2), None


AttentionInterface.register(_ATTENTION, _attention)


def run(plan: Plan, train: list[Example], validation: list[Example]) -> None:
    """Train by `plan`, resuming from its folder; leave the best weights in `best` there.

    A single worker is this process.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    _meeting(plan).unlink(missing_ok=True)
    if plan.workers == 1:
        _work(0, plan, train, validation)
    else:
        torch.multiprocessing.spawn(_work, (plan, train, validation), nprocs=plan.workers)


def is_finished(plan: Plan) -> bool:
    """Whether the run has read its tokens."""
    state = _saved(plan)
    return state is not None and state["progress"]["tokens"] >= plan.tokens


def _machine(plan: Plan) -> str:
    """What a run computes on, in words."""
    if plan.device == "cuda":
        return f"one {torch.cuda.get_device_name()}"
    return f"{plan.workers} {'cores' if plan.workers > 1 else 'core'}"


def _meeting(plan: Plan) -> Path:
    return plan.folder / "meeting"


def _saved(plan: Plan) -> dict[str, Any] | None:
    path = plan.folder / "checkpoint.pt"
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


def _work(rank: int, plan: Plan, train: list[Example], validation: list[Example]) -> None:
    torch.manual_seed(SEED)
    if plan.workers > 1:
        torch.set_num_threads(1)
        meeting = f"file://{_meeting(plan)}"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=plan.workers)
    Trainer(rank, plan).train(train, validation)
    if plan.workers > 1:
        dist.destroy_process_group()


class Trainer:
    """One worker's share of a run; the first worker also validates and writes."""

    def __init__(self, rank: int, plan: Plan) -> None:
        self.rank, self.plan = rank, plan
        self.model = new_model(plan).to(plan.device)
        if plan.device == "cuda":
            for layer in self.model.model.layers:  # the same code, which is compiled once for all of them
                layer.compile(dynamic=True)
        self.optimizers = _optimizers(self.model)
        self.peaks = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]
        self.progress = Progress()
        self.curve: list[dict[str, float]] = []
        self._resume()
        self._last = dict.fromkeys(_SECONDS_BETWEEN, self.progress.seconds)

    def train(self, train: list[Example], validation: list[Example]) -> None:
        """Go on until the tokens of the plan are read."""
        start = time.monotonic() - self.progress.seconds
        while self.progress.tokens < self.plan.tokens:
            for batch in self._batches(train):
                loss = self._step(batch)
                self.progress.seconds = time.monotonic() - start
                if self.progress.tokens >= self.plan.tokens:
                    break
                if self.rank == 0:
                    self._look_after(loss, validation)
            else:
                self.progress.epoch += 1
                self.progress.batches = 0
        if self.rank == 0:
            self._validate(validation)
            self._checkpoint()

    def _look_after(self, loss: torch.Tensor, validation: list[Example]) -> None:
        if self._is_due("line"):
            print(f"{self._position()} loss {loss.item():.3f}", flush=True)
        if self.progress.tokens - self._validated >= self.plan.tokens / _VALIDATIONS:
            self._validate(validation)
        if self._is_due("checkpoint"):
            self._checkpoint()

    def _is_due(self, what: str) -> bool:
        due = self.progress.seconds - self._last[what] >= _SECONDS_BETWEEN[what]
        if due:
            self._last[what] = self.progress.seconds
        return due

    @property
    def _validated(self) -> float:
        """After how many tokens the last validation was."""
        return self.curve[-1]["tokens"] if self.curve else 0

    def _step(self, batch: Batch) -> torch.Tensor:
        self._set_rates(self.progress.tokens / self.plan.tokens)
        with self._products():
            loss = _loss(self.model, batch)
        loss.backward()
        self._average_gradients()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _LARGEST_GRADIENT)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.tokens += self._total(batch.ids.numel())
        return loss.detach()

    def _products(self) -> torch.autocast:
        return torch.autocast(self.plan.device, torch.bfloat16, enabled=self.plan.bfloat16)

    def _total(self, number: int) -> int:
        """The sum of what each worker has, so that all go by the same count."""
        if self.plan.workers == 1:
            return number
        total = torch.tensor([number])
        dist.all_reduce(total)
        return int(total.item())

    def _batches(self, examples: list[Example]) -> Iterator[Batch]:
        """Yield this worker's batches for what is left of the epoch."""
        epoch, workers = self.progress.epoch, self.plan.workers
        batches = _epoch(examples, np.random.default_rng([SEED, epoch]), self.plan.batch)
        if len(batches) < workers:
            raise ValueError(f"{len(examples)} examples are not a batch for each of {workers} workers")
        mine = range(self.progress.batches + self.rank, len(batches) // workers * workers, workers)
        chosen: Any = [(batches[index], (SEED, epoch, index)) for index in mine]  # a list can be a Dataset
        made: DataLoader[Batch] = DataLoader(
            chosen,
            batch_size=None,
            collate_fn=partial(_made, examples, self.plan),
            num_workers=self.plan.makers,
            prefetch_factor=4 if self.plan.makers else None,
            pin_memory=self.plan.device == "cuda",
        )
        for batch in made:
            self.progress.batches += workers
            yield batch.to(self.plan.device)

    def _set_rates(self, done: float) -> None:
        warm = min(1.0, (self.progress.step + 1) / _WARM_UP_STEPS)
        for optimizer, peak in zip(self.optimizers, self.peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * warm * max(0.0, 1 - done)

    def _average_gradients(self) -> None:
        if self.plan.workers == 1:
            return
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.plan.workers
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def _validate(self, validation: list[Example]) -> None:
        some = validation[:: max(1, len(validation) // VALIDATION_PAIRS)]
        with self._products():
            as_it_is, masked = (
                text_loss(self.model, self.plan, some, masked, _summary) for masked in (False, True)
            )
            slots = text_loss(self.model, self.plan, some, False, _further_slots)
        point = {
            "minutes": round(self.progress.seconds / 60, 1),
            "step": self.progress.step,
            "tokens": self.progress.tokens,
            "loss": round(as_it_is, 4),
            "loss_masked": round(masked, 4),
            "loss_slots": round(slots, 4),
        }
        self.curve.append(point)
        print(f"{self._position()} validation {point}", flush=True)
        if (mean := (as_it_is + masked) / 2) < self.progress.best:
            self.progress.best = mean
            self.model.save_pretrained(self.plan.folder / "best")
        found = {"machine": _machine(self.plan), "points": self.curve}
        (self.plan.folder / CURVE).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    def _checkpoint(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "plan": self.plan.steps,
            "progress": vars(self.progress),
            "curve": self.curve,
        }
        unfinished = self.plan.folder / "checkpoint.partial"
        torch.save(state, unfinished)
        unfinished.replace(self.plan.folder / "checkpoint.pt")

    def _resume(self) -> None:
        state = _saved(self.plan)
        if state is None:
            return
        if state["plan"] != self.plan.steps:
            raise ValueError(
                f"the run in {self.plan.folder} was begun by {state['plan']}, and cannot go on by "
                f"{self.plan.steps}: ask for the same, or remove the folder"
            )
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
        Muon(matrices, lr=_MATRIX_RATE, weight_decay=0.05, ns_steps=4),
        AdamW(rest, lr=_EMBEDDING_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def _epoch(examples: list[Example], random: np.random.Generator, tokens: int) -> list[list[Drawn]]:
    """Return all examples once, in batches of similar length and of so many tokens, in random order."""
    order = random.permutation(len(examples)).tolist()
    hidden = (random.random(len(examples)) < MASKED_SHARE).tolist()
    asked = random.random(len(examples)).tolist()
    pooled = tokens // 2  # examples that are sorted together: some fifty batches, the last of which is short
    batches = []
    for start in range(0, len(order), pooled):
        pool = [_drawn(examples[i], i, hidden[i], asked[i]) for i in order[start : start + pooled]]
        batches += _cut(sorted(pool, key=lambda drawn: drawn.length), lambda drawn: drawn.length, tokens)
    return [batches[index] for index in random.permutation(len(batches))]


def _drawn(example: Example, index: int, is_masked: bool, asked: float) -> Drawn:
    part = _asked(example, asked)
    prompt = example.masked_prompt if is_masked else example.prompt
    return Drawn(index, is_masked, part, len(prompt) + part.stop - part.start)


def _made(examples: list[Example], plan: Plan, one: tuple[list[Drawn], tuple[int, ...]]) -> Batch:
    """The batch that was drawn, and the seed by which it reads some of the code."""
    batch, seed = one
    sequences = [_sequence(examples[drawn.example], drawn.is_masked, drawn.part) for drawn in batch]
    return _batch(sequences, plan.padding, seed, plan.code_share)


def _asked(example: Example, drawn: float) -> slice:
    """The slots that are asked for this time, as a part of the answer.

    All of them, the first one alone (nothing else is missing), or later ones (the others are there, or were
    asked for before).
    """
    count = len(example.edges) - 1
    if count == 1 or drawn < WHOLE_SHARE:
        return _slots(example, 0, count)
    if drawn < WHOLE_SHARE + FIRST_SHARE:
        return _slots(example, 0, 1)
    rest = (drawn - WHOLE_SHARE - FIRST_SHARE) / (1 - WHOLE_SHARE - FIRST_SHARE)
    return _slots(example, 1 + int(rest * (count - 1)), count)


def _slots(example: Example, first: int, end: int) -> slice:
    """Some slots as a part of the answer, as many of them as a request has room for; it may be empty."""
    begin = example.edges[first]
    ends = example.edges[first : end + 1]
    return slice(begin, max(edge for edge in ends if edge - begin <= MAX_ANSWER_TOKENS))


def _summary(example: Example) -> slice:
    return _slots(example, 0, int(example.answer[0] == SUMMARY_ID))


def _further_slots(example: Example) -> slice:
    return _slots(example, int(example.answer[0] == SUMMARY_ID), len(example.edges) - 1)


def _sequence(example: Example, masked: bool, asked: slice) -> np.ndarray:
    """Return an example as two rows: its tokens, and what is to come after each.

    What is to come is marked by an offset: none for code, the vocabulary's size for a summary, twice that
    for the text of another slot. A text's last token has the end to come, which itself is never read; what
    opens a slot is given, and nothing to be learned.
    """
    prompt = (example.masked_prompt if masked else example.prompt).astype(np.int16)
    answer = example.answer[asked].astype(np.int16)
    is_text = answer >= VOCABULARY
    following = np.where(is_text[1:], answer[1:], np.where(is_text[:-1], END_ID + VOCABULARY, _IGNORED))
    following = np.append(following, END_ID + VOCABULARY)
    starts = np.flatnonzero(~is_text & np.concatenate([[True], is_text[:-1]]))
    after_summary = int([*starts, len(answer)][1]) if answer[0] == SUMMARY_ID else 0
    following[after_summary:] += np.where(following[after_summary:] >= VOCABULARY, VOCABULARY, 0)
    to_come = np.concatenate([prompt[1:], [_IGNORED], following])
    return np.stack([np.concatenate([prompt, answer % VOCABULARY]), to_come]).astype(np.int16)


def _cut(found: list[T], length: Callable[[T], int], tokens: int) -> list[list[T]]:
    """Cut what is sorted by its length into batches of at most so many tokens, if it is not longer itself."""
    batches: list[list[T]] = [[]]
    for one in found:  # sorted, so the last one is the longest
        if (len(batches[-1]) + 1) * _padded(length(one)) > tokens:
            batches.append([])
        batches[-1].append(one)
    return [batch for batch in batches if batch]


def _padded(length: int) -> int:
    return -(-length // _WIDTHS) * _WIDTHS


def _batch(sequences: list[np.ndarray], padding: int, seed: tuple[int, ...], code_share: float) -> Batch:
    """Put sequences below each other and choose what of them counts."""
    length = _padded(max(sequence.shape[1] for sequence in sequences))
    ids = np.full((len(sequences), length), padding)
    to_come = np.full((len(sequences), length), _IGNORED)
    for row, sequence in enumerate(sequences):
        ids[row, : sequence.shape[1]], to_come[row, : sequence.shape[1]] = sequence
    of_text = np.where(to_come >= 2 * VOCABULARY, SLOT_WEIGHT, np.where(to_come >= VOCABULARY, 1.0, 0.0))
    is_code = (to_come >= 0) & (to_come < VOCABULARY)
    is_code &= np.random.default_rng(seed).random(is_code.shape) < code_share
    weights = of_text / max(of_text.sum(), 1) + CODE_WEIGHT * is_code / max(is_code.sum(), 1)
    places = np.flatnonzero((of_text > 0) | is_code)
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(places),
        torch.from_numpy(to_come.ravel()[places] % VOCABULARY),
        torch.from_numpy(weights.ravel()[places].astype(np.float32)),
    )


def _loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Return the weighted loss; the output layer runs only where there is a target.

    Padding stands on the right, where a causal model cannot see it: no mask is needed.
    """
    hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden.flatten(0, 1).index_select(0, batch.places))
    losses = functional.cross_entropy(logits.float(), batch.targets, reduction="none")
    return (losses * batch.weights).sum()


@torch.inference_mode()
def text_loss(
    model: LlamaForCausalLM,
    plan: Plan,
    examples: list[Example],
    masked: bool,
    asked: Callable[[Example], slice],
) -> float:
    """Return the mean loss per token of the texts in the `asked` part of the answers."""
    parts = [(example, asked(example)) for example in examples]
    sequences = [_sequence(example, masked, part) for example, part in parts if part.start < part.stop]
    total, tokens = 0.0, 0
    sequences.sort(key=_length)
    for found in _cut(sequences, _length, plan.batch):
        batch = _batch(found, plan.padding, (SEED,), code_share=0.0)
        count = len(batch.targets)
        total += _loss(model, batch.to(plan.device)).item() * count
        tokens += count
    return total / max(tokens, 1)


def _length(sequence: np.ndarray) -> int:
    return int(sequence.shape[1])
