"""The pictures of the scripts on faces."""

import base64

import numpy as np
from lucas2019_deep import pick
from study import figure

from sklearn_vae.plot import LatentPlaneDisplay, ReconstructionDisplay

KINDS = {  # marker, line, color, legend
    "fixed": ("o", "-", "#0072b2", "sigma2 fixed"),
    "learned": ("^", "-", "#d55e00", "initial, gradient"),
    "closed form": ("s", "-", "k", "initial, closed form"),
}
MOST_HELD = 4
SPACES = {"logit": ("logits", 3), "unit": ("pixels", 5)}


def as_text(levels):
    """Encode images of integer levels as text for JSON."""
    return base64.b64encode(levels.astype(np.uint8).tobytes()).decode()


class Decoded:
    """Images, reconstructions and latent planes of models, given as results of runs by name.

    Attributes
    ----------
    images : ndarray of shape (n_samples, n_features)
        Images.
    reconstructed : dict of str to ndarray of shape (n_samples, n_features)
        Reconstructions by the name of the model.
    planes : dict of str to ndarray of shape (m, m, n_features)
        Decoded planes by the name of the model.
    """

    def __init__(self, results, X, image_shape):
        d, self.shape = X.shape[1], image_shape
        self.reconstructed = {
            name: as_levels(result["reconstructed"], d) for name, result in results.items()
        }
        self.images = X[: len(next(iter(self.reconstructed.values())))]
        planes = {name: as_levels(result["plane"], d) for name, result in results.items()}
        self.planes = {
            name: plane.reshape(2 * (round(len(plane) ** 0.5),) + (d,))
            for name, plane in planes.items()
        }


def chosen_of(rows):
    """Return the first trials of some fixed sigma2, the best learned by gradient, a closed form."""
    fixed, free, closed = ([row for row in rows if row[0] == kind] for kind in KINDS)
    some = np.unique(np.linspace(0, len(fixed) - 1, MOST_HELD).round().astype(int))
    chosen = [
        *(fixed[i] for i in some),
        max(free, key=lambda row: row[2].mean("elbo")),
        closed[0],
    ]
    return {name_of(kind, noise): trials.results[0] for kind, noise, trials in chosen}


def as_levels(text, n_features):
    """Decode the images of `as_text`."""
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(-1, n_features)


def name_of(kind, noise):
    """Return the name of a model in the pictures."""
    return f"{noise:g}, fixed" if kind == "fixed" else f"{kind} from {noise:g}"


def draw_tables(found, references, papers, told):
    """Draw bound, collapse and KL against sigma2 in both spaces."""
    fig, axes = figure(2, 3, figsize=(15.5, 8.6))
    for line, (space, rows) in zip(axes, found.items(), strict=True):
        words, number = SPACES[space]
        ppca = {noise: of for (_, noise), of in references[space].items() if noise}
        bound, collapse, kl = line
        curves(bound, rows, "elbo")
        noises, tuned = pick(rows, "fixed", "tuned_elbo")
        bound.plot(noises, tuned, "o--", color="#009e73", label="fixed, then tuned")
        isotropic = references[space][0, None]["elbo"]
        bound.axhline(isotropic, color="0.45", lw=0.9, ls="-.", label="isotropic Gaussian")
        top = max(trials.mean("tuned_elbo") for *_, trials in rows)
        low = min(isotropic, min(trials.mean("elbo") for *_, trials in rows))
        low = max(low, top - 4.0 * (top - isotropic))
        bound.set_ylim(low - 0.05 * (top - low), top + 0.1 * (top - low))
        bound.set_ylabel("ELBO (nats per image)")
        bound.set_title(f"Table {number}, {words}: the bound")
        curves(collapse, rows, "collapsed_percent")
        collapse.set(ylim=(-3, 103), ylabel="dimensions collapsed at 0.01 nats (%)")
        collapse.set_title("Large sigma2 collapses the posterior")
        curves(kl, rows, "kl")
        kl.set(yscale="log", ylabel="KL (nats per image)")
        kl.set_title("The KL decreases with sigma2 (0: below the axes)")
        collapse.plot(
            list(ppca), [of["collapsed_percent"] for of in ppca.values()], ":", color="0.45"
        )
        kl.plot(list(ppca), [of["kl"] for of in ppca.values()], ":", color="0.45", label="pPCA")
        theirs(collapse, papers[number], "collapsed_percent")
        theirs(kl, papers[number], "kl_mean")
        kl.set_ylim(bottom=1.0)
        for ax in line:
            ax.set(xscale="log", xlabel="sigma2, fixed or initial")
    axes[0, 0].legend(fontsize="small", loc="lower center")
    axes[0, 2].legend(fontsize="small", loc="lower left")
    fig.suptitle(told + ("; hollow: published, CelebA" if papers[3] else ""))
    return fig


def curves(ax, rows, name):
    """Draw a measure of each kind."""
    for kind, (marker, line, color, label) in KINDS.items():
        ax.plot(*pick(rows, kind, name), marker + line, color=color, label=label)


def theirs(ax, paper, name):
    """Draw published values with hollow markers."""
    for kind, (marker, _, color, _) in KINDS.items():
        values = [(noise, row[name]) for (of, noise), row in paper.items() if of == kind]
        style = {"color": color, "mfc": "white", "alpha": 0.6, "lw": 0.8, "zorder": 1}
        if values:
            ax.plot(*np.array(values).T, marker + "--", **style)


def draw_reconstructions(decoded, told):
    """Draw images and their reconstructions."""
    import matplotlib.pyplot as plt

    most = max(len(of.reconstructed) for of in decoded.values())
    fig = plt.figure(figsize=(7 * len(decoded), 0.5 + 0.95 * (most + 1)), layout="constrained")
    for part, (space, of) in zip(
        fig.subfigures(1, len(decoded), squeeze=False)[0], decoded.items(), strict=True
    ):
        ax = part.subplots()
        ReconstructionDisplay.from_results(
            of.images, of.reconstructed, image_shape=of.shape, limits=(0, 255), ax=ax
        )
        ax.set_anchor("N")
        ax.set_xlabel("numbers: root mean square error, in levels of 256", fontsize="small")
        part.suptitle(f"sigma2 in the space of {SPACES[space][0]}", fontsize="medium")
    fig.suptitle(f"More noise, fewer details: {told}")
    return fig


def draw_planes(decoded, told):
    """Draw planes through three images for a large, medium, small and learned sigma2."""
    import matplotlib.pyplot as plt

    of = decoded["logit"]
    fixed = [name for name in of.planes if "fixed" in name]
    learned = [name for name in of.planes if name not in fixed]
    chosen = [fixed[0], fixed[len(fixed) // 2], fixed[-1], learned[-1]]
    fig = plt.figure(figsize=(4.1 * len(chosen), 4.9), layout="constrained")
    for part, name in zip(fig.subfigures(1, len(chosen)), chosen, strict=True):
        ax = part.subplots()
        LatentPlaneDisplay.from_results(
            of.planes[name],
            labels=("image 1", "image 2", "image 3"),
            image_shape=of.shape,
            limits=(0, 255),
            ax=ax,
        )
        part.suptitle(f"sigma2 {name}", fontsize="medium")
    fig.suptitle(f"The plane through three images: {told}")
    return fig
