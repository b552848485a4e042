"""Where and how torch computes: device, precision, threads, and its global generators."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

PRECISIONS = ("auto", "float32", "float64", "tf32", "bf16")

# Of products of float32 matrices, in torch's words.
PRODUCTS = {"tf32": "high", "float32": "highest"}

# Below this many operations at once a second thread costs more than it brings: twice to a hundred
# times as much where other processes use the cores.
WORTH_A_THREAD = 2e8

# A thread that begins takes the number that torch was given last, by any of them.
_NUMBER_OF_THREADS = threading.Lock()

# How products are taken holds for the whole process: who says how, has the device to himself.
_PRODUCTS = threading.RLock()


def choose_device(
    device: Any, precision: str, dtype: Any
) -> tuple[torch.device, torch.dtype, str | None]:
    """Device, precision of the module, and of products in training if that is another.

    Of the parameters `device` and `precision` of an estimator, for rows of a dtype.

    Raises
    ------
    ValueError
        If there is no such device, or it does not have the precision.
    """
    try:
        if isinstance(device, str) and device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        chosen = torch.device(device)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"device must be 'auto' or a torch device, got {device!r}.") from error
    if chosen.type == "meta":
        raise ValueError("device must hold numbers, got 'meta'.")
    if not _is_available(chosen):
        raise ValueError(
            f"device={device!r} is not available to torch on this machine. device='auto' takes a "
            "CUDA device if there is one, and otherwise the CPU."
        )
    on_cuda = chosen.type == "cuda"
    if precision == "auto":
        wide = chosen.type == "cpu" and dtype == np.float64
        precision = "float64" if wide else "tf32" if on_cuda else "float32"
    if on_cuda and precision != "float64":
        return chosen, torch.float32, precision
    if precision in ("tf32", "bf16"):
        raise ValueError(f"precision={precision!r} needs a CUDA device, got device={device!r}.")
    return chosen, getattr(torch, precision), None


def _is_available(device: torch.device) -> bool:
    """Return whether torch can store numbers on a device."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ImportError, NotImplementedError):
        return False
    return True


def products_on(device: torch.device, precision: str, dtype: torch.dtype) -> str | None:
    """Precision of products in training on a device, where that is not `dtype`."""
    if device.type != "cuda" or dtype == torch.float64:
        return None
    return {"auto": "tf32", "float64": "float32"}.get(precision, precision)


def device_and_dtype(module: Any) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of a module's parameters."""
    parameter = next(module.parameters())
    return parameter.device, parameter.dtype


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Give torch its own defaults: float32, the CPU, gradients and no inference mode.

    So what a user has set for the whole process changes no result.
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if dtype != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        yield


@contextmanager
def global_generators(device: torch.device, seed: int) -> Iterator[None]:
    """Within this, torch's global generators begin at a seed; after it they are as before."""
    on_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            torch.cuda.manual_seed(seed)
        yield


def global_generator_states(device: torch.device) -> list[Tensor]:
    """States of torch's global generators, on the CPU and on a CUDA device."""
    on_device = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *on_device]


def set_global_generators(states: list[Tensor], device: torch.device) -> None:
    """Set torch's global generators to what :func:`global_generator_states` returned."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":  # maybe not where the states were saved
        for state in states[1:]:
            torch.cuda.set_rng_state(state, device)


def threads_for(n_operations: float) -> int:
    """Number of threads for this many operations at once: all of torch's, or one."""
    return torch.get_num_threads() if n_operations >= WORTH_A_THREAD else 1


@contextmanager
def threads_worth(n_operations: float) -> Iterator[None]:
    """Within this, torch uses one thread if as many operations at once are not worth more.

    In this thread: others, and those that begin meanwhile, keep their number.
    """
    with _NUMBER_OF_THREADS:
        before = torch.get_num_threads()
        alone = threads_for(n_operations) < before
        if alone:
            torch.set_num_threads(1)
            if threading.active_count() > 1:
                other = threading.Thread(target=torch.set_num_threads, args=(before,))
                other.start()
                other.join()
    try:
        yield
    finally:
        if alone:
            torch.set_num_threads(before)


@contextmanager
def products_in(precision: str | None) -> Iterator[None]:
    """Within this, products of float32 matrices are taken as a precision says; None: as before.

    Other threads that would say so wait until it ends.
    """
    if precision is None:
        yield
        return
    with _PRODUCTS, _products_in(precision):
        yield


@contextmanager
def _products_in(precision: str) -> Iterator[None]:
    if precision not in PRODUCTS:
        yield
        return
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.deterministic
    torch.set_float32_matmul_precision(PRODUCTS[precision])
    # Convolutions have switches of their own: by default TF32, and sums in any order.
    cudnn.allow_tf32, cudnn.deterministic = precision == "tf32", True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32, cudnn.deterministic = before[1:]
