"""Gaussian distribution with a covariance of low rank plus isotropic noise."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_numpy_array
from scipy import sparse

from sklearn_vae.containers import to_host
from sklearn_vae.gaussian.arrays import (
    Array,
    affine,
    check_matrix,
    common_float_type,
    row_blocks,
    to_device_of,
    wide_float,
)
from sklearn_vae.gaussian.bounds import best_noise_variance
from sklearn_vae.gaussian.centered import (
    CenteredBlock,
    canonical,
    centered_blocks,
    dense,
    project,
    subtract_mean,
)


@dataclass(frozen=True, eq=False)
class LowRankGaussian:
    r"""Gaussian N(mean, C) with C = W W' + sigma2 I, the marginal distribution of pPCA.

    The model is z ~ N(0, I), x | z ~ N(W z + mean, sigma2 I). No method forms a d x d matrix. All
    methods share a triangular factor of M = W'W + sigma2 I, which is computed on first use.

    Parameters
    ----------
    mean : array of shape (n_features,)
        Mean of x.
    loadings : array of shape (n_features, n_components)
        Loadings W. The columns need not be orthogonal and may be zero.
    noise_variance : float
        Noise variance sigma2 >= 0. It may be 0 only if W is square and of full rank.
    remainder : array of shape (n_features,), default=None
        Exact mean minus its rounding `mean`, for the density of samples far from zero. If None, it
        is zero.

    Raises
    ------
    ValueError
        If the shapes do not match, if an entry is not finite, or if `noise_variance` is negative,
        not finite, or 0 although W W' is singular.

    See Also
    --------
    PPCA : Estimator that fits this distribution to data.

    References
    ----------
    Tipping and Bishop, "Probabilistic Principal Component Analysis", JRSS-B 1999, eq. 3 to 8.

    Lucas, Tucker, Grosse and Norouzi, "Don't Blame the ELBO!", NeurIPS 2019, eq. 1, 5 and 6.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_vae.gaussian import LowRankGaussian
    >>> p = LowRankGaussian(np.zeros(3), np.array([[2.0], [1.0], [0.0]]), 0.5)
    >>> p.log_prob(np.array([[2.0, 1.0, 0.0]])).round(4)
    array([-3.3706])
    >>> p.posterior_mean(np.array([[2.0, 1.0, 0.0]])).round(4)
    array([[0.9091]])
    """

    mean: Array
    loadings: Array
    noise_variance: float
    remainder: Array | None = None

    def __post_init__(self) -> None:
        if self.loadings.ndim != 2 or tuple(self.mean.shape) != (self.loadings.shape[0],):
            raise ValueError(
                "mean and loadings must have shapes (n_features,) and (n_features, n_components), "
                f"got {tuple(self.mean.shape)} and {tuple(self.loadings.shape)}."
            )
        xp = array_namespace(self.mean, self.loadings)
        if not (xp.all(xp.isfinite(self.mean)) and xp.all(xp.isfinite(self.loadings))):
            raise ValueError("mean and loadings must be finite, got NaN or infinity.")
        if self.remainder is not None and not (
            tuple(self.remainder.shape) == tuple(self.mean.shape)
            and xp.all(xp.isfinite(self.remainder))
        ):
            raise ValueError("remainder must be None or finite and of the shape of mean.")
        if not (0.0 <= self.noise_variance < math.inf):
            raise ValueError(
                f"noise_variance must be a finite float >= 0, got {self.noise_variance}."
            )
        if self.noise_variance == 0.0 and self._is_singular():
            raise ValueError(
                "noise_variance must be > 0 unless loadings are square and of full rank, got 0 "
                f"with loadings of shape {tuple(self.loadings.shape)} and a singular covariance."
            )

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.loadings.shape[0]

    @property
    def n_components(self) -> int:
        """Number of latent dimensions."""
        return self.loadings.shape[1]

    @cached_property
    def _factor(self) -> tuple[Array, Array]:
        """Upper triangular R with R'R = M, and W R^-1.

        R is from a QR decomposition of W stacked on sigma I, since forming M would square the
        condition number of W.
        """
        W, k = self.loadings, self.n_components
        xp = array_namespace(W)
        noise = self.noise_variance**0.5 * xp.eye(k, dtype=W.dtype, device=device(W))
        if k == 0:
            return noise, W
        Q, R = xp.linalg.qr(xp.concat([W, noise]), mode="reduced")
        return R, Q[: self.n_features, :]

    @cached_property
    def _inverse_root(self) -> Array:
        """Inverse of R."""
        root = self._factor[0]
        xp = array_namespace(root)
        identity = xp.eye(self.n_components, dtype=root.dtype, device=device(root))
        return xp.linalg.solve(root, identity) if self.n_components else identity

    @property
    def _whitener(self) -> Array:
        # Maps x - mean to y with |y|^2 = (x - mean)' W M^-1 W' (x - mean).
        return self._factor[1]

    @cached_property
    def log_det(self) -> float:
        """Log-determinant of C, computed as log det M + (d - k) log sigma2."""
        root = self._factor[0]
        xp = array_namespace(root)
        log_det_m = 2.0 * float(xp.sum(xp.log(xp.abs(xp.linalg.diagonal(root)))))
        n_left = self.n_features - self.n_components
        return log_det_m + (n_left * math.log(self.noise_variance) if n_left else 0.0)

    @cached_property
    def _limit(self) -> float:
        return mean_limit(self.loadings, self.noise_variance)

    def _check_samples(self, X: Any) -> Any:
        if sparse.issparse(check_matrix(X)) and not is_numpy_array(self.mean):
            raise TypeError(
                "Sparse X requires NumPy arrays as mean and loadings, got "
                f"{type(self.mean).__name__}."
            )
        if X.shape[1] != self.n_features:
            raise ValueError(f"X must have {self.n_features} features, got {X.shape[1]}.")
        return X

    def _is_singular(self) -> bool:
        if self.n_features != self.n_components:
            return True
        root = self._factor[0]
        xp = array_namespace(root)
        scale = xp.abs(xp.linalg.diagonal(root))
        return not bool(xp.all(scale > xp.finfo(scale.dtype).eps * xp.max(scale)))

    def log_prob(self, X: Any) -> Array:
        """Compute the log-density of each sample in O(n d k).

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        array of shape (n_samples,)
            Log-density of each sample, in nats.
        """
        X = self._check_samples(X)
        xp = array_namespace(self.mean)
        dtype = common_float_type(X, self.mean)
        if dtype != self.mean.dtype:
            mean, loadings = xp.astype(self.mean, dtype), xp.astype(self.loadings, dtype)
            remainder = None if self.remainder is None else xp.astype(self.remainder, dtype)
            return LowRankGaussian(mean, loadings, self.noise_variance, remainder).log_prob(X)
        if sparse.issparse(X):
            X = canonical(X)
        blocks = centered_blocks(X, self.mean, self._limit, self.remainder)
        distance = xp.concat([self._mahalanobis(block, X[rows, :]) for rows, block in blocks])
        return -0.5 * (distance + (self.log_det + self.n_features * math.log(2.0 * math.pi)))

    def _mahalanobis(self, block: CenteredBlock, X: Any) -> Array:
        """Compute (x - mean)' C^-1 (x - mean) of each sample by one product with `block`.

        It is (|x|^2 + |mean|^2 - 2 mean'x - |y|^2) / sigma2, with y as in `_whitener`. Where this
        cancels, it is computed again without differences.
        """
        mean = block.mean
        xp = array_namespace(mean)
        if self.noise_variance == 0.0:
            return self._mahalanobis_by_sums(X)
        Y = block.times(xp.concat([self._whitener, mean[:, None]], axis=1))
        terms = block.squares() + xp.vecdot(mean, mean)
        distance = terms - 2.0 * Y[:, -1]
        Y = Y[:, :-1] - mean @ self._whitener
        distance = (distance - xp.vecdot(Y, Y)) / self.noise_variance
        # The error is a few eps of the terms, and so at most a few eps^(3/4) of the distance.
        least = float(xp.finfo(mean.dtype).eps) ** 0.25 * terms
        # Not "<", since the distance is nan if the terms overflow.
        cancelled = ~(distance * self.noise_variance >= least)
        if xp.any(cancelled):
            distance[cancelled] = self._mahalanobis_by_sums(X[cancelled])
        return distance

    def _mahalanobis_by_sums(self, X: Any) -> Array:
        """Compute the same as |x - mean - W z|^2 / sigma2 + |z|^2 with z = E[z|x]."""
        xp = array_namespace(self.mean)
        distances = []
        for rows in row_blocks(*X.shape):
            R = xp.astype(dense(X[rows, :]), self.mean.dtype, copy=False)
            R = subtract_mean(R, self.mean, self.remainder)
            Z = (R @ self._whitener) @ self._inverse_root.T
            distance = xp.vecdot(Z, Z)
            if self.noise_variance > 0.0:
                R = R - Z @ self.loadings.T
                distance = distance + xp.vecdot(R, R) / self.noise_variance
            distances.append(distance)
        return xp.concat(distances)

    def posterior_mean(self, X: Array) -> Array:
        """Compute the posterior mean E[z|x] = M^-1 W' (x - mean) of each sample.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        array of shape (n_samples, n_components)
            Posterior means.
        """
        gain = self._whitener @ self._inverse_root.T
        return project(self._check_samples(X), self.mean, gain, self._limit)

    @property
    def posterior_covariance(self) -> Array:
        """Posterior covariance sigma2 M^-1, (n_components, n_components), for every x."""
        return self.noise_variance * (self._inverse_root @ self._inverse_root.T)

    def conditional_mean(self, Z: Array) -> Array:
        """Compute the conditional mean E[x|z] = W z + mean of each latent vector.

        Parameters
        ----------
        Z : array of shape (n_samples, n_components)
            Latent vectors.

        Returns
        -------
        array of shape (n_samples, n_features)
            Conditional means; the conditional covariance is sigma2 I.
        """
        return affine(Z, self.loadings.T, self.mean)

    def best_noise_variance(self, X: Array, components: Array) -> float:
        """Maximize the likelihood of X over the noise variance, with mean and loadings fixed.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
            Samples.
        components : array of shape (n_components, n_features)
            Orthonormal directions of the columns of the loadings.

        Returns
        -------
        float
            Noise variance with the highest likelihood.
        """
        along = to_host(project(X, self.mean, components.T, self._limit)).astype(np.float64)
        loadings, d = to_host(self.loadings).astype(np.float64), self.n_features
        lengths, squares = (loadings**2).sum(axis=0), (along**2).mean(axis=0)
        n_left = d - len(lengths)
        sigma2, tail = self.noise_variance, 0.0
        # The log-likelihood gives the squares orthogonal to the components. The second pass uses a
        # sigma2 near their mean, at which they do not cancel.
        for _ in range(2 if n_left else 0):
            model = LowRankGaussian(self.mean, self.loadings, sigma2, self.remainder)
            log_likelihood = float(to_host(model.log_prob(X)).mean(dtype=np.float64))
            terms = np.log(lengths + sigma2) + squares / (lengths + sigma2)
            log_noise = n_left * np.log(sigma2) + d * np.log(2.0 * np.pi)
            tail = max(-2.0 * log_likelihood - terms.sum() - log_noise, 0.0) * sigma2
            sigma2 = max(tail / n_left, 1e-12 * squares.max(initial=0.0)) or sigma2
        return best_noise_variance(lengths, squares, tail, d)

    def sample(self, n_samples: int, rng: Any) -> tuple[Array, Array]:
        """Draw samples from the model.

        Parameters
        ----------
        n_samples : int
            Number of samples.
        rng : numpy.random.Generator or numpy.random.RandomState
            Source of random numbers.

        Returns
        -------
        X : array of shape (n_samples, n_features)
            Samples.
        Z : array of shape (n_samples, n_components)
            Latent vectors.
        """
        Z = to_device_of(self.mean, rng.standard_normal((n_samples, self.n_components)))
        noise = to_device_of(self.mean, rng.standard_normal((n_samples, self.n_features)))
        return self.conditional_mean(Z) + self.noise_variance**0.5 * noise, Z


def mean_limit(loadings: Array, noise_variance: float) -> float:
    """Return the largest |mean|^2 that can be subtracted from products at the cost of one digit.

    It is ten times the trace of C = W W' + sigma2 I.
    """
    xp = array_namespace(loadings)
    trace = float(xp.sum(xp.astype(loadings, wide_float(loadings)) ** 2))
    return 10.0 * (trace + loadings.shape[0] * noise_variance)
