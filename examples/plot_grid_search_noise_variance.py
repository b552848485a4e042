"""
GridSearchCV finds the noise variance, and too much noise collapses latent dimensions
=====================================================================================

The noise variance of PPCA can be fixed. All latent dimensions whose variance in the data is below
it then collapse exactly. This is posterior collapse in closed form. GridSearchCV maximizes the
log-likelihood of held-out samples, and so finds the right noise variance.

    python examples/plot_grid_search_noise_variance.py [--output PATH] [--small]
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
parser.add_argument("--small", action="store_true", help="use fewer values and folds")
arguments = parser.parse_args()

# %%
# Fit 20 latent dimensions to digits with 64 pixels, for sigma^2 over four orders of magnitude.
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
print(f"estimated:  sigma^2 = {learned.noise_variance_:.3f}, held-out {scores[-1]:.2f} nats")
print(f"best:       {search.best_params_} with {search.best_score_:.2f} nats")

# %%
# Plot the likelihood, the number of active dimensions, and their KL.
figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 6.4), sharex=True, layout="constrained")
top.plot(values, [model.elbo_ for model in models], ":", color="0.4", label="training data")
red, orange = "#d55e00", "#e69f00"  # distinct for the color-blind
top.axvline(learned.noise_variance_, color=red, label=r"estimated $\sigma^2$, all samples")
CVCurveDisplay.from_estimator(search, ax=top)
top.set(xlabel=None, ylim=(scores[:-1].max() - 60, scores.max() + 8))
figure.suptitle(r"PPCA with 20 latent dimensions on digits, fixed $\sigma^2$")
bottom.step(values, 20 - collapsed, where="mid", color="#0072b2", label="active dimensions")
bottom.set(xlabel=r"noise variance $\sigma^2$", ylabel="active dimensions", ylim=(0, 21))
bottom.set_yticks(range(0, 21, 5))
bottom.axvline(learned.noise_variance_, color=red)
nats = bottom.twinx()
nats.plot(values, [model.kl_per_dim_.sum() for model in models], color=orange)
nats.set_ylabel("KL of all dimensions (nats)", color=orange)
nats.set_ylim(bottom=0)
figure.savefig(arguments.output, dpi=120)
print(f"Figure written to {arguments.output}")

# %%
# The held-out likelihood has its maximum slightly above the estimated noise variance. For larger
# values, the dimensions collapse one after another, as the noise exceeds the variance they explain.
