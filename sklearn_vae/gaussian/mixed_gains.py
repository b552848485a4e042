"""Gains of the columns of a model of mixed columns over their distributions without latents."""

from __future__ import annotations

import numpy as np

from sklearn_vae.gaussian.arrays import Array, scale_of
from sklearn_vae.gaussian.mixed_bound import MOST_R
from sklearn_vae.gaussian.mixed_posterior import MixedPosteriors, Posteriors
from sklearn_vae.gaussian.mixed_predictive import MixedModel
from sklearn_vae.gaussian.mixed_start import marginals
from sklearn_vae.gaussian.mixed_terms import TermData, expected_terms, sums_by_noise

# Newton's steps in log r, and the longest of them.
_N_STEPS = 30
_LONGEST = 1.0
_LEAST_R = 1e-4


def column_gains(model: MixedModel, codes: Array, q: Posteriors, weights: Array) -> Array:
    """Compute E_q log p(x_j|z) minus the log-likelihood of each column without latents.

    Returns averages over the observed values of the columns, of shape (n_columns,), in nats.
    `codes` are the training samples, of which each column has an observed one, and `q` their
    posteriors.
    """
    data, _ = model.terms.encode(codes)
    search = MixedPosteriors(model.parameters, model.diagonal)
    own = search.expectations(data, q.mean, q.covariance)[0]
    without = _without_latents(data, weights)
    weights = weights / scale_of(weights)
    by_term = weights @ (own - without)
    total = np.zeros(codes.shape[1])
    np.add.at(total, model.terms.columns, by_term)
    gains: Array = total / (weights @ ~np.isnan(codes))
    return gains


def _without_latents(data: TermData, weights: Array) -> Array:
    """Return the log-likelihood of each value under the distribution of its term alone."""
    b, noise, varies = marginals(data, weights)
    weights = weights / scale_of(weights)
    counts = data.sizes.families[1]
    A = np.broadcast_to(b, data.values.shape)
    fitted = noise[counts]
    for _ in range(_N_STEPS if fitted.size else 0):
        E = expected_terms(data, A, np.zeros_like(A), noise)
        first, second = sums_by_noise(data, E, A, noise, weights)[:, counts]
        step = np.where(second < 0.0, -first / np.where(second < 0.0, second, 1.0), np.sign(first))
        fitted = np.clip(fitted * np.exp(np.clip(step, -_LONGEST, _LONGEST)), _LEAST_R, MOST_R)
        noise[counts] = np.where(varies[counts], fitted, noise[counts])
    values: Array = expected_terms(data, A, np.zeros_like(A), noise)[0]
    return values
