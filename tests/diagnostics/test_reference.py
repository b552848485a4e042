"""The linear models of comparison against dense normals and scikit-learn."""

import functools

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm
from sklearn.decomposition import FactorAnalysis

from sklearn_vae import BernoulliPPCA
from sklearn_vae.diagnostics.reference import BernoulliReference, GaussianReference
from tests.diagnostics.models import rows, with_covariance
from tests.helpers import PeakMemory

UNITS = np.array([1e-3, 0.1, 1.0, 3.0, 50.0, 1.0, 20.0, 4.0])
SCALES = {"one": 1.0, "per feature": rows().std(axis=0) * np.geomspace(0.5, 2.0, 8)}


@functools.cache
def reference_of(name, k=3):
    """Of all samples in other units per feature, evaluated on the first half of them."""
    units = UNITS if name == "per feature" else 1.0
    X = rows() * units
    return GaussianReference(X, X[:75], k, SCALES[name] * units)


def spectrum_of(reference):
    """Mean, eigenvalues and eigenvectors of the scaled samples, descending."""
    Y = reference.X / reference.scale
    values, vectors = np.linalg.eigh(np.cov(Y.T, bias=True))
    return Y.mean(axis=0), values[::-1], vectors[:, ::-1]


def log_density_of(reference, noise):
    """Of the samples in their own units, by a dense covariance of pPCA of the scaled ones."""
    mean, values, V = spectrum_of(reference)
    k = reference.n_components
    lengths = np.append(np.maximum(values[:k] - noise, 0.0), np.zeros(8 - k))
    C = V * lengths @ V.T + noise * np.eye(8)
    density = multivariate_normal(mean, C).logpdf(reference.subset / reference.scale)
    return density - np.log(np.broadcast_to(reference.scale, 8)).sum()


def test_variances_need_no_copy_of_the_samples():
    X = np.random.default_rng(0).normal(1e3, UNITS, size=(300_000, 8)).astype(np.float32)
    with PeakMemory() as memory:
        variances = GaussianReference(X, X[:75], 3, 2.0 * UNITS).feature_variances
    assert memory.peak < 8 * X.size
    np.testing.assert_allclose(variances, (X / (2.0 * UNITS)).var(axis=0), rtol=1e-9)


@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize("noise", [1e-3, 0.4, 3.0])
def test_bounds_are_densities_of_the_samples_in_their_units(name, noise):
    reference = reference_of(name)
    expected = log_density_of(reference, noise).mean()
    assert reference.bound_at(noise) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("name", SCALES)
def test_numbers_of_a_reference_are_those_of_pca(name):
    reference = reference_of(name)
    mean, values, V = spectrum_of(reference)
    noise = values[3:].mean()
    assert reference.noise_variance == pytest.approx(noise, rel=1e-9)
    assert reference.average_variance == pytest.approx(values.mean(), rel=1e-9)
    np.testing.assert_allclose(reference.eigenvalues, values[:3], rtol=1e-9)
    R = reference.subset / reference.scale - mean
    error = np.mean((R - R @ V[:, :3] @ V[:, :3].T) ** 2)
    assert reference.error == pytest.approx(error, rel=1e-8)
    own = log_density_of(reference, noise).mean()
    assert reference.bound_at(reference.noise_variance) == pytest.approx(own, rel=1e-8)
    if name == "one":
        assert reference.bound == pytest.approx(own, rel=1e-8)
    std = (reference.X / reference.scale).std(axis=0)
    std = std if name == "per feature" else np.sqrt(np.mean(std**2))
    expected = norm(scale=std).logpdf(R).sum(axis=1).mean()
    expected -= np.log(np.broadcast_to(reference.scale, 8)).sum()
    assert reference.baseline == pytest.approx(expected, rel=1e-9)


def test_the_better_of_ppca_and_factor_analysis_if_features_have_their_own_noise():
    reference = reference_of("per feature")
    scaled = reference.subset / reference.scale
    fa = FactorAnalysis(3, max_iter=100, svd_method="lapack").fit(scaled)
    factor_analysis = fa.score(scaled) - np.log(reference.scale).sum()
    ppca = log_density_of(reference, reference.noise_variance).mean()
    # scikit-learn's EM stops before its maximum.
    assert factor_analysis < reference.bound < factor_analysis + 0.05
    assert factor_analysis > ppca + 0.1


@pytest.mark.parametrize("k", [0, 1, 2])
def test_samples_of_low_rank_have_a_least_noise_variance(k):
    X = np.outer(np.linspace(-1, 1, 50), [1.0, 2.0, -1.0]) * 5.0 + 3.0
    for scale in (1.0, np.array([1.0, 0.5, 4.0])):
        reference = GaussianReference(X, X, k, scale)
        average = (X / scale).var(axis=0).mean()
        assert reference.average_variance == pytest.approx(average)
        expected = average if k == 0 else 1e-6 * average
        assert reference.noise_variance == pytest.approx(expected, rel=1e-6)
        assert np.isfinite([reference.bound, reference.baseline]).all()
        assert reference.n_used == min(k, 1)


@pytest.mark.parametrize(("n", "d"), [(600, 6), (40, 10)])
def test_directions_that_are_used_are_those_beyond_the_edge_of_noise(n, d):
    edge = (1.0 + (d / n) ** 0.5) ** 2
    for third, n_used in [(1.01 * edge, 3), (0.99 * edge, 2)]:
        X = with_covariance([9.0 * edge, 1.01 * edge, third, *np.ones(d - 3)], n=n)
        for factor in (1.0, 7.0):
            assert GaussianReference(factor * X, factor * X, 3).n_used == n_used


def test_no_more_components_than_samples_or_features():
    X = rows()
    assert GaussianReference(X, X, 20).ppca.n_components_ == 8
    assert GaussianReference(X[:5], X[:5], 20).ppca.n_components_ == 5
    assert GaussianReference(X, X, 8).bound == pytest.approx(
        multivariate_normal(X.mean(axis=0), np.cov(X.T, bias=True)).logpdf(X).mean()
    )


def test_a_reference_of_bits():
    bits = (rows()[:, :4] > rows()[:, :4].mean(axis=0)).astype(float)
    reference = BernoulliReference(bits, 2)
    p = bits.mean(axis=0)
    expected = (bits * np.log(p) + (1 - bits) * np.log1p(-p)).sum(axis=1).mean()
    assert reference.baseline == pytest.approx(expected)
    own = BernoulliPPCA(2, max_iter=200, random_state=0).fit(bits)
    assert reference.bound == own.elbo_ > reference.baseline
    assert np.isfinite(BernoulliReference(bits, 9).bound)
    constant = np.column_stack([bits, np.ones(len(bits))])
    assert BernoulliReference(constant, 2).baseline == pytest.approx(expected)
