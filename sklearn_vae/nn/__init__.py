"""PyTorch modules of latent Gaussian models; know no estimator."""
