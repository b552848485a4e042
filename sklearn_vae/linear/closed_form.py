"""Models in closed form: everything fitted follows from the spectrum of a covariance."""

from __future__ import annotations

import math

from array_api_compat import array_namespace

from sklearn_vae.gaussian.arrays import Array
from sklearn_vae.gaussian.bounds import entropy_bound, kl_per_dimension
from sklearn_vae.gaussian.lowrank import LowRankGaussian
from sklearn_vae.gaussian.spectrum import Spectrum
from sklearn_vae.linear.exact_posterior import ExactPosteriorModel


class ClosedFormModel(ExactPosteriorModel):
    """Sets all attributes that a fitted :class:`PPCA` has, from a spectrum."""

    def _set_model(
        self,
        spectrum: Spectrum,
        k: int,
        n_samples: float,
        dtype: str,
        noise_variance: float | None,
    ) -> None:
        """All fitted attributes, from the spectrum; in the data's precision."""
        xp = array_namespace(spectrum.eigenvalues)
        kept = getattr(xp, dtype)
        values = spectrum.eigenvalues[:k]
        limits = xp.finfo(kept)
        if noise_variance is None:
            sigma2 = spectrum.noise_variance(k)
        else:
            sigma2 = float(noise_variance)
            if not float(limits.smallest_normal) <= sigma2 <= float(limits.max):
                raise ValueError(
                    f"noise_variance must be within the range of the data's {dtype}, got {sigma2}."
                )
        if spectrum.total_variance > float(limits.max) or (
            0.0 < sigma2 < float(limits.smallest_normal)
        ):
            raise ValueError(
                f"The variances of X must be within the range of its {dtype}, got "
                f"{spectrum.total_variance} in all and a noise variance of {sigma2}. Scale X, or "
                "pass it as float64."
            )
        kappa = spectrum.model_variances(k, sigma2)
        lengths = (kappa - sigma2) ** 0.5
        # A copy, so that the components that are not kept can be freed.
        components = xp.asarray(spectrum.components[:k, :], dtype=kept, copy=True)

        self.n_components_ = k
        self.n_iter_ = 1
        self.n_samples_ = int(n_samples) if float(n_samples).is_integer() else n_samples
        self.mean_ = xp.astype(spectrum.mean, kept)
        self.components_ = components
        self.noise_variance_ = sigma2
        self.loadings_ = components.T * xp.astype(lengths, kept)
        # A sum of weights below two rows is no number of rows.
        bessel = n_samples / (n_samples - 1) if n_samples >= 2 else 1.0
        self.explained_variance_ = xp.astype(values * bessel, kept)
        self.explained_variance_ratio_ = xp.astype(values / (spectrum.total_variance or 1.0), kept)
        self.singular_values_ = xp.astype(values**0.5 * n_samples**0.5, kept)
        collapsed = lengths == 0
        self.collapsed_dims_ = xp.nonzero(collapsed)[0]
        self._set_diagnostics(spectrum, kappa, collapsed, noise_variance)
        self._gaussian = None
        if sigma2 > 0 or spectrum.rank == self.n_features_in_ == k:
            self._gaussian = LowRankGaussian(self.mean_, self.loadings_, sigma2)

    def _set_diagnostics(
        self, spectrum: Spectrum, kappa: Array, collapsed: Array, noise_variance: float | None
    ) -> None:
        xp = array_namespace(kappa)
        k, sigma2 = self.n_components_, self.noise_variance_
        # log of the posterior variance sigma2 / kappa; a collapsed one is the prior's, 1.
        log_sigma2 = math.log(sigma2) if sigma2 > 0 else -math.inf
        safe = xp.where(collapsed, xp.ones_like(kappa), kappa)
        log_variance = xp.where(collapsed, xp.zeros_like(kappa), log_sigma2 - xp.log(safe))
        # At the optimum the second moment of z_h over the data is 1, its variance in the prior.
        kl = kl_per_dimension(xp.ones_like(kappa), log_variance)
        self.kl_per_dim_ = xp.astype(kl, self.components_.dtype)
        self.mutual_information_ = float(xp.sum(kl))
        log_likelihood = float(spectrum.log_likelihood([k], [noise_variance])[0, 0])
        unbounded = noise_variance is None and math.isnan(log_likelihood)
        self.elbo_ = math.inf if unbounded else log_likelihood
        if sigma2 > 0:
            self.entropy_bound_ = entropy_bound(self.n_features_in_, sigma2, log_variance)
        else:
            self.entropy_bound_ = self.elbo_
