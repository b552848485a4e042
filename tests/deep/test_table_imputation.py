"""Latent vectors of imputation: a mixture of proposals, and weights that do not depend on them."""

import copy

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from sklearn_vae.deep.table_imputation import Component, TableImputation
from tests.deep.tables import fitted, hide, make_table


def test_density_of_a_component():
    rng = np.random.RandomState(0)
    mean, root = rng.normal(size=(2, 3)), np.tril(rng.normal(size=(2, 3, 3)))
    root[:, range(3), range(3)] = np.abs(root[:, range(3), range(3)])
    component = Component(*map(torch.from_numpy, (mean, root, rng.normal(size=(5, 3)))))
    z = component.draw()
    for i in range(2):
        expected = multivariate_normal(mean[i], root[i] @ root[i].T).logpdf(z[:, i].numpy())
        np.testing.assert_allclose(component.log_prob(z)[:, i], expected)
        noise = np.linalg.solve(root[i], (z[:, i].numpy() - mean[i]).T).T
        np.testing.assert_allclose(noise, component.noise)


@pytest.mark.parametrize("kind", ["complete", "incomplete"])
def test_results_do_not_depend_on_the_encoder(kind):
    """Weights correct a q(z|x) that is shifted by a standard deviation of z and too narrow."""
    model, (X, _) = fitted(kind), hide(make_table(60, seed=5), share=0.4, seed=2)
    codes = np.asarray(model.observations(X))
    numbers = [j for j, c in enumerate(model.codec.columns_) if c.type in ("real", "heavy_tailed")]
    wrong = copy.copy(model)
    wrong.net_ = copy.deepcopy(model.net_)
    with torch.no_grad():
        bias = wrong.module_.encoder.network.layers[-1].bias
        bias += torch.tensor([1.0, -3.0], dtype=bias.dtype)
        right, mine = (TableImputation(m, codes, 2000).point()[:, numbers] for m in (model, wrong))
    assert (np.abs(mine - right).max(axis=0) < 0.05 * right.std(axis=0)).all()


def test_few_latents_have_the_moments_of_many():
    """With 256 latents means differ by hundredths of their standard deviations from those of 8192."""
    model, (X, _) = fitted("incomplete"), hide(make_table(60, seed=5), share=0.4, seed=2)
    codes = np.asarray(model.observations(X))
    numbers = [j for j, c in enumerate(model.codec.columns_) if c.type in ("real", "heavy_tailed")]
    few, many = (TableImputation(model, codes, n).point()[:, numbers] for n in (256, 8192))
    std = TableImputation(model, codes, 2048).std()[:, numbers]
    assert (np.sqrt(np.mean(np.square((few - many) / std), axis=0)) < 0.02).all()


@pytest.mark.parametrize("n_latents", [1, 2, 3, 17])
def test_any_number_of_latents(n_latents):
    model, (X, _) = fitted("incomplete"), hide(make_table(8, seed=5), share=0.4, seed=2)
    found = TableImputation(model, np.asarray(model.observations(X)), n_latents)
    assert np.isfinite(found.point()).all()
    assert np.isfinite(found.std()).all()
