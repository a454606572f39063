"""What a model is asked about a file: which symbols, which slots, in which words."""

from __future__ import annotations

import inspect

from models.prompts import SUMMARY_SEPARATOR
from tasks.chunk.python import parse_module
from tasks.documents import Module
from tasks.generate.asking import LONGEST_ANSWER, Asked, Manner, asked_of, chat_manner, trained_manner

CHAT = chat_manner("<assistant>")
TRAINED = trained_manner(dict.fromkeys(("function", "method", "class", "module"), ("summary",)))

SOURCE = '''
import os

LIMIT = 3

def bare(path, *, strict=False):
    # opens
    if strict:
        raise ValueError("no")
    return os.open(path)

def described(a, *b):
    """Add two numbers.

    Args:
        a: The first.
    """
    return a + b

@dataclass
class Pool(Base, metaclass=Meta):
    """A pool."""

    size: int
    _lock = None

    def __init__(self, size): self.size = size

    @property
    def free(self):
        """Those that nobody uses."""
        return 0

    @overload
    def take(self, one: int): ...
    @overload
    def take(self, one: int, two: int): ...
    def take(self, one, two=None):
        """Take some."""
        return one

    async def close(self, *, timeout): ...

    @classmethod
    def of(cls, n): return cls(n)

    @staticmethod
    def parse(text): return Pool(int(text))

    def _private(self): ...

class Bare:
    class Inner(Pool):
        def method(self): return 1
'''


def asked(source: str, manner: Manner, fits=lambda prompt: True) -> dict[str, list[Asked]]:
    parsed = parse_module(inspect.cleandoc(source), "p/a.py", "p.a")
    module = Module("p/a.py", "p.a", tuple(parsed.symbols), parsed.local_imports)
    found: dict[str, list[Asked]] = {}
    names = {symbol.name for symbol in module.symbols}
    for request in asked_of(module, names, inspect.cleandoc(source), manner, fits):
        found.setdefault(request.symbol, []).append(request)
    return found


def prompt(request: Asked, **summaries: str) -> str:
    known = {f"p/a.py::{name}": text for name, text in summaries.items()}
    return request.prompt(known, lambda text: True)


def test_every_missing_slot_is_a_frame_in_the_order_of_the_page():
    (request,) = asked(SOURCE, CHAT)["bare"]
    assert [(f.slot, f.text) for f in request.frames] == [
        ("summary", "<assistant>Summary:"),
        ("description", "\nDetails:"),
        ("param.path", "\nParameter path:"),
        ("param.strict", "\nParameter strict:"),
        ("returns", "\nReturns:"),
    ]  # why ValueError is raised is derived
    assert "# opens" not in prompt(request) and "os.open(path)" in prompt(request)


def test_a_trained_model_is_not_asked_about_what_has_no_code():
    source = """
        def one(): ...
        def two(): raise TypeError("no")
        class Lock:
            def acquire(self):
                # nothing to do
                pass
            def release(self): self.held = False
        """
    assert list(asked(source, trained_manner({"function": ["summary"], "method": ["summary"]}))) == [
        "Lock.release"
    ]
    assert {"one", "two", "Lock.acquire", "Lock.release"} <= set(asked(source, CHAT))


def test_what_a_human_wrote_is_not_asked_for():
    (request,) = asked(SOURCE, CHAT)["described"]
    assert [(f.slot, f.text) for f in request.frames] == [
        ("param.b", "<assistant>Parameter b:"),
        ("returns", "\nReturns:"),
    ]
    assert "numbers" not in prompt(request)


def test_a_trained_model_is_asked_for_what_it_was_trained_for():
    found = asked(SOURCE, TRAINED)
    assert "described" not in found and "Pool" not in found and "Pool.free" not in found
    (request,) = found["bare"]
    assert [(f.slot, f.text) for f in request.frames] == [("summary", SUMMARY_SEPARATOR)]
    assert request.kind == "function"


def test_a_trained_model_is_given_the_marks_and_names_of_slots():
    manner = trained_manner({"function": ("summary", "param", "raises", "returns")}, 192)
    (request,) = asked("def f(a, *b): return b", manner)["f"]
    assert [(f.slot, f.text) for f in request.frames] == [
        ("summary", "<|summary|>"),
        ("param.a", "<|param|>a:"),
        ("param.b", "<|param|>b:"),
        ("returns", "<|returns|>"),
    ]
    requests = asked(f"def f({', '.join(f'p{n}' for n in range(9))}): p0()", manner)["f"]
    assert [len(request.frames) for request in requests] == [4, 5, 1]


def test_what_has_too_long_a_name_is_not_asked_for():
    (request,) = asked(f"def f({'x' * 33}, {'y' * 32}): pass", CHAT)["f"]
    assert [f.slot for f in request.frames] == ["summary", "description", f"param.{'y' * 32}"]


def test_names_can_be_hidden():
    source = "class Pool(Base):\n    def close(self):\n        self.close()\n"
    module = Module("p/a.py", "p.a", tuple(parse_module(source, "p/a.py", "p.a").symbols))
    requests = asked_of(module, {"Pool", "Pool.close"}, source, CHAT, lambda text: True, hide_names=True)
    shown = {request.symbol: prompt(request).splitlines() for request in requests}
    assert shown["Pool.close"] == ["class Pool(Base):", "    def func(self):", "        self.func()"]
    assert shown["Pool"][0] == "class Class(Base):"


def test_a_method_is_shown_under_the_head_of_its_class():
    (request,) = asked(SOURCE, TRAINED)["Pool.of"]
    assert (
        prompt(request) == "class Pool(Base):\n    @classmethod\n    def of(cls, n):\n        return cls(n)"
    )
    (request,) = asked(SOURCE, TRAINED)["Bare.Inner.method"]
    assert prompt(request).startswith("class Inner(Pool):\n    def method(self):")


def test_what_has_parts_is_shown_by_them():
    found = asked(SOURCE.replace('"""A pool."""', ""), TRAINED)
    (request,) = found["Pool"]
    assert prompt(request, **{"Pool.close": "Close all."}).splitlines() == [
        "class Pool(Base):",
        "    size",
        "    def __init__(size)",
        "    property free: Those that nobody uses.",
        "    def take(one, two): Take some.",
        "    async def close(timeout): Close all.",
        "    def of(n)",
        "    def parse(text)",
    ]
    (request,) = found["Bare"]
    assert prompt(request) == "class Bare:\n    class Inner(Pool)"
    (request,) = found[""]
    assert prompt(request, bare="Open it.").splitlines() == [
        "module p.a:",
        "    def bare(path, strict): Open it.",
        "    def described(a, *b): Add two numbers.",
        "    class Pool(Base)",
        "    class Bare",
    ]


def test_a_humans_summary_of_a_part_stands_before_a_models():
    (request,) = asked(SOURCE.replace('"""A pool."""', ""), TRAINED)["Pool"]
    assert "Take some." in prompt(request, **{"Pool.take": "Something else."})


def test_an_outline_loses_its_last_members_first():
    (request,) = asked(SOURCE.replace('"""A pool."""', ""), TRAINED)["Pool"]
    text = request.prompt({}, lambda text: text.count("\n") <= 3)
    assert text.splitlines() == ["class Pool(Base):", "    size", "    def __init__(size)", "    ..."]


def test_what_does_not_fit_even_without_its_parts_is_not_asked():
    assert not asked(SOURCE, TRAINED, lambda prompt: False)


def test_many_parameters_take_several_requests_and_each_slot_one_frame():
    names = [f"p{n}" for n in range(30)]
    requests = asked(f"def f({', '.join(names)}): return 1", CHAT)["f"]
    slots = [frame.slot for request in requests for frame in request.frames]
    assert slots == ["summary", "description", *(f"param.{name}" for name in names), "returns"]
    assert len(requests) > 1
    for request in requests:
        assert request.frames[0].text.startswith("<assistant>")
        assert sum(frame.limit for frame in request.frames) <= LONGEST_ANSWER
