"""PPCA of arrays other than NumPy's."""

import pickle

import array_api_strict
import numpy as np
import pytest
import torch
from array_api_compat import array_namespace, device
from sklearn import clone, config_context
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from sklearn_vae import PPCA
from tests.helpers import to_numpy
from tests.linear.data import make_rows

STRICT_DEVICES = [str(d) for d in array_api_strict.__array_namespace_info__().devices()]


def strict_on(name):
    return lambda X: array_api_strict.asarray(X, device=array_api_strict.Device(name))


PLACES = {
    "torch": torch.asarray,
    "strict": array_api_strict.asarray,
    "strict, device1": strict_on("device1"),
    "torch, cuda": lambda X: torch.asarray(X, device="cuda"),
}


@pytest.fixture(params=PLACES)
def place(request):
    if "cuda" in request.param and not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    with config_context(array_api_dispatch=True):
        yield PLACES[request.param]


def assert_same_place(found, reference):
    assert array_namespace(found) is array_namespace(reference)
    assert device(found) == device(reference)


@pytest.mark.cover(2, 3)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("solver", ["auto", "full", "covariance_eigh", "randomized"])
@pytest.mark.parametrize("shape", [(300, 8), (20, 250), (60, 50)])
@pytest.mark.parametrize("noise_variance", [None, 1.0])
def test_the_same_model_in_the_same_place(place, noise_variance, shape, solver, dtype):
    X = make_rows(*shape, offset=2.0).astype(dtype)
    parameters = {"n_components": 3, "svd_solver": solver, "random_state": 0}
    parameters["noise_variance"] = noise_variance
    expected, model, rows = PPCA(**parameters).fit(X), PPCA(**parameters), place(X)
    assert model.fit(rows) is model
    close = {"rtol": 1e-9, "atol": 1e-9} if dtype == "float64" else {"rtol": 1e-3, "atol": 1e-3}
    for name, value in vars(expected).items():
        found = getattr(model, name)
        if isinstance(value, np.ndarray):
            assert_same_place(found, rows)
            assert str(found.dtype).rpartition(".")[2] == str(value.dtype), name
            np.testing.assert_allclose(to_numpy(found), value, err_msg=name, **close)
        elif name.endswith("_") and isinstance(value, float | int):
            assert type(found) is type(value)
            assert found == pytest.approx(value, rel=close["rtol"])
    Z = expected.transform(X)
    outputs = {
        "transform": (model.transform(rows), Z),
        "fit_transform": (clone(model).fit_transform(rows), Z),
        "inverse": (model.inverse_transform(place(Z)), expected.inverse_transform(Z)),
        "score_samples": (model.score_samples(rows), expected.score_samples(X)),
        "covariance": (model.get_covariance(), expected.get_covariance()),
        "precision": (model.get_precision(), expected.get_precision()),
    }
    for i in range(2):
        outputs[f"posterior {i}"] = (model.posterior(rows)[i], expected.posterior(X)[i])
        outputs[f"conditional {i}"] = (model.conditional(place(Z))[i], expected.conditional(Z)[i])
        drawn = (model.sample(5, random_state=1)[i], expected.sample(5, random_state=1)[i])
        outputs[f"sample {i}"] = drawn
    covariances = model.posterior(rows, return_cov=True)[1], expected.posterior(X, True)[1]
    outputs["posterior covariance"] = covariances
    for name, (found, value) in outputs.items():
        assert_same_place(found, rows)
        assert str(found.dtype).rpartition(".")[2] == dtype, name
        np.testing.assert_allclose(to_numpy(found), value, err_msg=name, **close)
    weights = np.arange(len(X)) % 4 + 0.5
    for w in (weights, place(weights)):
        score = model.score(rows, sample_weight=w)
        assert isinstance(score, float)
        assert score == pytest.approx(expected.score(X, sample_weight=weights), rel=close["rtol"])


@pytest.mark.parametrize("coordinates", ["principal", "whitened"])
def test_coordinates_of_pca(place, coordinates):
    X = make_rows()
    model = PPCA(3, coordinates=coordinates).fit(place(X))
    Z = PPCA(3, coordinates=coordinates).fit(X).transform(X)
    np.testing.assert_allclose(to_numpy(model.transform(place(X))), Z, atol=1e-10)
    whole = PPCA(coordinates=coordinates).fit(place(X))
    back = whole.inverse_transform(whole.transform(place(X)))
    np.testing.assert_allclose(to_numpy(back), X, atol=1e-10)


def test_streams_weights_and_moments(place):
    X = make_rows()
    weights = np.random.default_rng(0).choice([0.0, 0.5, 3.0], size=80)
    model = PPCA(2).partial_fit(place(X[:30]), sample_weight=weights[:30])
    model.partial_fit(place(X[30:]), sample_weight=place(weights[30:]))
    expected = PPCA(2).fit(X, sample_weight=weights)
    np.testing.assert_allclose(to_numpy(model.loadings_), expected.loadings_, atol=1e-10)
    again = PPCA.from_moments(model.moments_, n_components=2)
    np.testing.assert_allclose(to_numpy(again.loadings_), expected.loadings_, atol=1e-10)
    for solver in ("full", "randomized"):
        model = PPCA(2, svd_solver=solver, random_state=0)
        model.fit(place(X), sample_weight=place(weights))
        np.testing.assert_allclose(to_numpy(model.loadings_), expected.loadings_, atol=1e-6)


@pytest.mark.parametrize("n_components", [None, 0.9, "mle"])
def test_ways_to_choose_k(place, n_components):
    X = make_rows()
    model, expected = PPCA(n_components).fit(place(X)), PPCA(n_components).fit(X)
    assert model.n_components_ == expected.n_components_
    assert model.score(place(X)) == pytest.approx(expected.score(X), rel=1e-10)


@pytest.mark.cover(1, 2)
@pytest.mark.parametrize("fitted", ["float32", "float64", "int64"])
@pytest.mark.parametrize("given", ["float32", "float64", "int64"])
def test_precisions_meet(place, fitted, given):
    X = 10 * make_rows(offset=3.0)
    model = PPCA(2).fit(place(X.astype(fitted)))
    expected = PPCA(2).fit(X.astype(fitted).astype(float))
    rows = X.astype(given)
    wide = "float32" if fitted == given == "float32" else "float64"
    for found, value in [
        (model.transform(place(rows)), expected.transform(rows)),
        (model.score_samples(place(rows)), expected.score_samples(rows)),
        (model.inverse_transform(place(rows[:, :2])), expected.inverse_transform(rows[:, :2])),
    ]:
        assert str(found.dtype).endswith(wide)
        np.testing.assert_allclose(to_numpy(found), value, rtol=1e-4, atol=1e-4)


def test_a_model_stays_where_it_was_fitted(place):
    X = make_rows()
    model = PPCA(2).partial_fit(place(X))
    for name in ("transform", "score", "score_samples", "posterior", "partial_fit"):
        with pytest.raises(ValueError, match=rf"PPCA\.{name}\(\) must use the same namespace"):
            getattr(model, name)(X)
    for name in ("inverse_transform", "conditional"):
        with pytest.raises(ValueError, match=rf"PPCA\.{name}\(\) must use the same namespace"):
            getattr(model, name)(X[:, :2])
    plain = PPCA(2).fit(X)
    with pytest.raises(ValueError, match="must use the same namespace and the same device"):
        plain.transform(place(X))


def test_a_tensor_without_dispatch_becomes_an_array():
    X = make_rows()
    model = PPCA(2).fit(torch.asarray(X))
    assert isinstance(model.transform(torch.asarray(X)), np.ndarray)
    with config_context(array_api_dispatch=True):
        fitted = PPCA(2).fit(torch.asarray(X))
    with pytest.raises(ValueError, match="array_api_dispatch=True"):
        fitted.transform(torch.asarray(X))


def test_what_other_libraries_do_not_have(place):
    with pytest.raises(ValueError, match=r"svd_solver must be .* got 'arpack' for"):
        PPCA(2, svd_solver="arpack").fit(place(make_rows()))
    X = make_rows()
    X[3, 2] = np.inf
    for solver in ("full", "covariance_eigh", "randomized"):
        with pytest.raises(ValueError, match="contains infinity"):
            PPCA(2, svd_solver=solver).fit(place(X))


def test_missing_values(place):
    X = make_rows()
    X[np.random.default_rng(0).uniform(size=X.shape) < 0.2] = np.nan
    model, expected = PPCA(2).fit(place(X)), PPCA(2).fit(X)
    assert model.elbo_ == expected.elbo_
    for found, value in [
        (model.loadings_, expected.loadings_),
        (model.loglike_history_, expected.loglike_history_),
        (model.transform(place(X)), expected.transform(X)),
        (model.posterior(place(X))[1], expected.posterior(X)[1]),
        (model.score_samples(place(X)), expected.score_samples(X)),
        (model.impute(place(X)), expected.impute(X)),
        (model.impute(place(X), return_std=True)[1], expected.impute(X, return_std=True)[1]),
        (model.impute(place(make_rows())), make_rows()),
    ]:
        assert_same_place(found, place(X))
        np.testing.assert_allclose(to_numpy(found), value)


@pytest.mark.skipif("no_float64" not in " ".join(STRICT_DEVICES), reason="needs a newer release")
@pytest.mark.parametrize("solver", ["full", "covariance_eigh", "randomized"])
@pytest.mark.parametrize("shape", [(300, 8), (20, 250)])
def test_a_device_without_float64(shape, solver):
    X = make_rows(*shape).astype(np.float32)
    put = strict_on("no_float64")
    with config_context(array_api_dispatch=True):
        for n_components in (3, None) if solver != "randomized" else (3,):
            parameters = {"svd_solver": solver, "random_state": 0, "noise_variance": 0.1}
            model = PPCA(n_components, **parameters).fit(put(X))
            expected = PPCA(n_components, **parameters).fit(X)
            assert str(model.loadings_.dtype).endswith("float32")
            assert model.score(put(X)) == pytest.approx(expected.score(X), rel=1e-3)
            assert model.score(put(X), sample_weight=np.ones(len(X))) == pytest.approx(
                expected.score(X), rel=1e-3
            )
        PPCA(2).partial_fit(put(X)).partial_fit(put(X))
        assert str(model.transform(put(X)).dtype).endswith("float32")


def test_pipeline_of_tensors():
    X = make_rows()
    with config_context(array_api_dispatch=True):
        pipeline = make_pipeline(MinMaxScaler(), PPCA(2)).fit(torch.asarray(X))
        score = pipeline.score(torch.asarray(X))
        assert isinstance(pipeline.transform(torch.asarray(X)), torch.Tensor)
    assert score == pytest.approx(make_pipeline(MinMaxScaler(), PPCA(2)).fit(X).score(X))


def test_pickle_of_tensors():
    X = make_rows()
    with config_context(array_api_dispatch=True):
        model = PPCA(2).fit(torch.asarray(X))
        again = pickle.loads(pickle.dumps(model))
        assert again.score(torch.asarray(X)) == model.score(torch.asarray(X))


def test_what_is_not_real(place):
    X = make_rows()
    with pytest.raises(ValueError, match=r"must be real|Complex data not supported"):
        PPCA(2).fit(place(X + 1j))
    model = PPCA(2).fit(place(X))
    with pytest.raises(ValueError, match=r"must be real|Complex data not supported"):
        model.transform(place(X + 1j))


def test_the_graph_of_a_tensor_is_left_behind():
    X = torch.asarray(make_rows()).requires_grad_()
    with config_context(array_api_dispatch=True):
        for solver in ("full", "covariance_eigh"):
            model = PPCA(2, svd_solver=solver).fit(X)
            assert not model.loadings_.requires_grad
            assert not model.score_samples(X).requires_grad
