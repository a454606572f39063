"""Requests on their way to the engine."""

from __future__ import annotations

from tasks.generate import _Stream
from tasks.generate.answers import Rendered, Wanted
from tasks.generate.asking import Asked


def request(symbol: str, key: str) -> Rendered:
    return Rendered(Wanted("a.py", Asked(symbol, key, ())), key, key)


def test_each_distinct_request_is_sent_once_and_answers_all_that_are_like_it():
    stream = _Stream([request("f", "1"), request("g", "2"), request("h", "1")], None)
    taken = stream.requests()
    assert next(taken)[0] == "1"
    assert [r.wanted.asked.symbol for r in stream.arrived("1")] == ["f", "h"]
    assert next(taken)[0] == "2"
    assert next(taken) is None  # its answer may free others
    stream.arrived("2")
    stream.add([request("i", "3")])
    assert next(taken)[0] == "3"
    stream.arrived("3")
    assert list(taken) == []
    assert len(stream.sent) == 4


def test_a_budget_counts_symbols_not_requests():
    stream = _Stream([request("f", "1"), request("f", "2"), request("g", "3"), request("h", "4")], 2)
    assert [w.asked.symbol for w in stream.sent] == ["f", "f", "g"]
    stream.add([request("g", "5"), request("i", "6")])
    assert [w.asked.symbol for w in stream.sent] == ["f", "f", "g", "g"]
