"""
A deep VAE models handwritten digits better than PPCA with the same number of dimensions
========================================================================================

Both models have 64 pixels, 8 latent dimensions and Gaussian noise, but the VAE has networks instead
of a matrix. On held-out images, its ELBO exceeds the exact log-likelihood of PPCA, its
reconstructions are closer, and its samples look more like digits.

    python examples/plot_deep_vae_digits.py [--output PATH] [--small]
"""

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sklearn_vae import PPCA, DeepGaussianVAE
from sklearn_vae.plot import KLDisplay, ReconstructionDisplay, TrainingDisplay

parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
parser.add_argument("--output", default="deep_vae_digits.png", help="path of the figure")
parser.add_argument("--small", action="store_true", help="use half of the images")
arguments = parser.parse_args()

# %%
# Add noise to the discrete gray levels from 0 to 16: a density needs continuous values.
X, digit = load_digits(return_X_y=True)
X = (X + np.random.default_rng(0).uniform(-0.5, 0.5, X.shape)).astype(np.float32)
train, test, _, test_digit = train_test_split(X, digit, random_state=0)

# %%
# Train the VAE with default parameters. It starts at pPCA, for a number of epochs that is found by
# validation samples.
k = 8
if arguments.small:
    train = train[::2]
ppca = PPCA(n_components=k).fit(train)
vae = DeepGaussianVAE(k, random_state=0).fit(train)

# %%
# Compare the models on held-out images. The log-likelihood of the VAE is estimated by importance
# sampling, which gives a lower bound on average. The ELBO of PPCA is its log-likelihood.
models = {"PPCA": ppca, "VAE": vae}
bounds = {name: model.score(test) for name, model in models.items()}
likelihoods = {"PPCA": bounds["PPCA"], "VAE": vae.log_likelihood(test).mean()}
print("held-out images:             ELBO   log-likelihood   squared error   noise    active")
print("                      (nats per image, both)            per pixel   variance  dimensions")
for name, model in models.items():
    error = np.square(model.inverse_transform(model.transform(test)) - test).mean()
    print(
        f"{name:19s} {bounds[name]:12.2f} {likelihoods[name]:14.2f} {error:16.2f} "
        f"{model.noise_variance_:11.2f} {k - len(model.collapsed_dims_):10d}"
    )
print(f"ELBO of the VAE on training images after {vae.n_iter_} epochs: {vae.elbo_:.2f}")

# %%
# Plot the results.
originals = np.array([test[test_digit == d][0] for d in range(10)])
figure = plt.figure(figsize=(14, 5), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=[1, 1.8])
training, dimensions = left.subplots(2, 1)
history = {name: vae.history_[name] for name in ("bound", "validation_bound")}
TrainingDisplay.from_results({"VAE": history}, ax=training)
orange = "#e69f00"  # the color of PPCA in both panels
training.axhline(bounds["PPCA"], color=orange, linewidth=2, label="PPCA, held out")
training.set(ylabel="nats per image", ylim=(bounds["PPCA"] - 50, None))
training.set_title("ELBO of the VAE during training")
training.legend(loc="lower right")

KLDisplay.from_estimator({"VAE": vae, "PPCA": ppca}, test, ax=dimensions)
dimensions.set(
    yscale="linear", ylim=(0, 1.2 * vae.kl_per_dim_.max())
)  # all KLs are far above epsilon

ReconstructionDisplay.from_estimator(
    models,
    originals,
    n=10,
    image_shape=(8, 8),
    limits=(0, 16),
    samples=True,
    ax=right.subplots(),
)
right.suptitle(f"Reconstructions and samples, k = {k}")
figure.savefig(arguments.output, dpi=110)
print(f"Figure written to {arguments.output}")

# %%
# The ELBO of the VAE on held-out images rises above the log-likelihood of PPCA. Each of its dimensions
# has a larger KL than those of PPCA. Its reconstructions and samples are sharper.
