"""Data on which training of a VAE stays at a collapsed solution."""

from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import check_array

from sklearn_vae.gaussian.soft_threshold import SoftThresholdElbo, SoftThresholdParameters
from sklearn_vae.validation import check_flag, check_integer, check_real

# Noise of the solution, as a share of the average variance of a feature.
_NOISE_OF_SOLUTION = 0.01


class CollapseTrap(NamedTuple):
    """Known values of the bound for the samples of :func:`make_collapse_trap`.

    Attributes
    ----------
    elbo : SoftThresholdElbo
        The bound in closed form, of any parameters; its `threshold` is that of the rows.
    collapsed : SoftThresholdParameters
        W = 0, q = p: the trap. `elbo.value(collapsed)` is the bound there, in nats per sample.
    solution : SoftThresholdParameters
        W that made the rows, with its best posteriors near the z that did, at a noise variance of
        1 % of the average variance of a feature. Below this the bound rises without limit.
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
    """Rows ``x = pi(W z)``, ``pi(u) = sign(u) max(|u| - threshold, 0)``, without noise.

    A VAE with the decoder that made them, ``pi(W z) + b``, can reproduce them exactly. Yet where it
    ignores z (W = 0, q(z|x) = p(z)) it has a local maximum of its bound with threshold > 0, worse
    than probabilistic PCA, and gradients do not lead away from there (Proposition 1 of the
    reference); with threshold = 0 they do. So of the defaults, whose bound is higher at the
    collapsed point than anywhere else with ``|W|`` up to 0.8 and noise within a factor of 100;
    that it is so for other parameters `return_trap` lets you check.

    Parameters
    ----------
    n_repeats : int, default=1
        Times that each row is there, one copy of all after the other.
    threshold : float, default=1.0
        >= 0, in the units of X.
    loadings : array-like of shape (d, k), default=None
        W. None: [[2], [1]].
    latents : array-like of shape (m, k), default=None
        z of each row; where z and -z are among them the mean of X is 0. None: -3, -2, -1, 1, 2, 3.
    return_trap : bool, default=False
        Whether the bound, the trap and the solution are returned too.

    Returns
    -------
    X : ndarray of shape (m n_repeats, d)
    Z : ndarray of shape (m n_repeats, k)
    trap : CollapseTrap
        With `return_trap`.

    Raises
    ------
    ValueError
        If a parameter is out of its range, the shapes do not fit, or all rows are the same.

    Notes
    -----
    Networks of :class:`DeepGaussianVAE` see rows divided by the root of the features' average
    variance, s = ``X.var(axis=0).mean() ** 0.5``. The decoder is then
    ``SoftThresholdDecoder(threshold / s)``.

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
            f"latents must have {W.shape[1]} columns, as loadings have, got {Z.shape[1]}."
        )
    u = Z @ W.T
    X = np.sign(u) * np.maximum(np.abs(u) - threshold, 0.0) + 0.0  # no negative zeros
    if not np.ptp(X, axis=0).any():
        raise ValueError(
            f"The rows must not all be the same, got threshold={threshold!r} and no |W z| above "
            f"{np.abs(u).max():.6g}."
        )
    if not return_trap:
        return X, Z
    elbo = SoftThresholdElbo(X, float(threshold))
    noise = _NOISE_OF_SOLUTION * elbo.average_variance
    variances = np.broadcast_to(noise / (noise + (W**2).sum(axis=0)), Z.shape)
    start = SoftThresholdParameters(W, np.zeros(len(W)), noise, Z, variances)
    solution = elbo.maximise(start, hold=("loadings", "offset", "noise_variance"))
    return X, Z, CollapseTrap(elbo, elbo.collapsed(W.shape[1]), solution)


def _matrix(name: str, values: Any) -> np.ndarray:
    return check_array(values, dtype=np.float64, input_name=name)
