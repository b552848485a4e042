"""Every diagnostic of data in other units: X times 2^j, per feature where the noise is."""

import re

import numpy as np
import pytest

from sklearn_vae import PPCA, DeepAutoencoder, DeepGaussianVAE, LinearVAE
from sklearn_vae.diagnostics import (
    active_units,
    collapse_curve,
    decompose_kl,
    diagnose,
    tune_noise_variance,
)
from sklearn_vae.diagnostics.evidence import Evidence
from tests.deep.data import SMALL
from tests.diagnostics.models import rows, with_covariance

# The last one may be constant, of which no scale is known.
PER_FEATURE = np.exp2([-20, -3, 1, 5, 12, 20, -9, 0])
# Densities: they fall by log |det| of the units.
DENSITIES = {"elbo", "reference", "without_latents", "tuned_elbo"}
# In squared units of the data, or of each feature's standard deviation.
SQUARES = {
    "noise_variance", "tuned_noise_variance", "reference_noise_variance", "reconstruction_error",
    "pca_reconstruction_error", "variance", "effective_noise_variance",
}  # fmt: skip

LOST = with_covariance([4, 1, 0.6])
FLAT = with_covariance([9, 4, 1, 0.25, 0.25, 0.25])
EMPTY = np.column_stack([with_covariance([9, 4, 1, 0.25, 0.25, 0.25, 0.01]), np.full(600, 3.0)])

SCALAR = {
    "ppca": (rows(), lambda s: PPCA(3), ()),
    "superfluous": (FLAT, lambda s: PPCA(5), ("superfluous",)),
    "large noise": (FLAT, lambda s: PPCA(3, noise_variance=5.0 * s**2), ("large_noise",)),
    "small noise": (FLAT, lambda s: PPCA(2, noise_variance=1e-4 * s**2), ("noise",)),
    "lost": (LOST, lambda s: PPCA(2, noise_variance=s**2), ("optimum",)),
    "linear": (rows(), lambda s: LinearVAE(3, noise_variance=2.0 * s**2), ("noise",)),
    "vae": (rows(), lambda s: DeepGaussianVAE(3, **SMALL), ("unfinished",)),
    "vae of fixed noise": (
        rows(),
        lambda s: DeepGaussianVAE(3, **SMALL, noise_variance=0.5 * s**2, kl_weight=2.0),
        ("objective",),
    ),
    "autoencoder": (rows(), lambda s: DeepAutoencoder(3, **SMALL), ("optimum",)),
}
DIAGONAL = {
    "vae": (rows(), lambda s: DeepGaussianVAE(3, **SMALL, noise_model="diagonal"), None),
    "vae of fixed noise": (
        rows(),
        lambda s: DeepGaussianVAE(
            3, **SMALL, noise_model="diagonal", noise_variance=np.full(8, 0.4) * s**2
        ),
        None,
    ),
    "heteroscedastic": (
        rows(), lambda s: DeepGaussianVAE(3, **SMALL, noise_model="heteroscedastic"), None,
    ),
    "a constant feature": (
        EMPTY, lambda s: DeepGaussianVAE(3, **SMALL, noise_model="diagonal"), None,
    ),
}  # fmt: skip
CASES = [
    pytest.param(X, model, categories, 2.0**j, id=f"{name}-{j}")
    for j in (-17, 12)
    for name, (X, model, categories) in SCALAR.items()
] + [
    pytest.param(X, model, categories, PER_FEATURE, id=f"{name}-per-feature")
    for name, (X, model, categories) in DIAGONAL.items()
]


def numberless(text):
    return re.sub(r"[-+]?\d+(\.\d+)?(e[-+]\d+)?", "#", text)


@pytest.mark.some(8)
@pytest.mark.parametrize(("X", "model", "categories", "units"), CASES)
def test_reports_of_data_in_other_units(X, model, categories, units):
    one = diagnose(model(1.0).fit(X), X)
    other = diagnose(model(units).fit(units * X), units * X)
    if categories is not None:
        assert one.categories == categories
    log_det = np.log(np.broadcast_to(units, X.shape[1])).sum()
    squared = units**2 if np.ndim(units) == 0 else 1.0

    def in_units(numbers):
        change = {name: (1.0, -log_det) for name in DENSITIES}
        squares = SQUARES | ({"short"} if one.collapse is None else set())
        change |= {name: (squared, 0.0) for name in squares}
        changes = [change.get(name, (1.0, 0.0)) for name in numbers]
        return [a * value + b for value, (a, b) in zip(numbers.values(), changes, strict=True)]

    assert other.numbers.keys() == one.numbers.keys()
    np.testing.assert_allclose(list(other.numbers.values()), in_units(one.numbers), rtol=1e-7)
    assert len(other.findings) == len(one.findings)
    for found, expected in zip(other.findings, one.findings, strict=True):
        assert (found.category, found.title) == (expected.category, expected.title)
        np.testing.assert_allclose(
            list(found.numbers.values()), in_units(expected.numbers), rtol=1e-7, atol=1e-9
        )
        for name in ("evidence", "advice"):
            texts, others = getattr(found, name), getattr(expected, name)
            assert [numberless(t) for t in texts] == [numberless(t) for t in others]
        # Shares of a variance are of no unit.
        assert re.findall(r"[\d.]+%", str(found)) == re.findall(r"[\d.]+%", str(expected))
    if one.collapse is None:
        return
    np.testing.assert_array_equal(other.collapse.collapsed, one.collapse.collapsed)
    # Where the KL is 0 there is nothing but rounding.
    np.testing.assert_allclose(
        other.collapse.kl_per_dim, one.collapse.kl_per_dim, rtol=1e-7, atol=1e-12
    )
    found, expected = other.entropies, one.entropies
    for name, shift in {
        "elbo": -log_det, "bound": -log_det, "decoder": log_det, "posterior": 0.0, "prior": 0.0,
        "noise_gain": 0.0, "log_latent_volume": 0.0, "log_data_volume": log_det,
    }.items():  # fmt: skip
        value = getattr(expected, name) + shift
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-8, atol=1e-7)
    np.testing.assert_allclose(found.gap.noise, expected.gap.noise, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(found.gap.dimensions, expected.gap.dimensions, atol=1e-7)
    if not expected.converged:  # of which no more than rounding is left
        assert found.verdicts == expected.verdicts
    assert [numberless(v) for v in found.verdicts] == [numberless(v) for v in expected.verdicts]


@pytest.mark.parametrize(("X", "model", "categories", "units"), CASES[:3] + CASES[-4:-2])
def test_other_diagnostics_of_data_in_other_units(X, model, categories, units):
    one, other = model(1.0).fit(X), model(units).fit(units * X)
    tuned = [tune_noise_variance(m, Y) for m, Y in [(one, X), (other, units * X)]]
    expected = tuned[0].noise_variance * units**2
    np.testing.assert_allclose(tuned[1].noise_variance, expected, rtol=1e-7)
    assert tuned[1].gain == pytest.approx(tuned[0].gain, rel=1e-7, abs=1e-8)
    for diagnostic in (
        lambda m, Y: active_units(m, Y).variance,
        lambda m, Y: collapse_curve(m, Y).thresholds,
        lambda m, Y: list(vars(decompose_kl(m, Y)).values()),
    ):
        found = diagnostic(other, units * X)
        np.testing.assert_allclose(found, diagnostic(one, X), rtol=1e-7, atol=1e-12)


def test_a_fixed_noise_variance_is_in_units_of_the_data_also_where_features_have_their_own():
    models = [
        DeepGaussianVAE(3, **SMALL, noise_model="diagonal", noise_variance=value, kl_weight=2.0)
        for value in (0.4, np.full(8, 0.4))
    ]
    one, other = (diagnose(model.fit(rows()), rows()) for model in models)
    assert str(one) == str(other)
    assert one.numbers == other.numbers
    assert one.categories == ("objective",)


@pytest.mark.parametrize("noise", [0.4, np.linspace(0.2, 3.0, 8)], ids=["float", "array"])
def test_models_with_fixed_noise_per_feature_are_compared_at_this_noise(noise):
    X = rows()
    vae = DeepGaussianVAE(3, **SMALL, noise_model="diagonal", noise_variance=noise).fit(X)
    case, std = Evidence(vae, X, X), np.sqrt(np.broadcast_to(noise, 8))
    best = PPCA(3, noise_variance=1.0).fit(X / std).score(X / std) - np.log(std).sum()
    assert case.matched_bound == pytest.approx(best, rel=1e-9)
    side = "above" if case.elbo > best else "below"
    (text,) = [v.text for v in diagnose(vae, X).verdicts if v.name == "linear"]
    assert text.startswith(f"bound {abs(case.elbo - best):.2g} nats {side} factor analysis")
    assert "and noise variance" in text


@pytest.mark.parametrize("noise_model", ["scalar", "diagonal", "heteroscedastic"])
def test_errors_and_variances_are_those_of_the_formula(noise_model):
    X = rows() * np.geomspace(1, 100, 8)
    vae = DeepGaussianVAE(3, **SMALL, noise_model=noise_model).fit(X)
    numbers = diagnose(vae, X).numbers
    scale = 1.0 if noise_model == "scalar" else X.std(axis=0)
    decoded, variance = vae.conditional(vae.posterior(X)[0])
    error = np.mean(((X - decoded) / scale) ** 2)
    assert numbers["reconstruction_error"] == pytest.approx(error, rel=1e-9)
    assert numbers["variance"] == pytest.approx(np.var(X / scale, axis=0).mean(), rel=1e-9)
    values = np.linalg.eigvalsh(np.cov((X / scale).T, bias=True))
    pca = values[:-3].sum() / 8
    assert numbers["pca_reconstruction_error"] == pytest.approx(pca, rel=1e-6)
    assert numbers["reference_noise_variance"] == pytest.approx(values[:-3].mean(), rel=1e-6)
    if noise_model == "heteroscedastic":
        ratio = variance / X.var(axis=0)
        for name, of in [("least", np.min), ("median", np.median), ("largest", np.max)]:
            assert numbers[f"{name}_variance"] == pytest.approx(of(ratio), rel=1e-6)
    else:
        noise = np.mean(vae.noise_variance_ / np.square(scale))
        assert numbers["noise_variance"] == pytest.approx(noise, rel=1e-9)
        tuned = np.mean(tune_noise_variance(vae, X).noise_variance / np.square(scale))
        assert numbers["tuned_noise_variance"] == pytest.approx(tuned, rel=1e-6)
