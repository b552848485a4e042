"""Stationary points of the likelihood of probabilistic PCA, and the landscape around them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from array_api_compat import array_namespace, device

from sklearn_vae.gaussian.arrays import Array
from sklearn_vae.gaussian.spectrum import Spectrum


@dataclass(frozen=True, eq=False)
class StationaryPoint:
    r"""A stationary point W of the likelihood at noise variance sigma2.

    Column i of W is sqrt(lambda - sigma2) times the eigenvector that it keeps, or zero. Up to
    rotation of its columns every stationary point has this form: any set of at most k
    eigenvectors with eigenvalues above sigma2.

    Parameters
    ----------
    spectrum : Spectrum
        With all d eigenpairs, as `Spectrum.from_moments` gives it.
    kept : sequence of distinct ints
        For each column that is not zero the index of its eigenvector, 0 for the leading one.
    n_components : int
        k, number of columns; those after the kept ones are zero.
    noise_variance : float, default=None
        sigma2. None takes the mean of the eigenvalues that are not kept, where the likelihood is
        stationary in sigma2 as well.

    Raises
    ------
    ValueError
        If the spectrum is not complete, `kept` does not fit it or `n_components`, or a kept
        eigenvalue does not exceed sigma2 > 0.

    References
    ----------
    Lucas, Tucker, Grosse and Norouzi, "Don't Blame the ELBO!", NeurIPS 2019, appendix A; Tipping
    and Bishop, "Probabilistic Principal Component Analysis", JRSS-B 1999, appendix A.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae.gaussian import Moments, Spectrum, StationaryPoint
    >>> spectrum = Spectrum.from_moments(Moments.of(load_iris().data))
    >>> StationaryPoint(spectrum, [0, 2], n_components=2, noise_variance=0.05).unstable
    [(1, 1)]
    """

    spectrum: Spectrum
    kept: Sequence[int]
    n_components: int
    noise_variance: float | None = None

    def __post_init__(self) -> None:
        d, held = self.spectrum.n_features, self.spectrum.eigenvalues.shape[0]
        if held != d:
            raise ValueError(f"The spectrum must hold all {d} eigenpairs, got {held}.")
        kept = [int(index) for index in self.kept]
        if len(set(kept)) != len(kept) or not all(0 <= index < d for index in kept):
            raise ValueError(f"kept must be distinct indices from 0 to {d - 1}, got {kept}.")
        if not len(kept) <= self.n_components <= d:
            raise ValueError(
                f"n_components must be between the {len(kept)} kept and n_features = {d}, "
                f"got {self.n_components}."
            )
        sigma2 = self.noise_variance
        if sigma2 is None:
            rest = [float(self.spectrum.eigenvalues[j]) for j in range(d) if j not in kept]
            sigma2 = sum(rest) / len(rest) if rest else 0.0
        if not 0.0 < sigma2 < math.inf:
            raise ValueError(f"noise_variance must be a finite float > 0, got {sigma2}.")
        for index in kept:
            if not float(self.spectrum.eigenvalues[index]) > sigma2:
                raise ValueError(
                    f"A kept eigenvalue must exceed noise_variance={sigma2:.6g}, got eigenvalue "
                    f"{float(self.spectrum.eigenvalues[index]):.6g} at index {index}."
                )
        object.__setattr__(self, "kept", tuple(kept))
        object.__setattr__(self, "noise_variance", float(sigma2))

    @property
    def _sigma2(self) -> float:
        assert self.noise_variance is not None  # set by __post_init__
        return self.noise_variance

    @property
    def loadings(self) -> Array:
        """W of shape (d, k)."""
        U = self.spectrum.components.T
        return U @ self._coordinates(range(self.spectrum.n_features))

    @property
    def column_variances(self) -> list[float]:
        """k_i for each column: the eigenvalue that it keeps, or sigma2 where it is zero."""
        kept = [float(self.spectrum.eigenvalues[index]) for index in self.kept]
        return kept + [self._sigma2] * (self.n_components - len(kept))

    def curvature(self, column: int, direction: int) -> float:
        """Second derivative of the log-likelihood along a direction that is not kept.

        For column i moved by t times eigenvector j it is (lambda_j / k_i - 1) / sigma2 at t = 0,
        in nats per sample.
        """
        if not 0 <= column < self.n_components:
            raise ValueError(f"column must be from 0 to {self.n_components - 1}, got {column}.")
        if direction in self.kept or not 0 <= direction < self.spectrum.n_features:
            raise ValueError(
                f"direction must be an eigenvector that is not kept, from 0 to "
                f"{self.spectrum.n_features - 1}, got {direction}."
            )
        value = float(self.spectrum.eigenvalues[direction])
        return (value / self.column_variances[column] - 1.0) / self._sigma2

    @property
    def unstable(self) -> list[tuple[int, int]]:
        """All pairs (column, direction) along which the likelihood rises."""
        values = [float(value) for value in self.spectrum.eigenvalues]
        free = [j for j in range(len(values)) if j not in self.kept]
        return [
            (i, j) for i, k_i in enumerate(self.column_variances) for j in free if values[j] > k_i
        ]

    @property
    def is_stable(self) -> bool:
        """Whether no direction raises the likelihood: at fixed sigma2, the global maximum."""
        return not self.unstable

    @property
    def log_likelihood(self) -> float:
        """Average log-likelihood of the data of the spectrum, in nats per sample."""
        rows = list(self.kept)
        return float(self._log_likelihood_of(self._coordinates(rows)[None, ...], rows)[0])

    def surface(self, column: int, directions: tuple[int, int], a: Array, b: Array) -> Array:
        """Log-likelihood where `column` is moved in the plane of two eigenvectors.

        Parameters
        ----------
        column : int
        directions : (int, int)
            Indices p and q of two eigenvectors, kept or not.
        a, b : arrays of shape (m,) and (l,)
            The column becomes w + a u_p + b u_q.

        Returns
        -------
        array of shape (m, l)
            Nats per sample, the noise variance unchanged.
        """
        p, q = directions
        d = self.spectrum.n_features
        if not 0 <= column < self.n_components:
            raise ValueError(f"column must be from 0 to {self.n_components - 1}, got {column}.")
        if p == q or not (0 <= p < d and 0 <= q < d):
            raise ValueError(f"directions must be two indices from 0 to {d - 1}, got {directions}.")
        xp = array_namespace(self.spectrum.eigenvalues)
        rows = sorted({*self.kept, p, q})
        W = xp.asarray(self._coordinates(rows), copy=True)
        m, n = a.shape[0], b.shape[0]
        grid = xp.asarray(xp.broadcast_to(W, (m, n, *W.shape)), copy=True)
        grid[:, :, rows.index(p), column] += a[:, None]
        grid[:, :, rows.index(q), column] += b[None, :]
        values = self._log_likelihood_of(xp.reshape(grid, (m * n, *W.shape)), rows)
        return xp.reshape(values, (m, n))

    def _coordinates(self, rows: Sequence[int]) -> Array:
        """W in the basis of the eigenvectors `rows`, shape (len(rows), k)."""
        values = self.spectrum.eigenvalues
        xp = array_namespace(values)
        W = xp.zeros((len(rows), self.n_components), dtype=values.dtype, device=device(values))
        for column, index in enumerate(self.kept):
            W[list(rows).index(index), column] = (values[index] - self._sigma2) ** 0.5
        return W

    def _log_likelihood_of(self, W: Array, rows: Sequence[int]) -> Array:
        """Log-likelihood for each W of shape (g, len(rows), k) in that basis, shape (g,)."""
        values = self.spectrum.eigenvalues
        xp = array_namespace(values)
        d, k, sigma2 = self.spectrum.n_features, self.n_components, self._sigma2
        at_rows = xp.stack([values[index] for index in rows]) if rows else values[:0]
        Wt = xp.matrix_transpose(W)
        M = Wt @ W + sigma2 * xp.eye(k, dtype=values.dtype, device=device(values))
        explained = xp.linalg.solve(M, Wt @ (at_rows[:, None] * W)) if k else M
        trace = (self.spectrum.total_variance - xp.linalg.trace(explained)) / sigma2
        log_det = xp.linalg.slogdet(M)[1] + (d - k) * math.log(sigma2)
        return -0.5 * (d * math.log(2.0 * math.pi) + log_det + trace)
