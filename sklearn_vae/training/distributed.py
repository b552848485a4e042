"""Sums over the processes that fit a model together, or over the only one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import accumulate
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed, nn

from sklearn_vae.serialization.identity import digest
from sklearn_vae.validation import check_real

Array = NDArray[Any]

# Hexadecimal digits of a digest that a float64 holds.
DIGITS = 12

# Seeds of processes lie this far apart, modulo 2^32, beyond which torch's generators on a CPU do
# not look: the golden ratio's multiples stay away from each other, and from seeds of epochs.
BETWEEN_SEEDS = 2654435769


class Reducer:
    """Sums over the processes that train together; here over one, which has them already.

    Whatever trains is given one. Every method is called in all processes, in the same order.
    """

    rank = 0
    size = 1

    def end(self) -> None:
        """Leave the group: there is none."""

    def meet(self, n: int = 0) -> None:
        """Check that all processes are at the same sum: there is one."""

    def sum(self, values: Any) -> Any:
        """Values as they are."""
        return values

    def table(self, *values: float) -> Array:
        """Values as a table of one row."""
        return np.array([values], dtype=np.float64)

    def n_batches(self, n: int, batch_size: int) -> int | None:
        """None: as many as `n` rows make."""

    def share(self, module: nn.Module) -> None:
        """Nothing to share."""

    def averaging(self, parameters: Iterable[nn.Parameter]) -> Callable[[int], None]:
        """A function that leaves gradients as they are."""
        return _leave

    def own_seed(self, seed: int) -> int:
        """A seed for this process; that of the first is the seed itself."""
        return (seed + self.rank * BETWEEN_SEEDS) % 2**32 if self.rank else seed

    def digests(self, *values: Any) -> Array:
        """Numbers that tell values apart, of every process, one row each."""
        return self.table(*(int(digest(value)[:DIGITS], 16) for value in values))

    def check_same(self, values: dict[str, Any]) -> None:
        """Raise ValueError, in every process, unless named values are the same in all."""
        if self.size == 1:
            return
        digests = self.digests(*values.values())
        differ = (digests != digests[0]).any(axis=0)
        named = [
            f"{name}={values[name]!r:.60}" for name, d in zip(values, differ, strict=True) if d
        ]
        if named:
            raise ValueError(
                "Processes that fit one model need the same parameters and kind of rows: process "
                f"{self.rank} has {', '.join(named)}, another one not."
            )

    @contextmanager
    def ending_on_error(self) -> Iterator[None]:
        """Context in which an error of one process is one in the others, even where it is caught.

        Except for a training that diverges, as it does in all of them.
        """
        try:
            yield
        except FloatingPointError:
            raise
        except BaseException:
            self.end()
            raise

    @contextmanager
    def interrupts_as_errors(self) -> Iterator[None]:
        """Context in which an interrupt is an error, where other processes train too."""
        try:
            yield
        except KeyboardInterrupt as interrupt:
            if self.size == 1:
                raise
            raise RuntimeError(
                "This process was interrupted, which those that fit together with it cannot know: "
                "nothing of the fit is kept."
            ) from interrupt


class GroupReducer(Reducer):
    """Sums over several processes.

    Parameters
    ----------
    state : PartialState
        Of accelerate.
    timeout : float
        In seconds.
    """

    def __init__(self, state: Any, timeout: float) -> None:
        self.rank, self.size = int(state.process_index), int(state.num_processes)
        self.timeout = timeout
        self.device: torch.device = state.device
        # A group of its own: it can end, with an error for the others, while theirs goes on.
        with _finding_each_other(timeout):
            self.group: Any = distributed.new_group(timeout=timedelta(seconds=timeout))

    def end(self) -> None:
        """Hang up, if not yet: what the others are at, or begin, is an error."""
        group, self.group = self.group, None
        if group is not None:
            distributed.destroy_process_group(group)

    def meet(self, n: int = 0) -> None:
        """Raise RuntimeError, in every process, unless all are at a sum of n numbers.

        Of 0 at an epoch. Messages of different sizes are mixed up, or make gloo abort.
        """
        extremes = torch.tensor([n, -n], device=self.device)
        self._attempt(distributed.all_reduce, extremes, distributed.ReduceOp.MAX)
        most, least = extremes[0].item(), -extremes[1].item()
        if most != least:
            own, other = (
                f"a sum of {m} numbers" if m else "another epoch"
                for m in (n, least if n == most else most)
            )
            raise RuntimeError(
                "Processes must call fit and sum in the same order, with callbacks that stop all "
                f"of them and values of the same shape: process {self.rank} of {self.size} is at "
                f"{own}, others are at {other}."
            )

    def sum(self, values: Any) -> Any:
        """Sum over the processes of a number, list of numbers or array, as what it is given."""
        total = torch.tensor(np.asarray(values, dtype=np.float64), device=self.device)
        self.meet(total.numel())
        self._attempt(distributed.all_reduce, total)
        return total.cpu().numpy() if isinstance(values, np.ndarray) else total.tolist()

    def table(self, *values: float) -> Array:
        """Values of every process, one row each."""
        table = np.zeros((self.size, len(values)))
        table[self.rank] = values
        total: Array = self.sum(table)
        return total

    def n_batches(self, n: int, batch_size: int) -> int | None:
        """Number of batches of an epoch, the same for all: that of the process with most rows."""
        counts, batches = self.table(n, -(-n // batch_size)).astype(int).T.tolist()
        most = max(batches)
        if min(counts) < most:
            raise ValueError(
                f"X must have a row for each of the {most} batches that the process with most rows "
                f"has in an epoch, in every process, got {counts} rows to train on."
            )
        return int(most)

    @torch.no_grad()
    def share(self, module: nn.Module) -> None:
        """Give a module the numbers that it has in the first process."""
        tensors = list(module.state_dict().values())
        if tensors[0].device.type != self.device.type:
            raise ValueError(
                f"device must be of the kind {self.device.type!r} that the processes were "
                f"started for, got {tensors[0].device.type!r}."
            )
        for dtype in {tensor.dtype: None for tensor in tensors}:
            parts = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([part.reshape(-1) for part in parts])
            self._attempt(distributed.broadcast, flat, 0)
            for part, shared in zip(parts, flat.split([p.numel() for p in parts]), strict=True):
                part.copy_(shared.view_as(part))

    def averaging(self, parameters: Iterable[nn.Parameter]) -> Callable[[int], None]:
        """A function of n that makes each gradient the average over the rows of all processes.

        Before it each is the average over n rows, those of this one. All go in one message.
        """
        learned = [parameter for parameter in parameters if parameter.requires_grad]
        sizes = [parameter.numel() for parameter in learned]
        # With the number of rows at the end. Each part lies as its parameter does, which Adam's
        # kernel needs.
        flat = torch.empty(sum(sizes) + 1, dtype=learned[0].dtype, device=learned[0].device)
        parts = [
            flat.as_strided(p.shape, p.stride(), start)
            for p, start in zip(learned, accumulate(sizes, initial=0), strict=False)
        ]

        @torch.no_grad()
        def average(n: int) -> None:
            for parameter, part in zip(learned, parts, strict=True):
                if parameter.grad is None:
                    part.zero_()
                else:
                    torch.mul(parameter.grad, n, out=part)
                parameter.grad = part
            flat[-1] = n
            self._attempt(distributed.all_reduce, flat)
            flat.div_(flat[-1].clone())

        return average

    def _attempt(self, collective: Callable[..., Any], *arguments: Any) -> None:
        if self.group is None:
            raise RuntimeError(
                "Processes do something together only within their context, and there until fit "
                "raises an error in one of them: begin another one."
            )
        try:
            collective(*arguments, group=self.group)
        except RuntimeError as error:
            raise RuntimeError(
                f"Process {self.rank} of {self.size} has lost another one: it was killed, has "
                f"raised an error of its own, or was silent for timeout={self.timeout} seconds. "
                f"What they do together ends here. ({error})"
            ) from error


@contextmanager
def _finding_each_other(timeout: float) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            "Processes that a launcher has started must all enter the context, and have not found "
            f"each other within timeout={timeout} seconds. ({error})"
        ) from error


def _leave(n: int) -> None:
    """Nothing; a net that holds it can be pickled."""


SINGLE_PROCESS = Reducer()


class Processes:
    """Processes that fit one deep model, each on rows of its own.

    Within the context, `fit(X, processes=processes)` of :class:`DeepGaussianVAE`,
    :class:`DeepBernoulliVAE` and :class:`DeepAutoencoder` is called in every process, with the same
    parameters and other rows, which lie on its device; all end with the same model, that of the
    rows of all. Without `processes` a fit is that of its own process.

    A step takes up to `batch_size` rows of each process and moves the parameters along the gradient
    averaged over all these rows, as one process does with a batch of them all. Units, pPCA, the
    noise variance, early stopping, `history_` and what is told of the fitted model are those of all
    rows too. Weights and seed are those of the first process; order of rows, rows held out, draws
    and the files of `checkpoint` are each one's own, and what `free_bits` and a network's own
    layers average over a batch is of its own rows. `score` and all other methods are of the rows
    that they are given.

    A launcher starts the processes, one a GPU where there are any, else on CPUs over gloo::

        accelerate launch --multi_gpu --num_processes 4 train.py
        torchrun --nproc_per_node 4 train.py

    A step sends 2 (N - 1) / N times the size of the parameters from each of N processes, and waits
    for the slowest. Where the noise variance is learned, or `init` is "ppca", each process holds
    (d, d) moments of the rows as the training begins. On CUDA steps are not captured into graphs.

    Parameters
    ----------
    timeout : float, default=600.0
        Seconds after which a process that is silent counts as lost.

    Attributes
    ----------
    rank : int
        Rank of this process, from 0.
    size : int
        Number of processes; 1 without a launcher.
    reducer : Reducer
        Sums over them, for whatever trains.

    Raises
    ------
    ImportError
        Without the package accelerate, of the extra "distributed".
    RuntimeError
        On entry if the launcher's processes do not find each other; from `fit`, and on the way
        out, if one of them was killed, has raised an error, does something else or was silent for
        too long. What they do together has then ended, and another context can begin.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_vae import DeepGaussianVAE, Processes
    >>> X = load_digits().data
    >>> with Processes() as processes:
    ...     rows = X[processes.rank :: processes.size]
    ...     vae = DeepGaussianVAE(2, hidden_layer_sizes=(16,), max_epochs=2)
    ...     vae = vae.fit(rows, processes=processes)
    >>> processes.size
    1
    """

    def __init__(self, timeout: float = 600.0) -> None:
        self.timeout = timeout
        self.reducer = SINGLE_PROCESS

    @property
    def rank(self) -> int:
        """Rank of this process, from 0."""
        return self.reducer.rank

    @property
    def size(self) -> int:
        """Number of processes."""
        return self.reducer.size

    def __enter__(self) -> Self:
        check_real("timeout", self.timeout, above=0)
        state = _accelerate_state(self.timeout)
        if state.num_processes > 1:
            self.reducer = GroupReducer(state, self.timeout)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error_and_trace: object) -> None:
        try:
            if kind is None:  # none leaves while another may still fail
                self.sum(0.0)
        finally:
            self.reducer.end()

    def sum(self, values: Any) -> Any:
        """Sum over the processes of what each one has; to be called in all of them, as `fit` is.

        Parameters
        ----------
        values : float, list of floats or array
            Of the same shape in every process.

        Returns
        -------
        float, list of floats or array
            As `values` are, in float64.
        """
        return self.reducer.sum(values)


def _accelerate_state(timeout: float) -> Any:
    """State of accelerate, once the processes are connected."""
    try:
        from accelerate import PartialState
        from accelerate.utils import parse_flag_from_env
    except ImportError as error:
        raise ImportError(
            "Processes needs accelerate, which is not installed: pip install "
            "'sklearn-vae[distributed]'."
        ) from error
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    with _finding_each_other(timeout):
        state = PartialState(cpu=on_cpu, timeout=timedelta(seconds=timeout))
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != state.num_processes:
        raise RuntimeError(
            f"The launcher has started {started} processes, but accelerate has set up "
            f"{state.num_processes} in this one: an Accelerator or PartialState was made before, "
            "on CPUs to be made with cpu=True."
        )
    return state
