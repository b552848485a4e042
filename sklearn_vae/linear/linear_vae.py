"""Linear variational autoencoder, whose ELBO is known in closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.metaestimators import available_if

from sklearn_vae.gaussian.arrays import weighted_mean
from sklearn_vae.gaussian.ascent import Ascent, maximize
from sklearn_vae.gaussian.bounds import normal_entropy
from sklearn_vae.gaussian.linear_elbo import (
    LinearElbo,
    LinearVAEParameters,
    maximum_of_bound,
    with_best_encoder,
    with_latents,
    with_unit_encoder,
)
from sklearn_vae.gaussian.online import RunningCovariance
from sklearn_vae.gaussian.spectrum import peak_signs
from sklearn_vae.gaussian.stationarity import Stationarity
from sklearn_vae.linear.checks import check_n_components
from sklearn_vae.linear.covariance import TrainingCovariance, check_spread
from sklearn_vae.linear.dask_arrays import as_dask_array, dask_moments
from sklearn_vae.linear.linear_encoder import LinearEncoderModel
from sklearn_vae.linear.sample_weights import drop_zero_weights
from sklearn_vae.protocol import numbered
from sklearn_vae.serialization.checkpoint import Checkpoint, check_checkpoint, random_state_of
from sklearn_vae.serialization.identity import digest
from sklearn_vae.validation import (
    all_or_nothing,
    check_choice,
    check_integer,
    check_memory,
    check_noise_variance,
    check_real,
    checked_data,
    is_dask,
    is_integer,
    is_real,
)
from sklearn_vae.warning import warn_user

if TYPE_CHECKING:
    from sklearn_vae.linear.gradient_solver import Training

Array = NDArray[Any]

# Default numbers of iterations by solver.
SOLVERS = {"em": 1000, "adam": 10000, "stochastic": 200}
PARAMETRIZATIONS = ("standard", "unit_encoder")

# Smallest noise variance that is learned, as a share of the average variance of a feature.
NOISE_FLOOR = 1e-12

# Number of directions of the data that are tracked in addition to those of W.
SPARE_DIRECTIONS = 8

# Initial noise variance if the estimate of pPCA is 0, as the same share.
NOISE_START = 0.1

# Distance from the maximum, in nats per sample, up to which a training by gradients counts as
# converged, unless "adam" ran out of steps or `tol` is larger.
SHORTFALL = 0.01

# Beyond this ratio between the noise variance and the variance of the data, their products
# overflow.
NOISE_RANGE = 1e100


def _has_online_em(model: LinearVAE) -> bool:
    if model.solver != "em":
        raise AttributeError(
            f"partial_fit uses online EM and needs solver='em', got solver={model.solver!r}."
        )
    if hasattr(model, "loadings_") and not hasattr(model, "_stream"):
        raise AttributeError(
            "partial_fit cannot continue a model that another solver than 'em' trained, because it "
            "keeps no directions of its samples. Call partial_fit on a clone, with those samples "
            "as the first batch."
        )
    return True


class LinearVAE(LinearEncoderModel):
    r"""Variational autoencoder (VAE) with linear encoder and decoder.

    The model is ::

        p(z) = N(0, I),   p(x|z) = N(W z + mu, sigma2 I),   q(z|x) = N(V (x - mu), diag D)

    where mu is the mean of the data. The evidence lower bound (ELBO) is a function of their
    covariance. At its maximum it equals the log-likelihood of probabilistic PCA (pPCA), and the
    columns of W are scaled principal components, unique up to their signs because the diagonal
    posterior rules out other rotations. Elsewhere it is below the log-likelihood.

    Parameters
    ----------
    n_components : int, float, "mle" or None, default=2
        Number k of latent dimensions, as in :class:`PPCA`.
    noise_variance : float, default=None
        Fixed noise variance sigma2 > 0. If None, it is estimated, but not below 1e-12 times the
        average variance of a feature.
    noise_variance_init : float, default=None
        Initial noise variance of the "adam" and "stochastic" solvers. If None, it is the estimate
        of pPCA, or a tenth of the average variance if the estimate is 0.
    solver : {"em", "adam", "stochastic"}, default="em"
        "em" updates encoder, decoder, noise variance and rotation in closed form and reaches the
        global maximum. "adam" follows the gradient of the exact ELBO at a cost per step that does
        not depend on n. "stochastic" trains like a deep VAE, with random draws of z and
        mini-batches.
    parametrization : {"standard", "unit_encoder"}, default="standard"
        "standard" fixes p(z) = N(0, I). "unit_encoder" fixes D = I and learns the variances
        alpha2 of p(z) = N(0, diag alpha2), which gives the same set of models.
    learning_rate : float, default=1e-3
        Learning rate of the "adam" and "stochastic" solvers, for data scaled to unit variance.
    max_iter : int, default=None
        Maximum number of iterations of "em", steps of "adam" or epochs of "stochastic". If None, it
        is 1000, 10000 or 200, respectively.
    tol : float, default=1e-10
        Tolerance in nats per sample. "em" stops when the ELBO can rise by less than `tol`. "adam"
        stops when the average ELBO of the last 100 steps and that of the 100 steps before differ by
        less than `tol`. This may be far from the maximum, as `entropy_gap_` shows.
    batch_size : int, default=None
        Maximum mini-batch size of the "stochastic" solver. If None, each batch has all samples.
    n_mc_samples : int, default=1
        Number of draws of z per sample and step of the "stochastic" solver.
    forgetting : float, default=1.0
        Factor in (0, 1] by which `partial_fit` reduces the weight of all earlier samples at each
        batch. The model remembers about 1 / (1 - forgetting) batches.
    device : str or torch.device, default="auto"
        Device of the "adam" and "stochastic" solvers. "auto" selects CUDA if available and the CPU
        otherwise. On CUDA, "stochastic" multiplies matrices in TF32.
    checkpoint : str or path-like, default=None
        Folder in which `fit` saves its progress. After an interruption, `fit` with the same data
        and parameters resumes from there and gives the same model as an uninterrupted fit. Once
        finished, `fit` returns the saved model. `partial_fit` ignores it.
    checkpoint_every : int, default=100
        Number of iterations, steps or epochs between checkpoints.
    verbose : int, default=0
        Verbosity level. With 1 or more, "adam" and "stochastic" show a progress bar.
    random_state : int, RandomState instance or None, default=None
        Seed or generator for the initial parameters, the random draws and the batches.

    Attributes
    ----------
    mean_ : array of shape (n_features,)
        Mean mu of the data.
    loadings_ : array of shape (n_features, n_components)
        Decoder weights W, with columns sorted by decreasing length. In each column the entry of
        largest magnitude is positive.
    components_ : array of shape (n_components, n_features)
        Orthonormal basis of the span of the loadings: the principal components, if W is at the
        maximum.
    encoder_weights_ : array of shape (n_components, n_features)
        Encoder weights V.
    encoder_variance_ : array of shape (n_components,)
        Posterior variances D.
    prior_variance_ : array of shape (n_components,)
        Prior variances alpha2, which are 1 unless `parametrization="unit_encoder"`.
    noise_variance_ : float
        Noise variance sigma2.
    kl_per_dim_ : array of shape (n_components,)
        KL divergence of q(z_h|x) from the prior, averaged over the training data, in nats.
    collapsed_dims_ : array of int
        Indices of the collapsed dimensions: those with a zero column of W for "em", and for the
        other solvers those with a KL of at most 0.01 nats for 99 % of the training samples.
    elbo_ : float
        Exact ELBO of the training data in nats per sample. After `partial_fit`, the ELBO of the
        remembered samples.
    entropy_bound_ : float
        Sum of three entropies, a function of sigma2 and D (or alpha2). It equals `elbo_` at any
        stationary point, and the log-likelihood at the maximum.
    entropy_gap_ : EntropyGap
        `elbo_` minus `entropy_bound_`, split into its terms.
    elbo_history_ : array of shape (n_iter_ + 1,) or (n_iter_,)
        ELBO at the start and after each iteration of "em" or step of "adam"; its estimate in each
        epoch of "stochastic"; `elbo_` after each batch of `partial_fit`.
    history_ : dict of arrays
        The values of `elbo_history_` as "bound", and for the same steps "noise_variance" and the
        entropies "posterior_entropy", "prior_entropy" and "noise_entropy" of q(z|x), p(z) and
        p(x|z), in nats per sample.
    n_iter_ : int
        Number of iterations, steps or epochs, plus the batches of `partial_fit`.
    n_components_, n_features_in_ : int
        Number k of latent dimensions, and number d of features seen during `fit`.
    certificate_ : Stationarity
        Distance from the maximum: `remaining_gain` in nats per sample and `gradient_norm`, with a
        summary by `print`. For "adam" and "stochastic" the gain is exact, because the maximum is
        that of :class:`PPCA`. For "em" it is an estimate. The gradient is with respect to W and V
        in units of the standard deviations along the eigenvectors of the covariance, and the
        logarithms of D (or alpha2) and sigma2. Not set by `partial_fit`, whose model is the
        maximum for the remembered samples.
    n_samples_ : float
        Number of training samples, or the sum of their weights. After `partial_fit`, that of the
        remembered samples.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features seen during `fit`, if X has feature names that are all strings.

    See Also
    --------
    PPCA : The maximum in closed form.
    DeepGaussianVAE : VAE with neural networks as encoder and decoder.

    References
    ----------
    .. [1] Lucas, Tucker, Grosse and Norouzi, "Don't Blame the ELBO! A Linear VAE Perspective on
       Posterior Collapse", NeurIPS 2019, eq. 9, theorem 1 and appendices B and C.
    .. [2] Lücke, Forster and Dai, "The Evidence Lower Bound of Variational Autoencoders Converges
       to a Sum of Three Entropies", eq. 33 and 44.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA, LinearVAE
    >>> X = load_iris().data
    >>> vae = LinearVAE(n_components=2, random_state=0).fit(X)
    >>> print(f"LinearVAE: {vae.elbo_:.6f} nats, PPCA: {PPCA(n_components=2).fit(X).elbo_:.6f}")
    LinearVAE: -2.699752 nats, PPCA: -2.699752
    """

    n_iter_: int
    _stream: RunningCovariance

    def __init__(
        self,
        n_components: float | str | None = 2,
        *,
        noise_variance: float | None = None,
        noise_variance_init: float | None = None,
        solver: str = "em",
        parametrization: str = "standard",
        learning_rate: float = 1e-3,
        max_iter: int | None = None,
        tol: float = 1e-10,
        batch_size: int | None = None,
        n_mc_samples: int = 1,
        forgetting: float = 1.0,
        device: Any = "auto",
        checkpoint: Any = None,
        checkpoint_every: int = 100,
        verbose: int = 0,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.noise_variance = noise_variance
        self.noise_variance_init = noise_variance_init
        self.solver = solver
        self.parametrization = parametrization
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.tol = tol
        self.batch_size = batch_size
        self.n_mc_samples = n_mc_samples
        self.forgetting = forgetting
        self.device = device
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.verbose = verbose
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> LinearVAE:
        """Fit the model to X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            At least two samples that differ. With `solver="em"` also a Dask array or DataFrame,
            which is read as in :meth:`PPCA.fit`.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like or Dask array of shape (n_samples,), default=None
            Finite weights >= 0, of which at least two are positive. A weight of 2 counts a sample
            twice, 0 ignores it. The scale of the weights does not change the model, unless
            `n_components="mle"`. "stochastic" draws batches without regard to the weights and
            multiplies the ELBO of each sample by its weight.

        Returns
        -------
        self : LinearVAE
            Fitted model.

        Raises
        ------
        TypeError
            If X is a Dask collection and `solver` is not "em".
        ValueError
            If a parameter, X or `sample_weight` is invalid.
        MemoryError
            If the covariance, or the Gram matrix if n < d, does not fit into memory.
        FloatingPointError
            If training diverges. The model keeps parameters from at most 100 steps or one epoch
            before the divergence, and can be used.

        Warns
        -----
        ConvergenceWarning
            If "em" or "adam" reaches `max_iter` before `tol`, or if "stochastic", or "adam" with
            `tol` reached, ends more than 0.01 nats per sample (and more than `tol`) below the
            maximum.
        """
        self._check_parameters()
        with all_or_nothing(self):
            if is_dask(X) and self.solver == "em":
                X = dask_moments(self, as_dask_array(self, X, reset=True), sample_weight)
                data, weights = TrainingCovariance.from_moments(X), None
            else:
                X = checked_data(self, X, ensure_min_samples=2)
                X, weights, _, _ = drop_zero_weights(X, sample_weight, at_least=2, copy_mapped=True)
                data = TrainingCovariance.from_data(X, weights)
            k = data.count_components(self.n_components)
            file = Checkpoint.of(self, X, weights)
            self.__dict__.pop("_stream", None)
            if self.solver == "em":
                self._fit_em(data, k, file)
                return self
            error = self._fit_by_gradients(data, k, file)
        if error is not None:
            raise error
        return self

    @available_if(_has_online_em)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> LinearVAE:
        """Update the model with a batch of samples by online EM.

        The model remembers earlier samples by their mean, total variance and k + 8 leading
        eigenpairs of their covariance, in O(d k) memory, and discounts them by `forgetting`.
        `entropy_bound_` tracks the log-likelihood of the data. For new samples it is too high by
        about the number of free parameters divided by the number of remembered samples. It is
        meaningless for fewer than k + 2 remembered samples. :meth:`PPCA.partial_fit` is exact, but
        keeps the whole covariance and cannot forget.

        `partial_fit` also continues a model from `fit`, which keeps the same directions for every
        shape of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            One or more samples. The first batch needs at least two that differ.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights as in `fit`, at least one of them positive, or two in the first batch. Their
            scale matters relative to the other batches. None gives each sample a weight of 1.

        Returns
        -------
        self : LinearVAE
            Updated model.

        Raises
        ------
        ValueError
            If a parameter, X or `sample_weight` is invalid, or `n_components` has changed. The
            model is then unchanged.
        AttributeError
            If `solver` is not "em", or another solver fitted the model.
        """
        self._check_parameters()
        first = not hasattr(self, "_stream")
        with all_or_nothing(self):
            least = 2 if first else 1
            X = checked_data(self, X, ensure_min_samples=least, reset=first)
            X, weights, _, _ = drop_zero_weights(X, sample_weight, at_least=least, copy_mapped=True)
            k = self._count_stream_components(X.shape[1], first)
            batch = X.astype(np.float64, copy=False)
            if first:
                with np.errstate(over="ignore"):
                    mean = weighted_mean(batch, weights)
                    check_spread(weighted_mean((batch - mean) ** 2, weights), mean, X.dtype)
                m = min(k + SPARE_DIRECTIONS, X.shape[1])
                stream, dtype = RunningCovariance.of(batch, m, weights), X.dtype
            else:
                stream = self._stream.add(batch, self.forgetting, weights)
                dtype = np.result_type(self.loadings_.dtype, X.dtype)
            n_before, history = (0, {}) if first else (self.n_iter_, self.history_)
            self._fit_stream(stream, dtype, k)
            # One of the two factors is 1.
            log_variance = _sum_of_logs(self.encoder_variance_ * self.prior_variance_)
            self._set_history(self.elbo_, self.noise_variance_, log_variance, history)
            self.n_iter_ = n_before + 1
        return self

    def _count_stream_components(self, n_features: int, first: bool) -> int:
        """Return the number k of components, which the first batch or an earlier fit determines."""
        k: Any = self.n_components
        if not first:
            if is_integer(k) and k != self.n_components_:
                raise ValueError(
                    f"n_components must remain {self.n_components_}, its value when the stream "
                    f"began, got {k}."
                )
            return self.n_components_
        if is_integer(k) and k <= n_features:
            return int(k)
        raise ValueError(
            f"n_components must be an integer between 1 and n_features = {n_features} for "
            f"partial_fit, got {k!r}."
        )

    def _fit_em(self, data: TrainingCovariance, k: int, file: Checkpoint | None) -> None:
        """Fit the model by closed-form updates from a random start."""
        self._check_share(self._noise(), data.average_variance)
        random_state = random_state_of(self, file)
        m = min(k + SPARE_DIRECTIONS, data.n_samples, data.n_features)
        start = data.scale * random_state.standard_normal((data.n_features, m))
        history, last = self._run_em(data, start, k, file)
        self.n_iter_ = len(history) - 1
        if not last.done:
            warn_user(
                f"LinearVAE has not converged after max_iter={self.n_iter_} iterations: the ELBO "
                f"can still rise by about {last.gain:.2g} nats per sample, more than "
                f"tol={self.tol}. Increase max_iter or tol.",
                ConvergenceWarning,
            )
        p = self._in_parametrization(last.parameters, last.directions)
        self._set_fit(data, p, last.directions[:, :k].T, ())
        self._certify(data, p, last.gain, last.done, is_exact=False)
        bound, noise, log_D = np.transpose(history)
        unit_encoder = self.parametrization == "unit_encoder"  # alpha2 is then 1 / D
        self._set_history(bound, noise, -log_D if unit_encoder else log_D)
        self.collapsed_dims_ = _empty_columns(p)
        self._stream = RunningCovariance(data.n, data.mean, last.directions, last.values, last.rest)

    def _run_em(
        self, data: TrainingCovariance, start: Array, k: int, file: Checkpoint | None
    ) -> tuple[list[tuple[float, float, float]], Ascent]:
        """Return the history of bound, sigma2 and sum of log D, and the last iteration."""
        first = with_best_encoder(start[:, :k], self._noise() or data.average_variance)
        history = [(data.elbo.value(first), first.noise_variance, _sum_of_logs(first.D))]
        resumed = None
        if file is not None:
            resumed = file.resume(
                lambda saved: _restore_em(saved, data.n_features, k),
                {"numbers": digest(data.elbo.times(start))},
            )
        if resumed is not None:
            history, last = resumed
        finished = file is not None and file.finished
        for step in maximize(
            data.elbo,
            start,
            k,
            self._noise(),
            least_noise=NOISE_FLOOR * data.average_variance,
            tol=self.tol,
            max_iter=0 if finished else self._max_iter() - len(history) + 1,
            after=None if resumed is None else last,
        ):
            last, p = step, step.parameters
            history.append((last.bound, p.noise_variance, _sum_of_logs(p.D)))
            done = last.done or len(history) > self._max_iter()
            if file is not None and (done or (len(history) - 1) % file.every == 0):
                parameters = last.parameters._asdict()
                state = {**last._asdict(), "parameters": parameters}
                file.save({"history": history, "last": state}, finished=done)
        return history, last

    def _fit_by_gradients(
        self, data: TrainingCovariance, k: int, file: Checkpoint | None
    ) -> FloatingPointError | None:
        """Fit the model by gradients; return the error if training diverged."""
        from sklearn_vae.linear.gradient_solver import Options, train_exact, train_stochastic

        if self.solver == "stochastic":
            batch_size = min(self.batch_size or data.n_samples, data.n_samples)
            check_memory(
                8.0 * int(self.n_mc_samples) * int(batch_size) * (k + data.n_features),
                f"A step draws n_mc_samples={self.n_mc_samples} latent vectors and samples for "
                f"each of {batch_size} training samples",
                "Use smaller n_mc_samples or batch_size.",
            )
        average = data.average_variance
        start = self._noise() or self.noise_variance_init
        if start is None:
            start = data.resolved_spectrum(k).noise_variance(k)
            start = start if start > NOISE_FLOOR * average else NOISE_START * average
        self._check_share(start, average)
        random_state = random_state_of(self, file)
        options = Options(
            n_components=k,
            noise_variance=float(start) / average,
            learn_noise=self.noise_variance is None,
            least_noise=NOISE_FLOOR,
            unit_encoder=self.parametrization == "unit_encoder",
            learning_rate=float(self.learning_rate),
            max_iter=self._max_iter(),
            tol=self.tol,
            batch_size=None if self.batch_size is None else int(self.batch_size),
            n_mc_samples=int(self.n_mc_samples),
            device=self.device,
            verbose=self.verbose,
            seed=int(random_state.randint(np.iinfo(np.int32).max)),
        )
        train = train_exact if self.solver == "adam" else train_stochastic
        training = train(data, options, file)
        complete = training.error is None and not training.interrupted
        if file is not None and complete and not file.finished:
            parameters = training.parameters._asdict()
            file.save({**training._asdict(), "parameters": parameters}, finished=True)
        self.n_iter_ = len(training.bound) - (self.solver == "adam")
        self._set_training(data, training)
        if training.interrupted:
            warn_user(
                f"Training was interrupted after {self.n_iter_} iterations. LinearVAE keeps the "
                "parameters learned so far.",
            )
        elif training.error is None and not self.certificate_.converged:
            self._warn_of_shortfall(settled=training.settled)
        return training.error

    def _set_training(self, data: TrainingCovariance, training: Training) -> None:
        """Set the model and diagnostics from the result of a training."""
        p = _by_length(training.parameters)
        W = p.W * np.sqrt(p.prior_variance)
        components = np.linalg.svd(W, full_matrices=False)[0].T
        self._set_fit(data, p, components, training.active_bounds)
        self._set_history(training.bound, training.noise_variance, training.log_variance)
        means = data.centered @ p.V.T
        if data.weights is not None:
            means /= data.weights[:, None] ** 0.5
        self.collapsed_dims_ = self._collapsed(means, data.weights)
        k, least_noise = len(p.D), NOISE_FLOOR * data.average_variance
        spectrum = data.resolved_spectrum(k)
        values, rest = spectrum.eigenvalues[:k], float(spectrum.eigenvalues[k:].sum())
        best = maximum_of_bound(values, rest, data.n_features, self._noise(), least_noise)
        gain = max(best - self.elbo_, 0.0)
        goes_by_tol = self.solver == "adam" and not training.settled
        limit = self.tol if goes_by_tol else max(self.tol, SHORTFALL)
        complete = training.error is None and not training.interrupted
        self._certify(data, p, gain, complete and gain <= limit, is_exact=True)

    def _warn_of_shortfall(self, *, settled: bool) -> None:
        short = (
            f"the ELBO is {self.certificate_.remaining_gain:.2g} nats per sample below its maximum"
        )
        if self.solver == "stochastic":
            text = (
                f"has not converged after {self.n_iter_} epochs: {short}. Increase max_iter, "
                "n_mc_samples or batch_size, "
            )
        elif settled:
            text = f"stopped after {self.n_iter_} steps by tol={self.tol}: {short}. Decrease tol, "
        else:
            text = (
                f"has not converged after max_iter={self.n_iter_} steps: {short}, more than "
                f"tol={self.tol}. Increase max_iter, tol or learning_rate, "
            )
        text = f"LinearVAE {text}or use solver='em', which reaches the maximum."
        warn_user(text, ConvergenceWarning)

    def _certify(
        self,
        data: TrainingCovariance,
        p: LinearVAEParameters,
        gain: float,
        converged: bool,
        *,
        is_exact: bool,
    ) -> None:
        at_bound = self._active_noise_bound(data.average_variance)
        norm = data.elbo.resolving(p.noise_variance).gradient_norm(
            p,
            fixed_noise=self.noise_variance is not None or bool(at_bound),
            fixed_D=self.parametrization == "unit_encoder",
        )
        self.certificate_ = Stationarity(gain, norm, converged, is_exact, "ELBO")

    def _set_fit(
        self,
        data: TrainingCovariance,
        p: LinearVAEParameters,
        components: Array,
        active_bounds: tuple[str, ...],
    ) -> None:
        self._set_model(p, data.mean, data.dtype, components)
        bounds = self._active_noise_bound(data.average_variance) + active_bounds
        self._set_bound(*data.elbo.resolving(p.noise_variance).moments(p), bounds)
        self.n_samples_ = data.n

    def _fit_stream(self, stream: RunningCovariance, dtype: Any, k: int) -> None:
        """Set the model that maximizes the ELBO of the remembered samples of a stream."""
        average, d = stream.total_variance / len(stream.mean), len(stream.mean)
        self._check_share(self._noise(), average)
        values, directions = stream.values[:k], stream.directions[:, :k]
        rest = stream.rest + float(stream.values[k:].sum())
        elbo = LinearElbo(values, n_features=d, rest=rest)
        p = elbo.best_along(np.eye(k), values, rest, self._noise(), NOISE_FLOOR * average)
        p = self._in_parametrization(p, directions)
        W, V = directions @ p.W, p.V @ directions.T
        self._set_model(p._replace(W=W, V=V), stream.mean, dtype, directions.T)
        bounds = self._active_noise_bound(average)
        self._set_bound(*elbo.moments(p), bounds)
        self.__dict__.pop("certificate_", None)
        self.collapsed_dims_ = _empty_columns(p)
        self.n_samples_ = stream.n
        self._stream = stream

    def _in_parametrization(self, p: LinearVAEParameters, directions: Array) -> LinearVAEParameters:
        """Convert parameters along `directions` to the parametrization and fix the signs."""
        if self.parametrization == "unit_encoder":
            p = with_unit_encoder(p)
        k = len(p.D)
        return with_latents(p, np.arange(k), peak_signs(directions[:, :k]))

    def _active_noise_bound(self, average_variance: float) -> tuple[str, ...]:
        """Return ("noise variance",) if a learned noise variance is at its lower bound, else ()."""
        least = NOISE_FLOOR * average_variance * (1.0 + 1e-9)
        at_bound = self.noise_variance is None and self.noise_variance_ <= least
        return ("noise variance",) if at_bound else ()

    def _set_history(
        self,
        bound: Any,
        noise_variance: Any,
        log_variance: Any,
        earlier: dict[str, Any] | None = None,
    ) -> None:
        """Set the history; `log_variance` is the sum of log D, or log alpha2 for a unit encoder."""
        k, d = self.n_components_, self.n_features_in_
        learned = normal_entropy(k, log_variance)
        unit = normal_entropy(k, np.zeros_like(log_variance))
        is_unit = self.parametrization == "unit_encoder"
        history: dict[str, Any] = {
            "bound": bound,
            "noise_variance": noise_variance,
            "posterior_entropy": unit if is_unit else learned,
            "prior_entropy": learned if is_unit else unit,
            "noise_entropy": normal_entropy(d, d * np.log(noise_variance)),
        }
        if earlier is not None:
            history = {name: np.append(earlier.get(name, []), history[name]) for name in history}
        self.history_, self.elbo_history_ = history, history["bound"]

    @property
    def training_history(self) -> dict[str, Array]:
        step = "epoch" if self.solver == "stochastic" else "iteration"
        return numbered(self.history_, step, self.n_iter_)

    def _noise(self) -> float | None:
        return None if self.noise_variance is None else float(self.noise_variance)

    def _check_share(self, noise_variance: Any, average_variance: float) -> None:
        """Raise ValueError if products of the noise variance and data variances overflow."""
        share = 1.0 if noise_variance is None else float(noise_variance) / average_variance
        if not 1.0 / NOISE_RANGE <= share <= NOISE_RANGE:
            name = "noise_variance" if self.noise_variance is not None else "noise_variance_init"
            raise ValueError(
                f"{name} must differ by a factor of at most {NOISE_RANGE:.0e} from the average "
                f"variance of a feature, {average_variance:.3g}, got {noise_variance!r}."
            )

    def _max_iter(self) -> int:
        return int(self.max_iter or SOLVERS[self.solver])

    def _check_parameters(self) -> None:
        check_n_components(self.n_components, at_least=1)
        check_noise_variance(self.noise_variance)
        check_noise_variance(self.noise_variance_init, "noise_variance_init")
        if self.noise_variance is not None and self.noise_variance_init is not None:
            raise ValueError(
                "noise_variance_init must be None if noise_variance is fixed, got "
                f"{self.noise_variance_init!r} with noise_variance={self.noise_variance!r}."
            )
        check_choice("solver", self.solver, SOLVERS)
        check_choice("parametrization", self.parametrization, PARAMETRIZATIONS)
        check_real("learning_rate", self.learning_rate, above=0)
        for name in ("max_iter", "batch_size"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), at_least=1)
        check_real("tol", self.tol, at_least=0)
        check_integer("n_mc_samples", self.n_mc_samples, at_least=1)
        if not (is_real(self.forgetting) and 0 < self.forgetting <= 1):
            raise ValueError(f"forgetting must be in (0, 1], got {self.forgetting!r}.")
        if not isinstance(self.verbose, bool):
            check_integer("verbose", self.verbose, at_least=0)
        check_checkpoint(self)


def _restore_em(saved: Any, d: int, k: int) -> tuple[list[tuple[float, float, float]], Ascent]:
    """Return history and last iteration from a checkpoint."""
    history = [(float(a), float(b), float(c)) for a, b, c in saved["history"]]
    parameters = LinearVAEParameters(**saved["last"]["parameters"])
    last = Ascent(**{**saved["last"], "parameters": parameters})
    fits = len(last.directions) == len(last.span) == d and parameters.W.shape == (d, k)
    if not (fits and parameters.V.shape == (k, d) and type(last.done) is bool):
        raise ValueError(f"directions of shape {last.directions.shape}")
    return history, last


def _by_length(p: LinearVAEParameters) -> LinearVAEParameters:
    """Sort the columns by decreasing length and make the peak of each positive."""
    order = np.argsort(-(p.W**2).sum(axis=0) * p.prior_variance, kind="stable")
    return with_latents(p, order, peak_signs(p.W[:, order]))


def _empty_columns(p: LinearVAEParameters) -> Array:
    return np.flatnonzero(~p.W.any(axis=0))


def _sum_of_logs(variances: Array) -> float:
    return float(np.log(variances).sum())
