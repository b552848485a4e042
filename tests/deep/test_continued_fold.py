"""The final fit of automatic training of small tables, which continues that of the fold."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch

from sklearn_vae import TabularVAE
from sklearn_vae.deep import base
from sklearn_vae.deep.choices import with_values
from sklearn_vae.deep.epoch_search import Fold
from tests.deep.tables import hide, make_table


@pytest.fixture(params=["complete", "incomplete"])
def table(request):
    X = make_table(120)
    return X if request.param == "complete" else hide(X)[0]


@pytest.mark.slow
def test_the_final_fit_starts_at_the_networks_of_the_fold(table, monkeypatch):
    searches, starts = [], []
    search_epochs, train = base.search_epochs, TabularVAE._train

    def searched(*arguments):
        searches.append(search_epochs(*arguments))
        return searches[-1]

    def trained(self, data):
        starts.append({n: t.clone() for n, t in self.module_.state_dict().items()})
        return train(self, data)

    monkeypatch.setattr(base, "search_epochs", searched)
    monkeypatch.setattr(TabularVAE, "_train", trained)
    model = TabularVAE(2, random_state=0).fit(table)
    (search,), (start,) = searches, starts
    for name, tensor in search.continued.parameters.items():
        torch.testing.assert_close(start[name], tensor, rtol=0, atol=0)
    np.testing.assert_array_equal(model.mean_, search.continued.mean)
    np.testing.assert_array_equal(model.scale_, search.continued.scale)
    assert model.n_iter_ == search.n_final_epochs == max(8, round(0.2 * search.n_epochs))
    assert (model.history_["validation_bound"] == search.bounds[search.best]).all()
    assert model.elbo_ == pytest.approx(model.score(table), abs=1e-6)
    # It trains further.
    for name, tensor in model.module_.named_parameters():
        if "layers" in name:
            assert not torch.equal(tensor, start[name])


def test_a_fold_without_a_category_or_variation_is_not_continued():
    X = pd.DataFrame({"number": np.r_[5.0, np.zeros(29)], "flag": 15 * [False, True]})
    X["colour"] = np.where(np.arange(30) == 3, "red", np.where(np.arange(30) % 3, "blue", "green"))
    types = {"number": "real"}
    model = TabularVAE(1, column_types=types, max_epochs=1, hidden_layer_sizes=4, random_state=0)
    codes = model.fit(X).observations(X)
    assert model._can_continue(codes, np.array([7, 8]))
    assert not model._can_continue(codes, np.array([0, 8]))  # the number is constant
    assert not model._can_continue(codes, np.array([7, 3]))  # no red


def test_samples_that_are_prepared_once_give_the_same_fold(table):
    vae = TabularVAE(2, random_state=0)
    codes = copy.copy(vae)._check_samples(table, ensure_min_samples=2, reset=True)
    model, held_out = with_values(vae, vae._chosen_values(*codes.shape)), np.arange(20)
    once, again = (Fold(model, codes, None, held_out, 0) for _ in range(2))
    again.prepared = None
    for fold in (once, again):
        assert fold.train(2)
        assert fold.train(1)
    for name, tensor in once.states[-1].items():
        torch.testing.assert_close(again.states[-1][name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize(("unit", "offset"), [(1e-60, 0.0), (1e60, 0.0), (1.0, 1e9)])
def test_folds_have_the_digits_of_positive_columns(unit, offset):
    rng = np.random.default_rng(0)
    z = rng.normal(size=200)
    positive = offset + np.exp(0.5 * z + 0.2 * rng.normal(size=200))
    X = pd.DataFrame({"size": unit * positive, "flag": rng.normal(size=200) < 2.0 * z})
    model = TabularVAE(1, column_types={"size": "positive"}, random_state=0).fit(X)
    assert not model.is_linear_
    assert model.elbo_ + np.log(unit) > -1.3  # the linear model has -1.48
