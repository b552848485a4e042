"""The parts of the Mahalanobis distance and their shares, against dense matrices."""

import numpy as np
import pytest
from scipy import linalg

from sklearn_vae.gaussian.mahalanobis import contributions, distances

D, K = 6, 2


def make_model(kind):
    """Parameters of a model: mean, loadings, noise variances."""
    rng = np.random.default_rng(0)
    W = rng.normal(size=(D, K))
    noise = rng.uniform(0.2, 2.0, D) if kind == "diagonal" else np.full(D, 0.5)
    if kind == "collapsed":
        W[:, 1] = 0.0
    if kind == "no loadings":
        W = W[:, :0]
    if kind == "no noise":
        W, noise = rng.normal(size=(D, D)), np.zeros(D)
    return rng.normal(size=D), W, noise


def make_samples(share):
    rng = np.random.default_rng(1)
    X = 3.0 * rng.normal(size=(40, D))
    X[rng.uniform(size=X.shape) < share] = np.nan
    X[3:6] = X[2]  # samples that share a pattern
    return X


def observed_parts(X, mean, W, noise):
    """Yield row, observed features, x - mean, loadings and covariance of each sample."""
    for i, x in enumerate(X):
        o = np.flatnonzero(~np.isnan(x))
        yield i, o, x[o] - mean[o], W[o], W[o] @ W[o].T + np.diag(noise[o])


KINDS = ["isotropic", "diagonal", "collapsed", "no loadings", "no noise"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_both_parts_equal_those_of_dense_matrices(kind, share):
    model, X = make_model(kind), make_samples(share)
    found = distances(X, *model)
    for i, o, r, W, C in observed_parts(X, *model):
        assert found.t2_dof[i] + found.spe_dof[i] == len(o)
        np.testing.assert_allclose(found.t2[i] + found.spe[i], r @ np.linalg.solve(C, r))
        # Hotelling's T2 is the squared distance of E[z|x] in units of its covariance.
        gain = W.T @ np.linalg.inv(C)
        z = gain @ r
        t2 = z @ np.linalg.pinv(gain @ W, rcond=1e-10) @ z
        np.testing.assert_allclose(found.t2[i], t2, rtol=1e-7, atol=1e-12)
        assert found.t2_dof[i] == (np.linalg.matrix_rank(W) if W.size else 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_contributions_add_up_to_both_parts(kind, share):
    model, X = make_model(kind), make_samples(share)
    t2, spe = contributions(X, *model)
    whole = distances(X, *model)
    np.testing.assert_allclose(t2.sum(axis=1), whole.t2, atol=1e-12)
    np.testing.assert_allclose(spe.sum(axis=1), whole.spe, atol=1e-12)
    assert not t2[np.isnan(X)].any()
    assert not spe[np.isnan(X)].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_contributions_are_squares_of_whitened_features(kind, share):
    model, X = make_model(kind), make_samples(share)
    total = np.sum(contributions(X, *model), axis=0)
    for i, o, r, _, C in observed_parts(X, *model):
        std = np.sqrt(np.diag(C))
        root = linalg.sqrtm(C / std / std[:, None])
        v = np.linalg.solve(root, r / std)
        np.testing.assert_allclose(total[i, o], v**2, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["isotropic", "diagonal"])
def test_no_other_whitening_is_closer_to_the_features(kind):
    mean, W, noise = make_model(kind)
    # Contributions of unit vectors give the squares of the whitening K.
    K2 = np.sum(contributions(mean + np.eye(D), mean, W, noise), axis=0)
    C = W @ W.T + np.diag(noise)
    std = np.sqrt(np.diag(C))
    root = linalg.sqrtm(C / std / std[:, None])
    np.testing.assert_allclose(K2, (np.linalg.inv(root) / std).T ** 2)
    # The correlations of v with the features are the diagonal of R^1/2, of largest trace.
    for seed in range(20):
        Q = np.linalg.qr(np.random.default_rng(seed).normal(size=(D, D)))[0]
        assert np.trace(Q @ root) <= np.trace(root)


def test_a_sample_without_values_is_at_no_distance():
    X = np.full((2, D), np.nan)
    assert not any(part.any() for part in distances(X, *make_model("isotropic")))
    assert not any(part.any() for part in contributions(X, *make_model("isotropic")))


def test_expectations_under_the_model_are_the_degrees_of_freedom():
    mean, W, noise = make_model("diagonal")
    rng = np.random.default_rng(2)
    X = mean + rng.normal(size=(20_000, K)) @ W.T + noise**0.5 * rng.normal(size=(20_000, D))
    found = distances(X, mean, W, noise)
    for part, dof in ((found.t2, K), (found.spe, D - K)):
        np.testing.assert_allclose(part.mean(), dof, rtol=0.03)
        np.testing.assert_allclose(part.var(), 2 * dof, rtol=0.06)
    assert abs(np.corrcoef(found.t2, found.spe)[0, 1]) < 0.03


def test_a_tiny_residual_far_along_the_loadings_keeps_its_digits():
    W = np.array([[3.0], [4.0], [0.0]])
    x = 1e6 * W.T + np.array([[0.0, 0.0, 1e-3]])
    found = distances(x, np.zeros(3), W, np.ones(3))
    np.testing.assert_allclose(found.spe, 1e-6, rtol=1e-6)
