"""Generators of samples from known models."""

from typing import Any

import numpy as np
from sklearn.utils import check_array

from sklearn_vae.gaussian.lowrank import LowRankGaussian
from sklearn_vae.validation import (
    check_choice,
    check_flag,
    check_integer,
    check_random_state,
    check_real,
)


def make_ppca(
    n_samples: int = 100,
    n_features: int | None = None,
    n_components: int | None = None,
    *,
    noise_variance: float = 0.01,
    loadings: Any = None,
    mean: Any = None,
    return_model: bool = False,
    random_state: Any = None,
) -> tuple[Any, ...]:
    """Generate samples of probabilistic PCA.

    The model is ``z ~ N(0, I)`` and ``x | z ~ N(W z + mu, sigma2 I)``. The defaults are those of
    the linear data in the reference, which have 10,000 samples.

    Parameters
    ----------
    n_samples : int, default=100
        Number of samples.
    n_features : int, default=None
        Number of features. If None, the size of `loadings` or `mean`, or 10 without these.
    n_components : int, default=None
        Number of latent dimensions. If None, the size of `loadings`, or 2 without these.
    noise_variance : float, default=0.01
        Nonnegative noise variance sigma2.
    loadings : array-like of shape (n_features, n_components), default=None
        Loadings W. If None, they are drawn uniformly from [0, 1].
    mean : array-like of shape (n_features,), default=None
        Mean mu. If None, it is drawn uniformly from [0, 1].
    return_model : bool, default=False
        Whether to return the distribution of x as well. This requires sigma2 > 0 or a square W of
        full rank.
    random_state : int, RandomState instance or None, default=None
        Seed or generator for W, mu, z and the noise, drawn in this order.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features)
        Samples.
    Z : ndarray of shape (n_samples, n_components)
        Latent vectors from which the samples were drawn.
    model : LowRankGaussian
        Distribution of x, with the true log-likelihood `model.log_prob(X)` in nats. Only returned
        if `return_model=True`.

    See Also
    --------
    make_ppca_ring : Generate samples with latent vectors on a ring.

    References
    ----------
    Damm, Forster, Velychko, Dai, Fischer and Lücke, "The ELBO of Variational Autoencoders
    Converges to a Sum of Three Entropies", AISTATS 2023, appendix C.1 and the authors' code.

    Examples
    --------
    >>> from sklearn_vae.datasets import make_ppca
    >>> X, Z, model = make_ppca(1000, 5, 2, return_model=True, random_state=0)
    >>> X.shape, Z.shape
    ((1000, 5), (1000, 2))
    >>> round(float(model.log_prob(X).mean()), 2)
    -0.25
    """
    check_flag("return_model", return_model)
    rng = check_random_state(random_state)
    W, mu = _parameters(n_samples, n_features, n_components, noise_variance, loadings, mean, rng)
    model = LowRankGaussian(mu, W, float(noise_variance)) if return_model else None
    Z = rng.standard_normal((n_samples, W.shape[1]))
    X = _decoded(Z, W, mu, noise_variance, rng)
    return (X, Z, model) if return_model else (X, Z)


def make_ppca_ring(
    n_samples: int = 100,
    n_features: int | None = None,
    n_components: int | None = None,
    *,
    noise_variance: float = 0.01,
    radius: float = 1.0,
    spread: float = 0.1,
    ring_of: str = "latents",
    loadings: Any = None,
    mean: Any = None,
    random_state: Any = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Generate samples on a noisy ring in a plane.

    With ``g ~ N(0, I)`` and ``e ~ N(0, sigma2 I)`` and the map ``r(v) = radius v / |v| + spread v``,
    the samples are ``W r(g) + mu + e`` ("latents") or ``r(W g + e) + mu`` ("samples"). For more than
    two latent dimensions the ring is a shell. A linear Gaussian model cannot fit the samples. With
    "latents" their noise is the same everywhere, so a model whose noise depends on z has nothing
    more to learn. With "samples" the noise goes through the map, and its size depends on the
    direction. The default is the rule of the authors' code of the reference, and "samples" is that
    of the paper, both with 10,000 samples.

    Parameters
    ----------
    n_samples : int, default=100
        Number of samples.
    n_features : int, default=None
        Number of features. If None, the size of `loadings` or `mean`, or 10 without these.
    n_components : int, default=None
        Number of latent dimensions. If None, the size of `loadings`, or 2 without these.
    noise_variance : float, default=0.01
        Nonnegative noise variance sigma2.
    radius : float, default=1.0
        Smallest distance of a latent vector, or of a sample without its mean, from the origin.
    spread : float, default=0.1
        Factor of the vectors before the map, which is added to `radius`.
    ring_of : {"latents", "samples"}, default="latents"
        Whether latent vectors or samples are mapped to the ring.
    loadings : array-like of shape (n_features, n_components), default=None
        Loadings W. If None, they are drawn uniformly from [0, 1].
    mean : array-like of shape (n_features,), default=None
        Mean mu. If None, it is drawn uniformly from [0, 1].
    random_state : int, RandomState instance or None, default=None
        Seed or generator for W, mu, g and the noise, drawn in this order.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features)
        Samples.
    Z : ndarray of shape (n_samples, n_components)
        Latent vectors from which the samples were drawn: r(g) or, for "samples", g.

    See Also
    --------
    make_ppca : Generate samples of probabilistic PCA.

    References
    ----------
    Damm, Forster, Velychko, Dai, Fischer and Lücke, "The ELBO of Variational Autoencoders
    Converges to a Sum of Three Entropies", AISTATS 2023, eq. 79 to 81, and the authors' code.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_vae.datasets import make_ppca_ring
    >>> X, Z = make_ppca_ring(1000, spread=0.0, random_state=0)
    >>> X.shape, bool(np.allclose(np.linalg.norm(Z, axis=1), 1.0))
    ((1000, 10), True)
    """
    check_real("radius", radius, at_least=0)
    check_real("spread", spread, at_least=0)
    check_choice("ring_of", ring_of, ("latents", "samples"))
    rng = check_random_state(random_state)
    W, mu = _parameters(n_samples, n_features, n_components, noise_variance, loadings, mean, rng)
    check_integer("n_components", W.shape[1], at_least=1)
    g = rng.standard_normal((n_samples, W.shape[1]))
    if ring_of == "samples":
        centered = _decoded(g, W, np.zeros_like(mu), noise_variance, rng)
        return _ring(centered, radius, spread) + mu, g
    Z = _ring(g, radius, spread)
    return _decoded(Z, W, mu, noise_variance, rng), Z


def _ring(V: np.ndarray, radius: float, spread: float) -> np.ndarray:
    """Map vectors to a ring; zero, which has no direction, stays zero."""
    length = np.linalg.norm(V, axis=1, keepdims=True)
    return radius * V / np.where(length > 0.0, length, 1.0) + spread * V


def _parameters(
    n_samples: int,
    n_features: int | None,
    n_components: int | None,
    noise_variance: float,
    loadings: Any,
    mean: Any,
    rng: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Return W and mu, given or drawn."""
    check_integer("n_samples", n_samples, at_least=1)
    check_real("noise_variance", noise_variance, at_least=0)
    if loadings is not None:
        loadings = check_array(
            loadings, dtype=np.float64, ensure_min_features=0, input_name="loadings"
        )
    if mean is not None:
        mean = check_array(mean, dtype=np.float64, ensure_2d=False, input_name="mean")
        if mean.ndim != 1:
            raise ValueError(f"mean must have shape (n_features,), got {mean.shape}.")
    d, k = (10 if mean is None else len(mean), 2) if loadings is None else loadings.shape
    if n_features is not None:
        check_integer("n_features", n_features, at_least=1)
        d = n_features
    if n_components is not None:
        check_integer("n_components", n_components, at_least=0)
        k = n_components
    if loadings is not None and loadings.shape != (d, k):
        expected = d, k
        raise ValueError(
            f"loadings must have shape (n_features, n_components) = {expected}, got "
            f"{loadings.shape}."
        )
    if mean is not None and len(mean) != d:
        raise ValueError(f"mean must have shape (n_features,) = ({d},), got {mean.shape}.")
    W = rng.uniform(size=(d, k)) if loadings is None else loadings
    return W, rng.uniform(size=d) if mean is None else mean


def _decoded(Z: np.ndarray, W: np.ndarray, mu: np.ndarray, sigma2: float, rng: Any) -> np.ndarray:
    """Return W z + mu plus noise for each sample."""
    return Z @ W.T + mu + sigma2**0.5 * rng.standard_normal((len(Z), len(mu)))
