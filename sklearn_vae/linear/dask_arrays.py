"""Fits and transforms of Dask collections, block by block, on whatever scheduler is active.

A fit reads every block once. Only the moments of a block's samples leave it, which are added up
along a tree where the blocks are; transforms are lazy. Dask is imported where one of its
collections is at hand.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from uuid import uuid4

import numpy as np
from scipy import sparse

from sklearn_vae.gaussian.arrays import check_weights
from sklearn_vae.gaussian.centred import canonical
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.linear.checks import check_squares_fit, check_sums
from sklearn_vae.validation import checked_samples, is_dask

if TYPE_CHECKING:
    import dask.array as da

# Moments by the index of a plan and of a part of the samples in it.
Parts: TypeAlias = dict[tuple[int, int], Moments]

# Values, and how often each is repeated.
Runs: TypeAlias = tuple[np.ndarray, np.ndarray | int]

# Number of results that a task of the tree adds up, all of which a worker holds at once.
FAN_IN = 4

# Attributes of fitted estimators that are not sent to the workers.
KEPT_HERE = ("cv", "cv_results_", "feature_names_in_", "moments_", "_stream")

MISSING = (
    "It contains NaN, but fits of Dask arrays take no missing values. Leave such rows out, or fill "
    "them: PPCA fits rows with missing values in memory, and its impute takes Dask arrays."
)


def as_dask_array(estimator: Any, X: Any, *, reset: bool, known_lengths: bool = False) -> da.Array:
    """X as a Dask array of whole rows, checked as by scikit-learn's validate_data with `reset`.

    Nothing is computed, except the lengths of a DataFrame's partitions with `known_lengths`. The
    numbers are checked when the blocks are read.
    """
    rows = _as_array(X, "X", 2, lengths=known_lengths)
    if rows.numblocks[1] != 1:
        raise ValueError(
            "X must not be cut along its features, since a block has to hold whole rows, got "
            f"{rows.numblocks[1]} blocks of columns. X.rechunk({{1: -1}}) joins them, which moves "
            "data between workers."
        )
    if math.isnan(rows.shape[1]):
        raise ValueError("X must have a known number of features, got nan.")
    if known_lengths and math.isnan(rows.shape[0]):
        raise ValueError(
            f"X must have blocks of known length for {type(estimator).__name__}, which splits rows "
            "by their number, got nan. X.compute_chunk_sizes() counts them."
        )
    stand_in: Any = np.zeros((2, int(rows.shape[1])), dtype=rows.dtype)
    if hasattr(X, "columns"):
        stand_in = type(X._meta)(stand_in, columns=X.columns)
    checked_samples(estimator, stand_in, reset=reset)
    return rows


def dask_moments(
    estimator: Any, rows: da.Array, sample_weight: Any = None, *, at_least: int = 2
) -> Moments:
    """Moments of all samples of the result of `as_dask_array`.

    ValueError where fewer than `at_least` samples have a positive weight, a block has NaN or
    infinity, or the weights do not fit.
    """
    check_memory_here(estimator, rows.shape[1])
    moments = dask_moments_of_parts(estimator, rows, sample_weight, ()).get((0, 0))
    count = 0 if moments is None else int(moments.count)
    if moments is None or count < at_least:
        what = "X must have" if sample_weight is None else "sample_weight must be positive for"
        raise ValueError(f"{what} at least {at_least} row{'s' * (at_least > 1)}, got {count}.")
    return moments


def dask_moments_of_parts(
    estimator: Any, rows: da.Array, sample_weight: Any, plans: Sequence[np.ndarray]
) -> Parts:
    """Moments of each part of the samples that has some weight; a plan has a part per sample."""
    labels, weights = _block_labels(plans, rows), _block_weights(sample_weight, rows)
    return _tree_reduce(_block_moments, _merged, _for_workers(estimator), rows, weights, labels)


def check_memory_here(estimator: Any, d: int, *, n_more: int = 0) -> None:
    """Raise MemoryError where the (d, d) matrices of a fit do not fit into memory here."""
    check_squares_fit(
        f"Beside the scheduler, {type(estimator).__name__} of a Dask array",
        d,
        n_more=n_more,
        instead="Choose fewer features; or fit a part of the rows that fits into memory with "
        "PPCA(svd_solver='randomized'), which holds no such matrix.",
    )


def map_samples(estimator: Any, method: str, X: Any) -> da.Array:
    """Result of a method of a fitted estimator for a Dask array or DataFrame, lazily."""
    return _map_blocks(estimator, method, as_dask_array(estimator, X, reset=False))


def map_latents(estimator: Any, method: str, Z: Any) -> da.Array:
    """Result of a method of a fitted estimator for a Dask array of latents, lazily."""
    Z = _as_array(Z, "Z", 2)
    if Z.numblocks[1] != 1:
        raise ValueError(
            "Z must not be cut along its columns, one a latent dimension, got "
            f"{Z.numblocks[1]} blocks of them. Z.rechunk({{1: -1}}) joins them."
        )
    return _map_blocks(estimator, method, Z)


def mean_score(estimator: Any, X: Any, sample_weight: Any = None) -> float:
    """Average of an estimator's `score` over the samples of all blocks, computed."""
    rows, model = as_dask_array(estimator, X, reset=False), _for_workers(estimator)
    model.score(np.zeros((1, rows.shape[1]), dtype=rows.dtype))  # fails early
    weights = _block_weights(sample_weight, rows)
    n, total = _tree_reduce(_block_score, sum, model, rows, weights, [None] * rows.numblocks[0])
    if not 0.0 < n < math.inf:
        what = "the number of rows" if sample_weight is None else "the sum of sample_weight"
        raise ValueError(f"score is an average: {what} must be finite and above 0, got {n}.")
    return float(total / n)


def _as_array(X: Any, name: str, ndim: int, *, lengths: bool = False) -> da.Array:
    import dask.array as da

    if hasattr(X, "to_dask_array"):
        X = X.to_dask_array(lengths=True) if lengths else X.to_dask_array()
    if not isinstance(X, da.Array):
        raise TypeError(f"{name} must be a Dask array or DataFrame, got {type(X).__name__}.")
    if X.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension{'s' * (ndim > 1)}, got {X.ndim}.")
    return X


def _for_workers(estimator: Any) -> Any:
    """A copy that later fits leave as it is, without what the blocks do not need."""
    model = copy.copy(estimator)
    for name in KEPT_HERE:
        vars(model).pop(name, None)
    return model


def _block_weights(sample_weight: Any, rows: da.Array) -> da.Array | None:
    """Weights as a Dask array with the blocks of X."""
    if sample_weight is None:
        return None
    lengths, known = rows.chunks[0], not math.isnan(rows.shape[0])
    if not is_dask(sample_weight):
        if not known:
            raise ValueError(
                "sample_weight must be a Dask array with a block for each one of X, whose lengths "
                f"are not known, got {type(sample_weight).__name__}."
            )
        weights = check_weights(sample_weight, np.empty((rows.shape[0], 0)), "sample_weight")
        return _one_per_block(np.split(weights, np.cumsum(lengths)[:-1]))
    weights = _as_array(sample_weight, "sample_weight", 1)
    if known and weights.shape == rows.shape[:1]:
        weights = weights.rechunk((lengths,))
    if weights.numblocks[0] != len(lengths):
        raise ValueError(
            "sample_weight must have one weight a row of X, in as many blocks, got shape "
            f"{weights.shape} in {weights.numblocks[0]} blocks for X of shape {rows.shape} in "
            f"{len(lengths)}."
        )
    return weights


def _block_labels(plans: Sequence[np.ndarray], rows: da.Array) -> list[list[Runs] | None]:
    """For each block and plan the part of every sample; None without plans."""
    lengths = rows.chunks[0]
    if not plans:
        return [None] * len(lengths)
    ends = np.cumsum(lengths)[:-1].astype(int)
    blocks = zip(*(np.split(plan, ends) for plan in plans), strict=True)
    return [[_in_runs(labels) for labels in block] for block in blocks]


def _in_runs(labels: np.ndarray) -> Runs:
    """Labels as runs of equal ones where that is shorter, since they travel with the task."""
    labels = labels.astype(np.min_scalar_type(labels.max(initial=0)))
    starts = np.flatnonzero(np.diff(labels, prepend=labels[:1] ^ 1))
    if 8 * len(starts) > len(labels):
        return labels, 1
    return labels[starts], np.diff(starts, append=len(labels))


class _Labels(NamedTuple):  # Dask would look for keys in a plain tuple
    """Number of a block, and the parts of its samples in each plan."""

    block: int
    of_plans: list[Runs] | None


def _one_per_block(values: Sequence[Any]) -> da.Array:
    """A Dask array with a value of any type in the place of each block."""
    import dask.array as da

    name = f"one-per-block-{uuid4().hex}"
    graph = {(name, i): value for i, value in enumerate(values)}
    return da.Array(graph, name, ((1,) * len(values),), meta=np.empty(0, dtype=object))


def _tree_reduce(
    function: Callable[..., Any],
    merge: Callable[[list[Any]], Any],
    model: Any,
    rows: da.Array,
    weights: da.Array | None,
    labels: Sequence[Any],
) -> Any:
    """Compute function(block, weights or None, model, labels) where the blocks are, and merge.

    Results are merged along a tree, in the same order whatever the scheduler; only the last one
    comes here.
    """
    import dask.array as da
    from dask.delayed import delayed

    results = da.blockwise(
        partial(_at_block, function),
        "i",
        rows,
        "ij",
        _one_per_block([_Labels(i, of_plans) for i, of_plans in enumerate(labels)]),
        "i",
        weights,
        None if weights is None else "i",
        model=delayed(model),
        align_arrays=False,
        adjust_chunks={"i": 1},
        meta=np.empty(0, dtype=object),
    )
    return da.reduction(
        results,
        chunk=lambda result, axis, keepdims: result,
        combine=partial(_at_node, merge),
        aggregate=partial(_at_node, merge),
        concatenate=False,
        split_every=FAN_IN,
        dtype=object,
        meta=np.empty(0, dtype=object),
    ).compute()


def _at_block(
    function: Callable[..., Any], blocks: list[Any], labels: _Labels, weights: Any, *, model: Any
) -> Any:
    (block,) = blocks
    with _naming_block(f"Block {labels.block} of X"):
        return function(block, weights, model, labels.of_plans)


def _at_node(merge: Callable[[list[Any]], Any], results: Any, axis: Any, keepdims: bool) -> Any:
    # Of a single block Dask passes the result itself.
    return merge(results if isinstance(results, list) else [results])


def _merged(results: list[Parts]) -> Parts:
    merged: Parts = {}
    for parts in results:
        for key, moments in parts.items():
            merged[key] = merged[key] + moments if key in merged else moments
    return merged


def _block_moments(block: Any, weights: Any, model: Any, labels: list[Runs] | None) -> Parts:
    """Moments of the samples of positive weight in each part of a block."""
    if block.shape[0] == 0:
        return {}
    X = checked_samples(model, block, reset=False)
    X = canonical(X) if sparse.issparse(X) else X
    if weights is not None:
        weights = check_weights(weights, np.empty((X.shape[0], 0)), "sample_weight")
    parts: Parts = {}
    for plan, runs in enumerate(labels or [(np.zeros(X.shape[0], dtype=np.uint8), 1)]):
        sample_parts = np.repeat(*runs)
        if len(sample_parts) != X.shape[0]:
            raise ValueError(f"It must have the length that X tells, {len(sample_parts)} rows.")
        for part in np.unique(sample_parts):
            chosen = sample_parts == part
            if weights is not None:
                chosen &= weights > 0
            if chosen.any():
                every = chosen.all()
                some = X if every else X[chosen]
                some_weights = weights if every or weights is None else weights[chosen]
                moments = Moments.of(some, some_weights, check_finite=False)
                check_sums(moments, some, missing=MISSING)
                parts[plan, int(part)] = moments
    return parts


def _block_score(block: Any, weights: Any, model: Any, labels: None) -> np.ndarray:
    """The sum of weights and the sum of weighted scores of a block."""
    if block.shape[0] == 0:
        return np.zeros(2)
    if weights is None:
        return block.shape[0] * np.array([1.0, model.score(block)])
    weights = check_weights(weights, np.empty((block.shape[0], 0)), "sample_weight")
    if not weights.any():
        return np.zeros(2)
    return float(weights.sum()) * np.array([1.0, model.score(block, sample_weight=weights)])


def _map_blocks(estimator: Any, method: str, rows: da.Array) -> da.Array:
    """Result of a method for each block, lazily. Later fits of the estimator do not change it."""
    import dask.array as da
    from dask.delayed import delayed

    model = _for_workers(estimator)
    # An example of shape and dtype, which fails before anything is computed.
    example = getattr(model, method)(np.zeros((1, rows.shape[1]), dtype=rows.dtype))
    if not isinstance(example, np.ndarray):
        raise TypeError(
            f"{method} of a Dask array gives a Dask array, but set_output asks for "
            f"{type(example).__module__.partition('.')[0]}: call set_output(transform='default')."
        )
    return da.map_blocks(
        _call_method,
        rows,
        model=delayed(model),
        method=method,
        empty=example[:0],
        chunks=(rows.chunks[0], *((size,) for size in example.shape[1:])),
        drop_axis=[] if example.ndim == 2 else [1],
        dtype=example.dtype,
        meta=example[:0],
    )


def _call_method(
    block: Any, *, model: Any, method: str, empty: np.ndarray, block_id: tuple[int, ...]
) -> Any:
    with _naming_block(f"Block {block_id[0]}"):
        return empty if block.shape[0] == 0 else getattr(model, method)(block)


@contextmanager
def _naming_block(name: str) -> Iterator[None]:
    """Name the block in the text of errors."""
    try:
        yield
    except (TypeError, ValueError) as error:
        # Some subclasses take more than a text.
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name}: {error}") from error
