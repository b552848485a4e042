"""Whatever the rows: the right answer or a clear error, and nothing learned is lost."""

import copy
import re
import warnings
from contextlib import chdir
from decimal import Decimal
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from sklearn_vae import (
    PPCA,
    PPCACV,
    BernoulliPPCA,
    DeepAutoencoder,
    DeepBernoulliVAE,
    DeepGaussianVAE,
    FactorAnalysis,
    FactorAnalysisCV,
    FactorAnalysisImputer,
    GaussianImputer,
    LinearVAE,
    PPCAImputer,
    TabularVAE,
)
from sklearn_vae.validation import is_integer
from tests.sharing import shared

# The fits stop after few steps.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

NET = {"hidden_layer_sizes": (4,), "max_epochs": 2, "batch_size": 4, "random_state": 0}
GRADIENT = {"max_iter": 3, "random_state": 0}

LINEAR = [
    PPCA(),
    PPCA(1),
    PPCA(2, noise_variance=0.5),
    PPCA(0),
    PPCA(0.9, coordinates="principal"),
    PPCA("mle", coordinates="whitened"),
    PPCA(1, svd_solver="arpack", random_state=0),
    PPCA(2, svd_solver="randomized", random_state=0),
    PPCA(2, svd_solver="covariance_eigh"),
    PPCA(2, svd_solver="full"),
    PPCA(1, max_iter=20),
    PPCACV(cv=2),
    PPCACV([0, 1], noise_variance=[None, 0.5], cv=2, selection="one_standard_error"),
    FactorAnalysis(),
    FactorAnalysis(1, max_iter=20, rotation="varimax"),
    FactorAnalysis(2, max_iter=20, rotation="oblimin"),
    FactorAnalysis(1, noise_variance=0.5),
    FactorAnalysisCV([0, 1], cv=2, max_iter=20),
    PPCACV([0, 1], cv=2, held_out="entries"),
    PPCAImputer(max_iter=20),
    FactorAnalysisImputer(1, n_fits=2, max_iter=20),
    GaussianImputer(n_fits=2),
    PPCAImputer(1, add_indicator=True, keep_empty_features=True, max_iter=20),
    PPCAImputer(1, missing_values=-1.0, noise_variance=0.5, max_iter=20),
    BernoulliPPCA(1, max_iter=20, random_state=0),
    BernoulliPPCA(2, binarize=0.0, max_iter=20, random_state=0),
    BernoulliPPCA(1, binarize=0.0, inference="per_sample", max_iter=5, random_state=0),
    LinearVAE(1, max_iter=20, random_state=0),
    LinearVAE(None, parametrization="unit_encoder", max_iter=20, random_state=0),
    LinearVAE(2, noise_variance=0.5, max_iter=20, random_state=0),
    LinearVAE(1, solver="adam", **GRADIENT),
    LinearVAE(2, solver="adam", parametrization="unit_encoder", **GRADIENT),
    LinearVAE(1, solver="stochastic", batch_size=2, **GRADIENT),
    LinearVAE(2, solver="stochastic", parametrization="unit_encoder", **GRADIENT),
]
DEEP = [
    DeepGaussianVAE(2, **NET),
    DeepGaussianVAE(2, **NET, noise_model="diagonal"),
    DeepGaussianVAE(1, **NET, noise_update="gradient", n_mc_samples=2),
    DeepGaussianVAE(1, **NET, noise_model="diagonal", noise_update="gradient"),
    DeepGaussianVAE(1, **NET, noise_variance=0.5, early_stopping=True, kl_warmup_epochs=1),
    DeepGaussianVAE(2, **NET, noise_model="heteroscedastic", prior="learned_variance"),
    DeepGaussianVAE(2, **NET, variational_family="sylvester"),
    DeepGaussianVAE(1, **NET, init="ppca"),
    DeepGaussianVAE(2, **NET, objective="iwae", n_mc_samples=3, free_bits=0.0),
    DeepGaussianVAE(1, **NET, precision="float32", free_bits=0.1),
    DeepBernoulliVAE(2, **NET),
    DeepBernoulliVAE(1, **NET, binarize=0.0, prior="learned_variance"),
    TabularVAE(1, **NET),
    TabularVAE(2, **NET, column_types={0: "heavy_tailed"}, handle_unknown="missing"),
    DeepAutoencoder(2, **NET),
    DeepAutoencoder(1, **NET, early_stopping=True, precision="float32"),
]
ESTIMATORS = LINEAR + DEEP

# What scikit-learn says of X without a name for it.
OF_X = (
    r"\bX\b|^Column \S+ |Found array with|Expected 2D array|Complex data not supported|[Ss]parse data|"
    r"could not convert string to float|bytes/strings|(float|int)\(\) argument must be|"
    r"setting an array element|minimum of|complex"
)
# What a fit that has to stop early says, and scikit-learn of rows with other names than in fit.
EXPECTED_WARNINGS = [
    (UserWarning, "kl_warmup_epochs="),
    (ConvergenceWarning, ".*"),
    (UserWarning, "X (has|does not have valid) feature"),
    (UserWarning, "Skipping features without any observed values"),
]


@st.composite
def tables(draw):
    """Rows of every shape, dtype and scale, most of them with something the matter."""
    n = draw(st.integers(0, 3) | st.integers(4, 12))
    d = draw(st.integers(0, 2) | st.integers(3, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    X = rng.standard_normal((n, d))
    kind = draw(st.sampled_from(["normal"] * 4 + ["bits", "counts", "cauchy", "low rank"]))
    if kind == "bits":
        X = (X > 0).astype(float)
    elif kind == "counts":
        X = np.round(3 * X)
    elif kind == "cauchy":
        X = rng.standard_cauchy((n, d))
    elif kind == "low rank":
        X = np.outer(rng.standard_normal(n), rng.standard_normal(d))
    if draw(st.booleans()):
        exponent = draw(st.integers(-12, 12) | st.integers(-320, 308))
        with np.errstate(all="ignore"):
            X = X * 10.0**exponent if exponent > -300 else X * 1e-300 * 10.0 ** (exponent + 300)
            X = X + draw(st.sampled_from([0.0, 0.0, 1.0, -1e8])) * 10.0 ** max(exponent, -300)
    if n and d:
        for spoil in draw(st.lists(st.sampled_from(list(SPOILS)), max_size=2, unique=True)):
            X = SPOILS[spoil](X, rng)
    dtype = draw(st.sampled_from(["float64"] * 5 + ["float32"] * 3 + OTHER_DTYPES))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        X = X.astype(dtype)
    return CONTAINERS[draw(st.sampled_from(["array"] * 9 + list(CONTAINERS)))](X)


OTHER_DTYPES = ["float16", "longdouble", "int64", "int8", "uint8", "bool", "complex64", "O", "U8"]
CONTAINERS = {
    "array": lambda X: X,
    "fortran": np.asfortranarray,
    "strided": lambda X: np.repeat(X, 2, axis=0)[::2],
    "read-only": lambda X: (X.flags.__setattr__("writeable", False), X)[1],
    "list": lambda X: X.tolist(),
    "frame": lambda X: pd.DataFrame(X).add_prefix("c"),
    "vector": lambda X: X.ravel(),
    "cube": lambda X: X[None],
    "sparse": lambda X: sparse.csr_array(X) if X.dtype.kind in "fiu" and X.itemsize > 2 else X,
    "None": lambda X: None,
    "text": lambda X: "rows",
    "ragged": lambda X: [[1.0, 2.0], [3.0]],
}


def _with_entry(value):
    def spoil(X, rng):
        X[rng.integers(len(X)), rng.integers(X.shape[1])] = value
        return X

    return spoil


def _constant_column(X, rng):
    X[:, rng.integers(X.shape[1])] = X[0, 0]
    return X


def _scaled_column(X, rng):
    with np.errstate(all="ignore"):
        X[:, rng.integers(X.shape[1])] *= 10.0 ** rng.integers(-200, 150)
    return X


def _empty_column(X, rng):
    X[:, rng.integers(X.shape[1])] = np.nan
    return X


SPOILS = {
    "nan": _with_entry(np.nan),
    "infinity": _with_entry(np.inf),
    "-infinity": _with_entry(-np.inf),
    "outlier": _with_entry(1e200),
    "minus one": _with_entry(-1.0),
    "constant column": _constant_column,
    "scaled column": _scaled_column,
    "empty column": _empty_column,
    "duplicated rows": lambda X, rng: X[rng.integers(len(X), size=len(X))],
    "equal rows": lambda X, rng: np.repeat(X[:1], len(X), axis=0),
    "equal columns": lambda X, rng: np.repeat(X[:, :1], X.shape[1], axis=1),
    "zeros": lambda X, rng: np.zeros_like(X),
}

GOOD = np.random.default_rng(0).uniform(size=(12, 4))


@shared
def _fitted(index):
    return clone(ESTIMATORS[index]).fit(GOOD)


def fitted(index):
    """A copy of an estimator fitted to GOOD."""
    return copy.deepcopy(_fitted(index))


@shared
def _results_of_fitted(index):
    return results_of(fitted(index), GOOD)


def results_of(model, X):
    """What every method gives for rows X; the error in its place where that is one."""
    found = {}
    for name in ("transform", "posterior", "score_samples", "score", "impute", "log_likelihood"):
        if hasattr(model, name):
            found[name] = result_of(getattr(model, name), X)
    if not isinstance(found["transform"], Exception) and hasattr(model, "inverse_transform"):
        for name in ("inverse_transform", "conditional"):
            if hasattr(model, name):
                found[name] = result_of(getattr(model, name), found["transform"])
    if hasattr(model, "sample"):
        found["sample"] = result_of(model.sample, 3, random_state=0)
    for name in ("get_covariance", "get_precision"):
        if hasattr(model, name):
            found[name] = result_of(getattr(model, name))
    return found


def result_of(method, *args, **options):
    try:
        return method(*args, **options)
    except Exception as error:  # noqa: BLE001
        return error


def check_error(error, model, parameters=None):
    """It is of a documented type, and names what is wrong: X, or one of the parameters."""
    assert isinstance(error, ValueError | TypeError | MemoryError), repr(error)
    names = "|".join(model.get_params() if parameters is None else parameters)
    texts = rf"\b({names})\b" + ("" if parameters else f"|{OF_X}")
    assert re.search(texts, str(error)), repr(error)


IMPUTERS = PPCAImputer | FactorAnalysisImputer | GaussianImputer


def shapes_of(model, n, d):
    k = getattr(model, "n_components_", None)
    if isinstance(model, IMPUTERS):
        return {}
    return {
        "transform": [(n, k)],
        "posterior": [(n, k), (n, k)],
        "score_samples": [(n,)],
        "log_likelihood": [(n,)],
        "inverse_transform": [(n, d)],
        "conditional": [(n, d), (n, d)],
        "impute": [(n, d)],
        "sample": [(3, d), (3, k)],
        "get_covariance": [(d, d)],
        "get_precision": [(d, d)],
    }


def check_results(model, found, n, d):
    shapes = shapes_of(model, n, d)
    for name, value in found.items():
        if isinstance(value, Exception):
            # The one thing that a fitted model may refuse to do with the rows of its fit.
            assert model.noise_variance_ == 0.0, (name, value)
            assert "needs a noise variance above 0" in str(value), (name, value)
            continue
        arrays = value if isinstance(value, tuple) else (value,)
        for i, array in enumerate(arrays):
            array = array.toarray() if sparse.issparse(array) else np.asarray(array)
            if name == "impute" and isinstance(model, IMPUTERS):
                array = array[:, model._observed]  # in others what is missing stays NaN
            if isinstance(model, TabularVAE):  # whose tables have the dtype of X
                array = array.astype(float)
            assert array.dtype in (np.float32, np.float64), (name, array.dtype)
            assert np.isfinite(array).all(), (name, array)
            assert name not in shapes or array.shape == shapes[name][i], (name, array.shape)


# Documented: with k at the rank of the rows and no noise the likelihood has no bound, and a
# posterior without variance is infinitely far from the prior.
WITHOUT_NOISE = {"kl_per_dim_", "mutual_information_", "elbo_", "entropy_bound_"}


def check_attributes(model):
    infinite_may_be = set()
    if isinstance(model, PPCA | PPCACV) and model.noise_variance_ == 0.0:
        infinite_may_be = WITHOUT_NOISE | {"loglike_history_"}
    for name, value in vars(model).items():
        if not name.endswith("_") or name.startswith("_") or name in ("history_", "cv_results_"):
            continue
        if not isinstance(value, float | np.ndarray) or np.asarray(value).dtype.kind != "f":
            continue
        if name in infinite_may_be:
            assert not np.isnan(value).any(), (name, value)
            assert not (np.asarray(value) == -np.inf).any(), (name, value)
        else:
            assert np.isfinite(value).all(), (name, value)
    for name, value in getattr(model, "history_", {}).items():
        if name in ("bound", "noise_variance"):
            assert np.isfinite(value).all(), (name, value)


def check_fit(index, X):
    model = clone(ESTIMATORS[index])
    parameters = set(vars(model))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for category, text in EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", text, category)
        error = result_of(model.fit, X)
        if isinstance(error, FloatingPointError):
            assert "The parameters after" in str(error), error
            assert hasattr(model, "n_iter_")
        elif isinstance(error, Exception):
            check_error(error, model)
            assert set(vars(model)) == parameters
            check_nothing_is_lost(index, X)
            return
        check_attributes(model)
        n, d = X.shape if hasattr(X, "shape") else np.shape(X)
        check_results(model, found := results_of(model, X), n, d)
        check_answer(model, X, found)


def check_nothing_is_lost(index, X):
    # Of its own it has the attributes; what is in them is compared with what it was.
    model = copy.copy(_fitted(index))
    kept = dict(vars(model))
    error = result_of(model.fit, X)
    assert isinstance(error, Exception)
    assert not isinstance(error, FloatingPointError)
    assert {name: id(value) for name, value in vars(model).items()} == {
        name: id(value) for name, value in kept.items()
    }
    found, expected = results_of(model, GOOD), _results_of_fitted(index)
    for name, value in found.items():
        np.testing.assert_equal(value, expected[name])
    error = result_of(model.transform, X)
    assert not isinstance(error, Exception) or check_error(error, model) is None


def check_answer(model, X, found):
    """Densities of linear Gaussian models, and a bound on those of others."""
    if not isinstance(model, PPCA | PPCACV | LinearVAE) or model.noise_variance_ == 0.0:
        return
    X = np.asarray(X.toarray() if sparse.issparse(X) else X, dtype=np.float64)
    if np.isnan(X).any():
        return
    W, sigma2 = np.asarray(model.loadings_, np.float64), float(model.noise_variance_)
    W = W * np.sqrt(getattr(model, "prior_variance_", 1.0))
    C = (W / sigma2**0.5) @ (W / sigma2**0.5).T + np.eye(len(W))
    if not np.isfinite(C).all() or (condition := np.linalg.cond(C)) > 1e6:
        return
    Y = (X - model.mean_) / sigma2**0.5
    distances = np.einsum("ij,ij->i", Y, np.linalg.solve(C, Y.T).T)
    constants = len(W) * np.log(2 * np.pi * sigma2) + np.linalg.slogdet(C)[1]
    expected = -0.5 * (distances + constants)
    got = found["score_samples"]
    eps = np.finfo(np.result_type(model.loadings_, np.float32)).eps
    # C is known to eps, its inverse to eps cond(C); rows to eps of the largest number in them.
    mean_error = eps * np.abs(np.concatenate([X.ravel(), model.mean_])).max() / sigma2**0.5
    norms = np.linalg.norm(Y, axis=1)
    of_mean = np.inf  # where the mean is not known to its own square
    if mean_error < 1e150:
        of_mean = mean_error * (norms + mean_error)
    of_inverse = eps * condition * (distances + np.abs(constants) + 1)
    tolerance = 50 * len(W) * (of_inverse + of_mean)
    if isinstance(model, LinearVAE):
        assert (got <= expected + tolerance).all(), (got, expected, tolerance)
    else:
        assert (np.abs(got - expected) <= tolerance).all(), (got, expected, tolerance)


indices = st.integers(0, len(ESTIMATORS) - 1)
BAD_VALUES = [
    *(None, True, 0, -1, 1, 2, 3, 10**12, 10**30, np.int64(2), np.bool_(True)),
    *(0.0, 0.5, 1.0, 1.5, -0.5, np.nan, np.inf, -np.inf, 1e-320, 1e308, np.float32(0.5), 1j),
    *("", "abc", "auto", b"a", (), (2,), [2], [0.5, "a"], {}, {1: 2}, {2}, object(), len, int),
    *(np.array(2), np.array([1, 2]), np.array([0.5] * 4), np.zeros((2, 2)), np.array([])),
    *(np.random.RandomState(0), np.random.default_rng(0), range(2), [None], [[1]], Decimal(1)),
]
# Valid, but no test could wait for it.
ENDLESS = {"max_iter", "max_epochs", "iterated_power", "n_init", "n_fits"}


@st.composite
def configurations(draw, indices=indices):
    """An estimator with one parameter or two of any kind."""
    index = draw(indices)
    names = sorted(ESTIMATORS[index].get_params())
    parameters = draw(
        st.dictionaries(st.sampled_from(names), st.sampled_from(BAD_VALUES), min_size=1, max_size=2)
    )
    for name in ENDLESS & set(parameters):
        if is_integer(parameters[name]) and parameters[name] > 3:
            parameters[name] = 3
    return index, parameters


def check_parameters(index, parameters):
    model = fitted(index).set_params(**parameters)
    kept = dict(vars(model))
    # A string may name a folder for checkpoints: a new one for each fit.
    with TemporaryDirectory() as folder, chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("error")
        for category, text in EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", text, category)
        error = result_of(model.fit, GOOD)
    if error is not model and not isinstance(error, FloatingPointError):
        if not any(
            callable(value) for value in parameters.values()
        ):  # whose own errors are passed on
            check_error(error, model, parameters)
        assert vars(model).keys() == kept.keys()
        assert all(value is kept[name] for name, value in vars(model).items())
        return
    check_attributes(model)
    check_results(model, results_of(model, GOOD), *GOOD.shape)


@pytest.mark.some(8, "slow")
@pytest.mark.parametrize("index", range(len(ESTIMATORS)))
def test_numbers_of_numpy_are_as_good_as_those_of_python(index):
    # GridSearchCV takes them from np.arange and np.logspace.
    numbers = {
        name: value
        for name, value in ESTIMATORS[index].get_params().items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    as_numpy = {name: np.asarray(value)[()] for name, value in numbers.items()}
    expected = fitted(index).transform(GOOD)
    found = clone(ESTIMATORS[index]).set_params(**as_numpy).fit(GOOD).transform(GOOD)
    np.testing.assert_array_equal(found, expected)


def fuzz(n_cases):
    return settings(
        max_examples=n_cases,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


# At length an estimator at a time, with cases of its own, so that workers share the work.
at_length = pytest.mark.parametrize("index", range(len(ESTIMATORS)))


def cases_of(index, n_cases, *strategies):
    """Decorator of a check of one estimator: its share of so many cases."""
    share = fuzz(n_cases // len(ESTIMATORS) + 1)
    same = seed(index) if settings.default.derandomize else lambda check: check
    return lambda check: same(share(given(*strategies)(check)))


@fuzz(50)
@given(indices, tables())
def test_bad_rows_give_a_right_answer_or_a_clear_error(index, X):
    check_fit(index, X)


@pytest.mark.some(8, "slow")
@pytest.mark.parametrize("index", range(len(ESTIMATORS)))
def test_a_huge_value_beside_a_missing_one(index):
    check_fit(index, np.array([[np.nan, 0.8, 0.3], [1e200, 0.9, 0.4], [np.nan, 0.1, 0.9]]))


@pytest.mark.slow
@at_length
def test_many_bad_rows_give_a_right_answer_or_a_clear_error(index):
    @cases_of(index, 480, tables())
    def check(X):
        check_fit(index, X)

    check()


@fuzz(40)
@given(configurations())
def test_bad_parameters_are_named_or_do(configuration):
    check_parameters(*configuration)


@pytest.mark.slow
@at_length
def test_many_bad_parameters_are_named_or_do(index):
    @cases_of(index, 240, configurations(st.just(index)))
    def check(configuration):
        check_parameters(*configuration)

    check()


@st.composite
def far_rows(draw):
    """Rows for the models of GOOD, of any size, some with a missing value."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    X = rng.standard_normal((draw(st.integers(1, 5)), GOOD.shape[1]))
    dtype = draw(st.sampled_from([np.float64, np.float64, np.float32]))
    largest = np.finfo(dtype).max
    X = np.clip(X * 10.0 ** draw(st.integers(-300, 307)), -largest, largest)
    if draw(st.integers(0, 3)) == 0:
        X[0, rng.integers(X.shape[1])] = np.nan
    return X.astype(dtype)


def check_far(index, X):
    """No NaN, and no density but one below the range of floats; else an error that names it."""
    model = copy.copy(_fitted(index))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # NumPy says so where a number of float64 is none of float32.
        warnings.filterwarnings("ignore", "overflow encountered in cast", RuntimeWarning)
        found = results_of(model, X)
    for name, value in found.items():
        if isinstance(value, Exception):
            assert isinstance(value, ValueError), (name, value)
            assert re.search(r"\b([XZ]|noise_variance)\b", str(value)), (name, value)
            continue
        for array in value if isinstance(value, tuple) else (value,):
            assert not np.isnan(array).any(), (name, array)
            if name in ("score", "score_samples", "log_likelihood"):
                assert (np.asarray(array) < np.inf).all(), (name, array)


@fuzz(40)
@given(indices, far_rows())
def test_rows_far_from_those_of_the_fit_give_no_nan(index, X):
    check_far(index, X)


@pytest.mark.slow
@at_length
def test_many_rows_far_from_those_of_the_fit_give_no_nan(index):
    @cases_of(index, 240, far_rows())
    def check(X):
        check_far(index, X)

    check()
