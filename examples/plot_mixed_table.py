"""
One latent model fills, classifies and imitates a table of numbers and categories
=================================================================================

The table has measurements of cells in tumours, a grade in three ordered categories, a boolean, and the
diagnosis as text. 20 % of all cells are hidden. A `TabularVAE` is fitted to what is left.

    python examples/plot_mixed_table.py [--output PATH] [--small]
"""

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer

from sklearn_vae import TabularVAE

parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
parser.add_argument("--output", default="mixed_table.png", help="path of the figure")
parser.add_argument("--small", action="store_true", help="use 250 samples only")
arguments = parser.parse_args()

data = load_breast_cancer(as_frame=True)
n_samples = 250 if arguments.small else len(data.data)
X = data.data.iloc[:n_samples, :8].copy()
X["texture"] = pd.qcut(X.pop("mean texture"), 3, labels=["smooth", "middle", "rough"])
X["compact"] = X.pop("mean compactness") > 0.1
X["diagnosis"] = data.target_names[data.target[:n_samples]].astype(str)
hidden = np.random.RandomState(0).uniform(size=X.shape) < 0.2
holes = X.astype({"compact": "boolean"}).mask(hidden)

# %%
# The types of columns follow from their dtypes. `column_gains_` tells in nats how much the latent
# variables know about each column.
vae = TabularVAE(6, random_state=0).fit(holes)
for name, kind in vae.column_types_.items():
    print(f"{name:25} {kind:12} {vae.column_gains_[name]:5.2f} nats")

# %%
# Imputed numbers are conditional means. The probabilities of categories ignore the category itself.
filled = vae.impute(holes)
probabilities = vae.conditional_probabilities(holes)
synthetic, _ = vae.sample(len(X), random_state=0)
numbers = X.select_dtypes("number").columns
figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
squares = []
for name in numbers:
    rows = hidden[:, X.columns.get_loc(name)]
    mean, std = X[name].mean(), X[name].std()
    truth, own = ((table[name] - mean)[rows] / std for table in (X, filled))
    squares.append(np.square(truth - own))
    axes[0].plot(truth, own, ".", markersize=4, label=name.removeprefix("mean "))
error = np.sqrt(np.concatenate(squares).mean())
axes[0].axline((0, 0), slope=1, color="black", linewidth=1)
axes[0].set(xlabel="hidden value (standardized)", ylabel="imputed value")
axes[0].set_title(f"hidden numbers: error {error:.2f}, that of means 1.00", fontsize=10)
axes[0].legend(fontsize=7)

# %%
# Of all categories with a probability of 70 %, about 70 % should be the true ones.
p, hit, right = [], [], []
for name, own in probabilities.items():
    rows = hidden[:, X.columns.get_loc(name)]
    truth = X[name][rows].map({value: i for i, value in enumerate(vae.categories_[name])})
    truth = truth.astype(int).to_numpy()
    right.append(own[rows].argmax(axis=1) == truth)
    p.append(own[rows].ravel())
    hit.append((truth[:, None] == np.arange(own.shape[1])).ravel())
p, hit = np.concatenate(p), np.concatenate(hit)
bins = np.clip((5 * p).astype(int), 0, 4)
axes[1].plot([0, 1], [0, 1], color="black", linewidth=1)
shares = [(p[bins == i].mean(), hit[bins == i].mean()) for i in range(5)]
axes[1].plot(*zip(*shares, strict=True), "o-")
accuracy = np.concatenate(right).mean()
axes[1].set(xlabel="probability of a category", ylabel="frequency")
axes[1].set_title(f"hidden categories: {accuracy:.0%} right, calibrated", fontsize=10)

# %%
# Synthetic rows have the dtypes, the decimals and the categories of the table.
for table, marker, label in ((X, ".", "table"), (synthetic, "x", "synthetic")):
    for diagnosis, color in (("benign", "tab:blue"), ("malignant", "tab:red")):
        part = table[table["diagnosis"] == diagnosis].head(150)
        place = part["mean radius"], part["mean concavity"]
        axes[2].plot(*place, marker, color=color, markersize=4, label=f"{label}, {diagnosis}")
axes[2].set(xlabel="mean radius", ylabel="mean concavity")
axes[2].set_title("rows and synthetic rows", fontsize=10)
axes[2].legend(fontsize=7)
figure.savefig(arguments.output, dpi=110)
print(f"error {error:.3f}, accuracy {accuracy:.3f}")

# %%
# Hidden numbers are near the diagonal, probabilities of categories are near their frequencies, and
# synthetic rows lie where the table has rows with the same diagnosis.
