"""llama.cpp, Q8_0 weights: a peer of benchmarks/engine.py.

Runs in the virtual environment that `make peers` makes: `export FOLDER` writes the model as GGUF, `run FOLDER
PROMPTS NEW SHARE SAMPLE` measures. It is given tokens, not text, and is run as its own server runs it:
continuous batching, a batch of one token from every running sequence and the prompts of those that follow.
"""

import ctypes
import json
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from peer import SEPARATOR, WARM_UP, main

SETTINGS = [(sequences, unified) for sequences in (16, 32, 64) for unified in (True, False)]
BATCH_TOKENS = 512
BLOCK = 32  # weights that share a scale in Q8_0


def exported(folder: Path) -> Path:
    """Where the model lies as GGUF."""
    return folder.with_name(f"{folder.name}.gguf")


def export(folder: Path) -> None:
    """Write the model with Q8_0 weights, once."""
    import gguf
    import numpy as np

    target = exported(folder)
    if target.exists():
        return
    config = json.loads((folder / "config.json").read_text())
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    kind = config["model_type"]
    staged = target.with_name(f"{target.name}.part")
    writer = gguf.GGUFWriter(staged, kind)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(layers)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(size)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[kind.upper()], layers)
    for name, tensor in tensors(folder):
        if kind == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            tensor = interleaved(tensor, size)
        written = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if tensor.ndim == 2:
            assert tensor.shape[1] % BLOCK == 0
            q8 = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(written, gguf.quants.quantize(tensor, q8), raw_dtype=q8)
        else:
            writer.add_tensor(written, tensor.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    staged.rename(target)


def tensors(folder: Path) -> Iterator:
    """All weights, but for a head that is the embedding once more."""
    from safetensors.numpy import load_file

    for file in sorted(folder.glob("*.safetensors")):
        yield from ((n, t) for n, t in load_file(file).items() if n != "lm_head.weight")


def interleaved(weight, size: int):  # noqa: ANN001, ANN201 - numpy is not there outside this environment
    """Rows of a query or key projection in the order in which llama.cpp rotates Llama's pairs."""
    heads = weight.shape[0] // size
    return weight.reshape(heads, 2, size // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def run(folder: Path, prompts: list[str], new: int, sample: int) -> dict:
    """Measure at the best of a few numbers of sequences, with one KV cache for all or one for each."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    end = json.loads((folder / "tokenizer_config.json").read_text()).get("eos_token")
    end = tokenizer.token_to_id(end) if end else None
    separator = tokenizer.token_to_id(SEPARATOR)
    rows = [[*tokenizer.encode(p, add_special_tokens=False).ids, separator] for p in prompts]

    def generated(settings: tuple[int, bool], rows: list[list[int]]) -> tuple[int, float]:
        engine = Batches(exported(folder), *settings, max(map(len, rows)) + new, end)
        engine.generate(rows[:WARM_UP], new)
        start = time.perf_counter()
        written = engine.generate(rows, new)
        seconds = time.perf_counter() - start
        engine.close()
        return written, seconds

    some = rows[:: max(1, len(rows) // sample)]
    best = min(SETTINGS, key=lambda settings: generated(settings, some)[1])
    written, seconds = generated(best, rows)
    settings = f"{best[0]} sequences, {'one cache' if best[1] else 'a cache for each'}"
    return {"output": written, "prompt": sum(map(len, rows)), "seconds": seconds, "settings": settings}


class Batches:
    """A model that advances up to `sequences` texts at a time, each of at most `longest` tokens."""

    def __init__(self, file: Path, sequences: int, unified: bool, longest: int, end: int | None) -> None:
        import llama_cpp as llama
        import numpy as np

        self.llama, self.numpy, self.end, self.sequences = llama, np, end, sequences
        llama.llama_log_set(SILENT, None)
        llama.llama_backend_init()
        self.model = llama.llama_model_load_from_file(str(file).encode(), llama.llama_model_default_params())
        settings = llama.llama_context_default_params()
        settings.n_ctx = sequences * (-(-longest // 256) * 256)
        settings.n_seq_max = sequences
        settings.kv_unified = unified
        settings.n_batch = settings.n_ubatch = BATCH_TOKENS
        settings.n_threads = settings.n_threads_batch = len(os.sched_getaffinity(0))
        self.context = llama.llama_init_from_model(self.model, settings)
        self.memory = llama.llama_get_memory(self.context)
        self.batch = llama.llama_batch_init(BATCH_TOKENS, 0, 1)
        vocabulary = llama.llama_model_get_vocab(self.model)
        self.vocabulary = llama.llama_vocab_n_tokens(vocabulary)

    def close(self) -> None:
        """Free it all."""
        self.llama.llama_batch_free(self.batch)
        self.llama.llama_free(self.context)
        self.llama.llama_model_free(self.model)

    def generate(self, rows: list[list[int]], new: int) -> int:
        """Write up to `new` tokens after each row, greedily; how many were written in all."""
        waiting, free = deque(rows), list(range(self.sequences))
        running: dict[int, list[int]] = {}  # sequence → its last token, its length, tokens written
        written = 0
        while waiting or running:
            self.batch.n_tokens = 0
            asked: dict[int, int] = {}  # sequence → place in the batch
            # In the order of their numbers, which llama.cpp takes together in fewer parts.
            for sequence, (token, length, _) in sorted(running.items()):
                asked[sequence] = self.feed(sequence, [token], length)
            free.sort(reverse=True)
            while waiting and free and self.batch.n_tokens + len(waiting[0]) <= BATCH_TOKENS:
                row, sequence = waiting.popleft(), free.pop()
                asked[sequence] = self.feed(sequence, row, 0)
                running[sequence] = [0, len(row) - 1, 0]
            if self.llama.llama_decode(self.context, self.batch):
                raise SystemExit("llama.cpp found no room in its cache")
            written += len(asked)
            for sequence, place in asked.items():
                logits = self.llama.llama_get_logits_ith(self.context, place)
                token = int(self.numpy.ctypeslib.as_array(logits, (self.vocabulary,)).argmax())
                _, length, so_far = running[sequence]
                running[sequence] = [token, length + 1, so_far + 1]
                if token == self.end or so_far + 1 == new:
                    del running[sequence]
                    self.llama.llama_memory_seq_rm(self.memory, sequence, -1, -1)
                    free.append(sequence)
        return written

    def feed(self, sequence: int, tokens: list[int], start: int) -> int:
        """Put tokens of a sequence into the batch; the place of the last, whose logits are wanted."""
        batch = self.batch
        for position, token in enumerate(tokens, start):
            place = batch.n_tokens
            batch.token[place], batch.pos[place] = token, position
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, sequence
            batch.logits[place] = False
            batch.n_tokens += 1
        batch.logits[place] = True
        return place


SILENT = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)


if __name__ == "__main__":
    main(export, run)
