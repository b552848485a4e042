"""A deep VAE that starts at pPCA does not fall below it in training, at any learning rate.

The script compares `DeepGaussianVAE(init="ppca")` with the default start at three learning rates. It
prints the ELBO of the training samples after training, and the lowest ELBO of an epoch in nats per
sample relative to pPCA's log-likelihood with the same k. Results are for seed 0, or means of up to
three seeds with `--repeats`.

Claims, for each data set and rate: no epoch is further below pPCA than a tenth of the mutual
information of its latents. Training ends above pPCA and above the default start. The data are
scikit-learn's digits and breast cancer table (standardized), and the samples of `--data`, with
`--logit` as dequantized logits as in Lucas et al. (with networks wide enough for k).
"""

import numpy as np
from common import Verdict, load_rows, parse_arguments
from noise_update import logits
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.preprocessing import StandardScaler

from sklearn_vae import PPCA, DeepGaussianVAE

OPTIONS = {
    "components": {"type": int, "default": 200, "help": "k, with --data"},
    "epochs": {"type": int, "default": 40, "help": "with --data"},
    "rows": {"type": int, "default": 10000, "help": "with --data"},
    "rates": {"type": float, "nargs": "+", "default": [3e-4, 1e-3, 3e-3], "help": "of Adam"},
    "logit": {"action": "store_true", "help": "with --data: logits of dequantized pixels"},
}


def data_sets(arguments):
    """Yield (name, X, k, epochs, hidden layers) of each data set."""
    if arguments.data:
        X = load_rows(arguments.data)[: arguments.rows]
        X = logits(X) if arguments.logit else X / 255
        name = arguments.data.stem + (", logits" if arguments.logit else "")
        k = arguments.components
        return [(name, X, k, arguments.epochs, 2 * (max(512, 2 * k),))]
    cancer = StandardScaler().fit_transform(load_breast_cancer().data)
    epochs = (100, 200) if arguments.scale == "full" else (20, 30)
    return [
        ("digits", load_digits().data, 10, epochs[0], (64, 32)),
        ("breast cancer", cancer, 10, epochs[1], (64, 32)),
    ]


def run(name, X, k, epochs, hidden, rates, repeats, verdict):
    """Train from both starts at each rate, print a table and check the claims."""
    ppca = PPCA(k).fit(X)
    X = X.astype(np.float32)
    print(f"\n{name}, {X.shape[0]} x {X.shape[1]}, k={k}, {epochs} epochs")
    print(
        f"  pPCA: log-likelihood {ppca.elbo_:.2f}, mutual information of its latents "
        f"{ppca.mutual_information_:.2f} nats"
    )
    print(f"  {'rate':>8}{'start':>10}{'ELBO':>12}{'lowest - pPCA':>18}")
    for rate in rates:
        final, lowest = {}, {}
        for init in (None, "ppca"):
            found = []
            for seed in range(repeats):
                vae = DeepGaussianVAE(k, hidden_layer_sizes=hidden, init=init, random_state=seed)
                vae.set_params(learning_rate=rate, max_epochs=epochs).fit(X)
                found.append((vae.elbo_, vae.history_["bound"].min() - ppca.elbo_))
            final[init], lowest[init] = np.mean(found, axis=0)
            print(
                f"  {rate:8.0e}{init or 'default':>10}{final[init]:12.2f}{lowest[init]:18.2f}",
                flush=True,
            )
        verdict.claim(
            f"{name}, {rate:.0e}: no epoch is below pPCA by a tenth of the mutual information",
            lowest["ppca"] > -0.1 * ppca.mutual_information_,
        )
        verdict.claim(
            f"{name}, {rate:.0e}: it ends above pPCA and above the default start",
            final["ppca"] > max(ppca.elbo_, final[None]),
        )


def main():
    """Run every data set."""
    arguments = parse_arguments(__doc__, **OPTIONS)
    verdict = Verdict(arguments.scale)
    repeats = 1 if arguments.data else min(arguments.repeats, 3)
    for data in data_sets(arguments):
        run(*data, arguments.rates, repeats, verdict)
    verdict.exit()


if __name__ == "__main__":
    main()
