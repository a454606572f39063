"""An int8 folder holds what quanto made of a model, all of it or nothing."""

import json
import shutil

import pytest
import torch
from optimum.quanto import QModuleMixin, freeze, qint8, quantize
from transformers import AutoModelForCausalLM

import models.quantize
from models.config import CorruptModelError, ModelConfig, ModelError
from models.engine import Engine, Frame, Request
from models.load import fingerprint, load
from models.quantize import method_of, prepare, prepared, quantize_folder

from .conftest import ARCHITECTURES, number_prompts


@pytest.fixture
def artefact(saved, tmp_path):
    return quantize_folder(saved("llama"), tmp_path / "int8")


def load_cpu(folder, dtype="float32", **settings):
    return load(ModelConfig(model=str(folder), device="cpu", dtype=dtype, **settings))


def test_weights_come_back_as_quanto_made_them(saved, artefact):
    reference = AutoModelForCausalLM.from_pretrained(saved("llama"), dtype=torch.float32)
    original = {name: parameter.clone() for name, parameter in reference.named_parameters()}
    quantize(reference, weights=qint8)
    freeze(reference)
    expected = {
        f"{name}.weight": module.weight.dequantize()
        for name, module in reference.named_modules()
        if isinstance(module, QModuleMixin)
    }
    assert len(expected) == 15  # seven linear layers in each of two blocks, and the head
    mine = dict(load_cpu(artefact).model.named_parameters())
    for name, weights in original.items():
        if name in expected:
            assert torch.equal(mine[name], expected[name])
            assert not torch.equal(mine[name], weights)
        else:
            stored = weights.bfloat16().float() if "embed" in name else weights
            assert torch.equal(mine[name], stored)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_reloaded_model_computes_like_the_same_weights_in_a_plain_one(saved, artefact, dtype, tmp_path):
    model = load_cpu(artefact, dtype).model
    assert not any(isinstance(module, QModuleMixin) for module in model.modules())
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
    plain = AutoModelForCausalLM.from_pretrained(saved("llama"), dtype=getattr(torch, dtype))
    plain.load_state_dict(model.state_dict())
    tokens = torch.arange(4, 60)[None]
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, plain(tokens).logits)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_what_is_written_is_close_to_what_it_was_made_from_or_not_written(saved, tmp_path, architecture):
    try:
        folder = quantize_folder(saved(architecture), tmp_path / "int8")
    except ModelError as error:
        assert architecture in ("gpt2", "gpt_neox")
        assert "use it as it is" in str(error)
        assert list(tmp_path.iterdir()) == []
        return
    tokens = torch.arange(4, 60).reshape(2, 28)
    with torch.inference_mode():
        original, mine = (load_cpu(f).model(tokens).logits for f in (saved(architecture), folder))
    assert torch.nn.functional.cosine_similarity(original, mine, dim=-1).mean() > 0.99


def test_the_engine_generates_from_it(artefact):
    requests = [Request(str(n), prompt, (Frame("", 8),)) for n, prompt in enumerate(number_prompts(20))]
    completions = Engine(load_cpu(artefact, "bfloat16")).generate_all(requests)
    assert len({completion.texts for completion in completions}) > 15


def test_a_shared_embedding_is_stored_once_and_stays_shared(saved, tmp_path):
    folder = quantize_folder(saved("llama", tie_word_embeddings=True), tmp_path / "tied")
    model = load_cpu(folder).model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert "lm_head" not in json.loads((folder / "quanto_qmap.json").read_text())


def test_the_folder_is_self_contained_and_smaller(saved, artefact, tmp_path):
    source = saved("llama")
    assert (artefact / "model.safetensors").stat().st_size < 0.5 * (
        source / "model.safetensors"
    ).stat().st_size
    manifest = json.loads((artefact / "manifest.json").read_text())
    assert manifest["source"] == fingerprint(source)
    assert set(manifest["files"]) == {path.name for path in artefact.iterdir()} - {"manifest.json"}
    moved = shutil.copytree(artefact, tmp_path / "moved")
    assert load_cpu(moved).fingerprint == load_cpu(artefact).fingerprint != fingerprint(source)
    assert load_cpu(moved).end_tokens == load_cpu(source).end_tokens


def test_quantizing_twice_gives_the_same_bytes(saved, artefact, tmp_path):
    again = quantize_folder(saved("llama"), tmp_path / "again")
    assert fingerprint(again) == fingerprint(artefact)


@pytest.mark.parametrize("name", ["model.safetensors", "quanto_qmap.json", "config.json", "tokenizer.json"])
def test_one_changed_byte_is_noticed(artefact, name):
    damaged = bytearray((artefact / name).read_bytes())
    damaged[-2] ^= 1
    (artefact / name).write_bytes(damaged)
    with pytest.raises((CorruptModelError, ModelError), match="int8") as caught:
        load_cpu(artefact)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json", "tokenizer.json"])
def test_a_missing_file_is_noticed(artefact, name):
    (artefact / name).unlink()
    with pytest.raises(CorruptModelError, match=r"is incomplete .*: run `docmill model prepare`"):
        load_cpu(artefact)


def test_a_failure_halfway_leaves_nothing(saved, tmp_path, monkeypatch):
    def fail(_):
        raise OSError("disk full")

    monkeypatch.setattr(models.quantize, "_digest", fail)
    with pytest.raises(OSError, match="disk full"):
        quantize_folder(saved("llama"), tmp_path / "int8")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_kept_if_it_is_the_same_and_never_overwritten(saved, artefact, tmp_path):
    before = {path.name: path.stat().st_mtime_ns for path in artefact.iterdir()}
    assert quantize_folder(saved("llama"), artefact) == artefact
    assert {path.name: path.stat().st_mtime_ns for path in artefact.iterdir()} == before
    with pytest.raises(ModelError, match="was not made from"):
        quantize_folder(saved("qwen3"), artefact)
    (tmp_path / "mine").mkdir()
    with pytest.raises(ModelError, match="remove it, or name another folder"):
        quantize_folder(saved("llama"), tmp_path / "mine")
    assert method_of(tmp_path / "mine") is None


def test_a_model_without_linear_layers_is_left_alone(saved, tmp_path):
    with pytest.raises(ModelError, match="no linear layer"):
        quantize_folder(saved("gpt2"), tmp_path / "int8")


def test_insisting_on_the_unquantized_form_is_an_error(artefact):
    with pytest.raises(ModelError, match="stored as int8 only"):
        load_cpu(artefact, quantize="none")
    assert load_cpu(artefact, quantize="int8").fingerprint == fingerprint(artefact)


@pytest.mark.parametrize("method", ["int8", "int4"])
def test_a_model_is_prepared_once_for_each_revision(saved, tmp_path, method):
    source = tmp_path / "source"
    shutil.copytree(saved("llama"), source)
    folder = prepare(str(source), method, tmp_path)
    assert method_of(folder) == method and prepared(str(source), method, tmp_path) == folder
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert prepare(str(source), method, tmp_path) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    (source / "generation_config.json").write_text("{}")
    assert prepare(str(source), method, tmp_path) != folder


def test_a_prepared_model_is_found_without_reading_the_weights_it_came_from(saved, tmp_path, monkeypatch):
    source = shutil.copytree(saved("llama"), tmp_path / "source")
    folder = prepare(str(source), "int8", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(models.quantize, "fingerprint", None)
        assert prepared(str(source), "int8", tmp_path) == folder
    weights = source / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    with pytest.raises(ModelError, match="is not there as int8"):
        prepared(str(source), "int8", tmp_path)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.safetensors", lambda whole: whole[:100]),
        ("manifest.json", lambda whole: whole[:100]),
        *(("manifest.json", lambda _, text=text: text) for text in (b"null", b"[]", b"{}", b'{"files": []}')),
    ],
)
def test_a_damaged_one_is_made_again(saved, tmp_path, name, damage):
    folder = prepare(str(saved("llama")), "int8", tmp_path)
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    assert prepare(str(saved("llama")), "int8", tmp_path) == folder
    load_cpu(folder)


def test_int4_is_smaller_still_and_not_computed_in_int8(saved, tmp_path):
    sizes = {
        method: (prepare(str(saved("llama")), method, tmp_path) / "model.safetensors").stat().st_size
        for method in ("int8", "int4")
    }
    assert sizes["int4"] < sizes["int8"] < (saved("llama") / "model.safetensors").stat().st_size
    with pytest.raises(ModelError, match="stored as int8"):
        load_cpu(prepared(str(saved("llama")), "int4", tmp_path), "int8")


def test_what_was_not_prepared_says_how(saved, tmp_path):
    with pytest.raises(ModelError, match="run `docmill model prepare --method int4` on it"):
        prepared(str(saved("llama")), "int4", tmp_path)
