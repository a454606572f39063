"""How near a written text comes to a human's: three metrics, each from 0 to 100, and how sure a lead is.

All are means over sentences, in lower case, without the final full stop, which every sentence has.

- BLEU is CodeXGLUE's for code summarization: sentence BLEU-4, one added to the counts of all but the single
  words. https://github.com/microsoft/CodeXGLUE
- chrF counts characters' n-grams up to six, recall twice as much as precision (chrF2), by sacrebleu.
  Popović, "chrF: character n-gram F-score for automatic MT evaluation", 2015.
- ROUGE-L is the F-measure of the longest common subsequence of words. Lin, "ROUGE: A Package for Automatic
  Evaluation of Summaries", 2004.

In scope: the metrics, their means, paired bootstrap intervals. Not in scope: who writes the texts.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from sacrebleu.metrics import CHRF

Score = Callable[[str, str], float]

_BLEU_ORDER = 4
_WORD = re.compile(r"[^\W_]+|_|[^\w\s]")
_RESAMPLES = 2000
_CHRF = CHRF()


def bleu(candidate: str, reference: str) -> float:
    """Return the smoothed sentence BLEU-4 of one candidate against one reference, from 0 to 100."""
    mine, theirs = _words(candidate), _words(reference)
    logarithm = 0.0
    for size in range(1, _BLEU_ORDER + 1):
        added = size > 1
        matches = (_grams(mine, size) & _grams(theirs, size)).total() + added
        possible = max(len(mine) - size + 1, 0) + added
        if not matches:
            return 0.0
        logarithm += math.log(matches / possible) / _BLEU_ORDER
    brevity = min(0.0, 1 - (len(theirs) + 1) / (len(mine) + 1))
    return 100 * math.exp(logarithm + brevity)


def chrf(candidate: str, reference: str) -> float:
    """Return the chrF2 of one candidate against one reference, from 0 to 100."""
    return float(_CHRF.sentence_score(_plain(candidate), [_plain(reference)]).score)


def rouge_l(candidate: str, reference: str) -> float:
    """Return the ROUGE-L F-measure of one candidate against one reference, from 0 to 100."""
    mine, theirs = _words(candidate), _words(reference)
    if not mine or not theirs:
        return 0.0
    lengths = [0] * (
        len(theirs) + 1
    )  # of common subsequences of what was read of `mine`, and beginnings of `theirs`
    for word in mine:
        diagonal = 0
        for place, other in enumerate(theirs, 1):
            above = lengths[place]
            lengths[place] = diagonal + 1 if word == other else max(above, lengths[place - 1])
            diagonal = above
    return 200 * lengths[-1] / (len(mine) + len(theirs))


METRICS: dict[str, Score] = {"bleu": bleu, "chrf": chrf, "rouge_l": rouge_l}


def scores(metric: str, candidates: Iterable[str], references: Iterable[str]) -> np.ndarray:
    """Return one score for each candidate."""
    score = METRICS[metric]
    return np.array([score(mine, theirs) for mine, theirs in zip(candidates, references, strict=True)])


def lead(
    mine: Sequence[float] | np.ndarray,
    others: Sequence[float] | np.ndarray,
    subjects: Sequence[int] | None = None,
) -> tuple[float, float]:
    """Return the 95 % interval of the mean lead over another's scores for the same texts (paired bootstrap).

    Koehn, "Statistical Significance Tests for Machine Translation Evaluation", 2004.

    Args:
        mine: A score for each text.
        others: The other's, in the same order.
        subjects: What each text is about; texts of one subject, which are alike, are drawn together.
    """
    differences = np.asarray(mine) - np.asarray(others)
    _, places = np.unique(np.arange(len(differences)) if subjects is None else subjects, return_inverse=True)
    sums, counts = np.bincount(places, differences), np.bincount(places)
    random = np.random.default_rng(0)
    drawn = (random.choice(len(sums), len(sums)) for _ in range(_RESAMPLES))
    means = [sums[chosen].sum() / counts[chosen].sum() for chosen in drawn]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _plain(text: str) -> str:
    return text.lower().removesuffix(".")


def _words(text: str) -> list[str]:
    return _WORD.findall(_plain(text))


def _grams(tokens: list[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[start : start + size]) for start in range(len(tokens) - size + 1))
