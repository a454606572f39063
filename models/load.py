"""A model id or folder, turned into a model, its tokenizer and a fingerprint of its content.

In scope: finding the files, refusing by name what the engine cannot serve exactly (before weights are read),
device and compute type, the fingerprint, text to tokens and back, what a model says it was trained for.
Not in scope: running the model, quantized forms (`models.quantize`), downloads from anywhere but the hub.

Weights come from safetensors only and no code of a model is ever executed.
"""

import hashlib
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from models import int8
from models.config import (
    BUNDLED,
    BundledModelMissingError,
    CorruptModelError,
    ModelConfig,
    ModelError,
    UnsupportedModelError,
)
from models.limits import PromptLimit
from models.memory import memory_errors_named
from models.prompts import SLOT_MARKS, SLOT_TOKENS

META_FILE = "docmill.json"

# Architectures that tests/models/test_engine.py proves equal to transformers' own generate.
SERVED = frozenset(
    (
        *("cohere", "cohere2", "gemma", "gemma3_text", "glm", "gpt2", "gpt_bigcode", "gpt_neox", "granite"),
        *("llama", "mistral", "olmo", "olmo2", "olmo3", "opt", "phi", "phi3", "qwen2", "qwen3", "smollm3"),
        "starcoder2",
    )
)

_DESCRIPTION = ("config.json", "generation_config.json", "quanto_qmap.json", "quantize_config.json")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
_WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")

_ATTENTION_LAYERS = {"full_attention", "sliding_attention"}
_RECURRENT = {"rwkv", "xlstm"}  # whose configurations do not name their layers
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")

_PROMPT_MARK = "docmill-prompt-goes-here"


# Mean log-probability of a text's tokens below which it is not shown; None for no such limit.
Floor = Annotated[float, Field(le=0)] | None


# Those that a model can be trained for; each has a mark in models.prompts.
SlotKind = Annotated[str, Field(pattern=f"^({'|'.join(SLOT_MARKS)})$")]


class ModelMeta(BaseModel):
    """What a model was trained for, as `docmill.json` in its folder says; empty for a chat or plain model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Annotated[
        Literal["code-slots"] | None, Field(description="that of models.prompts, if it was trained on it")
    ] = None
    asks: Annotated[
        dict[str, dict[SlotKind, Floor]],
        Field(description="by kind of symbol and of slot, what it is asked for"),
    ] = {}
    plain_words: Annotated[
        tuple[str, ...] | None,
        Field(description="what its texts may say beside the words of the code; any words if there are none"),
    ] = None
    max_prompt_tokens: Annotated[int | None, Field(ge=16)] = None
    max_answer_tokens: Annotated[int | None, Field(ge=SLOT_TOKENS["summary"])] = None
    int8_products: Annotated[
        bool, Field(description="measured to lose nothing in models.int8, keys and values in bfloat16")
    ] = False


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run, its tokenizer, the digest of all that it was loaded from, and what it is for."""

    model: PreTrainedModel
    tokenizer: Any
    fingerprint: str
    meta: ModelMeta
    compute: str  # the type in which its linear layers multiply

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def context(self) -> int:
        """The number of positions within which those of a row do not depend on its neighbours."""
        return _context(self.model.config)

    def kv_dtype(self, *, packed: bool) -> torch.dtype:
        """Return the type of keys and values; `packed` is how a BucketTable is.

        Attention of packed passes is bound by memory, and beside products in int8 bfloat16 rounds little.
        """
        return torch.bfloat16 if packed and self.compute == "int8" else self.model.dtype

    def kv_bytes_per_token(self, *, packed: bool) -> int:
        """Return the size of one token's keys and values in all layers."""
        config = self.model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return 2 * config.num_hidden_layers * heads * size * self.kv_dtype(packed=packed).itemsize

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """The tokens that end a text."""
        declared = self.model.generation_config.eos_token_id
        declared = declared if isinstance(declared, list) else [declared]
        return frozenset({*declared, self.tokenizer.eos_token_id} - {None})

    def encode(self, text: str, *, trusted: bool) -> list[int]:
        """Return the tokens of a text; special tokens in it count as such only if it is `trusted`.

        Raises ModelError for one that the model has no embedding of.
        """
        tokens: list[int] = self.tokenizer.encode(
            text, add_special_tokens=False, split_special_tokens=not trusted
        )
        if trusted:  # of others, `load` knows
            self.refuse_unembedded(tokens)
        return tokens

    @property
    def ordinary_tokens(self) -> set[int]:
        """The tokens that any text may have: not those that are special, of which a model may lack some."""
        added = self.tokenizer.added_tokens_decoder
        return set(self.tokenizer.get_vocab().values()) - {
            number for number in added if added[number].special
        }

    def refuse_unembedded(self, tokens: Collection[int]) -> None:
        """Raise ModelError if the model has no embedding of one of these tokens."""
        rows = self.model.get_input_embeddings().num_embeddings
        if max(tokens, default=0) >= rows:
            raise ModelError(
                f"the model embeds {rows:,} tokens, and its tokenizer makes number {max(tokens):,}: "
                "they are of two models"
            )

    def limit(self, tokens: int) -> PromptLimit:
        """Return what tells whether a prompt, which is not trusted, has at most so many tokens."""
        return PromptLimit(self.tokenizer.backend_tokenizer.to_str(), tokens)

    def encode_opening(self, prefix: str) -> list[int]:
        """Return the tokens of a text that opens the input, with the tokenizer's own first token."""
        bos = self.tokenizer.bos_token_id
        tokens = self.encode(prefix, trusted=True)
        begins = bos is not None and self.tokenizer.encode("")[:1] == [bos]
        return [bos, *tokens] if begins and tokens[:1] != [bos] else tokens

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens, without special ones, byte for byte as the model wrote it."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def render_chat(self, instruction: str) -> tuple[str, str]:
        """Return what goes before and after a prompt that follows `instruction`, by the chat template.

        Before is the shared prefix, after opens the model's turn and begins the first frame. A model
        without a template gets the instruction as it is, and begins a line.
        """
        if not self.tokenizer.chat_template:
            return instruction, "\n"
        messages = [{"role": "user", "content": instruction + _PROMPT_MARK}]
        rendered = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        before, mark, after = rendered.partition(_PROMPT_MARK)
        if not mark:
            raise ModelError(f"the chat template of {self.model.name_or_path} drops the user's message")
        return before, after


def load(
    config: ModelConfig, is_compiled: Callable[[str, torch.device], bool] = lambda *_: False
) -> LoadedModel:
    """Return the model that `config` names, on its device and in its compute type, ready for the engine.

    `is_compiled` tells of a fingerprint, on a device, whether passes of that model will be compiled: which
    type is the fastest may depend on it. Raises BundledModelMissingError, UnsupportedModelError,
    CorruptModelError, OutOfMemoryError, or ModelError for what else is wrong.
    """
    from models.quantize import load_quantized, method_of  # it reads models through this module

    device = device_of(config.device)
    folder = locate(config.model)
    method, digest, meta = method_of(folder), fingerprint(folder), _meta(folder)
    compute = _compute(config.dtype, device, method, meta.int8_products, is_compiled(digest, device))
    if config.quantize not in ("auto", "none", method):
        raise ModelError(
            f"{config.model} is not stored as {config.quantize}: run `docmill model prepare` on it, "
            f"or use --quantize auto"
        )
    if config.quantize == "none" and method:
        raise ModelError(
            f"{config.model} is stored as {method} only: use --quantize auto, or the model that it came from"
        )
    with memory_errors_named():
        if method:
            model = load_quantized(folder, compute)
        else:
            model = load_weights(folder, torch.bfloat16 if compute == "bfloat16" else torch.float32)
        model.to(device).eval().requires_grad_(False)
    loaded = LoadedModel(model, load_tokenizer(folder), digest, meta, compute)
    loaded.refuse_unembedded(loaded.ordinary_tokens)
    return loaded


def locate(model: str) -> Path:
    """Return the folder of a model that the engine can serve, fetched if `model` is an id on the hub.

    The configuration is looked at before any weights are fetched. Raises as `load` does.
    """
    if model == "bundled":
        if not (BUNDLED / "config.json").is_file():
            raise BundledModelMissingError(
                "no model is bundled with this installation: use --model FOLDER, or --model none"
            )
        return _supported(BUNDLED)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _supported(folder)
    if not _HUB_ID.fullmatch(model):
        raise ModelError(f"{model} is neither a folder nor an id on the Hugging Face hub")
    _supported(_fetch(model, _DESCRIPTION))
    return _fetch(model, (*_DESCRIPTION, *TOKENIZER_FILES, *_WEIGHTS, META_FILE, "manifest.json"))


def fingerprint(folder: Path) -> str:
    """Return the hex SHA-256 of the files that decide a model's text: their names and bytes."""
    total = hashlib.sha256(b"docmill model 1")
    for path in sorted(
        {path for pattern in (*_DESCRIPTION, *TOKENIZER_FILES, *_WEIGHTS) for path in folder.glob(pattern)}
    ):
        with path.open("rb") as file:
            total.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def load_weights(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Return the model in `folder`, its safetensors converted to `dtype`. Raises CorruptModelError."""
    transformers.utils.logging.disable_progress_bar()
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder.name} has no safetensors: docmill loads weights from nothing else")
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # what does not fit is said below, and in one line
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below
        )
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise CorruptModelError(
            f"the weights of {folder.name} cannot be read: {_first_line(error)}"
        ) from error
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
    if mismatched := sorted(name for name, *_ in report["mismatched_keys"]):
        raise CorruptModelError(
            f"the weights of {folder.name} have other shapes than its config.json says "
            f"({_first_of(mismatched)}): fetch both again"
        )
    if missing := sorted(report["missing_keys"]):
        raise CorruptModelError(f"the weights of {folder.name} lack {_first_of(missing)}: fetch them again")
    return model


def _first_of(names: list[str]) -> str:
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]


def halve_embeddings(model: PreTrainedModel) -> None:
    """Store the embeddings of a model that is quantized as bfloat16, in place."""
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.weight.data = module.weight.data.to(torch.bfloat16)


def refuse_unsupported(config: PreTrainedConfig, name: str) -> None:
    """Raise UnsupportedModelError unless the engine is proved to serve this architecture exactly."""
    if reason := _obstacle(config):
        raise UnsupportedModelError(
            f"{name} is {config.model_type}, {reason}: use a decoder-only model with plain attention"
        )
    if config.model_type not in SERVED:
        raise UnsupportedModelError(
            f"{name} is {config.model_type}, on which the engine is not proved exact: "
            f"use one of {', '.join(sorted(SERVED))}"
        )


def _obstacle(config: PreTrainedConfig) -> str | None:
    foreign = sorted(set(getattr(config, "layer_types", None) or ()) - _ATTENTION_LAYERS)
    if config.is_encoder_decoder or getattr(config, "add_cross_attention", False):
        return "an encoder-decoder"
    if foreign or config.model_type in _RECURRENT:
        return f"a state-space or hybrid model ({', '.join(foreign) or 'recurrent'} layers)"
    if any(getattr(config, name, None) for name in _EXPERTS):
        return "a mixture of experts, whose text depends on its batch"
    if config.sub_configs:
        return "a multimodal model"
    if getattr(config, "attn_logit_softcapping", None):
        return "a model with capped attention logits"
    if method := getattr(config, "quantization_config", None):
        return f"stored in a quantized form that is not served ({_method(method)})"
    return None


def _method(quantization: Any) -> str:
    return str(
        quantization.get("quant_method") if isinstance(quantization, dict) else quantization.quant_method
    )


def _supported(folder: Path) -> Path:
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UnsupportedModelError(
            f"{folder.name} holds no model that can be read: {_why(error)}"
        ) from error
    refuse_unsupported(config, folder.name)
    return folder


def _why(error: Exception) -> str:
    if "trust_remote_code" in str(error):  # transformers would have it set
        return "it brings code of its own, which docmill never runs"
    return _first_line(error).rstrip(": ")


def _fetch(model: str, patterns: tuple[str, ...]) -> Path:
    try:
        return Path(snapshot_download(model, allow_patterns=list(patterns)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"{model} is no folder here and cannot be fetched from the hub: {_first_line(error)}"
        ) from error


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer in `folder`. Raises CorruptModelError or UnsupportedModelError."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise CorruptModelError(
            f"the tokenizer of {folder.name} cannot be read ({_why(error)}): is its tokenizer.json there?"
        ) from error
    if not tokenizer.is_fast:
        raise UnsupportedModelError(f"the tokenizer of {folder.name} has no tokenizer.json: save it with one")
    return tokenizer


def _meta(folder: Path) -> ModelMeta:
    path = folder / META_FILE
    if not path.is_file():
        return ModelMeta()
    try:
        return ModelMeta.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise CorruptModelError(
            f"{folder.name}/{META_FILE}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from error


def device_of(wanted: str) -> torch.device:
    """Return the device that `auto`, `cpu` or `cuda` means here. Raises ModelError where there is no CUDA."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            "no CUDA device is available to torch: use --device cpu, or install a torch built for CUDA"
        )
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def _compute(
    wanted: str, device: torch.device, method: str | None, meant_for_int8: bool, compiled: bool
) -> str:
    if wanted == "int8" and not (method == "int8" and device.type == "cpu" and int8.is_fast()):
        raise ModelError("to compute in int8 takes a model stored as int8 and a CPU with AVX-512 VNNI")
    if wanted != "auto":
        return wanted
    has_amx = bool(torch.cpu.get_capabilities().get("amx_bf16"))
    # Of products in int8, only the kernel of compiled passes is ahead of AMX in bfloat16.
    gains = device.type == "cpu" and (compiled or not has_amx)
    if gains and method == "int8" and meant_for_int8 and int8.is_fast():
        return "int8"
    # Without AMX, products in bfloat16 are slower than in float32, even where AVX-512 has them natively.
    return "bfloat16" if device.type == "cuda" or has_amx else "float32"


def _context(config: PreTrainedConfig) -> int:
    # Beyond its original length, "longrope" rotates all rows of a batch by what the longest of them needs.
    rope = getattr(config, "rope_parameters", None) or {}
    original = rope.get("original_max_position_embeddings") if rope.get("rope_type") == "longrope" else None
    return min(config.max_position_embeddings, original or config.max_position_embeddings)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
