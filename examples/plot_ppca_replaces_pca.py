"""
PPCA has the coordinates of PCA, generalizes from fewer samples, and fills missing values
=========================================================================================

On handwritten digits, replacing PCA by PPCA changes no coordinate and no prediction. As a density, PPCA
generalizes better, because its noise variance can be chosen: by cross-validation, in milliseconds. PPCA
can also be fitted to images with missing pixels.

    python examples/plot_ppca_replaces_pca.py [--output PATH] [--small]
"""

import argparse
from time import perf_counter

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from sklearn_vae import PPCA, PPCACV
from sklearn_vae.plot import ReconstructionDisplay

parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
parser.add_argument("--output", default="ppca_replaces_pca.png", help="path of the figure")
parser.add_argument("--small", action="store_true", help="use fewer training images")
arguments = parser.parse_args()

# %%
# Add noise to the discrete gray levels from 0 to 16: a density needs continuous values, and no
# constant pixels. Then replace PCA by PPCA in a pipeline.
X, digit = load_digits(return_X_y=True)
X = X + np.random.default_rng(0).uniform(-0.5, 0.5, X.shape)
train, test, train_digit, test_digit = train_test_split(X, digit, random_state=0)
before, after = (
    make_pipeline(reduction, SVC()).fit(train, train_digit) for reduction in (PCA(20), PPCA(20))
)
difference = np.abs(before[0].transform(test) - after[0].transform(test)).max()
same = np.mean(before.predict(test) == after.predict(test))
print(f"coordinates differ by at most {difference:.1e}, {same:.0%} of the predictions are equal")

# %%
# Choose the model by cross-validation: the number of components of PCA, and both k and the noise
# variance of PPCA.
sizes = [20, 64, 200] if arguments.small else [15, 20, 30, 40, 64, 100, 200, 400, len(train)]
held_out = {"PPCACV": [], "PCA": []}
print("images   held-out log-likelihood   milliseconds        k and noise variance")
print("            PPCA        PCA         PPCA      PCA      of PPCA")
for n in sizes:
    ks = range(0, int(0.75 * n), 2)[: X.shape[1] // 2]
    searches = {
        "PPCACV": PPCACV(ks, noise_variance=np.geomspace(0.1, 20, 20)),
        "PCA": GridSearchCV(PCA(), {"n_components": ks}),
    }
    times = []
    for name, search in searches.items():
        start = perf_counter()
        search.fit(train[:n])
        times.append(1e3 * (perf_counter() - start))
        held_out[name].append(search.score(test))
    ours, theirs = (values[-1] for values in held_out.values())
    k, noise = searches["PPCACV"].best_params_.values()
    print(
        f"{n:6d}   {ours:8.1f}   {theirs:8.1f}     {times[0]:8.0f} {times[1]:8.0f}   "
        f"{k:5d} {noise:8.2f}"
    )

# %%
# Remove a third of the pixels, fit PPCA to what is left, and fill the pixels of held-out images.
rng = np.random.default_rng(1)
seen, shown = (np.where(rng.uniform(size=x.shape) < 1 / 3, np.nan, x) for x in (train, test))
model = PPCA(20, tol=1e-3).fit(seen)
filled, hidden = model.impute(shown), np.isnan(shown)
errors = (filled - test)[hidden], (train.mean(axis=0) - test)[hidden]
print("error of missing pixels: PPCA {:.2f}, mean {:.2f}".format(*map(np.std, errors)))

# %%
# Plot the likelihoods, and images without a third of their pixels.
figure = plt.figure(figsize=(11, 3.9), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=[1, 1.25])
axes = left.subplots()
labels = {"PPCACV": r"PPCA, $k$ and $\sigma^2$ chosen", "PCA": r"PCA, $k$ chosen"}
for name, color in zip(labels, ("#0072b2", "#e69f00"), strict=True):
    axes.semilogx(sizes, held_out[name], "o-", color=color, markersize=4, label=labels[name])
axes.axvline(X.shape[1], color="0.6", linestyle=":")
axes.annotate("n = d", (X.shape[1], axes.get_ylim()[0]), (4, 4), textcoords="offset points")
axes.legend()
axes.set_xticks(sizes, labels=sizes)
axes.minorticks_off()
axes.set(
    xlabel="training images n",
    ylabel="held-out log-likelihood (nats per image)",
    title="Models chosen by cross-validation",
)
digits = np.array([np.flatnonzero(test_digit == d)[0] for d in range(10)])
ReconstructionDisplay.from_results(
    test[digits],
    {"a third missing": shown[digits], "filled": filled[digits]},
    samples={"PPCA": model.sample(10, random_state=0)[0]},
    image_shape=(8, 8),
    limits=(0, 16),
    ax=right.subplots(),
    cmap=plt.get_cmap("gray_r").with_extremes(bad="#e69f00"),
)
right.suptitle("Held-out images with missing pixels, and samples")
figure.savefig(arguments.output, dpi=120)
print(f"Figure written to {arguments.output}")

# %%
# PPCA is ahead of PCA by up to 12 nats per image, most of all where there are about as many images as
# pixels. On the right, it fills the missing pixels (orange) of images that it has not seen.
