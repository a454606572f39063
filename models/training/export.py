"""The trained weights as the folder that docmill loads: int8, with tokenizer and description.

In scope: putting the folder together. Not in scope: the int8 format (models.quantize), the card (card).
"""

import json
import shutil
import tempfile
from pathlib import Path

from models.load import META_FILE, TOKENIZER_FILES
from models.quantize import quantize_folder
from models.training.tokenizer import MAX_PROMPT_TOKENS, SEPARATOR

PROMPT = "code-summary"  # the code as models.prompts writes it, then the separator


def store(weights: Path, tokenizer: Path, target: Path) -> None:
    """Write the model in `weights` to `target` as int8; files that are not the model's stay."""
    description = {
        "prompt": PROMPT,
        "separator": SEPARATOR,
        "kinds": ["function", "method", "property"],
        "slots": ["summary"],
        "max_prompt_tokens": MAX_PROMPT_TOKENS,
    }
    with tempfile.TemporaryDirectory() as scratch:
        whole, small = Path(scratch) / "docmill", Path(scratch) / "int8"
        shutil.copytree(weights, whole)
        for name in TOKENIZER_FILES:
            if (tokenizer / name).is_file():
                shutil.copyfile(tokenizer / name, whole / name)
        (whole / META_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        quantize_folder(whole, small)
        shutil.copytree(small, target, dirs_exist_ok=True)
