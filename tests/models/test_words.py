"""Names, code and sentences as words."""

from models import words


def test_words_are_parts_of_identifiers_and_of_prose():
    assert words.words("read_csvFile(HTTPServer, x2) # Don't") == [
        *("read", "csv", "file", "http", "server", "x", "2", "don", "t"),
    ]


def test_a_name_becomes_a_sentence():
    assert words.sentence_of("read_csvFile") == "Read csv file."
    assert words.sentence_of("__init__") == "Init."


def test_forms_of_a_word_have_one_stem():
    assert len(set(words.stems("connect connects connected connecting connection"))) == 1


def test_a_word_may_be_short_for_another():
    (directory,) = words.stems("directory")
    assert words.is_among("dir", {directory}) and words.is_among(directory, ["dir"])
    assert words.is_among("size", {"size"}) and not words.is_among("size", set())
    assert not words.is_among("di", {directory})  # too short to tell
    assert not words.is_among("rect", {directory})
