"""The published example of factor_analyzer on the Big Five inventory is reproduced to three digits.

The example takes the complete answers to the 25 items, computes the KMO measure and the eigenvalues of
the correlations, and rotates five "minres" factors by varimax with Kaiser's normalization. Minimum
residuals are not a method of this library, so the script computes them in a few lines; the rotation is
ours. It also prints how far the loadings by maximum likelihood are from these.

    python benchmarks/factor_analyzer_bfi.py --data bfi_2800x28.npz

Without --data there is nothing to compare, and the script only says so.
"""

import numpy as np
from common import Verdict, load_rows, parse_arguments
from scipy import optimize

from sklearn_vae import FactorAnalysis
from sklearn_vae.diagnostics import bartlett_sphericity, kmo
from sklearn_vae.gaussian.rotation import rotate

# Values that tutorials on factor_analyzer print; some have an older KMO measure of 0.848540.
KMO = 0.8486452309468382
EIGENVALUES = [5.13431118, 2.75188667, 2.14270195, 1.85232761, 1.54816285, 1.07358247]
SQUARED_LOADINGS = [2.70963262, 2.47308982, 2.04110563, 1.84449799, 1.52215297]
# Loadings of the items A1, C4, E2, N1 and O3 on N, E, C, A and O.
ITEMS = [0, 8, 11, 15, 22]
LOADINGS = [
    [0.11112641, 0.04046493, 0.02279796, -0.42816554, -0.07793074],
    [0.24041008, -0.0649837, -0.63380555, -0.03749823, -0.107535],
    [0.24474268, -0.67873071, -0.10248265, -0.11251716, -0.04200997],
    [0.78680746, 0.07892269, -0.04599687, -0.21636343, -0.08470394],
    [0.02673618, 0.31095612, 0.07687283, 0.12688914, 0.5960066],
]


def minimum_residuals(R, k):
    """Fit loadings that minimize the squared residual correlations (Harman and Jones, 1966)."""

    def loadings(psi):
        values, vectors = np.linalg.eigh(R - np.diag(psi))
        return vectors[:, -k:] * np.sqrt(np.maximum(values[-k:], 0.0))

    def loss(psi):
        A = loadings(psi)
        residuals = R - np.diag(psi) - A @ A.T
        return 0.5 * np.sum(residuals**2), -np.diagonal(residuals)

    start = 1.0 / np.diagonal(np.linalg.inv(R))
    options = {"gtol": 1e-9, "ftol": 1e-15, "maxiter": 5000}
    bounds = [(0.005, 1.0)] * len(R)
    psi = optimize.minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options
    ).x
    return loadings(psi)


def varimax(A):
    """Rotate loadings with Kaiser's normalization, with the tolerance of factor_analyzer."""
    lengths = np.linalg.norm(A, axis=1, keepdims=True)
    return lengths * rotate(A / lengths, "varimax", tol=1e-5).loadings


def like_published(A):
    """Order and flip the factors of loadings of all items as published."""
    cosines = A[ITEMS].T @ np.array(LOADINGS)
    order, published = optimize.linear_sum_assignment(-np.abs(cosines))
    A = A[:, order[np.argsort(published)]]
    return A * np.sign(np.sum(A[ITEMS] * LOADINGS, axis=0))


def main():
    """Compare with the published values."""
    arguments = parse_arguments(__doc__)
    verdict = Verdict(arguments.scale)
    if arguments.data is None:
        print("nothing to compare without --data")
        verdict.exit()
        return
    X = load_rows(arguments.data)[:, :25]
    X = X[~np.isnan(X).any(axis=1)]
    adequacy, sphericity = kmo(X), bartlett_sphericity(X)
    print(f"{len(X)} complete answers. {adequacy}. {sphericity}")
    R = np.corrcoef(X.T)
    eigenvalues = np.linalg.eigvalsh(R)[::-1][:6]
    A = like_published(varimax(minimum_residuals(R, 5)))
    errors = {
        "the KMO measure": abs(adequacy.overall - KMO),
        "the eigenvalues": np.abs(eigenvalues - EIGENVALUES).max(),
        "the squared loadings": np.abs(np.sum(A**2, axis=0) - SQUARED_LOADINGS).max(),
        "the loadings": np.abs(A[ITEMS] - LOADINGS).max(),
    }
    for name, error in errors.items():
        verdict.claim(f"{name}: difference {error:.1e}", error < 5e-4)
    standardized = (X - X.mean(axis=0)) / X.std(axis=0)
    likelihood = like_published(varimax(FactorAnalysis(5).fit(standardized).loadings_))
    print(f"maximum likelihood and minimum residuals: {np.abs(likelihood - A).max():.3f} apart")
    verdict.exit()


if __name__ == "__main__":
    main()
