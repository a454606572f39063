"""CTranslate2, int8 weights: a peer of benchmarks/engine.py.

Runs in the virtual environment that `make peers` makes: `export FOLDER` writes the model in CTranslate2's
form, `run FOLDER PROMPTS NEW SHARE SAMPLE` measures. It is given tokens, not text.
"""

import json
import shutil
import tempfile
import time
from pathlib import Path

from peer import SEPARATOR, WARM_UP, main

BATCH_SIZES = (16, 32, 64)


def exported(folder: Path) -> Path:
    """Where the model lies in CTranslate2's form."""
    return folder.with_name(f"{folder.name}-ctranslate2")


def export(folder: Path) -> None:
    """Write the model with int8 weights, once."""
    from ctranslate2.converters import TransformersConverter

    target = exported(folder)
    if target.exists():
        return
    staged = target.with_name(f"{target.name}.part")
    with tempfile.TemporaryDirectory() as readable:
        shutil.copytree(folder, readable, dirs_exist_ok=True)
        settings = Path(readable) / "tokenizer_config.json"
        # The converter's transformers is older than the one that wrote this, and asks for all three.
        end = json.loads(settings.read_text()).get("eos_token", "<|pad|>")
        known = {"bos_token": end, "eos_token": end, "unk_token": "<|pad|>"}
        settings.write_text(json.dumps(known | {"tokenizer_class": "PreTrainedTokenizerFast"}))
        TransformersConverter(readable).convert(str(staged), quantization="int8", force=True)
    staged.rename(target)


def run(folder: Path, prompts: list[str], new: int, sample: int) -> dict:
    """Measure at the best of a few batch sizes; it sorts by length itself."""
    import ctranslate2
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    end = json.loads((folder / "tokenizer_config.json").read_text()).get("eos_token")
    rows = [[*tokenizer.encode(p, add_special_tokens=False).tokens, SEPARATOR] for p in prompts]
    generator = ctranslate2.Generator(
        str(exported(folder)), device="cpu", compute_type="int8", inter_threads=1
    )

    def generated(size: int, rows: list[list[str]]) -> tuple[int, float]:
        def generate(rows: list[list[str]]) -> int:
            results = generator.generate_batch(
                rows,
                max_batch_size=size,
                max_length=new,
                min_length=0 if end else new,
                end_token=[end] if end else None,
                include_prompt_in_result=False,
                sampling_topk=1,
                return_end_token=True,
            )
            return sum(len(result.sequences_ids[0]) for result in results)

        generate(rows[:WARM_UP])
        start = time.perf_counter()
        written = generate(rows)
        return written, time.perf_counter() - start

    some = rows[:: max(1, len(rows) // sample)]
    best = min(BATCH_SIZES, key=lambda size: generated(size, some)[1])
    written, seconds = generated(best, rows)
    return {"output": written, "prompt": sum(map(len, rows)), "seconds": seconds, "batch": best}


if __name__ == "__main__":
    main(export, run)
