"""Log-determinants against dense Jacobians, and densities that integrate to one."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse, stats
from scipy.integrate import quad
from scipy.special import expit, logit
from sklearn import config_context
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import validate_data

from sklearn_vae import PPCA, DensityPipeline, Dequantizer, LogitTransformer
from sklearn_vae.preprocessing.dequantizer import _dequantized

RNG = np.random.default_rng(0)
X = RNG.gamma(2.0, size=(300, 3)) @ RNG.uniform(size=(3, 3)) + 0.1
DIGITS = load_digits().data
UNIT = RNG.uniform(size=(50, 4))


def density(*steps):
    return DensityPipeline(
        [*((f"step{i}", s) for i, s in enumerate(steps[:-1])), ("model", steps[-1])]
    )


# Dequantizer


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float64", "bool", "float16"])
@pytest.mark.parametrize("n_levels", [2, 3, 17, 49, 256, 65535, 65536])
def test_every_level_comes_back(n_levels, dtype):
    levels = np.arange(n_levels)[:, None] % (np.iinfo(dtype).max + 1 if dtype == "uint8" else 2**16)
    rows = (levels % (2 if dtype == "bool" else 2048 if dtype == "float16" else 2**16)).astype(
        dtype
    )
    dequantizer = Dequantizer(n_levels, random_state=0).fit(rows)
    u = dequantizer.transform(rows)
    assert u.dtype == (np.float32 if dtype == "float32" else np.float64)
    assert u.min() > 0.0
    assert u.max() < 1.0
    np.testing.assert_array_equal(dequantizer.inverse_transform(u), rows)
    # Within its cell as exact arithmetic has it, but for rounding.
    assert (np.abs(u.astype(float) * n_levels - rows - 0.5) <= 0.5 + n_levels * 2.0**-23).all()


class Extreme:
    """A generator whose every draw is the same."""

    def __init__(self, value):
        self.value = value

    def random(self, shape):
        return np.full(shape, self.value)


@pytest.mark.parametrize("draw", [0.0, 1e-12, 1.0 - 2.0**-53])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_noise_stays_within_the_cell(dtype, draw):
    for n in [2, 17, 49, 255, 256, 1000, 65535, 65536]:
        levels = np.arange(n, dtype="<u2")[:, None]
        u = _dequantized(levels, n, Extreme(draw), dtype)
        assert u.dtype == dtype
        assert u.min() > 0
        assert u.max() < 1
        dequantizer = Dequantizer(n, random_state=0).fit(levels)
        np.testing.assert_array_equal(dequantizer.inverse_transform(u), levels)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_noise_is_uniform_and_independent_of_the_level(dtype):
    rows = np.random.default_rng(1).integers(0, 17, size=(5000, 8)).astype(dtype)
    noise = Dequantizer(17, random_state=0).fit_transform(rows) * 17 - rows
    assert stats.kstest(noise.ravel(), "uniform").pvalue > 0.01
    assert np.abs(np.corrcoef(noise.T) - np.eye(8)).max() < 0.06
    assert abs(np.corrcoef(noise.ravel(), rows.ravel())[0, 1]) < 0.02


def test_the_same_rows_have_the_same_noise_whatever_holds_them():
    dequantizer = Dequantizer(17, random_state=0)
    u = dequantizer.fit_transform(DIGITS)
    np.testing.assert_array_equal(dequantizer.transform(DIGITS), u)
    np.testing.assert_array_equal(clone(dequantizer).fit(DIGITS[:9]).transform(DIGITS), u)
    for same in [DIGITS.astype(np.uint8), np.asfortranarray(DIGITS), DIGITS.tolist()]:
        np.testing.assert_array_equal(dequantizer.transform(same), u)
    frame = pd.DataFrame(DIGITS.astype(int)).add_prefix("p")
    found = clone(dequantizer).set_output(transform="pandas").fit_transform(frame)
    assert list(found) == list(frame)
    np.testing.assert_array_equal(found, u)
    single = dequantizer.transform(DIGITS.astype(np.float32))
    np.testing.assert_allclose(single, u, atol=1e-7)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(dequantizer)).transform(DIGITS), u)
    other = Dequantizer(17, random_state=1).fit(DIGITS)
    assert np.abs(other.transform(DIGITS) - u).mean() > 0.2 / 17


def test_noise_of_two_data_sets_has_nothing_in_common():
    dequantizer = Dequantizer(17, random_state=0).fit(DIGITS)

    def noise(rows):
        return dequantizer.transform(rows) * 17 - rows

    changed = DIGITS.copy()
    changed[-1, -1] += 1
    whole = noise(DIGITS)
    # Neither the position of a row nor its values bring its noise into another data set.
    for other in [noise(changed), noise(DIGITS[:-1]), noise(DIGITS[::-1])[::-1]]:
        n = len(other)
        assert abs(np.corrcoef(other.ravel(), whole[:n].ravel())[0, 1]) < 0.02
    # Nor are rows that occur twice the same within one.
    twice = noise(np.zeros((200, 64)))
    assert stats.kstest(twice.ravel(), "uniform").pvalue > 0.01
    assert len(np.unique(twice)) == twice.size


@pytest.mark.parametrize("random_state", [None, np.random.RandomState(0)])
def test_without_a_seed_each_fit_has_noise_of_its_own(random_state):
    dequantizer = Dequantizer(17, random_state=random_state)
    first = dequantizer.fit_transform(DIGITS)
    np.testing.assert_array_equal(dequantizer.transform(DIGITS), first)
    assert not np.array_equal(dequantizer.fit_transform(DIGITS), first)


def test_spikes_at_levels_win_nothing():
    # Rows of few levels occur often, in training and in held-out rows: a kernel density estimate
    # of a small bandwidth has a spike at each u that it has seen.
    rows = np.random.default_rng(2).binomial(3, 0.4, size=(400, 1))
    model = density(Dequantizer(4, random_state=0), KernelDensity())
    bandwidths = {"model__bandwidth": [1e-9, 1e-6, 1e-3, 0.1]}
    search = GridSearchCV(model, bandwidths, cv=4, error_score="raise").fit(rows)
    assert search.best_params_["model__bandwidth"] == 0.1
    entropy = stats.entropy(np.bincount(rows.ravel()) / 400)
    assert -entropy - 0.5 < search.best_score_ < -entropy


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([[1, 2], [3, 17]], r"0 to n_levels - 1 = 16, got 17 in row 1, column 1\."),
        ([[1, 2], [-1.0, 3]], r"Negative values in data: X must .* got -1\.0 in row 1, column 0"),
        ([[0.5, 2]], r"X must contain whole numbers .* got 0\.5 in row 0, column 0"),
        ([[1e300, 2]], r"got 1e\+300 in row 0, column 0"),
        ([[np.nan, 2]], "NaN"),
    ],
)
def test_what_is_not_a_level(rows, text):
    with pytest.raises(ValueError, match=text):
        Dequantizer(17).fit(rows)
    dequantizer = Dequantizer(17).fit([[1, 2]])
    for method in [dequantizer.transform, dequantizer.log_abs_det_jacobian]:
        with pytest.raises(ValueError, match=text):
            method(rows)


@pytest.mark.parametrize("n_levels", [1, 0, -3, 2.5, True, "256", None, 65537])
def test_numbers_of_levels_that_cannot_be(n_levels):
    with pytest.raises(ValueError, match=r"n_levels must be .*, got"):
        Dequantizer(n_levels).fit([[0]])


def test_levels_of_what_lies_beyond_them():
    dequantizer = Dequantizer(4).fit([[0, 1]])
    found = dequantizer.inverse_transform([[-3.0, 0.26], [1.0, 55.0]])
    np.testing.assert_array_equal(found, [[0, 1], [3, 3]])
    with pytest.raises(ValueError, match="X has 3 features, but Dequantizer was fitted with 2"):
        dequantizer.inverse_transform([[0.1, 0.2, 0.3]])


# LogitTransformer


class LogitOfAnyRows(LogitTransformer):
    """Takes rows of any real numbers into its interval first, which the common checks do not."""

    def _check_unit(self, X, *, reset):
        return expit(validate_data(self, X, reset=reset, dtype=[np.float64, np.float32]))


@parametrize_with_checks([LogitOfAnyRows(), LogitOfAnyRows(0.05)])
def test_scikit_learn_checks_within_the_interval(estimator, check):
    check(estimator)


@pytest.mark.parametrize("alpha", [0.0, 1e-6, 0.05, 0.4])
def test_logit_against_autograd(alpha):
    transformer = LogitTransformer(alpha).fit(UNIT)
    Y = transformer.transform(UNIT)
    log_det = transformer.log_abs_det_jacobian(UNIT)
    for x, y, found in zip(UNIT, Y, log_det, strict=True):

        def f(t):
            return torch.logit(alpha + (1 - 2 * alpha) * t)

        t = torch.asarray(x)
        np.testing.assert_allclose(y, f(t), rtol=1e-12, atol=1e-12)
        J = torch.autograd.functional.jacobian(f, t)
        np.testing.assert_allclose(found, torch.linalg.slogdet(J)[1], rtol=1e-12)
    np.testing.assert_allclose(transformer.inverse_transform(Y), UNIT, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("alpha", [1e-12, 1e-6, 0.05])
def test_logit_at_both_ends(alpha):
    x = np.array([[0.0, 1e-300, 1e-9, 1.0 - 2.0**-53, 1.0]])
    transformer = LogitTransformer(alpha).fit(x)
    y = transformer.transform(x)
    near = np.log(alpha) - np.log1p(-alpha)
    np.testing.assert_allclose(y[0, [0, 1, 4]], [near, near, -near], rtol=1e-15)
    mirrored = LogitTransformer(alpha).fit_transform(1.0 - x[:, 2:])
    np.testing.assert_allclose(y[0, 3:], -mirrored[0, 1:], rtol=1e-14)
    np.testing.assert_allclose(transformer.inverse_transform(y), x, atol=4e-16)
    ends = (
        transformer.log_abs_det_jacobian(x[:, [0] * 5]),
        transformer.log_abs_det_jacobian(x[:, [4] * 5]),
    )
    expected = 5 * (np.log1p(-2 * alpha) - np.log(alpha) - np.log1p(-alpha))
    np.testing.assert_allclose(np.ravel(ends), expected, rtol=1e-15)
    np.testing.assert_array_equal(
        transformer.inverse_transform([[-99.0, 99, -800, 800, 0]]), [[0, 1, 0, 1, 0.5]]
    )


def test_logit_in_single_precision():
    rows = UNIT.astype(np.float32)
    transformer = LogitTransformer().fit(rows)
    Y = transformer.transform(rows)
    assert Y.dtype == transformer.inverse_transform(Y).dtype == np.float32
    np.testing.assert_allclose(Y, transformer.transform(rows.astype(float)), rtol=1e-5, atol=1e-6)
    log_det = transformer.log_abs_det_jacobian(rows)
    np.testing.assert_array_equal(log_det, transformer.log_abs_det_jacobian(rows.astype(float)))


def test_logit_without_margin_follows_the_dequantizer():
    rows = np.array([[0.0, 16.0]] * 500)
    for dtype in [np.float32, np.float64]:
        u = Dequantizer(17, random_state=0).fit_transform(rows.astype(dtype))
        assert np.isfinite(LogitTransformer(0).fit_transform(u)).all()
    for bad in [0.0, 1.0, 1.0 + 2.0**-52]:
        with pytest.raises(ValueError, match=rf"values in \(0, 1\) if alpha is 0, got {bad}"):
            LogitTransformer(0).fit([[0.5, bad]])


@pytest.mark.parametrize("alpha", [-1e-9, 0.5, np.nan, "0.1", None, True])
def test_margins_that_cannot_be(alpha):
    with pytest.raises(ValueError, match=r"alpha must be a float in \[0, 0\.5\), got"):
        LogitTransformer(alpha).fit(UNIT)


def test_ends_but_for_rounding():
    found = LogitTransformer().fit_transform([[-(2.0**-52), 1.0 + 2.0**-52]])
    np.testing.assert_array_equal(found, LogitTransformer().fit_transform([[0.0, 1.0]]))


def test_rows_outside_the_interval():
    transformer = LogitTransformer().fit([[0.0, 1.0]])
    for method in [transformer.fit, transformer.transform, transformer.log_abs_det_jacobian]:
        with pytest.raises(ValueError, match=r"in \[0, 1\], got 1\.5 in row 1, column 0\."):
            method([[0.1, 1.0], [1.5, -2.0]])
        with pytest.raises(ValueError, match=r"got -1e-12 in row 0, column 1\."):
            method([[0.1, -1e-12]])


# Log-determinants of steps


def with_exponents(method, exponents, **options):
    """A PowerTransformer that learned `exponents`."""
    transformer = PowerTransformer(method, **options).fit(X)
    transformer.lambdas_ = np.array(exponents)
    return transformer


CONSTANT = X.copy()
CONSTANT[:, 1] = 3.0
KNOWN = [
    StandardScaler(),
    StandardScaler(with_mean=False),
    StandardScaler(with_std=False),
    MinMaxScaler(),
    MinMaxScaler((-3, 2)),
    MaxAbsScaler(),
    RobustScaler(),
    RobustScaler(with_centering=False, unit_variance=True),
    RobustScaler(with_scaling=False),
    PowerTransformer(),
    PowerTransformer(standardize=False),
    PowerTransformer("box-cox"),
    PowerTransformer("box-cox", standardize=False),
    "passthrough",
    None,
    make_pipeline(MinMaxScaler(), LogitTransformer(0.1)),
    make_pipeline(RobustScaler(), "passthrough", make_pipeline(StandardScaler())),
    DensityPipeline([("a", StandardScaler()), ("b", PowerTransformer())]),
]


def check_against_differences(model, rows):
    """The log-determinant of each row against that of a dense Jacobian by central differences."""
    found = model.log_abs_det_jacobian(rows)
    assert found.shape == (len(rows),)
    for x, log_det in zip(rows, found, strict=True):
        H = 1e-5 * np.eye(len(x))
        above, below = model.transform(np.concatenate([x + H, x - H])).reshape(2, len(x), -1)
        expected = np.linalg.slogdet((above - below) / 2e-5)[1]
        np.testing.assert_allclose(log_det, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.some(9)
@pytest.mark.parametrize("step", KNOWN)
def test_known_steps_against_finite_differences(step):
    inside = X[(X.min(axis=0) + 1e-3 < X).all(1) & (X.max(axis=0) - 1e-3 > X).all(1)][:10]
    model = DensityPipeline([("known", step), ("none", "passthrough")])
    check_against_differences(model.fit(X), inside)
    if "box-cox" not in str(step):
        centred = X - X.mean(axis=0)
        check_against_differences(clone(model).fit(centred), inside - X.mean(axis=0))
        inside[:, 1] = 3.01
        check_against_differences(clone(model).fit(CONSTANT), inside)


@pytest.mark.some(1)
@pytest.mark.parametrize("standardize", [False, True])
def test_powers_of_special_exponents(standardize):
    rows = np.array([[-1.5, 0.4, -0.3], [0.7, -2.0, 1.1], [3.0, 0.2, -0.1]])
    for exponents in [(0.0, 2.0, 1.0), (2.0, 0.0, -3.0), (5.0, 1.0, 2.0)]:
        step = with_exponents("yeo-johnson", exponents, standardize=standardize)
        check_against_differences(DensityPipeline([("power", step)]), rows)
        step = with_exponents("box-cox", exponents, standardize=standardize)
        check_against_differences(DensityPipeline([("power", step)]), np.abs(rows))


def test_a_step_of_ones_own():
    class Cube(TransformerMixin, BaseEstimator):
        def fit(self, X, y=None):
            self.fitted_ = True
            return self

        def transform(self, X):
            return X**3

        def log_abs_det_jacobian(self, X):
            return np.log(3 * X**2).sum(axis=1)

    check_against_differences(density(Cube(), StandardScaler()).fit(X), X[:10])


# Densities


def test_score_is_that_of_the_changed_variables():
    model = density(PowerTransformer("box-cox", standardize=False), StandardScaler(), PPCA(2)).fit(
        X
    )
    power, scaler, ppca = (step for _, step in model.steps)
    scaled = scaler.transform(power.transform(X))
    of_normal = stats.multivariate_normal(ppca.mean_, ppca.get_covariance()).logpdf(scaled)
    # d/dx (x^l - 1) / (l s) = x^(l - 1) / s
    log_det = ((power.lambdas_ - 1) * np.log(X) - np.log(scaler.scale_)).sum(axis=1)
    np.testing.assert_allclose(model.score_samples(X), of_normal + log_det, rtol=1e-10)
    np.testing.assert_allclose(model.log_abs_det_jacobian(X), log_det, rtol=1e-12)
    np.testing.assert_allclose(model[:-1].log_abs_det_jacobian(X), log_det, rtol=1e-12)
    assert model.score(X) == pytest.approx(np.mean(of_normal + log_det))
    assert model.bits_per_dim(X) == pytest.approx(-model.score(X) / 3 / np.log(2))
    weights = np.arange(300.0)
    expected = np.average(of_normal + log_det, weights=weights)
    assert model.score(X, sample_weight=weights) == pytest.approx(expected)
    with pytest.raises(ValueError, match="sample_weight"):
        model.score(X, sample_weight=-weights)


def test_a_linear_step_leaves_the_full_gaussian_as_it_is():
    # A Gaussian of full covariance is the same model in any units.
    expected = PPCA().fit(X).score_samples(X)
    for step in [StandardScaler(), MinMaxScaler(), MaxAbsScaler(), RobustScaler()]:
        for model in [density(step, PPCA()), density(make_pipeline(step), "passthrough", PPCA())]:
            np.testing.assert_allclose(model.fit(X).score_samples(X), expected, rtol=1e-9)


@pytest.mark.some(1)
@pytest.mark.parametrize("alpha", [1e-3, 0.05])
def test_integrates_to_one_in_one_dimension(alpha):
    rows = np.random.default_rng(0).beta(2.0, 3.0, size=(200, 1))
    model = density(MinMaxScaler((0.1, 0.9)), LogitTransformer(alpha), PPCA(0)).fit(rows)
    low, high = model[0].inverse_transform([[0.0], [1.0]]).ravel()

    def p(x):
        return np.exp(model.score_samples([[x]])[0])

    mass = quad(p, low, high, epsabs=1e-9, limit=200)[0]
    # What the Gaussian has beyond the images of both ends is missing.
    ppca, end = model[-1], logit(alpha)
    normal = stats.norm(ppca.mean_[0], ppca.noise_variance_**0.5)
    np.testing.assert_allclose(mass, normal.cdf(-end) - normal.cdf(end), atol=1e-7)
    assert 0.99 < mass <= 1.0 + 1e-9


def test_integrates_to_one_in_two_dimensions():
    rows = np.random.default_rng(0).gamma(3.0, size=(200, 2)) + 1.0
    model = density(PowerTransformer("box-cox"), StandardScaler(), PPCA(1)).fit(rows)

    # Smooth, and next to nothing at the borders: the sum over a grid is the integral.
    t = np.linspace(-3.0, 5.0, 400)
    grid = np.stack(np.meshgrid(t, t), axis=-1).reshape(-1, 2)
    scores = model.score_samples(np.exp(grid)) + grid.sum(axis=1)
    mass = np.exp(scores).sum() * (t[1] - t[0]) ** 2
    np.testing.assert_allclose(mass, 1.0, atol=1e-6)


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("alpha", [0.01, None])
def test_probabilities_of_pixels_are_bounded(alpha, d):
    rng = np.random.default_rng(0)
    rows = rng.binomial(4, 0.3, size=(500, d)) if d == 1 else rng.binomial(4, [[0.1, 0.2]] * 200)
    levels = np.stack(np.meshgrid(*[range(5)] * d), axis=-1).reshape(-1, d)
    middle = LogitTransformer(alpha) if alpha else "passthrough"
    model = density(Dequantizer(5, random_state=0), middle, PPCA(d - 1)).fit(rows)
    # Many draws of the noise of each image at once.
    scores = model.score_samples(np.repeat(levels, 4000, axis=0)).reshape(-1, 4000)
    bound = scores.mean(axis=1)
    error = 5 * scores.std(axis=1) / 4000**0.5
    probability = np.exp(scores).mean(axis=1)  # of the cell, by the same draws
    assert (bound <= np.log(probability) + 1e-12).all()
    assert np.exp(bound).sum() <= 1.0 + error.max()
    np.testing.assert_allclose(probability.sum(), 1.0 if alpha else 0.9, atol=0.15)
    assert model.bits_per_dim(levels) == pytest.approx(-model.score(levels) / d / np.log(2))


def test_noise_of_the_score_is_that_of_its_log_determinant():
    model = density(Dequantizer(17, random_state=0), LogitTransformer(0.05), PPCA(10)).fit(DIGITS)
    dequantizer, transformer, ppca = (step for _, step in model.steps)
    u = dequantizer.transform(DIGITS)
    v = 0.05 + 0.9 * u
    log_det = (np.log(0.9) - np.log(v) - np.log(1 - v) - np.log(17)).sum(axis=1)
    expected = ppca.score_samples(transformer.transform(u)) + log_det
    np.testing.assert_allclose(model.score_samples(DIGITS), expected, rtol=1e-12)
    assert model.score(DIGITS) == pytest.approx(ppca.elbo_ + log_det.mean())
    images, Z = model.sample(50, random_state=0)
    assert images.shape == (50, 64)
    assert Z.shape == (50, 10)
    assert set(np.unique(images)) <= set(range(17))
    np.testing.assert_array_equal(model.sample(50, random_state=0)[0], images)
    assert np.abs(model.sample(3000, random_state=0)[0].mean(0) - DIGITS.mean(0)).mean() < 1.5


def test_preprocessing_is_compared_as_the_truth_has_it():
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(3000, 3)) @ np.array([[1.0, 0.5, 0.2], [0, 0.6, 0.3], [0, 0, 0.5]])
    rows, C = np.exp(latent), np.cov(latent.T, bias=True)
    truth = (stats.multivariate_normal(np.zeros(3), C).logpdf(latent) - latent.sum(axis=1)).mean()
    model = density(StandardScaler(), PPCA())
    steps = {"step0": [StandardScaler(), PowerTransformer("box-cox"), PowerTransformer()]}
    search = GridSearchCV(model, steps, cv=3, error_score="raise").fit(rows)
    assert search.best_params_["step0"].method == "box-cox"
    assert search.best_score_ == pytest.approx(truth, abs=0.02)
    assert search.cv_results_["mean_test_score"][0] < truth - 1


def test_grid_search_over_parameters_of_steps():
    model = density(Dequantizer(17, random_state=0), LogitTransformer(), PPCA(10))
    grid = {"model__noise_variance": [None, 1.0], "step1__alpha": [1e-6, 0.05]}
    search = GridSearchCV(model, grid, cv=3, error_score="raise").fit(DIGITS)
    expected = clone(model).set_params(**search.best_params_).fit(DIGITS)
    assert search.score(DIGITS) == pytest.approx(expected.score(DIGITS))
    assert pickle.loads(pickle.dumps(expected)).score(DIGITS) == expected.score(DIGITS)


def test_missing_values_count_for_nothing():
    model = density(PowerTransformer(), StandardScaler(), PPCA(1)).fit(X)
    rows = X[:5].copy()
    rows[:, 1] = np.nan
    power, scaler, ppca = (step for _, step in model.steps)
    keep = [0, 2]
    C = ppca.get_covariance()[np.ix_(keep, keep)]
    y = scaler.transform(power.transform(X[:5]))[:, keep]
    log_det = (power.lambdas_ - 1) * np.log1p(X[:5]) - np.log(power._scaler.scale_ * scaler.scale_)
    expected = stats.multivariate_normal(ppca.mean_[keep], C).logpdf(y) + log_det[:, keep].sum(1)
    np.testing.assert_allclose(model.score_samples(rows), expected, rtol=1e-10)


def test_sparse_rows_and_frames_and_lists():
    rows = np.where(X > 2.0, X, 0.0)
    model = density(MaxAbsScaler(), PPCA(1)).fit(rows)
    expected = model.score_samples(rows)
    np.testing.assert_allclose(model.score_samples(sparse.csr_array(rows)), expected)
    assert model.bits_per_dim(rows.tolist()) == pytest.approx(model.bits_per_dim(rows))
    frame = pd.DataFrame(rows, columns=list("abc"))
    model = density(StandardScaler(), make_pipeline(MinMaxScaler(), LogitTransformer(0.1)), PPCA(1))
    expected = model.fit(rows).score_samples(rows)
    for container in ["default", "pandas", "polars"]:
        fitted = clone(model).set_output(transform=container).fit(frame)
        np.testing.assert_allclose(fitted.score_samples(frame), expected)
        assert list(fitted.feature_names_in_) == list("abc")


def test_steps_that_overwrite_their_input():
    steps = [StandardScaler(), PowerTransformer(), PPCA(1)]
    expected = density(*steps).fit(X).score_samples(X)
    careless = density(StandardScaler(), PowerTransformer(copy=False), PPCA(1)).fit(X)
    np.testing.assert_allclose(careless.score_samples(X), expected)


def test_tensors():
    with config_context(array_api_dispatch=True):
        rows = torch.asarray(X)
        model = density(MinMaxScaler(), PPCA(1)).fit(rows)
        found = model.score_samples(rows)
        assert isinstance(found, torch.Tensor)
        score = model.score(rows)
    expected = density(MinMaxScaler(), PPCA(1)).fit(X)
    np.testing.assert_allclose(found, expected.score_samples(X), rtol=1e-9)
    assert score == pytest.approx(expected.score(X))


def test_other_models_of_density():
    mixture = density(StandardScaler(), GaussianMixture(1)).fit(X)
    assert mixture.score(X) == pytest.approx(PPCA().fit(X).score(X), abs=1e-4)
    kernels = density(StandardScaler(), KernelDensity()).fit(X)
    assert kernels.score(X) == pytest.approx(kernels.score_samples(X).mean())
    rows, Z = kernels.sample(2, random_state=0)
    assert rows.shape == (2, 3)
    assert Z is None


# Errors, and what a Pipeline is


class Recorder(StandardScaler):
    """A scaler that says whether it has been fitted."""

    fitted = False

    def fit(self, X, y=None, sample_weight=None):
        type(self).fitted = True
        return super().fit(X, y)


@pytest.mark.parametrize(
    "step",
    [PCA(2), QuantileTransformer(n_quantiles=9), FunctionTransformer(np.log), Recorder(), PPCA(2)],
)
def test_a_step_without_a_log_determinant_is_named_before_anything_is_fitted(step):
    name = type(step).__name__
    model = density(make_pipeline(StandardScaler(), step), PPCA(1))
    text = rf"Step 'step0__{name.lower()}' \({name}\) has no log-determinant"
    with pytest.raises(TypeError, match=text):
        model.fit(X)
    assert not hasattr(model[0][0], "mean_")
    assert not Recorder.fitted
    # Fitted as a Pipeline is, it still has no score.
    model = DensityPipeline(Pipeline([("bad", clone(step)), ("ppca", PPCA(1))]).fit(X).steps)
    for method in [
        model.score,
        model.score_samples,
        model.bits_per_dim,
        model.log_abs_det_jacobian,
    ]:
        with pytest.raises(TypeError, match=rf"Step 'bad' \({name}\)"):
            method(X)
    Recorder.fitted = False


def test_a_density_in_the_middle_is_no_map():
    inner = density(StandardScaler(), PPCA(2))
    with pytest.raises(TypeError, match=r"Step 'step0__model' \(PPCA\) has no log-determinant"):
        density(inner, PPCA(1)).fit(X)


@pytest.mark.parametrize("scaler", [MinMaxScaler, MaxAbsScaler])
def test_clipping(scaler):
    if "clip" not in scaler().get_params():
        assert scaler is MaxAbsScaler  # of older scikit-learn, which has no such option
        return
    name = scaler.__name__
    with pytest.raises(ValueError, match=rf"'step0' \({name}\) must have clip=False, .* got True"):
        density(scaler(clip=True), PPCA(1)).fit(X)


@pytest.mark.parametrize("step", [StandardScaler(), PowerTransformer("box-cox")])
def test_rows_that_do_not_fit_are_refused_as_the_steps_refuse_them(step):
    model = density(step, PPCA(1)).fit(X)
    for method in [model.score, model.score_samples, model.log_abs_det_jacobian]:
        with pytest.raises(ValueError, match=r"X has 2 features, but .* is expecting 3"):
            method(X[:, :2])
    if isinstance(step, PowerTransformer):
        for bad in [0.0, -1.0]:
            with pytest.raises(ValueError, match="strictly positive"):
                model.score(np.full((1, 3), bad))


def test_scores_of_outliers_are_no_densities():
    with pytest.raises(TypeError, match=r"'model' must be a log-density, but IsolationForest"):
        density(StandardScaler(), IsolationForest()).fit(X)


def test_methods_are_there_where_the_last_step_has_them():
    maps = density(StandardScaler(), MinMaxScaler())
    for method in ["score", "score_samples", "bits_per_dim", "sample"]:
        assert not hasattr(maps, method)
    assert hasattr(density(StandardScaler(), PPCA(1)), "sample")
    with pytest.raises(ValueError, match="empty"):
        DensityPipeline([]).fit(X)


def test_metadata_routing():
    weights = np.arange(300.0)
    model = density(StandardScaler(), PPCA(1)).fit(X)
    plain, weighted = model.score(X), model.score(X, sample_weight=weights)
    with pytest.raises(ValueError, match=r"score accepts \['groups'\] only if metadata routing"):
        model.score(X, groups=weights)
    with config_context(enable_metadata_routing=True):
        model[-1].set_score_request(sample_weight=True)
        assert model.score(X) == plain
        assert model.score(X, sample_weight=weights) == weighted
        model[-1].set_score_request(sample_weight="w")
        assert model.score(X, w=weights) == weighted
        model[-1].set_score_request(sample_weight=False)
        assert model.score(X) == plain
        with pytest.raises(TypeError, match="sample_weight"):  # as Pipeline has it
            model.score(X, sample_weight=weights)


def test_it_is_a_pipeline(tmp_path):
    model = density(StandardScaler(), MinMaxScaler(), PPCA(1))
    model.set_params(memory=str(tmp_path), model__n_components=2)
    assert set(model.get_params(deep=False)) == set(Pipeline(model.steps).get_params(deep=False))
    model.fit(X)
    assert isinstance(model[:-1], DensityPipeline)
    plain = Pipeline(model.steps)
    np.testing.assert_array_equal(model.transform(X), plain.transform(X))
    assert list(model.get_feature_names_out()) == ["ppca0", "ppca1"]
    assert model.score(X) != plain.score(X)


def test_a_sample_of_weight_zero_does_not_count_whatever_its_density():
    X = np.random.default_rng(0).uniform(size=(50, 2))
    model = density(StandardScaler(), KernelDensity(kernel="tophat")).fit(X)
    rows = np.concatenate([X[:3], [[9.0, 9.0]]])
    assert model.score_samples(rows)[3] == -np.inf
    weights = np.array([1.0, 2.0, 0.5, 0.0])
    expected = np.average(model.score_samples(X[:3]), weights=weights[:3])
    assert model.score(rows, sample_weight=weights) == pytest.approx(expected, rel=1e-12)
    assert model.score(rows, sample_weight=weights + 1e-9) == -np.inf
