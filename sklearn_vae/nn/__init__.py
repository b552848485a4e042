"""PyTorch modules of latent Gaussian models; know no estimator."""

from sklearn_vae.nn.networks import MLP

__all__ = ["MLP"]
