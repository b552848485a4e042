"""Spectrum of samples of any shape."""

from __future__ import annotations

from dataclasses import replace

from sklearn_vae.containers import readable, to_array
from sklearn_vae.gaussian.arrays import Array, check_matrix, check_sample_weight
from sklearn_vae.gaussian.centered import centered_data
from sklearn_vae.gaussian.gram import spectrum_of_gram
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.gaussian.spectrum import Spectrum


def sample_spectrum(X: Array, sample_weight: Array | None = None) -> Spectrum:
    """Compute all eigenpairs of the covariance of samples that they determine.

    They are those of the covariance or, if there are more features than samples, of the Gram
    matrix. All other eigenvalues are 0.

    Parameters
    ----------
    X : array or sparse matrix of shape (n_samples, n_features)
        Finite samples, in an array of any array-API library.
    sample_weight : array of shape (n_samples,), default=None
        Finite, nonnegative weights, not all 0.

    Returns
    -------
    Spectrum
        Spectrum with min(n_samples, n_features) eigenpairs.

    Raises
    ------
    TypeError
        If X is neither an array nor a sparse matrix.
    ValueError
        If X is not finite, real and two-dimensional, if it has no samples, or if
        `sample_weight` is invalid.

    See Also
    --------
    StationaryPoint : Stationary points of the likelihood, built from a spectrum.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_vae.gaussian import sample_spectrum
    >>> X = np.random.default_rng(0).normal(size=(5, 100))
    >>> spectrum = sample_spectrum(X)
    >>> spectrum.components.shape, spectrum.rank
    ((5, 100), 4)
    """
    X = check_matrix(to_array(X) if hasattr(X, "columns") else readable(X))
    if X.shape[0] == 0:
        raise ValueError(f"X must have at least one sample, got shape {tuple(X.shape)}.")
    weights = None if sample_weight is None else check_sample_weight(sample_weight, X)
    if X.shape[0] >= X.shape[1]:
        return Spectrum.from_moments(Moments.of(X, weights))
    data = centered_data(X, weights, keep=False, wide=True)
    data.check_finite()
    return replace(spectrum_of_gram(data, None), remainder=data.remainder)
