"""The implied noise variance is that of the ELBO to which the loss is proportional."""

import itertools

import numpy as np
import pytest

from sklearn_vae.adapters import from_torch, implied_noise_variance
from sklearn_vae.diagnostics import diagnose
from tests.adapters.models import PlainVAE, rows

D, K, N = 7, 3, 5
REDUCE = {
    "sum": lambda terms: terms.sum(axis=1).mean(),
    "mean": lambda terms: terms.mean(),
    "total": lambda terms: terms.sum(),
}


@pytest.mark.parametrize(("error", "kl"), [*itertools.product(REDUCE, repeat=2)])
@pytest.mark.parametrize(("error_weight", "kl_weight"), [(1.0, 1.0), (0.5, 4.0)])
def test_the_loss_is_proportional_to_the_negative_elbo(error, kl, error_weight, kl_weight):
    implied = implied_noise_variance(
        D, K, error=error, error_weight=error_weight, kl=kl, kl_weight=kl_weight, batch_size=N
    )
    rng = np.random.default_rng(0)
    losses, elbos = [], []
    for _ in range(4):
        squares, kls = rng.exponential(size=(N, D)), rng.exponential(size=(N, K))
        losses.append(error_weight * REDUCE[error](squares) + kl_weight * REDUCE[kl](kls))
        squares = squares.sum(axis=1) / (2.0 * implied.noise_variance)
        elbos.append((squares + kls.sum(axis=1)).mean())
    np.testing.assert_allclose(np.divide(losses, elbos), losses[0] / elbos[0], rtol=1e-12)


def test_known_losses():
    assert implied_noise_variance(784).noise_variance == 0.5
    assert implied_noise_variance(784, error="mean").noise_variance == 392.0
    assert implied_noise_variance(784, error_weight=0.5).noise_variance == 1.0
    assert implied_noise_variance(784, error_weight=0.5, kl_weight=4.0).noise_variance == 4.0
    # The PyTorch example that averages the error, but sums the KL over the batch.
    mixed = implied_noise_variance(784, error="mean", kl="total", batch_size=128)
    assert mixed.noise_variance == 392.0 * 128


def test_a_weight_for_a_noise_variance_implies_it():
    implied = implied_noise_variance(50, error="mean", error_weight=2.0)
    weight = implied.weight_for(0.05)
    again = implied_noise_variance(50, error="mean", error_weight=weight)
    assert again.noise_variance == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"kl": "mean"}, "n_components must be given"),
        ({"error": "total"}, "batch_size must be given with error='total' and kl='sum'"),
        ({"kl": "total"}, "batch_size must be given"),
        ({"error": "l2"}, "error must be one of 'sum', 'mean', 'total'"),
        ({"error_weight": 0.0}, "error_weight must be a finite number > 0"),
        ({"kl_weight": -1.0}, "kl_weight must be a finite number > 0"),
        ({"n_features": 0}, "n_features must be an integer >= 1"),
    ],
)
def test_wrong_arguments_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        implied_noise_variance(**{"n_features": 10, **options})


def test_the_report_explains_the_implied_noise_variance():
    implied = implied_noise_variance(8, error="mean", kl_weight=4.0)
    report = diagnose(from_torch(PlainVAE(), noise_variance=implied), rows())
    text = str(report)
    assert "large_noise" in report.categories
    assert "averaged over features and samples, as F.mse_loss does by default" in text
    assert "sigma2 = 16" in text
    noise = report.numbers["reference_noise_variance"]
    assert f"the weight {implied.weight_for(noise):.4g} instead of 1" in text
    assert "replace the squared error in the loss by 4 * log(mse)" in report.advice[0]
