"""Builds with a model: each text once, none for a comment, the same bytes as a clean build.

The model is tiny and random; what it writes means nothing, but depends on every token of
its prompt.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flows import pipeline
from flows.settings import cache_home
from flows.workers import Workers
from models.config import OutOfMemoryError
from models.prompts import SUMMARY_SEPARATOR
from models.runner import PaddedRunner
from tasks.budget import Spending
from tasks.generate import _Stream, writer
from tests.conftest import tree_bytes
from tests.models.conftest import code, instruct, random_model  # noqa: F401 - two are fixtures

SOURCE = '''
"""A module."""

def plain(value, factor=2):
    scaled = value * factor
    return scaled

def documented():
    """A human wrote this."""

class Shape:
    """A shape."""

    def area(self):
        """Return the area."""

    def corners(self):
        return []

class Square(Shape):
    """A square."""

    def area(self):
        return self.side ** 2

    def _hidden(self):
        return plain(1)
'''


@pytest.fixture(scope="module")
def model(tmp_path_factory, code) -> Path:  # noqa: F811
    """A folder with a tiny model that says it was trained on code and summaries."""
    folder = tmp_path_factory.mktemp("model")
    code.add_special_tokens({"additional_special_tokens": [SUMMARY_SEPARATOR]})
    random_model("llama", folder, max_position_embeddings=512, vocab_size=len(code))
    code.save_pretrained(folder)
    asks = {kind: {"summary": None} for kind in ("function", "method", "property")}
    meta = {"prompt": "code-slots", "asks": asks}
    (folder / "docmill.json").write_text(json.dumps(meta | {"max_prompt_tokens": 256}))
    return folder


@pytest.fixture
def repository(tmp_path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "shapes.py").write_text(SOURCE)
    (folder / "other.py").write_text("def helper(a):\n    return a + 1\n")
    return folder


def test_a_model_writes_what_is_missing_and_nothing_twice(repository, model, docmill, tmp_path):
    _, report, _ = docmill(repository, "--model", str(model))
    assert report["generated"] == 3  # plain, corners, helper; Square.area has the text of Shape.area
    assert report["engine"]["prompt_tokens"] > 0
    (repository / "new.py").write_text("def fresh(b):\n    return b - 1\n")
    (repository / "test_new.py").write_text("def test_fresh():\n    assert fresh(1) == 0\n")
    _, report, printed = docmill(repository, "--model", str(model))
    assert (report["generated"], report["reused"]) == (1, 3)  # tests are not asked about
    assert "model: asked for 1 symbol, 3 as before; " in printed.out


def test_an_instruct_model_is_asked_for_everything(repository, instruct, docmill, tmp_path, monkeypatch):  # noqa: F811
    (repository / "half.py").write_text('"""Half."""\ndef half(a, b):\n    """Halve it."""\n    return a\n')
    _, report, _ = docmill(repository, "--model", str(instruct))
    # plain, corners, helper, the module other; a, b and what is returned of half
    assert report["generated"] == 5
    assert report["engine"]["output_tokens"] > 100
    (repository / "half.py").write_text('"""Half."""\ndef half(a, b):\n    """Half."""\n    return a\n')
    _, report, _ = docmill(repository, "--model", str(instruct))
    assert (report["generated"], report["reused"]) == (0, 5)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    docmill(repository, "--model", str(instruct), out=tmp_path / "clean")
    assert tree_bytes(tmp_path / "site") == tree_bytes(tmp_path / "clean")


def test_comments_and_format_cost_no_engine_call(repository, model, docmill):
    docmill(repository, "--model", str(model))
    text = (repository / "shapes.py").read_text()
    text = text.replace("scaled = value * factor", "# why\n    scaled = (value\n        *factor)")
    text = text.replace("A human wrote this.", "A human wrote this anew.")
    (repository / "shapes.py").write_text(text)
    _, report, _ = docmill(repository, "--model", str(model))
    assert (report["generated"], report["reused"]) == (0, 3)


def test_an_incremental_build_with_a_model_equals_a_clean_one(
    repository, model, docmill, tmp_path, monkeypatch
):
    docmill(repository, "--model", str(model))
    text = (repository / "shapes.py").read_text().replace("value * factor", "value + factor")
    (repository / "shapes.py").write_text(text)
    _, report, _ = docmill(repository, "--model", str(model))
    assert report["generated"] == 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    _, report, _ = docmill(repository, "--model", str(model), out=tmp_path / "clean")
    assert report["generated"] == 3
    assert tree_bytes(tmp_path / "site") == tree_bytes(tmp_path / "clean")


def test_processes_ask_what_one_asks(model, instruct, docmill, tmp_path, monkeypatch):  # noqa: F811
    source = tmp_path / "many"
    source.mkdir()
    for number in range(60):
        text = f"class C{number}:\n    def m(self, x={number}):\n        return self.m(x)\n" + "\n" * number
        (source / f"m{number}.py").write_text(text + f"def f{number}(text):\n    return '<|turn|>' + text\n")
    spread = []
    work = Workers.__call__

    def note(self, function, items, *common):
        spread.append((function.__name__, self._spreads(len(items))))
        work(self, function, items, *common)

    monkeypatch.setattr(Workers, "__call__", note)
    for name in (model, instruct):
        sites = []
        for processes in (1, 2):
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"{name.name}-{processes}"))
            settings = tmp_path / "docmill.toml"
            settings.write_text(f"processes = {processes}\n")
            out = tmp_path / f"site-{name.name}-{processes}"
            docmill(source, "--model", str(name), "--config", str(settings), "--budget", "150", out=out)
            sites.append(tree_bytes(out))
        assert sites[0] == sites[1]
    assert [apart for function, apart in spread if function == "ask_files"] == [False, True] * 2


def test_human_slots_stay_and_model_slots_are_marked(repository, model, docmill, tmp_path):
    docmill(repository, "--model", str(model))
    symbols = {s["id"]: s for s in json.loads((tmp_path / "site" / "symbols.json").read_bytes())}
    assert symbols["shapes.py::documented"]["slots"]["summary"] == {
        "text": "A human wrote this.",
        "origin": "human",
    }
    assert symbols["shapes.py::Square.area"]["slots"]["summary"]["text"] == "Return the area."
    origins = {slot["origin"] for s in symbols.values() for slot in s["slots"].values()}
    assert origins <= {"human", "derived", "model"}


def test_what_the_model_is_unsure_of_is_counted_and_not_shown(docmill, tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    bodies = {"read_lines": -0.1, "read_words": -2.0, "read_items": -0.1}
    (source / "m.py").write_text("".join(f"def {n}(a):\n    return a.{n}.all()\n" for n in bodies))
    said = {"read_lines": "Read the lines.", "read_words": "Read the words.", "read_items": "Read the moon."}

    def sure_of_some(self, requests):
        for key, prompt, _frames in requests:
            name = next(name for name in bodies if f"def {name}" in prompt)
            yield key, writer.RawText((said[name],), (True,), (bodies[name],))

    monkeypatch.setattr(writer.Writer, "write", sure_of_some)
    _, report, printed = docmill(source, "--model", "bundled")
    told = {name: report["slots"][name] for name in ("model", "unsure", "dropped")}
    assert told == {"model": 1, "unsure": 1, "dropped": 1}
    assert "1 sentence dropped by the checks, 1 text it is unsure of" in printed.out
    assert docmill(source, "--model", "bundled")[1]["slots"] == report["slots"]  # from the cache
    page = (tmp_path / "site/api/m.html").read_text()
    assert "Read the lines." in page and "Read the words." not in page


def test_a_model_that_computes_no_numbers_is_told_of_by_symbol_and_touches_nothing(
    repository, model, docmill, tmp_path
):
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    status, _, printed = docmill(repository, "--model", str(broken))
    assert status == 1
    assert re.search(r"model: what the model computes for '\w+\.py::\w+(\.\w+)?' is no number", printed.err)
    assert not (tmp_path / "site").exists()


def test_a_budget_degrades_and_the_next_build_goes_on(repository, model, docmill):
    status, report, _ = docmill(repository, "--model", str(model), "--budget", "1")
    assert (status, report["degraded"], report["generated"]) == (3, True, 1)
    status, report, _ = docmill(repository, "--model", str(model))
    assert (status, report["degraded"], report["generated"], report["reused"]) == (0, False, 2, 1)


def test_a_budget_of_tokens_is_kept_and_nothing_is_lost(repository, model, docmill, tmp_path):
    docmill(repository, "--model", str(model), out=tmp_path / "at-once")
    (cache_home() / "results.sqlite").unlink()
    status, report, _ = docmill(repository, "--model", str(model), "--budget", "100 tokens")
    spent = report["engine"]["prompt_tokens"] + report["engine"]["output_tokens"]
    assert (status, report["degraded"]) == (3, True) and 0 < report["generated"] < 3 and spent <= 100
    status, report, _ = docmill(repository, "--model", str(model), "--budget", "5 minutes")
    assert (status, report["degraded"], report["generated"] + report["reused"]) == (0, False, 3)
    assert tree_bytes(tmp_path / "site") == tree_bytes(tmp_path / "at-once")


def test_plan_tells_the_cost_and_knows_the_time_once_the_model_is_tuned(
    repository, model, docmill, tmp_path, capsys
):
    from infra.cli import main

    flags = ["--model", str(model), "--out", str(tmp_path / "site")]
    main(["plan", str(repository), *flags])
    untuned = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(
        r"cost: 3 texts; \d+ tokens to read, at most [\d,]+ to write; docmill model tune measures how long",
        untuned,
    )
    main(["model", "tune", str(model), "--seconds", "0.001"])
    (tuned,) = (cache_home() / "tuned").iterdir()
    found = json.loads(tuned.read_bytes())
    rates = {"prompt_tokens_per_second": 10, "output_tokens_per_second": 0.5, "output_tokens_per_request": 4}
    tuned.write_text(json.dumps(found | {"speed": found["speed"] | rates}))
    capsys.readouterr()
    main(["plan", str(repository), *flags])
    told = capsys.readouterr().out.splitlines()[-1]
    read = int(re.search(r"(\d+) tokens to read", told)[1])
    seconds = read / 10 + 3 * 4 / 0.5
    assert told == (f"cost: 3 texts; {read} tokens to read, about 12 to write: about {seconds:.0f} seconds")
    _, report, _ = docmill(repository, "--model", str(model))
    assert report["engine"]["prompt_tokens"] == read  # as many as the rates are of
    main(["plan", str(repository), *flags])
    assert "cost" not in capsys.readouterr().out


def test_plan_tells_texts_apart(repository, model, docmill, tmp_path, capsys):
    from infra.cli import main

    flags = ["--model", str(model), "--out", str(tmp_path / "site")]
    docmill(repository, "--model", str(model))
    text = (repository / "shapes.py").read_text().replace("value * factor", "value + factor")
    (repository / "shapes.py").write_text(text)
    main(["plan", str(repository), *flags])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines if line.startswith("  text")] == [
        ["text", "code", "shapes.py::plain"]
    ]


def test_an_unusable_model_touches_nothing(repository, docmill, tmp_path):
    docmill(repository)
    before = tree_bytes(tmp_path / "site")
    (repository / "new.py").write_text("x = 1\n")
    from infra.cli import main

    assert (
        main(["build", str(repository), "--out", str(tmp_path / "site"), "--model", "/nowhere/at/all"]) == 2
    )
    assert tree_bytes(tmp_path / "site") == before


@pytest.fixture
def short_of_memory(monkeypatch):
    """Have a device run out of memory with more than some rows, as soon as it has finished so many texts."""
    decode, arrived = PaddedRunner.decode, _Stream.arrived
    finished = []

    def note(self, text_key):
        finished.append(text_key)
        return arrived(self, text_key)

    def begin(most_rows, after):
        def fail(self, kv_length, fed):
            if self._table.decode_rows > most_rows and len(finished) >= after:
                finished.clear()
                raise OutOfMemoryError("the device is out of memory")
            return decode(self, kv_length, fed)

        monkeypatch.setattr(PaddedRunner, "decode", fail)
        monkeypatch.setattr(_Stream, "arrived", note)

    return begin


def test_out_of_memory_begins_again_with_half_the_rows_and_says_so(
    repository, model, docmill, tmp_path, short_of_memory
):
    asked_of_modules = tmp_path / "asked-of-modules"  # which wait for what is written of their functions
    shutil.copytree(model, asked_of_modules)
    described = json.loads((model / "docmill.json").read_text())
    described["asks"]["module"] = {"summary": None}
    (asked_of_modules / "docmill.json").write_text(json.dumps(described))
    short_of_memory(16, after=1)
    status, report, printed = docmill(repository, "--model", str(asked_of_modules))
    assert (status, report["generated"], report["engine"]["rows_given_up"]) == (0, 4, [64, 32])
    assert report["engine"]["profile"]["buckets"]["decode"][0][0] == 16
    assert "out of memory with 64 rows at a time: began again with half" in printed.out
    written = report["engine"]["output_tokens"]
    (cache_home() / "results.sqlite").unlink()
    status, report, _ = docmill(repository, "--model", str(asked_of_modules), out=tmp_path / "again")
    assert (status, report["engine"]["rows_given_up"]) == (0, [])  # what fits is remembered
    assert report["engine"]["output_tokens"] == written
    assert tree_bytes(tmp_path / "again") == tree_bytes(tmp_path / "site")  # of one profile, all of it


def test_a_budget_is_not_spent_on_what_is_begun_again(
    repository, model, docmill, tmp_path, capsys, short_of_memory
):
    from infra.cli import main

    main(["plan", str(repository), "--model", str(model), "--out", str(tmp_path / "site")])
    cost = re.search(r"(\S+) tokens to read, at most (\S+) to write", capsys.readouterr().out)
    tokens = sum(int(number.replace(",", "")) for number in cost.groups())
    short_of_memory(32, after=0)
    status, report, _ = docmill(repository, "--model", str(model), "--budget", f"{tokens} tokens")
    assert (status, report["generated"], report["engine"]["rows_given_up"]) == (0, 3, [64])


def test_a_budget_of_minutes_is_neither_for_loading_the_model_nor_for_waiting(
    repository, model, docmill, monkeypatch
):
    now = [0.0]

    def later(function):
        def call(*arguments):
            now[0] += 3600
            return function(*arguments)

        return call

    monkeypatch.setattr(pipeline, "Spending", lambda budget: Spending(budget, lambda: now[0]))
    monkeypatch.setattr(writer, "load_model", later(writer.load_model))
    monkeypatch.setattr(writer, "locked", later(writer.locked))
    status, report, _ = docmill(repository, "--model", str(model), "--budget", "5 minutes")
    assert now[0] >= 2 * 3600
    assert (status, report["generated"]) == (0, 3)


@pytest.mark.parametrize("part", ["models.runner.PrefillPass.forward", "torch.nn.Module.to"])
def test_no_memory_for_the_model_alone_is_told_and_touches_nothing(
    repository, model, docmill, tmp_path, monkeypatch, part
):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(part, fail)
    status, _, printed = docmill(repository, "--model", str(model))
    assert status == 1 and "out of memory, with nothing but the model in it" in printed.err
    assert not (tmp_path / "site").exists()


def test_out_of_memory_with_the_fewest_rows_fails_and_touches_nothing(
    repository, model, docmill, tmp_path, short_of_memory
):
    docmill(repository, "--model", "none")
    before = tree_bytes(tmp_path / "site")
    short_of_memory(1, after=0)
    status, _, printed = docmill(repository, "--model", str(model))
    assert status == 1 and "even with the fewest rows" in printed.err
    assert tree_bytes(tmp_path / "site") == before
    assert not (cache_home() / "tuned").exists()  # nothing smaller has worked, to be remembered


def test_a_build_that_waited_for_another_writes_nothing_twice(repository, model, tmp_path, monkeypatch):
    from infra.cli import main

    def build(name: str) -> dict:
        report = tmp_path / f"{name}.json"
        flags = ["--model", str(model), "--out", str(tmp_path / name), "--report", str(report)]
        assert main(["build", str(repository), *flags]) == 0
        return json.loads(report.read_bytes())

    waits, engine_held = threading.Event(), writer.engine_held
    monkeypatch.setattr(writer, "_say_that_it_waits", waits.set)
    with ThreadPoolExecutor(1) as pool:
        with engine_held("cpu", cache_home()):
            other = pool.submit(build, "second")
            assert waits.wait(250)
            with monkeypatch.context() as patch:  # this one has it
                patch.setattr(writer, "engine_held", lambda *_: nullcontext())
                assert build("first")["generated"] == 3
        report = other.result()
    assert (report["generated"], report["reused"]) == (0, 3)
    assert tree_bytes(tmp_path / "first") == tree_bytes(tmp_path / "second")


def test_a_context_that_holds_hardly_any_code_is_refused(repository, docmill, tmp_path, code):  # noqa: F811
    def of_context(positions: int) -> Path:
        folder = tmp_path / str(positions)
        random_model("gpt2", folder, n_positions=positions, vocab_size=1 + max(code.get_vocab().values()))
        code.save_pretrained(folder)
        return folder

    long = writer.load_model(str(of_context(1024)), "none", "cpu", cache_home())
    enough = 1024 - writer.brief_of(long).room + 48
    assert docmill(repository, "--model", str(of_context(enough)))[0] == 0
    status, _, printed = docmill(repository, "--model", str(of_context(enough - 1)))
    assert status == 2 and f"a context of {enough - 1:,} tokens leaves 47 for code beside" in printed.err


def test_a_prepared_model_is_found_by_the_method(repository, model, docmill, capsys):
    from infra.cli import main

    status, _, printed = docmill(repository, "--model", str(model), "--quantize", "int4")
    assert status == 2 and "docmill model prepare --method int4" in printed.err
    assert main(["model", "prepare", str(model), "--method", "int4"]) == 0
    folder = Path(capsys.readouterr().out.splitlines()[-1])
    status, report, _ = docmill(repository, "--model", str(model), "--quantize", "int4")
    assert (status, report["generated"]) == (0, 3)
    (repository / "more.py").write_text("def more(x):\n    return x + 1\n")
    (folder / "config.json").unlink()
    status, _, printed = docmill(repository, "--model", str(model), "--quantize", "int4")
    assert status == 2 and "is incomplete (config.json is missing): run `docmill model" in printed.err
    assert main(["model", "prepare", str(model), "--method", "int4"]) == 0
    (folder / "model.safetensors").write_bytes(b"damaged")
    status, _, printed = docmill(repository, "--model", str(model), "--quantize", "int4")
    assert status == 2 and "is not what was written" in printed.err
    assert main(["model", "prepare", str(model), "--method", "int4"]) == 0
    assert (folder / "model.safetensors").stat().st_size > 1000
