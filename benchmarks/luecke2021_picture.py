"""The picture of luecke2021_entropies.py, with one column per figure."""

import numpy as np

from sklearn_vae.plot import LatentPlaneDisplay

BLUE, ORANGE, GREEN, VIOLET, SKY = "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9"
SETTINGS = {"main": BLUE, "rate 0.005": ORANGE, "batch 100": VIOLET}


def band(ax, x, runs, color, label, **style):
    """Draw the median and the quartiles over the runs."""
    low, median, high = np.percentile(runs, [25, 50, 75], axis=0)
    ax.fill_between(x, low, high, color=color, alpha=0.25, linewidth=0)
    ax.plot(x, median, color=color, label=label, **style)


def draw(results, shape, figure):
    """Draw bounds and sums of entropies, their relative difference, and the models."""
    page, axes = figure(3, 3, figsize=(13, 12.5), height_ratios=[1.1, 0.9, 1.4])
    page.suptitle("In training the ELBO becomes a sum of three entropies (Lücke et al.)")
    titles = [
        "Figure 1: linear VAE on pPCA data\n(minus the maximum log-likelihood of pPCA)",
        "Figure 2: VAE-1 on images",
        "Figure 3: VAE-3 on the PCA ring\n(minus the log-likelihood of pPCA, k = 2)",
    ]
    for ax, title, data in zip(axes[0], titles, ("pPCA", "images", "ring"), strict=True):
        curves(ax, results[data, "main"], data)
        ax.set_title(title, fontsize="medium")
    fixed(axes[0, 0], results["pPCA", "sigma fixed"])
    likelihoods(axes[0, 0], results["pPCA", "main"])
    reference = results["images", "main"][0]["best"][0]
    axes[0, 1].axhline(reference, color="k", linestyle=":", label="pPCA, k = 2")
    axes[0, 0].set_ylabel("nats per sample")
    for ax in axes[0]:
        below(ax, 3, -0.07)
    for ax, data in zip(axes[1], ("pPCA", "images", "ring"), strict=True):
        errors(ax, results, data)
    axes[1, 0].set_ylabel("|ELBO - entropies| / |last ELBO| (%)")
    first = results["ring", "main"][0]
    pictures(axes[2, 0], results["images", "main"][0], shape)
    latent(axes[2, 1], first)
    plane(axes[2, 2], first)
    return page


def curves(ax, runs, data):
    """Draw the ELBO and the sum of entropies, minus pPCA's value if runs have their own data."""
    x, zero = runs[0]["epochs"], np.array([[run["best"][0]] for run in runs])
    zero = 0.0 * zero if data == "images" else zero
    bound, total = (np.array([run[key] for run in runs]) - zero for key in ("bound", "sum"))
    band(ax, x, bound, BLUE, "ELBO", linewidth=2.5)
    band(ax, x, total, ORANGE, "sum of entropies", linewidth=1.2)
    late = np.median(bound, axis=0)[np.array(x) > 0.1 * x[-1]]
    room = max(np.ptp(late), 0.02 * abs(late[-1]))
    ax.set_ylim(late.min() - 0.5 * room, late.max() + 0.35 * room)
    ax.set_xlim(0, x[-1])


def below(ax, ncols, low):
    """Draw a legend below the axes."""
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, low)}
    ax.legend(**place, ncols=ncols, fontsize="small", frameon=False)


def fixed(ax, runs):
    """Draw the runs with sigma fixed at a wrong value, dashed."""
    x, zero = runs[0]["epochs"], np.array([[run["best"][0]] for run in runs])
    for key, color, label in (("bound", BLUE, "$\\sigma$ fixed at 0.5"), ("sum", ORANGE, None)):
        band(ax, x, np.array([run[key] for run in runs]) - zero, color, label, linestyle="--")


def likelihoods(ax, runs):
    """Draw log-likelihoods in training, of the maximum and of the truth."""
    x = [epoch for epoch, *_ in runs[0]["on_the_way"]]
    for at, marker, label in ((0, "o", "log-likelihood"), (1, "x", "held out")):
        zero = np.array([[run["best"][0 if at == 0 else 1]] for run in runs])
        values = np.array([[each[1 + at] for each in run["on_the_way"]] for run in runs]) - zero
        style = {"linestyle": "", "marker": marker, "markerfacecolor": "none"}
        ax.plot(x, np.median(values, axis=0), color=GREEN, label=label, **style)
    truth = np.median([run["truth"][0] - run["best"][0] for run in runs])
    ax.axhline(0.0, color="k", linewidth=0.8, label="maximum (pPCA)")
    ax.axhline(truth, color="k", linestyle=":", label="ground truth")


def errors(ax, results, data):
    """Draw the relative difference, median and quartiles."""
    for name, color in SETTINGS.items():
        if runs := results.get((data, name)):
            bound, total = (np.array([run[key] for run in runs]) for key in ("bound", "sum"))
            off = 100.0 * np.abs((bound - total) / bound[:, -1:])
            some = slice(None, None, -(-off.shape[1] // 150))  # more points would overlap
            x, label = runs[0]["epochs"][some], f"{name} (runs: {len(runs)})"
            band(ax, x, off[:, some], color, label, linewidth=1.2)
    ax.axhline(0.5, color="k", linestyle=":", linewidth=0.8, label="0.5 %")
    ax.set_yscale("log")
    ax.set_xlim(0, runs_of(results, data)[0]["epochs"][-1])
    ax.set_xlabel("epoch")
    below(ax, 2, -0.16)


def runs_of(results, data):
    """Return the runs of the main setting."""
    return results[data, "main"]


def pictures(ax, run, shape):
    """Draw the images that the first run of VAE-1 decodes."""
    decoded = np.array(run["decoded"]).reshape(9, 9, -1)
    labels = ("z = (-2, -2)", "(2, -2)", "(-2, 2)")
    LatentPlaneDisplay.from_results(decoded, labels=labels, image_shape=shape, ax=ax)
    ax.set_title("VAE-1: decoded images on the latent plane\n", fontsize="medium")


def latent(ax, run):
    """Draw means and standard deviations of q(z|x), colored by angle on the ring."""
    (mean, deviation), angle = map(np.array, run["latent"]), np.array(run["angle"])
    boxes(ax, mean, deviation, 150)
    ax.scatter(*mean.T, c=angle, cmap="hsv", s=8, zorder=2)
    ax.set(xlabel="$z_1$", ylabel="$z_2$", aspect="equal")
    ax.set_title("VAE-3, latent space: $q(z|x)$, color = angle on the ring", fontsize="medium")


def plane(ax, run):
    """Draw samples and decoded means in the plane of the two principal components."""
    rows, decoded = map(np.array, run["plane"])
    ax.scatter(*rows.T, color="0.6", s=6, label="rows")
    boxes(ax, decoded, np.array(run["spread"]), 150)
    ax.scatter(*decoded.T, c=run["angle"], cmap="hsv", s=8, zorder=2, label="decoded")
    ax.set(xlabel="principal component 1", ylabel="principal component 2")
    ax.set_title("VAE-3, data space: $p(x|z)$ at the means", fontsize="medium")


def boxes(ax, centers, deviations, n):
    """Draw boxes of one standard deviation around the first n centers."""
    for (x, y), (a, b) in zip(centers[:n], deviations[:n], strict=True):
        box = ax.fill([x - a, x + a, x + a, x - a], [y - b, y - b, y + b, y + b])[0]
        box.set(facecolor="none", edgecolor=SKY, linewidth=0.5, zorder=1)
