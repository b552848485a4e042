"""Rows that several tests of linear models fit."""

import numpy as np

SOLVERS = ["full", "covariance_eigh", "arpack", "randomized"]


def make_rows(n=80, d=7, k=3, noise=0.5, offset=0.0, seed=0):
    rng = np.random.default_rng(seed)
    W = np.linalg.qr(rng.normal(size=(d, k)))[0] * np.linspace(4, 2, k)
    return rng.normal(size=(n, k)) @ W.T + noise * rng.normal(size=(n, d)) + offset
