"""Figures 1 to 3 of Lücke, Forster and Dai: in training the ELBO becomes a sum of three entropies.

At every stationary point of a Gaussian VAE the ELBO is H[q(z|x)] - H[p(z)] - H[p(x|z)]. After
training this holds approximately: |ELBO - entropies| / |ELBO| is below 0.5 %, or below 1 % for VAE-3
with batches of 100 or a learning rate of 0.005.

- Figure 1: the linear VAE on data of pPCA, where both also become the maximum log-likelihood. If
  sigma is fixed at a wrong value, the noise part of the gap, d/2 (1 - sigma*^2 / sigma^2), remains;
  sigma* is the best value for the networks.
- Figure 2: VAE-1 (one sigma) on MNIST.
- Figure 3: VAE-3 (sigma depends on the feature and on z) on the PCA ring of the paper, eq. 79 to 81
  (`ring_of="samples"`). The authors' code draws another ring ("latents"), whose noise does not depend
  on z; it is in the tables, too.

    python benchmarks/luecke2021_entropies.py --scale smoke
    python benchmarks/luecke2021_entropies.py --data MNIST_TRAIN.npz [MNIST_TEST.npz]
    python benchmarks/luecke2021_entropies.py --scale full --data ... [--device cuda] [--minutes 9]

Settings of the authors' code (Learning-with-Entropies/ELBO-Entropies-AISTATS23, verification/): 10000
training and 10000 held-out samples, new in each run; H = 2, batches of 2000, 100 draws of z, Adam at
1e-3, hidden layers of 50 and 50; 1500 epochs (pPCA), 200 (60000 images), 3000 (ring); 10, 10 and 100
runs. The noise variance starts at softplus(0)^2 = 0.480. Images are in [0, 1]; without --data they
are scikit-learn's digits.

Our models differ: the data are centered and scaled for the networks, log-variances are learned
instead of softplus of standard deviations, and the linear VAE starts at a random decoder with its
best encoder.
"""

import math

import numpy as np
from luecke2021_picture import draw
from study import Claims, Study, Table, figure, load_images, write_report

from sklearn_vae import PPCA, DeepGaussianVAE, LinearVAE, Snapshot
from sklearn_vae.datasets import make_ppca, make_ppca_ring
from sklearn_vae.diagnostics import entropy_bound, tune_noise_variance

START = math.log(2.0) ** 2  # initial noise variance, softplus(0)^2
SIGMA = 0.1  # sigma of the generated data
WRONG = 0.5  # fixed sigma of the authors
AUTHORS = {"batch": 2000, "rate": 1e-3}
RATE, BATCH = {"rate": 5e-3}, {"batch": 100}
CLOSED = {"closed_form": True}
CODE = {"ring_of": "latents"}

# Numbers of runs and their settings. "others": runs of the settings other than "main". "share":
# fraction of the epochs for batches of 100.
SCALES = {
    "full": {
        "pPCA": (10, {"rows": 10000, "epochs": 1500, "draws": 100, **AUTHORS}),
        "images": (10, {"rows": 60000, "epochs": 200, "draws": 100, **AUTHORS}),
        "ring": (100, {"rows": 10000, "epochs": 3000, "draws": 100, **AUTHORS}),
        "others": 10,
        "share": 1.0,
    },
    "cpu": {
        "pPCA": (5, {"rows": 10000, "epochs": 1500, "draws": 5, **AUTHORS}),
        "images": (3, {"rows": 50000, "epochs": 60, "draws": 1, "batch": 500, "rate": 1e-3}),
        "ring": (5, {"rows": 10000, "epochs": 1000, "draws": 5, **AUTHORS}),
        "others": 2,
        "share": 0.2,
    },
    "smoke": {
        "pPCA": (2, {"rows": 1000, "epochs": 100, "draws": 20, "batch": 100, "rate": 5e-3}),
        "images": (1, {"rows": 700, "epochs": 15, "draws": 1, "batch": 50, "rate": 3e-3}),
        "ring": (1, {"rows": 500, "epochs": 30, "draws": 2, "batch": 50, "rate": 3e-3}),
        "others": 1,
    },
}
SETTINGS = {
    "pPCA": {
        "main": {"followed": True},
        "rate 0.005": RATE,
        "batch 100": BATCH,
        "sigma fixed": {"noise": WRONG**2},
        "closed form": CLOSED,
    },
    "images": {"main": {}, "closed form": CLOSED},
    "ring": {"main": {}, "rate 0.005": RATE, "batch 100": BATCH, "ring of the code": CODE},
}
MODELS = {"pPCA": "linear VAE, pPCA data", "images": "VAE-1, images", "ring": "VAE-3, PCA ring"}


def marks(epochs, n=25):
    """Return the epochs to evaluate, more densely at the start of training."""
    return sorted({round(epochs ** (i / (n - 1))) for i in range(n)})


def measured(model, X, draws):
    """Estimate the ELBO, the sum of entropies and the parts of their gap from draws of z.

    The draws are fresh for each sample, as in the authors' code.
    """
    mean, variance = (array.astype(np.float64) for array in model.posterior(X))
    rng, (_, d) = np.random.default_rng(0), X.shape
    squares, logs = 0.0, 0.0
    for _ in range(draws):
        Z = mean + np.sqrt(variance) * rng.standard_normal(mean.shape)
        decoded, noise = model.conditional(Z.astype(X.dtype))
        squares += float(((X - decoded) ** 2 / noise).mean(dtype=np.float64)) * d / draws
        logs += float(np.log(noise).mean(dtype=np.float64)) * d / draws
    moment, log_variance = (mean**2 + variance).mean(axis=0), np.log(variance).mean(axis=0)
    kl = 0.5 * float((moment - 1.0 - log_variance).sum())
    constant = d * math.log(2.0 * math.pi)
    return {
        "elbo": -0.5 * (constant + logs + squares) - kl,
        "entropies": 0.5 * (float(log_variance.sum()) - constant - d - logs),
        "noise": 0.5 * (d - squares),
        "dimensions": 0.5 * (1.0 - moment),
    }


def exact(model, X):
    """Compute the results of `measured` for a linear VAE in closed form."""
    found = entropy_bound(model, X)
    parts = {"noise": found.gap.noise, "dimensions": found.gap.dimensions}
    return {"elbo": found.elbo, "entropies": found.bound, **parts}


def run_linear(
    *,
    device,
    checkpoint,
    seed,
    rows,
    epochs,
    batch,
    rate,
    draws,
    noise=None,
    closed_form=False,
    followed=False,
):
    """Train the linear VAE on data of pPCA with new W and mu."""
    X, _, truth = make_ppca(2 * rows, noise_variance=SIGMA**2, return_model=True, random_state=seed)
    X, held_out = np.split(X.astype(np.float32), 2)
    model = LinearVAE(2, noise_variance=noise, checkpoint=checkpoint, random_state=seed)
    if not closed_form:
        model.set_params(
            solver="stochastic",
            noise_variance_init=None if noise else START,
            learning_rate=rate,
            max_iter=epochs,
            batch_size=batch,
            n_mc_samples=draws,
            device=device,
        )
    model.fit(X)
    best = PPCA(2).fit(X)
    found = {
        **curves(model),
        "fitted": exact(model, X),
        "held_out": exact(model, held_out),
        "of_draws": measured(model, X, draws),
        "likelihood": [float(model.log_likelihood(A).mean()) for A in (X, held_out)],
        "best": [best.elbo_, best.score(held_out)],
        "truth": [float(truth.log_prob(A).mean()) for A in (X, held_out)],
        "tuned": tune_noise_variance(model, X).noise_variance,
    }
    if noise:
        there = PPCA(2, noise_variance=noise).fit(X)
        found["optimum"] = there.elbo_ - there.entropy_bound_
    if followed:  # intermediate models are those of shorter trainings
        found["on_the_way"] = []
        for epoch in marks(epochs, 9)[1:-1]:
            early = model.set_params(max_iter=epoch).fit(X)
            values = [float(early.log_likelihood(A).mean()) for A in (X, held_out)]
            found["on_the_way"].append([epoch, *values])
    return found


def fit_deep(X, held_out, *, device, checkpoint, seed, epochs, batch, rate, draws, **options):
    """Fit a VAE; return it and its results at the end."""
    model = DeepGaussianVAE(
        2,
        hidden_layer_sizes=(50, 50),
        noise_variance_init=START,
        n_mc_samples=draws,
        learning_rate=rate,
        max_epochs=epochs,
        batch_size=batch,
        device=device,
        checkpoint=checkpoint,
        checkpoint_every=50,
        random_state=seed,
        **options,
    ).fit(X)
    ppca = PPCA(2).fit(X)
    return model, {
        "fitted": measured(model, X, 20),
        "held_out": measured(model, held_out, 20),
        "best": [ppca.elbo_, ppca.score(held_out)],
    }


def curves(model):
    """Return the ELBO and the sum of entropies of each epoch, from the draws in training."""
    history = model.history_
    of_z = history["posterior_entropy"] - history["prior_entropy"]
    n = len(of_z)
    epochs = np.arange(n) + (n == model.n_iter_)  # the start may also be recorded
    return {"epochs": epochs, "bound": history["bound"], "sum": of_z - history["noise_entropy"]}


def run_images(X, held_out, *, rows, closed_form=False, **settings):
    """Train VAE-1 on `rows` images; the first run also decodes a grid of z."""
    update = "closed_form" if closed_form else "gradient"
    model, found = fit_deep(X, held_out, noise_update=update, **settings)
    found.update(curves(model))
    if settings["seed"] == 0:
        Z = np.mgrid[0:9, 0:9].reshape(2, -1).T[:, ::-1] * 0.5 - 2.0
        found["decoded"] = np.round(model.inverse_transform(Z.astype(X.dtype)), 3)
    return found


def run_ring(*, rows, seed, ring_of="samples", **settings):
    """Train VAE-3 on data with new W and mu; the first run also returns 400 posteriors."""
    X, Z = make_ppca_ring(2 * rows, noise_variance=SIGMA**2, ring_of=ring_of, random_state=seed)
    X, held_out = np.split(X.astype(np.float32), 2)
    callbacks = [Snapshot(epochs=marks(settings["epochs"]))]
    settings.update(seed=seed, noise_model="heteroscedastic", callbacks=callbacks)
    model, found = fit_deep(X, held_out, **settings)
    found["epochs"] = sorted(model.snapshots_)
    at = [measured(model.snapshots_[epoch], X, 20) for epoch in found["epochs"]]
    found["bound"], found["sum"] = ([each[key] for each in at] for key in ("elbo", "entropies"))
    if seed == 0:
        mean, variance = model.posterior(X[:400])
        decoded, noise = model.conditional(mean)
        plane = PPCA(2).fit(X)
        found["latent"] = [mean, np.sqrt(variance)]
        found["angle"] = np.arctan2(*Z[: len(mean)].T[::-1])
        found["plane"] = [plane.transform(X[:400]), plane.transform(decoded)]
        found["spread"] = np.sqrt(noise @ plane.components_.T**2)
    return found


def all_runs(study):
    """Return results by data set and setting, the main ones first."""
    scale, results = SCALES[study.arguments.scale], {}
    images, shape = load_images(study.arguments.data)
    images = (images / images.max()).astype(np.float32)
    n = min(len(images) // 6, 10000)
    images, held_out = images[:-n][: scale["images"][1]["rows"]], images[-n:]
    arrays = {"images": (images, held_out)}
    functions = {"pPCA": run_linear, "images": run_images, "ring": run_ring}
    every = [(data, name) for data, names in SETTINGS.items() for name in names]
    for data, name in sorted(every, key=lambda each: each[1] != "main"):
        (repeats, settings), other = scale[data], SETTINGS[data][name]
        if study.arguments.scale == "smoke" and other in (RATE, BATCH):
            continue
        count = repeats if name == "main" else min(repeats, scale["others"])
        if other == BATCH:
            settings = {**settings, "epochs": round(scale["share"] * settings["epochs"])}
        each = [{**settings, **other, "seed": seed} for seed in range(count)]
        results[data, name] = study.runs(functions[data], each, *arrays.get(data, ()))
    return results, shape


def error(found):
    """Return |ELBO - entropies| / |ELBO| in percent."""
    return 100.0 * abs(found["elbo"] - found["entropies"]) / abs(found["elbo"])


def quartiles(values):
    """Return the lower quartile, the median and the upper quartile."""
    return np.percentile(values, [25, 50, 75])


def tables(results):
    """Return tables of errors and of the parts of the gap, as medians over the runs."""
    errors = Table(
        *("model", "setting", "runs", "error, %", "lower quartile", "upper quartile"),
        *("held out, error, %", "ELBO", "entropies", "held out, ELBO", "pPCA, k = 2"),
    )
    gaps = Table("model", "setting", "ELBO - entropies", "noise part", "dimension 1", "dimension 2")
    for (data, name), runs in results.items():
        fitted, held_out = ([run[rows] for run in runs] for rows in ("fitted", "held_out"))
        low, median, high = quartiles([error(each) for each in fitted])
        of_held_out = np.median([error(each) for each in held_out])
        values = [np.median([each[key] for each in fitted]) for key in ("elbo", "entropies")]
        others = [np.median([each["elbo"] for each in held_out])]
        others.append(np.median([run["best"][0] for run in runs]))
        row = (median, low, high, of_held_out, *values, *others)
        errors.add(MODELS[data], name, len(runs), *map(float, row))
        parts = [[e["elbo"] - e["entropies"], e["noise"], *e["dimensions"]] for e in fitted]
        gaps.add(MODELS[data], name, *map(float, np.median(parts, axis=0)))
    return {"errors": errors, "gaps": gaps}


def judge(results, claims, smoke):
    """Check the claims of the paper and those that hold for any parameters."""
    limits = {"main": 0.5, "rate 0.005": 1.0, "batch 100": 1.0}
    for (data, name), runs in results.items():
        if name in limits:
            low, median, high = quartiles([error(run["fitted"]) for run in runs])
            known = name == "main" or data == "ring"
            claims.add(
                f"{MODELS[data]}, {name}: relative error, median (quartiles); runs: {len(runs)}",
                f"below {limits[name]} %" if known else "not published",
                f"{median:.3f} % ({low:.3f} to {high:.3f})",
                median < limits[name],
                # The error of VAE-3 fluctuates around its limit with Adam's steps, and the parts of
                # VAE-1's gap cancel, so a few short runs cannot decide.
                decides=claims.scale == "full" or (data == "pPCA" and not smoke),
            )
    most = max(error(run["fitted"]) for run in results["pPCA", "closed form"])
    claims.add(
        "linear VAE at its maximum, from closed-form updates: relative error",
        "0",
        f"{most:.1e} % at most",
        most < 0.01,  # the data are float32
    )
    for data, label in MODELS.items():
        runs = results[data, "main"]
        gaps = [np.abs(np.subtract(run["bound"], run["sum"])) for run in runs]
        most, last = (np.median([f(gap) for gap in gaps]) for f in (np.max, lambda gap: gap[-1]))
        claims.add(
            f"{label}: |ELBO - entropies|, largest value and last epoch",
            "becomes small",
            f"{most:.3g} and {last:.3g} nats",
            last < 0.1 * most,
            decides=not smoke or data == "pPCA",
        )
    judge_likelihood(results, claims, smoke)
    judge_fixed(results["pPCA", "sigma fixed"], claims, smoke)
    linear = [run for (data, _), runs in results.items() if data == "pPCA" for run in runs]
    apart = max(
        abs(run["fitted"][key] - run["of_draws"][key])
        for run in linear
        for key in ("elbo", "entropies")
    )
    claims.add(
        "linear VAE: closed-form ELBO and entropies agree with the authors' estimates from draws",
        "estimated by draws",
        f"within {apart:.2g} nats",
        apart < 0.02,
    )


def judge_likelihood(results, claims, smoke):
    """Compare ELBO and log-likelihood with those of the maximum and the truth."""
    runs = [run for name in ("main", "closed form") for run in results["pPCA", name]]
    rises = [
        np.diff([run["fitted"]["elbo"], run["likelihood"][0], run["best"][0]]).min() for run in runs
    ]
    short = [run["best"][0] - run["fitted"]["elbo"] for run in results["pPCA", "main"]]
    claims.add(
        "linear VAE: ELBO <= log-likelihood <= maximum log-likelihood, all nearly equal",
        "the curves meet",
        f"gap {np.median(short):.4f} nats, largest violation {max(0.0, -min(rises)):.1e}",
        min(rises) > -1e-4 and (smoke or np.median(short) < 0.1),  # the data are float32
    )
    overfit = [run["best"][0] - run["truth"][0] for run in results["pPCA", "main"]]
    loss = [run["truth"][1] - run["best"][1] for run in results["pPCA", "main"]]
    claims.add(
        "pPCA: the maximum is above the truth on training samples and below it on held-out samples",
        "they are indistinguishable",
        f"by {np.median(overfit):.4f} and {np.median(loss):.4f} nats",
        min(*overfit, np.median(loss)) > 0.0,
    )
    gains = {
        data: np.median([r["held_out"]["elbo"] - r["best"][1] for r in results[data, "main"]])
        for data in ("images", "ring")
    }
    claims.add(
        "VAE-1 and VAE-3: held-out ELBO minus the log-likelihood of pPCA with k = 2",
        "not published",
        ", ".join(f"{gain:+.2f} ({data})" for data, gain in gains.items()),
        min(gains.values()) > 0.0,
        decides=not smoke,
    )


def judge_fixed(runs, claims, smoke):
    """Check the claims about the gap that remains if sigma is fixed."""
    noise = np.array([run["fitted"]["noise"] for run in runs])
    expected = 5.0 * (1.0 - np.array([run["tuned"] for run in runs]) / WRONG**2)
    claims.add(
        f"linear VAE, sigma fixed at {WRONG}: noise part of the gap against d/2 (1 - s*^2/sigma^2)",
        "exact for any parameters",
        f"{np.median(noise):.4f} nats, difference at most {np.abs(noise - expected).max():.1e}",
        bool((np.abs(noise - expected) < 1e-5).all()),
    )
    whole = np.array([run["fitted"]["elbo"] - run["fitted"]["entropies"] for run in runs])
    optimum = np.array([run["optimum"] for run in runs])
    claims.add(
        f"linear VAE, sigma fixed at {WRONG}: the gap at the end, and that of the best pPCA",
        "remains open (dashed)",
        f"{np.median(whole):.3f} and {np.median(optimum):.3f} nats",
        bool((whole > 1.0).all() and (smoke or np.allclose(whole, optimum, atol=0.1))),
    )


def main():
    """Do all runs, check the claims, write tables and the picture."""
    study = Study(__doc__)
    smoke = study.arguments.scale == "smoke"
    results, shape = all_runs(study)
    claims = Claims(study.arguments.scale)
    judge(results, claims, smoke)
    write_report(study, claims, **tables(results))
    study.save(draw(results, shape, figure))
    claims.exit()


if __name__ == "__main__":
    main()
