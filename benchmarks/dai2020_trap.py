"""Propositions 1 and 2 of Dai, Wang and Wipf (2020): a VAE caught at collapse, and its gamma'.

Proposition 1: consider a VAE with decoder pi_alpha(W z) + b, learned noise and free posteriors. For
every threshold alpha > 0 there are data for which minus the ELBO has a global minimum that
reproduces the data exactly, and also a bad local minimum with q(z|x) = p(z) and p(x) = N(mean,
gammabar I). The script uses the data of `make_collapse_trap`. In closed form, the local minimum is
lower than its surroundings in a ball, and the decoder that generated the data is lower than both.
Gradient training that starts in the ball stays there. With alpha = 0 it reaches probabilistic PCA.

Proposition 2: consider a decoder whose expected error has Lipschitz gradients and grows at some
minimal rate with the standard deviations of q. There is a finite gamma' such that the trivial
solution (the mean of the data, q = p) is better if the noise variance is above it. The script
computes gamma' of the decoder that generated the data, and numerically the largest gamma' of any
decoder of the family for several alpha. For alpha = 0 it is the largest eigenvalue of the
covariance, above which pPCA also collapses. The larger the threshold of a decoder, the less noise
makes it collapse. Training with fixed noise below and above it shows the same. The paper adds that
some dimensions collapse already above a gamma'' < gamma'. For alpha = 0 these are the smaller
eigenvalues, one after another; for other thresholds gamma'' is not computed.

    python benchmarks/dai2020_trap.py [--scale cpu] [--data SAMPLES.npz] [--output FOLDER]
        [--jobs 2] [--minutes 9]

--data takes other samples X, which are scaled to the average variance of the trap. W of the data is
then that of pPCA, and only claims that hold for any data decide. A run covers one length |W|, one
threshold or one training.
"""

import math

import numpy as np
import torch
from common import load_rows
from study import Claims, Study, Table, figure, write_report

from sklearn_vae import PPCA, DeepGaussianVAE, SoftThresholdDecoder
from sklearn_vae.datasets import make_collapse_trap
from sklearn_vae.gaussian import SoftThresholdElbo

LENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.5, 2.0)
BALL = 0.8
SCALES = {  # directions, thresholds, ascents, epochs, seeds
    "smoke": (3, (0.0, 1.0), 1, 400, 1),
    "cpu": (24, (0.0, 0.25, 0.5, 1.0, 2.0), 5, 2000, 3),
    "full": (90, (0.0, 0.125, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0), 5, 4000, 10),
}
ALPHA = 1.0  # threshold of the trap
BLUE, ORANGE = "#0072b2", "#d55e00"


def directions(d, n):
    """Return unit vectors, on a half circle in two dimensions, otherwise random."""
    if d == 2:
        angles = np.linspace(0.0, np.pi, n, endpoint=False)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)[:, :, None]
    vectors = np.random.default_rng(0).normal(size=(n, d, 1))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def excess(elbo, W):
    """Minimize -ELBO for this W over noise, b and q; return its excess over collapse."""
    best = -np.inf
    for share in (0.01, 0.1, 1.0):
        p = elbo.collapsed()._replace(loadings=W, noise_variance=share * elbo.average_variance)
        found = elbo.maximize(elbo.best_posteriors(p), hold=("loadings",), least_noise=share / 10)
        best = max(best, elbo.value(found))
    return elbo.value(elbo.collapsed()) - best


def threshold_of(elbo, W):
    """Compute gamma' of a decoder with b at the mean; 0 if the threshold makes W z vanish."""
    try:
        return elbo.collapse_threshold(elbo.collapsed()._replace(loadings=W))
    except ValueError:  # W has no effect
        return 0.0


def largest_threshold(elbo, starts, n_ascents):
    """Find the largest gamma' and its W by ascents from the best of several decoders.

    At gamma' of a decoder, any better decoder is better than collapse, so its own gamma' is larger.
    An ascent ends if no decoder nearby is better.
    """
    found = []
    for W in sorted(starts, key=lambda W: -threshold_of(elbo, W))[:n_ascents]:
        p, gamma = elbo.collapsed()._replace(loadings=W), threshold_of(elbo, W)
        for _ in range(100):
            there = elbo.best_posteriors(p._replace(noise_variance=gamma))
            p = elbo.maximize(there, hold=("noise_variance",))
            if np.linalg.norm(p.loadings) < 1e-3 * elbo.average_variance**0.5:
                break  # in the limit W -> 0 rounding errors dominate
            before, gamma = gamma, elbo.collapse_threshold(p)
            if gamma < before * (1.0 + 1e-10):
                break
        found.append((gamma, np.linalg.norm(p.loadings)))
    return max(found)


def about_collapse(X, ways, device, checkpoint, length):
    """Compute the excess over collapse of W with one length, for each direction."""
    elbo = SoftThresholdElbo(X, ALPHA)
    return {"excess": [excess(elbo, length * way) for way in ways]}


def outlived(X, starts, device, checkpoint, threshold, n_ascents):
    """Find the largest gamma' of any decoder with a threshold."""
    gamma, length = largest_threshold(SoftThresholdElbo(X, threshold), starts, n_ascents)
    return {"gamma": gamma, "length": length}


def train(X, W, device, checkpoint, threshold, epochs, seed, noise_variance=None):
    """Train a VAE whose decoder starts at W; return its -ELBO. Noise is learned by default."""
    scale = X.var(axis=0).mean() ** 0.5

    def decoder(n_components, output_shape):
        network = SoftThresholdDecoder(threshold / scale)(n_components, output_shape)
        with torch.no_grad():
            network.layer.weight.copy_(torch.from_numpy(W / scale))
            network.layer.bias.zero_()
        return network

    vae = DeepGaussianVAE(
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
        checkpoint=checkpoint,
        checkpoint_every=100,
        random_state=seed,
    ).fit(X)
    return {"loss": -vae.elbo_}


def proposition_1(study, elbo, made, ways, claims, known):
    """Check proposition 1 in closed form; return the excess over collapse by length."""
    start = elbo.collapsed()._replace(means=elbo.X[:, :1])
    still = start._replace(loadings=1e-2 * ways[0] * elbo.average_variance**0.5)
    moved = elbo.maximize(still, hold=("offset", "noise_variance", "means", "variances"))
    claims.add(
        "P1: the gradient in W vanishes near collapse",
        "a stationary point",
        f"W moves by {np.abs(moved.loadings - still.loadings).max():.1e}",
        np.array_equal(moved.loadings, still.loadings),
        decides=known,
    )
    found = study.runs(about_collapse, [{"length": r} for r in LENGTHS], elbo.X, ways)
    curve = {r: np.array(run["excess"]) for r, run in zip(LENGTHS, found, strict=True)}
    inside = min(values.min() for r, values in curve.items() if r <= BALL)
    claims.add(
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
    claims.add(
        "P1: a decoder reproduces the data, and its -ELBO is unbounded as the noise goes to 0",
        "a global minimum that reproduces them",
        ", ".join(f"{bound:.3f}" for bound in bounds[1:])
        + f" at 1e-2, 1e-3, 1e-4 of gammabar; collapsed {bounds[0]:.3f}",
        bounds[0] > bounds[1] > bounds[2] > bounds[3],
        decides=known,
    )
    return curve


def proposition_2(study, elbo, made, ways, claims, known):
    """Check proposition 2; return the largest gamma' for each threshold."""
    X, unit = elbo.X, elbo.average_variance**0.5
    _, thresholds, n_ascents, *_ = SCALES[study.arguments.scale]
    gamma = elbo.collapse_threshold(made)

    def gain(noise):
        own = elbo.best_posteriors(made._replace(noise_variance=noise))
        return elbo.value(own) - elbo.value(elbo.collapsed()._replace(noise_variance=noise))

    ladder = gamma * np.geomspace(1e-2, 1e2, 20)
    gains = np.array([gain(noise) for noise in ladder])
    claims.add(
        "P2: gamma' of one decoder (W of the data): collapse is better above it, and only there",
        "a finite gamma'",
        f"gamma' = {gamma:.6f}, {gamma / elbo.average_variance:.3f} gammabar",
        0.0 < gamma < math.inf and ((gains > 0) == (ladder < gamma)).all(),
        decides=known,
    )
    first = PPCA(1, svd_solver="full").fit(X).components_.T
    sizes = (0.01, 0.2, 0.5, 0.8, 1.2)
    starts = [size * unit * way for size in sizes for way in [first, *ways]] + [made.loadings]
    settings = [{"threshold": alpha, "n_ascents": n_ascents} for alpha in thresholds]
    found = study.runs(outlived, settings, X, np.stack(starts))
    family = dict(zip(thresholds, found, strict=True))
    largest = {alpha: run["gamma"] for alpha, run in family.items()}
    drawn = unit * np.random.default_rng(1).normal(size=(10 * len(ways), *made.loadings.shape))
    others = max(threshold_of(elbo, W) for W in [made.loadings, *drawn])
    claims.add(
        f"P2: gamma' of the data's decoder and {len(drawn)} random ones is not above the largest",
        "not published",
        f"{others:.6f} at most, the largest found {largest[ALPHA]:.6f}",
        others <= largest[ALPHA],
    )
    top = np.linalg.eigvalsh(np.cov(X.T, bias=True))[-1]
    claims.add(
        "P2, section 4: with alpha = 0 every decoder collapses above the largest eigenvalue",
        f"it does; computed lambda_1: {top:.6f}",
        f"{largest[0.0]:.6f}",
        abs(largest[0.0] / top - 1.0) < 1e-4,
    )
    claims.add(
        "P2: the largest gamma' of all decoders decreases with alpha",
        "not published",
        ", ".join(f"{value:.3f} ({alpha:g})" for alpha, value in largest.items()),
        bool((np.diff(list(largest.values())) < 0).all()),
        decides=known,
    )
    return family, ladder, gains, gamma


def training(study, elbo, made, largest, claims, known):
    """Check training that starts near collapse, with and without threshold, and at fixed noise."""
    X, scale = elbo.X, study.arguments.scale
    *_, epochs, seeds = SCALES[scale]
    collapsed, ppca = -elbo.value(elbo.collapsed()), -PPCA(1, svd_solver="full").fit(X).score(X)
    near = [
        {"threshold": alpha, "epochs": epochs, "seed": seed}
        for alpha in (ALPHA, 0.0)
        for seed in range(seeds)
    ]
    short = 0.5 * made.loadings / np.linalg.norm(made.loadings)
    losses = [run["loss"] for run in study.runs(train, near, X, short)]
    caught, free = losses[:seeds], losses[seeds:]
    claims.add(
        f"P1: a VAE trained from |W| = 0.5 with alpha = {ALPHA:g} stays collapsed",
        f"a local minimum; computed -ELBO: {collapsed:.4f}",
        f"{min(caught):.4f} to {max(caught):.4f}, {seeds} seeds",
        max(abs(value - collapsed) for value in caught) < 1e-3,
        decides=known,
    )
    claims.add(
        "P1, section 4: with alpha = 0 training escapes to pPCA",
        f"no bad minimum; computed -log-likelihood of pPCA: {ppca:.4f}",
        f"{min(free):.4f} to {max(free):.4f}",
        max(abs(value - ppca) for value in free) < (0.3 if scale == "smoke" else 0.1),
        decides=known,
    )
    held = [
        {"threshold": ALPHA, "epochs": epochs, "seed": 0, "noise_variance": share * largest}
        for share in (0.5, 1.2)
    ]
    gains = [
        -elbo.value(elbo.collapsed()._replace(noise_variance=each["noise_variance"])) - run["loss"]
        for each, run in zip(held, study.runs(train, held, X, made.loadings), strict=True)
    ]
    claims.add(
        "P2: training from the W of the data, with noise fixed at 0.5 and 1.2 of the largest gamma'",
        "above gamma' collapse is better",
        f"ELBO minus that of collapse {gains[0]:+.3f} (0.5), {gains[1]:+.3f} (1.2)",
        gains[0] > 0.0 >= gains[1] - 1e-6,
        decides=known,
    )


def tables(curve, family):
    """Return tables of the numbers in the picture."""
    ball = Table("|W|", "-ELBO minus that of collapse, best direction", "worst direction")
    for r, values in curve.items():
        ball.add(r, values.min(), values.max())
    gammas = Table("threshold", "largest gamma' of any decoder", "|W| there")
    for alpha, run in family.items():
        gammas.add(alpha, run["gamma"], run["length"])
    return {"ball": ball, "thresholds": gammas}


def draw(curve, family, ladder, gains, gamma):
    """Draw the ball, a decoder's gain by noise variance, and gamma' by threshold."""
    picture, (ball, noise, thresholds) = figure(1, 3, figsize=(15, 4.6))
    lengths = np.array(list(curve))
    low, high = (1e4 * np.array([f(values) for values in curve.values()]) for f in (min, max))
    ball.fill_between(lengths, low, high, color=BLUE, alpha=0.2, linewidth=0)
    ball.plot(lengths, low, "o-", color=BLUE, label="the best direction; shaded: all")
    ball.axhline(0, color="k", linewidth=0.8, linestyle=":")
    ball.set(xlim=(lengths[0], 1.0), ylim=(-10, 30), xlabel=f"|W|, threshold {ALPHA:g}")
    ball.set_ylabel("-ELBO minus that of collapse (1e-4 nats per sample)")
    ball.set_title("Proposition 1: near W = 0 every W is worse than 0")
    noise.axvline(gamma, color=ORANGE, linestyle="--", label=f"$\\gamma'$ = {gamma:.2f}")
    noise.semilogx(ladder, gains, "o-", color=BLUE, label="the W that generated the data")
    noise.axhline(0, color="k", linewidth=0.8, linestyle=":")
    noise.set_yscale("symlog", linthresh=1e-2)
    noise.set(xlabel="fixed noise variance", ylabel="ELBO minus that of collapse (nats per sample)")
    noise.set_title("Proposition 2: above $\\gamma'$ collapse is better")
    largest = [run["gamma"] for run in family.values()]
    thresholds.plot(list(family), largest, "o-", color=BLUE)
    thresholds.annotate(
        "largest eigenvalue of the\ncovariance, as for pPCA",
        (0.0, largest[0]),
        (0.2, 0.5),
        textcoords="axes fraction",
        arrowprops={"arrowstyle": "->"},
    )
    thresholds.set(xlabel=r"threshold $\alpha$", ylim=(0, None))
    thresholds.set_ylabel(r"largest $\gamma'$ of any decoder $\pi_\alpha(W z) + b$")
    thresholds.set_title("A larger threshold lowers $\\gamma'$")
    ball.legend(loc="upper left")
    noise.legend(loc="lower left")
    return picture


def main():
    """Check both propositions on the trap or on given samples."""
    study = Study(__doc__)
    claims, paths = Claims(study.arguments.scale), study.arguments.data
    known = not paths
    if known:
        X, _, trap = make_collapse_trap(threshold=ALPHA, return_trap=True)
        elbo, made = trap.elbo, trap.solution
    else:
        X = np.concatenate([load_rows(path) for path in paths])
        X *= (20.0 / 3.0 / X.var(axis=0).mean()) ** 0.5  # average variance of the trap
        elbo = SoftThresholdElbo(X, ALPHA)
        made = elbo.collapsed()._replace(loadings=PPCA(1, svd_solver="full").fit(X).loadings_)
    ways = directions(X.shape[1], SCALES[study.arguments.scale][0])
    curve = proposition_1(study, elbo, made, ways, claims, known)
    family, *rest = proposition_2(study, elbo, made, ways, claims, known)
    training(study, elbo, made, family[ALPHA]["gamma"], claims, known)
    write_report(study, claims, **tables(curve, family))
    study.save(draw(curve, family, *rest))
    claims.exit()


if __name__ == "__main__":
    main()
