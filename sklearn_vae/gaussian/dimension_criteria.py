"""Estimates of the number of components from the eigenvalues of a covariance.

All of them assume noise of the same variance in all directions. A covariance of n samples, which are
centered, has m = min(n - 1, d) eigenvalues that may be positive.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import integrate, linalg, optimize

from sklearn_vae.gaussian.spectrum import Spectrum

# Share of pure noise in which no component is found, for the criteria that compare with noise.
LEVEL = 0.95
# This quantile of the Tracy-Widom distribution of real matrices.
TRACY_WIDOM = 0.9793


class NoiseShape(NamedTuple):
    """Smaller and larger side of the matrix of centered samples."""

    m: int
    larger: int

    @classmethod
    def of(cls, n_samples: float, n_features: int) -> NoiseShape:
        """Return the shape for a number of samples or a sum of weights."""
        n = max(round(n_samples) - 1, 1)
        return cls(min(n, n_features), max(n, n_features))

    @property
    def ratio(self) -> float:
        """Ratio of the sides, at most 1."""
        return self.m / self.larger


def bic(spectrum: Spectrum, n_samples: float) -> np.ndarray:
    """Compute the Bayesian information criterion of k = 0, 1, ...; the smallest is the best.

    pPCA has d k - k (k - 1) / 2 parameters of the loadings, one of the noise and d of the mean.
    Candidates whose likelihood is unbounded have nan.

    Parameters
    ----------
    spectrum : Spectrum
        Spectrum with all min(n_samples, n_features) eigenvalues.
    n_samples : float
        Number of samples, or the sum of their weights.

    Returns
    -------
    array of shape (n_candidates,)
        Minus twice the log-likelihood plus log n times the number of parameters.

    References
    ----------
    Schwarz, "Estimating the dimension of a model", Annals of Statistics 1978.
    """
    d = spectrum.n_features
    k = np.arange(max(min(spectrum.rank, d - 1), 0) + 1)
    value = np.array([float(v) for v in spectrum.log_likelihood(k.tolist(), [None])[:, 0]])
    n_parameters = d * k - k * (k - 1) / 2.0 + 1 + d
    return -2.0 * n_samples * value + math.log(n_samples) * n_parameters


def noise_eigenvalues(
    n_samples: float, n_features: int, n_draws: int, random_state: np.random.RandomState
) -> np.ndarray:
    """Draw the eigenvalues of covariances of white noise with variance 1, descending.

    They are those of a tridiagonal matrix of chi-squared variables, so that a draw takes O(m^2).

    Parameters
    ----------
    n_samples : float
        Number of samples.
    n_features : int
        Number of features.
    n_draws : int
        Number of covariances.
    random_state : RandomState
        Generator.

    Returns
    -------
    array of shape (n_draws, m)
        Eigenvalues with divisor n_samples.

    References
    ----------
    Dumitriu and Edelman, "Matrix models for beta ensembles", Journal of Mathematical Physics 2002.
    """
    m, larger = NoiseShape.of(n_samples, n_features)
    values = np.empty((n_draws, m))
    for i in range(n_draws):
        diagonal = random_state.chisquare(larger - np.arange(m))
        below = random_state.chisquare(m - 1 - np.arange(m - 1)) if m > 1 else np.empty(0)
        main = diagonal.copy()
        main[1:] += below
        values[i] = linalg.eigvalsh_tridiagonal(main, np.sqrt(diagonal[:-1] * below))[::-1]
    return values / n_samples


def parallel_analysis(eigenvalues: np.ndarray, noise: np.ndarray) -> tuple[int, np.ndarray]:
    """Count the leading eigenvalues above those of noise with the same total variance.

    Parameters
    ----------
    eigenvalues : array of shape (m,)
        Eigenvalues in descending order.
    noise : array of shape (n_draws, m)
        Eigenvalues of white noise, from `noise_eigenvalues`.

    Returns
    -------
    k : int
        Number of components.
    limits : array of shape (m,)
        Quantile of the noise for each eigenvalue.

    References
    ----------
    Horn, "A rationale and test for the number of factors in factor analysis", Psychometrika 1965.

    Glorfeld, "An improvement on Horn's parallel analysis methodology", Educational and
    Psychological Measurement 1995 (the 95 % quantile).
    """
    scale = eigenvalues.sum() / noise.sum(axis=1, keepdims=True)
    limits = np.quantile(scale * noise, LEVEL, axis=0)
    above = eigenvalues > limits
    return (len(above) if above.all() else int(np.argmin(above))), limits


def noise_edge(eigenvalues: np.ndarray, n_samples: float, n_features: int) -> float:
    """Return the upper edge of eigenvalues of noise, which the largest exceeds in 5 % of the cases.

    The noise variance follows from the median of the eigenvalues. This needs components in fewer
    than half of the directions. The edge is that of Marchenko and Pastur plus the fluctuation of the
    largest eigenvalue (Tracy and Widom).

    Parameters
    ----------
    eigenvalues : array of shape (m,)
        Eigenvalues in descending order.
    n_samples : float
        Number of samples.
    n_features : int
        Number of features.

    Returns
    -------
    float
        Edge; components have larger eigenvalues.

    References
    ----------
    Marchenko and Pastur, "Distribution of eigenvalues for some sets of random matrices", 1967.

    Johnstone, "On the distribution of the largest eigenvalue in principal components analysis",
    Annals of Statistics 2001, with the centering of Ma, Bernoulli 2012.
    """
    shape = NoiseShape.of(n_samples, n_features)
    # Eigenvalues of noise with divisor `larger` and variance 1 have the median below.
    variance = float(np.median(eigenvalues)) / marchenko_pastur_median(shape.ratio)
    a, b = math.sqrt(shape.larger - 0.5), math.sqrt(shape.m - 0.5)
    fluctuation = (a + b) * (1.0 / a + 1.0 / b) ** (1.0 / 3.0)
    return variance * ((a + b) ** 2 + TRACY_WIDOM * fluctuation) / shape.larger


def optimal_threshold(eigenvalues: np.ndarray, n_samples: float, n_features: int) -> float:
    """Return the eigenvalue above which a component lowers the squared error of reconstruction.

    Parameters
    ----------
    eigenvalues : array of shape (m,)
        Eigenvalues in descending order.
    n_samples : float
        Number of samples.
    n_features : int
        Number of features.

    Returns
    -------
    float
        Threshold for unknown noise.

    References
    ----------
    Gavish and Donoho, "The optimal hard threshold for singular values is 4 / sqrt(3)", IEEE
    Transactions on Information Theory 2014, eq. 5 and 11.
    """
    beta = NoiseShape.of(n_samples, n_features).ratio
    squared = 2.0 * (beta + 1.0) + 8.0 * beta / (
        beta + 1.0 + math.sqrt(beta**2 + 14.0 * beta + 1.0)
    )
    return squared / marchenko_pastur_median(beta) * float(np.median(eigenvalues))


@lru_cache(maxsize=64)
def marchenko_pastur_median(ratio: float) -> float:
    """Return the median of the Marchenko-Pastur distribution with variance 1 and ratio <= 1."""
    low, high = (1.0 - math.sqrt(ratio)) ** 2, (1.0 + math.sqrt(ratio)) ** 2

    def share_below(angle: float) -> float:
        # x = middle - half cos(t) removes the singularities at the edges.
        middle, half = 0.5 * (low + high), 0.5 * (high - low)

        def density(t: float) -> float:
            return (
                half**2 * math.sin(t) ** 2 / (2.0 * math.pi * ratio * (middle - half * math.cos(t)))
            )

        # SciPy 1.14 evaluates the density at 0, where it may be 0 / 0, for an empty interval.
        return float(integrate.quad(density, 0.0, angle)[0]) if angle > 0.0 else 0.0

    angle = optimize.brentq(lambda t: share_below(t) - 0.5, 0.0, math.pi, xtol=1e-12)
    return 0.5 * (low + high) - 0.5 * (high - low) * math.cos(angle)
