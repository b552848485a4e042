"""Fits and transforms of Dask collections, block by block, on the active scheduler.

A fit reads each block once and sends only its moments, which are summed along a tree on the
workers. Transforms are lazy. Dask is imported only if X is one of its collections.
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
from sklearn.utils import get_tags

from sklearn_vae.gaussian.arrays import check_weights
from sklearn_vae.gaussian.centered import canonical
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.linear.checks import check_squares_fit, check_sums
from sklearn_vae.validation import checked_samples, is_dask

if TYPE_CHECKING:
    import dask.array as da

# Moments by the index of a plan and the index of a part of the samples in that plan.
Parts: TypeAlias = dict[tuple[int, int], Moments]

# Values and their numbers of repetitions.
Runs: TypeAlias = tuple[np.ndarray, np.ndarray | int]

# Number of results that one task of the tree merges, all of which a worker holds at once.
FAN_IN = 4

# Attributes of fitted estimators that are not sent to the workers.
KEPT_HERE = ("cv", "cv_results_", "feature_names_in_", "moments_", "_stream")

MISSING = (
    "It contains NaN, but fits of Dask arrays do not accept missing values. Drop or fill such "
    "samples: PPCA accepts missing values in memory, and its impute accepts Dask arrays."
)


def as_dask_array(estimator: Any, X: Any, *, reset: bool, known_lengths: bool = False) -> da.Array:
    """Return X as a Dask array of whole samples, validated as by scikit-learn's validate_data.

    Nothing is computed, except the lengths of a DataFrame's partitions with `known_lengths`. The
    values are checked when the blocks are read.
    """
    array = _as_array(X, "X", 2, lengths=known_lengths)
    if array.numblocks[1] != 1:
        raise ValueError(
            "X must not be split along its features, because each block must hold whole samples, "
            f"got {array.numblocks[1]} blocks of columns. X.rechunk({{1: -1}}) joins them, which "
            "moves data between workers."
        )
    if math.isnan(array.shape[1]):
        raise ValueError("X must have a known number of features, got nan.")
    if known_lengths and math.isnan(array.shape[0]):
        raise ValueError(
            f"X must have blocks of known length for {type(estimator).__name__}, which splits the "
            "samples by index, got nan. X.compute_chunk_sizes() computes the lengths."
        )
    stand_in: Any = np.zeros((2, int(array.shape[1])), dtype=array.dtype)
    if hasattr(X, "columns"):
        stand_in = type(X._meta)(stand_in, columns=X.columns)
    checked_samples(estimator, stand_in, reset=reset)
    return array


def dask_moments(
    estimator: Any, X: da.Array, sample_weight: Any = None, *, at_least: int = 2
) -> Moments:
    """Compute the moments of all samples of the result of `as_dask_array`."""
    check_memory_here(estimator, X.shape[1])
    moments = dask_moments_of_parts(estimator, X, sample_weight, ()).get((0, 0))
    count = 0 if moments is None else int(moments.count)
    if moments is None or count < at_least:
        what = "X must have" if sample_weight is None else "sample_weight must be positive for"
        raise ValueError(f"{what} at least {at_least} sample{'s' * (at_least > 1)}, got {count}.")
    return moments


def dask_moments_of_parts(
    estimator: Any, X: da.Array, sample_weight: Any, plans: Sequence[np.ndarray]
) -> Parts:
    """Compute the moments of each part of the samples that has positive weight.

    A plan holds the index of the part of each sample.
    """
    labels, weights = _block_labels(plans, X), _block_weights(sample_weight, X)
    return _tree_reduce(_block_moments, _sum_parts, _for_workers(estimator), X, weights, labels)


def check_memory_here(estimator: Any, d: int, *, n_more: int = 0) -> None:
    """Raise MemoryError if the matrices of a fit do not fit into memory on this machine."""
    check_squares_fit(
        f"On this machine, {type(estimator).__name__} of a Dask array",
        d,
        n_more=n_more,
        instead="Use fewer features, or fit PPCA(svd_solver='randomized'), which needs no such "
        "matrix, to a subset of the samples in memory.",
    )


def map_samples(estimator: Any, method: str, X: Any) -> da.Array:
    """Apply a method of a fitted estimator to a Dask array or DataFrame, lazily."""
    return _map_blocks(estimator, method, as_dask_array(estimator, X, reset=False))


def map_latents(estimator: Any, method: str, Z: Any) -> da.Array:
    """Apply a method of a fitted estimator to a Dask array of latent coordinates, lazily."""
    Z = _as_array(Z, "Z", 2)
    if Z.numblocks[1] != 1:
        raise ValueError(
            "Z must not be split along its columns, the latent dimensions, got "
            f"{Z.numblocks[1]} blocks of columns. Z.rechunk({{1: -1}}) joins them."
        )
    return _map_blocks(estimator, method, Z)


def mean_score(estimator: Any, X: Any, sample_weight: Any = None) -> float:
    """Compute the average score of the samples of all blocks."""
    X, model = as_dask_array(estimator, X, reset=False), _for_workers(estimator)
    model.score(np.zeros((1, X.shape[1]), dtype=X.dtype))  # raises errors early
    weights = _block_weights(sample_weight, X)
    n, total = _tree_reduce(_block_score, sum, model, X, weights, [None] * X.numblocks[0])
    if not 0.0 < n < math.inf:
        what = "number of samples of X" if sample_weight is None else "sum of sample_weight"
        raise ValueError(f"The {what} must be finite and above 0, got {n}.")
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
    """Copy an estimator without the attributes that the workers do not need."""
    model = copy.copy(estimator)
    for name in KEPT_HERE:
        vars(model).pop(name, None)
    return model


def _block_weights(sample_weight: Any, X: da.Array) -> da.Array | None:
    """Return the weights as a Dask array with the blocks of X."""
    if sample_weight is None:
        return None
    lengths, known = X.chunks[0], not math.isnan(X.shape[0])
    if not is_dask(sample_weight):
        if not known:
            raise ValueError(
                "sample_weight must be a Dask array with the blocks of X if their lengths are "
                f"unknown, got {type(sample_weight).__name__}."
            )
        weights = check_weights(sample_weight, np.empty((X.shape[0], 0)), "sample_weight")
        return _one_per_block(np.split(weights, np.cumsum(lengths)[:-1]))
    weights = _as_array(sample_weight, "sample_weight", 1)
    if known and weights.shape == X.shape[:1]:
        weights = weights.rechunk((lengths,))
    if weights.numblocks[0] != len(lengths):
        raise ValueError(
            "sample_weight must have one weight per sample, in the blocks of X, got shape "
            f"{weights.shape} in {weights.numblocks[0]} blocks for X of shape {X.shape} in "
            f"{len(lengths)} blocks."
        )
    return weights


def _block_labels(plans: Sequence[np.ndarray], X: da.Array) -> list[list[Runs] | None]:
    """Return the labels of the samples of each block in each plan, or None without plans."""
    lengths = X.chunks[0]
    if not plans:
        return [None] * len(lengths)
    ends = np.cumsum(lengths)[:-1].astype(int)
    blocks = zip(*(np.split(plan, ends) for plan in plans), strict=True)
    return [[_in_runs(labels) for labels in block] for block in blocks]


def _in_runs(labels: np.ndarray) -> Runs:
    """Encode labels as runs of equal ones if that is shorter, because each task carries them."""
    labels = labels.astype(np.min_scalar_type(labels.max(initial=0)))
    starts = np.flatnonzero(np.diff(labels, prepend=labels[:1] ^ 1))
    if 8 * len(starts) > len(labels):
        return labels, 1
    return labels[starts], np.diff(starts, append=len(labels))


class _Labels(NamedTuple):  # Dask would look for keys in a plain tuple
    """Index of a block and the labels of its samples in each plan."""

    block: int
    by_plan: list[Runs] | None


def _one_per_block(values: Sequence[Any]) -> da.Array:
    """Return a Dask array of blocks that each hold one object."""
    import dask.array as da

    name = f"one-per-block-{uuid4().hex}"
    graph = {(name, i): value for i, value in enumerate(values)}
    return da.Array(graph, name, ((1,) * len(values),), meta=np.empty(0, dtype=object))


def _tree_reduce(
    function: Callable[..., Any],
    merge: Callable[[list[Any]], Any],
    model: Any,
    X: da.Array,
    weights: da.Array | None,
    labels: Sequence[Any],
) -> Any:
    """Compute function(block, weights or None, model, labels) for each block and merge the results.

    The results are merged along a tree on the workers, in an order that does not depend on the
    scheduler. Only the last one is sent here.
    """
    import dask.array as da
    from dask.delayed import delayed

    results = da.blockwise(
        partial(_at_block, function),
        "i",
        X,
        "ij",
        _one_per_block([_Labels(i, by_plan) for i, by_plan in enumerate(labels)]),
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
        return function(block, weights, model, labels.by_plan)


def _at_node(merge: Callable[[list[Any]], Any], results: Any, axis: Any, keepdims: bool) -> Any:
    # For a single block, Dask passes the result instead of a list.
    return merge(results if isinstance(results, list) else [results])


def _sum_parts(results: list[Parts]) -> Parts:
    merged: Parts = {}
    for parts in results:
        for key, moments in parts.items():
            merged[key] = merged[key] + moments if key in merged else moments
    return merged


def _block_moments(block: Any, weights: Any, model: Any, labels: list[Runs] | None) -> Parts:
    """Compute the moments of the samples of positive weight in each part of a block."""
    if block.shape[0] == 0:
        return {}
    if sparse.issparse(block) and not get_tags(model).input_tags.sparse:
        raise TypeError(f"{type(model).__name__} needs dense data, got a sparse block.")
    X = checked_samples(model, block, reset=False)
    X = canonical(X) if sparse.issparse(X) else X
    if weights is not None:
        weights = check_weights(weights, np.empty((X.shape[0], 0)), "sample_weight")
    parts: Parts = {}
    for plan, runs in enumerate(labels or [(np.zeros(X.shape[0], dtype=np.uint8), 1)]):
        sample_parts = np.repeat(*runs)
        if len(sample_parts) != X.shape[0]:
            raise ValueError(
                f"It must have {len(sample_parts)} samples, the length that X declares, "
                f"got {X.shape[0]}."
            )
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
    """Return the sum of the weights and the weighted sum of the scores of a block."""
    if block.shape[0] == 0:
        return np.zeros(2)
    if weights is None:
        return block.shape[0] * np.array([1.0, model.score(block)])
    weights = check_weights(weights, np.empty((block.shape[0], 0)), "sample_weight")
    if not weights.any():
        return np.zeros(2)
    return float(weights.sum()) * np.array([1.0, model.score(block, sample_weight=weights)])


def _map_blocks(estimator: Any, method: str, X: da.Array) -> da.Array:
    """Apply a method to each block, lazily; later fits of the estimator do not matter."""
    import dask.array as da
    from dask.delayed import delayed

    model = _for_workers(estimator)
    # An example of shape and dtype, which raises errors before anything is computed.
    example = getattr(model, method)(np.zeros((1, X.shape[1]), dtype=X.dtype))
    if not isinstance(example, np.ndarray):
        raise TypeError(
            f"{method} of a Dask array returns a Dask array, but set_output asks for "
            f"{type(example).__module__.partition('.')[0]}. Call set_output(transform='default')."
        )
    return da.map_blocks(
        _call_method,
        X,
        model=delayed(model),
        method=method,
        empty=example[:0],
        chunks=(X.chunks[0], *((size,) for size in example.shape[1:])),
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
    """Add the name of the block to error messages."""
    try:
        yield
    except (TypeError, ValueError) as error:
        # The constructors of some subclasses need other arguments than a message.
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name}: {error}") from error
