import math

import array_api_strict
import numpy as np
import pytest
import torch
from array_api_compat import array_namespace
from scipy import sparse

from sklearn_vae import Moments
from sklearn_vae.gaussian.arrays import (
    affine,
    check_sample_weight,
    check_weights,
    common_float_type,
    float_name,
    float_type,
    mean_of_samples,
    positive_weights,
    row_blocks,
    scale_of,
    to_device_of,
)
from tests.helpers import to_numpy


@pytest.mark.cover(1)
@pytest.mark.parametrize("n_rows", [1, 8, 9, 1000, 2**20, 2**20 + 1])
@pytest.mark.parametrize("n_columns", [0, 1, 3, 1000, 2**17, 2**20])
def test_blocks_cover_all_rows_in_order_and_fit_in_the_cache(n_rows, n_columns):
    blocks = list(row_blocks(n_rows, n_columns))
    assert [block.start for block in blocks] == [0, *(block.stop for block in blocks[:-1])]
    assert blocks[-1].stop == n_rows
    sizes = [block.stop - block.start for block in blocks]
    most = max(2**20 // max(n_columns, 1), 8)
    assert sizes[:-1] == [most] * (len(blocks) - 1)
    assert 1 <= sizes[-1] <= most


def test_no_rows_are_one_empty_block_and_a_block_has_some_rows_at_least():
    assert list(row_blocks(0, 5)) == [slice(0, 0)]
    assert [b.stop for b in row_blocks(100, 2**20, at_least=30)] == [30, 60, 90, 100]


@pytest.mark.parametrize("of_samples", [np.asarray, torch.tensor, array_api_strict.asarray])
@pytest.mark.parametrize(
    "of_weights",
    [
        list, np.asarray, lambda w: np.array(w[::-1])[::-1], torch.tensor,
        lambda w: torch.tensor(w, requires_grad=True), array_api_strict.asarray,
        lambda w: array_api_strict.asarray(w, device=array_api_strict.Device("device1")),
    ],
)  # fmt: skip
def test_weights_of_another_library_are_converted(of_samples, of_weights):
    X = of_samples([[1.0, 2.0], [3.0, -1.0], [0.5, 8.0]])
    values = [1.0, 0.25, 3.0]
    weights = check_weights(of_weights(values), X)
    assert array_namespace(weights) is array_namespace(X)
    assert weights.dtype == array_namespace(X).float64
    np.testing.assert_array_equal(to_numpy(weights), values)
    assert Moments.of(X, weights).n == Moments.of(X, of_weights(values)).n == 4.25


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int8", "int64"])
def test_dtypes_of_products(kind):
    expected = kind if kind in ("float32", "float64") else "float64"
    for X in (np.ones((2, 2), kind), torch.ones(2, 2, dtype=getattr(torch, kind))):
        xp = array_namespace(X)
        assert float_type(X) == getattr(xp, expected)
        assert float_name(X) == expected
        for model in ("float32", "float64"):
            b = xp.zeros(2, dtype=getattr(xp, model))
            wider = "float64" if "float64" in (expected, model) else "float32"
            assert common_float_type(X, b) == getattr(xp, wider)
            A = xp.asarray([[2.0, 0.0], [1.0, 3.0]], dtype=b.dtype)
            Y = affine(X, A, b + 0.5)
            assert Y.dtype == getattr(xp, wider)
            np.testing.assert_array_equal(to_numpy(Y), [[3.5, 3.5]] * 2)
    if kind != "float16":
        assert float_name(sparse.csr_array(np.ones((2, 2), kind))) == expected


def test_a_mean_of_samples_is_weighted_and_leaves_out_those_without_weight():
    values = np.array([-math.inf, 1.0, 3.0, 8.0])
    assert mean_of_samples(values) == -math.inf
    assert mean_of_samples(values, [0.0, 1.0, 2.0, 1.0]) == 3.75
    assert mean_of_samples(values, [1e-300, 1.0, 2.0, 1.0]) == -math.inf
    for scale in (2.0**-1070, 2.0**1020):  # whose products overflow or vanish
        weights = scale * np.array([0.0, 1.0, 2.0, 1.0])
        assert mean_of_samples(values * 2.0**100, weights) == 3.75 * 2.0**100


@pytest.mark.parametrize("largest", [1.0, 1.5, 2.0, 3.0, 2.0**-1074, 1.7e308, 1e-310])
@pytest.mark.parametrize("of", [np.asarray, lambda w: torch.tensor(w, dtype=torch.float64)])
def test_weights_divided_by_their_scale_reach_between_1_and_2(largest, of):
    scale = scale_of(of([0.0, largest, largest / 4]))
    assert math.frexp(scale)[0] == 0.5  # no rounding by it
    assert 1.0 <= largest / scale < 2.0


def test_no_weights_have_scale_1():
    assert scale_of(np.zeros(3)) == scale_of(np.zeros(0)) == 1.0


def test_positive_weights_are_counted():
    weights = np.array([0.0, 0.5, 5e-324])
    positive, count = positive_weights(weights, at_least=2)
    np.testing.assert_array_equal(positive, [False, True, True])
    assert count == 2
    with pytest.raises(ValueError, match="positive for at least 3 samples, got 2"):
        positive_weights(weights, at_least=3)


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.7e308, 1.7e308]])
@pytest.mark.parametrize("of", [np.asarray, sparse.csr_array])
def test_the_sum_of_weights_is_above_zero_and_finite(weights, of):
    X = of(np.ones((2, 3)))
    with pytest.raises(ValueError, match="finite sum above zero"):
        check_sample_weight(weights, X)
    assert check_sample_weight([0.0, 2.0], X).tolist() == [0.0, 2.0]


def test_values_go_to_the_library_and_dtype_of_a_reference():
    reference = torch.zeros(1, dtype=torch.float32)
    found = to_device_of(reference, [1.0, 2.0])
    assert isinstance(found, torch.Tensor)
    assert found.dtype == torch.float32
    assert to_device_of(reference, [1.0], torch.float64).dtype == torch.float64
