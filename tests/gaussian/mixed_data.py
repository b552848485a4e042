"""Terms of mixed columns with planted parameters."""

import numpy as np
from scipy.special import expit

from sklearn_vae.gaussian.mixed_terms import Sizes, TermData, TermParameters

SIZES = Sizes(3, 2, 4)
# The last two bits but one are those of an ordinal column.
OWNER = np.array([0, 1, 2, 3, 4, 5, 6, 6, 7])


def make_terms(n=40, k=2, seed=0, share_missing=0.2, scale=1.0, sizes=SIZES):
    rng = np.random.default_rng(seed)
    gaussian, counts, bits = sizes.families
    D = sum(sizes)
    W, b = scale * rng.normal(size=(D, k)), 0.5 * rng.normal(size=D)
    W[counts] *= 0.4 / scale
    if len(OWNER) == D:
        W = W[np.unique(OWNER, return_index=True)[1]][OWNER]
    noise = np.concatenate([np.full(sizes.gaussian, 0.25), np.full(sizes.counts, 3.0)])
    A = rng.normal(size=(n, k)) @ W.T + b
    y = np.empty((n, D))
    y[:, gaussian] = rng.normal(A[:, gaussian], 0.5)
    rate = np.exp(A[:, counts]) * rng.gamma(3.0, 1.0 / 3.0, size=A[:, counts].shape)
    y[:, counts] = rng.poisson(rate)
    y[:, bits] = rng.uniform(size=(n, sizes.bits)) < expit(A[:, bits])
    observed = (rng.uniform(size=y.shape) >= share_missing).astype(float)
    return TermData(y * observed, observed, sizes), TermParameters(W, b, noise)


def log_prob(data, p, Z):
    """log p(x_o|z) of each sample for latents (n, S, k), by the distributions of SciPy."""
    from scipy.stats import bernoulli, nbinom, norm

    gaussian, counts, bits = data.sizes.families
    A = Z @ p.W.T + p.b
    y, r = data.values[:, None], p.noise[counts]
    rate = np.exp(A[..., counts])
    terms = np.concatenate(
        [
            norm.logpdf(y[..., gaussian], A[..., gaussian], np.sqrt(p.noise[gaussian])),
            nbinom.logpmf(y[..., counts], r, r / (r + rate)),
            bernoulli.logpmf(y[..., bits], expit(A[..., bits])),
        ],
        axis=-1,
    )
    return (terms * data.observed[:, None]).sum(axis=-1)
