"""Weighted points that replace draws from N(0, I) in averages over z.

All samples share the points, so that the scores of a sample do not depend on the other samples. The
points have the mean 0 and the covariance I, which makes averages of quadratic functions exact.
"""

import math
from collections.abc import Callable
from functools import cache, lru_cache
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammaln, hyp1f1
from torch import Tensor

Array = NDArray[np.float64]

# Minimum number of points.
N_POINTS = 32

# Minimum number of random points that estimate the error of the others.
N_REFERENCE_POINTS = 1024

# Largest point in one dimension. The probability of points beyond it is 6e-7.
LARGEST = 5.0

# Number of iterations for support points. More of them did not change the error.
N_ITERATIONS = 100

# Number of dimensions of the Sobol sequence of torch.
MAX_DIMENSIONS = 21201


def n_points(n_components: int) -> int:
    """Return the number of points, which has pairs z, -z in all directions of an orthogonal basis."""
    return max(N_POINTS, 2 * n_components)


def cubature(n_components: int) -> tuple[Tensor, Tensor]:
    """Return points of shape (S, 1, k) and their weights, (S,), with the sum 1, in float64.

    The rules were chosen by their error in the ELBO of networks with "relu" and "silu":

    - k = 1: equally spaced points with weights proportional to the density. It is nearly exact for
      smooth functions, like the Gauss-Hermite rule, and better where functions have kinks.
    - k = 2: 4 circles of 8 points, with the radii and weights of a Gauss rule.
    - k = 3: the vertices of a dodecahedron and an icosahedron, with the radii and weights of a
      Gauss rule.
    - 4 <= k < 16: support points of N(0, I) in pairs z, -z (Mak and Joseph, "Support Points", 2018).
    - k >= 16: the 2 k vertices of a rotated cross-polytope.
    """
    return _as_tensors(*_rule(n_components))


def points_within(
    n_components: int, n_draws: float
) -> Callable[[Tensor], tuple[Tensor, Tensor] | None]:
    """Return a function that gives the points for a block of samples, at most `n_draws` for each.

    The function returns None where `cubature` has no more than that. Otherwise it returns random
    pairs z, -z for each sample, at least one.
    """
    n_pairs = int(0.5 * n_draws) if math.isfinite(n_draws) else n_points(n_components)
    if 2 * n_pairs >= n_points(n_components):
        return lambda x: None
    n_pairs, generator = max(1, n_pairs), torch.Generator().manual_seed(0)
    weights = torch.full((2 * n_pairs,), 0.5 / n_pairs, dtype=torch.float64, device="cpu")

    def draw(x: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randn((n_pairs, len(x), n_components), generator=generator, dtype=x.dtype)
        return torch.cat([noise, -noise]), weights

    return draw


@cache
def _rule(k: int) -> tuple[Array, Array]:
    """Return points of shape (S, k) and their weights."""
    if k == 1:
        x = np.linspace(-LARGEST, LARGEST, N_POINTS)[:, None]
        return _standardized(x, np.exp(-0.5 * x[:, 0] ** 2))
    if k == 2:
        return _on_spheres([_circle(8, 0.0), _circle(8, 0.5)] * 2)
    if k == 3:
        return _on_spheres([_dodecahedron(), _icosahedron()])
    if 2 * k < N_POINTS:
        return _standardized(_support_points(_sobol_pairs(k, N_POINTS)))
    generator = np.random.RandomState(0)
    rotation = np.linalg.qr(generator.standard_normal((k, k)))[0]
    return _standardized(np.concatenate([rotation, -rotation]))


def reference_points(n_components: int) -> tuple[Tensor, Tensor]:
    """Return many points of a scrambled Sobol sequence and their weights, as `cubature` does."""
    n = max(N_REFERENCE_POINTS, 4 * n_components)
    return _as_tensors(*_standardized(_sobol_pairs(n_components, n)))


@lru_cache(maxsize=16)
def normal_points(n_components: int, n: int) -> Tensor:
    """Return n points of N(0, I), in pairs z, -z except one if n is odd.

    They have the shape (n_points, n_components). If n >= 2 k, their mean is 0 and their covariance
    is I. Calls share the result.
    """
    x = _sobol_pairs(n_components, n - n % 2) if n > 1 else np.zeros((0, n_components))
    x = np.concatenate([x, np.zeros((n % 2, n_components))])
    return torch.from_numpy(_standardized(x)[0] if n // 2 >= n_components else x)


def _as_tensors(points: Array, weights: Array) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(points)[:, None], torch.from_numpy(weights)


def _sobol_pairs(k: int, n: int) -> Array:
    """Return n normal points, in pairs z, -z, from a scrambled Sobol sequence."""
    if k <= MAX_DIMENSIONS:
        with torch.device("cpu"):
            engine = torch.quasirandom.SobolEngine(k, scramble=True, seed=0)
            first = engine.quasi.float() / 2**engine.MAXBIT
            uniform = engine.draw(n // 2, dtype=torch.float64)
            uniform[:1] = first  # the engine computes this point in torch's default dtype
    else:
        generator = torch.Generator().manual_seed(0)
        uniform = torch.rand((n // 2, k), generator=generator, dtype=torch.float64, device="cpu")
    x = torch.special.ndtri(uniform.clamp(1e-9, 1.0 - 1e-9)).numpy()
    return np.concatenate([x, -x])


def _support_points(x: Array) -> Array:
    """Move points so that their energy distance to N(0, I) decreases toward a local minimum.

    The iteration is eq. 22 of Mak and Joseph (2018), with the expectations E 1 / |x - Y| and
    E (x - Y) / |x - Y| over Y ~ N(0, I) in closed form. It amplifies rounding errors only 3 times.
    """
    n, k = x.shape
    inverse = math.exp(gammaln((k - 1) / 2) - gammaln(k / 2)) / math.sqrt(2)
    unit = math.exp(gammaln((k + 1) / 2) - gammaln(k / 2)) * math.sqrt(2) / k
    for _ in range(N_ITERATIONS):
        t = -0.5 * np.square(x).sum(axis=1)
        weight = inverse * hyp1f1(0.5, k / 2, t)
        pull = unit * hyp1f1(0.5, k / 2 + 1, t)
        apart = x[:, None] - x
        distance = np.linalg.norm(apart, axis=2) + np.eye(n)
        push = (apart / distance[..., None]).sum(axis=1) / n
        x = x + (push - pull[:, None] * x) / weight[:, None]
    return x


def _on_spheres(directions: list[Array]) -> tuple[Array, Array]:
    """Return points in the directions on spheres, whose radii are nodes of a Gauss rule.

    Half the squared radius of a normal vector has a gamma distribution with the shape k / 2.
    """
    k, m = directions[0].shape[1], len(directions)
    i = np.arange(m)
    # Its orthogonal polynomials are Laguerre's, and this is their Jacobi matrix.
    off_diagonal = np.sqrt(i[1:] * (i[1:] + k / 2 - 1))
    jacobi = np.diag(2 * i + k / 2) + np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1)
    halves, vectors = np.linalg.eigh(jacobi)
    parts = list(zip(np.sqrt(2 * halves), vectors[0] ** 2, directions, strict=True))
    points = np.concatenate([radius * d for radius, _, d in parts])
    weights = np.concatenate([np.full(len(d), weight / len(d)) for _, weight, d in parts])
    return _standardized(points, weights)


def _circle(n: int, turn: float) -> Array:
    angle = 2 * math.pi * (np.arange(n) + turn) / n
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _icosahedron() -> Array:
    golden = (1 + math.sqrt(5)) / 2
    return _cyclic([(0.0, a, b * golden) for a, b in product((1, -1), repeat=2)])


def _dodecahedron() -> Array:
    golden = (1 + math.sqrt(5)) / 2
    cube = np.array(list(product((1.0, -1.0), repeat=3))) / math.sqrt(3)
    rest = _cyclic([(0.0, a / golden, b * golden) for a, b in product((1, -1), repeat=2)])
    return np.concatenate([cube, rest])


def _cyclic(vertices: list[tuple[float, float, float]]) -> Array:
    """Return unit vectors in the directions of vertices with cyclically permuted coordinates."""
    v = np.array(vertices)
    points = np.concatenate([v, v[:, [1, 2, 0]], v[:, [2, 0, 1]]])
    return points / np.linalg.norm(points[0])


def _standardized(x: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """Map points linearly to the weighted mean 0 and covariance I, moving them the least."""
    w = np.ones(len(x)) if weights is None else weights
    w = w / w.sum()
    x = x - w @ x
    values, vectors = np.linalg.eigh((w[:, None] * x).T @ x)
    x = x @ (vectors / np.sqrt(values)) @ vectors.T
    return x, w
