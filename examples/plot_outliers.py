"""
Conformal limits flag 1 % of usual samples, chi-squared limits 15 %
===================================================================

The distance of a sample from a fitted Gaussian has a chi-squared distribution only if the data are
Gaussian and the parameters are known. Tumor measurements are neither: at a level of 1 % the limit
flags many of the samples that it should not. `OutlierDetector` compares the distance with those of
samples that were held out from the fit, and needs no such assumption.

    python examples/plot_outliers.py [--output PATH] [--small]
"""

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import chi2
from sklearn.datasets import load_breast_cancer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_vae import PPCACV, OutlierDetector
from sklearn_vae.plot import ContributionDisplay, OutlierDisplay

parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
parser.add_argument("--output", default="outliers.png", help="path of the figure")
parser.add_argument("--small", action="store_true", help="use fewer splits")
arguments = parser.parse_args()

# %%
# Benign samples are the usual ones. The model scales the features and is fitted within each fold.
X, y = load_breast_cancer(return_X_y=True, as_frame=True)
benign, malignant = X[y == 1], X[y == 0]
model = make_pipeline(StandardScaler(), PPCACV())


def split(seed):
    """Return a detector of 299 benign samples, and the other ones."""
    order = np.random.default_rng(seed).permutation(len(benign))
    detector = OutlierDetector(model, level=0.01, random_state=seed)
    return detector.fit(benign.iloc[order[:299]]), benign.iloc[order[299:]]


# %%
# Collect p-values of usual samples over many splits into training and held-out samples.
conformal, asymptotic = [], []
for seed in range(4 if arguments.small else 40):
    detector, usual = split(seed)
    d = detector.distances(usual)
    conformal.append(detector.p_values(usual))
    asymptotic.append(chi2.sf(d.t2 + d.spe, d.t2_dof + d.spe_dof))
p_values = {"chi-squared": np.concatenate(asymptotic), "conformal": np.concatenate(conformal)}
for name, values in p_values.items():
    print(f"{name:12s} flags {np.mean(values <= 0.01):6.2%} of usual samples at level 1 %")

# %%
# A single split: detect malignant samples among benign ones, and say why.
detector, usual = split(0)
batch, is_malignant = (
    pd.concat([usual, malignant]),
    np.arange(len(usual) + len(malignant)) >= len(usual),
)
for name, labels in (
    ("level 1 %", detector.predict(batch)),
    ("false discovery rate 5 %", detector.predict_fdr(batch, 0.05)),
):
    flagged = labels == -1
    print(
        f"{name}: {flagged[is_malignant].mean():.0%} of the malignant samples are flagged; "
        f"{flagged[~is_malignant].sum()} of {flagged.sum()} flagged samples are benign"
    )
sample = int(np.argsort(detector.score_samples(malignant))[10])
parts = detector.contributions(malignant[sample : sample + 1])
print(f"sample {sample} is unusual by its {parts.feature_names[parts.total[0].argmax()]}")

# %%
# Plot the share of usual samples that is flagged at each level, the distances, and one sample.
figure, axes = plt.subplots(1, 3, figsize=(15, 4.4), layout="constrained")
levels = np.geomspace(0.005, 1.0, 200)
for (name, values), color in zip(p_values.items(), ("#d55e00", "#0072b2"), strict=True):
    shares = np.mean(values[:, None] <= levels, axis=0)
    axes[0].plot(levels, shares, color=color, label=name)
axes[0].plot(levels, levels, "--", color="black", linewidth=0.8, label="level")
axes[0].set(xscale="log", yscale="log", xlabel="level", ylabel="share of usual samples flagged")
axes[0].legend(loc="lower right", frameon=False)
OutlierDisplay.from_estimator(detector, batch, ax=axes[1])
ContributionDisplay.from_estimator(detector, malignant, sample=sample, max_features=8, ax=axes[2])
figure.savefig(arguments.output, dpi=110)

# %%
# Left: conformal p-values flag as many usual samples as the level says, chi-squared limits flag
# many more. Middle: flagged samples are far from the benign ones, most of them both within the
# latent space and off it. Right: the contributions of the features to one of these distances.
