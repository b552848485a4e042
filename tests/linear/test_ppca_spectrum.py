"""`spectrum_` of every fit: stationary points without the data or their moments."""

import dask.array as da
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from sklearn_vae import PPCA, PPCACV, Moments
from sklearn_vae.gaussian import StationaryPoint, sample_spectrum
from tests.helpers import to_numpy

K = 3


def make_samples(n, d=12):
    rng = np.random.default_rng(n)
    return rng.normal(size=(n, 5)) @ rng.normal(size=(5, d)) + 0.5 * rng.normal(size=(n, d)) + 4.0


def fits(X, noise_variance):
    """Models of X from every way to fit them."""
    model = PPCA(K, noise_variance=noise_variance, random_state=0)
    for svd_solver in ("full", "covariance_eigh", "arpack", "randomized", "auto"):
        yield svd_solver, PPCA(**{**model.get_params(), "svd_solver": svd_solver}).fit(X)
    yield "dask", PPCA(K, noise_variance=noise_variance).fit(da.from_array(X, chunks=(10, -1)))
    yield "stream", PPCA(K, noise_variance=noise_variance).partial_fit(X[:5]).partial_fit(X[5:])
    yield "moments", PPCA.from_moments(Moments.of(X), n_components=K, noise_variance=noise_variance)
    yield "cv", PPCACV(K, noise_variance=noise_variance).fit(X)


@pytest.mark.parametrize("n", [8, 12, 40])
@pytest.mark.parametrize("noise_variance", [None, 0.2, 30.0])
def test_every_fit_is_a_stable_point(n, noise_variance):
    X = make_samples(n)
    whole = sample_spectrum(X)
    for name, model in fits(X, noise_variance):
        vars(model).pop("moments_", None)
        spectrum, sigma2 = model.spectrum_, model.noise_variance_
        kept = [h for h in range(K) if h not in model.collapsed_dims_]
        point = StationaryPoint(spectrum, kept, K, noise_variance)
        assert spectrum.components is model.components_
        np.testing.assert_allclose(spectrum.eigenvalues, whole.eigenvalues[:K], rtol=1e-9)
        assert spectrum.total_variance == pytest.approx(whole.total_variance, rel=1e-9), name
        assert spectrum.noise_variance(K) == pytest.approx(whole.noise_variance(K), rel=1e-8), name
        found = vars(spectrum.certificate(K, noise_variance))
        for field, value in vars(model.certificate_).items():
            if field != "method":
                assert found[field] == pytest.approx(value, rel=1e-6, abs=1e-12), (name, field)
        assert point.is_stable
        assert point.noise_variance == pytest.approx(sigma2, rel=1e-12), name
        assert point.log_likelihood == pytest.approx(model.elbo_, rel=1e-11), name
        np.testing.assert_allclose(point.loadings, model.loadings_, atol=1e-7)
        density = multivariate_normal(model.mean_, model.get_covariance())
        assert point.log_likelihood == pytest.approx(density.logpdf(X).mean(), rel=1e-9), name


def test_other_points_of_a_fitted_model():
    X = make_samples(9, d=40)
    whole, spectrum = sample_spectrum(X), PPCA(4).fit(X).spectrum_
    grid = np.linspace(-1, 1, 3)
    for kept, sigma2 in [((0, 2), 0.2), ((1,), 0.1), ((), 2.0), ((0, 1, 2, 3), None)]:
        point, oracle = (StationaryPoint(s, kept, 4, sigma2) for s in (spectrum, whole))
        assert point.log_likelihood == pytest.approx(oracle.log_likelihood, rel=1e-12)
        assert point.unstable == [pair for pair in oracle.unstable if pair[1] < 4]
        surfaces = [p.surface(3, (1, 3), grid, grid) for p in (point, oracle)]
        np.testing.assert_allclose(*surfaces, rtol=1e-12)
    ks = [0, 1, 2, 3, 4]
    np.testing.assert_allclose(
        spectrum.log_likelihood(ks, [None, 0.3]), whole.log_likelihood(ks, [None, 0.3]), rtol=1e-12
    )
    with pytest.raises(ValueError, match=r"the eigenvalues after the first 4, .* Use sample_spect"):
        assert StationaryPoint(spectrum, range(4), 5, spectrum.rest / 10).is_stable


def test_missing_values():
    X = make_samples(60)
    X[np.random.default_rng(0).random(X.shape) < 0.1] = np.nan
    model = PPCA(K, tol=1e-9).fit(X)
    point = StationaryPoint(model.spectrum_, range(K), K)
    assert point.is_stable
    assert point.noise_variance == pytest.approx(model.noise_variance_, rel=1e-12)
    np.testing.assert_allclose(point.loadings, model.loadings_, rtol=1e-9)
    covariance = (point.loadings @ point.loadings.T) + point.noise_variance * np.eye(12)
    np.testing.assert_allclose(covariance, model.get_covariance(), rtol=1e-12)


def test_float32_and_other_libraries(asarray):
    X = make_samples(50).astype("f4")
    model = PPCA(K).fit(asarray(X))
    spectrum = model.spectrum_
    whole = sample_spectrum(asarray(X))
    values = to_numpy(whole.eigenvalues)[:K]
    np.testing.assert_allclose(to_numpy(spectrum.eigenvalues), values, rtol=1e-5)
    point = StationaryPoint(spectrum, range(K), K)
    assert point.log_likelihood == pytest.approx(model.elbo_, rel=1e-6)


@pytest.mark.parametrize("k", [0, 5, 12])
def test_models_without_noise_or_components(k):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 5)) @ rng.normal(size=(5, 12))
    spectrum = PPCA(k).fit(X).spectrum_
    assert spectrum.eigenvalues.shape == (k,)
    assert spectrum.noise_variance(k) == PPCA(k).fit(X).noise_variance_
    assert (spectrum.rest > 0) == (k == 0)


def test_an_unfitted_model_has_no_spectrum():
    assert not hasattr(PPCA(), "spectrum_")
