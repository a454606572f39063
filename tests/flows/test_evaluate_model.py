"""`docmill model eval`: what humans wrote is hidden from a model, asked for, and scored."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from infra.cli import main
from models.config import NotANumberError, OutOfMemoryError
from tasks.generate.asking import RawText
from tasks.generate.writer import Writer

CODE = '''\
def read(path, strict):
    """Read a file of settings. And more.

    Args:
        path: Where it is.
    """
    return open(path).read()


class Pool:
    """A pool of connections."""

    def close(self):
        """Close all connections."""
        self.connections.close()

    def _hidden(self):
        """Nobody sees this."""
        return 1

    def bare(self):
        return 2
'''


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "m.py").write_text(CODE)
    (folder / "test_m.py").write_text('def test_it():\n    """Read what is there."""\n    return 1\n')
    (folder / "broken.py").write_text("def f(:")
    (folder / ".gitignore").write_text("ignored/\n")
    (folder / "ignored").mkdir()
    (folder / "ignored" / "m.py").write_text(CODE)
    return folder


def evaluate(source: Path, tmp_path: Path, *flags: str, model: str | Path = "bundled") -> dict:
    file = tmp_path / "figures.json"
    assert main(["model", "eval", str(model), "--source", str(source), "--json", str(file), *flags]) == 0
    return json.loads(file.read_text())


def test_a_model_that_repeats_the_humans_scores_100(source, tmp_path, monkeypatch, capsys, asked_for_all):
    told = {"def read": "Read a file of settings.", "def close": "Close all connections."}
    told |= {"def func(path": "Nothing.", "def func(self": "Nothing.", "class Class": "Nothing."}
    prompts = []

    def repeating(self, requests):
        for key, prompt, frames in requests:
            prompts.append(prompt)
            text = next((text for head, text in told.items() if head in prompt), "A pool of connections.")
            yield key, RawText((text,) * len(frames), (True,) * len(frames), (-0.01,) * len(frames))

    monkeypatch.setattr(Writer, "write", repeating)
    found = {one["what"]: one for one in evaluate(source, tmp_path, model=asked_for_all)["measured"]}
    assert {what: one["texts"] for what, one in found.items()} == {"function summary": 2, "class summary": 1}
    functions = found["function summary"]["scores"]
    for score, (named, masked) in functions["model"].items():
        assert named == pytest.approx(100) and masked < 50, score
    assert functions["name"]["rouge_l"][0] > 0 == functions["name"]["rouge_l"][1]
    assert found["function summary"]["texts_shown"] == 2
    assert len(prompts) == 6 and not any("settings" in prompt for prompt in prompts)
    # The nearest neighbour of each function is the other one: there are but two.
    assert functions["neighbour"]["rouge_l"] == [0, 0]
    assert found["function summary"]["lead"]["neighbour"]["rouge_l"] == [[100, 100], [0, 0]]
    assert found["class summary"]["scores"]["neighbour"]["bleu"] == [0, 0]  # there is but one
    table = capsys.readouterr().out.splitlines()
    start = table.index(next(line for line in table if line.startswith("function summary, 2 texts")))
    rows = {line[2:40].strip(): line[40:].split() for line in table[start + 1 : start + 6]}
    assert rows["the model"][0] == "100.0"
    assert rows["nearest neighbour among these texts"][4:] == ["0.0", "0.0"]
    assert rows["lead over the neighbour, 95 %"][4:] == ["+100.0…+100.0", "+0.0…+0.0"]
    assert table[start + 6] == "  a build would show 2 of them (100.0%), BLEU 100.0"


def test_baselines_are_told_with_names_masked_too(tmp_path, monkeypatch, asked_for_all):
    """Without names, code that is nearest by its name alone is not, and the name says nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    source = tmp_path / "functions"
    source.mkdir()
    functions = {"find_open_orders": ("items", "Find it."), "keep_open_orders": ("values", "Keep it.")}
    functions["read"] = ("items", "Find it.")
    (source / "m.py").write_text(
        "\n\n".join(
            f'def {name}(x):\n    """{text}"""\n    return x.{part}'
            for name, (part, text) in functions.items()
        )
    )
    (one,) = (
        one
        for one in evaluate(source, tmp_path, model=asked_for_all)["measured"]
        if one["what"] == "function summary"
    )
    named, masked = one["scores"]["neighbour"]["rouge_l"]
    assert masked > named
    named, masked = one["scores"]["name"]["rouge_l"]
    assert named > 0 == masked


def test_the_bundled_model_on_a_real_package(source, tmp_path):
    click = Path(importlib.util.find_spec("click").origin).parent
    found = evaluate(click, tmp_path, "--symbols", "60")
    (functions,) = (one for one in found["measured"] if one["what"] == "function summary")
    assert 20 < functions["texts"] <= 60
    model, name = (functions["scores"][who]["bleu"] for who in ("model", "name"))
    assert model[0] > name[0] > name[1] and min(functions["scores"]["neighbour"]["bleu"]) > 0
    for setting, (low, high) in enumerate(functions["lead"]["name"]["bleu"]):
        assert low < model[setting] - name[setting] < high
    assert 0 < functions["share_shown"] < 1 and functions["shown"]["bleu"] > 0
    assert functions["texts_shown"] == round(functions["share_shown"] * functions["texts"])
    assert evaluate(click, tmp_path, "--symbols", "60")["measured"] == found["measured"]
    assert 0 < found["seconds"] < 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (NotANumberError, r"model: what the model computes for 'm\.py::\S+' is no number .NaN.: use another"),
        (OutOfMemoryError, "model: 0; docmill model tune, or a build, finds how many rows it is for"),
    ],
)
def test_a_model_that_cannot_answer_is_told_in_one_line(source, monkeypatch, capsys, error, said):
    def fail(self, requests):
        yield from ()
        raise error(next(iter(requests))[0])

    monkeypatch.setattr(Writer, "write", fail)
    assert main(["model", "eval", "bundled", "--source", str(source)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f"docmill: {said}", line)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["none", "--source", "."], "no model is set"),
        (["bundled", "--source", "/nowhere"], "/nowhere: no such folder"),
        (["bundled", "--source", "bare"], "bare: no docstring says anything"),
        (["bundled", "--source", "empty"], "source 'empty': holds no Python file"),
        (["/nowhere", "--source", "."], "model: /nowhere is neither a folder nor an id"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_one_line(
    source, tmp_path, monkeypatch, capsys, arguments, why
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "m.py").write_text("def f():\n    return 1\n")
    assert main(["model", "eval", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("docmill: ") and why in line


def test_a_number_of_symbols_is_one_at_least(capsys):
    with pytest.raises(SystemExit):
        main(["model", "eval", "--symbols", "0"])
    assert "0 is no number of symbols" in capsys.readouterr().err
