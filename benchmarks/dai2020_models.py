"""Models and results of dai2020_depth.py: autoencoders and VAEs of any depth."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import nn

from sklearn_vae import (
    DeepAutoencoder,
    DeepGaussianVAE,
    PlainConvDecoder,
    PlainConvEncoder,
    ResidualDecoder,
    ResidualEncoder,
)
from sklearn_vae.nn import MLP

CURE = "VAE, init='ppca'"
MODELS = ("AE", "VAE", "VAE, KL warm-up", CURE)
VARIANTS = ("IWAE", "Sylvester")

# Parameters of DeepGaussianVAE; warm-up epochs are a fraction of all.
VAES = {
    "VAE": {},
    "VAE, KL warm-up": {"kl_warmup_epochs": 0.25},
    CURE: {"init": "ppca", "noise_variance_init": None},
    "IWAE": {"objective": "iwae", "n_mc_samples": 5},
    "Sylvester": {"variational_family": "sylvester"},
}

# Initial weights, with biases of 0. "glorot" is TensorFlow's default, as in the authors' later code.
# "he" preserves the scale of a signal through a relu. "torch" is torch's default for weights and
# biases, uniform on +-1/sqrt(m) for m inputs, which has a sixth of the variance of "he".
STARTS = {
    "glorot": nn.init.xavier_uniform_,
    "he": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "torch": None,
    "ppca": None,
}

# Default of each family. At scale "cpu" with two plain convolutions per scale, networks with Glorot
# weights stayed at the mean of the data for all 800 steps, and with He weights they learned at once.
FIRST = {"fc": "glorot", "conv": "he", "residual": "glorot"}

# Number of samples whose posterior scales are stored, and the scale of an inactive dimension.
KEPT_ROWS = 50
ASLEEP = 0.9


@dataclass(frozen=True)
class Dense:
    """Factory of fully connected encoders and decoders with given widths."""

    widths: tuple[int, ...]

    def __call__(self, before, after):
        """Build a module; `before` and `after` are numbers of features or image shapes."""
        n_inputs, n_outputs = (int(np.prod(shape)) for shape in (before, after))
        return MLP(n_inputs, self.widths, n_outputs)


@dataclass(frozen=True)
class Started:
    """Factory of networks with other initial weights; `start` is one of `STARTS`."""

    factory: Callable[..., nn.Module]
    start: str

    def __call__(self, *shapes):
        """Build a module and initialize its weights."""
        network, draw = self.factory(*shapes), STARTS[self.start]
        for layer in network.modules() if draw else ():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                draw(layer.weight)
                nn.init.zeros_(layer.bias)
        return network


def networks(family, depth, blocks, start, width, channels):
    """Return `encoder` and `decoder`, or `hidden_layer_sizes` of the estimators' MLPs.

    `depth` is the number of hidden layers ("fc"), convolutions per scale ("conv") or convolutions
    per block ("residual").
    """
    if family == "fc" and STARTS[start] is None:
        return {"hidden_layer_sizes": (width,) * depth}
    if family == "fc":
        pair = 2 * (Dense((width,) * depth),)
    elif family == "conv":
        sizes = {"convolutions_per_scale": depth, "channels": channels}
        pair = PlainConvEncoder(**sizes), PlainConvDecoder(**sizes)
    else:
        sizes = {"blocks_per_scale": blocks, "convolutions_per_block": depth, "channels": channels}
        pair = ResidualEncoder(**sizes), ResidualDecoder(**sizes)
    return {"encoder": Started(pair[0], start), "decoder": Started(pair[1], start)}


def train(
    X,
    *,
    family,
    depth,
    model,
    image_shape,
    device,
    checkpoint,
    start="glorot",
    blocks=1,
    width=None,
    channels=None,
    noise=None,
    **parameters,
):
    """Train a model; return its training error in data units, and latents of a VAE.

    `noise` are the parameters of :class:`DeepGaussianVAE` for the noise variance.
    """
    parameters |= networks(family, depth, blocks, start, width, channels)
    parameters |= {"image_shape": image_shape, "device": device, "checkpoint": checkpoint}
    if model == "AE":
        ae = DeepAutoencoder(**parameters).fit(X)
        return {"error": -ae.score(X), "errors": (-ae.history_["bound"]).tolist()}
    options = dict(VAES[model])
    if share := options.get("kl_warmup_epochs"):
        options["kl_warmup_epochs"] = math.ceil(share * parameters["max_epochs"])
    return of_vae(DeepGaussianVAE(**parameters, **{**noise, **options}).fit(X), X)


def of_vae(vae, X):
    """Return the implicit gamma*, E_q |x - mu(z)|^2 / d over training samples, and the latents.

    gamma* follows from the noise part of the entropy gap, with the draws of `elbo_`.
    """
    d = vae.n_features_in_
    scales = np.sqrt(vae.posterior(X[:: max(1, len(X) // KEPT_ROWS)])[1])
    residual = X - vae.inverse_transform(vae.transform(X))
    return {
        "error": float(vae.noise_variance_) * (1.0 - 2.0 * vae.entropy_gap_.noise / d),
        "error_of_mean": float(np.square(residual).mean(dtype=np.float64)),
        "noise_variance": float(vae.noise_variance_),
        "elbo": float(vae.elbo_),
        "collapsed": len(vae.collapsed_dims_),
        "kl": float(vae.kl_per_dim_.sum()),
        "asleep": float((scales > ASLEEP).mean()),
        "scales": scales.astype(float).round(4).tolist(),
        "bounds": vae.history_["bound"].tolist(),
        "noise_variances": vae.history_["noise_variance"].tolist(),
    }
