"""
BernoulliPPCA reconstructs bits by probabilities where PCA leaves their range
=============================================================================

Pixels that are 0 or 1 have no Gaussian noise. PCA reconstructs them by values below 0 and above 1;
Bernoulli pPCA, with as many latent dimensions, by the probability of a 1, closer to images that
neither has seen, and what it draws are black and white images.

    python examples/plot_bernoulli_ppca_digits.py [--output PICTURE] [--small]
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
parser.add_argument("--output", default="bernoulli_ppca_digits.png", help="the picture to write")
parser.add_argument("--small", action="store_true", help="fewer models, fitted less closely")
arguments = parser.parse_args()

# %%
# Pixels from 0 to 16; 8 and more count as 1.
X, digit = load_digits(return_X_y=True)
X = (X >= 8).astype(float)
train, test, _, test_digit = train_test_split(X, digit, random_state=0)

# %%
# A little apart from the likelihood: the nats that the bits of a held-out image cost under its
# reconstruction. PCA's values must first be moved into (0, 1), by a margin; it is given the one
# that suits it best here. BernoulliPPCA's are taken as they are.
sizes = [2, 8] if arguments.small else [1, 2, 4, 8, 16]
tol = 1e-3 if arguments.small else 1e-6
models = {
    "PCA": [PCA(k, svd_solver="full").fit(train) for k in sizes],
    "BernoulliPPCA": [BernoulliPPCA(k, tol=tol, random_state=0).fit(train) for k in sizes],
}
margins = {"PCA": np.geomspace(1e-5, 0.2, 30), "BernoulliPPCA": [0.0]}
k, costs, values = 8, {}, {}
print(f"of held-out images, k={k}:  outside [0, 1]  squared error  cross-entropy")
for name, of_sizes in models.items():
    costs[name] = []
    for model in of_sizes:
        found = model.inverse_transform(model.transform(test))
        choices = [np.clip(found, margin, 1 - margin) for margin in margins[name]]
        nats = [-(xlogy(test, p) + xlog1py(1 - test, -p)).sum(axis=1) for p in choices]
        costs[name].append(np.mean(nats, axis=1).min())
        if model.n_components == k:
            values[name] = found
            outside, error = ((found < 0) | (found > 1)).mean(), np.square(found - test).mean()
            print(f"{name:27s} {outside:12.1%} {error:14.4f} {costs[name][-1]:14.2f}")
pca, ours = (of_sizes[sizes.index(k)] for of_sizes in models.values())
bound, likelihood = ours.score(test), ours.log_likelihood(test).mean()
print(f"BernoulliPPCA's bound {bound:.2f}, its log-likelihood about {likelihood:.2f} nats")

# %%
# The picture. Values outside [0, 1] are coloured.
originals = np.array([test[test_digit == d][0] for d in range(10)])
reconstructions = {
    name: model.inverse_transform(model.transform(originals))
    for name, model in {"PCA": pca, "BernoulliPPCA": ours}.items()
}
samples = {
    name: model.sample(10, random_state=0)[0]
    for name, model in {"PPCA": PPCA(k).fit(train), "BernoulliPPCA": ours}.items()
}
colors = {"PCA": "#e69f00", "BernoulliPPCA": "#0072b2"}  # also apart without red or green
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
spread.set(xlabel="reconstructed value (grey: below 0, above 1)")
spread.set_title(f"What held-out pixels become, k = {k}")

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
right.suptitle(f"Reconstructions and new images from {k} numbers each")
figure.savefig(arguments.output, dpi=110)
print(f"Picture written to {arguments.output}")

# %%
# The picture shows PCA's reconstructions on both sides of [0, 1] and BernoulliPPCA's within, at a
# lower cross-entropy for every number of dimensions, and draws in black and white without shades.
