"""ARPACK, whose failures must never reach a user, and the proof that it missed nothing."""

import numpy as np
import pytest
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, eigsh

from sklearn_vae import PPCA
from sklearn_vae.gaussian import arpack, gram
from sklearn_vae.gaussian.arpack import arpack_eigenpairs
from tests.gaussian.test_certificate import check, make_matrix
from tests.helpers import to_numpy

ERRORS = {
    "no shifts": ArpackError(3),
    "no convergence": ArpackNoConvergence("none", np.empty(0), np.empty((0, 0))),
}


def symmetric(values, seed=0):
    m = len(values)
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((m, m)))[0]
    S = (Q * values) @ Q.T
    return (S + S.T) / 2


def failing(monkeypatch, error, n_failures):
    """Make the first calls of ARPACK fail; return the keywords of all calls."""
    calls = []

    def call(operator, **options):
        calls.append(options)
        if len(calls) <= n_failures:
            raise error
        return eigsh(operator, **options)

    monkeypatch.setattr(arpack, "eigsh", call)
    return calls


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("n_failures", [0, 1, 2])
def test_later_attempts_have_more_space_and_another_start(monkeypatch, error, n_failures):
    values = np.random.default_rng(0).chisquare(3, 80)
    S, start = symmetric(values), np.random.default_rng(1).standard_normal(80)
    calls = failing(monkeypatch, error, n_failures)
    found, V = arpack_eigenpairs(lambda v: S @ v, start, 5, tol=0.0, n_attempts=3)
    np.testing.assert_allclose(found, np.sort(values)[::-1][:5], rtol=1e-12)
    np.testing.assert_allclose(V @ S, found[:, None] * V, atol=1e-12)
    assert [call["ncv"] for call in calls] == [30, 60, 80][: n_failures + 1]
    starts = [tuple(call["v0"]) for call in calls]
    assert starts[0] == tuple(start)
    assert len(set(starts)) == n_failures + 1


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_no_attempt_succeeds(monkeypatch, error):
    calls = failing(monkeypatch, error, 3)
    S = symmetric(np.arange(30.0))
    assert arpack_eigenpairs(lambda v: S @ v, np.ones(30), 5, tol=0.0, n_attempts=3) is None
    assert len(calls) == 3
    assert arpack_eigenpairs(lambda v: S @ v, np.ones(30), 30, tol=0.0) is None
    assert len(calls) == 3


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("n_failures", [1, 3])
@pytest.mark.parametrize("shape", [(60, 40), (40, 60)])
def test_failures_do_not_reach_the_user(monkeypatch, error, n_failures, shape):
    X = np.random.default_rng(0).standard_normal(shape)
    failing(monkeypatch, error, n_failures)
    model = PPCA(5, svd_solver="arpack", random_state=0).fit(X)
    full = PPCA(5, svd_solver="full").fit(X)
    np.testing.assert_allclose(model.explained_variance_, full.explained_variance_, rtol=1e-12)
    np.testing.assert_allclose(model.components_, full.components_, atol=1e-10)


# With SciPy 1.17 each of these fails at first, by one of the two errors.
@pytest.mark.parametrize(
    ("kind", "k", "seed"),
    [
        ("rank deficient", 16, 20),
        ("rank deficient", 16, 141),
        ("rank deficient", 3, 12),
        ("clustered", 3, 21),
        ("spiked", 16, 129),
    ],
)
def test_matrices_on_which_arpack_fails(kind, k, seed):
    check(make_matrix(kind, 43, 44, seed, np.float64), k, "arpack", seed=seed)


class TestProof:
    """Leading eigenpairs of a matrix of more than `SOME_PAIRS` rows."""

    values = np.r_[np.full(6, 3.0), np.linspace(2.0, 0.0, 294)]

    @pytest.fixture(autouse=True)
    def _iterate(self, monkeypatch):
        for name, value in (("ALL_PAIRS", 0), ("SOME_PAIRS", 0), ("FEW", 1.0), ("MANY", 1.0)):
            monkeypatch.setattr(gram, name, value)

    def test_a_copy_of_a_repeated_eigenvalue_that_is_missed_is_found(self, monkeypatch):
        S = symmetric(self.values)
        values, U = np.linalg.eigh(S)
        rows = [299, 298, 297, 293, 292, 291]  # three of six copies
        missed = (values[rows] + 1.0, U[:, rows].T)
        calls = []
        monkeypatch.setattr(gram, "arpack_eigenpairs", lambda *_, **__: calls.append(1) or missed)
        leading = gram.leading_eigenpairs(S, 5)
        assert calls == [1]
        assert leading.method == "Cholesky factorization"
        np.testing.assert_allclose(leading.values, 3.0, rtol=1e-12)
        assert 3.0 - 1e-12 <= leading.outside <= 3.0 + 1e-9

    @pytest.mark.some(4)
    @pytest.mark.parametrize("unit", [1e-250, 1e-30, 1e30, 1e250])
    def test_units(self, asarray, unit):
        leading = gram.leading_eigenpairs(asarray(unit * symmetric(self.values)), 6)
        assert leading.method == "Cholesky factorization"
        values, V = to_numpy(leading.values), to_numpy(leading.vectors)
        np.testing.assert_allclose(values / unit, 3.0, rtol=1e-12)
        np.testing.assert_allclose(V @ V.T, np.eye(6), atol=1e-13)
        assert leading.residual < 1e-11 * unit
        assert 2.0 <= leading.outside / unit < 3.0

    @pytest.mark.parametrize("k", [1, 5, 6, 7, 20])
    def test_arpack_alone(self, monkeypatch, k):
        monkeypatch.setattr(gram, "_by_blocks", lambda *_: None)
        for values in (self.values, np.arange(100.0), np.r_[np.arange(30.0), np.zeros(70)]):
            S, exact = symmetric(values), np.sort(values)[::-1]
            leading = gram.leading_eigenpairs(S, k)
            np.testing.assert_allclose(leading.values, exact[:k], atol=1e-12 * exact[0])
            assert leading.outside >= exact[k] - 1e-13 * exact[0]

    def test_without_convergence_lapack_computes_the_pairs(self, monkeypatch):
        monkeypatch.setattr(gram, "_by_arpack", lambda *_: None)
        monkeypatch.setattr(gram, "_by_blocks", lambda *_: None)
        leading = gram.leading_eigenpairs(symmetric(self.values), 8)
        assert leading.method == "Sturm counts"
        np.testing.assert_allclose(leading.values, self.values[:8], rtol=1e-12)

    def test_a_bound_below_an_eigenvalue_is_not_proved(self):
        S = symmetric(self.values)
        values, U = np.linalg.eigh(S)
        V, theta = U[:, :-4:-1].T, values[:-4:-1]
        for proven in (gram._proven_by_lapack, gram._proven_by_cholesky):
            assert proven(S, V, theta, 2.99) is None
            trace = np.trace(3.01 * np.eye(300) - S) + theta.sum()
            assert proven(S, V, theta, 3.01) == pytest.approx(trace, rel=1e-13)
