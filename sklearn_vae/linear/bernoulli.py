"""Probabilistic PCA of binary features."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from sklearn_vae.containers import to_array
from sklearn_vae.gaussian.arrays import affine, row_blocks, weighted_mean
from sklearn_vae.gaussian.bernoulli_elbo import (
    SamplePosteriors,
    SampleTerms,
    importance_weighted_bound,
    sample_terms,
)
from sklearn_vae.gaussian.bounds import (
    COLLAPSE_KL,
    COLLAPSE_SHARE,
    BoundTerms,
    normal_entropy,
)
from sklearn_vae.gaussian.logit_normal import logit_normal_log_density
from sklearn_vae.gaussian.spectrum import with_positive_peaks
from sklearn_vae.linear.bernoulli_fit import BernoulliFit, fit_bernoulli
from sklearn_vae.linear.kept_dimensions import with_kept_attributes
from sklearn_vae.linear.sample_weights import drop_zero_weights
from sklearn_vae.protocol import LatentModel, numbered
from sklearn_vae.serialization.checkpoint import Checkpoint, check_checkpoint, random_state_of
from sklearn_vae.validation import (
    all_or_nothing,
    check_bits,
    check_choice,
    check_integer,
    check_latents,
    check_memory,
    check_random_state,
    check_real,
    checked_data,
    refuse,
)
from sklearn_vae.warning import warn_user

INFERENCES = ("linear", "per_sample")


class BernoulliPPCA(LatentModel):
    r"""Probabilistic principal component analysis of binary features.

    The model is ::

        z ~ N(0, I_k),   x_j | z ~ Bernoulli(sigmoid(w_j' z + mu_j))

    Its posterior is not Gaussian. It is approximated by q(z|x) = N(m, diag D), and the model is
    fitted by maximizing the evidence lower bound (ELBO), E_q log p(x|z) - KL(q || p). The logit
    w_j' z + mu_j is normal under q, so the ELBO is a sum of one-dimensional integrals, which are
    computed to ten digits without random draws. Newton's method finds a local maximum. If there are
    more features than samples, the ELBO of new data may be far below the ELBO of the training data:
    choose k by cross-validation.

    Parameters
    ----------
    n_components : int, default=2
        Number k of latent dimensions, from 1 to the number of features.
    inference : {"linear", "per_sample"}, default="linear"
        Form of q(z|x). "linear" is N(V (x - mean), diag D), an encoder shared by all samples.
        "per_sample" optimizes mean and variances for each sample, also for new samples in
        `transform` and `score`. This gives a higher ELBO, but takes about ten times as long.
    binarize : float, default=None
        Threshold above which a value counts as 1, and otherwise as 0. If None, the values must be
        in [0, 1], and a value between 0 and 1 is treated as the probability of a 1.
    max_iter : int, default=1000
        Maximum number of iterations of Newton's method.
    tol : float, default=1e-6
        Tolerance in nats per sample. The fit stops when Newton's method predicts that the ELBO can
        rise by less than `tol`.
    checkpoint : str or path-like, default=None
        Folder in which `fit` saves its progress. After an interruption, `fit` with the same data
        and parameters resumes from there and gives the same model as an uninterrupted fit. Once
        finished, `fit` returns the saved model.
    checkpoint_every : int, default=10
        Number of iterations between checkpoints. This parameter changes the result by rounding
        errors.
    random_state : int, RandomState instance or None, default=None
        Seed or generator for the noise that is added to the initial loadings.

    Attributes
    ----------
    mean_ : array of shape (n_features,)
        Mean of the features.
    intercept_ : array of shape (n_features,)
        Logits mu at z = 0. The optimal logit of a constant feature is infinite. It is replaced by
        the log-odds with half a count added to each outcome, and the loadings of the feature are 0.
    loadings_ : array of shape (n_features, n_components)
        Loading matrix W, with columns sorted by decreasing length. In each column the entry of
        largest magnitude is positive.
    components_ : array of shape (n_components, n_features)
        Orthonormal basis of the span of W, its left singular vectors. In each vector the entry of
        largest magnitude is positive.
    encoder_weights_ : array of shape (n_components, n_features)
        Encoder weights V. Only with `inference="linear"`.
    encoder_variance_ : array of shape (n_components,)
        Posterior variances D. Only with `inference="linear"`.
    kl_per_dim_ : array of shape (n_components,)
        KL divergence of q(z_h|x) from the prior, averaged over the training data, in nats.
    collapsed_dims_ : array of int
        Indices of the dimensions with a KL of at most 0.01 nats for 99 % of the training samples.
    elbo_ : float
        ELBO of the training data in nats per sample.
    elbo_history_ : array of shape (n_iter_ + 1,)
        ELBO at the start and after each iteration. It never decreases, except by rounding.
    entropy_bound_ : float
        Sum of entropies H[q(z|x)] - H[p(z)] - E_q H[p(x|z)], averaged over the training data, in
        nats per sample. It equals `elbo_` at a stationary point, so the difference shows how far
        the fit is from one.
    n_iter_ : int
        Number of iterations.
    certificate_ : Stationarity
        Distance from the maximum: `remaining_gain` in nats per sample, which Newton's method
        predicts, and `gradient_norm`, with a summary by `print`. The gradient is with respect to W
        and the logits mu times the standard deviations of the features, and, with
        `inference="linear"`, to V in units in which the data are white, and log D.
    n_components_, n_features_in_ : int
        Number k of latent dimensions, and number d of features seen during `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features seen during `fit`, if X has feature names that are all strings.

    See Also
    --------
    PPCA : Model with Gaussian noise, which has an exact posterior and likelihood.
    DeepBernoulliVAE : Model with neural networks.
    sklearn.neural_network.BernoulliRBM : Another latent variable model of binary features.

    References
    ----------
    .. [1] Lucas, Tucker, Grosse and Norouzi, "Don't Blame the ELBO! A Linear VAE Perspective on
       Posterior Collapse", NeurIPS 2019, appendix C.3. Eq. 33 lacks the logarithm, and its
       expectation, which the authors call intractable, is computed here.
    .. [2] Tipping, "Probabilistic Visualisation of High-Dimensional Binary Data", NIPS 1998 (the
       same model with another bound).

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_vae import BernoulliPPCA
    >>> X = load_digits().data[:300]
    >>> model = BernoulliPPCA(n_components=2, binarize=7.5, random_state=0).fit(X)
    >>> print(f"{model.score(X):.2f} nats")
    -21.27 nats
    >>> model.transform(X).shape
    (300, 2)
    """

    observation_family = "bernoulli"

    _fitted_state: ClassVar = {
        "components_": "kd",
        "encoder_variance_": "k finite nonnegative optional",
        "encoder_weights_": "kd finite optional",
        "intercept_": "d",
        "loadings_": "dk finite",
        "mean_": "d finite",
        "n_components_": "count",
        "n_features_in_": "count",
    }

    def __init__(
        self,
        n_components: int = 2,
        *,
        inference: str = "linear",
        binarize: float | None = None,
        max_iter: int = 1000,
        tol: float = 1e-6,
        checkpoint: Any = None,
        checkpoint_every: int = 10,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.inference = inference
        self.binarize = binarize
        self.max_iter = max_iter
        self.tol = tol
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> BernoulliPPCA:
        """Fit the model to X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            At least two samples, with values in [0, 1] unless `binarize` is set.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Finite weights >= 0, of which at least two are positive. A weight of 2 counts a sample
            twice, 0 ignores it. The scale of the weights changes only the logits of constant
            features, which depend on the number of samples.

        Returns
        -------
        self : BernoulliPPCA
            Fitted model.

        Raises
        ------
        ValueError
            If a parameter, X or `sample_weight` is invalid.
        MemoryError
            If the data and their derivatives, 32 bytes per entry of X, do not fit into memory.

        Warns
        -----
        ConvergenceWarning
            If the fit has not converged after `max_iter` iterations.
        """
        self._check_parameters()
        with all_or_nothing(self):
            X = checked_data(self, X, ensure_min_samples=2)
            X = check_bits(X, self.binarize)
            k = self.n_components
            if k > X.shape[1]:
                raise ValueError(
                    f"n_components must be between 1 and n_features={X.shape[1]}, got {k}."
                )
            X, weights, _, _ = drop_zero_weights(X, sample_weight, at_least=2, copy_mapped=True)
            check_memory(
                32 * X.shape[0] * X.shape[1],
                "The fit holds X in float64 and its derivatives",
                "Fit to fewer samples: the methods of the fitted model process the others in blocks.",
            )
            # The derivatives are computed again at each checkpoint.
            file = Checkpoint.of(self, X, weights, depends_on_every=True)
            rng = random_state_of(self, file)
            fit = fit_bernoulli(X, k, self.inference, self.max_iter, self.tol, rng, file, weights)
            if not fit.certificate.converged:
                warn_user(
                    f"BernoulliPPCA has not converged after {len(fit.history) - 1} iterations "
                    f"(max_iter={self.max_iter}): the ELBO can still rise by about "
                    f"{fit.certificate.remaining_gain:.2g} nats per sample (tol={self.tol}). "
                    "Increase max_iter or tol.",
                    ConvergenceWarning,
                )
            self._set_model(X, fit, weights)
        return self

    def _set_model(self, X: np.ndarray, fit: BernoulliFit, weights: np.ndarray | None) -> None:
        for name in ("encoder_weights_", "encoder_variance_"):
            self.__dict__.pop(name, None)
        self.mean_ = weighted_mean(X, weights, np.float64)
        self.loadings_, self.intercept_ = fit.W.astype(X.dtype), fit.mu.astype(X.dtype)
        if fit.V is not None and fit.D is not None:
            self.encoder_weights_, self.encoder_variance_ = fit.V, fit.D
        self.components_ = with_positive_peaks(np.linalg.svd(fit.W, full_matrices=False)[0].T)
        self.n_components_ = fit.W.shape[1]
        M, D = self._encode(X)
        terms = self._terms(X, M, D)
        self.kl_per_dim_ = weighted_mean(terms.kl, weights)
        above = weighted_mean(terms.kl > COLLAPSE_KL, weights)
        self.collapsed_dims_ = np.flatnonzero(above <= COLLAPSE_SHARE)
        self.elbo_ = float(weighted_mean(terms.bound, weights))
        self.entropy_bound_ = self._sum_of_entropies(X, terms, weights)
        self.elbo_history_ = fit.history
        self.n_iter_ = len(fit.history) - 1
        self.certificate_ = fit.certificate

    def transform(self, X: Any) -> np.ndarray:
        return self.posterior(X)[0]

    def inverse_transform(self, Z: Any) -> np.ndarray:
        check_is_fitted(self)
        Z = check_latents(self, Z, self.n_components_)
        return expit(affine(Z, self.loadings_.T, self.intercept_)).astype(Z.dtype, copy=False)

    def posterior(self, X: Any, return_cov: bool = False) -> tuple[np.ndarray, np.ndarray]:
        X = self._check_samples(X)
        mean, variance = (array.astype(X.dtype, copy=False) for array in self._encode(X))
        if return_cov:
            variance = variance[..., None] * np.eye(self.n_components_, dtype=X.dtype)
        if variance.ndim == 1 + return_cov:
            variance = np.broadcast_to(variance, (len(mean), *variance.shape))
        return mean, variance

    def with_dimensions(self, kept: Any) -> Any:
        check_is_fitted(self)
        return with_kept_attributes(self, kept)

    def conditional(self, Z: Any) -> tuple[np.ndarray, np.ndarray]:
        p = self.inverse_transform(Z)
        return p, p * (1 - p)

    def sample(self, n_samples: int = 1, random_state: Any = None) -> tuple[np.ndarray, np.ndarray]:
        check_is_fitted(self)
        check_integer("n_samples", n_samples, at_least=1)
        rng = check_random_state(random_state)
        Z = rng.standard_normal((n_samples, self.n_components_))
        p = self.inverse_transform(Z)
        dtype = self.loadings_.dtype
        return (rng.uniform(size=p.shape) < p).astype(dtype), Z.astype(dtype)

    def score_samples(self, X: Any) -> np.ndarray:
        X = self._check_samples(X)
        return self._terms(X, *self._encode(X)).bound

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        X, weights, _, _ = drop_zero_weights(self._check_samples(X), sample_weight, at_least=1)
        return float(weighted_mean(self._terms(X, *self._encode(X)).bound, weights))

    def log_likelihood(self, X: Any, n_samples: int = 100) -> np.ndarray:
        """Compute an importance-weighted estimate of log p(x) for each sample.

        In expectation, log (1/S) sum_s p(x, z_s) / q(z_s|x) is a lower bound of log p(x), to
        which it converges as S increases [1]_. All samples share the same fixed draws.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.
        n_samples : int, default=100
            Number S of draws per sample.

        Returns
        -------
        log_likelihood : array of shape (n_samples,)
            Estimated log-likelihood of each sample in nats.

        References
        ----------
        .. [1] Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016,
           eq. 8.
        """
        check_integer("n_samples", n_samples, at_least=1)
        X = self._check_samples(X)
        draws = np.random.RandomState(0).standard_normal((n_samples, self.n_components_))
        return importance_weighted_bound(
            X, self.loadings_, self.intercept_, *self._encode(X), draws
        )

    def log_density_of_probabilities(self, P: Any) -> np.ndarray:
        """Compute the log density of the probabilities P = sigmoid(W z + mu) with z ~ N(0, I).

        If the number of latent dimensions is that of features, it is the logit-normal density of
        eq. 30 in the reference. With fewer, the probabilities lie on a surface of dimension k, and the density is
        that on the surface: its integral over the area is 1. Without the loadings that are zero,
        k is the rank of W.

        Parameters
        ----------
        P : array-like of shape (n_samples, n_features)
            Probabilities in [0, 1], such as those of `inverse_transform`.

        Returns
        -------
        log_density : array of shape (n_samples,)
            Log density in nats; minus infinity for probabilities off the surface or with a 0 or 1.

        References
        ----------
        Lucas, Tucker, Grosse and Norouzi, "Understanding Posterior Collapse in Generative Latent
        Variable Models", ICLR workshop DeepGenStruct 2019, eq. 30.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_vae import BernoulliPPCA
        >>> X = np.random.default_rng(0).integers(0, 2, size=(50, 2)).astype(float)
        >>> model = BernoulliPPCA(2, random_state=0).fit(X)
        >>> P = model.inverse_transform([[0.0, 0.0], [1.0, -1.0]])
        >>> model.log_density_of_probabilities(P).shape
        (2,)
        """
        P = checked_data(self, P, reset=False)
        if (wrong := ~((P >= 0.0) & (P <= 1.0))).any():
            refuse(P, wrong, "P must hold probabilities in [0, 1]")
        return logit_normal_log_density(P, self.loadings_, self.intercept_)

    def _encode(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return means and variances of q(z|x); shared variances have shape (k,)."""
        if not hasattr(self, "encoder_weights_"):
            posteriors = SamplePosteriors(self.loadings_, self.intercept_)
            M, S = posteriors.start(len(X))
            posteriors.solve(X, M, S)
            return M, np.square(S)
        V = self.encoder_weights_.T
        blocks = [(X[block] - self.mean_) @ V for block in row_blocks(*X.shape)]
        return np.concatenate(blocks), self.encoder_variance_

    @property
    def training_history(self) -> dict[str, Any]:
        return numbered({"bound": self.elbo_history_}, "iteration", self.n_iter_)

    def observations(self, X: Any) -> Any:
        return check_bits(to_array(X), self.binarize)

    def bound_terms(self, X: Any) -> BoundTerms:
        X = self._check_samples(X)
        M, D = self._encode(X)
        terms = self._terms(X, M, D)
        k, log_variance = M.shape[1], np.broadcast_to(np.log(D), M.shape).mean(axis=0)
        # A separate stream, because X may have been generated with the same seed.
        rng = np.random.default_rng(np.random.SeedSequence(0, spawn_key=(0,)))
        draws = rng.standard_normal(M.shape)
        curvature = 0.0
        for block in row_blocks(*X.shape):
            Z = M[block] + np.sqrt(np.broadcast_to(D, M.shape)[block]) * draws[block]
            logits = affine(Z, self.loadings_.T, self.intercept_)
            curvature += float((logits**2 * expit(logits) * expit(-logits)).sum()) / len(X)
        return BoundTerms(
            n_features=X.shape[1],
            bound=float(terms.bound.mean()),
            kl=float(terms.kl.sum(axis=1).mean()),
            posterior_entropy=normal_entropy(k, float(log_variance.sum())),
            decoder_entropy=0.5 * float(log_variance.sum()) - self._sum_of_entropies(X, terms),
            second_moment=(M**2 + D).mean(axis=0),
            curvature=curvature,
        )

    def _sum_of_entropies(
        self, X: np.ndarray, terms: SampleTerms, weights: np.ndarray | None = None
    ) -> float:
        # Contribution of the features that the fit left out to the ELBO minus the entropies.
        left_out = ~self.loadings_.any(axis=1)
        mean = weighted_mean(X, weights, np.float64)
        difference = (mean - expit(self.intercept_)) * self.intercept_
        return float(weighted_mean(terms.entropies, weights) + difference[left_out].sum())

    def _terms(self, X: np.ndarray, M: np.ndarray, D: np.ndarray) -> SampleTerms:
        return sample_terms(X, self.loadings_, self.intercept_, M, D)

    def _check_samples(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return check_bits(checked_data(self, X, reset=False), self.binarize)

    def _check_state(self) -> None:
        super()._check_state()
        if hasattr(self, "encoder_weights_") != hasattr(self, "encoder_variance_"):
            raise ValueError(
                "encoder_weights_ and encoder_variance_ must both exist or both be missing."
            )
        if hasattr(self, "mean_"):
            self._check_parameters()  # transform depends on them

    def _check_parameters(self) -> None:
        check_integer("n_components", self.n_components, at_least=1)
        check_choice("inference", self.inference, INFERENCES)
        if self.binarize is not None:
            check_real("binarize", self.binarize)
        check_integer("max_iter", self.max_iter, at_least=1)
        check_real("tol", self.tol, at_least=0)
        check_checkpoint(self)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = self.binarize is None
        return tags
