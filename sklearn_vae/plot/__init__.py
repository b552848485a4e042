"""Pictures of what a latent space did, in the manner of scikit-learn's Displays.

Each class has `from_estimator`, which computes what is drawn, `from_results`, which takes it, and
`plot`, which draws it on axes of yours or new ones. matplotlib is imported on the first `plot`.
"""

from sklearn_vae.plot.collapse import CollapseDisplay
from sklearn_vae.plot.entropy import EntropyDisplay
from sklearn_vae.plot.kl import KLDisplay
from sklearn_vae.plot.posterior_scale import PosteriorScaleDisplay
from sklearn_vae.plot.training import TrainingDisplay

__all__ = [
    "CollapseDisplay",
    "EntropyDisplay",
    "KLDisplay",
    "PosteriorScaleDisplay",
    "TrainingDisplay",
]
