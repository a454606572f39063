"""Settings refuse what makes no sense; a profile is the same plain values every time."""

import json

import pytest
from pydantic import ValidationError

from models.config import ExecutionProfile, GenerationConfig, ModelConfig

PROFILE = {
    "device": "cpu",
    "instruction_set": "x86_64 AVX512",
    "dtype": "bfloat16",
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "threads": 2,
    "float32_matmul_precision": "highest",
    "compiled": "",
    "code": "0f1e",
    "buckets": {"decode": [[64, 128]], "prefill": [[8, 32]], "prefix_length": 0},
}


@pytest.mark.parametrize(
    ("kind", "values", "fault"),
    [
        (ModelConfig, {"model": "  "}, "a model must be named"),
        (ModelConfig, {"quantize": "int3"}, "'auto', 'none', 'int8', 'int4', 'gptq-int8' or 'gptq-int4'"),
        (ModelConfig, {"device": "tpu"}, "'auto', 'cpu' or 'cuda'"),
        (ModelConfig, {"modle": "bundled"}, "Extra inputs are not permitted"),
        (GenerationConfig, {"max_prompt_tokens": 0}, "greater than or equal to 1"),
        (GenerationConfig, {"stop": ("\n", "")}, "an empty stop string"),
    ],
)
def test_settings_refuse_what_makes_no_sense_in_one_line(kind, values, fault):
    with pytest.raises(ValidationError) as caught:
        kind(**values)
    (error,) = caught.value.errors()
    assert fault in error["msg"]
    assert "\n" not in error["msg"]


@pytest.mark.parametrize("name", sorted(PROFILE))
def test_every_part_of_a_profile_is_in_its_key(name):
    other = {**PROFILE["buckets"], "prefix_length": 1} if name == "buckets" else f"other {PROFILE[name]}"
    changed = {"threads": 3, "compiled": "5e"}.get(name, other)
    key = ExecutionProfile(**PROFILE).as_key()
    assert ExecutionProfile(**PROFILE | {name: changed}).as_key() != key


def test_a_key_is_plain_sorted_values():
    key = ExecutionProfile(**dict(reversed(PROFILE.items()))).as_key()
    assert list(key) == sorted(PROFILE)
    assert json.loads(json.dumps(key)) == key == PROFILE
