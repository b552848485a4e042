"""Devices and precisions, also those that this machine does not have."""

import threading

import numpy as np
import pytest
import torch

from sklearn_vae.training import devices
from sklearn_vae.training.devices import (
    choose_device,
    matmul_precision,
    matmul_precision_on,
    threads_for,
    threads_worth,
    torch_defaults,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def with_cuda(monkeypatch):
    """As if there were a CUDA device."""
    monkeypatch.setattr(devices, "_is_available", lambda device: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.parametrize(
    ("precision", "dtype", "expected"),
    [
        ("auto", np.float64, torch.float64),
        ("auto", np.float32, torch.float32),
        ("float32", np.float64, torch.float32),
        ("float64", np.float32, torch.float64),
    ],
)
def test_precisions_of_a_cpu(precision, dtype, expected):
    assert choose_device("cpu", precision, dtype) == (CPU, expected, None)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("auto", (torch.float32, "tf32")),
        ("tf32", (torch.float32, "tf32")),
        ("bf16", (torch.float32, "bf16")),
        ("float32", (torch.float32, "float32")),
        ("float64", (torch.float64, None)),
    ],
)
def test_precisions_of_a_cuda_device(with_cuda, precision, expected, dtype):
    for device in ("auto", "cuda", CUDA):
        assert choose_device(device, precision, dtype) == (CUDA, *expected)


def test_auto_is_a_cpu_without_a_cuda_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto", "auto", np.float64)[0] == CPU


@pytest.mark.parametrize(
    ("device", "precision", "message"),
    [
        ("abacus", "auto", "device must be 'auto' or a torch device, got 'abacus'"),
        (object(), "auto", "device must be 'auto' or a torch device"),
        ("meta", "auto", "device for computations, such as 'cpu', got 'meta'"),
        ("cpu", "tf32", "precision='tf32' needs a CUDA device, got device='cpu'"),
        ("cuda:63", "auto", "device='cuda:63' is not available to torch on this machine"),
    ],
)
def test_devices_and_precisions_that_there_are_not(device, precision, message):
    with pytest.raises(ValueError, match=message):
        choose_device(device, precision, np.float64)


@pytest.mark.parametrize(
    ("device", "precision", "dtype", "expected"),
    [
        (CPU, "auto", torch.float32, None),
        (CUDA, "auto", torch.float32, "tf32"),
        (CUDA, "bf16", torch.float32, "bf16"),
        (CUDA, "float64", torch.float32, "float32"),
        (CUDA, "auto", torch.float64, None),
    ],
)
def test_precision_of_products_of_a_module_on_another_device(device, precision, dtype, expected):
    assert matmul_precision_on(device, precision, dtype) == expected


@pytest.mark.parametrize(
    ("precision", "name", "tf32"),
    [("tf32", "high", True), ("float32", "highest", False), (None, "highest", False)],
)
def test_products_have_the_precision_within_the_context_only(precision, name, tf32):
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.deterministic
    torch.set_float32_matmul_precision("medium")
    try:
        with matmul_precision(precision):
            assert torch.get_float32_matmul_precision() == name
            assert (cudnn.allow_tf32, cudnn.deterministic) == (tf32, True)
        with matmul_precision("bf16"):  # on CUDA: autocast, not a precision of products
            assert torch.get_float32_matmul_precision() == "medium"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before[0])
    assert (cudnn.allow_tf32, cudnn.deterministic) == before[1:]


def test_settings_of_torch_do_not_reach_within():
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"), torch.inference_mode(), torch.autocast("cpu"):

            @torch_defaults()
            def found():
                x = torch.ones(2, requires_grad=True)
                return x.dtype, x.device.type, (x @ x).requires_grad, (x @ x).dtype

            assert found() == (torch.float32, "cpu", True, torch.float32)
            assert torch.is_inference_mode_enabled()
            assert torch.is_autocast_enabled("cpu")
            assert torch.ones(1).device.type == "meta"
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_few_operations_are_worth_one_thread(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert [threads_for(n) for n in (1.0, 2e8 - 1, 2e8, 1e12)] == [1, 1, 7, 7]


def test_concurrent_trainings_share_the_threads():
    before = torch.get_num_threads()
    numbers, begun, done = {}, threading.Event(), threading.Event()

    def train(name, n_operations, inside):
        with threads_worth(n_operations):
            with threads_worth(n_operations):  # an evaluation within the training
                numbers[name] = torch.get_num_threads()
            inside()
        numbers[f"after {name}"] = torch.get_num_threads()

    def first():
        begun.set()
        assert done.wait(10.0)

    try:
        torch.set_num_threads(6)
        thread = threading.Thread(target=train, args=("first", 1e12, first))
        thread.start()
        assert begun.wait(10.0)
        train("second", 1e12, lambda: None)
        train("small", 1.0, lambda: None)
        done.set()
        thread.join()
        train("alone", 1e12, lambda: None)
    finally:
        torch.set_num_threads(before)
    expected = {"first": 6, "second": 3, "small": 1, "alone": 6}
    assert numbers == expected | {f"after {name}": 6 for name in expected}


@pytest.mark.parametrize("name", devices.BF16_INSTRUCTIONS)
def test_bf16_of_a_cpu_with_instructions(name, monkeypatch):
    for other in devices.BF16_INSTRUCTIONS:
        monkeypatch.setattr(torch.cpu, other, lambda other=other: other == name)
    found = choose_device("cpu", "bf16", np.float64)
    assert found == (CPU, torch.float32, "bf16 on CPU")
    assert matmul_precision_on(CPU, "bf16", torch.float32) == "bf16 on CPU"
    assert matmul_precision_on(CPU, "bf16", torch.float64) is None
    assert choose_device("cpu", "auto", np.float32)[2] is None
    with matmul_precision("bf16 on CPU"):
        assert torch.get_float32_matmul_precision() == "medium"
    assert torch.get_float32_matmul_precision() == "highest"


def test_bf16_of_a_cpu_without_instructions_is_float32(monkeypatch):
    monkeypatch.setattr(devices, "multiplies_bf16", lambda: False)
    with pytest.warns(UserWarning, match="'bf16' uses float32 on this CPU"):
        assert choose_device("cpu", "bf16", np.float64) == (CPU, torch.float32, None)
    assert matmul_precision_on(CPU, "bf16", torch.float32) is None
