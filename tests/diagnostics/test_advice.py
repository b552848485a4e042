"""What reports advise is what the model accepts, and what has been measured to help."""

import ast
import re

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits

import sklearn_vae.diagnostics
from sklearn_vae import (
    PPCA,
    PPCACV,
    BernoulliPPCA,
    DeepAutoencoder,
    DeepBernoulliVAE,
    DeepGaussianVAE,
    LinearVAE,
)
from sklearn_vae.diagnostics import diagnose
from tests.diagnostics.models import train, with_covariance
from tests.helpers import exhaustive, slow
from tests.sharing import shared

SMALL = {"hidden_layer_sizes": (8,), "max_epochs": 40, "batch_size": 50, "learning_rate": 3e-3}
SMALL |= {"random_state": 0}
DEEP = {**SMALL, "hidden_layer_sizes": (8,) * 10}
GRADIENT = {"noise_update": "gradient"}
MODELS = {
    "PPCA, held": PPCA(3, noise_variance=5.0),
    "PPCACV, held": PPCACV([2, 3], cv=3, noise_variance=5.0),
    "LinearVAE, held": LinearVAE(3, noise_variance=5.0),
    "LinearVAE, Adam": LinearVAE(3, solver="adam", noise_variance_init=50.0, max_iter=20, tol=1e3),
    "bits": BernoulliPPCA(3, binarize=0.0, max_iter=1, random_state=0),
    "held": DeepGaussianVAE(3, noise_variance=8.0, **SMALL),
    "held, a feature": DeepGaussianVAE(3, noise_variance=5.0, noise_model="diagonal", **SMALL),
    "held, tanh": DeepGaussianVAE(3, noise_variance=5.0, activation="tanh", **SMALL),
    "held, free bits": DeepGaussianVAE(3, noise_variance=5.0, free_bits=0.1, **SMALL),
    "held, deep": DeepGaussianVAE(3, noise_variance=5.0, **DEEP),
    "held too small": DeepGaussianVAE(3, noise_variance=1e-4, **SMALL),
    "gradient": DeepGaussianVAE(3, noise_variance_init=300.0, **GRADIENT, **SMALL),
    "gradient, deep": DeepGaussianVAE(3, noise_variance_init=3.0, **GRADIENT, **DEEP),
    "KL": DeepGaussianVAE(3, kl_weight=20.0, **SMALL),
    "untrained": DeepGaussianVAE(3, **{**SMALL, "max_epochs": 2}),
    "deep": DeepGaussianVAE(3, **DEEP),
    "heteroscedastic, deep": DeepGaussianVAE(3, noise_model="heteroscedastic", **GRADIENT, **DEEP),
    "bits, deep": DeepBernoulliVAE(3, binarize=0.0, **DEEP),
    "autoencoder, deep": DeepAutoencoder(3, **DEEP),
}


REPEATED = ["held, deep", "gradient, deep", "heteroscedastic, deep"]
LARGE = [name for name in MODELS if "deep" in name and name not in REPEATED]
SMALL_MODELS = [name for name in MODELS if "deep" not in name]


def spectrum():
    """600 rows of 6 features that depend on each other; pPCA with 3 has a sigma2 of 0.25."""
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    return with_covariance([9, 4, 1, 0.25, 0.25, 0.25]) @ rotation


@shared
def fitted(name):
    """One of MODELS, fitted to `spectrum()`: not to be changed."""
    model = clone(MODELS[name]).fit(spectrum())
    if name == "bits":  # because the first iteration nearly reaches the maximum
        model.loadings_ = 3.0 * model.loadings_
    return model


@shared
def report_of(name):
    """Its diagnosis."""
    return diagnose(fitted(name), spectrum())


def settings(text):
    """Parameters with their values, of a piece of advice."""
    found = re.findall(r'(\w+)=("[^"]*"|[^\s,]+)', text)
    return {name: ast.literal_eval(value) for name, value in found}


def followed(model, text, **options):
    return clone(model).set_params(**{**settings(text), **options})


@pytest.mark.some(3, "slow")
@pytest.mark.filterwarnings("ignore:BernoulliPPCA has not converged")
@pytest.mark.parametrize("name", [*SMALL_MODELS, *slow(*LARGE), *exhaustive(*REPEATED)])
def test_a_model_accepts_all_that_it_is_advised(name):
    model, report = MODELS[name], report_of(name)
    assert not report.healthy
    for found in report.findings:
        assert found.advice
        for text in found.advice:
            known = {*model.get_params(), *vars(sklearn_vae.diagnostics)}
            assert set(re.findall(r"\w+_\w+", re.sub('".*?"', "", text))) <= known, text
            new = settings(text).items()
            assert not new or any(model.get_params()[name] != value for name, value in new), text
            # That it helps is measured elsewhere: one epoch shows that it is accepted.
            short = (
                clone(model).set_params(max_epochs=5)
                if "max_epochs" in model.get_params()
                else model
            )
            is_long = isinstance(settings(text).get("max_epochs"), int)
            options = {"max_epochs": 5} if is_long else {}
            followed(short, text, **options).fit(spectrum()[:120])
        for remedy in found.remedies:
            assert remedy.action in ("refit", "continue", "other")
            assert remedy.changes.keys() <= model.get_params().keys()
            written = settings(remedy.text)
            assert all(remedy.changes.get(name) == value for name, value in written.items())


@pytest.mark.slow
def test_a_noise_variance_held_too_large_is_to_be_learned_from_ppca():
    X, model, report = spectrum(), MODELS["held"], report_of("held")
    assert report.categories == ("large_noise",)
    first, other = report.advice  # neither annealing nor init="ppca" while it is held
    assert settings(first) == {"noise_variance": None, "init": "ppca"}
    assert other == "or fix it at the value of pPCA: 0.25"
    cured = followed(model, first, max_epochs="auto", learning_rate="auto").fit(X)
    assert diagnose(cured, X).healthy
    # Of networks that cannot start at pPCA the noise is all.
    tanh = report_of("held, tanh")
    assert settings(tanh.advice[0]) == {"noise_variance": None}


def test_ppca_s_noise_is_named_in_units_of_the_features_where_each_has_its_own():
    X = 10.0 * spectrum()
    report = diagnose(clone(MODELS["held, a feature"]).set_params(noise_variance=500.0).fit(X), X)
    (fixed,) = [text for text in report.advice if text.startswith("or fix")]
    assert fixed.endswith("times the variance of each feature")


@pytest.mark.slow
def test_deep_networks_are_not_told_to_try_what_bought_nothing():
    X = load_digits().data[:600]
    options = {"hidden_layer_sizes": (64,) * 10, "max_epochs": 15, "batch_size": 43}
    noise = {**GRADIENT, "noise_variance_init": float(X.var(axis=0).mean())}
    vae = train(X, 8, **options, **noise)
    report = diagnose(vae, X)
    assert report.categories == ("optimum",)
    first, second, third = report.advice
    assert settings(first) == {
        "noise_update": "closed_form",
        "noise_variance_init": None,
        "init": "ppca",
    }
    assert second.startswith("use fewer layers")
    assert third.startswith("fit a DeepAutoencoder")
    # Apart from its length, training is then all right.
    cured = diagnose(followed(vae, first).fit(X), X)
    assert cured.categories == ("unfinished",)
    assert cured.numbers["elbo"] > cured.numbers["reference"]


@pytest.mark.slow
def test_deep_networks_are_told_of_what_they_lack():
    # The closed form was worth it after a start at pPCA as well, without one fewer layers are more.
    X, deep = spectrum(), MODELS["gradient, deep"]
    at_ppca = diagnose(clone(deep).set_params(init="ppca", learning_rate=1e-5).fit(X), X)
    assert settings(at_ppca.advice[0]) == {
        "noise_update": "closed_form",
        "noise_variance_init": None,
    }
    tanh = diagnose(clone(deep).set_params(activation="tanh", noise_variance_init=None).fit(X), X)
    assert tanh.categories == ("optimum",)
    assert tanh.advice[0].startswith("use fewer layers")


def test_shallow_networks_are_told_of_annealing_and_other_seeds():
    remedies = sklearn_vae.diagnostics.advice.on_optimum(fitted("untrained"))
    advice = "\n".join(remedy.text for remedy in remedies)
    assert "kl_warmup_epochs" in advice
    assert "another random_state or learning_rate" in advice


def test_free_bits_that_hide_collapse_are_to_be_switched_off():
    report = report_of("held, free bits")
    assert len(report.collapse.collapsed) == 0
    assert report.categories == ("noise",)
    assert settings(report.advice[0])["noise_variance"] is None
    assert settings(report.advice[2]) == {"free_bits": 0}
    (found,) = report.findings
    below = report.numbers["elbo"] - report.numbers["reference"]
    assert "free_bits=0.1 keeps dimensions from collapsing" in found.evidence[1]
    assert f"is {-below:.4g} nats below that of pPCA" in found.evidence[1]
    assert np.sign(below) == -1
