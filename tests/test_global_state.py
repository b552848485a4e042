"""What a user has set for the whole process changes no result, and stays as it was."""

import contextlib
import warnings

import numpy as np
import pytest
import torch
from sklearn import config_context, get_config
from sklearn.base import clone

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
    MixedFactorAnalysis,
    PPCAImputer,
    TabularVAE,
)
from sklearn_vae.diagnostics import diagnose
from sklearn_vae.nn.cubature import normal_points
from sklearn_vae.serialization import load, save
from tests.deep.data import make_rows
from tests.helpers import exhaustive, name_of, slow

X = make_rows(60).astype(np.float32)
FIT = {"hidden_layer_sizes": (8,), "max_epochs": 3, "batch_size": 16, "random_state": 0}


class OwnNumbers(torch.nn.Module):
    """A network that makes tensors of its own while it computes."""

    def __init__(self, input_shape, n_outputs):
        super().__init__()
        self.layer = torch.nn.Linear(input_shape[0], n_outputs)

    def forward(self, x):
        return self.layer(x + torch.linspace(0, 1, x.shape[1]))


class Convolutions(torch.nn.Module):
    """A network whose products are those of convolutions."""

    def __init__(self, input_shape, n_outputs):
        super().__init__()
        self.maps = torch.nn.Conv2d(1, 4, 3, padding=1)
        self.layer = torch.nn.Linear(4 * input_shape[0], n_outputs)

    def forward(self, x):
        return self.layer(self.maps(x.view(len(x), 1, 2, -1)).flatten(1))


ESTIMATORS = [
    PPCA(2),
    PPCACV([1, 2], cv=2),
    PPCAImputer(1),
    FactorAnalysisImputer(1, n_fits=2),
    GaussianImputer(n_fits=2),
    FactorAnalysis(1, noise_variance=0.5),
    FactorAnalysisCV(0, cv=2),
    MixedFactorAnalysis(1, penalty=1.0, random_state=0),
    LinearVAE(2, random_state=0),
    LinearVAE(2, solver="adam", max_iter=20, tol=1e3, random_state=0),
    LinearVAE(2, solver="stochastic", max_iter=2, tol=1e3, random_state=0),
    BernoulliPPCA(1, binarize=0.0, random_state=0),
    DeepGaussianVAE(2, **FIT),
    DeepGaussianVAE(2, **FIT, encoder=OwnNumbers, noise_model="heteroscedastic"),
    DeepGaussianVAE(2, **FIT, init="ppca", early_stopping=True),
    DeepGaussianVAE(2, **FIT, variational_family="sylvester", objective="iwae", n_mc_samples=2),
    DeepBernoulliVAE(2, **FIT, binarize=0.0),
    DeepGaussianVAE(2, **FIT, encoder=Convolutions),
    DeepAutoencoder(2, **FIT),
    TabularVAE(2, **FIT),
]


@contextlib.contextmanager
def changed(get, set_, value):
    before = get()
    set_(value)
    try:
        yield
    finally:
        assert get() == value or isinstance(value, dict)
        set_(before)


@contextlib.contextmanager
def random_numbers():
    """Other states of the global generators, which must not move."""
    np.random.seed(7)  # noqa: NPY002
    torch.manual_seed(7)
    states = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    yield
    np.testing.assert_array_equal(np.random.get_state()[1], states[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[1])


SETTINGS = {
    "float64": lambda: changed(torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    "bfloat16": lambda: changed(torch.get_default_dtype, torch.set_default_dtype, torch.bfloat16),
    "device": lambda: torch.device("meta"),
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "products": lambda: changed(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"
    ),
    "save_on_cpu": torch.autograd.graph.save_on_cpu,
    "deterministic": lambda: changed(
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True
    ),
    "one thread": lambda: changed(torch.get_num_threads, torch.set_num_threads, 1),
    "errstate": lambda: np.errstate(all="raise"),
    "printoptions": lambda: np.printoptions(precision=1, threshold=3),
    "warnings": warnings.catch_warnings,
    "generators": random_numbers,
    "pandas output": lambda: config_context(transform_output="pandas"),
    "assume_finite": lambda: config_context(assume_finite=True),
    "working memory": lambda: config_context(working_memory=1),
}


def results(estimator, path):
    model = clone(estimator).fit(X)
    values = [np.asarray(model.transform(X))]
    if hasattr(model, "score_samples"):
        Z = values[0]
        values += [model.score_samples(X), model.inverse_transform(Z)]
    if hasattr(model, "posterior"):
        values += [*model.posterior(X), *model.conditional(Z), *model.sample(3, random_state=0)]
    if isinstance(model, DeepGaussianVAE) and model.encoder == "mlp":
        values += [np.array(str(diagnose(model, X)))]
        save(model, path)
        values += [load(path).score_samples(X)]
    return values


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    cache = {}

    def of(index):
        if index not in cache:
            folder = tmp_path_factory.mktemp("model")
            cache[index] = results(ESTIMATORS[index], folder / "model.safetensors")
        return cache[index]

    return of


# One of each kind. The others are slow with one setting, and exhaustive with the rest.
OFTEN = {PPCA: 0, PPCAImputer: 2, "Adam": 9, BernoulliPPCA: 11, "networks": 13, DeepAutoencoder: 18}
# Models without torch, which they do not even import (tests/test_package.py), and its settings.
WITHOUT_TORCH = {*range(9), 11}
OF_TORCH = set(list(SETTINGS)[: list(SETTINGS).index("one thread")])
CASES = []
for i in range(len(ESTIMATORS)):
    first, *rest = (
        (i, setting) for setting in SETTINGS if i not in WITHOUT_TORCH or setting not in OF_TORCH
    )
    CASES += [first, *rest] if i in OFTEN.values() else [*slow(first), *exhaustive(*rest)]


@pytest.mark.cover(1)
@pytest.mark.parametrize(
    ("index", "setting"),
    CASES,
    ids=lambda value: value if isinstance(value, str) else name_of(ESTIMATORS[value]),
)
def test_settings_of_the_process_change_nothing(index, setting, expected, tmp_path):
    plain = expected(index)
    config = get_config()
    with SETTINGS[setting]():
        found = results(ESTIMATORS[index], tmp_path / "model.safetensors")
    assert get_config() == config
    for ours, theirs in zip(found, plain, strict=True):
        np.testing.assert_array_equal(ours, theirs)


FIXED = [
    DeepGaussianVAE(2, **FIT, noise_variance=10.0),
    DeepGaussianVAE(2, **FIT, noise_variance=0.1, noise_model="diagonal"),
    DeepGaussianVAE(
        2, **FIT, noise_variance=np.linspace(0.1, 0.3, X.shape[1]), noise_model="diagonal"
    ),
    LinearVAE(2, noise_variance=0.1),
    LinearVAE(2, noise_variance=0.1, solver="adam", max_iter=10, tol=1e3, random_state=0),
    LinearVAE(2, noise_variance=0.1, solver="stochastic", max_iter=2, tol=1e3, random_state=0),
    PPCA(2, noise_variance=0.1),
    PPCACV(2, noise_variance=[0.1], cv=2),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("estimator", FIXED, ids=name_of)
def test_a_fixed_noise_variance_is_reported_as_it_was_given(estimator, dtype):
    data = X.astype(dtype)
    model = clone(estimator).fit(data)
    given = np.ravel(estimator.noise_variance).astype(float)
    np.testing.assert_array_equal(model.noise_variance_, given if given.size > 1 else given[0])
    if np.ndim(model.noise_variance_) == 0:
        assert model.noise_variance_ == given[0]
    _, variance = model.conditional(model.transform(data[:2]))
    np.testing.assert_array_equal(variance, np.broadcast_to(given.astype(dtype), variance.shape))


def test_a_fixed_noise_variance_of_incomplete_data_is_reported_as_given():
    holes = np.where(np.random.default_rng(0).uniform(size=X.shape) < 0.1, np.nan, X)
    assert PPCA(2, noise_variance=0.1).fit(holes).noise_variance_ == 0.1


@pytest.mark.parametrize("device", ["mps", "xpu", "hpu", "cuda:99", "vulkan", "meta"])
@pytest.mark.parametrize("model", [DeepGaussianVAE(2), LinearVAE(2, solver="adam")], ids=name_of)
def test_devices_that_are_not_there_are_errors_that_say_so(model, device):
    with pytest.raises(ValueError, match=f"device.*{device}"):
        clone(model).set_params(device=device).fit(X)


def results_of_incomplete_samples(model):
    """Results that need tensors or modules from outside the fitted networks."""
    incomplete = np.where(np.arange(X.size).reshape(X.shape) % 7 == 0, np.nan, X)
    fewer = model.with_dimensions([0])
    return [
        model.transform(incomplete),
        model.impute(incomplete, return_std=True)[1],
        model.score_samples(X, return_error=True)[1],
        model.log_likelihood(X, n_samples=10),
        *([] if fewer is None else [fewer.transform(X)]),
    ]


@pytest.mark.parametrize("setting", ["float64", "bfloat16", "device", "inference_mode"])
@pytest.mark.parametrize(
    "estimator", [DeepGaussianVAE(2, **FIT), TabularVAE(2, **FIT)], ids=name_of
)
def test_settings_of_the_process_change_no_method(estimator, setting):
    model = clone(estimator).fit(X)
    plain = results_of_incomplete_samples(model)
    normal_points.cache_clear()
    with SETTINGS[setting]():
        found = results_of_incomplete_samples(model)
    for ours, theirs in zip(found, plain, strict=True):
        np.testing.assert_array_equal(ours, theirs)
