"""A training step as one CUDA graph, with plain steps behind it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")

# Plain steps before a capture, on a stream of their own, as torch asks for.
WARM_UP_STEPS = 3

# Epochs after a capture in which a failure is undone exactly.
TRIAL_EPOCHS = 3


class CudaGraph:
    """The kernels that a function launches, captured once.

    Parameters
    ----------
    function : function () -> tuple of Tensors
        Its inputs are tensors that stay where they are.
    """

    def __init__(self, function: Callable[[], tuple[Tensor, ...]]) -> None:
        self.graph = torch.cuda.CUDAGraph()
        # The outer context gives back the current stream where a capture fails before it ends.
        with (
            torch.cuda.stream(torch.cuda.current_stream()),
            torch.cuda.graph(self.graph, capture_error_mode="thread_local"),
        ):
            self.outputs = function()

    def replay(self) -> tuple[Tensor, ...]:
        """Launch the kernels; outputs, which the next replay overwrites."""
        self.graph.replay()
        return self.outputs

    @staticmethod
    def warm_up(function: Callable[[], Result]) -> Result:
        """Call a function on a stream of its own."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            result = function()
        torch.cuda.current_stream().wait_stream(stream)
        return result


# Graphs by kind of device; on others, steps are taken as they are.
GRAPHS: dict[str, Any] = {"cuda": CudaGraph}


class CapturedStep:
    """A training step that is captured once, and replayed for each batch of the same shape.

    The first steps are taken plainly, and so are those of another shape (the last batch of an
    epoch). A learning rate that changes is captured anew, since it is part of the graph.

    Parameters
    ----------
    step : function (x, noise, beta) -> (reconstruction, kl, h)
        A plain step.
    optimizer : function () -> Optimizer
        The optimizer in use.
    graph_type : type, default=None
        As :class:`CudaGraph`. None: every step is plain.
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
        self.capture_anew()

    def capture_anew(self) -> None:
        """Forget the graph, and begin with plain steps again."""
        self.graph: Any = None
        self.inputs: tuple[Tensor, Tensor, Tensor] | None = None
        self.learning_rate: Any = None
        self.steps_before = WARM_UP_STEPS
        self.good_epochs = 0

    def __call__(self, x: Tensor, noise: Tensor, beta: float) -> Any:
        """Take a step; sums of reconstruction and KL over the samples, outputs of the encoder."""
        if self.graph_type is None:
            return self.step(x, noise, beta)
        if self.inputs is None:
            weight = torch.full((), beta, device=x.device, dtype=x.dtype)
            self.inputs = x.clone(), noise.clone(), weight
        if x.shape != self.inputs[0].shape:
            return self.step(x, noise, beta)
        if self.steps_before:
            self.steps_before -= 1
            return self.graph_type.warm_up(partial(self.step, x, noise, beta))
        self.inputs[0].copy_(x)
        self.inputs[1].copy_(noise)
        self.inputs[2].fill_(beta)
        if not self._is_up_to_date():
            self._capture(self.inputs)
        return tuple(output.clone() for output in self.graph.replay())

    def with_fallback(
        self,
        run: Callable[[], tuple[Result, bool]],
        save: Callable[[bool], Callable[[], None]],
    ) -> tuple[Result, bool]:
        """Take the steps of an epoch, and take them plainly where captured ones fail.

        In the first epochs after a capture, an error or a result that is not finite leads back to
        the state before the epoch. This and all further epochs then take plain steps, with a
        warning. In later epochs the state of the optimizer is not saved, which would cost time:
        an error leads back to the parameters alone, and a result that is not finite is returned,
        since training has most likely diverged. An error after which the process cannot use the
        device, such as an illegal memory access, is raised again where the state is restored.

        Parameters
        ----------
        run : function () -> (result, is_finite)
            Takes the steps of an epoch by this object, and waits for them.
        save : function (exact) -> restore
            Saves the state that an epoch depends on; where not `exact`, without the optimizer's.
            `restore` is a function without arguments.

        Returns
        -------
        result, is_finite
        """
        if self.graph_type is None:
            return run()
        on_trial = not (self._is_up_to_date() and self.good_epochs >= TRIAL_EPOCHS)
        restore = save(on_trial)
        try:
            result, is_finite = run()
        except Exception as error:  # noqa: BLE001 - plain steps raise what is not due to the graph
            # The end of a capture raises an error of its own; the first one says what happened.
            failure = " after ".join(
                f"{type(e).__name__}: {e}" for e in (error, error.__context__) if e is not None
            )
        else:
            if is_finite or not on_trial:
                self.good_epochs += 1
                return result, is_finite
            failure = "the loss or a parameter became infinite or NaN"
        self.graph_type = None
        self.capture_anew()
        restore()
        result, is_finite = run()
        if is_finite:
            warnings.warn(
                "Training steps cannot be captured into a CUDA graph and are taken kernel by "
                f"kernel, which is slower: {failure}",
                stacklevel=2,
            )
        return result, is_finite

    def _is_up_to_date(self) -> bool:
        return self.graph is not None and self.learning_rate == self._current_learning_rate()

    def _current_learning_rate(self) -> Any:
        return self.optimizer().param_groups[0]["lr"]

    def _capture(self, inputs: tuple[Tensor, ...]) -> None:
        self.graph, self.good_epochs = None, 0
        self.learning_rate = self._current_learning_rate()
        self.graph = self.graph_type(partial(self.step, *inputs))
