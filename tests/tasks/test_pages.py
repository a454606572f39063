"""What pages are drawn from, where it is more than looking things up."""

import re
import textwrap
from html import unescape

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


def test_signatures_link_what_they_refer_to_and_no_parameter(tmp_path, docmill):
    source = tmp_path / "source"
    source.mkdir()
    (source / "m.py").write_text(
        textwrap.dedent(
            """
            from typing import overload

            class Kind: ...
            class Pool(Kind):
                size: Kind = Kind()
                def __init__(self, close, kind: Kind, mode="close"): self.close_it = close
                def grow(self, by: "Kind", Pool=None) -> "list[Kind]": ...
            @overload
            def close(kind: Kind): ...
            @overload
            def close(kind: str) -> Pool: ...
            def close(kind): ...
            @close
            def decorated(a=close): ...
            """
        )
    )
    docmill(source)
    page = (tmp_path / "site" / "api" / "m.html").read_text()
    signatures = re.findall(r'<pre class="sig">(.*?)</pre>', page, re.DOTALL)
    linked = [re.sub(r"<a [^>]*>(.*?)</a>", r"{\1}", signature) for signature in signatures]
    assert [re.sub(r"<[^>]*>", "", unescape(text)) for text in linked] == [
        "class Pool({Kind})",
        "size: {Kind} = {Kind}()",
        'def __init__(self, close, kind: {Kind}, mode="close")',
        "close_it = close",
        'def grow(self, by: {"Kind"}, Pool=None) -> "list[Kind]"',
        "def close(kind: {Kind})",
        "def close(kind: str) -> {Pool}",
        "def close(kind)",
        "@{close}\ndef decorated(a={close})",
    ]
