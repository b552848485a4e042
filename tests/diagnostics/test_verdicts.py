"""Verdicts on trainings with a planted fault, and their first advice followed."""

import re
from contextlib import suppress

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import scale

from sklearn_vae import PPCA, DeepGaussianVAE, FactorAnalysis, LinearVAE, Snapshot
from sklearn_vae.adapters import FunctionModel
from sklearn_vae.diagnostics import diagnose
from sklearn_vae.diagnostics.evidence import Evidence
from sklearn_vae.nn import MLP
from tests.diagnostics.models import rows, with_covariance
from tests.helpers import exhaustive, slow
from tests.sharing import shared

WINE = load_wine().data
DIGITS = load_digits().data
RAW_CANCER = load_breast_cancer().data
CANCER = scale(RAW_CANCER)


class Network(MLP):
    """A network of relu units that are below 0, that ignores its input, or that repeats it."""

    fault = ""

    def forward(self, x):
        if self.fault == "ignored":
            x = 0.0 * x
        if self.fault == "dominated":
            x = torch.cat([x[..., :1], 1e-3 * x[..., 1:]], dim=-1)
        h = super().forward(x)
        if self.fault == "copies":
            mean, log_variance = h.chunk(2, dim=-1)
            h = torch.cat([t[..., :1].expand_as(mean) for t in (mean, log_variance)], dim=-1)
        return h


def network(n_inputs, n_outputs, fault):
    built = Network(n_inputs, (16,), n_outputs, "relu")
    built.fault = fault
    if fault == "inactive":
        with torch.no_grad():
            built.layers[0].bias.fill_(-50.0)
    return built


def encoder_with(fault):
    return lambda shape, n_outputs: network(int(np.prod(shape)), n_outputs, fault)


def decoder_with(fault):
    return lambda k, shape: network(k, int(np.prod(shape)), fault)


FAULTS = {
    "inactive": {"encoder": encoder_with("inactive")},
    "inactive decoder": {"decoder": decoder_with("inactive")},
    "ignored": {"decoder": decoder_with("ignored")},
    "copies": {"encoder": encoder_with("copies")},
    "dominated": {"decoder": decoder_with("dominated")},
    "unstable": {"learning_rate": 0.5},
    "unfinished": {"max_epochs": 12, "learning_rate": 1e-3},
    "large_noise": {"noise_variance": 7.0},
    "optimum": {"hidden_layer_sizes": 12 * (16,)},
}


# Those of the encoder have others of the decoder, and tests/diagnostics/test_findings.py plants
# their numbers.
EACH_FAULT = pytest.mark.parametrize(
    "name",
    [
        *(
            name
            for name in FAULTS
            if name not in ("inactive decoder", "copies", "dominated", "ignored")
        ),
        *slow("inactive decoder", "copies", "dominated", "ignored"),
    ],
)


@shared
def report_of(name):
    X = with_covariance([9, 6, 4, 0.25, 0.25, 0.25], n=400)
    X = X @ np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    options = {"hidden_layer_sizes": (16,), "max_epochs": 100, "learning_rate": 3e-3}
    vae = DeepGaussianVAE(3, random_state=0, activation="relu", **{**options, **FAULTS[name]})
    return diagnose(vae.fit(X), X)


@EACH_FAULT
def test_the_planted_fault_is_the_first_finding(name):
    report = report_of(name)
    assert report.categories[0] == name.split()[0], str(report)
    assert not report.healthy
    assert any(not verdict.holds for verdict in report.verdicts)
    assert report.findings[0].remedies
    if name.startswith("inactive"):
        network = "decoder" if "decoder" in name else "encoder"
        assert report.findings[0].numbers == {f"inactive_{network}": 1.0}


@EACH_FAULT
def test_a_report_speaks_in_words(name):
    text = str(report_of(name))
    assert not re.search(r"\((i|ii|iii|iv|v)\)", text)
    assert "tune_noise_variance needs" not in text
    assert ("\nBAD " in text) != report_of(name).healthy
    assert "not at its optimum: E z^2" not in text


@pytest.mark.parametrize(
    ("kind", "X"),
    [
        (PPCA, WINE),
        (PPCA, RAW_CANCER),
        *slow((DeepGaussianVAE, WINE), (DeepGaussianVAE, RAW_CANCER)),
    ],
    ids=["PPCA, wine", "PPCA, cancer", "VAE, wine", "VAE, cancer"],
)
def test_a_dominating_scale_is_a_finding_with_a_remedy_that_works(kind, X):
    k = 3
    model = kind(k) if kind is PPCA else kind(k, init="ppca", max_epochs=1, random_state=0)
    model.fit(X)
    report = diagnose(model, X)
    (found,) = report.findings
    assert (found.category, found.harmful) == ("scale", True)
    largest = int(X.var(axis=0).argmax())
    assert f"{largest}" in found.title
    assert found.numbers["gain"] > 1
    assert diagnose(FactorAnalysis(k).fit(X), X).healthy
    if kind is DeepGaussianVAE:
        assert report.changes == {"noise_model": "diagonal"}
        assert clone(model).set_params(**report.changes).fit(X).score(X) > model.score(X) + 1
    else:
        assert report.changes == {}
    assert "scale" not in diagnose(PPCA(k).fit(scale(X)), scale(X)).categories


def test_the_names_of_dominating_features_are_given():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(WINE, columns=[f"feature_{i}" for i in range(13)])
    title = diagnose(PPCA(2).fit(frame), frame).findings[0].title
    assert title == "Feature 12 (feature_12) has 99.8% of the variance." or (
        title == "Feature 12 (feature_12) has 99.7% of the variance."
    )


@pytest.mark.slow
@pytest.mark.parametrize("n_epochs", [40, 100])
def test_the_vae_of_the_readme_is_not_called_healthy_before_it_is(n_epochs):
    vae = DeepGaussianVAE(8, hidden_layer_sizes=(64,), max_epochs=n_epochs, random_state=0)
    with pytest.warns(ConvergenceWarning, match="has not converged") as caught:
        vae.fit(DIGITS)
    report = diagnose(vae, DIGITS)
    assert report.categories == ("unfinished",)
    (found,) = report.findings
    further = {40: 5.0, 100: 3.3}[n_epochs]  # as measured with twice the number of epochs
    assert found.numbers["expected"] == pytest.approx(further, rel=0.35)
    assert f"expect about {found.numbers['expected']:.2g} nats more" in str(report)
    assert f"would add about {found.numbers['expected']:.2g};" in str(caught[0].message)


def test_a_history_of_noise_without_reconstructions_is_judged_by_its_bound():
    bounds = stopped().score(CANCER) - np.linspace(9.0, 0.0, 30)
    history = {"bound": bounds, "noise_variance": np.ones(30)}
    report = diagnose(elsewhere(history=history), CANCER)
    assert report.categories[0] == "unfinished"
    assert "still rises by 0.31 nats" in str(report)


def test_a_noise_variance_above_its_optimum_is_not_called_below_it():
    best, d = float(stopped().noise_variance_), CANCER.shape[1]
    noise = best * np.linspace(12.0, 6.0, 30)
    reconstruction = -0.5 * d * (np.log(2.0 * np.pi * noise) + best / noise)
    at_best = -0.5 * d * (np.log(2.0 * np.pi * best) + 1.0)
    history = {
        "bound": stopped().score(CANCER) + reconstruction - at_best,
        "reconstruction": reconstruction,
        "noise_variance": noise,
    }
    text = str(diagnose(elsewhere(history=history), CANCER))
    assert "the noise variance of training, which is not optimal, still rises by 0.4 nats" in text


def of_a_dominating_feature(**options):
    """A VAE and its rows: the noise variance of pPCA is far too small for it for long."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 10)) + 0.1 * rng.normal(size=(300, 10))
    X *= np.r_[np.ones(9), 1000.0]
    options |= {"hidden_layer_sizes": (16,), "learning_rate": 1e-2, "random_state": 0}
    return DeepGaussianVAE(3, **options).fit(X), X


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_gains_are_expected_at_the_noise_variance_that_the_model_has_after_training():
    vae, X = of_a_dominating_feature(max_epochs=100)
    report = diagnose(vae, X)
    assert report.categories == ("unfinished",)
    gain = clone(vae).set_params(max_epochs=200).fit(X).elbo_ - vae.elbo_
    assert vae.history_["bound"][-1] < vae.elbo_ - 1e4
    assert report.findings[0].numbers["expected"] == pytest.approx(gain, abs=3.0)
    (scale,) = [verdict.text for verdict in report.verdicts if verdict.name == "scale"]
    assert scale == "no harm from scales: the largest has 100.0% of all variance."


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_no_gain_is_expected_from_validation_samples_at_a_noise_variance_that_is_too_small():
    vae, X = of_a_dominating_feature(max_epochs=40, early_stopping=True)
    report = diagnose(vae, X)
    assert report.categories == ("unfinished",)
    text = "ELBO of validation samples at the noise variance of training, which is not optimal"
    assert text in str(report)
    found = report.findings[0].numbers
    assert found["expected"] < found["short"]


@shared
def stopped():
    """A VAE that has stopped far from convergence."""
    return DeepGaussianVAE(3, max_epochs=5, random_state=0).fit(CANCER)


def elsewhere(**options):
    """The same VAE, as if another library had trained it."""
    noise = stopped().noise_variance_
    return FunctionModel(
        stopped().posterior,
        lambda z: stopped().conditional(z)[0],
        **{"spread": "variance", "noise_variance": noise, "learned_noise": True, **options},
    )


def test_convergence_is_not_claimed_without_a_history():
    (text,) = [v.text for v in diagnose(elsewhere(), CANCER).verdicts if v.name == "convergence"]
    assert text.startswith("convergence not judged without a history; rescaling the latents")
    assert "converged within" not in text


@pytest.mark.some(1, "slow")
@pytest.mark.parametrize(("jumps", "category"), [(40.0, "unstable"), (0.01, "optimum")])
def test_unstable_training_is_found_in_the_history_of_another_library(jumps, category):
    bounds = stopped().score(CANCER) + jumps * np.random.default_rng(0).normal(size=100)
    report = diagnose(elsewhere(history={"bound": bounds}), CANCER)
    assert report.categories[0] == category
    assert ("reduce the learning rate, for example to a tenth" in report.advice) == (
        category == "unstable"
    )
    assert not any("=" in text for text in report.advice)


def test_a_bad_optimum_of_active_dimensions_is_no_collapse():
    rng = np.random.default_rng(0)
    X, V = rng.normal(size=(200, 4)), rng.normal(size=(4, 4))
    model = FunctionModel(
        lambda x: (np.asarray(x)[:, :2], np.full((len(x), 2), 0.3)),
        lambda z: 0.3 * z @ V[:2],
        spread="variance",
        noise_variance=2.0,
        learned_noise=True,
    )
    report = diagnose(model, X @ V)
    assert report.categories == ("optimum",)
    verdicts = {verdict.name: verdict for verdict in report.verdicts}
    assert verdicts["collapse"].holds, verdicts["collapse"]
    assert not verdicts["linear"].holds


@pytest.mark.parametrize("update", ["closed_form", "gradient"])
def test_a_tiny_learning_rate_is_neither_too_high_nor_at_an_optimum(update):
    # The noise variance of pPCA is far too small for these networks, so that the bound varies.
    Z = np.random.default_rng(0).normal(size=(100, 2))
    X = Z @ np.random.default_rng(1).normal(size=(2, 10))
    X += 0.1 * np.random.default_rng(2).normal(size=X.shape)
    options = {"max_epochs": 12, "hidden_layer_sizes": (8,), "random_state": 0}
    report = diagnose(
        DeepGaussianVAE(3, learning_rate=1e-5, noise_update=update, **options).fit(X), X
    )
    assert report.categories[0] == "unfinished"
    text = "12 epochs with the learning rate 1e-05 change no weight by more than about 0.0001"
    assert text in str(report)
    assert "or increase learning_rate" in report.advice


class Foreign(BaseEstimator):
    """A model of another library, whose optimizer nothing is known about."""

    noise_variance_ = 2.0

    def __init__(self, learning_rate=1e-4):
        self.learning_rate = learning_rate
        self.history_ = {"bound": [*np.linspace(-40.0, -30.0, 20), *10 * [-40.0, -70.0]]}

    def posterior(self, X):
        return np.asarray(X)[:, :2], np.full((len(X), 2), 0.3)

    def conditional(self, Z):
        return 0.1 * Z @ np.ones((2, 10)), np.full((len(Z), 10), 2.0)

    def score_samples(self, X):
        return np.full(len(X), -40.0)


@pytest.mark.parametrize(
    ("model", "category"),
    [
        (Foreign(), "unstable"),
        (LinearVAE(2, solver="adam", max_iter=12, random_state=0), "unfinished"),
        (
            DeepGaussianVAE(
                2, max_epochs=50, kl_warmup_epochs=40, hidden_layer_sizes=(8,), learning_rate=2e-3,
                batch_size=500, init=None, random_state=0,
            ),
            "unfinished",
        ),
    ],
    ids=["foreign", "linear", "KL warm-up"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_only_small_changes_of_our_networks_are_called_small(model, category):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 2)) @ rng.normal(size=(2, 10)) + 0.1 * rng.normal(size=(500, 10))
    if not isinstance(model, Foreign):
        model = clone(model).fit(X)
    report = diagnose(model, X)
    assert report.categories[0] == category
    assert "change no weight" not in str(report)


@pytest.mark.slow
def test_overfitting_is_seen_on_held_out_samples_and_in_snapshots():
    X, held_out = CANCER[:60], CANCER[60:]
    options = {"hidden_layer_sizes": (128,), "batch_size": 32, "random_state": 0}
    vae = DeepGaussianVAE(4, max_epochs=800, callbacks=[Snapshot(epochs=[100])], **options)
    report = diagnose(vae.fit(X), X, X_held_out=held_out)
    assert report.categories == ("overfit",)
    (found,) = report.findings
    numbers = report.numbers
    assert numbers["held_out_elbo"] == pytest.approx(vae.score(held_out), rel=1e-6)
    assert numbers["held_out_reference"] == pytest.approx(PPCA(4).fit(X).score(held_out), rel=1e-6)
    earlier = vae.snapshots_[100].score(held_out)
    assert f"{earlier - vae.score(held_out):.3g} nats higher at epoch 100" in found.evidence[-1]
    assert report.changes["max_epochs"] == "auto"
    assert "overfit" not in diagnose(vae, X).categories
    linear = diagnose(PPCA(4).fit(X), X, X_held_out=held_out)
    assert linear.healthy, str(linear)


STARTS = {
    "wine": (WINE, 3, {}),
    "few epochs": (DIGITS[:600], 4, {"max_epochs": 10}),
    "noise": (CANCER, 4, {"noise_variance": 20.0, "max_epochs": 40}),
    "rate": (CANCER, 4, {"learning_rate": 1.0, "max_epochs": 40}),
}


@pytest.mark.parametrize("name", ["wine", *exhaustive("rate", "few epochs", "noise")])
def test_the_first_advice_ends_healthy_and_improves_held_out_samples(name):
    X, k, options = STARTS[name]
    X = X[np.random.RandomState(0).permutation(len(X))]
    held_out, X = X[: len(X) // 4], X[len(X) // 4 :]
    model = DeepGaussianVAE(k, hidden_layer_sizes=(32,), random_state=0, **options)
    scores = []
    for _ in range(4):
        with suppress(FloatingPointError):  # the last finite parameters are kept
            model.fit(X)
        report = diagnose(model, X, X_held_out=held_out)
        scores.append(model.score(held_out))
        if report.healthy:
            break
        assert report.changes
        model.set_params(**report.changes)
    assert report.healthy, str(report)
    assert len(scores) > 1
    assert (np.diff(scores) > 0).all()


def test_the_optimal_noise_variance_needs_no_copy_of_the_networks(monkeypatch):
    X = rows()
    for noise_model in ("scalar", "diagonal"):
        vae = DeepGaussianVAE(
            3, noise_model=noise_model, noise_variance=0.7, max_epochs=3, random_state=0
        ).fit(X)
        tuned = vae.with_tuned_noise(X)
        monkeypatch.setattr(type(vae), "with_tuned_noise", None)
        numbers = Evidence(vae, X, X).numbers
        monkeypatch.undo()
        unit = np.mean(tuned.noise_variance_ / vae.feature_scale**2)
        assert numbers["tuned_noise_variance"] == pytest.approx(unit, rel=1e-6)
        assert numbers["tuned_elbo"] == pytest.approx(tuned.score(X), rel=1e-6)


def test_fewer_draws_of_large_networks_agree_with_all(monkeypatch):
    X = rows()
    vae = DeepGaussianVAE(3, max_epochs=3, random_state=0).fit(X)
    exact = vae.bound_terms(X)
    monkeypatch.setattr("sklearn_vae.deep.vae.N_OPERATIONS", 8 * vae.net_.operations_ * len(X))
    few = vae.bound_terms(X)
    assert few.bound != exact.bound
    assert few.bound == pytest.approx(exact.bound, abs=0.2)
    assert few.kl == pytest.approx(exact.kl, rel=1e-6)
    assert few.squared_errors == pytest.approx(exact.squared_errors, rel=0.2)
    assert vae.bound_terms(X).bound == few.bound
