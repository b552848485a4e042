"""The linear model that a nonlinear one of as many dimensions contains, and should beat."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import entr
from sklearn.exceptions import ConvergenceWarning

from sklearn_vae.diagnostics.latents import Array
from sklearn_vae.linear.bernoulli import BernoulliPPCA
from sklearn_vae.linear.ppca import PPCA

# Least noise variance of the reference, as a share of the average variance of a feature: where
# pPCA has none, it stands for a model with next to none.
LEAST_NOISE = 1e-6


@dataclass(frozen=True, eq=False)
class GaussianReference:
    """pPCA of as many components, of the rows of X, and what it says of some of them.

    Attributes
    ----------
    rows : array of shape (n, d)
        All rows.
    seen : array of shape (m, d)
        Those that are compared on.
    n_components : int
    """

    rows: Array
    seen: Array
    n_components: int

    @cached_property
    def ppca(self) -> PPCA:
        """Fitted to all rows."""
        return PPCA(min(self.n_components, *self.rows.shape), random_state=0).fit(self.rows)

    @property
    def average_variance(self) -> float:
        """Of a feature."""
        return float(self.rows.var(axis=0, dtype=np.float64).mean())

    @property
    def eigenvalues(self) -> Array:
        """The k largest of the covariance, divisor n."""
        total = self.average_variance * self.rows.shape[1]
        return self.ppca.explained_variance_ratio_.astype(np.float64) * total

    @property
    def noise_variance(self) -> float:
        """The maximum likelihood one, not below `LEAST_NOISE` of the average variance."""
        return max(float(self.ppca.noise_variance_), LEAST_NOISE * self.average_variance)

    def bound(self, noise_variance: float | None = None) -> float:
        """Log-likelihood of the rows seen, of pPCA with this sigma2 or its own; nats per sample."""
        sigma2 = self.noise_variance if noise_variance is None else noise_variance
        if sigma2 == self.ppca.noise_variance_:
            return float(self.ppca.score(self.seen))
        k = self.ppca.n_components_
        ppca = PPCA(k, noise_variance=sigma2, random_state=0).fit(self.rows)
        return float(ppca.score(self.seen))

    @property
    def baseline(self) -> float:
        """The same of N(mean, v I): what a model gives whose dimensions have all collapsed."""
        d, v = self.rows.shape[1], self.average_variance
        squares = ((self.seen - self.rows.mean(axis=0)) ** 2).sum(axis=1).mean()
        return -0.5 * float(d * np.log(2.0 * np.pi * v) + squares / v)

    @property
    def error(self) -> float:
        """Squared error of PCA's reconstruction of the rows seen, averaged over the features."""
        centred = self.seen - self.ppca.mean_
        along = centred @ self.ppca.components_.T
        return float(((centred - along @ self.ppca.components_) ** 2).mean())


@dataclass(frozen=True, eq=False)
class BernoulliReference:
    """Logistic pPCA of as many components, fitted to the rows that are compared on.

    Attributes
    ----------
    seen : array of shape (m, d)
        In [0, 1].
    n_components : int
    """

    seen: Array
    n_components: int

    def bound(self) -> float:
        """ELBO of the rows, in nats per sample."""
        k = min(self.n_components, self.seen.shape[1])
        with warnings.catch_warnings():  # a bar that is a little too low is one
            warnings.simplefilter("ignore", ConvergenceWarning)
            return float(BernoulliPPCA(k, max_iter=200, random_state=0).fit(self.seen).elbo_)

    @property
    def baseline(self) -> float:
        """Log-likelihood of independent features."""
        mean = self.seen.mean(axis=0, dtype=np.float64)
        return -float((entr(mean) + entr(1.0 - mean)).sum())
