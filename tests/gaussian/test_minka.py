import itertools
import math
import warnings

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.decomposition import PCA
from sklearn.decomposition._pca import _assess_dimension

from sklearn_vae import PPCA, Moments
from sklearn_vae.gaussian.minka import LEAST_CURVATURE, log_evidence, minka_dimension
from sklearn_vae.gaussian.spectrum import Spectrum


def make_samples(rng, n, d, k, noise):
    return rng.normal(size=(n, k)) @ rng.normal(size=(k, d)) + noise * rng.normal(size=(n, d))


def of_pca(X):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PCA("mle", svd_solver="full").fit(X).n_components_


def brute_force(eigenvalues, n, k, least=LEAST_CURVATURE):
    """Equation 30 of Minka pair by pair in extended precision, and whether an angle is flat."""
    l = np.asarray(eigenvalues, dtype=np.longdouble)
    d, one = len(l), np.longdouble(1)
    v = l[k:].sum() / (d - k)
    m = np.concatenate([l[:k], np.full(d - k, v)])
    log_pi = np.log(np.longdouble(math.pi))
    log_prior = -k * np.log(2 * one) + sum(
        math.lgamma((d - i + 1) / 2) - log_pi * (d - i + 1) / 2 for i in range(1, k + 1)
    )
    pairs = [(i, j) for i in range(k) for j in range(i + 1, d)]
    curvatures = [n * (l[i] - l[j]) * (one / m[j] - one / m[i]) for i, j in pairs]
    log_det = sum(np.log(max(a, least * one)) for a in curvatures)
    log_fit = np.log(l[:k]).sum() + (d - k) * np.log(v)
    log_2pi = np.log(2 * one) + log_pi
    value = log_prior - n * one / 2 * log_fit + (len(pairs) + k) * log_2pi / 2
    return value - log_det / 2 - k * np.log(n * one) / 2, min(curvatures) < least


SPECTRA = {
    "spread": np.geomspace(100, 1e-3, 8),
    "spiked": np.array([50.0, 20, 3, 1.4, 1.2, 1.0, 0.9, 0.8]),
    "repeated": np.array([5.0, 5, 3, 1, 1, 1, 1, 1]),
    "nearly repeated": np.array([5.0, 5 - 1e-14, 3, 1, 1 - 1e-9, 1 - 2e-9, 0.5, 0.5]),
    "equal": np.full(6, 0.25),
    "graded": np.geomspace(1, 1e-25, 9),
    "two": np.array([2.0, 1.0]),
}


@pytest.mark.parametrize("n", [9, 40, 1e6])
@pytest.mark.parametrize("name", SPECTRA)
def test_evidence_against_the_sum_over_pairs_in_extended_precision(name, n):
    values = SPECTRA[name]
    d = len(values)
    found = log_evidence(values, n, d - 1)
    oracle = np.array([brute_force(values, n, k)[0] for k in range(1, d)])
    oracle += n / np.longdouble(2) * d * np.log(np.longdouble(values[0]))  # the common constant
    np.testing.assert_allclose(found, oracle.astype(float), rtol=1e-12)
    for scale in (2.0**-600, 2.0**600):
        np.testing.assert_array_equal(log_evidence(scale * values, n, d - 1), found)


def test_evidence_is_scikit_learns_unless_an_angle_is_flat():
    rng = np.random.default_rng(0)
    n_compared = 0
    for n, d in itertools.product([30, 200, 3000], [4, 12]):
        values = np.linalg.eigvalsh(np.cov(make_samples(rng, n, d, 2, 0.5).T))[::-1]
        ours = log_evidence(values, n, d - 1) - n / 2 * d * np.log(values[0])
        for k in range(1, d):
            theirs, (_, is_flat) = _assess_dimension(values, k, n), brute_force(values, n, k)
            assert ours[k - 1] <= theirs + 1e-9 * abs(theirs)
            if not is_flat:
                assert ours[k - 1] == pytest.approx(theirs, rel=1e-11)
                n_compared += 1
    assert n_compared > 20


@pytest.mark.parametrize("gap", [0.0, 1e-14, 1e-6, 1e-3, 0.03, 0.2, 0.9])
def test_volume_of_the_posterior_of_an_eigenvector_against_quadrature(gap):
    """For d = 3 and k = 1 the rotations are the directions u of a half sphere."""
    l, n = np.array([1.0, 1.0 - gap, 1.0 - gap]), 50
    v = l[1:].mean()
    nodes, weights = np.polynomial.legendre.leggauss(200)
    cosine = 0.5 * (nodes + 1)  # of the angle to the leading eigenvector
    misfit = n / 2 * (1 / v - 1 / l[0]) * (l[0] - (gap * cosine**2 + l[1]))
    log_volume = math.log(2 * math.pi * np.sum(0.5 * weights * np.exp(-misfit)))
    rest = math.lgamma(1.5) - 1.5 * math.log(math.pi) - math.log(2) - n * math.log(v)
    rest += 0.5 * math.log(2 * math.pi / n)
    found = log_evidence(l, n, 2)[0]
    # Two flat angles count as a square of area pi^2, the half sphere has 2 pi: log(pi / 2) = 0.45.
    assert found == pytest.approx(rest + log_volume, abs=0.5)
    raw = float(brute_force(l, n, 1, least=1e-30)[0])
    assert raw - rest - log_volume > (15.0 if gap < 1e-6 else -1.0)


@pytest.mark.parametrize("load", [load_iris, load_wine, load_digits, load_breast_cancer])
def test_choice_of_scikit_learn_on_its_data_sets(load):
    X = load().data
    spectrum = Spectrum.from_moments(Moments.of(X))
    assert minka_dimension(spectrum, len(X)) == of_pca(X)


@pytest.mark.some(2)
@pytest.mark.parametrize(
    ("n", "d", "k"), [(12, 9, 2), (10, 9, 2), (30, 20, 3), (100, 50, 5), (60, 15, 0), (300, 6, 4)]
)
def test_choice_of_scikit_learn_on_draws_with_more_samples_than_features(n, d, k):
    rng = np.random.default_rng(n)
    for _ in range(10):
        X = make_samples(rng, n, d, k, 0.4)
        assert PPCA("mle").fit(X).n_components_ == of_pca(X)


class TestAsManySamplesAsFeatures:
    """Centered samples then have rank d - 1: the noise variance of k = d - 1 is 0."""

    @pytest.mark.some(3)
    @pytest.mark.parametrize("noise", [1e-6, 1e-3, 0.1, 0.5])
    @pytest.mark.parametrize("svd_solver", ["full", "covariance_eigh"])
    def test_noise_is_never_zero_and_the_true_rank_is_found(self, noise, svd_solver):
        if (noise, svd_solver) == (1e-6, "covariance_eigh"):
            noise = 1e-5  # squares are resolved to 1e-15
        rng = np.random.default_rng(0)
        models = [
            PPCA("mle", svd_solver=svd_solver).fit(make_samples(rng, 9, 9, 2, noise))
            for _ in range(40)
        ]
        assert all(model.noise_variance_ > 0 for model in models)
        assert sum(model.n_components_ == 2 for model in models) >= (36 if noise < 0.5 else 32)

    def test_one_sample_more_makes_the_choice_of_scikit_learn(self):
        rng = np.random.default_rng(1)
        draws = [make_samples(rng, 10, 9, 2, 0.1) for _ in range(20)]
        assert [PPCA("mle").fit(X).n_components_ for X in draws] == [of_pca(X) for X in draws]

    @pytest.mark.parametrize("d", [2, 3])
    def test_few_features(self, d):
        X = np.random.default_rng(0).normal(size=(d, d))
        assert PPCA("mle").fit(X).n_components_ == 1

    def test_sum_of_weights_may_be_rounded(self):
        X = make_samples(np.random.default_rng(0), 9, 9, 2, 0.1)
        expected = PPCA("mle").fit(X)
        weighted = PPCA("mle").fit(X, sample_weight=np.full(9, 1 + 1e-15))
        assert weighted.n_components_ == expected.n_components_ == 2


class TestRankDeficientData:
    @pytest.mark.parametrize("svd_solver", ["full", "covariance_eigh"])
    @pytest.mark.parametrize("n", [9, 10, 50])
    def test_rank_of_samples_in_a_subspace(self, n, svd_solver):
        rng = np.random.default_rng(0)
        for rank in (1, 2, 5):
            X = make_samples(rng, n, 9, rank, 0.0) + 3.0
            assert PPCA("mle", svd_solver=svd_solver).fit(X).n_components_ == rank == of_pca(X)

    def test_equal_samples_have_no_components(self):
        X = np.full((9, 4), 3.0)
        assert PPCA("mle").fit(X).n_components_ == of_pca(X) == 0

    def test_repeated_samples_are_weights(self):
        X = make_samples(np.random.default_rng(0), 9, 9, 2, 0.1)
        repeated = np.repeat(X, 3, axis=0)
        weighted = PPCA("mle").fit(X, sample_weight=np.full(9, 3.0))
        assert weighted.n_components_ == PPCA("mle").fit(repeated).n_components_ == of_pca(repeated)


def test_repeated_eigenvalues():
    """Orthogonal designs, on which PCA ends with "math domain error"."""
    design = np.tile(np.r_[np.eye(6), -np.eye(6)], (30, 1))
    for lengths, expected in [([2, 2, 1, 1, 1, 1], 2), ([3, 3, 2, 1, 1, 1], 3), ([1] * 6, 1)]:
        assert PPCA("mle").fit(design * lengths).n_components_ == expected
        with pytest.raises(ValueError, match="math domain error"):
            of_pca(design * lengths)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("svd_solver", ["full", "covariance_eigh"])
def test_choice_does_not_depend_on_the_unit(dtype, svd_solver):
    X = make_samples(np.random.default_rng(3), 60, 12, 3, 0.2).astype(dtype)
    exponents = [-10, -3, 0, 3, 10] if dtype == "f4" else [-130, -9, 0, 9, 130]
    chosen = [
        PPCA("mle", svd_solver=svd_solver).fit(X * X.dtype.type(10.0**e)).n_components_
        for e in exponents
    ]
    assert chosen == [3] * len(exponents)
    assert of_pca(X) == 3
    assert of_pca(1e-9 * X.astype("f8")) == 0  # its floor of 1e-15 has a unit


def test_choice_in_a_stream_is_that_of_fit():
    X = make_samples(np.random.default_rng(5), 25, 9, 2, 0.1)
    stream = PPCA("mle")
    for n, x in enumerate(X, 1):
        stream.partial_fit(x[None, :])
        if n >= 9:
            assert stream.n_components_ == PPCA("mle").fit(X[:n]).n_components_ == 2
