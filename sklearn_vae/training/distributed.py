"""Sums over the processes that fit a model together."""

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
from sklearn_vae.training.batches import count_batches
from sklearn_vae.validation import check_real

Array = NDArray[Any]

# Number of hexadecimal digits of a digest that a float64 represents exactly.
DIGITS = 12

# Distance of the seeds of consecutive processes, modulo 2^32, the range of torch's CPU generators.
# Multiples of the golden ratio stay away from each other and from the seeds of epochs.
BETWEEN_SEEDS = 2654435769


class Reducer:
    """Sums over the processes that train together, here over a single one.

    Every method must be called in all processes, in the same order.
    """

    rank = 0
    size = 1

    def end(self) -> None:
        """Leave the group."""

    def synchronize(self, n: int = 0) -> None:
        """Check that all processes are at the same sum of n numbers, or epoch if n is 0."""

    def sum(self, values: Any) -> Any:
        """Sum a float, a list of floats or an array over the processes, keeping its type."""
        return values

    def table(self, *values: float) -> Array:
        """Return the values of every process as rows of a table."""
        return np.array([values], dtype=np.float64)

    def n_batches(self, n: int, batch_size: int) -> int:
        """Return the number of batches per epoch, which is the same in all processes."""
        return count_batches(n, batch_size)

    def share(self, module: nn.Module) -> None:
        """Copy the parameters of a module from the first process."""

    def averaging(self, parameters: Iterable[nn.Parameter]) -> Callable[[int], None]:
        """Return a function of n that averages gradients over the samples of all processes."""
        return _do_nothing

    def own_seed(self, seed: int) -> int:
        """Return a seed for this process, which is `seed` in the first one."""
        return (seed + self.rank * BETWEEN_SEEDS) % 2**32 if self.rank else seed

    def digests(self, *values: Any) -> Array:
        """Return digests of the values of every process as rows of a table."""
        return self.table(*(int(digest(value)[:DIGITS], 16) for value in values))

    def check_same(self, values: dict[str, Any]) -> None:
        """Raise ValueError in every process unless named values are the same in all."""
        if self.size == 1:
            return
        digests = self.digests(*values.values())
        differ = (digests != digests[0]).any(axis=0)
        named = [
            f"{name}={values[name]!r:.60}" for name, d in zip(values, differ, strict=True) if d
        ]
        if named:
            raise ValueError(
                "Processes that fit one model must have the same parameters and type of data, "
                f"but process {self.rank} has {', '.join(named)}, unlike another process."
            )

    @contextmanager
    def ending_on_error(self) -> Iterator[None]:
        """Leave the group on an error, which makes the other processes fail too.

        After a FloatingPointError the group stays, because training diverges in all processes.
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
        """Convert a KeyboardInterrupt to an error if several processes train together."""
        try:
            yield
        except KeyboardInterrupt as interrupt:
            if self.size == 1:
                raise
            raise RuntimeError(
                "This process was interrupted. The fit is discarded, because the other processes "
                "that take part in it cannot stop at the same epoch."
            ) from interrupt


class GroupReducer(Reducer):
    """Sums over several processes, connected by accelerate's `state`; `timeout` in seconds."""

    def __init__(self, state: Any, timeout: float) -> None:
        self.rank, self.size = int(state.process_index), int(state.num_processes)
        self.timeout = timeout
        self.device: torch.device = state.device
        # A separate group can end, with an error in the other processes, while accelerate's stays.
        with _connecting(timeout):
            self.group: Any = distributed.new_group(timeout=timedelta(seconds=timeout))

    def end(self) -> None:
        """Leave the group, which makes collective operations of the others fail."""
        group, self.group = self.group, None
        if group is not None:
            distributed.destroy_process_group(group)

    def synchronize(self, n: int = 0) -> None:
        # Messages of different sizes would be mixed up or make gloo abort.
        extremes = torch.tensor([n, -n], device=self.device)
        self._run(distributed.all_reduce, extremes, distributed.ReduceOp.MAX)
        most, least = extremes[0].item(), -extremes[1].item()
        if most != least:
            own, other = (
                f"a sum of {m} numbers" if m else "another epoch"
                for m in (n, least if n == most else most)
            )
            raise RuntimeError(
                "Processes must call fit and sum in the same order, with values of the same "
                f"shape, and callbacks must stop all processes at once, but process {self.rank} "
                f"of {self.size} is at {own} and others are at {other}."
            )

    def sum(self, values: Any) -> Any:
        total = torch.tensor(np.asarray(values, dtype=np.float64), device=self.device)
        self.synchronize(total.numel())
        self._run(distributed.all_reduce, total)
        return total.cpu().numpy() if isinstance(values, np.ndarray) else total.tolist()

    def table(self, *values: float) -> Array:
        table = np.zeros((self.size, len(values)))
        table[self.rank] = values
        total: Array = self.sum(table)
        return total

    def n_batches(self, n: int, batch_size: int) -> int:
        counts, batches = self.table(n, count_batches(n, batch_size)).astype(int).T.tolist()
        most = max(batches)
        if min(counts) < most:
            raise ValueError(
                f"X must have at least {most} training samples in every process, one for each "
                f"batch of the process with most samples, got {counts} samples."
            )
        return int(most)

    @torch.no_grad()
    def share(self, module: nn.Module) -> None:
        tensors = list(module.state_dict().values())
        if tensors[0].device.type != self.device.type:
            raise ValueError(
                f"device must be {self.device.type!r}, for which the processes were started, got "
                f"{tensors[0].device.type!r}."
            )
        for dtype in {tensor.dtype: None for tensor in tensors}:
            parts = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([part.reshape(-1) for part in parts])
            self._run(distributed.broadcast, flat, 0)
            for part, shared in zip(parts, flat.split([p.numel() for p in parts]), strict=True):
                part.copy_(shared.view_as(part))

    def averaging(self, parameters: Iterable[nn.Parameter]) -> Callable[[int], None]:
        learned = [parameter for parameter in parameters if parameter.requires_grad]
        sizes = [parameter.numel() for parameter in learned]
        # All gradients and the number of samples are one message. Each gradient has the strides of
        # its parameter, which Adam's kernel needs.
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
            self._run(distributed.all_reduce, flat)
            flat.div_(flat[-1].clone())

        return average

    def _run(self, collective: Callable[..., Any], *arguments: Any) -> None:
        """Run a collective operation in the group."""
        if self.group is None:
            raise RuntimeError(
                "The processes are no longer connected, because their context has ended or fit has "
                "raised an error. Enter a new Processes context."
            )
        try:
            collective(*arguments, group=self.group)
        except RuntimeError as error:
            raise RuntimeError(
                f"Process {self.rank} of {self.size} has lost another process, which was killed, "
                f"has raised an error or was silent for timeout={self.timeout} seconds. ({error})"
            ) from error


@contextmanager
def _connecting(timeout: float) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            f"The processes have not found each other within timeout={timeout} seconds. All "
            f"processes of the launcher must enter the Processes context. ({error})"
        ) from error


def _do_nothing(n: int) -> None:
    """Do nothing; unlike a lambda it can be pickled."""


SINGLE_PROCESS = Reducer()


class Processes:
    """Context in which several processes fit one deep model, each on its own samples.

    Within the context, every process calls `fit(X, processes=processes)` of a
    :class:`DeepGaussianVAE`, :class:`DeepBernoulliVAE` or :class:`DeepAutoencoder`, with the same
    parameters and its own part of the data. All processes end with the same model.

    A step uses up to `batch_size` samples of each process and follows the gradient averaged over
    all of them. Scaling, the pPCA start, the noise variance, early stopping, `history_` and the
    fitted attributes are also based on the samples of all processes. The initial weights and the
    seed are those of the first process. Each process has its own order of samples, held-out
    samples, draws and checkpoint files. `free_bits` and layers such as batch normalization use
    averages over the process's own batch. Methods other than `fit` are not distributed.

    A launcher starts the processes, one per GPU or, without GPUs, on CPUs with gloo::

        accelerate launch --multi_gpu --num_processes 4 train.py
        torchrun --nproc_per_node 4 train.py

    In a step each of N processes sends 2 (N - 1) / N times the size of the parameters. If the noise
    variance is learned or `init` is "ppca", each process needs memory for a matrix of d x d moments
    before the training. On CUDA steps are not captured in graphs.

    Parameters
    ----------
    timeout : float, default=600.0
        Time in seconds after which a silent process counts as lost.

    Attributes
    ----------
    rank : int
        Rank of this process, from 0.
    size : int
        Number of processes; 1 without a launcher.
    reducer : Reducer
        Sums over the processes, for internal use.

    Raises
    ------
    ImportError
        If the package accelerate is missing. The extra "distributed" installs it.
    RuntimeError
        On entry, if the processes do not find each other. In `fit` and on exit, if a process was
        killed, has raised an error, is at another step or was silent for too long.

    See Also
    --------
    DeepGaussianVAE : VAE whose `fit` accepts `processes`.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_vae import DeepGaussianVAE, Processes
    >>> X = load_digits().data
    >>> with Processes() as processes:
    ...     X_process = X[processes.rank :: processes.size]
    ...     vae = DeepGaussianVAE(2, hidden_layer_sizes=(16,), max_epochs=2)
    ...     vae = vae.fit(X_process, processes=processes)
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
            if kind is None:  # wait, because another process may still fail
                self.sum(0.0)
        finally:
            self.reducer.end()

    def sum(self, values: Any) -> Any:
        """Sum values over the processes, all of which must call this method.

        Parameters
        ----------
        values : float, list of floats or ndarray
            Values of this process, of the same shape in every process.

        Returns
        -------
        float, list of floats or ndarray
            Sum in the type of `values`, in float64.
        """
        return self.reducer.sum(values)


def _accelerate_state(timeout: float) -> Any:
    """Connect the processes and return accelerate's state."""
    try:
        from accelerate import PartialState
        from accelerate.utils import parse_flag_from_env
    except ImportError as error:
        raise ImportError(
            "Processes needs accelerate, which is not installed. Run pip install "
            "'sklearn-vae[distributed]'."
        ) from error
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    with _connecting(timeout):
        state = PartialState(cpu=on_cpu, timeout=timedelta(seconds=timeout))
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != state.num_processes:
        raise RuntimeError(
            f"The launcher has started {started} processes, but accelerate has set up "
            f"{state.num_processes}. Enter the Processes context before you create an Accelerator "
            "or PartialState, or on CPUs create it with cpu=True."
        )
    return state
