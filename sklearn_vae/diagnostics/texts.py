"""Sentences that several findings share."""

from __future__ import annotations

from sklearn_vae.diagnostics.evidence import Evidence

# Gains in nats that are rounding errors.
ROUNDING = 1e-6


def in_nats(value: float) -> str:
    """Write a number of nats with two digits."""
    return f"{float(f'{value:.2g}') if abs(value) >= ROUNDING else 0.0:g} nats"


def noise_and_optimum(case: Evidence) -> str:
    """Compare the noise variance with its optimum."""
    fixed = "fixed at " if case.fixed_noise is not None else ""
    implied = getattr(case.model, "implied_noise", None)
    why = "" if implied is None else f" {implied.explanation}"
    return (
        f"The noise variance is {fixed}{case.noise:.4g}. With all other parameters unchanged, the "
        f"optimum is {case.numbers['tuned_noise_variance']:.4g}, which would add "
        f"{case.numbers['tuned_elbo'] - case.elbo:.4g} nats.{why}"
    )


def difference(case: Evidence) -> str:
    """Compare the ELBO with that of the linear model, in the second half of a sentence."""
    nats = case.elbo - case.reference_bound
    return f"is {abs(nats):.4g} nats {'above' if nats > 0 else 'below'} that of {case.linear_model}"


def shortfall(case: Evidence) -> str:
    """Compare the ELBO with those of the linear model and of a model without latents."""
    return (
        f"The ELBO is {case.elbo:.6g}, compared with {case.matched_bound:.6g} "
        f"({case.shortfall:+.4g} nats) for {case.matched_model} and "
        f"{case.numbers['without_latents']:.6g} for a model without latent dimensions."
    )


def errors(case: Evidence) -> tuple[str, ...]:
    """Describe the reconstructions, unless features are binary."""
    if case.is_bernoulli:
        return ()
    numbers = case.numbers
    share = numbers["reconstruction_error"] / numbers["variance"]
    pca_share = numbers["pca_reconstruction_error"] / numbers["variance"]
    return (f"Reconstructions lose {share:.3%} of the variance, those of PCA {pca_share:.3%}.",)
