"""`docmill plan --lint`: what is new is told, what was there before is not."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from infra.cli import main

OLD = '''\
def old(a):
    """Do.

    Args:
        b: What is not there.
    """


def kept(a,
         b):
    """Do.

    Args:
        a: One.
        b: Two.
    """
'''


@pytest.fixture
def source(tmp_path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "m.py").write_text(OLD)
    return folder


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def lint(capsys, source: Path, *flags: str) -> tuple[int, list[str]]:
    status = main(["plan", str(source), "--lint", *flags])
    return status, capsys.readouterr().out.splitlines()


def test_contradictions_are_listed_with_file_and_line(source, capsys) -> None:
    message = "old describes parameter b, which the signature lacks"
    assert lint(capsys, source) == (1, [f"m.py:5: described-parameter: {message}"])


def test_a_clean_source_passes(source, capsys) -> None:
    (source / "m.py").write_text(OLD.replace("b: What", "a: What"))
    assert lint(capsys, source) == (0, [])


def test_old_debt_goes_into_a_baseline(source, tmp_path, capsys) -> None:
    baseline = tmp_path / "baseline.txt"
    assert lint(capsys, source, "--baseline", str(baseline), "--update-baseline")[0] == 0
    assert lint(capsys, source, "--baseline", str(baseline))[0] == 0
    (source / "m.py").write_text("x = 1\n\n\n" + OLD)  # further down, and the same
    assert lint(capsys, source, "--baseline", str(baseline))[0] == 0
    (source / "m.py").write_text(OLD.replace("         b):", "         c):"))
    status, lines = lint(capsys, source, "--baseline", str(baseline))
    assert status == 1
    assert [line.partition(": ")[0] for line in lines] == ["m.py:15", f"1 more in {baseline}"]


def test_only_changed_lines_count_where_that_is_asked(source, capsys) -> None:
    git(source, "init", "-b", "main")
    git(source, "add", ".")
    git(source, "commit", "-m", "first")
    assert lint(capsys, source, "--since", "main") == (0, [])
    (source / "m.py").write_text("x = 1\n" + OLD.replace("(a,\n         b)", "(a)"))
    status, lines = lint(capsys, source, "--since", "main")
    assert (status, [line.partition(": ")[0] for line in lines]) == (1, ["m.py:15"])


def test_changed_lines_of_a_folder_in_a_repository(tmp_path, capsys) -> None:
    package = tmp_path / "packages" / "one"
    package.mkdir(parents=True)
    (package / "m.py").write_text(OLD)
    git(tmp_path, "init", "-b", "main")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    assert lint(capsys, package, "--since", "main") == (0, [])
    (tmp_path / "packages" / "new").mkdir()
    (tmp_path / "packages" / "new" / "m.py").write_text(OLD)
    assert lint(capsys, tmp_path / "packages" / "new", "--since", "main")[0] == 1


def test_what_was_moved_is_not_new(source, tmp_path, capsys) -> None:
    baseline = str(tmp_path / "baseline")
    (source / "other.py").write_text("x = 1\n")
    git(source, "init", "-b", "main")
    git(source, "add", ".")
    git(source, "commit", "-m", "first")
    assert lint(capsys, source, "--baseline", baseline, "--update-baseline")[0] == 0
    (source / "pkg").mkdir()
    (source / "m.py").rename(source / "pkg" / "n.py")
    assert lint(capsys, source, "--since", "main") == (0, [])
    assert lint(capsys, source, "--baseline", baseline) == (0, [f"1 more in {baseline}"])
    further = 'def further(a):\n    """Do.\n\n    Args:\n        b: What is not there.\n    """\n'
    (source / "pkg" / "n.py").write_text(f"import os\n\n\n{OLD}\n\n{further}")
    message = "further describes parameter b, which the signature lacks"
    new = f"pkg/n.py:26: described-parameter: {message}"
    assert lint(capsys, source, "--since", "main") == (1, [new])
    assert lint(capsys, source, "--baseline", baseline) == (1, [new, f"1 more in {baseline}"])
    # Another file that is the same is no moved one; nor is one that has little of it.
    (source / "pkg" / "n.py").write_text(OLD)
    (source / "pkg" / "copy.py").write_text(f"x = 1\n{OLD}")
    copied = "old describes parameter b, which the signature lacks"
    assert lint(capsys, source, "--since", "main") == (
        1,
        [f"pkg/copy.py:6: described-parameter: {copied}"],
    )
    assert lint(capsys, source, "--baseline", baseline)[0] == 1
    (source / "pkg" / "copy.py").unlink()
    (source / "pkg" / "n.py").write_text(OLD + "".join(f"x{n} = {n}\n" for n in range(40)))
    assert lint(capsys, source, "--since", "main")[0] == 1


def test_what_is_gone_from_a_class_makes_its_docstring_new_debt(source, capsys) -> None:
    described = '    """A point.\n\n    Args:\n        x: One.\n        y: Two.\n    """\n'
    code = f"from dataclasses import dataclass\n\n\n@dataclass\nclass P:\n{described}\n    x: int\n"
    (source / "m.py").write_text(f"{code}    y: int\n")
    git(source, "init", "-b", "main")
    git(source, "add", ".")
    git(source, "commit", "-m", "first")
    assert lint(capsys, source, "--since", "main") == (0, [])
    (source / "m.py").write_text(code)
    message = "P describes parameter y, which the signature lacks"
    assert lint(capsys, source, "--since", "main") == (1, [f"m.py:10: described-parameter: {message}"])


def test_a_baseline_counts_and_forgets_what_hangs_on_others(source, tmp_path, capsys) -> None:
    baseline = str(tmp_path / "baseline.txt")
    described = 'def f({}):\n    """Do.\n\n    Args:\n        cuont: What.\n    """\n\n\n'
    (source / "m.py").write_text(described.format("count"))
    assert lint(capsys, source, "--baseline", baseline, "--update-baseline")[0] == 0
    (source / "m.py").write_text(described.format("counts"))  # another hint
    assert lint(capsys, source, "--baseline", baseline)[0] == 0
    (source / "m.py").write_text(2 * described.format("count"))
    status, lines = lint(capsys, source, "--baseline", baseline)
    assert (status, lines[1]) == (1, f"1 more in {baseline}")


def test_of_a_class_its_constructors_signature_counts_and_neighbours_do_not(source, capsys) -> None:
    code = (
        'import os\n\nclass C:\n    """Do.\n\n    Args:\n        colour: One.\n    """\n'
        "    def __init__(\n        self,\n        {},\n    ):\n        pass\n"
    )
    (source / "m.py").write_text("import sys\n" + OLD + code.format("colour"))
    git(source, "init", "-b", "main")
    git(source, "add", ".")
    git(source, "commit", "-m", "first")
    (source / "m.py").write_text(OLD + code.format("color"))  # an import less, right above old debt
    status, (line,) = lint(capsys, source, "--since", "main")
    assert (status, line.partition(" describes")[0]) == (1, "m.py:23: described-parameter: C")


def test_defaults_in_prose_are_held_against_the_signature(source, capsys) -> None:
    said = (
        *("One. Defaults to 5.", "One (default: `5`).", "Default is 5", "Number, by default 5."),  # wrong
        *(
            "Defaults to 3.",
            "Of the server it defaults to 5.",
            "Before 2.0, defaults to 5.",
            "Number. If the mode is fast,\n            by default 5.",
            "If it is slow, by default 5.",
            "If None, defaults to 5.",
            "Defaults to 5 seconds.",
            "Default: 5 or 6.",
            "defaults to x.",
            "Defaults to '5'.",
        ),
    )
    text = "".join(
        f'def f{n}(a=3, b="1.0"):\n    """Do.\n\n    Args:\n        a: {t}\n    """\n'
        for n, t in enumerate(said)
    )
    (source / "m.py").write_text(text)
    status, lines = lint(capsys, source)
    assert (status, [line.partition(": ")[0] for line in lines]) == (
        1,
        ["m.py:5", "m.py:11", "m.py:17", "m.py:23"],
    )
    assert "f0 gives a the default 5, and it is 3" in lines[0]


def test_defaults_beside_types_and_of_dataclasses(source, capsys) -> None:
    numpy = (
        'def f{}(a={}):\n    """Do.\n\n    Parameters\n    ----------\n    a : {}\n        One.\n    """\n\n'
    )
    said = ("int, optional (default=4)", "int, default 4", "int (default: 4)", "int, optional (default=3)")
    said += ("int, not default 4", "int, if b: default 3, else default 4")
    text = "".join(numpy.format(n, 3, t) for n, t in enumerate(said))
    text += numpy.format("t", "'3.0'", "str, default 3.0")
    google = '"""Do.\n\n    Args:\n        a (int, default 4): One.\n        b: By default 5.\n    """\n'
    text += f"def g(a=3, b=3):\n    {google}\n"
    fields = "    a: str = 'x'\n    b: int = 3\n"
    text += f"import dataclasses\n\n@dataclasses.dataclass\nclass D:\n    {google}{fields}"
    (source / "m.py").write_text(text)
    status, lines = lint(capsys, source)
    told = [(line.split(": ")[1], line.split(": ")[2].split()[0]) for line in lines]
    default, kind = "described-default", "described-type"
    assert status == 1
    assert told == [
        *((default, f"f{n}") for n in range(3)),
        *((default, "g"), (default, "g")),
        *((kind, "D"), (default, "D"), (default, "D")),
    ]


def test_a_number_is_the_same_however_it_is_written(source, capsys) -> None:
    text = "Do.\n\n    Args:\n        a: Defaults to 0.5.\n        b: Default 1000.\n    "
    (source / "m.py").write_text(f'def f(a=.5, b=1e3):\n    """{text}"""\n')
    assert lint(capsys, source)[0] == 0


def test_a_default_of_what_is_required_is_none(source, capsys) -> None:
    said = ("Defaults to 5.", "Default 5.", "(default 5)", "Default None.", "Defaults to 5 of them.")
    code = 'def f{}(a, b=5):\n    """Do.\n\n    Args:\n        a: {}\n        b: Default 5.\n    """\n'
    classes = 'class T(TypedDict):\n    """Do.\n\n    Args:\n        a: Default 5.\n    """\n    a: int\n'
    (source / "m.py").write_text("".join(code.format(n, t) for n, t in enumerate(said)) + classes)
    status, lines = lint(capsys, source)
    assert status == 1
    assert lines == [
        f"m.py:{5 + 7 * n}: described-default: f{n} gives a the default 5, and it has none" for n in range(3)
    ]


def test_types_that_may_be_none_or_hold_others(source, capsys) -> None:
    pairs = {
        "int": "Optional[str]",
        "str or None": "int | None",
        "list": "Dict[str, list[int]]",
        "tuple[int]": "None | bytes",
        "dict": "dict[str, Any] | None",
        "bool": "Optional[float]",
        "str, optional": "list[str] | str",
        "list[int] or dict[str, int]": "str",
    }
    code = 'def f{}(a: {}):\n    """Do.\n\n    Args:\n        a ({}): A.\n    """\n'
    (source / "m.py").write_text(
        "".join(code.format(n, real, said) for n, (said, real) in enumerate(pairs.items()))
    )
    status, lines = lint(capsys, source)
    assert (status, [line.split(": ", 2)[2] for line in lines]) == (
        1,
        [
            "f0 describes a as int, and it is annotated str",
            "f1 describes a as str, and it is annotated int",
            "f2 describes a as list, and it is annotated dict",
            "f3 describes a as tuple, and it is annotated bytes",
        ],
    )


def test_types_of_numbers_are_others_where_they_do_not_take_each_other(source, capsys) -> None:
    told = [("int", "bool"), ("float", "bool"), ("float", "int"), ("int, optional", "Optional[bool]")]
    told += [("str", "int"), ("bool", "str"), ("int", "bool | None")]
    kept = [("bool", "int"), ("bool", "float"), ("int", "float"), ("float", "complex"), ("list", "tuple")]
    kept += [("integer", "str"), ("string", "int"), ("boolean", "str"), ("float or int", "int")]
    kept += [("int or str", "bool"), ("array-like", "int"), ("Flag", "int"), ("int", "bool | str")]
    code = (
        'def f{0}(a: {2}):\n    """Do.\n\n    Parameters\n    ----------\n    a : {1}\n        A.\n    """\n'
        'def g{0}() -> {2}:\n    """Do.\n\n    Returns\n    -------\n'
        '    {1}\n        It.\n    """\n    return x\n'
    )
    (source / "m.py").write_text("".join(code.format(n, *pair) for n, pair in enumerate((*told, *kept))))
    status, lines = lint(capsys, source)
    names = [line.split(": ")[2].split()[0] for line in lines]
    assert (status, names) == (1, [f"{name}{n}" for n in range(len(told)) for name in "fg"])
    assert lines[0].endswith("f0 describes a as int, and it is annotated bool")


def test_what_one_of_several_signatures_has_is_no_mistake(source, capsys) -> None:
    both = (
        "@overload\ndef f(a: Literal[False] = False): ...\n@overload\ndef f(a: Literal[True] = True): ...\n"
        'def f({}):\n    """F.\n\n    Args:\n        a (bool): A. Defaults to {}.\n    """\n'
    )
    for implementation in ("a: bool = False", "*args", "a=True", "a"):
        for default, status in (("False", 0), ("3", 1)):
            (source / "m.py").write_text(both.format(implementation, default))
            assert lint(capsys, source)[0] == status, (implementation, default)


def test_a_signature_that_says_nothing_acquits_no_docstring(source, capsys) -> None:
    (source / "m.py").write_text(
        "@overload\ndef f(a: int = 1): ...\n@overload\ndef f(a: str = 'x'): ...\n"
        'def f(a=None):\n    """F.\n\n    Args:\n        a (float): A.\n    """\n'
    )
    status, (line,) = lint(capsys, source)
    assert status == 1 and "described-type: f describes a as float" in line


@pytest.mark.parametrize("command", [["plan", "--lint"], ["overrides"]])
def test_what_only_looks_at_the_source_needs_no_room_for_a_site(source, monkeypatch, command) -> None:
    (source / "site").mkdir()
    (source / "site" / "index.html").write_text("somebody else's")
    (source / "m.py").write_text("x = 1\n")
    monkeypatch.chdir(source)
    assert main([command[0], ".", *command[1:]]) == 0
    assert main(["build", "."]) == 2


def test_setters_overloads_and_attributes_are_held_against_the_code(source, capsys) -> None:
    (source / "m.py").write_text(
        """class A:
    '''A.

    Attributes:
        size (int): S.
        name (str): N.
    '''
    size: str
    name: Optional[str] = None

    @property
    def x(self): return 1

    @x.setter
    def x(self, value):
        '''Set.

        :param valeu: V.
        '''

@overload
def f(a: int):
    '''F.

    :param a: A.
    :param b: B.
    '''
@overload
def f(a: int, b: int):
    '''F.

    :param b: B.
    :type b: str
    '''
def f(a, b=1):
    return a
"""
    )
    assert lint(capsys, source) == (
        1,
        [
            "m.py:5: described-type: A describes size as int, and it is annotated str",
            "m.py:18: described-parameter: A.x describes parameter valeu, which the signature lacks;"
            " did you mean value",
            "m.py:26: described-parameter: f describes parameter b, which the signature lacks",
            "m.py:33: described-type: f describes b as str, and it is annotated int",
        ],
    )


def test_the_type_of_a_result_is_held_against_its_annotation(source, capsys) -> None:
    code = 'def f() -> {}:\n    """Do.\n\n    Returns:\n        {}: It.\n    """\n    return x\n'
    (source / "m.py").write_text(code.format("str", "int"))
    message = "f describes the result as int, and it is annotated str"
    assert lint(capsys, source) == (1, [f"m.py:4: described-type: {message}"])
    several = code.replace("It.", "It.\n        str: More.")
    decorated = f"@fixture\n{code}"
    right = (code.format("float", "int"), code.format("Iterable", "list"), several.format("tuple", "int"))
    (source / "m.py").write_text("".join((*right, decorated.format("dict", "list"))))
    assert lint(capsys, source) == (0, [])


def test_a_result_of_what_returns_nothing(source, capsys) -> None:
    section = '"""Do.\n\n    Returns:\n        int: The number.\n    """'
    line = '"""Do.\n\n    Returns: int\n    """'
    told = (
        f"def f{{}}(x) -> None:\n    {section}\n    print(x)\n",
        f"def f{{}}(x) -> 'None':\n    {section}\n    return x\n",
        f"def f{{}}(x) -> typing.NoReturn:\n    {section}\n    leave(x)\n",
        f"async def f{{}}(x):\n    {section}\n    await x\n",
        f"def f{{}}(x) -> None:\n    {line}\n    print(x)\n",
    )
    kept = (
        f"def f{{}}(x) -> None:\n    {section}\n",
        f"def f{{}}(x) -> None:\n    {section}\n    ...\n",
        f"def f{{}}(x) -> None:\n    {section}\n    pass\n",
        f"def f{{}}(x) -> None:\n    {section}\n    raise NotImplementedError\n",
        f"def f{{}}(x):\n    {section}\n    return None\n",
        f"@abc.abstractmethod\ndef f{{}}(x) -> None:\n    {section}\n    print(x)\n",
        f"@overload\ndef f{{}}(x) -> None:\n    {section}\n    ...\n",
        f"def f{{}}(x) -> int:\n    {section}\n    print(x)\n",
        f"def f{{}}(x) -> None:\n    {line.replace('int', 'None, always')}\n    print(x)\n",
    )
    (source / "m.py").write_text("".join(code.format(n) for n, code in enumerate((*told, *kept))))
    status, lines = lint(capsys, source)
    assert status == 1
    assert [line.partition(": ")[2] for line in lines] == [
        f"described-result: f{n} describes a result, and nothing is returned" for n in range(len(told))
    ]


ATTRIBUTES = '''\
from dataclasses import dataclass
from elsewhere import External, register
from typing import Generic, NamedTuple


@dataclass
class Point:
    """A point.

    Attributes:
        x (int): One.
        xx: Nothing.
        length: Of the way.
    """

    x: int
    y: int

    @property
    def length(self):
        return self.x


class Base(Generic[T]):
    """A base.

    Attributes:
        left: What a subclass has.
        gone: Nothing.
        __name__: Of any class.
    """

    def __init__(self, left, gone):
        self.size = left


class Derived(Base):
    """Of that.

    Attributes:
        size: Of the base.
        lost: Nothing.
        late: Set by others.
        word: Set by its name.
        here: Imported.
    """

    from elsewhere import here

    left = 1

    def start(self, other):
        other.late = 1
        give(self, "word")


class Pair(NamedTuple):
    """A pair.

    Attributes
    ----------
    a : int
        One.
    c : int
        Nothing.
    """

    a: int


class FromOutside(External):
    """It.

    Attributes:
        ghost: Perhaps.
    """

    x = 1


class OfThat(FromOutside):
    """It.

    Attributes:
        ghost: Perhaps.
    """

    x = 1


@register
class Registered:
    """It.

    Attributes:
        ghost: Perhaps.
    """

    x = 1


class Made(metaclass=Meta):
    """It.

    Attributes:
        ghost: Perhaps.
    """

    x = 1


class Empty:
    """It.

    Attributes:
        ghost: Perhaps.
    """
'''


def test_attributes_that_a_class_cannot_have(source, tmp_path, capsys) -> None:
    (source / "m.py").write_text(ATTRIBUTES)
    rule = "described-attribute"
    assert lint(capsys, source) == (
        1,
        [
            f"m.py:12: {rule}: Point describes attribute xx, which the class lacks; did you mean x",
            f"m.py:29: {rule}: Base describes attribute gone, which the class lacks",
            f"m.py:42: {rule}: Derived describes attribute lost, which the class lacks",
            f"m.py:64: {rule}: Pair describes attribute c, which the class lacks",
        ],
    )
    assert main(["build", str(source), "--out", str(tmp_path / "site")]) == 0
    symbols = {s["id"]: s for s in json.loads((tmp_path / "site" / "symbols.json").read_bytes())}
    described = {
        name: symbols[f"m.py::{name}"]["slots"]["description"]["text"] for name in ("Point", "Derived")
    }
    assert described["Point"] == (
        "**Described, but not in the class**\n\n- `xx`: Nothing.\n\n**Attributes**\n\n- `length`: Of the way."
    )
    assert described["Derived"].startswith(
        "**Attributes, by the docstring**\n\n- `size`: Of the base.\n- `late`: "
    )


@pytest.mark.parametrize(
    "sets",
    [
        "def __getattr__(self, name): ...",
        "def f(self, **given): self.__dict__.update(given)",
        "def f(self, name): setattr(self, name, 1)",
        "def f(self, name): vars(self)[name] = 1",
        "__slots__ = ('x', 'ghost')",
        "def f(self): return self.ghost",
        "for ghost in range(3): pass",
    ],
)
def test_attributes_that_a_class_may_have(source, capsys, sets) -> None:
    text = '    """It.\n\n    Attributes:\n        ghost: Perhaps.\n    """\n'
    (source / "m.py").write_text(f"class A:\n{text}\n    x = 1\n    {sets}\n")
    assert lint(capsys, source) == (0, [])


def test_what_only_looks_like_an_entry_or_a_default_is_none(source, capsys) -> None:
    (source / "m.py").write_text(
        '''def parts(*args, size=None):
    """Do.

    Parameters
    ----------
    args1, label : int
        Parts of what is given.
    size : int
        How big.
    """


def every(*shape: tuple, **options: str):
    """Do.

    Args:
        *shape (int): Each.
        **options (dict): All.
    """


def prose(a):
    """Do.

    Parameters
    ==========

    a : int
        One.

    TODO: for more of them, see
    https://example.org/more
    """


class Hooks:
    """What is called.

    Args:
        event: What every hook is given.
    """

    def start(self, event): ...


def nested(config):
    """Do.

    Args:
        config: It has:

            * factor (`float`, defaults to 1.0): By how much.
    """
'''
    )
    assert lint(capsys, source) == (0, [])


def test_a_secret_is_not_repeated(source, capsys) -> None:
    described = "password : str, default 'hunter2'\n        What."
    docstring = f'"""Do.\n\n    Parameters\n    ----------\n    {described}\n    """'
    (source / "m.py").write_text(f"def f(password='swordfish'):\n    {docstring}\n")
    status, (line,) = lint(capsys, source)
    assert (status, line.partition("gives ")[2]) == (1, "password another default than it has")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--baseline", "no/such/file"], "baseline 'no/such/file': No such file or directory"),
        (["--update-baseline"], "--update-baseline takes --baseline FILE"),
        (["--update-baseline", "--baseline", "no/such/file"], "baseline 'no/such/file': no such folder"),
        (["--since", "--upload-pack=x"], "revision"),
    ],
)
def test_flags_that_cannot_be_used(source, capsys, flags, said) -> None:
    if flags[0] == "--since":
        flags = [f"--since={flags[1]}"]
    assert main(["plan", str(source), "--lint", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_lint_flags_alone_are_refused(source, capsys) -> None:
    assert main(["plan", str(source), "--since", "main"]) == 2
    assert "go with --lint" in capsys.readouterr().err


@pytest.mark.parametrize("held", ["", "{}\n", "garbage\n"])
def test_a_file_that_is_no_baseline_is_refused(source, tmp_path, capsys, held) -> None:
    (tmp_path / "baseline").write_text(held)
    assert main(["plan", str(source), "--lint", "--baseline", str(tmp_path / "baseline")]) == 2
    assert "is no baseline; --update-baseline writes one" in capsys.readouterr().err


def test_a_baseline_with_marks_of_a_conflict_is_refused(source, tmp_path, capsys) -> None:
    file = tmp_path / "baseline"
    assert lint(capsys, source, "--baseline", str(file), "--update-baseline")[0] == 0
    file.write_text(f"{file.read_text()}<<<<<<< HEAD\n")
    assert main(["plan", str(source), "--lint", "--baseline", str(file)]) == 2
    assert "no entry: '<<<<<<< HEAD'" in capsys.readouterr().err


def test_what_is_waived_is_not_told(source, capsys) -> None:
    waiver = (
        '[[waiver]]\nrule = "described-parameter"\nsymbol = "m.py::old"\nreason = "Later."\nexpires = {}\n'
    )
    (source / "docmill.waivers.toml").write_text(waiver.format("2000-01-01"))
    assert lint(capsys, source)[0] == 1
    (source / "docmill.waivers.toml").write_text(waiver.format("2999-01-01"))
    assert lint(capsys, source) == (0, [])


def test_under_strict_what_cannot_be_read_fails(source, capsys) -> None:
    (source / "m.py").write_text("x = 1\n")
    (source / "bad.py").write_text("def (:\n")
    assert lint(capsys, source)[0] == 0
    assert main(["plan", str(source), "--lint", "--strict"]) == 1
    assert "strict: 1 skipped, the first bad.py" in capsys.readouterr().err
