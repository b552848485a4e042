"""Tables with a column of every type that depends on one latent variable, and models of them."""

import numpy as np
import pandas as pd

from sklearn_vae import TabularVAE
from tests.sharing import shared

SIZES = ["S", "M", "L"]
N = 240


def make_table(n=N, seed=0):
    """Return a complete table with columns of all types."""
    rng = np.random.RandomState(seed)
    z = rng.standard_normal(n)

    def noisy(scale):
        return z + scale * rng.standard_normal(n)

    colour = np.array(["blue", "green", "red"])[np.digitize(noisy(0.5), [-0.7, 0.4])]
    table = pd.DataFrame(
        {
            "real": 1e3 + 50.0 * noisy(0.5),
            "positive": np.exp(1.5 * noisy(0.3)),
            "heavy": 1e-3 * (z + 0.3 * rng.standard_t(2.1, n)),
            "count": rng.poisson(np.exp(1.0 + noisy(0.3))),
            "flag": noisy(0.5) > 0.5,
            "colour": colour,
            "size": pd.Categorical.from_codes(
                np.digitize(-noisy(0.5), [-0.5, 0.5]), SIZES, ordered=True
            ),
            "noise": rng.standard_normal(n),
        }
    )
    table["heavy"] = table["heavy"].where(table.index % 50 != 3, 0.1)
    return table


TYPES = {
    "real": "real",
    "positive": "positive",
    "heavy": "heavy_tailed",
    "count": "count",
    "flag": "binary",
    "colour": "categorical",
    "size": "ordinal",
    "noise": "real",
}


def hide(table, share=0.2, seed=1):
    """Return a table with missing cells, and the mask of these."""
    holes = np.random.RandomState(seed).uniform(size=table.shape) < share
    columns = {
        name: table[name].astype({"flag": "boolean", "count": "Int64"}.get(name, table[name].dtype))
        for name in table.columns
    }
    return pd.DataFrame(columns).mask(holes), holes


@shared
def fitted(kind):
    """Return a model that was fitted for some epochs, to complete samples or to incomplete ones."""
    X = make_table()
    options = {"hidden_layer_sizes": (8,), "max_epochs": 12, "activation": "silu"}
    model = TabularVAE(1, **options, init="ppca", learning_rate=1e-2, random_state=0)
    return model.fit(X if kind == "complete" else hide(X)[0])
