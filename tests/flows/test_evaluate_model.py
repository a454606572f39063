"""`docmill model eval`: what humans wrote is hidden from a model, asked for, and scored."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from infra.cli import main
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
    assert found["function summary"]["all"] == pytest.approx({"bleu": 100, "chrf": 100, "rouge_l": 100})
    assert found["function summary"]["masked"]["rouge_l"] == 0
    assert found["function summary"]["name"]["rouge_l"] > 0
    assert found["function summary"]["share_shown"] == 1
    assert len(prompts) == 6 and not any("settings" in prompt for prompt in prompts)
    table = capsys.readouterr().out.splitlines()
    (row,) = (line for line in table if line.startswith("function summary "))
    assert row.split()[2] == "2" and row.endswith("100% 100.0")
    # The nearest neighbour of each function is the other one: there are but two.
    assert found["function summary"]["neighbour"]["rouge_l"] == 0
    assert found["function summary"]["lead"]["neighbour"]["rouge_l"] == [100, 100]
    assert found["class summary"]["neighbour"]["bleu"] == 0  # there is but one
    assert any(line.startswith("function summary: +") and line.endswith("(95 %)") for line in table)


def test_the_bundled_model_on_a_real_package(source, tmp_path):
    click = Path(importlib.util.find_spec("click").origin).parent
    found = evaluate(click, tmp_path, "--symbols", "60")
    (functions,) = (one for one in found["measured"] if one["what"] == "function summary")
    assert 20 < functions["texts"] <= 60
    assert functions["all"]["bleu"] > functions["name"]["bleu"] > 0 < functions["neighbour"]["bleu"]
    low, high = functions["lead"]["name"]["bleu"]
    assert low < functions["all"]["bleu"] - functions["name"]["bleu"] < high
    assert 0 < functions["share_shown"] < 1 and functions["shown"]["bleu"] > 0
    assert evaluate(click, tmp_path, "--symbols", "60")["measured"] == found["measured"]
    assert 0 < found["seconds"] < 1


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
