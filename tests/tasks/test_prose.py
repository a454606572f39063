"""Prose into HTML: what people write arrives, what could harm does not."""

from __future__ import annotations

import re

import pytest

from tasks.render.prose import docstring_html, inline_html, page_html, plain_html, sanitized
from tasks.render.restructured import is_external
from tasks.render.source import coloured, highlighted_lines

TARGETS = {"f": "#f", "pkg.B": "b.html#B"}
FILES = {"docs/b c.md#d": "b.html#d"}


def page(text: str) -> str:
    known = {"other.md": "other.html", "a.png": "img/a.png"}
    return str(page_html(text, known.get, known.get))


TABLE = (
    "<table>\n<thead>\n<tr>\n<th>{}</th>\n<th>{}</th>\n</tr>\n</thead>\n"
    "<tbody>\n<tr>\n<td>a|b</td>\n<td>c</td>\n</tr>\n</tbody>\n</table>"
)


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("Plain text.", "<p>Plain text.</p>"),
        ("1 < 2 & 3", "<p>1 &lt; 2 &amp; 3</p>"),
        ("Use `f`.", '<p>Use <a href="#f"><code>f</code></a>.</p>'),
        ("Use ``f()``.", '<p>Use <a href="#f"><code>f()</code></a>.</p>'),
        ("See :class:`pkg.B`.", '<p>See <a href="b.html#B"><code>pkg.B</code></a>.</p>'),
        ("See :py:meth:`~a.b.c`.", "<p>See <code>c</code>.</p>"),
        ("See :class:`~pkg.B`.", '<p>See <a href="b.html#B"><code>B</code></a>.</p>'),
        (
            "A :class:`word <pkg.B>`\nor `a\nlink <https://h/x>`_.",
            '<p>A <a href="b.html#B"><code>word</code></a>\nor <a href="https://h/x">a link</a>.</p>',
        ),
        ("As in [1]_ and :pep:`8`.", "<p>As in [1] and PEP 8.</p>"),
        ("An `x <javascript:a>`_.", "<p>An x.</p>"),
        ("== ==\na  b\n== ==", '<pre tabindex="0"><code>== ==\na  b\n== ==\n</code></pre>'),
        ("+--+\n|a |\n+--+\n\nb", '<pre tabindex="0"><code>+--+\n|a |\n+--+\n</code></pre>\n<p>b</p>'),
        ("See :ref:`the text <label>`.", "<p>See <code>the text</code>.</p>"),
        ("See :doc:`<label>`.", "<p>See <code>label</code>.</p>"),
        ("See `most browsers <cookie_>`_.", "<p>See most browsers.</p>"),
        ("See `Text <https://a.b/c>`_.", '<p>See <a href="https://a.b/c">Text</a>.</p>'),
        ("See `Section`_.", "<p>See Section.</p>"),
        ("*a* **b** ~~c~~", "<p><em>a</em> <strong>b</strong> <s>c</s></p>"),
        ("snake_case_name and __init__", "<p>snake_case_name and __init__</p>"),
        ("`x` in a.__init__ of *it*", "<p><code>x</code> in a.__init__ of <em>it</em></p>"),
        ("`__a__` __Bold__ (*args, **kw)", "<p><code>__a__</code> <strong>Bold</strong> (*args, **kw)</p>"),
        ("- one\n- two", "<ul>\n<li>one</li>\n<li>two</li>\n</ul>"),
        (
            ".. note:: Take care.",
            "<blockquote>\n<p><strong>Note</strong></p>\n<p>Take care.</p>\n</blockquote>",
        ),
        (".. versionadded:: 1.2", "<p><em>Added in 1.2.</em></p>"),
        (
            ".. csv-table:: T\n   :header: H, ``I``\n\n   a|b, \"c\"",
            "<p><strong>T</strong></p>\n" + TABLE.format("H", "<code>I</code>"),
        ),
        (".. list-table::\n\n   * - a|b\n     - c", TABLE.format("", "")),
        (
            ".. list-table::\n   :header-rows: 1\n\n   * - H\n     - `I\n       i`\n   * - a|b\n     - c",
            TABLE.format("H", "<code>I i</code>"),
        ),
        (
            ".. list-table::\n\n   * - a\n\n       - one",
            "<ul>\n<li>\n<ul>\n<li>\n<p>a</p>\n<ul>\n<li>one</li>\n</ul>\n</li>\n</ul>\n</li>\n</ul>",
        ),
        (".. csv-table::\n   :delim: tabs\n\n   a, b", '<pre tabindex="0"><code>a, b\n</code></pre>'),
        (
            ".. figure:: a.png\n   :alt: *Seen*.\n\n   Said.",
            "<p><strong>a.png</strong></p>\n<p><em>Seen</em>.</p>\n<p>Said.</p>",
        ),
        (
            ".. code-block:: text\n   :caption: C\n\n   x",
            '<p><strong>C</strong></p>\n<pre tabindex="0"><code>x\n</code></pre>',
        ),
        (".. code-block:: text\n   :caption:\n\n   x", '<pre tabindex="0"><code>x\n</code></pre>'),
        (".. a comment\n   of two lines\n\nText.", "<p>Text.</p>"),
        ("<b>no HTML</b>", "<p>&lt;b&gt;no HTML&lt;/b&gt;</p>"),
        ("[*b*][pkg.B], [pkg.B][]", '<p><a href="b.html#B"><em>b</em></a>, <a href="b.html#B">pkg.B</a></p>'),
        ("[`f`][f] [`x`][a.X]", '<p><a href="#f"><code>f</code></a> <code>x</code></p>'),
        ("[i][self.j] [a.b][]", "<p>[i][self.j] [a.b][]</p>"),
        (".. versionadded:: 1\n   :class:`x` y", "<p><em>Added in 1.</em> <code>x</code> y</p>"),
        ("[i][j] m[i][f] [a][b]\n\n[b]: #x", '<p>[i][j] m[i][f] <a href="#x">a</a></p>'),
        ("d['x'](k=1) f(x)[0](1)", "<p>d['x'](k=1) f(x)[0](1)</p>"),
        ("word[link](https://a.b)", '<p>word<a href="https://a.b">link</a></p>'),
        ("2*3*4 is x**2**3, *so*.", "<p>2*3*4 is x**2**3, <em>so</em>.</p>"),
        ("(b**x)**2 == b**(2*x)", "<p>(b**x)**2 == b**(2*x)</p>"),
        ("`&lt;` is &lt; and &#35;", "<p><code>&amp;lt;</code> is &amp;lt; and &amp;#35;</p>"),
        ("One\n~~~\n\ntwo", '<p class="heading">One</p><p>two</p>'),
        ("One two\n~~~~~\n\nthree", '<p class="heading">One two</p><p>three</p>'),
        ("===\nOne\n===\ntwo", '<p class="heading">One</p><p>two</p>'),
        ("Some:\n~~~\nx\n~~~", '<p>Some:</p>\n<pre tabindex="0"><code>x\n</code></pre>'),
        (
            ">>> f()\n-------\n",
            '<pre tabindex="0"><code><b class="p">&gt;&gt;&gt; </b>f()\n'
            '<b class="o">-------</b>\n</code></pre>',
        ),
        (
            "\none\n  *First*.\n\n  More.\n`two` : t\n    Second.",
            "<dl>\n<dt>one</dt>\n<dd>\n<p><em>First</em>.</p>\n<p>More.</p>\n</dd>\n"
            "<dt><code>two</code> : t</dt>\n<dd>\n<p>Second.</p>\n</dd>\n</dl>",
        ),
        ("see: A function that is\n  alike.", "<p>see: A function that is\nalike.</p>"),
        ("Of two words\n  go on.", "<p>Of two words\ngo on.</p>"),
        ("run(1):\n    x", "<p>run(1):\nx</p>"),
        ("#. one\n#. two", "<ol>\n<li>one</li>\n<li>two</li>\n</ol>"),
        ("A\n\n| one\n| two", "<p>A</p>\n<p>one<br>\ntwo</p>"),
        (".. seealso:: f", "<blockquote>\n<p><strong>See also</strong></p>\n<p>f</p>\n</blockquote>"),
        ("[a](docs/b%20c.md#d)", '<p><a href="b.html#d">a</a></p>'),
        ("[a][1]\n\n[1]: docs/b%20c.md#d", '<p><a href="b.html#d">a</a></p>'),
    ],
)  # fmt: skip
def test_docstrings(text, html):
    made = str(docstring_html(text, TARGETS, FILES)).replace(' rel="noopener noreferrer"', "")
    assert made.strip() == html


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("See https://a.b/c_d?e=1. Not `https://f.g`, nor h@i.j.", ["https://a.b/c_d?e=1"]),
        ("(http://a.b/c_(d))", ["http://a.b/c_(d)"]),
        ("*https://a.b*, https://c.d!", ["https://a.b", "https://c.d"]),
        ("[x](https://a.b) <https://c.d>", ["https://a.b", "https://c.d"]),
        ("xhttp://a.b http:// https://. ftp://a.b javascript://a.b http:a", []),
    ],
)
def test_an_address_is_a_link_but_not_in_code(text, addresses):
    for html in (str(inline_html(text, {})), page(text)):
        assert re.findall(r'<a href="([^"]*)"', html) == addresses


@pytest.mark.parametrize(
    "text",
    [
        ">>> f(1)\n2",
        "Text::\n\n    f(1)\n",
        ".. code-block:: python\n\n    f(1)\n",
        "```python\nf(1)\n```",
        "```\nf(1)\n```",
    ],
)
def test_code_blocks_are_code(text):
    html = str(docstring_html(text, TARGETS))
    assert html.count("<pre") == 1
    assert "f(" in html.replace("<b", "\n<b")


def test_one_paragraph_has_no_tags_around_it():
    assert str(inline_html("Plain.", {})) == "Plain."
    assert str(inline_html("Use `x` & <y>.", {})) == "Use <code>x</code> &amp; &lt;y&gt;."


def test_a_models_text_has_no_markup_but_code():
    assert str(plain_html("A `b` [c](d) <e> **f** `<g>`")) == (
        "A <code>b</code> [c](d) &lt;e&gt; **f** <code>&lt;g&gt;</code>"
    )


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[a](other.md)", '<a href="other.html"'),
        ("[a](missing.md)", "<a"),
        ("[a](https://b.c)", '<a href="https://b.c"'),
        ("![a](a.png)", '<img src="img/a.png"'),
        ("# A *b* `c`\n", '<h1 id="md-a-b-c">'),
        ("# A\n\n# A\n\n# A\n", '<h1 id="md-a-2">'),
        ("# A-1\n\n# A\n\n# A\n", '<h1 id="md-a-2">'),
        ("| a |\n|---|\n| b |\n", "<td>b</td>"),
        ("<details><summary>a</summary>b</details>", "<details><summary>a</summary>b</details>"),
        ("<h2 id='x'>a</h2>", '<h2 id="md-x">'),
        ("- [x] done", 'type="checkbox"'),
        ("See https://b.c/d_e.", '<a href="https://b.c/d_e" rel="noopener noreferrer">https://b.c/d_e</a>.'),
        ("> [!NOTE]\n> a", '<div class="markdown-alert markdown-alert-note">'),
        ("a[^n]\n\n[^n]: b", '<li id="md-fn1"><p>b'),
        ("---\ntitle: a\n---\n\nb", "<p>b</p>"),
        ("---\n\nText after a rule.\n\n---\n", "<p>Text after a rule.</p>"),
    ],
)
def test_pages_of_the_repository(text, part):
    assert part in page(text)


@pytest.mark.parametrize(
    "text", ["[a](missing.md)", "[a](javascript:x)", "[a](data:x)", "<a href='vbscript:x'>a</a>"]
)
def test_links_that_lead_nowhere_have_no_address(text):
    assert "href" not in page(text)


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ('<a href="other.md">x</a>', '<p><a href="other.html" rel="noopener noreferrer">x</a></p>'),
        ('<a href="nowhere.md">x</a>', '<p><a rel="noopener noreferrer">x</a></p>'),
        ('<img src="a.png" width="9" onerror="x()">', '<img src="img/a.png" width="9">'),
        ('<img src="https://h/b.png" alt=\'a "> b\'>', '<span class="image">a &quot;&gt; b</span>'),
        ('x <img src="b.png">', "<p>x </p>"),
        ('<p align="center">x</p>', '<p align="center">x</p>'),
        ('<p align="x;y">x</p>', "<p>x</p>"),
    ],
)
def test_html_in_pages(text, html):
    assert page(text).strip() == html


def test_a_deeply_nested_page_is_shown_as_text():
    assert page("<div>" * 600) == "<pre>" + "&lt;div&gt;" * 600 + "</pre>"
    assert page("<p>" * 5_000 + "<br>" * 5_000 + "<div></div>" * 5_000).startswith("<p>")


EXTERNAL = [
    "http://a/b",
    "HTTPS:b",
    "//a/b",
    "\\\\a/b",
    "/\\a",
    "\\/a",
    "/\t/a",
    "h\nttp://a",
    "\x01//a",
    " data:x",
]


@pytest.mark.parametrize("address", EXTERNAL)
def test_addresses_that_lead_away(address):
    assert is_external(address)
    assert "src" not in sanitized(f'<img src="{address}">')


@pytest.mark.parametrize(
    "address", ["a.png", "./a.png", "../a/b.png", "/a.png", "#x", "a/b:c.png", "", "?x=//y"]
)
def test_addresses_that_stay(address):
    assert not is_external(address)


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("a\nb\n", 2),
        ("a\r\nb\r\n", 2),
        ("a\rb", 2),
        ("'''a\n\x0cb'''\nc\n", 3),
        ("", 1),
        ("x = '</script>'  # <b>\n", 1),
        ('"""never closed\n\n', 2),
    ],
)
def test_source_pages_have_a_mark_a_line(source, lines):
    html = str(highlighted_lines(source))
    assert [f'<i id="L{n}"></i>' in html for n in range(1, lines + 2)] == [True] * lines + [False]
    assert "<script" not in html and "</script" not in html


@pytest.mark.parametrize(
    ("source", "tokens"),
    [
        ("if x is None:", "k:if k:is v:None"),
        ("ifx = selfish + cls", "v:cls"),
        ("@app.route('/')", "d:@app.route s:'/'"),
        ("a @ b + w.T@w + x[0]@y", "m:0"),
        ("class A:\n    @b.c\n    def d(): ...", "k:class d:@b.c k:def"),
        ("x1 = 0x1f + 1.5e3", "m:0x1f m:1.5e3"),
        ("rb'a' + xr'b'", "s:rb'a' s:'b'"),
        (r"'a\'b' # 'c'", r"s:'a\'b' c:# 'c'"),
        ('"""a "b" ""c\n""" + d', 's:"""a "b" ""c\n"""'),
        ("'never closed\nfor", "s:'never closed k:for"),
        ('"""never closed\nfor', 's:"""never closed\nfor'),
        ("naïve = 'é'", "s:'é'"),
    ],
)
def test_tokens_are_coloured(source, tokens):
    html = coloured(source)
    found = [f"{kind}:{token}" for kind, token in re.findall(r'<b class="(\w)">(.*?)</b>', html, re.DOTALL)]
    assert " ".join(found) == tokens
    assert re.sub(r"</?b[^>]*>", "", html) == source


@pytest.mark.parametrize(
    "piece", [r"\"", r"\"" + '""', r"\'''", '"""\\"', "a ", "@", "r", "\\", "f'", "'\\\n"]
)
def test_colouring_ends_whatever_the_text(piece):
    source = piece * 50_000  # minutes, if the time grew with the square of the length
    assert re.sub(r"</?b[^>]*>", "", coloured(source)) == source


@pytest.mark.parametrize(
    "piece",
    [
        "k: v ",
        ":a",
        "~www.a",
        "http://",
        "http://a",
        "https://a.b/(",
        "http://a'.",
        "[^1] ",
        "[^1]: a\n\n",
    ],
)
@pytest.mark.parametrize("render", [lambda text: docstring_html(text, {}), lambda text: page(text)])
def test_markdown_ends_whatever_the_text(piece, render):
    assert render("`x` " + piece * 10_000)  # minutes, if the time grew with the square of the length
