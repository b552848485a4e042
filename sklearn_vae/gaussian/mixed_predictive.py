"""Predictive distributions of mixed columns: p(x_j|z) averaged over q(z|x)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from scipy.special import ndtri
from scipy.stats import qmc

from sklearn_vae.gaussian.arrays import row_blocks
from sklearn_vae.gaussian.mixed_columns import ColumnTerms, predictors
from sklearn_vae.gaussian.mixed_posterior import MixedPosteriors, Posteriors
from sklearn_vae.gaussian.mixed_terms import TermParameters

# Number of points of quasi-Monte Carlo, a power of 2, for columns with more than two categories.
_POINTS = 256
# Accuracy of the posteriors of probabilities, see :mod:`sklearn_vae.gaussian.mixed_posterior`.
_DECREMENT = 1e-10
# Points and weights of Gauss-Hermite quadrature for columns with one predictor.
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()

Predictions: TypeAlias = Iterator[tuple[int, np.ndarray]]


class Prediction(NamedTuple):
    """Means and variances of codes, and probabilities of the categories of each column."""

    mean: np.ndarray  # (n, d)
    variance: np.ndarray  # (n, d)
    probabilities: dict[int, np.ndarray]  # (n, n_categories) of each column

    def most_probable(self) -> np.ndarray:
        """Return codes: means of numbers, and most probable categories."""
        codes = self.mean.copy()
        for j, p in self.probabilities.items():
            codes[:, j] = p.argmax(axis=1)
        return codes


@dataclass(frozen=True, eq=False)
class MixedModel:
    """Fitted factor model of mixed columns.

    Parameters
    ----------
    terms : ColumnTerms
        Terms of the columns.
    parameters : TermParameters
        Parameters of the terms.
    diagonal : bool
        Whether posterior covariances are diagonal.
    limits : array of shape (2, n_columns), default=None
        Smallest and largest values of columns, see :meth:`ColumnTerms.moments`. Without limits, an
        exponential function extrapolates.
    """

    terms: ColumnTerms
    parameters: TermParameters
    diagonal: bool
    limits: np.ndarray | None = None

    def encode(self, codes: np.ndarray) -> tuple[Posteriors, np.ndarray]:
        """Return the posteriors q(z|x) of codes with NaN for missing values, and the bounds."""
        data, log_density = self.terms.encode(codes)
        search = MixedPosteriors(self.parameters, self.diagonal)
        q = search.start(data)
        return q, search.solve(data, q)[0] + log_density

    def predict(self, q: Posteriors) -> Prediction:
        """Return p(x_j|z) averaged over q(z) for each column."""
        A = predictors(self.parameters, q.mean)
        V = q.covariance.reshape(len(A), -1) @ self.parameters.products.T
        probabilities = {j: self._probabilities(q, j, terms) for j, terms in self._categorical}
        return self._prediction(A, V, probabilities, self.limits)

    def probabilities_of_hidden(self, codes: np.ndarray, columns: Iterable[int]) -> Predictions:
        """Yield each column of categories with its probabilities given the other columns."""
        data, _ = self.terms.encode(codes)
        search = MixedPosteriors(self.parameters, self.diagonal)
        q = search.start(data)
        search.solve(data, q, _DECREMENT)
        terms_of = dict(self._categorical)
        for j in columns:
            own = self.terms.columns == j
            rows = np.flatnonzero(data.observed[:, own].any(axis=1))
            hidden = data.of(rows)
            hidden = hidden._replace(
                values=np.where(own, 0.0, hidden.values),
                observed=np.where(own, 0.0, hidden.observed),
            )
            # The search starts at the posteriors given all columns.
            at = Posteriors(q.mean[rows], q.precision[rows])
            if len(rows):
                search.solve(hidden, at, _DECREMENT)
            mean, precision = q.mean.copy(), q.precision.copy()
            mean[rows], precision[rows] = at
            yield j, self._probabilities(Posteriors(mean, precision), j, terms_of[j])

    def conditional(self, Z: np.ndarray) -> Prediction:
        """Return p(x_j|z) of each column given latents."""
        A = predictors(self.parameters, Z)
        probabilities = {
            j: np.exp(self.terms.log_probabilities(A, j, terms)) for j, terms in self._categorical
        }
        return self._prediction(A, np.zeros_like(A), probabilities)

    @property
    def _categorical(self) -> list[tuple[int, slice]]:
        return list(self.terms.categorical())

    def _probabilities(self, q: Posteriors, column: int, terms: slice) -> np.ndarray:
        """Return the probabilities of the categories of a column, (n_samples, n_categories)."""
        n, size = len(q.mean), terms.stop - terms.start
        if size == 0:
            return np.ones((n, 1))
        W, b = self.parameters.W[terms], self.parameters.b[terms]
        if self.terms.types[column] != "categorical" or size == 1:
            # All predictors are w'z and a constant.
            S = q.covariance
            std = np.sqrt(np.einsum("h,nhl,l->n", W[0], S, W[0]))
            a = (q.mean @ W[0])[:, None] + std[:, None] * _NODES
            logs = self.terms.log_probabilities(a[:, :, None] + b, column, slice(0, size))
            return np.einsum("m,nmc->nc", _WEIGHTS, np.exp(logs))
        probabilities = np.empty((n, size + 1))
        points = qmc.Sobol(q.mean.shape[1], seed=np.random.default_rng(0)).random(_POINTS)
        noise = ndtri(points)
        for samples in row_blocks(n, size * _POINTS):
            roots = np.linalg.cholesky(q.of(samples).covariance)
            logits = (q.mean[samples] @ W.T + b)[:, None] + noise @ (W @ roots).transpose(0, 2, 1)
            logs = self.terms.log_probabilities(logits, column, slice(0, size))
            probabilities[samples] = np.exp(logs).mean(axis=1)
        return probabilities

    def _prediction(
        self,
        A: np.ndarray,
        V: np.ndarray,
        probabilities: dict[int, np.ndarray],
        limits: np.ndarray | None = None,
    ) -> Prediction:
        mean, variance = self.terms.moments(A, V, self.parameters.noise, limits)
        for j, p in probabilities.items():
            codes = np.arange(p.shape[1])
            mean[:, j] = p @ codes
            variance[:, j] = (p * np.square(codes - mean[:, j, None])).sum(axis=1)
        return Prediction(mean, variance, probabilities)
