"""Fits and transforms of Dask collections, block by block, on whatever scheduler is active.

A fit reads every block once. What leaves a block is the moments of its rows, d^2 + d + 1 numbers,
which are added up along a tree; transforms are lazy, and stay where the blocks are. Dask itself is
imported where one of its collections is at hand.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy import sparse

from sklearn_vae.gaussian.arrays import check_weights
from sklearn_vae.gaussian.centred import canonical
from sklearn_vae.linear.checks import (
    SQUARES_HELD,
    moments_of,
)
from sklearn_vae.linear.seen import SeenRows
from sklearn_vae.linear.tree import one_a_block, reduced
from sklearn_vae.validation import check_memory, check_rows, has_nan, is_dask

if TYPE_CHECKING:
    import dask.array as da

# By the number of a plan, and that of a part of the rows in it.
Parts: TypeAlias = dict[tuple[int, int], SeenRows]

# Values and how often each is repeated.
Runs: TypeAlias = tuple[np.ndarray, np.ndarray | int]

# What fitted estimators have, and single blocks no use for.
NOT_OF_BLOCKS = ("cv", "cv_results_", "feature_names_in_", "moments_", "_moments_origin", "_stream")


def as_dask_array(estimator: Any, X: Any, *, reset: bool, known_lengths: bool = False) -> da.Array:
    """X as a Dask array of whole rows, checked as scikit-learn's validate_data does with `reset`.

    Nothing is computed, but the lengths of a DataFrame's partitions with `known_lengths`. It is
    left to whoever reads the blocks to look at their numbers.

    Raises
    ------
    TypeError
        If X is neither a Dask array nor a DataFrame.
    ValueError
        If X is not two-dimensional, is cut along features, or does not fit the estimator.
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
    check_rows(estimator, stand_in, reset=reset)
    return rows


def seen_in_blocks(
    estimator: Any,
    rows: da.Array,
    sample_weight: Any = None,
    *,
    at_least: int = 2,
) -> SeenRows:
    """What `estimator`, which has checked them, needs of the rows of all blocks.

    Parameters
    ----------
    estimator : BaseEstimator
    rows : Dask array of shape (n, d)
        As `as_dask_array` returns it; blocks may be sparse, and have unknown lengths.
    sample_weight : Dask array or array-like of shape (n,), default=None
    at_least : int, default=2
        So many rows there have to be, of positive weight.

    Raises
    ------
    ValueError
        If there are fewer, a block has NaN or infinity, or the weights do not fit.
    MemoryError
        If the (d, d) matrices of an eigendecomposition do not fit into memory here.
    """
    check_squares_fit(estimator, rows.shape[1])
    found = seen_in_parts(estimator, rows, sample_weight, ())
    seen = found.get((0, 0))
    n_rows = 0 if seen is None else int(seen.n_rows)
    if seen is None or n_rows < at_least:
        what = "X must have" if sample_weight is None else "sample_weight must be positive for"
        raise ValueError(f"{what} at least {at_least} row{'s' * (at_least > 1)}, got {n_rows}.")
    return seen


def seen_in_parts(
    estimator: Any, rows: da.Array, sample_weight: Any, plans: Sequence[np.ndarray]
) -> Parts:
    """The same of each part of the rows, for plans that give the part of every row.

    A part without rows of positive weight is not among them.
    """
    model, labels = _for_blocks(estimator), _labels_of(plans, rows)
    return reduced(_seen_in, _merged, model, rows, _weights_of(sample_weight, rows), labels)


def mapped(estimator: Any, method: str, rows: da.Array) -> da.Array:
    """What a method of a fitted estimator gives of the rows of each block, lazily.

    Later fits of the estimator do not change it.

    Raises
    ------
    TypeError
        If the method gives something else than arrays, as `transform` after `set_output`.
    ValueError
        Where the method would of any row.
    """
    import dask.array as da
    from dask.delayed import delayed

    model = _for_blocks(estimator)
    # Tells shape and dtype, and shows whatever is wrong before anything is computed.
    example = getattr(model, method)(np.zeros((1, rows.shape[1]), dtype=rows.dtype))
    if not isinstance(example, np.ndarray):
        raise TypeError(
            f"{method} of a Dask array gives a Dask array, but set_output asks for "
            f"{type(example).__module__.partition('.')[0]}: call set_output(transform='default')."
        )
    return da.map_blocks(
        _of_block,
        rows,
        model=delayed(model),
        method=method,
        of_none=example[:0],
        chunks=(rows.chunks[0], *((size,) for size in example.shape[1:])),
        drop_axis=[] if example.ndim == 2 else [1],
        dtype=example.dtype,
        meta=example[:0],
    )


def mapped_rows(estimator: Any, method: str, X: Any) -> da.Array:
    """`mapped` of a Dask array or DataFrame that fits the features of the fit."""
    return mapped(estimator, method, as_dask_array(estimator, X, reset=False))


def mapped_latents(estimator: Any, method: str, Z: Any) -> da.Array:
    """`mapped` of latents."""
    Z = _as_array(Z, "Z", 2)
    if Z.numblocks[1] != 1:
        raise ValueError(
            "Z must not be cut along its columns, one a latent dimension, got "
            f"{Z.numblocks[1]} blocks of them. Z.rechunk({{1: -1}}) joins them."
        )
    return mapped(estimator, method, Z)


def mean_score(estimator: Any, X: Any, sample_weight: Any = None) -> float:
    """The average of an estimator's `score` over the rows of all blocks: one number, computed.

    Raises
    ------
    ValueError
        Where `score` of any row would; or if a block, or the weights, do not fit.
    """
    rows = as_dask_array(estimator, X, reset=False)
    model = _for_blocks(estimator)
    model.score(np.zeros((1, rows.shape[1]), dtype=rows.dtype))  # whatever is wrong shows at once
    weights = _weights_of(sample_weight, rows)
    n, total = reduced(_score_of, _added, model, rows, weights, [None] * rows.numblocks[0])
    if not 0.0 < n < math.inf:
        what = "the number of rows" if sample_weight is None else "the sum of sample_weight"
        raise ValueError(f"score is an average: {what} must be finite and above 0, got {n}.")
    return float(total / n)


def check_squares_fit(estimator: Any, d: int, n_more: int = 0) -> None:
    """Raise MemoryError where the (d, d) matrices of a fit do not fit into memory here."""
    n_squares = SQUARES_HELD + n_more
    check_memory(
        8.0 * n_squares * d**2,
        f"{type(estimator).__name__} of a Dask array holds {n_squares} matrices of shape "
        f"({d}, {d}) beside the scheduler",
        "Choose fewer features; or fit a part of the rows that fits into memory with "
        "PPCA(svd_solver='randomized'), which holds no such matrix.",
    )


def _as_array(X: Any, name: str, ndim: int, *, lengths: bool = False) -> da.Array:
    import dask.array as da

    if hasattr(X, "to_dask_array"):
        X = X.to_dask_array(lengths=True) if lengths else X.to_dask_array()
    if not isinstance(X, da.Array):
        raise TypeError(f"{name} must be a Dask array or DataFrame, got {type(X).__name__}.")
    if X.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension{'s' * (ndim > 1)}, got {X.ndim}.")
    return X


def _for_blocks(estimator: Any) -> Any:
    """A copy that later fits leave as it is, without what single blocks have no use for."""
    model = copy.copy(estimator)
    for name in NOT_OF_BLOCKS:
        vars(model).pop(name, None)
    return model


def _weights_of(sample_weight: Any, rows: da.Array) -> da.Array | None:
    """An array of as many blocks."""
    lengths = rows.chunks[0]
    if sample_weight is None:
        return None
    known = not math.isnan(rows.shape[0])
    if not is_dask(sample_weight):
        if not known:
            raise ValueError(
                "sample_weight must be a Dask array with a block for each one of X, whose lengths "
                f"are not known, got {type(sample_weight).__name__}."
            )
        weights = check_weights(sample_weight, np.empty((rows.shape[0], 0)), "sample_weight")
        return one_a_block(np.split(weights, np.cumsum(lengths)[:-1]))
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


def _labels_of(plans: Sequence[np.ndarray], rows: da.Array) -> list[list[Runs] | None]:
    """The part of each row of each block, for every plan; None stands for one part."""
    lengths = rows.chunks[0]
    if not plans:
        return [None] * len(lengths)
    ends = np.cumsum(lengths)[:-1].astype(int)
    return [
        [_in_runs(labels) for labels in of_block]
        for of_block in zip(*(np.split(plan, ends) for plan in plans), strict=True)
    ]


def _in_runs(labels: np.ndarray) -> Runs:
    """As few bytes as there are runs of equal labels; they travel with the task."""
    labels = labels.astype(np.min_scalar_type(labels.max(initial=0)))
    starts = np.flatnonzero(np.diff(labels, prepend=labels[:1] ^ 1))
    if 8 * len(starts) > len(labels):
        return labels, 1
    return labels[starts], np.diff(starts, append=len(labels))


def _merged(found: list[Parts]) -> Parts:
    merged: Parts = {}
    for parts in found:
        for key, seen in parts.items():
            merged[key] = merged[key] + seen if key in merged else seen
    return merged


def _added(found: list[np.ndarray]) -> np.ndarray:
    return np.sum(found, axis=0)


def _seen_in(i: int, block: Any, weights: Any, model: Any, labels: list[Runs] | None) -> Parts:
    """Of the rows of one block with positive weight, in the parts that labels say."""
    if block.shape[0] == 0:
        return {}
    try:
        X = check_rows(model, block, reset=False)
        X = canonical(X) if sparse.issparse(X) else X
        if weights is not None:
            weights = check_weights(weights, np.empty((X.shape[0], 0)), "sample_weight")
        found: Parts = {}
        for plan, runs in enumerate(labels or [(np.zeros(X.shape[0], dtype=np.uint8), 1)]):
            of_rows = np.repeat(*runs)
            if len(of_rows) != X.shape[0]:
                raise ValueError(f"It must have the length that X tells, {len(of_rows)} rows.")
            for part in np.unique(of_rows):
                seen = _seen(X, weights, of_rows == part)
                if seen is not None:
                    found[plan, int(part)] = seen
        return found
    except (TypeError, ValueError) as error:
        raise _of_its_kind(error)(f"Block {i} of X: {_text_of(error, block)}") from error


def _seen(X: Any, weights: Any, chosen: np.ndarray) -> SeenRows | None:
    if weights is not None:
        chosen = chosen & (weights > 0)
    n_rows = int(np.count_nonzero(chosen))
    if n_rows == 0:
        return None
    if n_rows < X.shape[0]:
        X, weights = X[chosen], None if weights is None else weights[chosen]
    return SeenRows.of(X, moments_of(X, weights), n_rows)


def _text_of(error: Exception, block: Any) -> str:
    """What was wrong with a block; of missing values, what can be done."""
    try:
        missing = has_nan(block)
    except (AttributeError, TypeError, ValueError):  # neither NaN nor numbers
        missing = False
    if not missing:
        return str(error)
    return (
        "It contains NaN, but fits of Dask arrays take no missing values. Leave such rows out, or "
        "fill them: PPCA fits rows with missing values in memory, and its impute takes Dask arrays."
    )


def _of_its_kind(error: Exception) -> type[Exception]:
    # Of subclasses some take more than a text.
    return TypeError if isinstance(error, TypeError) else ValueError


def _score_of(i: int, block: Any, weights: Any, model: Any, _: None) -> np.ndarray:
    """The sum of weights and the sum of weighted scores of a block."""
    if block.shape[0] == 0:
        return np.zeros(2)
    try:
        if weights is None:
            return block.shape[0] * np.array([1.0, model.score(block)])
        weights = check_weights(weights, np.empty((block.shape[0], 0)), "sample_weight")
        if not weights.any():
            return np.zeros(2)
        n = float(weights.sum())
        return n * np.array([1.0, model.score(block, sample_weight=weights)])
    except (TypeError, ValueError) as error:
        raise _of_its_kind(error)(f"Block {i} of X: {error}") from error


def _of_block(
    block: Any, *, model: Any, method: str, of_none: np.ndarray, block_id: tuple[int, ...]
) -> Any:
    if block.shape[0] == 0:
        return of_none
    try:
        return getattr(model, method)(block)
    except (TypeError, ValueError) as error:
        raise _of_its_kind(error)(f"Block {block_id[0]}: {error}") from error
