"""Fitted attributes of pPCA in closed form, from the spectrum of the covariance."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from sklearn.exceptions import ConvergenceWarning

from sklearn_vae.gaussian.arrays import Array
from sklearn_vae.gaussian.bounds import entropy_bound, kl_per_dimension
from sklearn_vae.gaussian.eigensolvers import TOLERANCE
from sklearn_vae.gaussian.lowrank import LowRankGaussian
from sklearn_vae.gaussian.spectrum import Spectrum
from sklearn_vae.warning import warn_user


def closed_form_attributes(
    spectrum: Spectrum, k: int, n_samples: float, dtype: str, noise_variance: float | None
) -> dict[str, Any]:
    """Compute the attributes of a fitted :class:`PPCA` with k components, by name.

    `n_samples` may be a sum of weights. `noise_variance` is None if it is estimated.
    """
    xp = array_namespace(spectrum.eigenvalues)
    float_dtype = getattr(xp, dtype)
    sigma2 = spectrum.noise_variance(k) if noise_variance is None else float(noise_variance)
    _check_range(spectrum, sigma2, dtype, is_fixed=noise_variance is not None)
    values, kappa = spectrum.eigenvalues[:k], spectrum.model_variances(k, sigma2)
    lengths = (kappa - sigma2) ** 0.5
    collapsed = lengths == 0
    # A copy, because a view would keep all components in memory.
    components = xp.asarray(spectrum.components[:k, :], dtype=float_dtype, copy=True)
    mean, remainder = _rounded_mean(spectrum, float_dtype)
    loadings = components.T * xp.astype(lengths, float_dtype)
    # A sum of weights below 2 cannot be read as a number of samples.
    bessel = n_samples / (n_samples - 1) if n_samples >= 2 else 1.0
    is_regular = sigma2 > 0 or spectrum.rank == spectrum.n_features == k
    return {
        "n_components_": k,
        "n_iter_": 1,
        "n_samples_": int(n_samples) if float(n_samples).is_integer() else n_samples,
        "mean_": mean,
        "components_": components,
        "noise_variance_": sigma2,
        "loadings_": loadings,
        "explained_variance_": xp.astype(values * bessel, float_dtype),
        "explained_variance_ratio_": xp.astype(
            values / (spectrum.total_variance or 1.0), float_dtype
        ),
        "singular_values_": xp.astype(values**0.5 * n_samples**0.5, float_dtype),
        "collapsed_dims_": xp.nonzero(collapsed)[0],
        "_spectrum": replace(spectrum.leading(k), components=components),
        "certificate_": spectrum.certificate(k, noise_variance, dtype),
        "_gaussian": LowRankGaussian(mean, loadings, sigma2, remainder) if is_regular else None,
        **_bounds(spectrum, kappa, collapsed, sigma2, noise_variance, float_dtype),
    }


def _rounded_mean(spectrum: Spectrum, dtype: Any) -> tuple[Array, Array | None]:
    """Round the mean; return its remainder too, or None if the mean is not far from zero."""
    xp = array_namespace(spectrum.mean)
    mean = xp.astype(spectrum.mean, dtype, copy=False)
    with np.errstate(over="ignore"):
        is_far = float(xp.vecdot(spectrum.mean, spectrum.mean)) > 10.0 * spectrum.total_variance
    if not is_far:
        return mean, None
    remainder = spectrum.remainder
    if mean.dtype != spectrum.mean.dtype:
        low = spectrum.mean - xp.astype(mean, spectrum.mean.dtype)
        remainder = xp.astype(low if remainder is None else low + remainder, dtype)
    return mean, remainder


def warn_unless_converged(
    spectrum: Spectrum, n_components: Any, solver: str, tol: float | None
) -> None:
    """Warn if the residuals of an iterative solver exceed its tolerance."""
    is_own = solver == "lanczos" or (solver == "arpack" and tol is None)
    tol = TOLERANCE if is_own else tol
    if tol is None or solver not in ("lanczos", "arpack", "randomized"):
        return
    accuracy = spectrum.accuracy
    largest = float(spectrum.eigenvalues[0])
    if accuracy.largest_residual <= max(tol * largest, 2.0 * accuracy.rounding):
        return
    warn_user(
        f"The eigenpairs have not converged: the residuals are {accuracy.largest_residual / largest:.2g} "
        f"times the largest eigenvalue, more than {'' if is_own else 'tol='}{tol:g}, with "
        f"n_components={n_components!r}. certificate_ bounds the errors. "
        f"{'Use' if is_own else 'Increase tol, use'} fewer components, or choose "
        "svd_solver='covariance_eigh' or 'full', which do not iterate.",
        ConvergenceWarning,
    )


def _check_range(spectrum: Spectrum, sigma2: float, dtype: str, *, is_fixed: bool) -> None:
    xp = array_namespace(spectrum.eigenvalues)
    limits = xp.finfo(getattr(xp, dtype))
    smallest, largest = float(limits.smallest_normal), float(limits.max)
    if is_fixed and not smallest <= sigma2 <= largest:
        raise ValueError(
            f"noise_variance must be within the range of {dtype}, the dtype of X, got {sigma2}."
        )
    if spectrum.total_variance > largest or 0.0 < sigma2 < smallest:
        raise ValueError(
            f"The variances of X must be within the range of its dtype {dtype}, got a total "
            f"variance of {spectrum.total_variance} and a noise variance of {sigma2}. Scale X or "
            "convert it to float64."
        )


def _bounds(
    spectrum: Spectrum,
    kappa: Array,
    collapsed: Array,
    sigma2: float,
    noise_variance: float | None,
    dtype: Any,
) -> dict[str, Any]:
    """Compute KL per dimension, mutual information, log-likelihood and entropy bound."""
    xp = array_namespace(kappa)
    # The logarithm of the posterior variance sigma2 / kappa, or of the prior's 1 if collapsed.
    log_sigma2 = math.log(sigma2) if sigma2 > 0 else -math.inf
    safe = xp.where(collapsed, xp.ones_like(kappa), kappa)
    log_variance = xp.where(collapsed, xp.zeros_like(kappa), log_sigma2 - xp.log(safe))
    # At the maximum the second moment of z_h over the data is 1, as under the prior.
    kl = kl_per_dimension(xp.ones_like(kappa), log_variance)
    k = kappa.shape[0]
    log_likelihood = float(spectrum.log_likelihood([k], [noise_variance])[0, 0])
    is_unbounded = noise_variance is None and math.isnan(log_likelihood)
    elbo = math.inf if is_unbounded else log_likelihood
    entropies = entropy_bound(spectrum.n_features, sigma2, log_variance) if sigma2 > 0 else elbo
    return {
        "kl_per_dim_": xp.astype(kl, dtype),
        "mutual_information_": float(xp.sum(kl)),
        "elbo_": elbo,
        "entropy_bound_": entropies,
    }
