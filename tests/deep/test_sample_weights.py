"""Weights of samples: as repeated samples, and none as one that is absent."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_vae import DeepAutoencoder, DeepBernoulliVAE, DeepGaussianVAE, Snapshot
from sklearn_vae.deep import fit_averages
from sklearn_vae.deep.choices import PLAIN, values_of_fit, with_values
from sklearn_vae.deep.training_data import prepare
from sklearn_vae.training import batches, cuda_graph, fast_paths, learning_rate_limit, loop
from sklearn_vae.training.distributed import SINGLE_PROCESS
from sklearn_vae.training.monitors import LatentMonitor
from tests.deep.data import (
    MODELS,
    OF_EACH_KIND,
    SMALL,
    VAES,
    each_of,
    fitted,
    make_rows,
    parameters_of,
)

X = make_rows()
COUNTS = np.random.default_rng(1).integers(0, 4, size=len(X))
REPEATED = X.repeat(COUNTS, axis=0)
WEIGHTS = np.random.default_rng(2).uniform(0.1, 3.0, size=len(X)) * (COUNTS > 0)

each_model = each_of(MODELS)


class WithoutNoise:
    """torch with draws that are all 0, which are the same for a weighted sample and its copies."""

    def __getattr__(self, name):
        return getattr(torch, name)

    def randn(self, *shape, generator, **options):
        return torch.zeros(*shape, **options)


def take_noise_away(monkeypatch):
    for module in (batches, fit_averages, loop, learning_rate_limit):
        monkeypatch.setattr(module, "torch", WithoutNoise())


def results_of(model):
    """Everything that fit has computed, but for the time it took."""
    found = {f"history {k}": v for k, v in model.history_.items() if k != "seconds"}
    names = ("mean_", "scale_", "elbo_", "entropy_bound_", "kl_per_dim_", "collapsed_dims_")
    names += ("noise_variance_", "prior_variance_")
    found |= {name: getattr(model, name) for name in names if hasattr(model, name)}
    return {**found, "parameters": parameters_of(model)}


def assert_same(one, other, **tolerance):
    one, other = results_of(one), results_of(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_allclose(value, other[name], **tolerance, err_msg=name)


def as_one_batch(model):
    model = clone(model).set_params(batch_size=10**4)
    if model.early_stopping:  # whose held-out samples are others
        model.set_params(early_stopping=False)
    return model


@pytest.mark.some(3)
@each_model
def test_a_fit_is_that_of_repeated_samples(model, monkeypatch):
    take_noise_away(monkeypatch)
    weighted = as_one_batch(model).fit(X, sample_weight=COUNTS)
    repeated = as_one_batch(model).fit(REPEATED)
    if getattr(model, "variational_family", None) == "sylvester":
        for each in (weighted, repeated):  # of 64 samples
            del each.history_["posterior_entropy"], each.history_["active_dims"]
    assert_same(weighted, repeated, rtol=1e-6, atol=1e-8)
    assert weighted.score(X, sample_weight=COUNTS) == pytest.approx(weighted.score(REPEATED))
    different = as_one_batch(model).fit(X)
    assert not np.allclose(parameters_of(different), parameters_of(weighted), atol=1e-5)


@each_model
def test_the_start_is_that_of_repeated_samples(model):
    def built(rows, weights):
        started = with_values(as_one_batch(model), PLAIN)
        data = prepare(started, rows, weights, False, SINGLE_PROCESS)
        started._build(data)
        return started

    weighted, repeated = built(X, COUNTS), built(REPEATED, None)
    np.testing.assert_allclose(weighted.mean_, repeated.mean_, rtol=1e-12)
    np.testing.assert_allclose(weighted.scale_, repeated.scale_, rtol=1e-12)
    np.testing.assert_allclose(parameters_of(weighted), parameters_of(repeated), atol=1e-10)


@each_model
@pytest.mark.parametrize("draws", [1, 3])
def test_a_step_is_that_of_repeated_samples(model, draws):
    model = copy.deepcopy(fitted(model))
    net, k = model.net_, model.n_components_
    counts = torch.from_numpy(COUNTS)
    x = torch.from_numpy((X - model.mean_) / model.scale_)
    if isinstance(model, DeepBernoulliVAE):
        x = torch.from_numpy((X > 0).astype(float))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((draws, len(x), k), generator=generator, dtype=x.dtype)

    def step(x, noise, *weights):
        module = copy.deepcopy(net.module_)
        found = {}

        def update(x):
            found.update(
                (n, p.grad.clone()) for n, p in module.named_parameters() if p.grad is not None
            )
            module.after_step()

        take = fast_paths.training_step(module, net.objective, net.options, update)
        sums = take(x, noise, 0.7, *weights)
        return sums[:2], found, module.state_dict()

    weights = counts.double() * (len(x) / COUNTS.sum())
    sums, gradients, state = step(x, noise, weights)
    repeated = (part.repeat_interleave(counts, dim=d) for part, d in ((x, 0), (noise, 1)))
    other_sums, other_gradients, other_state = step(*repeated)
    share = len(x) / COUNTS.sum()
    for one, other in zip(sums, other_sums, strict=True):
        assert float(one) == pytest.approx(share * float(other), rel=1e-10)
    assert gradients.keys() == other_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, other_gradients[name], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(state, other_state, rtol=1e-10, atol=1e-12)


@pytest.mark.some(3)
@each_model
def test_diagnostics_are_those_of_repeated_samples(model, monkeypatch):
    known = fitted(model)
    take_noise_away(monkeypatch)

    def evaluated(rows, weights):
        found = with_values(copy.deepcopy(known), values_of_fit(known))
        found.set_params(early_stopping=False)
        found._set_diagnostics(prepare(found, rows, weights, True, SINGLE_PROCESS))
        return found

    one, other = evaluated(X, COUNTS), evaluated(REPEATED, None)
    assert_same(one, other, rtol=1e-10, atol=1e-12)
    if model in VAES:
        assert one.entropy_gap_.noise == pytest.approx(other.entropy_gap_.noise, abs=1e-9)
        found = one.entropy_gap_.dimensions
        np.testing.assert_allclose(found, other.entropy_gap_.dimensions, atol=1e-10)


def test_a_dimension_of_few_weights_has_collapsed():
    # 3 of 150 samples use the latent dimension, which is 2 % of them, but little of the weight.
    rows = np.random.default_rng(0).normal(size=(150, 4)) * 0.01
    rows[:3] += 100.0
    weights = np.r_[np.full(3, 0.1), np.ones(147)]
    model = with_values(DeepGaussianVAE(1, **SMALL, noise_variance=1.0).fit(rows), PLAIN)
    module = model.module_
    with torch.no_grad():
        for parameter in module.encoder.parameters():
            parameter.zero_()
        first, last = module.encoder.layers
        first.weight[0, 0], last.weight[0, 0] = 1.0, 1.0
        first.bias[0] = -1.0  # relu is 0 for all but the three
    model = with_values(model, values_of_fit(model))
    for given, expected in ((None, []), (weights, [0])):
        model._set_diagnostics(prepare(model, rows, given, True, SINGLE_PROCESS))
        assert model.collapsed_dims_.tolist() == expected


@pytest.mark.some(3)
@each_of(OF_EACH_KIND)
def test_equal_weights_are_none(model):
    expected = fitted(model)
    assert_same(clone(model).fit(X, sample_weight=np.full(len(X), 0.3)), expected, rtol=0)
    assert_same(clone(model).fit(X, None, None), expected, rtol=0)


@pytest.mark.some(3)
@each_of(OF_EACH_KIND)
def test_a_sample_without_weight_is_absent(model):
    kept = COUNTS > 0
    absent = clone(model).fit(X[kept], sample_weight=WEIGHTS[kept])
    assert_same(clone(model).fit(X, sample_weight=WEIGHTS), absent, rtol=0)
    assert_same(clone(model).fit(X, sample_weight=kept), clone(model).fit(X[kept]), rtol=0)
    score = absent.score(X, sample_weight=WEIGHTS)
    assert score == pytest.approx(absent.score(X[kept], sample_weight=WEIGHTS[kept]), rel=1e-12)


@pytest.mark.some(3)
@each_of(OF_EACH_KIND)
def test_the_scale_of_weights_changes_nothing(model):
    one = clone(model).fit(X, sample_weight=WEIGHTS)
    assert_same(clone(model).fit(X, sample_weight=2.0**-9 * WEIGHTS), one, rtol=0)
    for scale in (47.3, 1e-300, 1e300):
        other = clone(model).fit(X, sample_weight=scale * WEIGHTS)
        assert_same(other, one, rtol=1e-6, atol=1e-9)
        score = one.score(X, sample_weight=scale * WEIGHTS)
        assert score == pytest.approx(one.score(X, sample_weight=WEIGHTS), rel=1e-12)


@each_model
def test_the_score_is_a_weighted_average(model):
    values = fitted(model).score_samples(X)
    expected = sum(w * v for w, v in zip(WEIGHTS, values, strict=True)) / sum(WEIGHTS)
    assert fitted(model).score(X, sample_weight=WEIGHTS) == pytest.approx(expected, rel=1e-12)
    assert fitted(model).score(X, None, WEIGHTS) == pytest.approx(expected, rel=1e-12)
    # The weighted sum is rounded in another order.
    ones = fitted(model).score(X, sample_weight=np.ones(len(X)))
    assert ones == pytest.approx(fitted(model).score(X), rel=1e-14)


@pytest.mark.parametrize("batch_size", [4, 10**4])
def test_the_objective_of_small_batches_is_the_weighted_one(batch_size):
    model = DeepAutoencoder(3, **SMALL).set_params(learning_rate=1e-12, batch_size=batch_size)
    model.fit(X, sample_weight=WEIGHTS)
    score = model.score(X, sample_weight=WEIGHTS)
    np.testing.assert_allclose(model.history_["bound"], score, rtol=1e-6)
    assert model.score(X) != pytest.approx(score, rel=1e-3)


def test_early_stopping_weighs_the_samples_that_it_holds_out():
    model = DeepAutoencoder(3, **{**SMALL, "max_epochs": 1}, early_stopping=True)
    weights = WEIGHTS + 0.1
    model.fit(X, sample_weight=weights)
    random_state = np.random.RandomState(0)
    random_state.randint(np.iinfo(np.int32).max)
    order = random_state.permutation(len(X))
    held, rest = order[:15], order[15:]
    np.testing.assert_allclose(model.mean_, np.average(X[rest], axis=0, weights=weights[rest]))
    (bound,) = model.history_["validation_bound"]
    assert bound == pytest.approx(model.score(X[held], sample_weight=weights[held]), rel=1e-10)


def test_snapshots_and_warm_starts_are_weighted():
    whole = DeepGaussianVAE(3, **SMALL, noise_variance=0.5, warm_start=True)
    whole.set_params(callbacks=[Snapshot([1, 3])]).fit(X, sample_weight=WEIGHTS)
    assert whole.snapshots_[3].elbo_ == whole.elbo_
    longer = clone(whole).set_params(max_epochs=6).fit(X, sample_weight=WEIGHTS)
    np.testing.assert_array_equal(
        parameters_of(whole.fit(X, sample_weight=WEIGHTS)), parameters_of(longer)
    )


@pytest.mark.some(1)
@pytest.mark.parametrize("noise_model", ["scalar", "diagonal"])
def test_one_heavy_sample_leaves_the_noise_finite(noise_model):
    weights = np.ones(len(X))
    weights[7] = 1e7
    model = DeepGaussianVAE(3, **SMALL, noise_model=noise_model)
    model.set_params(batch_size=2, learning_rate=0.01).fit(X, sample_weight=weights)
    assert np.isfinite(model.history_["bound"]).all()
    assert (np.asarray(model.noise_variance_) > 0).all()


@pytest.mark.parametrize("weight", [0.01, 1.0, 100.0])
def test_active_dimensions_of_an_epoch_are_weighted(weight):
    # 2 of 100 samples use the first dimension, 50 the second and none the third.
    h = torch.zeros(100, 6, dtype=torch.float64)
    h[:2, 0] = h[:50, 1] = 3.0
    weights = torch.cat([torch.full((2,), weight), torch.ones(98)]).double()
    module = fitted(MODELS[0]).module_
    monitor = LatentMonitor(0.0, 1.0, module.likelihood.recorded)
    for part, w in zip(h.split(60), weights.split(60), strict=True):
        monitor.update(module, part, w)
    found = monitor.record(module, 100, 0.0, 0.0)
    assert found["active_dims"] == 1 + (weight >= 1.0)
    entropy = module.posterior(h).entropy()[0].item()  # the same for all samples
    assert found["posterior_entropy"] == pytest.approx(entropy, rel=1e-12)


class Graph:
    """Stands for a CUDA graph, whose inputs are at fixed addresses."""

    def __init__(self, function):
        self.function = function

    def replay(self):
        return self.function()

    @staticmethod
    def warm_up(function):
        return function()


@pytest.mark.parametrize("model", [MODELS[0], MODELS[5], MODELS[-1]], ids=str)
def test_captured_steps_are_the_plain_ones(model, monkeypatch):
    expected = clone(model).fit(X, sample_weight=WEIGHTS)
    monkeypatch.setattr("sklearn_vae.training.loop.GRAPHS", {"cpu": Graph})
    assert_same(clone(model).fit(X, sample_weight=WEIGHTS), expected, rtol=0)
    assert cuda_graph.WARM_UP_STEPS < 4


def test_callbacks_see_weighted_losses():
    from skorch.callbacks import PassthroughScoring

    recorded = DeepAutoencoder(
        3, **SMALL, early_stopping=True, callbacks=[PassthroughScoring("valid_loss")]
    )
    recorded.fit(X, sample_weight=WEIGHTS)
    loss = recorded.net_.history[-1]["valid_loss"]
    bound = recorded.history_["validation_bound"][-1]
    assert -loss * recorded.scale_**2 == pytest.approx(bound, rel=1e-10)


def test_a_checkpoint_is_of_its_weights(tmp_path, monkeypatch):
    model = DeepGaussianVAE(3, **SMALL, checkpoint=tmp_path)
    epochs, train = [], loop.VAENet.train_epoch

    def count(net, *arguments):
        epochs.append(0)
        return train(net, *arguments)

    monkeypatch.setattr(loop.VAENet, "train_epoch", count)
    for n_epochs, weights in ((3, WEIGHTS), (6, WEIGHTS[::-1]), (9, None), (9, WEIGHTS)):
        found = clone(model).fit(X, sample_weight=weights)
        assert len(epochs) == n_epochs
    plain = clone(model).set_params(checkpoint=None)
    assert_same(found, plain.fit(X, sample_weight=WEIGHTS), rtol=0)


BAD = [
    (np.ones(149), r"sample_weight must have shape \(n_samples,\) = \(150,\), got \(149,\)\."),
    (np.ones((150, 1)), r"sample_weight must have shape .* \(150,\), got \(150, 1\)\."),
    (3.0, r"sample_weight must have shape .* \(150,\), got \(\)\."),
    (np.r_[np.ones(149), -0.5], r"sample_weight must be .* >= 0, got -0\.5 for sample 149\."),
    (np.r_[np.nan, np.ones(149)], r"sample_weight must be .* got nan for sample 0\."),
    (np.r_[np.inf, np.ones(149)], r"sample_weight must be .* got inf for sample 0\."),
    (np.zeros(150), r"sample_weight must have a finite sum above zero, got 0\.0\."),
    (np.full(150, 1e308), r"sample_weight must have a finite sum above zero, got inf\."),
]


@pytest.mark.cover(1)
@pytest.mark.parametrize("model", [MODELS[0], MODELS[-2], MODELS[-1]], ids=str)
@pytest.mark.parametrize(("weights", "message"), BAD)
def test_weights_that_do_not_fit(model, weights, message):
    model = copy.deepcopy(fitted(model))
    before = results_of(model)
    for method in (model.fit, model.score, model.fit_transform):
        with pytest.raises(ValueError, match=message):
            method(X, sample_weight=weights)
    for name, value in results_of(model).items():
        np.testing.assert_array_equal(value, before[name])


def test_at_least_two_samples_of_weight():
    weights = np.zeros(len(X))
    weights[3] = 5.0
    message = "sample_weight must be positive for at least 2 samples, got 1"
    with pytest.raises(ValueError, match=message):
        clone(MODELS[0]).fit(X, sample_weight=weights)
    score = fitted(MODELS[0]).score(X, sample_weight=weights)
    assert score == pytest.approx(fitted(MODELS[0]).score(X[3:4]))


@pytest.mark.parametrize(
    "make",
    [
        lambda w: pd.Series(w, index=range(100, 250)),
        lambda w: w.astype(">f8"),
        lambda w: w.tolist(),
        lambda w: torch.asarray(w).requires_grad_(),
    ],
)
def test_weights_of_any_kind(make):
    expected = DeepAutoencoder(3, **SMALL).fit(X, sample_weight=WEIGHTS)
    found = DeepAutoencoder(3, **SMALL).fit(X, sample_weight=make(WEIGHTS))
    assert_same(found, expected, rtol=0)
    assert found.score(X, sample_weight=make(WEIGHTS)) == found.score(X, sample_weight=WEIGHTS)


def test_single_precision():
    rows = X.astype(np.float32)
    model = clone(MODELS[1]).fit(rows, sample_weight=WEIGHTS)
    assert next(model.module_.parameters()).dtype == torch.float32
    wide = clone(MODELS[1]).fit(X, sample_weight=WEIGHTS)
    assert model.elbo_ == pytest.approx(wide.elbo_, rel=0.05)


def test_metadata_routing():
    with config_context(enable_metadata_routing=True):
        model = DeepAutoencoder(2, **SMALL)
        model.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        scaler = StandardScaler().set_fit_request(sample_weight=True)
        pipeline = make_pipeline(scaler, model).fit(X, sample_weight=WEIGHTS)
        Z = StandardScaler().fit_transform(X, sample_weight=WEIGHTS)
        by_hand = DeepAutoencoder(2, **SMALL).fit(Z, sample_weight=WEIGHTS)
        assert pipeline.score(X, sample_weight=WEIGHTS) == pytest.approx(
            by_hand.score(Z, sample_weight=WEIGHTS), rel=1e-12
        )
        scores = cross_validate(model, X, cv=2, params={"sample_weight": WEIGHTS})["test_score"]
        first = DeepAutoencoder(2, **SMALL).fit(X[75:], sample_weight=WEIGHTS[75:])
        assert scores[0] == pytest.approx(first.score(X[:75], sample_weight=WEIGHTS[:75]))
