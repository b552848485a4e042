"""What dai2020_depth.py trains: autoencoders and VAEs of any depth, and what is kept of them."""

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

# Parameters of DeepGaussianVAE; epochs of warm-up as a share of all.
VAES = {
    "VAE": {},
    "VAE, KL warm-up": {"kl_warmup_epochs": 0.25},
    CURE: {"init": "ppca", "noise_variance_init": None},  # its own
    "IWAE": {"objective": "iwae", "n_mc_samples": 5},
    "Sylvester": {"variational_family": "sylvester"},
}

# First weights; the biases are 0 then. "glorot" is what TensorFlow's layers, in which the authors'
# later code is written, begin with. "torch" leaves all to torch: uniform on +-1/sqrt(m) for m inputs,
# a sixth of the variance that "he" has, which keeps the size of a signal through a relu.
STARTS = {
    "glorot": nn.init.xavier_uniform_,
    "he": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "torch": None,
    "ppca": None,
}

# Of each family, where nothing else is said. At scale "cpu" plain convolutions, two a scale, stayed
# at the mean of the data for all 800 steps with Glorot's weights, and learned at once with He's.
FIRST = {"fc": "glorot", "conv": "he", "residual": "glorot"}

# Rows whose posterior scales are kept of a run; a scale that says that its dimension tells nothing.
KEPT_ROWS = 50
ASLEEP = 0.9


@dataclass(frozen=True)
class Dense:
    """Factory of fully connected encoders and decoders with hidden layers of these widths."""

    widths: tuple[int, ...]

    def __call__(self, before, after):
        """A new Module; `before` and `after` are numbers of features, or shapes of images."""
        n_inputs, n_outputs = (int(np.prod(shape)) for shape in (before, after))
        return MLP(n_inputs, self.widths, n_outputs)


@dataclass(frozen=True)
class Started:
    """A factory whose networks start with other weights; `start` is one of `STARTS`."""

    factory: Callable[..., nn.Module]
    start: str

    def __call__(self, *shapes):
        """A new Module of the factory."""
        network, draw = self.factory(*shapes), STARTS[self.start]
        for layer in network.modules() if draw else ():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                draw(layer.weight)
                nn.init.zeros_(layer.bias)
        return network


def networks(family, depth, blocks, start, width, channels):
    """Parameters `encoder` and `decoder`, or hidden_layer_sizes of the estimators' own MLPs.

    `depth` counts hidden layers ("fc"), convolutions a scale ("conv") or of a block ("residual").
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
    """One run: its training error in the units of X, and of a VAE what became of its latents.

    `noise` are parameters of :class:`DeepGaussianVAE` of how the noise variance is learned.
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
    """The implicit gamma*, E_q |x - mu(z)|^2 / d over the training rows, and the latent space.

    gamma* is had from the noise part of the entropy gap, whose draws are those of `elbo_`.
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
