import re
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from models import baselines
from models.config import BUNDLED, ModelConfig
from models.load import load
from models.prompts import SUMMARY_SEPARATOR, placed
from models.training import card, corpus, evaluate, export, pairs, tokenizer, train
from models.training.docstrings import summary, texts_of
from models.training.evaluate import Task
from models.training.pairs import Pair

HELD_OUT = {"networkx", "click", "requests", "attrs", "httpx", "werkzeug"}
PERMISSIVE = ("NCSA", "MIT", "BSD-", "Apache-2.0", "PSF-", "ISC", "CC0-")


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
            {"summary": f"{verb.capitalize()} the {noun}.", f"param.x{index}": f"Number {verb} of it."},
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
            {"summary": f"All about a {noun}."},
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
        licences = re.split(r" (?:AND|OR) ", package.licence)
        assert all(licence.startswith(PERMISSIVE) for licence in licences), package


@pytest.mark.parametrize(
    ("path", "is_read"),
    [
        ("django/http/request.py", True),
        ("django/_vendor/request.py", False),
        ("django/thirdparty_files/attr/validators.py", False),
        ("django/contrib/attr/validators.py", False),
        ("django/_werkzeug.py", False),
        ("django/tests/request.py", False),
        ("django/request.pyi", False),
    ],
)
def test_copies_of_others_and_above_all_of_held_out_packages_are_not_read(tmp_path, path, is_read):
    package = next(p for p in corpus.packages() if p.name == "django" and p.split == "train")
    with zipfile.ZipFile(tmp_path / f"Django-{package.version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(path, "x = 1\n")
    assert [found for found, _ in corpus.sources(package, tmp_path)] == [path] * is_read


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
        ("Find a clique in `G`. It is the largest.", "Find a clique in G. It is the largest."),
        ("Find a clique in `G`.", "Find a clique in G."),
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


GOOGLE = """Read a table.

    Args:
        path (str): Where the `file` is. More of it.
        strict (bool, optional): Whether to fail, defaults to True
        gone: No such parameter.
        *names: See above.
        noise: x

    Returns:
        list[str]: the rows that were read

    Raises:
        OSError: If the file cannot be read.
        KeyError: Nobody raises it.
    """
NUMPY = """Read a table.

    Parameters
    ----------
    path : str
        Where the `file` is. More of it.
    strict : bool, optional
        Whether to fail, defaults to True

    Returns
    -------
    rows : list
        the rows that were read

    Raises
    ------
    OSError
        If the file cannot be read.
    """
SPHINX = """Read a table.

    :param path: Where the ``file`` is. More of it.
    :param bool strict: Whether to fail, defaults to True
    :returns: the rows that were read
    :raises OSError: If the file cannot be read.
    """


@pytest.mark.parametrize("docstring", [GOOGLE, NUMPY, SPHINX])
def test_what_a_docstring_says_of_parameters_results_and_exceptions(docstring):
    assert texts_of(
        docstring, ["path", "strict", "names", "noise"], ["shutil.Error", "builtins.OSError"]
    ) == {
        "summary": "Read a table.",
        "param.path": "Where the file is.",
        "param.strict": "Whether to fail.",
        "returns": "The rows that were read.",
        "raises.builtins.OSError": "If the file cannot be read.",
    }


def test_a_docstring_that_says_nothing_of_a_function_may_describe_its_parameters():
    docstring = "See base class.\n\n    Args:\n        path: Where the file is.\n"
    assert texts_of(docstring, ["path"], []) == {"param.path": "Where the file is."}


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
        {"summary": "Close all connections."},
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
    assert {pair.texts["summary"] for pair in found.values()} == {
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


def test_a_class_that_was_copied_under_another_name_is_read_alike():
    source = (
        'class {}:\n    """A pool of things."""\n'
        '    def f(self):\n        """Close the whole pool."""\n        self.a()\n'
    )
    names = [f"Pool{number}" for number in range(8)]
    read = pairs.read([("a.py", "\n".join(source.format(name) for name in names))], "p")
    assert len({pair.masked_code for pair in read if pair.subject == "class"}) == 1


def test_near_duplicates_of_held_out_functions_are_removed():
    body = "\n".join(f"    total += weights[{index}] * values[{index}]" for index in range(20))
    texts = {"summary": "Sum it all up."}
    held_out = Pair("test", "function", "f", "", "", f"def func(weights, values):\n{body}", texts)
    near = Pair(
        "train",
        "function",
        "g",
        "",
        "",
        held_out.masked_code.replace("weights[3]", "ws[3]"),
        texts,
    )
    other = make_pairs(1)[0]
    assert pairs.apart_from([held_out], [near, other]) == [other]


def test_what_is_equal_to_a_taught_function_is_not_measured_with():
    accessors = [
        Pair("test", "function", f"get_{n}", "", f"def get_{n}(self):\n    return self._{n}", code, {})
        for n in range(60)
        for code in (f"def func(self):\n    return self._{n}",)
    ]
    taught = [replace(accessors[3], package="train", name="read_it")]
    assert pairs.apart_from(accessors, taught) == taught  # all share what it is made of
    assert pairs.not_in(taught, accessors) == [*accessors[:3], *accessors[4:]]


def test_plain_words_are_those_that_nearly_every_large_package_uses(monkeypatch):
    monkeypatch.setattr(pairs, "_LARGE", 2)
    said = {
        "a": ["Return the file.", "Open a fileSystem."],
        "b": ["Return the pool.", "Write the file."],
        "small": ["Close it."],
    }
    taught = [
        Pair(package, "function", "f", "", "", "", {"summary": text})
        for package in said
        for text in said[package]
    ]
    others = [Pair(p, "class", "F", "", "", "", {"summary": "A pond."}) for p in ("a", "b")]
    nothing = [Pair(p, "function", "f", "", "", "", {"returns": "It."}) for p in ("a", "b")]
    assert pairs.plain_words(taught + others + nothing) == ["file", "return", "the"]


# tokenizer, training, storage: a tiny model, end to end


def plan(folder, tokens):
    return train.Plan(folder / "run", tokens, layers=1, width=64, padding=0, workers=1, bfloat16=True)


def small_batches(folder):
    """Several of them in an epoch."""
    return replace(plan(folder, 12_000), batch=512)


TOKENS = 60_000
FLOORS = dict.fromkeys(evaluate.TASKS, -1.5)
PLAIN_WORDS = ["number", "of", "the"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    taught = make_pairs(25) + make_outlines()
    texts = (text for pair in taught for text in (pair.code, *pair.texts.values()))
    tokenizer.train(texts, folder / "tokenizer")
    encoder = tokenizer.Encoder(folder / "tokenizer")
    examples = encoder.examples(taught)
    train.run(plan(folder, TOKENS), examples, examples[:5])
    export.assemble(folder / "run" / "best", folder / "tokenizer", PLAIN_WORDS, folder / "whole")
    export.store(folder / "whole", FLOORS, folder / "model")
    return folder, taught


def test_an_example_is_code_and_slots_whose_text_is_marked(trained):
    folder, taught = trained
    encoder = tokenizer.Encoder(folder / "tokenizer")
    (example,) = encoder.examples(taught[:1])
    assert encoder.tokenizer.decode(example.prompt.tolist()) == placed(taught[0].code, taught[0].owner)
    given = [t if t < tokenizer.VOCABULARY else -1 for t in example.answer.tolist()]
    written = [t - tokenizer.VOCABULARY for t in example.answer.tolist() if t >= tokenizer.VOCABULARY]
    assert encoder.tokenizer.decode(written) == "Open the file.Number open of it."
    assert given[0] == encoder.tokenizer.token_to_id(SUMMARY_SEPARATOR)
    opened = [token for token in given[example.edges[1] :] if token >= 0]
    assert encoder.tokenizer.decode(opened, skip_special_tokens=False) == "<|param|>x0:"


def test_examples_are_encoded_once_and_kept(trained, tmp_path):
    folder, taught = trained
    made = tokenizer.examples(taught, folder / "tokenizer", tmp_path / "kept.npz")
    found = tokenizer.examples([], folder / "tokenizer", tmp_path / "kept.npz")
    for name in ("prompt", "masked_prompt", "answer"):
        assert all(
            np.array_equal(getattr(one, name), getattr(other, name))
            for one, other in zip(made, found, strict=True)
        )
    assert len(made) == len(taught) and made[0].answer.dtype == np.uint16


def test_long_code_is_elided_to_the_prompts_length(trained):
    folder, _ = trained
    code = "def f():\n" + "\n".join(f"    x{index} = {index}" for index in range(500))
    lines = "module m:" + "".join(f"\n    def f{index}()" for index in range(500))
    long = [replace(make_pairs(1)[0], code=code), replace(make_outlines()[0], code=lines)]
    for example in tokenizer.Encoder(folder / "tokenizer").examples(long):
        assert tokenizer.MAX_PROMPT_TOKENS - 20 < len(example.prompt) < tokenizer.MAX_PROMPT_TOKENS


def test_a_signature_that_is_too_long_has_no_prompt(trained):
    folder, _ = trained
    code = f"def f({', '.join(f'argument{index}' for index in range(500))}):\n    pass"
    long = replace(make_pairs(1)[0], code=code)
    assert tokenizer.Encoder(folder / "tokenizer").examples([long]) == []


def test_the_folder_loads_and_reads_as_it_was_taught(trained):
    folder, taught = trained
    loaded = load(ModelConfig(model=str(folder / "model"), dtype="float32", device="cpu"))
    assert loaded.meta.prompt == "code-slots"
    assert loaded.meta.asks["method"] == {"summary": -1.5, "param": -1.5, "returns": -1.5, "raises": -1.5}
    assert loaded.meta.asks["property"] == loaded.meta.asks["class"] == {"summary": -1.5}
    assert loaded.meta.max_prompt_tokens == tokenizer.MAX_PROMPT_TOKENS
    assert loaded.meta.max_answer_tokens == tokenizer.MAX_ANSWER_TOKENS
    for pair in (taught[3], taught[-1]):
        (example,) = tokenizer.Encoder(folder / "model").examples([pair])
        assert loaded.encode(placed(pair.code, pair.owner), trusted=False) == example.prompt.tolist()
    assert loaded.encode("<|param|>x0:", trusted=True)[0] > tokenizer.END_ID
    assert loaded.end_tokens == {tokenizer.END_ID}


def test_a_finished_run_is_known_as_such(trained):
    folder, _ = trained
    assert train.is_finished(plan(folder, TOKENS))
    assert not train.is_finished(plan(folder, 10 * TOKENS))
    assert not train.is_finished(plan(folder / "nothing", TOKENS))


def test_attention_that_trains_in_float32_is_that_of_the_stored_model(trained):
    folder, _ = trained
    stored = AutoModelForCausalLM.from_pretrained(folder / "whole").eval()
    trained_as = train.new_model(plan(folder, TOKENS)).eval()
    trained_as.load_state_dict(stored.state_dict())
    ids = torch.randint(0, tokenizer.VOCABULARY, (3, 40), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(trained_as(ids).logits, stored(ids).logits)


def test_a_killed_run_makes_the_same_steps_as_one_that_was_not(trained, tmp_path, monkeypatch):
    folder, taught = trained
    examples = tokenizer.Encoder(folder / "tokenizer").examples(taught)
    whole, killed = (small_batches(tmp_path / name) for name in ("whole", "killed"))
    train.run(whole, examples, examples[:5])
    monkeypatch.setitem(train._SECONDS_BETWEEN, "checkpoint", 0)
    step, steps = train.Trainer._step, 0

    def killed_after_six(self, batch):
        nonlocal steps
        if (steps := steps + 1) > 6:
            raise KeyboardInterrupt
        return step(self, batch)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(train.Trainer, "_step", killed_after_six)
        train.run(killed, examples, examples[:5])
    assert saved(killed)["progress"]["batches"] == 2  # in the middle of an epoch of four
    train.run(replace(killed, makers=2), examples, examples[:5])
    weights, resumed = (saved(of)["model"] for of in (whole, killed))
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def saved(plan):
    return torch.load(plan.folder / "checkpoint.pt", weights_only=True)


def test_batches_made_ahead_are_those_that_a_worker_makes(trained, tmp_path):
    folder, taught = trained
    examples = tokenizer.Encoder(folder / "tokenizer").examples(taught)
    alone = train.Trainer(0, small_batches(tmp_path))
    ahead = train.Trainer(0, replace(small_batches(tmp_path), makers=2))
    pairs_of_batches = list(zip(alone._batches(examples), ahead._batches(examples), strict=True))
    assert len(pairs_of_batches) > 3
    for mine, theirs in pairs_of_batches:
        assert all(torch.equal(*parts) for parts in zip(mine, theirs, strict=True))


def test_a_run_goes_on_only_as_it_was_begun(trained):
    folder, taught = trained
    examples = tokenizer.Encoder(folder / "tokenizer").examples(taught)
    with pytest.raises(ValueError, match=r"was begun by .*'batch': 8192.*remove the folder"):
        train.run(replace(plan(folder, TOKENS), batch=2048), examples, examples[:5])


def test_workers_share_the_batches_and_each_others_gradients(trained, tmp_path):
    folder, taught = trained
    examples = tokenizer.Encoder(folder / "tokenizer").examples(taught)
    two = replace(small_batches(tmp_path), workers=2)
    of_each = [list(train.Trainer(rank, two)._batches(examples)) for rank in (0, 1)]
    whole = list(train.Trainer(0, small_batches(tmp_path))._batches(examples))
    assert len(of_each[0]) == len(of_each[1]) == len(whole) // 2 > 0
    dealt = [batch for both in zip(*of_each, strict=True) for batch in both]
    for mine, theirs in zip(whole[: len(dealt)], dealt, strict=True):
        assert torch.equal(mine.ids, theirs.ids)
    train.run(two, examples, examples[:5])
    progress = saved(two)["progress"]
    assert train.is_finished(two) and progress["tokens"] > 600 * progress["step"]


def test_the_card_carries_the_measured_figures(trained):
    folder, taught = trained
    test = taught[:5] + taught[-10:]
    evaluate.baselines(taught, test, folder / "baselines.json")
    others, report = folder / "baselines.json", folder / "evaluation.json"
    figures = evaluate.run(folder / "model", others, test, FLOORS, report)
    tasks = figures["tasks"]
    assert all(
        tasks[name]["scores"]["neighbour"][metric] == [100.0, 100.0]
        for name in ("function.summary", "class.summary", "module.summary", "function.param")
        for metric in ("bleu", "rouge_l")
    )
    assert tasks["function.returns"] == {"texts": 0}
    asked = {Task("function", "summary"): -1.5}
    card.write(
        folder / "model", figures, asked, {"weights": 0.01, "products": 0.2}, plan(folder, TOKENS), taught
    )
    text = (folder / "model" / "README.md").read_text()
    assert " | 100.0" * 6 + " |" in text
    assert "- Summaries of classes: not asked for; **on the test packages it does not beat" in text
    assert "- Summaries of functions: above -1.50, which of the test packages' are " in text
    assert "5 summaries of functions, 5 summaries of classes" in text
    assert "25 summaries of functions, 25 parameters, 5 summaries of classes" in text
    assert "this costs 0.01, and 0.20 where products are in int8 too, BLEU" in text
    assert "`python -m models.training --tokens 0.06 --device cpu --bfloat16` makes one like it" in text
    assert "| All texts (" in text
    assert "8,192 tokens in a\nstep" in text and "minutes on 1 core; seed" in text
    assert "- django " in text and "- networkx " not in text
    load(ModelConfig(model=str(folder / "model")))  # the card is none of the files that must not change


def test_the_shipped_card_says_what_the_recipe_writes():
    shipped = (BUNDLED / card.CARD).read_text(encoding="utf-8")
    written = [part.strip() for part in re.split(r"\{\w+(?::\S+?)?\}", card._TEXT)]
    assert len(written) > 30 and all(part in shipped for part in written)
    assert "took no part in\ntraining, the checkpoint or the floors" in shipped
    assert "| All texts (7,381) | BLEU" in shipped


def test_a_task_that_loses_to_a_baseline_by_any_metric_is_not_asked_for():
    better = {metric: [9, 9] for metric in ("bleu", "chrf", "rouge_l")}
    worse = {metric: [8, 0] for metric in better}
    found = {str(task): {"texts": 0} for task in evaluate.TASKS}
    scores = {"model": better, "name": worse, "neighbour": worse}
    found["function.summary"] = {"texts": 1, "scores": scores}
    found["class.summary"] = {"texts": 1, "scores": scores | {"name": worse | {"chrf": [8, 9]}}}
    found["function.param"] = {"texts": 1, "scores": scores | {"neighbour": worse | {"rouge_l": [9, 8]}}}
    assert evaluate.worth_asking({"tasks": found}) == [Task("function", "summary")]


def test_what_is_shown_has_to_be_good_enough(monkeypatch):
    task = Task("function", "summary")
    monkeypatch.setattr(evaluate, "READ", {task: -0.5, Task("function", "param"): -0.5})
    pair = Pair("p", "function", "f", "", "", "", {"summary": "Open the file.", "param.a": "A file."})
    right, wrong, unsure, other = (
        [{"summary": evaluate.Text(text, certainty, stands=stands)}]
        for text, certainty, stands in (
            ("Open the file.", -0.4, True),
            ("No.", -0.4, True),
            ("No.", -0.6, True),
            ("No.", -0.1, False),
        )
    )
    assert evaluate.floors(right * 50, [pair] * 50) == {task: -0.5}  # parameters: nothing is shown
    assert evaluate.floors(right * 5 + wrong * 45, [pair] * 50) == {}
    assert evaluate.floors(right * 20 + (unsure + other) * 15, [pair] * 50) == {task: -0.5}
    assert evaluate.floors(right * 19 + unsure * 31, [pair] * 50) == {}  # too few to tell


def test_all_texts_together_are_compared_as_well():
    pair = Pair("good", "function", "f", "", "", "", {"summary": "Open the file.", "param.a": "A file."})
    places = [(n, slot) for slot in pair.texts for n in range(30)]
    right, half = dict(pair.texts), {"summary": "Open the file.", "param.a": "Nothing like it."}
    answers = {"model": [[right] * 30] * 2, "name": [[half] * 30] * 2, "neighbour": [[half] * 30] * 2}
    found = evaluate.compared(evaluate.scores_of(places, [pair] * 30, answers), places)
    assert found["texts"] == 60 and found["scores"]["model"]["rouge_l"] == [100, 100]
    assert found["lead"]["name"]["rouge_l"] == [(50, 50), (50, 50)]
    controls = dict.fromkeys(("shuffled", "constant"), found["scores"]["name"])
    assert "| All texts (60) |" in card._table("all texts", found | {"scores": found["scores"] | controls})


def test_what_may_not_be_shown_is_not_said():
    pair = Pair("good", "function", "f", "", "", "", {"summary": "Open the file."})
    right = [{"summary": evaluate.Text("Open the file.", -0.5 - n / 100)} for n in range(60)]
    surer = [{"summary": evaluate.Text("No.", -0.1, stands=False)}] * 60
    answers = {who: [[{"summary": "Open it."}] * 120] * 2 for who in ("name", "neighbour", "model")}
    found = evaluate.figures_of(Task("function", "summary"), [pair] * 120, answers, right + surer, -9.0)
    assert found["stands"] == found["said"]["share"] == 0.5
    assert [point["floor"] for point in found["curve"]][-1] == pytest.approx(-1.09)
    found = evaluate.figures_of(Task("function", "summary"), [pair] * 60, answers, surer, -9.0)
    assert found["curve"] == [] and found["said"] == {"share": 0.0, "bleu": 0.0}


def test_a_text_stands_by_the_words_that_its_model_may_say():
    loaded, taught = evaluate.load_exactly(BUNDLED), make_pairs(25)

    def standing(plain_words):
        meta = loaded.meta.model_copy(update={"plain_words": plain_words})
        written = evaluate.write(replace(loaded, meta=meta), tokenizer.Encoder(BUNDLED), taught)
        return sum(text.stands for texts in written for text in texts.values())

    assert standing(()) < standing(("the", "return")) < standing(None) < 50


def test_what_int8_costs_is_measured_on_the_same_texts(trained):
    folder, taught = trained
    written = evaluate.write(
        evaluate.load_exactly(folder / "whole"), tokenizer.Encoder(folder / "whole"), taught
    )
    lost = evaluate.lost_in_int8(written, folder / "model", taught)
    assert lost.keys() - {"products"} == {"weights"} and all(abs(bleu) < 10 for bleu in lost.values())
    perfect = [{slot: evaluate.Text(text, 0.0) for slot, text in pair.texts.items()} for pair in taught]
    assert evaluate.lost_in_int8(perfect, folder / "model", taught)["weights"] > 50


def test_only_what_was_worth_it_is_asked_for(trained, tmp_path):
    folder, _ = trained
    export.store(folder / "whole", {Task("class", "summary"): -0.5}, tmp_path / "model")
    meta = load(ModelConfig(model=str(tmp_path / "model"))).meta
    assert meta.asks == {"class": {"summary": -0.5}} and meta.plain_words == tuple(PLAIN_WORDS)


def test_what_opens_a_slot_is_given_and_what_ends_it_is_never_read():
    v = tokenizer.VOCABULARY
    answer = np.array([2, 20 + v, 21 + v, 3, 30, 31, 40 + v], dtype=np.uint16)
    example = tokenizer.Example(np.array([5, 6, 7]), np.array([5, 99, 7]), answer)
    whole = train._sequence(example, False, slice(0, 7))
    assert whole[0].tolist() == [5, 6, 7, 2, 20, 21, 3, 30, 31, 40]
    end = tokenizer.END_ID
    summary_to_come, slot_to_come = [20 + v, 21 + v, end + v], [-100, -100, 40 + 2 * v, end + 2 * v]
    assert whole[1].tolist() == [6, 7, -100, *summary_to_come, *slot_to_come]
    later = train._sequence(example, True, train._further_slots(example))
    assert later.tolist() == [[5, 99, 7, 3, 30, 31, 40], [99, 7, -100, *slot_to_come]]
    assert train._sequence(example, False, train._summary(example))[1].tolist() == [
        6,
        7,
        -100,
        *summary_to_come,
    ]


def test_some_examples_are_of_the_first_slot_alone_and_some_of_later_ones():
    v = tokenizer.VOCABULARY
    example = tokenizer.Example(np.array([5]), np.array([5]), np.array([2, 20 + v, 3, 30, v, 3, 31, v]))
    drawn = np.random.default_rng(0).random(200)
    asked = {(part.start, part.stop) for part in (train._asked(example, number) for number in drawn)}
    assert asked == {(0, 8), (0, 2), (2, 8), (5, 8)}


def test_an_answer_holds_only_whole_slots():
    v = tokenizer.VOCABULARY
    slot = [3, 30, *[40 + v] * 30]
    example = tokenizer.Example(np.array([5]), np.array([5]), np.array(slot * 10))
    part = train._asked(example, 0.0)
    assert part == slice(0, tokenizer.MAX_ANSWER_TOKENS // len(slot) * len(slot))


def test_the_loss_counts_texts_and_a_share_of_the_code():
    v = tokenizer.VOCABULARY
    example = tokenizer.Example(np.array([5, 6, 7]), np.array([5]), np.array([2, 8 + v, 9 + v, 3, 4 + v]))
    sequence = train._sequence(example, False, slice(0, 5))
    batch = train._batch([sequence], padding=0, seed=(0,), code_share=0.0)
    assert batch.ids[0, :8].tolist() == [5, 6, 7, 2, 8, 9, 3, 4] and batch.ids.shape[1] % 16 == 0
    assert batch.places.tolist() == [3, 4, 5, 6, 7]
    assert batch.targets.tolist() == [8, 9, 1, 4, 1]
    assert batch.weights.tolist() == pytest.approx([0.25, 0.25, 0.25, 0.125, 0.125])
    batch = train._batch([sequence], padding=0, seed=(0,), code_share=1.0)
    assert batch.places.tolist() == [0, 1, 3, 4, 5, 6, 7]
    assert batch.targets.tolist() == [6, 7, 8, 9, 1, 4, 1]
    assert batch.weights.sum().item() == pytest.approx(1 + train.CODE_WEIGHT)


# evaluation


def test_the_nearest_neighbour_shares_the_rare_words():
    known = {
        "def f(self): return self.pool": {"summary": "pool", "param.size": "f's", "param.name": "n"},
        "def g(self): return self.graph": {"summary": "graph", "param.node": "g's"},
        "def h(self): return self.name": {"returns": "name"},
    }
    neighbours = baselines.Neighbours(list(known.items()))
    slots = ("summary", "param.node", "param.size", "param.new", "returns", "raises.KeyError")
    assert neighbours.nearest("def x(self): return len(self.graph)", slots) == {
        "summary": "graph",
        "param.node": "g's",
        "param.size": "f's",  # of the same name, wherever it is
        "param.new": "g's",  # of none of that name, the nearest function's first
        "returns": "name",
        "raises.KeyError": "",
    }
