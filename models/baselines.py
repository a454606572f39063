"""What can be said of code without a language model: what was said of the code that is most like it.

In scope: finding that code. Not in scope: how good its text is (metrics).
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np

from models.words import words


class Neighbours:
    """Finds the taught code that is most like a given one, cosine of TF-IDF over its words, and its texts.

    For a parameter or an exception those are looked at first that have one of the same name.
    """

    def __init__(self, taught: list[tuple[str, dict[str, str]]]) -> None:
        self._texts = [texts for _, texts in taught]
        counts = [Counter(words(code)) for code, _ in taught]
        frequency = Counter(word for count in counts for word in count)
        self._idf = {word: math.log(len(taught) / number) for word, number in frequency.items()}
        postings: dict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
        for index, count in enumerate(counts):
            for word, weight in self._vector(count).items():
                postings[word][0].append(index)
                postings[word][1].append(weight)
        self._postings = {
            word: (np.array(indexes, dtype=np.int32), np.array(weights, dtype=np.float32))
            for word, (indexes, weights) in postings.items()
        }
        having: dict[str, list[int]] = defaultdict(list)
        for index, texts in enumerate(self._texts):
            for name in {*texts, *(slot.partition(".")[0] for slot in texts)}:
                having[name].append(index)
        self._having = {name: np.array(indexes) for name, indexes in having.items()}

    def nearest(self, code: str, slots: Iterable[str], itself: int | None = None) -> dict[str, str]:
        """Return for each slot the text of the nearest neighbour that has one; an empty one if none has.

        `itself` is the place of this very code among the taught, if it is one of them.
        """
        similar = np.zeros(len(self._texts), dtype=np.float32)
        for word, weight in self._vector(Counter(words(code))).items():
            indexes, weights = self._postings[word]
            similar[indexes] += weight * weights
        return {slot: self._text(slot, similar, itself) for slot in slots}

    def _text(self, slot: str, similar: np.ndarray, itself: int | None) -> str:
        kind = slot.partition(".")[0]
        of_others = (
            having[having != itself]
            for name in (slot, kind)
            if (having := self._having.get(name)) is not None
        )
        having = next((some for some in of_others if len(some)), None)
        if having is None:
            return ""
        texts = self._texts[int(having[similar[having].argmax()])]
        return texts.get(slot) or next(text for name, text in texts.items() if name.partition(".")[0] == kind)

    def _vector(self, count: Counter[str]) -> dict[str, float]:
        weights = {
            word: (1 + math.log(number)) * self._idf[word]
            for word, number in count.items()
            if word in self._idf
        }
        length = math.sqrt(sum(weight * weight for weight in weights.values())) or 1.0
        return {word: weight / length for word, weight in weights.items()}
