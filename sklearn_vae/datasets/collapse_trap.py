"""Data for which training of a VAE stays at a collapsed solution."""

from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import check_array

from sklearn_vae.gaussian.soft_threshold import SoftThresholdElbo, SoftThresholdParameters
from sklearn_vae.validation import check_flag, check_integer, check_real

# Noise variance of the solution, relative to the average feature variance.
_NOISE_OF_SOLUTION = 0.01


class CollapseTrap(NamedTuple):
    """ELBO of the samples of :func:`make_collapse_trap`, and two points of interest.

    Parameters
    ----------
    elbo : SoftThresholdElbo
        Closed form of the ELBO for arbitrary parameters.
    collapsed : SoftThresholdParameters
        The trap: the local maximum with W = 0 and q(z|x) = p(z).
    solution : SoftThresholdParameters
        True W with optimal posteriors near the true z, at a noise variance of 1 % of the average
        feature variance. With smaller noise variances the ELBO increases without limit.

    See Also
    --------
    make_collapse_trap : Generate the samples.

    Examples
    --------
    >>> from sklearn_vae.datasets import make_collapse_trap
    >>> X, Z, trap = make_collapse_trap(return_trap=True)
    >>> bool(trap.elbo.value(trap.collapsed) < trap.elbo.value(trap.solution))
    True
    """

    elbo: SoftThresholdElbo
    collapsed: SoftThresholdParameters
    solution: SoftThresholdParameters


def make_collapse_trap(
    n_repeats: int = 1,
    *,
    threshold: float = 1.0,
    loadings: Any = None,
    latents: Any = None,
    return_trap: bool = False,
) -> tuple[Any, ...]:
    """Generate data for which a VAE has a collapsed local maximum worse than pPCA.

    The samples are ``x = pi(W z)`` with ``pi(u) = sign(u) max(|u| - threshold, 0)``, without noise.
    A VAE with the decoder ``pi(W z) + b`` can reproduce them exactly. However, with a threshold
    above 0 its ELBO has a local maximum at W = 0 and q(z|x) = p(z), from which gradients do not
    lead away (Proposition 1 of the reference). For the default data, no other point with ``|W|`` up
    to 0.8 and noise variances within a factor of 100 has a higher ELBO. Use `return_trap` to check
    other data.

    Parameters
    ----------
    n_repeats : int, default=1
        Number of copies of the data, one after the other.
    threshold : float, default=1.0
        Nonnegative threshold, in the units of X.
    loadings : array-like of shape (n_features, n_components), default=None
        Loadings W. If None, [[2], [1]].
    latents : array-like of shape (n_latents, n_components), default=None
        Latent vectors z. If they include -z for each z, the mean of X is 0. If None,
        [[-3], [-2], [-1], [1], [2], [3]].
    return_trap : bool, default=False
        Whether to return the ELBO, the trap and the solution as well.

    Returns
    -------
    X : ndarray of shape (n_latents * n_repeats, n_features)
        Samples.
    Z : ndarray of shape (n_latents * n_repeats, n_components)
        Latent vectors of the samples.
    trap : CollapseTrap
        ELBO, trap and solution. Only returned if `return_trap=True`.

    See Also
    --------
    make_ppca : Generate samples of probabilistic PCA.

    Notes
    -----
    :class:`DeepGaussianVAE` divides the samples by ``s = X.var(axis=0).mean() ** 0.5``. Its
    decoder for these data is therefore ``SoftThresholdDecoder(threshold / s)``.

    References
    ----------
    Dai, Wang and Wipf, "The Usual Suspects? Reassessing Blame for VAE Posterior Collapse" (2020),
    eq. 4 and Proposition 1.

    Examples
    --------
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.datasets import make_collapse_trap
    >>> X, Z, trap = make_collapse_trap(return_trap=True)
    >>> X.T
    array([[-5., -3., -1.,  1.,  3.,  5.],
           [-2., -1.,  0.,  0.,  1.,  2.]])
    >>> round(trap.elbo.value(trap.collapsed), 3), round(trap.elbo.value(trap.solution), 3)
    (-4.735, -3.575)
    >>> round(PPCA(n_components=1).fit(X).score(X), 3)
    -2.635
    """
    check_integer("n_repeats", n_repeats, at_least=1)
    check_real("threshold", threshold, at_least=0)
    check_flag("return_trap", return_trap)
    W = _matrix("loadings", [[2.0], [1.0]] if loadings is None else loadings)
    z = [[-3.0], [-2.0], [-1.0], [1.0], [2.0], [3.0]] if latents is None else latents
    Z = np.tile(_matrix("latents", z), (n_repeats, 1))
    if Z.shape[1] != W.shape[1]:
        raise ValueError(
            f"latents must have {W.shape[1]} columns, like loadings, got {Z.shape[1]} columns."
        )
    u = Z @ W.T
    X = np.sign(u) * np.maximum(np.abs(u) - threshold, 0.0) + 0.0  # no negative zeros
    if not np.ptp(X, axis=0).any():
        raise ValueError(
            f"All samples are equal with threshold={threshold!r} and a largest |W z| of "
            f"{np.abs(u).max():.6g}. Use a smaller threshold, or other loadings or latents."
        )
    if not return_trap:
        return X, Z
    elbo = SoftThresholdElbo(X, float(threshold))
    noise = _NOISE_OF_SOLUTION * elbo.average_variance
    variances = np.broadcast_to(noise / (noise + (W**2).sum(axis=0)), Z.shape)
    start = SoftThresholdParameters(W, np.zeros(len(W)), noise, Z, variances)
    solution = elbo.maximize(start, hold=("loadings", "offset", "noise_variance"))
    return X, Z, CollapseTrap(elbo, elbo.collapsed(W.shape[1]), solution)


def _matrix(name: str, values: Any) -> np.ndarray:
    return check_array(values, dtype=np.float64, input_name=name)
