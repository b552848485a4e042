"""Density of probabilities whose logits are a linear function of normal variables."""

import math

import numpy as np
from scipy.special import expit, logit

from sklearn_vae.gaussian.arrays import row_blocks


def logit_normal_log_density(P: np.ndarray, W: np.ndarray, mu: np.ndarray) -> np.ndarray:
    """Compute the log density of P = sigmoid(W z + mu) with z ~ N(0, I), shape (n,).

    If W (d, k) has a rank r below d, P lies on a surface of dimension r, and the density is that on
    the surface. It is 0 elsewhere, which is decided up to the square root of P's precision. P must
    be in [0, 1].
    """
    U, lengths, _ = np.linalg.svd(W.astype(np.float64), full_matrices=False)
    rank = int(np.count_nonzero(lengths > lengths.max(initial=0.0) * max(W.shape) * 2.0**-52))
    # For a rotation of z, which has the same distribution.
    basis, tolerance = U[:, :rank] * lengths[:rank], float(np.finfo(P.dtype).eps) ** 0.5
    blocks = [
        _block_log_density(P[rows].astype(np.float64), basis, mu.astype(np.float64), tolerance)
        for rows in row_blocks(len(P), W.size)
    ]
    return np.concatenate(blocks)


def _block_log_density(
    P: np.ndarray, basis: np.ndarray, mu: np.ndarray, tolerance: float
) -> np.ndarray:
    inside = np.all((P > 0.0) & (P < 1.0), axis=1)
    P = np.where(inside[:, None], P, 0.5)
    slopes = P * (1.0 - P)
    # Derivative of P by z. An error of P changes its logit by more where the slope is smaller, so
    # the slopes are also the weights in the least squares for z.
    Q, R = np.linalg.qr(slopes[:, :, None] * basis)
    targets = np.einsum("njh,nj->nh", Q, slopes * (logit(P) - mu))
    z = np.linalg.solve(R, targets[:, :, None])[:, :, 0]
    error = np.abs(expit(z @ basis.T + mu) - P).max(axis=1)
    log_volume = np.log(np.abs(np.linalg.diagonal(R))).sum(axis=1)
    normal = -0.5 * (np.vecdot(z, z) + z.shape[1] * math.log(2.0 * math.pi))
    return np.where(inside & (error <= tolerance), normal - log_volume, -np.inf)
