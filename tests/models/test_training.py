import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.config import ModelConfig
from models.load import load
from models.prompts import SUMMARY_SEPARATOR, placed
from models.training import card, corpus, evaluate, export, pairs, tokenizer, train
from models.training.pairs import Pair, summary

HELD_OUT = {"networkx", "click", "requests", "attrs", "httpx", "werkzeug"}
PERMISSIVE = ("MIT", "BSD-", "Apache-2.0", "PSF-", "ISC")


def make_pairs(count):
    verbs = ["open", "close", "read", "write", "count"]
    nouns = ["file", "pool", "socket", "table", "graph"]
    return [
        Pair(
            "package",
            "function",
            f"{verb}_{noun}",
            "class Store:",
            f"def {verb}_{noun}(self, x{index}):\n    return self.{noun}.{verb}(x{index})",
            f"def func(self, x{index}):\n    return self.{noun}.{verb}(x{index})",
            f"{verb.capitalize()} the {noun}.",
        )
        for index, (verb, noun) in enumerate((verb, noun) for verb in verbs for noun in nouns)
    ][:count]


def make_outlines():
    return [
        Pair(
            "package",
            subject,
            noun.capitalize(),
            "",
            f"{subject} {noun}:\n    def open(): Open the {noun}.\n    def close()",
            f"{subject} X:\n    def open(): Open the {noun}.\n    def close()",
            f"All about a {noun}.",
        )
        for subject in ("class", "module")
        for noun in ("file", "pool", "socket", "table", "graph")
    ]


# corpus


def test_the_held_out_packages_are_in_the_test_split_only():
    splits = {package.name: package.split for package in corpus.packages()}
    assert {name for name, split in splits.items() if split == "test"} == HELD_OUT


def test_every_package_is_pinned_and_permissively_licensed():
    for package in corpus.packages():
        assert package.version[0].isdigit()
        assert package.licence.startswith(PERMISSIVE), package


# pairs


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Return the sum of all items.", "Return the sum of all items."),
        ("\n    return the sum\n    of all items\n\n    More.", "Return the sum of all items."),
        ("Return the size. It is cached.", "Return the size."),
        ("Return names, e.g. of files. More.", "Return names, e.g. of files."),
        ("Return a :class:`~a.Pool` of ``size``.", "Return a a.Pool of size."),
        ("Return the user’s name.", "Return the user's name."),
    ],
)
def test_the_first_sentence_is_cleaned(docstring, expected):
    assert summary(docstring) == expected


@pytest.mark.parametrize(
    "docstring",
    [
        "",
        "Sum.",
        "Test that the sum is right.",
        "See base class.",
        "Args:\n    x: a number of items",
        "Parameters\n----------\nx : int",
        ":param x: the number of things",
        "Visit https://example.org for more.",
        ">>> total([1, 2])",
        "Return the größte of the items.",
        "word " * 40,
    ],
)
def test_what_says_nothing_about_the_code_is_left_out(docstring):
    assert summary(docstring) is None


def test_functions_are_read_without_docstring_and_stubs_are_not():
    source = '''
class Pool:
    def close(self):
        """Close all connections."""
        self.close()

    def open(self):
        """Open all connections."""
        raise NotImplementedError

def test_pool():
    """Return nothing at all."""
    assert True
'''
    (pair,) = pairs.read([("package/a.py", source)], "package")
    assert pair == Pair(
        "package",
        "function",
        "close",
        "class Pool:",
        "def close(self):\n    self.close()",
        "def func(self):\n    self.func()",
        "Close all connections.",
    )


def test_a_file_that_does_not_parse_has_no_pairs():
    assert list(pairs.read([("a.py", "def f(:")], "package")) == []


def test_classes_modules_and_packages_are_read_as_outlines():
    files = [
        ("p/__init__.py", '"""All of the things."""\nfrom .a import Pool\n'),
        (
            "p/a.py",
            '"""Things that are pooled."""\nclass Pool(Base):\n    """A pool of things."""\n'
            '    def close(self):\n        """Close the whole pool."""\n        self.done = 1\n',
        ),
        ("p/_hidden.py", '"""Nobody sees this."""\n'),
        ("p/bare.py", "def f():\n    return 1\n"),
        ("p/sub/__init__.py", '"""See base class."""\n'),
    ]
    found = {pair.name: pair for pair in pairs.read(files, "p") if pair.subject != "function"}
    assert {pair.summary for pair in found.values()} == {
        "A pool of things.",
        "Things that are pooled.",
        "All of the things.",
    }
    assert found["Pool"].code in (
        "class Pool(Base):\n    def close()",
        "class Pool(Base):\n    def close(): Close the whole pool.",
    )
    assert found["Pool"].masked_code == found["Pool"].code.replace("class Pool", "class Class")
    lines = found["p"].code.splitlines()
    assert [line.partition(":")[0].strip() for line in lines] == [
        "package p",
        "module a",
        "module bare",
        "module sub",
    ]
    assert found["p.a"].code.startswith("module p.a:\n    class Pool(Base)")
    assert found["p.a"].masked_code.startswith("module module:\n    class Pool(Base)")


def test_near_duplicates_of_held_out_functions_are_removed():
    body = "\n".join(f"    total += weights[{index}] * values[{index}]" for index in range(20))
    held_out = Pair("test", "function", "f", "", "", f"def func(weights, values):\n{body}", "Sum it all up.")
    near = Pair(
        "train",
        "function",
        "g",
        "",
        "",
        held_out.masked_code.replace("weights[3]", "ws[3]"),
        "Sum it all up.",
    )
    other = make_pairs(1)[0]
    assert pairs.apart_from([held_out], [near, other]) == [other]


# tokenizer, training, storage: a tiny model, end to end


def plan(folder, minutes):
    return train.Plan(folder / "run", minutes, layers=1, width=64, padding=0, workers=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    threads = torch.get_num_threads()
    folder = tmp_path_factory.mktemp("training")
    taught = make_pairs(25) + make_outlines()
    tokenizer.train((text for pair in taught for text in (pair.code, pair.summary)), folder / "tokenizer")
    encoder = tokenizer.Encoder(folder / "tokenizer")
    examples = encoder.examples(taught)
    train.run(plan(folder, 0.05), examples, examples[:5])
    export.assemble(folder / "run" / "best", folder / "tokenizer", folder / "whole")
    export.store(folder / "whole", -1.5, evaluate.SUBJECTS, folder / "model")
    yield folder, taught
    torch.set_num_threads(threads)  # a worker takes one


def test_examples_are_code_separator_summary_end(trained):
    folder, taught = trained
    encoder = tokenizer.Encoder(folder / "tokenizer")
    (example,) = encoder.examples(taught[:1])
    separator = encoder.tokenizer.token_to_id(SUMMARY_SEPARATOR)
    assert example.prompt[-1] == separator and separator not in example.prompt[:-1]
    assert encoder.tokenizer.decode(example.prompt.tolist()) == placed(taught[0].code, taught[0].owner)
    assert encoder.tokenizer.decode(example.summary.tolist()) == taught[0].summary


def test_long_code_is_elided_to_the_prompts_length(trained):
    folder, _ = trained
    code = "def f():\n" + "\n".join(f"    x{index} = {index}" for index in range(500))
    lines = "module m:" + "".join(f"\n    def f{index}()" for index in range(500))
    long = [replace(make_pairs(1)[0], code=code), replace(make_outlines()[0], code=lines)]
    for prompt in tokenizer.Encoder(folder / "tokenizer").prompts(long):
        assert tokenizer.MAX_PROMPT_TOKENS - 20 < len(prompt) <= tokenizer.MAX_PROMPT_TOKENS


def test_a_signature_that_is_too_long_has_no_prompt(trained):
    folder, _ = trained
    code = f"def f({', '.join(f'argument{index}' for index in range(500))}):\n    pass"
    long = replace(make_pairs(1)[0], code=code)
    assert tokenizer.Encoder(folder / "tokenizer").prompts([long]) == [None]


def test_the_folder_loads_and_reads_as_it_was_taught(trained):
    folder, taught = trained
    loaded = load(ModelConfig(model=str(folder / "model"), dtype="float32", device="cpu"))
    assert loaded.meta.prompt == "code-summary"
    assert loaded.meta.min_logprob == -1.5
    assert loaded.meta.max_prompt_tokens == tokenizer.MAX_PROMPT_TOKENS
    for pair in (taught[3], taught[-1]):
        prompt = placed(pair.code, pair.owner)
        asked = loaded.encode(prompt, trusted=False) + loaded.encode(SUMMARY_SEPARATOR, trusted=True)
        assert asked == tokenizer.Encoder(folder / "model").prompts([pair])[0]
    assert loaded.end_tokens == {tokenizer.END_ID}


def test_a_finished_run_is_known_as_such(trained):
    folder, _ = trained
    assert train.is_finished(plan(folder, 0.05))
    assert not train.is_finished(plan(folder, 10))
    assert not train.is_finished(plan(folder / "nothing", 0.05))


def test_a_run_goes_on_from_its_checkpoint(trained):
    folder, taught = trained
    encoder = tokenizer.Encoder(folder / "tokenizer")
    examples = encoder.examples(taught)
    before = json.loads((folder / "run" / "curve.json").read_text())
    train.run(plan(folder, 0.08), examples, examples[:5])
    after = json.loads((folder / "run" / "curve.json").read_text())
    assert after[: len(before)] == before
    assert after[-1]["step"] > before[-1]["step"]


def test_the_card_carries_the_measured_figures(trained):
    folder, taught = trained
    test = taught[:5] + taught[-10:]
    evaluate.baselines(taught, test, folder / "baselines.json")
    figures = evaluate.run(folder / "model", folder / "baselines.json", test, folder / "evaluation.json")
    assert all(figures[s]["bleu"]["neighbour"] == [100.0, 100.0] for s in ("function", "class", "module"))
    card.write(folder / "model", figures, folder / "run" / "curve.json", taught, 0.05)
    text = (folder / "model" / "README.md").read_text()
    assert " | 100.0" * 6 + " |" in text and "For classes it **does not beat** the" in text
    assert "\n5 functions, 5 classes and 5 modules and packages\nof attrs" in text
    assert "\n25 functions, 5 classes and 5 modules and packages.\nLeft out" in text
    better = {"model": [9, 9], "name": [8, 0], "neighbour": [8, 8]}
    for name, subjects in (("name", ["function"]), ("neighbour", ["function"])):
        worse = better | {name: [9, 8]}
        found = {"function": {"bleu": better}, "class": {"bleu": worse}, "module": {"bleu": worse}}
        assert evaluate.worth_asking(found) == subjects
    export.store(folder / "whole", -1.5, ["function", "class"], folder / "model")
    meta = load(ModelConfig(model=str(folder / "model"))).meta
    assert meta.kinds == ("function", "method", "property", "class")
    assert "- django " in text and "- networkx " not in text
    load(ModelConfig(model=str(folder / "model")))  # the card is none of the files that must not change


def test_the_loss_counts_the_summary_and_a_share_of_the_code():
    prompt, said = np.array([5, 6, 7, 2]), np.array([8, 9, 1]) + tokenizer.VOCABULARY
    ids, targets, weights = train._tensors(
        [np.concatenate([prompt, said])], padding=0, seed=0, code_share=0.0
    )
    assert ids.tolist() == [[5, 6, 7, 2, 8, 9, 1]]
    assert targets.tolist() == [[-100, -100, -100, 8, 9, 1, -100]]
    assert weights.sum().item() == pytest.approx(1)
    _, targets, weights = train._tensors([np.concatenate([prompt, said])], padding=0, seed=0, code_share=1.0)
    assert targets.tolist() == [[6, 7, 2, 8, 9, 1, -100]]
    assert weights.sum().item() == pytest.approx(1 + train.CODE_WEIGHT)


# evaluation


def test_bleu_of_an_equal_sentence_is_one():
    assert evaluate.bleu("Return the name.", "return the name .") == pytest.approx(1)


def test_bleu_agrees_with_values_computed_by_hand():
    # words 2/3, pairs (1+1)/(2+1), triples (0+1)/(1+1), fours (0+1)/(0+1); brevity exp(1 - 5/4)
    expected = (2 / 3 * 2 / 3 * 1 / 2) ** 0.25 * math.exp(-0.25)
    assert evaluate.bleu("return the cat", "Return the dog today") == pytest.approx(expected)
    # five words, two of them matched once each although "the" is said twice; no pair matches
    expected = (2 / 5 * 1 / 5 * 1 / 4 * 1 / 3) ** 0.25
    assert evaluate.bleu("the a the b c", "c x y the") == pytest.approx(expected)


def test_the_final_full_stop_earns_nothing():
    assert evaluate.mean_bleu(["One."], ["Two three."]) == 0
    assert evaluate.mean_bleu(["One two."], ["One two."]) == pytest.approx(100)


def test_bleu_without_a_common_word_is_zero():
    assert evaluate.bleu("one two", "three four") == 0


def test_underscores_are_words_of_the_metric():
    assert evaluate.bleu("read_csv", "read csv") < 1


def test_a_name_becomes_a_sentence():
    assert evaluate.sentence_of("read_csvFile") == "Read csv file."
    assert evaluate.sentence_of("__init__") == "Init."


def test_the_nearest_neighbour_shares_the_rare_words():
    known = [
        "def f(self): return self.pool",
        "def g(self): return self.graph",
        "def h(self): return self.name",
    ]
    neighbours = evaluate.Neighbours(known, ["pool", "graph", "name"])
    assert neighbours.nearest(["def x(self): return len(self.graph)"]) == ["graph"]
