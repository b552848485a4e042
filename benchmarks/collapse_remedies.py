"""How much each remedy of `diagnose` improves a collapsed VAE in equal training time.

In two settings the latents collapse. For each remedy the script reports the held-out ELBO and the
number of active dimensions.

- held: sigma2 is fixed at a value that is too large, "large_noise" of `diagnose`. The data are
  logits of dequantized MNIST, as in table 2 of Lucas et al. (2019).
- deep: ten hidden layers, with sigma2 learned by gradient from the variance of the data, category
  "optimum". The data are dequantized Fashion-MNIST; see figure 1 of Dai, Wang and Wipf (2020).

Claims: in both settings `init="ppca"` with the default noise is the best remedy. It recovers all
dimensions, ends above pPCA, and `diagnose` finds nothing except that more training would help. In
"held", remedies that keep sigma2 gain little. Using the sigma2 of pPCA, fixed or as a start, and the closed form gain most of the
possible improvement; the gradient gains less from the old sigma2. In "deep", annealing, a smaller
learning rate and the sigma2 of pPCA recover no dimension, and the closed form does so only by luck.
Fewer layers and `init="ppca"` recover them.

Equal training time: the processor time (wall time on a GPU) of an epoch and of the rest of a fit is
measured first, as the minimum over several rounds. Each remedy then gets the number of epochs that
comes closest to the time of the untreated model. These numbers are stored with the runs, so a
resumed study uses the same ones. Results are medians and ranges over `random_state`, compared with
pPCA with the same number of dimensions.

    python benchmarks/collapse_remedies.py [--scale cpu] [--data MNIST.npz FASHION.npz]
        [--output FOLDER] [--jobs 2] [--minutes 9]

The first file of --data is for "held", the last for "deep". Held-out samples come from the same
file. Without --data, scikit-learn's digits are used.
"""

import csv
from pathlib import Path

import numpy as np
from collapse_settings import BEST, UNTREATED, Setting, reconstruct, spread
from study import Claims, Study, figure, write_report

SCALES = {  # rows: training and held-out samples; measured: rounds and epochs of each fit
    "smoke": {
        "common": {"rows": (600, 300), "seeds": 1, "measured": (1, 3)},
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
    """Check the claims about both settings."""
    name, k, sick = setting.name, setting.how["k"], setting.results[UNTREATED]
    claims.add(
        f"{name}: untreated, `diagnose` finds ({category}); active dimensions of {k}",
        "collapse",
        spread(setting.values(UNTREATED, "active")),
        all(category in run["categories"] and run["active"] < k for run in sick),
    )
    best = max(setting.remedies, key=setting.gain)
    # The measured time determines the epochs and thereby, at smoke scale, the best remedy.
    claims.add(f"{name}: the best remedy", UNKNOWN, best, best == BEST, timing=True)
    for rows, what in (("training", "elbo"), ("held-out", "held_out")):
        above = setting.values(BEST, what) - setting.bars[what]
        claims.add(
            f"{name}: {BEST}: nats above pPCA, {rows} samples",
            UNKNOWN,
            spread(above, "+.1f"),
            above.min() > 0,
            decides=what == "elbo",  # held out, it depends on how much each model overfits
        )
    active = setting.values(BEST, "active")
    claims.add(
        f"{name}: {BEST}: active dimensions of {k}", UNKNOWN, spread(active), active.min() == k
    )
    claims.add(
        f"{name}: {BEST}: `diagnose` finds nothing except that more training would help",
        UNKNOWN,
        setting.diagnosis(BEST) or "nothing",
        all({"unfinished"} >= set(run["categories"]) for run in setting.results[BEST]),
    )


def of_held(setting, claims):
    """Check the claims about sigma2 that is fixed and too large."""
    of_both(setting, claims, "large_noise")
    still = ("annealing", 'init="ppca"')
    claims.add(
        "held: remedies that keep sigma2 gain less than a fifth of the closed form",
        "Lucas et al., figure 7: annealing is temporary relief",
        gains(setting, *still, "closed form"),
        max(map(setting.gain, still)) < 0.2 * setting.gain("closed form"),
    )
    good = ("held at pPCA's", "gradient, from pPCA's", "closed form")
    claims.add(
        "held: pPCA's sigma2, fixed or as a start, and the closed form gain over half of the best",
        f"Lucas et al., table 2, training samples: learned from 1 {published(1.0):+.1f}",
        gains(setting, *good, BEST),
        min(map(setting.gain, good)) > 0.5 * setting.gain(BEST),
        timing=True,
    )
    slow = ("gradient", "gradient, annealing")
    claims.add(
        "held: the gradient from the old sigma2 gains less than the closed form",
        f"Lucas et al., table 2, training samples: learned from 30 {published(30.0):+.1f}",
        gains(setting, *slow, "closed form"),
        max(map(setting.gain, slow)) < setting.gain("closed form"),
        timing=True,
    )
    claims.add(
        "held: with these remedies `diagnose` does not find large_noise",
        UNKNOWN,
        "; ".join(f"{name}: {setting.diagnosis(name) or 'nothing'}" for name in good),
        not any(
            "large_noise" in run["categories"] for name in good for run in setting.results[name]
        ),
    )


def of_deep(setting, claims, autoencoder):
    """Check the claims about networks that are too deep to train."""
    of_both(setting, claims, "optimum")
    useless = ("annealing", "rate / 3", "gradient, from pPCA's")
    active = np.concatenate([setting.values(name, "active") for name in useless])
    claims.add(
        "deep: active dimensions with annealing, a smaller rate, or sigma2 from pPCA's",
        "Dai et al., figure 1: a warm-up does not help",
        spread(active),
        active.max() == 0,
    )
    rules = ("closed form", "closed form, annealing")
    claims.add(
        "deep: the closed form, with or without annealing, recovers no dimension",
        UNKNOWN,
        "; ".join(spread(setting.values(name, "active")) for name in rules),
        max(setting.values(name, "active").max() for name in rules) == 0,
        decides=False,  # it depends on the initial weights
    )
    few, active = "two hidden layers", setting.values("two hidden layers", "active")
    claims.add(
        "deep: fewer layers recover over half of the dimensions",
        "Dai et al., figure 1: shallow networks do not fail",
        f"{spread(active)}, {gains(setting, few)} nats",
        active.min() > 0.5 * setting.how["k"] and setting.gain(few) > 0,
        timing=True,
    )
    error, bar = autoencoder["reconstruction_error"], autoencoder["pca_reconstruction_error"]
    claims.add(
        "deep: the autoencoder of the same networks is worse than PCA, and `diagnose` finds it",
        "Dai et al., section 4: the autoencoder is to blame",
        f"squared error {error:.3g}, PCA {bar:.3g}",
        "optimum" in autoencoder["categories"],
    )


def gains(setting, *names):
    """Describe the gains of some remedies."""
    return ", ".join(f"{name} {setting.gain(name):+.1f}" for name in names)


def published(start):
    """Return the gain of sigma2 learned from `start` over sigma2 = 30, Lucas et al., table 2."""
    with open(PAPER, newline="", encoding="utf-8") as file:
        elbo = {
            (row["noise_variance"], float(row["init_noise_variance"])): float(row["elbo_mean"])
            for row in csv.DictReader(file)
            if row["table"] == "2"
        }
    return elbo["learned", start] - elbo["fixed", 30.0]


def draw(settings):
    """Draw the held-out ELBO and the active dimensions of each remedy."""
    rows = [len(setting.remedies) + 1 for setting in settings]
    picture, axes = figure(
        len(settings),
        2,
        figsize=(11, 0.33 * sum(rows) + 1.8),
        gridspec_kw={"width_ratios": (2.2, 1), "height_ratios": rows},
        squeeze=False,
    )
    titles = {
        "held": "held: sigma2 = {noise:g} is too large",
        "deep": "deep: {layers} hidden layers are too many",
    }
    for setting, (elbo, dimensions) in zip(settings, axes, strict=True):
        how = {**setting.how, "layers": len(setting.how["layers"])}
        elbo.set_title(titles[setting.name].format(**how), loc="left")
        _draw_elbo(setting, elbo)
        _draw_dimensions(setting, dimensions)
    picture.suptitle(
        "In equal training time, init='ppca' with closed-form sigma2 cures both kinds of collapse\n"
        "and annealing cures neither (medians and ranges over seeds)"
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
    # A remedy far below the others is drawn as an arrow.
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
    axes.set_xlabel(f"active dimensions of {k}")


def main():
    """Run both settings."""
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
