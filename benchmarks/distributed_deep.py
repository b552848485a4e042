"""Two processes that fit one deep VAE on half of the samples each match one process on all.

The script starts its processes with torchrun, on CPUs with gloo. The model has 8 latent dimensions
and is fitted to digits. The ELBO of the training samples is in nats per sample, as a mean over seeds
with its standard error.

Claims: two processes with batches of 60 reach the ELBO of one with batches of 120 to three standard
errors. Both end with exactly the same parameters. If one is killed during a fit, the run ends with
an error within 30 seconds. Messages take less than half of a step of networks with 10^6 parameters;
a joint fit is timed against independent fits of both processes at the same time.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import Verdict, make_rows, parse_arguments
from sklearn.datasets import load_digits
from skorch.callbacks import Callback

from sklearn_vae import DeepGaussianVAE, Processes

BATCH = 60
OPTIONS = {"folder": {"type": Path, "help": "folder of results; set by the script itself"}}

# Samples, features and hidden layers of the timed fits.
TIMED = {
    "full": [(4096, 64, (64,)), (2048, 784, (512, 256))],
    "smoke": [(1024, 64, (64,)), (512, 784, (512, 256))],
}


class KilledAfter(Callback):
    """Callback that kills its process at the end of an epoch."""

    def __init__(self, epoch, told):
        self.epoch, self.told = epoch, told

    def on_epoch_end(self, net, **kwargs):
        """Record the time and kill the process."""
        if len(net.history) == self.epoch:
            self.told.write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)


def digits_vae(seed, epochs, **options):
    """Return the model of the first claims."""
    return DeepGaussianVAE(
        8, hidden_layer_sizes=(64,), max_epochs=epochs, random_state=seed, **options
    )


def plan(scale):
    """Return seeds, epochs and timed epochs."""
    return (range(8), 40, 4) if scale == "full" else (range(2), 10, 1)


def loss(processes, X, scale):
    """Return the ELBO of joint fits and whether all processes have the same parameters."""
    seeds, epochs, _ = plan(scale)
    bounds, same = [], True
    for seed in seeds:
        vae = digits_vae(seed, epochs, batch_size=BATCH)
        vae.fit(X[processes.rank :: processes.size], processes=processes)
        bounds.append(vae.elbo_)
        for tensor in vae.module_.state_dict().values():
            numbers = tensor.numpy()
            same &= np.array_equal(numbers * processes.size, processes.sum(numbers))
    return {"bounds": bounds, "same": bool(same)}


def seconds_of_epochs(n, d, layers, epochs, seed, processes=None):
    """Return the median time of an epoch, its number of batches and that of parameters."""
    X = np.float32(make_rows(n, d, 16))
    vae = DeepGaussianVAE(
        16, hidden_layer_sizes=layers, batch_size=128, max_epochs=epochs + 1, random_state=seed
    ).fit(X, processes=processes)
    size = sum(parameter.numel() for parameter in vae.module_.parameters())
    return float(np.median(vae.history_["seconds"][1:])), n // 128, size


def work(arguments):
    """Do the work of one process, which is killed in the end if it is the last."""
    X = load_digits().data
    with Processes() as processes:
        told = loss(processes, X, arguments.scale)
    told["times"] = []
    for n, d, layers in TIMED[arguments.scale]:
        turns = []
        for turn in range(arguments.repeats):
            with Processes() as processes:
                together = seconds_of_epochs(
                    n, d, layers, plan(arguments.scale)[2], turn, processes
                )
            # Both leave the context at the same time, then do the same work without messages.
            apart = seconds_of_epochs(n, d, layers, plan(arguments.scale)[2], turn)
            turns.append((together[0], apart[0]))
        told["times"].append((turns, *together[1:]))
    if processes.rank == 0:
        (arguments.folder / "told").write_text(json.dumps(told))
    with Processes() as processes:
        callbacks = [KilledAfter(2, arguments.folder / "killed")] if processes.rank else None
        digits_vae(0, 10**6, callbacks=callbacks).fit(X, processes=processes)


def run_two(folder, arguments):
    """Start two processes of this script; return the exit status and stderr."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    own = [__file__, "--folder", str(folder), "--scale", arguments.scale]
    own += ["--repeats", str(arguments.repeats)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    done = subprocess.run(
        command + own, env=environment, capture_output=True, text=True, check=False, timeout=3600
    )
    return done.returncode, done.stderr


def main(arguments):
    """Check the claims."""
    verdict = Verdict(arguments.scale)
    X, (seeds, epochs, _) = load_digits().data, plan(arguments.scale)
    alone = [digits_vae(seed, epochs, batch_size=2 * BATCH).fit(X).elbo_ for seed in seeds]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        status, errors = run_two(folder, arguments)
        if not (folder / "killed").exists():
            sys.exit(errors)
        after = time.time() - float((folder / "killed").read_text())
        told = json.loads((folder / "told").read_text())
    means = [np.mean(bounds) for bounds in (told["bounds"], alone)]
    error = np.sqrt(sum(np.var(b, ddof=1) / len(b) for b in (told["bounds"], alone)))
    print(f"ELBO of two processes {means[0]:.2f}, of one {means[1]:.2f}, +- {error:.2f}")
    # The standard error of two seeds is unreliable, so the tolerance is then half a nat.
    tolerance = max(3 * error, 0.5)
    verdict.claim(
        "the ELBO is that of one process with all samples", abs(means[0] - means[1]) < tolerance
    )
    verdict.claim("both processes have exactly the same parameters", told["same"])
    found = "has lost another process" in errors or "SIGKILL" in errors
    verdict.claim(
        f"a killed process ends the run with an error: status {status}, {after:.1f} s later",
        status != 0 and found and after < 30,
    )
    for (_, d, layers), (turns, steps, size) in zip(
        TIMED[arguments.scale], told["times"], strict=True
    ):
        together, apart = np.median(turns, axis=0)
        overhead = np.median([a / b for a, b in turns])
        print(
            f"{d} features, hidden {layers}, {size} parameters: {1e3 * together / steps:.2f} ms per "
            f"step together, {1e3 * apart / steps:.2f} apart, {overhead:.2f}x; "
            f"{4e-6 * size:.2f} MB each way per step and process"
        )
    verdict.claim("messages take less than half of a large step", overhead < 2, timing=True)
    verdict.exit()


if __name__ == "__main__":
    given = parse_arguments(__doc__, **OPTIONS)
    if given.folder:
        work(given)
    else:
        main(given)
