"""Training with default parameters: a linear start, and epochs that validation samples choose."""

import copy
import re
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning

from sklearn_vae import (
    PPCA,
    BernoulliPPCA,
    DeepAutoencoder,
    DeepBernoulliVAE,
    DeepGaussianVAE,
    FactorAnalysis,
)
from sklearn_vae.deep.choices import PLAIN, count_folds
from sklearn_vae.deep.epoch_search import AveragedParameters, Curves, EpochSearch, Gain
from sklearn_vae.deep.objective_terms import ObjectiveTerms, enlarge_noise, mean_objective
from sklearn_vae.deep.outcome import Bounds, warn_of_outcome
from sklearn_vae.diagnostics import diagnose
from sklearn_vae.serialization import load, save
from tests.deep.automatic import BITS, CURVED, NOISE, fitted
from tests.deep.data import parameters_of

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def test_networks_are_kept_where_they_gain_on_validation_samples():
    model = fitted(DeepGaussianVAE, True)
    assert not model.is_linear_
    assert 0 < model.n_iter_ <= model.max_epochs_
    assert all(len(values) == model.n_iter_ for values in model.history_.values())
    history = model.history_
    assert history["validation_bound"][-1] > history["linear_validation_bound"][0]
    assert model.elbo_ > PPCA(2).fit(CURVED).score(CURVED)


@pytest.mark.parametrize(
    ("kind", "options", "score"),
    [
        (DeepGaussianVAE, {}, lambda: PPCA(2).fit(NOISE).score(NOISE)),
        (DeepGaussianVAE, {"noise_model": "diagonal"}, lambda: FactorAnalysis(2).fit(NOISE).score(NOISE)),
        (DeepBernoulliVAE, {}, lambda: BernoulliPPCA(2, random_state=0).fit(BITS).score(BITS)),
        (DeepAutoencoder, {}, lambda: -np.square(NOISE - _projected(NOISE)).mean()),
    ],
)  # fmt: skip
def test_the_start_is_the_linear_model_of_all_samples(kind, options, score, monkeypatch):
    monkeypatch.setattr("sklearn_vae.deep.epoch_search.LEAST_SAMPLES", 1000)
    model = kind(2, random_state=0, **options)
    if kind is DeepBernoulliVAE:
        model.set_params(binarize=0.0)
    model.fit(NOISE)
    assert model.is_linear_
    assert model.n_iter_ == 0
    assert model.training_history["epoch"].tolist() == [0]
    # L-BFGS starts logistic pPCA, to fewer digits.
    tolerance = 1e-2 if kind is DeepBernoulliVAE else 1e-4
    assert model.score(NOISE) == pytest.approx(score(), abs=tolerance)
    assert model.history_["bound"][0] == pytest.approx(model.score(NOISE), abs=1e-2)


def _projected(X):
    pca = PCA(2).fit(X)
    return pca.inverse_transform(pca.transform(X))


@pytest.mark.some(1, "slow")
@pytest.mark.parametrize("kind", [DeepGaussianVAE, DeepBernoulliVAE, DeepAutoencoder])
def test_noise_keeps_the_linear_model_and_diagnose_says_so(kind):
    model = fitted(kind, False)
    assert model.is_linear_
    report = diagnose(model, BITS if kind is DeepBernoulliVAE else NOISE)
    assert "linear" in report.categories


@pytest.mark.parametrize(("change", "is_linear"), [(-1.0, True), (0.0, False), (1.0, False)])
def test_training_is_undone_only_if_it_lowers_the_objective(change, is_linear, monkeypatch):
    bounds = iter([2.0, 2.0 + change])  # of the start, and after training
    monkeypatch.setattr("sklearn_vae.deep.base.mean_objective", lambda *_: next(bounds))
    search = EpochSearch(
        [0, 2], [0.0, 1.0], max_epochs=9, best=1, gain=SimpleNamespace(is_sure=True)
    )
    monkeypatch.setattr("sklearn_vae.deep.base.search_epochs", lambda *_: search)
    model = DeepGaussianVAE(2, random_state=0).fit(NOISE)
    assert model.is_linear_ == is_linear
    assert model.n_iter_ == len(model.history_["bound"]) * (not is_linear) == 2 * (not is_linear)


def test_progress_says_that_the_model_is_linear(capsys):
    DeepGaussianVAE(2, random_state=0, verbose=1).fit(NOISE)
    assert "keeps its linear start" in capsys.readouterr().err


def test_data_of_full_rank_start_at_their_covariance(monkeypatch):
    monkeypatch.setattr("sklearn_vae.deep.epoch_search.LEAST_SAMPLES", 1000)
    model = DeepGaussianVAE(8, random_state=0).fit(NOISE)
    S = np.cov(NOISE.T, bias=True)
    expected = -0.5 * (6 * np.log(2 * np.pi) + np.linalg.slogdet(S)[1] + 6)
    assert model.score(NOISE) == pytest.approx(expected, abs=1e-3)


def test_few_samples_are_not_searched():
    model = DeepGaussianVAE(2, random_state=0).fit(NOISE[:12])
    assert model.is_linear_
    assert model.score(NOISE[:12]) == pytest.approx(PPCA(2).fit(NOISE[:12]).score(NOISE[:12]))


def test_choices_are_visible_and_parameters_stay_as_they_were():
    model = fitted(DeepGaussianVAE, True)
    assert model.get_params() == DeepGaussianVAE(2, random_state=0).get_params()
    assert model.hidden_layer_sizes_ == (64,)
    assert (model.activation_, model.init_, model.n_mc_samples_) == ("silu", "ppca", 2)
    assert model.batch_size_ == 64
    assert model.learning_rate_ == 1e-2
    assert model.max_epochs_ == 320 // (1 + count_folds(len(CURVED), 0.2))
    assert DeepGaussianVAE(2, batch_size=5).fit(NOISE[:12]).batch_size_ == 5


@pytest.mark.parametrize("kind", [DeepGaussianVAE, DeepBernoulliVAE, DeepAutoencoder])
def test_with_explicit_epochs_auto_has_the_values_of_before(kind):
    given = {"binarize": 0.0} if kind is DeepBernoulliVAE else {}
    one = kind(2, max_epochs=2, random_state=0, **given).fit(NOISE)
    values = {n: v for n, v in PLAIN.items() if n in one.get_params() and n != "max_epochs"}
    other = kind(2, max_epochs=2, random_state=0, **given, **values).fit(NOISE)
    np.testing.assert_array_equal(parameters_of(one), parameters_of(other))
    assert one.hidden_layer_sizes_ == (512, 256)
    assert not one.is_linear_


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "iwae"},
        {"kl_weight": 2.0},
        {"free_bits": 0.1},
        {"variational_family": "sylvester"},
        {"init": None},
        {"activation": "tanh"},
        {"hidden_layer_sizes": (3,)},
        {"noise_variance_init": 1.0},
        {"early_stopping": True},
    ],
)
def test_other_settings_do_not_train_automatically(options, monkeypatch):
    monkeypatch.setitem(PLAIN, "max_epochs", 2)
    monkeypatch.setitem(PLAIN, "hidden_layer_sizes", (8,))
    model = DeepGaussianVAE(2, random_state=0, **options).fit(NOISE)
    assert model.n_iter_ == 2
    assert not model.is_linear_


def test_weights_of_zero_leave_samples_out_of_the_search():
    X = np.r_[NOISE, 100.0 + NOISE]
    weights = np.r_[np.ones(len(NOISE)), np.zeros(len(NOISE))]
    model = DeepGaussianVAE(2, random_state=0).fit(X, sample_weight=weights)
    assert model.score(NOISE) == pytest.approx(fitted(DeepGaussianVAE, False).score(NOISE))


def test_fits_survive_files(tmp_path):
    model = fitted(DeepGaussianVAE, True)
    save(model, tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.score(CURVED) == model.score(CURVED)
    assert loaded.is_linear_ is False


def test_a_warm_start_continues_with_the_networks_that_were_chosen():
    model = copy.deepcopy(fitted(DeepGaussianVAE, True))
    n_iter = model.n_iter_
    model.set_params(warm_start=True, max_epochs=2).fit(CURVED)
    assert model.n_iter_ == n_iter + 2
    assert model.hidden_layer_sizes_ == (64,)


def test_a_failing_fit_changes_nothing():
    model = DeepGaussianVAE(2, random_state=0)
    with pytest.raises(ValueError, match="NaN"):
        model.fit(np.full((30, 4), np.nan))
    assert vars(model).keys() == DeepGaussianVAE().get_params().keys()
    assert model.max_epochs == "auto"


def test_parameters_are_averaged_over_epochs():
    class Net:
        module_ = torch.nn.Linear(1, 1, bias=False)

    with torch.no_grad():
        Net.module_.weight.fill_(1.0)
        average = AveragedParameters(0.25)
        average.on_train_begin(Net)
        for value in (2.0, 4.0):
            Net.module_.weight.fill_(value)
            average.on_epoch_end(Net)
    assert average.average_["weight"].item() == 0.75 * (0.75 * 1 + 0.25 * 2) + 0.25 * 4


def search_with(mean=1.0, error=0.1, trimmed=1.0, trimmed_error=0.1):
    gain = Gain(mean, error, trimmed, trimmed_error)
    return EpochSearch(np.array([0, 5]), np.array([0.0, mean]), 5, 1, gain)


# Too few samples for networks.
NO_SEARCH = EpochSearch(np.zeros(1, int), np.full(1, np.nan), 0, 0, Gain(0.0, np.inf, 0.0, np.inf))


def test_gains_must_exceed_their_error_and_not_depend_on_few_samples():
    assert search_with().n_epochs == 5
    assert search_with(error=1.5).n_epochs == 0
    assert search_with(trimmed=0.2).n_epochs == 0
    assert search_with(trimmed=0.3, trimmed_error=0.4).n_epochs == 0
    assert search_with(trimmed=0.3, trimmed_error=0.2).n_epochs == 0
    assert search_with(trimmed=0.3, trimmed_error=0.09).n_epochs == 5
    assert search_with(trimmed=0.6, trimmed_error=0.5).n_epochs == 5


def fold_terms(residuals, noise=1.0, d=50):
    """Terms of samples at mu with these squared residuals per feature, without latents."""
    values = -0.5 * d * (np.log(2 * np.pi * noise) + residuals / noise)
    return ObjectiveTerms(values, residuals / noise, d)


def test_the_bound_without_latents_is_that_of_normals_with_the_scale_of_training():
    model = DeepGaussianVAE(2, hidden_layer_sizes=(4,), max_epochs=1, random_state=0).fit(NOISE)
    scale = np.broadcast_to(model.scale_, NOISE.shape[1])
    expected = norm.logpdf(NOISE, model.mean_, scale).sum(axis=1).mean()
    data = SimpleNamespace(is_incomplete=False)
    assert model._bound_without_latents(data) == pytest.approx(expected, rel=1e-6)


def test_a_larger_noise_variance_is_a_candidate_where_validation_samples_need_it():
    rng = np.random.default_rng(0)
    start, trained = rng.chisquare(50, size=(2, 3, 40)) / 50 * np.array([1.0, 0.7])[:, None, None]
    curves = Curves([fold_terms(r) for r in start], np.ones(120))
    curves.add(5, [fold_terms(r, noise=0.5) for r in trained])
    result = curves.result(100)
    assert result.noise_factor == pytest.approx(trained.mean() / 0.5)
    # Each fold has the factor of the others.
    factors = [np.delete(trained, i, axis=0).mean() / 0.5 for i in range(3)]
    values = [fold_terms(r, 0.5 * c).values.mean() for r, c in zip(trained, factors, strict=True)]
    assert result.bounds[1] == pytest.approx(np.mean(values))
    # One that is right already stays as it is, and is never lowered.
    curves = Curves([fold_terms(r) for r in start], np.ones(120))
    curves.add(5, [fold_terms(r, noise=trained.mean()) for r in trained])
    assert curves.result(100).noise_factor == 1.0
    curves.add(10, [fold_terms(r, noise=2.0) for r in trained])
    assert curves.factors[2] == 1.0


def test_the_noise_variance_is_enlarged_as_far_as_training_samples_allow():
    model = copy.deepcopy(fitted(DeepGaussianVAE, True))
    net, x = model.net_, torch.from_numpy((CURVED - model.mean_) / model.scale_)
    before, noise = mean_objective(net, x, None), net.module_.likelihood.noise_variance.item()
    enlarge_noise(net, x, None, 1.1, before - 10.0)
    assert net.module_.likelihood.noise_variance.item() == pytest.approx(1.1 * noise)
    middle = mean_objective(net, x, None)
    enlarge_noise(net, x, None, 100.0, middle - 0.2)
    assert mean_objective(net, x, None) == pytest.approx(middle - 0.2, abs=1e-6)


def test_few_samples_of_many_features_get_a_larger_noise_variance():
    rng = np.random.default_rng(0)
    W = 3 * rng.normal(size=(2, 300))
    X, Y = (rng.normal(size=(n, 2)) @ W + rng.normal(size=(n, 300)) for n in (30, 300))
    model = DeepGaussianVAE(4, random_state=0).fit(X)
    linear = PPCA(4).fit(X)
    assert model.noise_variance_ > 1.05 * linear.noise_variance_
    assert model.score(Y) > linear.score(Y) + 1.0
    assert model.score(X) > linear.score(X) - 0.01 * abs(linear.score(X)) - 0.1
    assert "noise variance" in model.active_bounds
    assert "noise" not in diagnose(model, X).categories


@pytest.mark.parametrize(
    ("bounds", "search", "match"),
    [
        (Bounds(-1.0, -10.0), search_with(mean=-8.0, error=-9.0), "overfits"),
        (Bounds(1.0, -10.0), search_with(), "has not converged"),
        (Bounds(-1.0, -10.0), None, None),
        (Bounds(-1.0, -10.0), NO_SEARCH, None),
    ],
)
def test_one_warning_names_the_number_and_the_remedy(bounds, search, match):
    model = DeepGaussianVAE(2, hidden_layer_sizes=(8,), max_epochs=2).fit(CURVED)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_outcome(model, bounds, search)
    assert len(caught) == (match is not None)
    if match:
        with pytest.warns(ConvergenceWarning, match=match):
            warn_of_outcome(model, bounds, search)


@pytest.mark.parametrize(
    ("training", "validation", "warns"),
    [(-9.0, -8.0, False), (-4.0, -8.0, True), (-11.0, -20.0, False)],
)
def test_overfitting_is_judged_at_the_best_epoch(training, validation, warns, recwarn):
    # The final bound, -1, is that with a noise variance which is set after training. Without latent
    # dimensions the bound is -10.
    model = clone(fitted(DeepGaussianVAE, True)).set_params(max_epochs=5, early_stopping=True)
    model.n_iter_, model.n_components_ = 2, 3
    model.history_ = {
        "bound": np.array([training, -1.0]),
        "validation_bound": np.array([validation, -30.0]),
    }
    warnings.simplefilter("always")
    warn_of_outcome(model, Bounds(-1.0, -10.0), None)
    assert [w.category for w in recwarn] == warns * [ConvergenceWarning]


def warning_of(kind, X, **options):
    """The one ConvergenceWarning of a fit, or an empty string."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kind(2, random_state=0, **({"hidden_layer_sizes": (8,)} | options)).fit(X)
    assert len(caught) <= 1
    assert all(w.category is ConvergenceWarning and w.filename == __file__ for w in caught)
    return str(caught[0].message) if caught else ""


RAW = CURVED * np.geomspace(1.0, 1e3, 6)
HALF = CURVED[:120]
WIDE = {"hidden_layer_sizes": (64,), "learning_rate": 1e-2}


@pytest.mark.some(5, "slow")
@pytest.mark.parametrize(
    ("kind", "X", "options", "match"),
    [
        # A random start stays below pPCA where one feature has most of the variance.
        (DeepGaussianVAE, RAW, {}, 'ended below pPCA.*bound is .*max_epochs="auto"'),
        (DeepGaussianVAE, RAW, {"max_epochs": 19}, "^$"),
        (DeepGaussianVAE, RAW, {"kl_weight": 2.0}, "^$"),
        (DeepGaussianVAE, RAW, {"init": "ppca"}, "^$"),
        (DeepGaussianVAE, RAW, {"early_stopping": True}, "below pPCA.*validation samples"),
        (DeepGaussianVAE, RAW, {"variational_family": "sylvester"}, "increase max_epochs or"),
        (DeepGaussianVAE, HALF, {"noise_model": "diagonal", "learning_rate": 1e-4}, "below pPCA"),
        (DeepGaussianVAE, HALF, {"noise_variance": 300.0}, "2 of 2.*noise_variance=300 is too"),
        (DeepGaussianVAE, CURVED, WIDE | {"init": "ppca"}, "not converged.*would add about"),
        (DeepAutoencoder, HALF, {"learning_rate": 1e-4}, "ended below PCA"),
        (DeepBernoulliVAE, BITS, {"binarize": 0.0, "learning_rate": 1e-6}, "without latent"),
    ],
)
def test_a_fit_with_given_epochs_says_what_is_wrong(kind, X, options, match):
    assert re.search(match, warning_of(kind, X, **({"max_epochs": 20} | options)))


def test_the_warning_of_a_noise_variance_is_in_the_units_of_the_data():
    X = 1e-3 * HALF
    text = warning_of(DeepGaussianVAE, X, noise_variance=1.0, max_epochs=20)
    named = float(re.search(r"its noise variance of ([^,]+),", text)[1])
    assert named == pytest.approx(PPCA(2).fit(X).noise_variance_, rel=1e-3)


def test_a_noise_variance_that_is_not_too_large_is_not_blamed():
    # It is a small number in the units of the networks only.
    X = 1e3 * HALF
    noise = 0.5 * float(PPCA(2).fit(X).noise_variance_)
    assert "too large" not in warning_of(DeepGaussianVAE, X, noise_variance=noise, max_epochs=20)
