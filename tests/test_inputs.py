"""Data in the containers that users bring, and output in those that they ask for."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.utils import get_tags
from torch.utils.data import DataLoader, TensorDataset

from sklearn_vae import (
    PPCA,
    PPCACV,
    BernoulliPPCA,
    DeepAutoencoder,
    DeepBernoulliVAE,
    DeepGaussianVAE,
    DensityPipeline,
    Dequantizer,
    FactorAnalysis,
    FactorAnalysisCV,
    FactorAnalysisImputer,
    GaussianImputer,
    LinearVAE,
    LogitTransformer,
    Moments,
    PPCAImputer,
    TabularVAE,
    plot,
)
from sklearn_vae import diagnostics as diag
from sklearn_vae.datasets import make_missing
from tests.helpers import name_of
from tests.sharing import shared

rng = np.random.default_rng(0)
X = rng.integers(1, 9, (40, 4)) / 10 + 0.01 * rng.uniform(size=(40, 4))
COLUMNS = ["a", "b", "c", "d"]
SMALL = {"hidden_layer_sizes": (4,), "max_epochs": 2, "batch_size": 16, "random_state": 0}

ESTIMATORS = [
    PPCA(2),
    PPCA(2, coordinates="principal", svd_solver="arpack", random_state=0),
    PPCACV([1, 2], cv=2),
    PPCAImputer(1),
    FactorAnalysisImputer(1, n_fits=2, random_state=0),
    GaussianImputer(n_fits=2),
    FactorAnalysis(1, noise_variance=0.01),
    LinearVAE(2),
    LinearVAE(2, solver="stochastic", max_iter=2, tol=1e3, random_state=0),
    BernoulliPPCA(1, binarize=0.45, random_state=0),
    DeepGaussianVAE(2, **SMALL),
    DeepBernoulliVAE(2, **SMALL),
    DeepAutoencoder(2, **SMALL),
    TabularVAE(2, **SMALL),
    LogitTransformer(),
    DensityPipeline([("logit", LogitTransformer()), ("model", PPCA(1))]),
]
# Estimators that take missing values.
INCOMPLETE = [
    PPCA(1),
    PPCACV([0, 1], cv=2),
    PPCAImputer(1),
    FactorAnalysisImputer(1, n_fits=2, random_state=0),
    GaussianImputer(n_fits=2),
    FactorAnalysis(1, noise_variance=0.01),
    FactorAnalysisCV(0, cv=2),
    DeepGaussianVAE(2, **SMALL),
    DeepBernoulliVAE(2, **SMALL),
    TabularVAE(2, **SMALL),
]
MISSING = np.zeros(X.shape, dtype=bool)
MISSING[3, 1] = MISSING[7, 0] = MISSING[20, 3] = True
HOLES = np.where(MISSING, np.nan, X)


def frame_of(values, nothing):
    """DataFrame of objects in which missing values are `nothing`."""
    objects = values.astype(object)
    objects[MISSING] = nothing
    return pd.DataFrame(objects, columns=COLUMNS)


def with_missing(values):
    """The same data with missing values, in each of the containers that have some."""
    arrow = pd.DataFrame(values, columns=COLUMNS).astype("Float64").mask(MISSING, pd.NA)
    nothing = [
        [None if MISSING[i, j] else x for j, x in enumerate(row)]
        for i, row in enumerate(values.tolist())
    ]
    return {
        "masked": np.ma.array(np.where(MISSING, -999.0, values), mask=MISSING),
        "nullable": arrow,
        "objects with None": frame_of(values, None),
        "objects with NA": frame_of(values, pd.NA),
        "objects with NaT": frame_of(values, pd.NaT),
        "object array": frame_of(values, pd.NA).to_numpy(),
        "list with None": nothing,
        "list of masked rows": list(np.ma.array(np.where(MISSING, -999.0, values), mask=MISSING)),
        "masked objects": np.ma.array(values.astype(object), mask=MISSING),
        "pyarrow": pa.Table.from_pandas(arrow),
        "polars": pl.DataFrame(nothing, schema=COLUMNS, orient="row"),
    }


@pytest.mark.cover(1)
@pytest.mark.parametrize("kind", list(with_missing(X)))
@pytest.mark.parametrize("estimator", INCOMPLETE, ids=name_of)
def test_missing_values_of_every_kind_are_nan(estimator, kind):
    expected = clone(estimator).fit(HOLES)
    data = with_missing(X)[kind]
    model = clone(estimator).fit(data)
    imputed = np.asarray(model.impute(data), dtype=float)  # tables keep their container
    np.testing.assert_allclose(imputed, expected.impute(HOLES), rtol=1e-10)
    np.testing.assert_allclose(model.transform(data), expected.transform(HOLES), rtol=1e-10)


@pytest.mark.cover(1, 1)
@pytest.mark.parametrize("kind", list(with_missing(X)))
@pytest.mark.parametrize(
    "estimator",
    [e for e in ESTIMATORS if type(e) not in {type(model) for model in INCOMPLETE}],
    ids=name_of,
)
def test_missing_values_of_every_kind_are_errors_elsewhere(estimator, kind):
    with pytest.raises(ValueError, match="NaN"):
        clone(estimator).fit(with_missing(X)[kind])


@pytest.mark.parametrize(
    "estimator", [*ESTIMATORS, *INCOMPLETE, PPCAImputer(1, missing_values=-1.0)], ids=name_of
)
def test_the_tag_says_whether_missing_values_are_accepted(estimator):
    model = clone(estimator)
    if get_tags(estimator).input_tags.allow_nan:
        assert np.isfinite(model.fit(HOLES).transform(X)).all()
    else:
        with pytest.raises(ValueError, match="NaN"):
            model.fit(HOLES)


@pytest.mark.filterwarnings("ignore:X has feature names")
def test_no_function_reads_what_a_mask_hides():
    kinds = with_missing(X)
    for kind in ("masked", "nullable", "objects with NA", "polars", "pyarrow"):
        with pytest.raises(ValueError, match="NaN"):
            Moments.of(kinds[kind])
        for function in (diag.diagnose, diag.entropy_bound, diag.active_units, diag.collapse):
            with pytest.raises(ValueError, match="NaN"):
                function(LinearVAE(2).fit(X), kinds[kind])
    autoencoder = DeepAutoencoder(2, **SMALL).fit(X)
    with pytest.raises(ValueError, match="NaN"):
        diag.diagnose(autoencoder, kinds["masked"])
    pipeline = DensityPipeline([("logit", LogitTransformer()), ("model", PPCA(1))]).fit(X)
    for method in (pipeline.score, pipeline.transform, pipeline.bits_per_dim):
        with pytest.raises(ValueError, match="NaN"):
            method(kinds["masked"])


@pytest.mark.some(4)
@pytest.mark.parametrize("kind", list(with_missing(X)))
@pytest.mark.filterwarnings("ignore:X (does not have|has) .*feature names")
def test_pictures_of_missing_values_of_every_kind(kind):
    expected = plot.ImputationDisplay.from_estimator(PPCA(1).fit(HOLES), HOLES, X)
    data = with_missing(X)[kind]
    display = plot.ImputationDisplay.from_estimator(PPCA(1).fit(HOLES), data, X)
    np.testing.assert_allclose(display.imputed, expected.imputed, rtol=1e-10)
    plt.close("all")


@pytest.mark.parametrize("hidden", [-999.0, -1.0, 0.5])
def test_masks_are_missing_whatever_the_placeholder_is(hidden):
    masked = np.ma.array(np.where(MISSING, hidden, X), mask=MISSING)
    found = PPCAImputer(1, missing_values=-1).fit_transform(masked)
    np.testing.assert_array_equal(found, PPCAImputer(1).fit_transform(HOLES))
    both = masked.copy()
    both[0, 0] = -1.0  # the placeholder, not masked
    holes = HOLES.copy()
    holes[0, 0] = np.nan
    found = PPCAImputer(1, missing_values=-1).fit_transform(both)
    np.testing.assert_array_equal(found, PPCAImputer(1).fit_transform(holes))


@pytest.mark.parametrize("estimator", [PPCA(1), LinearVAE(1), BernoulliPPCA(1, binarize=0.4)])
def test_masked_weights_are_errors(estimator):
    weights = np.ma.array(np.ones(len(X)), mask=np.arange(len(X)) == 3)
    with pytest.raises(ValueError, match=r"sample_weight must be finite.* for sample 3"):
        clone(estimator).fit(X, sample_weight=weights)


@pytest.mark.parametrize("dtype", [complex, "datetime64[D]"])
def test_masks_do_not_hide_what_is_no_real_number(dtype):
    masked = np.ma.array(np.arange(8).reshape(4, 2).astype(dtype), mask=np.eye(4, 2) == 1)
    with pytest.raises(ValueError, match=r"Complex data|must contain real numbers"):
        PPCA(1).fit(masked)


def test_a_mask_that_hides_nothing_changes_nothing():
    model = PPCA(2).fit(np.ma.array(X))
    np.testing.assert_array_equal(model.components_, PPCA(2).fit(X).components_)
    whole = np.ma.masked_equal(np.arange(12).reshape(6, 2), 99)  # integers
    np.testing.assert_array_equal(PPCA(1).fit(whole).mean_, [5.0, 6.0])


def test_masked_blocks_of_dask_are_missing_values():
    da = pytest.importorskip("dask.array")
    blocks = da.ma.masked_equal(da.from_array(np.where(MISSING, -9.0, X), chunks=(10, 4)), -9.0)
    with pytest.raises(ValueError, match="NaN"):
        PPCA(1).fit(blocks)


def test_make_missing_reads_masks():
    holes = make_missing(with_missing(X)["masked"], 0.1, random_state=0)
    assert np.isnan(holes[MISSING]).all()


TIMES = {
    "pandas": pd.DataFrame({"a": X[:, 0], "when": pd.to_datetime(["2020-01-01", None] * 20)}),
    "time zone": pd.DataFrame({"when": pd.date_range("2020", periods=40, tz="UTC"), "b": 1.0}),
    "objects": pd.DataFrame({"when": [pd.Timestamp("2020")] * 40, "b": X[:, 0]}, dtype=object),
    "timedelta": pd.DataFrame({"when": pd.to_timedelta(np.arange(40), "D"), "b": X[:, 0]}),
    "polars": pl.DataFrame({"when": [pd.Timestamp("2020").date()] * 40, "b": X[:, 0]}),
    "pyarrow": pa.table({"when": pa.array(pd.date_range("2020", periods=40)), "b": X[:, 0]}),
    "category": pd.DataFrame({"when": pd.Categorical(pd.to_datetime(["2020"] * 40)), "b": 1.0}),
    "numpy": np.array([["2020-01-01", "2020-01-02"]] * 40, dtype="datetime64[D]"),
}


@pytest.mark.cover(1, 1)
@pytest.mark.parametrize("kind", list(TIMES))
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=name_of)
def test_dates_are_an_error_that_names_the_column(estimator, kind):
    where = {"numpy": "datetime64", "objects": "column 0"}.get(kind, "column 'when'")
    message = f"X must contain real numbers.*{where}.*Convert dates"
    if isinstance(estimator, TabularVAE) and kind == "objects":  # objects may be text there
        message = "Column 'when' contains a Timestamp, which cannot be a category. Convert it"
    with pytest.raises((TypeError, ValueError), match=message):
        clone(estimator).fit(TIMES[kind])


TEXTS = {
    "objects": np.array([[1.0, "2.5"], [2.0, "oslo"]] * 20, dtype=object),
    "pandas": pd.DataFrame({"a": [1.0, 2.0] * 20, "city": ["rome", None] * 20}),
    "category": pd.DataFrame({"a": 1.0, "city": pd.Categorical(["rome", "oslo"] * 20)}),
    "polars": pl.DataFrame({"a": [1.0] * 40, "city": ["rome"] * 40}),
    "enum": pl.DataFrame({"city": pl.Series(["rome"] * 40, dtype=pl.Enum(["rome"]))}),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_text_is_an_error_that_names_the_column(kind):
    where = "column 1" if kind == "objects" else "column 'city'"
    text = "oslo" if kind == "objects" else "rome"
    message = f"X must contain real numbers, got the text '{text}' in {where}. Encode text"
    for estimator in (PPCA(1), DeepGaussianVAE(1)):
        with pytest.raises(ValueError, match=message):
            estimator.fit(TEXTS[kind])


UNREADABLE = {
    "LazyFrame": (lambda: pl.DataFrame(X).lazy(), r"LazyFrame\. Pass X\.collect\(\)"),
    "sparse tensor": (lambda: torch.tensor(X).to_sparse(), r"sparse Tensor\. Pass X\.to_dense"),
    "Dataset": (lambda: TensorDataset(torch.tensor(X)), "TensorDataset. Pass its samples"),
    "DataLoader": (lambda: DataLoader(TensorDataset(torch.tensor(X))), "DataLoader. Pass its"),
}


@pytest.mark.parametrize("kind", list(UNREADABLE))
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=name_of)
def test_containers_that_cannot_be_read_say_what_to_give_instead(estimator, kind):
    make, message = UNREADABLE[kind]
    with pytest.raises(TypeError, match=message):
        clone(estimator).fit(make())


LAYOUTS = {
    "reversed": lambda A: A[::-1, ::-1].copy()[::-1, ::-1],
    "read-only": lambda A: np.frombuffer(A.tobytes()).reshape(A.shape),
    "Fortran": np.asfortranarray,
    "strided": lambda A: np.repeat(A, 2, axis=1)[:, ::2],
    "big-endian": lambda A: A.astype(">f8"),
    "list": lambda A: A.tolist(),
    "pandas": pd.DataFrame,
    "polars": lambda A: pl.DataFrame(A, schema=[f"x{j}" for j in range(A.shape[1])]),
    "tensor": torch.tensor,
    "tensor with gradient": lambda A: torch.tensor(A, requires_grad=True),
    "masked": np.ma.array,
}
MODELS = [
    e
    for e in ESTIMATORS
    if hasattr(e, "n_components") and not isinstance(e, PPCAImputer | FactorAnalysisImputer)
]


@pytest.mark.cover(1)
@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("estimator", MODELS, ids=name_of)
@pytest.mark.filterwarnings("ignore:X (does not have|has) .*feature names")
def test_layouts_of_samples_and_latents_do_not_matter(estimator, layout):
    change = LAYOUTS[layout]
    expected = clone(estimator).fit(X)
    model = clone(estimator).fit(change(X))
    np.testing.assert_allclose(
        model.score_samples(change(X)), expected.score_samples(X), rtol=1e-10
    )
    Z = expected.transform(X)
    np.testing.assert_allclose(model.transform(change(X)), Z, rtol=1e-8, atol=1e-12)
    before = Z.copy()
    np.testing.assert_allclose(
        model.inverse_transform(change(Z)), model.inverse_transform(Z), rtol=1e-10
    )
    if hasattr(model, "conditional"):
        pairs = zip(model.conditional(change(Z)), model.conditional(Z), strict=True)
        for ours, theirs in pairs:
            np.testing.assert_allclose(ours, theirs, rtol=1e-10)
    np.testing.assert_array_equal(Z, before)


@pytest.mark.parametrize("estimator", MODELS, ids=name_of)
def test_half_precision_is_widened(estimator):
    half = X.astype(np.float16)
    model = clone(estimator).fit(half)
    expected = clone(estimator).fit(half.astype(np.float64))
    np.testing.assert_array_equal(model.score_samples(half), expected.score_samples(half))
    Z = np.float16([[0.5, -0.25][: model.n_components_]])
    np.testing.assert_array_equal(
        model.inverse_transform(Z), model.inverse_transform(Z.astype(np.float64))
    )


@pytest.mark.some(4)
@pytest.mark.parametrize("estimator", MODELS, ids=name_of)
def test_tensors_that_numpy_cannot_view(estimator):
    brain = torch.tensor(X).bfloat16()
    expected = clone(estimator).fit(brain.float().numpy())
    assert clone(estimator).fit(brain).score(brain) == expected.score(brain.float().numpy())
    lazy = torch.complex(torch.tensor(X), -torch.tensor(X)).conj().imag  # its sign is only marked
    assert clone(estimator).fit(lazy).score(lazy) == clone(estimator).fit(X).score(X)


@pytest.mark.some(4)
@pytest.mark.parametrize(
    "estimator",
    [e for e in ESTIMATORS if getattr(e, "svd_solver", "") != "arpack"],  # which refuses them
    ids=name_of,
)
def test_tensors_under_dispatch_give_the_same_numbers(estimator):
    expected = clone(estimator).fit(X).transform(X)
    with config_context(array_api_dispatch=True):
        found = clone(estimator).fit(torch.tensor(X)).transform(torch.tensor(X))
    np.testing.assert_allclose(np.abs(np.asarray(found)), np.abs(expected), rtol=1e-7, atol=1e-12)


@pytest.mark.cover(1)
@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=name_of)
def test_output_containers_change_no_other_method(estimator, library):
    frame = pd.DataFrame(X, columns=COLUMNS)
    expected = clone(estimator).fit(frame)
    with config_context(transform_output=library):
        model = clone(estimator).fit(frame)
        outputs = {name: call(model, frame) for name, call in calls(model).items()}
        assert type(model.transform(frame)).__module__.startswith(library)
        Z = np.asarray(model.transform(frame))
    np.testing.assert_array_equal(Z, expected.transform(frame))
    for name, call in calls(expected).items():
        for ours, theirs in zip(outputs[name], call(expected, frame), strict=True):
            assert type(ours) is type(theirs), name
            np.testing.assert_array_equal(ours, theirs, err_msg=name)


# Functions of data without a model.
OF_DATA = {"bartlett_sphericity", "choose_dimensions", "kmo"}

# Every function and Display of a model, each with its arguments after the data.
OF_A_MODEL = {
    **{
        name: getattr(diag, name)
        for name in diag.__all__
        if name[0].islower() and name not in OF_DATA
    },
    **{
        name: getattr(plot, name).from_estimator
        for name in plot.__all__
        if name not in ("CVCurveDisplay", "ImputationDisplay")
    },
}
VIEWED = [PPCA(3), LinearVAE(3, solver="adam", max_iter=5, tol=1e3), DeepGaussianVAE(3, **SMALL)]
VIEWED += [DeepAutoencoder(3, **SMALL)]


NOT_COMPARED = ("ax_", "figure_", "seconds", "_sklearn_output_config")


def values_of(result):
    """All numbers and texts of a result and of what is in it, except times and settings."""
    if isinstance(result, dict):
        kept = [value for name, value in result.items() if name not in NOT_COMPARED]
        return [x for value in kept for x in values_of(value)]
    if isinstance(result, tuple | list):
        return [x for value in result for x in values_of(value)]
    if type(result).__module__.startswith("sklearn_vae") and hasattr(result, "__dict__"):
        return values_of(vars(result))
    if isinstance(result, np.ndarray | float | int | str):
        return [np.asarray(result)]
    return []


def values_or_error(function, model, data):
    try:
        return values_of(function(model, data)), ""
    except (TypeError, ValueError, AttributeError) as error:
        return [], f"{type(error).__name__}: {error}"
    finally:
        plt.close("all")


@shared
def views_of_arrays(index):
    """Results of all functions for one of VIEWED whose output is an array, or their errors."""
    frame = pd.DataFrame(X, columns=COLUMNS)
    plain = clone(VIEWED[index]).set_params(random_state=0).fit(frame)
    return {name: values_or_error(function, plain, frame) for name, function in OF_A_MODEL.items()}


@pytest.mark.some(2)
@pytest.mark.parametrize(("library", "by"), [("pandas", "set_output"), ("polars", "config")])
@pytest.mark.parametrize("estimator", VIEWED, ids=name_of)
@pytest.mark.filterwarnings(
    "ignore:.*feature names", "ignore::sklearn.exceptions.ConvergenceWarning"
)
def test_output_containers_change_no_diagnostic_and_no_picture(estimator, library, by):
    frame = pd.DataFrame(X, columns=COLUMNS)
    views = views_of_arrays(VIEWED.index(estimator))
    model = clone(estimator).set_params(random_state=0)
    if by == "set_output":
        model.set_output(transform=library)
    compared = 0
    with config_context(transform_output=library if by == "config" else "default"):
        model.fit(frame)
        for name, function in OF_A_MODEL.items():
            expected, error = views[name]
            found, ours = values_or_error(function, model, frame)
            assert ours == error, name  # not every function is for every model
            assert len(found) == len(expected) > 0 or error, name
            for ours, theirs in zip(found, expected, strict=True):
                np.testing.assert_array_equal(ours, theirs, err_msg=name)
            compared += not error
    assert compared >= (3 if isinstance(model, DeepAutoencoder) else len(OF_A_MODEL) - 4), compared


@pytest.mark.some(1)
@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_output_containers_change_no_picture_of_imputation_and_search(library):
    frame, holes = (pd.DataFrame(values, columns=COLUMNS) for values in (X, HOLES))
    with config_context(transform_output=library):
        for model in INCOMPLETE:
            fitted = clone(model).fit(holes)
            display = plot.ImputationDisplay.from_estimator(fitted, holes, frame)
            np.testing.assert_array_equal(display.features, np.nonzero(MISSING)[1])
        search = GridSearchCV(PPCA(), {"n_components": [1, 2]}, cv=2).fit(frame)
        display = plot.CVCurveDisplay.from_estimator(search)
        assert isinstance(display.best_index, int | np.integer)
        plot.CVCurveDisplay.from_estimator(PPCACV([1, 2], cv=2).fit(frame))
    plt.close("all")


def calls(model):
    """Methods other than transform, each as a function that returns a tuple of arrays."""
    inner = getattr(model, "steps", [("", model)])[-1][1]
    latents = np.zeros((2, getattr(inner, "n_components_", 4)))
    methods = {
        "posterior": lambda m, X: m.posterior(X),
        "score_samples": lambda m, X: (m.score_samples(X),),
        "score": lambda m, X: (m.score(X),),
        "conditional": lambda m, _: m.conditional(latents),
        "inverse_transform": lambda m, _: (np.asarray(m.inverse_transform(latents)),),
        "sample": lambda m, _: m.sample(3, random_state=0),
        "log_likelihood": lambda m, X: (m.log_likelihood(X),),
        "impute": lambda m, X: (m.impute(X),),
        "bits_per_dim": lambda m, X: (m.bits_per_dim(X),),
        "log_abs_det_jacobian": lambda m, X: (m.log_abs_det_jacobian(X),),
    }
    return {name: call for name, call in methods.items() if hasattr(model, name)}


@pytest.mark.parametrize("binarize", [None, 0.45])
@pytest.mark.parametrize(
    "estimator", [BernoulliPPCA(1, random_state=0), DeepBernoulliVAE(1, **SMALL)], ids=name_of
)
def test_observations_of_binary_models_are_the_same_in_every_container(estimator, binarize):
    model = clone(estimator).set_params(binarize=binarize).fit(X)
    expected = X if binarize is None else binarize < X
    frame = pd.DataFrame(X, columns=COLUMNS)
    for data in (X, X.tolist(), frame, frame.astype(object), pl.DataFrame(X, schema=COLUMNS)):
        np.testing.assert_array_equal(model.observations(data), expected)


def test_dequantizer_reads_the_same_containers():
    levels = np.random.default_rng(0).integers(0, 4, (20, 3)).astype(float)
    expected = Dequantizer(4, random_state=0).fit(levels).transform(levels)
    found = Dequantizer(4, random_state=0).fit(levels).transform(pl.DataFrame(levels).to_numpy())
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="NaN"):
        Dequantizer(4).fit(np.ma.masked_equal(levels, 3))


def test_linear_vae_refuses_sparse_blocks_as_it_refuses_sparse_data():
    da = pytest.importorskip("dask.array")
    blocks = da.from_array(X, chunks=(10, 4)).map_blocks(sparse.csr_array)
    assert PPCA(1).fit(blocks).score(blocks) == pytest.approx(PPCA(1).fit(X).score(X))
    with pytest.raises(TypeError, match="LinearVAE needs dense data"):
        LinearVAE(1).fit(blocks)


def test_moments_of_frames_and_their_plain_sum():
    moments = sum([Moments.of(pd.DataFrame(X[:10])), Moments.of(pl.DataFrame(X[10:]))])
    np.testing.assert_allclose(moments.scatter, Moments.of(X).scatter)
    with pytest.raises(TypeError):
        _ = 1 + moments


@pytest.mark.parametrize("n_levels", [np.inf, np.nan, 0, 2**62])
def test_levels_set_after_fit_are_checked_before_a_loop_reads_them(n_levels):
    levels = np.random.default_rng(0).integers(0, 4, (20, 3)).astype(float)
    steps = [("levels", Dequantizer(4)), ("logit", LogitTransformer()), ("model", PPCA(1))]
    pipeline = DensityPipeline(steps).fit(levels).set_params(levels__n_levels=n_levels)
    step = pipeline.steps[0][1]
    for call in (pipeline.score, pipeline.transform, step.inverse_transform):
        with pytest.raises(ValueError, match="n_levels must be"):
            call(levels)
    with pytest.raises(ValueError, match="n_levels must be"):
        pipeline.sample(3)
