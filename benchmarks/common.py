"""What the benchmark scripts share: their options, paired timing, peak memory, verdicts."""

import argparse
import gc
import os
import statistics
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np

# What scikit-learn's array_api_dispatch needs to be set before scipy is imported.
os.environ.setdefault("SCIPY_ARRAY_API", "1")


def parse_arguments(doc, scales=("full", "smoke"), **options):
    """--scale, --repeats and --data, and what `options` adds; `doc` is the script's claim.

    The first of the scales is the one where none is said; `options` may have its own --data.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--scale", choices=scales, default=scales[0])
    parser.add_argument("--repeats", type=int, help="paired runs; the median is printed")
    one_file = {"type": Path, "help": "an .npz file with the rows in X"}
    for name, keywords in {"data": one_file, **options}.items():
        parser.add_argument(f"--{name}", **keywords)
    arguments = parser.parse_args()
    if arguments.repeats is None:
        arguments.repeats = 7 if arguments.scale == "full" else 1
    return arguments


def load_rows(path):
    """X of an .npz file as float64 rows, one a sample."""
    with np.load(path) as file:
        X = file["X"]
    return X.reshape(len(X), -1).astype(np.float64)


def make_rows(n, d, k):
    """k directions of standard deviation 10 to 1 in noise of 0.5, with a mean."""
    rng = np.random.default_rng(0)
    W = np.linalg.qr(rng.normal(size=(d, k)))[0] * np.geomspace(10, 1, k)
    X = rng.normal(size=(n, k)) @ W.T
    X += 0.5 * rng.normal(size=(n, d))
    return X + rng.normal(size=d)


def seconds(function, before=None):
    """Wall time of one call, after one of `before`, which does not count."""
    if before is not None:
        before()
    gc.collect()
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def paired_times(ours, theirs, repeats, before=None):
    """Median seconds of both, and the median of their ratios, run in turn after one warm-up.

    The order within a pair alternates, so that neither always finds the caches of the other. With
    `before`, which is called before each, there is no warm-up.
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
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    return (*(statistics.median(side) for side in zip(*pairs, strict=True)), ratio)


def peak_megabytes(function):
    """Largest memory that Python and NumPy hold at once during one call, beyond the start."""
    gc.collect()
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


class Verdict:
    """Collects claims; a failed one makes the script exit non-zero.

    At smoke scale a claim about time is printed and does not decide.
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
        """Leave with status 1 if a claim failed."""
        if self.failed:
            sys.exit(f"{len(self.failed)} of the claims failed: " + "; ".join(self.failed))
        print("every claim that decides at this scale holds")
