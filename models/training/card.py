"""The bundled model's card: models/bundled/README.md, made from the measured figures.

In scope: the text. Not in scope: measuring (evaluate), the curve (train).
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.training.corpus import Package, packages
from models.training.evaluate import ONE_FOR_ALL, SUBJECTS
from models.training.pairs import Pair, Subject
from models.training.tokenizer import MAX_PROMPT_TOKENS, VOCABULARY
from models.training.train import CODE_SHARE, CODE_WEIGHT, MASKED_SHARE, SEED

CARD = "README.md"
_PLURAL: dict[Subject, str] = {
    "function": "functions",
    "class": "classes",
    "module": "modules and packages",
}

_TEXT = """\
# docmill's bundled model

A decoder-only language model that reads one Python function, or the outline of a class, module or package,
and writes one sentence about it. It is what docmill uses unless it is told otherwise; every sentence it wrote
carries the model's mark on the page.

- **Input**: a function's code under the head of its class, or an outline (the head, and a line for each
  member with its summary, if there is one), as `models/prompts.py` writes them (no docstring, no comment, no
  formatting; elided to {prompt_tokens} tokens), then the separator token. **Output**: one sentence.
- **Shape**: Llama, {layers} layers, {width} wide, {heads} heads over {kv_heads} key/value heads,
  {parameters:.1f} M parameters, byte-level BPE tokenizer of {vocabulary:,} tokens.
- **Stored** as int8 through optimum-quanto (embedding in bfloat16): {megabytes:.1f} MB in all.
- **Licence**: Apache-2.0, like docmill. The sources it was trained on are listed below with theirs.

## How good it is

{pairs}
of {test_names},
none of which it saw in training, against the first sentence of the human docstring. The metric is CodeXGLUE's
smoothed sentence BLEU-4, lower case, without the final full stop; other test sets give other figures.
"Masked": the subject's own name is hidden, so that only the code can tell.

{table}

{verdict}

The controls say how little such a score means: a sentence that fits no function in particular, but sounds
like this documentation, earns most of it.

Greedy decoding in float32 from the int8 weights. Of the functions, ordered by the model's own mean
log-probability,
{surest}.
Below {min_logprob:.2f}, the median on the validation packages, docmill lets it be silent (`min_logprob` in
docmill.json).

## What it cannot do

- It is small and has read {tokens:.0f} M tokens, in {minutes:.0f} minutes on two cores: its sentences are
  fluent and often wrong, above all on algorithms, on long functions, and where the name says nothing. They
  are hints.
- It sees one function at a time, of its class only the head, and neither its callers nor what it calls.
- It writes summaries only: no parameters, no return values; Python, in English.
- It repeats the habits of the packages below ("Return True if ...", "Initialize the ..."), mistakes included.

## How it was trained

`python -m models.training` makes it again: it downloads the packages pinned in `models/training/corpus.toml`
as wheels, reads them without running them, and takes each function, class, module and package with the first
sentence of its docstring:
{taught}.
Left out: tests, stubs, copies of other projects, sentences that say nothing about the code, what is equal but
for its name, and what is nearly equal to something in the validation or test packages. In every other outline
no member has a summary, as where nobody wrote any.

In {masked_share:.0%} of the examples the name is masked. Loss on the summary, and on a random
{code_share:.0%} of the code's tokens with weight {code_weight}. Muon for the matrices in the layers, AdamW
for the rest, learning rates falling to zero over {minutes:.0f} minutes. The schedule follows the clock, so a
second run sees the same examples in the same order (seed {seed}) but ends at another step. The checkpoint
with the lowest loss on {validation_names} was kept; the test packages took no part in any choice.

| minutes | step | tokens | validation loss | name masked |
|---|---|---|---|---|
{curve}

## Sources

{sources}
"""


def write(folder: Path, figures: dict[str, Any], curve: Path, taught: list[Pair], minutes: float) -> None:
    """Write the card into the model's `folder`."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    points = json.loads(curve.read_text(encoding="utf-8"))
    of_split = {
        split: [p for p in packages() if p.split == split] for split in ("train", "validation", "test")
    }
    text = _TEXT.format(
        prompt_tokens=MAX_PROMPT_TOKENS,
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        parameters=figures["parameters"] / 1e6,
        vocabulary=VOCABULARY,
        megabytes=sum(path.stat().st_size for path in folder.iterdir() if path.name != CARD) / 1e6,
        pairs=_counted({subject: figures[subject]["pairs"] for subject in SUBJECTS}),
        test_names=_names(of_split["test"]),
        validation_names=_names(of_split["validation"]),
        table=_table({subject: figures[subject]["bleu"] for subject in SUBJECTS}),
        verdict="\n".join(_verdict(subject, figures[subject]["bleu"]) for subject in SUBJECTS),
        surest=_surest(figures["function"]["surest"]),
        min_logprob=figures["min_logprob"],
        minutes=minutes,
        tokens=points[-1]["tokens"] / 1e6,
        taught=_counted(Counter(pair.subject for pair in taught)),
        masked_share=MASKED_SHARE,
        code_share=CODE_SHARE,
        code_weight=CODE_WEIGHT,
        seed=SEED,
        curve=_curve(points),
        sources="\n".join(f"- {p.name} {p.version} ({p.licence})" for p in of_split["train"]),
    )
    (folder / CARD).write_text(text, encoding="utf-8")


def _counted(number: Mapping[Subject, int]) -> str:
    counts = [f"{number[subject]:,} {_PLURAL[subject]}" for subject in SUBJECTS]
    return f"{', '.join(counts[:-1])} and {counts[-1]}"


def _table(bleu: dict[Subject, dict[str, list[float]]]) -> str:
    labels = {
        "name": "the name, split into words",
        "neighbour": "nearest neighbour among what it was taught (TF-IDF of the words)",
        "shuffled": "control: this model's sentences dealt out at random",
        "constant": f"control: “{ONE_FOR_ALL}” for everything",
        "model": "**this model**",
    }
    columns = [f"{_PLURAL[subject]} | masked" for subject in SUBJECTS]
    rows = [
        " | ".join([label, *(f"{score:.1f}" for subject in SUBJECTS for score in bleu[subject][who])])
        for who, label in labels.items()
    ]
    return "\n".join([f"| | {' | '.join(columns)} |", "|---" * 7 + "|", *(f"| {row} |" for row in rows)])


def _verdict(subject: Subject, bleu: dict[str, list[float]]) -> str:
    lost = [
        f"{label} {setting}"
        for other, label in (("name", "the split-up name"), ("neighbour", "the nearest neighbour"))
        for index, setting in enumerate(("with the name as it is", "with the name masked"))
        if bleu["model"][index] <= bleu[other][index]
    ]
    if lost:
        return f"For {_PLURAL[subject]} it **does not beat** {' or '.join(lost)}, so docmill does not ask it."
    return f"For {_PLURAL[subject]} it beats both baselines, with the name as it is and masked."


def _surest(surest: dict[float, float]) -> str:
    return ", ".join(f"the surest {share:.0%} score {score:.1f}" for share, score in surest.items())


def _curve(points: list[dict[str, float]]) -> str:
    return "\n".join(
        f"| {point['minutes']:.0f} | {point['step']:,} | {point['tokens'] / 1e6:.1f} M | {point['loss']:.3f} "
        f"| {point['loss_masked']:.3f} |"
        for point in points
    )


def _names(listed: list[Package]) -> str:
    names = [package.name for package in listed]
    return f"{', '.join(names[:-1])} and {names[-1]}"
