"""Models of tables against factor analysis of their columns."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from sklearn_vae import MixedFactorAnalysis, TabularVAE
from tests.deep.tables import hide, make_table


def test_a_fit_below_factor_analysis_warns():
    X, _ = hide(make_table(120))
    vae = TabularVAE(1, max_epochs=20, learning_rate=1e-6, init=None, random_state=0)
    with pytest.warns(ConvergenceWarning, match="Training ended below MixedFactor") as caught:
        vae.fit(X)
    linear = MixedFactorAnalysis(1, column_types=vae.column_types_, random_state=0).fit(X)
    assert linear.elbo_ > vae.elbo_
    (text,) = (str(w.message) for w in caught if "ended below" in str(w.message))
    named = float(text.split("compared with ")[1].split(";")[0])
    assert named == pytest.approx(linear.elbo_, abs=0.02)


def test_a_fit_that_reaches_factor_analysis_does_not_warn():
    X, _ = hide(make_table(120))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", ".*ended below.*")
        TabularVAE(1, max_epochs=30, learning_rate=1e-2, init="ppca", random_state=0).fit(X)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["iris", "wine"])
def test_default_parameters_are_not_below_factor_analysis(name, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    monkeypatch.delitem(sys.modules, "tabular", raising=False)
    import tabular

    X = getattr(tabular, name)()
    order = np.random.RandomState(0).permutation(len(X))
    cut = int(0.7 * len(X))
    train, held_out = X.iloc[order[:cut]], X.iloc[order[cut:]]
    k = min(8, X.shape[1] - 1)
    options = {"handle_unknown": "missing", "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        deep = TabularVAE(k, **options).fit(train)
    linear = MixedFactorAnalysis(k, **options).fit(train)
    for part in (train, held_out):
        reference = linear.score(part)
        assert deep.score(part) >= reference - 0.01 * abs(reference) - 0.1
