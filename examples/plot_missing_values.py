"""
Missing values imputed by PPCA come with error bars
===================================================

A fifth of the measurements of 569 tumors is hidden, and imputed from the rest of each sample. The
conditional distribution of the missing values has a width too. The truth is within 1.96 standard
deviations nearly as often as for Gaussian measurements.

    python examples/plot_missing_values.py [--output PATH] [--small]
"""

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.preprocessing import StandardScaler

from sklearn_vae import PPCA, PPCAImputer
from sklearn_vae.plot import ImputationDisplay

parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
parser.add_argument("--output", default="missing_values.png", help="path of the figure")
parser.add_argument("--small", action="store_true", help="use fewer shares of missing values")
arguments = parser.parse_args()

# %%
# Take logarithms, which are closer to the Gaussian distribution that the model assumes.
data = load_breast_cancer()
truth = StandardScaler().fit_transform(np.log1p(data.data))
rng = np.random.default_rng(0)
X = np.where(rng.uniform(size=truth.shape) < 0.2, np.nan, truth)

model = PPCA(n_components=8).fit(X)
filled, std = model.impute(X, return_std=True)
missing = np.isnan(X)
inside = np.abs(truth - filled) < 1.96 * std
print(f"{missing.sum()} missing values, {model.n_iter_} iterations of EM")
print(f"within 1.96 standard deviations: {inside[missing].mean():.1%} (expected: 95.0%)")

# %%
# Compare the errors of imputers for increasing shares of missing values.
shares = [0.1, 0.3, 0.5] if arguments.small else [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
imputers = {"PPCAImputer": PPCAImputer(8), "KNNImputer": KNNImputer(), "mean": SimpleImputer()}
errors = {name: [] for name in imputers}
for share in shares:
    X_missing = np.where(rng.uniform(size=truth.shape) < share, np.nan, truth)
    hidden = np.isnan(X_missing)
    for name, imputer in imputers.items():
        difference = (imputer.fit_transform(X_missing) - truth)[hidden]
        errors[name].append(np.sqrt(np.mean(difference**2)))
print("missing  " + "  ".join(f"{name:>11s}" for name in errors))
for i, share in enumerate(shares):
    print(f"{share:7.0%}  " + "  ".join(f"{error[i]:11.3f}" for error in errors.values()))

# %%
# Plot the features with the narrowest and the widest error bars, and the errors.
figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
width = np.where(missing, std, np.nan)
by_width = np.argsort(np.nanmean(width, axis=0))
for axis, feature in zip(axes, (by_width[0], by_width[-1]), strict=False):
    ImputationDisplay.from_estimator(model, X, truth, features=feature, max_cells=100, ax=axis)
    name = data.feature_names[feature]
    axis.set(xlabel=f"truth: {name}", ylabel=f"imputed: {name}")
for (name, error), color in zip(errors.items(), ("#0072b2", "#e69f00", "#009e73"), strict=True):
    axes[2].plot(shares, error, "o-", markersize=3, color=color, label=name)
axes[2].set(title="root mean square error", xlabel="share of values missing", ylim=(0, None))
axes[2].legend(loc="lower right")
figure.savefig(arguments.output, dpi=110)

# %%
# The first feature is determined well by the others and has narrow error bars. The second one has
# wider error bars, outside of which are a few outliers. The error of PPCA is the smallest for every
# share of missing values.
