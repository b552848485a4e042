"""Predictive distributions of mixed columns: p(x_j|z) averaged over q(z|x)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri
from scipy.stats import qmc

from sklearn_vae.gaussian.arrays import row_blocks
from sklearn_vae.gaussian.mixed_columns import ColumnTerms, predictors
from sklearn_vae.gaussian.mixed_posterior import MixedPosteriors, Posteriors
from sklearn_vae.gaussian.mixed_terms import TermParameters
from sklearn_vae.gaussian.softplus import expected_softplus

# Number of points of quasi-Monte Carlo, a power of 2, for columns with more than two categories.
_POINTS = 256


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
    """

    terms: ColumnTerms
    parameters: TermParameters
    diagonal: bool

    def encode(self, codes: np.ndarray) -> tuple[Posteriors, np.ndarray]:
        """Return the posteriors q(z|x) of codes with NaN for missing values, and the bounds."""
        data, log_density = self.terms.encode(codes)
        search = MixedPosteriors(self.parameters, self.diagonal)
        q = search.start(data)
        return q, search.solve(data, q)[0] + log_density

    def predict(self, q: Posteriors) -> Prediction:
        """Return p(x_j|z) averaged over q(z) for each column."""
        n, d = len(q.mean), len(self.terms.types)
        D = len(self.parameters.b)
        mean, variance = np.empty((n, d)), np.empty((n, d))
        probabilities = {j: np.empty((n, len(self.terms.orders[j]))) for j in self._categorical}
        for samples in row_blocks(n, max(D, 1) * (_POINTS if self._several else 8)):
            part = self._predict(q.of(samples))
            mean[samples], variance[samples] = part.mean, part.variance
            for j, p in part.probabilities.items():
                probabilities[j][samples] = p
        return Prediction(mean, variance, probabilities)

    def conditional(self, Z: np.ndarray) -> Prediction:
        """Return p(x_j|z) of each column given latents."""
        A = predictors(self.parameters, Z)
        pairs = self.terms.categorical()
        probabilities = {j: np.exp(self.terms.log_probabilities(A, j, t)) for j, t in pairs}
        return self._prediction(A, np.zeros_like(A), probabilities)

    @property
    def _categorical(self) -> list[int]:
        return [j for j, _ in self.terms.categorical()]

    @property
    def _several(self) -> bool:
        return any(len(order) > 2 for order in self.terms.orders)

    def _predict(self, q: Posteriors) -> Prediction:
        S = q.covariance
        A = predictors(self.parameters, q.mean)
        V = S.reshape(len(S), -1) @ self.parameters.products.T
        probabilities, logits = {}, None
        for j, terms in self.terms.categorical():
            if terms.stop == terms.start:
                probabilities[j] = np.ones((len(S), 1))
            elif terms.stop - terms.start == 1:
                p = expected_softplus(A[:, terms], V[:, terms])[1]
                first = p if self.terms.types[j] == "categorical" else 1.0 - p
                ordered = np.hstack([first, 1.0 - first])
                probabilities[j] = ordered[:, np.argsort(self.terms.orders[j])]
            else:
                if logits is None:
                    logits = self._draws(q.mean, S)
                logs = self.terms.log_probabilities(logits, j, terms)
                probabilities[j] = np.exp(logs).mean(axis=1)
        return self._prediction(A, V, probabilities)

    def _draws(self, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
        """Return predictors at points of quasi-Monte Carlo, (n, n_points, n_terms)."""
        points = qmc.Sobol(mean.shape[1], seed=np.random.default_rng(0)).random(_POINTS)
        roots = np.linalg.cholesky(covariance)
        Z = mean[:, None] + ndtri(points) @ roots.transpose(0, 2, 1)
        return predictors(self.parameters, Z)

    def _prediction(
        self, A: np.ndarray, V: np.ndarray, probabilities: dict[int, np.ndarray]
    ) -> Prediction:
        mean, variance = self.terms.moments(A, V, self.parameters.noise)
        for j, p in probabilities.items():
            codes = np.arange(p.shape[1])
            mean[:, j] = p @ codes
            variance[:, j] = (p * np.square(codes - mean[:, j, None])).sum(axis=1)
        return Prediction(mean, variance, probabilities)
