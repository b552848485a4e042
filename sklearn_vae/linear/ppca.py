"""Probabilistic principal component analysis."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from sklearn_vae.gaussian import observed
from sklearn_vae.gaussian.arrays import (
    common_float_type,
    float_type,
    scale_of,
    to_device_of,
    to_host,
)
from sklearn_vae.gaussian.centred import dense
from sklearn_vae.gaussian.eigensolvers import (
    SVD_SOLVERS,
    count_components,
)
from sklearn_vae.gaussian.moments import Moments
from sklearn_vae.linear.checks import (
    check_fits_together,
    check_n_components,
    check_square_fits,
    choose_solver,
    decompose,
    moments_of,
)
from sklearn_vae.linear.closed_form import ClosedFormModel
from sklearn_vae.linear.dask_arrays import as_dask_array, mapped_rows, seen_in_blocks
from sklearn_vae.linear.exact_posterior import COORDINATES
from sklearn_vae.linear.ppca_em import fit_incomplete
from sklearn_vae.linear.sample_weights import weighted_rows
from sklearn_vae.linear.seen import SeenRows, dtype_of
from sklearn_vae.validation import (
    all_or_nothing,
    check_choice,
    check_integer,
    check_memory,
    check_noise_variance,
    check_random_state,
    check_same_place,
    is_dask,
    is_integer,
    is_real,
)


class PPCA(ClosedFormModel):
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
        sigma2. 0.0 where estimated with k at or above the rank of the data.
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
        Number, mean and scatter of all rows seen, to which `partial_fit` adds. Set by
        `partial_fit`, and by `fit` with the solver "covariance_eigh" where n >= d.

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
        """Fit the model to the rows of X.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n, d)
            At least two rows. NaN is a missing value: the model is then fitted by EM to what is
            observed, which must be something of every feature; a row of which nothing is observed
            counts for nothing. The model of float32 is float32, that of all else float64. Of a
            memory-mapped array without missing values no copy is made, unless `svd_solver` is
            "full"; a sparse one is not made dense.
            Of a Dask array or DataFrame, whose blocks may be sparse and of unknown lengths, each
            block is read once and none gathered: the moments of each, (d^2 + d + 1) numbers, are
            added up along a tree on the scheduler that is active, and the covariance decomposed
            here, whatever `svd_solver` is. Its rows have to be whole (one block of columns) and
            complete; `transform`, `inverse_transform`, `score_samples` and `impute` of one are
            lazy, `score` is computed.
        y : Ignored
        sample_weight : array-like or Dask array of shape (n,), default=None
            Finite and >= 0, at least two of them positive. A weight of 2 counts a row twice, one
            of 0 leaves it out (of a memory-mapped array its row must still be finite), fractions
            are allowed. The model does not depend on their scale; what does, since PCA's
            conventions count rows, are `explained_variance_`, `singular_values_`, "whitened"
            coordinates, `n_components="mle"`, and how many empty components None keeps.

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
            for name in ("moments_", "_moments_origin", "loglike_history_"):
                self.__dict__.pop(name, None)
            if is_dask(X):
                self._fit_blocks(X, sample_weight)
                return self
            X = self._check_rows(X, reset=True, min_samples=2)
            try:
                self._fit_complete(X, sample_weight)
                return self
            except ValueError:
                # NaN shows on the way, without a pass over X that looks for it.
                if not self._has_missing(X):
                    raise
            self._fit_incomplete(X, sample_weight)
        return self

    def _fit_complete(self, X: Any, sample_weight: Any) -> None:
        X, weights, n_rows, n_samples = weighted_rows(X, sample_weight, at_least=2)
        if weights is not None:
            weights = weights / scale_of(weights)
        spectrum, moments = decompose(
            X,
            self.n_components,
            choose_solver(X, self.n_components, self.svd_solver),
            weights=weights,
            n_rows=n_rows,
            n_samples=n_samples,
            **self._solver_options(),
        )
        k = count_components(spectrum, self.n_components, n_samples, n_rows)
        self._set_model(spectrum, k, n_samples, dtype_of(X), self.noise_variance)
        if moments is not None:
            self._set_moments(SeenRows.of(X, moments.rescaled(n_samples), n_rows))

    def _fit_blocks(self, X: Any, sample_weight: Any) -> None:
        rows = as_dask_array(self, X, reset=True)
        seen = seen_in_blocks(self, rows, sample_weight)
        n_samples, n_rows = seen.moments.n, int(seen.n_rows)
        counted = max(n_rows, round(n_samples))
        shape = (counted, seen.moments.n_features)
        check_fits_together(shape, n_samples, self.n_components, "covariance_eigh")
        spectrum = seen.spectrum()
        k = count_components(spectrum, self.n_components, n_samples, n_rows)
        self._set_model(spectrum, k, n_samples, seen.dtype, self.noise_variance)
        self._set_moments(seen)

    def _fit_incomplete(self, X: Any, sample_weight: Any) -> None:
        if sample_weight is not None:
            raise ValueError(
                "sample_weight must be None where X contains NaN: rows with missing values are "
                "not weighted."
            )
        check_memory(
            32 * X.shape[0] * X.shape[1],
            "The EM algorithm for missing values holds X four times in float64",
            "Fit to fewer of the rows: the model takes the others a block at a time.",
        )
        fit = fit_incomplete(
            to_host(X).astype(np.float64),
            self.n_components,
            self.noise_variance,
            svd_solver=self.svd_solver,
            tol=self.tol,
            max_iter=self.max_iter,
            **self._solver_options(),
        )
        spectrum = fit.spectrum.like(X)
        k = spectrum.eigenvalues.shape[0]
        self._set_model(spectrum, k, X.shape[0], float_type(X), fit.noise_variance or None)
        self.kl_per_dim_ = to_device_of(self.mean_, fit.kl_per_dim)
        self.entropy_bound_ = fit.entropy_bound
        self.elbo_ = float(fit.history[-1])
        self.loglike_history_ = to_device_of(spectrum.mean, fit.history)
        self.n_iter_ = max(len(fit.history) - 1, 1)

    def _solver_options(self) -> dict[str, Any]:
        return {
            "iterated_power": self.iterated_power,
            "n_oversamples": self.n_oversamples,
            "random_state": check_random_state(self.random_state),
        }

    def impute(self, X: Any, return_std: bool = False) -> Any:
        """X with the conditional mean of what is missing given what is observed of its row.

        Parameters
        ----------
        X : array-like of shape (n, d)
            NaN where missing.
        return_std : bool, default=False
            Return the conditional standard deviation as well.

        Returns
        -------
        X : array of shape (n, d)
            Observed entries are those of X.
        std : array of shape (n, d)
            0 for observed entries. Only with `return_std`.

        Raises
        ------
        ValueError
            If the noise variance is 0, and X has NaN.
        """
        check_is_fitted(self)
        if is_dask(X) and not return_std:
            return mapped_rows(self, "impute", X)
        X = self._check_more_rows(X, "impute")
        xp = array_namespace(self.mean_)
        if self._has_missing(X):
            filled, std = self._of_observed(observed.impute, X, "impute", return_std=return_std)
            # The entries themselves: what is computed has been to float64 and back.
            filled = xp.where(xp.isnan(X), filled, xp.astype(X, filled.dtype))
        else:
            filled = xp.astype(dense(X), common_float_type(X, self.mean_), copy=True)
            std = xp.zeros_like(filled)
        return (filled, std) if return_std else filled

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> PPCA:
        """Add the rows of X to those seen before, and fit the model to all of them.

        Exact: any split into batches, the first of which may be given to `fit`, gives what one
        `fit` to all rows gives. Keeps the (d, d) scatter in `moments_` and decomposes it at each
        call, whatever `svd_solver` is; `n_components=None` keeps all d components.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n, d)
            One row or more. While fewer rows than components have been seen, the components
            without data have variance 0, and `n_components="mle"` keeps d components. A Dask array
            is read as by `fit`.
        y : Ignored
        sample_weight : array-like of shape (n,), default=None
            As in `fit`, at least one of them positive; None counts each row once. Here their
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
            of_batch = self._blocks_seen if is_dask(X) else self._rows_seen
            seen = of_batch(X, sample_weight, first)
            if not first:
                before = SeenRows(self.moments_, self.components_.dtype, *self._moments_origin)
                seen = before + seen
            self._fit_seen(seen)
        return self

    def _rows_seen(self, X: Any, sample_weight: Any, first: bool) -> SeenRows:
        X = self._check_rows(X, reset=first)
        if not first:
            check_same_place(self, X, self.mean_, "partial_fit")
        self._check_at_most(X.shape[1])
        check_square_fits(X, X.shape[1], "partial_fit")
        X, weights, n_rows, _ = weighted_rows(X, sample_weight, at_least=1)
        return SeenRows.of(X, self._moments_of_batch(X, weights), n_rows)

    def _blocks_seen(self, X: Any, sample_weight: Any, first: bool) -> SeenRows:
        rows = as_dask_array(self, X, reset=first)
        if not first:
            check_same_place(self, np.empty(0), self.mean_, "partial_fit")
        self._check_at_most(rows.shape[1])
        return seen_in_blocks(self, rows, sample_weight, at_least=1)

    @classmethod
    def from_moments(cls, moments: Moments, **parameters: Any) -> PPCA:
        """A fitted PPCA from the moments of rows, wherever they were computed.

        Parameters
        ----------
        moments : Moments
            Of at least one row. They may be the sum of those of many files or machines. Their n
            counts as a number of rows where PCA's conventions have one: in "mle" and the divisor
            n - 1 of `explained_variance_`; the model itself does not depend on it.
        **parameters
            Of the constructor.

        Returns
        -------
        PPCA
            What `partial_fit` to all the rows gives; `partial_fit` adds more.

        Raises
        ------
        ValueError
            If a parameter is not valid for these moments, or they are those of no rows.
        """
        if not isinstance(moments, Moments):
            raise TypeError(f"moments must be Moments, got {type(moments).__name__}.")
        model = cls(**parameters)
        model._check_parameters()
        if moments.n == 0:
            raise ValueError("moments must be those of at least one row, got n = 0.")
        model._check_at_most(moments.n_features)
        model.n_features_in_ = moments.n_features
        xp = array_namespace(moments.scatter)
        eps = float(xp.finfo(moments.mean.dtype).eps)
        # Normalised weights may sum up to 1, whatever the number of rows.
        n_rows = max(moments.n, moments.n_features)
        model._fit_seen(SeenRows(moments, moments.mean.dtype, eps, 0.0, n_rows))
        return model

    def _moments_of_batch(self, X: Any, weights: Any) -> Moments:
        try:
            return moments_of(X, weights)
        except ValueError as error:
            if self._has_missing(X):
                raise ValueError(
                    "partial_fit takes no missing values, but X contains NaN: fit takes them, of "
                    "all rows at once, and impute fills them."
                ) from error
            raise

    def _check_at_most(self, n_features: int) -> None:
        # A stream may begin with fewer rows than components: only d is a limit.
        k: Any = self.n_components
        if is_integer(k) and k > n_features:
            raise ValueError(f"n_components must be at most n_features = {n_features}, got {k}.")

    def _fit_seen(self, seen: SeenRows) -> None:
        n = seen.moments.n
        too_few = self.n_components == "mle" and n < max(seen.moments.n_features, 2)
        spectrum = seen.spectrum()
        k = count_components(spectrum, None if too_few else self.n_components, n)
        self._set_model(spectrum, k, n, seen.dtype, self.noise_variance)
        self._set_moments(seen)

    def _set_moments(self, seen: SeenRows) -> None:
        self.moments_ = seen.moments
        # What else is known of the rows, whatever their weights.
        self._moments_origin = (seen.eps, seen.stored, seen.n_rows)

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
