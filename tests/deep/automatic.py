"""Data, and models trained automatically, that tests share."""

import numpy as np

from sklearn_vae import DeepBernoulliVAE
from tests.deep.data import make_rows
from tests.sharing import shared

CURVED = make_rows(n=240, d=6, k=2)
# Without any structure that networks could find.
NOISE = np.random.default_rng(0).normal(size=(40, 6)) @ np.diag([3.0, 2.0, 1.0, 1.0, 1.0, 1.0])
BITS = (NOISE > 0).astype(float)


@shared
def fitted(kind, curved):
    """Model of a class, fitted to CURVED or to NOISE."""
    options = {"binarize": 0.0} if kind is DeepBernoulliVAE else {}
    return kind(2, random_state=0, **options).fit(CURVED if curved else NOISE)
