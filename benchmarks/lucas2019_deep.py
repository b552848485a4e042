"""What the scripts on the deep VAEs of Lucas et al. (2019) share: training, measures, tables.

A run is one setting, trained and measured::

    study.runs(train, settings, X)

with X (n, d) the images as levels (uint8) and each setting a dict of `space`, `n_levels`, `alpha`,
`random_state` and parameters of DeepGaussianVAE. In it

    model, rows = fit(X, device=..., checkpoint=..., **setting)     DensityPipeline, its training rows
    found = measures(model, rows)                                    a dict that JSON can hold

so that a script with more to keep of a model (reconstructions, snapshots) calls these two, and
returns DIVERGED where `fit` raises FloatingPointError. The search over learning rates and the trials
with the best one are

    results = searched(study, train, settings, rates, trials, X)     a list of Trials, one a setting

and `published(table)` gives the published rows, `comparison(...)` the table of both, and `references`
is a run that gives pPCA in the same space.

Spaces: "logit" (tables 2 and 3: u = (level + U) / 256, y = logit(alpha + (1 - 2 alpha) u)), "unit"
(tables 4 and 5: u), both scored as densities of 256-level pixels, and "scaled" (the workshop
version: level / 255 without noise, scored as that).
"""

import csv
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from study import Table, load_images

from sklearn_vae import PPCA, DeepGaussianVAE, DensityPipeline, Dequantizer, LogitTransformer
from sklearn_vae.datasets import fetch_mnist
from sklearn_vae.diagnostics import collapse_curve

NOISE_VARIANCES = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
# Nats of KL that all but 1 % of the images have at most in dimensions that count as nearly collapsed:
# Adam's steps keep idle ones between the published 0.01 and this for thousands of steps.
NEARLY = 0.1
# Of a run whose training diverges: any other rate is better.
DIVERGED = {"elbo": -np.inf}
PAPER = Path(__file__).parent / "paper_tables" / "lucas2019_tables.csv"
MEASURES = {  # of a run, and the columns of the published tables
    "elbo": ("ELBO", "elbo_mean", "elbo_std"),
    "tuned_elbo": ("tuned ELBO", "tuned_elbo_mean", "tuned_elbo_std"),
    "tuned_noise_variance": ("tuned sigma2", "tuned_noise_variance", None),
    "collapsed_percent": ("collapsed %", "collapsed_percent", None),
    "nearly_collapsed_percent": (f"at {NEARLY} nats %", None, None),
    "kl": ("KL", "kl_mean", "kl_std"),
    "noise_variance": ("sigma2 at the end", "final_noise_variance", None),
}


def published(table):
    """Rows of a published table by ("fixed" or "learned", sigma2); numbers, or None."""
    with open(PAPER, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["table"] == str(table)]
    numbers = [name for columns in MEASURES.values() for name in columns[1:] if name]
    return {
        (row["noise_variance"], float(row["init_noise_variance"])): {
            name: float(row[name]) if row[name] else None for name in numbers
        }
        for row in rows
    }


def of_paper(paper, kind, name):
    """sigma2 and a column of the rows of a kind, in the order of the published table."""
    rows = [(noise, row[name]) for (of, noise), row in paper.items() if of == kind]
    return np.array(rows, dtype=float).T


def pick(rows, kind, *names):
    """sigma2 and measures, averaged over trials, or "rate", of the (kind, sigma2, Trials) of a kind.

    An array (1 + names, rows of that kind).
    """
    found = [
        [noise, *(trials.rate if name == "rate" else trials.mean(name) for name in names)]
        for of, noise, trials in rows
        if of == kind
    ]
    return np.array(found, dtype=float).reshape(-1, 1 + len(names)).T


def digits_images(arguments):
    """Rows of levels, and the parameters of their spaces: of --data, or else MNIST.

    At smoke scale scikit-learn's digits. Their few levels leave no room for a smaller alpha: their
    logits would be far out.
    """
    if arguments.scale == "smoke" and not arguments.data:
        return load_images()[0], {"n_levels": 17, "alpha": 0.05}
    X = load_images(arguments.data)[0] if arguments.data else fetch_mnist().data
    return X, {"n_levels": 256, "alpha": 1e-6}


def held(noise_variance):
    """Parameters of DeepGaussianVAE for sigma2 held fixed."""
    return {"noise_variance": noise_variance}


def learned(start, update="gradient"):
    """Parameters of DeepGaussianVAE for sigma2 learned; the paper's way is the gradient."""
    return {"noise_variance_init": start, "noise_update": update}


def in_front(space, n_levels=256, alpha=1e-6, random_state=0):
    """Steps of a pipeline from levels to what a model sees."""
    dequantizer = ("dequantizer", Dequantizer(n_levels, random_state=random_state))
    steps = {
        "logit": [dequantizer, ("logit", LogitTransformer(alpha))],
        "unit": [dequantizer],
        "scaled": [],
    }
    return steps[space]


def as_rows(X, space, n_levels=256):
    """Levels in float32, which is what the networks then have; level / 255 where it is "scaled"."""
    rows = np.asarray(X, dtype=np.float32)
    return rows / np.float32(n_levels - 1) if space == "scaled" else rows


def fit(
    X,
    *,
    device,
    checkpoint,
    space="logit",
    n_levels=256,
    alpha=1e-6,
    random_state=0,
    **parameters,
):
    """A fitted pipeline of a DeepGaussianVAE, and the rows that it has been fitted on.

    The noise of the levels is drawn once, the same for every setting and trial; `random_state` is
    that of the training.
    """
    rows = as_rows(X, space, n_levels)
    vae = DeepGaussianVAE(
        device=device, checkpoint=checkpoint, random_state=random_state, **parameters
    )
    model = DensityPipeline([*in_front(space, n_levels, alpha), ("vae", vae)])
    return model.fit(rows), rows


def measures(model, rows):
    """What the tables and figures need of a fitted pipeline and its training rows.

    ELBO and the like in nats per sample, in the space of the rows; "bound" is that of each epoch.
    The noise that would be best is that of `tune_noise_variance`, had from the noise part of the
    entropy gap: over all rows and the draws of `elbo_`, where the function takes at least k + 1
    draws of each row.
    """
    vae = model[-1]
    log_det = float(model.log_abs_det_jacobian(rows).mean()) if len(model) > 1 else 0.0
    d = vae.n_features_in_
    excess = 1.0 - 2.0 * vae.entropy_gap_.noise / d
    elbo = float(vae.elbo_) + log_det
    latents = model[:-1].transform(rows) if len(model) > 1 else rows
    curves = {name: collapse_curve(vae, latents, criterion=name) for name in ("share", "average")}
    return {
        "elbo": elbo,
        "tuned_elbo": elbo + 0.5 * d * (excess - 1.0 - float(np.log(excess))),
        "noise_variance": float(vae.noise_variance_),
        "tuned_noise_variance": float(vae.noise_variance_ * excess),
        "collapsed_percent": 100.0 * len(vae.collapsed_dims_) / vae.n_components_,
        "kl": float(vae.kl_per_dim_.sum()),
        "bound": (vae.history_["bound"] + log_det).tolist(),
        "noise_variances": vae.history_["noise_variance"].tolist(),
        "active_dims": vae.history_["active_dims"].tolist(),
        "thresholds": {name: curve.thresholds.tolist() for name, curve in curves.items()},
    }


def train(X, *, device, checkpoint, **setting):
    """One run: what `measures` says of a setting, or DIVERGED."""
    try:
        return measures(*fit(X, device=device, checkpoint=checkpoint, **setting))
    except FloatingPointError:
        return DIVERGED


@dataclass(frozen=True)
class Trials:
    """The results of one setting at its best rate.

    Attributes
    ----------
    setting : dict
    rate : float
    results : list of dict
        Of `train`, one a seed whose training did not diverge.
    """

    setting: dict
    rate: float
    results: list

    def mean(self, name):
        """Of a measure, over the trials."""
        return statistics.fmean(result[name] for result in self.results)

    def std(self, name):
        """Of a measure, over the trials; None of a single one."""
        values = [result[name] for result in self.results]
        return statistics.stdev(values) if len(values) > 1 else None


def searched(study, function, settings, rates, trials, *arrays):
    """`Trials` of each setting, at the rate with the best training ELBO of seed 0.

    A setting with a "learning_rate" is not searched for. FloatingPointError where the training of a
    setting diverges at every rate.
    """
    tried = [
        (setting["learning_rate"],) if "learning_rate" in setting else rates for setting in settings
    ]
    pairs = [(i, rate) for i, own in enumerate(tried) for rate in own]
    found = dict(zip(pairs, _run(study, function, settings, pairs, 0, arrays), strict=True))
    best = [max(own, key=lambda rate, i=i: found[i, rate]["elbo"]) for i, own in enumerate(tried)]
    for pair in enumerate(best):
        if found[pair] == DIVERGED:
            raise FloatingPointError(f"training diverges at every rate: {settings[pair[0]]}.")
    seeds = [
        [found[pair] for pair in enumerate(best)],
        *(
            _run(study, function, settings, enumerate(best), seed, arrays)
            for seed in range(1, trials)
        ),
    ]
    results = [[_complete(r) for r in of if r != DIVERGED] for of in zip(*seeds, strict=True)]
    return [Trials(*of) for of in zip(settings, best, results, strict=True)]


def _complete(result):
    """With the dimensions that have nearly collapsed, in per cent."""
    least = np.array(result["thresholds"]["share"])
    return {**result, "nearly_collapsed_percent": 100.0 * float(np.mean(least <= NEARLY))}


def _run(study, function, settings, pairs, seed, arrays):
    """Of settings by their index, each with a rate."""
    of_runs = [{**settings[i], "learning_rate": r, "random_state": seed} for i, r in pairs]
    return study.runs(function, of_runs, *arrays)


def comparison(rows, paper=None, measured=tuple(MEASURES)):
    """The Markdown and CSV table of settings beside what is published.

    `rows` are (kind, sigma2 or None, Trials), and `paper` is what `published` gives.
    """
    heads = []
    for head, mean, _ in (MEASURES[name] for name in measured):
        heads += [head, f"{head}, published"] if mean else [head]
    table = Table("noise", "sigma2", *heads, "rate", "trials")
    for kind, noise, trials in rows:
        row, cells = (paper or {}).get((kind, noise), {}), []
        for name in measured:
            _, mean, std = MEASURES[name]
            cells.append(with_spread(trials.mean(name), trials.std(name)))
            cells += [with_spread(row.get(mean), row.get(std))] if mean else []
        table.add(
            kind, "" if noise is None else f"{noise:g}", *cells, trials.rate, len(trials.results)
        )
    return table


def add_ppca(table, references):
    """pPCA's rows to a table of `comparison`."""
    for (k, noise), found in references.items():
        cells = dict.fromkeys(table.head, "")
        cells["noise"] = f"pPCA, k = {k}" if k else "isotropic Gaussian"
        cells["sigma2"] = "ML" if noise is None else f"{noise:g}"
        cells["ELBO"] = f"{found['elbo']:.1f}"
        cells["sigma2 at the end"] = f"{found['noise_variance']:.4g}"
        cells["collapsed %"] = f"{found['collapsed_percent']:.1f}"
        cells["KL"] = f"{found['kl']:.1f}"
        table.add(*cells.values())


def with_spread(mean, std):
    """A mean and, where there is one, its standard deviation over trials, as text."""
    if mean is None:
        return ""
    form = ".1f" if abs(mean) >= 10 else ".4g"
    return f"{mean:{form}}" + ("" if std is None else f" ± {std:{form}}")


def references(X, *, device, checkpoint, space="logit", n_levels=256, alpha=1e-6, cases=()):
    """pPCA in the space of the rows, for each (n_components, sigma2 or None): a dict each.

    "elbo" is its log-likelihood, and "kl" the average KL of its exact posterior. To be run as
    `train` is; it needs neither device nor checkpoint. The solvers are exact: "auto" may take
    the randomized one, whose log-likelihood of 5000 images of MNIST was 1.3 nats too low (k = 200),
    and 24 with sigma2 held at 0.1.
    """
    rows = as_rows(X, space, n_levels).astype(np.float64)
    log_det, steps = 0.0, in_front(space, n_levels, alpha)
    if steps:
        maps = DensityPipeline(steps).fit(rows)
        log_det = float(maps.log_abs_det_jacobian(rows).mean())
        rows = maps.transform(rows)
    solver = "covariance_eigh" if len(rows) >= rows.shape[1] else "full"
    found = []
    for n_components, noise_variance in cases:
        model = PPCA(n_components, noise_variance=noise_variance, svd_solver=solver).fit(rows)
        found.append(
            {
                "elbo": float(model.score(rows)) + log_det,
                "noise_variance": float(model.noise_variance_),
                "collapsed_percent": 100.0 * len(model.collapsed_dims_) / max(n_components, 1),
                "kl": float(np.sum(model.kl_per_dim_)),
            }
        )
    return found
