"""
A deep VAE describes handwritten digits better than PPCA of as many dimensions
==============================================================================

Both are densities of 64 pixels with 8 latent dimensions and Gaussian noise; one has networks where
the other has a matrix. On images that neither has seen, the VAE's lower bound lies above PPCA's
exact log-likelihood, its reconstructions are closer, and what it draws is more like digits.

    python examples/plot_deep_vae_digits.py [--output PICTURE] [--small]
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
parser.add_argument("--output", default="deep_vae_digits.png", help="the picture to write")
parser.add_argument("--small", action="store_true", help="a smaller network and fewer epochs")
arguments = parser.parse_args()

# %%
# Pixels from 0 to 16. A little noise makes the grey levels continuous, so that a density is
# meaningful; float32 is precise enough for that.
X, digit = load_digits(return_X_y=True)
X = (X + np.random.default_rng(0).uniform(-0.5, 0.5, X.shape)).astype(np.float32)
train, test, _, test_digit = train_test_split(X, digit, random_state=0)

# %%
# The VAE holds out a tenth of the training images and stops when their bound no longer rises.
k = 8
ppca = PPCA(n_components=k).fit(train)
vae = DeepGaussianVAE(
    n_components=k,
    hidden_layer_sizes=(64,) if arguments.small else (256, 128),
    max_epochs=80 if arguments.small else 300,
    early_stopping=True,
    n_iter_no_change=20,
    random_state=0,
).fit(train)

# %%
# Held-out images, in nats an image. The VAE's log-likelihood is an estimate from below by
# importance sampling; PPCA's bound is its log-likelihood.
models = {"PPCA": ppca, "VAE": vae}
bounds = {name: model.score(test) for name, model in models.items()}
likelihoods = {"PPCA": bounds["PPCA"], "VAE": vae.log_likelihood(test).mean()}
print("of held-out images:   lower bound   log-likelihood   squared error   noise    active")
print("                                                      of a pixel    variance  dimensions")
for name, model in models.items():
    error = np.square(model.inverse_transform(model.transform(test)) - test).mean()
    print(
        f"{name:19s} {bounds[name]:12.2f} {likelihoods[name]:14.2f} {error:16.2f} "
        f"{model.noise_variance_:11.2f} {k - len(model.collapsed_dims_):10d}"
    )
print(f"VAE's bound of the training images after {vae.n_iter_} epochs: {vae.elbo_:.2f}")

# %%
# The picture.
originals = np.array([test[test_digit == d][0] for d in range(10)])
figure = plt.figure(figsize=(14, 5), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=[1, 1.8])
training, dimensions = left.subplots(2, 1)
history = {name: vae.history_[name] for name in ("bound", "validation_bound")}
TrainingDisplay.from_results({"VAE": history}, ax=training)
orange = "#e69f00"  # PPCA's colour in both panels
training.axhline(bounds["PPCA"], color=orange, linewidth=2, label="PPCA, held out")
training.set(ylabel="nats per image", ylim=(bounds["PPCA"] - 50, None))
training.set_title("The VAE's lower bound in training")
training.legend(loc="lower right")

KLDisplay.from_estimator({"VAE": vae, "PPCA": ppca}, test, ax=dimensions)
dimensions.set(yscale="linear", ylim=(0, 1.2 * vae.kl_per_dim_.max()))  # none is near epsilon

ReconstructionDisplay.from_estimator(
    models,
    originals,
    n=10,
    image_shape=(8, 8),
    limits=(0, 16),
    samples=True,
    ax=right.subplots(),
)
right.suptitle(f"Reconstructions and new images from {k} numbers each")
figure.savefig(arguments.output, dpi=110)
print(f"Picture written to {arguments.output}")

# %%
# The picture shows the VAE's bound of held-out images rise past PPCA's log-likelihood, each of its
# dimensions tell more of an image than PPCA's, and sharper reconstructions and draws for it.
