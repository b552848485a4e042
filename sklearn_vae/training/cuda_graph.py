"""A training step as one CUDA graph."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

# Steps taken on a side stream before the capture, as torch asks for.
STEPS_BEFORE = 3


class CapturedStep:
    """A net's step, captured once and replayed for every batch of the same shape.

    The first steps, and those of another shape (the last batch of an epoch), are taken one kernel
    at a time. A learning rate that changes is captured anew.
    """

    def __init__(self, net: Any) -> None:
        self.net = net
        self.graph: torch.cuda.CUDAGraph | None = None
        self.taken = 0
        self.learning_rate: Any = None

    def __call__(self, x: Tensor, noise: Tensor, beta: float) -> tuple[Tensor, ...]:
        """Sums of reconstruction and KL over the rows, and what the encoder gave."""
        if self.taken == 0:
            self.x, self.noise = x.clone(), noise.clone()
            self.beta = torch.full((), beta, device=x.device, dtype=x.dtype)
        if x.shape != self.x.shape:
            return self.net.step_by_autograd(x, noise, beta)
        if self.taken < STEPS_BEFORE:
            return self._on_side_stream(x, noise, beta)
        self.x.copy_(x)
        self.noise.copy_(noise)
        self.beta.fill_(beta)
        learning_rate = self.net.optimizer_.param_groups[0]["lr"]
        if self.graph is None or learning_rate != self.learning_rate:
            self.learning_rate = learning_rate
            try:
                self._capture()
            except RuntimeError as error:
                warnings.warn(
                    f"The training step cannot be captured into a CUDA graph, and is taken kernel "
                    f"by kernel: {error}",
                    stacklevel=2,
                )
                self.net.step_ = self.net.step_by_autograd
                return self.net.step_by_autograd(x, noise, beta)
        assert self.graph is not None
        self.graph.replay()
        return tuple(tensor.clone() for tensor in self.found)

    def _on_side_stream(self, x: Tensor, noise: Tensor, beta: float) -> tuple[Tensor, ...]:
        self.taken += 1
        stream = torch.cuda.Stream(x.device)
        stream.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(stream):
            found = self.net.step_by_autograd(x, noise, beta)
        torch.cuda.current_stream(x.device).wait_stream(stream)
        return found

    def _capture(self) -> None:
        self.net.optimizer_.zero_grad()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.found = self.net.step_by_autograd(self.x, self.noise, self.beta)
