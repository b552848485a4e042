"""Shared code of the scripts on deep VAEs of Lucas et al. (2019): training, measures, tables.

A run trains and measures one setting::

    study.runs(train, settings, X)

X holds the images as uint8 levels, of shape (n_samples, n_features). A setting is a dict of
`space`, `n_levels`, `alpha`, `random_state` and parameters of DeepGaussianVAE. `train` calls

    model, samples = fit(X, device=..., checkpoint=..., **setting)   DensityPipeline, training samples
    result = measures(model, samples)                                a dict for JSON

Scripts that store more (reconstructions, snapshots) call these two functions themselves, and return
DIVERGED if `fit` raises FloatingPointError. The search over learning rates, and trials with the best
one, are

    results = searched(study, train, settings, rates, trials, X)     a list of Trials, one per setting

`published(table)` returns the published rows, `comparison(...)` the table of both, and `references`
is a run for pPCA in the same space.

The spaces are "logit" (tables 2 and 3: u = (level + U) / 256, y = logit(alpha + (1 - 2 alpha) u)),
"unit" (tables 4 and 5: u), both scored as densities of pixels with 256 levels, and "scaled" (the
workshop version: level / 255 without noise, scored as such).
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
# A dimension has nearly collapsed if its KL is at most this many nats for 99 % of the images. Adam
# keeps inactive dimensions between the published 0.01 and this value for thousands of steps.
NEARLY = 0.1
# Result of a run that diverges, which is worse than any other.
DIVERGED = {"elbo": -np.inf}
PAPER = Path(__file__).parent / "paper_tables" / "lucas2019_tables.csv"
WORKSHOP = PAPER.with_name("workshop2019_table1.csv")
MEASURES = {  # measures of a run and columns of the published tables
    "elbo": ("ELBO", "elbo_mean", "elbo_std"),
    "tuned_elbo": ("tuned ELBO", "tuned_elbo_mean", "tuned_elbo_std"),
    "tuned_noise_variance": ("tuned sigma2", "tuned_noise_variance", None),
    "collapsed_percent": ("collapsed %", "collapsed_percent", None),
    "nearly_collapsed_percent": (f"at {NEARLY} nats %", None, None),
    "kl": ("KL", "kl_mean", "kl_std"),
    "noise_variance": ("sigma2 at the end", "final_noise_variance", None),
}


def published(table):
    """Return the rows of a published table by ("fixed" or "learned", sigma2)."""
    with open(PAPER, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["table"] == str(table)]
    numbers = [name for columns in MEASURES.values() for name in columns[1:] if name]
    return {
        (row["noise_variance"], float(row["init_noise_variance"])): {
            name: float(row[name]) if row[name] else None for name in numbers
        }
        for row in rows
    }


def published_by_workshop():
    """Return the rows of table 1 of the workshop version, as `published`."""
    numbers = [name for columns in MEASURES.values() for name in columns[1:] if name]
    with open(WORKSHOP, newline="", encoding="utf-8") as file:
        return {
            ("fixed", float(row["sigma2"])): {
                **dict.fromkeys(numbers),
                "elbo_mean": float(row["elbo"]),
                "tuned_elbo_mean": float(row["sigma2_tuned_elbo"]),
            }
            for row in csv.DictReader(file)
        }


def of_paper(paper, kind, name):
    """Return sigma2 and a column of the rows of a kind, in the order of the published table."""
    rows = [(noise, row[name]) for (of, noise), row in paper.items() if of == kind]
    return np.array(rows, dtype=float).T


def pick(rows, kind, *names):
    """Return sigma2 and mean measures (or "rate") of the rows (kind, sigma2, Trials) of a kind.

    The array has one row for sigma2 and one per name.
    """
    found = [
        [noise, *(trials.rate if name == "rate" else trials.mean(name) for name in names)]
        for of, noise, trials in rows
        if of == kind
    ]
    return np.array(found, dtype=float).reshape(-1, 1 + len(names)).T


def digits_images(arguments):
    """Return the levels of --data or MNIST, and the parameters of their spaces.

    At smoke scale they are scikit-learn's digits, whose few levels need a larger alpha.
    """
    if arguments.scale == "smoke" and not arguments.data:
        return load_images()[0], {"n_levels": 17, "alpha": 0.05}
    X = load_images(arguments.data)[0] if arguments.data else fetch_mnist().data
    return X, {"n_levels": 256, "alpha": 1e-6}


def held(noise_variance):
    """Return parameters of DeepGaussianVAE for fixed sigma2."""
    return {"noise_variance": noise_variance}


def learned(start, update="gradient"):
    """Return parameters of DeepGaussianVAE for learned sigma2; the paper uses the gradient."""
    return {"noise_variance_init": start, "noise_update": update}


def in_front(space, n_levels=256, alpha=1e-6, random_state=0):
    """Return the steps of a pipeline before the model."""
    dequantizer = ("dequantizer", Dequantizer(n_levels, random_state=random_state))
    steps = {
        "logit": [dequantizer, ("logit", LogitTransformer(alpha))],
        "unit": [dequantizer],
        "scaled": [],
    }
    return steps[space]


def as_rows(X, space, n_levels=256):
    """Convert levels to float32, and divide them by the largest one in space "scaled"."""
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
    """Fit a pipeline with a DeepGaussianVAE; return it and its training samples.

    The dequantization noise is the same for every setting and trial. `random_state` is for the
    training.
    """
    rows = as_rows(X, space, n_levels)
    vae = DeepGaussianVAE(
        device=device, checkpoint=checkpoint, random_state=random_state, **parameters
    )
    model = DensityPipeline([*in_front(space, n_levels, alpha), ("vae", vae)])
    return model.fit(rows), rows


def measures(model, rows):
    """Compute the measures of the tables and figures for a fitted pipeline.

    Bounds are in nats per sample, in the space of the samples; "bound" has one value per epoch. The
    tuned noise is that of `tune_noise_variance`, computed from the noise part of the entropy gap
    over all samples and the draws of `elbo_`. The function itself needs k + 1 draws per sample.
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
    """Train a setting; return its `measures` or DIVERGED."""
    try:
        return measures(*fit(X, device=device, checkpoint=checkpoint, **setting))
    except FloatingPointError:
        return DIVERGED


@dataclass(frozen=True)
class Trials:
    """Results of one setting at its best learning rate.

    Attributes
    ----------
    setting : dict
        The setting.
    rate : float
        Best learning rate.
    results : list of dict
        Results of `train`, one per seed, without runs that diverged.
    """

    setting: dict
    rate: float
    results: list

    def mean(self, name):
        """Return the mean of a measure over the trials."""
        return statistics.fmean(result[name] for result in self.results)

    def std(self, name):
        """Return the standard deviation of a measure over the trials; None if there is only one."""
        values = [result[name] for result in self.results]
        return statistics.stdev(values) if len(values) > 1 else None


def searched(study, function, settings, rates, trials, *arrays):
    """Return `Trials` of each setting, at the rate with the best training ELBO of seed 0.

    Settings with a "learning_rate" are not searched. FloatingPointError is raised if a setting
    diverges at every rate.
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
    """Add the percentage of nearly collapsed dimensions to a result."""
    least = np.array(result["thresholds"]["share"])
    return {**result, "nearly_collapsed_percent": 100.0 * float(np.mean(least <= NEARLY))}


def _run(study, function, settings, pairs, seed, arrays):
    """Run settings, given as pairs of index and rate."""
    of_runs = [{**settings[i], "learning_rate": r, "random_state": seed} for i, r in pairs]
    return study.runs(function, of_runs, *arrays)


def comparison(rows, paper=None, measured=tuple(MEASURES)):
    """Return a table of our and the published results.

    `rows` are (kind, sigma2 or None, Trials), and `paper` is a result of `published`.
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
    """Add rows of pPCA to a table of `comparison`."""
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
    """Format a mean and, if there is one, the standard deviation over trials."""
    if mean is None:
        return ""
    form = ".1f" if abs(mean) >= 10 else ".4g"
    return f"{mean:{form}}" + ("" if std is None else f" ± {std:{form}}")


def references(X, *, device, checkpoint, space="logit", n_levels=256, alpha=1e-6, cases=()):
    """Fit pPCA in a space for each (n_components, sigma2 or None); return a dict for each.

    "elbo" is the log-likelihood, and "kl" the average KL of the exact posterior. The signature is
    that of `train`; device and checkpoint are ignored. The solvers are exact, because "auto" may
    choose the randomized one, whose log-likelihood of 5000 images of MNIST with k = 200 was 1.3 nats
    too low, and 24 nats with sigma2 fixed at 0.1.
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
        # Dimensions beyond the rank of the data collapse if sigma2 is fixed.
        k = min(n_components, *rows.shape)
        model = PPCA(k, noise_variance=noise_variance, svd_solver=solver).fit(rows)
        n_collapsed = n_components - k + len(model.collapsed_dims_)
        found.append(
            {
                "elbo": float(model.score(rows)) + log_det,
                "noise_variance": float(model.noise_variance_),
                "collapsed_percent": 100.0 * n_collapsed / max(n_components, 1),
                "kl": float(np.sum(model.kl_per_dim_)),
            }
        )
    return found
