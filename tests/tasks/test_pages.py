"""What pages are drawn from, where it is more than looking things up."""

import pytest

from tasks.render.pages import split_arguments


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a, b: int = 2, *args, **kw", ["a", "b: int = 2", "*args", "**kw"]),
        ("a: dict[str, int] = {1: 2, 3: 4}, b=(1, 2)", ["a: dict[str, int] = {1: 2, 3: 4}", "b=(1, 2)"]),
        ("a=', (', b='\\',', c", ["a=', ('", "b='\\','", "c"]),
        ("x=lambda a, b=2: a, y=1", ["x=lambda a, b=2: a", "y=1"]),
        ("x=lambda *a, **k: {**k}, y: int = 1", ["x=lambda *a, **k: {**k}", "y: int = 1"]),
        ("x=lambda a, b=lambda c, d: c: a, y=1", ["x=lambda a, b=lambda c, d: c: a", "y=1"]),
        ("lambda_: int, m=t.lambdas, y=1", ["lambda_: int", "m=t.lambdas", "y=1"]),
    ],
)
def test_a_signature_is_split_between_its_parameters(text, parts):
    assert split_arguments(text) == parts
