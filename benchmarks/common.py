"""Shared code of the benchmarks: options, paired timing, peak memory and verdicts."""

import argparse
import gc
import os
import statistics
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np

# scikit-learn's array_api_dispatch requires it before scipy is imported.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

# CLOCK=processor with one thread (OMP_NUM_THREADS=1) measures what a busy machine does not change.
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
clock = CLOCKS[os.environ.get("CLOCK", "wall")]


def parse_arguments(doc, scales=("full", "smoke"), **options):
    """Parse --scale, --repeats, --data and further `options`.

    The first line of `doc` is the description, and the first scale is the default. `options` can
    redefine --data.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--scale", choices=scales, default=scales[0])
    parser.add_argument("--repeats", type=int, help="number of paired runs, for medians")
    one_file = {"type": Path, "help": "an .npz file with the samples in X"}
    for name, keywords in {"data": one_file, **options}.items():
        parser.add_argument(f"--{name}", **keywords)
    arguments = parser.parse_args()
    if arguments.repeats is None:
        arguments.repeats = 7 if arguments.scale == "full" else 1
    # All imported modules live to the end: `seconds` would search them for garbage before each run.
    gc.freeze()
    return arguments


def load_rows(path):
    """Load X of an .npz file as a float64 array of shape (n_samples, n_features)."""
    with np.load(path) as file:
        X = file["X"]
    return X.reshape(len(X), -1).astype(np.float64)


def make_rows(n, d, k):
    """Draw samples with k directions of standard deviation 10 to 1 and noise of 0.5."""
    rng = np.random.default_rng(0)
    W = np.linalg.qr(rng.normal(size=(d, k)))[0] * np.geomspace(10, 1, k)
    X = rng.normal(size=(n, k)) @ W.T
    X += 0.5 * rng.normal(size=(n, d))
    return X + rng.normal(size=d)


def seconds(function, before=None):
    """Measure the time of one call by the chosen clock; `before` is called first and does not count."""
    if before is not None:
        before()
    gc.collect()
    start = clock()
    function()
    return clock() - start


def time_pairs(ours, theirs, repeats, before=None):
    """Return pairs of the times of two functions.

    They run in turn after one warm-up. The order within a pair alternates, because the second
    function finds the caches of the first. With `before`, which is called before each run, there is
    no warm-up.
    """
    if before is None:
        ours(), theirs()
    pairs = []
    for turn in range(repeats):
        if turn % 2:
            their_time, our_time = seconds(theirs, before), seconds(ours, before)
        else:
            our_time, their_time = seconds(ours, before), seconds(theirs, before)
        pairs.append((our_time, their_time))
    return pairs


def paired_times(ours, theirs, repeats, before=None):
    """Return the median times of two functions and the median of their ratios in `time_pairs`."""
    pairs = time_pairs(ours, theirs, repeats, before)
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    return (*(statistics.median(side) for side in zip(*pairs, strict=True)), ratio)


def peak_megabytes(function):
    """Measure the peak memory of Python and NumPy during one call, in MiB above the start."""
    gc.collect()
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


class Verdict:
    """Collection of claims; the script exits with status 1 if one fails.

    At smoke scale, claims about time are printed but cannot fail.
    """

    def __init__(self, scale):
        self.scale = scale
        self.failed = []

    def claim(self, text, holds, *, timing=False):
        """Print whether `text` holds."""
        decides = not (timing and self.scale == "smoke")
        print(f"  {'ok  ' if holds else 'FAIL' if decides else 'miss'}  {text}")
        if decides and not holds:
            self.failed.append(text)

    def exit(self):
        """Exit with status 1 if a claim failed."""
        if self.failed:
            sys.exit(f"{len(self.failed)} claims failed: " + "; ".join(self.failed))
        print("all claims that are decided at this scale hold")
