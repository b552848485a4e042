"""The estimator LinearVAE: each solver against pPCA, Monte Carlo and the bound's own formulas."""

import pickle
import re
import warnings

import numpy as np
import pandas
import pytest
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_vae import PPCA, LinearVAE
from sklearn_vae.training.adam import Adam
from tests.helpers import exhaustive, slow
from tests.sharing import shared

DIGITS = load_digits().data
# Of the few steps of the fits by gradients.
pytestmark = pytest.mark.filterwarnings("ignore:LinearVAE .*below its maximum")

ADAM = {"solver": "adam", "max_iter": 300, "learning_rate": 1e-2}
STOCHASTIC = {"solver": "stochastic", "max_iter": 3, "batch_size": 32, "learning_rate": 1e-2}
SOLVERS = [{}, ADAM, STOCHASTIC]
UNIT = {"parametrization": "unit_encoder"}
MODELS = [LinearVAE(3, **s, **u, random_state=0) for s in SOLVERS for u in ({}, UNIT)]
WITH_FIXED_NOISE = [LinearVAE(3, noise_variance=0.7, **s, random_state=0) for s in SOLVERS]


def make_rows(n=200, d=8, k=3, seed=0):
    rng = np.random.default_rng(seed)
    W = np.linalg.qr(rng.normal(size=(d, k)))[0] * [4.0, 3.0, 2.0][:k]
    return rng.normal(size=(n, k)) @ W.T + rng.normal(size=(n, d)) + 3.0


@shared
def _fitted(index):
    return clone((MODELS + WITH_FIXED_NOISE)[index]).fit(make_rows())


def fitted(model):
    """One of MODELS or WITH_FIXED_NOISE fitted to `make_rows()`, once: not to be changed."""
    models = MODELS + WITH_FIXED_NOISE
    return _fitted(next(i for i, each in enumerate(models) if each is model))


@pytest.mark.parametrize("parameters", [{}, UNIT])
@pytest.mark.parametrize("k", [1, 2, 10, 30, 60])
def test_em_is_ppca(k, parameters):
    vae = LinearVAE(k, **parameters, random_state=0).fit(DIGITS)
    ppca = PPCA(k, svd_solver="full").fit(DIGITS)
    assert vae.elbo_ == pytest.approx(ppca.elbo_, abs=1e-8)
    assert vae.elbo_ == pytest.approx(vae.log_likelihood(DIGITS).mean(), abs=1e-8)
    assert vae.entropy_bound_ == pytest.approx(ppca.elbo_, abs=1e-8)
    assert (np.diff(vae.elbo_history_) >= -1e-10).all()
    np.testing.assert_allclose(vae.components_, ppca.components_, atol=2e-4)
    np.testing.assert_allclose(vae.get_covariance(), ppca.get_covariance(), atol=1e-3)
    np.testing.assert_allclose(vae.kl_per_dim_, ppca.kl_per_dim_, atol=1e-6)
    assert vae.noise_variance_ == pytest.approx(ppca.noise_variance_, rel=1e-6)


def test_columns_are_scaled_principal_components_identified_up_to_sign():
    X = make_rows()
    ppca = PPCA(3, coordinates="posterior").fit(X)
    for seed in range(4):
        vae = LinearVAE(3, random_state=seed).fit(X)
        np.testing.assert_allclose(vae.loadings_, ppca.loadings_, atol=1e-6)
        np.testing.assert_allclose(vae.transform(X), ppca.transform(X), atol=1e-5)
    unit = LinearVAE(3, **UNIT, random_state=0).fit(X)
    np.testing.assert_array_equal(unit.encoder_variance_, 1.0)
    lengths = np.sqrt((unit.loadings_**2).sum(axis=0))
    eigenvalues = (ppca.loadings_**2).sum(axis=0) + ppca.noise_variance_
    sigma2 = ppca.noise_variance_
    np.testing.assert_allclose(unit.prior_variance_, eigenvalues / sigma2, rtol=1e-6)
    expected = np.sqrt(sigma2 * (eigenvalues - sigma2) / eigenvalues)
    np.testing.assert_allclose(lengths, expected, rtol=1e-6)
    np.testing.assert_allclose(unit.loadings_ / lengths, vae.components_.T, atol=1e-6)


@pytest.mark.parametrize("n", [20, 8, 5])
def test_any_shape(n):
    X = make_rows(n=n)
    for k in range(1, min(n - 1, 9)):
        ppca = PPCA(k, svd_solver="full").fit(X)
        if np.isfinite(ppca.elbo_):
            vae = LinearVAE(k, random_state=0).fit(X)
            assert vae.elbo_ == pytest.approx(ppca.elbo_, abs=1e-8)
            assert vae.entropy_bound_ == pytest.approx(ppca.elbo_, abs=1e-6)
            assert vae.score(X) == pytest.approx(ppca.elbo_, abs=1e-8)


@pytest.mark.parametrize("k", [1, 8, 13, 20, 25, 29, 30])
def test_variances_over_eleven_orders_of_magnitude(k):
    # Differences of traces have lost the noise here: what is reported comes from the rows.
    X = load_breast_cancer().data
    ppca, vae = PPCA(k, svd_solver="full").fit(X), LinearVAE(k, random_state=0).fit(X)
    # The last directions have 1e-12 of the variance of the first, their covariance four digits.
    assert vae.elbo_ == pytest.approx(ppca.elbo_, abs=1e-8 if k < 29 else 1e-6)
    assert vae.score(X) == pytest.approx(vae.elbo_, abs=1e-8)


@pytest.mark.parametrize("noise", [1e-12, 1e-16, 1e-20])
def test_noise_held_far_below_the_rounding_of_the_covariance(noise):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 5)) @ rng.normal(size=(5, 60))
    vae = LinearVAE(5, noise_variance=noise, random_state=0).fit(X)
    assert vae.elbo_ == pytest.approx(vae.score(X), rel=1e-9)
    ppca = PPCA(5, noise_variance=noise, svd_solver="full").fit(X)
    assert vae.score(X) == pytest.approx(ppca.score(X), rel=1e-2)


@pytest.mark.parametrize("scale", [1e-140, 1e140])
def test_units_may_be_of_any_size(scale):
    X = make_rows(d=50)
    vae, other = (LinearVAE(3, random_state=0).fit(rows) for rows in (X, scale * X))
    assert other.elbo_ + 50 * np.log(scale) == pytest.approx(vae.elbo_, abs=1e-6)
    np.testing.assert_allclose(other.loadings_ / scale, vae.loadings_, rtol=1e-6, atol=1e-6)


def test_a_feature_far_away_does_not_make_the_others_constant():
    X = make_rows()
    X[:, 0] = 1e16
    vae, ppca = LinearVAE(2, random_state=0).fit(X), PPCA(2, svd_solver="full").fit(X)
    assert vae.elbo_ == pytest.approx(ppca.elbo_, abs=1e-6)


def test_components_can_be_counted_as_in_pca():
    for n_components in (0.9, "mle"):
        k = PPCA(n_components, svd_solver="full").fit(DIGITS[:, 20:40]).n_components_
        assert LinearVAE(n_components).fit(DIGITS[:, 20:40]).n_components_ == k
    assert LinearVAE(None).fit(make_rows()).n_components_ == 8


@pytest.mark.some(3, "slow")
@pytest.mark.parametrize("model", MODELS + WITH_FIXED_NOISE)
def test_the_bound_is_below_the_likelihood_and_is_its_average_over_draws(model):
    X, vae = make_rows(), fitted(model)
    bound, likelihood = vae.score_samples(X), vae.log_likelihood(X)
    assert (bound <= likelihood + 1e-9).all()
    assert vae.score(X) == pytest.approx(vae.elbo_, abs=1e-9)
    density = multivariate_normal(vae.mean_, vae.get_covariance())
    np.testing.assert_allclose(likelihood, density.logpdf(X), rtol=1e-7)
    rng = np.random.default_rng(0)
    mean, variance = vae.posterior(X[:5])
    Z = mean + np.sqrt(variance) * rng.standard_normal((40000, *mean.shape))
    decoded = Z @ vae.loadings_.T + vae.mean_
    terms = -0.5 * (
        ((X[:5] - decoded) ** 2 / vae.noise_variance_).sum(-1)
        + 8 * np.log(2 * np.pi * vae.noise_variance_)
        + (Z**2 / vae.prior_variance_ - (Z - mean) ** 2 / variance).sum(-1)
        + np.log(vae.prior_variance_ / variance).sum(-1)
    )
    error = terms.std(axis=0) / len(terms) ** 0.5
    assert (abs(terms.mean(axis=0) - bound[:5]) < 5 * error + 1e-9).all()


@pytest.mark.some(3)
@pytest.mark.parametrize("model", MODELS + WITH_FIXED_NOISE)
def test_the_entropy_gap_is_exact_at_any_parameters(model):
    vae = fitted(model)
    assert vae.entropy_gap_.total == pytest.approx(vae.elbo_ - vae.entropy_bound_, abs=1e-9)
    k = vae.n_components_
    log_ratio = np.log(vae.encoder_variance_ / vae.prior_variance_)
    entropies = 0.5 * log_ratio.sum() - 4 * np.log(2 * np.pi * np.e * vae.noise_variance_)
    assert vae.entropy_bound_ == pytest.approx(entropies)
    assert vae.kl_per_dim_.shape == (k,)


@pytest.mark.parametrize("model", MODELS + WITH_FIXED_NOISE)
def test_attributes_follow_the_contract(model):
    X, vae = make_rows(), fitted(model)
    np.testing.assert_allclose(vae.components_ @ vae.components_.T, np.eye(3), atol=1e-12)
    spanned = vae.components_.T @ (vae.components_ @ vae.loadings_)
    np.testing.assert_allclose(spanned, vae.loadings_, atol=1e-9)
    lengths = (vae.loadings_**2).sum(axis=0) * vae.prior_variance_
    assert (np.diff(lengths) <= 1e-12).all()
    peaks = np.abs(vae.loadings_).argmax(axis=0)
    assert (vae.loadings_[peaks, range(3)] > 0).all()
    Z = vae.transform(X)
    np.testing.assert_allclose(Z, (X - vae.mean_) @ vae.encoder_weights_.T, atol=1e-10)
    np.testing.assert_allclose(vae.kl_per_dim_, kl_of_rows(vae, Z).mean(axis=0), atol=1e-10)
    mean, variance = vae.conditional(Z)
    np.testing.assert_allclose(mean, vae.inverse_transform(Z))
    assert (variance == vae.noise_variance_).all()
    assert variance.shape == X.shape
    covariance = vae.posterior(X, return_cov=True)[1]
    assert covariance.shape == (len(X), 3, 3)
    np.testing.assert_array_equal(covariance[7], np.diag(vae.encoder_variance_))
    assert len(vae.elbo_history_) == vae.n_iter_ + (vae.solver != "stochastic")
    assert vae.history_["noise_variance"].shape == vae.elbo_history_.shape
    if vae.noise_variance is not None:
        np.testing.assert_allclose(vae.history_["noise_variance"], 0.7)


ENTROPIES = ["posterior_entropy", "prior_entropy", "noise_entropy"]


def entropies_of(vae):
    variances = (
        vae.encoder_variance_,
        vae.prior_variance_,
        np.full(vae.n_features_in_, vae.noise_variance_),
    )
    return [multivariate_normal(cov=np.diag(v)).entropy() for v in variances]


@pytest.mark.filterwarnings("ignore:.*has not converged")
@pytest.mark.parametrize("model", [*MODELS, *WITH_FIXED_NOISE])
def test_history_has_the_entropies_of_the_models_on_the_way(model):
    X = 10.0 * make_rows(d=30)  # more than the directions that "em" follows
    # A step an epoch: of several, H[q(z|x)] would be an average over the models after each.
    model = clone(model).set_params(max_iter=3, batch_size=None)
    stopped = [clone(model).set_params(max_iter=t).fit(X) for t in (1, 2, 3)]
    found = np.transpose([stopped[-1].history_[name] for name in ENTROPIES])[-3:]
    expected = np.array([entropies_of(vae) for vae in stopped])
    assert np.ptp(expected, axis=0).max() > 1e-4  # they do not stand still
    np.testing.assert_allclose(found, expected, atol=1e-9)
    if model.solver != "stochastic":
        bound = stopped[-1].history_["bound"][-3:]
        gaps = [vae.entropy_gap_.total for vae in stopped]
        np.testing.assert_allclose(bound - found @ [1.0, -1.0, -1.0], gaps, atol=1e-8)


@pytest.mark.parametrize("parameters", [{}, UNIT])
def test_history_begins_with_the_entropies_of_the_start(parameters):
    X = make_rows()
    scale = X.var(axis=0).mean() ** 0.5
    W = scale * np.random.RandomState(0).standard_normal((8, 8))[:, :3]
    log_D = np.log(scale**2 / ((W**2).sum(axis=0) + scale**2)).sum()
    history = LinearVAE(3, **parameters, random_state=0).fit(X).history_
    difference = history["posterior_entropy"][0] - history["prior_entropy"][0]
    assert difference == pytest.approx(0.5 * log_D, abs=1e-9)
    options = {**ADAM, "learning_rate": 1e-12, "max_iter": 1}
    still = LinearVAE(3, **options, **parameters, random_state=0).fit(X)
    for name, value in zip(ENTROPIES, entropies_of(still), strict=True):
        np.testing.assert_allclose(still.history_[name], value, atol=1e-8)


def kl_of_rows(vae, Z):
    ratio = vae.encoder_variance_ / vae.prior_variance_
    return 0.5 * (Z**2 / vae.prior_variance_ + ratio - 1 - np.log(ratio))


FAST_STEPS = {"learning_rate": 0.03, "max_iter": 1500}


@pytest.mark.parametrize(
    ("parameters", "options"),
    [({}, FAST_STEPS), *slow((UNIT, FAST_STEPS)), *exhaustive(({}, {"max_iter": 6000}))],
    ids=["fast", "unit encoder", "default rate"],
)
def test_adam_reaches_ppca(parameters, options):
    X = make_rows()
    ppca = PPCA(3).fit(X)
    vae = LinearVAE(3, solver="adam", **options, **parameters, random_state=0).fit(X)
    assert ppca.elbo_ - 1e-4 < vae.elbo_ <= ppca.elbo_ + 1e-10
    assert vae.elbo_history_[-1] == pytest.approx(vae.elbo_, abs=1e-9)
    np.testing.assert_allclose(vae.components_, ppca.components_, atol=0.05)
    if not parameters:
        np.testing.assert_allclose(vae.loadings_, ppca.loadings_, atol=0.05)


@pytest.mark.some(1)
@pytest.mark.parametrize("parameters", [{}, UNIT])
def test_draws_come_near_ppca(parameters):
    X = make_rows()
    ppca = PPCA(3).fit(X)
    start = LinearVAE(3, **STOCHASTIC, **parameters, random_state=0).fit(X)
    vae = clone(start).set_params(max_iter=100, batch_size=50, learning_rate=0.03).fit(X)
    assert start.elbo_ < ppca.elbo_ - 0.5
    assert ppca.elbo_ - 0.2 < vae.elbo_ <= ppca.elbo_ + 1e-10
    # An epoch's own estimate, of parameters that move meanwhile.
    assert vae.elbo_history_[-20:].mean() == pytest.approx(vae.elbo_, abs=0.2)
    assert vae.noise_variance_ == pytest.approx(ppca.noise_variance_, rel=0.1)


@pytest.mark.parametrize("solver", [*SOLVERS[:2], *exhaustive(SOLVERS[2])])
def test_columns_collapse_where_the_noise_is_held_too_large(solver):
    X = make_rows()
    values = np.linalg.eigvalsh(np.cov(X.T, bias=True))[::-1]
    noise = float(np.sqrt(values[1] * values[2]))
    vae = LinearVAE(3, noise_variance=noise, **solver, random_state=0)
    if vae.solver == "adam":
        vae.set_params(max_iter=1000, learning_rate=0.03)
    elif vae.solver == "stochastic":
        vae.set_params(max_iter=100, learning_rate=0.01, n_mc_samples=10)
    vae.fit(X)
    assert vae.collapsed_dims_.tolist() == [2]
    assert vae.elbo_ <= PPCA(3, noise_variance=noise).fit(X).elbo_ + 1e-10
    lengths = np.sqrt((vae.loadings_**2).sum(axis=0))
    if vae.solver == "em":
        assert vae.elbo_ == pytest.approx(PPCA(3, noise_variance=noise).fit(X).elbo_, abs=1e-8)
        assert lengths[2] == 0.0
        np.testing.assert_allclose(vae.kl_per_dim_[2], 0, atol=1e-12)
        assert vae.encoder_variance_[2] == 1.0
        # The noise is wrong, and the gap says by how much: the rest is stationary.
        assert abs(vae.entropy_gap_.noise) > 0.1
        np.testing.assert_allclose(vae.entropy_gap_.dimensions, 0, atol=1e-8)
    share = (kl_of_rows(vae, vae.transform(X)) > 0.01).mean(axis=0)
    assert share[2] <= 0.01 < share[1]


def test_noise_has_a_floor_and_the_gap_says_so():
    X = np.random.default_rng(0).normal(size=(50, 2)) @ [[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]]
    vae = LinearVAE(2, random_state=0).fit(X)
    assert vae.noise_variance_ == pytest.approx(1e-12 * X.var(axis=0).mean(), abs=0)
    assert vae.entropy_gap_.active_bounds == ("noise variance",)
    assert LinearVAE(1, random_state=0).fit(X).entropy_gap_.active_bounds == ()
    assert np.isfinite(vae.score(X))


@pytest.mark.parametrize("model", MODELS)
def test_nothing_depends_on_units_or_offsets(model):
    X = make_rows()
    vae, other = fitted(model), clone(model).fit(2.0**20 * X - 2.0**23)
    tolerance = 1e-3 if model.solver == "stochastic" else 1e-6
    moved = other.elbo_ + 8 * 20 * np.log(2.0)
    assert moved == pytest.approx(vae.elbo_, abs=tolerance)
    np.testing.assert_allclose(other.loadings_, 2.0**20 * vae.loadings_, rtol=1e-3, atol=1e3)


@pytest.mark.some(3)
@pytest.mark.parametrize("model", MODELS)
def test_fits_are_reproducible_and_leave_numpys_generator_alone(model):
    X = make_rows(d=50)
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    first, second = (clone(model).fit(X) for _ in range(2))
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
    np.testing.assert_array_equal(first.loadings_, second.loadings_)
    other = clone(model).set_params(random_state=1).fit(X)
    assert not np.array_equal(first.elbo_history_, other.elbo_history_)


@pytest.mark.some(3)
@pytest.mark.parametrize("model", MODELS)
def test_dtype_pickle_and_feature_names(model):
    X = make_rows().astype(np.float32)
    vae = clone(model).fit(X)
    assert vae.transform(X).dtype == vae.loadings_.dtype == np.float32
    assert vae.sample(3, random_state=0)[0].dtype == np.float32
    assert vae.score(X) == pytest.approx(vae.elbo_, rel=1e-4)
    again = pickle.loads(pickle.dumps(vae))
    np.testing.assert_array_equal(again.score_samples(X), vae.score_samples(X))
    assert vae.get_feature_names_out().tolist() == ["linearvae0", "linearvae1", "linearvae2"]


@pytest.mark.parametrize("model", [MODELS[0], MODELS[1]])
def test_draws_have_the_covariance_of_the_model(model):
    vae = fitted(model)
    X, Z = vae.sample(200_000, random_state=0)
    C = vae.get_covariance()
    np.testing.assert_allclose(np.cov(X.T), C, atol=0.02 * np.abs(C).max())
    np.testing.assert_allclose((Z**2).mean(axis=0), vae.prior_variance_, rtol=0.02)
    residuals = X - vae.inverse_transform(Z)
    assert residuals.var() == pytest.approx(vae.noise_variance_, rel=0.01)


def test_pandas_output():
    X = pandas.DataFrame(make_rows(), columns=[f"x{j}" for j in range(8)])
    vae = LinearVAE(2, random_state=0).set_output(transform="pandas").fit(X)
    assert vae.transform(X).columns.tolist() == ["linearvae0", "linearvae1"]
    assert vae.feature_names_in_.tolist() == X.columns.tolist()


def test_grid_search_over_the_noise_and_pipelines():
    X = load_iris().data
    grid = {"noise_variance": [None, 0.01, 0.05, 0.5, 5.0], "n_components": [1, 2]}
    found, of_ppca = (
        GridSearchCV(model, grid, cv=3).fit(X) for model in (LinearVAE(random_state=0), PPCA())
    )
    expected = of_ppca.cv_results_["mean_test_score"]
    np.testing.assert_allclose(found.cv_results_["mean_test_score"], expected, atol=1e-4)
    assert found.best_params_ == of_ppca.best_params_
    pipeline = make_pipeline(StandardScaler(), LinearVAE(2, random_state=0)).fit(X)
    expected = LinearVAE(2, random_state=0).fit(StandardScaler().fit_transform(X)).elbo_
    assert pipeline.score(X) == pytest.approx(expected)


def test_em_warns_where_it_has_not_converged():
    vae = LinearVAE(2, max_iter=2, random_state=0)
    with pytest.warns(ConvergenceWarning, match=r"not converged after max_iter=2 iterations"):
        vae.fit(DIGITS)
    assert vae.n_iter_ == 2
    assert len(vae.elbo_history_) == 3
    with warnings.catch_warnings(action="error"), pytest.raises(ConvergenceWarning):
        vae.fit(DIGITS[:, :50])
    assert vae.loadings_.shape == (64, 2)
    assert vae.elbo_ <= PPCA(2, svd_solver="full").fit(DIGITS).elbo_


def test_adam_ends_where_nothing_is_gained():
    settled = LinearVAE(1, solver="adam", tol=1e-3, learning_rate=0.01, random_state=0)
    settled.fit(make_rows())
    assert settled.n_iter_ < 2000
    assert settled.elbo_ == pytest.approx(PPCA(1).fit(make_rows()).elbo_, abs=0.01)


@pytest.mark.parametrize("solver", [ADAM, STOCHASTIC])
def test_divergence_leaves_a_finite_model(solver):
    vae = LinearVAE(2, **{**solver, "learning_rate": 1e6}, random_state=0)
    with pytest.raises(FloatingPointError, match=r"learning_rate=1000000\.0 is too large"):
        vae.fit(make_rows())
    assert np.isfinite(vae.score(make_rows()))
    assert np.isfinite(vae.elbo_history_).all()


@pytest.mark.parametrize("solver", [ADAM, STOCHASTIC])
def test_an_interrupted_training_keeps_what_it_had_learned(solver, monkeypatch):
    X, steps = make_rows(), []
    update = Adam.update

    def interrupted(self):
        update(self)
        steps.append(1)
        if len(steps) == 10:
            raise KeyboardInterrupt

    monkeypatch.setattr(Adam, "update", interrupted)
    vae = LinearVAE(3, **solver, random_state=0)
    with pytest.warns(UserWarning, match="Training was interrupted after"):
        vae.fit(X)
    assert vae.n_iter_ == (10 if vae.solver == "adam" else 1)
    assert vae.solver == "stochastic" or vae.elbo_history_[-1] == pytest.approx(vae.elbo_, abs=1e-9)
    assert vae.score(X) == pytest.approx(vae.elbo_, abs=1e-9)


@pytest.mark.parametrize("solver", [ADAM, STOCHASTIC])
def test_progress_is_shown_if_asked_for(solver, capsys):
    LinearVAE(2, **solver, random_state=0).fit(make_rows())
    assert capsys.readouterr().err == ""
    LinearVAE(2, **solver, verbose=1, random_state=0).fit(make_rows())
    assert ("step" if solver is ADAM else "epoch") in capsys.readouterr().err


ERRORS = [
    ({"n_components": 0}, "n_components must be None, an integer >= 1, a float in (0, 1) or 'mle'"),
    ({"n_components": 9}, "n_components must be between 1 and min(n_samples, n_features) = 8"),
    ({"n_components": "all"}, "n_components must be None, an integer >= 1, a float in (0, 1)"),
    ({"noise_variance": 0.0}, "noise_variance must be None or a positive float, got 0.0."),
    ({"noise_variance_init": -1}, "noise_variance_init must be None or a positive float, got -1."),
    (
        {"noise_variance": 1.0, "noise_variance_init": 1.0},
        "noise_variance_init must be None if noise_variance is fixed",
    ),
    ({"solver": "sgd"}, "solver must be one of 'em', 'adam', 'stochastic', got 'sgd'."),
    ({"parametrization": 2}, "parametrization must be one of 'standard', 'unit_encoder', got 2."),
    ({"learning_rate": 0}, "learning_rate must be a finite number > 0, got 0."),
    ({"max_iter": 0}, "max_iter must be an integer >= 1, got 0."),
    ({"tol": -1e-3}, "tol must be a finite number >= 0, got -0.001."),
    ({"batch_size": 1.5}, "batch_size must be an integer >= 1, got 1.5."),
    ({"n_mc_samples": 0}, "n_mc_samples must be an integer >= 1, got 0."),
    ({"forgetting": 0.0}, "forgetting must be in (0, 1], got 0.0."),
    ({"forgetting": 1.5}, "forgetting must be in (0, 1], got 1.5."),
    ({"verbose": -1}, "verbose must be an integer >= 0, got -1."),
    ({"solver": "adam", "device": "abacus"}, "device must be 'auto' or a torch device"),
]


@pytest.mark.parametrize(("parameters", "message"), ERRORS)
def test_errors_name_the_parameter_and_leave_what_was_learned(parameters, message):
    X = make_rows()
    vae = LinearVAE(2, random_state=0).fit(X)
    before = vae.score(X)
    vae.set_params(**parameters)
    with pytest.raises(ValueError, match=re.escape(message)):
        vae.fit(X)
    assert vae.score(X) == before


def test_errors_of_rows():
    vae = LinearVAE(2)
    with pytest.raises(NotFittedError):
        vae.score(make_rows())
    with pytest.raises(ValueError, match="X must contain at least two different samples"):
        vae.fit(np.full((5, 3), 0.1))
    with pytest.raises(ValueError, match="contains NaN"):
        vae.fit([[1.0, np.nan], [2.0, 3.0]])
    with pytest.raises(ValueError, match="finite squares"):
        vae.fit(make_rows() * 1e200)
    with pytest.raises(ValueError, match="Z must have 2 columns"):
        vae.fit(make_rows()).inverse_transform(np.zeros((1, 3)))


@pytest.mark.parametrize("scale", [1e-40, 1e20])  # the encoder, and the noise variance
def test_models_beyond_the_range_of_their_dtype(scale):
    X = (scale * make_rows(6, 8)).astype(np.float32)
    vae = LinearVAE(2).fit(make_rows())
    before = vae.encoder_weights_
    with pytest.raises(ValueError, match=r"model of X is beyond the range of float32\. Scale"):
        vae.fit(X)
    assert vae.encoder_weights_ is before
    assert np.isfinite(LinearVAE(2).fit(X.astype(float)).score(X.astype(float)))


@pytest.mark.parametrize("factor", [1e-101, 1e101])
def test_a_noise_variance_too_far_from_those_of_the_data(factor):
    X = make_rows()
    value = factor * X.var(axis=0).mean()
    message = r"must differ by a factor of at most 1e\+100 from the average variance of a feature"
    with pytest.raises(ValueError, match=f"noise_variance {message}"):
        LinearVAE(2, noise_variance=value).fit(X)
    with pytest.raises(ValueError, match=f"noise_variance_init {message}"):
        LinearVAE(2, solver="adam", noise_variance_init=value, max_iter=1).fit(X)
    with pytest.raises(ValueError, match=f"noise_variance {message}"):
        LinearVAE(2, noise_variance=value).partial_fit(X)
    within = LinearVAE(2, noise_variance=value / factor**0.02).fit(X)
    assert np.isfinite(within.score(X))
