"""
A linear VAE finds the principal components, a linear autoencoder only their span
=================================================================================

Both models encode and decode by a matrix, trained by gradients from random weights. The posterior
of the VAE has a diagonal covariance, so its ELBO depends on the rotation of the latent space. At
the maximum, the columns of its decoder are the scaled principal components, and its ELBO is the
log-likelihood of probabilistic PCA. For the autoencoder, all rotations are equivalent.

    python examples/plot_linear_vae_recovers_pca.py [--output PATH] [--small]
"""

import argparse
import warnings

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

from sklearn_vae import PPCA, DeepAutoencoder, LinearVAE
from sklearn_vae.plot import ReconstructionDisplay, TrainingDisplay

parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
parser.add_argument("--output", default="linear_vae.png", help="path of the figure")
parser.add_argument("--small", action="store_true", help="use fewer steps")
arguments = parser.parse_args()

# %%
# Fit digits with 64 pixels. One VAE uses gradients of the ELBO in closed form. A second one uses
# draws of the latent variables, like deep VAEs.
X, k = load_digits().data, 6
ppca = PPCA(n_components=k, svd_solver="full").fit(X)
settings = {"n_components": k, "random_state": 0}
start = {**settings, "noise_variance_init": X.var()}
n_steps, n_epochs = (2000, 30) if arguments.small else (20000, 500)
vae = LinearVAE(solver="adam", max_iter=n_steps, learning_rate=3e-3, **start)
draws = {"solver": "stochastic", "batch_size": 128, "n_mc_samples": 5}
drawn = LinearVAE(max_iter=n_epochs, **draws, **start)
with warnings.catch_warnings():
    # The table below has the distance from the maximum.
    warnings.simplefilter("ignore", ConvergenceWarning)
    vae.fit(X)
    drawn.fit(X)
    autoencoder = DeepAutoencoder(hidden_layer_sizes=(), max_epochs=n_epochs, **settings).fit(X)


# %%
# Compare the columns of the decoders, and their span, with the principal components.
def columns_of(model):
    """Return the columns of the decoder matrix, normalized to length 1."""
    W = model.inverse_transform(np.eye(k)) - model.inverse_transform(np.zeros((1, k)))
    return W.T / np.linalg.norm(W, axis=1)


models = {"VAE, closed form": vae, "VAE, draws": drawn, "autoencoder": autoencoder}
cosines = {name: abs(ppca.components_ @ columns_of(model)) for name, model in models.items()}
print(f"log-likelihood of pPCA with {k} components: {ppca.elbo_:.4f} nats")
print("                  ELBO below it  mean cosine to the      largest angle between")
print("                         (nats)  principal component        the spans (degrees)")
for name, model in models.items():
    Q = np.linalg.qr(columns_of(model))[0]
    cosine = np.linalg.svd(ppca.components_ @ Q, compute_uv=False).min()
    below = f"{ppca.elbo_ - model.elbo_:13.4f}" if name != "autoencoder" else f"{'-':>13s}"
    angle = np.degrees(np.arccos(min(cosine, 1.0)))
    print(f"{name:17s} {below} {np.diag(cosines[name]).mean():21.3f} {angle:26.2f}")

# %%
# Plot the results.
figure = plt.figure(figsize=(13, 5.6), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=[1.2, 1])
columns = {name: columns_of(model) for name, model in models.items()}
signs = {name: np.sign((W.T * ppca.components_).sum(axis=1)) for name, W in columns.items()}
display = ReconstructionDisplay.from_results(
    ppca.components_,
    {name: signs[name][:, None] * W.T for name, W in columns.items()},
    image_shape=(8, 8),
    limits=(-0.4, 0.4),
    cmap="RdBu_r",
    ax=left.subplots(),
)
display.ax_.set_yticklabels(["principal\ncomponents", *models])
display.ax_.set_xlabel("numbers: root mean square difference from the principal component")
left.suptitle("Normalized columns of the decoders")
top, bottom = right.subfigures(2, 1, height_ratios=[1.1, 1])
training = top.subplots()
histories = {}
for name in ("VAE, closed form", "VAE, draws"):
    bound = models[name].elbo_history_
    histories[name] = {"epoch": np.linspace(0, 100, len(bound)), "bound": bound}
TrainingDisplay.from_results(histories, ax=training)
training.axhline(ppca.elbo_, color="black", linestyle=":", label="log-likelihood of pPCA")
training.set(
    xlabel="progress of training (%)",
    ylabel="nats per image",
    ylim=(ppca.elbo_ - 15, ppca.elbo_ + 2),
    title="ELBO during training",
)
training.legend(loc="lower right")
panels, ticks = bottom.subplots(1, 3, sharey=True), np.arange(k)
for (name, cosine), panel in zip(cosines.items(), panels, strict=True):
    image = panel.imshow(cosine, cmap="gray_r", vmin=0, vmax=1)
    panel.set(xticks=ticks, xticklabels=ticks + 1, yticks=ticks, yticklabels=ticks + 1)
    panel.set(xlabel="column", title=name)
panels[0].set_ylabel("principal component")
bottom.colorbar(image, ax=panels, label="|cosine|", shrink=0.8)
figure.savefig(arguments.output, dpi=110)
print(f"Figure written to {arguments.output}")

# %%
# Each column of the VAE trained in closed form is a principal component. Trained on draws, the VAE
# comes as close as gradient noise allows: it learns the span first and the rotation last. The
# autoencoder mixes the components, although their span is the same.
