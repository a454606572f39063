"""The bundled model's tokenizer: byte-level BPE over code and texts, and pairs as token sequences.

In scope: training the tokenizer, the layout of an example.
Not in scope: which pairs there are (pairs), batches (train).

Words are bare in code and carry their space in prose, whatever operator, dot or underscore precedes them, so
that `pool_size`, `self.pool.size` and `size = pool` share tokens. A line break with its indentation is one.
"""

import ast
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from models.prompts import (
    SLOT_MARKS,
    SLOT_TOKENS,
    Function,
    PromptError,
    elided,
    elided_outline,
    placed,
    slot_opening,
)
from models.training.pairs import Pair

VOCABULARY = 8192
MAX_PROMPT_TOKENS = 160
MAX_ANSWER_TOKENS = 192  # all slots of a request, with what stands before them
PADDING, END = "<|padding|>", "<|end|>"
_SPECIAL = [PADDING, END, *SLOT_MARKS.values()]  # the first tokens of the vocabulary
END_ID, SUMMARY_ID = _SPECIAL.index(END), _SPECIAL.index(SLOT_MARKS["summary"])

_CHUNK = 2000  # pairs that a process encodes at a time
_FIELDS = ("prompt", "masked_prompt", "answer")
_PIECES = Regex(r"\n *|self\.| ?[A-Z]?[a-z]+| ?[A-Z]+(?![a-z])| ?[0-9]{1,3}| ?[^\sA-Za-z0-9]+ ?|\s+")


def train(texts: Iterable[str], folder: Path) -> None:
    """Train on `texts` and save the tokenizer as a transformers folder."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_PIECES, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PADDING,
        additional_special_tokens=list(SLOT_MARKS.values()),
        clean_up_tokenization_spaces=False,
    )
    wrapped.save_pretrained(folder)


@dataclass(frozen=True)
class Example:
    """One pair as tokens: the prompt, its form with the name masked, and what follows either.

    `answer` is slot after slot: what opens it, then its text, whose tokens are marked by an offset of the
    vocabulary's size.
    """

    prompt: np.ndarray
    masked_prompt: np.ndarray
    answer: np.ndarray

    @cached_property
    def edges(self) -> list[int]:
        """Where in the answer the slots begin, and where the last one ends."""
        is_text = self.answer >= VOCABULARY
        begins = ~is_text[1:] & is_text[:-1]
        return [0, *(np.flatnonzero(begins) + 1).tolist(), len(self.answer)]


class Encoder:
    """Turns pairs into examples with one tokenizer."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.padding = self._special(PADDING)

    def examples(self, pairs: list[Pair]) -> list[Example]:
        """Return the examples of those pairs whose code can become a prompt."""
        return [example for pair in pairs if (example := self._example(pair)) is not None]

    def _example(self, pair: Pair) -> Example | None:
        prompt, masked = (self.prompt(pair, masked=masked) for masked in (False, True))
        if prompt is None or masked is None:
            return None
        answer: list[int] = []
        for slot, text in pair.texts.items():
            answer += self._ids(slot_opening(slot))
            answer += [token + VOCABULARY for token in self._ids(text)[: _most_tokens(slot)]]
        return Example(_array(self._ids(prompt)), _array(self._ids(masked)), _array(answer))

    def prompt(self, pair: Pair, *, masked: bool = False) -> str | None:
        """Return what the model reads of a pair, elided to fit; None where that cannot be done."""
        code = pair.masked_code if masked else pair.code
        whole = placed(code, pair.owner)
        try:
            return whole if self._fits(whole) else self._elided(pair, code)
        except PromptError:
            return None

    def _elided(self, pair: Pair, code: str) -> str:
        if pair.subject == "function":
            return elided(_function(code), pair.owner, self._fits)
        return elided_outline(code, self._fits)

    def _special(self, token: str) -> int:
        number = self.tokenizer.token_to_id(token)
        if number is None:
            raise ValueError(f"the tokenizer has no {token}: train it again")
        return number

    def _fits(self, code: str) -> bool:
        return len(code) < MAX_PROMPT_TOKENS * 16 and len(self._ids(code)) < MAX_PROMPT_TOKENS

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids


def examples(pairs: list[Pair], folder: Path, kept: Path) -> list[Example]:
    """Encode many pairs with the tokenizer in `folder`, on all cores, and keep them; or find those kept."""
    if not kept.exists():
        _keep(_encoded(pairs, folder), kept)
    with np.load(kept) as arrays:
        rows = (np.split(arrays[name], arrays[f"{name}_ends"][:-1]) for name in _FIELDS)
        return [Example(*row) for row in zip(*rows, strict=True)]


def _keep(found: list[Example], path: Path) -> None:
    """Write all examples behind each other, and where each ends."""
    arrays: dict[str, Any] = {}
    for name in _FIELDS:
        rows = [getattr(example, name) for example in found]
        arrays |= {name: np.concatenate(rows), f"{name}_ends": np.cumsum([len(row) for row in rows])}
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **arrays)
    partial.replace(path)


def _encoded(pairs: list[Pair], folder: Path) -> list[Example]:
    chunks = [pairs[start : start + _CHUNK] for start in range(0, len(pairs), _CHUNK)]
    with ProcessPoolExecutor() as pool:
        encoded = pool.map(_chunk_of_examples, chunks, [folder] * len(chunks))
        return [example for chunk in encoded for example in chunk]


def _chunk_of_examples(pairs: list[Pair], folder: Path) -> list[Example]:
    return Encoder(folder).examples(pairs)


def _function(code: str) -> Function:
    (node,) = ast.parse(code).body
    assert isinstance(node, Function)
    return node


def _most_tokens(slot: str) -> int:
    return SLOT_TOKENS[slot.partition(".")[0]] - 1  # one for its end


def _array(ids: list[int]) -> np.ndarray:
    return np.array(ids, dtype=np.uint16)
