"""Pooling of estimates from multiply imputed data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t

from sklearn_vae.validation import is_real

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Pooled:
    """Estimates pooled over multiply imputed data sets, as returned by `pool`.

    Parameters
    ----------
    estimate : float or array
        Mean of the estimates.
    standard_error : float or array
        Square root of the total variance.
    degrees_of_freedom : float or array
        Degrees of freedom of the t distribution of the estimate.
    fraction_missing : float or array
        Share of the information about the estimate that is missing.

    See Also
    --------
    pool : Pool estimates by Rubin's rules.

    Examples
    --------
    >>> from sklearn_vae.diagnostics import pool
    >>> pooled = pool([[1.0, 2.0], [1.2, 2.3]], [[0.04, 0.1], [0.05, 0.1]])
    >>> pooled.standard_error.round(2)
    array([0.27, 0.41])
    """

    estimate: Any
    standard_error: Any
    degrees_of_freedom: Any
    fraction_missing: Any

    def interval(self, coverage: float = 0.95) -> tuple[Any, Any]:
        """Compute a confidence interval by the t distribution.

        Parameters
        ----------
        coverage : float, default=0.95
            Probability of the interval, between 0 and 1.

        Returns
        -------
        lower, upper : float or array
            Ends of the interval.

        Examples
        --------
        >>> from sklearn_vae.diagnostics import pool
        >>> lower, upper = pool([1.0, 1.2, 0.9], [0.04, 0.05, 0.03]).interval(0.9)
        >>> print(f"{lower:.2f} to {upper:.2f}")
        0.55 to 1.51
        """
        if not (is_real(coverage) and 0.0 < coverage < 1.0):
            raise ValueError(f"coverage must be a float between 0 and 1, got {coverage!r}.")
        half = t.ppf(0.5 + coverage / 2.0, self.degrees_of_freedom) * self.standard_error
        return self.estimate - half, self.estimate + half


def pool(estimates: Any, variances: Any, *, complete_df: float | None = None) -> Pooled:
    """Pool estimates from multiply imputed data by Rubin's rules.

    The total variance is ``T = U + (1 + 1/m) B``, of the mean U of the variances and the variance B
    between the m estimates.

    Parameters
    ----------
    estimates : array-like of shape (m,) or (m, ...)
        Estimates from m >= 2 completed data sets, such as regression coefficients.
    variances : array-like of the same shape
        Squared standard error of each estimate, as computed from its data set alone.
    complete_df : float, default=None
        Degrees of freedom of the estimate from complete data, such as n_samples minus the number of
        coefficients. If None, they are infinite.

    Returns
    -------
    pooled : Pooled
        Pooled estimates, their standard errors and degrees of freedom.

    Raises
    ------
    ValueError
        If the shapes differ, there are fewer than two estimates, or a value is invalid.

    See Also
    --------
    sklearn_vae.FactorAnalysisImputer : Draw completed data sets.

    Notes
    -----
    With ``r = (1 + 1/m) B / T``, the degrees of freedom for complete data without limit are
    ``(m - 1) / r^2`` [1]_ (eq. 3.1.6). With limited ones they are those of [2]_. The fraction of
    missing information is ``(R + 2 / (df + 3)) / (R + 1)`` with ``R = r / (1 - r)`` [1]_ (eq.
    3.1.10).

    References
    ----------
    .. [1] Rubin, "Multiple Imputation for Nonresponse in Surveys", 1987.
    .. [2] Barnard and Rubin, "Small-sample degrees of freedom with multiple imputation", Biometrika
       1999.

    Examples
    --------
    >>> from sklearn_vae.diagnostics import pool
    >>> pooled = pool([1.0, 1.2, 0.9], [0.04, 0.05, 0.03], complete_df=50)
    >>> print(f"{pooled.estimate:.2f} +- {pooled.standard_error:.2f}")
    1.03 +- 0.27
    """
    estimates, variances = (np.asarray(a, dtype=np.float64) for a in (estimates, variances))
    if estimates.ndim == 0 or estimates.shape != variances.shape or len(estimates) < 2:
        raise ValueError(
            "estimates and variances must have the same shape (m, ...) with m >= 2, got shapes "
            f"{estimates.shape} and {variances.shape}."
        )
    if not (
        np.isfinite(estimates).all() and np.isfinite(variances).all() and (variances > 0).all()
    ):
        raise ValueError("estimates must be finite, and variances finite and positive.")
    if complete_df is not None and not (is_real(complete_df) and complete_df > 0):
        raise ValueError(f"complete_df must be None or a positive float, got {complete_df!r}.")
    m = len(estimates)
    deviations = estimates - estimates.mean(axis=0)
    errors = np.sqrt(variances)
    # The unit in which no square overflows.
    unit = np.maximum(np.abs(deviations).max(axis=0), errors.max(axis=0))
    within = ((errors / unit) ** 2).mean(axis=0)
    between = (1.0 + 1.0 / m) * ((deviations / unit) ** 2).sum(axis=0) / (m - 1)
    total = within + between
    share = between / total
    with np.errstate(divide="ignore"):
        df = (m - 1) / share**2
    if complete_df is not None:
        observed = (complete_df + 1.0) / (complete_df + 3.0) * complete_df * (1.0 - share)
        df = 1.0 / (1.0 / df + 1.0 / observed)
    missing = share + (1.0 - share) * 2.0 / (df + 3.0)
    missing = np.where(share > 0, missing, 0.0)[()]
    return Pooled(estimates.mean(axis=0), unit * np.sqrt(total), df, missing)
