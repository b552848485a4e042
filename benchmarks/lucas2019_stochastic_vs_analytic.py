"""Lucas et al. (2019): a linear VAE trained on its bound in closed form, and on draws of z.

Adam, all rows in every step, sigma2 learned from 1, a range of learning rates; the maximum is the
log-likelihood of pPCA. The bound in closed form is known after any training, so both are judged by
it, not by their own estimates. "analytic" follows its gradient in the eigenbasis of the covariance,
in units of the standard deviation along each eigenvector; "stochastic" that of one draw of z for
each row, by the net of the deep models, in pixels: as each is used.

    python benchmarks/lucas2019_stochastic_vs_analytic.py --data mnist_train.npz [--output PICTURE]

What is claimed: the best rate of the analytic bound ends within 0.2 nats of the maximum, no run
above it, and rates too small to arrive do not: log sigma2 moves by about the rate a step. With the
MNIST training images, of which the first 1000 are taken, k = 200 and the maximum is 962.38; without
data, scikit-learn's digits, k = 10 and fewer steps.
"""

import math
import time

from common import Verdict, load_rows, parse_arguments
from sklearn.datasets import load_digits

from sklearn_vae import PPCA, LinearVAE

SOLVERS = {"analytic": "adam", "stochastic": "stochastic"}


def train(X, k, solver, rate, steps):
    """A fitted model, and its seconds."""
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
    """Gap to the maximum while training, for each rate."""
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
    """Train with each solver and rate, print where they end, check."""
    arguments = parse_arguments(__doc__, output={"default": None, "help": "a picture to write"})
    verdict = Verdict(arguments.scale)
    full = arguments.scale == "full"
    if arguments.data:
        X, k, steps = load_rows(arguments.data)[:1000] / 255, 200, 12000 if full else 100
        rates = [1e-4, 3e-4, 1e-3, 3e-3]
    else:
        X, k, steps = load_digits().data / 16, 10, 6000 if full else 800
        rates = [3e-4, 1e-3, 3e-3, 1e-2] if full else [1e-3, 1e-2]
    ppca = PPCA(k, svd_solver="full").fit(X)
    fall = -math.log(ppca.noise_variance_)
    print(
        f"{X.shape[0]} x {X.shape[1]}, k = {k}, {steps} steps; pPCA: {ppca.elbo_:.3f} nats, "
        f"sigma2 {ppca.noise_variance_:.5f}, so log sigma2 must fall by {fall:.1f}"
    )
    print("  solver        rate        bound       below      sigma2  ms a step")
    models = {}
    for solver in SOLVERS:
        for rate in rates:
            vae, seconds = train(X, k, solver, rate, steps)
            models[solver, rate] = vae
            arrives = "" if rate * steps > fall else "   cannot arrive in these steps"
            print(
                f"  {solver:10s} {rate:7g} {vae.elbo_:12.3f} {ppca.elbo_ - vae.elbo_:11.3f} "
                f"{vae.noise_variance_:11.5f} {1e3 * seconds / steps:10.2f}{arrives}",
                flush=True,
            )
    below = {key: ppca.elbo_ - vae.elbo_ for key, vae in models.items()}
    best = {name: min(below[name, rate] for rate in rates) for name in SOLVERS}
    least = min(below.values())
    verdict.claim(f"no bound above the maximum (least gap {least:.1e})", least > -1e-8)
    enough = full or not arguments.data
    verdict.claim(
        f"the analytic bound's best rate ends {best['analytic']:.3f} nats below, at most 0.2",
        best["analytic"] < 0.2 or not enough,
    )
    late = [below["analytic", rate] for rate in rates if rate * steps < fall]
    verdict.claim("rates that cannot arrive do not", all(gap > 0.2 for gap in late))
    print(f"  the stochastic bound's best rate ends {best['stochastic']:.3f} nats below")
    if arguments.output:
        draw(models, ppca.elbo_, arguments.output)
    verdict.exit()


if __name__ == "__main__":
    main()
