"""
BernoulliPPCA reconstructs binary pixels by probabilities, PCA by values outside [0, 1]
=======================================================================================

Binary pixels have no Gaussian noise. PCA reconstructs them by values below 0 and above 1. Bernoulli
pPCA with the same number of latent dimensions reconstructs them by probabilities, which are closer
to held-out images. Its samples are binary images.

    python examples/plot_bernoulli_ppca_digits.py [--output PATH] [--small]
"""

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from scipy.special import xlog1py, xlogy
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split

from sklearn_vae import PPCA, BernoulliPPCA
from sklearn_vae.plot import ReconstructionDisplay

parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
parser.add_argument("--output", default="bernoulli_ppca_digits.png", help="path of the figure")
parser.add_argument("--small", action="store_true", help="fit fewer models with a larger tolerance")
arguments = parser.parse_args()

# %%
# Binarize pixels from 0 to 16: values of at least 8 become 1.
X, digit = load_digits(return_X_y=True)
X = (X >= 8).astype(float)
train, test, _, test_digit = train_test_split(X, digit, random_state=0)

# %%
# Compute the cross-entropy of held-out images under their reconstructions. For PCA these must be
# clipped to (0, 1). The margin is chosen to give PCA its lowest cross-entropy.
sizes = [2, 8] if arguments.small else [1, 2, 4, 8, 16]
tol = 1e-3 if arguments.small else 1e-6
models = {
    "PCA": [PCA(k, svd_solver="full").fit(train) for k in sizes],
    "BernoulliPPCA": [BernoulliPPCA(k, tol=tol, random_state=0).fit(train) for k in sizes],
}
margins = {"PCA": np.geomspace(1e-5, 0.2, 30), "BernoulliPPCA": [0.0]}
k, costs, values = 8, {}, {}
print(f"held-out images, k={k}:     outside [0, 1]  squared error  cross-entropy")
for name, fitted in models.items():
    costs[name] = []
    for model in fitted:
        decoded = model.inverse_transform(model.transform(test))
        choices = [np.clip(decoded, margin, 1 - margin) for margin in margins[name]]
        nats = [-(xlogy(test, p) + xlog1py(1 - test, -p)).sum(axis=1) for p in choices]
        costs[name].append(np.mean(nats, axis=1).min())
        if model.n_components == k:
            values[name] = decoded
            outside = ((decoded < 0) | (decoded > 1)).mean()
            error = np.square(decoded - test).mean()
            print(f"{name:27s} {outside:12.1%} {error:14.4f} {costs[name][-1]:14.2f}")
pca, bernoulli = (fitted[sizes.index(k)] for fitted in models.values())
bound, likelihood = bernoulli.score(test), bernoulli.log_likelihood(test).mean()
print(f"BernoulliPPCA: ELBO {bound:.2f}, log-likelihood about {likelihood:.2f} nats per image")

# %%
# Plot the results, with colors for values outside [0, 1].
originals = np.array([test[test_digit == d][0] for d in range(10)])
reconstructions = {
    name: model.inverse_transform(model.transform(originals))
    for name, model in {"PCA": pca, "BernoulliPPCA": bernoulli}.items()
}
samples = {
    name: model.sample(10, random_state=0)[0]
    for name, model in {"PPCA": PPCA(k).fit(train), "BernoulliPPCA": bernoulli}.items()
}
colors = {"PCA": "#e69f00", "BernoulliPPCA": "#0072b2"}  # distinct for the color-blind
stops = [(0, "#0090e0"), (0.25, "white"), (0.75, "black"), (1, "#ff6000")]
shades = LinearSegmentedColormap.from_list("bits", stops)

figure = plt.figure(figsize=(14, 5.4), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=[1, 1.8])
cost, spread = left.subplots(2, 1)
for name, color in colors.items():
    cost.plot(sizes, costs[name], "s-" if name == "PCA" else "o-", color=color, label=name)
    spread.hist(values[name].ravel(), np.linspace(-0.5, 1.5, 41), color=color, alpha=0.6)
cost.set_xscale("log", base=2)
cost.set_xticks(sizes, sizes)
cost.set(xlabel="latent dimensions", ylabel="nats per image")
cost.set_title("Cross-entropy of held-out images\nunder their reconstructions")
cost.legend()
for outside in ((-0.5, 0), (1, 1.5)):
    spread.axvspan(*outside, color="0.92", zorder=0)
spread.set(yscale="log", xlim=(-0.5, 1.5), ylabel="pixels")
spread.set(xlabel="reconstructed value (gray: below 0 or above 1)")
spread.set_title(f"Reconstructed pixels of held-out images, k = {k}")

display = ReconstructionDisplay.from_results(
    originals,
    reconstructions,
    samples=samples,
    image_shape=(8, 8),
    limits=(-0.5, 1.5),
    cmap=shades,
    ax=right.subplots(),
)
ticks = [-0.5, 0, 1, 1.5]
image, bar = display.tiles_["data"][0], {"location": "bottom", "aspect": 50, "extend": "both"}
right.colorbar(image, ax=display.ax_, ticks=ticks, **bar)
right.suptitle(f"Reconstructions and samples, k = {k}")
figure.savefig(arguments.output, dpi=110)
print(f"Figure written to {arguments.output}")

# %%
# Reconstructions by PCA leave [0, 1] on both sides, those by BernoulliPPCA do not. BernoulliPPCA has
# a lower cross-entropy for every number of dimensions, and its samples are black and white.
