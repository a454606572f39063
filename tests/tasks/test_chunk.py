"""Files into symbols: what a definition is called, how it reads, what belongs to it."""

from __future__ import annotations

import inspect
import sys
import textwrap

import pytest

from flows.workers import Workers
from tasks.chunk import chunk, load_modules, load_outlines, module_names
from tasks.chunk.docstrings import mentioned
from tasks.chunk.python import ParsedModule, parse_module
from tasks.documents import Symbol
from tasks.ingest import ingest, open_source
from tasks.ingest.tree import Selection
from tasks.resolve import Index
from tasks.result_cache import ResultCache


def parsed(text: str, path: str = "pkg/mod.py", name: str = "pkg.mod") -> ParsedModule:
    return parse_module(textwrap.dedent(text).strip(), path, name)


def symbols(text: str, **where: str) -> dict[str, Symbol]:
    return {symbol.name: symbol for symbol in parsed(text, **where).symbols}


@pytest.fixture
def chunked(tmp_path):
    """Files on disk through the whole stage: modules and outlines by path."""

    def run(files: dict[str, bytes], cached: str = "cache"):
        for name, data in files.items():
            (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "source" / name).write_bytes(data)
        source = open_source(str(tmp_path / "source"), None, tmp_path)
        cache = ResultCache(f"sqlite:///{tmp_path}/{cached}.sqlite")
        chunks = chunk(ingest(source, Selection(), tmp_path), cache, Workers(lambda: cache, processes=1))
        return load_modules(cache, chunks), load_outlines(cache, chunks)

    return run


# --- signatures


@pytest.mark.parametrize(
    "written",
    [
        "def f()",
        "def f(a, b, /)",
        "def f(a, /, b, *, c)",
        "def f(*args, c, **kwargs)",
        "def f(*, c: int = 1, d)",
        "def f(a='x', b=\"y\", c=b'z', d=r'\\d', e=f'{x!r}')",
        "def f(a: 'Late' = None, *args: int, **kwargs: dict[str, Any]) -> 'Late'",
        "def f(a=lambda x, /, y=1: (x, y), b=(1,), c=..., d={**x, 'a': 1}, e=[*y])",
        "def f(a: Literal['x', \"y\"] = 'x', b: Callable[[int, str], None] | None = None) -> tuple[()]",
        "def f(a=0xFF, b=1_000, c=1e-3, d=-1, e=not x, f=x if y else z)",
        "def f(ü: 'é' = 'ß', 日=本)",
        "async def f(self, a=await_)",
        "def f(*args: *Ts)",
    ],
)
def test_signatures_read_as_written(written):
    assert symbols(f"{written}: ...")["f"].signature == written


@pytest.mark.parametrize(
    ("default", "shown"),
    [
        ("(\n    'a',\n    \"b\",  # the second\n)", "('a', \"b\")"),
        ("(\n    1,\n)", "(1,)"),
        ("[\n]", "[]"),
        ("{\n    'a': 1,\n    'b': [\n        2,\n        3,\n    ],\n}", "{'a': 1, 'b': [2, 3]}"),
        ("x.\\\n  y", "x. y"),
        ("('a'\n   'b')", "('a' 'b')"),
        ("(1 +\n   2)", "(1 + 2)"),
        ("'''a\nb'''", r"'a\nb'"),
        ("table[\n    'é', 'ü'\n]", "table['é', 'ü']"),
    ],
)
def test_what_spans_lines_is_shown_on_one(default, shown):
    f = symbols(f"def f(a={default}): ...")["f"]
    # a node's own text is without the parentheses around it
    assert f.parameters[0].default in (shown, shown.removeprefix("(").removesuffix(")"))
    assert "\n" not in f.signature


def test_parameters_have_the_kinds_of_inspect():
    text = "def f(self, a, /, b: int = 1, *args, c='x', **kw): ..."
    namespace: dict = {}
    exec(text, namespace)  # noqa: S102 - the oracle
    expected = [
        (p.name, p.kind.name.lower(), p.default is not p.empty)
        for p in inspect.signature(namespace["f"]).parameters.values()
    ]
    found = symbols(text)["f"].parameters
    assert [(p.name, p.kind, p.default is not None) for p in found] == expected
    assert (found[2].annotation, found[2].default) == ("int", "1")
    assert found[0].annotation is None


def test_what_a_module_says_of_its_attributes_is_theirs():
    found = symbols("""
        '''Text.

        Attributes:
            limit (int): The most.
            gone: There is none.
        '''
        limit = 3
        size: int = 4
        """)
    assert found["limit"].slots["summary"].text == "The most."
    assert found["limit"].doc_types == {"return": "int"}
    assert (
        found[""].slots["description"].text == "**Attributes, by the docstring**\n\n- `gone`: There is none."
    )


def test_the_docstring_of_a_property_that_is_called_for():
    found = symbols(
        "class A:\n    x = property(_get, doc='Its x.')\n    y = property(_get, None, None, '''Y.\n\n  Z.''')"
    )
    assert found["A.x"].slots["summary"].text == "Its x."
    assert found["A.y"].slots["description"].text == "Z."


def test_control_characters_of_a_docstring_are_shown_as_escapes():
    found = symbols("def f():\n    '''Ring \\a and \\x85.'''")
    assert found["f"].slots["summary"].text == "Ring \\x07 and \\x85."


def test_a_python_file_may_declare_another_encoding(chunked):
    text = "# coding: {}\ndef f():\n    '''Zoë: {}'''\n"
    files = {
        "a.py": text.format("latin-1", "ä").encode("latin-1"),
        "b.py": b"\xef\xbb\xbf" + text.format("utf-8", "ю").encode(),
        "c.py": text.format("shift_jis", "ï").replace("ë", "か").replace("ï", "な").encode("shift_jis"),
    }
    modules, _ = chunked(files)
    said = {path: module.symbols[1].slots["summary"].text for path, module in modules.items()}
    assert said == {"a.py": "Zoë: ä", "b.py": "Zoë: ю", "c.py": "Zoか: な"}


# --- what folds, what gets a number


def test_overloads_fold_into_the_implementation():
    found = symbols(
        """
        @overload
        def f(a: int) -> int: ...
        @typing.overload
        def f(a: str) -> str: ...
        def f(a):
            '''Text.'''
        """
    )
    assert list(found) == ["", "f"]
    assert found["f"].overloads == ("def f(a: int) -> int", "def f(a: str) -> str")
    assert found["f"].slots["summary"].text == "Text."


def test_without_a_docstring_an_implementation_has_its_overloads_text():
    text = """
    from typing import overload
    @overload
    def f(a: int, b: int) -> int: ...
    @overload
    def f(a: str, b: int) -> str:
        '''Do it.

        Args:
            a: What.
            b: Not in the implementation.
        '''
    @overload
    def f(a: bytes):
        '''Or so.'''
    def f(a): {}
    """
    found = symbols(text.format("raise ValueError('bad')"))["f"].slots
    expected = {
        "summary": "Do it.",
        "description": "**Parameters, by the docstring**\n\n- `b`: Not in the implementation.\n\n"
        "**Overloads**\n\n- `def f(a: str, b: int) -> str`: Do it.\n  \n"
        "  **Parameters**\n  \n  - `a`: What.\n  - `b`: Not in the implementation.\n"
        "- `def f(a: bytes)`: Or so.",
        "param.a": "What.",
        "raises.ValueError": "bad",
    }
    assert {name: slot.text for name, slot in found.items()} == expected
    own = symbols(text.format("'Own.'"))["f"].slots
    listed = (
        "- `def f(a: str, b: int) -> str`: Do it.\n  \n  **Parameters**\n  \n  - `a`: What.\n"
        "  - `b`: Not in the implementation.\n"
        "- `def f(a: bytes)`: Or so."
    )
    told = {"summary": "Own.", "description": f"**Overloads**\n\n{listed}"}
    assert {name: slot.text for name, slot in own.items()} == told


def test_what_setters_say_follows_what_a_property_says():
    found = symbols(
        """
        class A:
            @property
            def p(self):
                '''The p.'''
            @p.setter
            def p(self, value):
                '''Set it.

                Args:
                    value: To what.

                Raises:
                    ValueError: If it is wrong.
                '''
            @p.deleter
            def p(self):
                '''The p.'''
        """
    )["A.p"]
    told = (
        "**When set**\n\nSet it.\n\n**Parameters**\n\n- `value`: To what.\n\n"
        "**Raises**\n\n- `ValueError`: If it is wrong."
    )
    assert {name: slot.text for name, slot in found.slots.items()} == {
        "summary": "The p.",
        "description": told,
    }


def test_what_a_class_says_of_attributes_follows_what_they_say():
    found = symbols(
        """
        class A:
            '''A.

            Attributes:
                a (int): The a.
                b (str): B, by the class.
                c (float): Made at run time.
            '''
            a = 1
            b: bytes = b""
            '''B.'''
        """
    )
    assert found["A.a"].slots["summary"].text == "The a."
    assert (found["A.a"].doc_types, found["A.b"].doc_types) == ({"return": "int"}, {})
    assert [slot.text for slot in found["A.b"].slots.values()] == ["B.", "B, by the class."]
    told = "**Described, but not in the class**\n\n- `c` (float): Made at run time."
    assert found["A"].slots["description"].text == told


def test_a_property_is_not_of_the_type_of_the_parameter_it_is_called_like():
    found = symbols(
        """
        class A:
            '''A.

            Args:
                path (str): Where.

            Attributes:
                path (Path): Where, resolved.

            Raises:
                OSError: If it is not there.

            Returns:
                int: Nothing, being a class.
            '''
            def __init__(self, path):
                raise OSError("no path")

            @property
            def path(self):
                return self._path
        """
    )
    told = (
        "**Attributes**\n\n- `path` (Path): Where, resolved.\n\n**Returns**\n\n(int): Nothing, being a class."
    )
    assert found["A"].slots["description"].text == told
    constructor = found["A.__init__"]
    assert constructor.slots["param.path"].text == "Where."
    assert constructor.doc_types == {"path": "str"}
    assert constructor.slots["raises.OSError"].text == "If it is not there."


def test_overloads_of_a_stub_stand_for_themselves():
    found = symbols(
        "class A:\n    @overload\n    def f(self, a: int): ...\n    @overload\n    def f(self): ...\n"
    )
    assert found["A.f"].overloads == ("def f(self, a: int)",)
    assert found["A.f"].signature == "def f(self)"
    assert found["A.f"].line == 2
    assert found["A.f"].kind == "method"


def test_accessors_fold_into_their_property():
    found = symbols(
        """
        class A:
            @property
            def x(self) -> int:
                '''Text.'''
            @x.setter
            def x(self, value): check(value)
            @x.deleter
            def x(self): ...
            @functools.cached_property
            def y(self): ...
            @property
            def z(self): ...
            @z.deleter
            def z(self): ...
        """
    )
    assert list(found) == ["", "A", "A.x", "A.y", "A.z"]
    assert [found[f"A.{n}"].kind for n in "xyz"] == ["property"] * 3
    assert [found[f"A.{n}"].labels for n in "xyz"] == [("writable",), ("cached_property",), ()]
    assert found["A.x"].signature == "def x(self) -> int"
    assert "check" in found["A.x"].names


def test_a_setter_in_a_subclass_is_a_property_of_its_own():
    found = symbols("class B(A):\n    @A.x.setter\n    def x(self, value): '''Text.'''\n")
    assert (found["B.x"].kind, found["B.x"].labels) == ("property", ("writable",))


def test_further_definitions_get_a_number():
    found = symbols(
        """
        if sys.version_info > (3, 12):
            def f(a): '''One.'''
        else:
            def f(b): '''Two.'''
        try:
            class A:
                def m(self): ...
        except ImportError:
            class A:
                def m(self): ...
                def m(self, x): ...
        for _ in x:
            def f(c): ...
        """
    )
    assert list(found) == ["", "f", "f#2", "A", "A.m", "A#2", "A#2.m", "A#2.m#2", "f#3"]
    assert [p.name for p in found["f#2"].parameters] == ["b"]


@pytest.mark.parametrize(
    "block",
    [
        "if TYPE_CHECKING:\n    {}",
        "if a:\n    pass\nelif b:\n    {}",
        "try:\n    pass\nfinally:\n    {}",
        "try:\n    pass\nexcept* OSError:\n    {}",
        "with a:\n    {}",
        "while a:\n    {}",
        "match a:\n    case 1:\n        {}",
    ],
)
def test_conditional_definitions_are_found(block):
    found = symbols(block.format("def f(): ..."))
    assert found["f"].kind == "function"
    assert symbols(block.format("X = 1"))["X"].value == "1"


def test_nested_definitions_and_kinds():
    found = symbols(
        """
        class A:
            class B:
                class C(Exception):
                    async def m(self): ...
            def m(self):
                def inner():
                    class Local:
                        def deep(self): ...
            @staticmethod
            def s(x): ...
            @classmethod
            def c(cls): ...
            @abstractmethod
            async def a(self): ...
        """
    )
    kinds = {name: s.kind for name, s in found.items()}
    assert kinds["A.B.C.m"] == "method"
    assert (kinds["A.m.inner"], kinds["A.m.inner.Local"]) == ("function", "class")
    assert kinds["A.m.inner.Local.deep"] == "method"
    assert found["A.s"].labels == ("staticmethod",)
    assert found["A.c"].labels == ("classmethod",)
    assert found["A.a"].labels == ("async", "abstractmethod")
    assert found["A.s"].expected == ("summary", "param.x")
    assert found["A.c"].expected == ("summary",)


def test_decorators_count_as_first_line_and_hide_no_signature():
    found = symbols("\n@app.route('/x', methods=['GET'])\n@wraps(g)\ndef f(a, *, b): ...\n")
    assert (found["f"].line, found["f"].signature) == (1, "def f(a, *, b)")
    assert {"app.route", "wraps", "g"} <= set(found["f"].names)


def test_classes_attributes_and_dataclasses():
    found = symbols(
        """
        @dataclass(frozen=True)
        class A(Base[T], metaclass=Meta, flag=True):
            '''A thing.

            Attributes:
                y: From the class.
            '''
            x: int = field(default=1)
            '''From below.'''
            y: str
            a, (b, *c) = z = 1, (2, 3)
            def __init__(self, p):
                self.made = p
                '''Made here.'''
                self.x = 2
                if p:
                    self.maybe: int | None = None
        type_alias: TypeAlias = 'A'
        LONG = [1,
                2]
        """
    )
    assert found["A"].signature == "class A(Base[T], metaclass=Meta, flag=True)"
    assert (found["A"].bases, found["A"].labels) == (("Base",), ("dataclass",))
    assert found["A.x"].signature == "x: int = field(default=1)"
    assert found["A.x"].slots["summary"].text == "From below."
    assert found["A.y"].slots["summary"].text == "From the class."
    assert found["A.made"].slots["summary"].text == "Made here."
    assert found["A.maybe"].returns == "int | None"
    assert {"A.a", "A.b", "A.z"} <= found.keys()
    assert found["LONG"].value == "[1, 2]"


def test_a_reformat_or_a_comment_leaves_the_code_alone():
    one = symbols("def f(a, b):\n    '''Text.'''\n    return a+b  # sum\n")["f"]
    two = symbols("def f(a, b):\n\n    '''Other.'''\n    # a comment\n    return (a + b)\n")["f"]
    other = symbols("def f(a, b):\n    return a - b\n")["f"]
    assert one.code == two.code != other.code


# --- slots of functions


def test_raises_are_derived_from_messages():
    f = symbols(
        """
        def f(self, a):
            '''Text.

            Raises:
                KeyError: As documented.
            '''
            if a: raise ValueError("must not be " + a)
            if b: raise ValueError(f"{a} is not {b!r}")
            if c: raise errors.Missing("no %s here" % a) from None
            if d: raise TypeError
            if e: raise KeyError("not this")
            if g: raise Custom("{} of {{{b:>{width}}}}".format(a, b=b))
            if h: raise Custom("100%% of %-5.2f and %(name)s" % a)
            if i: raise Custom("dimensionless", a)
            if j: raise Custom("not the same", a)
            try: ...
            except OSError as error: raise error
            raise
        """
    )["f"]
    texts = {name: (slot.text, slot.origin) for name, slot in f.slots.items() if name.startswith("raises")}
    assert texts == {
        "raises.KeyError": ("As documented.", "human"),
        "raises.ValueError": ("must not be …; … is not …", "derived"),
        "raises.errors.Missing": ("no … here", "derived"),
        "raises.Custom": ("… of {…}; 100% of … and …; not the same", "derived"),
    }
    assert [e for e in f.expected if e.startswith("raises.")] == [
        *("raises.ValueError", "raises.errors.Missing", "raises.TypeError", "raises.KeyError"),
        "raises.Custom",
    ]


@pytest.mark.parametrize(
    ("handler", "is_raised"),
    [
        ("except ValueError: return 1", False),
        ("except (KeyError, ValueError): return 1", False),
        ("except Exception: pass", False),
        ("except: pass", False),
        ("except KeyError: pass", True),
        ("except errors.ValueError: pass", True),
        ("except ValueError: raise", True),
        ("except ValueError: raise\n    except Exception: pass", True),
        ("except KeyError: pass\n    except Exception: pass", False),
        ("except GeneratorExit: pass", True),
        ("except ValueError as error:\n        if a: raise error", True),
        ("except ValueError as error: raise Other from error", False),
        ("except ValueError as error: raise error.with_traceback(None)", True),
        ("except ValueError as error: raise error.__cause__", False),
        ("except ValueError as error: raise type(error)(a) from error", True),
        ("except ValueError as error: last = error", True),
        ("except ValueError:\n        return 1\n        raise", True),  # never, but who looks so closely
        ("except ValueError:\n        def g(): raise\n        return g", False),
        ("except errors.Other: raise\n    except Exception: pass", True),
        ("except errors.Other: return\n    except Exception: pass", False),
        ("finally: pass", True),
    ],
)
def test_what_a_function_catches_itself_it_does_not_raise(handler, is_raised):
    f = symbols(f"def f(a):\n    try:\n        raise ValueError('no number')\n    {handler}\n")["f"]
    assert ("raises.ValueError" in f.slots) is is_raised
    assert ("raises.ValueError" in f.expected) is is_raised


@pytest.mark.parametrize(
    ("body", "is_raised"),
    [
        ("with suppress(ValueError): raise ValueError", False),
        ("with open(a), contextlib.suppress(KeyError, ValueError):\n  if a: raise ValueError", False),
        ("with suppress(KeyError): raise ValueError", True),
        ("with suppress(): raise ValueError", True),
        ("with self.log.suppress(ValueError): raise ValueError", True),
        ("with suppress(Exception): raise ValueError", False),
        ("try:\n  return a\nexcept KeyError:\n  def g(): raise\n  raise ValueError", True),
        ("with lock: raise ValueError", True),
        ("return a\nraise ValueError", False),
        ("if a: return a\nraise ValueError", True),
        ("if a:\n  return a\n  raise ValueError", False),
        ("while a:\n  break\n  raise ValueError\nraise KeyError", False),
        ("for b in a:\n  continue\nelse: raise ValueError", True),
        ("raise KeyError\nif a: raise ValueError", False),
        ("if False: raise ValueError", False),
        ("if TYPE_CHECKING: raise ValueError", False),
        ("if typing.TYPE_CHECKING: pass\nelse: raise ValueError", True),
        ("if True: return a\nelse: raise ValueError", False),
        ("while 1: raise ValueError", True),
        ("while 0: raise ValueError", False),
        ("match a:\n  case 1:\n    return\n    raise ValueError", False),
        ("try: return a\nfinally: raise ValueError", True),
        ("try: raise ValueError\nfinally: return a", False),
        ("try: return a\nexcept KeyError: raise ValueError\nfinally:\n  if a: return a", True),
    ],
)
def test_what_never_leaves_a_function_it_does_not_raise(body, is_raised):
    f = symbols("def f(a):\n" + textwrap.indent(body, "  "))["f"]
    assert ("raises.ValueError" in f.expected) is is_raised


LINEAGE = """
class Boom(Exception): ...
class Sub(errors.Base, Boom): ...
class Loop(Loop): ...
class KeyError(KeyError): ...
class OSError(Exception): ...
class Made(made(ValueError)): ...
from errors import TimeoutError
class Missing(IndexError): ...

def f(a):
    try:
        raise {}
    except {}: pass
"""


@pytest.mark.parametrize(
    ("raised", "taken", "is_raised"),
    [
        ("Sub('no')", "Boom", False),
        ("Sub('no')", "Exception", False),
        ("Boom", "Sub", True),
        ("Missing", "LookupError", False),
        ("Missing", "ValueError", True),
        ("Missing().with_traceback(a)", "LookupError", False),
        ("Missing().with_traceback(a)", "TypeError", True),
        ("Loop", "Boom", True),
        ("KeyError", "LookupError", True),  # its own, of which the file does not tell
        ("BrokenPipeError", "OSError", True),
        ("FileNotFoundError", "Exception", False),
        ("TimeoutError", "InterruptedError", True),
        ("Made", "ValueError", True),
        ("Made", "Exception", False),
        ("asyncio.CancelledError", "Exception", True),
        ("asyncio.CancelledError", "BaseException", False),
    ],
)
def test_a_file_tells_which_exceptions_are_of_which_classes(raised, taken, is_raised):
    f = symbols(LINEAGE.format(raised, taken))["f"]
    assert [e for e in f.expected if e.startswith("raises.")] == (
        [f"raises.{raised.partition('(')[0]}"] if is_raised else []
    )


def test_a_method_of_what_is_made_may_raise_anything():
    f = symbols("def f(a):\n    raise Parser(a).error('no')\n")["f"]
    assert not any(name.startswith("raises.") for name in (*f.expected, *f.slots))


def test_handlers_in_handlers_take_no_time():
    levels = [f"{' ' * n}try: pass\n{' ' * n}except E as e:" for n in range(1, 60)]
    f = symbols("def f(a):\n" + "\n".join([*levels, f"{' ' * 60}raise ValueError"]))["f"]
    assert "raises.ValueError" in f.expected


@pytest.mark.parametrize("returns", ["NoReturn", "t.NoReturn", "'NoReturn'", "typing.Never"])
def test_a_special_method_that_never_returns_does_another_thing(returns):
    found = symbols(
        f"""
        class C:
            def __setitem__(self, key, value) -> {returns}: self._refuse(key)
            def __delitem__(self, key) -> None: self._refuse(key)
        """
    )
    assert [name for name, s in found.items() if "summary" in s.slots] == ["C.__delitem__"]
    assert "returns" not in found["C.__setitem__"].expected


def test_special_methods_whose_code_does_another_thing_are_not_said_to_do_theirs():
    found = symbols(
        """
        class C:
            def __setitem__(self, key, value):
                raise TypeError("is read-only")
            def __getitem__(self, key):
                raise NotImplementedError
            def __delitem__(self, key):
                if key: raise KeyError
            def __copy__(self): return self
            def __deepcopy__(self, memo): return C()
            def __iter__(self): return self
        """
    )
    derived = {name.removeprefix("C.") for name, s in found.items() if "summary" in s.slots}
    assert derived == {"__getitem__", "__delitem__", "__deepcopy__", "__iter__"}


@pytest.mark.parametrize(
    ("decorator", "is_of_attrs"), [("attrs.define", True), ("attr.s", True), ("other", False)]
)
def test_attrs_takes_private_attributes_by_their_public_names(decorator, is_of_attrs):
    module = parsed(
        f"""
        @{decorator}
        class C:
            '''Text.

            :param pool: Where connections are.
            :param other: Of another name.
            '''
            _pool: Pool
            _other: int
            other: int
        """
    )
    said = {s.name: s.slots["summary"].text for s in module.symbols if "summary" in s.slots}
    assert ("C._pool" in said) is is_of_attrs and said["C.other"] == "Of another name."
    assert module.contradictions == []


ALIASES = """
@attrs.define
class C:
    '''Text.

    :param size: Of the pool.
    :param hosts: Where connections go.
    '''
    _count: int = attrs.field(default=1, alias="size")
    if DEBUG:
        places = attrs.field(alias="hosts")
"""


def test_attrs_takes_attributes_by_their_aliases():
    module = parsed(ALIASES)
    said = {s.name: s.slots["summary"].text for s in module.symbols if "summary" in s.slots}
    assert said == {"C": "Text.", "C._count": "Of the pool.", "C.places": "Where connections go."}
    assert module.contradictions == []


def test_attrs_takes_what_has_an_alias_by_no_other_name():
    module = parsed(ALIASES.replace(":param size:", ":param count:"))
    assert [(c.rule, c.symbol) for c in module.contradictions] == [("described-parameter", "C")]
    assert not any("summary" in s.slots for s in module.symbols if s.name == "C._count")


def test_attrs_takes_what_a_constructor_of_ones_own_takes():
    module = parsed(f"{ALIASES}    def __init__(self, size, hosts): ...\n")
    (constructor,) = (s for s in module.symbols if s.name == "C.__init__")
    assert {n: s.text for n, s in constructor.slots.items() if n.startswith("param.")} == {
        "param.size": "Of the pool.",
        "param.hosts": "Where connections go.",
    }
    assert module.contradictions == []


def test_optional_beside_a_name_is_no_parameter():
    f = symbols(
        """
        def f(many, few):
            '''Text.

            Parameters
            ----------
            many, optional
                How many.
            few
                How few.
            '''
        """
    )["f"]
    assert {name: slot.text for name, slot in f.slots.items() if name != "summary"} == {
        "param.many": "How many.",
        "param.few": "How few.",
    }


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("def f(): ...", False),
        ("def f(): return", False),
        ("def f(): return None", False),
        ("def f() -> None: return x", False),
        ("def f() -> int: ...", True),
        ("def f(): return 1", True),
        ("def f(): yield", True),
        ("def f():\n    def g(): return 1", False),
    ],
)
def test_who_returns_something(function, expected):
    assert ("returns" in symbols(function)["f"].expected) is expected


GOOGLE = """Sum.

    Args:
        a (int): First.
        b (list of str, optional): Second.

    Returns:
        Something long: with a colon.
    """
NUMPY = """Sum.

    Parameters
    ----------
    a : NetworkX graph
    b, c : int
        Both.

    Returns
    -------
    bool
    """
SPHINX = """Sum.

    :param a: First.
    :type a: int
    :keyword b: Second.
    :returns: A thing.
    :rtype: dict of str
    """
SEVERAL = """Sum.

    Yields
    ------
    a : int
        The first.
    b : list of str
        The second.
    """


@pytest.mark.parametrize(
    ("docstring", "types", "texts"),
    [
        (
            GOOGLE,
            {"a": "int", "b": "list of str"},
            {"param.a": "First.", "param.b": "Second.", "returns": "Something long: with a colon."},
        ),
        (
            NUMPY,
            {"a": "NetworkX graph", "b": "int", "c": "int", "return": "bool"},
            {"param.b": "Both.", "param.c": "Both."},
        ),
        (
            SPHINX,
            {"a": "int", "return": "dict of str"},
            {"param.a": "First.", "param.b": "Second.", "returns": "A thing."},
        ),
        (SEVERAL, {}, {"returns": "- `a` (int): The first.\n- `b` (list of str): The second."}),
    ],
)
def test_what_a_docstring_says_of_types(docstring, types, texts):
    f = symbols(f"def f(a, b=1, c=2):\n    {docstring!r}\n    yield a\n")["f"]
    assert f.doc_types == types
    assert {name: slot.text for name, slot in f.slots.items()} == {"summary": "Sum."} | texts
    assert f.labels == ("generator",)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("See :func:`p.m.f`, :meth:`~K.go` and :class:`the K <K>`.", ["p.m.f", "K.go", "K"]),
        ("See ``this.one``, `that()` and :func:`.f`.", ["this.one", "that", "f"]),
        ("See :py:mod:`p`, `a b` and `1.5`.", ["p"]),
        ("No names.", []),
    ],
)
def test_names_that_a_docstring_refers_to(text, found):
    assert list(mentioned(text)) == found


def test_decorators_are_kept_as_written_unless_a_label_tells_of_them():
    found = symbols(
        """
        @dataclass(frozen=True)
        class A:
            @staticmethod
            @lru_cache(maxsize=None)
            def f(): ...
            @property
            def x(self): ...
            @x.setter
            def x(self, value): ...
        @a.b
        async def g(): ...
        """
    )
    assert found["A"].decorators == ("dataclass(frozen=True)",)
    assert found["A.f"].decorators == ("lru_cache(maxsize=None)",)
    assert found["A.x"].decorators == ()
    assert found["g"].decorators == ("a.b",)


def test_comments_that_document():
    found = symbols(
        """
        #: The first.
        A = 1
        # Not this.
        B = 2  #: The second.
        class C:
            #: The third,
            #: on two lines.
            x: int = 3
            def __init__(self):
                #: The fourth.
                self.y = 4
        D = "#: not this"
        """
    )
    texts = {name: s.slots["summary"].text for name, s in found.items() if s.kind == "attribute" and s.slots}
    assert texts == {
        "A": "The first.",
        "B": "The second.",
        "C.x": "The third, on two lines.",
        "C.y": "The fourth.",
    }


def test_names_that_take_part_of_a_value_have_none():
    found = symbols("a, (b, *c) = 1, (2, 3)\nd = e = 4\n")
    assert {name: s.value for name, s in found.items() if name} == {
        **dict.fromkeys("abc"),
        "d": "4",
        "e": "4",
    }


def test_a_documented_parameter_that_is_not_there_is_no_parameter():
    doc = "'''Text.\n\n    Args:\n        a: One.\n        ghost: None.\n        *args: More.\n    '''"
    f = symbols(f"def f(a, *args):\n    {doc}\n")["f"]
    assert {n: s.text for n, s in f.slots.items()} == {
        "summary": "Text.",
        "description": "**Described, but not in the signature**\n\n- `ghost`: None.",
        "param.a": "One.",
        "param.args": "More.",
    }
    f = symbols(f"def f(a, **kw):\n    {doc}\n")["f"]
    assert "`ghost`: None." in f.slots["description"].text


@pytest.mark.parametrize(
    ("decorator", "parameters", "title"),
    [
        ("", "a", "Described, but not in the signature"),
        ("@functools.lru_cache(maxsize=None)\n", "a", "Described, but not in the signature"),
        ("@command.option('--ghost')\n", "a", "Parameters, by the docstring"),
        ("@wrapped\n", "a", "Parameters, by the docstring"),
        ("@wrapped\n", "a, **more", "Further keyword arguments"),
    ],
)
def test_what_a_decorated_function_takes_is_not_denied(decorator, parameters, title):
    doc = "'''Text.\n\n{0}Args:\n{0}    a: One.\n{0}    ghost: None.\n{0}'''"
    f = symbols(f"{decorator}def f({parameters}):\n    {doc.format(' ' * 4)}\n")["f"]
    assert f.slots["description"].text == f"**{title}**\n\n- `ghost`: None."
    constructor = textwrap.indent(f"{decorator}def __init__(self, {parameters}): ...", " " * 4)
    a = parsed(f"class A:\n    {doc.format(' ' * 4)}\n{constructor}\n")
    described = next(s for s in a.symbols if s.name == "A").slots["description"].text
    assert described == f"**{title}**\n\n- `ghost`: None."
    assert bool(a.contradictions) is title.endswith("signature")


def test_parameters_that_a_class_documents_belong_to_its_constructor():
    found = symbols(
        """
        class A:
            '''A thing.

            Args:
                a: The first.
            '''
            def __init__(self, a): ...
        """
    )
    assert found["A.__init__"].slots["param.a"].text == "The first."
    assert "description" not in found["A"].slots


# --- what is public


@pytest.mark.parametrize(
    ("written", "exports"),
    [
        ("__all__ = ['a', \"b\"]", ("a", "b")),
        ("__all__ = ('a',)\n__all__ += ['b']", ("a", "b")),
        ("__all__: list[str] = ['a']\n__all__.extend(['b'])\n__all__.append('c')", ("a", "b", "c")),
        ("__all__ = ['a'] + sub.__all__ + ['a']", ("a", "sub.*")),
        ("__all__ = ['a', *x.y.__all__]", ("a", "x.y.*")),
        ("__all__ = sorted(['b', 'a'])", ("b", "a")),
        ("__all__ = []", ()),
        ("__all__ = [n for n in dir()]", None),
        ("__all__ = ['a']\n__all__ += [n for n in dir()]", ("a",)),
        ("if x:\n    __all__ = ['a']", ("a",)),
        ("class A:\n    __all__ = ['a']", None),
        ("a = 1", None),
    ],
)
def test_forms_of_all(written, exports):
    assert parsed(written).surface.exports == exports


@pytest.mark.parametrize(
    ("head", "public"),
    [
        ("", {"", "a", "A", "A.m", "A.__init__", "A.__call__"}),
        ("__all__ = ['_b', 'A']", {"", "_b", "A", "A.m", "A.__init__", "A.__call__"}),
        ("__all__ = []", {""}),
        ("__all__ = [n for n in globals()]", {"", "a", "A", "A.m", "A.__init__", "A.__call__"}),
    ],
)
def test_underscore_rules(head, public):
    body = """
    def a(): ...
    def _b(): ...
    __version__ = '1'
    class A:
        def __init__(self): ...
        def __call__(self): ...
        def m(self):
            def inner(): ...
        def _p(self): ...
        class _Q:
            def m(self): ...
    """
    surface = parsed(head + "\n" + inspect.cleandoc(body)).surface
    assert set(Index([surface]).public_names(surface)) == public


# --- files


def test_names_of_modules():
    assert module_names(["a.py", "p/__init__.py", "p/b.py", "src/q/c.py", "ns/r/__init__.py"], "proj") == {
        "a.py": "a",
        "p/__init__.py": "p",
        "p/b.py": "p.b",
        "src/q/c.py": "q.c",
        "ns/r/__init__.py": "ns.r",
    }
    assert module_names(["__init__.py", "a.py", "src/b.py"], "proj") == {
        "__init__.py": "proj",
        "a.py": "proj.a",
        "src/b.py": "proj.src.b",
    }


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("lib/p/a.py", "p.a"),
        ("lib/c.py", "c"),
        ("packages/one/src/q/b.py", "q.b"),
        ("src/src/c.py", "c"),
        ("p/lib/a.py", "p.lib.a"),
        ("p/lib/src/a.py", "p.lib.src.a"),
        ("src.py", "src"),
        ("lib/src.py", "src"),
        ("tools/lib.py", "tools.lib"),
    ],
)
def test_names_of_modules_in_folders_that_are_no_packages(path, name):
    packages = ["lib/p/__init__.py", "packages/one/src/q/__init__.py", "p/__init__.py"]
    assert module_names([path, *packages], "proj")[path] == name


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"\xef\xbb\xbfdef f(): 'Text.'\n", 1),
        (b"# -*- coding: utf-8 -*-\n\ndef f(): 'Text.'\n", 3),
        (b"# coding: latin-1\ndef f(): 'Text.'\n", 2),
        (b"x = 1\r\ndef f(\r\n    a='b',\r\n):\r\n    'Text.'\r\n", 2),
        (b"x = 1\rdef f(): 'Text.'\r", 2),
        (b"x = 1\n\x0c\ndef f(): 'Text.'\n", 3),
        (b"x = '''\n\x0c\xe2\x80\xa8'''\ndef f(): 'Text.'\n", 3),
        (b"if x:\n\tdef f():\n\t\t'Text.'\n", 2),
        (b"def f(): 'Text.'", 1),
    ],
)
def test_files_as_people_have_them(chunked, data, line):
    modules, _ = chunked({"a.py": data})
    f = next(s for s in modules["a.py"].symbols if s.name == "f")
    assert (f.line, f.slots["summary"].text) == (line, "Text.")
    assert f.signature in ("def f()", "def f(a='b')")


@pytest.mark.parametrize("data", [b"", b"\n\n", b"# a comment\n", b"\xef\xbb\xbf", b"pass"])
def test_files_with_nothing_in_them(chunked, data):
    modules, outlines = chunked({"a.py": data})
    assert [s.name for s in modules["a.py"].symbols] == [""]
    assert outlines["a.py"].skipped is None


NEWER = sys.version_info < (3, 12)


@pytest.mark.parametrize(
    ("text", "reason", "detail"),
    [
        ("def (:\n", "syntax", "line 1: invalid syntax"),
        ("x = 1\n  y = 2\n", "syntax", "line 2: unexpected indent"),
        ("x = 'a\n", "syntax", "line 1: unterminated string"),
        ("print 'x'\n", "syntax", "line 1: Missing parentheses"),
        ("exec 'x' in y\nprint 'x'\n", "syntax", "line 1: Missing parentheses"),
        ("x = 1\n" + "(" * 300, "nesting", "line 2: too many nested parentheses"),
        ("\ndef f(a, *, a): pass\n", "syntax", "line 2: duplicate argument 'a' in function definition"),
        ("x = f'{a:{b:{c:{d}}}}'\n", "nesting", "line 1: f-string: expressions nested too deeply"),
        ("x = " + "-" * 20_000 + "1", "nesting", "nested too deeply"),
    ],
)
def test_what_cannot_be_parsed_says_why(chunked, text, reason, detail):
    modules, outlines = chunked({"a.py": text.encode(), "b.py": b"x = 1"})
    assert list(modules) == ["b.py"]
    skipped = outlines["a.py"].skipped
    assert skipped.reason == reason
    assert skipped.detail.startswith(detail)


@pytest.mark.skipif(not NEWER, reason="this Python has the syntax")
@pytest.mark.parametrize(
    "text", ["type X = int\n", "class A[T]: ...\n", "def f[T](a: T) -> T: ...\n", "x = f'{f'{y}'}'\n"]
)
def test_newer_syntax_is_named_as_that(chunked, text):
    _, outlines = chunked({"a.py": text.encode()})
    running = ".".join(map(str, sys.version_info[:2]))
    assert outlines["a.py"].skipped.detail == f"line 1: syntax newer than Python {running}"


def test_invalid_escapes_warn_nobody(chunked, recwarn):
    chunked({"a.py": b"x = '\\d'\nassert (1, 'x')\n1 is 1\n"})
    assert not recwarn.list


def test_what_is_nested_too_deeply_does_not_depend_on_who_parses(chunked):
    files = {f"a{n}.py": ("x = " + "-" * n + "1\n").encode() for n in range(1_000, 6_000, 100)}

    def deeper(levels: int):
        return deeper(levels - 1) if levels else chunked(files, "other")

    def too_deep(outlines) -> set[str]:
        return {path for path, outline in outlines.items() if outline.skipped}

    _, shallow = chunked(files)
    assert 0 < len(too_deep(shallow)) < len(files)
    _, deep = deeper(300)
    assert too_deep(deep) == too_deep(shallow)


def test_a_long_chain_of_branches_is_not_nested(chunked):
    branches = "".join(f"elif x == {n}:\n    def f{n}(): ...\n" for n in range(2_000))
    text = f"x = 1\nif x:\n    def first(): ...\n{branches}else:\n    def last(): ...\n"
    modules, _ = chunked({"a.py": text.encode()})
    names = [symbol.name for symbol in modules["a.py"].symbols]
    assert names == ["", "x", "first", *(f"f{n}" for n in range(2_000)), "last"]
