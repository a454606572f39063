"""The bundled model's card: models/bundled/README.md, made from the measured figures.

In scope: the text. Not in scope: measuring (evaluate), the curve (train).
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from models.training.corpus import Package, packages
from models.training.evaluate import GOOD_ENOUGH, ONE_FOR_ALL, TASKS, Task, tasks_of, worth_asking
from models.training.pairs import Pair, plain_words
from models.training.tokenizer import MAX_PROMPT_TOKENS, VOCABULARY
from models.training.train import CODE_WEIGHT, CURVE, MASKED_SHARE, SEED, SLOT_WEIGHT, Plan

CARD = "README.md"
_PLURAL = {
    "function.summary": "summaries of functions",
    "class.summary": "summaries of classes",
    "module.summary": "summaries of modules and packages",
    "function.param": "parameters",
    "function.returns": "results",
    "function.raises": "exceptions",
}
_METRICS = {"bleu": "BLEU", "chrf": "chrF", "rouge_l": "ROUGE-L"}

_TEXT = """\
# docmill's bundled model

A decoder-only language model that reads one Python function, or the outline of a class, module or package,
and writes one sentence for each slot that it is asked for: a summary; and of a function what a parameter is,
what is returned, and when an exception is raised. It is what docmill uses unless it is told otherwise; every
sentence it wrote carries the model's mark on the page.

- **Input**: a function's code under the head of its class, or an outline (the head, and a line for each
  member with its summary, if there is one), as `models/prompts.py` writes them (no docstring, no comment, no
  formatting; elided to {prompt_tokens} tokens). **Output**: after each slot's mark, and its name, one
  sentence and the end token. Marks and names are given to it, never written by it.
- **Shape**: Llama, {layers} layers, {width} wide, {heads} heads over {kv_heads} key/value heads,
  {parameters:.1f} M parameters, byte-level BPE tokenizer of {vocabulary:,} tokens.
- **Stored** as int8 through optimum-quanto (embedding in bfloat16): {megabytes:.1f} MB in all. On the
  validation packages this costs {lost} BLEU.
- **Licence**: Apache-2.0, like docmill. The sources it was trained on are listed below with theirs.

## How good it is

Measured on {texts} of {test_names}, none of which it saw in training, against what a human wrote there.
BLEU is CodeXGLUE's smoothed sentence BLEU-4, chrF is chrF2, ROUGE-L the F-measure; all in lower case, without
the final full stop, means over the texts; other test sets give other figures. "Masked": the subject's own
name is hidden, so that only the code can tell.

{tables}

The controls say how little such a score means: a sentence that fits nothing in particular, but sounds like
this documentation, earns much of it.

## When it is silent

A text is shown only if it consists of words of the code, in whatever form, and of {plain_words} plain ones
(those that nearly all packages below use in their summaries); if it leaves out nothing that the name says,
and does not say a thing twice; and if the model's mean log-probability is above a floor. Floors are set by
readers on {validation_names}: where one in twenty of the texts
above is wrong to them, without knowing who wrote which. What has less than {good_enough:.0f} BLEU above its
floor on these packages, and what does not beat both baselines there by every metric, with the name and
without, is not asked for.

{verdicts}

Of the texts that consist of such words, BLEU of the surest, on the test packages, greedy decoding in float32
from the int8 weights:

{curves}

## What it cannot do

- It is small and has read {tokens:.0f} M tokens: its sentences are fluent and often wrong, above all on
  algorithms, on long functions, and where the name says nothing. They are hints.
- It sees one function at a time, of its class only the head, and neither its callers nor what it calls.
- Python, in English. It repeats the habits of the packages below ("Return True if ...", "Initialize the
  ..."), mistakes included.

## How it was trained

`{command}` makes one like it: it downloads the packages pinned in `models/training/corpus.toml`
as wheels, reads them without running them, and takes each function, class, module and package with the first
sentence of what its docstring says of it and of its parameters, result and exceptions: {taught}.
Left out: tests, stubs, copies of other projects, sentences that say nothing about the code, what is equal but
for its name, and what is nearly equal to something in the validation or test packages. In every other outline
no member has a summary, as where nobody wrote any.

In {masked_share:.0%} of the examples the name is masked. Loss on the texts, those of parameters, results and
exceptions with weight {slot_weight}, and on {code_share:.0%} of the code's tokens with weight {code_weight}.
Muon for the matrices in the layers, AdamW for the rest, learning rates falling to zero; {batch:,} tokens in a
step, matrices are multiplied in {products}.
It took {minutes:.0f} minutes on {machine}; seed {seed}. The checkpoint with the lowest loss on
{validation_names} was kept, which is that after {tokens:.0f} M tokens. The test packages took no part in
training, the checkpoint or the floors; that a rule for words was needed was seen on them.

| minutes | step | tokens | validation loss | name masked | further slots |
|---|---|---|---|---|---|
{curve}

## Sources

{sources}
"""


def write(
    folder: Path,
    figures: dict[str, Any],
    asked: Mapping[Task, float],
    lost: Mapping[str, float],
    plan: Plan,
    taught: list[Pair],
) -> None:
    """Write the card of a model into its `folder`.

    Args:
        folder: The model as it is shipped.
        figures: Those of the test packages.
        asked: The tasks that it is asked for, and their floors.
        lost: BLEU that int8 costs, as of `evaluate.lost_in_int8`.
        plan: What it was trained by.
        taught: What it was taught.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    trained = json.loads((plan.folder / CURVE).read_text(encoding="utf-8"))
    points = trained["points"]
    of_split = {
        split: [p for p in packages() if p.split == split] for split in ("train", "validation", "test")
    }
    of_task = {task: found for task in TASKS if (found := figures["tasks"][str(task)])["texts"]}
    tables = {_PLURAL[str(task)]: found for task, found in of_task.items()} | {"all texts": figures["all"]}
    text = _TEXT.format(
        prompt_tokens=MAX_PROMPT_TOKENS,
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        parameters=figures["parameters"] / 1e6,
        vocabulary=VOCABULARY,
        megabytes=sum(path.stat().st_size for path in folder.iterdir() if path.name != CARD) / 1e6,
        texts=_counted({task: found["texts"] for task, found in of_task.items()}),
        test_names=_names(of_split["test"]),
        validation_names=_names(of_split["validation"]),
        tables="\n\n".join(_table(what, found) for what, found in tables.items()),
        plain_words=len(plain_words(taught)),
        good_enough=GOOD_ENOUGH,
        verdicts="\n".join(_verdicts(figures, asked)),
        curves=_curves(of_task),
        tokens=_best(points)["tokens"] / 1e6,
        taught=_counted(Counter(task for pair in taught for task in tasks_of(pair))),
        masked_share=MASKED_SHARE,
        slot_weight=SLOT_WEIGHT,
        code_weight=CODE_WEIGHT,
        lost=_lost(lost),
        command=_command(plan),
        code_share=plan.code_share,
        batch=plan.batch * plan.workers,
        products="bfloat16" if plan.bfloat16 else "float32",
        minutes=points[-1]["minutes"],
        machine=trained["machine"],
        seed=SEED,
        curve=_curve(points),
        sources="\n".join(f"- {p.name} {p.version} ({p.licence})" for p in of_split["train"]),
    )
    (folder / CARD).write_text(text, encoding="utf-8")


def _lost(lost: Mapping[str, float]) -> str:
    """What int8 costs; below nothing if it gained."""
    stored = f"{lost['weights']:.2f}"
    return (
        f"{stored}, and {lost['products']:.2f} where products are in int8 too,"
        if "products" in lost
        else stored
    )


def _command(plan: Plan) -> str:
    """What makes a model like this one, on such a machine."""
    flags = [f"--tokens {plan.tokens / 1e6:g}", f"--device {plan.device}"]
    return " ".join(["python -m models.training", *flags, *(["--bfloat16"] if plan.bfloat16 else [])])


def _counted(number: Mapping[Task, int]) -> str:
    counts = [f"{count:,} {_PLURAL[str(task)]}" for task, count in number.items()]
    return f"{', '.join(counts[:-1])} and {counts[-1]}" if counts[1:] else counts[0]


def _table(what: str, found: Mapping[str, Any]) -> str:
    """The scores of all contenders at one kind of text, and the model's lead over the baselines."""
    labels = {
        "name": "the name, split into words",
        "neighbour": "nearest neighbour among what it was taught (TF-IDF of the words)",
        "shuffled": "control: this model's texts dealt out at random",
        "constant": f"control: “{ONE_FOR_ALL}” for everything",
        "model": "**this model**",
    }
    title = f"{what.capitalize()} ({found['texts']:,})"
    heads = [f"{name} | masked" for name in _METRICS.values()]
    rows = [
        [label, *(f"{score:.1f}" for metric in _METRICS for score in found["scores"][who][metric])]
        for who, label in labels.items()
    ]
    rows += [
        [
            f"lead over {label}, 95 % of resamples",
            *(
                f"{low:+.1f} to {high:+.1f}"
                for metric in _METRICS
                for low, high in found["lead"][other][metric]
            ),
        ]
        for other, label in (("name", "the name"), ("neighbour", "the neighbour"))
    ]
    lines = [f"| {title} | {' | '.join(heads)} |", "|---" * 7 + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _verdicts(figures: Mapping[str, Any], asked: Mapping[Task, float]) -> Iterable[str]:
    better = worth_asking(figures)
    for task in TASKS:
        name = _PLURAL[str(task)].capitalize()
        here = "" if task in better else "; **on the test packages it does not beat both baselines**"
        if task not in asked:
            yield f"- {name}: not asked for{here}."
        else:
            said = figures["tasks"][str(task)]["said"]
            yield (
                f"- {name}: above {asked[task]:.2f}, which of the test packages' are "
                f"{said['share']:.0%}, with {said['bleu']:.1f} BLEU{here}."
            )


def _curves(of_task: Mapping[Task, Mapping[str, Any]]) -> str:
    """Coverage against quality, a column for each task."""
    curves = {task: found["curve"] for task, found in of_task.items() if found["curve"]}
    heads = [f"{_PLURAL[str(task)]}, {of_task[task]['stands']:.0%} of all" for task in curves]
    lines = [f"| the surest | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for points in zip(*curves.values(), strict=True):
        share = f"{points[0]['share']:.0%}"
        lines.append(" | ".join([f"| {share}", *(f"{point['bleu']:.1f}" for point in points)]) + " |")
    return "\n".join(lines)


def _best(points: Iterable[Mapping[str, float]]) -> Mapping[str, float]:
    """The point whose weights were kept."""
    return min(points, key=lambda point: point["loss"] + point["loss_masked"])


def _curve(points: list[dict[str, float]]) -> str:
    return "\n".join(
        f"| {point['minutes']:.1f} | {point['step']:,} | {point['tokens'] / 1e6:.1f} M | {point['loss']:.3f} "
        f"| {point['loss_masked']:.3f} | {point['loss_slots']:.3f} |"
        for point in points
    )


def _names(listed: list[Package]) -> str:
    names = [package.name for package in listed]
    return f"{', '.join(names[:-1])} and {names[-1]}"
