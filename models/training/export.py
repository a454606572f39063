"""The trained weights as the folder that docmill loads: int8, with tokenizer and description.

In scope: putting the folder together. Not in scope: the int8 format (models.quantize), the card (card).
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.load import META_FILE, TOKENIZER_FILES
from models.quantize import MANIFEST, quantize_folder
from models.training.card import CARD
from models.training.evaluate import Task
from models.training.pairs import Subject
from models.training.tokenizer import MAX_ANSWER_TOKENS, MAX_PROMPT_TOKENS

_KINDS: dict[Subject, list[str]] = {
    "function": ["function", "method", "property"],
    "class": ["class"],
    "module": ["module", "package"],
}
_DESCRIPTION = {
    "prompt": "code-slots",  # the code and the marks of models.prompts
    "max_prompt_tokens": MAX_PROMPT_TOKENS,
    "max_answer_tokens": MAX_ANSWER_TOKENS,
}


def assemble(weights: Path, tokenizer: Path, plain_words: list[str], folder: Path) -> None:
    """Put weights and tokenizer into one `folder` that can be loaded, not quantized."""
    shutil.copytree(weights, folder, dirs_exist_ok=True)
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, folder / name)
    _describe(folder, {"plain_words": plain_words})


def store(whole: Path, floors: Mapping[Task, float], target: Path, *, int8_products: bool = False) -> None:
    """Write the model in `whole` to `target` as int8; other files there stay.

    It is asked for those tasks only, and silent where it is less sure than their floor. `int8_products` says
    that it was measured to lose nothing by multiplying in int8.
    """
    asks: dict[str, dict[str, float]] = {}
    for task, floor in floors.items():
        for kind in _KINDS[task.subject]:
            if kind != "property" or task.slot == "summary":
                asks.setdefault(kind, {})[task.slot] = round(floor, 3)
    before = json.loads((whole / META_FILE).read_text(encoding="utf-8"))
    _describe(whole, before | {"int8_products": int8_products, "asks": asks})
    with tempfile.TemporaryDirectory() as scratch:
        small = quantize_folder(whole, Path(scratch) / "int8")
        _make_room_for_the_card(small)
        shutil.copytree(small, target, dirs_exist_ok=True, copy_function=shutil.copyfile)


def _describe(folder: Path, description: dict[str, Any]) -> None:
    text = json.dumps(_DESCRIPTION | description, indent=2)
    (folder / META_FILE).write_text(text + "\n", encoding="utf-8")


def _make_room_for_the_card(folder: Path) -> None:
    """Drop the README that the libraries write: the card takes its place once the model is measured."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    manifest["files"].pop(CARD, None)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    (folder / CARD).unlink(missing_ok=True)
