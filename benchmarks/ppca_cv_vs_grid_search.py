"""PPCACV chooses k a hundred times faster than GridSearchCV over PCA, with exact scores.

Times are medians of paired runs in one process. Claims: on the digits, with 60 values of k and 5
folds, PPCACV is at least 100 times faster than GridSearchCV(PCA()) with any solver. On a 60000 x 784
matrix, all 784 values of k take at most 3 times one fit of PPCA. The score of every candidate agrees
with GridSearchCV over PPCA to 1e-9.

    python benchmarks/ppca_cv_vs_grid_search.py [--scale smoke] [--data mnist_train.npz]

--data replaces the simulated matrix.
"""

import warnings

import numpy as np
from common import Verdict, load_rows, make_rows, paired_times, parse_arguments
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV

from sklearn_vae import PPCA, PPCACV

# Shape of the large matrix.
SHAPES = {"full": (60_000, 784), "smoke": (3_000, 78)}


def compare_with_grid_search(repeats, verdict):
    """Compare with GridSearchCV for 60 values of k on the digits."""
    X, ks = load_digits().data, list(range(1, 61))
    ours = PPCACV(ks)
    print("digits, 60 values of k, 5 folds: milliseconds of PPCACV, of GridSearchCV, and ratio")
    for solver in ("auto", "full"):
        theirs = GridSearchCV(PCA(svd_solver=solver), {"n_components": ks})
        a, b, ratio = paired_times(lambda: ours.fit(X), lambda: theirs.fit(X), repeats)  # noqa: B023
        print(f"  against PCA(svd_solver={solver!r}): {1e3 * a:.2f} {1e3 * b:.1f} {1 / ratio:.0f}")
        verdict.claim(f"at least 100 times faster: {1 / ratio:.0f}", 1 / ratio >= 100, timing=True)
    for noise in ([None], [None, 0.5, 4.0, 20.0]):
        search = GridSearchCV(
            PPCA(svd_solver="full"), {"n_components": ks[::4], "noise_variance": noise}
        ).fit(X)
        model = PPCACV(ks[::4], noise_variance=noise).fit(X)
        worst = max(
            np.max(np.abs(model.cv_results_[name] - search.cv_results_[name]))
            for name in model.cv_results_
            if name.startswith(("split", "mean"))
        )
        verdict.claim(
            f"{len(noise) * len(ks[::4])} scores agree with GridSearchCV: {worst:.1e} nats",
            worst < 1e-9,
        )
        verdict.claim("the chosen model is the same", model.best_params_ == search.best_params_)


def compare_with_one_fit(X, repeats, verdict):
    """Compare all values of k with one fit on a large matrix."""
    n, d = X.shape
    model, single = PPCACV(), PPCA(50)
    a, b, ratio = paired_times(lambda: model.fit(X), lambda: single.fit(X), repeats)
    print(f"\n{n} x {d}, all k: milliseconds of PPCACV, of one fit, and their ratio")
    print(f"  {1e3 * a:.1f} {1e3 * b:.1f} {ratio:.2f}")
    print(f"  k = {model.n_components_} of {d}, {model.best_score_:.3f} nats per held-out sample")
    verdict.claim(f"at most 3 times one fit: {ratio:.2f}", ratio <= 3, timing=True)


def main():
    """Run both comparisons."""
    arguments = parse_arguments(__doc__)
    verdict = Verdict(arguments.scale)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PCA warns if its covariance is singular
        compare_with_grid_search(arguments.repeats, verdict)
    rows = load_rows(arguments.data) if arguments.data else make_rows(*SHAPES[arguments.scale], 40)
    compare_with_one_fit(rows, arguments.repeats, verdict)
    verdict.exit()


if __name__ == "__main__":
    main()
