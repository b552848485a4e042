"""Sample weights of the linear models that are not fitted in closed form."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn import config_context
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_vae import PPCA, BernoulliPPCA, FactorAnalysis, LinearVAE, PPCAImputer
from sklearn_vae.gaussian.bernoulli_bound import whitening
from sklearn_vae.gaussian.bernoulli_elbo import (
    BernoulliParameters,
    LinearBernoulliElbo,
    SamplePosteriors,
)
from sklearn_vae.gaussian.stationarity import Stationarity
from tests.helpers import RECORDS
from tests.linear.data import make_rows
from tests.sharing import shared


def make_incomplete(n=90, d=7):
    X = make_rows(n, d, offset=2.0)
    X[np.random.default_rng(1).random(X.shape) < 0.15] = np.nan
    X[: n // 4, 3] = np.nan  # a pattern that many samples share
    return X


def make_bits(n=90, d=8):
    rng = np.random.default_rng(0)
    Z, W = rng.normal(size=(n, 2)), 1.5 * rng.normal(size=(2, d))
    return (rng.random((n, d)) < expit(Z @ W)).astype(float)


COMPLETE, WIDE, INCOMPLETE, BITS = (
    make_rows(offset=2.0),
    make_rows(12, 40),
    make_incomplete(),
    make_bits(),
)
# Patterns of few samples, of many, and more latent dimensions than are swept at once.
HIDDEN = np.arange(20) == 3 * (np.arange(90) // 30)[:, None]
SEVERAL_PATTERNS = np.where(HIDDEN, np.nan, make_rows(90, 20, 17))

EM = {"tol": 1e-13, "max_iter": 5000}
SEED = {"random_state": 0}
STOCHASTIC = {"solver": "stochastic", "max_iter": 5, "tol": 1e3, "learning_rate": 1e-2, **SEED}
CASES = {
    "PPCA": (PPCA(2, **EM), INCOMPLETE),
    "PPCA of fixed noise": (PPCA(2, noise_variance=0.6, **EM), INCOMPLETE),
    "PPCA of all components": (PPCA(**EM), INCOMPLETE),
    "PPCA of few patterns": (
        PPCA(17, noise_variance=0.25, coordinates="posterior", **EM),
        SEVERAL_PATTERNS,
    ),
    "PPCA without components": (PPCA(0), INCOMPLETE),
    "PPCAImputer": (PPCAImputer(**EM), 10.0 ** np.arange(-3, 4) * INCOMPLETE),
    "PPCAImputer of fixed noise": (PPCAImputer(2, noise_variance=0.6, **EM), INCOMPLETE),
    "PPCAImputer without scales": (PPCAImputer(2, standardize=False, **EM), INCOMPLETE),
    "PPCAImputer of complete data": (PPCAImputer(2), COMPLETE),
    "FactorAnalysis": (FactorAnalysis(2, noise_variance=1.0), COMPLETE),
    "FactorAnalysis of missing values": (
        FactorAnalysis(2, noise_variance=1.0, tol=1e-13),
        INCOMPLETE,
    ),
    "LinearVAE": (LinearVAE(**SEED), COMPLETE),
    "LinearVAE of fixed noise": (LinearVAE(noise_variance=3.0, **SEED), COMPLETE),
    "LinearVAE of all components": (
        LinearVAE(0.9, parametrization="unit_encoder", **SEED),
        COMPLETE,
    ),
    "LinearVAE of wide data": (LinearVAE(3, **SEED), WIDE),
    "LinearVAE by Adam": (LinearVAE(solver="adam", max_iter=190, tol=1e3, **SEED), COMPLETE),
    "LinearVAE by Adam of wide data": (
        LinearVAE(solver="adam", max_iter=20, tol=1e3, **SEED),
        WIDE,
    ),
    "BernoulliPPCA": (BernoulliPPCA(tol=1e-12, **SEED), BITS),
    "BernoulliPPCA per sample": (BernoulliPPCA(tol=1e-12, inference="per_sample", **SEED), BITS),
}
# Their draws differ for other numbers of samples.
RANDOM = {
    "LinearVAE by draws": (LinearVAE(batch_size=16, **STOCHASTIC), COMPLETE),
    "LinearVAE by draws of wide data": (
        LinearVAE(n_mc_samples=3, parametrization="unit_encoder", **STOCHASTIC),
        WIDE,
    ),
}

exact = pytest.mark.parametrize("case", CASES)
all_cases = pytest.mark.parametrize("case", CASES | RANDOM)
scored = pytest.mark.parametrize("case", [name for name in CASES | RANDOM if "Imputer" not in name])

# These count samples, as PCA does, or iterations.
OF_THE_NUMBER = {"explained_variance_", "singular_values_", "n_samples_", "loglike_"}
OF_THE_PATH = {
    "n_iter_",
    "loglike_history_",
    "elbo_history_",
    "history_",
    "loglike_",
    "entropy_gap_",
}


def case_of(name):
    return (CASES | RANDOM)[name]


def weights_for(X, fractional=False):
    rng = np.random.default_rng(3)
    return rng.uniform(0.1, 3.0, size=len(X)) if fractional else rng.integers(0, 4, size=len(X))


@shared
def unweighted(case):
    """Model of a case without weights: not to be changed."""
    model, X = case_of(case)
    return clone(model).fit(X)


@shared
def weighted(case):
    """Model of a case with fractional weights, and these: not to be changed."""
    model, X = case_of(case)
    weights = weights_for(X, fractional=True)
    return clone(model).fit(X, sample_weight=weights), weights


def fitted(model, X):
    values = {name: value for name, value in vars(model).items() if name.endswith("_")}
    if isinstance(model, PPCAImputer):
        ppca = vars(values.pop("model_"))
        values |= {f"model_.{name}": value for name, value in ppca.items() if name.endswith("_")}
        values.pop("indicator_")
    for name in (*RECORDS, *(f"model_.{name}" for name in RECORDS)):
        values.pop(name, None)
    for name in values.keys() & {"certificate_", "model_.certificate_"}:
        if isinstance(values[name], Stationarity):
            values[name] = values[name].remaining_gain
    return {**values, "transform": model.transform(X)}


def assert_same_fit(model, expected, X, without=(), **tolerance):
    values, wanted = fitted(model, X), fitted(expected, X)
    for name in wanted.keys() - set(without) - {f"model_.{name}" for name in without}:
        if name.endswith("history_") and isinstance(wanted[name], dict):
            assert values[name].keys() == wanted[name].keys()
        elif tolerance:
            np.testing.assert_allclose(values[name], wanted[name], err_msg=name, **tolerance)
        elif name != "entropy_gap_":
            np.testing.assert_array_equal(values[name], wanted[name], err_msg=name)


@pytest.mark.some(7, "slow")
@exact
def test_integer_weights_are_repetitions(case):
    model, X = case_of(case)
    weights = weights_for(X)
    found = clone(model).fit(X, sample_weight=weights)
    repeated = clone(model).fit(X.repeat(weights, axis=0))
    assert_same_fit(found, repeated, X, OF_THE_PATH, rtol=2e-6, atol=2e-6)


@pytest.mark.some(7)
@all_cases
def test_samples_of_zero_weight_are_absent(case):
    model, X = case_of(case)
    weights = weights_for(X) * 0.7
    kept, X = weights > 0, X.copy()
    X[~kept] = 1.0 - X[~kept] if isinstance(model, BernoulliPPCA) else 1e9
    found = clone(model).fit(X, sample_weight=weights)
    assert_same_fit(found, clone(model).fit(X[kept], sample_weight=weights[kept]), X[kept])
    binary = clone(model).fit(X, sample_weight=kept)
    assert_same_fit(binary, clone(model).fit(X[kept]), X[kept])


@pytest.mark.some(7)
@all_cases
@pytest.mark.parametrize("scale", [1e-200, 1 / 47.3, 1e200])
def test_the_scale_of_weights_changes_nothing(case, scale):
    model, X = case_of(case)
    expected, weights = weighted(case)
    scaled = clone(model).fit(X, sample_weight=scale * weights)
    without = OF_THE_PATH | OF_THE_NUMBER
    assert_same_fit(scaled, expected, X, without, rtol=1e-6, atol=1e-6)
    if hasattr(expected, "n_samples_"):
        assert scaled.n_samples_ == pytest.approx(scale * weights.sum(), rel=1e-12)


@pytest.mark.some(7)
@all_cases
def test_weights_of_one_change_no_bit(case):
    model, X = case_of(case)
    ones = clone(model).fit(X, sample_weight=np.ones(len(X)))
    assert_same_fit(ones, unweighted(case), X)


@pytest.mark.some(5, "slow")
@scored
def test_the_score_is_the_weighted_average(case):
    model, X = case_of(case)
    weights = weights_for(X, fractional=True)
    weights[:3] = 0.0
    model = clone(model).fit(X, sample_weight=weights)
    score = model.score(X, sample_weight=weights)
    assert score == pytest.approx(np.average(model.score_samples(X), weights=weights), rel=1e-12)
    assert score == pytest.approx(model.elbo_, rel=1e-9)
    assert model.score(X, sample_weight=1e-290 * weights) == pytest.approx(score, rel=1e-12)
    assert model.score(X, sample_weight=np.ones(len(X))) == model.score(X)


@pytest.mark.parametrize(
    "case",
    ["PPCA", "PPCA of all components", "LinearVAE", "LinearVAE of wide data", "BernoulliPPCA"],
)
def test_the_weighted_bound_is_stationary(case):
    model, _ = weighted(case)
    assert model.elbo_ == pytest.approx(model.entropy_bound_, abs=2e-5)
    history = model.loglike_history_ if isinstance(model, PPCA) else model.elbo_history_
    assert (np.diff(history) >= -1e-10).all()


def test_the_weighted_likelihood_of_missing_values_is_maximal():
    rng = np.random.default_rng(0)
    (model, weights), X = weighted("PPCA"), INCOMPLETE
    best, observed = model.score(X, sample_weight=weights), ~np.isnan(X)
    for _ in range(20):
        mean = model.mean_ + 0.02 * rng.normal(size=7)
        W = model.loadings_ + 0.02 * rng.normal(size=(7, 2))
        C = W @ W.T + model.noise_variance_ * np.exp(0.05 * rng.normal()) * np.eye(7)
        values = []
        for x, mask in zip(X, observed, strict=True):
            r, S = (x - mean)[mask], C[np.ix_(mask, mask)]
            log_det = np.linalg.slogdet(2 * np.pi * S)[1]
            values.append(-0.5 * (r @ np.linalg.solve(S, r) + log_det))
        assert np.average(values, weights=weights) < best


@pytest.mark.slow
@pytest.mark.parametrize("case", RANDOM)
def test_draws_approach_the_weighted_maximum(case):
    model, X = case_of(case)
    weights = np.where(np.arange(len(X)) < len(X) // 3, 10.0, 0.5)
    model = clone(model).set_params(max_iter=100, learning_rate=0.05, n_mc_samples=100)
    model.set_params(batch_size=None)
    best = LinearVAE(random_state=0).fit(X, sample_weight=weights).elbo_
    reached = clone(model).fit(X, sample_weight=weights).score(X, sample_weight=weights)
    without = clone(model).fit(X).score(X, sample_weight=weights)
    assert best - 0.25 < reached < best
    assert best - without > 2 * (best - reached)


class TestPartialFit:
    def test_integer_weights_are_repetitions(self):
        X, weights = COMPLETE, weights_for(COMPLETE)
        weighted, repeated = LinearVAE(forgetting=0.9), LinearVAE(forgetting=0.9)
        for batch in np.array_split(np.arange(len(X)), 4):
            weighted.partial_fit(X[batch], sample_weight=weights[batch])
            repeated.partial_fit(X[batch].repeat(weights[batch], axis=0))
        assert_same_fit(weighted, repeated, X, {"entropy_gap_"}, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("scale", [1e-9, 1e9])
    def test_the_common_scale_changes_nothing(self, scale):
        X, weights = WIDE, weights_for(WIDE, fractional=True)
        model, scaled = LinearVAE(), LinearVAE()
        for batch in (slice(0, 6), slice(6, 12)):
            model.partial_fit(X[batch], sample_weight=weights[batch])
            scaled.partial_fit(X[batch], sample_weight=scale * weights[batch])
        without = {"entropy_gap_", "n_samples_"}
        assert_same_fit(scaled, model, X, without, rtol=1e-9, atol=1e-9)
        assert scaled.n_samples_ == pytest.approx(scale * weights.sum())

    def test_zeros_and_ones(self):
        X, weights = COMPLETE, np.arange(80) % 3 > 0
        some, absent = LinearVAE(), LinearVAE()
        for batch in (slice(0, 40), slice(40, 80)):
            some.partial_fit(X[batch], sample_weight=weights[batch])
            absent.partial_fit(X[batch][weights[batch]])
        assert_same_fit(some, absent, X)

    def test_after_a_weighted_fit(self):
        X, weights = COMPLETE, weights_for(COMPLETE, fractional=True)
        model = LinearVAE(random_state=0).fit(X[:50], sample_weight=weights[:50])
        model.partial_fit(X[50:], sample_weight=weights[50:])
        assert model.n_samples_ == pytest.approx(weights.sum())
        np.testing.assert_allclose(model.mean_, np.average(X, axis=0, weights=weights))

    def test_at_least_two_samples_at_first(self):
        weights = np.arange(80) == 3
        with pytest.raises(ValueError, match="positive for at least 2 samples, got 1"):
            LinearVAE().partial_fit(COMPLETE, sample_weight=weights)
        model = LinearVAE().partial_fit(COMPLETE)
        assert model.partial_fit(COMPLETE, sample_weight=weights).n_samples_ == 81


@pytest.mark.parametrize(
    "case",
    [
        "PPCA",
        "PPCAImputer",
        "LinearVAE",
        "LinearVAE by Adam",
        "LinearVAE by draws",
        "BernoulliPPCA",
    ],
)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w[1:], r"sample_weight must have shape \(n_samples,\)"),
        (lambda w: w[:, None], r"sample_weight must have shape \(n_samples,\)"),
        (lambda w: 3.0, r"sample_weight must have shape \(n_samples,\) = .* got \(\)"),
        (lambda w: np.r_[w[1:], -0.5], r"sample_weight must be finite and >= 0, got -0\.5 for"),
        (lambda w: np.r_[np.nan, w[1:]], r"sample_weight must be finite and >= 0, got nan for"),
        (lambda w: np.r_[np.inf, w[1:]], r"sample_weight must be finite and >= 0, got inf for"),
        (lambda w: 0.0 * w, r"sample_weight must have a finite sum above zero, got 0\.0"),
        (lambda w: 1e308 * w, r"sample_weight must have a finite sum above zero, got inf"),
    ],
)
def test_invalid_weights(case, change, message):
    model, (_, X) = unweighted(case), case_of(case)
    before = dict(vars(model))
    methods = [getattr(model, name, None) for name in ("fit", "fit_transform", "score")]
    if case == "LinearVAE":
        methods.append(model.partial_fit)
    for method in filter(None, methods):
        with pytest.raises(ValueError, match=message):
            method(X, sample_weight=change(np.ones(len(X))))
    assert vars(model) == before


@all_cases
def test_at_least_two_samples_of_positive_weight(case):
    model, X = case_of(case)
    with pytest.raises(ValueError, match="sample_weight must be positive for at least 2 samples"):
        clone(model).fit(X, sample_weight=np.arange(len(X)) == 3)


@pytest.mark.parametrize("name", ["LinearVAE", "LinearVAE by Adam", "BernoulliPPCA"])
def test_samples_of_zero_weight_in_a_file(name, tmp_path):
    model, X = case_of(name)
    np.save(tmp_path / "samples.npy", X)
    mapped = np.load(tmp_path / "samples.npy", mmap_mode="r")
    weights = weights_for(X)
    found = clone(model).fit(mapped, sample_weight=weights)
    assert_same_fit(found, clone(model).fit(X, sample_weight=weights), X)


@pytest.mark.some(2)
@pytest.mark.filterwarnings("ignore:.*has not converged")
@pytest.mark.filterwarnings("ignore:LinearVAE .*below its maximum")
@pytest.mark.parametrize("case", ["LinearVAE", "LinearVAE by Adam", *RANDOM, "BernoulliPPCA"])
def test_a_checkpoint_is_of_the_weights(case, tmp_path):
    model, X = case_of(case)
    model = clone(model).set_params(checkpoint=tmp_path, max_iter=10, tol=1e-3)
    weights = weights_for(X, fractional=True)
    models = [clone(model).fit(X, sample_weight=w) for w in (None, weights, weights**2)]
    assert len(list(tmp_path.iterdir())) == 3
    again = clone(model).fit(X, sample_weight=weights)
    assert len(list(tmp_path.iterdir())) == 3
    assert_same_fit(again, models[1], X)
    assert (again.loadings_ != models[0].loadings_).any()


def test_bernoulli_bounds_and_gradients_of_repetitions():
    rng = np.random.default_rng(0)
    weights = weights_for(BITS)
    repeated, scaled = BITS.repeat(weights, axis=0), weights / weights.mean()
    W, V = rng.normal(size=(8, 2)), rng.normal(size=(2, 8))
    p = BernoulliParameters(W, rng.normal(size=8), V, np.array([0.4, 0.7]))
    value, gradients = LinearBernoulliElbo(BITS.T.copy(), scaled).value_and_gradients(p)
    expected, wanted = LinearBernoulliElbo(repeated.T.copy()).value_and_gradients(p)
    assert value == pytest.approx(expected, rel=1e-12)
    for gradient, other in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(gradient, other, rtol=1e-9, atol=1e-12)
    posteriors = SamplePosteriors(W, p.mu)
    found = posteriors.value_and_gradients(BITS, *posteriors.start(90), scaled)
    wanted = posteriors.value_and_gradients(repeated, *posteriors.start(len(repeated)))
    for value, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-7, atol=1e-9)


def test_constant_bits_count_weights_as_repetitions():
    X, weights = np.c_[BITS, np.ones(90)], weights_for(BITS)
    n = weights.sum()
    for scale, count in [(1.0, n), (1.0 / n, (weights > 0).sum())]:
        model = BernoulliPPCA(1, random_state=0).fit(X, sample_weight=scale * weights)
        assert model.intercept_[-1] == pytest.approx(np.log((count + 0.5) / 0.5))


@pytest.mark.parametrize("shape", [(5, 40), (40, 5)])
def test_weighted_whitening(shape):
    rng = np.random.default_rng(0)
    bits, weights = rng.uniform(size=shape), rng.uniform(0.1, 3.0, size=shape[1])
    R, B = whitening(bits, weights / weights.mean())
    S = np.cov(bits, bias=True, aweights=weights)
    np.testing.assert_allclose(R.T @ S @ R, np.eye(R.shape[1]), atol=1e-9)
    np.testing.assert_allclose(R.T @ B, np.eye(R.shape[1]), atol=1e-9)


def test_routing():
    weights = weights_for(COMPLETE, fractional=True)
    with config_context(enable_metadata_routing=True):
        vae = LinearVAE(random_state=0).set_fit_request(sample_weight=True)
        vae.set_score_request(sample_weight=True).set_partial_fit_request(sample_weight=True)
        imputer = PPCAImputer(2).set_fit_request(sample_weight=True)
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        pipeline = make_pipeline(imputer, scaler, vae).fit(INCOMPLETE[:80], sample_weight=weights)
        filled = PPCAImputer(2).fit_transform(INCOMPLETE[:80], sample_weight=weights)
        Z = StandardScaler().fit_transform(filled)
        by_hand = LinearVAE(random_state=0).fit(Z, sample_weight=weights)
        score = pipeline.score(INCOMPLETE[:80], sample_weight=weights)
        assert score == pytest.approx(by_hand.score(Z, sample_weight=weights), rel=1e-12)
        bits = BernoulliPPCA().set_fit_request(sample_weight=True)
        bits.set_score_request(sample_weight=True)
