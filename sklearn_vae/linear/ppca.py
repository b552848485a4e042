"""Probabilistic principal component analysis."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import Tags

from sklearn_vae.gaussian.arrays import (
    float_name,
    scale_of,
    to_device_of,
)
from sklearn_vae.gaussian.eigensolvers import (
    SVD_SOLVERS,
    choose_solver,
    count_components,
    decompose_summary,
    recentered,
    summarize,
)
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.gaussian.spectrum import Spectrum
from sklearn_vae.linear.checks import (
    check_components_fit,
    check_fits_together,
    check_n_components,
    check_solver_takes,
    check_squares_fit,
)
from sklearn_vae.linear.closed_form import closed_form_attributes, warn_unless_converged
from sklearn_vae.linear.dask_arrays import as_dask_array, dask_moments
from sklearn_vae.linear.exact_posterior import COORDINATES, MissingValuesModel
from sklearn_vae.linear.moments_mixin import MomentsMixin
from sklearn_vae.linear.ppca_em import EM_TOLERANCE, IncompleteFit, fit_incomplete
from sklearn_vae.linear.sample_weights import drop_zero_weights
from sklearn_vae.validation import (
    all_or_nothing,
    check_choice,
    check_integer,
    check_noise_variance,
    check_random_state,
    check_same_device,
    is_dask,
    is_integer,
    is_memory_mapped,
    is_real,
)


class Decomposition(NamedTuple):
    """Eigendecomposition of the covariance of the data, before k is chosen."""

    spectrum: Spectrum
    n_samples: float  # or the sum of the sample weights
    dtype: str
    counted: int  # samples, with weights as repetitions
    em: IncompleteFit | None = None  # if X has missing values

    @classmethod
    def from_moments(cls, moments: Moments) -> Decomposition:
        """Decompose the covariance in `moments`."""
        counted = max(int(moments.count), round(moments.n))
        return cls(Spectrum.from_moments(moments), moments.n, moments.dtype, counted)


class PPCA(MomentsMixin, MissingValuesModel):
    r"""Probabilistic principal component analysis (pPCA), fitted exactly.

    The model is ::

        z ~ N(0, I_k),   x | z ~ N(W z + mu, sigma2 I_d),   so   x ~ N(mu, W W' + sigma2 I_d)

    Its maximum likelihood solution is PCA: the columns of W are the leading eigenvectors of the
    covariance S (divisor n), scaled to length sqrt(lambda_h - sigma2), and sigma2 is the mean of
    the d - k remaining eigenvalues. If sigma2 is fixed, the columns with lambda_h <= sigma2 are
    exactly zero, and the corresponding latent dimensions have collapsed.

    `PPCA` can replace :class:`sklearn.decomposition.PCA`: `fit_transform`, `transform`,
    `inverse_transform`, `components_`, `explained_variance_`, `explained_variance_ratio_`,
    `singular_values_` and `mean_` are the same. `noise_variance_`, `score`, `score_samples`,
    `get_covariance` and `get_precision` differ, because they belong to the maximum likelihood
    model: PCA divides by n - 1 instead of n, and averages the noise over too few directions if
    n < d. All methods except `partial_fit` accept NaN for missing values.

    Parameters
    ----------
    n_components : int, float, "mle", default=None
        Number k of components. A float in (0, 1) is the share of the variance to explain, and "mle"
        estimates k by Minka's method. If None, k is min(n_samples, n_features), or one less with
        `svd_solver="arpack"` or if X has missing values.
    noise_variance : float, default=None
        Fixed noise variance sigma2 > 0. If None, it is estimated. It changes the density, but not
        the components, so that "principal" and "whitened" coordinates of complete samples do not
        depend on it. Choose it by the log-likelihood, with `GridSearchCV` and the default `score`
        or with :class:`PPCACV`.
    coordinates : {"principal", "whitened", "posterior"}, default="principal"
        Coordinates that `transform` returns and `inverse_transform` expects: those of PCA, those of
        `PCA(whiten=True)`, or the posterior mean E[z|x] of the latent variables. With "posterior",
        `inverse_transform` returns E[x|z], which shrinks reconstructions toward the mean.
        Otherwise it returns PCA's reconstructions. `posterior`, `conditional` and `sample` always
        use the latent variables z.
    svd_solver : {"auto", "full", "covariance_eigh", "arpack", "randomized"}, default="auto"
        How the data are decomposed. "auto" is exact, whatever `tol` and `random_state` are, and
        chooses by the kind and shape of X. If both sides of X exceed 4000, it iterates until the
        residuals of the eigenpairs are at most 1e-9 times the largest eigenvalue, unless that is
        slow and one side is at most 10000. For sparse X of which both sides exceed 1000 it uses
        ARPACK. "full" uses the SVD of X, which must be dense. "covariance_eigh" decomposes the
        covariance, or the Gram matrix if n < d, and reads X once. "arpack" (NumPy arrays and sparse
        X) and "randomized" compute only k components, up to `tol`. Without `tol`, "arpack" is exact,
        and "randomized" is PCA's approximate algorithm with PCA's random numbers. `certificate_`
        bounds the errors.
    iterated_power : int or "auto", default="auto"
        Number of power iterations of the randomized solver.
    n_oversamples : int, default=10
        Number of additional random vectors of the randomized solver.
    tol : float, default=None
        Tolerance of the "randomized" and "arpack" solvers: the norm of S v - lambda v is at most
        `tol` times the largest eigenvalue for each component v, or a ConvergenceWarning is raised.
        If None, they run as in PCA. If X has missing values, `tol` is instead the tolerance of the
        EM algorithm in nats per sample: EM stops when an iteration improves the log-likelihood by
        less than `tol`, or 1e-6 if `tol` is None.
    max_iter : int, default=1000
        Maximum number of EM iterations.
    random_state : int, RandomState instance or None, default=None
        Seed or generator for the "arpack" and "randomized" solvers.

    Attributes
    ----------
    components_ : array of shape (n_components, n_features)
        Orthonormal principal axes, sorted by decreasing variance. In each axis the entry of largest
        magnitude is positive.
    mean_ : array of shape (n_features,)
        Mean mu of the data.
    loadings_ : array of shape (n_features, n_components)
        Loading matrix W. The columns of collapsed dimensions are exactly zero.
    noise_variance_ : float
        Noise variance sigma2. The estimate is 0.0 if k reaches the rank of the data. Methods that
        need a density then raise ValueError, unless k = d.
    explained_variance_ : array of shape (n_components,)
        Variance along each component, with divisor n - 1 (n if the weights sum to less than 2).
    explained_variance_ratio_ : array of shape (n_components,)
        Share of the total variance along each component.
    singular_values_ : array of shape (n_components,)
        Singular values of the centered data.
    kl_per_dim_ : array of shape (n_components,)
        KL divergence of q(z_h|x) from the prior, averaged over the training data, in nats. It is 0
        for a collapsed dimension, and inf for the others if sigma2 is 0.
    mutual_information_ : float
        Mutual information I(x; z) of the model in nats: the sum of `kl_per_dim_`, unless X has
        missing values.
    collapsed_dims_ : array of int
        Indices of the collapsed latent dimensions.
    elbo_ : float
        Average log-likelihood of the observed training data in nats per sample, which equals the
        ELBO because the posterior is exact. It is inf if the likelihood is unbounded.
    loglike_history_ : array of shape (n_iter_ + 1,)
        Values of `elbo_` before the first EM iteration and after each. Only if X has missing
        values.
    n_iter_ : int
        Number of EM iterations; 1 if X has no missing values.
    certificate_ : Certificate or Stationarity
        Bounds on the distance from the exact solution: enclosures of the eigenvalues, the angle
        between the span of the components and the leading eigenvectors, variance that was missed,
        and nats per sample below the maximum of the likelihood. `print` shows it as a sentence. If
        X has missing values, it has `remaining_gain`, which EM predicts up to the nearest maximum,
        in nats per sample, and `gradient_norm`. The gradient is with respect to W and the mean,
        divided by the root mean square of the centered values, and log sigma2.
    entropy_bound_ : float
        Sum of three entropies in nats per sample. It equals `elbo_`, unless `noise_variance` is
        fixed at a value other than the maximum likelihood estimate.
    spectrum_ : Spectrum
        Eigenpairs of the covariance S that the model keeps, and the sum of the other eigenvalues.
        `StationaryPoint(spectrum_, ...)` is a stationary point of the likelihood.
    n_components_, n_features_in_ : int
        Number k of components, and number d of features seen during `fit`.
    n_samples_ : int or float
        Number n of samples, or the sum of their weights.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features seen during `fit`, if X has feature names that are all strings.
    moments_ : Moments
        Number, mean and scatter of the samples, which `partial_fit` updates. Only after
        `partial_fit` and `from_moments`.

    See Also
    --------
    sklearn.decomposition.PCA : Same components, but another noise variance and score.
    FactorAnalysis : Model with one noise variance per feature.
    PPCACV : Model with k and sigma2 chosen by cross-validation.

    References
    ----------
    .. [1] Tipping and Bishop, "Probabilistic Principal Component Analysis", JRSS-B 1999, eq. 7
       and 8 (maximum likelihood).
    .. [2] Lucas, Tucker, Grosse and Norouzi, "Don't Blame the ELBO! A Linear VAE Perspective on
       Posterior Collapse", NeurIPS 2019, eq. 5 to 8 and appendix A (fixed noise variance).
    .. [3] Minka, "Automatic Choice of Dimensionality for PCA", NIPS 2000, eq. 30 ("mle").
    .. [4] Halko, Martinsson and Tropp, "Finding structure with randomness", SIAM Review 2011,
       algorithm 5.1 ("randomized").

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> X = load_iris().data
    >>> model = PPCA(n_components=2).fit(X)
    >>> print(f"{model.score(X):.4f} nats, noise variance {model.noise_variance_:.4f}")
    -2.6998 nats, noise variance 0.0507
    >>> model.transform(X).shape
    (150, 2)
    """

    def __init__(
        self,
        n_components: float | str | None = None,
        *,
        noise_variance: float | None = None,
        coordinates: str = "principal",
        svd_solver: str = "auto",
        iterated_power: int | str = "auto",
        n_oversamples: int = 10,
        tol: float | None = None,
        max_iter: int = 1000,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.noise_variance = noise_variance
        self.coordinates = coordinates
        self.svd_solver = svd_solver
        self.iterated_power = iterated_power
        self.n_oversamples = n_oversamples
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> PPCA:
        """Fit the model to X.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            At least two samples. NaN marks a missing value: the model is then fitted to the
            observed entries by EM, and each feature needs at least one. A float32 X gives a
            float32 model. Sparse X stays sparse, and memory-mapped X is read in blocks unless
            `svd_solver="full"`. Each block of a Dask array or DataFrame is read once, whatever
            `svd_solver` is; it must have all features and no missing values.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like or Dask array of shape (n_samples,), default=None
            Finite weights >= 0, of which at least two are positive. A weight of 2 counts a sample
            twice, 0 ignores it. The scale of the weights does not change the model, but it
            changes what PCA defines by the number of samples: `explained_variance_`,
            `singular_values_`, "whitened" coordinates and `n_components="mle"`.

        Returns
        -------
        self : PPCA
            Fitted model.

        Raises
        ------
        ValueError
            If a parameter, X or `sample_weight` is invalid. With missing values also if X is
            sparse or a Dask array, or if `n_components` is neither None nor an integer.
        MemoryError
            If the matrix that "covariance_eigh" decomposes does not fit into memory or, with
            missing values, if four copies of X in float64 do not.

        Warns
        -----
        ConvergenceWarning
            If the residuals of an iterative solver exceed its tolerance or, with missing values, if
            EM has not converged.
        """
        self._check_parameters()
        with all_or_nothing(self):
            for name in ("moments_", "loglike_history_"):
                self.__dict__.pop(name, None)
            self._set_fit(self._decompose(X, sample_weight))
        return self

    def _decompose(self, X: Any, sample_weight: Any) -> Decomposition:
        if is_dask(X):
            X = as_dask_array(self, X, reset=True)
            moments = dask_moments(self, X, sample_weight)
            fit = Decomposition.from_moments(moments)
            shape = (fit.counted, moments.n_features)
            check_fits_together(shape, moments.n, self.n_components, "covariance_eigh")
            return fit
        X = self._check_samples(X, reset=True, min_samples=2)
        kept, weights, count, n_samples = drop_zero_weights(X, sample_weight, at_least=2)
        counted, mapped = max(count, round(n_samples)), is_memory_mapped(kept)
        solver = choose_solver(kept, self.n_components, self.svd_solver, mapped=mapped)
        check_solver_takes(kept, solver)
        if solver == "covariance_eigh":
            check_squares_fit(f"svd_solver={solver!r}", min(kept.shape), X=kept)
        weights = weights if weights is None else weights / scale_of(weights)
        summary = summarize(kept, solver, weights, mapped=mapped)
        # NaN in X shows up in the sums, which saves a pass over X.
        if not summary.is_finite:
            if not self._has_missing(kept):
                summary.check_finite()
            del summary
            return self._decompose_missing(kept, weights, counted, n_samples)
        shape = (counted, X.shape[1])
        check_fits_together(shape, n_samples, self.n_components, solver)
        if not isinstance(summary, Moments):
            check_components_fit(shape, self.n_components, solver)
        is_auto, tol, options = self.svd_solver == "auto", self.tol, self._solver_options()
        if is_auto:  # no parameter of other solvers changes the result
            tol, options["random_state"] = None, check_random_state(0)
        spectrum = decompose_summary(
            summary,
            self.n_components,
            solver,
            n_counted=counted,
            tol=tol,
            refine=recentered(kept, summary, weights, mapped=mapped) if is_auto else None,
            **options,
        )
        spectrum = replace(spectrum, remainder=summary.remainder)
        warn_unless_converged(spectrum, self.n_components, solver, tol)
        return Decomposition(spectrum, n_samples, float_name(X), counted)

    def _decompose_missing(
        self, X: Any, weights: Any, n_counted: int, n_samples: float
    ) -> Decomposition:
        em = fit_incomplete(
            X,
            self.n_components,
            self.noise_variance,
            weights,
            n_counted=n_counted,
            svd_solver=self.svd_solver,
            tol=EM_TOLERANCE if self.tol is None else self.tol,
            max_iter=self.max_iter,
            **self._solver_options(),
        )
        return Decomposition(em.spectrum.like(X), n_samples, float_name(X), n_counted, em)

    def _set_fit(self, fit: Decomposition) -> None:
        """Choose k and set all fitted attributes."""
        n, d, n_components = fit.n_samples, fit.spectrum.n_features, self.n_components
        if n_components == "mle" and n < max(d, 2):
            n_components = None  # too few samples so far
        k = count_components(fit.spectrum, n_components, n, fit.counted)
        noise_variance = fit.em.noise_variance or None if fit.em else self.noise_variance
        fitted = closed_form_attributes(fit.spectrum, k, n, fit.dtype, noise_variance)
        self.__dict__.update(fitted)
        if fit.em is not None:
            self.kl_per_dim_ = to_device_of(self.mean_, fit.em.kl_per_dim)
            self.certificate_ = fit.em.certificate
            self.entropy_bound_ = fit.em.entropy_bound
            self.elbo_ = float(fit.em.history[-1])
            self.loglike_history_ = to_device_of(fit.spectrum.mean, fit.em.history)
            self.n_iter_ = max(len(fit.em.history) - 1, 1)

    def _solver_options(self) -> dict[str, Any]:
        return {
            "iterated_power": self.iterated_power,
            "n_oversamples": self.n_oversamples,
            "random_state": check_random_state(self.random_state),
        }

    def _moments_of_batch(self, X: Any, sample_weight: Any, first: bool) -> Moments:
        is_lazy = is_dask(X)
        X = as_dask_array(self, X, reset=first) if is_lazy else self._check_samples(X, reset=first)
        if not first:
            check_same_device(self, np.empty(0) if is_lazy else X, self.mean_, "partial_fit")
        self._check_at_most(X.shape[1])
        if is_lazy:
            return dask_moments(self, X, sample_weight, at_least=1)
        check_squares_fit("partial_fit", X.shape[1], X=X)
        X, weights, _, _ = drop_zero_weights(X, sample_weight, at_least=1)
        moments = Moments.of(X, weights, check_finite=False)
        if not moments.is_finite and self._has_missing(X):
            raise ValueError(
                "partial_fit does not accept missing values, but X contains NaN. Use fit, or fill "
                "them with impute first."
            )
        moments.check_finite()
        return moments

    def _set_moments(self, moments: Moments) -> None:
        self._check_at_most(moments.n_features)
        self._set_fit(Decomposition.from_moments(moments))

    def _check_at_most(self, n_features: int) -> None:
        # A stream may begin with fewer samples than components, so only d limits k.
        k: Any = self.n_components
        if is_integer(k) and k > n_features:
            raise ValueError(f"n_components must be at most n_features = {n_features}, got {k}.")

    def _check_parameters(self) -> None:
        check_n_components(self.n_components)
        check_noise_variance(self.noise_variance)
        check_choice("coordinates", self.coordinates, COORDINATES)
        check_choice("svd_solver", self.svd_solver, SVD_SOLVERS)
        if not (isinstance(self.iterated_power, str) and self.iterated_power == "auto"):
            check_integer("iterated_power", self.iterated_power, at_least=0)
        check_integer("n_oversamples", self.n_oversamples, at_least=1)
        check_integer("max_iter", self.max_iter, at_least=1)
        if self.tol is not None and not (is_real(self.tol) and self.tol >= 0):
            raise ValueError(f"tol must be None or a float >= 0, got {self.tol!r}.")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.array_api_support = self.svd_solver != "arpack"
        tags.input_tags.sparse = self.svd_solver != "full"
        return tags
