"""OpenVINO GenAI, continuous batching, int8 weights: a peer of benchmarks/engine.py.

Runs in the virtual environment that `make peers` makes: `export FOLDER` writes the model in OpenVINO's form,
`run FOLDER PROMPTS NEW SHARE SAMPLE` measures. It is given tokens, not text, so that its time holds no
tokenization.
"""

import json
import time
from pathlib import Path

from peer import SEPARATOR, WARM_UP, main

# Sequences at once, tokens in a step; the best on a sample counts.
SETTINGS = ((64, 512), (128, 1024), (256, 2048), (512, 4096))


def exported(folder: Path) -> Path:
    """Where the model lies in OpenVINO's form."""
    return folder.with_name(f"{folder.name}-openvino")


def export(folder: Path) -> None:
    """Write the model with int8 weights, once."""
    from optimum.exporters.openvino.convert import export_tokenizer
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig
    from transformers import AutoTokenizer

    target = exported(folder)
    if target.exists():
        return
    staged = target.with_name(f"{target.name}.part")
    config = OVWeightQuantizationConfig(bits=8, sym=True)
    model = OVModelForCausalLM.from_pretrained(folder, export=True, quantization_config=config)
    model.save_pretrained(staged)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(staged)
    export_tokenizer(tokenizer, staged)
    staged.rename(target)


def run(folder: Path, prompts: list[str], new: int, sample: int) -> dict:
    """Measure under the best of a few settings."""
    import numpy as np
    import openvino
    import openvino_genai
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    separator = tokenizer.token_to_id(SEPARATOR)
    end = json.loads((folder / "tokenizer_config.json").read_text()).get("eos_token")
    rows = [[*tokenizer.encode(p, add_special_tokens=False).ids, separator] for p in prompts]
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = new
    config.do_sample = False
    config.ignore_eos = end is None
    config.eos_token_id = tokenizer.token_to_id(end or "<|padding|>")  # there has to be one
    config.stop_token_ids = {config.eos_token_id}

    def generated(settings: tuple[int, int], rows: list[list[int]]) -> tuple[int, float]:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = 4
        scheduler.max_num_seqs, scheduler.max_num_batched_tokens = settings
        scheduler.enable_prefix_caching = False
        pipeline = openvino_genai.ContinuousBatchingPipeline(str(exported(folder)), scheduler, "CPU")

        def generate(rows: list[list[int]]) -> int:
            tensors = [openvino.Tensor(np.array([row], dtype=np.int64)) for row in rows]
            results = pipeline.generate(tensors, [config] * len(tensors))
            return sum(len(result.m_generation_ids[0]) for result in results)

        generate(rows[:WARM_UP])
        start = time.perf_counter()
        written = generate(rows)
        return written, time.perf_counter() - start

    some = rows[:: max(1, len(rows) // sample)]
    best = min(SETTINGS, key=lambda settings: generated(settings, some)[1])
    written, seconds = generated(best, rows)
    prompt = sum(map(len, rows))
    settings = f"{best[0]} sequences, {best[1]} tokens"
    return {"output": written, "prompt": prompt, "seconds": seconds, "settings": settings}


if __name__ == "__main__":
    main(export, run)
