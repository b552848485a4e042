"""Factor analysis of tables, against the models of a single kind of columns and planted structure."""

import copy

import numpy as np
import pandas as pd
import polars
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import nbinom, norm
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from sklearn_vae import BernoulliPPCA, FactorAnalysis, MixedFactorAnalysis
from sklearn_vae.diagnostics import collapse, diagnose, entropy_bound
from sklearn_vae.gaussian.factor_analysis import CONSTANT_NOISE
from sklearn_vae.serialization import load, save
from tests.helpers import slow
from tests.sharing import shared

TYPES = {
    "size": "real",
    "price": "positive",
    "visits": "count",
    "owner": "binary",
    "color": "categorical",
    "grade": "ordinal",
}


def make_table(n=80, seed=0, share_missing=0.15):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 2))
    score = z @ rng.normal(size=(2, 3)) + rng.gumbel(size=(n, 3))
    table = pd.DataFrame(
        {
            "size": 50.0 + 10.0 * z[:, 0] + 3.0 * rng.normal(size=n),
            "price": np.exp(2.0 + z[:, 1] + 0.2 * rng.normal(size=n)),
            "visits": rng.poisson(np.exp(1.0 + 0.7 * z[:, 0])),
            "owner": z[:, 1] + rng.logistic(size=n) > 0.0,
            "color": np.array(["red", "green", "blue"])[score.argmax(axis=1)],
            "grade": pd.Categorical(
                np.array(["low", "mid", "high"])[
                    np.digitize(z @ [1.5, 1.0] + rng.normal(size=n), [-1, 1])
                ],
                categories=["low", "mid", "high"],
                ordered=True,
            ),
        }
    )
    hidden = rng.uniform(size=table.shape) < share_missing
    nullable = table.astype({"visits": "Int64", "owner": "boolean"})
    return nullable.mask(hidden), table, hidden


@shared
def fitted(covariance="full"):
    X, _, _ = make_table()
    options = {"column_types": TYPES, "covariance": covariance, "random_state": 0, "tol": 1e-6}
    return MixedFactorAnalysis(2, penalty=0, **options).fit(X)


def reals(n=60, share_missing=0.0, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2)) @ rng.normal(size=(2, 6)) + rng.normal(size=(n, 6)) + 5.0
    X[rng.uniform(size=X.shape) < share_missing] = np.nan
    return X


def all_of(kind, d=6):
    return dict.fromkeys(range(d), kind)


@pytest.mark.parametrize("share_missing", [0.0, 0.2])
def test_real_columns_give_factor_analysis(share_missing):
    X = reals(share_missing=share_missing)
    reference = FactorAnalysis(2).fit(X)
    model = MixedFactorAnalysis(2, column_types=all_of("real")).fit(X)
    np.testing.assert_allclose(model.loadings_, reference.loadings_, atol=1e-8)
    np.testing.assert_allclose(model.noise_, reference.noise_variance_, atol=1e-8)
    np.testing.assert_allclose(model.score_samples(X), reference.score_samples(X), atol=1e-8)
    np.testing.assert_allclose(model.transform(X), reference.transform(X), atol=1e-8)
    np.testing.assert_allclose(model.impute(X), reference.impute(X), atol=1e-8)
    assert model.elbo_ == pytest.approx(reference.elbo_, abs=1e-8)
    assert model.elbo_history_[-1] == pytest.approx(model.elbo_, abs=1e-8)
    np.testing.assert_allclose(
        model.impute(X, return_std=True)[1], reference.impute(X, return_std=True)[1], atol=1e-8
    )


def test_the_general_search_finds_factor_analysis_too():
    X = reals(200, share_missing=0.2, seed=1)
    reference = FactorAnalysis(1).fit(X)
    # With one latent, diagonal covariances are no restriction, and nothing is delegated.
    types = all_of("real")
    model = MixedFactorAnalysis(1, column_types=types, covariance="diagonal", tol=1e-10).fit(X)
    assert model.score(X) == pytest.approx(reference.score(X), abs=1e-8)


def test_positive_columns_are_real_in_their_logarithms():
    logs = 0.3 * reals(share_missing=0.1)
    model = MixedFactorAnalysis(2, column_types=all_of("positive")).fit(np.exp(logs))
    reference = FactorAnalysis(2).fit(logs)
    expected = reference.score_samples(logs) - np.nansum(logs, axis=1)
    np.testing.assert_allclose(model.score_samples(np.exp(logs)), expected, atol=1e-8)
    assert model.elbo_history_[-1] == pytest.approx(model.elbo_, abs=1e-8)


def make_bits(n=50, seed=0):
    rng = np.random.default_rng(seed)
    logits = 2.0 * rng.normal(size=(n, 2)) @ rng.normal(size=(2, 6))
    return (rng.uniform(size=(n, 6)) < 1.0 / (1.0 + np.exp(-logits))).astype(float)


def test_binary_columns_give_bernoulli_ppca():
    X = make_bits()
    options = {"column_types": all_of("binary"), "random_state": 0, "tol": 1e-8}
    model = MixedFactorAnalysis(2, covariance="diagonal", **options).fit(X)
    reference = BernoulliPPCA(2, inference="per_sample", random_state=0, tol=1e-8).fit(X)
    np.testing.assert_allclose(model.loadings_, reference.loadings_, atol=1e-8)
    np.testing.assert_allclose(model.score_samples(X), reference.score_samples(X), atol=1e-8)
    np.testing.assert_allclose(model.transform(X), reference.transform(X), atol=1e-8)
    Z = [[0.5, -0.5]]
    np.testing.assert_allclose(model.conditional(Z)[0], reference.inverse_transform(Z), atol=1e-12)
    # With one latent, full covariances are the same family, and another search.
    one = BernoulliPPCA(1, inference="per_sample", random_state=0, tol=1e-10).fit(X)
    assert MixedFactorAnalysis(1, **options).fit(X).elbo_ == pytest.approx(one.elbo_, abs=1e-7)


@pytest.mark.parametrize("covariance", ["full", *slow("diagonal")])
def test_the_fit_rises_to_a_stationary_point(covariance):
    model, (X, _, _) = fitted(covariance), make_table()
    assert (np.diff(model.elbo_history_) >= -1e-10).all()
    assert model.elbo_history_[-1] == pytest.approx(model.elbo_, abs=1e-8)
    assert model.score(X) == pytest.approx(model.elbo_, abs=1e-10)
    assert model.certificate_.converged
    assert model.certificate_.remaining_gain <= 1e-6
    assert model.elbo_ <= fitted().elbo_ + 1e-6  # the larger family
    # No small change of a parameter raises the bound by more than the certificate says.
    rng = np.random.default_rng(0)
    for _ in range(3):
        moved = clone(model)
        moved.set_state(model.get_state())
        for name in ("loadings_", "intercept_", "noise_"):
            value = getattr(model, name)
            setattr(moved, name, value * (1.0 + 0.01 * rng.normal(size=value.shape)))
        moved.loadings_[-1] = moved.loadings_[-2]  # of the ordinal column
        assert moved.score(X) < model.elbo_ + 1e-6


def test_the_penalty_is_that_of_priors():
    X = make_table(50)[0][["size", "owner", "grade", "visits"]]
    types = {name: TYPES[name] for name in X}
    model = MixedFactorAnalysis(1, column_types=types, random_state=0, tol=1e-8).fit(X)
    assert model.penalty_ == 1.0

    def objective(model):
        size = X["size"].dropna().to_numpy()
        W = model.loadings_[[0, 1, 2, 3]] / np.array([size.std(), 1.0, 1.0, 1.0])[:, None]
        share = 0.2 * size.var() / model.noise_[0]
        return model.score(X) - 0.5 * (np.sum(W**2) + share - np.log(share) - 1.0) / len(X)

    assert objective(model) == pytest.approx(model.elbo_history_[-1], abs=1e-8)
    assert (np.diff(model.elbo_history_) >= -1e-10).all()
    rng = np.random.default_rng(0)
    for _ in range(5):
        moved = copy.deepcopy(model)
        for name in ("loadings_", "intercept_", "noise_"):
            value = getattr(model, name)
            setattr(moved, name, value * (1.0 + 0.01 * rng.normal(size=value.shape)))
        moved.loadings_[-1] = moved.loadings_[-2]  # of the ordinal column
        assert objective(moved) < objective(model)


def test_gains_and_the_divergence_add_up_to_the_bound():
    model, (X, _, _) = fitted(), make_table()
    gains = np.array([model.column_gains_[name] for name in TYPES])
    n = X.notna().sum().to_numpy()
    alone = []  # likelihoods of the columns without latents, from other packages
    for name, kind in TYPES.items():
        x = X[name].dropna()
        if kind in ("real", "positive"):
            y = np.log(x) if kind == "positive" else x
            log_p = norm.logpdf(y, y.mean(), y.std(ddof=0))
            alone.append(np.sum(log_p - y if kind == "positive" else log_p))
        elif kind == "count":
            x, m = x.to_numpy(dtype=float), float(x.mean())
            found = minimize_scalar(
                lambda t, x=x, m=m: -nbinom.logpmf(x, np.exp(t), 1 / (1 + m / np.exp(t))).sum()
            )
            alone.append(-found.fun)
        else:
            share = x.value_counts(normalize=True)[lambda p: p > 0]
            alone.append(len(x) * (share * np.log(share)).sum())
    total = (gains @ n + np.sum(alone)) / len(X) - model.kl_per_dim_.sum()
    # Frequencies of categories have half a count more, and kl_per_dim_ ignores correlations.
    _, covariance = model.posterior(X, return_cov=True)
    diagonal = np.log(np.einsum("nhh->nh", covariance)).sum(axis=1)
    more = 0.5 * np.mean(diagonal - np.linalg.slogdet(covariance)[1])
    assert model.elbo_ == pytest.approx(total - more, abs=2e-3)


def test_an_independent_column_has_no_gain():
    X = make_table(400, share_missing=0.1)[0]
    noise = np.random.default_rng(1).poisson(3.0, size=400)
    model = MixedFactorAnalysis(1, column_types=TYPES, random_state=0)
    gains = model.fit(X.assign(noise=noise)).column_gains_
    assert abs(gains["noise"]) < 0.05
    assert gains["size"] > 0.3


def test_separable_categories_have_finite_loadings():
    X = pd.DataFrame({"x": np.arange(20.0), "y": np.arange(20) > 9})
    model = MixedFactorAnalysis(1, random_state=0).fit(X)
    assert np.abs(model.loadings_[1]).max() < 5.0
    filled = model.impute(X.assign(y=None))["y"]
    assert (filled == X["y"]).mean() > 0.9


def test_imputed_counts_do_not_exceed_training_samples():
    rng = np.random.default_rng(0)
    z = rng.normal(size=200)
    X = pd.DataFrame({"x": z, "n": rng.poisson(np.exp(1.0 + z)), "g": np.where(z > 0, "a", "b")})
    model = MixedFactorAnalysis(1, column_types={"n": "count", "x": "real"}, random_state=0).fit(X)
    far = X.head(5).assign(n=None, x=50.0)
    assert (model.impute(far)["n"] <= X["n"].max()).all()
    assert model.conditional(model.transform(far))[0][:, 1].min() > X["n"].max()


def test_the_orientation_makes_the_average_precision_diagonal():
    X, _, _ = make_table()
    _, covariance = fitted().posterior(X, return_cov=True)
    precision = np.linalg.inv(covariance).mean(axis=0)
    assert abs(precision[0, 1]) < 1e-6
    assert precision[0, 0] > precision[1, 1]


def test_latents_with_diagonal_covariances_are_sorted_by_their_loadings():
    X = make_table()[0][["size", "owner", "grade"]]
    types = {name: TYPES[name] for name in X}
    model = MixedFactorAnalysis(2, column_types=types, covariance="diagonal", random_state=0)
    W = model.fit(X).loadings_ / np.array([[X["size"].std(ddof=0)], [1.0], [1.0], [1.0]])
    first, second = np.square(W).sum(axis=0)
    assert first > second > 0.01


def test_hidden_cells_are_imputed_better_than_by_marginals():
    X, table, hidden = make_table(300, share_missing=0.25)
    model = MixedFactorAnalysis(2, column_types=TYPES, random_state=0, tol=1e-3).fit(X)
    filled, std = model.impute(X, return_std=True)
    assert filled.dtypes.equals(X.dtypes)
    assert not filled.isna().any().any()
    pd.testing.assert_frame_equal(filled.where(~hidden), X)
    for j, name in enumerate(table):
        cells, truth = hidden[:, j], table[name][hidden[:, j]]
        assert (std[cells, j] > 0.0).all()
        assert (std[~cells, j] == 0.0).all()
        if model.column_types_[name] in ("real", "count"):
            truth = truth.to_numpy(dtype=float)
            error = filled[name].to_numpy(dtype=float)[cells] - truth
            assert np.mean(error**2) < 0.8 * truth.var()
        elif name != "price":
            accuracy = np.mean(filled[name][cells].astype(str) == truth.astype(str))
            mode = table[name][~cells].mode()[0]
            assert accuracy > np.mean(truth.astype(str) == str(mode)) + 0.05
    error = (filled["size"] - table["size"])[hidden[:, 0]] / std[hidden[:, 0], 0]
    assert 0.7 < error.std() < 1.4


def test_probabilities_of_categories():
    model, (X, _, _) = fitted(), make_table()
    by_column = model.conditional_probabilities(X)
    assert list(by_column) == ["owner", "color", "grade"]
    for name, p in by_column.items():
        assert p.shape == (len(X), len(model.categories_[name]))
        np.testing.assert_allclose(p.sum(axis=1), 1.0, atol=1e-12)
        # The value itself is ignored, and the most probable category is imputed.
        filled = model.impute(X.assign(**{name: None}))[name].astype(str)
        labels = np.array([str(c) for c in model.categories_[name]])
        assert (labels[p.argmax(axis=1)] == filled.to_numpy()).all()
    with pytest.raises(ValueError, match=r"'size' is of type 'real' and has no categories"):
        model.conditional_probabilities(X, ["size"])


def test_draws_have_the_conditional_distribution():
    model, (X, _, _) = fitted(), make_table()
    given = {"size": 60.0, "grade": "high"}
    drawn = model.conditional_sample(given, 4000, random_state=0)
    assert (drawn["size"] == 60.0).all()
    assert (drawn["grade"] == "high").all()
    one = drawn.head(1).assign(price=None, visits=None, owner=None, color=None)
    std = model.impute(one, return_std=True)[1]
    p = model.conditional_probabilities(one)
    assert drawn["owner"].mean() == pytest.approx(p["owner"][0, 1], abs=0.04)
    for j, color in enumerate(model.categories_["color"]):
        assert (drawn["color"] == color).mean() == pytest.approx(p["color"][0, j], abs=0.04)
    assert drawn["visits"].astype(float).std() == pytest.approx(std[0, 2], rel=0.2)
    first, second = model.impute(X, n_draws=2, random_state=0)
    assert first.dtypes.equals(X.dtypes)
    pd.testing.assert_frame_equal(first.where(X.notna()), X)
    assert not first.equals(second)
    with pytest.raises(TypeError, match="given must be a dict of values by column"):
        model.conditional_sample([1.0])


def test_containers_come_back():
    X, table, _ = make_table()
    model = fitted()
    drawn, Z = model.sample(50, random_state=0)
    assert drawn.dtypes.equals(X.dtypes)
    assert Z.shape == (50, 2)
    assert model.inverse_transform(Z).dtypes.equals(X.dtypes)
    frame = polars.DataFrame(
        {name: table[name].astype(str).tolist() for name in TYPES if name in ("color", "grade")}
        | {"size": table["size"].to_numpy()}
    )
    frame = frame.with_columns(polars.when(polars.col("size") > 50).then("size").alias("size"))
    assert MixedFactorAnalysis(1, random_state=0).fit(frame).impute(frame).schema == frame.schema
    transformed = copy.copy(model).set_output(transform="pandas").transform(X)
    assert list(transformed.columns) == ["mixedfactoranalysis0", "mixedfactoranalysis1"]


def test_weights_are_repetitions():
    X = make_table(40)[0][["size", "owner", "grade"]]
    weights = np.random.default_rng(0).integers(0, 3, size=40)
    model = MixedFactorAnalysis(1, random_state=0, tol=1e-9)
    weighted = clone(model).fit(X, sample_weight=weights)
    repeated = clone(model).fit(X.loc[X.index.repeat(weights)])
    assert weighted.elbo_ == pytest.approx(repeated.elbo_, abs=1e-7)
    np.testing.assert_allclose(weighted.loadings_, repeated.loadings_, atol=1e-3)


def test_units_names_and_order_of_categories_do_not_matter():
    X = make_table()[0][["size", "owner", "color"]]
    model = MixedFactorAnalysis(1, random_state=0).fit(X)
    # Alphabetical order, and thus the codes, change.
    other = X.assign(
        size=1e3 * X["size"], color=X["color"].map({"red": "a", "green": "z", "blue": "m"})
    )
    same = clone(model).fit(other)
    n_observed = X["size"].notna().mean()
    assert same.elbo_ == pytest.approx(model.elbo_ - n_observed * np.log(1e3), abs=1e-6)
    p = model.conditional_probabilities(X)["color"]
    q = same.conditional_probabilities(other)["color"]
    names = [{"a": "red", "z": "green", "m": "blue"}[c] for c in same.categories_["color"]]
    order = [names.index(c) for c in model.categories_["color"]]
    np.testing.assert_allclose(p, q[:, order], atol=1e-3)


def test_constant_columns_and_columns_of_one_category():
    X, _, _ = make_table()
    more = X.assign(only="a", zero=0, same=3.0, visits=0)
    types = {**TYPES, "only": "categorical", "zero": "count", "same": "real"}
    model = MixedFactorAnalysis(1, column_types=types, random_state=0, tol=1e-3).fit(more)
    empty = more.head(3).assign(only=None, zero=None, same=None)
    filled = model.impute(empty)
    assert (filled["only"] == "a").all()
    assert (filled["zero"] == 0).all()
    np.testing.assert_allclose(filled["same"].astype(float), 3.0)
    assert np.isfinite(model.score_samples(more)).all()
    assert model.noise_[2] == CONSTANT_NOISE  # of the third real or positive column, "same"


@pytest.mark.filterwarnings("ignore:The noise variance of feature")  # of three samples
@pytest.mark.parametrize(("n_samples", "n_components"), [(20, 4), (3, 5)])
def test_more_components_than_real_columns_or_samples(n_samples, n_components):
    table = np.random.default_rng(0).normal(size=(20, 4))[:n_samples]
    X = pd.DataFrame(table, columns=list("abcd")).assign(only="x")
    if n_samples > 4:
        X = X.drop(columns="d")
    real = X.drop(columns="only")
    types = dict.fromkeys(real, "real")
    model = MixedFactorAnalysis(n_components, column_types=types, tol=1e-3).fit(X)
    k = min(real.shape)
    assert model.loadings_.shape == (real.shape[1], n_components)
    assert (model.loadings_[:, k:] == 0.0).all()
    assert set(range(k, n_components)) <= set(model.collapsed_dims_)
    assert model.elbo_ == pytest.approx(FactorAnalysis(k, tol=1e-8).fit(real).elbo_, abs=1e-6)


def test_nothing_varies():
    X = np.column_stack([np.ones(5), np.zeros(5)])
    model = MixedFactorAnalysis(1, column_types={0: "count", 1: "count"}).fit(X[:, [1, 1]])
    assert (model.collapsed_dims_ == [0]).all()
    assert model.elbo_ == model.elbo_history_[-1]


def test_saved_models_are_the_same(tmp_path):
    model, (X, _, _) = fitted(), make_table()
    save(model, tmp_path / "model")
    loaded = load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.score_samples(X), model.score_samples(X))
    pd.testing.assert_frame_equal(loaded.impute(X), model.impute(X))


def test_parameters_of_a_later_fit_do_not_change_the_model():
    model, (X, _, _) = copy.deepcopy(fitted()), make_table()
    model.set_params(covariance="diagonal", handle_unknown="missing")
    np.testing.assert_array_equal(model.score_samples(X), fitted().score_samples(X))
    with pytest.raises(ValueError, match="unknown category 'pink'"):
        model.score(X.assign(color="pink"))


def test_diagnostics_that_need_numbers_name_attributes_of_the_model():
    model, (X, _, _) = fitted(), make_table()
    assert collapse(model, X).collapsed.size == 0
    assert not model.is_comparable  # p(x|z) is not normal
    for function in (diagnose, entropy_bound):
        with pytest.raises(TypeError, match=r"attributes kl_per_dim_, .*, column_gains_, certifi"):
            function(model, X)


def test_grid_search_over_the_number_of_components():
    model = MixedFactorAnalysis(column_types=all_of("real"))
    search = GridSearchCV(model, {"n_components": [1, 2]}, cv=2).fit(reals(400, seed=0))
    assert search.best_params_ == {"n_components": 2}


def test_a_fit_that_has_not_converged_warns():
    X, _, _ = make_table(50)
    model = MixedFactorAnalysis(2, column_types=TYPES, max_iter=2, random_state=0, tol=1e-6)
    with pytest.warns(ConvergenceWarning, match=r"has not converged after 2 iterations"):
        model.fit(X)
    assert model.n_iter_ == 2
    assert not model.certificate_.converged


@pytest.mark.parametrize(
    ("change", "parameters", "message"),
    [
        ({}, {"n_components": 7}, r"n_components must be between 1 and n_features=6, got 7\."),
        ({}, {"n_components": 0}, r"n_components must be an integer >= 1, got 0\."),
        ({}, {"covariance": "low"}, r"covariance must be one of 'full', 'diagonal', got 'low'\."),
        ({}, {"handle_unknown": "skip"}, "handle_unknown must be one of"),
        ({"visits": -1}, {}, r"'visits' is of type 'count', which requires values >= 0, got -1"),
        ({"price": 0.0}, {}, r"'price' is of type 'positive', which requires values > 0, got 0"),
        ({"size": np.inf}, {}, r"'size' .* finite values, got infinity"),
        ({"color": None}, {}, r"Column 'color' has no observed value"),
    ],
)
def test_bad_input(change, parameters, message):
    X, _, _ = make_table(30)
    options = {"column_types": TYPES, **parameters}
    with pytest.raises(ValueError, match=message):
        MixedFactorAnalysis(**options).fit(X.assign(**change))


def test_columns_without_weight_and_unknown_categories():
    X, _, _ = make_table(30)
    X.loc[1:, "color"] = None
    X.loc[0, "color"] = "red"
    weights = np.r_[0.0, np.ones(29)]
    with pytest.raises(ValueError, match=r"'color' has no observed value"):
        MixedFactorAnalysis(1, column_types=TYPES).fit(X, sample_weight=weights)
    model, new = fitted(), make_table(3)[0].assign(color="pink")
    with pytest.raises(ValueError, match=r"'color' contains the unknown category 'pink'"):
        model.score(new)
    lenient = MixedFactorAnalysis(1, column_types=TYPES, handle_unknown="missing", tol=1e-3)
    lenient.fit(make_table(30)[0])
    missing = new.assign(color=pd.Series([None] * 3, dtype=object))
    np.testing.assert_allclose(lenient.score_samples(new), lenient.score_samples(missing))
