"""PPCA in the place of sklearn.decomposition.PCA: the same coordinates and the same predictions."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_iris,
    load_linnerud,
    load_wine,
)
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import IsolationForest, StackingClassifier, VotingClassifier
from sklearn.feature_selection import SelectKBest
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.manifold import Isomap
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, LocalOutlierFactor
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from sklearn_vae import PPCA, PPCACV
from tests.linear.data import SOLVERS

LOADERS = {
    "iris": load_iris,
    "wine": load_wine,
    "cancer": load_breast_cancer,
    "digits": load_digits,
    "diabetes": load_diabetes,
}


@cache
def load(name, n=None):
    X, y = LOADERS[name](return_X_y=True)
    return X[:n], y[:n]


def pca(cls, k=None, *, whiten=False, **parameters):
    """Return PCA or PPCA with the same parameters."""
    if cls is PPCA and whiten:
        parameters["coordinates"] = "whitened"
    elif cls is PCA:
        parameters["whiten"] = whiten
    return cls(k, random_state=0, **parameters)


def predictions(make, name, n=None):
    X, y = load(name, n)
    return lambda cls: cross_val_predict(make(cls), X, y, cv=3)


def scaled(k, *steps, **parameters):
    return lambda cls: make_pipeline(StandardScaler(), pca(cls, k, **parameters), *steps)


def search(cls):
    steps = [("scale", StandardScaler()), ("pca", pca(cls)), ("ridge", Ridge())]
    X, y = load("diabetes")
    grid = {"pca__n_components": [2, 4, 7, 10], "ridge__alpha": [0.1, 10.0]}
    found = GridSearchCV(Pipeline(steps), grid, cv=3, error_score="raise").fit(X, y)
    return np.array([*found.cv_results_["mean_test_score"], *found.predict(X)])


def clusters(cls):
    X = load("digits", 300)[0]
    return KMeans(10, n_init=1, random_state=0).fit_predict(pca(cls, 12).fit_transform(X))


def mixture(cls):
    X = load("wine")[0]
    model = make_pipeline(StandardScaler(), pca(cls, 3, whiten=True))
    return GaussianMixture(3, random_state=0).fit_predict(model.fit_transform(X))


def hierarchy(cls):
    return AgglomerativeClustering(3).fit_predict(scaled(2)(cls).fit_transform(load("wine")[0]))


def union(cls):
    both = FeatureUnion([("pca", pca(cls, 3)), ("best", SelectKBest(k=2))])
    return make_pipeline(StandardScaler(), both, LogisticRegression())


def columns(cls):
    frame, y = load_breast_cancer(return_X_y=True, as_frame=True)
    names = list(frame)
    halves = ColumnTransformer(
        [("mean", scaled(3)(cls), names[:10]), ("rest", pca(cls, 4), names[10:])]
    ).set_output(transform="pandas")
    Z = halves.fit_transform(frame)
    assert isinstance(Z, pd.DataFrame)
    assert Z.shape == (569, 7)
    model = make_pipeline(clone(halves), StandardScaler(), LogisticRegression())
    return cross_val_predict(model, frame, y, cv=3)


def manifold(cls):
    return Isomap(n_neighbors=12).fit_transform(pca(cls, 10).fit_transform(load("digits", 150)[0]))


def of_sparse(cls):
    X, y = load("digits", 400)
    model = make_pipeline(pca(cls, 15, svd_solver="arpack"), SVC())
    return cross_val_predict(model, sparse.csr_array(X), y, cv=3)


def in_float32(cls):
    X, y = load("digits", 400)
    model = make_pipeline(pca(cls, 15), KNeighborsClassifier())
    return cross_val_predict(model, X.astype(np.float32), y, cv=3)


def more_features_than_samples(cls):
    X, y = load("digits", 60)
    model = make_pipeline(pca(cls), LogisticRegression(C=1e-3))
    return model.fit(X[:40], y[:40]).predict(X)


def targets(cls):
    X, Y = load_linnerud(return_X_y=True)
    # The transformer of the targets is inverted for the prediction.
    model = TransformedTargetRegressor(
        LinearRegression(), transformer=pca(cls, 2), check_inverse=False
    )
    return model.fit(X, Y).predict(X)


def denoised(cls):
    X, y = load("digits", 300)
    model = pca(cls, 8).fit(X)
    nearest = KNeighborsClassifier(1).fit(X, y)
    return nearest.predict(model.inverse_transform(model.transform(load("digits", 500)[0])))


def outliers(cls):
    Z = scaled(5)(cls).fit_transform(load("cancer", 200)[0])
    forest = IsolationForest(n_estimators=20, random_state=0).fit(Z)
    return np.concatenate([forest.predict(Z), LocalOutlierFactor().fit_predict(Z)])


def stacked(cls):
    members = [("lda", LinearDiscriminantAnalysis()), ("bayes", GaussianNB())]
    return make_pipeline(
        StandardScaler(), pca(cls, 3), StackingClassifier(members, LogisticRegression(), cv=2)
    )


def voting(cls):
    members = [(f"k{k}", scaled(k, LogisticRegression())(cls)) for k in (1, 3, 5)]
    return VotingClassifier(members, voting="soft")


def polynomial(cls):
    return make_pipeline(StandardScaler(), pca(cls, 2), PolynomialFeatures(2), Ridge())


CASES = {
    "logistic regression": predictions(scaled(10, LogisticRegression()), "cancer"),
    "support vectors": predictions(scaled(0.9, SVC()), "digits", 400),
    "neighbors": predictions(scaled(4, KNeighborsClassifier()), "wine"),
    "tree": predictions(scaled(3, DecisionTreeClassifier(random_state=0)), "iris"),
    "naive Bayes, whitened": predictions(scaled(5, GaussianNB(), whiten=True), "wine"),
    "discriminants, mle": predictions(scaled("mle", LinearDiscriminantAnalysis()), "cancer"),
    "kernel map": predictions(
        scaled(6, Nystroem(n_components=20, random_state=0), LogisticRegression()), "cancer", 300
    ),
    "principal component regression": predictions(scaled(5, LinearRegression()), "diabetes"),
    "polynomial regression": predictions(polynomial, "diabetes"),
    "grid search": search,
    "k-means": clusters,
    "mixture": mixture,
    "hierarchy": hierarchy,
    "feature union": predictions(union, "wine"),
    "columns of pandas": columns,
    "manifold": manifold,
    "sparse": of_sparse,
    "float32": in_float32,
    "wide": more_features_than_samples,
    "targets": targets,
    "denoising": denoised,
    "outliers": outliers,
    "stacking": predictions(stacked, "wine"),
    "voting": predictions(voting, "cancer", 300),
}


@pytest.mark.some(4)
@pytest.mark.parametrize("case", CASES)
def test_a_pipeline_predicts_the_same(case):
    expected, found = CASES[case](PCA), CASES[case](PPCA)
    if np.issubdtype(expected.dtype, np.integer):
        assert len(np.unique(expected)) > 1
        np.testing.assert_array_equal(found, expected)
    else:
        atol = 1e-9 * np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=atol)


@pytest.mark.parametrize("case", ["logistic regression", "k-means", "targets"])
def test_other_coordinates_would_not(case):
    # The test above can fail.
    expected = CASES[case](PCA)
    found = CASES[case](lambda k, **parameters: PPCA(k, coordinates="posterior", **parameters))
    assert not np.array_equal(found, expected)


def falling(n, d, dtype=np.float64, offset=3.0):
    """Samples with well separated variances, which the randomized solver finds exactly."""
    rng = np.random.default_rng(0)
    rank = min(n, d)
    X = rng.normal(size=(n, rank)) * 0.8 ** np.arange(rank) @ rng.normal(size=(rank, d))
    return (X + offset).astype(dtype)


@pytest.mark.cover(2, 3)
@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("k", [None, 1, 4])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", [(300, 8), (40, 12), (9, 30), (15, 15)])
@pytest.mark.parametrize("solver", ["auto", *SOLVERS])
def test_coordinates_are_those_of_pca(solver, shape, dtype, k, whiten):
    X = falling(*shape, dtype)
    options = {"whiten": whiten, "svd_solver": solver, "iterated_power": 20}
    theirs, ours = (pca(cls, k, **options).fit(X) for cls in (PCA, PPCA))
    wide = X.astype(np.float64)
    exact = PCA(ours.n_components_, whiten=whiten, svd_solver="full").fit(wide)
    varies = exact.explained_variance_ > 1e-10 * exact.explained_variance_[0]
    ratio = float(np.divide(*exact.singular_values_[varies][[0, -1]]))
    Z = np.where(varies, theirs.transform(X), 0)  # directions without variance are arbitrary
    for compute in (
        lambda model, X: clone(model).fit_transform(X)[:, varies],
        lambda model, X: model.transform(X)[:, varies],
        lambda model, X: model.transform(X[:5] + X.dtype.type(0.25))[:, varies],
        lambda model, X: model.inverse_transform(Z.astype(X.dtype)),
    ):
        results = compute(ours, X), compute(theirs, X), compute(exact, wide)
        assert_differ_by_rounding(*results, ratio)


def assert_differ_by_rounding(found, expected, exact, ratio):
    """Compare with PCA; in float32, compare the errors of both.

    Singular vectors are rounded relative to the gaps and to `ratio`, that of the singular values.
    """
    assert found.dtype == expected.dtype
    scale = np.abs(exact).max()
    if found.dtype == np.float64:
        np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-9 * scale)
        return
    error, error_of_pca = (np.abs(array - exact).max() for array in (found, expected))
    assert error <= error_of_pca + 16 * np.finfo(np.float32).eps * ratio * scale


@pytest.mark.parametrize("k", [1, 4, 0.9])
@pytest.mark.parametrize("solver", ["arpack", "covariance_eigh"])
def test_coordinates_of_sparse_samples(solver, k):
    if solver == "arpack" and k == 0.9:
        return
    X = sparse.csr_array(load("digits", 300)[0])
    theirs, ours = (pca(cls, k, svd_solver=solver).fit(X) for cls in (PCA, PPCA))
    expected = theirs.transform(X)
    np.testing.assert_allclose(ours.transform(X), expected, atol=1e-9 * np.abs(expected).max())
    np.testing.assert_allclose(ours.fit_transform(X), expected, atol=1e-9 * np.abs(expected).max())
    found = ours.inverse_transform(expected)
    np.testing.assert_allclose(found, theirs.inverse_transform(expected), atol=1e-9)


@pytest.mark.parametrize("cls", [PPCA, PPCACV])
def test_posterior_and_conditional_are_of_the_latent_variables(cls):
    X = load("wine")[0]
    models = {
        name: cls(3, coordinates=name).fit(X) for name in ("principal", "whitened", "posterior")
    }
    assert cls(3).coordinates == "principal"
    reference = models["posterior"]
    Z = reference.transform(X)
    for model in models.values():
        np.testing.assert_allclose(model.posterior(X)[0], Z, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(model.conditional(Z)[0], reference.inverse_transform(Z))
        samples, latents = model.sample(400, random_state=0)
        rest = samples - model.conditional(latents)[0]
        assert np.mean(rest**2) == pytest.approx(model.noise_variance_, rel=0.1)


@pytest.mark.parametrize("coordinates", ["principal", "whitened"])
def test_the_noise_variance_changes_the_score_but_not_the_coordinates(coordinates):
    X = load("wine")[0]
    models = [PPCA(2, noise_variance=s, coordinates=coordinates).fit(X) for s in (1.0, 1e9)]
    assert models[1].collapsed_dims_.size == 2
    assert models[0].score(X) != models[1].score(X)
    np.testing.assert_array_equal(models[0].transform(X), models[1].transform(X))
    Z = models[0].transform(X)
    np.testing.assert_array_equal(models[0].inverse_transform(Z), models[1].inverse_transform(Z))
