"""Missing values in deep VAEs, against pPCA with missing values and sums over a grid of latents."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone

from sklearn_vae import PPCA, DeepAutoencoder, DeepBernoulliVAE, DeepGaussianVAE
from sklearn_vae.deep.incomplete_start import IncompleteStart
from sklearn_vae.deep.linear_fits import FACTOR_TOL
from sklearn_vae.diagnostics import diagnose, entropy_bound, tune_noise_variance
from sklearn_vae.gaussian.factor_em import fit_incomplete_factors
from sklearn_vae.gaussian.incomplete_ppca import fit_incomplete_ppca
from tests.deep.data import SMALL, VAES, make_rows
from tests.sharing import shared

X = make_rows(80)
HOLES = X.copy()
HOLES[np.random.default_rng(0).random(X.shape) < 0.2] = np.nan
HOLES[3] = np.nan
HIDDEN = np.isnan(HOLES)
K = 3
# A step that moves nothing: what is fitted is what training began with.
STILL = {"noise_update": "gradient", "learning_rate": 1e-300, "max_epochs": 1, "random_state": 0}


def still(rows=HOLES, **parameters):
    options = {"hidden_layer_sizes": (16,), **STILL, **parameters}
    return DeepGaussianVAE(K, init="ppca", **options).fit(rows)


@shared
def linear():
    """A VAE that is pPCA of samples with missing values, and this pPCA."""
    return still(), PPCA(K, coordinates="posterior", tol=1e-9).fit(HOLES)


@shared
def trained(binary=False):
    """VAEs of one latent dimension, which are not linear."""
    options = {
        "hidden_layer_sizes": (8,),
        "max_epochs": 60,
        "learning_rate": 0.01,
        "random_state": 0,
    }
    if binary:
        return DeepBernoulliVAE(1, binarize=0.0, **options).fit(HOLES)
    return DeepGaussianVAE(1, **options).fit(HOLES)


def test_a_linear_model_is_ppca_of_what_was_observed():
    vae, ppca = linear()
    assert vae.score(HOLES) == pytest.approx(ppca.score(HOLES), abs=1e-4)
    assert vae.elbo_ == pytest.approx(vae.score(HOLES), abs=1e-9)
    # The importance weights of an exact posterior are all equal.
    np.testing.assert_allclose(vae.log_likelihood(HOLES, 3), vae.score_samples(HOLES), atol=1e-9)
    filled, std = vae.impute(HOLES, return_std=True)
    expected, expected_std = ppca.impute(HOLES, return_std=True)
    assert np.abs((filled - expected)[HIDDEN] / expected_std[HIDDEN]).max() < 1e-2
    np.testing.assert_allclose(std, expected_std, rtol=1e-2)
    assert (filled == HOLES)[~HIDDEN].all()
    assert vae.score_samples(HOLES)[3] == pytest.approx(0.0, abs=1e-9)
    np.testing.assert_allclose(vae.posterior(HOLES)[1][3], 1.0)


@pytest.mark.some(2, "slow")
@pytest.mark.parametrize(
    "parameters",
    [
        {"noise_model": "diagonal"},
        {"noise_model": "heteroscedastic"},
        {"prior": "learned_variance"},
        {"hidden_layer_sizes": (), "noise_variance": 0.3},
    ],
    ids=str,
)
def test_every_start_is_exact(parameters):
    vae = still(**parameters)
    units = (HOLES - vae.mean_) / vae.scale_
    noise = vae.module_.likelihood.initial_log_variance.exp().numpy()
    root = np.sqrt(np.broadcast_to(noise, X.shape[1]))
    fit = fit_incomplete_ppca(units / root, K, noise_variance=1.0)
    log_scale = ~HIDDEN @ np.log(vae.scale_ * root)
    expected = fit.log_likelihood(units / root) - log_scale
    np.testing.assert_allclose(vae.score_samples(HOLES), expected, rtol=0, atol=1e-3)


def test_networks_of_complete_samples_take_missing_values():
    vae, ppca = still(X), PPCA(K, coordinates="posterior").fit(X)
    state = {name: tensor.clone() for name, tensor in vae.module_.state_dict().items()}
    np.testing.assert_allclose(vae.score_samples(HOLES), ppca.score_samples(HOLES), atol=1e-9)
    np.testing.assert_allclose(vae.impute(HOLES), ppca.impute(HOLES), atol=1e-9)
    mean, covariance = vae.posterior(HOLES, return_cov=True)
    expected, expected_covariance = ppca.posterior(HOLES, return_cov=True)
    signs = np.sign((mean * expected).sum(axis=0))
    np.testing.assert_allclose(mean * signs, expected, atol=1e-9)
    signs = signs[:, None] * signs
    np.testing.assert_allclose(covariance * signs, expected_covariance, atol=1e-9)
    # Nothing is remembered, and complete samples take the same way as before.
    assert all((vae.module_.state_dict()[name] == tensor).all() for name, tensor in state.items())
    assert vae.module_.state_dict().keys() == state.keys()


def on_grid(vae, rows):
    """Log-likelihood and conditional moments of the features, by a sum over a grid of latents."""
    z = np.linspace(-8, 8, 4001)[:, None]
    mean, variance = (a[:, None] for a in vae.conditional(z))
    if isinstance(vae, DeepBernoulliVAE):
        terms = np.where(rows > 0, np.log(mean), np.log1p(-mean))
    else:
        terms = -0.5 * ((rows - mean) ** 2 / variance + np.log(2 * np.pi * variance))
    logs = np.where(np.isnan(rows), 0.0, terms).sum(axis=2)
    logs = logs - 0.5 * z**2 - 0.5 * np.log(2 * np.pi) + np.log(z[1] - z[0])
    top = logs.max(axis=0)
    weights = np.exp(logs - top)
    total = weights.sum(axis=0)
    weights = (weights / total)[..., None]
    first = (weights * mean).sum(axis=0)
    second = (weights * (variance + (mean - first) ** 2)).sum(axis=0)
    return top + np.log(total), first, np.sqrt(second)


@pytest.mark.slow
@pytest.mark.parametrize("binary", [False, True])
def test_nonlinear_models_approach_the_exact_conditional_moments(binary):
    vae, rows = trained(binary), HOLES[:12]
    log_likelihood, mean, std = on_grid(vae, rows)
    np.testing.assert_allclose(vae.log_likelihood(rows, 4000), log_likelihood, atol=0.03)
    assert (vae.score_samples(rows) < log_likelihood + 1e-3).all()
    filled, got = vae.impute(rows, return_std=True, n_samples=4000)
    hidden = np.isnan(rows)
    np.testing.assert_allclose((filled - mean)[hidden] / std[hidden], 0.0, atol=0.05)
    np.testing.assert_allclose(got[hidden], std[hidden], rtol=0.05)
    draws = vae.impute(rows, n_draws=400, random_state=0)
    error = (draws.mean(axis=0) - mean)[hidden] / std[hidden]
    assert np.abs(error).max() < 5 / 20
    assert (draws == vae.observations(rows))[:, ~hidden].all()
    twice = [vae.impute(rows, n_draws=2, random_state=0) for _ in range(2)]
    np.testing.assert_array_equal(*twice)


@pytest.mark.some(4, "slow")
@pytest.mark.parametrize("model", VAES, ids=str)
def test_every_vae_trains_with_missing_values(model):
    vae = clone(model).fit(HOLES)
    scores = vae.score_samples(HOLES)
    assert np.isfinite(scores).all()
    assert vae.elbo_ == pytest.approx(scores.mean(), abs=0.3)
    order = np.random.default_rng(1).permutation(len(X))
    np.testing.assert_allclose(vae.score_samples(HOLES[order]), scores[order], rtol=1e-9)
    np.testing.assert_allclose(vae.score_samples(HOLES[:1]), scores[:1], rtol=1e-9)
    assert np.isfinite(vae.impute(HOLES)).all()
    assert np.isfinite(vae.impute(HOLES, n_draws=2, random_state=0)).all()
    assert np.isfinite(vae.transform(HOLES)).all()
    other = pickle.loads(pickle.dumps(vae))
    np.testing.assert_array_equal(other.score_samples(HOLES), scores)
    other = clone(model)
    other.set_state(vae.get_state())
    np.testing.assert_array_equal(other.score_samples(HOLES), scores)


def test_the_noise_variance_is_the_mean_square_of_observed_residuals():
    for model in ("scalar", "diagonal"):
        vae = DeepGaussianVAE(1, hidden_layer_sizes=(8,), max_epochs=5, noise_model=model)
        vae.set_params(random_state=0).fit(HOLES)
        tuned = tune_noise_variance(vae, HOLES).noise_variance
        np.testing.assert_allclose(vae.noise_variance_, tuned, rtol=0.02)
        gap = entropy_bound(vae, HOLES).gap.noise
        assert abs(gap) < 0.05
        # The derivative of the bound in the logarithm of the noise variance.
        assert vae.entropy_gap_.noise == pytest.approx(0.0, abs=1e-6)


def test_weights_count_samples_with_missing_values_twice():
    twice = np.r_[HOLES, HOLES[:20]]
    weights = np.r_[np.full(20, 2.0), np.ones(60)]
    weighted = DeepGaussianVAE(K, init="ppca", hidden_layer_sizes=(8,), **STILL)
    repeated = clone(weighted).fit(twice)
    weighted.fit(HOLES, sample_weight=weights)
    np.testing.assert_allclose(weighted.mean_, repeated.mean_, rtol=1e-12)
    assert weighted.scale_ == pytest.approx(repeated.scale_, rel=1e-12)
    scores = [vae.score(HOLES) for vae in (weighted, repeated)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    assert weighted.elbo_ == pytest.approx(repeated.elbo_, abs=1e-4)


def test_float32_frames_and_few_samples():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(HOLES.astype(np.float32), columns=list("abcdefgh"))
    vae = still(frame)
    assert vae.impute(frame).dtype == np.float32
    assert vae.score(frame) == pytest.approx(linear()[1].score(HOLES), abs=1e-2)
    # Too few samples for a search: the model is the linear one.
    few = HOLES[4:22]
    vae = DeepGaussianVAE(2, random_state=0).fit(few)
    assert vae.is_linear_
    assert vae.score(few) == pytest.approx(PPCA(2).fit(few).score(few), abs=1e-3)


def test_validation_bounds_are_those_of_the_validation_samples():
    rows = HOLES * 100.0
    vae = DeepGaussianVAE(K, early_stopping=True, validation_fraction=0.3, **STILL).fit(rows)
    # The split of `fit`, which draws the seed first.
    random_state = np.random.RandomState(0)
    random_state.randint(np.iinfo(np.int32).max)
    held_out = random_state.permutation(len(rows))[:24]
    expected = vae.score(rows[held_out])
    # One draw of z per sample.
    assert vae.history_["validation_bound"][0] == pytest.approx(expected, abs=1.5)


def test_a_killed_fit_is_resumed_bit_for_bit_and_a_warm_start_continues(tmp_path):
    model = DeepGaussianVAE(K, **{**SMALL, "max_epochs": 4}, init="ppca")
    whole = clone(model).fit(HOLES)
    first = clone(model).set_params(checkpoint=tmp_path, checkpoint_every=2).fit(HOLES)
    again = clone(first).fit(HOLES)
    np.testing.assert_array_equal(whole.score_samples(HOLES), again.score_samples(HOLES))
    warm = clone(model).set_params(warm_start=True).fit(HOLES)
    assert warm.fit(X).n_iter_ == 8
    complete = clone(warm).fit(X)
    with pytest.raises(ValueError, match="warm_start=True continues with networks that were"):
        complete.fit(HOLES)


def test_diagnose_compares_with_ppca_of_what_was_observed():
    vae, ppca = linear()
    report = diagnose(vae, HOLES)
    assert report.numbers["reference"] == pytest.approx(ppca.score(HOLES), abs=1e-3)
    assert report.numbers["elbo"] == pytest.approx(ppca.score(HOLES), abs=1e-3)
    ratio = report.numbers["tuned_noise_variance"] / report.numbers["noise_variance"]
    assert ratio == pytest.approx(1.0, abs=0.02)
    assert report.collapse.percent == 0.0
    diagonal = still(noise_model="diagonal")
    assert np.isfinite(diagnose(diagonal, HOLES, X_held_out=HOLES[:20]).numbers["reference"])
    with pytest.raises(ValueError, match="diagnose needs data without missing values"):
        diagnose(trained(True), HOLES)


def test_what_is_not_supported_is_refused():
    empty = HOLES.copy()
    empty[:, 2] = np.nan
    with pytest.raises(ValueError, match=r"observed value in every feature, .* in column 2"):
        still(empty)
    with pytest.raises(ValueError, match=r"observed value in every feature, .* in column 2"):
        DeepGaussianVAE(2).fit(empty)
    with pytest.raises(ValueError, match="DeepAutoencoder does not accept missing values"):
        DeepAutoencoder(2).fit(HOLES)
    with pytest.raises(ValueError, match="contains infinity"):
        still().score(np.where(HIDDEN, np.inf, X))
    with pytest.raises(ValueError, match="n_draws must be an integer >= 1"):
        linear()[0].impute(HOLES, n_draws=0)
    assert linear()[0].with_dimensions([0, 1]) is None


def test_bits_stay_missing():
    vae = trained(True)
    bits = vae.observations(HOLES)
    np.testing.assert_array_equal(np.isnan(bits), HIDDEN)
    assert set(np.unique(bits[~HIDDEN])) == {0.0, 1.0}


@pytest.mark.parametrize(("n", "k", "n_factors"), [(40, 1, 1), (40, 9, 3), (3, 9, 3)])
def test_initial_noise_is_that_of_factor_analysis(n, k, n_factors):
    rows = torch.from_numpy(HOLES[4 : 4 + n, :5].copy())
    rows[:, 2] = torch.nan  # a feature without values keeps the noise 1
    noise = IncompleteStart(rows, k, None).factor_noise()
    seen = rows.numpy()[:, np.arange(5) != 2]
    expected = fit_incomplete_factors(seen, n_factors, tol=FACTOR_TOL)[0].noise_variance
    np.testing.assert_allclose(noise, np.insert(expected, 2, 1.0), rtol=1e-12)
