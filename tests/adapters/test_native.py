"""A copy of a fitted VAE in a plain module has the numbers of the VAE itself."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from sklearn_vae import diagnostics as d
from tests.adapters.models import NATIVE, copied

FUNCTIONS = [
    d.kl_per_dimension,
    d.second_moments,
    d.collapse,
    d.active_units,
    d.collapse_curve,
    d.decompose_kl,
    d.entropy_bound,
    d.diagnose,
]


def numbers(value, name=""):
    """Yield each number within a result, with its name, but no texts and changes of parameters."""
    if dataclasses.is_dataclass(value):
        names = [f.name for f in dataclasses.fields(value) if f.name != "remedies"]
        value = {name: getattr(value, name) for name in names}
    if isinstance(value, dict):
        for key, part in value.items():
            yield from numbers(part, f"{name}.{key}")
    elif isinstance(value, tuple | list):
        for index, part in enumerate(value):
            yield from numbers(part, f"{name}[{index}]")
    elif isinstance(value, bool | int | float | np.ndarray | np.generic):
        yield name, np.asarray(value, dtype=np.float64)


@pytest.mark.cover(1)
@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_every_number_is_that_of_the_native_model(name, function):
    vae, adapted, X = copied(name)
    expected, result = dict(numbers(function(vae, X))), dict(numbers(function(adapted, X)))
    assert expected.keys() == result.keys()
    assert len(expected) >= 1
    for key, value in expected.items():
        np.testing.assert_allclose(result[key], value, rtol=1e-6, atol=1e-6, err_msg=key)


@pytest.mark.some(3, "slow")
@pytest.mark.parametrize("name", NATIVE)
def test_the_findings_and_verdicts_are_those_of_the_native_model(name):
    vae, adapted, X = copied(name)
    expected, report = d.diagnose(vae, X), d.diagnose(adapted, X)
    assert report.categories == expected.categories
    assert [v.holds for v in report.verdicts] == [v.holds for v in expected.verdicts]
    assert report.estimator == "Copy"
    # There are no parameters to change.
    assert not any(finding.changes for finding in report.findings)
    assert not any("=" in text and "_" in text for text in report.advice)


@pytest.mark.parametrize("name", NATIVE)
def test_scores_and_maps_are_those_of_the_native_model(name):
    vae, adapted, X = copied(name)
    Z = vae.transform(X)
    for method, argument in [
        ("score_samples", X),
        ("transform", X),
        ("inverse_transform", Z),
        ("posterior", X),
        ("conditional", Z),
    ]:
        expected, result = getattr(vae, method)(argument), getattr(adapted, method)(argument)
        np.testing.assert_allclose(result, expected, rtol=1e-8, atol=1e-8, err_msg=method)


@pytest.mark.parametrize("name", ["scalar", "too much noise", "diagonal"])
def test_the_tuned_noise_variance_is_that_of_the_native_model(name):
    vae, adapted, X = copied(name)
    expected, result = d.tune_noise_variance(vae, X), d.tune_noise_variance(adapted, X)
    for key in ("noise_variance", "elbo", "tuned_elbo"):
        np.testing.assert_allclose(getattr(result, key), getattr(expected, key), rtol=1e-8)
    np.testing.assert_allclose(
        result.estimator.score(X), expected.estimator.score(X), rtol=0, atol=1e-8
    )
    assert adapted.noise_variance_ is not result.noise_variance


def test_inactive_units_are_those_of_the_native_model():
    vae, adapted, X = copied("scalar")
    assert adapted.inactive_units(X) == vae.inactive_units(X) != {}
    with torch.no_grad():
        broken = copy.deepcopy(adapted)
        broken.module.encoder.layers[0].bias -= 1e3
    assert broken.inactive_units(X)["encoder"] == 1.0


def test_small_batches_and_many_draws_change_nothing():
    vae, adapted, X = copied("learned prior")
    score = adapted.score(X)
    adapted.batch_size = 7
    assert adapted.score(X) == pytest.approx(score, abs=1e-10)
    assert d.entropy_bound(adapted, X).elbo == pytest.approx(vae.score(X), abs=1e-8)


def test_held_out_samples_are_compared_too():
    vae, adapted, X = copied("scalar")
    expected = d.diagnose(vae, X[:100], X_held_out=X[100:])
    report = d.diagnose(adapted, X[:100], X_held_out=X[100:])
    for key in ("held_out_elbo", "held_out_reference"):
        assert report.numbers[key] == pytest.approx(expected.numbers[key], abs=1e-6)
