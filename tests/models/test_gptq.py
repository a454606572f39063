"""GPTQ's format, packed by hand as its definition says, and what optimum writes in it."""

import shutil
from importlib.util import find_spec
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from flows.prepare_model import Method
from infra import cli
from models import gptq
from models.config import CorruptModelError, ModelConfig, ModelError, UnsupportedModelError
from models.engine import Engine, Frame, Request
from models.load import load
from models.quantize import METHODS, method_of, prepare, prepared, verify

from .conftest import number_prompts

GROUP = 32
installed = pytest.mark.skipif(not find_spec("gptqmodel"), reason="GPTQ takes docmill[gptq]")
absent = pytest.mark.skipif(bool(find_spec("gptqmodel")), reason="docmill[gptq] is installed")


def load_cpu(folder):
    return load(ModelConfig(model=str(folder), device="cpu", dtype="float32"))


def packed(values, bits):
    """Pack whole numbers along the first axis, the first in the lowest bits of an int32."""
    rows = values.long().unflatten(0, (-1, 32 // bits))
    total = sum(row << bits * place for place, row in enumerate(rows.unbind(1)))
    return torch.where(total >= 1 << 31, total - (1 << 32), total).to(torch.int32)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("in_order", [True, False])
def test_weights_packed_by_the_definition_come_back(saved, tmp_path, bits, in_order):
    torch.manual_seed(0)
    folder = shutil.copytree(saved("llama"), tmp_path / "packed")
    whole = load_file(folder / "model.safetensors")
    stored, wanted = dict(whole), {}
    for name in [name for name in whole if name.endswith("_proj.weight")]:
        layer, (outputs, inputs) = name.removesuffix(".weight"), whole[name].shape
        groups = inputs // GROUP
        values = torch.randint(0, 1 << bits, (inputs, outputs))
        zeros = torch.randint(1, 1 << bits, (groups, outputs))
        scales = torch.rand(groups, outputs).half()
        group = torch.arange(inputs) // GROUP
        group = group if in_order else group[torch.randperm(inputs)]
        del stored[name]
        stored[f"{layer}.qweight"] = packed(values, bits).contiguous()
        stored[f"{layer}.qzeros"] = packed((zeros - 1).T, bits).T.contiguous()
        stored[f"{layer}.scales"], stored[f"{layer}.g_idx"] = scales, group.to(torch.int32)
        wanted[name] = ((values - zeros[group]) * scales[group].float()).T
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    (folder / gptq.CONFIG).write_text(f'{{"bits": {bits}, "group_size": {GROUP}}}')
    model = gptq.read(folder)
    assert len(wanted) == 14
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, wanted.get(name, whole[name]))


def test_what_was_quantized_elsewhere_is_refused_by_name(saved, tmp_path):
    folder = shutil.copytree(saved("llama"), tmp_path / "elsewhere")
    (folder / gptq.CONFIG).write_text('{"bits": 4, "group_size": 128}')
    with pytest.raises(UnsupportedModelError, match="elsewhere was quantized by GPTQ elsewhere"):
        load_cpu(folder)


def test_every_way_to_name_a_method_knows_all():
    named = set(get_args(ModelConfig.model_fields["quantize"].annotation)) - {"auto", "none"}
    assert named == set(METHODS) == {method.value for method in Method} == set(cli._METHODS)


@absent
def test_without_the_extra_one_line_says_what_to_install(saved, tmp_path):
    with pytest.raises(ModelError, match=r"install docmill\[gptq\]"):
        prepare(str(saved("llama")), "gptq-int4", tmp_path, ["1 2 3"])
    assert not list((tmp_path / "models").iterdir())


@installed
@pytest.mark.parametrize(("method", "close"), [("gptq-int8", 0.999), ("gptq-int4", 0.7)])
def test_what_optimum_writes_is_read_and_close(saved, tmp_path, method, close):
    source = saved("llama")
    folder = prepare(str(source), method, tmp_path, number_prompts(40))
    assert method_of(folder) == method and prepared(str(source), method, tmp_path) == folder
    assert verify(folder)["versions"]["gptqmodel"]
    zeros = [t for name, t in load_file(folder / "model.safetensors").items() if name.endswith("qzeros")]
    assert zeros and all((t == (0x77777777 if method == "gptq-int4" else 0x7F7F7F7F)).all() for t in zeros)
    tokens = torch.arange(4, 60)[None]
    plain = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    loaded = load_cpu(folder)
    with torch.inference_mode():
        likeness = torch.nn.functional.cosine_similarity(
            loaded.model(tokens).logits, plain(tokens).logits, dim=-1
        )
    assert likeness.mean() > close
    requests = [Request(str(n), prompt, (Frame("", 8),)) for n, prompt in enumerate(number_prompts(20))]
    assert len({completion.texts for completion in Engine(loaded).generate_all(requests)}) > 15
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1])
    with pytest.raises(CorruptModelError, match="run `docmill model prepare` on"):
        load_cpu(folder)


@installed
def test_a_model_without_linear_layers_is_left_alone(saved, tmp_path):
    with pytest.raises(ModelError, match="no linear layers that fall into groups: use it as it is"):
        prepare(str(saved("gpt2")), "gptq-int4", tmp_path, number_prompts(4))
