"""The tabular VAE: types, dtypes, and conditional distributions against integrals over z."""

import copy

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from numpy.random import RandomState
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sklearn_vae import FactorAnalysis, TabularVAE
from sklearn_vae.deep.table_imputation import TableImputation
from sklearn_vae.diagnostics import collapse, diagnose, entropy_bound
from sklearn_vae.serialization import load, save
from tests.deep.tables import SIZES, TYPES, N, fitted, hide, make_table
from tests.tables.frames import TABLES
from tests.tables.test_codec import assert_same

SMALL = {"hidden_layer_sizes": (6,), "max_epochs": 2, "random_state": 0}
GRID = np.linspace(-6.0, 6.0, 1201)


def on_grid(model, X):
    """Return p(x|z) at each point z of GRID, and p(z|x) there of shape (n_points, n_samples)."""
    x = model._as_tensor((model.observations(X) - model.mean_) / model.scale_)
    z = model._as_tensor(GRID[:, None, None])
    p = model.module_.decode(z.expand(-1, len(x), -1))
    terms = p.log_prob_columns(x[None].expand(len(GRID), -1, -1)).sum(-1)
    p = model.module_.decode(z)
    log_joint = terms - 0.5 * torch.from_numpy(GRID**2)[:, None]
    return p, torch.softmax(log_joint, 0), torch.logsumexp(log_joint, 0)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(params=["complete", "incomplete"])
def model(request):
    return fitted(request.param)


@pytest.fixture(scope="module")
def incomplete():
    return hide(make_table(60, seed=5), share=0.4, seed=2)


def test_types_are_inferred_and_shown(model):
    assert model.column_types_ == TYPES
    assert model.categories_ == {
        "flag": [False, True],
        "colour": ["blue", "green", "red"],
        "size": SIZES,
    }
    assert list(model.feature_names_in_) == list(TYPES)


def test_log_likelihood_of_observed_cells_is_the_integral_over_z(model, incomplete):
    X, _ = incomplete
    _, _, log_sum = on_grid(model, X)
    constant = np.log(GRID[1] - GRID[0]) - 0.5 * np.log(2.0 * np.pi)
    scales = ~X.isna().to_numpy() @ np.log(model.scale_)
    exact = log_sum.numpy() + constant - scales
    np.testing.assert_allclose(model.log_likelihood(X, 2000), exact, atol=0.1)
    assert (model.score_samples(X) <= exact + 1e-6).all()
    assert np.mean(exact - model.score_samples(X)) < 0.2
    assert model.score(X) == pytest.approx(model.score_samples(X).mean())


def test_imputed_values_are_conditional_means_and_modes(model, incomplete):
    X, holes = incomplete
    p, posterior, _ = on_grid(model, X)
    imputed = model.impute(X, n_samples=2000)
    numbers = model.observations(imputed)
    means = p.mean[:, 0].numpy() * model.scale_ + model.mean_
    for j, column in enumerate(model.codec.columns_):
        if column.limits is not None:  # of the training samples
            means[:, j] = np.clip(means[:, j], *column.limits)
    means = np.einsum("sn,sd->nd", posterior, means)
    spread = make_table().select_dtypes("number").std()
    for j, name in enumerate(X.columns):
        mine, exact = numbers[holes[:, j], j], means[holes[:, j], j]
        if TYPES[name] in ("real", "heavy_tailed"):
            assert np.abs(mine - exact).max() < 0.05 * min(spread[name], 3.0 * exact.std() + 1e-9)
        elif TYPES[name] == "positive":
            np.testing.assert_allclose(mine, exact, rtol=0.15)
            assert np.median(np.abs(mine / exact - 1.0)) < 1e-3
        elif TYPES[name] == "count":
            assert np.abs(mine - exact).max() < 0.5 + 0.05 * exact.max()
    again, std = model.impute(X, return_std=True, n_samples=2000)
    assert_same(again, imputed)
    assert (std[~holes] == 0).all()
    second = torch.einsum("sn,sd->nd", posterior, (p.mean.square() + p.variance)[:, 0])
    exact = second - torch.einsum("sn,sd->nd", posterior, p.mean[:, 0]).square()
    ratio = std[holes] / (exact.sqrt().numpy() * model.scale_)[holes]
    assert np.abs(np.median(ratio) - 1.0) < 1e-3
    assert np.quantile(np.abs(ratio - 1.0), 0.95) < 0.05
    for name in ("flag", "colour", "size"):
        j = X.columns.get_loc(name)
        exact = exact_probabilities(model, X, name)[holes[:, j]]
        chosen = numbers[holes[:, j], j].astype(int)
        best = exact.max(axis=1)
        assert (exact[np.arange(len(exact)), chosen] > best - 0.02).all()


def exact_probabilities(model, X, name):
    """Return p(x_j | all other observed cells) by integration over z."""
    p, posterior, _ = on_grid(model, X.assign(**{name: None}))
    j = X.columns.get_loc(name)
    for part, columns in zip(p.parts, p.columns, strict=True):
        at = np.flatnonzero(np.asarray(columns) == j)
        if at.size:
            return torch.einsum("sn,sc->nc", posterior, part.probabilities[:, 0, at[0]]).numpy()
    raise AssertionError(name)


def test_conditional_probabilities_ignore_the_column_and_are_integrals(model, incomplete):
    X, _ = incomplete
    probabilities = model.conditional_probabilities(X, n_samples=2000)
    assert list(probabilities) == ["flag", "colour", "size"]
    for name, mine in probabilities.items():
        np.testing.assert_allclose(mine.sum(axis=1), 1.0)
        np.testing.assert_allclose(mine, exact_probabilities(model, X, name), atol=0.02)
    without = X.assign(colour=None)
    again = model.conditional_probabilities(without, ["colour"], n_samples=2000)
    np.testing.assert_array_equal(again["colour"], probabilities["colour"])
    truth = X["colour"].map({"blue": 0, "green": 1, "red": 2})
    known = truth.notna()
    accuracy = (probabilities["colour"].argmax(1) == truth)[known].mean()
    assert accuracy > 0.6


def test_draws_have_the_conditional_distribution(model, incomplete):
    X, holes = incomplete
    row = X.iloc[[0]].assign(colour=None, real=np.nan)
    draws = TableImputation(model, model.observations(row), 2000).draw(3000, RandomState(0))
    draws = model.codec.decode(draws[:, 0])
    exact = exact_probabilities(model, row, "colour")[0]
    shares = draws["colour"].value_counts(normalize=True).reindex(["blue", "green", "red"])
    np.testing.assert_allclose(shares.fillna(0.0), exact, atol=0.04)
    p, posterior, _ = on_grid(model, row)
    mean = float(posterior[:, 0] @ p.mean[:, 0, 0]) * model.scale_[0] + model.mean_[0]
    assert draws["real"].mean() == pytest.approx(mean, abs=4 * draws["real"].std() / 3000**0.5 + 1)
    tables = model.impute(X, n_draws=2, random_state=0)
    assert len(tables) == 2
    for table in tables:
        assert table.notna().all().all()
        observed = model.observations(table)[~holes]
        np.testing.assert_array_equal(observed, model.observations(X)[~holes])
    assert not tables[0].equals(tables[1])


def test_conditional_samples_keep_the_given_values(model):
    given = {"colour": "red", 4: True}
    S = model.conditional_sample(given, 2000, random_state=0)
    assert (S["colour"] == "red").all()
    assert S["flag"].all()
    assert S.dtypes.astype(str).to_dict() == model.sample(2, 0)[0].dtypes.astype(str).to_dict()
    row = make_table().iloc[[0]].mask(np.ones((1, 8), dtype=bool)).assign(colour="red", flag=True)
    p, posterior, _ = on_grid(model, row)
    mean = float(posterior[:, 0] @ p.mean[:, 0, 0]) * model.scale_[0] + model.mean_[0]
    assert S["real"].mean() == pytest.approx(mean, abs=5 * S["real"].std() / 2000**0.5)
    assert mean > make_table()["real"].mean() + 20
    everything = model.conditional_sample({}, 2000, random_state=1)
    assert everything["real"].mean() == pytest.approx(
        model.sample(4000, 0, marginals="model")[0]["real"].mean(), abs=6
    )


def test_samples_have_the_distribution_of_the_model(model):
    S, Z = model.sample(4000, random_state=0, marginals="model")
    assert Z.shape == (4000, 1)
    again, _ = model.sample(4000, random_state=0, marginals="model")
    pd.testing.assert_frame_equal(S, again)
    nothing = make_table().iloc[[0]].mask(np.ones((1, 8), dtype=bool))
    for name in ("flag", "colour", "size"):
        shares = S[name].value_counts(normalize=True).reindex(model.categories_[name])
        np.testing.assert_allclose(shares, exact_probabilities(model, nothing, name)[0], atol=0.03)
    p, prior, _ = on_grid(model, nothing)
    for j in (0, 3, 7):
        own = S.iloc[:, j].astype(float)
        mean = float(prior[:, 0] @ p.mean[:, 0, j]) * model.scale_[j] + model.mean_[j]
        assert own.mean() == pytest.approx(mean, abs=5 * own.std() / 4000**0.5)
    assert (S["positive"] > 0).all()
    assert (S["count"] >= 0).all()


@pytest.mark.parametrize("kind", TABLES)
def test_tables_keep_their_container_and_dtypes(kind):
    X = TABLES[kind]()
    model = TabularVAE(2, **SMALL, column_types={"size": SIZES}).fit(X)
    assert_same(model.impute(X), X)
    Z = model.transform(X)
    assert isinstance(Z, np.ndarray)
    tables = [model.sample(5, 0)[0], model.inverse_transform(Z[:5])]
    tables.append(model.conditional_sample({"flag": True}, 5, 0))
    for made in tables:
        if isinstance(X, pl.DataFrame):
            assert made.schema == X.schema
        else:
            assert made.dtypes.equals(X.dtypes)
    if not isinstance(X, pl.DataFrame):
        holes = X.astype({"flag": "boolean"}) if kind == "pandas" else X.copy()
        holes.iloc[::3, 8] = None
        filled = model.impute(holes)
        assert filled.dtypes.equals(X.dtypes)
        assert filled.index.equals(X.index)


def test_arrays_stay_arrays():
    X = make_table(60)[["real", "noise", "count"]].to_numpy()
    model = TabularVAE(1, **SMALL).fit(X)
    assert model.column_types_ == {0: "real", 1: "real", 2: "count"}
    X[0, 0] = np.nan
    assert isinstance(model.impute(X), np.ndarray)
    single = TabularVAE(1, **SMALL).fit(X.astype(np.float32))
    assert single.transform(X.astype(np.float32)).dtype == np.float32


def test_units_of_numbers_do_not_matter():
    X = make_table(60)
    changed = X.assign(real=3.0 * X["real"] - 7.0, positive=5.0 * X["positive"])
    a, b = (TabularVAE(1, **SMALL, init="ppca").fit(table) for table in (X, changed))
    np.testing.assert_allclose(a.transform(X), b.transform(changed), rtol=1e-6, atol=1e-8)
    shift = np.log(3.0) + np.log(5.0)
    np.testing.assert_allclose(a.score_samples(X) - shift, b.score_samples(changed), rtol=1e-7)
    np.testing.assert_allclose(
        list(a.column_gains_.values()), list(b.column_gains_.values()), atol=1e-6
    )


def test_gains_tell_which_columns_the_latents_describe(model):
    gains = model.column_gains_
    assert list(gains) == list(TYPES)
    assert abs(gains["noise"]) < 0.05
    assert all(gain > 0.15 for name, gain in gains.items() if name != "noise")
    assert len(model.kl_per_dim_) == 1
    assert model.collapsed_dims_.size == 0


def test_independent_columns_have_no_gain_for_any_weights():
    rng, n = RandomState(0), 300
    flag = rng.uniform(size=n) < 0.5
    X = {
        "flag": flag,
        "level": np.where(rng.uniform(size=n) < 0.4, 0, rng.poisson(9.0, n)),
        "heavy": rng.standard_t(1.2, n),
    }
    types = {"level": "count", "heavy": "heavy_tailed"}
    options = {"max_epochs": 4, "hidden_layer_sizes": (), "learning_rate": 0.01}
    model = TabularVAE(1, column_types=types, init="ppca", random_state=0, **options)
    gains = model.fit(pd.DataFrame(X), sample_weight=np.where(flag, 20.0, 1.0)).column_gains_
    np.testing.assert_allclose(list(gains.values()), 0.0, atol=0.02)


def test_gains_and_the_divergence_add_up_to_the_bound(model):
    X = make_table() if model is fitted("complete") else hide(make_table())[0]
    shares = X.notna().mean().to_numpy()
    baseline = model._baseline.sum() - shares @ np.log(model.scale_)
    gains = np.array(list(model.column_gains_.values())) @ shares
    assert baseline + gains - model.kl_per_dim_.sum() == pytest.approx(model.elbo_, abs=1e-6)
    assert model.elbo_ == pytest.approx(model.score(X), abs=1e-6)


@pytest.mark.slow
def test_a_linear_decoder_of_real_columns_reaches_factor_analysis():
    rng = np.random.RandomState(0)
    X = rng.standard_normal((300, 1)) @ rng.standard_normal((1, 6)) + rng.standard_normal((300, 6))
    X[rng.uniform(size=X.shape) < 0.1] = np.nan
    options = {"hidden_layer_sizes": (), "max_epochs": 60, "learning_rate": 2e-2}
    vae = TabularVAE(1, **options, init="ppca", random_state=0, n_mc_samples=4).fit(X)
    exact = FactorAnalysis(1).fit(X).score(X)
    assert exact - 0.03 < vae.score(X) <= exact + 1e-3


@pytest.mark.slow
def test_automatic_training_gains_on_validation_samples():
    model = TabularVAE(2, random_state=0).fit(make_table(120))
    assert not model.is_linear_
    assert model.hidden_layer_sizes_ == (64,)
    assert model.history_["validation_bound"][-1] > model.history_["linear_validation_bound"][-1]


def test_files_restore_the_model(model, tmp_path):
    path = tmp_path / "model.safetensors"
    save(model, path)
    again, (X, _) = load(path), hide(make_table(), 0.3)
    assert again.column_types_ == model.column_types_
    assert again.column_gains_ == model.column_gains_
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))
    pd.testing.assert_frame_equal(again.impute(X), model.impute(X))


def test_warm_starts_and_checkpoints(tmp_path):
    X = hide(make_table(60))[0]
    warm = TabularVAE(1, **SMALL, warm_start=True).fit(X)
    before = warm.score(X)
    assert warm.fit(X).score(X) != before
    assert len(warm.net_.history) == 4
    saved = TabularVAE(1, **SMALL, checkpoint=tmp_path, checkpoint_every=1)
    first = clone(saved).fit(X).score(X)
    assert clone(saved).fit(X).score(X) == first


@pytest.mark.slow
def test_pipelines_searches_and_output_containers():
    X = make_table()
    y = X.pop("colour")
    vae = TabularVAE(2, **SMALL, init="ppca")
    pipeline = make_pipeline(vae, LogisticRegression()).fit(X, y)
    assert pipeline.score(X, y) > 0.5
    search = GridSearchCV(vae, {"n_components": [1, 2]}, cv=2).fit(X)
    assert search.best_estimator_.column_types_["size"] == "ordinal"
    Z = clone(vae).set_output(transform="pandas").fit_transform(X)
    assert list(Z.columns) == ["tabularvae0", "tabularvae1"]
    assert Z.index.equals(X.index)
    assert SimpleImputer().fit_transform(Z).shape == (N, 2)


def test_weights_of_samples_are_used():
    X = make_table(60)
    weights = np.where(X["flag"], 5.0, 1.0)
    model = TabularVAE(1, **SMALL, init="ppca").fit(X, sample_weight=weights)
    other = TabularVAE(1, **SMALL, init="ppca").fit(X)
    flagged = X[X["flag"]]
    assert model.score(flagged) > other.score(flagged)


def test_unknown_categories():
    X = make_table(60)
    model = TabularVAE(1, **SMALL).fit(X)
    new = X.assign(colour="pink")
    with pytest.raises(ValueError, match="'colour' contains the unknown category 'pink'"):
        model.score(new)
    tolerant = TabularVAE(1, **SMALL, handle_unknown="missing").fit(X)
    np.testing.assert_array_equal(
        tolerant.score_samples(new), tolerant.score_samples(X.assign(colour=None))
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"real": np.inf}, "Column 'real' is of type 'real'.*finite.*got infinity"),
        ({"colour": None}, "Column 'colour' has no observed value"),
        ({"colour": [f"id {i}" for i in range(60)]}, None),
        ({"size": "M"}, None),
    ],
)
def test_bad_columns(change, message):
    X = make_table(60).assign(**change)
    model = TabularVAE(1, **SMALL, column_types={"size": "categorical"})
    if message is None:
        assert np.isfinite(model.fit(X).score(X))
        assert model.impute(X.assign(**dict.fromkeys(change))).notna().all().all()
        return
    with pytest.raises(ValueError, match=message):
        model.fit(X)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, X: m.conditional_sample({"color": 1}), "no column 'color'"),
        (lambda m, X: m.conditional_sample({"colour": "pink"}), "unknown category 'pink'"),
        (lambda m, X: m.conditional_sample({"count": -1}), "'count'.*>= 0, got -1"),
        (lambda m, X: m.conditional_sample(["red"]), "given must be a dict"),
        (lambda m, X: m.conditional_probabilities(X, ["real"]), "'real' is of type 'real' and has"),
        (
            lambda m, X: m.conditional_probabilities(X, "size"),
            r"columns must be a list.*\['size'\]",
        ),
        (lambda m, X: m.conditional_probabilities(X, 4), r"columns must be a list.*Pass \[4\]"),
        (
            lambda m, X: m.conditional_sample({"flag": True, 4: False}),
            "given once, got 'flag' and 4",
        ),
        (lambda m, X: m.impute(X, n_draws=0), "n_draws must be an integer >= 1"),
        (lambda m, X: m.impute(X.iloc[:, ::-1]), "feature names"),
        (lambda m, X: m.score(X.iloc[:, :3]), "feature names"),
        (lambda m, X: m.score(X.rename(columns={"real": "flag"})), "unique, got 'flag' twice"),
        (lambda m, X: m.sample(0), "n_samples must be an integer >= 1"),
    ],
)
def test_errors_of_methods(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call(fitted("complete"), make_table())


def test_models_that_are_not_fitted():
    model = TabularVAE()
    assert not hasattr(model, "column_types_")
    for call in (model.sample, lambda: model.impute([[1.0]])):
        with pytest.raises(NotFittedError):
            call()


def test_a_failed_fit_keeps_the_model():
    model = copy.deepcopy(fitted("complete"))
    X = make_table()
    before = model.score(X)
    with pytest.raises(ValueError, match="'real'"):
        model.fit(X.assign(real=np.inf))
    assert model.score(X) == before


@pytest.mark.slow
def test_training_that_still_rises_warns():
    X = make_table()
    model = TabularVAE(
        1, hidden_layer_sizes=(8,), max_epochs=20, learning_rate=2e-4, random_state=0
    )
    with pytest.warns(ConvergenceWarning, match="Training has not converged|Training ended below"):
        model.fit(X)


def test_diagnostics_that_need_numbers_say_so():
    model, X = fitted("complete"), make_table()
    assert collapse(model, X).collapsed.size == 0
    assert not model.is_comparable
    for function in (diagnose, entropy_bound):
        with pytest.raises(TypeError, match=r"TabularVAE is a model of tables.*column_gains_"):
            function(model, X)


def test_constants_tell_nothing_and_change_nothing():
    X = make_table(80)[["real", "noise", "flag"]].assign(constant=7.1)
    model = TabularVAE(1, max_epochs=3, init="ppca", hidden_layer_sizes=4, random_state=0).fit(X)
    assert model.column_gains_["constant"] == pytest.approx(0.0, abs=1e-9)
    noise = model.module_.likelihood.blocks[0].log_variance.detach().exp()
    assert noise[2] == pytest.approx(1e-6)
    assert (model.sample(5, random_state=0)[0]["constant"] == 7.1).all()
