"""Compiled passes against the same passes as they are, and against themselves in other company."""

import json
import subprocess
import sys

import pytest
import torch
import torch._inductor.config as inductor

from models.config import ModelConfig, ModelError
from models.engine import Engine, Frame, Request
from models.load import load
from models.quantize import quantize_folder

from .conftest import NEEDS_CPP, NEEDS_VNNI, check_any_company, code_prompts, random_model

pytestmark = NEEDS_CPP

PREFIX = "def f(x):\n"


@pytest.fixture
def three_threads():
    """Split tensors unevenly."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Where compiled passes lie, and the kernels that all of them call."""
    return tmp_path_factory.mktemp("compiled")


def no_compiler():
    return inductor.patch({"cpp.cxx": ("no-such-compiler",)})


def asked():
    slots = [(Frame("", 16),), (Frame("x: ", 6), Frame("y: ", 6)), (Frame("Returns", 3),)]
    return [Request(str(n), prompt, slots[n % 3]) for n, prompt in enumerate(code_prompts(120))]


def test_texts_are_those_of_the_plain_passes(loaded, tmp_path):
    plain = Engine(loaded("qwen2", "code"), prefix=PREFIX).generate_all(asked())
    depth = sys.getrecursionlimit()
    engine = Engine(loaded("qwen2", "code"), prefix=PREFIX, compiled=tmp_path)
    assert sys.getrecursionlimit() == depth  # how deep a file may be nested hangs on it
    compiled = check_any_company(engine, asked())
    assert engine.profile.compiled
    same = sum(a.texts == b.texts for a, b in zip(plain, compiled, strict=True))
    assert same >= 118  # two choices of 120 may be tosses-up between equally likely tokens
    with no_compiler():
        again = Engine(loaded("qwen2", "code"), prefix=PREFIX, compiled=tmp_path)
    assert again.generate_all(asked()[:8]) == compiled[:8]
    for name in ("kernels.so", "pass.pt2"):  # machine code that is damaged must not be run
        file = next(tmp_path.rglob(name))
        damaged = file.read_bytes()[:1000]
        file.unlink()  # this process still runs what it holds
        file.write_bytes(damaged)
    mended = Engine(loaded("qwen2", "code"), prefix=PREFIX, compiled=tmp_path)
    assert mended.generate_all(asked()[:8]) == compiled[:8]
    assert all(file.stat().st_size > 1000 for file in tmp_path.rglob("*.so"))


def test_bfloat16_in_any_company(loaded, home, three_threads):
    check_any_company(
        Engine(loaded("llama", "code", "bfloat16", intermediate_size=200), compiled=home), asked()
    )


@NEEDS_VNNI
def test_int8_in_any_company(tmp_path, home, code, three_threads):
    source = random_model("llama", tmp_path / "whole", intermediate_size=200)
    code.save_pretrained(source)
    quantized = quantize_folder(source, tmp_path / "int8")
    check_any_company(
        Engine(load(ModelConfig(model=str(quantized), dtype="int8")), prefix=PREFIX, compiled=home),
        asked(),
    )


def test_without_a_compiler_one_line_says_so(loaded, tmp_path):
    with no_compiler(), pytest.raises(ModelError, match=r"compiled here .*C\+\+ compiler") as raised:
        Engine(loaded(), compiled=tmp_path)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.rglob("*.pt2"))


def test_a_kernel_that_refuses_what_it_is_given_is_not_taken_for_one_without_memory(
    loaded, home, three_threads
):
    engine = Engine(loaded("llama", "code", "bfloat16", intermediate_size=200), compiled=home)
    engine.generate_all(asked()[:2])
    for pool in engine._runner._pools.values():
        pool[:] = [part.transpose(1, 2).contiguous().transpose(1, 2) for part in pool]
    with pytest.raises(RuntimeError, match="ragged_attention"):
        engine.generate_all(asked()[:2])


# Every limit that is too small lies a little above what the process holds; some stop torch, some a kernel.
_RUNS_OUT = """
import json, resource, sys
from pathlib import Path
from models.config import ModelConfig, OutOfMemoryError
from models.engine import Engine, Frame, Request
from models.load import load

engine = Engine(load(ModelConfig(model=sys.argv[1], dtype="int8")), compiled=Path(sys.argv[2]))
requests = [Request(str(n), "def f(x):\\n" * (20 + n), (Frame("", 8),)) for n in range(12)]
before = engine.generate_all(requests)
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
failed = []
for more in range(0, 64 << 20, 2 << 20):
    resource.setrlimit(resource.RLIMIT_AS, (held + more, -1))
    try:
        engine.generate_all(requests)
    except OutOfMemoryError as error:
        failed.append(str(error.__cause__))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
print(json.dumps([failed, before == engine.generate_all(requests)]))
"""


@NEEDS_VNNI
def test_running_out_of_memory_has_its_name_inside_of_kernels_too(tmp_path, home, code):
    source = random_model("llama", tmp_path / "whole", intermediate_size=8192)
    code.save_pretrained(source)
    quantized = quantize_folder(source, tmp_path / "int8")
    command = [sys.executable, "-c", _RUNS_OUT, str(quantized), str(home)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    failed, unharmed = json.loads(done.stdout)
    assert failed and "aoti_torch_proxy_executor_call_function" in done.stderr  # as kernels are called
    assert unharmed
