import itertools
from functools import reduce
from operator import add

import numpy as np
import pytest
from array_api_compat import array_namespace
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse

from sklearn_vae import Moments
from sklearn_vae.gaussian import moments as moments_module
from sklearn_vae.gaussian.precision import Precision
from tests.helpers import to_numpy

EPS = 2.0**-52


def exact(X, weights=None):
    """Mean and scatter in extended precision, by the definition."""
    X = np.asarray(X, dtype=np.longdouble)
    w = np.ones(len(X)) if weights is None else np.asarray(weights, dtype=np.longdouble)
    mean = w @ X / w.sum()
    R = X - mean
    return mean, (w[:, None] * R).T @ R


def assert_same(found, mean, scatter, size, merged=False):
    """Equal to rounding, where no entry of the rows exceeds `size`.

    The mean is rounded to eps * size. So are the rows themselves; moments that were merged from
    rounded means may differ by as much as if each row were rounded once more.
    """
    scale = float(np.abs(scatter).max())
    rounding = 8 * EPS * size
    assert np.abs(to_numpy(found.mean) - mean).max() <= rounding
    allowed = 64 * EPS * scale + found.n * rounding**2
    if merged:
        allowed += rounding * (found.n * scale) ** 0.5
    assert np.abs(to_numpy(found.scatter) - scatter).max() <= allowed


@st.composite
def split_rows(draw):
    """Rows of standard size, an offset, and where to cut them: empty and one-row parts too."""
    n, d = draw(st.integers(1, 30)), draw(st.integers(1, 5))
    X = draw(arrays(np.float64, (n, d), elements=st.floats(-3, 3, allow_subnormal=False)))
    cuts = draw(st.lists(st.integers(0, n), max_size=6))
    return X, draw(st.sampled_from([0.0, -1.0, 1e4, 1e8])), [0, *sorted(cuts), n]


@given(split_rows())
@settings(max_examples=80, deadline=None)
def test_any_split_merges_to_the_whole(case):
    check_split(*case)


@pytest.mark.slow
@given(split_rows())
@settings(max_examples=300, deadline=None)
def test_three_hundred_splits_merge_to_the_whole(case):
    check_split(*case)


def check_split(X, offset, cuts):
    X = X + offset
    parts = [Moments.of(X[a:b]) for a, b in itertools.pairwise(cuts)]
    mean, scatter = exact(X)
    for merged in (reduce(add, parts), reduce(add, reversed(parts))):
        assert merged.n == len(X)
        assert_same(merged, mean, scatter, abs(offset) + 3, merged=True)
    assert_same(Moments.of(X), mean, scatter, abs(offset) + 3)


@given(split_rows(), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_any_split_of_weighted_rows_merges_to_the_whole(case, seed):
    check_weighted_split(*case, seed)


@pytest.mark.slow
@given(split_rows(), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_a_hundred_and_fifty_splits_of_weighted_rows_merge_to_the_whole(case, seed):
    check_weighted_split(*case, seed)


def check_weighted_split(X, offset, cuts, seed):
    X = X + offset
    rng = np.random.default_rng(seed)
    weights = rng.choice([0.0, 0.25, 1.0, 3.5], size=len(X))
    weights[0] = 1.0
    parts = [Moments.of(X[a:b], weights[a:b]) for a, b in itertools.pairwise(cuts)]
    merged = reduce(add, parts)
    assert merged.n == pytest.approx(weights.sum(), rel=1e-14)
    assert_same(merged, *exact(X, weights), abs(offset) + 3, merged=True)
    assert_same(Moments.of(X, weights), *exact(X, weights), abs(offset) + 3)


def test_integer_weights_repeat_rows_and_zero_leaves_them_out():
    rng = np.random.default_rng(0)
    X, weights = rng.normal(size=(20, 3)), rng.integers(0, 4, size=20)
    X[weights == 0] *= 1e6
    weighted, repeated = Moments.of(X, weights), Moments.of(np.repeat(X, weights, axis=0))
    assert weighted.n == repeated.n
    np.testing.assert_allclose(weighted.mean, repeated.mean, rtol=1e-10)
    np.testing.assert_allclose(weighted.scatter, repeated.scatter, rtol=1e-9)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("offset", [0.0, 1e3, 1e8])
def test_many_blocks_against_the_definition(offset, order):
    # 3 columns: 87381 rows a block, so three blocks, of drifting mean.
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200_000, 3)) * [1.0, 10.0, 0.1] + np.linspace(0, 5, 200_000)[:, None]
    X = np.asarray(X + offset, order=order)
    assert_same(Moments.of(X), *exact(X), offset + 50)


def test_an_outlying_first_row_costs_no_digits():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100_000, 2))
    X[0] = 1e6
    scatter = exact(X)[1]
    found = Moments.of(X)
    np.testing.assert_allclose(found.scatter, scatter.astype(float), rtol=1e-13)


def test_outlier_of_a_merged_part_leaves_the_others_alone():
    # Cross-validation merges folds instead of subtracting the held-out one for this reason.
    rng = np.random.default_rng(0)
    clean, dirty = rng.normal(size=(300, 4)), rng.normal(size=(100, 4))
    dirty[0] = 1e6
    a, b, outlier = Moments.of(clean[:150]), Moments.of(clean[150:]), Moments.of(dirty)
    np.testing.assert_allclose((a + b).scatter, exact(clean)[1].astype(float), rtol=1e-13)
    everything = a + b + outlier
    subtracted = everything.scatter - outlier.scatter
    assert np.abs(subtracted - (a + b).scatter).max() > 1e-6


@pytest.mark.parametrize("n_absent", [1, 300, 20_000])
def test_rows_of_weight_zero_at_the_head_cost_no_digits(n_absent):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_absent + 1000, 2)) + 1e8
    X[:n_absent] = 0.0
    weights = np.ones(len(X))
    weights[:n_absent] = 0.0
    found = Moments.of(X, weights)
    assert found.n == 1000
    assert_same(found, *exact(X[n_absent:]), 1e8 + 5)
    assert Moments.of(X, np.zeros(len(X))).n == 0


@pytest.mark.parametrize("weight", [1e-3, 1e-20, 1e-300])
@pytest.mark.parametrize("n_light", [300, 20_000])
def test_rows_of_tiny_weight_cost_no_digits(n_light, weight):
    # Far away, before, between and after the rows that count.
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3 * n_light, 2)) + 1e8
    weights = np.ones(len(X))
    light = np.r_[0 : n_light // 2, n_light : 2 * n_light, len(X) - 5 : len(X)]
    X[light] = 1e8 - 10.0
    weights[light] = weight
    assert_same(Moments.of(X, weights), *exact(X, weights), 1e8 + 10)


@pytest.mark.parametrize("weight", [1e-3, 1e-20, 1e-300])
@pytest.mark.parametrize("order", [*itertools.permutations("LlH"), ("H", "L", "H")], ids=str)
def test_blocks_of_light_rows_first_between_or_last_cost_no_digits(order, weight):
    # A block has at most 16384 rows of 2 columns; light rows are near zero, others far from it.
    rng = np.random.default_rng(0)
    sizes = {"L": 20_000, "l": 3000, "H": 20_000}
    rows = {"L": 0.0, "l": -3.0, "H": 1e8}
    X = np.concatenate([rng.normal(size=(sizes[c], 2)) + rows[c] for c in order])
    weights = np.concatenate([np.full(sizes[c], 1.0 if c == "H" else weight) for c in order])
    mean, scatter = exact(X, weights)
    assert_same(Moments.of(X, weights), mean, scatter, 1e8 + 5)
    # Also where the light rows are a part of their own, on either side.
    cuts = np.flatnonzero(np.diff(weights)) + 1
    parts = zip(np.split(X, cuts), np.split(weights, cuts), strict=True)
    merged = reduce(add, [Moments.of(*part) for part in parts])
    assert_same(merged, mean, scatter, 1e8 + 5, merged=True)


def test_a_sum_is_rounded_no_more_than_the_mean_of_the_heavier_part():
    light = Moments(1e-20, np.array([1e8, -1e8]), 1e-20 * np.eye(2))
    heavy = Moments(3.0, np.array([0.1, 0.7]), np.eye(2))
    for total in (light + heavy, heavy + light):
        assert np.abs(total.mean - heavy.mean).max() < 2e-12


@pytest.mark.parametrize("weighted", [False, True])
def test_blocks_are_shifted_by_the_mean_before_them_and_only_where_it_is_far(monkeypatch, weighted):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600_000, 2))
    X[200_000:400_000] += 1e6
    weights = rng.uniform(0.9, 1.1, size=len(X)) if weighted else None
    seen, original = [], moments_module._moments_about

    def spy(block, w, shift, xp):
        seen.append((block[:, 0].min() > 1e5, block[:, 0].max() < 1e5, shift))
        return original(block, w, shift, xp)

    monkeypatch.setattr(moments_module, "_moments_about", spy)
    assert_same(Moments.of(X, weights), *exact(X, weights), 1e6 + 5)
    after_far = [
        shift for (far, _, _), (again, _, shift) in itertools.pairwise(seen) if far and again
    ]
    after_near = [
        shift for (_, near, _), (_, again, shift) in itertools.pairwise(seen) if near and again
    ]
    assert after_far
    assert after_near
    assert all(np.abs(shift - 1e6).max() < 1.0 for shift in after_far)
    assert all(shift is None for shift in after_near)


def test_float32_products_are_summed_in_float64():
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(200_000, 4)) + 1e3).astype(np.float32)
    found = Moments.of(X)
    mean, scatter = exact(X)
    assert found.mean.dtype == found.scatter.dtype == np.float64
    np.testing.assert_allclose(found.mean, mean.astype(float), rtol=1e-9)
    np.testing.assert_allclose(found.scatter, scatter.astype(float), atol=1e-5 * scatter.max())


def test_namespaces_agree(asarray):
    rng = np.random.default_rng(0)
    X, weights = rng.normal(size=(50, 3)) + 100.0, rng.random(50)
    found = Moments.of(asarray(X[:20]), asarray(weights[:20])) + Moments.of(
        asarray(X[20:]), asarray(weights[20:])
    )
    assert array_namespace(found.scatter) is array_namespace(asarray(X))
    assert_same(found, *exact(X, weights), 110, merged=True)
    np.testing.assert_allclose(
        to_numpy(found.covariance), np.cov(X.T, aweights=weights, ddof=0), rtol=1e-12
    )


def test_neutral_element_and_integers():
    X = np.arange(12).reshape(4, 3)
    some, none = Moments.of(X), Moments.of(X[:0])
    assert none.n == 0
    assert (some + none) is some
    assert (none + some) is some
    assert (none + none).n == 0
    np.testing.assert_array_equal(some.mean, [4.5, 5.5, 6.5])
    with pytest.raises(ValueError, match="n is 0"):
        _ = none.covariance


@pytest.mark.parametrize(
    ("X", "weights", "message"),
    [
        (np.zeros(3), None, "two-dimensional"),
        (np.zeros((2, 2), dtype=complex), None, "real, got dtype complex128"),
        (np.array([[0.0, np.nan], [1.0, 2.0]]), None, "feature 1"),
        (np.array([[0.0, 1.0], [np.inf, 2.0]]), None, "feature 0"),
        (np.array([[np.inf, 1.0], [-np.inf, 2.0]]), None, "feature 0"),
        (np.array([[0.0, 1e308], [1.0, 1e308]]), None, "overflow in feature 1"),
        (np.zeros((2, 2)), [1.0], r"shape \(n_samples,\) = \(2,\), got \(1,\)"),
        (np.zeros((2, 2)), [1.0, -2.0], r">= 0, got -2.0 for sample 1"),
        (np.zeros((2, 2)), [np.nan, 1.0], "got nan for sample 0"),
    ],
)
def test_errors(X, weights, message):
    with pytest.raises(ValueError, match=message):
        Moments.of(X, weights)


def test_sums_start_at_0():
    X = np.random.default_rng(0).normal(size=(9, 2))
    found, whole = sum([Moments.of(X[:4]), Moments.of(X[4:])]), Moments.of(X)
    assert found.n == 9
    np.testing.assert_allclose(found.scatter, whole.scatter)
    with pytest.raises(TypeError):
        1 + Moments.of(X)
    with pytest.raises(ValueError, match="mean must have a real floating dtype, got int64"):
        Moments(1.0, np.zeros(2, dtype=np.int64), np.zeros((2, 2)))


@pytest.mark.parametrize(("d", "size"), [(1, 16384), (40, 6553), (90, 4096)])
def test_blocks_fit_in_the_cache_and_are_larger_where_none_is_copied(d, size, monkeypatch):
    blocks, about = [], moments_module._moments_about

    def counted(X, weights, shift, xp):
        blocks.append((len(X), shift is not None))
        return about(X, weights, shift, xp)

    monkeypatch.setattr(moments_module, "_moments_about", counted)
    Moments.of(np.zeros((70_000, d)))
    assert set(blocks[:-1]) == {(4 * size, False)}
    assert blocks[-1] == (70_000 - sum(n for n, _ in blocks[:-1]), False)
    blocks.clear()
    Moments.of(np.ones((70_000, d)))  # far from 0, about the mean before
    assert set(blocks[:-1]) == {(size, True)}


def test_moments_of_no_features():
    moments = Moments.of(np.zeros((5, 0)), np.arange(5.0))
    assert (moments.n, moments.count, moments.n_features) == (10.0, 4, 0)
    assert moments.scatter.shape == (0, 0)


def test_moments_of_no_samples_and_of_other_dtypes():
    nothing = Moments(0.0, np.zeros(2), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="requires at least one sample, but n is 0"):
        nothing.covariance  # noqa: B018
    with pytest.raises(ValueError, match="dtype must be 'float64', 'float32' or '', got 'int8'"):
        Moments(1.0, np.zeros(2), np.zeros((2, 2)), dtype="int8")


def test_only_moments_of_the_same_features_add():
    with pytest.raises(ValueError, match="same number of features, got 2 and 3"):
        Moments.of(np.zeros((1, 2))) + Moments.of(np.zeros((1, 3)))
    with pytest.raises(TypeError):
        Moments.of(np.zeros((1, 2))) + 1
    with pytest.raises(TypeError, match="array-API array or sparse matrix, got list"):
        Moments.of([[1.0]])
    with pytest.raises(ValueError, match=r"n_features\), got \(2,\) and \(3, 3\)"):
        Moments(1.0, np.zeros(2), np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"got -1\.0"):
        Moments(-1.0, np.zeros(2), np.zeros((2, 2)))


class TestWhatIsKnownOfTheData:
    @pytest.mark.parametrize("container", [np.asarray, sparse.csr_array])
    @pytest.mark.parametrize("dtype", [np.float64, np.float32])
    def test_of_data(self, container, dtype):
        X = container(np.eye(5, 3).astype(dtype))
        moments = Moments.of(X, np.array([0.0, 2.0, 0.5, 0.0, 1.0]))
        assert (moments.n, moments.count, moments.dtype) == (3.5, 3, np.dtype(dtype).name)
        assert moments.precision.stored == np.finfo(dtype).eps
        in_float64 = dtype == np.float64 or sparse.issparse(X)
        assert moments.precision.eps == np.finfo(np.float64 if in_float64 else np.float32).eps

    def test_sums_have_the_wider_dtype_and_the_coarser_precision(self):
        X = np.random.default_rng(0).normal(size=(9, 2))
        coarse, fine = Moments.of(X[:4].astype(np.float32)), Moments.of(X[4:])
        for both in (coarse + fine, fine + coarse):
            assert (both.count, both.dtype) == (9, "float64")
            assert both.precision == coarse.precision != fine.precision
        nothing = Moments(0.0, np.zeros(2), np.zeros((2, 2)))
        assert nothing.count == 0
        assert (coarse + nothing).dtype == (nothing + coarse).dtype == "float32"

    @pytest.mark.parametrize(("n", "count"), [(1.0, 3), (2.5, 3), (7.0, 7)])
    def test_defaults(self, n, count):
        moments = Moments(n, np.zeros(3), np.eye(3))
        assert (moments.count, moments.dtype) == (count, "float64")
        assert moments.precision == Precision()
        single = Moments(n, np.zeros(3, dtype=np.float32), np.eye(3, dtype=np.float32))
        assert single.dtype == "float32"
        assert single.precision.eps == np.finfo(np.float32).eps

    @pytest.mark.parametrize(
        "fields",
        [{"count": -1.0}, {"count": np.inf}, {"dtype": "int8"}, {"precision": Precision(-1.0)}],
    )
    def test_bad_fields(self, fields):
        with pytest.raises(ValueError, match=r"must be (a finite number >= 0|'float64')"):
            Moments(1.0, np.zeros(2), np.eye(2), **fields)

    @pytest.mark.parametrize("container", [np.asarray, sparse.csr_array])
    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
    def test_without_the_check_what_is_not_finite_shows(self, container, value):
        X = np.eye(4)
        assert Moments.of(container(X), check_finite=False).is_finite
        X[1, 2] = value
        assert not Moments.of(container(X), check_finite=False).is_finite
