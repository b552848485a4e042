"""Tables on which automatic training must not lose to the linear model, whatever their features."""

import numpy as np
import pytest

from sklearn_vae import PPCA, DeepGaussianVAE, FactorAnalysis
from sklearn_vae.deep import choices
from sklearn_vae.training.adam import Adam

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# Few samples, for which the linear model is kept without a search.
N = 18
RNG = np.random.default_rng(0)
BASE = RNG.normal(size=(N, 2)) @ RNG.normal(size=(2, 5)) + 0.5 * RNG.normal(size=(N, 5))
COLUMNS = {
    "constant": np.full(N, 0.1),
    "constant at an offset": np.full(N, 1e8 / 3),
    "constant but for rounding": 1.0 + np.spacing(1.0) * (np.arange(N) % 2),
    "tiny variance": 1e-9 * RNG.normal(size=N),
    "twice": BASE[:, 0],
    "nearly twice": BASE[:, 0] + 1e-6 * RNG.normal(size=N),
    "two values": BASE[:, 0] > 0.5,
    "one sample": np.arange(N) == 3,
}


@pytest.mark.cover(1)
@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
@pytest.mark.parametrize("k", [1, 3, 17])
def test_diagonal_noise_starts_at_factor_analysis(column, k):
    X = np.column_stack([BASE, column])
    linear = FactorAnalysis(min(k, 6)).fit(X)
    vae = DeepGaussianVAE(k, noise_model="diagonal", random_state=0).fit(X)
    assert vae.is_linear_
    assert vae.score(X) == pytest.approx(linear.score(X), abs=1e-3)


@pytest.mark.parametrize(
    ("column", "row"),
    [(1e9 * RNG.normal(size=N), 0.0), (BASE[:, 0], 1e7)],
    ids=["feature", "outlier"],
)
def test_scalar_noise_starts_at_ppca_where_its_share_of_the_variance_is_tiny(column, row):
    X = np.column_stack([BASE, column])
    X[0] += row
    vae = DeepGaussianVAE(2, random_state=0).fit(X)
    assert vae.noise_variance_ == pytest.approx(PPCA(2).fit(X).noise_variance_, rel=1e-3)
    assert vae.score(X) == pytest.approx(PPCA(2).fit(X).score(X), abs=1e-3)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_samples_of_low_rank_are_reconstructed(dtype):
    X = (BASE[:, :2] @ BASE[:2]).astype(dtype)
    vae = DeepGaussianVAE(3, random_state=0).fit(X)
    assert vae.noise_variance_ == pytest.approx(1e-6 * X.var(axis=0).mean(), rel=1e-3)
    np.testing.assert_allclose(vae.inverse_transform(vae.transform(X)), X, atol=1e-2)


def test_training_ignores_features_that_are_constant_also_in_a_fold(monkeypatch):
    monkeypatch.setattr(choices, "TOTAL_EPOCHS", 60)
    t = np.linspace(-1.0, 1.0, 120)
    curved = np.column_stack([t, t, t, np.cos(3.0 * t), np.cos(3.0 * t)])
    curved += 0.2 * np.random.default_rng(0).normal(size=curved.shape)
    X = np.column_stack([curved, np.full(120, 3.0), np.arange(120) == 7])
    vae = DeepGaussianVAE(1, noise_model="diagonal", random_state=0).fit(X)
    assert vae.n_iter_ > 0
    assert vae.history_["validation_bound"].min() > 0.0
    mean, variance = vae.conditional(vae.transform(X))
    assert (mean[:, 5] == 3.0).all()
    np.testing.assert_allclose(variance[:, 5], 1e-12)
    assert vae.score(X) > FactorAnalysis(1).fit(X).score(X)
    assert vae.with_tuned_noise(X).noise_variance_[5] == pytest.approx(1e-12)


def test_a_first_fit_does_not_import_the_compiler_of_torch():
    # torch's methods import it at their first call.
    methods = (Adam.add_param_group, Adam.zero_grad, Adam.load_state_dict)
    assert not any("_compile" in method.__code__.co_filename for method in methods)
