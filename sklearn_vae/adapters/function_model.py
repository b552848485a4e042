"""Latent variable models of other libraries, defined by their functions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from sklearn_vae.adapters.implied_noise import ImpliedNoise
from sklearn_vae.adapters.kept_dimensions import KeptOutputs, PaddedInputs
from sklearn_vae.adapters.model_functions import ModelFunctions
from sklearn_vae.adapters.observations import (
    LIKELIHOODS,
    LIMITATIONS,
    CategoricalLogits,
    curvature_of,
    drawn_from,
)
from sklearn_vae.adapters.outputs import (
    SPREADS,
)
from sklearn_vae.adapters.priors import as_prior
from sklearn_vae.deep.inactive_units import InactiveUnits
from sklearn_vae.gaussian.bounds import BoundTerms
from sklearn_vae.nn.distributions import average
from sklearn_vae.protocol import Array, LatentModel, numbered
from sklearn_vae.validation import (
    check_choice,
    check_flag,
    check_integer,
    check_random_state,
    check_real,
)

DECODER_OUTPUTS = ("mean", "logits")


class FunctionModel(ModelFunctions, LatentModel):
    """Fitted latent variable model that is defined by an encoder and a decoder function.

    It gives a VAE of any library the interface of the estimators of this library, so that all
    functions of :mod:`sklearn_vae.diagnostics` and the Displays accept it. The model is
    p(z) p(x|z) with q(z|x) = N(mean, diag variance). Nothing is trained.

    The functions get PyTorch tensors on `device`, or NumPy arrays if that is None. Their outputs
    must have the dtype and device of their inputs.

    Parameters
    ----------
    encode : callable
        Function `encode(x)` that returns the mean and spread of q(z|x), each of shape
        (n_samples, n_components). It may also return a `torch.distributions.Normal`, a tuple of
        three with a draw of z first or last, or a mapping with names such as "mu" and "log_var".
    decode : callable
        Function `decode(z)` that returns the mean of p(x|z), or its logits, of shape
        (n_samples, n_features). Images of shape (n_samples, ...) are flattened. For a Gaussian
        whose noise depends on z it returns mean and spread. Categorical features have logits of
        shape (n_samples, n_features, n_classes). It may also return a distribution of torch.
    likelihood : {"gaussian", "bernoulli", "categorical", "distribution"}, default="gaussian"
        Family of p(x|z). Categorical features are codes 0, 1, .... With "distribution", `decode`
        returns any distribution of torch whose features are independent given z, such as a negative
        binomial one. Results that need its entropy or a noise variance are then not available.
    noise_variance : float, array of shape (n_features,) or ImpliedNoise, default=None
        Noise variance sigma2 of a Gaussian p(x|z), in squared units of the observations. The loss
        of most VAEs implies it: see :func:`implied_noise_variance`. None if `decode` returns it.
    learned_noise : bool, default=False
        Whether the noise variance was learned in training.
    prior : array of shape (n_components,), distribution or callable, default=None
        Variances of a normal prior, which is N(0, I) if None. Any other prior is an object with
        `sample(n)` and, if known, `log_prob(z)`, or a function that draws n latent vectors.
    spread : {"log_variance", "variance", "log_scale", "scale"}, default="log_variance"
        Kind of the second output of `encode` and `decode`. The scale is the standard deviation.
    decoder_output : {"mean", "logits"}, default=None
        Kind of the first output of `decode`. By default "mean" for Gaussian, "logits" for others.
    n_covariates : int, default=0
        Number of columns at the end of X that are covariates. The functions are then called as
        `encode(x, covariates)` and `decode(z, covariates)`, and `conditional` expects the
        covariates as further columns of Z.
    input_shape : tuple of int, default=None
        Shape of one sample that the functions expect, such as (1, 28, 28).
    preprocess : callable, default=None
        Function that is applied to samples before `encode`.
    postprocess : callable, default=None
        Function that maps means that `decode` returns to the units of X. If None, p(x|z) is the
        distribution of preprocessed samples.
    image_shape : tuple of int, default=None
        Shape of images in plots.
    kl_weight : float, default=1.0
        Weight of the KL in the training objective (beta).
    free_bits : float, default=0.0
        KL per dimension, in nats, below which no penalty applied in training.
    history : dict of str to array-like, default=None
        Values recorded at each training epoch, such as "bound", "validation_bound", "kl" and
        "active_dims", in nats per sample. :class:`LatentLogger` records them.
    n_layers : int, default=0
        Number of weight layers of the encoder or decoder, whichever is deeper; 0 if unknown.
    n_operations : float, default=0.0
        Number of multiplications and additions for one sample and one draw, if known. It limits the
        number of draws in diagnostics of large networks, which then take seconds.
    batch_size : int, default=1024
        Maximum number of samples, and of latent vectors, for which a function is called.
    device : str or torch.device, default=None
        Device of the tensors that the functions get. If None, they get NumPy arrays.
    dtype : {"float32", "float64"}, default=None
        Data type that the functions get. By default that of X, or float64 if X is not of floats.
    name : str, default="FunctionModel"
        Name of the model in reports and plots.
    remarks : sequence of str, default=()
        Sentences about the model that reports repeat, for example on its training objective.

    Attributes
    ----------
    noise_variance_ : float or ndarray of shape (n_features,)
        Noise variance, if it does not depend on z.

    See Also
    --------
    from_torch : Adapt a PyTorch module.
    implied_noise_variance : Noise variance that a loss implies.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.adapters import FunctionModel
    >>> from sklearn_vae.diagnostics import collapse
    >>> X = load_iris().data
    >>> ppca = PPCA(2, noise_variance=1.0).fit(X)
    >>> model = FunctionModel(
    ...     ppca.posterior,
    ...     lambda z: ppca.conditional(z)[0],
    ...     noise_variance=1.0,
    ...     spread="variance",
    ... )
    >>> collapse(model, X).collapsed
    array([1])
    """

    def __init__(
        self,
        encode: Callable[..., Any],
        decode: Callable[..., Any],
        *,
        likelihood: str = "gaussian",
        noise_variance: Any = None,
        learned_noise: bool = False,
        prior: Any = None,
        spread: str = "log_variance",
        decoder_output: str | None = None,
        n_covariates: int = 0,
        input_shape: Sequence[int] | None = None,
        preprocess: Callable[[Any], Any] | None = None,
        postprocess: Callable[[Any], Any] | None = None,
        image_shape: Sequence[int] | None = None,
        kl_weight: float = 1.0,
        free_bits: float = 0.0,
        history: Mapping[str, Any] | None = None,
        n_layers: int = 0,
        n_operations: float = 0.0,
        batch_size: int = 1024,
        device: Any = None,
        dtype: str | None = None,
        name: str = "FunctionModel",
        remarks: Sequence[str] = (),
    ) -> None:
        for function_name, function in {"encode": encode, "decode": decode}.items():
            if not callable(function):
                raise TypeError(f"{function_name} must be a function, got {function!r}.")
        check_choice("likelihood", likelihood, LIKELIHOODS)
        check_choice("spread", spread, SPREADS)
        check_flag("learned_noise", learned_noise)
        check_integer("n_covariates", n_covariates, at_least=0)
        check_integer("n_layers", n_layers, at_least=0)
        check_integer("batch_size", batch_size, at_least=1)
        check_real("kl_weight", kl_weight, at_least=0)
        check_real("free_bits", free_bits, at_least=0)
        check_real("n_operations", n_operations, at_least=0)
        if dtype is not None:
            check_choice("dtype", dtype, ("float32", "float64"))
        self.encode, self.decode = encode, decode
        self.likelihood, self.spread, self.decoder_output = likelihood, spread, decoder_output
        self.learned_noise = bool(learned_noise)
        self.prior = as_prior(prior)
        self.n_covariates, self.input_shape = n_covariates, input_shape
        self.preprocess, self.postprocess = preprocess, postprocess
        self.image_shape = image_shape
        self.kl_weight, self.free_bits = float(kl_weight), float(free_bits)
        self.history = history
        self.module: Any = None  # whose hidden units are watched, if it has encoder and decoder
        self._n_layers, self.remarks = n_layers, tuple(remarks)
        self.n_operations = n_operations
        self.batch_size, self.device, self.dtype, self.name = batch_size, device, dtype, name
        self.implied_noise = noise_variance if isinstance(noise_variance, ImpliedNoise) else None
        self._is_mean = self._check_decoder_output()
        self._set_noise(
            noise_variance if self.implied_noise is None else self.implied_noise.noise_variance
        )

    def _check_decoder_output(self) -> bool:
        expected = "mean" if self.likelihood in ("gaussian", "distribution") else "logits"
        output = expected if self.decoder_output is None else self.decoder_output
        check_choice("decoder_output", output, DECODER_OUTPUTS)
        if output != expected and self.likelihood != "bernoulli":
            raise ValueError(
                f"decoder_output must be {expected!r} with likelihood={self.likelihood!r}, got "
                f"{output!r}."
            )
        return output == "mean"

    def _set_noise(self, noise_variance: Any) -> None:
        """Set the noise variance, which the protocol calls `noise_variance` only if it is fixed."""
        self.noise_variance = None
        if noise_variance is None:
            return
        if self.likelihood != "gaussian":
            raise ValueError(
                f"noise_variance must be None with likelihood={self.likelihood!r}, got "
                f"{noise_variance!r}."
            )
        if isinstance(noise_variance, Tensor):
            noise_variance = noise_variance.detach().cpu().numpy()
        noise = np.asarray(noise_variance, dtype=np.float64)
        if noise.ndim > 1 or not (np.isfinite(noise).all() and (noise > 0).all()):
            raise ValueError(
                "noise_variance must be a positive float or an array of shape (n_features,), got "
                f"{noise_variance!r}."
            )
        self.noise_variance_ = noise if noise.ndim else float(noise)
        if not self.learned_noise:
            self.noise_variance = self.noise_variance_

    def __repr__(self) -> str:
        return f"{self.name}(likelihood={self.likelihood!r})"

    def __sklearn_is_fitted__(self) -> bool:
        return True

    @property
    def model_name(self) -> str:
        return self.name

    @property
    def trained_elsewhere(self) -> bool:
        return True

    @property
    def observation_family(self) -> str:  # type: ignore[override]
        """Family of p(x|z)."""
        return self.likelihood

    @property
    def parameters(self) -> dict[str, Any]:
        """Constructor parameters of an estimator, of which a foreign model has none."""
        return {}

    @property
    def training_history(self) -> dict[str, Array] | None:
        if self.history is None:
            return None
        lengths = [np.size(values) for values in self.history.values()]
        return numbered(self.history, "epoch", max(lengths, default=0))

    @property
    def n_layers(self) -> int:
        return self._n_layers

    @property
    def prior_mean(self) -> Any:
        return self.prior.mean

    @property
    def prior_variance(self) -> Any:
        return self.prior.variance

    @property
    def feature_scale(self) -> Any:
        if self.likelihood != "gaussian":
            return 1.0
        is_shared = np.ndim(getattr(self, "noise_variance_", np.empty(1))) == 0
        return 1.0 if is_shared else None

    @property
    def is_comparable(self) -> bool:
        return self.likelihood in ("gaussian", "bernoulli") and self.prior.is_normal

    @property
    def has_bound(self) -> bool:
        return self.prior.has_density

    @property
    def limitations(self) -> tuple[str, ...]:
        texts = [*self.remarks, *LIMITATIONS.get(self.likelihood, ())]
        if not self.prior.is_normal:
            known = "" if self.prior.has_density else ", and the ELBO is unknown"
            texts.append(
                "The prior is not normal: the KL of each dimension is to the normal distribution "
                f"with the mean and variance of the prior, entropies do not apply{known}."
            )
        return tuple(texts)

    @property
    def limitations_of_entropies(self) -> str | None:
        """Reason why entropies are unknown, or None if they are known."""
        if self.likelihood == "distribution":
            return (
                "Entropies need a Gaussian, Bernoulli or categorical p(x|z), got "
                "likelihood='distribution', whose entropy is unknown."
            )
        if not self.prior.is_normal:
            return "Entropies need a normal prior, got one that is known by its draws."
        return None

    def posterior(self, X: Any, return_cov: bool = False) -> tuple[Array, Array]:
        check_flag("return_cov", return_cov)

        def moments(x: Tensor, y: Any, c: Any) -> Tensor:
            q = self._posterior(x, y, c)
            return torch.cat([q.mean, q.variance], dim=1)

        mean, variance = np.split(self._map_samples(X, moments), 2, axis=1)
        if return_cov:
            return mean, variance[:, :, None] * np.eye(variance.shape[1])
        return mean, variance

    def conditional(self, Z: Any) -> tuple[Array, Array]:
        mean, variance = np.split(
            self._map_codes(
                Z, lambda p: torch.cat([p.mean, p.variance.expand(p.mean.shape)], dim=1)
            ),
            2,
            axis=1,
        )
        return mean, variance

    def score_samples(self, X: Any) -> Array:
        """Compute the evidence lower bound (ELBO) of each sample.

        The expectation over z is a weighted average over max(32, 2 n_components) fixed points of
        N(0, I), which all samples share, as for the deep models of this library.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples to score.

        Returns
        -------
        scores : ndarray of shape (n_samples,)
            ELBO of each sample, in nats. Higher is better.
        """

        def bound(x: Tensor, y: Any, c: Any) -> Tensor:
            q = self._posterior(x, y, c)
            total = torch.zeros_like(q.mean[:, 0])
            for share, weights, z, p, target in self._draws(q, x, y, c):
                log_p = p.log_prob(target).view(len(z), -1)
                total += share * (average(log_p, weights) - self._kl(q, z, weights))
            return total

        scores = self._map_samples(X, bound)
        return scores.astype(np.float64)

    def transform(self, X: Any) -> Array:
        return self.posterior(X)[0]

    def inverse_transform(self, Z: Any) -> Array:
        def mean(p: Any) -> Tensor:
            return p.mode if isinstance(p, CategoricalLogits) else p.mean

        return self._map_codes(Z, mean)

    def with_covariates(self, Z: Any, X: Any) -> Array:
        if not self.n_covariates:
            return Z
        covariates = self._as_array(X)[:, -self.n_covariates :]
        covariates = covariates.toarray() if sparse.issparse(covariates) else covariates
        return np.hstack([Z, np.broadcast_to(covariates, (len(Z), self.n_covariates))])

    def observations(self, X: Any) -> Array:
        def target(x: Tensor, y: Any, c: Any) -> Tensor:
            return self._target(x, y)

        return self._map_samples(X, target)

    def inactive_units(self, X: Any) -> dict[str, float]:
        if self.module is None:
            return {}
        with InactiveUnits(self.module) as units:
            if units.layers:
                self.inverse_transform(self.with_covariates(self.transform(X), X))
        return units.shares

    def shown(self, X: Any) -> Array:
        return self.observations(X)

    def sample(self, n_samples: int = 1, random_state: Any = None) -> tuple[Array, Array]:
        check_integer("n_samples", n_samples, at_least=1)
        if self.n_covariates:
            raise ValueError(
                "sample needs covariates. Draw latent vectors, append the covariates, and call "
                "conditional."
            )
        random_state = check_random_state(random_state)
        k = getattr(self, "n_components_", None)
        if k is None and self.prior.is_normal and np.ndim(self.prior.variance):
            k = len(self.prior.variance)
        if k is None and self.prior.is_normal:
            raise ValueError(
                "The number of latent dimensions is unknown before the first call of encode. Call "
                "transform first."
            )
        Z = self.prior.draw(n_samples, k, random_state)
        seed = int(random_state.randint(2**31 - 1))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            X = self._map_codes(Z, drawn_from)
        return X, Z

    def bound_terms(self, X: Any) -> BoundTerms:
        if (reason := self.limitations_of_entropies) is not None:
            raise ValueError(reason)
        has_logits, squared_errors = False, np.zeros(1)
        has_errors = self.shared_noise_variance is not None
        draws_for = self._limited_points(X)

        def terms(x: Tensor, y: Any, c: Any) -> Tensor:
            nonlocal has_logits, squared_errors
            q = self._posterior(x, y, c)
            prior = self._normal_prior(q)
            sums = torch.zeros(len(x), 3, dtype=x.dtype, device=x.device)
            for share, weights, z, p, target in self._draws(q, x, y, c, draws_for(q.mean)):
                if has_errors:
                    error = (target - p.mean).square_().view(len(z), len(x), -1)
                    sums_over_samples = (share * average(error, weights)).sum(0)
                    squared_errors = squared_errors + sums_over_samples.cpu().double().numpy()
                columns = [p.log_prob(target), p.entropy(), curvature_of(p)]
                has_logits = columns[2] is not None
                if columns[2] is None:
                    columns[2] = torch.zeros_like(columns[0])
                for i, column in enumerate(columns):
                    sums[:, i] += share * average(column.view(len(z), -1), weights)
            kl, entropy = q.kl_terms(prior).sum(-1, keepdim=True), q.entropy()[:, None]
            moment = ((q.mean - prior.mean).square() + q.variance) / prior.variance
            return torch.cat([sums, kl, entropy, moment], dim=1)

        rows = self._map_samples(X, terms)
        n, averages = len(rows), rows.mean(axis=0, dtype=np.float64)
        log_p, decoder_entropy, curvature, kl, entropy = averages[:5].tolist()
        moment = averages[5:]
        log_scale = 0.5 * np.log(np.broadcast_to(self.prior.variance, moment.shape)).sum()
        return BoundTerms(
            n_features=self._n_features,
            bound=log_p - kl,
            kl=kl,
            posterior_entropy=entropy - float(log_scale),
            decoder_entropy=decoder_entropy,
            second_moment=moment,
            curvature=curvature if has_logits else None,
            squared_errors=squared_errors / n if has_errors else None,
        )

    def with_tuned_noise(self, X: Any) -> Self | None:
        if self.shared_noise_variance is None:
            return None

        def squares(x: Tensor, y: Any, c: Any) -> Tensor:
            q = self._posterior(x, y, c)
            total = torch.zeros_like(self._target(x, y))
            for share, weights, z, p, target in self._draws(q, x, y, c):
                error = (target - p.mean).square_().view(len(z), len(x), -1)
                total += share * average(error, weights)
            return total

        optimum = self._map_samples(X, squares).mean(axis=0, dtype=np.float64)
        tuned = copy.copy(self)
        tuned.implied_noise = None
        tuned._set_noise(optimum if np.ndim(self.noise_variance_) else optimum.mean())
        return tuned

    def with_dimensions(self, kept: Any) -> Self:
        kept = np.asarray(kept, dtype=np.intp)
        pruned = copy.copy(self)
        k = getattr(self, "n_components_", None)
        pruned.encode = KeptOutputs(self.encode, self.spread, kept)
        pruned.decode = PaddedInputs(self.decode, kept, k, self.prior.mean)
        pruned.spread_of_decoder = self._spread_of_decoder
        pruned.spread = "log_variance"
        pruned.prior = self.prior.kept(kept)
        pruned.n_components_ = len(kept)
        return pruned
