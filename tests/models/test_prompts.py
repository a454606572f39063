import ast

import pytest

from models.prompts import (
    NEUTRAL_NAME,
    PromptError,
    class_head,
    definitions,
    elided,
    elided_outline,
    masked,
    members,
    normalized,
    outline,
)

CODE = '''
@cache
def total(items, start=0):
    """Return the sum."""
    # a comment
    result = start
    for item in items:
        """Not read either."""
        if item:
            result += item
        else:
            result -= 1
    return result
'''


def definition(source):
    return ast.parse(source).body[0]


def lines_fit(count):
    return lambda text: text.count("\n") < count


def test_docstrings_comments_and_formatting_leave_no_trace():
    bare = CODE.replace('    """Return the sum."""\n', "").replace("    # a comment\n", "")
    bare = bare.replace('        """Not read either."""\n', "").replace("start=0", "start = 0,")
    assert normalized(definition(CODE)) == normalized(definition(bare))
    assert "sum" not in normalized(definition(CODE)) and "comment" not in normalized(definition(CODE))


def test_the_tree_that_is_given_is_not_changed():
    node = definition(CODE)
    before = ast.dump(node)
    normalized(node), masked(node), elided(node, "", lines_fit(3))
    assert ast.dump(node) == before


@pytest.mark.parametrize(
    "source",
    [
        'def f():\n    "text"',
        'async def f():\n    "text"',
        'def f():\n    try:\n        g()\n    finally:\n        "text"',
        'def f():\n    f"text {1}"\n    return 1',
    ],
)
def test_text_statements_vanish_and_the_rest_is_still_python(source):
    text = normalized(definition(source))
    assert "text" not in text
    ast.parse(text)


def test_nested_definitions_lose_their_docstrings():
    source = 'def f():\n    def g():\n        "inner"\n        return 1\n    return g'
    assert normalized(definition(source)) == "def f():\n\n    def g():\n        return 1\n    return g"


def test_pass_and_ellipsis_stay():
    assert normalized(definition("def f():\n    pass")) == "def f():\n    pass"
    assert normalized(definition("def f():\n    ...")) == "def f():\n    ..."


def test_long_literals_are_shortened():
    source = f"""def f():
    a = {"x" * 500!r}
    b = {b"y" * 500!r}
    c = {list(range(1000))}
    d = {{i: "v" for i in range(1000)}}
    e = {"9" * 400}
    g = f'{"z" * 500}{{a}}'"""
    text = normalized(definition(source))
    assert len(text) < 500
    ast.parse(text)


def test_a_long_dict_keeps_its_first_entries():
    source = f"def f():\n    return {dict.fromkeys(range(100), 1)}"
    text = normalized(definition(source))
    assert "0: 1" in text and "99: 1" not in text and "...: ..." in text


def test_targets_are_never_shortened():
    names = ", ".join(f"n{index}" for index in range(30))
    assert normalized(definition(f"def f(x):\n    {names} = x")).count("n") >= 30


def test_what_fits_is_not_elided():
    assert elided(definition(CODE), "", lambda text: True) == normalized(definition(CODE))


def test_the_deepest_blocks_go_first():
    text = elided(definition(CODE), "", lambda text: "-= 1" not in text)
    assert "for item in items:" in text and "if item:" in text and "-= 1" not in text


@pytest.mark.parametrize("count", range(3, 12))
def test_an_elided_text_fits_and_is_python(count):
    text = elided(definition(CODE), "", lines_fit(count))
    assert lines_fit(count)(text)
    assert ast.unparse(ast.parse(text)) == text


def test_more_room_keeps_more():
    sizes = [len(elided(definition(CODE), "", lines_fit(count))) for count in range(3, 12)]
    assert sizes == sorted(sizes)


def test_a_flat_body_loses_its_last_statements():
    body = "".join(f"    x{index} = {index}\n" for index in range(100))
    text = elided(definition(f"def f():\n{body}"), "", lines_fit(6))
    assert text == "def f():\n    x0 = 0\n    x1 = 1\n    x2 = 2\n    x3 = 3\n    ..."


def test_a_method_stands_under_the_head_of_its_class():
    source = "def m(self):\n    if self.x:\n        return 1\n    return 2"
    whole = elided(definition(source), "class C(B):", lambda text: True)
    assert ast.unparse(ast.parse(whole)) == whole.replace("class C(B):", "class C(B):\n")
    short = elided(definition(source), "class C(B):", lambda text: "return 1" not in text)
    assert short == "class C(B):\n    def m(self):\n        if self.x:\n            ...\n        return 2"
    with pytest.raises(PromptError):
        elided(definition(source), "class C(B):", lambda text: "class" not in text)


def test_definitions_know_the_head_of_their_class():
    source = """
class A(B, x=1):
    def m(self):
        def inner(): ...
        class Local: ...
    if True:
        class C:
            async def n(self): ...
def f(): ...
"""
    found = {node.name: owner for node, owner in definitions(ast.parse(source))}
    assert found == {
        **dict.fromkeys(("A", "f", "inner", "Local"), ""),
        "m": "class A(B):",
        "C": "class A(B):",
        "n": "class C:",
    }
    assert [node.name for node, _ in definitions(ast.parse(source))] == list(found)


def test_long_bases_are_left_out_of_a_head():
    assert class_head(definition(f"class A({'B' * 200}): ...")) == "class A:"


def test_an_outline_says_what_its_members_are_and_say():
    source = """
class A:
    x: int
    y = z = 1
    _hidden = 2
    def __init__(self, a, /, b, *, c=1, **d): ...
    @overload
    def f(self): ...
    def f(self, *args): ...
    @property
    def p(self): ...
    @p.setter
    def p(self, value): ...
    def p(self, again): ...
    @staticmethod
    def s(a): ...
    class Inner(B): ...
    if x:
        def not_seen(self): ...
"""
    lines = members(definition(source))
    assert lines == {
        "x": "x",
        "__init__": "def __init__(a, b, c, **d)",
        "f": "def f(*args)",
        "p": "property p",
        "s": "def s(a)",
        "Inner": "class Inner(B)",
    }
    text = outline("class A:", lines, {"f": "Do\n it.", "p": "word " * 40, "elsewhere": "Nothing."})
    assert text.splitlines()[3:5] == ["    def f(*args): Do it.", "    property p: " + "word " * 25 + "..."]


@pytest.mark.parametrize("count", range(2, 9))
def test_an_outline_that_does_not_fit_loses_its_last_members(count):
    whole = outline("module m:", {f"f{n}": f"def f{n}()" for n in range(6)}, {})
    text = elided_outline(whole, lines_fit(count))
    assert lines_fit(count)(text)
    assert text == whole if count > 6 else text.splitlines() == [*whole.splitlines()[: count - 1], "    ..."]
    with pytest.raises(PromptError, match="'module m:' alone"):
        elided_outline(whole, lambda text: False)


def test_a_signature_that_does_not_fit_is_an_error():
    with pytest.raises(PromptError, match="signature of 'f'"):
        elided(definition("def f(a, b):\n    return a"), "", lambda text: False)


def test_deep_nesting_is_an_error_of_its_own():
    node = definition("def f():\n    return " + "+".join("1" * 700))
    with pytest.raises(PromptError, match="nested too deeply"):
        normalized(node)


def test_the_own_name_is_masked_where_it_means_the_function():
    source = """
@size.setter
def size(self, value):
    self.size = size(value) + other.size + super().size
"""
    text = normalized(masked(definition(source)))
    assert f"@{NEUTRAL_NAME}.setter\ndef {NEUTRAL_NAME}(self, value):" in text
    assert f"self.{NEUTRAL_NAME} = {NEUTRAL_NAME}(value) + other.size + super().{NEUTRAL_NAME}" in text
