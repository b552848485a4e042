"""
Online EM follows a changing stream, and knows its likelihood without stored samples
====================================================================================

Samples arrive in batches. Their principal directions rotate slowly, and their noise doubles halfway
through. `LinearVAE.partial_fit` stores k directions, a mean and a trace, and can forget old
batches. After each batch `entropy_bound_`, a sum of three entropies computed from k + 1 numbers,
agrees with the log-likelihood of held-out samples to a fraction of a nat, except shortly after the
noise has doubled.

    python examples/plot_streaming_likelihood.py [--output PATH] [--small]
"""

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from sklearn_vae import LinearVAE
from sklearn_vae.plot import TrainingDisplay

parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
parser.add_argument("--output", default="streaming.png", help="path of the figure")
parser.add_argument("--small", action="store_true", help="use fewer batches")
arguments = parser.parse_args()

# %%
# Generate a stream of 50 features with 5 latent dimensions.
d, k, size = 50, 5, 100
n_batches = 120 if arguments.small else 400
rng = np.random.default_rng(0)
axes_before, axes_after = np.split(np.linalg.qr(rng.normal(size=(d, 2 * k)))[0], 2, axis=1)
noise = np.where(np.arange(n_batches) < n_batches // 2, 1.0, 2.0)


def draw(t, n):
    """Draw n samples from the distribution of batch t."""
    angle = 0.5 * np.pi * t / n_batches
    W = (np.cos(angle) * axes_before + np.sin(angle) * axes_after) * np.linspace(5, 2, k)
    return rng.normal(size=(n, k)) @ W.T + np.sqrt(noise[t]) * rng.normal(size=(n, d))


# %%
# Fit two models. One remembers about ten batches, the other one remembers all.
models = {"forgetting=0.9": LinearVAE(k, forgetting=0.9), "forgetting=1": LinearVAE(k)}
bound, held_out, sigma2 = ({name: [] for name in models} for _ in range(3))
for t in range(n_batches):
    batch, unseen = draw(t, size), draw(t, 1000)
    for name, model in models.items():
        model.partial_fit(batch)
        bound[name].append(model.entropy_bound_)
        held_out[name].append(model.log_likelihood(unseen).mean())
        sigma2[name].append(model.noise_variance_)

# %%
# Compare the ELBO with the likelihood, without the first batches and those after the change.
memory = 10
steady = np.r_[2 * memory : n_batches // 2, n_batches // 2 + 5 * memory : n_batches]
for name in models:
    gap = np.array(bound[name]) - np.array(held_out[name])
    last = np.mean(held_out[name][-memory:])
    print(
        f"{name:15s} ELBO minus held-out log-likelihood: mean {gap[steady].mean():6.2f}, largest "
        f"{np.abs(gap[steady]).max():6.2f} nats; at the end {last:8.2f} nats, sigma2 "
        f"{sigma2[name][-1]:.2f}"
    )

# %%
# Plot the results.
histories = {
    name: {
        "epoch": range(n_batches),
        "bound": bound[name],
        "validation_bound": held_out[name],
        "noise_variance": sigma2[name],
    }
    for name in models
}
figure, axes = plt.subplots(figsize=(9, 6.5), layout="constrained")
display = TrainingDisplay.from_results(histories, ax=axes)
upper, lower = display.ax_[:, 0]
for name, lines in display.lines_.items():
    lines["validation_bound"].set(alpha=0.45, linewidth=4, linestyle="-")
    lines["noise_variance"].set_label(name)
labels = {"validation_bound": "log-likelihood of held-out samples"}
labels["bound"] = "sum of entropies, without samples"
legend = upper.legend([lines[key] for key in labels], labels.values(), loc="upper right")
for handle in legend.legend_handles:
    handle.set_color("gray")
lowest = min(min(values[memory:]) for values in held_out.values())
upper.set(ylabel="nats per sample", ylim=(lowest - 2, None))
lower.step(np.arange(n_batches), noise, color="black", linestyle=":", label="truth")
lower.legend(loc="upper left")
lower.set(xlabel="batch", ylabel=r"noise variance $\sigma^2$")
figure.suptitle("Online EM on a stream that rotates and whose noise doubles")
figure.savefig(arguments.output, dpi=110)
print(f"Figure written to {arguments.output}")

# %%
# The sum of entropies of the forgetting model agrees with its held-out likelihood, except shortly
# after the noise has doubled. The other model falls behind. Its sum of entropies, which describes
# all past batches, does not show this.
