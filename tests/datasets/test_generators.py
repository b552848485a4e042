"""Rows drawn from known models."""

import numpy as np
import pytest
from scipy import stats
from sklearn.utils import check_random_state

from sklearn_vae import PPCA
from sklearn_vae.datasets import make_ppca, make_ppca_ring

# Of Kolmogorov-Smirnov tests: one seed in a thousand fails.
LEVEL = 1e-3


def drawn_as_in_the_reference(n, seed, ring):
    """The authors' data: z, made a ring or not, W z + mu and noise, d = 10, k = 2, sigma = 0.1."""
    rng = check_random_state(seed)
    W, mu = rng.uniform(0, 1, (10, 2)), rng.uniform(0, 1, 10)
    z = rng.normal(0, 1, (n, 2))
    if ring:
        z = z / 10 + z / np.hypot(z[:, :1], z[:, 1:])
    return np.einsum("dh,nh->nd", W, z) + mu + rng.normal(0, 0.1, (n, 10)), z


@pytest.mark.parametrize(("make", "ring"), [(make_ppca, False), (make_ppca_ring, True)])
def test_defaults_are_the_data_of_the_reference(make, ring):
    X, Z = make(500, random_state=3)
    for found, expected in zip((X, Z), drawn_as_in_the_reference(500, 3, ring), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


class TestPPCA:
    def test_the_model_is_that_of_the_rows(self):
        X, Z, model = make_ppca(4000, 6, 3, noise_variance=0.25, return_model=True, random_state=0)
        W, mu = model.loadings, model.mean
        assert X.shape == (4000, 6)
        assert Z.shape == (4000, 3)
        assert model.noise_variance == 0.25
        for parameters in (W, mu):
            assert ((parameters >= 0) & (parameters <= 1)).all()
        noise = (X - Z @ W.T - mu) / 0.5
        assert stats.kstest(noise.ravel(), "norm").pvalue > LEVEL
        assert stats.kstest(Z.ravel(), "norm").pvalue > LEVEL
        dense = stats.multivariate_normal(mu, W @ W.T + 0.25 * np.eye(6))
        np.testing.assert_allclose(model.log_prob(X), dense.logpdf(X), rtol=1e-9)

    def test_ppca_finds_the_true_likelihood(self):
        X, _, model = make_ppca(20_000, return_model=True, random_state=1)
        train, test = X[:10_000], X[10_000:]
        true, fitted = model.log_prob(test).mean(), PPCA(2).fit(train).score(test)
        # Of 30 free parameters each costs about 1 / 2n nats.
        assert 0 < true - fitted < 5 * 30 / 20_000

    def test_given_parameters_are_used_and_tell_the_sizes(self):
        W, mu = np.arange(8.0).reshape(4, 2), [1.0, 2.0, 3.0, 4.0]
        X, Z = make_ppca(5, noise_variance=0, loadings=W, mean=mu, random_state=0)
        np.testing.assert_allclose(X, Z @ W.T + mu)
        assert make_ppca(5, mean=mu)[0].shape == (5, 4)
        assert make_ppca(5, 4, 2, loadings=W)[0].shape == (5, 4)
        assert make_ppca(5, 3, 0)[1].shape == (5, 0)

    def test_random_state(self):
        first, again, other = (make_ppca(random_state=seed)[0] for seed in (0, 0, 1))
        np.testing.assert_array_equal(first, again)
        assert (first != other).all()
        rng = np.random.default_rng(0)
        with pytest.raises(ValueError, match="random_state must be None, an integer"):
            make_ppca(random_state=rng)

    @pytest.mark.parametrize(
        ("keywords", "message"),
        [
            ({"n_samples": 0}, "n_samples must be an integer >= 1, got 0"),
            ({"n_features": 0}, "n_features must be an integer >= 1, got 0"),
            ({"n_components": -1}, "n_components must be an integer >= 0, got -1"),
            ({"noise_variance": -1.0}, "noise_variance must be a finite number >= 0, got -1.0"),
            ({"return_model": 1}, "return_model must be True or False, got 1"),
            ({"mean": [[1.0]]}, r"mean must have shape \(n_features,\), got \(1, 1\)"),
            (
                {"mean": [1.0], "n_features": 2},
                r"mean must have shape \(n_features,\) = \(2,\), got \(1,\)",
            ),
            (
                {"loadings": np.ones((4, 2)), "n_features": 5},
                r"loadings must have shape .* \(5, 2\), got \(4, 2\)",
            ),
            (
                {"loadings": np.ones((4, 2)), "n_components": 3},
                r"loadings must have shape .* \(4, 3\), got \(4, 2\)",
            ),
            ({"loadings": [[np.nan]]}, "loadings contains NaN"),
            ({"noise_variance": 0.0, "return_model": True}, "and a singular covariance"),
        ],
    )
    def test_errors(self, keywords, message):
        with pytest.raises(ValueError, match=message):
            make_ppca(**keywords)


class TestRing:
    @pytest.mark.parametrize("k", [1, 2, 3])
    def test_directions_are_uniform_and_distances_chi(self, k):
        _, Z = make_ppca_ring(3000, 5, k, radius=2.0, spread=0.3, random_state=k)
        distance = np.linalg.norm(Z, axis=1)
        assert distance.min() >= 2.0
        assert stats.kstest((distance - 2.0) / 0.3, stats.chi(k).cdf).pvalue > LEVEL
        if k == 2:
            angle = np.arctan2(*Z.T) / (2 * np.pi) + 0.5
            assert stats.kstest(angle, "uniform").pvalue > LEVEL
        elif k == 3:  # Archimedes: every coordinate of the sphere is uniform
            assert stats.kstest(Z[:, 0] / distance / 2 + 0.5, "uniform").pvalue > LEVEL
        else:
            assert abs((Z > 0).mean() - 0.5) < 0.03

    def test_rows_are_decoded(self):
        W, mu = np.arange(8.0).reshape(4, 2), np.arange(4.0)
        X, Z = make_ppca_ring(5, noise_variance=0, spread=0, loadings=W, mean=mu, random_state=0)
        np.testing.assert_allclose(X, Z @ W.T + mu)
        np.testing.assert_allclose(np.linalg.norm(Z, axis=1), 1.0)

    def test_noise_of_samples_on_a_ring_goes_through_the_map(self):
        # As in the paper: x = W z + sigma eps, and x' = mu + x / 10 + x / |x|.
        W, mu = np.random.default_rng(0).uniform(size=(10, 2)), np.arange(10.0)
        options = {"loadings": W, "mean": mu, "random_state": 0}
        X, Z = make_ppca_ring(20_000, ring_of="samples", **options)
        distance = np.linalg.norm(X - mu, axis=1)
        before = 10.0 * (distance - 1.0)[:, None] * (X - mu) / distance[:, None]
        noise = before - Z @ W.T
        assert distance.min() > 1.0
        assert stats.kstest(noise[:, 0] / 0.1, "norm").pvalue > LEVEL
        assert stats.kstest(noise[:, 9] / 0.1, "norm").pvalue > LEVEL
        # Off the plane of W the noise is divided by the length of x, which depends on the angle.
        off = (X - mu) - (X - mu) @ np.linalg.qr(W)[0] @ np.linalg.qr(W)[0].T
        length = np.linalg.norm(Z @ W.T, axis=1)
        far, near = (off[rows].std() for rows in (length > 2.0, length < 1.0))
        assert near > 2.0 * far
        same = make_ppca_ring(20_000, **options)[0] - mu
        off = same - same @ np.linalg.qr(W)[0] @ np.linalg.qr(W)[0].T
        assert abs(off.std() / (0.1 * 0.8**0.5) - 1.0) < 0.02

    @pytest.mark.parametrize(
        ("keywords", "message"),
        [
            ({"n_components": 0}, "n_components must be an integer >= 1, got 0"),
            ({"radius": -1}, "radius must be a finite number >= 0, got -1"),
            ({"spread": np.inf}, "spread must be a finite number >= 0, got inf"),
            ({"n_samples": 1.5}, "n_samples must be an integer >= 1, got 1.5"),
            ({"ring_of": "z"}, "ring_of must be one of 'latents', 'samples', got 'z'"),
        ],
    )
    def test_errors(self, keywords, message):
        with pytest.raises(ValueError, match=message):
            make_ppca_ring(**keywords)
