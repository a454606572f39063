"""What loads, what is refused by name before weights are read, and what the fingerprint covers."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import AutoConfig, AutoModelForCausalLM, ByT5Tokenizer

import models.load
from models import machine
from models.config import (
    BundledModelMissingError,
    CorruptModelError,
    ModelConfig,
    ModelError,
    UnsupportedModelError,
)
from models.load import LoadedModel, fingerprint, load
from models.runner import _name_of_machine_code

from .conftest import random_model


@pytest.fixture
def folder(saved, tmp_path):
    """Give a copy of a tiny Llama's folder that a test may damage."""
    return shutil.copytree(saved("llama", "code"), tmp_path / "model")


def load_cpu(folder, **settings):
    return load(ModelConfig(model=str(folder), **{"device": "cpu", "dtype": "float32"} | settings))


def test_a_folder_loads_in_the_type_that_is_asked_for(folder):
    assert load_cpu(folder).model.dtype == torch.float32
    assert load_cpu(folder, dtype="bfloat16").model.dtype == torch.bfloat16


@pytest.mark.parametrize(("amx", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_the_type_follows_what_the_processor_is_fast_at(folder, monkeypatch, amx, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx, "avx512_bf16": True})
    assert load_cpu(folder, dtype="auto").model.dtype == expected


def test_rotary_frequencies_are_never_rounded(folder):
    assert load_cpu(folder, dtype="bfloat16").model.model.rotary_emb.inv_freq.dtype == torch.float32


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("mamba", "mamba, a state-space or hybrid model"),
        ("falcon_mamba", "state-space or hybrid"),
        ("rwkv", "state-space or hybrid"),
        ("jamba", "state-space or hybrid"),
        ("qwen3_next", r"hybrid model \(linear_attention layers\)"),
        ("mixtral", "mixtral, a mixture of experts"),
        ("qwen3_moe", "a mixture of experts"),
        ("t5", "t5, an encoder-decoder"),
        ("gemma3", "a multimodal model"),
        ("gemma2", "capped attention logits"),
        ("bloom", "bloom, on which the engine is not proved exact"),
        ("bert", "bert, on which the engine is not proved exact"),
    ],
)
def test_what_cannot_be_served_exactly_is_refused_by_name_without_weights(tmp_path, architecture, reason):
    AutoConfig.for_model(architecture).save_pretrained(tmp_path / "model")
    with pytest.raises(UnsupportedModelError, match=reason) as caught:
        load_cpu(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_quantized_forms_of_others_are_refused(folder):
    edit(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(UnsupportedModelError, match=r"quantized form that is not served \(gptq\)"):
        load_cpu(folder)


def test_an_unknown_architecture_and_remote_code_are_refused(folder):
    edit(folder / "config.json", model_type="my_own", auto_map={"AutoConfig": "evil.Config"})
    (folder / "evil.py").write_text("raise SystemExit('executed')")
    with pytest.raises(UnsupportedModelError, match="holds no model that can be read"):
        load_cpu(folder)


def test_the_bundled_model_may_be_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(models.load, "BUNDLED", tmp_path)
    with pytest.raises(BundledModelMissingError, match="--model none"):
        load(ModelConfig())


def test_the_bundled_model_is_found(monkeypatch, folder):
    monkeypatch.setattr(models.load, "BUNDLED", folder)
    assert load(ModelConfig()).fingerprint == fingerprint(folder)


def test_what_is_neither_folder_nor_id_is_said_so(tmp_path):
    with pytest.raises(ModelError, match="neither a folder nor an id"):
        load(ModelConfig(model=str(tmp_path / "none")))


def test_a_hub_model_is_judged_by_its_configuration_before_weights_are_fetched(monkeypatch, tmp_path):
    AutoConfig.for_model("mixtral").save_pretrained(tmp_path)
    asked = []
    monkeypatch.setattr(
        models.load, "snapshot_download", lambda _, allow_patterns: asked.extend(allow_patterns) or tmp_path
    )
    with pytest.raises(UnsupportedModelError, match="mixture of experts"):
        load(ModelConfig(model="owner/model"))
    assert "config.json" in asked
    assert not any("safetensors" in pattern for pattern in asked)


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    def unreachable(*_, **__):
        raise LocalEntryNotFoundError("no connection\nand more lines")

    monkeypatch.setattr(models.load, "snapshot_download", unreachable)
    with pytest.raises(ModelError, match=r"owner/model .* cannot be fetched from the hub: no connection$"):
        load(ModelConfig(model="owner/model"))


def test_pickled_weights_are_never_read(folder):
    weights = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no safetensors"):
        load_cpu(folder)


def test_damaged_or_foreign_weights_are_noticed(folder, saved):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptModelError, match="cannot be read"):
        load_cpu(folder)
    shutil.copyfile(saved("gpt2") / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(CorruptModelError, match=r"lack \S+ and \d+ more: fetch"):
        load_cpu(folder)


def test_weights_of_other_shapes_are_told_in_one_line(folder, capfd):
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(described | {"intermediate_size": 24}))
    capfd.readouterr()
    with pytest.raises(
        CorruptModelError, match=r"have other shapes than its config.json says .* and \d more"
    ):
        load_cpu(folder)
    assert capfd.readouterr() == ("", "")  # transformers would draw a table


def test_code_that_a_model_brings_is_not_run_and_nobody_is_asked_to(folder):
    described = json.loads((folder / "config.json").read_text())
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(described | own))
    (folder / "own.py").write_text("raise SystemExit('run')\n")
    with pytest.raises(UnsupportedModelError, match=r"it brings code of its own, which docmill never runs$"):
        load_cpu(folder)


def test_a_quantization_that_the_folder_does_not_have_is_an_error(folder):
    with pytest.raises(ModelError, match="is not stored as int8"):
        load_cpu(folder, quantize="int8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_said_so(folder):
    with pytest.raises(ModelError, match="no CUDA device"):
        load_cpu(folder, device="cuda")


def test_a_fingerprint_is_the_contents_and_nothing_else(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "elsewhere" / "other name")
    assert fingerprint(copy) == fingerprint(folder) == load_cpu(copy).fingerprint
    (copy / "docmill.json").write_text("{}")
    (copy / "README.md").write_text("a card")
    assert fingerprint(copy) == fingerprint(folder)


@pytest.mark.parametrize(
    "name",
    ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"],
)
def test_one_changed_byte_changes_the_fingerprint(folder, name):
    before = fingerprint(folder)
    with (folder / name).open("ab") as file:
        file.write(b" ")
    assert fingerprint(folder) != before


def test_what_a_model_is_for_comes_from_its_folder(folder):
    assert load_cpu(folder).meta.prompt is None
    (folder / "docmill.json").write_text(
        json.dumps({"prompt": "code-slots", "asks": {"function": {"summary": -1.5, "param": None}}})
    )
    meta = load_cpu(folder).meta
    assert (meta.prompt, meta.asks) == ("code-slots", {"function": {"summary": -1.5, "param": None}})
    (folder / "docmill.json").write_text('{"asks": {"function": {"summary": "high"}}}')
    with pytest.raises(CorruptModelError, match=r"asks\.function\.summary"):
        load_cpu(folder)
    for wrong, where in (
        ({"asks": {"function": {"description": None}}}, r"asks\.function\.description"),
        ({"max_answer_tokens": 10}, "max_answer_tokens"),
        ({"prompt": "code-summary"}, "prompt"),
        ({"ask": {}}, "ask"),
    ):
        (folder / "docmill.json").write_text(json.dumps(wrong))
        with pytest.raises(CorruptModelError, match=rf"docmill\.json: {where}\b"):
            load_cpu(folder)


def test_a_chat_template_is_split_where_the_prompt_goes(loaded):
    model = loaded("llama", "code")
    assert model.render_chat("Summarize:\n") == ("Summarize:\n", "\n")
    model.tokenizer.chat_template = (
        "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
    )
    try:
        before, after = model.render_chat("Summarize:\n")
    finally:
        model.tokenizer.chat_template = None  # the tokenizer is shared by the session
    assert (before, after) == ("<|turn|>user\nSummarize:\n", "<|end|><|turn|>assistant\n")


def test_a_text_begins_with_the_tokenizers_own_first_token_once(loaded, code):
    from tokenizers.processors import TemplateProcessing

    model = loaded("llama", "code")
    assert model.encode_opening("") == []
    begin = code.convert_tokens_to_ids("<|begin|>")
    beginning = type(code)(
        tokenizer_object=code.backend_tokenizer.__class__.from_str(code.backend_tokenizer.to_str())
    )
    beginning.add_special_tokens({"bos_token": "<|begin|>"})
    beginning.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", begin)]
    )
    model = models.load.LoadedModel(model.model, beginning, "", model.meta, "float32")
    assert model.encode_opening("") == [begin]
    assert model.encode_opening("<|begin|>def") == model.encode_opening("def")
    assert model.encode_opening("def")[0] == begin
    assert begin not in model.encode("def", trusted=True)


def test_the_context_ends_where_positions_would_depend_on_neighbours(loaded):
    plain = loaded()
    assert plain.context == 256
    plain.model.config.rope_parameters = {"rope_type": "longrope", "original_max_position_embeddings": 64}
    assert plain.context == 64


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_tokenizer_with_more_tokens_than_the_model_embeds_is_refused(tmp_path, code):
    folder = tmp_path / "mixed"
    random_model("llama", folder, vocab_size=200)
    code.save_pretrained(folder)
    with pytest.raises(
        ModelError, match=r"embeds 200 tokens, and its tokenizer makes number 3\d\d: they are"
    ):
        load(ModelConfig(model=str(folder), device="cpu"))


def test_a_special_token_without_an_embedding_does_no_harm_until_it_is_used(tmp_path, code):
    folder = tmp_path / "padded"
    tokenizer = copy.deepcopy(code)
    random_model("llama", folder, vocab_size=1 + max(tokenizer.get_vocab().values()))
    tokenizer.add_special_tokens({"pad_token": "<|further|>"})
    tokenizer.save_pretrained(folder)
    found = load(ModelConfig(model=str(folder), device="cpu"))
    assert found.encode("a <|further|> b", trusted=False)
    with pytest.raises(ModelError, match="they are of two models"):
        found.encode("a <|further|> b", trusted=True)


def test_a_tokenizer_that_only_python_runs_is_refused(tmp_path):
    folder = random_model("llama", tmp_path / "model")
    ByT5Tokenizer().save_pretrained(folder)
    with pytest.raises(UnsupportedModelError, match=r"the tokenizer of model has no tokenizer\.json"):
        load(ModelConfig(model=str(folder)))


@pytest.mark.parametrize("name", ["load.py", "passes.py", "kernels/ragged_attention.cpp"])
def test_code_that_decides_bits_is_part_of_every_key(tmp_path, monkeypatch, name):
    folder = tmp_path / "models"
    shutil.copytree(
        Path(machine.__file__).parent, folder, ignore=shutil.ignore_patterns("bundled", "training")
    )
    before = machine.code_digest()
    monkeypatch.setattr(machine, "__file__", str(folder / "machine.py"))
    assert machine.code_digest() == before
    (folder / name).write_text((folder / name).read_text() + "\n")
    assert machine.code_digest() != before


def test_passes_compiled_for_keys_of_another_type_have_another_name(loaded, monkeypatch):
    before = _name_of_machine_code(loaded())
    monkeypatch.setattr(LoadedModel, "kv_dtype", lambda self, *, packed: torch.bfloat16)
    assert _name_of_machine_code(loaded()) != before
