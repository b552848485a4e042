"""Adam with a single kernel call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

# Kernel of torch.optim.Adam(fused=True), which has no public name. Without it torch's step is used.
KERNEL: Any = getattr(torch, "_fused_adam_", None)


def _undecorated(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method of an optimizer without the decorator that excludes it from torch.compile.

    The decorator imports the compiler at the first call, which takes longer than many fits.
    """
    return getattr(method, "__wrapped__", method)


class Adam(torch.optim.Adam):
    """torch.optim.Adam(fused=True) with an `update` that has less overhead.

    For small networks on a CPU, torch spends more time on collecting lists and counting steps per
    parameter than on arithmetic. `update` collects the lists once and keeps a single count. If
    `capturable`, it is torch's own step, which CUDA graphs can capture.
    """

    add_param_group = _undecorated(torch.optim.Adam.add_param_group)
    load_state_dict = _undecorated(torch.optim.Adam.load_state_dict)
    zero_grad = _undecorated(torch.optim.Adam.zero_grad)

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float = 1e-3, capturable: bool = False
    ) -> None:
        super().__init__(params, lr=lr, fused=True, capturable=capturable)
        self._lists: tuple[list[Any], ...] | None = None
        # Suppresses torch's warning about steps before a capture, which are intended.
        self._warned_capturable_if_run_uncaptured = True

    def update(self) -> None:
        """Take a step as `step` does, without its hooks; requires no_grad."""
        group = self.param_groups[0]
        gradients: Any = [p.grad for p in group["params"]]
        plain = not any(group[name] for name in ("amsgrad", "capturable", "maximize"))
        complete = all(gradient is not None for gradient in gradients)
        supported = complete and plain and KERNEL and len(self.param_groups) == 1
        if not (supported and (self._lists is not None or self._has_one_count(group["params"]))):
            self._write_counts()
            self._lists = None
            self.step()
            return
        if self._lists is None:
            self._lists = self._collect(group["params"])
        parameters, averages, squares, counts = self._lists
        counts[0] += 1
        self._opt_called = True  # torch's schedulers check it
        KERNEL(
            parameters,
            gradients,
            averages,
            squares,
            [],
            counts,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )

    @torch.no_grad()
    def rescale_gradients(self, factor: float) -> None:
        """Rescale the averages as if all gradients so far had been multiplied by a factor."""
        for state in self.state.values():
            for name, power in (("exp_avg", 1), ("exp_avg_sq", 2), ("max_exp_avg_sq", 2)):
                if name in state:
                    state[name].mul_(factor**power)

    def _has_one_count(self, parameters: list[Tensor]) -> bool:
        """Return whether all parameters have taken the same number of steps."""
        counts = (self.state[p].get("step", 0) for p in parameters)
        return len({float(count) for count in counts}) == 1

    def _collect(self, parameters: list[Tensor]) -> tuple[list[Any], ...]:
        count = torch.zeros((), dtype=torch.float32, device=parameters[0].device)
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros_like(count)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            count.copy_(state["step"])
        states = [self.state[parameter] for parameter in parameters]
        return (
            list(parameters),
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [count] * len(parameters),
        )

    @property
    def n_steps(self) -> float:
        """Number of steps of the first parameter."""
        if self._lists is not None:
            return float(self._lists[-1][0])
        return float(next(iter(self.state.values()))["step"])

    def _write_counts(self) -> None:
        """Write the count of steps to the state of each parameter, where torch expects it."""
        if self._lists is not None:
            for state in self.state.values():
                state["step"].copy_(self._lists[-1][0])

    def state_dict(self) -> dict[str, Any]:
        """Return the state in the form of torch.optim.Adam."""
        self._write_counts()
        state: dict[str, Any] = _undecorated(torch.optim.Adam.state_dict)(self)
        return state

    def __getstate__(self) -> dict[str, Any]:
        self._write_counts()
        return super().__getstate__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._lists = None
