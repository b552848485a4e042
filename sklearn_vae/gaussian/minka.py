"""Bayesian evidence of the number of components, by Minka's approximation."""

import math

import numpy as np
from scipy.special import gammaln

from sklearn_vae.gaussian.spectrum import Spectrum

# An eigenvector is determined up to its sign, so each angle of a rotation has a range of pi. The
# width (2 pi / A)^(1/2) of a Gaussian in an angle therefore counts up to the curvature A = 2 / pi.
LEAST_CURVATURE = 2.0 / math.pi


def minka_dimension(spectrum: Spectrum, n_samples: float) -> int:
    """Return the number of components with the largest Bayesian evidence.

    The spectrum must hold all d eigenvalues. The evidence is unbounded where the noise variance is
    0. If the rank is below both d and n_samples - 1, the samples lie exactly in a subspace, and
    the rank is returned. Otherwise k is below the rank: n samples have rank n - 1 at most, since
    they are centered, and this is no evidence that the noise variance is 0.
    """
    rank, d = spectrum.rank, spectrum.n_features
    # The sum of weights that count samples may be rounded.
    if rank < min(d, n_samples - 1.5):
        return rank
    if rank <= 2:
        return 1
    # On the host, because there are few numbers.
    values = np.array([float(value) for value in spectrum.eigenvalues])
    return int(np.argmax(log_evidence(values, n_samples, rank - 1))) + 1


def log_evidence(eigenvalues: np.ndarray, n_samples: float, most: int) -> np.ndarray:
    """Compute the log-evidence of k = 1, ..., `most` components, up to a common constant.

    It is Laplace's approximation, except that no angle has a posterior wider than its range: the
    approximation is infinite if two eigenvalues are equal. The time is O(d^2 log d).

    Parameters
    ----------
    eigenvalues : array of shape (d,)
        All eigenvalues of the covariance in descending order; the first most + 1 are positive.
    n_samples : float
        Number of samples, or the sum of their weights.
    most : int
        Largest k, at most d - 1.

    Returns
    -------
    array of shape (most,)
        Log-evidence in nats of all samples.

    References
    ----------
    Minka, "Automatic Choice of Dimensionality for PCA", NIPS 2000, eq. 30.
    """
    values = eigenvalues / eigenvalues[0]
    d, k = values.size, np.arange(1, most + 1)
    noise = np.cumsum(values[:0:-1])[::-1][:most] / (d - k)
    halves = (d - k + 1) / 2.0
    log_frames = np.cumsum(gammaln(halves) - halves * math.log(math.pi)) - k * math.log(2.0)
    log_fit = np.cumsum(np.log(values[:most])) + (d - k) * np.log(noise)
    n_angles = d * k - k * (k + 1) / 2.0
    return (
        log_frames
        - n_samples / 2.0 * log_fit
        + (n_angles + k) / 2.0 * math.log(2.0 * math.pi)
        - k / 2.0 * math.log(n_samples)
        - 0.5 * _log_curvature(values, noise, n_samples)
    )


def _log_curvature(values: np.ndarray, noise: np.ndarray, n_samples: float) -> np.ndarray:
    """Sum the logarithms of the curvatures of all angles, for k = 1, ..., len(noise).

    The angle of eigenvectors i <= k and j > i has curvature A = n (l_i - l_j) (1/m_j - 1/m_i),
    where m_j is l_j for j <= k and the noise variance of that k otherwise.
    """
    most = noise.size
    in_model, with_rest = np.zeros(most), np.zeros(most)
    for i in range(most):
        gaps = values[i] - values[i + 1 :]  # ascending
        kept = gaps[: most - 1 - i]
        curvatures = n_samples * (kept / values[i]) * (kept / values[i + 1 : most])
        in_model[i + 1 :] += np.log(np.maximum(curvatures, LEAST_CURVATURE))
        # Angles with the eigenvectors after the first k = i + 1, ..., most: slope times gap.
        slopes = n_samples * np.maximum(values[i] - noise[i:], 0.0) / noise[i:] / values[i]
        with np.errstate(divide="ignore"):
            n_flat = np.searchsorted(gaps, LEAST_CURVATURE / slopes)
            sums = np.append(np.cumsum(np.log(gaps[::-1]))[::-1], 0.0)
        n_kept = np.arange(kept.size + 1)
        first = np.maximum(n_flat, n_kept)
        slopes[first == gaps.size] = 1.0  # not used; perhaps 0
        with_rest[i:] += (first - n_kept) * math.log(LEAST_CURVATURE) + sums[first]
        with_rest[i:] += (gaps.size - first) * np.log(slopes)
    return np.cumsum(in_model) + with_rest
