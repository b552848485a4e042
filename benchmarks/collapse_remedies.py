"""What each remedy of `diagnose` buys a collapsed VAE that may not train longer than before.

Two settings whose latents collapse; held-out ELBO and dimensions that are left, for each remedy:

- held: sigma2 held too large, category (ii) of `diagnose`. Logits of dequantised MNIST, as in
  table 2 of Lucas et al. (2019).
- deep: ten hidden layers, sigma2 learned by gradient from the variance of the data, category (v).
  Dequantised Fashion-MNIST; figure 1 of Dai, Wang and Wipf (2020).

Claims. In both settings `init="ppca"` with the default noise is the best remedy, brings every
dimension back, ends above pPCA and leaves `diagnose` nothing to object to. Where sigma2 was held,
what leaves it there gains little, annealing and `init="ppca"` alike; pPCA's sigma2, held or as a
start, and the closed form gain most of what can be had, the gradient from where sigma2 was less.
Where the networks are too deep to train, annealing, a smaller rate and sigma2 from pPCA's bring no
dimension back, the closed form does by luck; fewer layers do, and `init="ppca"`.

Equal training time: the processor time (on a GPU: wall time) of an epoch, and of the rest of a fit,
is measured first, all remedies in turn, the least of several rounds. Each remedy then gets as many
epochs as come closest to the time of the untreated model. These counts are kept as the runs are, so
that the same command goes on with the same study. Medians and ranges over `random_state`, beside
pPCA with as many dimensions.

    python benchmarks/collapse_remedies.py [--scale cpu] [--data MNIST.npz FASHION.npz]
        [--output FOLDER] [--jobs 2] [--minutes 9]

The first of --data is for "held", the last for "deep"; held-out rows are others of the same file.
Without --data: digits.
"""

import csv
from pathlib import Path

import numpy as np
from collapse_settings import BEST, UNTREATED, Setting, reconstruct, spread
from study import Claims, Study, figure, write_report

SCALES = {  # rows: for training, held out; measured: rounds, epochs of each fit
    "smoke": {
        "common": {"rows": (1200, 597), "seeds": 1, "measured": (2, 3)},
        "held": {"k": 8, "layers": (32, 32), "rate": 3e-3, "epochs": 30, "noise": 7.0},
        "deep": {"k": 8, "layers": 10 * (32,), "rate": 3e-3, "epochs": 30},
    },
    "cpu": {
        "common": {"rows": (4000, 1000), "seeds": 3, "measured": (2, 2)},
        "held": {"k": 50, "layers": (128, 128), "rate": 3e-3, "epochs": 40, "noise": 30.0},
        "deep": {"k": 32, "layers": 10 * (100,), "rate": 1e-3, "epochs": 30},
    },
    "full": {
        "common": {"rows": (50000, 10000), "seeds": 5, "measured": (3, 5)},
        "held": {"k": 200, "layers": (1024, 512), "rate": 1e-3, "epochs": 1000, "noise": 30.0},
        "deep": {"k": 64, "layers": 10 * (512,), "rate": 1e-4, "epochs": 400},
    },
}
PAPER = Path(__file__).parent / "paper_tables" / "lucas2019_tables.csv"
UNKNOWN = "no value"
BLUE, ORANGE = "#0072b2", "#d55e00"


def of_both(setting, claims, category):
    """What is claimed of either setting."""
    name, k, sick = setting.name, setting.how["k"], setting.found[UNTREATED]
    claims.add(
        f"{name}: untreated, `diagnose` finds ({category}); dimensions left of {k}",
        "collapse",
        spread(setting.values(UNTREATED, "active")),
        all(category in run["categories"] and run["active"] < k for run in sick),
    )
    best = max(setting.remedies, key=setting.gain)
    # The clock says how many epochs a cure has, and at smoke scale with them which one is ahead.
    claims.add(f"{name}: the best remedy", UNKNOWN, best, best == BEST, timing=True)
    for rows, what in (("training", "elbo"), ("held-out", "held_out")):
        above = setting.values(BEST, what) - setting.bars[what]
        claims.add(
            f"{name}: {BEST}: nats above pPCA, {rows} rows",
            UNKNOWN,
            spread(above, "+.1f"),
            above.min() > 0,
            decides=what == "elbo",  # of other rows it depends on what both overfit
        )
    active = setting.values(BEST, "active")
    claims.add(
        f"{name}: {BEST}: dimensions left of {k}", UNKNOWN, spread(active), active.min() == k
    )
    claims.add(
        f"{name}: {BEST}: `diagnose` finds no harm",
        UNKNOWN,
        setting.diagnosis(BEST) or "nothing",
        all(run["healthy"] for run in setting.found[BEST]),
    )


def of_held(setting, claims):
    """Where sigma2 was held too large."""
    of_both(setting, claims, "ii")
    still = ("annealing", 'init="ppca"')
    claims.add(
        "held: what leaves sigma2 there gains less than a fifth of the closed form",
        "Lucas et al., figure 7: annealing is temporary relief",
        gains(setting, *still, "closed form"),
        max(map(setting.gain, still)) < 0.2 * setting.gain("closed form"),
    )
    good = ("held at pPCA's", "gradient, from pPCA's", "closed form")
    claims.add(
        "held: pPCA's sigma2, held or as a start, and the closed form gain over half of the best",
        f"Lucas et al., table 2, training rows: learned from 1 {published(1.0):+.1f}",
        gains(setting, *good, BEST),
        min(map(setting.gain, good)) > 0.5 * setting.gain(BEST),
        timing=True,
    )
    slow = ("gradient", "gradient, annealing")
    claims.add(
        "held: learned by gradient from where it was, sigma2 gains less than in closed form",
        f"Lucas et al., table 2, training rows: learned from 30 {published(30.0):+.1f}",
        gains(setting, *slow, "closed form"),
        max(map(setting.gain, slow)) < setting.gain("closed form"),
        timing=True,
    )
    claims.add(
        "held: with these `diagnose` does not find (ii)",
        UNKNOWN,
        "; ".join(f"{name}: {setting.diagnosis(name) or 'nothing'}" for name in good),
        not any("ii" in run["categories"] for name in good for run in setting.found[name]),
    )


def of_deep(setting, claims, autoencoder):
    """Where networks are too deep to train."""
    of_both(setting, claims, "v")
    useless = ("annealing", "rate / 3", "gradient, from pPCA's")
    active = np.concatenate([setting.values(name, "active") for name in useless])
    claims.add(
        "deep: dimensions left with annealing, a smaller rate, or sigma2 from pPCA's",
        "Dai et al., figure 1: with a warm-up no better",
        spread(active),
        active.max() == 0,
    )
    rules = ("closed form", "closed form, annealing")
    claims.add(
        "deep: the closed form, with annealing or not, brings no dimension back",
        UNKNOWN,
        "; ".join(spread(setting.values(name, "active")) for name in rules),
        max(setting.values(name, "active").max() for name in rules) == 0,
        decides=False,  # it depends on the first weights
    )
    few, active = "two hidden layers", setting.values("two hidden layers", "active")
    claims.add(
        "deep: fewer layers bring over half of the dimensions back",
        "Dai et al., figure 1: shallow networks do not fail",
        f"{spread(active)}, {gains(setting, few)} nats",
        active.min() > 0.5 * setting.how["k"] and setting.gain(few) > 0,
        timing=True,
    )
    error, bar = autoencoder["reconstruction_error"], autoencoder["pca_reconstruction_error"]
    claims.add(
        "deep: the autoencoder of the same networks is worse than PCA, to `diagnose` as well",
        "Dai et al., section 4: it is to blame",
        f"squared error {error:.3g}, PCA {bar:.3g}",
        "v" in autoencoder["categories"],
    )


def gains(setting, *names):
    """Of some remedies, in words."""
    return ", ".join(f"{name} {setting.gain(name):+.1f}" for name in names)


def published(start):
    """Nats that sigma2 learned from `start` gains over sigma2 held at 30, Lucas et al., table 2."""
    with open(PAPER, newline="", encoding="utf-8") as file:
        elbo = {
            (row["noise_variance"], float(row["init_noise_variance"])): float(row["elbo_mean"])
            for row in csv.DictReader(file)
            if row["table"] == "2"
        }
    return elbo["learned", start] - elbo["fixed", 30.0]


def draw(settings):
    """Held-out ELBO and dimensions left, by remedy."""
    rows = [len(setting.remedies) + 1 for setting in settings]
    picture, axes = figure(
        len(settings),
        2,
        figsize=(11, 0.33 * sum(rows) + 1.8),
        gridspec_kw={"width_ratios": (2.2, 1), "height_ratios": rows},
        squeeze=False,
    )
    titles = {
        "held": "held: sigma2 = {noise:g}, too large",
        "deep": "deep: {layers} hidden layers, too many",
    }
    for setting, (elbo, dimensions) in zip(settings, axes, strict=True):
        how = {**setting.how, "layers": len(setting.how["layers"])}
        elbo.set_title(titles[setting.name].format(**how), loc="left")
        _draw_elbo(setting, elbo)
        _draw_dimensions(setting, dimensions)
    picture.suptitle(
        "In the time of the collapsed training, init='ppca' with sigma2 in closed form\n"
        "cures either collapse; annealing cures neither (medians and ranges of the seeds)"
    )
    return picture


def _ordered(setting):
    return sorted(setting.remedies, key=setting.gain)


def _draw_elbo(setting, axes):
    names = _ordered(setting)
    medians = {name: np.median(setting.values(name)) for name in names}
    bar, nothing = setting.bars["held_out"], medians[UNTREATED]
    top = max(*medians.values(), bar)
    span = top - nothing
    # One that is far below would hide the others.
    least = max(
        min(setting.values(name).min() for name in names) - 0.06 * span, nothing - 0.6 * span
    )
    for row, name in enumerate(names):
        values = setting.values(name)
        color = ORANGE if name == UNTREATED else BLUE
        if medians[name] < least:
            axes.annotate(
                f"{medians[name]:.0f}",
                (0.0, row),
                (0.06, row),
                xycoords=("axes fraction", "data"),
                textcoords=("axes fraction", "data"),
                va="center",
                color=color,
                arrowprops={"arrowstyle": "->", "color": color},
            )
            continue
        axes.plot([values.min(), values.max()], [row, row], color=color, linewidth=2)
        axes.plot(medians[name], row, "o", color=color)
    axes.axvline(bar, color="k", linestyle="--", linewidth=1)
    axes.annotate(
        f"pPCA {bar:.0f} ",
        (bar, 0.02),
        xycoords=("data", "axes fraction"),
        ha="right",
        fontsize=9,
    )
    axes.axvline(nothing, color=ORANGE, linestyle=":", linewidth=1)
    labels = [f"{name} *" if setting.advises(name) else name for name in names]
    axes.set_yticks(range(len(names)), labels)
    axes.set_xlim(least, top + 0.06 * span)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel("held-out ELBO (nats per image);  * advised by diagnose")
    axes.grid(axis="x", alpha=0.3)


def _draw_dimensions(setting, axes):
    names = _ordered(setting)
    active = [setting.values(name, "active") for name in names]
    medians = np.array([np.median(values) for values in active])
    colors = [ORANGE if name == UNTREATED else BLUE for name in names]
    axes.barh(range(len(names)), medians, color=colors, alpha=0.6)
    for row, values in enumerate(active):
        axes.plot([values.min(), values.max()], [row, row], color="k", linewidth=1.5)
        axes.annotate(
            f"{medians[row]:g}",
            (values.max(), row),
            (4, 0),
            textcoords="offset points",
            va="center",
        )
    k = setting.how["k"]
    axes.set_yticks([])
    axes.set_xlim(0, 1.15 * k)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel(f"dimensions left of {k}")


def main():
    """Both settings."""
    study = Study(__doc__)
    scale, paths = SCALES[study.arguments.scale], study.arguments.data
    claims, settings = Claims(study.arguments.scale), []
    for name, which in (("held", slice(1)), ("deep", slice(-1, None))):
        files = paths and paths[which]
        settings.append(Setting(study, name, files, **scale["common"], **scale[name]))
    held, deep = settings
    networks = {**deep.networks, "max_epochs": deep.how["epochs"], "random_state": 0}
    (autoencoder,) = study.runs(reconstruct, [networks], deep.X)
    of_held(held, claims)
    of_deep(deep, claims, autoencoder)
    write_report(study, claims, held=held.table(), deep=deep.table())
    study.save(draw(settings))
    claims.exit()


if __name__ == "__main__":
    main()
