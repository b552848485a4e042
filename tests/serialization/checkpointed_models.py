"""Estimators that are trained, and whether two of them are the same to the last bit."""

import numpy as np
import torch
from sklearn.base import clone
from skorch.callbacks import LRScheduler
from torch import nn

from sklearn_vae import BernoulliPPCA, DeepAutoencoder, DeepGaussianVAE, LinearVAE, Snapshot
from tests.deep import data
from tests.deep.data import make_rows

X, WIDE = make_rows(d=8), make_rows(d=40, n=100)
SHORT = {"max_epochs": 7, "checkpoint_every": 2, "batch_size": 64}
SMALL = {**data.SMALL, **SHORT}


def drawing_encoder(shape, n_outputs):
    return nn.Sequential(
        nn.Linear(shape[0], 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, n_outputs)
    )


DEEP = [
    *(model.set_params(**SHORT) for model in map(clone, data.MODELS)),
    DeepGaussianVAE(3, **SMALL, kl_warmup_epochs=5, callbacks=[Snapshot([1, 3, 7])]),
    DeepGaussianVAE(
        3, **{**SMALL, "max_epochs": 40}, early_stopping=True, n_iter_no_change=2, tol=0.05
    ),
    DeepGaussianVAE(3, **SMALL, init="ppca", early_stopping=True, kl_warmup_epochs=2),
    DeepGaussianVAE(3, **SMALL, encoder=drawing_encoder),
    DeepGaussianVAE(3, **SMALL, callbacks=[LRScheduler("MultiStepLR", milestones=[2, 5])]),
    DeepAutoencoder(3, **SMALL, callbacks=[LRScheduler("CosineAnnealingLR", T_max=7)]),
]
LINEAR = [
    LinearVAE(2, solver="em", max_iter=9, tol=0.0, checkpoint_every=2, random_state=0),
    LinearVAE(2, solver="adam", max_iter=60, tol=1e3, checkpoint_every=18, random_state=0),
    LinearVAE(
        2, solver="adam", max_iter=60, parametrization="unit_encoder", checkpoint_every=20
    ).set_params(tol=1e3, random_state=0),
    LinearVAE(
        2, solver="stochastic", max_iter=7, batch_size=32, checkpoint_every=2, random_state=0
    ).set_params(tol=1e3),
    BernoulliPPCA(2, binarize=0.0, checkpoint_every=1, random_state=0),
    BernoulliPPCA(
        1, binarize=0.0, inference="per_sample", max_iter=14, checkpoint_every=1, random_state=0
    ),
]
TRAINED = DEEP + LINEAR


def rows_of(model):
    """Wide enough for the iterations of LinearVAE not to be done at once."""
    return WIDE if isinstance(model, LinearVAE) else X


def same(one, other):
    """Whether two values, models included, are the same bit by bit; but for seconds."""
    if isinstance(one, dict) and isinstance(other, dict):  # ordered or not
        names = [name for name in one if name != "seconds"]
        return one.keys() == other.keys() and all(same(one[n], other[n]) for n in names)
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return same(one.detach().cpu().numpy(), other.detach().cpu().numpy())
    if isinstance(one, np.ndarray):
        return (
            one.dtype == other.dtype
            and one.shape == other.shape
            and one.tobytes() == other.tobytes()
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, set | frozenset):  # whose order is of no process but its own
        return {(type(part), part) for part in one} == {(type(part), part) for part in other}
    if hasattr(one, "module_") and hasattr(one, "history"):
        return same(parts_of_net(one), parts_of_net(other))
    if hasattr(one, "fit"):
        return same(fitted(one), fitted(other))
    if hasattr(one, "__dict__"):
        return same(vars(one), vars(other))
    return repr(one) == repr(other)


def parts_of_net(net):
    return {
        "module": dict(net.module_.state_dict()),
        "optimizer": net.optimizer_.state_dict(),
        "history": list(net.history),
        "generator": net.generator_.get_state(),
        "beta": net.beta_,
        "training": net.module_.training,
        "callbacks": [learned(callback) for _, callback in net.callbacks_],
    }


def learned(callback):
    """But for schedules, of which there is none where nothing was trained."""
    state = {k: v for k, v in vars(callback).items() if k.endswith("_")}
    return {k: v for k, v in state.items() if k != "lr_scheduler_"}


def fitted(model):
    """What a fit has set."""
    parameters = model.get_params()
    return {k: v for k, v in vars(model).items() if k not in parameters}
