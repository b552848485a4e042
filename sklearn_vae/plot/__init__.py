"""Pictures of what a latent space did, in the manner of scikit-learn's Displays.

Each class has `from_estimator`, which computes what is drawn, `from_results`, which takes it, and
`plot`, which draws it on axes of yours or new ones. matplotlib is imported on the first `plot`.
"""

from sklearn_vae.plot.collapse import CollapseDisplay

__all__ = ["CollapseDisplay"]
