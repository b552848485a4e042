"""The closed-form update learns the noise variance of a deep VAE better than the gradient.

The default, `noise_update="closed_form"`, is a running average of the optimum that stays at or below
the noise variance of pPCA with the same k, and is set to the optimum at the end. The alternative,
"gradient", treats log sigma^2 as a parameter of the networks, as Lucas et al. (2019) do. Both start
from the noise variance of pPCA, from a hundredth of it and from the variance of the data, and run
with KL warm-up. The script prints the ELBO of training and held-out samples in nats per sample, and
collapsed dimensions, as means of up to three seeds.

Claims, for each data set: the default reaches at least the training ELBO of the gradient and depends
less on its start. The default data are scikit-learn's digits, patches of two photographs and the
breast cancer table. With `--data` they are those of a file divided by 255, or with `--logit`
dequantized logits as in Lucas et al.
"""

import numpy as np
from common import Verdict, load_rows, parse_arguments
from sklearn.datasets import load_breast_cancer, load_digits, load_sample_images
from sklearn.feature_extraction.image import extract_patches_2d
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from sklearn_vae import PPCA, DeepGaussianVAE

OPTIONS = {
    "components": {"type": int, "default": 50, "help": "k, with --data"},
    "epochs": {"type": int, "default": 40, "help": "with --data"},
    "rows": {"type": int, "default": 12000, "help": "with --data"},
    "logit": {"action": "store_true", "help": "with --data: logits of dequantized pixels"},
}


def logits(pixels):
    """Compute logit(a + (1 - 2 a) u) of u = (pixel + U[0, 1)) / 256 with a = 1e-6."""
    u = (pixels + np.random.default_rng(0).uniform(size=pixels.shape)) / 256
    u = 1e-6 + (1 - 2e-6) * u
    return np.log(u / (1 - u))


def patches(n):
    """Return gray patches of 10 x 10 pixels, n of each of two photographs."""
    images = load_sample_images().images
    cut = [
        extract_patches_2d(i.mean(axis=2), (10, 10), max_patches=n, random_state=0) for i in images
    ]
    return np.concatenate(cut).reshape(-1, 100) / 255


def data_sets(arguments):
    """Yield (name, X, k, epochs, hidden layers) of each data set."""
    if arguments.data:
        X = load_rows(arguments.data)[: arguments.rows]
        X = logits(X) if arguments.logit else X / 255
        name = arguments.data.stem + (", logits" if arguments.logit else "")
        return [(name, X, arguments.components, arguments.epochs, (512, 256))]
    full = arguments.scale == "full"
    epochs = (200, 60, 300) if full else (8, 4, 20)
    cancer = StandardScaler().fit_transform(load_breast_cancer().data)
    return [
        ("digits", load_digits().data, 16, epochs[0], (128, 64)),
        ("patches", patches(3000 if full else 600), 32, epochs[1], (256, 128)),
        ("breast cancer", cancer, 10, epochs[2], (64, 32)),
    ]


def settings(noise, variance, epochs):
    """Return the parameters of each rule."""
    return {
        "closed form": {},
        "closed form, from pPCA's / 100": {"noise_variance_init": noise / 100},
        "closed form, from the data's": {"noise_variance_init": variance},
        "closed form, KL warm-up": {"kl_warmup_epochs": epochs // 4},
        "gradient": {"noise_update": "gradient"},
        "gradient, from pPCA's / 100": {
            "noise_update": "gradient",
            "noise_variance_init": noise / 100,
        },
        "gradient, from the data's": {"noise_update": "gradient", "noise_variance_init": variance},
        "gradient, KL warm-up": {"noise_update": "gradient", "kl_warmup_epochs": epochs // 4},
    }


def run(name, X, k, epochs, hidden, repeats, verdict):
    """Fit every rule on one data set, print a table and check the claims."""
    train, test = train_test_split(X.astype(np.float32), test_size=1 / 6, random_state=1)
    ppca = PPCA(k).fit(train)
    print(f"\n{name}, {train.shape[0]} x {train.shape[1]}, k={k}, {epochs} epochs")
    print(f"  {'':38}{'train':>10}{'held out':>10}{'collapsed':>10}{'sigma^2':>10}")
    bare = (ppca.score(train), ppca.score(test), 0, ppca.noise_variance_)
    print(f"  {'(pPCA, log-likelihood)':38}" + "{:10.2f}{:10.2f}{:10.1f}{:10.4f}".format(*bare))
    elbo = {}
    for rule, parameters in settings(
        ppca.noise_variance_, float(train.var(axis=0).mean()), epochs
    ).items():
        found = []
        for seed in range(repeats):
            vae = DeepGaussianVAE(k, hidden_layer_sizes=hidden, max_epochs=epochs, **parameters)
            vae.set_params(random_state=seed).fit(train)
            held_out = vae.score(test[:1000])
            found.append((vae.elbo_, held_out, len(vae.collapsed_dims_), vae.noise_variance_))
        mean = np.mean(found, axis=0)
        print(f"  {rule:38}" + "{:10.2f}{:10.2f}{:10.1f}{:10.4f}".format(*mean), flush=True)
        elbo[rule] = mean[0]
    starts = ("", ", from pPCA's / 100", ", from the data's")
    apart = {
        rule: np.ptp([elbo[rule + start] for start in starts])
        for rule in ("closed form", "gradient")
    }
    tolerance = 0.5 if verdict.scale == "full" else 5.0
    verdict.claim(
        f"{name}: the default reaches the gradient's ELBO (to {tolerance} nats)",
        elbo["closed form"] >= elbo["gradient"] - tolerance,
    )
    verdict.claim(
        f"{name}: the ELBO of three starts varies by {apart['closed form']:.2f} nats with the "
        f"default, {apart['gradient']:.2f} with the gradient",
        apart["closed form"] <= apart["gradient"] + tolerance,
    )


def main():
    """Run every data set."""
    arguments = parse_arguments(__doc__, **OPTIONS)
    verdict = Verdict(arguments.scale)
    repeats = min(arguments.repeats, 3)
    for data in data_sets(arguments):
        run(*data, repeats, verdict)
    verdict.exit()


if __name__ == "__main__":
    main()
