"""Terms of the likelihood of mixed columns: each is a function of one linear predictor.

A column of numbers is one term. A column of C categories is C - 1 bits: the first says whether the value
is the first category, the second whether it is the second category given that it is not the first, and
so on. Bits after the first 1 do not exist: they are missing values. The likelihood of categories is thus
normalized exactly, and all expectations under a normal predictor are closed forms or the integrals of
:mod:`sklearn_vae.gaussian.softplus`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import digamma, gammaln, polygamma

from sklearn_vae.gaussian.softplus import expected_softplus

LOG_2PI = math.log(2.0 * math.pi)


class Sizes(NamedTuple):
    """Numbers of terms of each family, in the order of the terms.

    Given its predictor a, a Gaussian term is N(a, psi), a count is negative binomial with mean exp(a)
    and variance exp(a) + exp(2 a) / r, and a bit is 1 with probability sigmoid(a).
    """

    gaussian: int
    counts: int
    bits: int

    @property
    def families(self) -> tuple[slice, slice, slice]:
        """Slices of the terms of each family."""
        first, second = self.gaussian, self.gaussian + self.counts
        return slice(0, first), slice(first, second), slice(second, second + self.bits)


class TermParameters(NamedTuple):
    """Linear predictors a_j = w_j'z + b_j, and psi of the Gaussian terms and r of the counts."""

    W: np.ndarray  # (n_terms, k)
    b: np.ndarray  # (n_terms,)
    noise: np.ndarray  # (n_gaussian + n_counts,)

    @property
    def products(self) -> np.ndarray:
        """Matrices w_j w_j', flattened, (n_terms, k^2)."""
        D, k = self.W.shape
        return (self.W[:, :, None] * self.W[:, None, :]).reshape(D, k * k)


class TermData(NamedTuple):
    """Values of terms, 0 where they are missing, and 1 for observed and 0 for missing values."""

    values: np.ndarray  # (n_samples, n_terms)
    observed: np.ndarray  # (n_samples, n_terms)
    sizes: Sizes

    def of(self, samples: slice | np.ndarray) -> TermData:
        """Return the data of some samples."""
        return TermData(self.values[samples], self.observed[samples], self.sizes)

    def with_terms(self, kept: np.ndarray) -> TermData:
        """Return the data of some terms, given by a mask."""
        sizes = Sizes(*(int(kept[family].sum()) for family in self.sizes.families))
        return TermData(self.values[:, kept], self.observed[:, kept], sizes)


def expected_terms(
    data: TermData, A: np.ndarray, V: np.ndarray, noise: np.ndarray, order: int = 2
) -> np.ndarray:
    """Compute E log p(x_j|a) for a ~ N(A, V), and its derivatives in the mean.

    Returns an array of shape (order + 1, n_samples, n_terms), 0 for missing values. The derivative
    in the variance is half the second derivative in the mean. Errors are below 3e-11 for bits, and
    times x + r for counts.
    """
    gaussian, counts, bits = data.sizes.families
    y, observed, _ = data
    psi, r = noise[gaussian], noise[counts]
    E = np.zeros((order + 1, *y.shape))
    residual = y[:, gaussian] - A[:, gaussian]
    squares = (np.square(residual) + V[:, gaussian]) / psi
    E[0][:, gaussian] = -0.5 * (squares + np.log(psi) + LOG_2PI)
    E[1][:, gaussian], E[2][:, gaussian] = residual / psi, -1.0 / psi
    # log p = x a - softplus(a) for bits, and like (x + r) trials with odds exp(a) / r for counts.
    seen = observed[:, bits] > 0.0
    a, x = A[:, bits][seen], y[:, bits][seen]
    for i, expected in enumerate(expected_softplus(a, V[:, bits][seen], order)):
        E[i][:, bits][seen] = (x * a - expected, x - expected)[i] if i < 2 else -expected
    a, x = A[:, counts] - np.log(r), y[:, counts]
    for i, expected in enumerate(expected_softplus(a, V[:, counts], order)):
        expected *= x + r
        E[i][:, counts] = (x * a - expected, x - expected)[i] if i < 2 else -expected
    E[0][:, counts] += gammaln(x + r) - gammaln(r) - gammaln(x + 1.0)
    numbers = slice(0, counts.stop)
    E[:, :, numbers] *= observed[:, numbers]
    return E


def slopes_by_noise(
    data: TermData, E: Sequence[np.ndarray], noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return derivatives of E[1] and E[2] in the logarithms of the noise parameters.

    `E` contains at least the orders 0 to 3 of :func:`expected_terms`; the first is not used.
    """
    gaussian, counts, _ = data.sizes.families
    first, second = -E[1][:, gaussian], -E[2][:, gaussian]
    y, r, observed = data.values[:, counts], noise[counts], data.observed[:, counts]
    share = r / (y + r)
    of_counts = -E[2][:, counts] - share * (y * observed - E[1][:, counts])
    more = -E[3][:, counts] + share * E[2][:, counts]
    return np.hstack([first, of_counts]), np.hstack([second, more])


def sums_by_noise(
    data: TermData, E: np.ndarray, A: np.ndarray, noise: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return weighted sums of the first two derivatives of E[0] in the logarithms of the noise.

    The shape is (2, n_gaussian + n_counts). `A` are the means of the predictors.
    """
    gaussian, counts, _ = data.sizes.families
    n = weights @ data.observed[:, gaussian]
    half_squares = -(weights @ E[0][:, gaussian]) - 0.5 * (np.log(noise[gaussian]) + LOG_2PI) * n
    y, r, observed = data.values[:, counts], noise[counts], data.observed[:, counts]
    trials = y + r
    softplus = y * (A[:, counts] - np.log(r)) + gammaln(trials) - gammaln(r) - gammaln(y + 1.0)
    softplus = (softplus - E[0][:, counts]) / trials
    sigmoid = (y - E[1][:, counts]) / trials
    change = r * (digamma(trials) - digamma(r) - softplus)
    first = change - E[1][:, counts]
    second = E[2][:, counts] + 2.0 * r * sigmoid + change
    second += r**2 * (polygamma(1, trials) - polygamma(1, r))
    of_counts = np.stack([weights @ (observed * first), weights @ (observed * second)])
    return np.hstack([np.stack([half_squares - 0.5 * n, -half_squares]), of_counts])
