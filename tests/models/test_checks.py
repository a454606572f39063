"""What of a model's text may be shown."""

from __future__ import annotations

import pytest

from models.checks import checked

PROMPT = "class Pool:\n    def take_one(self, maxSize):\n        return self.items.pop()"


@pytest.mark.parametrize(
    ("text", "kept", "dropped"),
    [
        ("Take an item.", "Take an item.", 0),
        (" Take an\n item. ", "Take an item.", 0),
        ("Call take_one() until maxSize.", "Call take_one() until maxSize.", 0),
        ("Use `Pool.items`.", "Use `Pool.items`.", 0),
        ("Use `Pond.items`.", "", 1),
        ("Call take_two().", "", 1),
        ("Return the minSize.", "", 1),
        ("Set _hidden to it.", "", 1),
        ("Take one. Then call put_back(). Then end.", "Take one. Then end.", 1),
        ("Return the state of the state.", "", 1),
        ("It is 3.5 times as fast.", "It is 3.5 times as fast.", 0),
        ("Broken \ufffd text.", "", 1),
        ("Enable AIIIIII.", "", 1),
        ("Return a nenenene.", "", 1),
        ("Turned \u202e around.", "", 1),
        ("No full stop", "No full stop", 0),
        ("Call take_two(x) twice.", "", 1),
        ("Raise a JSONDecoder error.", "", 1),
        ("Set take_ to it.", "", 1),
        ("Use numpy.ghost for it.", "", 1),
        ("Use `Pool. items` here.", "", 2),
        ("Handles e.g. take_two values.", "", 1),
        ("Return the item(s), e.g. URLs.", "Return the item(s), e.g. URLs.", 0),
        ("Return a Widget object.", "", 1),
        ("Take Pools, Widget instances or none.", "", 1),
        ("Return an instance of Widget.", "", 1),
        ("Make a subclass of Widget.", "", 1),
        ("Raise the Missing exception.", "", 1),
        ("Return instances of Widget.", "", 1),
        ("Return an instance of a Widget.", "", 1),
        ("Return the class Widget.", "", 1),
        ("Return a Widget `object`.", "", 1),
        ("Return `items` Widget objects.", "", 1),
        ("Return a Python object, of a Unicode class.", "Return a Python object, of a Unicode class.", 0),
        ("Return a Pool object.", "Return a Pool object.", 0),
        ("Return a subclass of Pool.", "Return a subclass of Pool.", 0),
        ("Base class of it.", "Base class of it.", 0),
        ("Return an HTTP object.", "Return an HTTP object.", 0),
        ("Use Dijkstra's way.", "Use Dijkstra's way.", 0),
        ("", "", 0),
        ("...", "...", 0),
        ("Take an item of one.. Then end..", "Take an item of one. Then end.", 0),
    ],
)
def test_sentences(text, kept, dropped):
    assert checked(text, PROMPT, ended=True) == (kept, dropped)


PLAIN_WORDS = ("return", "whether", "the", "a", "is", "of")


@pytest.mark.parametrize(
    ("text", "name", "stands"),
    [
        ("Return the items.", "item", True),
        ("Returns the pooled item.", "item", True),  # other forms of the code's words
        ("Return the initial items.", "items", False),  # of no word
        ("Return the maximum size.", "max_size", True),  # which the code shortens
        ("Return the size.", "max_size", False),  # and not that it is the largest
        ("Return whether the class is used.", "is_used", False),
        ("Return the class.", "return_the", True),
        ("Return the pool of pools.", "pool", False),
        ("Return the pool of the pooling.", "pool", False),  # in another form
        ("Return whether the whether is returned.", "", False),
    ],
)
def test_where_words_are_told_a_sentence_is_made_of_those_and_of_the_codes(text, name, stands):
    assert bool(checked(text, PROMPT, True, PLAIN_WORDS, name)[0]) == stands


def test_without_any_plain_word_all_come_from_the_code():
    assert checked("Take one.", PROMPT, True, (), "take_one") == ("Take one.", 0)
    assert checked("Take the one.", PROMPT, True, (), "take_one") == ("", 1)


def test_a_sentence_that_was_cut_off_goes():
    assert checked("Take one. Then put", PROMPT, ended=False) == ("Take one.", 1)
    assert checked("Take one.", PROMPT, ended=False) == ("Take one.", 0)
