"""
PPCA replaces PCA and shows how many components the data support
================================================================

On handwritten digits, PPCA finds the components of PCA. The log-likelihood of held-out images shows
how many of them generalize. As a density, PPCA can also generate new images.

    python examples/plot_ppca_replaces_pca.py [--output PATH] [--small]
"""

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split

from sklearn_vae import PPCA
from sklearn_vae.plot import ReconstructionDisplay

parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
parser.add_argument("--output", default="ppca_replaces_pca.png", help="path of the figure")
parser.add_argument("--small", action="store_true", help="try fewer numbers of components")
arguments = parser.parse_args()

# %%
# Add noise to the discrete gray levels from 0 to 16: a density needs continuous values, and no
# constant pixels.
X, digit = load_digits(return_X_y=True)
X = X + np.random.default_rng(0).uniform(-0.5, 0.5, X.shape)
train, test, _, test_digit = train_test_split(X, digit, random_state=0)

# %%
# Compare the components, and the likelihood of held-out images. PPCA has the larger likelihood on
# training images. On held-out images, PCA is ahead by thousandths of a nat, because its variances
# have the divisor n - 1.
print(" k   held-out log-likelihood   noise      components: largest")
print("     PPCA        PCA           variance   difference from PCA")
ks = [2, 10, 30, 50] if arguments.small else [1, 2, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60]
scores, train_scores = [], []
for k in ks:
    ppca, pca = PPCA(n_components=k).fit(train), PCA(n_components=k).fit(train)
    scores.append(ppca.score(test))
    train_scores.append(ppca.elbo_)
    difference = np.abs(ppca.components_ - pca.components_).max()
    print(
        f"{k:2d}   {scores[-1]:8.3f}   {pca.score(test):8.3f}      "
        f"{ppca.noise_variance_:8.3f}   {difference:.1e}"
    )
best = ks[int(np.argmax(scores))]
print(f"The held-out log-likelihood is highest for k = {best} components.")

# %%
# Plot the likelihood against k, reconstructions and samples.
model = PPCA(n_components=best).fit(train)
originals = np.array([test[test_digit == d][0] for d in range(10)])
few = PPCA(n_components=10, coordinates="principal").fit(train)
many = PPCA(n_components=best, coordinates="principal").fit(train)
reconstructions = {
    f"k = {reduced.n_components}": reduced.inverse_transform(reduced.transform(originals))
    for reduced in (few, many)
}

figure = plt.figure(figsize=(11, 3.9), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=[1, 1.25])
axes = left.subplots()
axes.plot(ks, train_scores, ":", color="0.4", label="training images")
axes.plot(ks, scores, "o-", color="tab:blue", markersize=4, label="held-out images")
axes.legend()
axes.axvline(best, color="0.6", linestyle=":")
axes.annotate(
    f"k = {best}", (best, min(scores)), xytext=(-6, 0), textcoords="offset points", ha="right"
)
axes.set(
    xlabel="components k",
    ylabel="log-likelihood (nats per image)",
    title="Number of components that generalize",
)
ReconstructionDisplay.from_results(
    originals,
    reconstructions,
    samples={f"k = {best}": model.sample(10, random_state=0)[0]},
    image_shape=(8, 8),
    limits=(0, 16),
    ax=right.subplots(),
)
right.suptitle("Reconstructions of held-out images, and samples")
figure.savefig(arguments.output, dpi=120)
print(f"Figure written to {arguments.output}")

# %%
# The log-likelihood of held-out images has a maximum in the number of components. On training
# images it always increases, like the explained variance.
