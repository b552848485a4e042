"""Everything to ask of a machine with a CUDA device, in one command and under ten minutes.

Parts, each with a table:

- steps: microseconds per training step of DeepGaussianVAE (784-1024-512-200, batches of 128 and 512),
  captured in a CUDA graph, kernel by kernel, a plain torch loop with fused Adam, and the same loop
  compiled by torch.compile (its time to compile is printed apart);
- precisions: time of fit and training bound of "float64", "float32", "tf32" and "bf16" after the
  same epochs;
- pca: fit of PPCA to tensors on the device beside torch.pca_lowrank and the errors of both, relative to
  the largest eigenvalue;
- tests: tests/training/test_cuda.py.

Claims: steps kernel by kernel and of the compiled loop take at least 0.95 times ours; the training
bounds of all precisions agree to 1 %; the error of PPCA in float64 is at most 1e-8; the tests pass.
Without a CUDA device the script says so, runs what can run on a CPU at smoke scale, and exits with
status 0.

    python benchmarks/gpu.py [--scale smoke] [--repeats 5]
"""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from common import Verdict, make_rows, paired_times, parse_arguments, seconds
from sklearn import config_context
from training_throughput import Case, make_loop, make_ours

from sklearn_vae import PPCA, DeepGaussianVAE
from sklearn_vae.training import loop as training_loop

ROOT = Path(__file__).parents[1]

# Number of samples, features, hidden units and latent variables of the network, batches, epochs.
NETWORKS = {
    "full": (128 * 200, 784, (1024, 512), 200, (128, 512), 10),
    "smoke": (512, 64, (32, 16), 8, (128,), 2),
}

# Shapes for PPCA, with the number of components.
MATRICES = {
    "full": [(60_000, 784, 50), (20_000, 5000, 20), (1000, 20_000, 20)],
    "smoke": [(600, 40, 5), (50, 400, 5)],
}

PRECISIONS = {"cuda": ("float64", "float32", "tf32", "bf16"), "cpu": ("float64", "float32")}


def finished(device, function):
    """Return a function that waits for the device after `function`."""

    def run():
        function()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def make_model(hidden, k, batch_size, epochs, device, **options):
    """Return the model of all parts."""
    return DeepGaussianVAE(
        k, hidden_layer_sizes=hidden, batch_size=batch_size, max_epochs=epochs, device=device,
        random_state=0, **options,
    )  # fmt: skip


def kernel_by_kernel(train, epochs):
    """Train without CUDA graphs."""
    graphs = dict(training_loop.GRAPHS)
    training_loop.GRAPHS.clear()
    try:
        train(epochs)
    finally:
        training_loop.GRAPHS.update(graphs)


def compare_steps(network, device, repeats, verdict):
    """Time a step of ours, captured or not, and of plain and compiled loops."""
    n, d, hidden, k, batches, epochs = network
    X = make_rows(n, d, min(k, 20)).astype(np.float32)
    for batch in batches:
        steps = epochs * -(-n // batch)
        model = make_model(hidden, k, batch, 1, device).fit(X)
        rows = torch.from_numpy(((X - model.mean_) / model.scale_).astype(np.float32)).to(device)
        ours = make_ours(model, rows)
        case = Case(n, d, hidden, k, epochs, epochs, {})
        sides = {
            "kernel by kernel": lambda: kernel_by_kernel(ours, epochs),  # noqa: B023
            "plain loop, fused Adam": make_loop(case, rows, 1.0, batch, fused=True),
        }
        compiled, waited = compiled_loop(case, rows, batch)
        if compiled is not None:
            print(f"  torch.compile took {waited:.1f} s")
            sides["torch.compile, fused Adam"] = compiled
        print(f"\nsteps of {d}-{'-'.join(map(str, hidden))}-{k}, batch {batch}: microseconds of")
        print(f"  {'':28s}{'theirs':>10s}{'ours':>10s}{'ratio':>8s}")
        for name, train in sides.items():
            other = train if name == "kernel by kernel" else lambda: train(epochs)  # noqa: B023
            mine, theirs, ratio = paired_times(
                finished(device, lambda: ours(epochs)), finished(device, other), repeats  # noqa: B023
            )  # fmt: skip
            print(
                f"  {name:28s}{1e6 * theirs / steps:10.1f}{1e6 * mine / steps:10.1f}{1 / ratio:8.2f}"
            )
            if device == "cuda" and name != "plain loop, fused Adam":
                verdict.claim(
                    f"batch {batch}: {name} takes at least 0.95 times ours: {1 / ratio:.2f}",
                    ratio <= 1.0 / 0.95,
                    timing=True,
                )


def compiled_loop(case, rows, batch):
    """Return the loop compiled by torch.compile and the time that took, or None and 0.0."""
    if rows.device.type != "cuda":
        return None, 0.0
    train = make_loop(case, rows, 1.0, batch, compiled=True, fused=True)
    return train, seconds(finished("cuda", lambda: train(1)))


def compare_precisions(network, device, verdict):
    """Train in every precision with the same seeds."""
    n, d, hidden, k, batches, epochs = network
    X = make_rows(n, d, min(k, 20)).astype(np.float32)
    print(f"\nprecisions, {epochs} epochs: seconds of fit, training bound per sample")
    bounds = {}
    for precision in PRECISIONS[device]:
        model = make_model(hidden, k, batches[0], epochs, device, precision=precision)
        spent = seconds(finished(device, lambda: model.fit(X)))  # noqa: B023
        bounds[precision] = float(model.history_["bound"][-1])
        print(f"  {precision:28s}{spent:10.2f}{bounds[precision]:14.3f}")
    reference = bounds["float64"]
    for precision, bound in bounds.items():
        change = abs(bound - reference) / abs(reference)
        verdict.claim(f"{precision}: bound within 1 % of float64: {change:.2%}", change < 0.01)


def compare_pca(matrices, device, repeats, verdict):
    """Fit PPCA to tensors beside torch.pca_lowrank."""
    for n, d, k in matrices:
        for dtype in (torch.float64, torch.float32):
            X = torch.as_tensor(make_rows(n, d, k), dtype=dtype, device=device)
            model = PPCA(k)

            def fit(model=model, X=X):
                with config_context(array_api_dispatch=True):
                    model.fit(X)

            def lowrank(X=X, k=k):
                return torch.pca_lowrank(X, q=k)[1] ** 2 / len(X)

            mine, theirs, ratio = paired_times(
                finished(device, fit), finished(device, lowrank), repeats
            )
            exact = exact_values(X, k)
            found = model.explained_variance_.double() * ((n - 1) / n)
            errors = [float(abs(v.double() - exact).max() / exact[0]) for v in (found, lowrank())]
            name = f"{n} x {d}, k={k}, {str(dtype).removeprefix('torch.')}"
            print(
                f"  {name:38s} PPCA {mine:8.4f} s, error {errors[0]:.0e}; pca_lowrank {theirs:8.4f} s, "
                f"error {errors[1]:.0e}; ratio {ratio:.2f}"
            )
            if dtype == torch.float64:
                verdict.claim(f"{name}: the error of PPCA is at most 1e-8", errors[0] <= 1e-8)


def exact_values(X, k):
    """Return the k leading eigenvalues of the covariance in float64."""
    R = X.double() - X.double().mean(dim=0)
    K = R @ R.T if R.shape[0] < R.shape[1] else R.T @ R
    return torch.linalg.eigvalsh(K).flip(0)[:k] / len(X)


def run_tests(verdict):
    """Run the tests of training on a device in a new process."""
    command = [sys.executable, "-m", "pytest", "-q", "tests/training/test_cuda.py"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(f"\ntests: {run.stdout.strip().splitlines()[-1]}")
    if run.returncode:
        print(run.stdout)
    verdict.claim("tests/training/test_cuda.py passes", run.returncode == 0)


def main():
    """Run all parts."""
    arguments = parse_arguments(__doc__)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scale, repeats = arguments.scale, min(arguments.repeats, 5)
    if device == "cpu":
        print("There is no CUDA device. What runs on a CPU runs at smoke scale.")
        scale, repeats = "smoke", 1
    else:
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    start, verdict = time.perf_counter(), Verdict(scale)
    compare_steps(NETWORKS[scale], device, repeats, verdict)
    compare_precisions(NETWORKS[scale], device, verdict)
    print("\npca:")
    compare_pca(MATRICES[scale], device, repeats, verdict)
    if device != "cpu":  # where all of them would be skipped
        run_tests(verdict)
    print(f"\n{time.perf_counter() - start:.0f} s in all")
    verdict.exit()


if __name__ == "__main__":
    main()
