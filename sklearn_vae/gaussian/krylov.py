"""Leading eigenpairs of a symmetric operator by block Lanczos iteration, and bounds on the rest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from array_api_compat import array_namespace, device
from scipy import linalg
from scipy.optimize import brentq
from scipy.special import betaincinv

from sklearn_vae.containers import to_host
from sklearn_vae.gaussian.arrays import Array, to_device_of

# Product of a positive semidefinite matrix A with rows: V -> V A.
Operator: TypeAlias = Callable[[Array], Array]

# Probability with which a bound that rests on random vectors may fail.
DELTA = 1e-10

# Number of products after which the speed of convergence can be estimated.
LEAST_PROGRESS = 4


@dataclass(frozen=True, eq=False)
class RitzPairs:
    """Approximate leading eigenpairs of a symmetric matrix of order N, in descending order."""

    values: np.ndarray  # shape (r,)
    vectors: Array  # orthonormal rows, shape (r, N)
    residuals: np.ndarray  # norms of A v - theta v, shape (r,)
    n_products: int  # number of applications of the operator to a block
    converged: bool


class _Basis:
    """Orthonormal basis Q (rows) of a Krylov space of A, with the matrix T = Q A Q'."""

    def __init__(self, reference: Array, size: int, capacity: int, rng: Any) -> None:
        xp = array_namespace(reference)
        self.size, self.rng, self.reference = size, rng, reference
        self.rows = xp.empty((capacity, size), dtype=reference.dtype, device=device(reference))
        self.matrix = np.zeros((capacity, capacity))
        self.used = 0

    def draw(self, n: int) -> Array:
        """Draw n random rows of a length of about 1."""
        rows = self.rng.standard_normal((n, self.size)) / self.size**0.5
        return to_device_of(self.reference, rows)

    def orthogonal(self, W: Array) -> tuple[Array, Array]:
        """Subtract the projection of rows W on the basis; return its coefficients too."""
        Q = self.rows[: self.used, :]
        H = W @ Q.T
        return W - H @ Q, H

    def next_block(self, W: Array, least: float) -> tuple[Array, np.ndarray]:
        """Return orthonormal rows X, orthogonal to the basis, and B with W = B X.

        W is orthogonal to the basis up to rounding errors, of at most `least`. Directions of W that
        are not longer are rounding errors themselves: the basis spans an invariant subspace. Random
        directions replace them, so that no eigenvector stays unseen.
        """
        xp = array_namespace(W)
        n = min(W.shape[0], self.size - self.used)
        X, R = xp.linalg.qr(W.T, mode="reduced")
        U, lengths, V = np.linalg.svd(np.asarray(to_host(R), dtype=np.float64))
        B = V.T * lengths
        X = (X @ to_device_of(self.reference, U)).T
        n_kept = min(int(np.count_nonzero(lengths > least)), n)
        B[:, n_kept:] = 0.0
        if n_kept < n:
            X = xp.concat([X[:n_kept, :], self.draw(n - n_kept)])
        return self.orthonormal(X[:n, :]), B[:, :n]

    def orthonormal(self, X: Array) -> Array:
        """Make rows orthonormal and orthogonal to the basis, the first ones first."""
        xp = array_namespace(X)
        for _ in range(4 if X.shape[0] else 0):
            X = self.orthogonal(X)[0] if self.used else X
            X, R = xp.linalg.qr(X.T, mode="reduced")
            lengths = xp.linalg.diagonal(R)
            X = (X * xp.where(lengths < 0, -xp.ones_like(lengths), xp.ones_like(lengths))).T
            # Twice is enough (Kahan and Parlett), unless most of a vector was subtracted.
            if float(xp.min(xp.abs(lengths))) > 0.5:
                break
        return X

    def append(self, X: Array) -> None:
        self.rows[self.used : self.used + X.shape[0], :] = X
        self.used += X.shape[0]

    def set_products(self, H: Array) -> None:
        """Store the products of the last rows with the basis."""
        n, used = H.shape[0], self.used
        self.matrix[used - n : used, :used] = to_host(H)
        self.matrix[:used, used - n : used] = self.matrix[used - n : used, :used].T

    def ritz(self, r: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the r largest eigenvalues of T, descending, and their eigenvectors (columns)."""
        D = self.used
        T = self.matrix[:D, :D]
        try:
            values, Y = linalg.eigh(T, subset_by_index=[D - r, D - 1], check_finite=False)
        except linalg.LinAlgError:  # LAPACK's solver for some eigenvalues may fail
            values, Y = (part[..., D - r :] for part in np.linalg.eigh(T))
        # Inverse iteration leaves vectors of close eigenvalues orthogonal to 1e-13 only.
        return values[::-1].copy(), np.linalg.qr(Y[:, ::-1])[0]

    def rotate(self, Y: np.ndarray) -> Array:
        return to_device_of(self.reference, Y.T) @ self.rows[: self.used, :]

    def restart(self, values: np.ndarray, Y: np.ndarray) -> None:
        """Keep only the Ritz vectors `Y`."""
        kept = self.rotate(Y)
        self.used = 0
        self.append(kept)
        self.matrix[:] = 0.0
        self.matrix[: self.used, : self.used] = np.diag(values)


def block_lanczos(
    apply: Operator,
    reference: Array,
    size: int,
    k: int,
    *,
    block: int,
    tol: float,
    max_products: int,
    max_dimension: int,
    rng: Any,
    n_extra: int = 1,
    patience: float = math.inf,
) -> RitzPairs:
    """Compute the k leading eigenpairs of a positive semidefinite matrix of order `size`.

    Block Lanczos iteration with full orthogonalization and thick restarts (Wu and Simon 2000) stops
    when the residuals of the first k pairs are at most `tol` times the largest eigenvalue. The
    result holds up to `n_extra` further pairs, which need not have converged. Vectors are in the
    library, device and dtype of `reference`. The iteration also stops when it seems to need more
    than `patience` further products.
    """
    r = min(k + n_extra, size)
    kept = min(r + block, size)
    capacity = min(max(max_dimension, kept + 2 * block), size)
    basis = _Basis(reference, size, capacity, rng)
    X = basis.orthonormal(basis.draw(min(block, size)))
    check_at, n_products, eps = max(2 * r, 4 * block), 0, _eps(reference)
    progress: list[tuple[int, float]] = []
    while True:
        basis.append(X)
        W, H = basis.orthogonal(apply(X))
        n_products += 1
        basis.set_products(H)
        X, B = basis.next_block(W, 8.0 * eps * max(basis.matrix.max(), 0.0))
        complete = basis.used == size
        full = basis.used + X.shape[0] > capacity
        last = complete or n_products >= max_products
        if not (last or full or basis.used >= check_at):
            continue
        n_ritz = basis.used if complete else min(kept, basis.used)
        values, Y = basis.ritz(n_ritz)
        coupling = 0.0 if complete else B.T @ Y[basis.used - B.shape[0] :, :]
        residuals = np.zeros(n_ritz) if complete else np.linalg.norm(coupling, axis=0)
        converged = n_ritz >= k and bool((residuals[:k] <= tol * max(values[0], 0.0)).all())
        if n_ritz >= k and values[0] > 0.0:
            progress.append((n_products, float(residuals[:k].max(initial=0.0) / values[0])))
        is_slow = patience < math.inf and _products_left(progress, tol) > patience
        if converged or last or is_slow:
            vectors = basis.rotate(Y[:, :r])
            return RitzPairs(values[:r], vectors, residuals[:r], n_products, converged)
        if full:
            basis.restart(values, Y)
        check_at = int(1.25 * basis.used) + block


def _products_left(progress: list[tuple[int, float]], tol: float) -> float:
    """Estimate how many products reduce the residual to `tol`, from pairs of their number and it.

    The residual is assumed to decrease geometrically. Returns 0.0 after too few products to tell.
    """
    if not progress or progress[-1][0] - progress[0][0] < LEAST_PROGRESS or progress[-1][1] == 0.0:
        return 0.0
    (first, large), (last, small) = progress[0], progress[-1]
    decrease = (math.log(large) - math.log(small)) / (last - first)
    return math.log(small / tol) / decrease if decrease > 0.0 else math.inf


def _eps(reference: Array) -> float:
    return float(array_namespace(reference).finfo(reference.dtype).eps)


def largest_outside(
    apply: Operator, V: Array, size: int, *, block: int, n_products: int, rng: Any
) -> float:
    """Bound the largest eigenvalue of (I - V'V) A (I - V'V) with failure probability `DELTA`.

    Let u be its eigenvector, lambda its eigenvalue, theta the largest Ritz value in the Krylov
    space of depth q of b Gaussian vectors, and phi the smallest angle between u and their span.
    Every y in that space satisfies y'(A - theta I) y <= 0. With the Chebyshev polynomial T of degree
    q - 1 on [0, theta], applied to the vector of the span nearest to u, this gives
    (lambda - theta) / theta T(2 lambda / theta - 1)^2 <= tan^2 phi, and cos^2 phi has a beta
    distribution. The argument is that of Kuczynski and Wozniakowski (1992) for a block and after
    the fact.
    """
    rest = size - V.shape[0]
    if rest <= 0:
        return 0.0

    def deflated(W: Array) -> Array:
        W = W - (W @ V.T) @ V
        W = apply(W)
        return W - (W @ V.T) @ V

    block = min(block, rest)
    pairs = block_lanczos(
        deflated, V, size, 1, block=block, tol=-1.0, max_products=n_products,
        max_dimension=min(block * n_products, size), rng=rng, n_extra=0,
    )  # fmt: skip
    if block * pairs.n_products >= size:  # the space is complete
        return float(pairs.values[0])
    return float(pairs.values[0]) * (1.0 + _excess(block, pairs.n_products, rest))


def _excess(block: int, n_products: int, size: int) -> float:
    """Return the largest relative excess of lambda over theta in `largest_outside`."""
    cosine2 = float(betaincinv(block / 2.0, max(size - block, 1) / 2.0, DELTA))
    log_tan2 = math.log1p(-cosine2) - math.log(cosine2)
    degree = n_products - 1

    def difference(log_excess: float) -> float:
        # log T(1 + 2 e) with arcosh(1 + 2 e) = 2 arsinh(sqrt e)
        angle = 2.0 * degree * math.asinh(math.exp(0.5 * log_excess))
        return (
            log_excess
            + 2.0 * (angle + math.log1p(math.exp(-2.0 * angle)) - math.log(2.0))
            - log_tan2
        )

    return math.exp(brentq(difference, -100.0, log_tan2 + 10.0))
