"""A pipeline reproduces published densities of pixels.

Lucas et al. (2019, tables 2 and 4) score pixels with 256 levels: u = (x + U[0, 1)) / 256, and in
table 2 y = logit(a + (1 - 2 a) u) with a = 1e-6. Claims:

- With any seed the mean log-determinant of both maps is within 0.4 nats of its expectation, which
  has a closed form. On MNIST's training images it is 272.18.
- A score in pixel space agrees to 1e-8 with scipy's normal density and explicit derivatives.
- On MNIST's training images (`--data mnist_train.npz`), pPCA is within 0.5 nats of its known values
  in both spaces, with sigma2 estimated and fixed.

Without `--data`, the data are scikit-learn's digits with 17 levels and a = 0.05.
"""

import math
import time

import numpy as np
from common import Verdict, load_rows, parse_arguments
from scipy.special import xlogy
from scipy.stats import multivariate_normal
from sklearn.datasets import load_digits

from sklearn_vae import PPCA, DensityPipeline, Dequantizer, LogitTransformer

OPTIONS = {"alpha": {"type": float, "help": "a of the logit; 1e-6 with --data, otherwise 0.05"}}
# pPCA of the 60000 training images of MNIST: (k, sigma2 or None) and nats per sample.
LOGITS = {
    (0, None): -1705.0,
    (10, None): -1475.1,
    (12, None): -1449.5,
    (50, None): -1214.3,
    (200, None): -1098.0,
    (200, 30.0): -1852.3,
    (200, 10.0): -1498.9,
    (200, 3.0): -1200.2,
}
PIXELS = {(50, None): -3836.5, (200, None): -3504.9}
MNIST_LOG_DET = 272.18


def is_mnist(X):
    """Return whether X holds MNIST's training images."""
    return X.shape == (60000, 784) and abs(X.mean() - 33.3184) < 1e-3


def expected_log_det(X, n_levels, alpha):
    """Compute the mean log-determinant over samples and noise in closed form."""
    v = alpha + (1 - 2 * alpha) * np.arange(n_levels + 1) / n_levels

    def integral(t):
        return xlogy(t, t) - t

    width = (1 - 2 * alpha) / n_levels
    of_level = -(np.diff(integral(v)) - np.diff(integral(1 - v))) / width
    counts = np.bincount(X.astype(int).ravel(), minlength=n_levels)
    constant = X.shape[1] * (math.log1p(-2 * alpha) - math.log(n_levels))
    return counts @ of_level / len(X) + constant


def log_determinants(X, n_levels, alpha, seeds, verdict):
    """Check the log-determinants of both maps for several seeds."""
    expected = expected_log_det(X, n_levels, alpha)
    print(f"mean log-determinant of {X.shape}, {n_levels} levels, alpha={alpha:g}: nats per sample")
    print(f"  expected {expected:9.3f}")
    if is_mnist(X):
        verdict.claim(f"the expectation is {MNIST_LOG_DET}", abs(expected - MNIST_LOG_DET) < 0.01)
    found = []
    for seed in seeds:
        maps = [("u", Dequantizer(n_levels, random_state=seed)), ("y", LogitTransformer(alpha))]
        start = time.perf_counter()
        found.append(DensityPipeline(maps).fit(X).log_abs_det_jacobian(X).mean())
        took = time.perf_counter() - start
        print(f"  seed {seed:<3d} {found[-1]:9.3f} {found[-1] - expected:+8.3f} {took:6.1f} s")
    worst = np.abs(np.subtract(found, expected)).max()
    verdict.claim(f"within 0.4 nats of the expectation: {worst:.3f}", worst < 0.4)


def directly(X, n_levels, alpha, verdict):
    """Compare scores with explicit formulas."""
    maps = [("u", Dequantizer(n_levels, random_state=0)), ("y", LogitTransformer(alpha))]
    model = DensityPipeline([*maps, ("ppca", PPCA(5))]).fit(X)
    found = model.score_samples(X)
    v = alpha + (1 - 2 * alpha) * model[0].transform(X)
    normal = multivariate_normal(model[-1].mean_, model[-1].get_covariance())
    log_det = np.log((1 - 2 * alpha) / (n_levels * v * (1 - v))).sum(axis=1)
    expected = normal.logpdf(np.log(v / (1 - v))) + log_det
    apart = np.abs(found / expected - 1).max()
    print(
        f"\n{len(X)} samples, k=5: {found.mean():.3f} nats, {model.bits_per_dim(X):.4f} bits per "
        "pixel"
    )
    verdict.claim(f"scores and explicit formulas differ by {apart:.1e}", apart < 1e-8)
    images, _ = model.sample(100, random_state=0)
    verdict.claim("samples are levels", set(np.unique(images)) <= set(range(n_levels)))


def published(X, table, maps, verdict):
    """Compare pPCA after some maps with known values."""
    print(f"\npPCA after {', '.join(name for name, _ in maps)}: nats per sample")
    print("     k  sigma2       ours      known  difference  bits / pixel")
    worst = 0.0
    for (k, noise), known in table.items():
        model = DensityPipeline([*maps, ("ppca", PPCA(k, noise_variance=noise))]).fit(X)
        score = model.score(X)
        bits = -score / (X.shape[1] * math.log(2))
        print(
            f"  {k:4d} {model[-1].noise_variance_:7.3f} {score:10.2f} {known:10.1f} "
            f"{score - known:+11.2f} {bits:13.4f}",
            flush=True,
        )
        worst = max(worst, abs(score - known))
    verdict.claim(f"within 0.5 nats of the known values: {worst:.2f}", worst < 0.5)


def main():
    """Run the parts that the data allow."""
    arguments = parse_arguments(__doc__, **OPTIONS)
    verdict, full = Verdict(arguments.scale), arguments.scale == "full"
    X, n_levels, alpha = load_digits().data, 17, 0.05
    if arguments.data:
        X, n_levels, alpha = load_rows(arguments.data), 256, 1e-6
    alpha = alpha if arguments.alpha is None else arguments.alpha
    log_determinants(X, n_levels, alpha, range(5 if full else 2), verdict)
    directly(X[:3000], n_levels, alpha, verdict)
    if is_mnist(X) and alpha == 1e-6:
        maps = [("dequantizer", Dequantizer(random_state=0)), ("logit", LogitTransformer(alpha))]
        published(X, LOGITS, maps, verdict)
        published(X, PIXELS, maps[:1], verdict)
    verdict.exit()


if __name__ == "__main__":
    main()
