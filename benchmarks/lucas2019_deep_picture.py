"""The picture of lucas2019_deep_mnist.py."""

import numpy as np
from lucas2019_deep import NEARLY, of_paper, pick, published
from study import figure

from sklearn_vae.diagnostics import CollapseCurve
from sklearn_vae.plot import CollapseDisplay

BLUE, ORANGE, GREEN, GRAY = "#0072b2", "#d55e00", "#009e73", "0.45"
FIXED, LEARNED = ("o-", BLUE), ("^-", ORANGE)
AXIS = "sigma2, fixed or initial"


def draw(r):
    """Draw six panels of the results so far."""
    fig, axes = figure(2, 3, figsize=(16.5, 9.4))
    bounds, collapse, kl, pixels, training, curves = axes.flat
    if "table_2" in r.results:
        bounds_panel(bounds, r, "table_2", "logit", 2)
        measure_panel(collapse, r, "collapsed_percent", "collapsed dimensions (%)")
        measure_panel(kl, r, "kl", "KL(q(z|x) || p(z)) (nats per image)")
        kl.set_yscale("symlog", linthresh=10.0)
        kl.set_ylim(bottom=0.0)
        bounds.set_title("Table 2 (logits): the bound is best for medium sigma2")
        collapse.set_title("Table 2: too much noise collapses the posterior")
        kl.set_title("Table 2: the KL decreases with sigma2")
    if "table_4" in r.results:
        bounds_panel(pixels, r, "table_4", "unit", 4)
        pixels.set_title("Table 4 (pixels): sigma2 >= 0.1 gives about pPCA's bound")
    if "workshop_table_1" in r.results:
        rows = r.results["workshop_table_1"]
        training_panel(training, rows, curves_panel(curves, rows))
    for ax in axes.flat:
        ax.set_visible(bool(ax.lines))
    data = "MNIST" if r.is_mnist else "other images"
    text = f"Deep VAEs and sigma2: {len(r.X)} images ({data}), {r.scale.epochs} epochs"
    if r.scale.other_epochs != r.scale.epochs:
        text += f" (lower row {r.scale.other_epochs})"
    if r.is_mnist:
        text += ". Hollow: published, 60000 images"
    fig.suptitle(text, fontsize=14)
    r.study.save(fig)


def line(ax, ours, style, label, theirs=None):
    """Draw our values, and published values with hollow markers."""
    (form, color), hollow = style, {"mfc": "none", "ms": 8, "mew": 1.3, "zorder": 1}
    ax.plot(*ours, form, color=color, label=label)
    if theirs is not None:
        ax.plot(*theirs, form[0], color=color, **hollow)


def bounds_panel(ax, r, name, space, number):
    """Draw the ELBO, as trained and with tuned sigma2, against sigma2."""
    rows, ppca = r.results[name], r.references[space]
    for kind, measure, style, label in (
        ("fixed", "elbo", FIXED, "sigma2 held"),
        ("fixed", "tuned_elbo", ("s--", GREEN), "fixed, then tuned"),
        ("learned", "elbo", LEARNED, "learned"),
    ):
        # The published tuned bounds of table 4 had not converged.
        compare = r.is_mnist and (number, measure) != (4, "tuned_elbo")
        theirs = of_paper(published(number), kind, f"{measure}_mean") if compare else None
        line(ax, pick(rows, kind, measure), style, label, theirs)
    held = ppca_held(r, space, "elbo")
    ax.plot(*held, ":", color=GRAY, label="pPCA, fixed sigma2")
    best, isotropic = ppca[r.k, None]["elbo"], ppca[0, None]["elbo"]
    ax.axhline(best, color=GRAY, lw=0.9, label=f"pPCA, k = {r.k}")
    ax.axhline(isotropic, color=GRAY, lw=0.9, ls="-.", label="isotropic Gaussian")
    tuned = pick(rows, "fixed", "tuned_elbo")[1]
    top, low = max(best, tuned.max()), min(isotropic, held[1][held[0].argmax()])
    ax.set(xscale="log", xlabel=AXIS, ylabel="ELBO (nats per image)")
    ax.set_ylim(low - 0.55 * (top - low), top + 0.2 * (top - low))
    ax.legend(fontsize=8, loc="lower left" if number == 4 else "best")


def ppca_held(r, space, name):
    """Return a measure of pPCA with fixed sigma2."""
    cases = r.references[space].items()
    return np.array([(noise, found[name]) for (_, noise), found in cases if noise]).T


def measure_panel(ax, r, name, label):
    """Draw a measure against sigma2."""
    column = {"kl": "kl_mean"}.get(name, name)
    for kind, style in (("fixed", FIXED), ("learned", LEARNED)):
        text = "sigma2 held" if kind == "fixed" else "learned"
        if name == "collapsed_percent":
            nearly = pick(r.results["table_2"], kind, "nearly_collapsed_percent")
            ax.plot(*nearly, "x--", color=style[1], lw=0.8, label=f"{text}, at {NEARLY} nats")
        theirs = of_paper(published(2), kind, column) if r.is_mnist else None
        line(ax, pick(r.results["table_2"], kind, name), style, text, theirs)
    ax.plot(*ppca_held(r, "logit", name), ":", color=GRAY, label="pPCA, fixed sigma2")
    ax.set(xscale="log", xlabel=AXIS, ylabel=label)
    ax.legend(fontsize=8)


def curves_panel(ax, rows):
    """Draw workshop figure 4, dimensions by their average KL; return the lines by setting."""
    curves = {}
    for kind, noise, trials in rows:
        thresholds = np.array(trials.results[0]["thresholds"]["average"])
        name = f"{noise:g}, {'fixed' if kind == 'fixed' else 'initial'}"
        curves[name] = CollapseCurve(thresholds, 0.01, "average")
    lines = CollapseDisplay.from_results(curves, ax=ax).lines_
    for name, drawn in lines.items():
        drawn.set_linestyle("-" if name.endswith("held") else "--")
    ax.set(xlabel="epsilon: average KL of a dimension (nats)")
    ax.set_title("Workshop, figure 4: dimensions with KL below epsilon")
    ax.set_xlim(left=1e-5)
    ax.legend(fontsize=8, title="sigma2", loc="center left")
    return lines


def training_panel(ax, rows, lines):
    """Draw workshop figure 3, the bound of each epoch."""
    last = []
    for (*_, trials), (name, like) in zip(rows, lines.items(), strict=True):
        bound = trials.results[0]["bound"]
        epochs = np.arange(1, len(bound) + 1)
        ax.plot(epochs, bound, ls=like.get_linestyle(), color=like.get_color(), label=name)
        last.append(bound[-1])
    span = max(last) - min(last)
    ax.set_ylim(min(last) - 0.5 * span, max(last) + 0.1 * span)
    ax.set(xlabel="epoch", ylabel="training ELBO (nats, pixels / 255)")
    ax.set_title("Workshop, figure 3: the bound in training")
    ax.legend(fontsize=8, title="sigma2")
