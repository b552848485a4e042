"""
A linear VAE finds the principal components themselves, a linear autoencoder only their span
============================================================================================

Both are a matrix that encodes and one that decodes, trained by gradients from random weights. The
VAE's latent posterior has a diagonal covariance, so that every rotation of the latent space but
one costs it some of its bound: at the maximum its columns are the principal components, scaled, and
its bound is the log-likelihood of probabilistic PCA. To the autoencoder all rotations are the same.

    python examples/plot_linear_vae_recovers_pca.py [--output PICTURE] [--small]
"""

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from sklearn_vae import PPCA, DeepAutoencoder, LinearVAE
from sklearn_vae.plot import ReconstructionDisplay, TrainingDisplay

parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
parser.add_argument("--output", default="linear_vae.png", help="the picture to write")
parser.add_argument("--small", action="store_true", help="fewer steps")
arguments = parser.parse_args()

# %%
# Handwritten digits, 64 pixels. The VAE follows the gradient of its bound in closed form, and a
# second one that of draws of its latent variables, as deep VAEs are trained.
X, k = load_digits().data, 6
ppca = PPCA(n_components=k, svd_solver="full").fit(X)
settings = {"n_components": k, "random_state": 0}
start = {**settings, "noise_variance_init": X.var()}
n_steps, n_epochs = (2000, 30) if arguments.small else (20000, 500)
vae = LinearVAE(solver="adam", max_iter=n_steps, learning_rate=3e-3, **start).fit(X)
draws = {"solver": "stochastic", "batch_size": 128, "n_mc_samples": 5}
drawn = LinearVAE(max_iter=n_epochs, **draws, **start).fit(X)
autoencoder = DeepAutoencoder(hidden_layer_sizes=(), max_epochs=n_epochs, **settings).fit(X)


# %%
# How near each column is to each principal component, and how near their spans are.
def columns_of(model):
    """Directions that the decoder gives to its latent dimensions, of length 1."""
    W = model.inverse_transform(np.eye(k)) - model.inverse_transform(np.zeros((1, k)))
    return W.T / np.linalg.norm(W, axis=1)


models = {"VAE, bound": vae, "VAE, draws": drawn, "autoencoder": autoencoder}
cosines = {name: abs(ppca.components_ @ columns_of(model)) for name, model in models.items()}
print(f"log-likelihood of pPCA with {k} components: {ppca.elbo_:.4f} nats")
print("                below it   mean cosine to the      largest angle between")
print("                 (nats)  principal component        the spans (degrees)")
for name, model in models.items():
    Q = np.linalg.qr(columns_of(model))[0]
    least = np.linalg.svd(ppca.components_ @ Q, compute_uv=False).min()
    below = f"{ppca.elbo_ - model.elbo_:10.4f}" if name != "autoencoder" else f"{'none':>10s}"
    angle = np.degrees(np.arccos(min(least, 1.0)))
    print(f"{name:13s} {below} {np.diag(cosines[name]).mean():21.3f} {angle:26.2f}")

# %%
# The picture.
figure = plt.figure(figsize=(13, 5.6), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=[1.2, 1])
columns = {name: columns_of(model).T for name, model in models.items()}
signs = {name: np.sign((rows * ppca.components_).sum(axis=1)) for name, rows in columns.items()}
display = ReconstructionDisplay.from_results(
    ppca.components_,
    {name: signs[name][:, None] * rows for name, rows in columns.items()},
    image_shape=(8, 8),
    limits=(-0.4, 0.4),
    cmap="RdBu_r",
    ax=left.subplots(),
)
display.ax_.set_yticklabels(["principal\ncomponents", *models])
display.ax_.set_xlabel("numbers: root mean square difference to the principal component")
left.suptitle("Columns of the decoders, of length 1")
top, bottom = right.subfigures(2, 1, height_ratios=[1.1, 1])
training = top.subplots()
histories = {}
for name in ("VAE, bound", "VAE, draws"):
    bound = models[name].elbo_history_
    histories[name] = {"epoch": np.linspace(0, 100, len(bound)), "bound": bound}
TrainingDisplay.from_results(histories, ax=training)
training.axhline(ppca.elbo_, color="black", linestyle=":", label="pPCA, log-likelihood")
training.set(
    xlabel="share of the training (%)",
    ylabel="nats per image",
    ylim=(ppca.elbo_ - 15, ppca.elbo_ + 2),
    title="Lower bound in training",
)
training.legend(loc="lower right")
panels, places = bottom.subplots(1, 3, sharey=True), np.arange(k)
for (name, cosine), panel in zip(cosines.items(), panels, strict=True):
    image = panel.imshow(cosine, cmap="gray_r", vmin=0, vmax=1)
    panel.set(xticks=places, xticklabels=places + 1, yticks=places, yticklabels=places + 1)
    panel.set(xlabel="column", title=name)
panels[0].set_ylabel("principal component")
bottom.colorbar(image, ax=panels, label="|cosine|", shrink=0.8)
figure.savefig(arguments.output, dpi=110)
print(f"Picture written to {arguments.output}")

# %%
# The picture shows the columns of the VAE trained on its bound to be the principal components, one
# each. Trained on draws it comes as near as their noise allows: the span first, the rotation last.
# The autoencoder mixes the components, though its span is the same.
