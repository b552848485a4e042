"""Probabilistic principal component analysis of bits."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from sklearn_vae.gaussian.arrays import affine, row_blocks
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
from sklearn_vae.gaussian.spectrum import with_positive_peaks
from sklearn_vae.linear.bernoulli_fit import WINDOW, BernoulliFit, fit_bernoulli
from sklearn_vae.protocol import LatentModel, numbered
from sklearn_vae.serialization.checkpoint import Checkpoint, check_checkpoint, random_state_of
from sklearn_vae.validation import (
    all_or_nothing,
    check_bits,
    check_choice,
    check_integer,
    check_latents,
    check_random_state,
    check_real,
    checked_data,
)

INFERENCES = ("linear", "per_sample")


class BernoulliPPCA(LatentModel):
    r"""Probabilistic principal component analysis of bits, fitted by a bound without draws.

    The latent variable model of binary features ::

        z ~ N(0, I_k),   x_j | z ~ Bernoulli(sigmoid(w_j' z + mu_j))

    whose posterior is not Gaussian; q(z|x) = N(m, diag D) stands in for it, and the evidence lower
    bound E_q log p(x|z) - KL(q || p) for the log-likelihood. The logit w_j' z + mu_j is normal
    under q, so the bound is a sum of integrals of one dimension: it is computed to ten digits,
    with its gradient, and climbed by L-BFGS, to a maximum that need not be the only one. Fits,
    scores and posteriors are deterministic but for the little noise that is added to the first
    loadings. With more features than rows the bound of the training data may be far above that of
    others, as with any model of so many parameters: choose k by cross-validation.

    Parameters
    ----------
    n_components : int, default=2
        k, at least 1 and at most the number of features.
    inference : {"linear", "per_sample"}, default="linear"
        What q(z|x) is. "linear": N(V (x - mean), diag D), an encoder shared by all rows. (V applies
        to x less the mean of the data: any other offset the decoder's mu makes up for.)
        "per_sample": means and variances of each row's own, the best for it, also for new rows in
        `transform` and `score`. That closes the gap of the shared encoder, at several solutions
        of 2k linear equations a row and ten times as long for each evaluation of the bound.
    binarize : float or None, default=None
        Threshold: an entry counts as 1 if it is above, else as 0. None takes entries in [0, 1] as
        they are; one between is a soft bit, the probability of a 1.
    max_iter : int, default=1000
        The most iterations of L-BFGS.
    tol : float, default=1e-6
        L-BFGS ends when 10 iterations together raise the bound by less, in nats per sample.
    checkpoint : str or path-like, default=None
        Folder, made where it is missing, in which the fit is saved: one that was killed goes on
        with the next `fit` of the same data and parameters, and ends bit for bit as if it had not
        been; of a finished one `fit` returns the model. One file for each data and parameters
        (README, "Long trainings"). L-BFGS then begins without memory after each write, so that
        what it ends with depends, within `tol`, on `checkpoint_every`.
    checkpoint_every : int, default=100
        Iterations between two writes.
    random_state : int, RandomState instance or None, default=None
        Of the noise added to the first loadings, which come from the Gaussian model.

    Attributes
    ----------
    mean_ : array of shape (d,)
        Mean of the bits.
    intercept_ : array of shape (d,)
        mu, the logits at z = 0. Of a feature that is 0 or 1 in all n rows (to 1e-6 in their sum),
        for which the bound has its maximum at infinity, the log-odds with half a count added to
        both sides; such a feature has loadings 0.
    loadings_ : array of shape (d, k)
        W, columns by descending length, the largest entry of each positive.
    components_ : array of shape (k, d)
        Orthonormal rows with the span of W, its left singular vectors, the largest entry of each
        positive.
    encoder_weights_ : array of shape (k, d)
        V. Only with `inference="linear"`, as the next.
    encoder_variance_ : array of shape (k,)
        D.
    kl_per_dim_ : array of shape (k,)
        KL(q(z_h|x) || p(z_h)) averaged over the training data, in nats.
    collapsed_dims_ : array of int
        Dimensions with a KL of at most 0.01 nats for all but 1 % of the training rows.
    elbo_ : float
        The bound of the training data, in nats per sample.
    elbo_history_ : array of shape (n_iter_ + 1,)
        The same at the start and after each iteration; to rounding it never falls.
    entropy_bound_ : float
        H[q(z|x)] - H[p(z)] - E_q H[p(x|z)] averaged over the training data, in nats per sample
        (of features that are constant E log p(x|z) in place of minus the entropy). Equal to
        `elbo_` at a stationary point, so that the difference tells how far the fit is from one.
    n_iter_ : int
        Iterations of L-BFGS, at least 1.
    n_components_, n_features_in_ : int
        k and d.
    feature_names_in_ : ndarray of shape (d,)
        Where X had feature names.

    See Also
    --------
    PPCA : The same with Gaussian noise, where posterior and likelihood are exact.
    sklearn.neural_network.BernoulliRBM : Another latent variable model of bits.

    References
    ----------
    Lucas, Tucker, Grosse and Norouzi, "Don't Blame the ELBO! A Linear VAE Perspective on Posterior
    Collapse", NeurIPS 2019, appendix C.3 (eq. 33, whose expectation they call intractable; it
    lacks the logarithm); Tipping, "Probabilistic Visualisation of High-Dimensional Binary Data",
    NIPS 1998 (the model, by another bound).

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_vae import BernoulliPPCA
    >>> X = load_digits().data[:300]
    >>> model = BernoulliPPCA(n_components=2, binarize=7.5, random_state=0).fit(X)
    >>> print(f"{model.score(X):.2f} nats")
    -21.27 nats
    >>> model.inverse_transform(model.transform(X[:1]))[0, 18:21].round(2)
    array([0.8 , 0.59, 0.45])
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
        checkpoint_every: int = 100,
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

    def fit(self, X: Any, y: Any = None) -> BernoulliPPCA:
        """Fit the model.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            At least two samples, with entries in [0, 1] unless `binarize` is set.
        y : Ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter is out of its range, alone or for the shape of X, or an entry of X is.

        Warns
        -----
        ConvergenceWarning
            If L-BFGS has not converged after `max_iter` iterations.
        """
        self._check_parameters()
        with all_or_nothing(self):
            X = checked_data(self, X, ensure_min_samples=2)
            X = check_bits(X, self.binarize)
            k = self.n_components
            if k > X.shape[1]:
                raise ValueError(
                    f"n_components must be an integer between 1 and n_features={X.shape[1]}, "
                    f"got {k}."
                )
            # L-BFGS forgets its past at each write.
            file = Checkpoint.of(self, X, depends_on_every=True)
            rng = random_state_of(self, file)
            fit = fit_bernoulli(X, k, self.inference, self.max_iter, self.tol, rng, file)
            if not fit.converged:
                last = fit.history[-1 - WINDOW :]
                warnings.warn(
                    f"BernoulliPPCA has not converged after {len(fit.history) - 1} iterations, of "
                    f"max_iter={self.max_iter}: the last {len(last) - 1} raised the bound by "
                    f"{last[-1] - last[0]:.2g} nats per sample, and tol={self.tol}. Increase "
                    "max_iter or tol.",
                    ConvergenceWarning,
                    stacklevel=2,
                )
            self._set_model(X, fit)
        return self

    def _set_model(self, X: np.ndarray, fit: BernoulliFit) -> None:
        for name in ("encoder_weights_", "encoder_variance_"):
            self.__dict__.pop(name, None)
        self.mean_ = X.mean(axis=0, dtype=np.float64)
        self.loadings_, self.intercept_ = fit.W, fit.mu
        if fit.V is not None and fit.D is not None:
            self.encoder_weights_, self.encoder_variance_ = fit.V, fit.D
        self.components_ = with_positive_peaks(np.linalg.svd(fit.W, full_matrices=False)[0].T)
        self.n_components_ = fit.W.shape[1]
        M, D = self._encode(X)
        terms = self._terms(X, M, D)
        self.kl_per_dim_ = terms.kl.mean(axis=0)
        self.collapsed_dims_ = np.flatnonzero(
            (terms.kl > COLLAPSE_KL).mean(axis=0) <= COLLAPSE_SHARE
        )
        self.elbo_ = float(terms.bound.mean())
        self.entropy_bound_ = self._sum_of_entropies(X, terms)
        self.elbo_history_ = fit.history
        self.n_iter_ = len(fit.history) - 1

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

    def conditional(self, Z: Any) -> tuple[np.ndarray, np.ndarray]:
        p = self.inverse_transform(Z)
        return p, p * (1 - p)

    def sample(self, n_samples: int = 1, random_state: Any = None) -> tuple[np.ndarray, np.ndarray]:
        check_is_fitted(self)
        check_integer("n_samples", n_samples, at_least=1)
        rng = check_random_state(random_state)
        Z = rng.standard_normal((n_samples, self.n_components_))
        p = self.inverse_transform(Z)
        return (rng.uniform(size=p.shape) < p).astype(np.float64), Z

    def score_samples(self, X: Any) -> np.ndarray:
        X = self._check_samples(X)
        return self._terms(X, *self._encode(X)).bound

    def log_likelihood(self, X: Any, n_samples: int = 100) -> np.ndarray:
        """Importance-weighted estimate of log p(x) of each sample, in nats.

        log (1/S) sum_s p(x, z_s) / q(z_s|x): in expectation a lower bound that rises with S toward
        log p(x) (Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", eq. 8). The
        draws are fixed, the same for every sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        n_samples : int, default=100
            Number S of draws per sample.

        Returns
        -------
        array of shape (n_samples,)
        """
        check_integer("n_samples", n_samples, at_least=1)
        X = self._check_samples(X)
        draws = np.random.RandomState(0).standard_normal((n_samples, self.n_components_))
        return importance_weighted_bound(
            X, self.loadings_, self.intercept_, *self._encode(X), draws
        )

    def _encode(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means (n, k) of q(z|x), and variances: (k,) where all samples share them, else (n, k)."""
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
        return check_bits(X, self.binarize)

    def bound_terms(self, X: Any) -> BoundTerms:
        X = self._check_samples(X)
        M, D = self._encode(X)
        terms = self._terms(X, M, D)
        k, log_variance = M.shape[1], np.broadcast_to(np.log(D), M.shape).mean(axis=0)
        # A stream of its own: the data may have been made with the same seed.
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

    def _sum_of_entropies(self, X: np.ndarray, terms: SampleTerms) -> float:
        # What features that were left out of the fit add to the bound less the entropies.
        left_out = ~self.loadings_.any(axis=1)
        off = (X.mean(axis=0, dtype=np.float64) - expit(self.intercept_)) * self.intercept_
        return float(terms.entropies.mean() + off[left_out].sum())

    def _terms(self, X: np.ndarray, M: np.ndarray, D: np.ndarray) -> SampleTerms:
        return sample_terms(X, self.loadings_, self.intercept_, M, D)

    def _check_samples(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return check_bits(checked_data(self, X, reset=False), self.binarize)

    def _check_state(self) -> None:
        super()._check_state()
        if hasattr(self, "encoder_weights_") != hasattr(self, "encoder_variance_"):
            raise ValueError("encoder_weights_ and encoder_variance_ must both be there, or none.")
        if hasattr(self, "mean_"):
            self._check_parameters()  # how long `transform` may take

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
