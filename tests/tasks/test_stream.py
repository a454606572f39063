"""Requests on their way to the engine."""

from __future__ import annotations

import pytest

from tasks.budget import Budget, Spending, parse_budget
from tasks.generate import _Stream
from tasks.generate.answers import Rendered, Wanted
from tasks.generate.asking import Asked


def request(symbol: str, key: str) -> Rendered:
    return Rendered(Wanted("a.py", Asked(symbol, "function", key, ())), key, key, key)


def test_each_distinct_request_is_sent_once_and_answers_all_that_are_like_it():
    stream = _Stream([request("f", "1"), request("g", "2"), request("h", "1")], Spending(Budget()), len)
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


def sent(stream) -> list[str]:
    """Run a stream dry; the symbols whose requests were sent."""
    for text_key, *_ in stream.requests():
        stream.arrived(text_key)
    return [wanted.asked.symbol for wanted in stream.sent]


def test_a_budget_counts_symbols_not_requests():
    spending = Spending(Budget(symbols=2))
    stream = _Stream(
        [request("f", "1"), request("f", "2"), request("g", "3"), request("h", "4")], spending, len
    )
    assert sent(stream) == ["f", "f", "g"]
    stream.add([request("g", "5"), request("i", "6")])
    assert sent(stream) == ["f", "f", "g", "g"]


def test_a_budget_of_tokens_counts_the_most_that_a_request_can_take():
    spending = Spending(Budget(tokens=10))
    requests = [request("f", "4"), request("g", "7"), request("h", "5"), request("i", "2"), request("j", "1")]
    assert sent(_Stream(requests, spending, lambda rendered: int(rendered.prompt))) == ["f", "h", "j"]


def test_a_budget_of_minutes_ends_what_is_sent_but_not_what_is_under_way():
    now = [0.0]
    stream = _Stream(
        [request("f", "1"), request("g", "2"), request("h", "3")],
        Spending(Budget(minutes=1), lambda: now[0]),
        len,
    )
    taken = stream.requests()
    assert next(taken)[0] == "1"
    now[0] = 59.9
    assert next(taken)[0] == "2"
    now[0] = 60.0
    assert next(taken) is None
    stream.arrived("1")
    stream.arrived("2")
    assert list(taken) == []
    assert [wanted.asked.symbol for wanted in stream.sent] == ["f", "g"]


def test_with_a_budget_of_minutes_no_more_is_under_way_than_soon_ends():
    many = [request(f"f{n}", str(n)) for n in range(1000)]
    now = [0.0]
    stream = _Stream(many, Spending(Budget(minutes=1), lambda: now[0]), len)
    taken = stream.requests()
    under_way = [item[0] for item in iter(lambda: next(taken), None)]
    assert 64 <= len(under_way) < 200
    stream.arrived(under_way[0])
    assert next(taken) is not None and next(taken) is None
    now[0] = 61.0
    stream.arrived(under_way[1])
    assert next(taken) is None  # what is under way is finished, nothing is added


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("0", Budget(symbols=0)),
        (" 500 ", Budget(symbols=500)),
        ("1 symbol", Budget(symbols=1)),
        ("200000 tokens", Budget(tokens=200_000)),
        ("10minutes", Budget(minutes=10)),
        ("1.5 minutes", Budget(minutes=1.5)),
    ],
)
def test_a_budget_is_read(text, budget):
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    "text",
    ["", "-1", "1.5", "1.5 tokens", "1e3 tokens", "9" * 13, "ten", "5 dollars", "5 tokens 3", "\u0665"],
)
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(ValueError, match="symbols, tokens or minutes"):
        parse_budget(text)
