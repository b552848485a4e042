"""
A VAE can be caught where it has collapsed, although it could reproduce every row
=================================================================================

A decoder pi(W z) + b, with pi(u) = sign(u) max(|u| - 1, 0), made six rows in two dimensions. Where
W = 0 and q(z|x) = p(z) the latent variable tells nothing, and yet no small step away from there
lowers minus the ELBO: this is Proposition 1 of Dai, Wang and Wipf, "The Usual Suspects?
Reassessing Blame for VAE Posterior Collapse" (2020). With a linear decoder training walks away.

    python examples/plot_bad_local_optimum.py [--output PICTURE] [--small]
"""

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from sklearn_vae import PPCA, DeepGaussianVAE, SoftThresholdDecoder
from sklearn_vae.datasets import make_collapse_trap
from sklearn_vae.gaussian import SoftThresholdElbo
from sklearn_vae.plot import TrainingDisplay

parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
parser.add_argument("--output", default="bad_local_optimum.png", help="the picture to write")
parser.add_argument("--small", action="store_true", help="fewer epochs, a coarser grid")
arguments = parser.parse_args()

X, Z, trap = make_collapse_trap(return_trap=True)
ppca = PPCA(n_components=1).fit(X)
collapsed = -trap.elbo.value(trap.collapsed)

# %%
# Minus the ELBO in closed form, at W of a given length and all else at its best. The noise is not
# let below that of pPCA: since the rows can be reproduced, there would be no minimum.


def energies(elbo, direction, lengths):
    """For W of each length the least of what descents from three noise variances find."""
    found = np.empty((len(lengths), 3))
    for i, j in np.ndindex(found.shape):
        noise = 0.1**j * elbo.average_variance
        p = trap.collapsed._replace(loadings=lengths[i] * direction, noise_variance=noise)
        p, least = elbo.best_posteriors(p), ppca.noise_variance_
        found[i, j] = -elbo.value(elbo.maximise(p, hold=("loadings",), least_noise=least))
    return found.min(axis=1)


unit = trap.solution.loadings / np.linalg.norm(trap.solution.loadings)
lengths = np.linspace(0.0, 4.0, 21 if arguments.small else 61)
soft = energies(trap.elbo, unit, lengths)
linear = energies(SoftThresholdElbo(X, threshold=0.0), ppca.components_.T, lengths)
near = np.linspace(0.0, 1.0, 11 if arguments.small else 41)
along = energies(trap.elbo, unit, near) - collapsed
angles = np.linspace(0.0, np.pi, 4 if arguments.small else 12, endpoint=False)
ways = np.stack([np.cos(angles), np.sin(angles)], axis=1)[:, :, None]
ball = np.stack([energies(trap.elbo, way, near) for way in ways]) - collapsed
print(f"lowest point of the rim: {ball.min(axis=0).max():.1e} nats per row above the bottom")

# %%
# Training with draws of z, a network as the encoder and the noise learned; networks see X / std.


def trained(threshold, W):
    """A VAE whose decoder starts at W, in the units of X."""

    def decoder(n_components, output_shape):
        network = SoftThresholdDecoder(threshold / X.std())(n_components, output_shape)
        network.layer.weight.data.copy_(torch.from_numpy(W / X.std()))
        network.layer.bias.data.zero_()
        return network

    settings = {"hidden_layer_sizes": (32,), "activation": "tanh", "n_mc_samples": 20}
    noise = {"noise_update": "gradient", "noise_variance_init": X.var()}
    steps = {"max_epochs": 600 if arguments.small else 2000, "learning_rate": 1e-2}
    return DeepGaussianVAE(1, decoder=decoder, random_state=0, **settings, **noise, **steps).fit(X)


runs = {"threshold 1, from |W| = 0.5": trained(1.0, 0.5 * unit)}
runs["threshold 0, from |W| = 0.5"] = trained(0.0, 0.5 * unit)
runs["threshold 1, from the W of the rows"] = trained(1.0, trap.solution.loadings)
print("                                         -ELBO  noise variance")
for name, model in runs.items():
    print(f"{name:37s} {-model.elbo_:8.3f} {model.noise_variance_:10.3f}")
print(f"{'pPCA':37s} {-ppca.score(X):8.3f} {ppca.noise_variance_:10.3f}")

# %%
# The picture.
blue, orange = "#0072b2", "#e69f00"  # also apart without red or green
figure, (inside, wide, training) = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
style = {"color": blue, "alpha": 0.2, "lw": 0, "label": "range of all directions"}
inside.fill_between(near, 1e4 * ball.min(0), 1e4 * ball.max(0), **style)
inside.plot(near, 1e4 * along, color=blue, label="along the W of the rows")
inside.plot(near, 1e4 * ball.min(0), "--", color=blue, label="least of all directions")
inside.plot(0, 0, "ko", label="collapsed", clip_on=False)
inside.set(xlim=(0, 1), ylim=(-10, 30), xlabel="|W|", title="Near the collapsed point, threshold 1")
inside.set_ylabel("-ELBO less that of collapse (1e-4 nats per row)")
wide.plot(lengths, soft, color=blue, label="threshold 1, along the W of the rows")
wide.plot(lengths, linear, color=orange, label="threshold 0, along the W of pPCA")
wide.plot(0, collapsed, "ko", label="collapsed", clip_on=False)
at = [np.linalg.norm(trap.solution.loadings)]
wide.plot(at, energies(trap.elbo, unit, at), "k*", markersize=12, label="the W of the rows")
wide.set(xlim=(0, 4), ylim=(2, 6.5), xlabel="|W|", ylabel="-ELBO (nats per row)")
wide.set_title("All else at its best, noise at least that of pPCA")
inside.legend(loc="upper left")
wide.legend(loc="upper right")
parts = ("bound", "kl")
shown = {name: {of: model.history_[of] for of in parts} for name, model in runs.items()}
display = TrainingDisplay.from_results(shown, ax=training, linewidth=1)
display.ax_[0, 0].axhline(ppca.score(X), color="k", ls=":", label="pPCA, one component")
display.ax_[0, 0].legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, title="Training")
figure.savefig(arguments.output, dpi=110)

# %%
# The picture shows the collapsed point at the bottom of a hollow, 4e-4 nats deep, whichever way W
# goes. Training with the threshold stays there, 2.1 nats below pPCA, and without it walks away.
