"""
A heteroscedastic decoder learns how the noise changes along a ring
===================================================================

Samples lie near a circle in 8 dimensions, with noise that increases tenfold from one side to the
other. A VAE with a single noise variance learns an average. A VAE whose decoder predicts the
variance learns the noise at each point, and has a higher ELBO on held-out samples. As training
converges, the ELBO of both approaches the sum of entropies H[q(z|x)] - H[p(z)] - H[p(x|z)].

    python examples/plot_heteroscedastic_ring.py [--output PATH] [--small]
"""

import argparse
import warnings

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Ellipse
from skorch.callbacks import LRScheduler

from sklearn_vae import DeepGaussianVAE, Snapshot
from sklearn_vae.plot import EntropyDisplay

parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
parser.add_argument("--output", default="heteroscedastic_ring.png", help="path of the figure")
parser.add_argument("--small", action="store_true", help="use fewer samples and epochs")
arguments = parser.parse_args()

# %%
# Generate a circle of radius 3 in a random plane, with noise in all features.
n, d, rng = 600 if arguments.small else 2000, 8, np.random.default_rng(0)
plane = np.linalg.qr(rng.standard_normal((d, 2)))[0].T


def ring(angle):
    """Return points on the circle, and the standard deviation of their noise, from 0.05 to 0.5."""
    circle = 3 * np.column_stack([np.cos(angle), np.sin(angle)])
    return circle @ plane, 0.05 * 10 ** ((1 + np.cos(angle)) / 2)


mean, deviation = ring(rng.uniform(0, 2 * np.pi, 2 * n))
X = mean + deviation[:, None] * rng.standard_normal((2 * n, d))
train, test = X[:n], X[n:]

# %%
# A closed curve needs two latent dimensions. KL annealing keeps both active, and the decreasing
# learning rate helps convergence. Snapshots keep the models at these epochs.
n_epochs, n_draws = (60, 40) if arguments.small else (600, 200)
epochs = np.unique(np.geomspace(1, n_epochs, 25).astype(int)).tolist()
models = {}
if arguments.small:
    warnings.filterwarnings("ignore", "Training has not converged")
for name in ("scalar", "heteroscedastic"):
    models[name] = DeepGaussianVAE(
        n_components=2,
        hidden_layer_sizes=(64, 64),
        noise_model=name,
        kl_warmup_epochs=n_epochs // 12,
        learning_rate=3e-3,
        max_epochs=n_epochs,
        batch_size=64,
        callbacks=[Snapshot(epochs=epochs), LRScheduler("CosineAnnealingLR", T_max=n_epochs)],
        random_state=0,
    ).fit(train)

# %%
# Decode points along the ring, and compute the entropies. H[p(x|z)] follows from their sum.
angles = np.linspace(0, 2 * np.pi, 201)
circle, truth = ring(angles)
decoded = {name: model.conditional(model.transform(circle)) for name, model in models.items()}
deviations = {name: np.sqrt(variance.mean(axis=1)) for name, (_, variance) in decoded.items()}
print("                  held-out   log-like-   sigma where the noise is")
print("                     bound      lihood    0.50     0.16     0.05")
for name, model in models.items():
    sigma = " ".join(f"{deviations[name][i]:8.2f}" for i in (0, 50, 100))
    likelihood = model.log_likelihood(test, n_samples=n_draws).mean()
    print(f"{name:15s} {model.score(test):10.2f} {likelihood:11.2f} {sigma}")
print("training samples:      H[q(z|x)] - H[p(z)] - H[p(x|z)] =    sum     ELBO      gap")
for label, model in models.items():
    q, p = (model.history_[f"{name}_entropy"][-1] for name in ("posterior", "prior"))
    total, gap = model.entropy_bound_, model.entropy_gap_.total
    print(f"{label:18s} {q:13.2f} {p:8.2f} {q - p - total:10.2f} ", end="")
    print(f"{total:11.2f} {model.elbo_:8.2f} {gap:8.3f}")

# %%
# Plot the results.
colors = {"scalar": "#e69f00", "heteroscedastic": "#0072b2"}  # distinct for the color-blind
figure = plt.figure(figsize=(15, 8), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=[1, 1.1])
above, below = left.subfigures(2, 1, height_ratios=[1, 1])
for panel, (name, (mean, variance)) in zip(above.subplots(1, 2), decoded.items(), strict=True):
    color = colors[name]
    panel.scatter(*(plane @ test.T), s=2, color="0.6")
    panel.plot(*(plane @ mean.T), color=color, linewidth=2)
    axes = 4 * np.sqrt(variance @ plane.T**2)  # full widths, two deviations to each side
    for i in range(0, 200, 10):
        panel.add_patch(Ellipse(plane @ mean[i], *axes[i], color=color, alpha=0.35, linewidth=0))
    panel.set(aspect="equal", title=name)
    panel.set(xlabel="first coordinate in the ring's plane", ylabel="second")
above.suptitle("Decoder: mean ± 2 standard deviations")
noise = below.subplots()
noise.plot(np.degrees(angles), truth, "k:", linewidth=3, label="truth")
for name, sigma in deviations.items():
    noise.plot(np.degrees(angles), sigma, color=colors[name], label=name)
noise.set(xticks=range(0, 361, 90), xlabel="angle (degrees)", ylabel="standard deviation")
noise.set(ylim=(0, 0.55), title="Decoder noise along the ring")
noise.legend()
display = EntropyDisplay.from_estimator(models, train, ax=right.subplots())
for panel in display.ax_[0]:
    panel.set(xscale="log", ylim=(-12, 1))
right.suptitle("ELBO of the training samples, and sum of three entropies")
figure.savefig(arguments.output, dpi=110)
print(f"Figure written to {arguments.output}")

# %%
# The ellipses of the heteroscedastic decoder follow the noise, those of the scalar one do not. For
# both, the sum of three entropies approaches the ELBO as training converges.
