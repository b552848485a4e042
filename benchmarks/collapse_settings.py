"""The two collapsed settings of collapse_remedies.py: remedies, equal training time, results."""

import re
import time

import numpy as np
import torch
from skorch.callbacks import Callback
from study import Table, load_images

from sklearn_vae import (
    PPCA,
    DeepAutoencoder,
    DeepGaussianVAE,
    DensityPipeline,
    Dequantizer,
    LogitTransformer,
)
from sklearn_vae.diagnostics import diagnose

UNTREATED = "nothing"
BEST = 'closed form, init="ppca"'
FREE_BITS = 0.1


def remedies(name, how, noise, variance):
    """Return the parameters of each remedy and the words of `diagnose` that advise it.

    `noise` is pPCA's noise variance, `variance` that of the data, and a KL warm-up is a fraction of
    the epochs.
    """
    gradient, anneal = {"noise_update": "gradient"}, {"kl_warmup_epochs": 0.1}
    if name == "held":
        sick = {"noise_variance": how["noise"]}
        learned = {**gradient, "noise_variance_init": how["noise"]}
        learn = ("noise_variance=None",)
        own = {
            "held at pPCA's": ({"noise_variance": noise}, "or fix it at"),
            "gradient": (learned,),
            "gradient, annealing": ({**learned, **anneal},),
        }
    else:
        sick = {**gradient, "noise_variance_init": variance}
        learn = ('noise_update="closed_form"', "noise_variance_init=None")
        fewer = {**sick, "hidden_layer_sizes": how["layers"][:2]}
        own = {
            "rate / 3": ({**sick, "learning_rate": how["rate"] / 3.0}, "another learning_rate"),
            "two hidden layers": (fewer, "fewer layers"),
        }
    small = {**gradient, "noise_variance_init": noise / 10.0}
    return {
        UNTREATED: (sick,),
        "annealing": ({**sick, **anneal}, "anneal the KL"),
        "free bits": ({**sick, "free_bits": FREE_BITS},),
        'init="ppca"': ({**sick, "init": "ppca"}, 'init="ppca"'),
        **own,
        "gradient, from pPCA's / 10": (small,),
        "gradient, from pPCA's": (gradient, "noise_variance_init=None"),
        "closed form": ({}, *learn),
        "closed form, annealing": (anneal,),
        BEST: ({"init": "ppca"}, *learn, 'init="ppca"'),
    }


def now(device):
    """Return the processor time in seconds, or the wall time on a GPU."""
    on_gpu = torch.cuda.is_available() and str(device) != "cpu"
    return time.perf_counter() if on_gpu else time.process_time()


class Clock(Callback):
    """Callback that records the time of each epoch."""

    def __init__(self, device):
        self.device = device

    def on_epoch_begin(self, net, **kwargs):
        """Start the clock."""
        self.start = now(self.device)

    def on_epoch_end(self, net, **kwargs):
        """Record the time."""
        net.history.record("time", now(self.device) - self.start)


def build(device, max_epochs, **parameters):
    """Build the model with a clock."""
    if "kl_warmup_epochs" in parameters:
        warmup = max(1, round(parameters["kl_warmup_epochs"] * max_epochs))
        parameters = {**parameters, "kl_warmup_epochs": warmup}
    clock = Clock(device)
    return DeepGaussianVAE(max_epochs=max_epochs, device=device, callbacks=[clock], **parameters)


def measure(X, device, checkpoint, rounds, epochs, cases):
    """Measure the time of an epoch and of the rest of a fit, as minima over all rounds."""
    times = {name: ([], []) for name in cases}
    for _ in range(rounds):
        for name, parameters in cases.items():
            vae, start = build(device, epochs, random_state=0, **parameters), now(device)
            taken = list(vae.fit(X).history_["time"])
            times[name][0].extend(taken)
            times[name][1].append(now(device) - start - sum(taken))
    return {name: {"epoch": min(a), "rest": min(b)} for name, (a, b) in times.items()}


def equal_time(costs, epochs):
    """Return the epochs of each remedy in the time of `epochs` of the untreated model."""
    whole = costs[UNTREATED]["rest"] + epochs * costs[UNTREATED]["epoch"]
    return {
        name: max(1, round((whole - cost["rest"]) / cost["epoch"])) for name, cost in costs.items()
    }


def train(X, held_out, device, checkpoint, remedy, **parameters):
    """Fit, score and diagnose a model."""
    vae = build(device, checkpoint=checkpoint, **parameters).fit(X)
    report = diagnose(vae, X)
    return {
        "elbo": vae.elbo_,
        "held_out": vae.score(held_out),
        "active": vae.n_components - len(vae.collapsed_dims_),
        "noise_variance": vae.noise_variance_,
        "seconds": vae.history_["time"].sum(),
        "categories": report.categories,
        "healthy": report.healthy,
        "advice": report.advice,
    }


def reconstruct(X, device, checkpoint, **parameters):
    """Fit and diagnose an autoencoder."""
    model = DeepAutoencoder(device=device, checkpoint=checkpoint, **parameters).fit(X)
    report = diagnose(model, X)
    return {"categories": report.categories, **report.numbers}


class Setting:
    """Data, remedies, epochs and results of a setting.

    Attributes
    ----------
    bars : dict of str to float
        pPCA's log-likelihood of the training samples ("elbo") and the held-out samples
        ("held_out"). All scores are densities of pixels, in nats per image.
    remedies : dict
        Parameters and words of advice of each remedy.
    epochs : dict
        Number of epochs of each remedy.
    results : dict
        Results of each remedy, one per seed.
    """

    def __init__(self, study, name, paths, rows, seeds, measured, **how):
        self.name, self.how = name, how
        self._load(paths, *rows)
        # Rounded, because the settings identify stored runs and must not depend on the machine.
        variances = (self.ppca.noise_variance_, self.X.var(axis=0).mean())
        self.remedies = remedies(name, how, *(float(f"{value:.6g}") for value in variances))
        self.networks = {
            "n_components": how["k"],
            "hidden_layer_sizes": how["layers"],
            "learning_rate": how["rate"],
        }
        cases = {name: {**self.networks, **own} for name, (own, *_) in self.remedies.items()}
        rounds, epochs = measured
        (costs,) = study.runs(
            measure, [{"rounds": rounds, "epochs": epochs, "cases": cases}], self.X
        )
        self.epochs = equal_time(costs, how["epochs"])
        settings = [
            {"remedy": name, "random_state": seed, "max_epochs": self.epochs[name], **parameters}
            for seed in range(seeds)
            for name, parameters in cases.items()
        ]
        runs = study.runs(train, settings, self.X, self.held_out)
        self.results = {name: runs[i :: len(cases)] for i, name in enumerate(cases)}

    def _load(self, paths, n_train, n_test):
        images, _ = load_images(paths)
        order = np.random.default_rng(0).permutation(len(images))[: n_train + n_test]
        parts = images[order[:n_train]], images[order[n_train:]]
        maps = [("u", Dequantizer(256 if paths else 17, random_state=0))]
        if self.name == "held":
            maps.append(("y", LogitTransformer(1e-6 if paths else 0.05)))
        linear = DensityPipeline([*maps, ("ppca", PPCA(self.how["k"], svd_solver="full"))]).fit(
            parts[0]
        )
        self.ppca = linear[-1]
        self.X, self.held_out = (linear[:-1].transform(rows).astype(np.float32) for rows in parts)
        names = ("elbo", "held_out")
        self.bars = {name: linear.score(rows) for name, rows in zip(names, parts, strict=True)}
        self._shift = {
            name: float(linear.log_abs_det_jacobian(rows).mean())
            for name, rows in zip(names, parts, strict=True)
        }

    def values(self, remedy, what="held_out"):
        """Return a result of a remedy for each seed."""
        return np.array([run[what] for run in self.results[remedy]]) + self._shift.get(what, 0.0)

    def gain(self, remedy):
        """Return the gain in held-out ELBO over the untreated model, from medians."""
        return float(np.median(self.values(remedy)) - np.median(self.values(UNTREATED)))

    def diagnosis(self, remedy):
        """Return the categories that `diagnose` finds in at least one run."""
        categories = {name for run in self.results[remedy] for name in run["categories"]}
        return ", ".join(sorted(categories))

    def advises(self, remedy):
        """Return whether `diagnose` advises just this remedy for the untreated model."""
        _, *words = self.remedies[remedy]
        texts = [
            text
            for run in self.results[UNTREATED]
            for text in run["advice"]
            if set(re.findall(r"\w+=[^\s,]+", text)) <= set(words)
        ]
        return bool(words) and all(any(word in text for text in texts) for word in words)

    def table(self):
        """Return a table of pPCA and all remedies."""
        table = Table(
            "remedy",
            "advised",
            "epochs",
            "seconds",
            "held-out ELBO",
            "range",
            "gain",
            "training ELBO",
            "active dimensions",
            "sigma2",
            "diagnosis",
        )
        untreated = np.median(self.values(UNTREATED))
        bar, noise = self.bars, float(self.ppca.noise_variance_)
        first = ("pPCA", "", "", "", bar["held_out"], "", bar["held_out"] - untreated, bar["elbo"])
        table.add(*first, self.how["k"], noise, "")
        for name in self.remedies:
            table.add(
                name,
                "yes" if self.advises(name) else "",
                self.epochs[name],
                float(np.median(self.values(name, "seconds"))),
                float(np.median(self.values(name))),
                spread(self.values(name), ".1f"),
                self.gain(name),
                float(np.median(self.values(name, "elbo"))),
                spread(self.values(name, "active")),
                float(np.median(self.values(name, "noise_variance"))),
                self.diagnosis(name),
            )
        return table


def spread(values, form="g"):
    """Describe the range of values."""
    low, high = (f"{value:{form}}" for value in (np.min(values), np.max(values)))
    return low if low == high else f"{low} to {high}"
