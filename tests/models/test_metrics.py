import math

import numpy as np
import pytest
import sacrebleu

from models.metrics import METRICS, bleu, chrf, lead, rouge_l, scores


@pytest.mark.parametrize("metric", METRICS)
def test_an_equal_sentence_scores_100_and_the_final_full_stop_earns_nothing(metric):
    assert METRICS[metric]("Return the name.", "return the name") == pytest.approx(100)
    assert METRICS[metric]("one.", "two.") < 40
    assert METRICS[metric](".", ".") == METRICS[metric]("", "") == 0


def test_bleu_agrees_with_values_computed_by_hand():
    # words 2/3, pairs (1+1)/(2+1), triples (0+1)/(1+1), fours (0+1)/(0+1); brevity exp(1 - 5/4)
    expected = (2 / 3 * 2 / 3 * 1 / 2) ** 0.25 * math.exp(-0.25)
    assert bleu("return the cat", "Return the dog today") == pytest.approx(100 * expected)
    # five words, two of them matched once each although "the" is said twice; no pair matches
    expected = (2 / 5 * 1 / 5 * 1 / 4 * 1 / 3) ** 0.25
    assert bleu("the a the b c", "c x y the") == pytest.approx(100 * expected)


def test_bleu_without_a_common_word_is_zero():
    assert bleu("one two", "three four") == 0


def test_underscores_are_words_of_the_metric():
    assert bleu("read_csv", "read csv") < 100


def test_chrf_is_sacrebleus():
    mine, theirs = "return the size of a pool", "the size of all pools"
    assert chrf(mine, theirs) == pytest.approx(sacrebleu.sentence_chrf(mine, [theirs]).score)


def test_rouge_l_agrees_with_a_value_computed_by_hand():
    # Lin's example: the longest common subsequence of these is "police the gunman", of 4 words each
    assert rouge_l("police kill the gunman", "police killed the gunman") == pytest.approx(75)
    assert rouge_l("the gunman kill police", "police killed the gunman") == pytest.approx(50)
    assert rouge_l("a b c d e", "b d") == pytest.approx(100 * 2 * 1 * 0.4 / 1.4)


def test_scores_are_one_for_each_pair():
    assert scores("bleu", ["one two", "x"], ["one two", "y"]).tolist() == pytest.approx([100, 0])
    with pytest.raises(ValueError):
        scores("bleu", ["one"], [])


def test_an_interval_holds_the_lead_and_tells_whether_it_is_one():
    random = np.random.default_rng(1)
    others = random.normal(10, 5, 500)
    low, high = lead(others + 1 + random.normal(0, 2, 500), others)
    assert 0.5 < low < 1 < high < 1.5
    low, high = lead(random.permutation(others), others)
    assert low < 0 < high


def test_texts_of_one_subject_are_drawn_together():
    """Ten texts that are alike tell no more than one of them."""
    differences = np.random.default_rng(0).normal(1, 2, 50)
    of_each = np.repeat(differences, 10)
    nothing = np.zeros(500)
    one = lead(differences, np.zeros(50))
    assert lead(of_each, nothing, [n for n in range(50) for _ in range(10)]) == pytest.approx(one)
    low, high = lead(of_each, nothing)
    assert one[0] < low < high < one[1]
