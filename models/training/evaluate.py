"""How good the bundled model's sentences are, beside two baselines that know no language model.

In scope: the metric, the baselines, the table. Not in scope: the test pairs (pairs), speed (benchmarks).

The metric is CodeXGLUE's for code summarization: sentence BLEU-4, lower case, one added to the counts of all
but the single words, averaged over the pairs. https://github.com/microsoft/CodeXGLUE
"""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.config import ModelConfig
from models.load import LoadedModel, load
from models.prompts import NEUTRAL_NAME
from models.training.pairs import Pair, Subject
from models.training.tokenizer import MAX_SUMMARY_TOKENS, Encoder

# Written with the test packages in sight, most of whose functions are networkx's: the hardest control.
ONE_FOR_ALL = "Return a list of the given nodes in the graph."
SUBJECTS: tuple[Subject, ...] = ("function", "class", "module")
SURE_SHARES = (0.1, 0.25, 0.5)

_ROWS = 32
_ORDER = 4
_METRIC_TOKEN = re.compile(r"[^\W_]+|_|[^\w\s]")
_CODE_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")


def median_certainty(model: Path, pairs: list[Pair]) -> float:
    """Return the mean log-probability that half of the model's sentences for `pairs` reach."""
    loaded = _load(model)
    _, certainty = summarize(loaded, Encoder(model), pairs)
    return float(np.median(certainty))


def baselines(taught: list[Pair], test: list[Pair], path: Path) -> None:
    """Write to `path` what needs no language model: sentences for each test pair, named and masked."""
    answers = {subject: _baselines(_of(subject, taught), _of(subject, test)) for subject in SUBJECTS}
    path.write_text(json.dumps(answers) + "\n", encoding="utf-8")


def _baselines(taught: list[Pair], test: list[Pair]) -> dict[str, list[list[str]]]:
    summaries = [pair.summary for pair in taught]
    named = Neighbours([pair.code for pair in taught], summaries).nearest(pair.code for pair in test)
    masked = Neighbours([pair.masked_code for pair in taught], summaries).nearest(
        pair.masked_code for pair in test
    )
    names = [sentence_of(pair.name.rpartition(".")[2]) for pair in test]
    return {"name": [names, [sentence_of(NEUTRAL_NAME)] * len(test)], "neighbour": [named, masked]}


def run(model: Path, others: Path, test: list[Pair], report: Path) -> dict[str, Any]:
    """Return the figures for `model` beside the answers of the `others`; keep every sentence in `report`."""
    loaded, encoder = _load(model), Encoder(model)
    answers = json.loads(others.read_text(encoding="utf-8"))
    figures: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "min_logprob": loaded.meta.min_logprob,
    }
    sentences: list[dict[str, Any]] = []
    for subject in SUBJECTS:
        pairs = _of(subject, test)
        written, certainty = summarize(loaded, encoder, pairs)
        written_masked, _ = summarize(loaded, encoder, pairs, masked=True)
        by_all = answers[subject] | controls(written, written_masked) | {"model": [written, written_masked]}
        references = [pair.summary for pair in pairs]
        figures[subject] = {
            "pairs": len(pairs),
            "bleu": {who: [mean_bleu(given, references) for given in both] for who, both in by_all.items()},
            "surest": {share: _surest(share, written, certainty, references) for share in SURE_SHARES},
        }
        sentences += [
            {
                "package": pair.package,
                "subject": subject,
                "name": pair.name,
                "human": pair.summary,
                "model": mine,
                "masked": masked,
                "certainty": round(sure, 3),
            }
            for pair, mine, masked, sure in zip(pairs, written, written_masked, certainty, strict=True)
        ]
    report.write_text(json.dumps(figures | {"sentences": sentences}, indent=1) + "\n", encoding="utf-8")
    return figures


def worth_asking(figures: dict[str, Any]) -> list[Subject]:
    """Return the subjects on which the model beats both baselines, with the name and without."""
    return [
        subject
        for subject in SUBJECTS
        if all(
            figures[subject]["bleu"]["model"][setting] > figures[subject]["bleu"][other][setting]
            for other in ("name", "neighbour")
            for setting in (0, 1)
        )
    ]


def _of(subject: Subject, pairs: list[Pair]) -> list[Pair]:
    return [pair for pair in pairs if pair.subject == subject]


def controls(written: list[str], written_masked: list[str]) -> dict[str, list[list[str]]]:
    """Return what scores without reading the code: the model's sentences dealt at random, and one for all."""
    order = np.random.default_rng(0).permutation(len(written))
    shuffled = [[sentences[index] for index in order] for sentences in (written, written_masked)]
    return {"shuffled": shuffled, "constant": [[ONE_FOR_ALL] * len(written)] * 2}


def _load(model: Path) -> LoadedModel:
    return load(ModelConfig(model=str(model), device="cpu", dtype="float32"))


def summarize(
    loaded: LoadedModel, encoder: Encoder, pairs: list[Pair], *, masked: bool = False
) -> tuple[list[str], list[float]]:
    """Return the model's greedy sentence for each pair, and the mean log-probability of its tokens."""
    prompts = encoder.prompts(pairs, masked=masked)
    order = sorted(range(len(pairs)), key=lambda index: len(prompts[index] or ()))
    sentences, certainty = [""] * len(pairs), [-math.inf] * len(pairs)
    asked = [index for index in order if prompts[index]]
    for start in range(0, len(asked), _ROWS):
        rows = asked[start : start + _ROWS]
        for index, (sentence, logprob) in zip(
            rows, _continue(loaded, encoder, [prompts[i] or [] for i in rows]), strict=True
        ):
            sentences[index], certainty[index] = sentence, logprob
    return sentences, certainty


@torch.inference_mode()
def _continue(loaded: LoadedModel, encoder: Encoder, prompts: list[list[int]]) -> list[tuple[str, float]]:
    length = max(map(len, prompts))
    ids = torch.tensor([[encoder.padding] * (length - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    output = loaded.model.generate(
        ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=MAX_SUMMARY_TOKENS,
        return_dict_in_generate=True,
        output_logits=True,
    )
    new = output.sequences[:, length:]
    scores = torch.stack(output.logits, 1).float().log_softmax(-1).gather(-1, new[..., None])[..., 0]
    real = new != encoder.padding
    certainty = (scores * real).sum(1) / real.sum(1)
    return list(zip(map(loaded.decode, new.tolist()), certainty.tolist(), strict=True))


def _surest(share: float, candidates: list[str], certainty: list[float], references: list[str]) -> float:
    order = sorted(range(len(candidates)), key=lambda index: -certainty[index])
    chosen = order[: max(1, round(share * len(order)))]
    return mean_bleu([candidates[index] for index in chosen], [references[index] for index in chosen])


def bleu(candidate: str, reference: str) -> float:
    """Return the smoothed sentence BLEU-4 of one candidate against one reference, from 0 to 1."""
    mine, theirs = (_METRIC_TOKEN.findall(text.lower()) for text in (candidate, reference))
    logarithm = 0.0
    for size in range(1, _ORDER + 1):
        added = size > 1
        matches = (_grams(mine, size) & _grams(theirs, size)).total() + added
        possible = max(len(mine) - size + 1, 0) + added
        if not matches:
            return 0.0
        logarithm += math.log(matches / possible) / _ORDER
    brevity = min(0.0, 1 - (len(theirs) + 1) / (len(mine) + 1))
    return math.exp(logarithm + brevity)


def mean_bleu(candidates: list[str], references: list[str]) -> float:
    """Return the mean over the pairs, in percent; the full stop that ends every sentence earns nothing."""
    pairs = zip(candidates, references, strict=True)
    return 100 * float(
        np.mean([bleu(mine.removesuffix("."), theirs.removesuffix(".")) for mine, theirs in pairs])
    )


def _grams(tokens: list[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[start : start + size]) for start in range(len(tokens) - size + 1))


def sentence_of(name: str) -> str:
    """Return a function's name as a sentence: `read_csvFile` is "Read csv file."."""
    return " ".join(words(name)).capitalize() + "."


def words(code: str) -> list[str]:
    """Return the words in identifiers and literals, in lower case."""
    return [word.lower() for word in _CODE_WORD.findall(code)]


class Neighbours:
    """Finds the taught function whose code is most like a given one: cosine of TF-IDF over its words."""

    def __init__(self, codes: list[str], summaries: list[str]) -> None:
        self._summaries = summaries
        counts = [Counter(words(code)) for code in codes]
        frequency = Counter(word for count in counts for word in count)
        self._idf = {word: math.log(len(codes) / number) for word, number in frequency.items()}
        postings: dict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
        for index, count in enumerate(counts):
            for word, weight in self._vector(count).items():
                postings[word][0].append(index)
                postings[word][1].append(weight)
        self._postings = {
            word: (np.array(indexes, dtype=np.int32), np.array(weights, dtype=np.float32))
            for word, (indexes, weights) in postings.items()
        }

    def nearest(self, codes: Iterable[str]) -> list[str]:
        """Return for each code the summary of its nearest neighbour."""
        return [self._nearest(code) for code in codes]

    def _nearest(self, code: str) -> str:
        scores = np.zeros(len(self._summaries), dtype=np.float32)
        for word, weight in self._vector(Counter(words(code))).items():
            indexes, weights = self._postings[word]
            scores[indexes] += weight * weights
        return self._summaries[int(scores.argmax())]

    def _vector(self, count: Counter[str]) -> dict[str, float]:
        weights = {
            word: (1 + math.log(number)) * self._idf[word]
            for word, number in count.items()
            if word in self._idf
        }
        length = math.sqrt(sum(weight * weight for weight in weights.values())) or 1.0
        return {word: weight / length for word, weight in weights.items()}
