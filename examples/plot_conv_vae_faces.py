"""
A convolutional VAE models images better than PPCA with the same number of dimensions
=====================================================================================

Handwritten digits are placed at random positions on a larger canvas. Convolutions are suited to
such translations, a linear map is not. On held-out images, the ELBO of the VAE exceeds the exact
log-likelihood of PPCA, and its reconstructions are closer. A VAE with dense layers is in between.
With `--data`, the same comparison uses the images of a file, such as faces.

    python examples/plot_conv_vae_faces.py [--output PATH] [--small] [--data FACES.npz]
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
parser.add_argument("--output", default="conv_vae.png", help="path of the figure")
parser.add_argument("--small", action="store_true", help="use fewer images and epochs")
parser.add_argument(
    "--data", help="file with images X from 0 to 255, (n, h, w[, c]) or (n, c, h, w)"
)
arguments = parser.parse_args()
small, rng = arguments.small, np.random.default_rng(0)


# %%
# Place digits of 8 x 8 pixels on a canvas of 16 x 16, each training image at four positions. Faces
# are converted to gray, mirrored, and reduced to 32 x 32 pixels.
def translate(digits):
    """Place each digit at a random position on an empty canvas."""
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
    images = load_digits().images[: 500 if small else None]
    train, test = train_test_split(images, random_state=0)
    train, test = translate(np.tile(train, (1 if small else 4, 1, 1))), translate(test)
shape, white = train.shape[1:], train.max()

# %%
# Add noise to the discrete gray levels: a density needs continuous values.
train, test = (X + rng.uniform(-0.5, 0.5, X.shape) for X in (train, test))
train, test = (X.reshape(len(X), -1).astype(np.float32) for X in (train, test))

# %%
# Train both networks for the same number of epochs, with snapshots.
k, n_epochs = 16, 7 if small else 20 if arguments.data else 30
epochs = [1, 7] if small else [e for e in (1, 2, 4, 6, 10, 15, 20, 30) if e <= n_epochs]
training = {"max_epochs": n_epochs, "batch_size": 16 if small else 64, "random_state": 0}
training["callbacks"] = [Snapshot(epochs)]
convolutions = {"encoder": "conv", "decoder": "conv", "image_shape": (1, *shape)}
models = {
    "PPCA": PPCA(n_components=k).fit(train),
    "dense VAE": DeepGaussianVAE(k, **training).fit(train),
    "convolutional VAE": DeepGaussianVAE(k, **convolutions, **training).fit(train),
}

# %%
# Compare the models on held-out images. The log-likelihood of the VAEs is estimated by importance
# sampling, which gives a lower bound on average. The ELBO of PPCA is its log-likelihood.
ppca, dense, conv = models.values()
bounds = {name: model.score(test) for name, model in models.items()}
likelihoods = [bounds["PPCA"], *(vae.log_likelihood(test, 50).mean() for vae in (dense, conv))]
print(f"{len(train)} training images, {len(test)} held-out images:")
print("                         ELBO   log-likelihood   squared error     active")
print("                  (nats per image, both)             per pixel   dimensions")
for (name, model), likelihood in zip(models.items(), likelihoods, strict=True):
    error = np.square(model.inverse_transform(model.transform(test)) - test).mean()
    active = k - len(model.collapsed_dims_)
    print(f"{name:17s} {bounds[name]:12.1f} {likelihood:16.1f} {error:15.2f} {active:11d}")

# %%
# Plot the results.
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
panel.set_title("ELBO of held-out images")
panel.legend(loc="center right")
shown = {"PPCA": ppca, "convolutional VAE": conv}
options = {"n": 10, "samples": True, "limits": (0, white), "cmap": "gray"}
ReconstructionDisplay.from_estimator(shown, test, ax=right.subplots(), **options)
right.suptitle(f"Reconstructions and samples, k = {k}")
figure.savefig(arguments.output, dpi=110)
print(f"Figure written to {arguments.output}")

# %%
# The ELBO of held-out digits rises above the log-likelihood of PPCA, and further with convolutions
# than without. The VAE reconstructs digits where PPCA shows blurs.
