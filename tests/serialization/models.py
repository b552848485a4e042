"""Fitted models of every kind, and what it means that two are the same."""

import copy
import math

import numpy as np
import pandas as pd
import sklearn
import torch
from sklearn.base import BaseEstimator
from sklearn.datasets import load_digits, load_iris
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    PowerTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.utils.metadata_routing import MetadataRequest

from sklearn_vae import (
    PPCA,
    PPCACV,
    BernoulliPPCA,
    ConvDecoder,
    ConvEncoder,
    DeepAutoencoder,
    DeepBernoulliVAE,
    DeepGaussianVAE,
    DensityPipeline,
    Dequantizer,
    FactorAnalysis,
    FactorAnalysisCV,
    FactorAnalysisImputer,
    GaussianImputer,
    LinearVAE,
    LogitTransformer,
    MixedFactorAnalysis,
    Moments,
    OutlierDetector,
    PlainConvDecoder,
    PlainConvEncoder,
    PPCAImputer,
    ResidualDecoder,
    ResidualEncoder,
    Snapshot,
    SoftThresholdDecoder,
    TabularVAE,
)
from sklearn_vae.public import ESTIMATORS
from sklearn_vae.serialization import load, save
from sklearn_vae.serialization.models import RECORDS, SCALERS
from sklearn_vae.training.loop import VAENet
from tests.sharing import shared

DIGITS = load_digits().data[:200]
IRIS = load_iris().data
HOLES = np.where(np.random.default_rng(0).uniform(size=IRIS.shape) < 0.1, np.nan, IRIS)
NAMED = load_iris(as_frame=True).data
TABLE = pd.DataFrame(
    {
        "a": IRIS[:, 0],
        "kind": pd.Categorical.from_codes(load_iris().target, ["x", "y", "z"]),
        "wide": IRIS[:, 1] > 3.0,
        "rank": np.rint(IRIS[:, 2]).astype(int),
        "text": [None, *np.where(IRIS[1:, 3] > 1.0, "big", "small")],
    }
)
BITS = (DIGITS > 7).astype(float)
IMAGES = {"image_shape": (1, 8, 8)}
SMALL = {"hidden_layer_sizes": (6,), "max_epochs": 2, "batch_size": 32}


def random_state():
    state = np.random.RandomState(3)
    state.standard_normal(7)  # half of a pair is kept
    return state


def gaussian(**parameters):
    return DeepGaussianVAE(2, **{**SMALL, "random_state": 0, **parameters})


def ppca_of_tensors():
    with sklearn.config_context(array_api_dispatch=True):
        return PPCA(2).fit(torch.asarray(IRIS))


# What is fitted to what; functions where it is more than that.
LINEAR = {
    "ppca": (PPCA(2), IRIS),
    "ppca-float32": (PPCA(2, coordinates="whitened"), DIGITS.astype(np.float32)),
    "ppca-fixed": (PPCA(2, noise_variance=np.float32(0.5)), IRIS),
    "ppca-mle": (PPCA("mle", svd_solver="full"), IRIS),
    "factors-cv": (FactorAnalysisCV([0, 1], cv=2, rotation="varimax"), HOLES),
    "factors": (FactorAnalysis(2, noise_variance=0.1, rotation="oblimin"), HOLES),
    "ppca-none": (PPCA(0), IRIS),
    "ppca-without-noise": (PPCA(), IRIS[:3]),
    "ppca-random": (PPCA(3, svd_solver="randomized", random_state=random_state()), DIGITS),
    "ppca-incomplete": (PPCA(2), HOLES),
    "ppca-named": (PPCA(2).set_output(transform="pandas"), NAMED),
    "ppca-moments": (lambda: PPCA.from_moments(Moments.of(IRIS), n_components=2), IRIS),
    "ppca-stream": (lambda: PPCA(2).partial_fit(IRIS[:70]).partial_fit(IRIS[70:]), IRIS),
    "ppca-tensors": (ppca_of_tensors, IRIS),
    "ppcacv": (PPCACV([1, 2], noise_variance=[None, 0.5]), IRIS),
    "ppcacv-range": (PPCACV(range(1, 4), noise_variance=np.array([0.1, 0.5]), cv=2), IRIS),
    "ppcacv-splits": (PPCACV(cv=[(np.arange(99), np.arange(99, 150))]), NAMED),
    "imputer": (PPCAImputer(1, add_indicator=True, random_state=random_state()), HOLES),
    "mixed": (MixedFactorAnalysis(1, tol=1e-3, random_state=0), TABLE),
    "factor-imputer": (FactorAnalysisImputer(1, n_fits=2, random_state=0), HOLES),
    "gaussian-imputer": (GaussianImputer(n_fits=2), HOLES),
    "imputer-other": (PPCAImputer(1, missing_values=-1.0), np.nan_to_num(HOLES, nan=-1.0)),
    "bernoulli": (BernoulliPPCA(2, max_iter=500), BITS),
    "bernoulli-rows": (BernoulliPPCA(1, inference="per_sample", binarize=7, max_iter=500), DIGITS),
    "dequantizer": (Dequantizer(17, random_state=0), DIGITS),
    "logit": (LogitTransformer(0.05), IRIS / 10),
    "pipeline": (
        DensityPipeline([("u", Dequantizer(17, random_state=0)), ("model", PPCA(3))]),
        DIGITS,
    ),
    "pipeline-scaled": (
        DensityPipeline(
            [
                ("standard", StandardScaler()),
                ("as it is", "passthrough"),
                ("mean", StandardScaler(with_std=False)),
                ("nothing", StandardScaler(with_mean=False, with_std=False)),
                ("robust", RobustScaler(with_centering=False)),
                ("max", MaxAbsScaler()),
                ("power", PowerTransformer()),
                ("unscaled", PowerTransformer(standardize=False)),
                ("range", MinMaxScaler((1, 2))),
                ("box-cox", PowerTransformer("box-cox").set_output(transform="pandas")),
                ("model", PPCA(2)),
            ]
        ),
        NAMED,
    ),
    "outliers": (OutlierDetector(random_state=0), IRIS),
    "outliers-split": (
        OutlierDetector(
            DensityPipeline([("scale", StandardScaler()), ("model", PPCA(2))]),
            statistic="spe",
            level=0.1,
            cv=0.5,
            random_state=random_state(),
        ),
        NAMED,
    ),
    "linear": (LinearVAE(2, random_state=0), NAMED),
    "linear-unit": (LinearVAE(2, parametrization="unit_encoder", noise_variance=0.1), IRIS),
    "linear-adam": (LinearVAE(2, solver="adam", max_iter=20, tol=1e3, random_state=0), IRIS),
    "linear-draws": (LinearVAE(2, solver="stochastic", max_iter=2, tol=1e3, device="cpu"), IRIS),
    "linear-stream": (lambda: LinearVAE(2).partial_fit(IRIS[:70]).partial_fit(IRIS[70:]), IRIS),
}
DEEP = {
    "gaussian": (gaussian(), IRIS),
    "gaussian-float32": (gaussian(random_state=random_state()), IRIS.astype(np.float32)),
    "gaussian-named": (gaussian(hidden_layer_sizes=[6, 4], activation="gelu"), NAMED),
    "gaussian-arrays": (
        gaussian(
            hidden_layer_sizes=np.array([6]),
            noise_model="diagonal",
            noise_variance=np.full(4, 0.1),
            device=torch.device("cpu"),
        ),
        IRIS,
    ),
    "gaussian-diagonal": (gaussian(noise_model="diagonal", noise_update="gradient"), IRIS),
    "gaussian-heteroscedastic": (gaussian(noise_model="heteroscedastic"), IRIS),
    "gaussian-prior": (gaussian(prior="learned_variance", hidden_layer_sizes=()), IRIS),
    "gaussian-sylvester": (gaussian(variational_family="sylvester", n_mc_samples=2), IRIS),
    "gaussian-iwae": (gaussian(objective="iwae", n_mc_samples=3), IRIS),
    "gaussian-ppca": (gaussian(init="ppca"), IRIS),
    "gaussian-early": (gaussian(early_stopping=True, kl_warmup_epochs=1, kl_weight=0.5), IRIS),
    "gaussian-snapshots": (gaussian(callbacks=[Snapshot({1, 2})], free_bits=0.1), IRIS),
    "gaussian-named-snapshot": (gaussian(callbacks=(("kept", Snapshot([1])),)), IRIS),
    "gaussian-conv": (
        gaussian(encoder="conv", decoder="conv", prior="learned_variance", **IMAGES),
        DIGITS,
    ),
    "gaussian-factories": (
        gaussian(
            encoder=ConvEncoder(channels=(2,), dense=3), decoder=SoftThresholdDecoder(0.1)
        ).set_params(**IMAGES),
        DIGITS,
    ),
    "gaussian-residual": (
        gaussian(
            encoder=ResidualEncoder(channels=[2, 3], convolutions_per_block=1),
            decoder=ResidualDecoder(channels=[2, 3]),
            noise_model="heteroscedastic",
            **IMAGES,
        ),
        DIGITS,
    ),
    "bernoulli": (DeepBernoulliVAE(2, **SMALL, binarize=7.0, random_state=0), DIGITS),
    "bernoulli-prior": (
        DeepBernoulliVAE(2, **SMALL, prior="learned_variance", random_state=0),
        BITS,
    ),
    "tabular": (
        TabularVAE(2, **SMALL, column_types={"a": "real"}, init="ppca", random_state=0),
        TABLE,
    ),
    "autoencoder": (DeepAutoencoder(2, **SMALL, random_state=0), DIGITS),
    "autoencoder-plain": (
        DeepAutoencoder(
            2,
            encoder=PlainConvEncoder(channels=(2, 3), convolutions_per_scale=2),
            decoder=PlainConvDecoder(channels=(2, 3)),
            max_epochs=2,
            random_state=0,
            **IMAGES,
        ),
        DIGITS,
    ),
    "autoencoder-conv": (
        DeepAutoencoder(
            2,
            encoder=ConvEncoder(channels=(2,), dense=3),
            decoder=ConvDecoder(channels=(2,), dense=3),
            max_epochs=2,
            random_state=0,
            image_shape=[1, 8, 8],
        ),
        DIGITS,
    ),
}
CASES = {
    **LINEAR,
    **{f"deep-{name}": case for name, case in DEEP.items()},
    "outliers-deep": (OutlierDetector(gaussian(), cv=2, random_state=0), IRIS),
}


@shared
def fitted(name):
    model, X = CASES[name]
    return copy.deepcopy(model).fit(X) if isinstance(model, BaseEstimator) else model()


def model_of(name):
    """A copy of its own."""
    return copy.deepcopy(fitted(name))


def there_and_back(estimator, folder, **options):
    path = folder / "model.safetensors"
    save(estimator, path)
    return load(path, **options)


def assert_same(a, b, path=""):
    """The same type, and the same in every part; times of epochs aside."""
    assert type(a) is type(b), path
    if isinstance(a, np.ma.MaskedArray):
        assert_same(a.data, b.data, path)
        assert_same(a.mask, b.mask, path)
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), path
        assert a.flags.f_contiguous == b.flags.f_contiguous or not a.flags.forc, path
        assert b.flags.writeable or not a.flags.writeable, path
        if a.dtype == object:
            assert_same(a.tolist(), b.tolist(), path)
        else:
            np.testing.assert_array_equal(a, b, err_msg=path)
    elif isinstance(a, torch.Tensor):
        assert (a.dtype, a.device, a.stride()) == (b.dtype, b.device, b.stride()), path
        assert torch.equal(a, b), path
    elif isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b), path
        for key in a:
            if key != "seconds":
                assert_same(a[key], b[key], f"{path}[{key!r}]")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (one, other) in enumerate(zip(a, b, strict=True)):
            assert_same(one, other, f"{path}[{i}]")
    elif isinstance(a, np.random.RandomState):
        assert_same(a.get_state(), b.get_state(), path)
    elif isinstance(a, torch.Generator):
        assert torch.equal(a.get_state(), b.get_state()), path
    elif isinstance(a, VAENet):
        assert_same(parts_of(a), parts_of(b), path)
    elif isinstance(a, MetadataRequest):
        assert str(a) == str(b), path
    elif isinstance(a, float):
        assert a == b or (math.isnan(a) and math.isnan(b)), path
    elif type(a).__name__ in {*ESTIMATORS, *RECORDS, *SCALERS, "MissingIndicator"}:
        # Less what properties have found out and kept.
        cached = set(vars(a)) ^ set(vars(b)) if type(a).__name__ == "LowRankGaussian" else set()
        assert_same(*({k: v for k, v in vars(o).items() if k not in cached} for o in (a, b)), path)
    else:
        assert a == b, path


def parts_of(net):
    module = net.module_
    return {
        "module": dict(module.state_dict()),
        "buffers": dict(module.named_buffers()),
        "learned": {name: p.requires_grad for name, p in module.named_parameters()},
        "optimizer": net.optimizer_.state_dict(),
        "history": list(net.history),
        "training": [part.training for part in module.modules()],
        "layers": repr(module),
        **{n: getattr(net, n) for n in ("generator_", "seed", "precision", "operations_", "lr")},
        **{n: getattr(net, n) for n in ("device", "max_epochs", "batch_size", "noise_shape")},
        **{n: getattr(net, n) for n in ("objective", "options", "train_split")},
        "monitor": vars(net.monitor),
    }
