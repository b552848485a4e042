"""Each criterion for the number of dimensions is right where its assumptions hold.

Samples of models whose number of dimensions k is known are drawn again and again, and the share of
draws in which each criterion finds k is printed:

- "pPCA": 300 x 20, k = 4, the same noise variance in all directions;
- "wide": 60 x 150, k = 3, the same noise;
- "unequal noise": 300 x 20, k = 3, noise variances between 0.2 and 5, a factor model;
- "heavy tails": 300 x 20, k = 4, latent variables and noise from Student's t distribution with three
  degrees of freedom;
- "only noise": 300 x 20, k = 0;
- "missing": as "pPCA", 20 % of the values missing, for the criteria that accept it.

The weakest dimension has as much variance as the noise in one direction, which is hard to find.

Claims: on pPCA samples the Marchenko-Pastur edge and PPCACV are right in at least 80 % of the draws, and
PPCACV is with missing values, too. With unequal noise FactorAnalysisCV is right more often than every
criterion that assumes equal noise.

    python benchmarks/choose_k.py [--scale smoke] [--draws 40]
"""

import warnings

import numpy as np
from common import Verdict, parse_arguments
from sklearn.exceptions import ConvergenceWarning

from sklearn_vae import PPCACV, FactorAnalysisCV
from sklearn_vae.datasets import make_missing
from sklearn_vae.diagnostics import choose_dimensions

OPTIONS = {"draws": {"type": int, "help": "number of draws of each model"}}
MODELS = {
    "full": ("pPCA", "wide", "unequal noise", "heavy tails", "only noise", "missing"),
    "smoke": ("pPCA", "wide", "unequal noise", "missing"),  # those that decide, and wide samples
}
MOST = 7
SEARCHES = {
    "PPCACV": PPCACV(range(MOST + 1)),
    "PPCACV, one standard error": PPCACV(range(MOST + 1), selection="one_standard_error"),
    "PPCACV, entries": PPCACV(range(MOST + 1), held_out="entries"),
    "FactorAnalysisCV": FactorAnalysisCV(range(MOST + 1)),
    "FactorAnalysisCV, one s. e.": FactorAnalysisCV(
        range(MOST + 1), selection="one_standard_error"
    ),
}
NOT_WIDE = {"FactorAnalysisCV", "FactorAnalysisCV, one s. e.", "PPCACV, entries"}


def draw(name, rng):
    """Draw samples; return them and the true number of dimensions."""
    n, d, k = {"wide": (60, 150, 3), "unequal noise": (300, 20, 3), "only noise": (300, 20, 0)}.get(
        name, (300, 20, 4)
    )
    W = np.linalg.qr(rng.normal(size=(d, max(k, 1))))[0][:, :k] * np.linspace(3.0, 1.0, k)
    if name == "wide":
        W *= 2.5
    if name == "unequal noise":
        psi = np.exp(rng.uniform(np.log(0.2), np.log(5.0), size=d))
    else:
        psi = np.ones(d)
    Z, noise = rng.normal(size=(n, k)), rng.normal(size=(n, d))
    if name == "heavy tails":
        Z, noise = (rng.standard_t(3.0, size=array.shape) / 3.0**0.5 for array in (Z, noise))
    X = Z @ W.T + psi**0.5 * noise
    return (make_missing(X, 0.2, random_state=rng.integers(2**31)) if name == "missing" else X), k


def choices(name, X):
    """Return the number of dimensions by criterion."""
    found = {} if name == "missing" else dict(choose_dimensions(X, n_draws=50).choices)
    for label, search in SEARCHES.items():
        if not (name == "wide" and label in NOT_WIDE):
            found[label] = search.fit(X).n_components_
    return found


def main():
    """Print the table and decide."""
    arguments = parse_arguments(__doc__, **OPTIONS)
    verdict = Verdict(arguments.scale)
    n_draws = arguments.draws or (40 if arguments.scale == "full" else 1)
    right = {}
    for name in MODELS[arguments.scale]:
        rng = np.random.default_rng(0)
        for _ in range(n_draws):
            X, k = draw(name, rng)
            for label, choice in choices(name, X).items():
                right.setdefault(label, {}).setdefault(name, []).append(choice == k)
    share = {label: {n: np.mean(r) for n, r in row.items()} for label, row in right.items()}
    names = list(share["PPCACV"])
    print(f"share of {n_draws} draws in which the number of dimensions is right")
    print(f"| {'criterion':<27} | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for label, row in share.items():
        cells = (f"{100 * row[n]:.0f} %" if n in row else "" for n in names)
        print(f"| {label:<27} | " + " | ".join(cells) + " |")
    for label in ("Marchenko-Pastur edge", "PPCACV"):
        verdict.claim(f"{label} is right on pPCA samples", share[label]["pPCA"] >= 0.8)
    verdict.claim("PPCACV is right with missing values", share["PPCACV"]["missing"] >= 0.8)
    equal = [r["unequal noise"] for label, r in share.items() if "FactorAnalysis" not in label]
    best = max(row["unequal noise"] for label, row in share.items() if "FactorAnalysis" in label)
    verdict.claim("FactorAnalysisCV is the best with unequal noise", best > max(equal))
    verdict.exit()


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    main()
