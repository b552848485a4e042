"""The first advice of `diagnose`, followed mechanically, ends in a healthy model.

Twelve bad starts are fitted to three quarters of a table. While `diagnose` finds the model not
healthy, the parameters in `report.changes` are set and the model is fitted again, at most three
times. The claims are that each chain ends healthy, and that each step improves the ELBO of the
samples that are held out, which `diagnose` sees, too.

    python benchmarks/diagnose_advice.py [--scale smoke] [--data FACES.npz]

Faces are the files of --data, with images of 16 x 16 means. Without one, digits of 4 x 4 means are used.
"""

import time
import warnings
from pathlib import Path

import numpy as np
import torch
from common import Verdict, parse_arguments
from defaults import from_file
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning

from sklearn_vae import DeepGaussianVAE
from sklearn_vae.diagnostics import diagnose

MAX_STEPS = 3
SMOKE = ("wine, raw", "sigma2 = 30", "too few epochs")


def coarse_digits():
    """Return digits of 4 x 4 means."""
    X = datasets.load_digits().images
    return X.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16)


def starts(files):
    """Return the samples and parameters of each bad start."""
    wine, cancer = datasets.load_wine().data, datasets.load_breast_cancer().data
    digits = datasets.load_digits().data
    scaled = (cancer - cancer.mean(axis=0)) / cancer.std(axis=0)
    faces = from_file(files[0])[0][:1000] if files else coarse_digits()
    small = {"hidden_layer_sizes": (64,)}
    deep = {"hidden_layer_sizes": 10 * (64,), "max_epochs": 30, "learning_rate": 3e-3}
    return {
        "wine, raw": (wine, 3, {}),
        "breast cancer, raw, k = 2": (cancer, 2, {}),
        "breast cancer, raw, k = 5": (cancer, 5, {}),
        "breast cancer, raw, k = 10": (cancer, 10, {}),
        "faces, 20 epochs": (faces, 8, {"max_epochs": 20, **small}),
        "digits, too deep": (digits, 8, deep),
        "sigma2 = 30": (digits, 8, {"noise_variance": 30.0, "max_epochs": 60, **small}),
        "too few epochs": (digits, 8, {"max_epochs": 10, **small}),
        "rate 1": (digits, 8, {"learning_rate": 1.0, "max_epochs": 60, **small}),
        "KL weight 20": (digits, 8, {"kl_weight": 20.0, "max_epochs": 60, **small}),
        "noise by gradient": (
            scaled,
            4,
            {
                "noise_update": "gradient",
                "noise_variance_init": 100.0,
                "max_epochs": 60,
                **small,
            },
        ),
        "free bits": (scaled, 4, {"free_bits": 3.0, "max_epochs": 100, **small}),
    }


def fit(model, X):
    """Fit a model, and keep its last finite parameters if training diverges."""
    try:
        return model.fit(X)
    except FloatingPointError:
        return model


def follow(X, k, options):
    """Yield the held-out ELBO, report and remedy of each step."""
    X = X[np.random.RandomState(0).permutation(len(X))]
    held_out, train = X[: len(X) // 4], X[len(X) // 4 :]
    model = DeepGaussianVAE(k, random_state=0, **options)
    for _ in range(MAX_STEPS + 1):
        report = diagnose(fit(model, train), train, X_held_out=held_out)
        yield float(model.score(held_out)), report
        if report.healthy or not report.changes:
            return
        model.set_params(**report.changes)


def main():
    """Follow the advice from each start, print the steps and decide the claims."""
    several = {"type": Path, "nargs": "*", "help": ".npz files with faces in X"}
    only = {"nargs": "*", "help": "names of starts"}
    arguments = parse_arguments(__doc__, data=several, starts=only)
    verdict = Verdict(arguments.scale)
    for name, start in starts(arguments.data).items():
        if (arguments.scale == "smoke" and name not in SMOKE) or (
            arguments.starts and name not in arguments.starts
        ):
            continue
        began, scores = time.process_time(), []
        print(name)
        for score, report in follow(*start):
            scores.append(score)
            harmful = [f for f in report.findings if f.harmful]
            text = harmful[0].title if harmful else "healthy" if report.healthy else "NOT"
            print(f"    {score:12.2f}  {text}  {report.changes or ''}", flush=True)
            if not report.healthy:
                failing = [v.text for v in report.verdicts if not v.holds]
                print("\n".join(f"{'':20s}{text}" for text in failing), flush=True)
        verdict.claim(f"{name}: ends healthy", report.healthy)
        verdict.claim(f"{name}: each step improves held-out samples", np.all(np.diff(scores) > 0))
        print(f"  {time.process_time() - began:.1f} s")
    verdict.exit()


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    main()
