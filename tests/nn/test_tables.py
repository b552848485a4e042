"""Modules of tables: inputs of the encoder, and what fills missing values."""

import numpy as np
import pytest
import torch
from scipy import stats

from sklearn_vae.nn.tables import (
    LIKELIHOODS,
    TableInputs,
    accept_missing_values,
    blocks_of,
    build_table_vae,
    likelihood_of,
)

RNG = np.random.RandomState(0)
N = 400
TYPES = ["ordinal", "real", "categorical", "count", "positive", "binary", "heavy_tailed", "real"]
SIZES = [4, 0, 3, 0, 0, 2, 0, 0]
X = np.stack(
    [
        RNG.randint(4, size=N),
        RNG.normal(5.0, 3.0, N),
        RNG.randint(3, size=N),
        RNG.poisson(20.0, N),
        np.exp(RNG.normal(1.0, 0.3, N)),
        RNG.uniform(size=N) < 0.3,
        RNG.standard_t(3.0, N),
        RNG.normal(size=N),
    ],
    axis=1,
)
X = torch.from_numpy(X)
# Inputs in the order of the blocks: the column of each.
COLUMNS = [1, 7, 4, 6, 3, 5, 2, 2, 2, 0]


def module(n_components=2, missing=None):
    torch.manual_seed(0)
    made = build_table_vae(
        TYPES,
        SIZES,
        n_components,
        hidden_layer_sizes=(8,),
        activation="silu",
        dtype=torch.float64,
        missing=missing,
    )
    made.encoder.inputs.set_units(X)
    made.likelihood.start_at(X)
    return made.eval().requires_grad_(False)


def with_holes():
    holes = torch.from_numpy(np.random.RandomState(1).uniform(size=tuple(X.shape)) < 0.2)
    return X.masked_fill(holes, torch.nan), holes


def test_all_types_have_a_block():
    assert set(TYPES) == set(LIKELIHOODS)
    assert [block.type for block in blocks_of(TYPES, SIZES)] == list(LIKELIHOODS)


def test_columns_of_few_categories_are_not_padded_to_many():
    sizes = [3, 500, 8, 9, 33, 2, 1000, 3]
    for kind in ("categorical", "ordinal"):
        blocks = blocks_of([kind] * 7 + ["real"], sizes)
        assert [b.columns for b in blocks if b.type == kind] == [[0, 2, 5], [3], [4], [1], [6]]
        likelihood = likelihood_of(blocks)
        assert likelihood.width == 3 * 8 + 9 + 33 + 500 + 1000 + 1
        z = torch.zeros(2, likelihood.n_inputs)
        parts = likelihood(z).parts
        widths = [p.probabilities[0].numel() for p in parts if hasattr(p, "probabilities")]
        assert sum(widths) + 1 == likelihood.width


def test_inputs_are_standardized_in_the_order_of_the_decoder_outputs():
    made = module()
    inputs = made.encoder.inputs(X)
    assert made.likelihood.n_inputs == made.encoder.inputs.n_outputs == len(COLUMNS)
    np.testing.assert_allclose(inputs.mean(0), 0.0, atol=1e-12)
    np.testing.assert_allclose(inputs.var(0, correction=0), 1.0, rtol=1e-12)
    transformed = {3: np.log1p, 4: np.log, 6: np.arcsinh}
    for own, j in zip(inputs.T, COLUMNS, strict=True):
        if j != 2:
            expected = stats.zscore(transformed.get(j, np.asarray)(X[:, j].numpy()))
            np.testing.assert_allclose(own, expected, rtol=1e-12)
    for code in range(3):
        expected = stats.zscore((X[:, 2] == code).numpy().astype(float))
        np.testing.assert_allclose(inputs[:, 6 + code], expected, rtol=1e-12)


def test_missing_cells_are_missing_inputs_and_do_not_change_the_others():
    made, (incomplete, holes) = module(), with_holes()
    inputs = made.encoder.inputs(incomplete)
    np.testing.assert_array_equal(inputs.isnan(), holes[:, COLUMNS])
    observed = ~inputs.isnan()
    np.testing.assert_array_equal(inputs[observed], made.encoder.inputs(X)[observed])
    alone = TableInputs(blocks_of(TYPES, SIZES)).double()
    alone.set_units(incomplete)
    np.testing.assert_allclose(np.nanmean(alone(incomplete), axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(np.nanvar(alone(incomplete), axis=0), 1.0, rtol=1e-12)


def test_an_output_of_the_decoder_changes_its_expected_input_by_as_much():
    made = module()
    size = 1e-5 * torch.eye(len(COLUMNS), dtype=torch.float64)
    means = [made.encoder.inputs.moments(made.likelihood(h))[0] for h in (size, -size)]
    slopes = ((means[0] - means[1]) / 2e-5).diagonal()
    exact = [j in (1, 2, 4, 5, 7) for j in COLUMNS]  # the others are nonlinear
    np.testing.assert_allclose(slopes[exact], 1.0, atol=0.01)
    assert ((slopes > 0.7) & (slopes < 1.4)).all(), slopes


def test_moments_of_inputs_agree_with_draws():
    made = module()
    h = 0.3 * torch.from_numpy(RNG.normal(size=(1, len(COLUMNS)))).expand(40000, -1)
    p = made.likelihood(h)
    mean, variance = (a[0] for a in made.encoder.inputs.moments(p))
    drawn = made.encoder.inputs(p.sample(np.random.RandomState(0)))
    approximate = np.isin(COLUMNS, (3, 6))
    tolerance = np.where(approximate, 0.15, 0.03)
    assert ((drawn.mean(0) - mean).abs().numpy() < tolerance).all()
    ratio = (drawn.var(0) / variance).numpy()
    np.testing.assert_allclose(ratio[~approximate], 1.0, atol=0.05)


def test_complete_samples_have_the_same_posterior_where_missing_values_are_accepted():
    made = module()
    accepting = accept_missing_values(made)
    assert not made.is_incomplete
    assert accepting.is_incomplete
    q, expected = accepting.encode(X), made.encode(X)
    np.testing.assert_allclose(q.mean, expected.mean, rtol=1e-9)
    np.testing.assert_allclose(q.variance, expected.variance, rtol=1e-9)
    incomplete, _ = with_holes()
    wider = accepting.encode(incomplete)
    change = wider.log_diagonal - wider.base.log_variance
    assert bool((change.sum(1) >= -1e-9).all())
    assert change.mean() > 0.01
    p = accepting.decode(wider.mean, incomplete)
    assert bool(p.log_prob(incomplete).isfinite().all())


def test_columns_add_up_to_the_log_density():
    made, (incomplete, holes) = module(), with_holes()
    p = made.decode(torch.zeros(N, 2, dtype=torch.float64))
    columns = p.log_prob_columns(incomplete)
    np.testing.assert_array_equal(columns[holes], 0.0)
    whole = p.restricted_to(~holes).log_prob(incomplete)
    np.testing.assert_allclose(columns.sum(1), whole, rtol=1e-12)


@pytest.mark.parametrize("kind", ["point", "mean"])
def test_points_are_modes_of_categories_and_means_of_numbers(kind):
    p = module().decode(torch.ones(5, 2, dtype=torch.float64))
    numbers = [1, 3, 4, 6, 7]
    values = getattr(p, kind)
    np.testing.assert_array_equal(values[:, numbers], p.mean[:, numbers])
    if kind == "point":
        np.testing.assert_array_equal(values, values.where(values.isfinite(), 0.0))
        codes = values[:, [0, 2, 5]]
        np.testing.assert_array_equal(codes, codes.round())
