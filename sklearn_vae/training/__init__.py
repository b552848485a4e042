"""Training of PyTorch modules: loop, batches, devices, checkpoints; knows no estimator."""
