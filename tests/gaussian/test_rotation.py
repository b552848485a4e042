"""Rotations of loadings against scikit-learn, brute force and properties."""

import numpy as np
import pytest
from scipy import optimize
from sklearn.decomposition import FactorAnalysis

from sklearn_vae.gaussian.rotation import OBLIQUE, ROTATIONS, rotate


def simple_structure(seed=0, correlation=0.4):
    """Loadings in which each feature has one factor, hidden by a rotation."""
    rng = np.random.default_rng(seed)
    simple = np.zeros((12, 3))
    simple[np.arange(12), np.arange(12) % 3] = rng.uniform(0.6, 1.2, 12)
    phi = np.full((3, 3), correlation) + (1 - correlation) * np.eye(3)
    root = np.linalg.cholesky(phi) @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return simple, phi, simple @ root


@pytest.mark.parametrize("method", [None, *ROTATIONS])
def test_a_rotation_keeps_the_covariance(method):
    A = np.random.default_rng(1).normal(size=(9, 3))
    L, phi = rotate(A, method)
    np.testing.assert_allclose(L @ phi @ L.T, A @ A.T, atol=1e-12)
    np.testing.assert_allclose(np.diagonal(phi), 1.0, atol=1e-12)
    if method not in OBLIQUE:
        np.testing.assert_allclose(phi, np.eye(3), atol=1e-12)


@pytest.mark.parametrize("method", ["varimax", "quartimax"])
def test_orthogonal_rotations_are_those_of_scikit_learn(method):
    X = np.random.default_rng(2).normal(size=(60, 8)) @ np.random.default_rng(3).normal(size=(8, 8))
    plain = FactorAnalysis(3, svd_method="lapack").fit(X)
    reference = FactorAnalysis(3, rotation=method, svd_method="lapack").fit(X)
    L = rotate(plain.components_.T, method).loadings
    expected = reference.components_.T
    signs = np.sign(np.sum(L * expected, axis=0))
    np.testing.assert_allclose(L * signs, expected, atol=2e-3)


def test_varimax_maximizes_its_criterion():
    A = np.random.default_rng(4).normal(size=(7, 2))
    angles = np.linspace(0.0, np.pi, 20_001)
    turned = [A @ [[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]] for t in angles]
    best = max(np.var(L**2, axis=0).sum() for L in turned)
    assert np.var(rotate(A, "varimax").loadings ** 2, axis=0).sum() == pytest.approx(best, rel=1e-7)


def test_oblimin_minimizes_its_criterion():
    A = np.random.default_rng(5).normal(size=(8, 2))

    def value(angles):
        T = np.stack([np.cos(angles), np.sin(angles)])
        L = A @ np.linalg.inv(T).T
        return np.sum(L[:, 0] ** 2 * L[:, 1] ** 2)

    starts = [(a, b) for a in np.arange(0, 3, 0.5) for b in np.arange(0.25, 3, 0.5)]
    best = min(optimize.minimize(value, start, method="Nelder-Mead").fun for start in starts)
    L = rotate(A, "oblimin").loadings
    assert np.sum(L[:, 0] ** 2 * L[:, 1] ** 2) == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize(("method", "atol"), [("oblimin", 1e-5), ("promax", 0.06)])
def test_oblique_rotations_find_a_simple_structure(method, atol):
    simple, phi, A = simple_structure()
    L, found = rotate(A, method)
    order = np.argmax(np.abs(L.T @ simple), axis=0)
    signs = np.sign(np.sum(L[:, order] * simple, axis=0))
    np.testing.assert_allclose(L[:, order] * signs, simple, atol=atol)
    expected = phi * signs * signs[:, None]
    np.testing.assert_allclose(found[np.ix_(order, order)], expected, atol=2 * atol)


@pytest.mark.parametrize("method", [None, *ROTATIONS])
@pytest.mark.parametrize("k", [0, 1])
def test_a_single_factor_is_not_rotated(method, k):
    A = np.ones((4, k))
    L, phi = rotate(A, method)
    np.testing.assert_array_equal(L, A)
    np.testing.assert_array_equal(phi, np.eye(k))
