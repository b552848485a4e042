"""Probabilistic principal component analysis."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from sklearn_vae.gaussian import observed
from sklearn_vae.gaussian.arrays import (
    common_float_type,
    float_name,
    scale_of,
    to_device_of,
)
from sklearn_vae.gaussian.centred import dense
from sklearn_vae.gaussian.eigensolvers import (
    SVD_SOLVERS,
    choose_solver,
    count_components,
    decompose_summary,
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
from sklearn_vae.linear.closed_form import closed_form_attributes
from sklearn_vae.linear.dask_arrays import as_dask_array, dask_moments, map_samples
from sklearn_vae.linear.exact_posterior import COORDINATES, ExactPosteriorModel
from sklearn_vae.linear.ppca_em import IncompleteFit, fit_incomplete
from sklearn_vae.linear.sample_weights import weighted_rows
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
    """Decomposed covariance of data of any kind, before k is chosen."""

    spectrum: Spectrum
    n_samples: float  # or the sum of their weights
    dtype: str
    counted: int | None = None  # samples, weights counted as repetitions; None for a stream
    moments: Moments | None = None  # to which partial_fit can add
    em: IncompleteFit | None = None  # where values are missing

    @classmethod
    def from_moments(cls, moments: Moments, counted: int | None = None) -> Decomposition:
        spectrum = Spectrum.from_moments(moments)
        return cls(spectrum, moments.n, moments.dtype, counted, moments)


class PPCA(ExactPosteriorModel):
    r"""Probabilistic principal component analysis, fitted exactly.

    The linear Gaussian latent variable model ::

        z ~ N(0, I_k),   x | z ~ N(W z + mu, sigma2 I_d),   so   x ~ N(mu, W W' + sigma2 I_d)

    whose maximum likelihood solution is PCA: the columns of W are the leading eigenvectors u_h
    of the covariance S (divisor n), scaled to length sqrt(lambda_h - sigma2), and sigma2 is the
    mean of the d - k eigenvalues left over. With sigma2 held fixed, the columns with
    lambda_h <= sigma2 are exactly zero: those latent dimensions have collapsed.

    A drop-in replacement for :class:`sklearn.decomposition.PCA`: `components_` (with PCA's
    signs), `explained_variance_` and its ratio, `singular_values_` and `mean_` are PCA's own (of
    "randomized" with n >= d to the accuracy of that solver).
    `noise_variance_`, `score`, `score_samples`, `get_covariance` and `get_precision` are those
    of the maximum likelihood model, whatever the solver. PCA's differ: it divides by n - 1
    instead of n, and averages the noise over min(n, d) - k instead of d - k directions.

    Parameters
    ----------
    n_components : int, float, "mle" or None, default=None
        k. None keeps min(n, d) components (one less with `svd_solver="arpack"`; where weights
        sum up to less than the number of rows, n is that number), a float in
        (0, 1) as many as explain more than that share of the variance, "mle" as many as Minka's
        evidence prefers. With missing values None keeps min(n, d) - 1, which with the noise can
        have any covariance.
    noise_variance : float, default=None
        sigma2 > 0, held fixed. None estimates it.
    coordinates : {"posterior", "principal", "whitened"}, default="posterior"
        What `transform` returns and `inverse_transform` takes: posterior means E[z|x], PCA's
        coordinates, or those of `PCA(whiten=True)`. The model is the same.
    svd_solver : {"auto", "full", "covariance_eigh", "arpack", "randomized"}, default="auto"
        As PCA's, but that "covariance_eigh" with n < d decomposes the (n, n) Gram matrix. "auto"
        chooses as PCA does, with these exceptions: "covariance_eigh" where n <= 1000 and
        d >= 10 n, and where n >= 10 d for memory-mapped X of up to 2000 instead of 1000 features,
        which it reads once and "randomized" some 20 times; and never "full" for memory-mapped and
        sparse X, where it is "arpack" if X is sparse, k small and min(n, d) > 1000, and
        "covariance_eigh" in place of "full". All are exact but "randomized", whose components are
        nearly the leading ones; the model is then the best one for them. A variance that is less
        than 16 max(n, d) eps^2 of the largest counts as zero, with "covariance_eigh"
        4 sqrt(min(n, d)) eps of it, where eps is 2.2e-16 for float64 and 1.2e-7 for float32 rows;
        so does one along which the rows, far from zero, are rounded as much. "arpack" is for NumPy
        arrays and sparse X, "full" for dense X.
    iterated_power : int or "auto", default="auto"
        Power iterations of the randomized solver.
    n_oversamples : int, default=10
        Additional random vectors of the randomized solver.
    tol : float, default=1e-6
        Where X has missing values: EM ends when an iteration raises the log-likelihood by less,
        in nats per sample.
    max_iter : int, default=1000
        Where X has missing values: the most iterations of EM.
    random_state : int, RandomState instance or None, default=None
        Used by the "arpack" and "randomized" solvers.

    Attributes
    ----------
    components_ : array of shape (k, d)
        Orthonormal rows, by descending variance; the largest entry of each is positive.
    mean_ : array of shape (d,)
        mu, the mean of the data.
    loadings_ : array of shape (d, k)
        W; a collapsed column is exactly zero.
    noise_variance_ : float
        sigma2. 0.0 where estimated with k at or above the rank of the data: unless k = d, methods
        that need a density then raise ValueError.
    explained_variance_, explained_variance_ratio_, singular_values_ : arrays of shape (k,)
        PCA's own: eigenvalues with divisor n - 1 (n where weights sum up to less than 2), their
        share of the total variance (0 where there is none), and singular values of the centred
        data.
    kl_per_dim_ : array of shape (k,)
        KL(q(z_h|x) || p(z_h)) averaged over the training data, 1/2 log(kappa_h / sigma2) with
        kappa_h = max(lambda_h, sigma2), in nats. 0 for a collapsed dimension; inf for the others
        where sigma2 is 0. Of rows with missing values, that of the posteriors' marginals.
    mutual_information_ : float
        I(x; z) = 1/2 sum_h log(kappa_h / sigma2) of the model, in nats. Without missing values
        the sum of `kl_per_dim_`, since the latents of the training data are then distributed as
        the prior says.
    collapsed_dims_ : array of int
        Indices of the collapsed dimensions.
    elbo_ : float
        Average log-likelihood of what is observed of the training data, which the ELBO of the
        exact posterior equals, in nats per sample; inf where it is unbounded.
    loglike_history_ : array of shape (n_iter_ + 1,)
        Where X had missing values: `elbo_` before the first iteration of EM and after each.
    n_iter_ : int
        Iterations of EM; 1 where the fit is in closed form.
    entropy_bound_ : float
        Sum of three entropies, in nats per sample; equals `elbo_` unless `noise_variance` is
        held at a value that is not optimal.
    n_components_, n_features_in_ : int
        k and d.
    n_samples_ : int or float
        n, the number of rows or the sum of their weights.
    feature_names_in_ : ndarray of shape (d,)
        Where X had feature names.
    moments_ : Moments
        Number, mean and scatter of all samples seen, to which `partial_fit` adds: scikit-learn asks
        that it can follow `fit`. Set by `partial_fit` and `from_moments`, and by `fit` with the
        solver "covariance_eigh" where n >= d. Delete the attribute to save (d, d) numbers.

    See Also
    --------
    sklearn.decomposition.PCA : The same components; different noise variance and score.
    sklearn.decomposition.FactorAnalysis : A noise variance for each feature.

    References
    ----------
    Tipping and Bishop, "Probabilistic Principal Component Analysis", JRSS-B 1999, eq. 7 and 8
    (maximum likelihood); Lucas, Tucker, Grosse and Norouzi, "Don't Blame the ELBO! A Linear VAE
    Perspective on Posterior Collapse", NeurIPS 2019, eq. 5 to 8 and appendix A (fixed sigma2);
    Minka, "Automatic Choice of Dimensionality for PCA", NIPS 2000, eq. 30 ("mle"); Halko,
    Martinsson and Tropp, "Finding structure with randomness", SIAM Review 2011, algorithm 5.1
    ("randomized").

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> X = load_iris().data
    >>> model = PPCA(n_components=2).fit(X)
    >>> print(f"{model.score(X):.4f} nats, noise variance {model.noise_variance_:.4f}")
    -2.6998 nats, noise variance 0.0507
    >>> model.transform(X[:2]).round(3)
    array([[-1.302,  0.578],
           [-1.316, -0.32 ]])
    """

    moments_: Moments
    _takes_missing = True

    def __init__(
        self,
        n_components: float | str | None = None,
        *,
        noise_variance: float | None = None,
        coordinates: str = "posterior",
        svd_solver: str = "auto",
        iterated_power: int | str = "auto",
        n_oversamples: int = 10,
        tol: float = 1e-6,
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
        """Fit the model.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            At least two samples. NaN is a missing value: the model is then fitted by EM to what is
            observed, which must be something of every feature; a sample of which nothing is
            observed counts for nothing. The model of float32 is float32, that of all else float64.
            A memory-mapped array without missing values is not copied, unless `svd_solver` is
            "full"; a sparse one is not made dense.
            Each block of a Dask array or DataFrame, which may be sparse and of unknown length, is
            read once and none is gathered: the moments of the blocks, d^2 + d + 1 numbers each, are
            added up along a tree on the active scheduler, and the covariance is decomposed here,
            whatever `svd_solver` is. Samples must be whole (one block of columns) and complete;
            `transform`, `inverse_transform`, `score_samples` and `impute` of a Dask array are
            lazy, `score` is computed.
        y : Ignored
        sample_weight : array-like or Dask array of shape (n_samples,), default=None
            Finite and >= 0, at least two of them positive. A weight of 2 counts a sample twice, 0
            leaves it out (in a memory-mapped array it must still be finite), fractions are
            allowed. The model does not depend on their scale. `explained_variance_`,
            `singular_values_`, "whitened" coordinates, `n_components="mle"` and how many empty
            components None keeps do, since PCA's conventions count samples.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter is out of its range, alone or for the shape of X; X is not a real
            matrix, has infinity, or NaN in a feature everywhere; the weights do not fit. With
            missing values also if X is sparse or a Dask array, there are weights, or
            `n_components` is neither None nor an integer.
        MemoryError
            If the matrix that "covariance_eigh" decomposes does not fit into memory; or, with
            missing values, four copies of X in float64.
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
            counted = max(int(moments.count), round(moments.n))
            shape = (counted, moments.n_features)
            check_fits_together(shape, moments.n, self.n_components, "covariance_eigh")
            return Decomposition.from_moments(moments, counted)
        X = self._check_samples(X, reset=True, min_samples=2)
        kept, weights, count, n_samples = weighted_rows(X, sample_weight, at_least=2)
        mapped = is_memory_mapped(kept)
        solver = choose_solver(kept, self.n_components, self.svd_solver, mapped=mapped)
        check_solver_takes(kept, solver)
        if solver == "covariance_eigh":
            check_squares_fit(f"svd_solver={solver!r}", min(kept.shape), X=kept)
        weights = weights if weights is None else weights / scale_of(weights)
        summary = summarize(kept, solver, weights, mapped=mapped)
        # NaN shows in the sums, so that no pass over X is needed that looks for it.
        if not summary.is_finite:
            if not self._has_missing(X):
                summary.check_finite()
            del summary
            return self._decompose_missing(X, sample_weight)
        counted = max(count, round(n_samples))
        shape = (counted, X.shape[1])
        check_fits_together(shape, n_samples, self.n_components, solver)
        if not isinstance(summary, Moments):
            check_components_fit(shape, self.n_components, solver)
        spectrum = decompose_summary(
            summary, self.n_components, solver, n_counted=counted, **self._solver_options()
        )
        kept_moments = summary.rescaled(n_samples) if isinstance(summary, Moments) else None
        return Decomposition(spectrum, n_samples, float_name(X), counted, kept_moments)

    def _decompose_missing(self, X: Any, sample_weight: Any) -> Decomposition:
        if sample_weight is not None:
            raise ValueError(
                "sample_weight must be None where X contains NaN: rows with missing values are "
                "not weighted."
            )
        em = fit_incomplete(
            X,
            self.n_components,
            self.noise_variance,
            svd_solver=self.svd_solver,
            tol=self.tol,
            max_iter=self.max_iter,
            **self._solver_options(),
        )
        return Decomposition(em.spectrum.like(X), X.shape[0], float_name(X), em=em)

    def _set_fit(self, fit: Decomposition) -> None:
        """Choose k and set all fitted attributes, whatever kind of data they come from."""
        n, d, n_components = fit.n_samples, fit.spectrum.n_features, self.n_components
        if n_components == "mle" and n < max(d, 2):
            n_components = None  # the beginning of a stream, which keeps all d
        k = count_components(fit.spectrum, n_components, n, fit.counted)
        noise_variance = fit.em.noise_variance or None if fit.em else self.noise_variance
        fitted = closed_form_attributes(fit.spectrum, k, n, fit.dtype, noise_variance)
        self.__dict__.update(fitted)
        if fit.moments is not None:
            self.moments_ = fit.moments
        if fit.em is not None:
            self.kl_per_dim_ = to_device_of(self.mean_, fit.em.kl_per_dim)
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

    def impute(self, X: Any, return_std: bool = False) -> Any:
        """Replace missing values by their conditional mean given what is observed of the sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN where missing.
        return_std : bool, default=False
            Return the conditional standard deviation as well.

        Returns
        -------
        X : array of shape (n_samples, n_features)
        std : array of shape (n_samples, n_features)
            0 for observed entries. Only with `return_std`.

        Raises
        ------
        ValueError
            If the noise variance is 0, and X has NaN.
        """
        check_is_fitted(self)
        if is_dask(X) and not return_std:
            return map_samples(self, "impute", X)
        X = self._check_new_samples(X, "impute")
        xp = array_namespace(self.mean_)
        if self._has_missing(X):
            filled, std = self._from_observed(observed.impute, X, "impute", return_std=return_std)
            # Observed entries themselves: the computed ones have been to float64 and back.
            filled = xp.where(xp.isnan(X), filled, xp.astype(X, filled.dtype))
        else:
            filled = xp.astype(dense(X), common_float_type(X, self.mean_), copy=True)
            std = xp.zeros_like(filled)
        return (filled, std) if return_std else filled

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> PPCA:
        """Add the samples of X to those seen before, and fit the model to all of them.

        Exact: any split into batches, the first of which may be given to `fit`, gives the result of
        one `fit` to all samples. Keeps the (d, d) scatter in `moments_` and decomposes it at each
        call, whatever `svd_solver` is; `n_components=None` keeps all d components.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            One sample or more. While fewer samples than components have been seen, the components
            without data have variance 0, and `n_components="mle"` keeps d components. A Dask array
            is read as by `fit`.
        y : Ignored
        sample_weight : array-like of shape (n_samples,), default=None
            As in `fit`, at least one of them positive; None counts each sample once. Here their
            scale is that of the batch against the others.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter or X is not valid, or the model comes from a `fit` that kept no
            moments to add to. What was learned before is kept.
        MemoryError
            Before anything is allocated, if the (d, d) matrices do not fit into memory.
        """
        self._check_parameters()
        first = not hasattr(self, "components_")
        if hasattr(self, "loglike_history_"):
            raise ValueError(
                "partial_fit adds to moments_, which a fit to rows with missing values does not "
                "have. Fit all rows at once, or call partial_fit from the start, on a clone."
            )
        if not first and not hasattr(self, "moments_"):
            raise ValueError(
                "partial_fit adds to moments_, which fit keeps only with the solver "
                "'covariance_eigh' and n_samples >= n_features. Set svd_solver='covariance_eigh' "
                "before fit, or call partial_fit from the start, on a clone."
            )
        with all_or_nothing(self):
            moments = self._moments_of_batch(X, sample_weight, first)
            moments = moments if first else self.moments_ + moments
            self._set_fit(Decomposition.from_moments(moments))
        return self

    def _moments_of_batch(self, X: Any, sample_weight: Any, first: bool) -> Moments:
        is_lazy = is_dask(X)
        X = as_dask_array(self, X, reset=first) if is_lazy else self._check_samples(X, reset=first)
        if not first:
            check_same_device(self, np.empty(0) if is_lazy else X, self.mean_, "partial_fit")
        self._check_at_most(X.shape[1])
        if is_lazy:
            return dask_moments(self, X, sample_weight, at_least=1)
        check_squares_fit("partial_fit", X.shape[1], X=X)
        X, weights, _, _ = weighted_rows(X, sample_weight, at_least=1)
        moments = Moments.of(X, weights, check_finite=False)
        if not moments.is_finite and self._has_missing(X):
            raise ValueError(
                "partial_fit takes no missing values, but X contains NaN: fit takes them, of "
                "all rows at once, and impute fills them."
            )
        moments.check_finite()
        return moments

    @classmethod
    def from_moments(cls, moments: Moments, **parameters: Any) -> PPCA:
        """Fit the model to moments of samples, wherever they were computed.

        Parameters
        ----------
        moments : Moments
            Of at least one sample. They may be the sum of those of many files or machines. Their n
            counts as a number of samples where PCA's conventions have one: in "mle" and the divisor
            n - 1 of `explained_variance_`; the model itself does not depend on it.
        **parameters
            Parameters of the constructor.

        Returns
        -------
        PPCA
            As after `partial_fit` to all the samples; `partial_fit` adds more.

        Raises
        ------
        ValueError
            If a parameter is not valid for these moments, or there is no sample.
        """
        if not isinstance(moments, Moments):
            raise TypeError(f"moments must be Moments, got {type(moments).__name__}.")
        model = cls(**parameters)
        model._check_parameters()
        if moments.n == 0:
            raise ValueError("moments must be those of at least one row, got n = 0.")
        model._check_at_most(moments.n_features)
        model.n_features_in_ = moments.n_features
        model._set_fit(Decomposition.from_moments(moments))
        return model

    def _check_at_most(self, n_features: int) -> None:
        # A stream may begin with fewer rows than components: only d is a limit.
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
        if not (is_real(self.tol) and self.tol >= 0):
            raise ValueError(f"tol must be a float >= 0, got {self.tol!r}.")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.array_api_support = self.svd_solver != "arpack"
        tags.input_tags.sparse = self.svd_solver != "full"
        return tags
