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
    r"""Stationary point of the likelihood of pPCA at a given noise variance.

    Each column of W is sqrt(lambda_j - sigma2) u_j for a kept eigenpair (lambda_j, u_j) of the
    covariance, or zero. Up to a rotation of the columns, every stationary point has this form, for
    some set of at most k eigenvectors with eigenvalues above sigma2.

    Parameters
    ----------
    spectrum : Spectrum
        Spectrum of the covariance of the data: all eigenpairs from :func:`sample_spectrum` or
        :meth:`Spectrum.from_moments`, or those that a fitted model keeps, `PPCA.spectrum_`.
    kept : sequence of int
        Distinct indices of the kept eigenvectors, one per nonzero column; 0 is the leading one. The
        spectrum must contain them.
    n_components : int
        Number k of columns of W. The columns after the kept ones are zero.
    noise_variance : float, default=None
        Noise variance sigma2. If None, it is the mean of the eigenvalues that are not kept, where
        the likelihood is stationary in sigma2 as well.

    Raises
    ------
    ValueError
        If an index in `kept` is invalid or repeated, if `n_components` is out of range, or if
        sigma2 is not positive or not below every kept eigenvalue.

    See Also
    --------
    sklearn_vae.plot.LikelihoodSurfaceDisplay : Plot the likelihood around a stationary point.

    References
    ----------
    Lucas, Tucker, Grosse and Norouzi, "Don't Blame the ELBO!", NeurIPS 2019, appendix A; Tipping
    and Bishop, "Probabilistic Principal Component Analysis", JRSS-B 1999, appendix A.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.gaussian import StationaryPoint, sample_spectrum
    >>> X = load_iris().data
    >>> StationaryPoint(sample_spectrum(X), [0, 2], n_components=2, noise_variance=0.05).unstable
    [(1, 1)]
    >>> model = PPCA(2).fit(X)
    >>> StationaryPoint(model.spectrum_, [0, 1], 2, model.noise_variance_).is_stable
    True
    """

    spectrum: Spectrum
    kept: Sequence[int]
    n_components: int
    noise_variance: float | None = None

    def __post_init__(self) -> None:
        d, n_pairs = self.spectrum.n_features, self._n_pairs
        kept = [int(index) for index in self.kept]
        if len(set(kept)) != len(kept) or not all(0 <= index < n_pairs for index in kept):
            raise ValueError(
                f"kept must be distinct indices from 0 to {n_pairs - 1}{self._remedy}, got {kept}."
            )
        if not len(kept) <= self.n_components <= d:
            raise ValueError(
                f"n_components must be between len(kept) = {len(kept)} and n_features = {d}, "
                f"got {self.n_components}."
            )
        sigma2 = self.noise_variance
        if sigma2 is None:
            others = [float(self.spectrum.eigenvalues[j]) for j in range(n_pairs) if j not in kept]
            sigma2 = (sum(others) + self.spectrum.rest) / max(d - len(kept), 1)
        if not 0.0 < sigma2 < math.inf:
            raise ValueError(f"noise_variance must be a finite float > 0, got {sigma2}.")
        for index in kept:
            if not float(self.spectrum.eigenvalues[index]) > sigma2:
                raise ValueError(
                    f"kept eigenvalues must exceed noise_variance = {sigma2:.6g}, got "
                    f"{float(self.spectrum.eigenvalues[index]):.6g} at index {index}."
                )
        object.__setattr__(self, "kept", tuple(kept))
        object.__setattr__(self, "noise_variance", float(sigma2))

    @property
    def _sigma2(self) -> float:
        assert self.noise_variance is not None  # set by __post_init__
        return self.noise_variance

    @property
    def _n_pairs(self) -> int:
        return self.spectrum.eigenvalues.shape[0]

    @property
    def _remedy(self) -> str:
        """End of a sentence on indices of eigenvectors, if the spectrum does not hold all."""
        d = self.spectrum.n_features
        if self._n_pairs == d:
            return ""
        return f" for a spectrum with {self._n_pairs} of {d} eigenpairs"

    @property
    def loadings(self) -> Array:
        """Loadings W, array of shape (n_features, n_components)."""
        U = self.spectrum.components.T
        return U @ self._coordinates(range(self._n_pairs))

    @property
    def column_variances(self) -> list[float]:
        """Variance of the model per column: the kept eigenvalue, or sigma2 for a zero column."""
        kept = [float(self.spectrum.eigenvalues[index]) for index in self.kept]
        return kept + [self._sigma2] * (self.n_components - len(kept))

    def curvature(self, column: int, direction: int) -> float:
        """Compute the second derivative of the log-likelihood along an eigenvector.

        If column i moves by t times eigenvector j, the derivative at t = 0 is
        (lambda_j / kappa_i - 1) / sigma2, where kappa_i is in `column_variances`.

        Parameters
        ----------
        column : int
            Index i of the column of W.
        direction : int
            Index j of an eigenvector in the spectrum that is not kept.

        Returns
        -------
        float
            Second derivative, in nats per sample.
        """
        if not 0 <= column < self.n_components:
            raise ValueError(f"column must be from 0 to {self.n_components - 1}, got {column}.")
        if direction in self.kept or not 0 <= direction < self._n_pairs:
            raise ValueError(
                f"direction must be an index from 0 to {self._n_pairs - 1} that is not in kept"
                f"{self._remedy}, got {direction}."
            )
        value = float(self.spectrum.eigenvalues[direction])
        return (value / self.column_variances[column] - 1.0) / self._sigma2

    @property
    def unstable(self) -> list[tuple[int, int]]:
        """Pairs (column, direction) along which the likelihood rises, in the spectrum."""
        values = [float(value) for value in self.spectrum.eigenvalues]
        free = [j for j in range(len(values)) if j not in self.kept]
        return [
            (i, j) for i, k_i in enumerate(self.column_variances) for j in free if values[j] > k_i
        ]

    @property
    def is_stable(self) -> bool:
        """Whether no direction raises the likelihood, as at the maximum for this sigma2.

        It raises ValueError if the spectrum lacks the eigenvalue that decides.
        """
        n_left = self.spectrum.n_features - self._n_pairs
        variances = self.column_variances
        if self.unstable or not (n_left and variances):
            return not self.unstable
        # The eigenvalues after the first r are at least their mean, at most their sum, and at most
        # the r-th.
        rest, least = self.spectrum.rest, min(variances)
        largest = rest
        if self._n_pairs:
            largest = min(rest, float(self.spectrum.eigenvalues[-1]))
        if largest <= least:
            return True
        if rest / n_left > least:
            return False
        raise ValueError(
            f"is_stable needs the eigenvalues after the first {self._n_pairs}, the largest of which "
            f"may be above or below the model variance {least:.6g}. Use sample_spectrum(X)."
        )

    @property
    def log_likelihood(self) -> float:
        """Log-likelihood of the data of the spectrum, in nats per sample."""
        basis = list(self.kept)
        return float(self._log_likelihood_of(self._coordinates(basis)[None, ...], basis)[0])

    def surface(self, column: int, directions: tuple[int, int], a: Array, b: Array) -> Array:
        """Compute the log-likelihood as one column moves in the plane of two eigenvectors.

        Parameters
        ----------
        column : int
            Index of the column w of W that moves.
        directions : tuple of (int, int)
            Indices p and q of two eigenvectors in the spectrum, kept or not.
        a, b : array of shape (m,) and (l,)
            Steps along u_p and u_q; the column becomes w + a u_p + b u_q.

        Returns
        -------
        array of shape (m, l)
            Log-likelihood in nats per sample, at the same noise variance.
        """
        p, q = directions
        r = self._n_pairs
        if not 0 <= column < self.n_components:
            raise ValueError(f"column must be from 0 to {self.n_components - 1}, got {column}.")
        if p == q or not (0 <= p < r and 0 <= q < r):
            raise ValueError(
                f"directions must be two different indices from 0 to {r - 1}{self._remedy}, got "
                f"{directions}."
            )
        xp = array_namespace(self.spectrum.eigenvalues)
        basis = sorted({*self.kept, p, q})
        W = self._coordinates(basis)
        m, n = a.shape[0], b.shape[0]
        grid = xp.asarray(xp.broadcast_to(W, (m, n, *W.shape)), copy=True)
        grid[:, :, basis.index(p), column] += a[:, None]
        grid[:, :, basis.index(q), column] += b[None, :]
        values = self._log_likelihood_of(xp.reshape(grid, (m * n, *W.shape)), basis)
        return xp.reshape(values, (m, n))

    def _coordinates(self, basis: Sequence[int]) -> Array:
        """Return W in the basis of some eigenvectors, shape (len(basis), k)."""
        values = self.spectrum.eigenvalues
        xp = array_namespace(values)
        W = xp.zeros((len(basis), self.n_components), dtype=values.dtype, device=device(values))
        for column, index in enumerate(self.kept):
            W[list(basis).index(index), column] = (values[index] - self._sigma2) ** 0.5
        return W

    def _log_likelihood_of(self, W: Array, basis: Sequence[int]) -> Array:
        """Compute the log-likelihood of g loadings, (g, len(basis), k), in that basis."""
        values = self.spectrum.eigenvalues
        xp = array_namespace(values)
        d, k, sigma2 = self.spectrum.n_features, self.n_components, self._sigma2
        in_basis = xp.stack([values[index] for index in basis]) if basis else values[:0]
        Wt = xp.matrix_transpose(W)
        M = Wt @ W + sigma2 * xp.eye(k, dtype=values.dtype, device=device(values))
        explained = xp.linalg.solve(M, Wt @ (in_basis[:, None] * W)) if k else M
        trace = (self.spectrum.total_variance - xp.linalg.trace(explained)) / sigma2
        log_det = xp.linalg.slogdet(M)[1] + (d - k) * math.log(sigma2)
        return -0.5 * (d * math.log(2.0 * math.pi) + log_det + trace)
