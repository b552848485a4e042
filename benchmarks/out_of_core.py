"""PPCA of a file larger than memory takes under 1 GB, and at most 1.5 times one pass of X'X.

The file is a memory-mapped .npy of float32 samples from a known model, written block by block from a
seed. Claims:

- PPCA.fit and score use less than 1 GB of anonymous resident memory (RssAnon of a new process on
  Linux, which excludes the pages of the mapped file).
- fit takes at most 1.5 times as long as a plain loop of chunk.T @ chunk over the same file in its
  precision. Both are paired in one process, with the page cache dropped before each (cold), and with
  the whole file in it if it fits (warm).
- The file is read from disk once, and torch is not imported.
- The eigenvalues agree with those of a float64 scatter to 1e-6. Noise variance and subspace are as
  close to the truth as the number of samples permits.

Transform, sums of Moments, partial_fit and PPCACV are measured, too.

    python benchmarks/out_of_core.py [--scale smoke] [--gigabytes 20] [--folder big] [--data x.npy]

--folder keeps the file, and an interrupted write resumes. --data replaces it by another file, without
a known model.
"""

import multiprocessing
import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path

import numpy as np
from big_matrix import BigMatrix, moments_of_file
from common import Verdict, paired_times, parse_arguments, seconds
from threadpoolctl import threadpool_info

from sklearn_vae import PPCA, PPCACV, Moments
from sklearn_vae.validation import available_memory

GIGABYTES = {"full": 2.0, "smoke": 0.05}
FEATURES = {"full": 784, "smoke": 196}
K = 20
# Samples in a chunk of the plain loop, which uses the fastest of them.
CHUNKS = (2048, 8192, 32768)
# Samples in a block that is read without a memory map.
BLOCK = 16384


def mapped(path):
    """Memory-map the samples."""
    return np.load(path, mmap_mode="r")


def plain_pass(path, chunk, n_rows=None):
    """Compute the uncentered X'X in the precision of the file."""
    X = mapped(path)[:n_rows]
    S = np.zeros((X.shape[1], X.shape[1]), dtype=X.dtype)
    for start in range(0, len(X), chunk):
        block = X[start : start + chunk]
        S += block.T @ block
    return S


def fit(path):
    """Fit PPCA with its default solver."""
    return PPCA(K).fit(mapped(path))


def blocks_of(path):
    """Yield blocks of samples in memory."""
    X = mapped(path)
    with open(path, "rb") as file:
        file.seek(X.offset)
        for start in range(0, len(X), BLOCK):
            shape = (min(BLOCK, len(X) - start), X.shape[1])
            yield np.fromfile(file, X.dtype, shape[0] * shape[1]).reshape(shape)


def fit_moments(path):
    """Fit PPCA to the sum of moments of blocks in memory."""
    nothing = Moments.of(mapped(path)[:0])
    return PPCA.from_moments(sum(map(Moments.of, blocks_of(path)), nothing), n_components=K)


def fit_partially(path):
    """Fit PPCA with partial_fit of blocks in memory."""
    model = PPCA(K)
    for block in blocks_of(path):
        model.partial_fit(block)
    return model


def cross_validate(path):
    """Fit PPCACV over every k in five folds."""
    return PPCACV().fit(mapped(path)).n_components_


def score(path, model):
    """Compute the log-likelihood."""
    return model.score(mapped(path))


def transform(path, model):
    """Transform the samples into an array in memory."""
    return model.transform(mapped(path)).shape


def drop_cache(path):
    """Drop the page cache of a file, if the system can; no process may have the file mapped."""
    if not hasattr(os, "posix_fadvise"):
        return
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def of_process(name, file):
    """Read a number about this process from Linux; nan if it is not available."""
    with suppress(OSError), open(f"/proc/self/{file}") as lines:
        for line in lines:
            if line.startswith(f"{name}:"):
                return float(line.split()[1])
    return np.nan


class AnonymousPeak(threading.Thread):
    """Context that records the peak of RssAnon in MB, sampled every 2 ms."""

    def __enter__(self):
        self.peak = self.before = self._now()
        self.over = threading.Event()
        self.start()
        return self

    def run(self):
        while not self.over.wait(0.002):
            self.peak = max(self.peak, self._now())

    def __exit__(self, *exception):
        self.over.set()
        self.join()

    @staticmethod
    def _now():
        return 1024e-6 * of_process("RssAnon", "status")


def measure(function, path):
    """Call a function; return its result, time, RssAnon before and at its peak, and bytes read."""
    found = []
    before = of_process("read_bytes", "io")
    with AnonymousPeak() as anonymous:
        duration = seconds(lambda: found.append(function(path)))
    read = of_process("read_bytes", "io") - before
    return found[0], duration, anonymous.before, anonymous.peak, read


def is_torch_imported():
    """Return whether this process has imported torch."""
    return "torch" in sys.modules


def report_memory(path, verdict):
    """Measure each method in a separate process, after the page cache was dropped."""
    size = path.stat().st_size
    context = multiprocessing.get_context("spawn")
    print("\n                          seconds   RssAnon in MB, before and peak   read / file")
    with ProcessPoolExecutor(1, mp_context=context) as process:

        def report(name, function, *, out_of_core=True, reads_once=True):
            drop_cache(path)
            result, duration, before, peak, read = process.submit(measure, function, path).result()
            print(f"  {name:20s} {duration:12.2f} {before:16.1f} {peak:14.1f} {read / size:12.3f}")
            if out_of_core and not np.isnan(peak):
                # For a small file even less than a copy; blocks may take 50 MB.
                holds = peak < 1000 and peak - before < max(1e-6 * size, 50)
                verdict.claim(f"{name}: less than 1 GB and less than a copy", holds)
            if reads_once and read > 0.5 * size:  # a tmpfs or some systems report no reads
                verdict.claim(f"{name}: the file is read once", read < 1.05 * size)
            return result

        model = report("PPCA.fit", fit)
        has_torch = process.submit(is_torch_imported).result()
        verdict.claim("torch is not imported", not has_torch)
        found = report("score", partial(score, model=model))
        verdict.claim(
            f"the average over all samples is elbo_: {found:.4f}, {model.elbo_:.4f} nats",
            abs(found - model.elbo_) < 1e-5 * abs(model.elbo_),
        )
        report("transform", partial(transform, model=model), out_of_core=False)
        of_blocks = [
            report("sum of Moments", fit_moments),
            report("partial_fit", fit_partially),
        ]
        scatter, *others = [m.moments_.scatter for m in of_blocks]
        scale = np.sqrt(np.outer(scatter.diagonal(), scatter.diagonal()))
        error = max(np.abs((other - scatter) / scale).max() for other in others)
        error = max(error, abs(of_blocks[0].noise_variance_ / model.noise_variance_ - 1))
        verdict.claim(f"blocks read without a memory map agree: {error:.1e}", error < 1e-6)
        chosen = report("PPCACV, every k", cross_validate, out_of_core=False)
        print(f"  PPCACV chose k = {chosen}")
    if np.isnan(of_process("RssAnon", "status")):
        print("  RssAnon is not available on this system, so there are no claims about memory")
    return model


def report_times(path, repeats, verdict):
    """Time fit and the plain loop in pairs."""
    n_rows = 2**29 // (4 * mapped(path).shape[1])
    best = min(
        CHUNKS, key=lambda size: min(seconds(lambda: plain_pass(path, size, n_rows)) for _ in "ab")
    )
    print(f"\nseconds of PPCA.fit, of X'X in chunks of {best} samples, and ratio; {repeats} pairs")
    ways = {"cold": partial(drop_cache, path), "warm": None}
    if not hasattr(os, "posix_fadvise"):
        print("  cold: skipped, because this system cannot drop the cache")
        del ways["cold"]
    if path.stat().st_size > 0.5 * available_memory():
        print("  warm: skipped, because the file does not fit into memory")
        del ways["warm"]
    for name, before in ways.items():
        a, b, ratio = paired_times(
            lambda: fit(path), lambda: plain_pass(path, best), repeats, before=before
        )
        print(
            f"  {name:6s} {a:9.3f} {b:9.3f} {ratio:8.3f}   {path.stat().st_size / a / 1e9:.2f} GB/s"
        )
        verdict.claim(f"{name}: at most 1.5 times X'X: {ratio:.3f}", ratio <= 1.5, timing=True)


def compare_with_oracle(model, mean, covariance, verdict):
    """Compare a model with moments in float64."""
    values = np.linalg.eigvalsh(covariance)[::-1]
    found = model.explained_variance_ * (1 - 1 / model.n_samples_)
    error = (np.abs(found - values[:K]) / values[:K]).max()
    verdict.claim(f"eigenvalues agree with a float64 scatter: {error:.1e}", error < 1e-6)
    error = np.abs((model.mean_ - mean) / np.diag(covariance) ** 0.5).max()
    verdict.claim(f"the mean agrees, in standard deviations: {error:.1e}", error < 1e-6)
    noise = values[K:].mean()
    error = abs(model.noise_variance_ / noise - 1)
    verdict.claim(f"the noise variance agrees: {error:.1e}", error < 1e-6)


def compare_with_truth(model, matrix, verdict):
    """Compare a model with the truth and its expected errors, to first order in 1 / n."""
    (n, d), sigma2 = matrix.shape, matrix.noise_variance
    lengths = np.sum(matrix.loadings**2, axis=0)
    expected = sigma2 * (1 - (1 + np.sum((lengths + sigma2) / lengths)) / n)
    deviation = sigma2 * (2 / (n * (d - K))) ** 0.5
    distance = (model.noise_variance_ - expected) / deviation
    verdict.claim(
        f"noise variance {model.noise_variance_:.6f} (truth {sigma2}): {distance:+.1f} standard "
        "errors from its expectation",
        abs(distance) < 5,
    )
    Q = np.linalg.qr(matrix.loadings)[0]
    V = model.components_.T.astype(np.float64)
    squared_sines = np.sum((V - Q @ (Q.T @ V)) ** 2)
    expected = (d - K) * np.sum((lengths + sigma2) * sigma2 / lengths**2) / n
    ratio = squared_sines / expected
    verdict.claim(
        f"subspace: squared sines {squared_sines:.2e}, {ratio:.3f} times their expectation",
        0.7 < ratio < 1.4,
    )


def main():
    """Write the file if needed, and check memory, accuracy and time."""
    arguments = parse_arguments(
        __doc__,
        gigabytes={"type": float, "help": "size of the file; by default 2, 0.05 at smoke scale"},
        folder={"type": Path, "help": "folder in which to keep the file"},
        data={"type": Path, "help": "a .npy file with samples, instead of the generated one"},
    )
    verdict, scale = Verdict(arguments.scale), arguments.scale
    threads = {pool["num_threads"] for pool in threadpool_info()}
    kept = arguments.folder and nullcontext(arguments.folder)
    with kept or tempfile.TemporaryDirectory() as folder:
        matrix, path = None, arguments.data
        if path:
            mean, covariance = moments_of_file(path)
        else:
            Path(folder).mkdir(parents=True, exist_ok=True)
            n_bytes = int(1e9 * (arguments.gigabytes or GIGABYTES[scale]))
            matrix = BigMatrix(Path(folder), n_bytes, FEATURES[scale], K)
            path = matrix.path
            start = time.perf_counter()
            mean, covariance = matrix.write()
            print(f"written or found in {time.perf_counter() - start:.1f} s")
        X = mapped(path)
        print(f"{X.shape} of {X.dtype}, {X.nbytes / 1e9:.2f} GB; k={K}, threads {threads}")
        del X
        model = report_memory(path, verdict)
        compare_with_oracle(model, mean, covariance, verdict)
        if matrix:
            compare_with_truth(model, matrix, verdict)
        report_times(path, arguments.repeats, verdict)
    verdict.exit()


if __name__ == "__main__":
    main()
