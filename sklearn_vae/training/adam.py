"""Adam with one call of torch's kernel per step."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

# The kernel of torch.optim.Adam(fused=True), which has no public name.
KERNEL: Any = getattr(torch, "_fused_adam_", None)


class Adam(torch.optim.Adam):
    """torch.optim.Adam(fused=True) with an `update` that has less to do around its kernel.

    At every step of a small network on a CPU, torch spends more time on collecting its lists, and
    on a count of steps for each parameter, than on the arithmetic: here the lists are collected
    once, and there is one count.

    Parameters
    ----------
    params : iterable of Parameter
        All on one device and of one dtype.
    lr : float, default=1e-3
        Read from `param_groups` at every step, as schedules expect.
    capturable : bool, default=False
        For CUDA graphs; `update` is then torch's own step.
    """

    def __init__(
        self, params: Iterable[Parameter], lr: float = 1e-3, capturable: bool = False
    ) -> None:
        super().__init__(params, lr=lr, fused=True, capturable=capturable)
        self._lists: tuple[list[Any], ...] | None = None
        # Else torch warns of steps that are taken before a capture, as they are on purpose.
        self._warned_capturable_if_run_uncaptured = True

    def update(self) -> None:
        """Take a step as `step` does, without its hooks; to be called under no_grad."""
        group = self.param_groups[0]
        gradients: Any = [p.grad for p in group["params"]]
        plain = not any(group[name] for name in ("amsgrad", "capturable", "maximize"))
        complete = all(gradient is not None for gradient in gradients)
        known = complete and plain and KERNEL and len(self.param_groups) == 1
        if not (known and (self._lists is not None or self._has_one_count(group["params"]))):
            self._write_counts()
            self._lists = None
            self.step()
            return
        if self._lists is None:
            self._lists = self._collect(group["params"])
        parameters, averages, squares, counts = self._lists
        counts[0] += 1
        self._opt_called = True  # torch's schedules look for it
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

    def _has_one_count(self, parameters: list[Tensor]) -> bool:
        """Whether all parameters have taken as many steps: none was frozen meanwhile."""
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

    def _write_counts(self) -> None:
        """Write the count of steps of each parameter to where torch looks for it."""
        if self._lists is not None:
            for state in self.state.values():
                state["step"].copy_(self._lists[-1][0])

    def state_dict(self) -> dict[str, Any]:
        """State in the form of torch.optim.Adam; each can load that of the other."""
        self._write_counts()
        return super().state_dict()

    def __getstate__(self) -> dict[str, Any]:
        self._write_counts()
        return super().__getstate__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._lists = None
