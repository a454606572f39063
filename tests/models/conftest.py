"""Tiny random models in folders, two tokenizers, prompts: what the tests of this package run on.

`numbers` is a tokenizer whose text spells out its tokens ("17 4 250"), so that a test can compare tokens
through the public interface; `code` is a byte-level BPE trained on this package's own sources.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE, WordLevel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

import models
from models import int8
from models import kernels as cpp
from models.config import ModelConfig
from models.load import LoadedModel, load

NEEDS_CPP = pytest.mark.skipif(not shutil.which("g++"), reason="compiling takes a C++ compiler")
NEEDS_VNNI = pytest.mark.skipif(not int8.is_fast(), reason="products in int8 need AVX-512 VNNI")

VOCABULARY = 320
END = 3  # a token like any other for a random model, so that some texts end early

_LLAMA_LIKE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
_MIXED_LAYERS = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 7}
_FEW_POSITIONS = {"max_position_embeddings": 256, "num_hidden_layers": 2, "num_attention_heads": 4}

ARCHITECTURES: dict[str, dict] = {
    "cohere": _LLAMA_LIKE,
    "cohere2": _LLAMA_LIKE | _MIXED_LAYERS,
    "gemma": _LLAMA_LIKE | {"head_dim": 16},
    "gemma3_text": _LLAMA_LIKE | _MIXED_LAYERS | {"head_dim": 16},
    "glm": _LLAMA_LIKE | {"head_dim": 16, "pad_token_id": None},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "gpt_bigcode": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "gpt_neox": _FEW_POSITIONS | {"hidden_size": 64, "intermediate_size": 96},
    "granite": _LLAMA_LIKE | {"logits_scaling": 0.5, "residual_multiplier": 0.8},
    "llama": _LLAMA_LIKE,
    "mistral": _LLAMA_LIKE | {"sliding_window": 7},
    "olmo": _LLAMA_LIKE,
    "olmo2": _LLAMA_LIKE,
    "olmo3": _LLAMA_LIKE | _MIXED_LAYERS,
    "opt": _FEW_POSITIONS | {"hidden_size": 64, "ffn_dim": 96, "word_embed_proj_dim": 64},
    "phi": _LLAMA_LIKE,
    "phi3": _LLAMA_LIKE | {"sliding_window": 7, "pad_token_id": 0},
    "qwen2": _LLAMA_LIKE | _MIXED_LAYERS | {"use_sliding_window": True},
    "qwen3": _LLAMA_LIKE | {"head_dim": 16},
    "smollm3": _LLAMA_LIKE | {"no_rope_layers": [1, 0], "pad_token_id": 0},
    "starcoder2": _LLAMA_LIKE | {"sliding_window": 7},
}


def random_model(architecture: str, folder: Path, **changes) -> Path:
    """Save a tiny model whose greedy text is varied: large random weights, in biases and norms too."""
    settings = {"vocab_size": VOCABULARY, "eos_token_id": END, "bos_token_id": None}
    settings |= {"tie_word_embeddings": architecture in ("gpt2", "gemma")}
    config = AutoConfig.for_model(architecture, **settings | ARCHITECTURES[architecture] | changes)
    torch.manual_seed(len(architecture))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    embeddings = {id(model.get_input_embeddings().weight)}
    for parameter in model.parameters():
        if parameter.ndim < 2:
            parameter.data += 0.1 * torch.randn_like(parameter)
        elif id(parameter) in embeddings:
            parameter.data.normal_(std=0.3)
        else:
            parameter.data.normal_(std=2 / parameter.shape[-1] ** 0.5)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def kernels(tmp_path_factory):
    """Build the kernels, and make them known to torch."""
    file = tmp_path_factory.mktemp("kernels") / "kernels.so"
    cpp.build(file)
    cpp.load(file)
    return torch.ops.docmill


@pytest.fixture(scope="session")
def numbers(tmp_path_factory) -> PreTrainedTokenizerFast:
    words = {"end" if number == END else str(number): number for number in range(VOCABULARY)}
    core = Tokenizer(WordLevel(words, unk_token="0"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="end")


@pytest.fixture(scope="session")
def code() -> PreTrainedTokenizerFast:
    core = Tokenizer(BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|pad|>", "<|begin|>", "<|turn|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(sources(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|end|>", additional_special_tokens=["<|turn|>"]
    )


@pytest.fixture(scope="session")
def saved(tmp_path_factory, numbers, code):
    """Give the folder of a tiny model with one of the tokenizers, made once per session."""
    tokenizers = {"numbers": numbers, "code": code}
    folders: dict[tuple, Path] = {}

    def folder(architecture: str = "llama", tokenizer: str = "numbers", **changes) -> Path:
        key = (architecture, tokenizer, *sorted(changes.items()))
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp(architecture)
            random_model(architecture, folders[key], **changes)
            tokenizers[tokenizer].save_pretrained(folders[key])
        return folders[key]

    return folder


@pytest.fixture(scope="session")
def instruct(tmp_path_factory, code) -> Path:
    """Give the folder of a tiny model that has a chat template and says nothing of its training."""
    folder = tmp_path_factory.mktemp("instruct")
    random_model("qwen2", folder, max_position_embeddings=1024, vocab_size=len(code))
    code.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    code.save_pretrained(folder)
    code.chat_template = None  # the tokenizer is shared by the session
    return folder


@pytest.fixture
def loaded(saved, numbers, code):
    """Give a freshly loaded tiny model on the CPU."""

    def load_one(architecture="llama", tokenizer="numbers", dtype="float32", **changes) -> LoadedModel:
        folder = saved(architecture, tokenizer, **changes)
        model = load(ModelConfig(model=str(folder), dtype=dtype, device="cpu"))
        # For some architectures transformers puts a tokenizer class of its own in the place of the saved one.
        return replace(model, tokenizer={"numbers": numbers, "code": code}[tokenizer])

    return load_one


def sources() -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted(Path(models.__path__[0]).glob("*.py"))]


def number_prompts(count: int, longest: int = 60, seed: int = 0) -> list[str]:
    rng = Random(seed)
    return [
        " ".join(str(rng.randrange(END + 1, VOCABULARY)) for _ in range(rng.randint(1, longest)))
        for _ in range(count)
    ]


def check_any_company(engine, requests):
    """Check that each text is the same alone, among others and in any order; return them all."""
    together = engine.generate_all(requests)
    assert len({completion.texts for completion in together}) > len(requests) // 2
    shuffled = Random(1).sample(requests, len(requests))
    assert sorted(engine.generate_all(shuffled), key=lambda c: int(c.id)) == together
    for first in range(0, 30, 6):
        assert engine.generate_all([requests[first]]) == [together[first]]
        assert engine.generate_all(requests[first : first + 5]) == together[first : first + 5]
    return together


def code_prompts(count: int, longest: int = 100, seed: int = 0) -> list[str]:
    rng, text = Random(seed), "".join(sources())
    starts = [rng.randrange(len(text) - longest) for _ in range(count)]
    return [text[start : start + rng.randint(1, longest)] for start in starts]
