"""Lucas et al. (2019): a linear VAE trained on its closed-form ELBO, and on draws of z.

Adam uses all samples in every step and learns sigma2 from 1, with a range of learning rates. The
maximum is the log-likelihood of pPCA. Both solvers are judged by the closed-form ELBO and not by
their own estimates. "analytic" follows its gradient in the eigenbasis of the covariance, in units of
the standard deviation along each eigenvector. "stochastic" follows the gradient of one draw of z per
sample, with the net of the deep models, in pixels. Both are the settings of practical use.

    python benchmarks/lucas2019_stochastic_vs_analytic.py --data mnist_train.npz [--output PICTURE]

Claims: with its best learning rate the analytic ELBO ends within 0.2 nats of the maximum. No run is
above it. Rates that are too small do not reach it, because a step changes log sigma2 by about the
rate. With --data, the data are the first 1000 training images of MNIST, k = 200, and the maximum is
962.38. Without, they are scikit-learn's digits, with k = 10 and fewer steps.
"""

import math
import time

from common import Verdict, load_rows, parse_arguments
from sklearn.datasets import load_digits

from sklearn_vae import PPCA, LinearVAE

SOLVERS = {"analytic": "adam", "stochastic": "stochastic"}


def train(X, k, solver, rate, steps):
    """Fit a model; return it and the time."""
    start = time.perf_counter()
    vae = LinearVAE(
        k,
        solver=SOLVERS[solver],
        noise_variance_init=1.0,
        learning_rate=rate,
        max_iter=steps,
        tol=0.0,
        random_state=0,
    ).fit(X)
    return vae, time.perf_counter() - start


def draw(models, maximum, path):
    """Draw the gap to the maximum in training for each rate."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True, layout="constrained")
    for axes, name in zip(panels, SOLVERS, strict=True):
        for (solver, rate), vae in models.items():
            if solver == name:
                axes.semilogy(abs(maximum - vae.elbo_history_), label=f"{rate:g}", linewidth=1)
        axes.set(xlabel="step", title=f"{name} bound")
    panels[0].set_ylabel("nats below the maximum of pPCA")
    panels[1].legend(title="learning rate")
    figure.savefig(path, dpi=120)
    print(f"picture written to {path}")


def main():
    """Train with each solver and rate, and check the claims."""
    arguments = parse_arguments(__doc__, output={"default": None, "help": "file of the picture"})
    verdict = Verdict(arguments.scale)
    full = arguments.scale == "full"
    if arguments.data:
        X, k, steps = load_rows(arguments.data)[:1000] / 255, 200, 12000 if full else 100
        rates = [1e-4, 3e-4, 1e-3, 3e-3]
    else:
        X, k, steps = load_digits().data[: None if full else 450] / 16, 10, 6000 if full else 800
        rates = [3e-4, 1e-3, 3e-3, 1e-2] if full else [1e-3, 1e-2]
    ppca = PPCA(k, svd_solver="full").fit(X)
    fall = -math.log(ppca.noise_variance_)
    print(
        f"{X.shape[0]} x {X.shape[1]}, k = {k}, {steps} steps; pPCA: {ppca.elbo_:.3f} nats, "
        f"sigma2 {ppca.noise_variance_:.5f}, so log sigma2 must fall by {fall:.1f}"
    )
    print("  solver        rate         ELBO         gap      sigma2  ms / step")
    models = {}
    for solver in SOLVERS:
        for rate in rates:
            vae, seconds = train(X, k, solver, rate, steps)
            models[solver, rate] = vae
            arrives = "" if rate * steps > fall else "   rate is too small"
            print(
                f"  {solver:10s} {rate:7g} {vae.elbo_:12.3f} {ppca.elbo_ - vae.elbo_:11.3f} "
                f"{vae.noise_variance_:11.5f} {1e3 * seconds / steps:10.2f}{arrives}",
                flush=True,
            )
    below = {key: ppca.elbo_ - vae.elbo_ for key, vae in models.items()}
    best = {name: min(below[name, rate] for rate in rates) for name in SOLVERS}
    least = min(below.values())
    verdict.claim(f"no ELBO is above the maximum (smallest gap {least:.1e})", least > -1e-8)
    enough = full or not arguments.data
    verdict.claim(
        f"the best rate of the analytic ELBO ends {best['analytic']:.3f} nats below (at most 0.2)",
        best["analytic"] < 0.2 or not enough,
    )
    late = [below["analytic", rate] for rate in rates if rate * steps < fall]
    verdict.claim("rates that are too small end further below", all(gap > 0.2 for gap in late))
    print(f"  the best rate of the stochastic ELBO ends {best['stochastic']:.3f} nats below")
    if arguments.output:
        draw(models, ppca.elbo_, arguments.output)
    verdict.exit()


if __name__ == "__main__":
    main()
