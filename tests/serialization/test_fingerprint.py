import copy
import os
import subprocess
import sys
from enum import Enum
from functools import cached_property, partial
from pathlib import Path
from threading import Lock

import numpy as np
import pytest
import torch
from scipy import sparse

from sklearn_vae.serialization.fingerprint import fingerprint


def plus(x, y=1):
    return x + y


def minus(x, y=1):
    return x - y


def closing_over(value):
    def function():
        return value

    return function


def recursive(n):
    def inner(m):
        return inner(m - 1) + n if m else 0

    return inner


class Base:
    def method(self):
        return 1

    @property
    def value(self):
        return 1


class Derived(Base):
    pass


class Overriding(Base):
    @property
    def value(self):
        return 2


class Slots:
    __slots__ = ("a",)

    def __init__(self, a):
        self.a = a


class Held:
    def __init__(self, a, learned=0):
        self.a = a
        self.learned_ = learned


NUMBERS = np.arange(6.0)

# No two are the same.
VALUES = [
    None,
    True,
    False,
    0,
    1,
    1.0,
    np.nextafter(1.0, 2.0),
    -0.0,
    "1",
    "",
    b"1",
    1j,
    [1],
    [[1]],
    [1, 1],
    ["1", ""],
    ["", "1"],
    {},
    {"a": 1},
    {"a": 2},
    {1, 2},
    {1, 3},
    NUMBERS,
    NUMBERS[::-1],
    NUMBERS.reshape(2, 3),
    NUMBERS.reshape(3, 2),
    NUMBERS.astype(np.float32),
    NUMBERS.astype(int),
    NUMBERS[:0],
    np.array(1.0),
    np.array(["a", None], dtype=object),
    np.array(["a", 1], dtype=object),
    np.datetime64("2020-01-01"),
    sparse.csr_matrix(np.eye(2)),
    sparse.csc_matrix(np.eye(2)),
    sparse.csr_matrix(2 * np.eye(2)),
    torch.ones(2),
    torch.zeros(2),
    torch.device("cpu"),
    torch.device("cuda"),
    plus,
    minus,
    partial(plus, y=2),
    partial(plus, y=3),
    lambda x: x + 1,
    lambda x: x + 2,
    lambda x, y=1: x,
    lambda x, y=2: x,
    closing_over(1),
    closing_over(2),
    recursive(1),
    len,
    abs,
    np,
    Base,
    Derived,
    Overriding,
    Base(),
    Derived(),
    Base().method,
    Derived().method,
    Slots(1),
    Slots(2),
    Held(1),
    Held(2),
    Path("a"),
    Path("b"),
    np.random.RandomState(0),
    np.random.RandomState(1),
    torch.nn.Linear(2, 2),
    Lock(),
]


def test_what_differs_has_another_fingerprint():
    found = list(map(fingerprint, VALUES))
    assert len(set(found)) == len(VALUES)
    assert all(len(digits) == 64 for digits in found)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (NUMBERS, NUMBERS[::-1][::-1]),
        (NUMBERS.reshape(2, 3), np.asfortranarray(NUMBERS.reshape(2, 3))),
        (3, np.int64(3)),
        (0.5, np.float32(0.5)),
        ([1, 2], (1, 2)),
        ({1, "a", 2}, {2, 1, "a"}),
        (closing_over([1]), closing_over([1])),
        (Held(1), Held(1, learned=5)),
        (Slots([1]), Slots([1])),
        (Lock(), Lock()),
        (np.random.default_rng(1), np.random.default_rng(1)),
    ],
)
def test_what_is_the_same_has_the_same(one, other):
    assert fingerprint(one) == fingerprint(other)


class Colour(Enum):
    RED = 1
    BLUE = 2


class Node:
    def __init__(self, name, *others):
        self.name, self.others = name, set(others)


def made(code, name):
    """What stands under a name in a module of such code."""
    module = {"__name__": "a_module", "torch": torch, "cached_property": cached_property}
    exec(code, module)  # noqa: S102
    return module[name]


EDITS = {
    "constant of a class": "class C:\n rate = {}\n",
    "list of a class": "class C:\n sizes = [{}]\n",
    "default of a method": "class C:\n def f(self, x={}): return x\n",
    "default by keyword": "class C:\n def f(self, *, x={}): return x\n",
    "under a decorator": "class C:\n @torch.no_grad()\n def f(self): return {}\n",
    "static": "class C:\n @staticmethod\n def f(): return {}\n",
    "of the class": "class C:\n @classmethod\n def f(cls): return {}\n",
    "getter": "class C:\n @property\n def p(self): return {}\n",
    "cached": "class C:\n @cached_property\n def p(self): return {}\n",
    "setter": "class C:\n p = property(lambda self: 0)\n @p.setter\n"
    " def p(self, v): self._v = v + {}\n",
    "base": "class B:\n rate = {}\nclass C(B):\n pass\n",
    "module": "class C(torch.nn.Module):\n slope = {}\n",
    "number outside": "R = {}\ndef C(): return R\n",
    "tuple outside": "R = (1, ({},))\ndef C(): return R\n",
    "number outside of a method": "R = {}\nclass C:\n def f(self): return [R for _ in 'ab']\n",
    "function outside": "def h(): return {}\ndef C(): return h()\n",
    "class outside": "class H:\n rate = {}\ndef C(): return H()\n",
    "function that calls itself": "def C(n): return C(n - {})\n",
    "attribute of a function": "def C(): pass\nC.scale = {}\n",
    "class that holds itself": "class C:\n rate = {}\nC.self = C\n",
    "method that knows its class": "class C:\n def f(self): return __class__, {}\n",
}


@pytest.mark.parametrize("code", EDITS.values(), ids=EDITS)
def test_what_was_edited_is_another(code):
    once, again, edited = (made(code.format(n), "C") for n in (1, 1, 2))
    assert fingerprint(once) == fingerprint(again) != fingerprint(edited)
    if isinstance(once, type):
        assert fingerprint(once()) == fingerprint(again()) != fingerprint(edited())


@pytest.mark.parametrize(
    "code",
    [
        "class C:\n seen_ = {}\n",
        "class C:\n 'Text {}.'\n",
        "class C:\n x: 'A{}' = 3\n",
        "N_ = {}\ndef C(): return N_\n",
        "OTHER = {}\ndef C(x): return x.OTHER\n",
    ],
)
def test_what_does_not_matter(code):
    assert fingerprint(made(code.format(1), "C")) == fingerprint(made(code.format(2), "C"))


def test_arguments_in_another_order_are_other_code():
    codes = [
        made(f"def C({arguments}): return {result}\n", "C").__code__
        for arguments, result in [("a, b", "b"), ("b, a", "a"), ("a, b=1", "b"), ("a, *, b", "b")]
    ]
    assert len(set(map(fingerprint, codes[:2] + codes[3:]))) == 3


def test_a_class_that_is_changed_is_another():
    cls = made("class C:\n rate = 1\n", "C")
    before = fingerprint(cls())
    cls.rate = 2
    assert fingerprint(cls()) != before


def test_an_attribute_without_a_name():
    one, other = Held(1), Held(1)
    setattr(one, "", 1)
    setattr(other, "", 2)
    assert fingerprint(one) != fingerprint(other)


def test_members_of_enumerations():
    assert len({fingerprint(v) for v in (Colour.RED, Colour.BLUE, Colour)}) == 3


def test_what_is_shared_is_taken_once_and_is_as_its_copies():
    nested, copied = [1.0], [1.0]
    for depth in range(60):
        nested = [nested, nested]
        if depth < 8:
            copied = [copied, copy.deepcopy(copied)]
        if depth == 7:
            assert fingerprint(nested) == fingerprint(copied)
    assert len(fingerprint(nested)) == 64


def test_cycles_are_the_same_from_where_ever_they_are_seen():
    inner = [1]
    outer = [2, inner]
    inner.append(outer)
    for one, other in ((outer, inner), (inner, outer)):
        assert fingerprint([one, other]) == fingerprint([one, copy.deepcopy(other)])
    assert fingerprint(inner) != fingerprint(outer)


def test_sets_of_what_holds_them():
    def ring(last):
        nodes = Node("a"), Node("b"), Node(last)
        for node in nodes:
            node.others = set(nodes)
        return nodes[0]

    assert fingerprint(ring("c")) == fingerprint(ring("c")) != fingerprint(ring("d"))


def test_what_holds_itself_comes_to_an_end():
    one, other = [1], [2]
    one.append(one)
    other.append(other)
    assert fingerprint(one) != fingerprint(other)


def test_large_arrays_are_taken_in_parts(monkeypatch):
    X = np.arange(1000.0).reshape(100, 10)
    whole = fingerprint(X)
    monkeypatch.setattr("sklearn_vae.serialization.fingerprint.BYTES_AT_ONCE", 100)
    assert fingerprint(X) == fingerprint(np.asfortranarray(X)) == whole


def test_every_process_has_the_same():
    # But for the weights of a layer, which are drawn.
    code = (
        "from tests.serialization.test_fingerprint import VALUES, fingerprint; "
        "print(*map(fingerprint, VALUES[:-2]))"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for seed in ("1", "2")
    ]
    assert found[0] == found[1] == list(map(fingerprint, VALUES[:-2]))
