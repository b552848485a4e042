"""Tolerances by which the warning of a fit and the verdicts of `diagnose` judge a model."""

# Shortfall from the linear model that is tolerated: this share of the gain over a model without
# latent dimensions, plus this number of nats per sample.
SHARE_OF_GAIN = 0.02
NATS = 0.1

# Training has converged if twice the number of steps would bring at most this share of the gain over
# a model without latent dimensions, of this model or the linear one, plus `NATS`.
OPEN_SHARE = 0.05

# A noise variance above this multiple of pPCA's noise variance is too large.
NOISE_RATIO = 1.1

# Average KL, in nats, up to which a dimension that has not collapsed carries little information.
WEAK_KL = 0.1
