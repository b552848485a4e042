"""PyTorch modules of latent Gaussian models, independent of the estimators."""

from sklearn_vae.nn.networks import MLP

__all__ = ["MLP"]
