"""PPCA of sparse, memory-mapped, wide and tensor data is exact, in less time than PCA.

Times are medians of paired runs in one process. Claims:

- Sparse matrix: PCA's components in at most 1.2 times its time, and a randomized model that is worse
  by at most a thousandth.
- Memory-mapped matrix: the model of the whole matrix without a copy, faster than IncrementalPCA,
  which explains less variance.
- Wide matrix: the exact model, at least twice as fast as PCA's approximate one.
- Torch tensors: the model of NumPy arrays, on the device of the tensors.

    python benchmarks/ppca_reach.py [--scale smoke] [--device cuda] [--data nci60_64x6830.npz]

--data replaces the simulated wide matrix.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from common import Verdict, load_rows, make_rows, paired_times, parse_arguments, peak_megabytes
from scipy import sparse
from sklearn import config_context
from sklearn.decomposition import PCA, IncrementalPCA

from sklearn_vae import PPCA

# n and d of each case.
CASES = {
    "full": {
        "sparse": (20_000, 5_000),
        "mapped": (100_000, 300),
        "wide": (800, 20_000),
        "tensors": (100_000, 784),
    },
    "smoke": {
        "sparse": (2_000, 500),
        "mapped": (20_000, 60),
        "wide": (80, 2_000),
        "tensors": (5_000, 78),
    },
}


def report(name, ours, theirs, repeats):
    """Time two fits in pairs; print and return the ratio."""
    a, b, ratio = paired_times(ours, theirs, repeats)
    print(f"  {name:42s} {1e3 * a:9.1f} {1e3 * b:9.1f} {ratio:8.3f}")
    return ratio


def compare_sparse(shape, repeats, verdict):
    """Compare a sparse matrix with 1 % stored entries in a few common directions."""
    rng = np.random.default_rng(0)
    places = np.unique(rng.integers(0, shape[0] * shape[1], size=shape[0] * shape[1] // 100))
    X = sparse.csr_array((rng.uniform(size=len(places)), np.divmod(places, shape[1])), shape=shape)
    lengths = sparse.diags_array(1 + 5 * rng.exponential(size=shape[0]))
    X = lengths @ X @ sparse.diags_array(np.geomspace(5, 0.5, shape[1]))
    X = sparse.csr_array(X)
    print(f"\nsparse {shape}, k=20: milliseconds of PPCA, of PCA, and their ratio")
    theirs = PCA(20, svd_solver="arpack", random_state=0)
    same, quick = (
        PPCA(20, svd_solver=solver, random_state=0) for solver in ("arpack", "randomized")
    )
    ratio = report("fit, arpack / arpack", lambda: same.fit(X), lambda: theirs.fit(X), repeats)
    verdict.claim(f"at most 1.2 times PCA's time: {ratio:.3f}", ratio <= 1.2, timing=True)
    report("fit, randomized / arpack", lambda: quick.fit(X), lambda: theirs.fit(X), repeats)
    error = np.abs(same.components_ - theirs.components_).max()
    verdict.claim(f"components agree with PCA: {error:.1e}", error < 1e-6)
    loss = same.elbo_ - quick.elbo_
    verdict.claim(
        f"the randomized model has the likelihood of the exact one: {-loss:+.2e} nats of "
        f"{same.elbo_:.1f}",
        0 <= loss < 1e-3 * abs(same.elbo_),
    )


def compare_mapped(shape, repeats, verdict):
    """Compare a memory-mapped file with the same data in memory."""
    rows = make_rows(*shape, 20)
    rows += np.linspace(0, 1, len(rows))[:, None]  # a drift
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        np.save(path, rows)
        X = np.load(path, mmap_mode="r")
        print(f"\nmemory-mapped {shape}, k=20: milliseconds of PPCA, of the other, and their ratio")
        ours, theirs = PPCA(20), IncrementalPCA(20)
        ratio = report("fit / IncrementalPCA", lambda: ours.fit(X), lambda: theirs.fit(X), repeats)
        peak = peak_megabytes(lambda: ours.fit(X))
        randomized = PPCA(20, svd_solver="randomized", iterated_power=2, random_state=0)
        peak = max(peak, peak_megabytes(lambda: randomized.fit(X)))
    verdict.claim(f"faster than IncrementalPCA: {ratio:.3f}", ratio < 1.0, timing=True)
    whole = PPCA(20).fit(rows)
    error = np.abs(ours.loadings_ - whole.loadings_).max()
    verdict.claim(f"the model agrees with that of data in memory: {error:.1e}", error < 1e-9)
    kept = [model.explained_variance_.sum() for model in (ours, theirs)]
    verdict.claim(
        f"explains at least the variance of IncrementalPCA: {kept[0]:.6f} / {kept[1]:.6f}",
        np.var(rows @ ours.components_.T, axis=0).sum()
        >= np.var(rows @ theirs.components_.T, axis=0).sum() * (1 - 1e-12),
    )
    size = rows.nbytes / 2**20
    print(f"  peak of fit {peak:.1f} MiB, of {size:.1f} MiB in the file")
    # Blocks have 2**20 entries, so a small file is a single block.
    if size > 100:
        verdict.claim(f"no copy is made: {peak:.1f} MiB", peak < size / 2)


def compare_wide(X, repeats, verdict):
    """Compare a matrix with fewer samples than features."""
    print(f"\nwide {X.shape}, k=20: milliseconds of PPCA, of PCA, and their ratio")
    ours, theirs = PPCA(20), PCA(20, random_state=0)
    ratio = report("fit / PCA, auto", lambda: ours.fit(X), lambda: theirs.fit(X), repeats)
    verdict.claim(f"at most half of PCA's time: {ratio:.3f}", ratio <= 0.5, timing=True)
    memory = [peak_megabytes(lambda: model.fit(X)) for model in (ours, theirs)]  # noqa: B023
    print(f"  peak of fit {memory[0]:.1f} MiB, PCA's {memory[1]:.1f} MiB")
    exact = PPCA(20, svd_solver="full").fit(X)
    error = np.abs(ours.loadings_ - exact.loadings_).max() / np.abs(exact.loadings_).max()
    verdict.claim(f"the model is the exact one: {error:.1e}", error < 1e-9)


def compare_tensors(shape, device, repeats, verdict):
    """Compare torch tensors on a device with NumPy arrays."""
    X = make_rows(*shape, 20).astype(np.float32)
    tensor = torch.asarray(X, device=device)
    print(f"\ntensors {shape}, k=20, float32, {device}: milliseconds of torch, of NumPy, ratio")
    plain, model = PPCA(20).fit(X), PPCA(20)

    def on_device(method):
        with config_context(array_api_dispatch=True):
            getattr(model, method)(tensor)
            if device != "cpu":
                torch.cuda.synchronize()

    for method in ("fit", "transform", "score_samples"):
        report(method, lambda: on_device(method), lambda: getattr(plain, method)(X), repeats)  # noqa: B023
    with config_context(array_api_dispatch=True):
        score = model.score(tensor)
    error = abs(score - plain.score(X))
    verdict.claim(f"the likelihood agrees with NumPy: {error:.1e} nats", error < 1e-5 * abs(score))
    verdict.claim("the model is on the device", model.loadings_.device == tensor.device)


def main():
    """Run all cases."""
    arguments = parse_arguments(__doc__, device={"default": "cpu"})
    verdict = Verdict(arguments.scale)
    cases, repeats = CASES[arguments.scale], arguments.repeats
    compare_sparse(cases["sparse"], repeats, verdict)
    compare_mapped(cases["mapped"], repeats, verdict)
    compare_wide(
        load_rows(arguments.data) if arguments.data else make_rows(*cases["wide"], 20),
        repeats,
        verdict,
    )
    compare_tensors(cases["tensors"], arguments.device, repeats, verdict)
    verdict.exit()


if __name__ == "__main__":
    main()
