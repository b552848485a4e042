"""Density of probabilities whose logits are normal, against integrals and finite differences."""

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.special import expit, logit

from sklearn_vae import BernoulliPPCA
from sklearn_vae.gaussian.logit_normal import logit_normal_log_density

MU = np.array([0.5, -1.0, 0.2])


def test_one_feature_is_the_logit_normal_distribution():
    def density(p):
        return float(
            np.exp(logit_normal_log_density(np.array([[p]]), np.array([[-0.8]]), MU[:1])[0])
        )

    p = 0.3
    expected = stats.norm(0.5, 0.8).pdf(logit(p)) / (p * (1.0 - p))
    assert density(p) == pytest.approx(expected, rel=1e-13)
    assert integrate.quad(density, 0.0, 1.0)[0] == pytest.approx(1.0, abs=1e-8)


def test_as_many_latent_dimensions_as_features():
    rng = np.random.default_rng(0)
    W = rng.normal(size=(2, 2))
    Z = rng.normal(size=(200_000, 2))
    P = expit(Z @ W.T + MU[:2])
    found = logit_normal_log_density(P[:50], W, MU[:2])
    expected = stats.multivariate_normal(MU[:2], W @ W.T).logpdf(logit(P[:50]))
    expected -= np.log(P[:50] * (1.0 - P[:50])).sum(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-11)

    # The probability of a box, by quadrature of the density and by counting.
    def density(a, b):
        return float(np.exp(logit_normal_log_density(np.array([[a, b]]), W, MU[:2])[0]))

    share = integrate.dblquad(density, 0.1, 0.4, 0.3, 0.8, epsabs=1e-5, epsrel=1e-5)[0]
    counted = ((P > (0.3, 0.1)) & (P < (0.8, 0.4))).all(axis=1).mean()
    assert share == pytest.approx(counted, abs=5.0 * (counted / len(P)) ** 0.5)


@pytest.mark.parametrize("k", [1, 2])
def test_on_a_surface_it_is_the_normal_density_over_the_change_of_area(k):
    rng = np.random.default_rng(1)
    W, Z, h = rng.normal(size=(3, k)), rng.normal(size=(20, k)), 1e-5
    found = logit_normal_log_density(expit(Z @ W.T + MU), W, MU)
    for z, value in zip(Z, found, strict=True):
        J = np.stack(
            [
                (expit(W @ (z + h * e) + MU) - expit(W @ (z - h * e) + MU)) / (2 * h)
                for e in np.eye(k)
            ]
        )
        area = np.linalg.det(J @ J.T) ** 0.5
        assert value == pytest.approx(stats.norm.logpdf(z).sum() - np.log(area), abs=1e-7)
    # A column that adds no direction changes nothing that depends on W W' only.
    angle = np.linalg.qr(rng.normal(size=(k + 1, k + 1)))[0]
    wider = np.column_stack([W, np.zeros(3)]) @ angle
    P = expit(Z @ W.T + MU)
    np.testing.assert_allclose(logit_normal_log_density(P, wider, MU), found, atol=1e-10)


def test_density_is_zero_off_the_surface_and_at_the_border():
    W = np.array([[1.0], [2.0], [-1.0]])
    P = expit(np.array([[0.3]]) @ W.T + MU)
    off = P + np.array([[0.0, 0.01, 0.0]])
    border = np.array([[0.0, 0.5, 0.5], [0.5, 1.0, 0.5]])
    found = logit_normal_log_density(np.concatenate([P, off, border]), W, MU)
    assert np.isfinite(found).tolist() == [True, False, False, False]
    nothing = logit_normal_log_density(expit(np.stack([MU, MU + 1.0])), np.zeros((3, 1)), MU)
    assert nothing.tolist() == [0.0, -np.inf]


def test_method_of_the_model():
    X = np.random.default_rng(0).integers(0, 2, size=(60, 2)).astype(float)
    for dtype in ("float64", "float32"):
        model = BernoulliPPCA(2, random_state=0).fit(X.astype(dtype))
        P = model.inverse_transform(np.array([[0.0, 0.0], [1.0, -1.0]], dtype=dtype))
        found = model.log_density_of_probabilities(P)
        expected = logit_normal_log_density(
            P.astype(float), model.loadings_.astype(float), model.intercept_.astype(float)
        )
        if dtype == "float64":
            np.testing.assert_allclose(found, expected, rtol=1e-12)
        assert np.isfinite(found).all()
    with pytest.raises(ValueError, match=r"probabilities in \[0, 1\], got 1.5 in row 0, column 1"):
        model.log_density_of_probabilities([[0.5, 1.5]])
