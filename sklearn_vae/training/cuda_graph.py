"""Training steps as CUDA graphs, with plain steps as a fallback."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from sklearn_vae.warning import warn_user

Result = TypeVar("Result")

# Number of plain steps before a capture, on a separate stream, as torch requires.
WARM_UP_STEPS = 3

# Number of epochs after a capture in which a failure is undone exactly.
TRIAL_EPOCHS = 3


class CudaGraph:
    """Captured kernels of a function without arguments, which reads tensors at fixed addresses."""

    def __init__(self, function: Callable[[], tuple[Tensor, ...]]) -> None:
        self.graph = torch.cuda.CUDAGraph()
        # The outer context restores the current stream if the capture fails.
        with (
            torch.cuda.stream(torch.cuda.current_stream()),
            torch.cuda.graph(self.graph, capture_error_mode="thread_local"),
        ):
            self.outputs = function()

    def replay(self) -> tuple[Tensor, ...]:
        """Launch the kernels and return the outputs, which the next replay overwrites."""
        self.graph.replay()
        return self.outputs

    @staticmethod
    def warm_up(function: Callable[[], Result]) -> Result:
        """Call a function on a separate stream."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            result = function()
        torch.cuda.current_stream().wait_stream(stream)
        return result


# Graphs by type of device.
GRAPHS: dict[str, Any] = {"cuda": CudaGraph}


class Captured:
    """Steps on batches of one shape: their inputs at fixed addresses and, later, their graph."""

    def __init__(self, x: Tensor, noise: Tensor, beta: float, weights: tuple[Tensor, ...]) -> None:
        kl_weight = torch.full((), beta, device=x.device, dtype=x.dtype)
        self.inputs = x.clone(), noise.clone(), kl_weight, *(w.clone() for w in weights)
        self.steps_before = WARM_UP_STEPS
        self.graph: Any = None

    def set_inputs(self, x: Tensor, noise: Tensor, beta: float, *weights: Tensor) -> None:
        """Copy a batch to the inputs."""
        self.inputs[0].copy_(x)
        self.inputs[1].copy_(noise)
        self.inputs[2].fill_(beta)
        for own, given in zip(self.inputs[3:], weights, strict=True):
            own.copy_(given)


class CapturedStep:
    """Training step that is captured once per shape of batches and replayed.

    The first batches of each shape take plain steps. The learning rate is part of the graphs, so a
    change leads to new captures. Without a `graph_type` every step is plain.
    """

    def __init__(
        self,
        step: Callable[..., Any],
        optimizer: Callable[[], torch.optim.Optimizer],
        graph_type: Any = None,
    ) -> None:
        self.step = step
        self.optimizer = optimizer
        self.graph_type = graph_type
        self.reset()

    def reset(self) -> None:
        """Discard the graphs and start with plain steps again."""
        self.captured: dict[torch.Size, Captured] = {}
        self.learning_rate: Any = None
        self.good_epochs = 0

    def __call__(self, x: Tensor, noise: Tensor, beta: float, *weights: Tensor) -> Any:
        """Take a step; return the sums of reconstruction and KL, and the encoder outputs."""
        if self.graph_type is None:
            return self.step(x, noise, beta, *weights)
        if x.shape not in self.captured:
            self.captured[x.shape] = Captured(x, noise, beta, weights)
        own = self.captured[x.shape]
        if own.steps_before:
            own.steps_before -= 1
            return self.graph_type.warm_up(partial(self.step, x, noise, beta, *weights))
        own.set_inputs(x, noise, beta, *weights)
        self._discard_outdated()
        if own.graph is None:
            self.good_epochs = 0
            own.graph = self.graph_type(partial(self.step, *own.inputs))
        return tuple(output.clone() for output in own.graph.replay())

    def with_fallback(
        self,
        run: Callable[[], tuple[Result, bool]],
        save: Callable[[bool], Callable[[], None]],
    ) -> tuple[Result, bool]:
        """Run an epoch, and run it again with plain steps if captured steps fail.

        `run` takes the steps of an epoch and returns a result and whether it is finite.
        `save(exact)` saves the state before an epoch, without that of the optimizer unless `exact`,
        and returns a function that restores it.

        In the first epochs after a capture, an error or a non-finite result restores the state
        before the epoch. This and all further epochs then take plain steps, with a warning. In
        later epochs the optimizer state is not saved, to save time. An error then restores only the
        parameters, and a non-finite result is returned, because training has most likely diverged.
        If an error makes the device unusable, restoring the state raises it again.
        """
        if self.graph_type is None:
            return run()
        on_trial = not (self._is_up_to_date() and self.good_epochs >= TRIAL_EPOCHS)
        restore = save(on_trial)
        try:
            result, is_finite = run()
        except Exception as error:  # noqa: BLE001 - plain steps raise what is not due to the graph
            # The end of a capture raises a second error; the first one tells what happened.
            failure = " after ".join(
                f"{type(e).__name__}: {e}" for e in (error, error.__context__) if e is not None
            )
        else:
            if is_finite or not on_trial:
                self.good_epochs += 1
                return result, is_finite
            failure = "the loss or a parameter became infinite or NaN"
        self.graph_type = None
        self.reset()
        restore()
        result, is_finite = run()
        if is_finite:
            warn_user(
                "Training steps cannot be captured in a CUDA graph. They run without one, which "
                f"is slower: {failure}",
            )
        return result, is_finite

    def _is_up_to_date(self) -> bool:
        graphs = [own.graph for own in self.captured.values()]
        return None not in graphs and self.learning_rate == self._current_learning_rate()

    def _current_learning_rate(self) -> Any:
        return self.optimizer().param_groups[0]["lr"]

    def _discard_outdated(self) -> None:
        """Discard the graphs of another learning rate."""
        if self.learning_rate != self._current_learning_rate():
            self.learning_rate = self._current_learning_rate()
            for own in self.captured.values():
                own.graph = None
