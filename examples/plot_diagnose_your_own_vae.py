"""
A mean squared error collapses your own VAE, and diagnose tells how to mend it
==============================================================================

A VAE in plain PyTorch is trained with `F.mse_loss` plus the KL. All its latent dimensions collapse,
because the mean over features implies a noise variance of half the number of features, as the report
of diagnose says. After its first advice, 700 epochs give a healthy VAE (60 with --small do not yet).

    python examples/plot_diagnose_your_own_vae.py [--output PATH] [--small]
"""

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from sklearn_vae.adapters import LatentLogger, from_torch, implied_noise_variance
from sklearn_vae.diagnostics import diagnose
from sklearn_vae.plot import ReportDisplay

parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
parser.add_argument("--output", default="diagnose_your_own_vae.png")
parser.add_argument("--small", action="store_true", help="use fewer samples and epochs")
arguments = parser.parse_args()
X = load_digits().data[: 300 if arguments.small else None].astype("float32") / 16


# %%
# The model and its training loop, without this library.
class VAE(nn.Module):
    """A VAE with 10 latent dimensions, as in many tutorials."""

    def __init__(self, n_features, n_latent=10, width=128):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(n_features, width), nn.ReLU(), nn.Linear(width, 2 * n_latent)
        )
        self.decoder = nn.Sequential(
            nn.Linear(n_latent, width), nn.ReLU(), nn.Linear(width, n_features)
        )

    def encode(self, x):
        return self.encoder(x).chunk(2, dim=-1)  # mean and log-variance

    def decode(self, z):
        return self.decoder(z)


def train(reconstruction_loss, after_epoch, n_epochs):
    """Train a VAE, and return it with the squared error of its last epoch."""
    torch.manual_seed(0)
    vae, x = VAE(X.shape[1]), torch.from_numpy(X)
    optimizer = torch.optim.Adam(vae.parameters(), lr=4e-3)
    rate = torch.optim.lr_scheduler.LambdaLR(  # falls in the last quarter
        optimizer, lambda epoch: min(1.0, 4.0 * (1.0 - epoch / n_epochs))
    )
    for _ in range(n_epochs):
        errors = []
        for batch in x[torch.randperm(len(x))].split(100):
            mean, log_variance = vae.encode(batch)
            z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
            mse = functional.mse_loss(vae.decode(z), batch)
            kl = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(dim=1).mean()
            loss = reconstruction_loss(mse) + kl
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            errors.append(mse.item())
        after_epoch(vae, sum(errors) / len(errors), rate.get_last_lr()[0])
        rate.step()
    return vae, sum(errors) / len(errors)


# %%
# Train it with the mean squared error. A logger records the ELBO of the noise variance that this
# loss implies.
n_epochs = 60 if arguments.small else 700
implied = implied_noise_variance(X.shape[1], error="mean")
logger = LatentLogger(X, noise_variance=implied)
vae, _ = train(lambda mse: mse, lambda vae, mse, rate: logger.update(vae, learning_rate=rate), 20)
collapsed = from_torch(vae, noise_variance=implied, history=logger.history_)
report = diagnose(collapsed, X)
print(report)

# %%
# The first advice is to replace the error by its logarithm, which is the loss with the best noise
# variance of each batch. That is the mean squared error itself.
print(f"\nFollowing the advice: {report.advice[0]}\n")
logger, half = LatentLogger(X, every=10), 0.5 * X.shape[1]


def record(vae, mse, rate):
    """Record the ELBO with the noise variance of this epoch."""
    logger.options["noise_variance"] = mse
    logger.update(vae, learning_rate=rate)


vae, mse = train(lambda mse: half * torch.log(mse), record, n_epochs)
mended = from_torch(vae, noise_variance=mse, learned_noise=True, history=logger.history_)
print(diagnose(mended, X))

# %%
# Plot both reports.
figure = plt.figure(figsize=(15, 7), layout="constrained")
before, after = figure.subfigures(1, 2, wspace=0.04)
ReportDisplay.from_estimator(collapsed, X, ax=before.subplots())
ReportDisplay.from_estimator(mended, X, ax=after.subplots())
before.suptitle(f"mean squared error + KL, which implies $\\sigma^2$ = {implied.noise_variance:g}")
after.suptitle(f"{half:g} log(mean squared error) + KL, with $\\sigma^2$ = {mse:.3g}")
figure.savefig(arguments.output, dpi=110)
print(f"Figure written to {arguments.output}")

# %%
# On the left, all dimensions are at the prior, and the ELBO is far below that of the linear model.
# On the right, all dimensions are active, and the ELBO is above it.
