"""Warnings point to the line of the user, whatever is between it and the library."""

import warnings
from functools import partial

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_vae import DeepAutoencoder, PPCAImputer, TabularVAE
from sklearn_vae.warning import warn_user

X = np.random.default_rng(0).normal(size=(60, 4))


def within(name, function):
    """Return a function of a module with this name, in a file of this name, that calls another."""
    module = {"__name__": name, "function": function}
    exec(compile("def call():\n    return function()", name, "exec"), module)  # noqa: S102
    return module["call"]


def warned_by(function):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    return caught


@pytest.mark.parametrize("user", ["__main__", "my_analysis", "sklearn_vae_tools"])
@pytest.mark.parametrize("n_inside", [1, 2, 4])
def test_warnings_point_to_the_first_module_outside(user, n_inside):
    call = partial(warn_user, "text", ConvergenceWarning)
    inside = ["sklearn_vae.linear.ppca", "contextlib", "sklearn_vae", "sklearn.pipeline"]
    for name in [*inside[:n_inside], user, "sklearn.other", "another"]:
        call = within(name, call)
    (warning,) = warned_by(call)
    assert warning.filename == user
    assert (warning.category, str(warning.message)) == (ConvergenceWarning, "text")


@pytest.mark.parametrize(
    "fit",
    [
        lambda: TabularVAE(2, max_epochs=20, learning_rate=1e-6, random_state=0).fit(X),
        lambda: DeepAutoencoder(
            2, hidden_layer_sizes=(4,), max_epochs=20, learning_rate=1e-6, random_state=0
        ).fit_transform(X),
        lambda: make_pipeline(StandardScaler(), PPCAImputer(2, max_iter=1)).fit(
            np.where(X > 1, np.nan, X)
        ),
    ],
    ids=["decorated", "fit_transform", "pipeline"],
)
def test_warnings_of_estimators(fit):
    caught = warned_by(fit)
    assert caught
    assert {w.filename for w in caught} == {__file__}
