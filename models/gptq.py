"""GPTQ: weights rounded in groups so that a layer's output on sample texts changes least.

optimum finds the roundings, with gptqmodel's code (the extra `gptq`), in a process of its own, for these
packages change more than they should of the process that imports them. What they write is read back here
without either of them, and dequantized as it is read.

Format: per linear layer, `qweight` (inputs / pack × outputs, int32, `pack` = 32 / bits values in each, lowest
first), `qzeros` (groups × outputs / pack, zero points less one), `scales` (groups × outputs) and `g_idx` (the
group of each input). As AutoGPTQ introduced it: https://github.com/AutoGPTQ/AutoGPTQ
Method: Frantar et al., GPTQ, https://arxiv.org/abs/2210.17323

In scope: writing and reading these weights. Not in scope: the rest of the folder (models.quantize).
"""

import json
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, PreTrainedModel

from models.config import ModelError
from models.load import halve_embeddings, load_weights

CONFIG = "quantize_config.json"

_GROUPS = (128, 64, 32)  # inputs that share a scale: the most that divide every layer's
_SAMPLES = 128
_LONGEST_SAMPLE = 512  # tokens


def write(source: Path, folder: Path, bits: int, samples: Iterable[list[int]]) -> None:
    """Write the weights of the model in `source`, its linear layers in `bits` (4 or 8), to `folder`.

    `samples` are texts as tokens, like those that the model will read. Raises ModelError.
    """
    if find_spec("gptqmodel") is None:
        raise ModelError("GPTQ takes packages that are not installed: install docmill[gptq]")
    texts = [tokens[:_LONGEST_SAMPLE] for tokens, _ in zip(samples, range(_SAMPLES), strict=False)]
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            process.submit(_write, source, folder, bits, texts).result()
    except ModelError:
        raise
    except Exception as error:  # whatever these packages raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{source.name} cannot be quantized by GPTQ: {reason}") from error


def _write(source: Path, folder: Path, bits: int, texts: list[list[int]]) -> None:
    _be_quiet()
    from optimum.gptq import GPTQQuantizer

    model = load_weights(source, torch.float32)
    layers = [m for m in model.base_model.modules() if isinstance(m, torch.nn.Linear)]
    group = next((g for g in _GROUPS if all(m.in_features % g == 0 for m in layers)), None)
    if not layers or group is None:
        raise ModelError(f"{source.name} has no linear layers that fall into groups: use it as it is")
    samples = [
        {"input_ids": torch.tensor([t]), "attention_mask": torch.ones(1, len(t)).long()} for t in texts
    ]
    quantizer = GPTQQuantizer(
        bits=bits,
        dataset=samples,
        group_size=group,
        desc_act=False,
        model_seqlen=_LONGEST_SAMPLE,
        backend="torch",
    )
    quantized = quantizer.quantize_model(model, None)
    halve_embeddings(quantized)
    quantizer.dataset = None  # it would be written down
    del quantized.config.quantization_config  # likewise
    quantizer.save(quantized, str(folder))
    described = {
        "bits": bits,
        "group_size": group,
        "sym": True,
        "desc_act": False,
        "checkpoint_format": "gptq",
    }
    (folder / CONFIG).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def _be_quiet() -> None:
    """Keep what the packages print from this process's terminal."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    sys.stdout.flush()
    for stream in (1, 2):
        os.dup2(nowhere, stream)


def read(folder: Path) -> PreTrainedModel:
    """Return the model in `folder` in float32. Raises what reading files and weights raises."""
    transformers.utils.logging.disable_progress_bar()
    config = AutoConfig.from_pretrained(folder)
    bits = json.loads((folder / CONFIG).read_bytes())["bits"]
    stored = {name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(file).items()}
    quantized = {name.removesuffix(".qweight") for name in stored if name.endswith(".qweight")}
    state = {name: tensor for name, tensor in stored.items() if name.rpartition(".")[0] not in quantized}
    for layer in quantized:
        parts = {part: stored[f"{layer}.{part}"] for part in ("qweight", "qzeros", "scales", "g_idx")}
        state[f"{layer}.weight"] = _dequantized(**parts, bits=bits)
        if f"{layer}.bias" in stored:
            state[f"{layer}.bias"] = stored[f"{layer}.bias"]
    model, report = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].from_pretrained(
        None, config=config, state_dict=state, dtype=torch.float32, output_loading_info=True
    )
    if missing := sorted(report["missing_keys"]):
        raise KeyError(missing[0])
    return model


def _dequantized(
    qweight: torch.Tensor, qzeros: torch.Tensor, scales: torch.Tensor, g_idx: torch.Tensor, bits: int
) -> torch.Tensor:
    """Return a layer's weights, outputs × inputs, in float32."""
    shifts, mask = torch.arange(0, 32, bits, dtype=torch.int32), (1 << bits) - 1
    values = (qweight[:, None, :] >> shifts[:, None] & mask).flatten(0, 1)
    zeros = (qzeros[:, :, None] >> shifts & mask).flatten(1) + 1
    group = g_idx.long()
    return ((values - zeros[group]) * scales.float()[group]).T.contiguous()
