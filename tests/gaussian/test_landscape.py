from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from scipy.stats import multivariate_normal
from sklearn.datasets import load_iris

from sklearn_vae import PPCA
from sklearn_vae.gaussian import Moments, Spectrum, StationaryPoint, sample_spectrum
from tests.helpers import to_numpy

EIGENVALUES = np.array([5.0, 3.0, 1.7, 0.8, 0.3])
D, K = 5, 2


def make_spectrum(asarray=np.asarray):
    U = np.linalg.qr(np.random.default_rng(0).normal(size=(D, D)))[0]
    return Spectrum(asarray(np.zeros(D)), asarray(EIGENVALUES), asarray(U.T), 0.0, 1e-15)


def covariance(spectrum):
    V = to_numpy(spectrum.components)
    return (V.T * to_numpy(spectrum.eigenvalues)) @ V


def log_likelihood(W, sigma2, S):
    """Of zero-mean data of covariance S, by the dense matrix, in torch."""
    C = W @ W.T + sigma2 * torch.eye(len(W), dtype=W.dtype)
    trace = torch.trace(torch.linalg.solve(C, S))
    return -0.5 * (len(W) * np.log(2 * np.pi) + torch.logdet(C) + trace)


def all_points():
    """Every choice of at most k eigenvectors above each of several noise variances."""
    for sigma2 in (0.1, 0.5, 1.2, 2.5, 4.0, 7.0, None):
        for size in range(K + 1):
            for kept in combinations(range(D), size):
                rest = np.delete(EIGENVALUES, kept)
                if all(EIGENVALUES[list(kept)] > (rest.mean() if sigma2 is None else sigma2)):
                    yield kept, sigma2


POINTS = list(all_points())


@pytest.mark.some(16)
@pytest.mark.parametrize(("kept", "sigma2"), POINTS)
def test_the_gradient_is_zero(kept, sigma2):
    spectrum = make_spectrum()
    point = StationaryPoint(spectrum, kept, K, sigma2)
    W = torch.tensor(point.loadings, requires_grad=True)
    noise = torch.tensor(point.noise_variance, requires_grad=True, dtype=torch.float64)
    value = log_likelihood(W, noise, torch.as_tensor(covariance(spectrum)))
    value.backward()
    assert abs(W.grad).max() < 1e-13
    assert point.log_likelihood == pytest.approx(float(value.detach()), rel=1e-13)
    if sigma2 is None:
        assert abs(noise.grad) < 1e-13


@pytest.mark.some(15)
@pytest.mark.parametrize(("kept", "sigma2"), POINTS)
def test_stability_against_the_finite_difference_hessian(kept, sigma2):
    spectrum = make_spectrum()
    point = StationaryPoint(spectrum, kept, K, sigma2)
    S = torch.as_tensor(covariance(spectrum))

    def gradient(flat):
        W = torch.tensor(flat.reshape(D, K), requires_grad=True)
        log_likelihood(W, point.noise_variance, S).backward()
        return W.grad.numpy().ravel()

    at, step = point.loadings.ravel(), 1e-5
    hessian = np.array(
        [(gradient(at + step * e) - gradient(at - step * e)) / (2 * step) for e in np.eye(D * K)]
    )
    largest = np.linalg.eigvalsh((hessian + hessian.T) / 2)[-1]
    # Rotations of kept columns are exact zero modes: a maximum has a largest eigenvalue of 0.
    assert point.is_stable == (largest <= 1e-7), largest
    if not point.is_stable:
        rise = max(point.curvature(column, direction) for column, direction in point.unstable)
        assert largest == pytest.approx(rise, rel=1e-5)


@pytest.mark.parametrize(("kept", "sigma2"), [((0, 2), 0.5), ((1,), 1.0), ((), 2.0)])
def test_curvature_against_second_differences(kept, sigma2):
    point = StationaryPoint(make_spectrum(), kept, K, sigma2)
    t = np.array([-1e-3, 0.0, 1e-3])
    for column in range(K):
        for direction in set(range(D)) - set(kept):
            other = next(j for j in range(D) if j != direction)
            along = point.surface(column, (direction, other), t, np.zeros(1))[:, 0]
            second = (along[0] - 2 * along[1] + along[2]) / 1e-6
            assert point.curvature(column, direction) == pytest.approx(second, rel=1e-4, abs=1e-5)
            assert ((column, direction) in point.unstable) == (second > 0)


def test_surface_against_the_dense_gaussian(asarray):
    spectrum = make_spectrum(asarray)
    point = StationaryPoint(spectrum, [0, 2], 3, 0.6)
    a, b = np.linspace(-1, 1, 4), np.linspace(-2, 2, 3)
    found = to_numpy(point.surface(2, (1, 3), asarray(a), asarray(b)))
    V, S = to_numpy(spectrum.components), torch.as_tensor(covariance(spectrum))
    for i, j in np.ndindex(4, 3):
        W = to_numpy(point.loadings).copy()
        W[:, 2] += a[i] * V[1] + b[j] * V[3]
        assert found[i, j] == pytest.approx(float(log_likelihood(torch.tensor(W), 0.6, S)))
    # A kept direction may be in the plane as well.
    zero = asarray(np.zeros(1))
    at_the_point = float(point.surface(0, (0, 4), zero, zero)[0, 0])
    assert at_the_point == pytest.approx(point.log_likelihood, rel=1e-13)


def test_the_fit_of_ppca_is_the_stable_point():
    X = load_iris().data
    for noise_variance in (None, 0.05, 0.5):
        model = PPCA(2, noise_variance=noise_variance).fit(X)
        spectrum = sample_spectrum(X)
        kept = [h for h in range(2) if h not in model.collapsed_dims_]
        point = StationaryPoint(spectrum, kept, 2, noise_variance)
        assert point.is_stable
        np.testing.assert_allclose(point.loadings, model.loadings_, atol=1e-12)
        assert point.log_likelihood == pytest.approx(model.score(X), rel=1e-12)
    oracle = multivariate_normal(X.mean(axis=0), model.get_covariance()).logpdf(X).mean()
    assert point.log_likelihood == pytest.approx(oracle, rel=1e-12)


def test_a_zero_column_is_a_saddle_when_the_noise_is_learned():
    spectrum = Spectrum.from_moments(Moments.of(load_iris().data))
    point = StationaryPoint(spectrum, [0], 2)
    assert (1, 1) in point.unstable
    assert not point.is_stable


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 0], 2, 0.5), r"distinct indices from 0 to 4, got \[0, 0\]"),
        (([5], 2, 0.5), r"distinct indices from 0 to 4, got \[5\]"),
        (([0, 1, 2], 2, 0.5), r"between len\(kept\) = 3 and n_features = 5, got 2"),
        (([0], 6, 0.5), r"between len\(kept\) = 1 and n_features = 5, got 6"),
        (([4], 2, 0.5), r"must exceed noise_variance = 0\.5, got 0\.3 at index 4"),
        (([0], 2, 0.0), r"finite float > 0, got 0\.0"),
        (([0], 2, np.nan), "finite float > 0, got nan"),
        ((range(5), 5, None), r"finite float > 0, got 0\.0"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        StationaryPoint(make_spectrum(), *arguments)


def test_errors_of_methods():
    spectrum = make_spectrum()
    point = StationaryPoint(spectrum, [0], 2, 0.5)
    zero = np.zeros(1)
    with pytest.raises(ValueError, match="from 0 to 4 that is not in kept, got 0"):
        point.curvature(1, 0)
    for call in (lambda: point.curvature(2, 1), lambda: point.surface(2, (1, 2), zero, zero)):
        with pytest.raises(ValueError, match="column must be from 0 to 1, got 2"):
            call()
    with pytest.raises(ValueError, match=r"two different indices from 0 to 4, got \(1, 1\)"):
        point.surface(1, (1, 1), zero, zero)
    cut = spectrum.leading(3)
    with pytest.raises(ValueError, match="from 0 to 2 for a spectrum with 3 of 5 eigenpairs, got"):
        StationaryPoint(cut, [3], 2, 0.5)
    point = StationaryPoint(cut, [0], 2, 0.5)
    with pytest.raises(
        ValueError, match="not in kept for a spectrum with 3 of 5 eigenpairs, got 3"
    ):
        point.curvature(1, 3)
    with pytest.raises(
        ValueError, match=r"0 to 2 for a spectrum with 3 of 5 eigenpairs, got \(1, 3"
    ):
        point.surface(1, (1, 3), zero, zero)


@pytest.mark.some(40)
@pytest.mark.parametrize("r", range(D + 1))
@pytest.mark.parametrize(("kept", "sigma2"), POINTS)
def test_leading_eigenpairs_give_the_same_point(kept, sigma2, r):
    whole = StationaryPoint(make_spectrum(), kept, K, sigma2)
    if r <= max(kept, default=-1):
        with pytest.raises(ValueError, match="kept must be distinct indices"):
            StationaryPoint(make_spectrum().leading(r), kept, K, sigma2)
        return
    point = StationaryPoint(make_spectrum().leading(r), kept, K, sigma2)
    assert point.noise_variance == pytest.approx(whole.noise_variance, rel=1e-15)
    assert point.log_likelihood == pytest.approx(whole.log_likelihood, rel=1e-14)
    np.testing.assert_allclose(point.loadings, whole.loadings, rtol=1e-14)
    assert point.unstable == [(i, j) for i, j in whole.unstable if j < r]
    least, unknown = min(whole.column_variances), EIGENVALUES[r:]
    largest = min(unknown.sum(), EIGENVALUES[r - 1] if r else np.inf)
    if not point.unstable and r < D and unknown.mean() <= least < largest:
        with pytest.raises(ValueError, match=f"after the first {r}"):
            _ = point.is_stable
    else:
        assert point.is_stable == whole.is_stable


def test_spectrum_of_samples(asarray):
    rng = np.random.default_rng(0)
    weights = np.array([1.0, 0.0, 2.0, 0.5, 3.0, 1.0, 1.0])
    for d in (4, 7, 30):
        X = rng.normal(size=(7, d)) + 5.0
        for w in (None, weights):
            spectrum = sample_spectrum(asarray(X), None if w is None else asarray(w))
            S = np.cov(X.T, ddof=0, aweights=w)
            V, values = to_numpy(spectrum.components), to_numpy(spectrum.eigenvalues)
            assert V.shape == (min(7, d), d)
            np.testing.assert_allclose((V.T * values) @ V, S, atol=1e-13)
            np.testing.assert_allclose(V @ V.T, np.eye(len(V)), atol=1e-13)
            np.testing.assert_allclose(to_numpy(spectrum.mean), np.average(X, axis=0, weights=w))
            assert spectrum.rank == min((6 if w is None else 5), d)


def test_spectrum_of_samples_in_other_containers():
    frame = pd.DataFrame(load_iris().data)
    expected = sample_spectrum(frame.to_numpy()).eigenvalues
    np.testing.assert_array_equal(sample_spectrum(frame).eigenvalues, expected)
    for X in (sparse.csr_array(frame), sparse.csr_array(frame.T)):
        values = np.linalg.eigvalsh(np.cov(X.toarray().T, ddof=0))[::-1]
        np.testing.assert_allclose(sample_spectrum(X).eigenvalues[:4], values[:4], atol=1e-12)
    for X, weights, message in [
        (np.empty((0, 3)), None, r"at least one sample, got shape \(0, 3\)"),
        (np.full((2, 3), np.nan), None, "X must be finite"),
        (np.full((3, 2), np.inf), None, "X must be finite"),
        (np.ones((3, 2)), [0, 0, 0], "sample_weight must have a finite sum above zero"),
        (np.ones((2, 3)), [1, -1], "sample_weight must be finite and >= 0"),
        (np.ones(3), None, "X must be two-dimensional"),
    ]:
        with pytest.raises(ValueError, match=message):
            sample_spectrum(X, weights)
