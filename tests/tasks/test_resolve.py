"""What names refer to across files: imports in every form, inheritance, what is public where."""

from __future__ import annotations

import textwrap
from itertools import permutations

import pytest

from tasks.chunk import module_names
from tasks.chunk.python import parse_module
from tasks.documents import Links, Module, Reexport
from tasks.resolve import Index, distinct_names, is_test, split_id


def resolved(files: dict[str, str], project: str = "project", private: tuple[str, ...] = ()):
    """The Index of some files, and the Links of each."""
    names = module_names(files, project)
    parsed = {path: parse_module(textwrap.dedent(text), path, names[path]) for path, text in files.items()}
    index = Index([p.surface for p in parsed.values()], private)
    links = {
        path: index.links(Module(path, names[path], tuple(p.symbols), p.local_imports))
        for path, p in parsed.items()
    }
    return index, links


def uses(links: dict[str, Links]) -> set[tuple[str, str]]:
    """(user, used) over all files."""
    return {
        (f"{path}::{user}", used)
        for path, found in links.items()
        for used, users in found.uses.items()
        for user in users
    }


TARGET = {"p/__init__.py": "", "p/b.py": "class B:\n    def m(self): ...\ndef f(): ...\nX = 1\n"}


@pytest.mark.parametrize(
    ("path", "text", "used"),
    [
        ("p/a.py", "from p.b import f\ndef g(): f()", "p/b.py::f"),
        ("p/a.py", "from .b import f as h\ndef g(): h()", "p/b.py::f"),
        ("p/a.py", "from . import b\ndef g(): b.f()", "p/b.py::f"),
        ("p/a.py", "import p.b\ndef g(): p.b.f()", "p/b.py::f"),
        ("p/a.py", "import p.b as q\ndef g(): q.B.m", "p/b.py::B.m"),
        ("p/a.py", "from .b import *\ndef g(): f()", "p/b.py::f"),
        ("p/a.py", "def g():\n    from .b import f\n    f()", "p/b.py::f"),
        ("p/a.py", "if TYPE_CHECKING:\n    from .b import B\ndef g(x: 'B'): ...", "p/b.py::B"),
        ("p/a.py", "try:\n    from .b import f\nexcept ImportError:\n    pass\ndef g(): f()", "p/b.py::f"),
        ("p/a.py", "from p import b\ndef g(x=b.X): ...", "p/b.py::X"),
        ("p/a.py", "from .b import B\n@B.m\ndef g(): ...", "p/b.py::B.m"),
        ("p/a.py", "from .b import B\ndef g() -> list[B]: ...", "p/b.py::B"),
        ("p/q/__init__.py", "from ..b import f\ndef g(): f()", "p/b.py::f"),
        ("p/q/r.py", "from ...p.b import f\nfrom ..b import f\ndef g(): f()", "p/b.py::f"),
        ("src/other.py", "from p.b import f\ndef g(): f()", "p/b.py::f"),
        ("p/a.py", "def g(): h()\ndef h(): ...", "p/a.py::h"),
        ("p/a.py", "class g:\n    def x(self): self.y()\n    def y(self): ...", "p/a.py::g.y"),
        ("p/a.py", "from .b import B\nclass g(B):\n    def x(self): self.m()", "p/b.py::B.m"),
    ],
)  # fmt: skip
def test_forms_of_reference(path, text, used):
    _, links = resolved(TARGET | {path: text})
    found = uses(links)
    assert used in {target for user, target in found if user.startswith(path)}


@pytest.mark.parametrize(
    "text",
    [
        "def g(f): f()",
        "def g():\n    f = 1\n    f()",
        "from os import f\ndef g(): f()",
        "from .nowhere import f\ndef g(): f()",
        "from ......far import f\ndef g(): f()",
        "def g(): f()",
        "class A:\n    def f(self): ...\n    @staticmethod\n    def g(other): other.f",
    ],
)
def test_what_is_something_else_is_not_linked(text):
    _, links = resolved(TARGET | {"p/a.py": text})
    assert not [used for user, used in uses(links) if user.startswith("p/a.py") and used.endswith("::f")]


def test_what_a_function_is_given_or_a_builtin_is_no_use_of_what_is_called_the_same():
    _, links = resolved(
        {
            "p/m.py": """
                class C:
                    max = 3
                    class Kind: ...
                    def __init__(self, console, size=1):
                        pool = console
                        self.console, self.pool = console, pool
                        self.size = size
                        self.width = console.width
                        self.kind = Kind2(size)
                    def close(self, kind: Kind): return max(self.size)
                class Kind2: ...
                console = print()
                pool = size = None
            """
        }
    )
    assert {
        (user, used) for user, used in uses(links) if not used.endswith((".size", ".pool", ".width"))
    } == {
        ("p/m.py::C.__init__", "p/m.py::C.kind"),  # `self.kind`
        ("p/m.py::C.__init__", "p/m.py::Kind2"),
        ("p/m.py::C.kind", "p/m.py::Kind2"),
        ("p/m.py::C.close", "p/m.py::C.Kind"),
    }


def test_classes_inside_of_others_are_found_by_the_names_of_builtins():
    _, links = resolved(
        {
            "p/m.py": """
                class C:
                    class TimeoutError(Exception):
                        def again(self): ...
                    class ReadTimeout(TimeoutError): ...
                    class Warning: ...
                    def warn(self, kind: Warning): ...
                def outer():
                    def filter(a): ...
                    def inner(a): return filter(a)
            """
        }
    )
    assert links["p/m.py"].bases == {"C.ReadTimeout": ("p/m.py::C.TimeoutError",)}
    found = uses(links)
    assert ("p/m.py::C.warn", "p/m.py::C.Warning") in found
    assert ("p/m.py::outer.inner", "p/m.py::outer.filter") in found


def test_imports_in_a_circle_end():
    index, links = resolved(
        {
            "a.py": "from b import x, y\nfrom b import *\nimport c\ndef f(): x(); y(); c.a.b.x()",
            "b.py": "from a import x\nfrom c import *\nfrom a import *\ndef g(): x()",
            "c.py": "from b import *\nimport a\ndef y(): ...",
            "d.py": "class A(B): ...\nclass B(A): ...\nclass C(C): ...",
            "e/__init__.py": "from . import e\nfrom .e import e\n__all__ = e.__all__",
            "e/e.py": "from . import e\nfrom e import __all__\n__all__ = e.__all__",
        }
    )
    assert ("a.py::f", "c.py::y") in uses(links)
    assert index.resolve("a.x") is None
    assert links["d.py"].bases["A"] == ("d.py::B",)


def test_what_a_package_offers_from_private_modules_is_public():
    _, links = resolved(
        {
            "p/__init__.py": "from ._impl import Public, helper as renamed, _hidden\nfrom os import path\n",
            "p/_impl.py": "class Public:\n    def m(self): ...\n    def _n(self): ...\n"
            "def helper(): ...\ndef _hidden(): ...\ndef unused(): ...\n",
        }
    )
    assert links["p/_impl.py"].public == ("", "Public", "Public.m", "helper")
    assert links["p/__init__.py"].reexports == {
        "Public": Reexport("api/p._impl.html#Public", "class"),
        "renamed": Reexport("api/p._impl.html#helper", "function"),
    }


@pytest.mark.parametrize(
    ("path", "holds_tests"),
    [
        *(("tests/a.py", True), ("p/test/a.py", True), ("test_a.py", True), ("p/a_test.py", True)),
        *(("conftest.py", True), ("p/testing/a.py", False), ("p/contest.py", False), ("latest.py", False)),
    ],
)
def test_files_that_hold_tests(path, holds_tests):
    assert is_test(path) is holds_tests


def test_names_in_docstrings():
    _, links = resolved(
        {
            "p/__init__.py": "from .b import f",
            "p/b.py": "def f():\n    'See `K.go`, `p.c`, `p.c.Z`, `p.f`, `os`.'\n"
            "class K:\n    def go(self):\n        'See `stop`, `f`, `self`.'\n    def stop(self): ...\n",
            "p/c.py": "class Z:\n    'See `go`.'\n    go = 1\n",
        }
    )
    assert links["p/b.py"].mentions == {
        "f": {
            "K.go": "api/p.b.html#K.go",
            "p.c": "api/p.c.html",
            "p.c.Z": "api/p.c.html#Z",
            "p.f": "api/p.b.html#f",
        },
        "K.go": {"stop": "api/p.b.html#K.stop", "f": "api/p.b.html#f"},
    }
    assert links["p/c.py"].mentions == {"Z": {"go": "api/p.c.html#Z.go"}}
    assert uses(links) == set()


def test_exports_in_a_circle_are_the_same_whatever_is_asked_first():
    files = {
        "p/__init__.py": "",
        "p/a.py": "from . import b\nfrom .b import *\n__all__ = ['f', *b.__all__]\ndef f(): ...\n",
        "p/b.py": "from . import c\nfrom .c import *\n__all__ = ['g', *c.__all__]\ndef g(): ...\n",
        "p/c.py": "from . import a\nfrom .a import *\n__all__ = ['h', *a.__all__]\ndef h(): ...\n",
    }
    alone = {}
    for path in files:
        index, _ = resolved(files)
        alone[path] = index.exports(index.by_path[path])
    for first in permutations(files):
        index = Index(resolved(files)[0].by_path.values())
        assert {path: index.exports(index.by_path[path]) for path in first} == alone


@pytest.mark.parametrize(
    ("head", "offered"),
    [
        ("__all__ = ['f']\nfrom .b import f, X", {"f"}),
        ("__all__ = ['f', 'nothing', 'p']\nfrom .b import *", {"f"}),
        ("from .b import *\nfrom .b import X as Y\n__all__ = b.__all__ + ['Y', 'X']", {"f", "Y"}),
        ("from . import b\nfrom .b import *\n__all__ = [*b.__all__]", {"f"}),
        ("from .b import *\n__all__ = [n for n in dir()]", set()),
        ("from .b import f\n", {"f"}),
        ("from other import f\n", set()),
    ],
)
def test_all_decides_what_a_package_offers(head, offered):
    files = {
        "p/__init__.py": head,
        "p/b.py": "__all__ = ['f']\ndef f(): ...\nX = 1\n",
        "other.py": "def f(): ...",
    }
    _, links = resolved(files)
    assert links["p/__init__.py"].reexports.keys() == offered


def test_private_modules_are_those_with_underscores_and_those_that_are_named():
    files = dict.fromkeys(
        ["a.py", "_b.py", "p/__init__.py", "p/_q/__init__.py", "p/_q/r.py", "p/t/x.py"], "X = 1"
    )
    _, links = resolved(files, private=("p.t.*",))
    assert {path for path, found in links.items() if found.public} == {"a.py", "p/__init__.py"}


def test_inherited_members_and_overrides():
    _, links = resolved(
        {
            "a.py": "class A:\n    x = 1\n    def m(self): ...\n    def n(self): ...\n    def _p(self): ...\n"
            "    def __len__(self): ...\n    class Inner:\n        def deep(self): ...\n",
            "b.py": "import a\nfrom typing import Generic\nclass B(a.A, Generic[T]):\n    def m(self): ...\n"
            "class C(B):\n    def m(self): ...\n    def n(self): ...\n"
            "class D(a.A.Inner):\n    def deep(self): ...\nclass E(Unknown): ...\n",
        }
    )
    found = links["b.py"]
    assert found.bases == {"B": ("a.py::A",), "C": ("b.py::B",), "D": ("a.py::A.Inner",)}
    assert [(g.base, g.members) for g in found.inherits["B"]] == [("A", ("x", "n", "Inner"))]
    assert [(g.base, g.members) for g in found.inherits["C"]] == [("A", ("x", "Inner"))]
    assert found.overrides == {
        "B.m": ("a.py::A.m",),
        "C.m": ("b.py::B.m", "a.py::A.m"),
        "C.n": ("a.py::A.n",),
        "D.deep": ("a.py::A.Inner.deep",),
    }


def test_the_method_resolution_order_is_pythons():
    text = "".join(
        f"class {head}:\n    def {method}(self): ...\n"
        for head, method in (("O", "m"), ("A(O)", "other"), ("B(O)", "m"), ("C(A, B)", "m"))
    )
    namespace: dict = {}
    exec(text, namespace)  # noqa: S102 - the oracle
    _, links = resolved({"a.py": text})
    mro = [c for c in namespace["C"].__mro__[1:] if "m" in vars(c)]
    assert links["a.py"].overrides["C.m"] == tuple(f"a.py::{c.__name__}.m" for c in mro)


def test_modules_of_one_name_keep_pages_of_their_own():
    index, _ = resolved({"a.py": "", "a/__init__.py": "", "src/a.py": "", "A.py": "", "b.py": ""})
    assert len({page.casefold() for page in index.pages.values()}) == 5
    assert index.pages["b.py"] == "api/b.html"


def test_a_package_at_the_root_is_called_like_the_project():
    _, links = resolved(
        {"__init__.py": "from .a import f", "a.py": "def f(): ...", "s/b.py": "from ..a import f\nf()"}
    )
    assert links["__init__.py"].reexports == {"f": Reexport("api/project.a.html#f", "function")}
    assert ("s/b.py::", "a.py::f") in uses(links)


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["a", "b"], {"a", "b"}),
        (["a", "A", "b"], {"b"}),
        (["x" * 200, "x" * 201], {"x" * 200}),
        (["d/" + "é" * 100, "d/" + "é" * 101], {"d/" + "é" * 100}),
        (["a.py", "a.py.html/b"], {"a.py.html/b"}),
        (["A.py", "a.PY.html/b"], {"a.PY.html/b"}),
        (["straße", "STRASSE"], set()),
    ],
)
def test_names_of_pages_stay_distinct(names, kept):
    found = distinct_names(names)
    assert {name for name, given in found.items() if name == given} == kept
    assert len({given.casefold() for given in found.values()}) == len(names)
    assert all(len(part.encode()) <= 230 for given in found.values() for part in given.split("/"))
    assert distinct_names(reversed(names)) == found


def test_ids_are_split_at_the_last_colons():
    assert split_id("a::b.py::A.m") == ("a::b.py", "A.m")
    assert split_id("a.py::") == ("a.py", "")
