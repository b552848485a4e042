"""Every model with a latent space keeps the contract, and a model of another library is enough."""

import inspect

import numpy as np
import pytest
from sklearn.decomposition import PCA

import sklearn_vae
from sklearn_vae import (
    PPCA,
    DeepAutoencoder,
    DeepGaussianVAE,
    FactorAnalysis,
    FactorAnalysisCV,
    LinearVAE,
    public,
)
from sklearn_vae.diagnostics import (
    active_units,
    collapse,
    collapse_curve,
    decompose_kl,
    diagnose,
    entropy_bound,
    kl_per_dimension,
    second_moments,
    tune_noise_variance,
)
from sklearn_vae.nn.likelihoods import NOISE_MODELS, HeteroscedasticLikelihood
from sklearn_vae.plot import KLDisplay, PosteriorScaleDisplay
from sklearn_vae.protocol import METHODS, EncoderDecoder, LatentModel, adapted, as_latent_model
from tests.deep.data import SMALL, make_rows

CLASSES = [getattr(sklearn_vae, name) for name in public.ESTIMATORS]
MODEL_CLASSES = [kind for kind in CLASSES if issubclass(kind, EncoderDecoder)]


class Plain:
    """A model without a base class and without further attributes."""

    __slots__ = ("model",)

    def __init__(self, model):
        self.model = model

    def posterior(self, X):
        return self.model.posterior(X)

    def conditional(self, Z):
        return self.model.conditional(Z)

    def score_samples(self, X):
        return self.model.score_samples(X)


MODELS = [
    PPCA(3),
    PPCA(3, noise_variance=5.0),
    FactorAnalysis(1),
    FactorAnalysisCV(1, cv=2),
    LinearVAE(2),
    DeepGaussianVAE(3, **SMALL),
]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_estimator_with_a_posterior_is_a_latent_model(kind):
    assert issubclass(kind, LatentModel) == hasattr(kind, "posterior")


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_questions_have_answers_before_and_after_a_fit(model):
    assert adapted(model) is model
    assert model.parameters == model.get_params(deep=False)
    model = model.fit(make_rows())
    assert as_latent_model(model, "test") is model
    assert np.all(np.asarray(model.prior_variance) > 0)
    np.testing.assert_array_equal(model.shared_noise_variance, model.noise_variance_)
    assert not model.active_bounds
    history = model.training_history
    assert (history is None) == isinstance(model, PPCA | FactorAnalysis | FactorAnalysisCV)
    if history is not None:
        assert {"epoch", "iteration"} & history.keys()
        assert len(set(map(len, history.values()))) == 1


def test_the_autoencoder_has_no_latent_distribution():
    model = DeepAutoencoder(2, **SMALL).fit(make_rows())
    assert isinstance(model, EncoderDecoder)
    assert not isinstance(model, LatentModel)
    assert "score" in model.training_history
    assert model.n_layers == 2


@pytest.mark.parametrize("missing", METHODS)
def test_a_latent_model_lacks_none_of_the_methods(missing):
    methods = {name: lambda self, X: X for name in METHODS if name != missing}
    with pytest.raises(TypeError, match=missing):
        type("Incomplete", (LatentModel,), methods)()
    with pytest.raises(TypeError, match=f"requires an estimator .* Incomplete has no {missing}"):
        as_latent_model(type("Incomplete", (), methods)(), "test")


@pytest.mark.parametrize("init", [None, "ppca"])
def test_networks_that_could_start_at_ppca(init):
    assert DeepGaussianVAE(3, hidden_layer_sizes=(8,), init=init).can_start_at_ppca()
    assert not DeepGaussianVAE(3, hidden_layer_sizes=(4,), init=init).can_start_at_ppca()
    assert not DeepGaussianVAE(3, activation="tanh", init=init).can_start_at_ppca()
    assert not PPCA(3).can_start_at_ppca()


@pytest.mark.some(3)
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_a_plain_object_is_diagnosed_as_the_model_that_it_asks(model):
    X = make_rows()
    model = model.fit(X)
    plain = Plain(model)
    for function in (kl_per_dimension, second_moments):
        np.testing.assert_array_equal(function(plain, X), function(model, X))
    for function in (collapse, active_units, collapse_curve, decompose_kl):
        ours, theirs = vars(function(model, X)), vars(function(plain, X))
        for name, value in ours.items():
            np.testing.assert_array_equal(value, theirs[name])
    ours, theirs = entropy_bound(model, X), entropy_bound(plain, X)
    # The draws of deep models are their own.
    tolerance = {"abs": 0.05} if isinstance(model, DeepGaussianVAE) else {"rel": 1e-12}
    for name in ("elbo", "bound", "decoder", "noise_gain"):
        assert getattr(theirs, name) == pytest.approx(getattr(ours, name), **tolerance)
    KLDisplay.from_estimator(plain, X)
    PosteriorScaleDisplay.from_estimator(plain, X)


def test_a_report_of_a_plain_object():
    X = make_rows()
    report = diagnose(Plain(PPCA(3).fit(X)), X)
    assert report.estimator == "Plain"
    assert report.healthy
    assert report.categories == ()
    assert report.numbers["elbo"] == pytest.approx(report.numbers["reference"])
    assert report.numbers["near_zero"] == 0
    assert "Plain with 3 latent dimensions" in str(report)


def test_a_plain_object_that_has_lost_dimensions():
    X = make_rows()
    plain = Plain(PPCA(3, noise_variance=100.0).fit(X))
    report = diagnose(plain, X)
    assert not report.healthy
    assert report.categories == ("ignored",)
    assert len(report.collapse.collapsed)
    assert str(report)


def test_noise_that_depends_on_z_is_averaged_over_the_posterior():
    X = make_rows()
    vae = DeepGaussianVAE(2, **SMALL, noise_model="heteroscedastic").fit(X)
    mean, variance = vae.posterior(X)
    rng = np.random.default_rng(1)
    entropies = []
    for _ in range(200):
        Z = mean + np.sqrt(variance) * rng.standard_normal(mean.shape)
        noise = vae.conditional(Z)[1]
        entropies.append(0.5 * np.log(2 * np.pi * np.e * noise).sum(axis=1).mean())
    # One draw of each sample.
    error = 5 * np.std(entropies)
    assert entropy_bound(Plain(vae), X).decoder == pytest.approx(np.mean(entropies), abs=error)


def test_a_new_noise_model_whose_noise_depends_on_z_is_diagnosed(monkeypatch):
    X, options = make_rows(), {**SMALL, "random_state": 0}
    monkeypatch.setitem(NOISE_MODELS, "new", type("New", (HeteroscedasticLikelihood,), {}))
    vae, known = (
        DeepGaussianVAE(2, noise_model=name, **options).fit(X)
        for name in ("new", "heteroscedastic")
    )
    assert vae.shared_noise_variance is None
    # Its gradients are by autograd, those of the known one by formula.
    report, expected = diagnose(vae, X), diagnose(known, X)
    assert report.categories == expected.categories
    assert report.numbers["elbo"] == pytest.approx(expected.numbers["elbo"], rel=1e-3)


def test_the_noise_of_a_plain_object_cannot_be_tuned():
    X = make_rows()
    with pytest.raises(TypeError, match="Plain has no noise_variance_"):
        tune_noise_variance(Plain(PPCA(3).fit(X)), X)


def test_other_estimators_are_refused():
    X = make_rows()
    with pytest.raises(TypeError, match="PCA has no posterior or conditional"):
        as_latent_model(PCA(2).fit(X), "test")


@pytest.mark.parametrize("kind", MODEL_CLASSES, ids=lambda kind: kind.__name__)
def test_methods_have_the_parameters_and_defaults_of_the_base_class(kind):
    base = LatentModel if issubclass(kind, LatentModel) else EncoderDecoder
    for name, method in inspect.getmembers(base, inspect.isfunction):
        if name.startswith("_"):
            continue
        own = inspect.signature(getattr(kind, name)).parameters
        expected = inspect.signature(method).parameters
        for parameter in expected.values():
            assert own[parameter.name].default == parameter.default, name
