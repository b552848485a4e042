"""Learning rates that rise, are limited by the noise of gradients, and fall."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from skorch.history import History

from sklearn_vae import PPCA, DeepGaussianVAE
from sklearn_vae.training.adam import Adam
from sklearn_vae.training.learning_rate_limit import (
    SHARE_OF_START,
    LearningRateLimit,
    sum_of_deviations,
)

DIGITS = load_digits().data


def test_pickles_of_earlier_versions_can_be_loaded():
    state = pickle.dumps(LearningRateLimit(2.0), protocol=0)
    earlier = state.replace(
        b"sklearn_vae.training.learning_rate_limit", b"sklearn_vae.deep.ppca_start"
    )
    assert earlier != state
    assert pickle.loads(earlier).initial_nats == 2.0


def test_the_rate_rises_is_limited_by_noise_and_falls():
    worth = float(PPCA(10).fit(DIGITS).mutual_information_)
    vae = DeepGaussianVAE(10, hidden_layer_sizes=(64, 32), init="ppca", learning_rate=1.0)
    first = vae.set_params(max_epochs=1, random_state=0).fit(DIGITS).history_["learning_rate"][0]
    price = 5 * first * sum_of_deviations(vae.net_.optimizer_) / 4
    assert price == pytest.approx(SHARE_OF_START * worth, rel=0.4)  # gradients have changed since
    vae.set_params(max_epochs=10)
    rate = vae.fit(DIGITS).history_["learning_rate"]
    assert (np.diff(rate[:5]) > 0).all()
    assert (np.diff(rate[-2:]) < 0).all()
    low = clone(vae).set_params(learning_rate=1e-5).fit(DIGITS).history_["learning_rate"]
    np.testing.assert_allclose(low[:8], 1e-5 * np.minimum(1, np.arange(1, 9) / 5), rtol=1e-12)
    assert "learning_rate" not in clone(vae).set_params(init=None).fit(DIGITS[:99]).history_


def test_the_price_of_noise_is_what_a_constant_rate_costs():
    # What the callback rests on: (rate / 4) sum of deviations, at a maximum.
    rng = np.random.default_rng(0)
    curvature, rate = torch.from_numpy(rng.uniform(0.5, 2.0, 50)), 1e-2
    theta = torch.nn.Parameter(torch.zeros(50, dtype=torch.float64))
    adam = Adam([theta], lr=rate)
    deviation, costs = torch.from_numpy(rng.uniform(1.0, 3.0, 50)), []
    for step in range(6000):
        noise = torch.from_numpy(rng.normal(size=50))
        theta.grad = curvature * theta.detach() + deviation * noise
        with torch.no_grad():
            adam.update()
        if step > 2000:
            costs.append(0.5 * float((curvature * theta.detach() ** 2).sum()))
    found = sum_of_deviations(adam)
    assert found == pytest.approx(float(deviation.sum()), rel=0.05)
    assert np.mean(costs) == pytest.approx(rate / 4 * found, rel=0.2)


class StubNet:
    """What `LearningRateLimit` asks of a net: the history of bounds, and Adam after some gradients."""

    def __init__(self, bounds, deviations, lr, max_epochs):
        weights = torch.nn.Parameter(torch.zeros(len(deviations), dtype=torch.float64))
        other = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.optimizer_ = Adam([{"params": [weights]}, {"params": [other]}])
        for sign in (1.0, -1.0, 1.0):  # of which the average of squares is that of each
            weights.grad = sign * torch.tensor(deviations, dtype=torch.float64)
            other.grad = torch.zeros(1, dtype=torch.float64)
            self.optimizer_.step()
        self.lr, self.max_epochs = lr, max_epochs
        self.history = History()
        for bound in bounds:
            self.history.new_epoch()
            self.history.record("bound", bound)
        self.history.new_epoch()

    def rate(self, worth, before=0):
        callback = LearningRateLimit(worth)
        callback.first_epoch_ = before
        callback.on_epoch_begin(self)
        rate = self.history[-1]["learning_rate"]
        assert [group["lr"] for group in self.optimizer_.param_groups] == [rate, rate]
        return rate


@pytest.mark.parametrize(
    ("bounds", "won"),
    [
        ([-10.0] * 20, 0.0),
        ([-10.0, -20.0] * 10, 0.0),  # below where it began
        ([-10.0, *[-90.0] * 18, -4.0], 6.0),
        ([-10.0, *[90.0] * 18, -4.0], 6.0),  # not of the best epoch
    ],
)
def test_the_cap_of_the_rate_grows_with_what_was_won(bounds, won):
    # (rate / 4) sum of deviations <= 0.05 worth + 0.5 won
    for worth, deviations in [(8.0, [3.0, 1.0, 0.5]), (1.0, [100.0, 0.25])]:
        net = StubNet(bounds, deviations, lr=1e6, max_epochs=100)
        expected = 4 * (0.05 * worth + 0.5 * won) / sum(deviations)
        assert net.rate(worth) == pytest.approx(expected, rel=1e-12)
    assert StubNet(bounds, [3.0], lr=1e-4, max_epochs=100).rate(8.0) == 1e-4
    first = StubNet([], [3.0], lr=1e6, max_epochs=100).rate(8.0)  # in which the rate rises
    assert first == pytest.approx(4 * 0.05 * 8.0 / 3.0 / 5, rel=1e-12)


@pytest.mark.parametrize("before", [0, 7])
@pytest.mark.parametrize("max_epochs", [1, 3, 10, 40])
def test_the_rate_of_every_epoch_rises_and_falls(max_epochs, before):
    falling = max(1.0, 0.2 * max_epochs)
    for epoch in range(1, max_epochs + 1):
        net = StubNet([0.0] * (before + epoch - 1), [1e-9], 1.0, max_epochs)
        share = min(1.0, (before + epoch) / 5, (max_epochs - epoch + 1) / (falling + 1))
        assert net.rate(1.0, before) == pytest.approx(share, rel=1e-12)
