"""Data and solvers that several tests of linear models use."""

import numpy as np
from scipy import sparse

SOLVERS = ["full", "covariance_eigh", "arpack", "randomized"]
# "full" would make sparse rows dense.
CONTAINERS_AND_SOLVERS = [
    *((np.asarray, solver) for solver in SOLVERS),
    *((sparse.csr_array, solver) for solver in SOLVERS[1:]),
]


def make_rows(n=80, d=7, k=3, noise=0.5, offset=0.0, seed=0):
    rng = np.random.default_rng(seed)
    W = np.linalg.qr(rng.normal(size=(d, k)))[0] * np.linspace(4, 2, k)
    return rng.normal(size=(n, k)) @ W.T + noise * rng.normal(size=(n, d)) + offset


def random_sparse(shape, density, seed=0):
    """CSR with standard uniform entries in that share of the places, none twice."""
    rng = np.random.default_rng(seed)
    number = round(density * shape[0] * shape[1])
    places = np.unique(rng.integers(0, shape[0] * shape[1], size=number))
    entries = rng.uniform(size=len(places))
    return sparse.csr_array((entries, np.divmod(places, shape[1])), shape=shape)
