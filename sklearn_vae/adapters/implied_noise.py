"""Noise variances that the losses of VAEs imply."""

from __future__ import annotations

from dataclasses import dataclass

from sklearn_vae.validation import check_choice, check_integer, check_real

# Name of each reduction, and its description.
ERRORS = {
    "sum": "summed over features and averaged over samples",
    "mean": "averaged over features and samples, as F.mse_loss does by default",
    "total": "summed over features and samples, as with F.mse_loss(reduction='sum')",
}
KLS = {
    "sum": "summed over dimensions and averaged over samples",
    "mean": "averaged over dimensions and samples",
    "total": "summed over dimensions and samples",
}


@dataclass(frozen=True)
class ImpliedNoise:
    """Noise variance that a loss with a squared error implies.

    Attributes
    ----------
    noise_variance : float
        Noise variance sigma2 of the Gaussian p(x|z) whose negative ELBO is proportional to the
        loss.
    explanation : str
        Derivation, as one sentence.
    error_weight : float
        Weight of the squared error in the loss.

    See Also
    --------
    implied_noise_variance : Compute the implied noise variance.

    Examples
    --------
    >>> from sklearn_vae.adapters import implied_noise_variance
    >>> implied_noise_variance(784, error="mean").noise_variance
    392.0
    """

    noise_variance: float
    explanation: str
    error_weight: float

    def weight_for(self, noise_variance: float) -> float:
        """Compute the weight of the squared error that implies another noise variance.

        Parameters
        ----------
        noise_variance : float
            Noise variance > 0.

        Returns
        -------
        weight : float
            Weight of the squared error, with all else unchanged.
        """
        check_real("noise_variance", noise_variance, above=0)
        return self.error_weight * self.noise_variance / noise_variance


def implied_noise_variance(
    n_features: int,
    n_components: int | None = None,
    *,
    error: str = "sum",
    error_weight: float = 1.0,
    kl: str = "sum",
    kl_weight: float = 1.0,
    batch_size: int | None = None,
) -> ImpliedNoise:
    """Compute the noise variance that a loss with a squared error implies.

    The loss is ``error_weight * error + kl_weight * kl``. It is proportional to the negative ELBO of
    a Gaussian p(x|z) with the noise variance sigma2, plus a constant, because that ELBO contains
    -|x - mu(z)|^2 / (2 sigma2). A noise variance that is much larger than the mean squared error
    per feature makes latent dimensions collapse.

    Parameters
    ----------
    n_features : int
        Number of features, or pixels times channels.
    n_components : int, default=None
        Number of latent dimensions. Only needed with `kl="mean"`.
    error : {"sum", "mean", "total"}, default="sum"
        Reduction of the squared error: summed over features and averaged over samples, averaged
        over both ("mean", the default of `F.mse_loss`), or summed over both ("total",
        `F.mse_loss(reduction="sum")`).
    error_weight : float, default=1.0
        Factor of the squared error, such as 0.5.
    kl : {"sum", "mean", "total"}, default="sum"
        Reduction of the KL over latent dimensions and samples, with the same meaning.
    kl_weight : float, default=1.0
        Factor of the KL (beta).
    batch_size : int, default=None
        Number of samples per batch. Only needed if one of `error` and `kl` is "total" and the
        other is not.

    Returns
    -------
    ImpliedNoise
        Noise variance with its explanation.

    See Also
    --------
    FunctionModel : Model that takes it as `noise_variance`.

    References
    ----------
    Dai, Wang and Wipf, "The Usual Suspects? Reassessing Blame for VAE Posterior Collapse" (2020),
    section 3, category (ii); Rybkin, Daniilidis and Levine, "Simple and Effective VAE Training with
    Calibrated Decoders" (2021).

    Examples
    --------
    >>> from sklearn_vae.adapters import implied_noise_variance
    >>> implied = implied_noise_variance(784, error="mean")
    >>> implied.noise_variance
    392.0
    >>> implied.weight_for(0.05)
    7840.0
    """
    check_integer("n_features", n_features, at_least=1)
    check_choice("error", error, ERRORS)
    check_choice("kl", kl, KLS)
    check_real("error_weight", error_weight, above=0)
    check_real("kl_weight", kl_weight, above=0)
    if kl == "mean" and n_components is None:
        raise ValueError("n_components must be given with kl='mean', got None.")
    if n_components is not None:
        check_integer("n_components", n_components, at_least=1)
    is_mixed = (error == "total") != (kl == "total")
    if is_mixed and batch_size is None:
        raise ValueError(
            f"batch_size must be given with error={error!r} and kl={kl!r}, which depend on it "
            "differently, got None."
        )
    if batch_size is not None:
        check_integer("batch_size", batch_size, at_least=1)
    # sigma2 times twice the weight of |x - mu(z)|^2 in the loss is the weight of the KL.
    noise = float(kl_weight) / (2.0 * float(error_weight))
    if error == "mean":
        noise *= n_features
    if kl == "mean":
        assert n_components is not None
        noise /= n_components
    if is_mixed:
        assert batch_size is not None
        noise *= 1.0 / batch_size if error == "total" else batch_size
    explanation = (
        f"The loss is {error_weight:g} times the squared error, {ERRORS[error]}, plus "
        f"{kl_weight:g} times the KL, {KLS[kl]}. Per sample and relative to the KL, the squared "
        f"error |x - mu(z)|^2 has the weight {0.5 / noise:.4g}, which is 1 / (2 sigma2) for "
        f"sigma2 = {noise:.4g}."
    )
    return ImpliedNoise(noise, explanation, float(error_weight))
