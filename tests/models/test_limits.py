"""Prompts are counted without the model as they are counted with it."""

import pickle

import pytest

from .conftest import code_prompts


@pytest.mark.parametrize(
    "prompt", [*code_prompts(30), "", "a<|turn|>b", "<|end|>", "def f():\n  return 'ü→\\n'"]
)
def test_a_limit_is_what_the_engine_counts(loaded, prompt):
    model = loaded("llama", "code")
    tokens = len(model.encode(prompt, trusted=False))
    assert model.limit(tokens)(prompt)
    assert not model.limit(tokens - 1)(prompt)


def test_what_a_tokenizer_cuts_off_is_counted(loaded):
    model = loaded("llama", "code")
    model.tokenizer.backend_tokenizer.enable_truncation(3)
    try:
        assert not model.limit(3)("def f(a, b, c): return a")
    finally:
        model.tokenizer.backend_tokenizer.no_truncation()


def test_a_limit_can_be_sent_to_other_processes(loaded):
    limit = pickle.loads(pickle.dumps(loaded("llama", "code").limit(4)))  # noqa: S301 - written right here
    assert limit("a b")
    assert not limit("a b c d e f g h")
