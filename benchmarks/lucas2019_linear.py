"""Figure 2 of Lucas et al. (2019): log-likelihood of pPCA against the number of components.

There are three curves:

- sigma2 at the maximum likelihood of each k,
- sigma2 fixed at its value for k = 50, with the loadings of each k's own maximum. It is the paper's
  blue line, which touches the first curve at k = 50, rises to a maximum and falls,
- sigma2 fixed at the same value, with the exact conditional optimum. It rises while lambda_k exceeds
  sigma2 and is then constant.

The best ELBO of a linear VAE with the same number of dimensions, by closed-form updates from random
weights, coincides with the first curve. So the bound does not cause collapse.

    python benchmarks/lucas2019_linear.py --data mnist_train.npz [--output PICTURE]

Claims without data, on scikit-learn's digits: the three curves meet at their common k. The exact
optimum is never below the paper's line, never decreases, and is the log-likelihood of the fitted
PPCA and of a dense matrix. The best ELBO is the log-likelihood. With the first 1000 training images
of MNIST, known values are reproduced to 0.01 nats.
"""

import math

import numpy as np
from common import Verdict, load_rows, parse_arguments
from scipy.stats import multivariate_normal
from sklearn.datasets import load_digits

from sklearn_vae import PPCA, LinearVAE, Moments
from sklearn_vae.gaussian import Spectrum

# Known values for the first 1000 training images / 255: (curve, k) -> nats.
MNIST = {
    ("mle", 50): 558.09,
    ("mle", 200): 962.38,
    ("mle", 300): 1126.57,
    ("full columns", 200): 705.64,
    ("full columns", 300): 694.97,
    ("conditional optimum", 215): 708.67,
    ("conditional optimum", 300): 708.67,
}


def full_columns(spectrum, ks, sigma2):
    """Compute the log-likelihood with W of each k's maximum and noise sigma2, the blue line."""
    d, values = spectrum.n_features, spectrum.eigenvalues
    curve = []
    for k in ks:
        kappa = values[:k] - spectrum.noise_variance(k) + sigma2
        fit = np.log(kappa).sum() + (values[:k] / kappa).sum()
        tail = (d - k) * (math.log(sigma2) + spectrum.noise_variance(k) / sigma2)
        curve.append(-0.5 * (d * math.log(2 * math.pi) + fit + tail))
    return np.array(curve)


def check(curves, ks, common, sigma2, X, spectrum, verdict):
    """Check the claims that hold for any data."""
    at = ks.index(common)
    first = curves["mle"][at]
    spread = max(abs(curve[at] - first) for curve in curves.values())
    verdict.claim(f"the curves meet at k = {common}, to {spread:.1e} nats", spread < 1e-9)
    exact, blue = curves["conditional optimum"], curves["full columns"]
    verdict.claim("the exact optimum is never below the paper's line", (exact >= blue - 1e-9).all())
    verdict.claim("the exact optimum never decreases", (np.diff(exact) >= -1e-9).all())
    above = int((spectrum.eigenvalues > sigma2).sum())
    flat = exact[[k >= above for k in ks]]
    verdict.claim(f"it is constant from k = {above}", np.ptp(flat) < 1e-9 if flat.size else True)
    k = ks[-1]
    model = PPCA(k, noise_variance=sigma2, svd_solver="full").fit(X)
    dense = multivariate_normal(model.mean_, model.get_covariance()).logpdf(X).mean()
    error = max(abs(model.score(X) - exact[-1]), abs(dense - exact[-1]))
    verdict.claim(f"at k = {k} PPCA and a dense matrix agree with it, to {error:.1e}", error < 1e-6)


def draw(curves, elbos, ks, common, path):
    """Draw the figure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    labels = {
        "mle": r"$\sigma^2$ of each k",
        "full columns": r"fixed $\sigma^2$, columns of each k's maximum",
        "conditional optimum": r"fixed $\sigma^2$, exact optimum",
    }
    for (name, curve), style in zip(curves.items(), ["-", "-", "--"], strict=True):
        axes.plot(ks, curve, style, label=labels[name])
    axes.plot(list(elbos), list(elbos.values()), "x", color="black", label="best ELBO, linear VAE")
    axes.plot(common, curves["mle"][ks.index(common)], "ko", markersize=4)
    axes.set(
        xlabel="components k",
        ylim=(curves["mle"][0], None),
        ylabel="log-likelihood (nats per sample)",
        title=rf"pPCA with $\sigma^2$ learned, and fixed at its value for k = {common}",
    )
    axes.legend()
    figure.savefig(path, dpi=120)
    print(f"picture written to {path}")


def main():
    """Compute, print and check the three curves."""
    arguments = parse_arguments(__doc__, output={"default": None, "help": "file of the picture"})
    verdict = Verdict(arguments.scale)
    if arguments.data:
        X, common = load_rows(arguments.data)[:1000] / 255, 50
    else:
        X, common = load_digits().data, 20
    spectrum = Spectrum.from_moments(Moments.of(X))
    ks = list(range(min(350, spectrum.rank - 2) + 1))
    sigma2 = spectrum.noise_variance(common)
    curves = {
        "mle": spectrum.log_likelihood(ks)[:, 0],
        "full columns": full_columns(spectrum, ks, sigma2),
        "conditional optimum": spectrum.log_likelihood(ks, [sigma2])[:, 0],
    }
    print(f"rank {spectrum.rank}; sigma2 = {sigma2:.6f} at k = {common}")
    print("    k" + "".join(f"{name:>22s}" for name in [*curves, "best ELBO"]))
    short, elbos = {}, {}
    for k in sorted({*ks[:: max(len(ks) // 12, 1)], common, ks[-1]}):
        line = f"{k:5d}" + "".join(f"{curve[k]:22.3f}" for curve in curves.values())
        if k > 0:
            elbos[k] = LinearVAE(k, random_state=0).fit(X).elbo_
            short[k] = curves["mle"][k] - elbos[k]
            line += f"{elbos[k]:22.3f}"
        print(line, flush=True)
    worst = max(short, key=lambda k: abs(short[k]))
    verdict.claim(
        f"the best ELBO of a linear VAE is the log-likelihood, with a largest gap of "
        f"{short[worst]:.1e} nats at k = {worst}",
        abs(short[worst]) < 1e-8,
    )
    peak = int(np.argmax(curves["full columns"]))
    print(f"the paper's line has the maximum {curves['full columns'][peak]:.2f} at k = {peak}")
    check(curves, ks, common, sigma2, X, spectrum, verdict)
    if arguments.data and X.shape == (1000, 784):
        for (name, k), expected in MNIST.items():
            found = curves[name][k]
            verdict.claim(
                f"{name}, k = {k}: {found:.3f}, known {expected}", abs(found - expected) <= 0.01
            )
        found = curves["full columns"][176]
        verdict.claim(
            f"the paper's line peaks at k = 176 with {found:.3f}, known 706.50",
            peak == 176 and abs(found - 706.50) <= 0.01,
        )
    if arguments.output:
        draw(curves, elbos, ks, common, arguments.output)
    verdict.exit()


if __name__ == "__main__":
    main()
