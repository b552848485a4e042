"""Displays of fitted models, in the style of scikit-learn.

`from_estimator` computes results and plots them, `from_results` plots results that have been
computed, and `plot` draws again. They set `figure_` and `ax_`, the matplotlib Axes or an array of
them. matplotlib is imported on the first plot.
"""

from sklearn_vae.plot.collapse import CollapseDisplay
from sklearn_vae.plot.contributions import ContributionDisplay
from sklearn_vae.plot.cv_curve import CVCurveDisplay
from sklearn_vae.plot.dimension_choice import DimensionChoiceDisplay
from sklearn_vae.plot.entropy import EntropyDisplay
from sklearn_vae.plot.imputation import ImputationDisplay
from sklearn_vae.plot.kl import KLDisplay
from sklearn_vae.plot.latent_plane import LatentPlaneDisplay
from sklearn_vae.plot.outliers import OutlierDisplay
from sklearn_vae.plot.posterior_scale import PosteriorScaleDisplay
from sklearn_vae.plot.reconstruction import ReconstructionDisplay
from sklearn_vae.plot.report import ReportDisplay
from sklearn_vae.plot.surface import LikelihoodSurfaceDisplay
from sklearn_vae.plot.training import TrainingDisplay

__all__ = [
    "CVCurveDisplay",
    "CollapseDisplay",
    "ContributionDisplay",
    "DimensionChoiceDisplay",
    "EntropyDisplay",
    "ImputationDisplay",
    "KLDisplay",
    "LatentPlaneDisplay",
    "LikelihoodSurfaceDisplay",
    "OutlierDisplay",
    "PosteriorScaleDisplay",
    "ReconstructionDisplay",
    "ReportDisplay",
    "TrainingDisplay",
]
