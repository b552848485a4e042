import copy
import importlib
import os
import subprocess
import sys
from enum import Enum
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import BaseEstimator

from sklearn_vae.serialization.identity import digest


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
    sparse.csr_matrix(2 * np.eye(2)),
    torch.ones(2),
    torch.zeros(2),
    torch.device("cpu"),
    torch.device("cuda"),
    plus,
    minus,
    partial(plus, y=2),
    partial(plus, y=3),
    *[lambda x: x + 1, lambda x: x + 2, lambda x, y: x + 2, lambda y, x: x + 2],
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


def test_different_values_have_different_digests():
    found = list(map(digest, VALUES))
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
        (sparse.csr_matrix(np.eye(2)), sparse.csc_matrix(np.eye(2))),
        (Lock(), Lock()),
        (np.random.default_rng(1), np.random.default_rng(1)),
    ],
)
def test_equal_values_have_equal_digests(one, other):
    assert digest(one) == digest(other)


class Colour(Enum):
    RED = 1
    BLUE = 2


class Node:
    def __init__(self, name, *others):
        self.name, self.others = name, set(others)


# A constant or default of each is edited.
EDITS = {
    "function": "def C(): return {}\n",
    "lambda": "C = lambda: {}\n",
    "default": "def C(x={}): return x\n",
    "default by keyword": "def C(*, x={}): return x\n",
    "closed over": "def outer(x):\n def C(): return x\n return C\nC = outer({})\n",
    "attribute of a function": "def C(): pass\nC.scale = {}\n",
    "partial": "def f(x): return x\nC = partial(f, {})\n",
    "function inside a partial": "def f(x): return x + {}\nC = partial(f, 1)\n",
    "cached": "@lru_cache\ndef C(): return {}\n",
    "wrapped": "def C(): return {}\nC = wraps(C)(lambda: 0)\n",
    "wrapper": "def f(): return 0\nC = wraps(f)(lambda: {})\n",
    "constant of a class": "class C:\n rate = {}\n",
    "method": "class C:\n def f(self): return {}\n",
    "decorated method": "class C:\n @torch.no_grad()\n def f(self): return {}\n",
    "static method": "class C:\n @staticmethod\n def f(): return {}\n",
    "class method": "class C:\n @classmethod\n def f(cls): return {}\n",
    "property": "class C:\n @property\n def p(self): return {}\n",
    "base": "class B:\n rate = {}\nclass C(B):\n pass\n",
    "module": "class C(torch.nn.Module):\n slope = {}\n",
    "method that knows its class": "class C:\n def f(self): return __class__, {}\n",
}
IMPORTS = "import torch\nfrom functools import lru_cache, partial, wraps\n"


def imported(code, folder, monkeypatch):
    """C of a module with such code, in a file."""
    (folder / "edited_module.py").write_text(IMPORTS + code)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "edited_module", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    importlib.invalidate_caches()
    return importlib.import_module("edited_module").C


def without_source(code, *_):
    """C of code that is in no file."""
    module = {"__name__": "typed_in", "torch": torch}
    exec(IMPORTS + code, module)  # noqa: S102
    return module["C"]


@pytest.mark.some(20)
@pytest.mark.parametrize("code", EDITS.values(), ids=EDITS)
@pytest.mark.parametrize("make", [imported, without_source])
def test_edited_code_has_another_digest(code, make, tmp_path, monkeypatch):
    digests = []
    for folder, number in (("one", 1), ("again", 1), ("edited", 20)):
        (tmp_path / folder).mkdir()
        found = make(code.format(number), tmp_path / folder, monkeypatch)
        digests.append((digest(found), digest(found()) if isinstance(found, type) else None))
    assert digests[0] == digests[1]
    assert digests[1][0] != digests[2][0]
    assert digests[2][1] is None or digests[1][1] != digests[2][1]


def test_code_of_installed_packages_counts_by_its_name():
    def get_params(self, deep=True):
        return {}

    class Fake(torch.nn.Linear):
        pass

    renamed = [get_params, Fake]
    for code, name in zip(renamed, ("sklearn.base", "torch.nn.modules.linear"), strict=True):
        code.__module__ = name
    other = BaseEstimator.get_params
    get_params.__qualname__, get_params.__defaults__ = other.__qualname__, other.__defaults__
    Fake.__qualname__ = "Linear"
    assert list(map(digest, renamed)) == [digest(other), digest(torch.nn.Linear)]


def test_an_attribute_without_a_name():
    one, other = Held(1), Held(1)
    setattr(one, "", 1)
    setattr(other, "", 2)
    assert digest(one) != digest(other)


def test_members_of_enumerations():
    assert len({digest(v) for v in (Colour.RED, Colour.BLUE, Colour)}) == 3


def test_shared_values_count_as_copies_and_are_digested_once():
    nested, copied = [1.0], [1.0]
    for depth in range(60):
        nested = [nested, nested]
        if depth < 8:
            copied = [copied, copy.deepcopy(copied)]
        if depth == 7:
            assert digest(nested) == digest(copied)
    assert len(digest(nested)) == 64


def test_cycles_have_one_digest_wherever_they_are_entered():
    inner = [1]
    outer = [2, inner]
    inner.append(outer)
    for one, other in ((outer, inner), (inner, outer)):
        assert digest([one, other]) == digest([one, copy.deepcopy(other)])
    assert digest(inner) != digest(outer)


def test_sets_in_cycles():
    def ring(last):
        nodes = Node("a"), Node("b"), Node(last)
        for node in nodes:
            node.others = set(nodes)
        return nodes[0]

    assert digest(ring("c")) == digest(ring("c")) != digest(ring("d"))


def test_lists_that_contain_themselves():
    one, other = [1], [2]
    one.append(one)
    other.append(other)
    assert digest(one) != digest(other)


def test_large_arrays_are_copied_in_blocks(monkeypatch):
    X = np.arange(1000.0).reshape(100, 10)
    whole = digest(X)
    monkeypatch.setattr("sklearn_vae.serialization.identity.BLOCK_BYTES", 100)
    assert digest(X) == digest(np.asfortranarray(X)) == whole


@pytest.mark.slow  # a process that imports all
def test_every_process_has_the_same():
    # Except the weights of a layer, which are drawn.
    code = (
        "from tests.serialization.test_identity import VALUES, digest; "
        "print(*map(digest, VALUES[:-2]))"
    )
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"  # not that of this process
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": seed},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert found == list(map(digest, VALUES[:-2]))
