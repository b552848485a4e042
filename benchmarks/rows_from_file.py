"""Models of a memory-mapped file take little memory: PPCA, and deep models trained in blocks.

The files are float32 samples of a known model. Each fit runs in a new process. Claims:

- PPCA.fit of a memory map takes less anonymous memory than scikit-learn's IncrementalPCA, and less
  time. Both have the same eigenvalues as a float64 scatter, PPCA to 1e-6.
- DeepGaussianVAE.fit and score of a memory map take at most 300 MB of anonymous memory beyond an
  imported library, which is less than the file at full scale.
- Its ELBO is at most 0.5 % below that of the same samples in memory (5 % at smoke scale, whose few
  epochs depend on the order of the samples), and its epochs take at most 1 / 0.9 times as long.
- A fit of networks 784-1024-512-200 from pPCA to 60000 samples in memory takes, besides X, the memory of
  X (centered and scaled), five sets of parameters and a batch (full scale only).

    python benchmarks/rows_from_file.py [--scale smoke] [--folder big]

Anonymous memory (RssAnon of Linux) excludes the pages of the mapped file. --folder keeps the files.
"""

import multiprocessing
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from big_matrix import BigMatrix, moments_of_file
from common import Verdict, parse_arguments
from out_of_core import drop_cache, mapped, measure
from sklearn.decomposition import IncrementalPCA

from sklearn_vae import PPCA

K = 20
# Bytes and numbers of features of the files for PPCA and for the deep model.
FILES = {"full": ((2e9, 500), (2e9, 784)), "smoke": ((2e7, 100), (7.5e7, 392))}
WIDTHS = {"full": 256, "smoke": 16}
NETWORK = {
    "init": None,
    "max_epochs": 2,
    "batch_size": 256,
    "noise_variance_init": 1.0,
    "random_state": 0,
}


def warm_up():
    """Import what a deep model needs, by a small fit."""
    from sklearn_vae import DeepGaussianVAE  # here, since it takes seconds and PPCA needs no torch

    warnings.simplefilter("ignore")
    X = np.random.default_rng(0).normal(size=(100, 5)).astype(np.float32)
    DeepGaussianVAE(2, hidden_layer_sizes=(8,), init=None, max_epochs=1).fit(X)


def fit_ppca(path):
    """Fit PPCA to the memory map; return its eigenvalues."""
    return PPCA(K).fit(mapped(path)).explained_variance_


def fit_incrementally(path):
    """Fit IncrementalPCA to the memory map; return its eigenvalues."""
    return IncrementalPCA(K).fit(mapped(path)).explained_variance_


def fit_deep(path, width, in_memory):
    """Train a deep model; return its ELBO, its score of a file and the seconds of its last epoch."""
    from sklearn_vae import DeepGaussianVAE

    X = np.array(mapped(path)) if in_memory else mapped(path)
    vae = DeepGaussianVAE(K, hidden_layer_sizes=(width,), **NETWORK).fit(X)
    return vae.elbo_, None if in_memory else vae.score(X), vae.history_["seconds"][-1]


def fit_large_networks(path):
    """Train large networks from pPCA for an epoch; return the MB of X and of the parameters."""
    from sklearn_vae import DeepGaussianVAE

    X = np.array(mapped(path))
    options = {**NETWORK, "init": "ppca", "noise_variance_init": None, "max_epochs": 1}
    vae = DeepGaussianVAE(200, hidden_layer_sizes=(1024, 512), **options).fit(X)
    n_parameters = sum(parameter.numel() for parameter in vae.module_.parameters())
    return 1e-6 * X.nbytes, 4e-6 * n_parameters


def measured(function, path, before=None):
    """Call a function in a new process; return its result, time, and MB of anonymous memory."""
    drop_cache(path)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        if before is not None:
            process.submit(before).result()
        result, duration, start, peak, _ = process.submit(measure, function, path).result()
    return result, duration, peak - start


def report_ppca(folder, n_bytes, d, verdict):
    """Compare PPCA with IncrementalPCA."""
    matrix = BigMatrix(folder, int(n_bytes), d, K)
    matrix.write()
    n = matrix.shape[0]
    exact = n / (n - 1) * np.linalg.eigvalsh(moments_of_file(matrix.path)[1])[::-1][:K]
    print(f"\n{matrix.shape[0]} x {d} float32, {1e-6 * n_bytes:.0f} MB in a file, k = {K}")
    print("                   seconds   MB   error of the eigenvalues")
    found = {}
    for name, function in (("PPCA", fit_ppca), ("IncrementalPCA", fit_incrementally)):
        values, duration, memory = measured(function, matrix.path)
        error = np.abs(values / exact - 1).max()
        found[name] = duration, memory
        print(f"  {name:15s} {duration:9.2f} {memory:6.1f}   {error:.1e}")
        if name == "PPCA":
            verdict.claim(
                f"PPCA has the eigenvalues of a float64 scatter: {error:.1e}", error < 1e-6
            )
    (ours, our_memory), (theirs, their_memory) = found.values()
    if np.isfinite(our_memory):
        text = f"PPCA takes less memory: {our_memory:.1f} and {their_memory:.1f} MB"
        verdict.claim(text, our_memory < their_memory)
    verdict.claim(f"PPCA takes {ours / theirs:.3f} of the time", ours < theirs, timing=True)


def report_deep(folder, n_bytes, d, verdict):
    """Compare a deep model of a file with one of the same samples in memory."""
    matrix = BigMatrix(folder, int(n_bytes), d, K)
    matrix.write()
    print(f"\n{matrix.shape[0]} x {d} float32, {1e-6 * n_bytes:.0f} MB: DeepGaussianVAE({K})")
    print("                 seconds      MB   seconds of an epoch        ELBO")
    found = {}
    for in_memory in (False, True):
        function = partial(fit_deep, width=WIDTHS[verdict.scale], in_memory=in_memory)
        (elbo, score, epoch), duration, memory = measured(function, matrix.path, warm_up)
        name = "memory" if in_memory else "file"
        print(f"  {name:12s} {duration:9.2f} {memory:9.1f} {epoch:12.2f} {elbo:16.3f}")
        found[name] = elbo, score, epoch, memory
    elbo, score, epoch, memory = found["file"]
    if np.isfinite(memory):
        verdict.claim(f"at most 300 MB of anonymous memory: {memory:.1f}", memory <= 300)
    behind = (found["memory"][0] - elbo) / abs(elbo)
    # The order of the samples is another one, and the few epochs of "smoke" depend on it.
    limit = 0.005 if verdict.scale == "full" else 0.05
    verdict.claim(
        f"the ELBO is at most {limit:.1%} below that in memory: {behind:+.2%}", behind < limit
    )
    error = abs(score / elbo - 1)
    verdict.claim(f"the score, in blocks, is the ELBO of the fit to {error:.1e}", error < 1e-2)
    ratio = found["memory"][2] / epoch
    verdict.claim(f"{ratio:.2f} of the speed in memory", ratio >= 0.9, timing=True)


def report_large_networks(folder, verdict):
    """Measure the memory of a fit in memory."""
    matrix = BigMatrix(folder, 60000 * 784 * 4, 784, K)
    matrix.write()
    (data, parameters), _, memory = measured(fit_large_networks, matrix.path, warm_up)
    own = memory - data
    print(f"\n60000 x 784 float32, {data:.0f} MB, in memory: networks of {parameters:.0f} MB")
    batch = 1e-6 * NETWORK["batch_size"] * 784 * 4
    if np.isfinite(memory):
        sets = (own - data - batch) / parameters
        text = f"{own:.0f} MB besides X, which are those of X, of a batch and of {sets:.1f} sets"
        verdict.claim(f"{text} of parameters (at most 5)", sets <= 5)


if __name__ == "__main__":
    options = {"folder": {"type": Path, "help": "folder that keeps the files"}}
    arguments = parse_arguments(__doc__, **options)
    verdict = Verdict(arguments.scale)
    with tempfile.TemporaryDirectory() as temporary:
        for report, (size, n_features) in zip(
            (report_ppca, report_deep), FILES[arguments.scale], strict=True
        ):
            own = (arguments.folder or Path(temporary)) / report.__name__
            own.mkdir(parents=True, exist_ok=True)
            report(own, size, n_features, verdict)
        if arguments.scale == "full":
            own = (arguments.folder or Path(temporary)) / report_large_networks.__name__
            own.mkdir(parents=True, exist_ok=True)
            report_large_networks(own, verdict)
    verdict.exit()
