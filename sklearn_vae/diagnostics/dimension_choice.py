"""Estimates of the number of dimensions by several criteria, and their consensus."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sklearn_vae.containers import to_array, to_host
from sklearn_vae.gaussian.arrays import check_sample_weight
from sklearn_vae.gaussian.dimension_criteria import (
    NoiseShape,
    bic,
    noise_edge,
    noise_eigenvalues,
    optimal_threshold,
    parallel_analysis,
)
from sklearn_vae.gaussian.minka import minka_dimension
from sklearn_vae.gaussian.notebook_text import NotebookText
from sklearn_vae.gaussian.sample_spectrum import sample_spectrum
from sklearn_vae.protocol import Array
from sklearn_vae.validation import check_integer, check_random_state, refuse_dask, refuse_nan


@dataclass(frozen=True, eq=False)
class DimensionChoice(NotebookText):
    """Numbers of dimensions that several criteria choose for the same data.

    Attributes
    ----------
    choices : mapping of str to int
        Number of dimensions by criterion.
    eigenvalues : ndarray of shape (n_eigenvalues,)
        Eigenvalues of the covariance that may be positive, in descending order.
    noise_limits : ndarray of shape (n_eigenvalues,)
        Quantiles of 95 % of the eigenvalues of noise with the same total variance, from parallel
        analysis.
    edge : float
        Upper edge of the eigenvalues of noise, by Marchenko and Pastur.
    threshold : float
        Threshold of Gavish and Donoho.

    See Also
    --------
    choose_dimensions : Compute the choices.
    sklearn_vae.plot.DimensionChoiceDisplay : Plot the eigenvalues and the choices.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_vae.diagnostics import choose_dimensions
    >>> result = choose_dimensions(StandardScaler().fit_transform(load_wine().data))
    >>> result.choices["parallel analysis"]
    3
    """

    choices: Mapping[str, int]
    eigenvalues: Array
    noise_limits: Array
    edge: float
    threshold: float

    @property
    def consensus(self) -> int:
        """Median of the choices, rounded down."""
        return int(statistics.median_low(self.choices.values()))

    def __str__(self) -> str:
        k, choices = self.consensus, self.choices
        width = max(map(len, choices))
        lines = [f"{name:<{width}}  {choice:>4}" for name, choice in choices.items()]
        n_agree = sum(choice == k for choice in choices.values())
        lines.append(f"{'consensus':<{width}}  {k:>4}   ({n_agree} of {len(choices)} agree)")
        return "\n".join(lines)


def choose_dimensions(
    X: Any,
    *,
    sample_weight: Any = None,
    search: Any = None,
    n_draws: int = 100,
    random_state: Any = 0,
) -> DimensionChoice:
    """Estimate the number of dimensions by several criteria.

    All criteria but cross-validation are functions of the eigenvalues of the covariance, and assume
    noise of the same variance in all directions. Features in different units should be scaled.

    =======================  ======================================================================
    criterion                number of dimensions
    =======================  ======================================================================
    "Minka's evidence"       with the largest Bayesian evidence, by Laplace's approximation. Only if
                             there are more samples than features.
    "BIC"                    with the smallest Bayesian information criterion.
    "parallel analysis"      leading eigenvalues above the 95 % quantile of those of noise with the
                             same total variance.
    "Marchenko-Pastur edge"  eigenvalues above all that noise can explain, given the median
                             eigenvalue.
    "Gavish-Donoho"          eigenvalues above the threshold that reconstructs the data without noise
                             best.
    "cross-validation"       of `search`.
    =======================  ======================================================================

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
        At least three samples without missing values.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights that count samples.
    search : PPCACV or FactorAnalysisCV, default=None
        Fitted search, whose choice is compared.
    n_draws : int, default=100
        Number of draws of noise for parallel analysis.
    random_state : int, RandomState instance or None, default=0
        Seed or generator of the noise.

    Returns
    -------
    DimensionChoice
        Choices of all criteria.

    Raises
    ------
    TypeError
        If X is a Dask collection, or `search` has no `n_components_`.
    ValueError
        If X is not finite, has fewer than three samples, or does not vary, or a parameter is
        invalid.

    See Also
    --------
    sklearn_vae.PPCACV : Choice by cross-validation, also with missing values.

    Examples
    --------
    >>> from sklearn_vae import PPCACV
    >>> from sklearn_vae.datasets import make_ppca
    >>> from sklearn_vae.diagnostics import choose_dimensions
    >>> X, _ = make_ppca(300, 20, 4, noise_variance=0.1, random_state=0)
    >>> print(choose_dimensions(X, search=PPCACV().fit(X)))
    Minka's evidence          4
    BIC                       4
    parallel analysis         2
    Marchenko-Pastur edge     4
    Gavish-Donoho             4
    cross-validation          4
    consensus                 4   (5 of 6 agree)
    """
    refuse_dask("choose_dimensions", X)
    check_integer("n_draws", n_draws, at_least=1)
    rng = check_random_state(random_state)
    if search is not None:
        check_is_fitted(search)
        if not hasattr(search, "n_components_"):
            raise TypeError(
                "search must have n_components_ after fit, as PPCACV and FactorAnalysisCV have, got "
                f"{type(search).__name__}."
            )
    X = to_array(X)
    refuse_nan("choose_dimensions", X, "Use PPCACV, which accepts NaN, or drop incomplete samples.")
    spectrum = sample_spectrum(X, sample_weight)
    n: float = X.shape[0]
    if sample_weight is not None:
        n = float(to_host(check_sample_weight(sample_weight, X)).sum())
    if n < 3 or spectrum.rank == 0:
        raise ValueError(
            f"X must have at least three samples that differ, got {n:g} samples and rank "
            f"{spectrum.rank}."
        )
    d, shape = spectrum.n_features, NoiseShape.of(n, spectrum.n_features)
    values = to_host(spectrum.eigenvalues).astype(np.float64)[: shape.m]
    values = np.where(np.arange(len(values)) < spectrum.rank, values, 0.0)  # rounding errors
    choices: dict[str, int] = {}
    if n >= d > 1:
        choices["Minka's evidence"] = minka_dimension(spectrum, n)
    choices["BIC"] = int(np.nanargmin(bic(spectrum, n)))
    k, limits = parallel_analysis(values, noise_eigenvalues(n, d, n_draws, rng))
    choices["parallel analysis"] = k
    edge, threshold = noise_edge(values, n, d), optimal_threshold(values, n, d)
    choices["Marchenko-Pastur edge"] = int(np.count_nonzero(values > edge))
    choices["Gavish-Donoho"] = int(np.count_nonzero(values > threshold))
    if search is not None:
        choices["cross-validation"] = int(search.n_components_)
    return DimensionChoice(choices, values, limits, edge, threshold)
