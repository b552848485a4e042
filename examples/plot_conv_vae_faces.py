"""
A convolutional VAE describes images better than PPCA of as many dimensions
===========================================================================

Handwritten digits, each moved to some place on a larger canvas: what does not change when an image
moves is known to convolutions and foreign to a matrix. Of digits never seen the VAE's lower bound
lies above PPCA's exact log-likelihood, and its reconstructions are closer. Dense layers come
between the two. With `--data` the same is tried on the images of a file, such as faces.

    python examples/plot_conv_vae_faces.py [--output PICTURE] [--small] [--data FACES.npz]
"""

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sklearn_vae import PPCA, DeepGaussianVAE, Snapshot
from sklearn_vae.plot import ReconstructionDisplay, TrainingDisplay

parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
parser.add_argument("--output", default="conv_vae.png", help="the picture to write")
parser.add_argument("--small", action="store_true", help="too few images and epochs for the claim")
parser.add_argument("--data", help="images X from 0 to 255, (n, h, w[, c]) or (n, c, h, w)")
arguments = parser.parse_args()
small, rng = arguments.small, np.random.default_rng(0)


# %%
# Digits of 8 x 8 pixels on 16 x 16, those to train on in four places each. Or faces in grey and
# their mirror images, made smaller by averages of 2 x 2 pixels until 32 x 32 are left.
def moved(digits):
    """Each digit somewhere on an empty canvas."""
    pairs = zip(digits, rng.integers(0, 9, (len(digits), 2)), strict=True)
    return np.array([np.pad(digit, ((i, 8 - i), (j, 8 - j))) for digit, (i, j) in pairs])


if arguments.data:
    with np.load(arguments.data) as file:
        images = file["X"][: 400 if small else 3000].astype(np.float64)
    if images.ndim == 4:
        images = images.mean(1 if images.shape[1] <= 4 else 3)
    while images.shape[1] > 32:
        n, height, width = images.shape
        images = images.reshape(n, height // 2, 2, width // 2, 2).mean((2, 4))
    train, test = train_test_split(images, random_state=0)
    train = np.concatenate([train, train[:, :, ::-1]])
else:
    images = load_digits().images[: 1000 if small else None]
    train, test = train_test_split(images, random_state=0)
    train, test = moved(np.tile(train, (1 if small else 4, 1, 1))), moved(test)
shape, white = train.shape[1:], train.max()

# %%
# A little noise makes the grey levels continuous, so that a density is meaningful.
train, test = (X + rng.uniform(-0.5, 0.5, X.shape) for X in (train, test))
train, test = (X.reshape(len(X), -1).astype(np.float32) for X in (train, test))

# %%
# As many epochs for each network; snapshots tell how it goes.
k, n_epochs = 16, 7 if small else 20 if arguments.data else 30
epochs = [1, 7] if small else [e for e in (1, 2, 4, 6, 10, 15, 20, 30) if e <= n_epochs]
training = {"max_epochs": n_epochs, "batch_size": 32 if small else 64, "random_state": 0}
training["callbacks"] = [Snapshot(epochs)]
convolutions = {"encoder": "conv", "decoder": "conv", "image_shape": (1, *shape)}
models = {
    "PPCA": PPCA(n_components=k).fit(train),
    "dense VAE": DeepGaussianVAE(k, **training).fit(train),
    "convolutional VAE": DeepGaussianVAE(k, **convolutions, **training).fit(train),
}

# %%
# Held-out images, in nats an image. The log-likelihood of VAEs is an estimate from below by
# importance sampling; PPCA's bound is its log-likelihood.
ppca, dense, conv = models.values()
bounds = {name: model.score(test) for name, model in models.items()}
likelihoods = [bounds["PPCA"], *(vae.log_likelihood(test, 50).mean() for vae in (dense, conv))]
print(f"{len(train)} images to train on. Of {len(test)} held out:")
print("                   lower bound   log-likelihood   squared error    active")
print("                                                     of a pixel   dimensions")
for (name, model), likelihood in zip(models.items(), likelihoods, strict=True):
    error = np.square(model.inverse_transform(model.transform(test)) - test).mean()
    active = k - len(model.collapsed_dims_)
    print(f"{name:17s} {bounds[name]:12.1f} {likelihood:16.1f} {error:15.2f} {active:11d}")

# %%
# The picture.
figure = plt.figure(figsize=(14, 5.2), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=[1, 1.8])
panel = left.subplots()
histories = {
    name: {"epoch": epochs, "bound": [vae.snapshots_[epoch].score(test) for epoch in epochs]}
    for name, vae in {"convolutional VAE": conv, "dense VAE": dense}.items()
}
TrainingDisplay.from_results(histories, ax=panel)
panel.axhline(bounds["PPCA"], color="#009e73", linewidth=2, label="PPCA")
panel.set_ylim(bounds["PPCA"] - 0.05 * abs(bounds["PPCA"]), None)
panel.set_ylabel("nats per image")
panel.set_title("Lower bound of held-out images")
panel.legend(loc="center right")
shown = {"PPCA": ppca, "convolutional VAE": conv}
options = {"n": 10, "samples": True, "limits": (0, white), "cmap": "gray"}
ReconstructionDisplay.from_estimator(shown, test, ax=right.subplots(), **options)
right.suptitle(f"Reconstructions and new images from {k} numbers each")
figure.savefig(arguments.output, dpi=110)
print(f"Picture written to {arguments.output}")

# %%
# The picture shows the bound of held-out digits rise past PPCA's log-likelihood, further with
# convolutions than without, and the VAE's reconstructions be digits where PPCA's are blurs.
