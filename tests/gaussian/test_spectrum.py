from dataclasses import replace

import numpy as np
import pytest
from array_api_compat import array_namespace
from scipy.stats import multivariate_normal

from sklearn_vae import Moments
from sklearn_vae.gaussian.spectrum import Spectrum, components_for_ratio, with_positive_peaks
from tests.helpers import to_numpy


def make_rows(n=60, d=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) * np.geomspace(3, 0.2, d) @ rng.normal(size=(d, d)) + 5.0


def dense_model(X, k, noise_variance):
    """Mean and covariance of the model of k components, from the textbook formulas."""
    S = np.cov(X.T, ddof=0)
    values, vectors = np.linalg.eigh(S)
    values, vectors = values[::-1], vectors[:, ::-1]
    if noise_variance is None:
        noise_variance = values[k:].mean() if k < len(S) else 0.0
    W = vectors[:, :k] * np.sqrt(np.maximum(values[:k] - noise_variance, 0.0))
    return X.mean(axis=0), W @ W.T + noise_variance * np.eye(len(S))


def test_eigenpairs_of_moments(asarray):
    X = make_rows()
    spectrum = Spectrum.from_moments(Moments.of(asarray(X)))
    S = np.cov(X.T, ddof=0)
    V, values = to_numpy(spectrum.components), to_numpy(spectrum.eigenvalues)
    assert array_namespace(spectrum.components) is array_namespace(asarray(X))
    np.testing.assert_allclose(V @ V.T, np.eye(6), atol=1e-13)
    np.testing.assert_allclose((V.T * values) @ V, S, rtol=1e-10, atol=1e-12)
    assert (np.diff(values) < 0).all()
    assert (np.take_along_axis(V, np.abs(V).argmax(axis=1)[:, None], axis=1) > 0).all()
    assert spectrum.total_variance == pytest.approx(np.trace(S), rel=1e-13)
    assert spectrum.rank == 6


@pytest.mark.parametrize("held_out", [False, True])
def test_log_likelihood_of_every_pair_against_the_dense_gaussian(asarray, held_out):
    X, other = make_rows(), make_rows(seed=1)[:25]
    spectrum = Spectrum.from_moments(Moments.of(asarray(X)))
    ks, sigmas = [0, 1, 3, 5, 6], [None, 1e-3, 0.7, 50.0]
    moments = Moments.of(asarray(other)) if held_out else None
    found = to_numpy(spectrum.log_likelihood(ks, sigmas, moments))
    rows = other if held_out else X
    oracle = [
        [multivariate_normal(*dense_model(X, k, sigma2)).logpdf(rows).mean() for sigma2 in sigmas]
        for k in ks
    ]
    np.testing.assert_allclose(found, oracle, rtol=1e-10)


def test_log_likelihood_from_few_eigenpairs_is_that_from_all():
    X, other = make_rows(), Moments.of(make_rows(seed=1))
    full = Spectrum.from_moments(Moments.of(X))
    cut = Spectrum(
        full.mean, full.eigenvalues[:3], full.components[:3], full.eigenvalues[3:].sum(), 1e-15
    )
    grid = [0, 2, 3], [None, 0.3, 9.0]
    for moments in (None, other):
        np.testing.assert_allclose(
            cut.log_likelihood(*grid, moments), full.log_likelihood(*grid, moments), rtol=1e-11
        )
    assert cut.noise_variance(2) == pytest.approx(full.noise_variance(2), rel=1e-12)
    assert cut.total_variance == pytest.approx(full.total_variance, rel=1e-12)
    with pytest.raises(ValueError, match=r"between 0 and the number of eigenpairs, 3, got \[4\]"):
        cut.log_likelihood([4])


@pytest.mark.parametrize("r", [1, 2, 4, 6])
def test_padded_with_eigenvalues_of_0_and_an_orthonormal_complement(asarray, r):
    X = make_rows()
    every = Spectrum.from_moments(Moments.of(asarray(X)))
    first = Spectrum(
        every.mean, every.eigenvalues[:2], every.components[:2, :], 3.0, 1e-9, every.rounded[:2]
    )
    found = first.padded(r)
    if r <= 2:
        assert found is first
        return
    values, V = to_numpy(found.eigenvalues), to_numpy(found.components)
    np.testing.assert_array_equal(values[:2], to_numpy(first.eigenvalues))
    np.testing.assert_array_equal(values[2:], np.zeros(r - 2))
    np.testing.assert_array_equal(V[:2], to_numpy(first.components))
    np.testing.assert_allclose(V @ V.T, np.eye(r), atol=1e-13)
    assert (np.take_along_axis(V, np.abs(V).argmax(axis=1)[:, None], axis=1) > 0).all()
    np.testing.assert_array_equal(to_numpy(found.rounded)[2:], np.zeros(r - 2))
    assert (found.rest, found.rank, found.total_variance) == (3.0, 2, first.total_variance)


def test_the_maximum_likelihood_noise_is_a_maximum():
    spectrum = Spectrum.from_moments(Moments.of(make_rows()))
    for k in range(6):
        best = spectrum.noise_variance(k)
        at, below, above = spectrum.log_likelihood([k], [best, best * 0.99, best * 1.01])[0]
        assert at > below
        assert at > above
        assert at == pytest.approx(spectrum.log_likelihood([k])[0, 0], rel=1e-13)


def test_rank_deficient_data_have_no_noise_from_the_rank_on():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 3)) @ rng.normal(size=(3, 8)) + 2.0
    spectrum = Spectrum.from_moments(Moments.of(X))
    assert spectrum.rank == 3
    assert [spectrum.noise_variance(k) > 0 for k in range(9)] == [True] * 3 + [False] * 6
    assert spectrum.noise_variance(3) == 0.0
    values = spectrum.log_likelihood([2, 3, 8], [None, 0.1])
    assert np.isnan(values).tolist() == [[False, False], [True, False], [True, False]]
    assert (spectrum.model_variances(8, 0.0)[3:] == 0).all()
    assert (spectrum.model_variances(8, 0.1)[3:] == 0.1).all()


def test_constant_rows_have_rank_zero():
    spectrum = Spectrum.from_moments(Moments.of(np.full((4, 3), 7.0)))
    assert (spectrum.rank, spectrum.total_variance, spectrum.noise_variance(0)) == (0, 0.0, 0.0)


def test_signs_follow_the_first_of_equal_peaks():
    V = np.array([[-0.5, 0.5], [0.5, -0.5], [0.1, -0.9], [0.0, 0.0]])
    expected = [[0.5, -0.5], [0.5, -0.5], [-0.1, 0.9], [0.0, 0.0]]
    np.testing.assert_array_equal(with_positive_peaks(V), expected)


def test_components_for_ratio():
    values = np.array([4.0, 3.0, 2.0, 1.0])
    # "More than": at a tie one component more, as PCA counts.
    ratios = {0.1: 1, 0.4: 2, 0.5: 2, 0.75: 3, 0.95: 4, 0.999999: 4}
    assert {ratio: components_for_ratio(values, 10.0, ratio) for ratio in ratios} == ratios


def test_a_valid_spectrum_and_each_defect():
    good = Spectrum.from_moments(Moments.of(make_rows()))
    assert good.remainder is not None
    for valid in (good, replace(good, remainder=None), replace(good, rounded=0.0)):
        valid.check()
    defects = [
        ("mean", good.mean[:5]),
        ("mean", good.mean * np.nan),
        ("remainder", good.remainder[:5]),
        ("eigenvalues", good.eigenvalues[:5]),
        ("eigenvalues", -good.eigenvalues),
        ("eigenvalues", good.eigenvalues * np.inf),
        ("components", good.components[:5]),
        ("components", None),
        ("rounded", np.zeros(5)),
        ("rounded", -1.0),
        ("rest", -1.0),
        ("rest", np.inf),
        ("resolution", np.nan),
        ("accuracy", None),
        ("accuracy", replace(good.accuracy, residual=-1.0)),
    ]
    for name, value in defects:
        with pytest.raises(ValueError, match="A spectrum must have a finite mean"):
            replace(good, **{name: value}).check()
