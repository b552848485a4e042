"""The picture of dai2020_depth.py."""

import numpy as np
from dai2020_models import CURE, MODELS, VARIANTS
from study import figure

from sklearn_vae.plot import PosteriorScaleDisplay

# Colors of Okabe and Ito, with markers for print.
STYLES = {
    "AE": ("#000000", "o-"),
    "VAE": ("#0072b2", "s-"),
    "VAE, KL warm-up": ("#56b4e9", "D--"),
    "VAE, init='ppca'": ("#009e73", "^-"),
    "IWAE": ("#e69f00", "v-"),
    "Sylvester": ("#cc79a7", "P-"),
}
STARTS = {
    "torch": (("#d55e00", "v--"), "AE, torch's weights"),
    "glorot": (STYLES["AE"], "AE, Glorot's"),
    "he": (("#e69f00", "s-"), "AE, He's"),
}
BLOCK_COLORS = ("#0072b2", "#e69f00", "#009e73")


def lines(ax, curves):
    """Draw errors by depth; empty curves are skipped."""
    depths = set()
    for curve, (color, style), label in curves:
        if curve:
            ax.plot(list(curve), list(curve.values()), style, color=color, label=label, ms=5)
            depths |= set(curve)
    ax.set_xticks(sorted(depths))


def of_models(fits, models):
    """Return the curves of fully connected networks."""
    for model in models:
        yield fits.curve(model, start="ppca" if model == CURE else None), STYLES[model], model


def compared(ax, ppca, variance, what):
    """Set up a logarithmic axis of errors, with those of pPCA and of the mean."""
    from matplotlib.ticker import LogLocator, NullFormatter

    ax.axhline(ppca.noise_variance_, color="0.45", linestyle=":", label=r"pPCA's $\sigma^2$")
    ax.axhline(variance, color="0.7", linewidth=0.9, label="mean of the data")
    ax.set(xlabel="hidden layers of encoder and of decoder", ylabel=what, yscale="log")
    ax.set_ylim(top=4.0 * variance)  # room for the legend
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())


def fully_connected(ax, fits, ppca, variance):
    """Draw figure 1, left."""
    lines(ax, of_models(fits, MODELS))
    compared(ax, ppca, variance, "training error (squared, per pixel)")
    ax.set_title("Deeper networks are worse, although they\ncontain the shallower ones")


def implicit_noise(ax, fits, ppca, variance):
    """Draw gamma* of all VAEs above the autoencoder's error."""
    curves, floor = [*of_models(fits, ("VAE", *VARIANTS, CURE))], fits.curve("AE")
    lines(ax, curves)
    low = 0.7 * min(v for curve in (floor, *(c for c, *_ in curves)) for v in curve.values())
    if floor:
        top = list(floor.values())
        ax.fill_between(list(floor), low, top, color="0.9", label="below the AE's error")
    compared(ax, ppca, variance, r"$\gamma^*$")
    ax.set_ylim(bottom=low)
    ax.set_title("Implicit noise $\\gamma^*$: other bounds and\nposteriors do not lower it")


def first_weights(ax, fits, ppca, variance):
    """Draw the errors of the same networks with other initial weights."""
    starts = [(fits.curve("AE", start=s), style, label) for s, (style, label) in STARTS.items()]
    lines(ax, [*starts, *of_models(fits, [CURE])])
    compared(ax, ppca, variance, "training error (squared, per pixel)")
    ax.set_title("The rise depends on the initial weights")


def convolutions(ax, fits):
    """Draw figure 1, middle."""
    lines(ax, [(fits.curve(model, "conv"), STYLES[model], model) for model in ("AE", "VAE")])
    ax.axhline(fits.error_of_the_mean("conv"), color="0.7", zorder=0, label="mean of the data")
    ax.set(xlabel="convolutions per scale", ylabel="training error / that of the shallowest AE")
    ax.set_title("Plain convolutions")


def residual(ax, fits):
    """Draw figure 1, right."""
    numbers = sorted({blocks for _, family, _, _, blocks, _ in fits.found if family == "residual"})
    lines(
        ax,
        [
            (fits.curve("AE", "residual", blocks=n), (color, "o-"), f"AE, {n} per scale")
            for n, color in zip(numbers, BLOCK_COLORS, strict=False)
        ],
    )
    ax.set(xlabel="convolutions per block", ylabel="training error / that of the shallowest AE")
    ax.set_title("Residual blocks")


def scales(ax, fits):
    """Draw figure 2 for fully connected networks."""
    draw_scales(ax, fits.curve("VAE", what="scales"), "hidden layer{s}")
    ax.set_title("Posterior scales of the VAE approach the prior's")


def scales_of_convolutions(ax, fits):
    """Draw figure 2 for convolutions."""
    name, of_depth = fits.scales_of_convolutions()
    draw_scales(ax, of_depth, "convolution{s} per scale")
    ax.set_title(f"Posterior scales of convolutions ({name})")


def draw_scales(ax, of_depth, words):
    """Draw posterior scales of the shallowest, a medium and the deepest model."""
    depths = list(of_depth)
    shown = sorted({depths[0], depths[len(depths) // 2], depths[-1]})
    named = {f"{d} {words.format(s='s' if d > 1 else '')}": np.array(of_depth[d]) for d in shown}
    PosteriorScaleDisplay.from_results(named, ax=ax)
    ax.get_legend().remove()  # it fits between the bars instead


def draw(fits, parts, ppca, variance):
    """Draw a panel for each part."""
    errors = (fits, ppca, variance)
    panels = []
    if "fc" in parts:
        panels += [(fully_connected, errors), (scales, (fits,))]
    if "fc" in parts or "variants" in parts:
        panels += [(implicit_noise, errors)]
    if "start" in parts:
        panels += [(first_weights, errors)]
    if "conv" in parts:
        panels += [(convolutions, (fits,)), (scales_of_convolutions, (fits,))]
    if "residual" in parts:
        panels += [(residual, (fits,))]
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    drawn, axes = figure(rows, columns, figsize=(5.0 * columns, 4.2 * rows), squeeze=False)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for (panel, what), ax in zip(panels, axes.flat, strict=False):
        panel(ax, *what)
        if ax.get_legend() is None:
            compared_with = ax.get_yscale() == "log"  # these axes have room at the top
            place = {"loc": "upper left", "ncols": 2} if compared_with else {"loc": "best"}
            ax.legend(frameon=False, fontsize="small", **place)
    title = "Networks too deep to train: errors rise and posteriors widen to the prior"
    drawn.suptitle(title, fontsize="x-large")
    return drawn
