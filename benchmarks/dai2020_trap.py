"""Propositions 1 and 2 of Dai, Wang and Wipf (2020): a VAE caught at collapse, and the noise gamma'.

Proposition 1: for every threshold alpha > 0 there are data of which the VAE with decoder
pi_alpha(W z) + b, learned noise and free posteriors has a global minimum of minus the ELBO that
reproduces them exactly, and beside it a bad local minimum: q(z|x) = p(z) and p(x) = N(mean,
gammabar I). Here the data of `make_collapse_trap`: in closed form the minimum lies lower than
anything in a ball about it, the decoder that made the data lower than both, and training by
gradients from within the ball stays; with alpha = 0 it goes to probabilistic PCA.

Proposition 2: for a decoder whose expected error has Lipschitz gradients and grows with the
deviations of q at some rate at least, there is a finite gamma' such that with the noise variance
above it the trivial solution (the mean of the data, q = p) costs less. Here gamma' of the decoder
that made the data, and the largest gamma' of any decoder of the family, found numerically for
several alpha: for alpha = 0 that is the largest eigenvalue of the covariance, the noise above which
pPCA collapses too; the more a decoder thresholds, the less noise makes it collapse. Training with
the noise held fixed on either side of it shows the same.

    python benchmarks/dai2020_trap.py [--scale cpu] [--data ROWS.npz] [--output FOLDER]

--data takes other rows X, scaled to the average variance of the trap's: W of the data is then that
of pPCA, claims that depend on the rows are printed, and what holds for any rows decides. Writes dai2020_trap.csv and .md, and .png where matplotlib is
installed, into the folder.
"""

import csv
import importlib.util
import math
from pathlib import Path

import numpy as np
import torch
from common import Verdict, load_rows, parse_arguments

from sklearn_vae import PPCA, DeepGaussianVAE, SoftThresholdDecoder
from sklearn_vae.datasets import make_collapse_trap
from sklearn_vae.gaussian import SoftThresholdElbo

LENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.5, 2.0)
BALL = 0.8
SCALES = {  # directions, thresholds, epochs, seeds
    "smoke": (4, (0.0, 1.0), 400, 1),
    "cpu": (24, (0.0, 0.25, 0.5, 1.0, 2.0), 2000, 3),
    "full": (90, (0.0, 0.125, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0), 4000, 10),
}
OPTIONS = {
    "device": {"default": "cpu", "help": "for the training"},
    "output": {"type": Path, "help": "a folder for the CSV, table and picture"},
}


def directions(d, n):
    """Unit vectors: in two dimensions round a half circle, else random."""
    if d == 2:
        angles = np.linspace(0.0, np.pi, n, endpoint=False)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)[:, :, None]
    vectors = np.random.default_rng(0).normal(size=(n, d, 1))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def excess(elbo, W):
    """Least minus ELBO of descents at this W, less that of collapse: noise, b and q are free."""
    best = -np.inf
    for share in (0.01, 0.1, 1.0):
        p = elbo.collapsed()._replace(loadings=W, noise_variance=share * elbo.average_variance)
        found = elbo.maximise(elbo.best_posteriors(p), hold=("loadings",), least_noise=share / 10)
        best = max(best, elbo.value(found))
    return elbo.value(elbo.collapsed()) - best


def threshold_of(elbo, W):
    """gamma' of a decoder, b at the mean of the rows; 0 where thresholds leave nothing of W z."""
    p = elbo.collapsed()._replace(loadings=W)
    if np.abs(W).max() * 8.0 < elbo.threshold:
        return 0.0
    return elbo.collapse_threshold(p)


def largest_threshold(elbo, starts, n_ascents=5):
    """The largest gamma' that ascents from the best of several decoders find, and its W.

    At gamma' of a decoder the best decoder is better than collapse, unless it is the same: so its
    own gamma' is larger, and an ascent ends where no decoder nearby is better.
    """
    found = []
    for W in sorted(starts, key=lambda W: -threshold_of(elbo, W))[:n_ascents]:
        p, gamma = elbo.collapsed()._replace(loadings=W), threshold_of(elbo, W)
        for _ in range(100):
            there = elbo.best_posteriors(p._replace(noise_variance=gamma))
            p = elbo.maximise(there, hold=("noise_variance",))
            if np.linalg.norm(p.loadings) < 1e-3 * elbo.average_variance**0.5:
                break  # the limit W -> 0, where rounding would decide
            before, gamma = gamma, elbo.collapse_threshold(p)
            if gamma < before * (1.0 + 1e-10):
                break
        found.append((gamma, np.linalg.norm(p.loadings)))
    return max(found)


def train(X, threshold, W, epochs, seed, device, noise_variance=None):
    """A VAE with a network as encoder whose decoder starts at W; noise learned if not given."""
    scale = X.var(axis=0).mean() ** 0.5

    def decoder(n_components, output_shape):
        network = SoftThresholdDecoder(threshold / scale)(n_components, output_shape)
        with torch.no_grad():
            network.layer.weight.copy_(torch.from_numpy(W / scale))
            network.layer.bias.zero_()
        return network

    return DeepGaussianVAE(
        1,
        hidden_layer_sizes=(32,),
        activation="tanh",
        decoder=decoder,
        noise_update="gradient",
        noise_variance=noise_variance,
        noise_variance_init=None if noise_variance else scale**2,
        n_mc_samples=20,
        learning_rate=1e-2,
        max_epochs=epochs,
        batch_size=min(len(X), 128),
        device=device,
        random_state=seed,
    ).fit(X)


class Table:
    """Rows: statement, what the paper says of it (it has no numbers), ours, whether it holds."""

    def __init__(self, verdict):
        self.verdict, self.rows = verdict, []

    def add(self, statement, published, ours, holds, *, decides=True):
        """A statement; where it does not decide it is about the rows and not about a theorem."""
        self.rows.append((statement, published, ours, "holds" if holds else "fails"))
        if decides:
            self.verdict.claim(f"{statement}: {ours} (reference: {published})", holds)
        else:
            print(f"  {'yes ' if holds else 'no  '}  {statement}: {ours}")

    def write(self, folder):
        """dai2020_trap.csv and .md."""
        head = ("statement", "published, or computed for reference", "ours", "verdict")
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "dai2020_trap.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([head, *self.rows])
        lines = [
            " | ".join(cell.replace("|", r"\|") for cell in row)
            for row in (head, ("---",) * 4, *self.rows)
        ]
        text = "".join(f"| {line} |\n" for line in lines)
        (folder / "dai2020_trap.md").write_text(text, encoding="utf-8")


def proposition_1(elbo, made, ways, table, known):
    """The ball in closed form; the excess of each length over the directions."""
    start = elbo.collapsed()._replace(means=elbo.rows[:, :1])
    still = start._replace(loadings=1e-2 * ways[0] * elbo.average_variance**0.5)
    moved = elbo.maximise(still, hold=("offset", "noise_variance", "means", "variances"))
    table.add(
        "P1: the gradient with respect to W vanishes near collapse",
        "a stationary point",
        f"W moves by {np.abs(moved.loadings - still.loadings).max():.1e}",
        np.array_equal(moved.loadings, still.loadings),
        decides=known,
    )
    curve = {r: np.array([excess(elbo, r * way) for way in ways]) for r in LENGTHS}
    print("  |W|    -ELBO less that of collapse: least, greatest of the directions")
    for r, values in curve.items():
        print(f"  {r:.1f}   {values.min():+.2e}   {values.max():+.2e}")
    inside = min(values.min() for r, values in curve.items() if r <= BALL)
    table.add(
        f"P1: collapse is a local minimum, for 0.3 <= |W| <= {BALL}",
        "-ELBO is higher nearby",
        f"higher by {inside:.1e} nats or more",
        inside > 0.0,
        decides=known,
    )
    bounds = [-elbo.value(elbo.collapsed())]
    for noise in (1e-2, 1e-3, 1e-4):
        own = elbo.best_posteriors(made._replace(noise_variance=noise * elbo.average_variance))
        bounds.append(-elbo.value(own))
    table.add(
        "P1: a decoder reproduces the data, its -ELBO unbounded as the noise goes to 0",
        "a global minimum that reproduces them",
        ", ".join(f"{bound:.3f}" for bound in bounds[1:])
        + f" at 1e-2, 1e-3, 1e-4 of gammabar; collapsed {bounds[0]:.3f}",
        bounds[0] > bounds[1] > bounds[2] > bounds[3],
        decides=known,
    )
    return curve


def proposition_2(elbo, made, thresholds, ways, table, known):
    """gamma' of one decoder, and the largest of all for each threshold."""
    X, unit = elbo.rows, elbo.average_variance**0.5
    gamma = elbo.collapse_threshold(made)

    def gain(noise):
        own = elbo.best_posteriors(made._replace(noise_variance=noise))
        return elbo.value(own) - elbo.value(elbo.collapsed()._replace(noise_variance=noise))

    ladder = gamma * np.geomspace(1e-2, 1e2, 20)
    gains = np.array([gain(noise) for noise in ladder])
    table.add(
        "P2: gamma' of one decoder (W of the data): collapse costs less above, and only there",
        "a finite gamma'",
        f"gamma' = {gamma:.6f}, {gamma / elbo.average_variance:.3f} gammabar",
        0.0 < gamma < math.inf and ((gains > 0) == (ladder < gamma)).all(),
        decides=known,
    )
    first = PPCA(1, svd_solver="full").fit(X).components_.T
    sizes = (0.01, 0.2, 0.5, 0.8, 1.2)
    starts = [size * unit * way for size in sizes for way in [first, *ways]] + [made.loadings]
    largest = {}
    for alpha in thresholds:
        largest[alpha], length = largest_threshold(SoftThresholdElbo(X, alpha), starts)
        print(f"  alpha = {alpha}: largest gamma' {largest[alpha]:.6f}, there |W| = {length:.3f}")
    table.add(
        "P2: no decoder outlives the largest gamma' found, that of the data neither",
        "not published",
        f"{largest[elbo.threshold]:.6f} against {gamma:.6f}",
        largest[elbo.threshold] >= gamma,
    )
    top = np.linalg.eigvalsh(np.cov(X.T, bias=True))[-1]
    table.add(
        "P2, section 4: with alpha = 0 every decoder has collapsed above the largest eigenvalue",
        f"it does; lambda_1 computed: {top:.6f}",
        f"{largest[0.0]:.6f}",
        abs(largest[0.0] / top - 1.0) < 1e-4,
    )
    values = [largest[alpha] for alpha in sorted(largest)]
    table.add(
        "P2: gamma' over all decoders falls with alpha",
        "not published",
        ", ".join(f"{value:.3f} ({alpha:g})" for alpha, value in sorted(largest.items())),
        bool((np.diff(values) < 0).all()),
        decides=known,
    )
    return largest, ladder, gains, gamma


def training(elbo, made, largest, arguments, table, known):
    """What gradients do: from near collapse with and without threshold, and at fixed noise."""
    X, (*_, epochs, seeds) = elbo.rows, SCALES[arguments.scale]
    collapsed, ppca = -elbo.value(elbo.collapsed()), -PPCA(1).fit(X).score(X)
    short = 0.5 * made.loadings / np.linalg.norm(made.loadings)
    common = {"epochs": epochs, "device": arguments.device}
    runs = {
        alpha: [train(X, alpha, short, seed=seed, **common) for seed in range(seeds)]
        for alpha in (elbo.threshold, 0.0)
    }
    caught, free = ([-model.elbo_ for model in runs[alpha]] for alpha in runs)
    table.add(
        f"P1: trained from |W| = 0.5 with alpha = {elbo.threshold:g} it stays collapsed",
        f"a local minimum; -ELBO computed: {collapsed:.4f}",
        f"{min(caught):.4f} to {max(caught):.4f}, {seeds} seeds",
        max(abs(value - collapsed) for value in caught) < 1e-3,
        decides=known,
    )
    table.add(
        "P1, section 4: with alpha = 0 training escapes, to pPCA, and no bad minimum is in the way",
        f"no bad minimum; -log-likelihood of pPCA computed: {ppca:.4f}",
        f"{min(free):.4f} to {max(free):.4f}",
        max(abs(value - ppca) for value in free) < (0.3 if arguments.scale == "smoke" else 0.1),
        decides=known,
    )
    fixed = {}
    for share in (0.5, 1.2):
        noise = share * largest[elbo.threshold]
        model = train(X, elbo.threshold, made.loadings, seed=0, noise_variance=noise, **common)
        trivial = elbo.value(elbo.collapsed()._replace(noise_variance=noise))
        fixed[share] = model.elbo_ - trivial
    table.add(
        "P2: trained from the W of the data, noise held at 0.5 and 1.2 of the largest gamma'",
        "above gamma' collapse is better",
        "ELBO less that of collapse "
        + ", ".join(f"{gain:+.3f} ({share})" for share, gain in fixed.items()),
        fixed[0.5] > 0.0 >= fixed[1.2] - 1e-6,
        decides=known,
    )


def draw(curve, largest, ladder, gains, gamma, alpha, path):
    """The ball, the gain of a decoder against the noise, and gamma' against the threshold."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (ball, noise, family) = plt.subplots(1, 3, figsize=(14, 4.4), layout="constrained")
    lengths = np.array(list(curve))
    low, high = (1e4 * np.array([f(values) for values in curve.values()]) for f in (min, max))
    ball.fill_between(lengths, low, high, color="#0072b2", alpha=0.2, linewidth=0)
    ball.plot(lengths, low, "o-", color="#0072b2", label="least of the directions")
    ball.axhline(0, color="k", linewidth=0.8, linestyle=":", label="collapsed")
    ball.set(xlim=(lengths[0], 1.0), ylim=(-10, 30), xlabel="|W|")
    ball.set_ylabel("-ELBO less that of collapse (1e-4 nats per row)")
    ball.set_title(f"Proposition 1: about the collapsed point, alpha = {alpha:g}")
    noise.semilogx(ladder, gains, "o-", color="#0072b2", label="W of the data, best posteriors")
    noise.axvline(gamma, color="#d55e00", linestyle="--", label=f"gamma' = {gamma:.2f}")
    noise.axhline(0, color="k", linewidth=0.8, linestyle=":")
    noise.set_yscale("symlog", linthresh=1e-2)
    noise.set(xlabel="noise variance, held", ylabel="ELBO less that of collapse (nats per row)")
    noise.set_title("Proposition 2: one decoder")
    family.plot(list(largest), list(largest.values()), "o-", color="#0072b2")
    family.set(xlabel="threshold alpha", ylabel="largest gamma' of any decoder", ylim=(0, None))
    family.set_title("Proposition 2: all decoders pi(W z) + b")
    ball.legend(loc="upper left")
    noise.legend(loc="lower left")
    figure.savefig(path, dpi=120)
    print(f"picture written to {path}")


def main():
    """Both propositions, on the trap or on given rows."""
    arguments = parse_arguments(__doc__, ("cpu", "smoke", "full"), **OPTIONS)
    verdict, known = Verdict(arguments.scale), arguments.data is None
    n_ways, thresholds, *_ = SCALES[arguments.scale]
    if known:
        X, _, trap = make_collapse_trap(return_trap=True)
        elbo, made = trap.elbo, trap.solution
    else:
        X = load_rows(arguments.data)
        X *= (20.0 / 3.0 / X.var(axis=0).mean()) ** 0.5  # that of the trap
        elbo = SoftThresholdElbo(X, 1.0)
        made = elbo.collapsed()._replace(loadings=PPCA(1).fit(X).loadings_)
    table, ways = Table(verdict), directions(X.shape[1], n_ways)
    curve = proposition_1(elbo, made, ways, table, known)
    largest, *rest = proposition_2(elbo, made, thresholds, ways, table, known)
    training(elbo, made, largest, arguments, table, known)
    if arguments.output:
        table.write(arguments.output)
        if importlib.util.find_spec("matplotlib"):
            draw(curve, largest, *rest, elbo.threshold, arguments.output / "dai2020_trap.png")
    verdict.exit()


if __name__ == "__main__":
    main()
