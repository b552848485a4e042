"""
Multiple imputation gives a regression coefficient with honest error bars
=========================================================================

The outcome y depends on two correlated predictors. The second one is missing more often where y is
high: at random, since y is observed. The coefficient is then estimated from the complete samples, from
one imputation by conditional means, and from many draws that are pooled by Rubin's rules.

    python examples/plot_multiple_imputation.py [--output PATH] [--small]
"""

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from sklearn_vae import GaussianImputer
from sklearn_vae.diagnostics import pool

parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
parser.add_argument("--output", default="multiple_imputation.png", help="path of the figure")
parser.add_argument("--small", action="store_true", help="use fewer simulated tables")
arguments = parser.parse_args()
n_tables = 12 if arguments.small else 200
rng = np.random.default_rng(0)
TRUTH, N, N_DRAWS = 1.0, 200, 20


def make_table():
    """Return complete samples of (x_1, x_2, y), and the same with x_2 missing at random."""
    x = rng.multivariate_normal([0.0, 0.0], [[1.0, 0.5], [0.5, 1.0]], size=N)
    y = 0.5 * x[:, 0] + TRUTH * x[:, 1] + rng.normal(size=N)
    X = np.column_stack([x, y])
    holes = X.copy()
    holes[rng.uniform(size=N) < 1.0 / (1.0 + np.exp(-1.5 * y)), 1] = np.nan
    return X, holes


def regress(X):
    """Return the coefficient of x_2 in a regression of y, and its variance."""
    A = np.column_stack([np.ones(len(X)), X[:, :2]])
    inverse = np.linalg.inv(A.T @ A)
    b = inverse @ A.T @ X[:, 2]
    residual = X[:, 2] - A @ b
    return b[2], residual @ residual / (len(X) - 3) * inverse[2, 2]


# %%
# Complete one data set by conditional means, and twenty by draws. The differences between the draws
# tell how uncertain the missing values leave the coefficient.
METHODS = ("no values missing", "complete cases", "single imputation", "multiple imputation")
results = {name: [] for name in METHODS}
for seed in range(n_tables):
    X, holes = make_table()
    imputer = GaussianImputer(random_state=seed).fit(holes)
    draws = imputer.impute(holes, n_draws=N_DRAWS, random_state=seed)
    pooled = pool(*zip(*map(regress, draws), strict=True), complete_df=N - 3)
    complete = holes[~np.isnan(holes).any(axis=1)]
    for name, table in zip(METHODS, (X, complete, imputer.transform(holes)), strict=False):
        estimate, variance = regress(table)
        half = 1.96 * variance**0.5
        results[name].append((estimate, estimate - half, estimate + half))
    results[METHODS[3]].append((pooled.estimate, *pooled.interval()))

# %%
# Each line is the interval of one table, red if it does not hold the truth.
figure, axes = plt.subplots(1, 4, figsize=(11, 4), sharex=True, sharey=True, layout="constrained")
for ax, (name, rows) in zip(axes, results.items(), strict=True):
    estimates, lower, upper = np.array(rows).T
    holds = (lower <= TRUTH) & (upper >= TRUTH)
    shown = np.arange(min(n_tables, 50))
    colors = np.where(holds, "tab:blue", "tab:red")[shown]
    ax.hlines(shown, lower[shown], upper[shown], colors=colors, linewidth=1)
    ax.axvline(TRUTH, color="black", linewidth=1)
    ax.set_title(f"{name}\nmean {estimates.mean():.2f}, {holds.mean():.0%} hold", fontsize=10)
    ax.set_xlabel("coefficient of $x_2$")
    print(f"{name:20} mean {estimates.mean():.2f}, {holds.mean():.0%} of 95 % intervals hold")
axes[0].set_ylabel("simulated table")
figure.savefig(arguments.output, dpi=110)

# %%
# The complete cases have a coefficient that is too small, and one imputation by means one that is too
# large, with intervals that are too short. Multiple imputation is close to what the complete data say.
