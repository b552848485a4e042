"""PPCA of a Dask array is exact and reads each block once; others get the noise variance wrong.

The blocks are .npy files, read by Dask's threads in this process. Claims: the model agrees with that
of the data in memory to 1e-10 and each block is read once. scikit-learn's IncrementalPCA of the same
blocks finds a noise variance that is too small by the fraction of samples in the last block.
dask-ml's PCA (if installed) reads each block twice. Its noise variance is more than 1.1 times ours
with the default solver, and more than twice ours with "full" and fewer samples than features. In
medians of paired runs, PPCA takes at most the time of dask-ml.

    python benchmarks/dask_ppca.py [--scale smoke] [--repeats 3]
"""

import tempfile
from functools import partial
from pathlib import Path

import dask
import dask.array as da
import numpy as np
from common import Verdict, make_rows, paired_times, parse_arguments
from sklearn.decomposition import IncrementalPCA

from sklearn_vae import PPCA

try:
    from dask_ml import decomposition as dask_ml
except ImportError:
    dask_ml = None

K = 10
# Numbers of samples, features and blocks.
TALL = {"full": (400_000, 100, (1, 8, 40)), "smoke": (8_000, 40, (1, 4, 20))}
WIDE = (300, 900, 3)


class Blocks:
    """Samples in files, with a count of reads."""

    def __init__(self, folder, X, n_blocks):
        self.folder, self.reads = Path(folder), []
        self.shapes = [block.shape for block in np.array_split(X, n_blocks)]
        for i, block in enumerate(np.array_split(X, n_blocks)):
            np.save(self.folder / f"{i}.npy", block)

    def load(self, i):
        """Load block i."""
        self.reads.append(i)
        return np.load(self.folder / f"{i}.npy")

    def array(self):
        """Return all blocks as a Dask array."""
        loaded = dask.delayed(self.load, pure=False)
        return da.concatenate(
            [da.from_delayed(loaded(i), shape, float) for i, shape in enumerate(self.shapes)]
        )

    def fitted(self, model):
        """Fit a model to the Dask array."""
        return model.fit(self.array())

    def incremental(self):
        """Fit IncrementalPCA to one block after the other."""
        model = IncrementalPCA(K)
        for i in range(len(self.shapes)):
            model.partial_fit(self.load(i))
        return model

    def reads_of(self, fit):
        """Return the result of `fit` and how often it reads each block."""
        before = len(self.reads)
        model = fit()
        return model, (len(self.reads) - before) / len(self.shapes)


def same_model(model, expected):
    """Return the largest relative difference of noise variance, variances and log-likelihood."""
    pairs = [
        (model.noise_variance_, expected.noise_variance_),
        (model.explained_variance_, expected.explained_variance_),
        (model.elbo_, expected.elbo_),
    ]
    return max(np.max(np.abs(np.divide(a, b) - 1)) for a, b in pairs)


def of_tall(scale, verdict):
    """Compare noise variances and reads for several block sizes."""
    n, d, numbers = TALL[scale]
    X = make_rows(n, d, K)
    truth = PPCA(K, svd_solver="covariance_eigh").fit(X)
    print(f"{n} x {d}, k={K}: noise variance {truth.noise_variance_:.4f} in memory (truth: 0.25)")
    print("   block  size      PPCA  reads  IncrementalPCA  reads      dask-ml  reads")
    for number in numbers:
        with tempfile.TemporaryDirectory() as folder:
            blocks = Blocks(folder, X, number)
            ours, reads = blocks.reads_of(partial(blocks.fitted, PPCA(K)))
            theirs, their_reads = blocks.reads_of(blocks.incremental)
            line = f"  {n // number:12d}  {ours.noise_variance_:8.4f}  {reads:5.2f}"
            line += f"  {theirs.noise_variance_:14.4f}  {their_reads:5.2f}"
            if dask_ml is not None:
                other, dask_reads = blocks.reads_of(
                    partial(blocks.fitted, dask_ml.PCA(K, random_state=0))
                )
                line += f"  {other.noise_variance_:11.4f}  {dask_reads:5.2f}"
            print(line)
        worst = same_model(ours, truth)
        verdict.claim(f"PPCA of {number} blocks agrees with memory: {worst:.1e}", worst < 1e-10)
        verdict.claim("each block is read once", reads == 1)
        share = theirs.noise_variance_ / truth.noise_variance_ * number
        verdict.claim(
            f"IncrementalPCA's noise variance is {share:.2f} times the truth times the fraction of "
            "samples in the last block",
            0.8 < share < 1.2,
        )
    if dask_ml is not None:
        verdict.claim(f"dask-ml reads each block {dask_reads:.0f} times", dask_reads > 1)
        ratio = other.noise_variance_ / truth.noise_variance_
        verdict.claim(f"dask-ml's noise variance is {ratio:.2f} times the truth", ratio > 1.1)
    return X, numbers[-1]


def of_wide(verdict):
    """Compare noise variances with fewer samples than features, where conventions differ most."""
    n, d, number = WIDE
    X = make_rows(n, d, K)
    truth = PPCA(K, svd_solver="covariance_eigh").fit(X).noise_variance_
    with tempfile.TemporaryDirectory() as folder:
        blocks = Blocks(folder, X, number)
        ours = PPCA(K).fit(blocks.array()).noise_variance_
        print(
            f"\n{n} x {d}: noise variance {truth:.4f} in memory, {ours:.4f} of the blocks by PPCA"
        )
        verdict.claim("PPCA of blocks agrees with memory", abs(ours / truth - 1) < 1e-10)
        if dask_ml is not None:
            theirs = dask_ml.PCA(K, svd_solver="full").fit(blocks.array().rechunk((n, d)))
            ratio = theirs.noise_variance_ / truth
            print(f"  dask-ml's PCA {theirs.noise_variance_:.4f}, {ratio:.2f} times that")
            verdict.claim("dask-ml's is more than twice the maximum-likelihood estimate", ratio > 2)


def time_fits(X, number, repeats, verdict):
    """Time PPCA and the others on the same files."""
    with tempfile.TemporaryDirectory() as folder:
        blocks = Blocks(folder, X, number)
        fits = {"IncrementalPCA": blocks.incremental}
        if dask_ml is not None:
            for solver in ("auto", "full"):
                model = dask_ml.PCA(K, svd_solver=solver, random_state=0)
                fits[f"dask-ml, {solver}"] = partial(blocks.fitted, model)
        print(f"\n{number} blocks: seconds of PPCA, of the other, and their ratio")
        for name, theirs in fits.items():
            a, b, ratio = paired_times(partial(blocks.fitted, PPCA(K)), theirs, repeats)
            print(f"  {name:18} {a:.3f} {b:.3f} {ratio:.2f}")
            if name != "IncrementalPCA":
                verdict.claim(f"at most the time of {name}: {ratio:.2f}", ratio <= 1, timing=True)


def main():
    """Compare noise variances, reads and times."""
    arguments = parse_arguments(__doc__)
    verdict = Verdict(arguments.scale)
    X, number = of_tall(arguments.scale, verdict)
    of_wide(verdict)
    time_fits(X, number, min(arguments.repeats, 5), verdict)
    if dask_ml is None:
        print("dask-ml is not installed and left out")
    verdict.exit()


if __name__ == "__main__":
    main()
