"""What is made of the blocks of a Dask array, merged along a tree where the blocks are.

Dask itself is imported where one of its arrays is at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import numpy as np

if TYPE_CHECKING:
    import dask.array as da

# Results that a task of the tree adds up, all of which a worker holds at once.
FAN_IN = 4


class Ticket(NamedTuple):
    """The number of a block, and what its task has to be told beside."""

    number: int
    of_it: Any


def one_a_block(values: Sequence[Any]) -> da.Array:
    """A Dask array whose blocks are some values, whatever these are; each travels with its task."""
    import dask.array as da

    name = f"of-block-{uuid4().hex}"
    graph = {(name, i): value for i, value in enumerate(values)}
    return da.Array(graph, name, ((1,) * len(values),), meta=np.empty(0, dtype=object))


def reduced(
    of_block: Callable[..., Any],
    merge: Callable[[list[Any]], Any],
    model: Any,
    rows: da.Array,
    weights: da.Array | None,
    tickets: Sequence[Any],
) -> Any:
    """What a function makes of each block, merged along a tree where the blocks are.

    The function takes the number of a block, its rows, its weights or None, the model, and the
    block's ticket. Only the last result comes here. Whatever the scheduler, and the order in which
    it finishes, the same results are merged in the same order.
    """
    import dask.array as da
    from dask.delayed import delayed

    results = da.blockwise(
        partial(_at_block, of_block),
        "i",
        rows,
        "ij",
        one_a_block([Ticket(i, of_it) for i, of_it in enumerate(tickets)]),
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
        chunk=_as_it_is,
        combine=partial(_at_node, merge),
        aggregate=partial(_at_node, merge),
        concatenate=False,
        split_every=FAN_IN,
        dtype=object,
        meta=np.empty(0, dtype=object),
    ).compute()


def _at_block(
    of_block: Callable[..., Any], blocks: list[Any], ticket: Ticket, weights: Any, *, model: Any
) -> Any:
    (block,) = blocks
    return of_block(ticket.number, block, weights, model, ticket.of_it)


def _as_it_is(result: Any, axis: Any, keepdims: bool) -> Any:
    return result


def _at_node(merge: Callable[[list[Any]], Any], results: Any, axis: Any, keepdims: bool) -> Any:
    # Where there is one block alone, Dask has no list of it.
    return merge(results if isinstance(results, list) else [results])
