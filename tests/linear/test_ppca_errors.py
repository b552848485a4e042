"""What a user is told: every message names the offender, the requirement and the value."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.exceptions import NotFittedError

from sklearn_vae import PPCA, LowRankGaussian, Moments

X = np.random.default_rng(0).normal(size=(20, 5))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_components": -1}, r"n_components must be None, an integer >= 0.*, got -1\."),
        ({"n_components": 1.0}, r"a float in \(0, 1\) or 'mle', got 1\.0\."),
        ({"n_components": 0.0}, r"a float in \(0, 1\) or 'mle', got 0\.0\."),
        ({"n_components": 2.5}, r"got 2\.5\."),
        ({"n_components": np.nan}, r"got nan\."),
        ({"n_components": True}, r"got True\."),
        ({"n_components": "all"}, r"got 'all'\."),
        ({"n_components": [2]}, r"got \[2\]\."),
        ({"n_components": np.array([2, 3])}, r"got array\(\[2, 3\]\)\."),
        ({"iterated_power": np.array([1, 2])}, r"iterated_power must be .* got array"),
        ({"noise_variance": 10**400}, r"positive float, got 10000"),
        (
            {"n_components": 6},
            r"between 0 and min\(n_samples, n_features\) = 5 with svd_solver='full', got 6\.",
        ),
        (
            {"n_components": 6, "svd_solver": "covariance_eigh"},
            r"between 0 and min\(n_samples, n_features\) = 5 with svd_solver='covariance_eigh'",
        ),
        (
            {"n_components": 0, "svd_solver": "randomized"},
            r"between 1 and min\(n_samples, n_features\) = 5 with svd_solver='randomized', got 0",
        ),
        (
            {"n_components": 5, "svd_solver": "arpack"},
            r"between 1 and min\(n_samples, n_features\) - 1 = 4 with svd_solver='arpack', got 5",
        ),
        (
            {"n_components": 0.5, "svd_solver": "arpack"},
            r"an integer or None with svd_solver='arpack', got 0\.5",
        ),
        (
            {"n_components": "mle", "svd_solver": "randomized"},
            r"an integer or None with svd_solver='randomized', got 'mle'",
        ),
        ({"noise_variance": 0}, r"noise_variance must be None or a positive float, got 0\."),
        ({"noise_variance": -1.0}, r"noise_variance must be .* positive float, got -1\.0\."),
        ({"noise_variance": np.nan}, r"positive float, got nan\."),
        ({"noise_variance": np.inf}, r"positive float, got inf\."),
        ({"noise_variance": "mle"}, r"positive float, got 'mle'\."),
        ({"noise_variance": Fraction(1, 10**400)}, r"positive float, got Fraction"),
        ({"noise_variance": True}, r"positive float, got True\."),
        ({"coordinates": "white"}, r"one of 'principal', 'whitened', 'posterior', got 'white'\."),
        ({"svd_solver": "lapack"}, r"svd_solver must be one of 'auto', 'full', .*got 'lapack'\."),
        ({"iterated_power": -1}, r"iterated_power must be .* >= 0, got -1\."),
        ({"iterated_power": "fast"}, r"iterated_power must be .*, got 'fast'\."),
        ({"n_oversamples": 0}, r"n_oversamples must be an integer >= 1, got 0\."),
    ],
)
def test_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        PPCA(**parameters).fit(X)


@pytest.mark.parametrize("parameters", [{"n_components": 6}, {"noise_variance": -1.0}])
def test_parameters_of_partial_fit(parameters):
    with pytest.raises(ValueError, match=f"{next(iter(parameters))} must be"):
        PPCA(**parameters).partial_fit(X)


@pytest.mark.parametrize("noise_variance", [1e-50, 1e50])
def test_noise_beyond_the_precision_of_the_rows(noise_variance):
    with pytest.raises(ValueError, match="range of float32, the dtype of X, got 1e"):
        PPCA(2, noise_variance=noise_variance).fit(X.astype(np.float32))


def test_mle_needs_more_rows_than_features():
    with pytest.raises(
        ValueError, match=r"needs n_samples >= n_features >= 2, got n_samples=4 and n_features=5\."
    ):
        PPCA("mle").fit(X[:4])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (X[:1], r"1 sample\(s\) \(shape=\(1, 5\)\) while a minimum of 2 is required by PPCA"),
        (X[:0], r"0 sample\(s\)"),
        (X[0], "Expected 2D array, got 1D array instead"),
        (X + 1j, "Complex data not supported"),
        (np.where(X > 1, np.inf, X), "Input X contains infinity"),
        ([["a", "b"], ["c", "d"]], "could not convert string to float: '?.*a"),
    ],
)
def test_rows(rows, message):
    with pytest.raises(ValueError, match=message):
        PPCA(1).fit(rows)


@pytest.mark.parametrize("solver", ["full", "covariance_eigh", "arpack", "randomized"])
@pytest.mark.parametrize(("value", "message"), [(np.inf, "infinity"), (1e200, "overflow")])
def test_rows_that_are_not_finite(solver, value, message):
    rows = X.copy()
    rows[7, 2] = value
    rows[8, 2] = -value
    with pytest.raises(ValueError, match=message):
        PPCA(1, svd_solver=solver).fit(rows)
    with pytest.raises(ValueError, match=message):
        PPCA(1).partial_fit(rows)


def test_batches_that_overflow_together():
    model = PPCA(1).partial_fit(X + 1e154)
    with pytest.raises(ValueError, match=r"sum of moments must be finite, got .* in feature 0"):
        model.partial_fit(X - 1e154)


@pytest.mark.parametrize("method", ["transform", "posterior", "score", "score_samples"])
@pytest.mark.parametrize("beside", [0.0, np.nan])
def test_new_rows_that_are_not_finite(method, beside):
    rows = X.copy()
    rows[7, 2], rows[8, 2], rows[9, 1] = np.inf, -np.inf, beside
    with pytest.raises(ValueError, match="Input X contains infinity"):
        getattr(PPCA(2).fit(X), method)(rows)


def test_a_row_beyond_all_likelihood():
    rows = X.copy()
    rows[3] = 1e160
    found = PPCA(2).fit(X).score_samples(rows)
    assert found[3] == -np.inf
    assert np.isfinite(np.delete(found, 3)).all()


def test_coordinates_set_after_the_fit():
    model = PPCA(2).fit(X).set_params(coordinates="white")
    for method, rows in (("transform", X), ("inverse_transform", X[:, :2])):
        with pytest.raises(ValueError, match=r"coordinates must be one of .* got 'white'"):
            getattr(model, method)(rows)


def test_arpack_needs_two_of_both():
    with pytest.raises(ValueError, match="at least 2 samples and 2 features, got n_samples=20 and"):
        PPCA(svd_solver="arpack").fit(X[:, :1])


@pytest.mark.parametrize("method", ["transform", "posterior", "score", "score_samples"])
def test_wrong_number_of_features(method):
    model = PPCA(2).fit(X)
    with pytest.raises(ValueError, match="X has 4 features, but PPCA is expecting 5 features"):
        getattr(model, method)(X[:, :4])


@pytest.mark.parametrize("method", ["inverse_transform", "conditional"])
def test_wrong_number_of_latents(method):
    model = PPCA(2).fit(X)
    with pytest.raises(ValueError, match=r"Z must have 2 columns, .*PPCA, got 3\."):
        getattr(model, method)(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="Input Z contains NaN"):
        getattr(model, method)(np.full((1, 2), np.nan))


def test_sample_size():
    with pytest.raises(ValueError, match=r"n_samples must be an integer >= 1, got 0\."):
        PPCA(2).fit(X).sample(0)


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.transform(X),
        lambda model: model.inverse_transform(X[:, :2]),
        lambda model: model.posterior(X),
        lambda model: model.conditional(X[:, :2]),
        lambda model: model.sample(),
        lambda model: model.score(X),
        lambda model: model.get_covariance(),
        lambda model: model.get_precision(),
        lambda model: model.get_feature_names_out(),
    ],
)
def test_not_fitted(call):
    with pytest.raises(NotFittedError, match="This PPCA instance is not fitted yet"):
        call(PPCA(2))


def test_a_failed_fit_keeps_the_model():
    model = PPCA(2, svd_solver="covariance_eigh").fit(X)
    before = model.score(X)
    with pytest.raises(ValueError, match="NaN"):
        model.fit(np.full_like(X, np.nan))
    model.set_params(n_components=9)
    frame = pd.DataFrame(X[:, :4], columns=list("abcd"))
    for rows in (X, X[:, :4], frame):
        with pytest.raises(ValueError, match="got 9"):
            model.fit(rows)
    assert model.score(X) == before
    assert not hasattr(model, "feature_names_in_")


def test_a_failed_partial_fit_keeps_the_model():
    model = PPCA(2).partial_fit(X)
    before, moments = model.score(X), model.moments_
    model.set_params(n_components=9)
    with pytest.raises(ValueError, match=r"at most n_features = 5, got 9"):
        model.partial_fit(X)
    assert model.score(X) == before
    assert model.moments_ is moments


def test_a_failed_first_fit_leaves_no_trace():
    model = PPCA(9)
    with pytest.raises(ValueError, match="got 9"):
        model.fit(X)
    with pytest.raises(NotFittedError):
        model.transform(X)
    assert not hasattr(model, "n_features_in_")


@pytest.mark.parametrize("container", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("scale", [1e-30, 1e22])
def test_variances_beyond_float32(scale, container):
    rows = (scale * X).astype(np.float32)
    with pytest.raises(ValueError, match=r"overflow float32|range of its dtype float32|bound"):
        PPCA(2).fit(container(rows)).score(container(rows))


def test_moments_that_are_none():
    with pytest.raises(TypeError, match="moments must be a Moments object, got ndarray"):
        PPCA.from_moments(X)
    with pytest.raises(ValueError, match="mean must have a real floating dtype, got int64"):
        Moments(3.0, np.arange(2), np.eye(2))


@pytest.mark.parametrize("rows", [sparse.coo_array([1.0, 2.0]), sparse.csr_array([[1j, 2]])])
def test_sparse_rows_of_the_gaussian(rows):
    with pytest.raises(ValueError, match=r"X must be (two-dimensional|real)"):
        Moments.of(rows)
    with pytest.raises(ValueError, match=r"X must be (two-dimensional|real)"):
        LowRankGaussian(np.zeros(2), np.eye(2), 1.0).log_prob(rows)
