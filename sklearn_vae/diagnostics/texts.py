"""Sentences that several findings share."""

from __future__ import annotations

import numpy as np

from sklearn_vae.diagnostics.evidence import Evidence


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
    return f"differs by {nats:+.4g} nats from that of {case.linear_model}"


def shortfall(case: Evidence) -> str:
    """Compare the ELBO with those of the linear model and of a model without latents."""
    is_matched = bool(np.isfinite(case.matched_bound))
    bound = case.matched_bound if is_matched else case.reference_bound
    noise = " and noise variance" if case.fixed_noise is not None and is_matched else ""
    return (
        f"The ELBO is {case.elbo:.6g}, compared with {bound:.6g} ({bound - case.elbo:+.4g} nats) "
        f"for {case.linear_model}{noise} and {case.numbers['without_latents']:.6g} for a model "
        "without latent dimensions."
    )


def errors(case: Evidence) -> tuple[str, ...]:
    """Describe the reconstructions, unless features are binary."""
    if case.is_bernoulli:
        return ()
    numbers = case.numbers
    share = numbers["reconstruction_error"] / numbers["variance"]
    pca_share = numbers["pca_reconstruction_error"] / numbers["variance"]
    return (f"Reconstructions lose {share:.3%} of the variance, those of PCA {pca_share:.3%}.",)
