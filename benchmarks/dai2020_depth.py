"""Dai, Wang and Wipf (2020), figures 1 and 2: networks too deep to train make a VAE collapse.

The claims are about errors of the training samples, the mean squared error per feature.

- Figure 1: the error of a deterministic autoencoder rises if its networks are too deep, although
  they contain the shallower ones. The expected error over q of a VAE with the same networks is
  above the autoencoder's (eq. 7) and rises with it. A KL warm-up does not change that. The networks
  are fully connected, plain convolutional or residual.
- The implicit gamma* (eq. 9), the best noise variance for the networks, is that error of the VAE.
  It grows with depth, and the autoencoder's error is its lower limit.
- Figure 2: posterior standard deviations approach 1 as depth grows, of fully connected networks and, as
  in the paper, of convolutions (of the last data set of --data, faces in the paper).
- Other bounds and posteriors, the importance-weighted bound and Sylvester flows, are no cure.
- Not in the paper: the rise is an optimization problem, because it depends on the initial weights.
  With `init="ppca"`, which starts at the linear model, the deepest networks are better than pPCA.

    python benchmarks/dai2020_depth.py [--scale cpu] [--data FASHION.npz CIFAR.npz FACES.npz]
        [--only fc start variants conv residual] [--output FOLDER] [--jobs 2] [--minutes 9]
    python benchmarks/dai2020_depth.py --only fc --data FASHION.npz --images 60000 --epochs 4
    python benchmarks/dai2020_depth.py --scale full \\
        --data fashion_mnist cifar10 cifar100 svhn celeba64

The first data set of --data is for fully connected networks, as are --images and --epochs, the others,
if any, are for convolutions, reduced to at most 32 pixels. Names are those of
`sklearn_vae.datasets.fetch_...`. The errors of convolutions are divided by that of the shallowest
autoencoder and averaged over the data sets. Without --data, scikit-learn's digits are used.

In the paper, the plain convolutions of figure 1 are those of CIFAR-100 and the residual networks are
averaged over four data sets, figure 2 has 2, 4 and 5 layers per scale, and gamma is learned by gradient
(here only at the scale "full").
"""

import sys
from pathlib import Path

import numpy as np
from dai2020_drawing import draw
from dai2020_models import ASLEEP, CURE, FIRST, MODELS, VARIANTS, train
from scipy.stats import spearmanr
from study import Claims, Study, Table, load_images, write_report

from sklearn_vae import PPCA, datasets

PARTS = ("fc", "start", "variants", "conv", "residual")
CONV_MODELS = ("AE", "VAE")

# Settings that the paper does not give are from the authors' code of that time (TwoStageVAE): k,
# batch size, Adam's learning rate, and log gamma as a parameter that starts at 0 for pixels in
# [0, 1]. Channels, epochs and the length of the KL warm-up are ours. Below the scale "full", the
# noise is learned in closed form, because log gamma could not move far enough in so few steps. It
# then stays at that of pPCA while the networks are worse than pPCA, and gamma* is computed after
# training.
PAPER = {"n_components": 64, "batch_size": 64, "learning_rate": 1e-4, "random_state": 0}
PAPER_NOISE = {"noise_update": "gradient", "noise_variance_init": 1.0}
SMALL = {"n_components": 6, "batch_size": 32, "learning_rate": 3e-3, "random_state": 0}

DEPTHS = (1, 2, 4, 6, 8, 10)
# "n": images for the fully connected networks, and per data set for convolutions. "depths": of AE
# and VAE, the other models of figure 1, other initial weights, and other bounds and posteriors.
# "convolutions": per scale. "residual": blocks per scale, and convolutions per block.
SCALES = {
    "full": {
        "n": (None, None),
        "fc": {**PAPER, "noise": PAPER_NOISE, "width": 512, "max_epochs": 200},
        "conv": {**PAPER, "noise": PAPER_NOISE, "channels": (16, 32, 64, 128), "max_epochs": 100},
        "depths": {"fc": DEPTHS, "other": DEPTHS, "start": DEPTHS, "variants": DEPTHS},
        "convolutions": (1, 2, 3, 4, 5),
        "residual": ((1, 2, 4), (2, 3, 4, 5)),
    },
    "cpu": {
        "n": (1000, 512),
        "fc": {**PAPER, "noise": {}, "learning_rate": 3e-4, "width": 512, "max_epochs": 40},
        "conv": {
            **PAPER,
            "noise": {},
            "learning_rate": 1e-3,
            "batch_size": 16,
            "channels": (8, 16, 16, 32),
            "max_epochs": 25,
        },
        "depths": {"fc": DEPTHS, "other": (1, 4, 10), "start": (4, 10), "variants": (1, 10)},
        "convolutions": (1, 2, 3, 5),
        "residual": ((1, 2), (2, 5)),
    },
    "smoke": {
        "n": (256, 64),
        "fc": {**SMALL, "noise": {}, "width": 32, "max_epochs": 20},
        "conv": {**SMALL, "noise": {}, "channels": (4, 8), "max_epochs": 10},
        "depths": {"fc": (1, 8), "other": (1, 8), "start": (8,), "variants": (1, 8)},
        "convolutions": (1, 4),
        "residual": ((1, 2), (2,)),
    },
}


def images(name, n, widest):
    """Load or fetch n images of float32 pixels in [0, 1] and their shape.

    Images wider than `widest` are reduced by averages over 2 x 2 pixels.
    """
    fetch = getattr(datasets, f"fetch_{name}", None)
    if name is None or Path(name).exists():
        X, shape = load_images(name and [name])
    elif fetch:
        found = fetch()
        X, shape = found.data, found.image_shape
    else:
        sys.exit(f"--data must be .npz files or names of data sets to fetch, got {name}.")
    largest = np.float32(16 if name is None else 255)
    blocks = []
    for rows in np.array_split(X[:n], range(1000, len(X[:n]), 1000)):
        block = rows.reshape(-1, *shape).astype(np.float32) / largest
        while block.shape[-1] > widest:
            _, c, h, w = block.shape
            block = block.reshape(-1, c, h // 2, 2, w // 2, 2).mean(axis=(3, 5))
        blocks.append(block)
    pixels = np.concatenate(blocks)
    return pixels.reshape(len(pixels), -1), pixels.shape[1:]


class Fits:
    """Results of runs by (data, family, model, start, blocks, depth)."""

    def __init__(self, study, settings):
        self.study, self.settings = study, settings
        self.found, self.variances = {}, {}

    def add(self, name, X, shape, family, points):
        """Add runs for one data set; points are (model, start, blocks, depth)."""
        common = {"family": family, "image_shape": shape}
        common |= self.settings["fc" if family == "fc" else "conv"]
        keys = ("model", "start", "blocks", "depth")
        runs = [{**dict(zip(keys, point, strict=True)), **common} for point in points]
        results = self.study.runs(train, runs, X)
        self.variances[name] = float(X.var(axis=0).mean())
        self.found |= {
            (name, family, *point): result for point, result in zip(points, results, strict=True)
        }

    def shallowest(self, family):
        """Return the error of the shallowest autoencoder for each data set."""
        errors = {}
        for (name, kind, *point, depth), result in self.found.items():
            if kind == family and point == ["AE", FIRST[family], 1]:
                errors.setdefault(name, {})[depth] = result["error"]
        return {name: by_depth[min(by_depth)] for name, by_depth in errors.items()}

    def curve(self, model, family="fc", start=None, blocks=1, what="error"):
        """Return values by depth; those of convolutions are averaged over data, errors relative."""
        wanted, curves = [model, start or FIRST[family], blocks], {}
        relative = family != "fc" and what == "error"
        units = self.shallowest(family) if relative else {}
        for (name, kind, *point, depth), result in self.found.items():
            if kind == family and point == wanted:
                value = result[what] / units[name] if relative else result[what]
                curves.setdefault(depth, []).append(value)
        curves = dict(sorted(curves.items()))
        if family == "fc":  # one data set only
            return {depth: value for depth, (value,) in curves.items()}
        return {depth: float(np.mean(values)) for depth, values in curves.items()}

    def scales_of_convolutions(self):
        """Return the name of the last data set, and posterior scales of its VAEs by depth."""
        last = [name for name, family, *_ in self.found if family == "conv"][-1]
        of = {
            key[-1]: np.array(result["scales"])
            for key, result in self.found.items()
            if key[:3] == (last, "conv", "VAE")
        }
        return last, dict(sorted(of.items()))

    def error_of_the_mean(self, family):
        """Return the error of the mean of the data, in the units of `curve`."""
        units = self.shallowest(family)
        return float(np.mean([self.variances[name] / unit for name, unit in units.items()]))

    def table(self):
        """Return a table of all results."""
        columns = ("error", "error_of_mean", "noise_variance", "elbo", "kl", "collapsed", "asleep")
        named = (*columns[:-1], "scales above 0.9", "noise variance at the end of training")
        table = Table("data", "family", "model", "first weights", "blocks", "depth", *named)
        for key, result in self.found.items():
            (last,) = result.get("noise_variances", [None])[-1:]
            table.add(*key, *(result.get(column) for column in columns), last)
        return table


def started(model):
    """Return the initial weights of fully connected networks."""
    return "ppca" if model == CURE else FIRST["fc"]


def text(curve):
    """Describe a curve."""
    return ", ".join(f"{value:.4f} ({depth})" for depth, value in curve.items())


def rise(curve):
    """Return the error of the deepest network divided by the smallest error."""
    values = list(curve.values())
    return values[-1] / min(values)


def claim_fully_connected(fits, claims):
    """Check the claims about figure 1 (left), gamma* and figure 2."""
    ae, vae, warm = (fits.curve(model) for model in MODELS if model != CURE)
    for model, curve in (("AE", ae), ("VAE", vae), ("VAE, KL warm-up", warm)):
        claims.add(
            f"figure 1, fully connected: the error of the {model} rises with the largest depths",
            "falls, then rises",
            text(curve),
            rise(curve) > 1.1,
        )
    course = fits.curve("AE", what="errors")[max(ae)]
    fall = 1.0 - course[-1] / course[-1 - max(1, len(course) // 5)]
    claims.add(
        f"the AE with {max(ae)} layers is stuck: decrease of its error in the last fifth of epochs",
        "a bad local minimum or plateau",
        f"{100 * fall:.1f} %",
        fall < 0.01,
        decides=False,
    )
    ratios = {depth: min(vae[depth], warm.get(depth, np.inf)) / ae[depth] for depth in ae}
    claims.add(
        "eq. 7: the VAE's error divided by the AE's, with or without warm-up, whichever is smaller",
        "at least 1",
        text(ratios),
        min(ratios.values()) > 0.999,
    )
    together = spearmanr(list(ae.values()), list(vae.values())).statistic
    claims.add(
        "eq. 9: gamma* grows with depth as the AE's error does, rank correlation",
        "it does",
        f"{together:.2f}",
        together > 0.7,
    )
    asleep = fits.curve("VAE", what="asleep")
    claims.add(
        f"figure 2: share of posterior standard deviations above {ASLEEP:g}",
        "grows with depth",
        text(asleep),
        asleep[max(asleep)] > asleep[min(asleep)],
    )


def claim_cure(fits, claims, ppca):
    """Check the claims about `init="ppca"`."""
    vae, start = (fits.curve(model, start=started(model)) for model in ("VAE", CURE))
    claims.add(
        f"init='ppca': the error at each depth, compared with pPCA's ({ppca.noise_variance_:.4f})",
        "not in the paper",
        text(start),
        max(start.values()) < ppca.noise_variance_,
    )
    deepest = max(start)
    claims.add(
        "init='ppca': the error of the deepest VAE divided by that from random weights",
        "not in the paper",
        f"{start[deepest] / vae[deepest]:.3f}",
        start[deepest] < vae[deepest],
    )


def claim_starts(fits, claims):
    """Check the claim about initial weights."""
    curves = {start: fits.curve("AE", start=start) for start in ("torch", "glorot", "he")}
    deepest = max(curves["torch"])
    errors = {start: curve[deepest] for start, curve in curves.items() if deepest in curve}
    claims.add(
        f"the rise is an optimization problem: AE error at depth {deepest}, by initial weights",
        "not in the paper; the network contains the shallower ones",
        ", ".join(f"{error:.4f} ({start})" for start, error in errors.items()),
        max(errors.values()) > 1.1 * min(errors.values()),
    )


def claim_variants(fits, claims):
    """Check the claims about other bounds and posteriors."""
    for model in VARIANTS:
        curve = fits.curve(model)
        claims.add(
            f"supplement: the error of the VAE with {model} also rises",
            "no cure",
            text(curve),
            rise(curve) > 1.1,
        )


def claim_convolutions(fits, claims, decides):
    """Check the claims about figure 1, middle."""
    ae, vae = (fits.curve(model, "conv") for model in CONV_MODELS)
    for model, curve in (("AE", ae), ("VAE", vae)):
        claims.add(
            f"figure 1, convolutions: the relative error of the {model} rises with the largest depths",
            "falls, then rises",
            text(curve),
            rise(curve) > 1.1,
            decides=decides,
        )
    claims.add(
        "eq. 7, convolutions: the VAE's error divided by the AE's",
        "at least 1",
        text({depth: vae[depth] / ae[depth] for depth in ae}),
        min(vae[depth] / ae[depth] for depth in ae) > 0.999,
        decides=False,
    )
    name, scales = fits.scales_of_convolutions()
    asleep = {depth: float((of > ASLEEP).mean()) for depth, of in scales.items()}
    claims.add(
        f"figure 2, convolutions on {name}: share of posterior standard deviations above {ASLEEP:g}",
        "grows with depth (faces)",
        text(asleep),
        asleep[max(asleep)] > asleep[min(asleep)],
        decides=False,
    )


def claim_residual(fits, claims, blocks, decides):
    """Check the claims about figure 1, right."""
    for n in blocks:
        curve = fits.curve("AE", "residual", blocks=n)
        claims.add(
            f"figure 1, residual, {n} block(s) per scale: relative error by convolutions per block",
            "rises with the largest depths",
            text(curve),
            rise(curve) > 1.02,
            decides=decides and n == max(blocks),
        )


def run_parts(study, settings, parts, X, names):
    """Run the parts: X is for fully connected networks, `names` are data sets for the others."""
    fits, depths = Fits(study, settings), settings["depths"]
    if "fc" in parts:
        for model in MODELS:
            chosen = depths["fc" if model in CONV_MODELS else "other"]
            points = [(model, started(model), 1, depth) for depth in chosen]
            fits.add(label(names[0]), X, None, "fc", points)
    if "start" in parts:
        points = [
            ("AE", start, 1, d) for start in ("torch", "glorot", "he") for d in depths["start"]
        ]
        fits.add(label(names[0]), X, None, "fc", points)
    if "variants" in parts:
        points = [(model, FIRST["fc"], 1, d) for d in depths["variants"] for model in VARIANTS]
        fits.add(label(names[0]), X, None, "fc", points)
    blocks, of_block = settings["residual"]
    for name in names[1:] or names:
        if not {"conv", "residual"}.intersection(parts):
            continue
        rows, shape = images(name, settings["n"][1], 32)
        if "conv" in parts:
            chosen = settings["convolutions"]
            points = [(model, FIRST["conv"], 1, depth) for depth in chosen for model in CONV_MODELS]
            fits.add(label(name), rows, shape, "conv", points)
        if "residual" in parts:
            points = [("AE", FIRST["residual"], n, depth) for n in blocks for depth in of_block]
            fits.add(label(name), rows, shape, "residual", points)
    return fits


def label(name):
    """Return the name of a data set."""
    return "digits" if name is None else Path(name).stem


def main():
    """Run the chosen parts."""
    chosen = {"nargs": "+", "choices": PARTS, "default": PARTS, "help": "parts; by default all"}
    number = {"type": int, "help": "of fully connected networks"}
    study = Study(__doc__, only=chosen, images=number, epochs=number)
    arguments = study.arguments
    parts, settings = arguments.only, SCALES[arguments.scale]
    if arguments.epochs:
        settings = {**settings, "fc": {**settings["fc"], "max_epochs": arguments.epochs}}
    names, small = arguments.data or [None], arguments.scale == "smoke"
    X, _ = images(names[0], arguments.images or settings["n"][0], np.inf)
    ppca = PPCA(settings["fc"]["n_components"], svd_solver="full").fit(X)
    fits, claims = run_parts(study, settings, parts, X, names), Claims(arguments.scale)
    if "fc" in parts:
        claim_fully_connected(fits, claims)
        claim_cure(fits, claims, ppca)
    if "start" in parts:
        claim_starts(fits, claims)
    if "variants" in parts:
        claim_variants(fits, claims)
    if "conv" in parts:
        claim_convolutions(fits, claims, decides=not small)
    if "residual" in parts:
        claim_residual(fits, claims, settings["residual"][0], arguments.scale == "full")
    write_report(study, claims, runs=fits.table())
    study.save(draw(fits, parts, ppca, float(X.var(axis=0).mean())))
    claims.exit()


if __name__ == "__main__":
    main()
