"""Docstrings into slots, in the styles people write."""

from __future__ import annotations

import inspect
import time

import pytest

from tasks.chunk.docstrings import parse, split_summary

GOOGLE = """
Do it. Then stop.

More about it.

Args:
    a (int): The first,
        on two lines.
    *args: The rest.
    **kwargs (Any): Named ones.

Returns:
    What came of it.

Raises:
    ValueError: If it is wrong.
    errors.Missing: If it is not there.

Examples:
    >>> do(1)
    2

Note:
    Take care.
"""

NUMPY = """
Do it. Then stop.

More about it.

Parameters
----------
a : int
    The first,
    on two lines.
*args
    The rest.
**kwargs : Any
    Named ones.

Returns
-------
int
    What came of it.

Raises
------
ValueError
    If it is wrong.
errors.Missing
    If it is not there.

Examples
--------
>>> do(1)
2

Notes
-----
Take care.
"""

SPHINX = """
Do it. Then stop.

More about it.

:param int a: The first,
    on two lines.
:param args: The rest.
:param kwargs: Named ones.
:returns: What came of it.
:rtype: int
:raises ValueError: If it is wrong.
:raises errors.Missing: If it is not there.
"""


@pytest.mark.parametrize("text", [GOOGLE, NUMPY, SPHINX], ids=["google", "numpy", "sphinx"])
def test_styles_lead_to_the_same_slots(text):
    parsed = parse(inspect.cleandoc(text))
    assert parsed.summary == "Do it."
    assert parsed.description.startswith("Then stop.\n\nMore about it.")
    assert {name: " ".join(t.split()) for name, t in parsed.parameters.items()} == {
        "a": "The first, on two lines.",
        "args": "The rest.",
        "kwargs": "Named ones.",
    }
    assert parsed.returns == "What came of it."
    assert parsed.raises == {"ValueError": "If it is wrong.", "errors.Missing": "If it is not there."}


@pytest.mark.parametrize("text", [GOOGLE, NUMPY], ids=["google", "numpy"])
def test_sections_without_a_slot_are_kept(text):
    description = parse(inspect.cleandoc(text)).description
    assert "```pycon\n>>> do(1)\n2\n```" in description
    assert "Take care." in description


@pytest.mark.parametrize(
    ("prose", "summary", "rest"),
    [
        ("One.", "One.", ""),
        ("One. Two.", "One.", "Two."),
        ("One\ntwo\n\nthree", "One two", "three"),
        ("Use e.g. this. Not that.", "Use e.g. this.", "Not that."),
        ("By J. Doe, i.e. me. Yes.", "By J. Doe, i.e. me.", "Yes."),
        ("Version 1.2 of it. Yes", "Version 1.2 of it.", "Yes"),
        ("Really? Yes!", "Really?", "Yes!"),
        ("Title\n=====\n\nText.", "Title", "Text."),
        ("", "", ""),
        ("\n\n", "", ""),
        ("...", "...", ""),
    ],
)
def test_the_summary_is_the_first_sentence(prose, summary, rest):
    assert split_summary(prose) == (summary, rest)


@pytest.mark.parametrize(
    "text",
    [
        "Args:",
        "Parameters\n----------",
        ":param x:",
        ":param: x",
        "Raises:\n    : nothing",
        "Returns:\n\n\n",
        "Args:\n  a\n b\nc:",
        "Parameters\n----------\n:\n    x",
        "Methods\n-------\nf()\n    Text.",
        "See Also\n--------\nf, g : Text",
        "Deprecated\n----------\n1.0",
        ".. deprecated:: 1.0",
        "Attributes:\n    x (int): Text\n\nYields:\n    int: Text\n\nReceives:\n    x: y\n\nWarns:\n    U: y",
        ":::::",
        "\x00\x0c",
    ],
)
def test_odd_sections_are_taken_as_they_are(text):
    parsed = parse(f"Summary.\n\n{text}\n")
    assert parsed.summary == "Summary."


@pytest.mark.parametrize("text", ["Do.\n\n:param x: It.", ":param x: It."])
def test_one_sphinx_field_is_enough(text):
    assert parse(text).parameters == {"x": "It."}


def test_what_is_said_twice_is_kept():
    parsed = parse(
        "Do.\n\nArgs:\n    x: One.\n    x: Two.\n    x: One.\n\nRaises:\n    E: One.\n    E: Two.\n\n"
        "Returns:\n    int: One.\n\nYields:\n    str: Two.\n"
    )
    assert parsed.parameters["x"].startswith("One.\n\nTwo.") and parsed.raises == {"E": "One.\n\nTwo."}
    assert (parsed.returns, parsed.types["return"]) == ("One.", "int")
    assert parsed.description == "**Yields**\n\n- (str): Two."


def test_stars_may_be_escaped():
    parsed = parse("Do.\n\nArgs:\n    \\*args: Rest.\n    \\*\\*kwargs: Others.\n")
    assert parsed.parameters == {"args": "Rest.", "kwargs": "Others."}


def test_none_for_parameters_is_none_of_them():
    assert parse("Do.\n\nParameters\n----------\nNone\n").parameters == {}


def test_the_first_of_several_choices_is_no_default():
    parsed = parse(
        "Do.\n\nParameters\n----------\nkind : {'b', 'a'}, optional\n    It.\nn : int, default 3\n"
    )
    assert parsed.defaults == {"n": "3"}
    assert parsed.types == {"kind": "{'b', 'a'}", "n": "int"}


def test_all_of_a_type_is_kept():
    parsed = parse("Do.\n\nParameters\n----------\nkey : {'a', 'b'} or callable, optional\n    It.\n")
    assert parsed.types == {"key": "{'a', 'b'} or callable"}
    google = parse("Do.\n\nAttributes:\n    a (int): One.\n    b: Two.\n")
    assert (google.attributes, google.attribute_types) == ({"a": "One.", "b": "Two."}, {"a": "int"})
    noted = parse("Do.\n\nAttributes:\n    a (int): One.\n    Note: This.\n")
    assert noted.attributes == {"a": "One.\nNote: This."}


@pytest.mark.parametrize(
    ("text", "described"),
    [
        ("Args:\n    x (int): X.\n\n:returns: R.\n:raises E: Bad.\n", "X. R. E"),
        ("Args:\n    x (int): X.\n\nReturns\n-------\nR.\n", "X. R."),
        ("Parameters\n----------\nx : int\n    X.\n\nReturns:\n    R.\n\nRaises:\n    E: Bad.\n", "X. R. E"),
        (":param int x: X.\n\nReturns\n-------\nint\n    R.\n", "X. R."),
        ("Parameters:\n-----------\nx : int\n    X.\n\nReturn\n------\nint\n    R.\n", "X. R."),
        ("Arguments\n---------\nx: int\n    X.\n:returns: R.\n", "X. R."),
        ("Explanation\n===========\n\nMore.\n\nParameters\n==========\n\nx : int\n    X.\n", "X."),
        ("@param x: X.\n@type x: int\n@return: R.\n@note: N.\n@since: 2", "X. R."),
        (":param int x: X.\n\nReturns:\n    R.\n", "X. R."),
        ("Args:\n    x (int): X.\nReturns:\n    R.\nRaises:\n    E: Bad.\n", "X. R. E"),
        ("Returns\n-------\nint\n    R.\n\nArgs:\n    x (int): X.\n", "X. R."),
        ("Usage\n~~~~~\n\nSo.\n\nParameters\n----------\nx : int\n    X.\n\nReturns:\n    R.\n", "X. R."),
        ("Args:\n    x (int): X.\n\nReturns:\n    R.\n\n:rtype: str\n", "X. R."),
        (":type x: int\n:param x: X.\n:rtype: R.\n\nExample:\n    f()\n", "X. R."),
    ],
)
def test_each_section_is_read_in_its_own_style(text, described):
    parsed = parse(f"Do.\n\n{text}")
    result = parsed.returns or parsed.types.get("return", "")
    assert parsed.types["x"] == "int"
    assert " ".join([parsed.parameters["x"], *([result] if result else []), *parsed.raises]) == described


def test_sections_of_prose_are_read_behind_others():
    parsed = parse(
        "Do.\n\nArgs:\n    x: X.\n\n:returns: R.\n\nNotes\n-----\nN.\n\nSee Also\n--------\nf : It.\n"
    )
    assert parsed.description == "**Notes**\n\nN.\n\n**See Also**\n\n- `f`: It."
    typed = parse("Do.\n\nReturns:\n    R.\n\n:rtype: int\n\nExample:\n    f()\n")
    assert (typed.returns, typed.types) == ("R.", {"return": "int"})
    assert typed.description == "**Example**\n\nf()"


@pytest.mark.parametrize(
    "code",
    [
        "```\nReturns\n-------\nint\n\nArgs:\n    y: Y\n@param z: Z\n```",
        "~~~\n:param y: Y\nreturn\n------\n~~~",
        ">>> print(f.__doc__)\nParameters\n----------\ny : int\nArgs:\n    z: Z",
        ">>> f(\n...     x)\nname\n====\nfoo",
    ],
)
def test_code_is_no_section(code):
    parsed = parse(f"Do.\n\n{code}\n\nArgs:\n    x: X.\n\n{code}\n")
    assert (parsed.parameters, parsed.returns, parsed.types) == ({"x": "X."}, "", {})
    assert [line for line in parsed.description.split("\n") if line] == 2 * [
        line for line in code.split("\n") if line
    ]


def test_headings_of_prose_stay():
    titled = parse("Title\n=====\n\nSaid.\n\nNotes\n=====\n\nMore.\n")
    assert (titled.summary, titled.description) == ("Title", "Said.\n\n**Notes**\n\nMore.")
    empty = parse("Do.\n\nA\n===\n\nB\n===\n\nText.\n\nParameters\n==========\nx : int\n    X.\n\nC\n===\n")
    assert empty.description == "**A**\n\n\n\n**B**\n\nText.\n\n**C**\n\n"
    table = parse("Do.\n\nNotes\n=====\n\n=====\nA\n=====\n1\n=====\n")
    assert table.description == "**Notes**\n\n=====\nA\n=====\n1\n====="
    literal = parse("Use::\n\n    f()\n")
    assert (literal.summary, literal.description) == ("Use::", "    f()")


@pytest.mark.timeout(20)
def test_long_docstrings_take_time_in_proportion():
    start = time.perf_counter()
    for text in ("Args:\n" + "    a: b\n" * 20_000, "a " * 200_000, "e.g. " * 100_000, "\n \t" * 100_000):
        parse(f"Summary.\n\n{text}")
    assert time.perf_counter() - start < 10


def test_numpy_entries_are_found_however_they_are_written():
    parsed = parse(
        "Do.\n\nParameters\n----------\nx: int\n    One.\ny, *z : str or None\n    Two.\n"
        "w : what is passed on to `f`\nv - With a dash,\n    on two lines.\n"
    )
    described = {"x": "One.", "y": "Two.", "z": "Two.", "w": "what is passed on to `f`"}
    assert parsed.parameters == described | {"v": "With a dash,\non two lines."}
    assert parsed.types == {"x": "int", "y": "str or None", "z": "str or None"}
    indented = parse("Do.\n\nParameters\n----------\n    x : int\n        One.\n    y : int\n        Two.\n")
    assert indented.parameters == {"x": "One.", "y": "Two."}
    raised = parse("Do.\n\nRaises\n------\n:class:`~pkg.E`\n    One.\nValueError: two.\n")
    assert raised.raises == {"pkg.E": "One.", "ValueError": "two."}


def test_prose_between_entries_is_not_lost():
    numpy = parse(
        "Do.\n\nParameters\n----------\nx : int\n    One,\nand this goes\non\n\n    with this.\n\n"
        "All of these are described\nhere, and\n    there.\n\ny : int\n    Two.\n\nReturns\n-------\nint\n"
    )
    assert numpy.parameters == {"x": "One,\nand this goes\non\n\nwith this.", "y": "Two."}
    assert (
        numpy.description == "**About the parameters**\n\nAll of these are described\nhere, and\n    there."
    )
    google = parse(
        "Do.\n\nArgs:\n    All of these count.\n\n    x (int)\n        One,\n    and on.\n    y (str): Two."
        "\n\n    Behind.\n\nRaises:\n    If it fails.\n"
    )
    assert google.parameters == {"x": "One,\nand on.", "y": "Two."}
    assert (
        google.description
        == "**About the parameters**\n\nAll of these count.\n\nBehind.\n\n**Raises**\n\nIf it fails."
    )
    assert parse("Do.\n\nRaises:\n    :class:`~a.E`: One.\n    F: Two.\n").raises == {
        "a.E": "One.",
        "F": "Two.",
    }


def test_what_stands_behind_fields_is_not_lost():
    parsed = parse(
        "Do it.\n\n:param x: One,\n  two.\n:type y: str\n:rtype: int\n\n.. versionchanged:: 2\n   It counts."
        "\n\nAnd so on, by the\n:paramref:`x` that is given.\n\n:raises: :class:`E`: If not.\n"
        ":raises: Whenever.\n"
    )
    assert parsed.parameters == {"x": "One,\ntwo.", "y": ""}
    assert parsed.types == {"y": "str", "return": "int"}
    assert parsed.raises == {"E": "If not."}
    assert parsed.description == (
        ".. versionchanged:: 2\n   It counts.\n\nAnd so on, by the\n :paramref:`x` that is given.\n\n"
        "**Raises**\n\nWhenever."
    )


@pytest.mark.parametrize(
    ("text", "parameters", "rest"),
    [
        (
            "Args:\n    x: X.\n\n    For example::\n\n        f(x)\n\n    Then.\n\n    y: Y.",
            {"x": "X.", "y": "Y."},
            "**About the parameters**\n\nFor example::\n\n    f(x)\n\nThen.",
        ),
        ("Args:\n    y (Dict[str, int], default: None): Y.\n    Note: This.", {"y": "Y.\nNote: This."}, ""),
        (":param a: A.\n:rtype: int\n.. warning:: Hot.", {"a": "A."}, ".. warning:: Hot."),
        ("Args:\n    d (:obj:`int`, optional): Deep.\n    `c`: C.", {"d": "Deep.", "c": "C."}, ""),
        ("Args:\n    x (int): See\n    http://a.org/b.", {"x": "See\nhttp://a.org/b."}, ""),
        ("```\nArgs:\n  - a\n```\n\nArgs:\n    a: A.", {"a": "A."}, "```\nArgs:\n  - a\n```"),
        (
            "Parameters\n----------\n`x` : int\n    X.\n\\*\\*kw : dict\n    More.",
            {"x": "X.", "kw": "More."},
            "",
        ),
        (
            "arguments: two\n  of it.\n\nParameters\n----------\nG : t\n    A.",
            {"G": "A."},
            "arguments: two\n  of it.",
        ),
        (":param a: One.\n:param a: Two.\n:since: 2", {"a": "One.\n\nTwo."}, ":since: 2"),
        ("Args:\n    a: A.\n    if: so.", {"a": "A.\nif: so."}, ""),
        ("Args:\n    if: so.\n    a: A.", {"a": "A."}, "**About the parameters**\n\nif: so."),
        ("Args:\n    None.", {}, ""),
        (":param a: A.\n:param: Whose.\n", {"a": "A."}, "**About the parameters**\n\nWhose."),
    ],
)
def test_what_griffe_would_pass_over(text, parameters, rest):
    parsed = parse(f"Do.\n\n{text}\n")
    assert (parsed.parameters, parsed.description) == (parameters, rest)


@pytest.mark.parametrize(
    ("text", "kind", "returns"),
    [
        ("Returns:\n    - a: one\n    - b: two", None, "- a: one\n- b: two"),
        ("Returns:\n    - int: One.", "int", "One."),
        ("Return:\n    int: One.", "int", "One."),
        (":return int: One.", "int", "One."),
        (":returns list of str: One.", "list of str", "One."),
    ],
)
def test_what_is_returned(text, kind, returns):
    parsed = parse(f"Do.\n\n{text}\n")
    assert (parsed.types.get("return"), parsed.returns) == (kind, returns)


def test_lists_of_functions_keep_their_title():
    assert parse("Do.\n\nMethods\n-------\nf(x)\n    Do.\n").description == "**Methods**\n\n- `f`: Do."
    assert parse("Do.\n\nFunctions:\n    f: Do.\n").description == "**Functions**\n\n- `f`: Do."


def test_google_calls_exceptions_otherwise():
    assert parse("Do.\n\nThrows:\n    ValueError: If so.\n").raises == {"ValueError": "If so."}


def test_what_fields_tell_of_exceptions_and_attributes():
    parsed = parse(
        "Do.\n\n:raises ValueError, TypeError: Both.\n:raises KeyError if it lacks: a key."
        "\n:ivar int z: Zed.\n"
    )
    assert parsed.raises == {"ValueError": "Both.", "TypeError": "Both.", "KeyError": "if it lacks: a key."}
    assert parsed.attributes == {"z": "Zed."}


def test_a_result_in_paragraphs_is_no_list():
    parsed = parse("Do.\n\nReturns:\n    A thing that\n    is found.\n\n    Or more.\n")
    assert parsed.returns == "A thing that\nis found.\n\nOr more."


@pytest.mark.parametrize(
    "text",
    [
        "Args:\n" + "    x (\n" * 20_000,
        "Args:\n    x: y\n" + "\n" * 150_000 + "Args:\n    a: b",
        "Parameters\n----------\n" + "x, " * 50_000 + "!",
        "Parameters\n----------\n" + "A b c d.\n\n" * 15_000,
        ":raises: " + "x " * 70_000,
        "Raises:\n    " + ":a:`b`" * 20_000,
        "Raises:\n    " + ":a" * 60_000,
        ":param " + "a" * 150_000 + "!: x",
        "Parameters\n----------\nx : a" + " " * 150_000 + "b",
        "Returns\n===\n\n" + "x\n===\n" * 25_000,
        "Args:\n    a: b\n\n" + ":return" * 20_000,
        "Args:\n    a: b\n\n" + ":return: a\n\nReturns:\n    a\n\n" * 5_000,
        "Notes" + " " * 190_000 + "x",
        "Args:\n    x: " + "a" * 190_000,
        "Args:\n    x: y\n" + "x (" * 60_000,
        "A:\n" * 60_000,
        "```\n" * 10 + ":return: a\n\nReturns:\n    a\n\n" * 5_000,
    ],
)
def test_hostile_sections_take_no_time(text):
    start = time.process_time()
    parse(f"Do.\n\n{text}\n")
    assert time.process_time() - start < 5


@pytest.mark.parametrize("heading", ["Returns\n-------", "Yields\n------"])
@pytest.mark.parametrize(
    ("written", "text", "kind"),
    [
        ("A new matrix, element by element.", "A new matrix, element by element.", None),
        ("list of str", "", "list of str"),
        ("array of shape (n, m)", "", "array of shape (n, m)"),
        ("int\n    How many there are.", "How many there are.", "int"),
    ],
)
def test_a_sentence_where_a_type_stands_is_no_type(heading, written, text, kind):
    parsed = parse(f"Do.\n\n{heading}\n{written}\n")
    assert (parsed.returns, parsed.types.get("return")) == (text, kind)


@pytest.mark.parametrize(
    ("text", "summary", "description"),
    [
        (
            ".. deprecated:: 1.0\n   Use b.\n\nOpen it. At once.\n\nMore.",
            "Open it.",
            ".. deprecated:: 1.0\n   Use b.\n\nAt once.\n\nMore.",
        ),
        (".. note:: one\n.. versionadded:: 2\nOpen it.", "Open it.", ".. note:: one\n.. versionadded:: 2"),
        (".. deprecated:: 1.0", "", ".. deprecated:: 1.0"),
    ],
)
def test_directives_that_come_first_are_no_summary(text, summary, description):
    parsed = parse(text)
    assert (parsed.summary, parsed.description) == (summary, description)
