"""What the two processes of test_distributed.py do: `python -m tests.training.joint_fits RANK FOLDER`.

Each writes what it has found to FOLDER; in the end the second is killed. They find each other by a
file there, so that no port has to be free.
"""

import os
import pickle
import signal
import socket
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from sklearn.base import clone
from skorch.callbacks import Callback, EarlyStopping
from torch import distributed, nn

from sklearn_vae import DeepBernoulliVAE, DeepGaussianVAE, LinearVAE, Processes, Snapshot
from sklearn_vae.serialization.checkpoint import Checkpoint
from sklearn_vae.training.learning_rate_limit import sum_of_deviations
from sklearn_vae.training.loop import VAENet
from tests.deep.data import MODELS, SMALL, make_rows

SIZE = 2
X = make_rows()
SHARDS = [X[:90], X[90:]]
WEIGHTS = np.random.default_rng(0).integers(0, 3, size=len(X)) * np.r_[np.ones(90), np.full(60, 4)]
WEIGHTS_OF_SHARDS = [WEIGHTS[:90], WEIGHTS[90:]]
WEIGHTED = [MODELS[0], MODELS[1], MODELS[7], MODELS[-1]]

# Ends where it begins: at pPCA.
START = DeepGaussianVAE(3, **SMALL, init="ppca", noise_variance=0.5, learning_rate=1e-12)


def told(model):
    """All that processes must have in common of a fitted model."""
    history = {name: values for name, values in model.history_.items() if name != "seconds"}
    found = {"mean": model.mean_, "scale": model.scale_}
    names = ("elbo_", "entropy_bound_", "kl_per_dim_", "collapsed_dims_", "noise_variance_")
    found |= {name: getattr(model, name) for name in names if hasattr(model, name)}
    state = {name: tensor.numpy() for name, tensor in model.module_.state_dict().items()}
    return {**found, **state, "history": history}


def error_of(model, rows, processes, weights=None):
    """The error of a fit."""
    try:
        model.fit(rows, sample_weight=weights, processes=processes)
    except (ValueError, FloatingPointError, RuntimeError) as error:
        return type(error).__name__, str(error)
    return None


def with_batch_norm(shape, n_outputs):
    return nn.Sequential(nn.Linear(shape[0], 16), nn.BatchNorm1d(16), nn.Linear(16, n_outputs))


class Transposed(nn.Module):
    """A linear map whose matrix lies in memory by columns."""

    def __init__(self, n_inputs, n_outputs):
        super().__init__()
        start = torch.randn(n_inputs, n_outputs, generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter(0.1 * start.t())

    def forward(self, x):
        return x @ self.weight.t()


def by_columns(shape, n_outputs):
    return Transposed(shape[0], n_outputs)


class Poison(Callback):
    """Not a number in the first step of an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_grad_computed(self, net, named_parameters, **kwargs):
        if len(net.history) == self.epoch:
            named_parameters[0][1].grad.fill_(np.nan)


class At(Callback):
    """Calls a function at the end of an epoch."""

    def __init__(self, epoch, function):
        self.epoch, self.function = epoch, function

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == self.epoch:
            self.function()


class Stopped(BaseException):
    """Stands for a kill."""


def all_models(rank):
    """Every kind of model, on unequal shards."""
    with Processes() as processes:
        return [told(clone(model).fit(SHARDS[rank], processes=processes)) for model in MODELS]


def what_else(rank, folder):
    """All else that a fit may be asked for."""
    rows, vae = SHARDS[rank], DeepGaussianVAE(3, **SMALL)
    found = {}
    with Processes() as processes:
        found["rank"] = processes.rank, processes.size
        found["sum"] = processes.sum(float(rank + 1)), processes.sum(np.full(2, rank + 1.0))
        found["no seed"] = told(
            clone(vae).set_params(random_state=None).fit(rows, processes=processes)
        )
        found["batch norm"] = told(
            clone(vae).set_params(encoder=with_batch_norm).fit(rows, processes=processes)
        )
        found["by columns"] = told(
            clone(vae).set_params(encoder=by_columns).fit(rows, processes=processes)
        )
        stops = clone(vae).set_params(
            early_stopping=True, max_epochs=50, n_iter_no_change=2, learning_rate=0.02
        )
        found["early stopping"] = told(stops.fit(rows, processes=processes))
        start = clone(START).fit(rows, processes=processes)
        found["start"], found["seen"] = told(start), sum_of_deviations(start.net_.optimizer_)
        kept = clone(vae).set_params(callbacks=[Snapshot([1, 2])]).fit(rows, processes=processes)
        found["snapshots"] = {epoch: told(model) for epoch, model in kept.snapshots_.items()}
        own = WEIGHTS_OF_SHARDS[rank]
        found["weighted"] = [
            told(clone(model).fit(rows, sample_weight=own, processes=processes))
            for model in WEIGHTED
        ]
        equal = clone(vae).fit(rows, sample_weight=np.full(len(rows), 3.0), processes=processes)
        found["equal weights"] = told(equal)
        weighted_start = clone(START).fit(rows, sample_weight=own, processes=processes)
        found["weighted start"] = told(weighted_start)
        again = (
            clone(vae)
            .set_params(warm_start=True, early_stopping=True)
            .fit(rows, processes=processes)
        )
        # As where it was loaded from one file in every process.
        again.net_.generator_.manual_seed(0)
        found["warm start"] = told(again.fit(rows, processes=processes))
        found["draws"] = again.net_.generator_.initial_seed()
        linear = LinearVAE(2, solver="stochastic", max_iter=3, tol=1e3, random_state=0)
        found["linear"] = linear.fit(rows).loadings_
        poison = [Poison(2)] if rank == 1 else None
        found["not finite"] = error_of(clone(vae).set_params(callbacks=poison), rows, processes)
    found["checkpoints"] = checkpoints(rows, folder / str(rank), rank)
    return found


def what_differs(rank, folder):
    """Fits whose parts in the two processes do not belong together, each in a context of its own."""
    rows, vae = SHARDS[rank], DeepGaussianVAE(3, **SMALL)
    names = [f"x{i}" for i in range(X.shape[1])]
    stop = EarlyStopping("train_loss", patience=1, threshold=1e9, threshold_mode="abs")
    fits = {
        "parameters": (DeepGaussianVAE(3 + rank, **SMALL), rows),
        "models": ((DeepGaussianVAE if rank else DeepBernoulliVAE)(3, **SMALL), rows > 0),
        "feature names": (vae, pd.DataFrame(rows, columns=names[:: 1 - 2 * rank])),
        "weights": (vae, rows),
        "few rows": (DeepGaussianVAE(1, **SMALL), X if rank else X[:2]),
        "checkpoint": (DeepGaussianVAE(3, **SMALL, checkpoint=folder if rank else None), rows),
        "snapshots": (DeepGaussianVAE(3, **SMALL, callbacks=[Snapshot([1])] if rank else []), rows),
        "stops": (DeepGaussianVAE(3, **SMALL, callbacks=[stop] if rank else []), rows),
    }
    found = {}
    for name, (model, own) in fits.items():
        with suppress(RuntimeError), Processes() as processes:
            weights = np.ones(len(own)) if name == "weights" and rank else None
            found[name] = error_of(model, own, processes, weights)
    try:
        with Processes() as processes:
            if rank == 0:
                found["one fits"] = error_of(clone(vae), rows, processes)
    except RuntimeError as error:
        found.setdefault("one fits", (type(error).__name__, str(error)))
    return found


def checkpoints(rows, folder, rank):
    """A fit that goes on, one that was finished, and one that cannot since a file is gone."""

    def fit(model):
        with Processes() as processes:
            return model.fit(rows, processes=processes)

    vae = DeepGaussianVAE(3, **{**SMALL, "max_epochs": 6})
    found = {"whole": told(fit(clone(vae)))}
    vae.set_params(checkpoint=folder, checkpoint_every=2)
    save, run = Checkpoint.save, VAENet.train_epoch

    def stop_in_epoch_4(file, state, **options):
        save(file, state, **options)
        if len(state["net"]["history"]) == 4:
            raise Stopped

    def count(net, *arguments):
        epochs.append(0)
        return run(net, *arguments)

    for name in ("resumed", "anew"):
        with suppress(Stopped), patch.object(Checkpoint, "save", stop_in_epoch_4):
            fit(clone(vae))
        if name == "anew" and rank == 1:
            next(folder.iterdir()).unlink()
        epochs = []
        with (
            patch.object(VAENet, "train_epoch", count),
            warnings.catch_warnings(record=True) as w,
        ):
            warnings.simplefilter("always")
            found[name] = told(fit(clone(vae))), len(epochs), [str(e.message) for e in w]
        found[f"{name}, finished"] = told(fit(clone(vae)))
        next(folder.iterdir()).unlink()
    return found


def lost(rank, folder):
    """An error in one process, which goes on to live; then a fit by both."""
    found = {}
    with suppress(RuntimeError), Processes() as processes:
        bad = np.where(np.arange(60)[:, None] == 5, np.inf, SHARDS[1])
        found["error"] = error_of(
            DeepGaussianVAE(3, **SMALL), bad if rank else SHARDS[0], processes
        )
        (folder / f"error {rank}").touch()
        until = time.monotonic() + 60
        while not (folder / "error 0").exists() and time.monotonic() < until:
            time.sleep(0.05)
        found["both know"] = (folder / "error 0").exists()
    with Processes() as processes:
        found["after"] = told(DeepGaussianVAE(3, **SMALL).fit(SHARDS[rank], processes=processes))
    interrupt = At(1, lambda: signal.raise_signal(signal.SIGINT) if rank else None)
    with suppress(RuntimeError), Processes() as processes:
        model = DeepGaussianVAE(3, **SMALL, callbacks=[interrupt])
        found["interrupt"] = error_of(model, SHARDS[rank], processes)
        found["is fitted"] = hasattr(model, "net_")
    sleeper = At(1, lambda: time.sleep(6 * rank))
    with suppress(RuntimeError), Processes(timeout=3) as processes:
        slow = DeepGaussianVAE(3, **SMALL, callbacks=[sleeper])
        found["silent"] = error_of(slow, SHARDS[rank], processes)
    return found


def not_joined():
    """The error of a process that enters as the first of two and stays alone."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    first = {"RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    try:
        with patch.dict(os.environ, first):
            Processes(timeout=1).__enter__()
    except RuntimeError as error:
        return type(error).__name__, str(error)
    finally:
        PartialState._reset_state()  # as in a process that has not tried
    return None


def end_with_a_kill(rank, folder):
    """The second process is killed in the middle of a fit."""

    def die():
        (folder / "killed").write_text(str(time.time()))
        os.kill(os.getpid(), signal.SIGKILL)

    vae = DeepGaussianVAE(3, **SMALL)
    with Processes() as processes:
        vae.set_params(callbacks=[At(2, die)] if rank else None)
        vae.fit(SHARDS[rank], processes=processes)


def main(rank, folder):
    rank, folder = int(rank), Path(folder)
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "The model overfits|Training (ended|has not converged)")
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(SIZE),
        "LOCAL_WORLD_SIZE": str(SIZE),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "1",
    }
    alone = not_joined()  # in both, since torch counts the groups
    store = f"file://{folder / 'store'}"
    distributed.init_process_group("gloo", store, world_size=SIZE, rank=rank)
    found = {"models": all_models(rank), **what_else(rank, folder), **lost(rank, folder)}
    found |= {"differs": what_differs(rank, folder), "not joined": alone}
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(found))
    end_with_a_kill(rank, folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
