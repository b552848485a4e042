import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np
import pytest
import torch
from scipy import sparse

from sklearn_vae.fingerprint import fingerprint


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


def test_what_holds_itself_comes_to_an_end():
    one, other = [1], [2]
    one.append(one)
    other.append(other)
    assert fingerprint(one) != fingerprint(other)


def test_large_arrays_are_taken_in_parts(monkeypatch):
    X = np.arange(1000.0).reshape(100, 10)
    whole = fingerprint(X)
    monkeypatch.setattr("sklearn_vae.fingerprint.BYTES_AT_ONCE", 100)
    assert fingerprint(X) == fingerprint(np.asfortranarray(X)) == whole


def test_every_process_has_the_same():
    # But for the weights of a layer, which are drawn.
    code = (
        "from tests.test_fingerprint import VALUES, fingerprint; "
        "print(*map(fingerprint, VALUES[:-2]))"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for seed in ("1", "2")
    ]
    assert found[0] == found[1] == list(map(fingerprint, VALUES[:-2]))
