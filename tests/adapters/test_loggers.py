"""Callbacks that log the latent space in training."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from skorch import NeuralNet
from torch import nn

from sklearn_vae.adapters import (
    LatentLogger,
    SkorchLatentLogger,
    from_torch,
    latent_summary,
    lightning_logger,
)
from sklearn_vae.diagnostics import collapse, entropy_bound
from sklearn_vae.diagnostics.evidence import Evidence
from sklearn_vae.plot import EntropyDisplay, TrainingDisplay
from tests.adapters.models import PlainVAE, rows
from tests.adapters.test_function_model import negative_binomial
from tests.adapters.test_torch_modules import train_with_lightning

NAMES = {"bound", "kl", "active_dims", "entropy_gap", "noise_variance"}


def test_a_summary_has_the_numbers_of_the_diagnostics():
    model = from_torch(PlainVAE(), noise_variance=0.7, prior=[1.0, 3.0])
    values = latent_summary(model, rows())
    entropies = entropy_bound(model, rows())
    assert values["bound"] == pytest.approx(model.score(rows()))
    assert values["entropy_gap"] == pytest.approx(entropies.gap.total)
    assert values["kl"] == pytest.approx(collapse(model, rows()).kl_per_dim.sum())
    assert values["active_dims"] == len(collapse(model, rows()).active)
    gap = values["bound"] - (
        values["posterior_entropy"] - values["prior_entropy"] - values["noise_entropy"]
    )
    assert gap == pytest.approx(values["entropy_gap"])


def test_entropies_that_are_unknown_are_nan():
    values = latent_summary(negative_binomial()[0], np.round(rows()))
    assert np.isnan(values["entropy_gap"])
    assert np.isfinite(values["bound"])


def test_a_logger_fills_epochs_between_evaluations():
    module, calls = PlainVAE(), []

    def adapt(module, **options):
        calls.append(options)
        return from_torch(module, **options)

    logger = LatentLogger(rows(), adapt, every=2, noise_variance=0.7)
    for _ in range(5):
        logger.update(module)
        with torch.no_grad():
            module.fc_mu.bias += 0.1
    assert len(calls) == 3
    bounds = logger.history_["bound"]
    np.testing.assert_allclose(bounds[1::2], np.add(bounds[:-1:2], bounds[2::2]) / 2)
    assert len(set(bounds)) == 5
    assert len(logger.history_["bound"]) == 5
    assert logger.history_.keys() >= NAMES
    model = from_torch(module, noise_variance=0.7, history=logger.history_)
    TrainingDisplay.from_estimator(model)
    EntropyDisplay.from_estimator(model, rows())


def test_the_learning_rate_is_recorded_and_its_fall_does_not_look_like_convergence():
    module, rates = PlainVAE(), [1e-2] * 24 + list(np.linspace(8e-3, 1e-3, 8))
    logger = LatentLogger(rows(), noise_variance=0.7)
    for rate in rates:
        assert logger.update(module, learning_rate=rate)["learning_rate"] == rate
    assert logger.history_["learning_rate"] == rates
    history = {"bound": np.minimum(np.arange(32.0), 24.0), "learning_rate": rates}
    for given, name in ((history, "rises"), ({"bound": history["bound"]}, "flat")):
        model = from_torch(module, noise_variance=0.7, history=given)
        trend = Evidence(model, rows(), rows()).trend
        assert (trend.slope == pytest.approx(1.0)) == (name == "rises")


class Loss(nn.Module):
    def forward(self, output, x):
        reconstruction, mu, logvar = output
        kl = -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum(1).mean()
        return (reconstruction - x).square().sum(1).mean() + kl


class Trained(PlainVAE):
    def forward(self, x):
        mu, logvar = self.encode(x)
        return self.decode(mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)), mu, logvar


def test_skorch_records_the_values_in_its_history():
    callback = SkorchLatentLogger(rows(), noise_variance=0.5)
    net = NeuralNet(
        Trained,
        Loss,
        max_epochs=2,
        train_split=None,
        callbacks=[callback],
        callbacks__print_log=None,
    )
    net.fit(rows(), rows())
    expected = latent_summary(from_torch(net.module_, noise_variance=0.5), rows())
    assert net.history[-1, "active_dims"] == expected["active_dims"]
    assert net.history[-1, "entropy_gap"] == pytest.approx(expected["entropy_gap"])
    assert callback.history_["bound"] == net.history[:, "bound"]
    assert callback.history_["learning_rate"] == 2 * [net.lr]


def test_a_net_with_the_callback_can_be_cloned_set_and_fitted_again():
    net = NeuralNet(
        Trained,
        Loss,
        max_epochs=2,
        train_split=None,
        callbacks=[("latent", SkorchLatentLogger(rows(), noise_variance=0.5))],
        callbacks__print_log=None,
    )
    copy = clone(net).set_params(callbacks__latent__noise_variance=2.0)
    assert copy.get_params()["callbacks__latent__every"] == 1
    for fitted, noise in ((net, 0.5), (copy, 2.0)):
        for _ in range(2):  # the second fit starts again
            fitted.fit(rows(), rows())
            logger = dict(fitted.callbacks_)["latent"]
            assert logger.history_["bound"] == fitted.history[:, "bound"]
            assert logger.history_["noise_variance"] == [noise, noise]
    net.partial_fit(rows(), rows(), epochs=1)
    assert len(dict(net.callbacks_)["latent"].history_["bound"]) == 3


def test_parameters_of_the_callback_are_those_in_use():
    def adapt(module, lambda_=1.0):
        return from_torch(module, noise_variance=lambda_)

    callback = SkorchLatentLogger(rows(), adapt, lambda_=0.5)
    net = NeuralNet(
        Trained,
        Loss,
        max_epochs=1,
        train_split=None,
        callbacks=[("latent", callback)],
        callbacks__print_log=None,
    )
    for fitted in (net, clone(net)):
        fitted.fit(rows(), rows())
        assert fitted.history[:, "noise_variance"] == [0.5]
    net.set_params(callbacks__latent__lambda_=2.0).partial_fit(rows(), rows())
    assert net.history[:, "noise_variance"] == [0.5, 2.0]
    assert dict(net.callbacks_)["latent"].history_["noise_variance"] == [2.0]


@pytest.mark.filterwarnings("ignore")  # those of Lightning
def test_lightning_logs_the_values():
    pytest.importorskip("lightning.pytorch")
    callback = lightning_logger(rows(), noise_variance=0.5)
    trainer, module = train_with_lightning([callback], epochs=3)
    expected = latent_summary(from_torch(module, noise_variance=0.5), rows())
    for name in NAMES:
        assert float(trainer.callback_metrics[f"latent/{name}"]) == pytest.approx(
            expected[name], rel=1e-5
        )
        assert len(callback.history_[name]) == 3
    rate = trainer.optimizers[0].param_groups[0]["lr"]
    assert callback.history_["learning_rate"] == 3 * [rate]
