"""Products in int8 are exact, and a row's bits are its own."""

import json
import os
import shutil
import subprocess
import sys
import weakref
from dataclasses import replace

import pytest
import torch

from models import int8
from models.config import ModelConfig, ModelError
from models.engine import Engine, Request
from models.int8 import Int8Linear, PackedLinear, Shared, pack, unpack
from models.load import META_FILE, load
from models.quantize import quantize_folder

from .conftest import ARCHITECTURES, NEEDS_CPP, NEEDS_VNNI, check_any_company, code_prompts
from .test_engine import frames

NOT_QUANTIZED = {"gpt2", "gpt_neox"}  # no linear layer, and a head whose name in the file is another


@pytest.fixture
def in_int8(saved, tmp_path):
    """Give a freshly loaded tiny model that computes in int8."""

    def load_one(architecture="llama", tokenizer="numbers", **changes):
        folder = tmp_path / f"{architecture}-{tokenizer}"
        quantize_folder(saved(architecture, tokenizer, **changes), folder)
        return load(ModelConfig(model=str(folder), dtype="int8", device="cpu"))

    return load_one


def layer(inputs: int, outputs: int, bias: bool = True) -> Int8Linear:
    torch.manual_seed(inputs * outputs)
    return int8.from_float(torch.nn.Linear(inputs, outputs, bias=bias), Shared())


@NEEDS_VNNI
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 96), (200, 31), (4864, 8), (1, 1)])
def test_a_layer_adds_integers_and_scales_once(inputs, outputs):
    linear = layer(inputs, outputs)
    x = torch.randn(2, 3, inputs) * torch.logspace(-3, 3, 3)[:, None]
    largest = x.abs().amax(-1, keepdim=True)
    sums = (x * (127 / largest)).round().long() @ linear.weight.long().T
    assert sums.abs().max() < 2**31
    expected = sums.float() * linear.scale * (largest / 127) + linear.bias
    assert torch.equal(linear(x), expected)


@NEEDS_VNNI
@pytest.mark.parametrize("weight", [127, -127])
@pytest.mark.parametrize("value", [127.0, -127.0])
def test_extremes_neither_saturate_nor_divide_by_zero(weight, value):
    linear = Int8Linear(torch.full((4, 4096), weight, dtype=torch.int8), torch.ones(4), None, Shared())
    assert torch.equal(linear(torch.full((2, 4096), value)), torch.full((2, 4), value * weight * 4096))
    assert torch.equal(linear(torch.zeros(2, 4096)), torch.zeros(2, 4))


@NEEDS_VNNI
def test_where_kernels_are_kept_from_vnni_nothing_computes_in_int8():
    program = (
        "from models.config import ModelConfig; from models.load import load;"
        "print(load(ModelConfig(device='cpu'), lambda *_: True).compute)"
    )
    for limit, expected in (("AVX512_CORE", False), ("AVX512_CORE_VNNI", True)):
        environment = os.environ | {"ONEDNN_MAX_CPU_ISA": limit}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert (done.stdout.split()[-1] == "int8") == expected


@NEEDS_VNNI
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_row_is_the_same_in_any_company(threads):
    torch.set_num_threads(threads)
    linear = layer(96, 200)
    x = torch.randn(300, 96)
    together = linear(x)
    order = torch.randperm(300)
    assert torch.equal(linear(x[order]), together[order])
    for size in (1, 2, 7, 64, 129):
        assert torch.equal(linear(x[5 : 5 + size].clone()), together[5 : 5 + size])


@NEEDS_VNNI
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES.keys() - NOT_QUANTIZED))
def test_what_layers_share_is_of_their_own_input(in_int8, architecture, monkeypatch):
    model = in_int8(architecture).model
    tokens = torch.arange(4, 60).reshape(2, 28)
    with torch.inference_mode():
        shared = model(tokens).logits
        found = Shared.__call__
        monkeypatch.setattr(
            Shared, "__call__", lambda self, inputs, compute: found(self, inputs.clone(), compute)
        )
        assert torch.equal(model(tokens).logits, shared)


@NEEDS_CPP
@NEEDS_VNNI
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES.keys() - NOT_QUANTIZED))
def test_layers_that_are_one_product_keep_their_bits(in_int8, architecture, kernels):
    model = in_int8(architecture).model
    tokens = torch.arange(4, 60).reshape(2, 28)
    with torch.inference_mode():
        apart = model(tokens).logits
        pack(model)
        assert torch.equal(model(tokens).logits, apart)
        products = {id(m) for m in model.modules() if isinstance(m, PackedLinear)}
        pack(model)
        assert products == {id(m) for m in model.modules() if isinstance(m, PackedLinear)}
        assert not any(isinstance(module, Int8Linear) for module in model.modules())
        unpack(model)
        assert torch.equal(model(tokens).logits, apart)
        assert not any(isinstance(module, PackedLinear) for module in model.modules())


@NEEDS_CPP
@NEEDS_VNNI
def test_nothing_of_a_product_outlives_its_input(kernels):
    product = PackedLinear([layer(64, 40), layer(64, 30)])
    x = torch.randn(3, 64)
    kept = weakref.ref(product.outputs(x)[0])
    assert kept() is not None and product.outputs(x)[0] is kept()
    del x
    assert kept() is None
    gone = weakref.ref(product)
    del product
    assert gone() is None


@NEEDS_CPP
@NEEDS_VNNI
def test_layers_of_which_some_have_a_bias_are_products_of_their_own(kernels):
    parent = torch.nn.ModuleDict(
        {name: layer(64, 40, bias=name == "q_proj") for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
    )
    x = torch.randn(3, 64)
    expected = {name: child(x) for name, child in parent.items()}
    pack(parent)
    assert len({id(child.product) for child in parent.values()}) == 4
    assert all(torch.equal(child(x), expected[name]) for name, child in parent.items())


@NEEDS_VNNI
@pytest.mark.parametrize(("architecture", "threads"), [("llama", 1), ("llama", 3), ("gemma3_text", 2)])
def test_a_text_is_the_same_bit_for_bit_in_any_company(in_int8, code, architecture, threads):
    torch.set_num_threads(threads)
    loaded = replace(in_int8(architecture, "code", intermediate_size=200), tokenizer=code)
    engine = Engine(loaded, prefix="def f(x):\n")
    slots = [frames(("", 16)), frames(("x: ", 6), ("y: ", 6)), frames(("Returns", 3))]
    asked = [Request(str(n), prompt, slots[n % 3]) for n, prompt in enumerate(code_prompts(90))]
    check_any_company(engine, asked)


@NEEDS_VNNI
def test_it_is_close_to_the_same_weights_in_float32(saved, tmp_path):
    folder = quantize_folder(saved("llama"), tmp_path / "int8")
    tokens = torch.randint(4, 300, (16, 40))
    with torch.inference_mode():
        exact, rounded = (
            load(ModelConfig(model=str(folder), dtype=dtype, device="cpu")).model(tokens).logits
            for dtype in ("float32", "int8")
        )
    assert (exact.argmax(-1) == rounded.argmax(-1)).float().mean() > 0.85
    assert torch.nn.functional.cosine_similarity(exact, rounded, dim=-1).mean() > 0.99


@pytest.mark.parametrize(
    ("amx", "vnni", "meant", "compiled", "expected"),
    [
        (True, True, True, True, "int8"),
        (True, True, True, False, "bfloat16"),
        (True, True, False, True, "bfloat16"),
        (False, True, True, False, "int8"),
        (False, True, False, False, "float32"),
        (False, False, True, True, "float32"),
    ],
)
def test_the_type_follows_the_processor_and_the_model(
    saved, tmp_path, monkeypatch, amx, vnni, meant, compiled, expected
):
    source = shutil.copytree(saved("llama"), tmp_path / "source")
    (source / META_FILE).write_text(json.dumps({"int8_products": meant}))
    folder = quantize_folder(source, tmp_path / "int8")
    monkeypatch.setattr(int8, "_is_exact", lambda: True)
    capabilities = {"amx_bf16": amx, "avx512_vnni": vnni}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    loaded = load(ModelConfig(model=str(folder), device="cpu"), lambda *_: compiled)
    assert loaded.compute == expected
    assert any(isinstance(m, Int8Linear) for m in loaded.model.modules()) == (expected == "int8")
    assert Engine(loaded).profile.dtype == expected


def test_a_model_that_is_not_quantized_does_not_compute_in_int8(saved):
    with pytest.raises(ModelError, match="takes a model stored as int8"):
        load(ModelConfig(model=str(saved("llama")), dtype="int8", device="cpu"))
