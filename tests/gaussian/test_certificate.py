"""Certificates: enclosures against exact spectra, for every solver and kind of spectrum."""

import math
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sklearn_vae.gaussian import gram
from sklearn_vae.gaussian.certificate import Accuracy, certify
from sklearn_vae.gaussian.eigensolvers import (
    decompose,
    decompose_summary,
    recentered,
    summarize,
)

KINDS = {
    "noise": lambda m: np.ones(m),
    "graded": lambda m: np.geomspace(1.0, 1e-12, m),
    "steep": lambda m: np.geomspace(1.0, 1e-4, m),
    "spiked": lambda m: np.where(np.arange(m) < 3, 10.0, 1.0),
    "clustered": lambda m: np.repeat([3.0, 2.0, 1.0], [m // 3, m // 3, m - 2 * (m // 3)]),
    "rank deficient": lambda m: np.where(np.arange(m) < max(m // 2, 1), 1.0, 0.0),
    "one": lambda m: np.where(np.arange(m) < 1, 1.0, 0.0),
}
MATRIX_SOLVERS = {"all": (10**6, 10**6), "some": (0, 10**6), "lanczos of the matrix": (0, 0)}
SOLVERS = [*MATRIX_SOLVERS, "full", "lanczos", "randomized", "arpack", "tol", "refined"]


def make_matrix(kind, n, d, seed, dtype):
    """Singular values of a kind; the noise is random, the others have random singular vectors."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    if kind != "noise":
        m = min(n, d)
        U, V = np.linalg.qr(rng.standard_normal((n, m)))[0], np.linalg.qr(X.T)[0]
        X = (U * KINDS[kind](m)) @ V.T
    if seed % 3 == 0:
        X = X + rng.choice([1.0, 10.0, 1e4]) * rng.standard_normal(d)
    if seed % 7 == 0:
        X[:, rng.integers(d)] = rng.standard_normal()
    return (10.0 ** rng.integers(-3, 4) * X).astype(dtype)


def truth(X, weights=None):
    """Centered data in float64, with means in extended precision, and their eigenpairs."""
    X = X.astype(np.longdouble)
    w = np.ones(len(X)) if weights is None else weights
    R = X - w @ X / w.sum()
    R = np.sqrt(w)[:, None] * (R - w @ R / w.sum())  # again, as the mean was rounded
    _, S, V = np.linalg.svd(R.astype(np.float64))
    values = np.zeros(X.shape[1])
    values[: len(S)] = S**2 / w.sum()
    return values, V


def decomposed(X, k, solver, weights=None, seed=0):
    """The spectrum by one way of computing it, however small X is."""
    rng = np.random.RandomState(seed)
    if solver == "refined":
        summary = summarize(X, "covariance_eigh", weights)
        refine = recentered(X, summary, weights)
        return decompose_summary(summary, k, "covariance_eigh", refine=refine)
    if solver in MATRIX_SOLVERS:
        sizes = dict(zip(("ALL_PAIRS", "SOME_PAIRS"), MATRIX_SOLVERS[solver], strict=True))
        with patch.multiple(gram, FEW=1.0, MANY=1.0, **sizes):
            return decompose(X, k, "covariance_eigh", weights)
    if solver == "tol":
        return decompose(X, k, "randomized", weights, random_state=rng, tol=1e-6)
    return decompose(X, k, solver, weights, random_state=rng)


def log_likelihood(values, V, k, sigma2, components, variances):
    """Of the model with these components and variances, of data with a covariance V' values V."""
    d = len(values)
    along = ((components @ V.T) ** 2) @ values
    kappa = np.maximum(variances, sigma2)
    terms = np.log(kappa).sum() + (d - k) * math.log(sigma2) + (along / kappa).sum()
    return -0.5 * (d * math.log(2 * math.pi) + terms + (values.sum() - along.sum()) / sigma2)


def check(X, k, solver, weights=None, seed=0):
    spectrum = decomposed(X, k, solver, weights, seed)
    dtype = "float32" if X.dtype == np.float32 else "float64"
    certificate = spectrum.certificate(k, dtype=dtype)
    values, V = truth(X, weights)
    d, eps = len(values), float(np.finfo(np.float64).eps)
    slip = 4.0 * eps * max(X.shape) ** 0.5 * values[0]  # of the truth
    exact = values[:k]
    assert certificate.lower.shape == certificate.upper.shape == (k,)
    assert (certificate.lower <= exact + slip).all(), (certificate.lower - exact, slip)
    assert (certificate.upper >= exact - slip).all(), (exact - certificate.upper, slip)
    components = np.asarray(spectrum.components[:k], dtype=np.float64)
    explained = float(np.sum(((components @ V.T) ** 2) @ values))
    stored = 4.0 * float(np.finfo(dtype).eps) * values.sum()
    assert exact.sum() - explained <= certificate.missed_variance + slip * k + stored
    residual = V - (V @ components.T) @ components
    largest = np.linalg.eigvalsh((residual.T * values) @ residual)[-1]
    assert largest <= certificate.outside + slip + stored
    if certificate.max_sine is not None and 0 < k < d:
        sine = np.linalg.norm(V[:k] - (V[:k] @ components.T) @ components, 2)
        root = values[k - 1] ** 0.5 - values[k] ** 0.5
        gap = max(values[k - 1] - values[k], 1e-300)
        own = min(slip / gap, slip / values[0] ** 0.5 / max(root, 1e-300))
        assert sine <= certificate.max_sine + own, (sine, certificate.max_sine, own)
    sigma2 = spectrum.noise_variance(k)
    best = values[k:].sum() / max(d - k, 1)
    if certificate.max_shortfall is None:
        assert sigma2 == 0.0
    elif math.isfinite(certificate.max_shortfall) and k < d and best > 1e3 * slip:
        variances = np.asarray(spectrum.eigenvalues[:k], dtype=np.float64)
        own = log_likelihood(values, V, k, sigma2, components, variances)
        highest = log_likelihood(values, V, k, best, V[:k], exact)
        rounding = (d * slip + stored) / best
        assert highest - own <= certificate.max_shortfall + rounding
    return certificate


def test_what_is_outside_a_rounded_covariance():
    # Products in float32 tilt the 12th component by 2e-5 toward the direction without variance.
    check(make_matrix("noise", 13, 13, 13, np.float32), 13, "refined")


matrices = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(sorted(KINDS)),
        "n": st.integers(2, 60),
        "d": st.integers(1, 60),
        "share": st.floats(0.0, 1.0),
        "seed": st.integers(0, 2**31),
        "solver": st.sampled_from(SOLVERS),
        "dtype": st.sampled_from([np.float64, np.float32]),
        "weighted": st.booleans(),
    }
)


def check_one(kind, n, d, share, seed, solver, dtype, weighted):
    most = min(n, d) - (solver == "arpack")
    least = 1 if solver in ("lanczos", "randomized", "arpack", "tol") else 0
    if most < least:
        return
    k = least + round(share * (most - least))
    X = make_matrix(kind, n, d, seed, dtype)
    weights = np.random.default_rng(seed).uniform(0.1, 3.0, size=n) if weighted else None
    check(X, k, solver, weights, seed)


FAST = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=60, **FAST)
@given(matrices)
def test_no_bound_is_violated(case):
    check_one(**case)


@pytest.mark.slow
@settings(max_examples=500, **FAST)
@given(matrices)
def test_no_bound_is_violated_by_many_matrices(case):
    check_one(**case)


@pytest.mark.parametrize("rho", [1e-6, 0.1, 2.0])
def test_the_bounds_are_sharp_in_two_dimensions(rho):
    theta, outside = 3.0, 1.0
    values = np.linalg.eigvalsh([[theta, rho], [rho, outside]])[::-1]
    accuracy = Accuracy(residual=rho, outside=outside, method="a test")
    certificate = certify(
        np.array([theta]), 1, 2, outside, accuracy, noise_variance=outside, is_fixed=False, eps=0.0
    )
    assert certificate.lower[0] == pytest.approx(theta, rel=1e-15)
    assert certificate.upper[0] == pytest.approx(values[0], rel=1e-14)
    angle = 0.5 * math.atan(2.0 * rho / (theta - outside))
    assert certificate.max_sine == pytest.approx(math.sin(angle))
    if values[1] > 0:
        best = -0.5 * np.log(values).sum()
        own = -0.5 * np.log([theta, outside]).sum()
        assert certificate.max_shortfall == pytest.approx(best - own)
