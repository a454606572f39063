"""Quantized models: a folder made once from another, and its weights read back.

Linear layers are quantized through optimum, by quanto or by GPTQ; embeddings are stored as bfloat16. The
folder is self-contained, appears at once or not at all, and carries the digest of every file, so that a
damaged one is noticed before it answers.

In scope: writing, finding and reading that folder. Not in scope: GPTQ's format (models.gptq), computing in
int8 (models.int8).
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from optimum.quanto import QModuleMixin, QTensor, QuantizedModelForCausalLM, qint4, qint8, qtype
from safetensors import SafetensorError
from transformers import AutoConfig, GenerationConfig, PreTrainedModel

from models import gptq, int8
from models.config import CorruptModelError, ModelError, UnsupportedModelError
from models.load import (
    META_FILE,
    TOKENIZER_FILES,
    fingerprint,
    halve_embeddings,
    load_tokenizer,
    load_weights,
    locate,
)
from models.machine import files_in
from models.staging import appearing, discard

_log = logging.getLogger(__name__)

_AGAIN = "run `docmill model prepare` on the model that it came from, which makes it again"
MANIFEST = "manifest.json"
QUANTIZATION_MAP = "quanto_qmap.json"
_LIBRARIES = ("optimum-quanto", "optimum", "transformers", "torch")


@dataclass(frozen=True)
class Method:
    """A way to store weights, as the manifest names it: quanto's type, or the number of GPTQ's bits."""

    name: str
    quanto: qtype | None = None
    gptq_bits: int = 0


METHODS = {
    "int8": Method("optimum-quanto qint8 per output channel", quanto=qint8),
    "int4": Method("optimum-quanto qint4 in groups of inputs", quanto=qint4),
    "gptq-int8": Method("GPTQ 8 bits in groups of inputs", gptq_bits=8),
    "gptq-int4": Method("GPTQ 4 bits in groups of inputs", gptq_bits=4),
}
_MARKS = (QUANTIZATION_MAP, gptq.CONFIG)  # files that only a quantized folder has


def method_of(folder: Path) -> str | None:
    """Return which of METHODS a folder was written by; None for a model that is not quantized.

    Raises CorruptModelError for a quantized folder that does not say, UnsupportedModelError for one that was
    not written here.
    """
    if not any((folder / name).is_file() for name in _MARKS):
        return None
    if (folder / gptq.CONFIG).is_file() and not (folder / MANIFEST).is_file():
        raise UnsupportedModelError(
            f"{folder.name} was quantized by GPTQ elsewhere, which is not served: use the model it came from"
        )
    said = _manifest(folder).get("method")
    for name, method in METHODS.items():
        if method.name == said:
            return name
    raise CorruptModelError(f"{folder.name}/{MANIFEST} names no method that is known")


def quantize_folder(source: Path, target: Path, method: str = "int8", samples: Iterable[str] = ()) -> Path:
    """Write the model in `source`, quantized, to `target`, and return `target`.

    `samples` are texts like those that the model will read, which GPTQ fits the weights to. What is there
    already is kept if it was made from the same bytes by the same method. Raises ModelError if `target` holds
    anything else, if `source` has no layer that can be quantized, or if what is written cannot be read.
    """
    if target.exists():
        return _kept(source, target, method)
    try:
        with appearing(target) as staged:
            _write(locate(str(source)), staged, METHODS[method], samples)
            _read_back(source, staged)
    except OSError:
        if not target.exists():
            raise
        return _kept(source, target, method)  # another process was faster
    return target


def prepare(model: str, method: str, home: Path, samples: Iterable[str] = ()) -> Path:
    """Return the folder under `home` that holds a model quantized, made if it is not there or is damaged.

    There is one for each revision of the model, by the digest of its files; `samples` are as for
    `quantize_folder`. Raises ModelError.
    """
    source = locate(model)
    if stored := method_of(source):
        raise ModelError(f"{model} is quantized already, as {stored}: prepare the model that it came from")
    load_tokenizer(source)  # without one nothing can be done with it
    target = _place(model, source, method, home)
    if target.exists():
        try:
            verify(target)
        except CorruptModelError:
            _log.warning("docmill: %s is damaged: making it again", target)
            discard(target)
    return quantize_folder(source, target, method, samples)


def prepared(model: str, method: str, home: Path) -> Path:
    """Return the folder of a model in the form that `method` names: its own, or one that was prepared.

    Raises ModelError if there is none, CorruptModelError if files of it are missing.
    """
    source = locate(model)
    if method_of(source) == method:
        return source
    if stored := method_of(source):
        raise ModelError(f"{model} is stored as {stored} only: use --quantize auto")
    target = _place(model, source, method, home)
    if not target.exists():
        raise ModelError(
            f"{model} is not there as {method}: run `docmill model prepare --method {method}` on it"
        )
    for name in _manifest(target)["files"]:  # before anything else is read of it
        if not (target / name).is_file():
            raise CorruptModelError(f"{target.name} is incomplete ({name} is missing): {_AGAIN}")
    return target


def _place(model: str, source: Path, method: str, home: Path) -> Path:
    name = re.sub(r"[^\w.-]+", "-", Path(model).name)
    return home / "models" / f"{name}-{method}-{_known_fingerprint(source, home)[:16]}"


def _known_fingerprint(source: Path, home: Path) -> str:
    """Return the fingerprint of a model, remembered as long as its files keep sizes and times."""
    of = json.dumps([str(source.resolve()), files_in(source)])
    file = home / "fingerprints" / hashlib.sha256(of.encode()).hexdigest()[:32]
    try:
        return file.read_text(encoding="ascii")
    except FileNotFoundError:
        found = fingerprint(source)
    with appearing(file) as staged:
        staged.write_text(found, encoding="ascii")
    return found


def load_quantized(folder: Path, compute: str) -> PreTrainedModel:
    """Return the quantized model in `folder`, ready to compute in `float32`, `bfloat16` or `int8`.

    In the first two its weights are dequantized as they are read. Raises CorruptModelError.
    """
    verify(folder)
    try:
        model: PreTrainedModel = (
            gptq.read(folder)
            if (folder / gptq.CONFIG).is_file()
            else QuantizedModelForCausalLM.from_pretrained(folder)._wrapped
        )
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise CorruptModelError(f"the weights of {folder.name} cannot be read: {error}") from error
    rows: int8.Rows = int8.Shared()
    for name, module in list(model.named_modules()):
        if isinstance(module, QModuleMixin):
            if not isinstance(module.weight, QTensor):  # quanto leaves what it does not find as it came
                raise CorruptModelError(
                    f"{folder.name} lacks the quantized weights of {name}: use another model"
                )
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
    """Return the manifest of a quantized folder after comparing every file with it.

    Raises CorruptModelError.
    """
    try:
        manifest = _manifest(folder)
        damaged = [name for name, digest in manifest["files"].items() if _digest(folder / name) != digest]
    except (OSError, ValueError, KeyError) as error:
        raise CorruptModelError(f"{folder.name} is incomplete ({error}): {_AGAIN}") from error
    if damaged:
        raise CorruptModelError(f"{folder.name}/{damaged[0]} is not what was written: {_AGAIN}")
    return manifest


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        found: Any = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise CorruptModelError(f"{folder.name} is incomplete ({error}): {_AGAIN}") from error
    if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
        raise CorruptModelError(f"{folder.name}/{MANIFEST} lists no files: {_AGAIN}")
    return found


def _read_back(source: Path, folder: Path) -> None:
    try:
        load_quantized(folder, "float32")
    except CorruptModelError as error:
        raise ModelError(f"{source.name} cannot be read back quantized: use it as it is") from error


def _kept(source: Path, target: Path, method: str) -> Path:
    if method_of(target) != method or verify(target).get("source") != fingerprint(source):
        raise ModelError(
            f"{target} exists and was not made from {source.name}: remove it, or name another folder"
        )
    return target


def _write(source: Path, folder: Path, method: Method, samples: Iterable[str]) -> None:
    if method.gptq_bits:
        tokenizer = load_tokenizer(source)
        tokens = (tokenizer.encode(text, add_special_tokens=False) for text in samples)
        gptq.write(source, folder, method.gptq_bits, tokens)
    else:
        _write_quanto(source, folder, method)
    config = AutoConfig.from_pretrained(source)
    config.dtype = torch.float32  # or else the type of the embeddings, in which all would be read back
    config.save_pretrained(folder)
    for name in (*TOKENIZER_FILES, META_FILE):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    libraries = (*_LIBRARIES, "gptqmodel") if method.gptq_bits else _LIBRARIES
    manifest = {
        "source": fingerprint(source),
        "method": method.name,
        "versions": {name: version(name) for name in libraries},
        "files": {path.name: _digest(path) for path in sorted(folder.iterdir())},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _write_quanto(source: Path, folder: Path, method: Method) -> None:
    model = load_weights(source, torch.float32)
    # A head that shares the embedding's weights stays with it: quantized apart, they would be stored twice.
    shared = _name_of(model, model.get_output_embeddings()) if model.config.tie_word_embeddings else ""
    try:
        quantized = QuantizedModelForCausalLM.quantize(model, weights=method.quanto, exclude=shared)
    except ValueError as error:
        raise ModelError(
            f"{source.name} has no linear layer that quanto quantizes: use it as it is"
        ) from error
    halve_embeddings(model)
    quantized.save_pretrained(folder)


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
