"""Extreme but valid rows: models are those of the rescaled rows, to what rounding allows.

A model of c X + b has the latent coordinates of that of X, means c mu + b, variances times c^2, and
scores that are less by log c for each feature. Tolerances, in units in which the rows have a spread
of order 1:

- Multiplied by c, each entry is rounded to eps. Sums over n d of them, divided by the noise, which
  is 1 / kappa of the largest variance, are off by at most n d kappa eps.
- At an offset b rows are on a grid of eps b. Less b they are still on it, exactly: they are compared
  with themselves. But the mean is rounded to that grid, by delta <= sqrt(d) eps b. That moves
  log p(x) by delta |x - mu| / sigma2, a posterior mean by delta / 2 sigma, what is decoded by
  delta; variances in second order only, but of PPCACV, which merges moments of parts of the rows:
  their means are on the grid too, and what is between them is off by up to delta times that.
- EM ends within tol nats of where it leads, a maximum: its parameters are off by the root of that.
"""

import math
import re

import numpy as np
import pytest
from scipy import stats
from sklearn.base import clone

from sklearn_vae import (
    PPCA,
    PPCACV,
    BernoulliPPCA,
    DeepAutoencoder,
    DeepGaussianVAE,
    LinearVAE,
    PPCAImputer,
)
from tests.deep.data import MODELS, make_rows, parameters_of
from tests.sharing import shared

EPS = float(np.finfo(np.float64).eps)
UP, DOWN = 2.0**40, 2.0**-40  # about 1e12 and 1e-12
N, D, K = 60, 6, 2


def rows_with_spectrum(seed=0):
    """Rows with a few directions of more variance than the rest, none of which are close."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((D, D)))[0]
    X = rng.standard_normal((N, D)) * np.array([3.0, 2.0, 1.4, 0.5, 0.4, 0.3]) @ basis
    return X - X.mean(axis=0)


X = rows_with_spectrum()
HOLED = np.where(np.random.default_rng(1).uniform(size=X.shape) < 0.1, np.nan, X)
T = stats.t(2).rvs(X.shape, random_state=np.random.default_rng(2))
CAUCHY = np.random.default_rng(3).standard_cauchy(X.shape)

DIRECT = [
    (PPCA(K), X),
    (PPCA(K, svd_solver="covariance_eigh"), X),
    (PPCA(K, svd_solver="full", coordinates="principal"), X),
    (PPCA(K, svd_solver="arpack", coordinates="whitened", random_state=0), X),
    (PPCA(K, svd_solver="randomized", random_state=0), X),
    (PPCA(K, noise_variance=0.3), X),
    (PPCA(K, svd_solver="covariance_eigh"), X[:4]),
    (PPCACV([1, 2, 3], noise_variance=[None, 0.3], cv=3), X),
    (PPCACV([1, 2], noise_variance=0.3, cv=2), X[:5]),
    (LinearVAE(K, random_state=0), X),
    (LinearVAE(K, noise_variance=0.3, parametrization="unit_encoder", random_state=0), X),
    (PPCA(K, tol=1e-14), HOLED),
]
TRAINED = [
    (LinearVAE(K, solver="adam", max_iter=190, tol=1e3, random_state=0), X),
    (LinearVAE(K, solver="stochastic", max_iter=20, tol=1e3, batch_size=16, random_state=0), X),
]


def name_of(value):
    if isinstance(value, np.ndarray):
        return "x".join(map(str, value.shape))
    return re.sub(r"\s+", " ", str(value))


def rescaled(model, c):
    """The same model for rows that are c times as large."""
    noise = model.get_params().get("noise_variance")
    if noise is None:
        return clone(model)
    if isinstance(noise, list):
        noise = [None if value is None else value * c**2 for value in noise]
    else:
        noise *= c**2
    return clone(model).set_params(noise_variance=noise)


def as_of(model, Y, c=1.0, b=0.0):
    """What a model of rows Y = c X + b says of them, in units of X."""
    model = rescaled(model, c).fit(Y)
    n_observed = np.isfinite(Y).sum(axis=1)
    Z = model.transform(Y)
    found = {
        "mean": (model.mean_ - b) / c,
        "loadings": model.loadings_ / c,
        "components": model.components_,
        "noise_variance": model.noise_variance_ / c**2,
        "kl_per_dim": model.kl_per_dim_,
        "elbo": model.elbo_ + n_observed.mean() * math.log(c),
        "entropy_bound": model.entropy_bound_ + n_observed.mean() * math.log(c),
        "latents": Z / (c if getattr(model, "coordinates", "") == "principal" else 1.0),
        "decoded": (model.inverse_transform(Z) - b) / c,
        "posterior variance": model.posterior(Y)[1],
        "variance": model.conditional(Z)[1] / c**2,
        "scores": model.score_samples(Y) + n_observed * math.log(c),
        "sample": (model.sample(5, random_state=0)[0] - b) / c,
        "covariance": model.get_covariance() / c**2,
    }
    for name, value in found.items():
        assert np.isfinite(value).all(), name
    return found


def assert_same(found, expected, tolerance, of_mean=0.0):
    """Equal to a share `tolerance`, and where the mean counts to what its rounding makes."""
    sigma2 = expected["noise_variance"]
    lengths = np.linalg.norm(np.nan_to_num(expected["decoded"]), axis=1).max() + 6 * sigma2**0.5
    gains = {"mean": 1.0, "decoded": 3.0, "sample": 1.0, "scores": 2.0 * lengths / sigma2}
    gains["latents"] = max(1.0, 1.0 / sigma2**0.5)
    for name, value in found.items():
        size = np.abs(expected[name]).max()
        atol = tolerance * max(size, 1.0) + of_mean * gains.get(name, of_mean)
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=atol, err_msg=name)


def rounding_of(model, rows, expected):
    """What n d roundings make of a model, as a share."""
    kappa = np.linalg.norm(expected["covariance"], 2) / expected["noise_variance"]
    of_em = 10.0 * model.tol**0.5 if np.isnan(rows).any() else 0.0
    return max(rows.size * kappa * EPS, of_em)


@pytest.mark.cover(1)
@pytest.mark.parametrize(("model", "rows"), [*DIRECT, *TRAINED], ids=name_of)
@pytest.mark.parametrize("c", [DOWN, UP])
def test_a_power_of_2_changes_no_digit_of_a_model(model, rows, c):
    expected, found = as_of(model, rows), as_of(model, c * rows, c)
    # Of scores log c, up to 28 a feature, is subtracted, and added again.
    exact = 100 * D * EPS
    assert_same(
        found, expected, exact if np.isfinite(rows).all() else rounding_of(model, rows, expected)
    )


@pytest.mark.cover(1)
@pytest.mark.parametrize(("model", "rows"), DIRECT, ids=name_of)
@pytest.mark.parametrize("c", [1e-12, 1e12])
def test_linear_models_do_not_depend_on_the_unit(model, rows, c):
    expected, found = as_of(model, rows), as_of(model, c * rows, c)
    assert_same(found, expected, rounding_of(model, rows, expected))


@pytest.mark.cover(1, 2)
@pytest.mark.parametrize(("model", "rows"), DIRECT, ids=name_of)
@pytest.mark.parametrize("c", [DOWN, 1.0, UP])
@pytest.mark.parametrize("b", [2.0**14, -(2.0**27)])  # the second about 1e8
def test_linear_models_do_not_depend_on_the_origin(model, rows, c, b):
    Y = rows + b  # on the grid; Y - b is exact
    expected, found = as_of(model, Y - b), as_of(model, c * Y, c, c * b)
    delta = D**0.5 * EPS * abs(b)
    rounding = rounding_of(model, rows, expected)
    if isinstance(model, PPCACV):
        rounding *= 1.0 + delta / EPS / rows.size
    assert_same(found, expected, rounding, of_mean=delta)


@pytest.mark.cover(1)
@pytest.mark.parametrize("rows", [T, CAUCHY, np.sign(CAUCHY) * np.exp(np.abs(T) ** 0.5 * 8)])
@pytest.mark.parametrize("model", [DIRECT[i][0] for i in (0, 1, 2, 7, 9, 10)], ids=name_of)
@pytest.mark.parametrize("c", [1e-12, 1e12])
def test_heavy_tails(model, rows, c):
    expected, found = as_of(model, rows), as_of(model, c * rows, c)
    assert_same(found, expected, rounding_of(model, rows, expected))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [0, 1, 3])
def test_features_of_very_different_scale(seed, k):
    # Orthogonal columns of given lengths: every eigenvalue, and every score, is known.
    rng = np.random.default_rng(seed)
    columns = np.linalg.qr(np.column_stack([np.ones(N), rng.standard_normal((N, 4))]))[0][:, 1:]
    scales = np.array([1e6, 1e3, 1.0, 1e-2])
    rows = N**0.5 * columns * scales
    model = PPCA(k, svd_solver="full").fit(rows)
    sigma2 = np.square(scales[k:]).mean()
    np.testing.assert_allclose(model.noise_variance_, sigma2, rtol=N * 4 * EPS)
    variances = np.where(np.arange(4) < k, scales**2, sigma2)
    expected = -0.5 * (rows**2 / variances + np.log(2 * np.pi * variances)).sum(axis=1)
    # A component is tilted by eps of the largest scale: that much of it falls on the noise.
    tilt = 4 * EPS * scales[0] / sigma2**0.5
    y = np.linalg.norm(rows / scales, axis=1).max()
    np.testing.assert_allclose(
        model.score_samples(rows), expected, atol=N * 4 * EPS * y**2 + 2 * tilt * y**2
    )
    for found in (model.transform(rows), *model.posterior(rows), *model.sample(5, random_state=0)):
        assert np.isfinite(found).all()


@pytest.mark.some(2)
@pytest.mark.filterwarnings("ignore:LinearVAE .*below its maximum")
@pytest.mark.parametrize(
    "model", [DIRECT[0][0], DIRECT[9][0], *(m for m, _ in TRAINED)], ids=name_of
)
def test_a_wide_range_of_features_is_finite_and_free_of_its_unit(model):
    rows = X * np.array([1e-6, 1e-3, 1.0, 1.0, 1e3, 1e6])
    expected, found = as_of(model, rows), as_of(model, UP * rows, UP)
    assert_same(found, expected, 1e-9)


@pytest.mark.parametrize("c", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_the_imputer_fills_in_units_of_the_rows(c, offset):
    Y = HOLED + offset
    expected = PPCAImputer(K, tol=1e-14).fit_transform(Y - offset)
    found = PPCAImputer(K, tol=1e-14).fit_transform(c * Y) / c - offset
    np.testing.assert_allclose(found, expected, atol=1e-6 + 10 * EPS * offset)


def test_bits_of_any_size():
    rows, options = np.sign(X), {"max_iter": 30, "tol": 1e-2, "random_state": 0}
    expected = BernoulliPPCA(K, binarize=0.0, **options).fit(rows).score_samples(rows)
    for c in (1e-300, 1e300):
        model = BernoulliPPCA(K, binarize=0.0, **options).fit(c * rows)
        np.testing.assert_array_equal(model.score_samples(c * rows), expected)


STEPS, RATE, ADAM_EPS = 15, 1e-3, 1e-8
OF_ROWS = [model for model in MODELS if isinstance(model, DeepGaussianVAE | DeepAutoencoder)]


def deep_as_of(model, Y, c=1.0):
    model = rescaled(model, c).fit(Y)
    score = model.score_samples(Y)
    found = {
        "latents": model.transform(Y),
        "decoded": (model.inverse_transform(model.transform(Y)) - model.mean_) / c,
        "score": (score / c**2) if isinstance(model, DeepAutoencoder) else score + 8 * math.log(c),
    }
    assert all(np.isfinite(value).all() for value in found.values())
    return found


@shared
def deep_as_it_is(index):
    return deep_as_of(OF_ROWS[index], make_rows())


@pytest.mark.cover(1)
@pytest.mark.parametrize("index", range(len(OF_ROWS)), ids=[name_of(model) for model in OF_ROWS])
@pytest.mark.parametrize("c", [DOWN, UP, 1e-12, 1e12])
def test_deep_models_do_not_depend_on_the_unit(index, c):
    expected, found = deep_as_it_is(index), deep_as_of(OF_ROWS[index], c * make_rows(), c)
    # A power of 2 changes no digit of what the networks see, but a noise variance through its
    # logarithm. Else a gradient is off by some eps, a step of Adam by that over its own epsilon.
    tolerance = STEPS * RATE * 100 * EPS / ADAM_EPS
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=tolerance, atol=tolerance)


@pytest.mark.cover(1)
@pytest.mark.parametrize("model", OF_ROWS, ids=name_of)
@pytest.mark.parametrize("kind", ["offset", "features", "tails"])
def test_deep_models_of_extreme_rows_are_finite(model, kind):
    rows = make_rows()
    if kind == "offset":
        rows += 1e8
    elif kind == "features":
        rows *= 10.0 ** np.arange(-12, 12, 3)
    else:
        rows = stats.cauchy.rvs(size=rows.shape, random_state=0)
    model = clone(model).fit(rows)
    for found in (
        model.transform(rows),
        model.inverse_transform(model.transform(rows)),
        model.score_samples(rows),
        *(model.posterior(rows) if hasattr(model, "posterior") else ()),
        *(model.sample(5, random_state=0) if hasattr(model, "sample") else ()),
    ):
        assert np.isfinite(found).all()


@pytest.mark.cover(1, 2)
@pytest.mark.parametrize("model", [*MODELS, *(model for model, _ in TRAINED)], ids=name_of)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("learning_rate", [0.1, 1.0, 10.0])
def test_any_learning_rate_ends_in_the_error_or_a_finite_model(model, learning_rate, dtype):
    rows = make_rows().astype(dtype)
    model = clone(model).set_params(learning_rate=learning_rate)
    error = None
    try:
        model.fit(rows)
    except FloatingPointError as found:
        error = str(found)
        kept = re.search(
            rf"Training diverged: (in epoch|after step) \d+ .* because learning_rate="
            rf"{learning_rate} is too large.* (epoch|step) (\d+) are kept",
            error,
        )
        assert int(kept[3]) == model.n_iter_
    if not isinstance(model, LinearVAE):
        assert np.isfinite(parameters_of(model)).all()
    Z = model.transform(rows)
    for found in (
        Z,
        model.inverse_transform(Z),
        model.score_samples(rows),
        *(model.posterior(rows) if hasattr(model, "posterior") else ()),
        *(model.conditional(Z) if hasattr(model, "conditional") else ()),
        *(model.sample(5, random_state=0) if hasattr(model, "sample") else ()),
        *(model.history_["bound"],),
        getattr(model, "elbo_", 0.0),
        getattr(model, "noise_variance_", 1.0),
    ):
        assert np.isfinite(found).all(), error
