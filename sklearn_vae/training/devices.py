"""Device, precision, threads and global generators of torch."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_vae.warning import warn_user

PRECISIONS = ("auto", "float32", "float64", "tf32", "bf16")

# Torch's names of the precision of float32 matrix products.
MATMUL_PRECISIONS = {"bf16 on CPU": "medium", "tf32": "high", "float32": "highest"}

# Functions of torch.cpu that tell whether the processor multiplies bfloat16. They have no public names.
BF16_INSTRUCTIONS = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")

# With fewer operations a second thread slows torch down, 2 to 100 times if other processes use the
# cores.
WORTH_A_THREAD = 2e8

# Each thread has its own number of torch threads, but a new thread takes the number set last.
_NUMBER_OF_THREADS = threading.Lock()

# Python threads that are within `threads_worth`.
_WITHIN: set[int] = set()

# The precision of products is global in the process, so only one thread at a time can change it.
_MATMUL_PRECISION = threading.RLock()


def choose_device(
    device: Any, precision: str, dtype: Any
) -> tuple[torch.device, torch.dtype, str | None]:
    """Return the device, the dtype of the module, and the precision of products in training.

    `device` and `precision` are parameters of an estimator, `dtype` is that of X. The precision of
    products is None unless it differs from the dtype.
    """
    try:
        if isinstance(device, str) and device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        chosen = torch.device(device)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"device must be 'auto' or a torch device, got {device!r}.") from error
    if chosen.type == "meta":
        raise ValueError("device must be a device for computations, such as 'cpu', got 'meta'.")
    if not _is_available(chosen):
        raise ValueError(
            f"device={device!r} is not available to torch on this machine. device='auto' uses a "
            "CUDA device if there is one, and the CPU otherwise."
        )
    on_cuda = chosen.type == "cuda"
    if precision == "auto":
        wide = chosen.type == "cpu" and dtype == np.float64
        precision = "float64" if wide else "tf32" if on_cuda else "float32"
    if on_cuda and precision != "float64":
        return chosen, torch.float32, precision
    if chosen.type == "cpu" and precision == "bf16":
        if multiplies_bf16():
            return chosen, torch.float32, "bf16 on CPU"
        warn_user(
            "precision='bf16' uses float32 on this CPU, which has no instructions for bfloat16.",
        )
        precision = "float32"
    if precision in ("tf32", "bf16"):
        raise ValueError(f"precision={precision!r} needs a CUDA device, got device={device!r}.")
    return chosen, getattr(torch, precision), None


def multiplies_bf16() -> bool:
    """Return whether the CPU has instructions for products in bfloat16, AMX or AVX512-BF16."""
    return any(getattr(torch.cpu, name, bool)() for name in BF16_INSTRUCTIONS)


def _is_available(device: torch.device) -> bool:
    """Return whether torch can store numbers on a device."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ImportError, NotImplementedError):
        return False
    return True


def matmul_precision_on(device: torch.device, precision: str, dtype: torch.dtype) -> str | None:
    """Return the precision of products in training on a device, or None if it is `dtype`."""
    if device.type == "cpu" and dtype == torch.float32 and precision == "bf16":
        return "bf16 on CPU" if multiplies_bf16() else None
    if device.type != "cuda" or dtype == torch.float64:
        return None
    return {"auto": "tf32", "float64": "float32"}.get(precision, precision)


def device_and_dtype(module: Any) -> tuple[torch.device, torch.dtype]:
    """Return the device and the dtype of a module's parameters."""
    parameter = next(module.parameters())
    return parameter.device, parameter.dtype


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Give torch its own defaults: float32, the CPU, gradients, no inference mode, no autocast.

    Settings of the user for the whole process therefore do not change any result.
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        # get_default_device() of torch 2.6 does not see that of a `with torch.device(...)`.
        if torch.empty(0).device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if dtype != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        yield


@contextmanager
def global_generators(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch's global generators within the context, and restore them afterwards."""
    on_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            torch.cuda.manual_seed(seed)
        yield


def global_generator_states(device: torch.device) -> list[Tensor]:
    """Return the states of torch's global generators, on the CPU and on a CUDA device."""
    on_device = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *on_device]


def set_global_generators(states: list[Tensor], device: torch.device) -> None:
    """Set torch's global generators to states from :func:`global_generator_states`."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":  # the states may come from another kind of device
        for state in states[1:]:
            torch.cuda.set_rng_state(state, device)


def threads_for(n_operations: float) -> int:
    """Return the number of threads for a number of operations: all of torch's, or one."""
    return torch.get_num_threads() if n_operations >= WORTH_A_THREAD else 1


@contextmanager
def threads_worth(n_operations: float) -> Iterator[None]:
    """Let torch use a single thread within the context if there are few operations.

    If other Python threads are within this context, too, each uses an equal share of the threads.
    All other Python threads, including those started meanwhile, keep their number.
    """
    own = threading.get_ident()
    with _NUMBER_OF_THREADS:
        before = torch.get_num_threads()
        is_outer = own not in _WITHIN
        _WITHIN.add(own)
        share = max(1, before // len(_WITHIN)) if is_outer else before
        number = min(share, threads_for(n_operations))
        if number < before:
            torch.set_num_threads(number)
            if threading.active_count() > 1:
                other = threading.Thread(target=torch.set_num_threads, args=(before,))
                other.start()
                other.join()
    try:
        yield
    finally:
        if is_outer:
            with _NUMBER_OF_THREADS:
                _WITHIN.discard(own)
        if number < before:
            torch.set_num_threads(before)


@contextmanager
def matmul_precision(precision: str | None) -> Iterator[None]:
    """Set the precision of float32 matrix products within the context; None is torch's default.

    Other threads that want to set it wait until the context ends.
    """
    if precision is None:
        if torch.get_float32_matmul_precision() == "highest":
            yield
            return
        precision = "float32"
    with _MATMUL_PRECISION, _matmul_precision(precision):
        yield


@contextmanager
def _matmul_precision(precision: str) -> Iterator[None]:
    if precision not in MATMUL_PRECISIONS:
        yield
        return
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.deterministic
    torch.set_float32_matmul_precision(MATMUL_PRECISIONS[precision])
    # Convolutions have separate switches. By default they use TF32 and are not deterministic.
    cudnn.allow_tf32, cudnn.deterministic = precision == "tf32", True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32, cudnn.deterministic = before[1:]
