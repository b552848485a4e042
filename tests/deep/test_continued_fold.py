"""The final fit of automatic training of small tables, which continues that of the fold."""

import numpy as np
import pandas as pd
import pytest
import torch

from sklearn_vae import TabularVAE
from sklearn_vae.deep import base
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
        if tensor.is_floating_point():  # folds are in float32
            assert (tensor.dtype, start[name].dtype) == (torch.float32, torch.float64)
        torch.testing.assert_close(start[name], tensor.to(start[name].dtype), rtol=0, atol=0)
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
