"""Models as int8: a folder made once from another, and its weights read back.

Linear layers are quantized by optimum-quanto, one scale per output channel; embeddings are stored as
bfloat16. The folder is self-contained, appears at once or not at all, and carries the digest of every file,
so that a damaged one is noticed before it answers.

In scope: writing and reading that folder. Not in scope: which model to quantize and where to keep it (a
flow), computing in int8 (models.int8).
"""

import hashlib
import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from optimum.quanto import QModuleMixin, QTensor, QuantizedModelForCausalLM, qint8
from safetensors import SafetensorError
from transformers import GenerationConfig, PreTrainedModel

from models import int8
from models.config import CorruptModelError, ModelError
from models.load import META_FILE, TOKENIZER_FILES, fingerprint, load_weights, locate
from models.staging import appearing

MANIFEST = "manifest.json"
QUANTIZATION_MAP = "quanto_qmap.json"
METHOD = "optimum-quanto qint8 per output channel"


def is_quantized(folder: Path) -> bool:
    """Tell whether `folder` was written by `quantize_folder`."""
    return (folder / QUANTIZATION_MAP).is_file()


def quantize_folder(source: Path, target: Path) -> Path:
    """Write the model in `source` as int8 to `target`, and return `target`.

    What is there already is kept if it was made from the same bytes. Raises ModelError if `target` holds
    anything else, if `source` has no layer that can be quantized, or if what is written cannot be read.
    """
    if target.exists():
        return _kept(source, target)
    with appearing(target) as staged:
        _write(locate(str(source)), staged)
        _read_back(source, staged)
    return target


def load_quantized(folder: Path, compute: str) -> PreTrainedModel:
    """Return the int8 model in `folder`, ready to compute in `float32`, `bfloat16` or `int8`.

    In the first two its weights are dequantized as they are read. Raises CorruptModelError.
    """
    verify(folder)
    try:
        model: PreTrainedModel = QuantizedModelForCausalLM.from_pretrained(folder)._wrapped
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise CorruptModelError(f"the int8 weights of {folder.name} cannot be read: {error}") from error
    rows = int8.Rows()
    for name, module in list(model.named_modules()):
        if isinstance(module, QModuleMixin):
            if not isinstance(module.weight, QTensor):  # quanto leaves what it does not find as it came
                raise CorruptModelError(f"{folder.name} lacks the int8 weights of {name}: use another model")
            _replace(model, name, _in_int8(module, rows) if compute == "int8" else _dequantized(module))
    dtype = torch.bfloat16 if compute == "bfloat16" else torch.float32
    for parameter in model.parameters():  # not model.to(dtype), which would round the rotary frequencies too
        parameter.data = parameter.data.to(dtype)
    head = model.get_output_embeddings()
    if compute == "int8" and isinstance(head, torch.nn.Linear):  # stored as the embedding it shares
        _replace(model, _name_of(model, head), int8.from_float(head, rows))
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


def verify(folder: Path) -> dict[str, Any]:
    """Return the manifest of an int8 folder after comparing every file with it. Raises CorruptModelError."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
        damaged = [name for name, digest in manifest["files"].items() if _digest(folder / name) != digest]
    except (OSError, ValueError, KeyError) as error:
        raise CorruptModelError(f"{folder.name} is incomplete ({error}): quantize the model again") from error
    if damaged:
        raise CorruptModelError(
            f"{folder.name}/{damaged[0]} is not what was written: quantize the model again"
        )
    return manifest


def _read_back(source: Path, folder: Path) -> None:
    try:
        load_quantized(folder, "float32")
    except CorruptModelError as error:
        raise ModelError(f"{source.name} cannot be read back as int8: use it as it is") from error


def _kept(source: Path, target: Path) -> Path:
    if not is_quantized(target) or verify(target)["source"] != fingerprint(source):
        raise ModelError(
            f"{target} exists and was not made from {source.name}: remove it, or name another folder"
        )
    return target


def _write(source: Path, folder: Path) -> None:
    model = load_weights(source, torch.float32)
    # A head that shares the embedding's weights stays with it: quantized apart, they would be stored twice.
    shared = _name_of(model, model.get_output_embeddings()) if model.config.tie_word_embeddings else ""
    try:
        quantized = QuantizedModelForCausalLM.quantize(model, weights=qint8, exclude=shared)
    except ValueError as error:
        raise ModelError(
            f"{source.name} has no linear layer that quanto quantizes: use it as it is"
        ) from error
    _halve_embeddings(model)
    quantized.save_pretrained(folder)
    model.config.dtype = torch.float32  # or else the type of the embeddings, in which all would be read back
    model.config.save_pretrained(folder)
    for name in (*TOKENIZER_FILES, META_FILE):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    manifest = {
        "source": fingerprint(source),
        "method": METHOD,
        "versions": {name: version(name) for name in ("optimum-quanto", "optimum", "transformers", "torch")},
        "files": {path.name: _digest(path) for path in sorted(folder.iterdir())},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _halve_embeddings(model: PreTrainedModel) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.weight.data = module.weight.data.to(torch.bfloat16)


def _dequantized(module: QModuleMixin) -> torch.nn.Linear:
    linear = torch.nn.Linear(
        module.in_features, module.out_features, bias=module.bias is not None, device="meta"
    )
    linear.weight = torch.nn.Parameter(module.weight.dequantize())
    linear.bias = module.bias
    return linear


def _in_int8(module: QModuleMixin, rows: int8.Rows) -> int8.Int8Linear:
    return int8.Int8Linear(module.weight._data, module.weight._scale.flatten(), module.bias, rows)


def _replace(model: PreTrainedModel, name: str, module: torch.nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)


def _name_of(model: PreTrainedModel, wanted: torch.nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
