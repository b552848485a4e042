"""Training loop, batches, devices and checkpoints of PyTorch modules."""
