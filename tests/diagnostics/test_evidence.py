"""Numbers from which the findings of `diagnose` follow."""

import numpy as np

from sklearn_vae import PPCA, DeepGaussianVAE
from sklearn_vae.diagnostics.evidence import Evidence
from tests.deep.data import SMALL, make_rows

X = make_rows(60)


def test_the_history_is_that_after_the_warm_up():
    vae = DeepGaussianVAE(2, **SMALL).set_params(max_epochs=5)
    for n_epochs in (0, 2):
        vae.set_params(kl_warmup_epochs=n_epochs).fit(X)
        history = Evidence(vae, X, X).history
        for name in ("bound", "reconstruction", "kl"):
            np.testing.assert_array_equal(history[name], vae.history_[name][n_epochs:])
    assert Evidence(PPCA(2).fit(X), X, X).history == {}


def test_the_limit_of_epochs_is_reached_or_training_ended_before():
    vae = DeepGaussianVAE(2, **SMALL).fit(X)
    assert Evidence(vae, X, X).reached_limit
    assert not Evidence(vae.set_params(max_epochs=vae.n_iter_ + 1), X, X).reached_limit
