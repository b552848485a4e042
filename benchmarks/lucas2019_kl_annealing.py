"""KL annealing relieves collapse temporarily if sigma2 is fixed, and permanently if it is learned.

Figures 7 to 9 of Lucas et al. (2019): the KL weight rises from 0 to 1 over the first tenth of the
epochs, in deep VAEs of the logits of MNIST. Claims:

- Fixed sigma2: while the KL weight is below 1 (the paper's dashed curves, after 8 % of the epochs),
  fewer dimensions have collapsed than without annealing. Later, nearly the same number collapses.
- sigma2 learned by gradient from a value that is too large: with annealing it ends smaller, and fewer
  dimensions have collapsed.

The largest sigma2 decides, because smaller ones collapse less and later. Beyond the paper, the script
runs closed-form sigma2, which forgets its start in an epoch, and pPCA with the same number of
components at the same sigma2.

    python benchmarks/lucas2019_kl_annealing.py --data mnist_train.npz [--scale cpu] [--jobs 2]
    python benchmarks/lucas2019_kl_annealing.py --scale full --device cuda
    python benchmarks/lucas2019_kl_annealing.py --scale smoke          digits, 17 levels, small networks

Without --data the images are MNIST, from the folder of `fetch_mnist` or from OpenML. The encoder is
the paper's 784-1024-512-200 at --scale full, and 784-256-128-50 at cpu; the decoder mirrors it. The
paper does not give batch size and learning rate for these figures (here 128, cpu: 50, and 1e-3). The
data are centered and scaled by one number for the networks, and sigma2 is in the units of the logits.
`lucas2019_faces_annealing.py` has convolutional VAEs of faces.
"""

from dataclasses import dataclass

import numpy as np
from lucas2019_deep import NEARLY, digits_images, fit, held, learned, measures, references
from lucas2019_faces import conv, decoded
from study import Claims, Study, Table, figure, write_report

from sklearn_vae import Snapshot
from sklearn_vae.diagnostics import CollapseCurve, collapse_curve
from sklearn_vae.plot import CollapseDisplay

# Colors of CollapseDisplay, in its order.
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
# Snapshots, as fractions of the epochs; the paper's dashed curves are at 8 %.
DASHED = 0.08
SHARES = (0.02, 0.04, 0.06, DASHED, 0.1, 0.12, 0.16, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class Scale:
    """Settings of a scale; the paper does not give the batch size and the learning rate.

    `networks` are parameters of DeepGaussianVAE or of `conv`.
    """

    n_images: int | None
    networks: dict
    n_components: int
    epochs: int
    batch_size: int
    fixed: tuple
    starts: tuple
    closed: tuple
    learning_rate: float = 1e-3


SCALES = {
    "smoke": Scale(
        600, {"hidden_layer_sizes": [64, 32]}, 16, 100, 60, (3.0, 1.0), (10.0,), (10.0,), 2e-3
    ),
    "cpu": Scale(
        2000,
        {"hidden_layer_sizes": [256, 128]},
        50,
        100,
        50,
        (30.0, 10.0, 3.0),
        (30.0, 10.0, 3.0),
        (30.0,),
    ),
    "full": Scale(
        None,
        {"hidden_layer_sizes": [1024, 512]},
        200,
        1000,
        128,
        (30.0, 10.0, 3.0, 1.0, 0.3, 0.1),
        (30.0, 10.0, 3.0, 1.0, 0.3, 0.1),
        (30.0, 10.0, 3.0),
    ),
}


def train_in_snapshots(X, *, device, checkpoint, epochs, networks, **setting):
    """Train a setting; return measures and the collapse curve after each of `epochs`.

    Of convolutional networks the result has what they decode, too.

    A checkpoint holds all snapshots, a quarter of a gigabyte at full scale, so there are only twenty
    checkpoints per run.
    """
    of_images = "channels" in networks
    model, rows = fit(
        X,
        **(conv(**networks) if of_images else networks),
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
        **(decoded(model, rows) if of_images else {}),
        "epochs": epochs,
        "collapse": [curve.thresholds.tolist() for curve in curves],
    }


def settings_of(scale, of_images):
    """Return the settings of the runs by (kind, sigma2, annealed or not)."""
    kinds = {
        **{("fixed", noise): held(noise) for noise in scale.fixed},
        **{("learned", noise): learned(noise) for noise in scale.starts},
        **{("closed form", noise): learned(noise, "closed_form") for noise in scale.closed},
    }
    every = {
        "n_components": scale.n_components,
        "networks": scale.networks,
        "max_epochs": scale.epochs,
        "batch_size": scale.batch_size,
        "learning_rate": scale.learning_rate,
        "epochs": sorted({max(1, round(share * scale.epochs)) for share in SHARES}),
        **of_images,
    }
    # The largest sigma2 comes first, because it matters most.
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
    """Result of a run and its collapse."""

    def __init__(self, result):
        self.result = result
        self.epochs = np.array(result["epochs"])
        self.curves = [CollapseCurve(np.array(c), 0.01, "share") for c in result["collapse"]]

    def __getitem__(self, name):
        return self.result[name]

    def dashed(self):
        """Collapse curve while the KL weight is below 1."""
        return self.curves[int(np.argmin(abs(self.epochs - DASHED * self.epochs[-1])))]

    def shares(self):
        """Percentage of collapsed dimensions after each of the epochs."""
        return np.array([100.0 * curve.at(NEARLY) for curve in self.curves])

    def early(self):
        """Return the percentage of collapsed dimensions while the KL weight is below 1."""
        return 100.0 * float(self.dashed().at(NEARLY))

    def late(self):
        """Return the percentage of collapsed dimensions at the end."""
        return float(self.shares()[-1])


def pairs_of(runs, kind):
    """Return (sigma2, run without, run with annealing) of a kind, the largest sigma2 first."""
    noises = sorted({noise for of, noise, _ in runs if of == kind}, reverse=True)
    return [(noise, runs[kind, noise, False], runs[kind, noise, True]) for noise in noises]


def told(pairs, values, form=".0f"):
    """Describe each pair as "sigma2: annealed (not annealed)"."""
    return ", ".join(
        f"{noise:g}: {values(with_it):{form}} ({values(without):{form}})"
        for noise, without, with_it in pairs
    )


def claims_of(runs, scale_name, decides):
    """Check the claims, which can fail the script only if `decides`."""
    claims = Claims(scale_name)
    fixed, free = pairs_of(runs, "fixed"), pairs_of(runs, "learned")
    closed = pairs_of(runs, "closed form")
    worst = fixed[:1]
    relief = all(annealed.early() <= plain.early() for _, plain, annealed in fixed)
    claims.add(
        "fixed sigma2: after 8 % of the epochs fewer dimensions have collapsed than without annealing"
        f" (%, at {NEARLY:g} nats)",
        "figures 7, 9: temporary relief",
        told(fixed, Run.early),
        relief and all(annealed.early() < plain.early() for _, plain, annealed in worst),
        decides=decides,
    )
    claims.add(
        "fixed sigma2: the annealed model collapses later (%, at the end; after 8 %)",
        "figures 7, 9: collapsed again",
        ", ".join(f"{n:g}: {a.late():.0f} ({a.early():.0f})" for n, _, a in fixed),
        all(annealed.late() > annealed.early() for *_, annealed in fixed)
        and all(annealed.late() > annealed.early() + 20.0 for *_, annealed in worst),
        decides=decides,
    )
    claims.add(
        f"sigma2 fixed at {worst[0][0]:g}: at the end the collapse is closer to that without "
        "annealing than to its own after 8 %",
        "figures 7, 9: the collapsed solution",
        told(fixed, Run.late),
        all(a.late() > 0.5 * (a.early() + plain.late()) for _, plain, a in worst),
        decides=decides,
    )
    claims.add(
        f"sigma2 learned from {free[0][0]:g}: annealing leads to smaller sigma2",
        "figure 8: smaller",
        told(free, lambda run: run["noise_variance"], ".3f"),
        all(a["noise_variance"] < p["noise_variance"] for _, p, a in free[:1]),
        decides=decides,
    )
    claims.add(
        "learned sigma2: annealing leads to a larger KL (nats)",
        "not published",
        told(free, lambda run: run["kl"], ".1f"),
        all(a["kl"] > p["kl"] for _, p, a in free),
        decides=False,
    )
    claims.add(
        f"sigma2 learned from {free[0][0]:g}: annealing leads to less collapse (%, at {NEARLY:g} "
        "nats)",
        "figures 8, 9: less",
        told(free, Run.late),
        all(annealed.late() < plain.late() for _, plain, annealed in free[:1]),
        decides=decides and scale_name != "smoke",
    )
    claims.add(
        f"sigma2 learned from {closed[0][0]:g}: the closed form, annealed or not, leads to smaller "
        "sigma2 than the gradient with annealing",
        "not in the paper",
        told(closed, lambda run: run["noise_variance"], ".3f"),
        all(
            max(p["noise_variance"], a["noise_variance"])
            < runs["learned", noise, True]["noise_variance"]
            for noise, p, a in closed[:1]
        ),
        decides=decides,
    )
    return claims


def table_of(runs, ppca):
    """Return a table of all measures."""
    table = Table(
        *("noise", "sigma2", "annealed", "ELBO", "tuned ELBO", "sigma2 at the end", "KL"),
        *("collapsed %, 0.01", f"collapsed %, {NEARLY:g}", f"collapsed %, {NEARLY:g}, after 8 %"),
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
    """Draw collapse over the epochs, its curves, and sigma2 and the bounds in training."""
    fig, axes = figure(3, 2, figsize=(14, 13))
    (over_epochs, fixed_curves), (noises, free_curves), bounds = axes
    for ax in (over_epochs, noises, *bounds):
        ax.axvspan(0, scale.epochs // 10, color="0.92", zorder=0)
        ax.set(xlabel="epoch", xlim=(0, scale.epochs))
    for color, (noise, plain, annealed) in zip(COLORS, pairs_of(runs, "fixed"), strict=False):
        over_epochs.plot(annealed.epochs, annealed.shares(), "-", color=color, label=f"{noise:g}")
        over_epochs.plot(plain.epochs, plain.shares(), ":", color=color)
    over_epochs.axvline(DASHED * scale.epochs, color="0.5", lw=0.8, ls="--")
    over_epochs.set(ylim=(-3, 103), ylabel=f"dimensions collapsed at {NEARLY:g} nats (%)")
    over_epochs.set_title("fixed sigma2: collapse in training")
    draw_noises(noises, runs)
    for ax, kind in zip(bounds, ("fixed", "learned"), strict=True):
        draw_bounds(ax, pairs_of(runs, kind))
        ax.set_title(f"{kind} sigma2: the bound in training")
    curves(fixed_curves, pairs_of(runs, "fixed"), "fixed sigma2: collapse by threshold")
    curves(free_curves, pairs_of(runs, "learned"), "learned sigma2: collapse by threshold")
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
    """Draw sigma2 in training."""
    lines = [
        (*pair, color, "") for color, pair in zip(COLORS, pairs_of(runs, "learned"), strict=False)
    ]
    lines += [(*pair, "k", ", closed form") for pair in pairs_of(runs, "closed form")[:1]]
    for noise, plain, annealed, color, words in lines:
        for run, style, label in ((annealed, "-", f"{noise:g}{words}"), (plain, ":", None)):
            values = [noise, *run["noise_variances"]]
            ax.plot(range(len(values)), values, style, color=color, label=label)
    ax.set(yscale="log", ylabel="sigma2")
    ax.set_title("learned sigma2 in training")


def draw_bounds(ax, pairs):
    """Draw the bound of each epoch, from the fifth on so that the start does not hide the rest."""
    for color, (_, plain, annealed) in zip(COLORS, pairs, strict=False):
        for run, style in ((annealed, "-"), (plain, ":")):
            ax.plot(range(5, 1 + len(run["bound"])), run["bound"][4:], style, color=color)
    ax.set_ylabel("ELBO (nats per image)")


def curves(ax, pairs, title):
    """Draw collapse of annealed runs at the end and after 8 % (dashed), and of others (dotted)."""
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


def report(study, scale, X, space, decides=True, **of_images):
    """Train each setting with and without annealing, and report; return runs, claims and a title.

    `space` and `of_images` are parameters of `fit`, those of the space and others. Claims that do not
    decide cannot fail the script.
    """
    settings = settings_of(scale, {**space, **of_images})
    found = study.runs(train_in_snapshots, list(settings.values()), X)
    runs = {key: Run(result) for key, result in zip(settings, found, strict=True)}
    cases = [(scale.n_components, noise) for noise in scale.fixed]
    (of_ppca,) = study.runs(references, [{**space, "cases": cases}], X)
    claims = claims_of(runs, study.arguments.scale, decides)
    table = table_of(runs, dict(zip(scale.fixed, of_ppca, strict=True)))
    write_report(study, claims, runs=table)
    n_steps = scale.epochs * -(-len(X) // scale.batch_size)
    title = f"{len(X)} images, {scale.epochs} epochs ({n_steps} steps), k = {scale.n_components}"
    lines = "solid: with KL annealing over the first tenth (gray), dotted: without"
    study.save(draw(runs, scale, f"{title}; {lines}"))
    return runs, claims, title


def main():
    """Report on MNIST."""
    study = Study(__doc__)
    scale = SCALES[study.arguments.scale]
    X, space = digits_images(study.arguments)
    _, claims, _ = report(study, scale, X[: scale.n_images], space)
    claims.exit()


if __name__ == "__main__":
    main()
