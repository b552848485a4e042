"""
GridSearchCV over sigma^2: too much noise collapses latent dimensions, and costs likelihood
===========================================================================================

The noise variance of PPCA can be held fixed. Every latent dimension whose variance in the data
lies below it is then switched off, exactly: that is posterior collapse, in closed form. The
log-likelihood of held-out rows, which is the score that GridSearchCV maximises, says which
noise variance is right.

    python examples/plot_grid_search_noise_variance.py [--output PICTURE] [--small]
"""

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV

from sklearn_vae import PPCA
from sklearn_vae.plot import CVCurveDisplay

parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
parser.add_argument("--output", default="grid_search_noise_variance.png")
parser.add_argument("--small", action="store_true", help="fewer values and folds")
arguments = parser.parse_args()

# %%
# Twenty latent dimensions for digits of 64 pixels, sigma^2 over four orders of magnitude.
X = load_digits().data
values = np.geomspace(0.05, 500, 9 if arguments.small else 33).tolist()
search = GridSearchCV(
    PPCA(n_components=20),
    {"noise_variance": [*values, None]},
    cv=2 if arguments.small else 5,
).fit(X)
scores = search.cv_results_["mean_test_score"]
models = [PPCA(n_components=20, noise_variance=value).fit(X) for value in values]
collapsed = np.array([model.collapsed_dims_.size for model in models])

print("sigma^2   held-out log-likelihood   collapsed of 20   sum of three entropies")
for value, score, number, model in list(zip(values, scores, collapsed, models, strict=False))[::4]:
    print(
        f"{value:7.2f}   {score:12.2f}              {number:2d}              {model.entropy_bound_:10.2f}"
    )
learned = PPCA(n_components=20).fit(X)
print(f"learned:  sigma^2 = {learned.noise_variance_:.3f}, held-out {scores[-1]:.2f} nats")
print(f"best:     {search.best_params_} with {search.best_score_:.2f} nats")

# %%
# Above: likelihood. Below: how many dimensions are left, and what each of them carries.
figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 6.4), sharex=True, layout="constrained")
top.plot(values, [model.elbo_ for model in models], ":", color="0.4", label="training data")
red, orange = "#d55e00", "#e69f00"  # also apart without red or green
top.axvline(learned.noise_variance_, color=red, label=r"estimated $\sigma^2$ of all rows")
CVCurveDisplay.from_estimator(search, ax=top)
top.set(xlabel=None, ylim=(scores[:-1].max() - 60, scores.max() + 8))
figure.suptitle(r"PPCA with 20 latent dimensions on digits, $\sigma^2$ held fixed")
bottom.step(values, 20 - collapsed, where="mid", color="#0072b2", label="active dimensions")
bottom.set(xlabel=r"noise variance $\sigma^2$", ylabel="active dimensions", ylim=(0, 21))
bottom.set_yticks(range(0, 21, 5))
bottom.axvline(learned.noise_variance_, color=red)
nats = bottom.twinx()
nats.plot(values, [model.kl_per_dim_.sum() for model in models], color=orange)
nats.set_ylabel("nats in all dimensions", color=orange)
nats.set_ylim(bottom=0)
figure.savefig(arguments.output, dpi=120)
print(f"Picture written to {arguments.output}")

# %%
# The held-out likelihood is best just above the noise variance that is learned from the data; far
# above it the dimensions collapse one by one, as the noise exceeds the variance they explain.
