"""KL annealing relieves collapse for a while where sigma2 is held, and for good where it is learned.

Figures 7 to 9 of Lucas et al. (2019): the weight of the KL rises from 0 to 1 over the first tenth of
the epochs, in deep VAEs on the logits of MNIST. Claims:

- sigma2 held: while the weight is below 1 (the paper's dashed curves, after 8 % of the epochs) fewer
  dimensions have collapsed than without annealing; then they collapse, nearly as many;
- sigma2 learned by gradient, from a start that is too large: with annealing it ends smaller, and
  fewer dimensions have collapsed.

The largest sigma2 decides: of smaller ones less collapses, and later. Beyond the paper: sigma2 in
closed form, which forgets a start in an epoch, and pPCA of as many components at the same sigma2.

    python benchmarks/lucas2019_kl_annealing.py --data mnist_train.npz [--scale cpu] [--jobs 2]
    python benchmarks/lucas2019_kl_annealing.py --scale full --device cuda
    python benchmarks/lucas2019_kl_annealing.py --scale smoke          digits, 17 levels, small networks

Without --data the images are MNIST, from where `fetch_mnist` looks for it or from OpenML. The network
is the paper's at --scale full, 784-1024-512-200 and its mirror image, and 784-256-128-50 at cpu. Batch
size and rate are not published for these figures: 128 (cpu: 50) and 1e-3. The rows are centred and
scaled by one number before the networks; sigma2 is in the units of the logits.
"""

from dataclasses import dataclass

import numpy as np
from lucas2019_deep import NEARLY, digits_images, fit, held, learned, measures, references
from study import Claims, Study, Table, figure, write_report

from sklearn_vae import Snapshot
from sklearn_vae.diagnostics import CollapseCurve, collapse_curve
from sklearn_vae.plot import CollapseDisplay

# The colours of CollapseDisplay, in its order.
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
# Snapshots, in shares of the epochs; the paper's dashed curves are at 8 %.
DASHED = 0.08
SHARES = (0.02, 0.04, 0.06, DASHED, 0.1, 0.12, 0.16, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class Scale:
    """How much is done. The paper gives neither batch size nor, for these figures, the rate."""

    n_images: int | None
    widths: tuple
    n_components: int
    epochs: int
    batch_size: int
    fixed: tuple
    starts: tuple
    closed: tuple
    learning_rate: float = 1e-3


SCALES = {
    "smoke": Scale(600, (64, 32), 16, 100, 30, (3.0, 1.0), (10.0, 3.0), (10.0,)),
    "cpu": Scale(2000, (256, 128), 50, 100, 50, (30.0, 10.0, 3.0), (30.0, 10.0, 3.0), (30.0,)),
    "full": Scale(
        None,
        (1024, 512),
        200,
        1000,
        128,
        (30.0, 10.0, 3.0, 1.0, 0.3, 0.1),
        (30.0, 10.0, 3.0, 1.0, 0.3, 0.1),
        (30.0, 10.0, 3.0),
    ),
}


def train_in_snapshots(X, *, device, checkpoint, epochs, **setting):
    """One run: measures at the end, and the curve of collapse after each of `epochs`.

    A checkpoint has all snapshots, a quarter of a gigabyte at full scale: twenty of them a run.
    """
    model, rows = fit(
        X,
        device=device,
        checkpoint=checkpoint,
        checkpoint_every=max(10, setting["max_epochs"] // 20),
        callbacks=[Snapshot(epochs)],
        **setting,
    )
    seen = model[:-1].transform(rows)
    curves = [collapse_curve(model[-1].snapshots_[epoch], seen) for epoch in epochs]
    return {
        **measures(model, rows),
        "epochs": epochs,
        "collapse": [curve.thresholds.tolist() for curve in curves],
    }


def settings_of(scale, logits):
    """By (kind, sigma2, annealed or not) what a run is told."""
    kinds = {
        **{("fixed", noise): held(noise) for noise in scale.fixed},
        **{("learned", noise): learned(noise) for noise in scale.starts},
        **{("closed form", noise): learned(noise, "closed_form") for noise in scale.closed},
    }
    every = {
        "n_components": scale.n_components,
        "hidden_layer_sizes": list(scale.widths),
        "max_epochs": scale.epochs,
        "batch_size": scale.batch_size,
        "learning_rate": scale.learning_rate,
        "epochs": sorted({max(1, round(share * scale.epochs)) for share in SHARES}),
        **logits,
    }
    # The largest sigma2 first, so that what matters most is there first.
    return {
        (kind, noise, annealed): {
            **every,
            **noise_parameters,
            "kl_warmup_epochs": scale.epochs // 10 if annealed else 0,
        }
        for (kind, noise), noise_parameters in sorted(kinds.items(), key=lambda item: -item[0][1])
        for annealed in (False, True)
    }


class Run:
    """A result, and the collapse in it."""

    def __init__(self, result):
        self.result = result
        self.epochs = np.array(result["epochs"])
        self.curves = [CollapseCurve(np.array(c), 0.01, "share") for c in result["collapse"]]

    def __getitem__(self, name):
        return self.result[name]

    def dashed(self):
        """The curve while the KL has not its whole weight."""
        return self.curves[int(np.argmin(abs(self.epochs - DASHED * self.epochs[-1])))]

    def shares(self):
        """Of the dimensions, in per cent, after each of the epochs."""
        return np.array([100.0 * curve.at(NEARLY) for curve in self.curves])

    def early(self):
        """The same while the KL has not its whole weight."""
        return 100.0 * float(self.dashed().at(NEARLY))

    def late(self):
        """The same at the end."""
        return float(self.shares()[-1])


def pairs_of(runs, kind):
    """(sigma2, without, with annealing) of a kind, the largest sigma2 first."""
    noises = sorted({noise for of, noise, _ in runs if of == kind}, reverse=True)
    return [(noise, runs[kind, noise, False], runs[kind, noise, True]) for noise in noises]


def told(pairs, values, form=".0f"):
    """Of each pair "sigma2: annealed (not annealed)"."""
    return ", ".join(
        f"{noise:g}: {values(with_it):{form}} ({values(without):{form}})"
        for noise, without, with_it in pairs
    )


def claims_of(runs, scale_name):
    """What the figures say, and what holds here."""
    claims = Claims(scale_name)
    fixed, free = pairs_of(runs, "fixed"), pairs_of(runs, "learned")
    closed = pairs_of(runs, "closed form")
    worst = fixed[:1]
    relief = all(annealed.early() <= plain.early() for _, plain, annealed in fixed)
    claims.add(
        "sigma2 held: fewer dimensions have collapsed after 8 % of the epochs than without annealing"
        f" (%, at {NEARLY:g} nats)",
        "figures 7, 9: temporary relief",
        told(fixed, Run.early),
        relief and all(annealed.early() < plain.early() for _, plain, annealed in worst),
    )
    claims.add(
        "sigma2 held: the annealed model collapses once the KL has its weight (%, end; at 8 %)",
        "figures 7, 9: collapsed again",
        ", ".join(f"{n:g}: {a.late():.0f} ({a.early():.0f})" for n, _, a in fixed),
        all(annealed.late() > annealed.early() for *_, annealed in fixed)
        and all(annealed.late() > annealed.early() + 20.0 for *_, annealed in worst),
    )
    claims.add(
        f"sigma2 held at {worst[0][0]:g}: at the end it is nearer to the collapse without annealing "
        "than to its own at 8 %",
        "figures 7, 9: the collapsed solution",
        told(fixed, Run.late),
        all(a.late() > 0.5 * (a.early() + plain.late()) for _, plain, a in worst),
    )
    claims.add(
        f"sigma2 learned from {free[0][0]:g}: annealing ends in smaller sigma2",
        "figure 8: smaller",
        told(free, lambda run: run["noise_variance"], ".3f"),
        all(a["noise_variance"] < p["noise_variance"] for _, p, a in free[:1]),
    )
    claims.add(
        "sigma2 learned: annealing ends in a larger KL (nats)",
        "not published",
        told(free, lambda run: run["kl"], ".1f"),
        all(a["kl"] > p["kl"] for _, p, a in free),
        decides=False,
    )
    claims.add(
        f"sigma2 learned from {free[0][0]:g}: annealing ends in less collapse (%, at {NEARLY:g} nats)",
        "figures 8, 9: less",
        told(free, Run.late),
        all(annealed.late() < plain.late() for _, plain, annealed in free[:1]),
        decides=scale_name != "smoke",
    )
    claims.add(
        f"sigma2 learned from {closed[0][0]:g}: in closed form, annealed or not, it ends smaller than by "
        "gradient with annealing",
        "not in the paper",
        told(closed, lambda run: run["noise_variance"], ".3f"),
        all(
            max(p["noise_variance"], a["noise_variance"])
            < runs["learned", noise, True]["noise_variance"]
            for noise, p, a in closed[:1]
        ),
    )
    return claims


def table_of(runs, ppca):
    """All that was measured."""
    table = Table(
        *("noise", "sigma2", "annealed", "ELBO", "tuned ELBO", "sigma2 at the end", "KL"),
        *("collapsed %, 0.01", f"collapsed %, {NEARLY:g}", f"collapsed %, {NEARLY:g}, at 8 %"),
    )
    for (kind, noise, annealed), run in runs.items():
        measured = (run[n] for n in ("elbo", "tuned_elbo", "noise_variance", "kl"))
        collapsed = (run["collapsed_percent"], run.late(), run.early())
        table.add(kind, noise, "yes" if annealed else "no", *measured, *collapsed)
    for noise, found in ppca.items():
        measured = (found["elbo"], None, found["noise_variance"], found["kl"])
        table.add("pPCA", noise, "", *measured, found["collapsed_percent"], None, None)
    return table


def draw(runs, scale, title):
    """Collapse over the epochs, its curves, and sigma2 in training."""
    fig, axes = figure(2, 2, figsize=(14, 9))
    (over_epochs, fixed_curves), (noises, free_curves) = axes
    for ax in (over_epochs, noises):
        ax.axvspan(0, scale.epochs // 10, color="0.92", zorder=0)
        ax.set(xlabel="epoch", xlim=(0, scale.epochs))
    for color, (noise, plain, annealed) in zip(COLORS, pairs_of(runs, "fixed"), strict=False):
        over_epochs.plot(annealed.epochs, annealed.shares(), "-", color=color, label=f"{noise:g}")
        over_epochs.plot(plain.epochs, plain.shares(), ":", color=color)
    over_epochs.axvline(DASHED * scale.epochs, color="0.5", lw=0.8, ls="--")
    over_epochs.set(ylim=(-3, 103), ylabel=f"dimensions collapsed at {NEARLY:g} nats (%)")
    over_epochs.set_title("sigma2 held: annealing puts collapse off")
    draw_noises(noises, runs)
    curves(fixed_curves, pairs_of(runs, "fixed"), "sigma2 held: the plateaus come back")
    curves(free_curves, pairs_of(runs, "learned"), "sigma2 learned: fewer are lost for good")
    for left, right, name in (
        (over_epochs, fixed_curves, "sigma2"),
        (noises, free_curves, "start"),
    ):
        right.plot([], [], ":", color="0.4", label="not annealed")
        lines = {line.get_label(): line for ax in (right, left) for line in ax.lines}
        shown = [line for label, line in lines.items() if not label.startswith("_")]
        beside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "frameon": False}
        right.legend(handles=shown, title=name, alignment="left", **beside)
    fig.suptitle(title)
    return fig


def draw_noises(ax, runs):
    """sigma2 in training."""
    lines = [
        (*pair, color, "") for color, pair in zip(COLORS, pairs_of(runs, "learned"), strict=False)
    ]
    lines += [(*pair, "k", ", closed form") for pair in pairs_of(runs, "closed form")[:1]]
    for noise, plain, annealed, color, words in lines:
        for run, style, label in ((annealed, "-", f"{noise:g}{words}"), (plain, ":", None)):
            values = [noise, *run["noise_variances"]]
            ax.plot(range(len(values)), values, style, color=color, label=label)
    ax.set(yscale="log", ylabel="sigma2")
    ax.set_title("sigma2 learned: it ends smaller with annealing")


def curves(ax, pairs, title):
    """Collapse at the end and, dashed, at 8 % of annealed runs; dotted that of the others."""
    CollapseDisplay.from_results(
        {f"{noise:g}": annealed.curves[-1] for noise, _, annealed in pairs},
        snapshots={f"{noise:g}": annealed.dashed() for noise, _, annealed in pairs},
        snapshot_label="annealed,\nafter 8 %",
        ax=ax,
    )
    epsilon = np.geomspace(*ax.get_xlim(), 1000)
    for color, (_, plain, _) in zip(COLORS, pairs, strict=False):
        ax.plot(epsilon, 100 * plain.curves[-1].at(epsilon), ":", color=color)
    ax.set_title(title)


def main():
    """Train each setting with and without annealing, and report."""
    study = Study(__doc__)
    scale = SCALES[study.arguments.scale]
    X, logits = digits_images(study.arguments)
    X = X[: scale.n_images]
    settings = settings_of(scale, logits)
    found = study.runs(train_in_snapshots, list(settings.values()), X)
    runs = {key: Run(result) for key, result in zip(settings, found, strict=True)}
    cases = [(scale.n_components, noise) for noise in scale.fixed]
    (of_ppca,) = study.runs(references, [{**logits, "cases": cases}], X)
    claims = claims_of(runs, study.arguments.scale)
    table = table_of(runs, dict(zip(scale.fixed, of_ppca, strict=True)))
    write_report(study, claims, runs=table)
    n_steps = scale.epochs * -(-len(X) // scale.batch_size)
    title = (
        f"{len(X)} images, {scale.epochs} epochs ({n_steps} steps), k = {scale.n_components}: solid "
        "with KL annealing over the first tenth (grey), dotted without"
    )
    study.save(draw(runs, scale, title))
    claims.exit()


if __name__ == "__main__":
    main()
