"""The linear variational autoencoder, whose bound is known in closed form."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.metaestimators import available_if

from sklearn_vae.gaussian.ascent import Ascent, maximize
from sklearn_vae.gaussian.bounds import normal_entropy
from sklearn_vae.gaussian.linear_elbo import (
    LinearElbo,
    LinearVAEParameters,
    residual_of_rows,
    with_best_encoder,
    with_latents,
    with_unit_encoder,
)
from sklearn_vae.gaussian.online import RunningCovariance
from sklearn_vae.gaussian.spectrum import peak_signs
from sklearn_vae.linear.checks import check_n_components
from sklearn_vae.linear.covariance import TrainingCovariance, check_spread
from sklearn_vae.linear.dask_arrays import as_dask_array, dask_moments
from sklearn_vae.linear.linear_encoder import LinearEncoderModel
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

Array = NDArray[Any]

# With the iterations that each takes where `max_iter` is None.
SOLVERS = {"em": 1000, "adam": 10000, "stochastic": 200}
PARAMETRIZATIONS = ("standard", "unit_encoder")

# Least noise variance that is learned, as a share of the average variance of a feature.
NOISE_FLOOR = 1e-12

# Directions of the data that are followed in addition to those of W.
SPARE_DIRECTIONS = 8

# Start where pPCA with the same number of components leaves no noise, as the same share.
NOISE_START = 0.1
# Beyond this ratio of a noise variance to that of the data products of the two overflow.
NOISE_RANGE = 1e100


def _has_online_em(model: LinearVAE) -> bool:
    if model.solver == "em":
        return True
    raise AttributeError(
        f"partial_fit is online EM and needs solver='em', got solver={model.solver!r}."
    )


class LinearVAE(LinearEncoderModel):
    r"""Variational autoencoder with linear encoder and decoder.

    ::

        p(z) = N(0, I),   p(x|z) = N(W z + mu, sigma2 I),   q(z|x) = N(V (x - mu), diag D)

    with mu the mean of the rows. Its evidence lower bound is a function of their covariance. At
    the maximum it equals the log-likelihood of probabilistic PCA, and the columns of W are the
    scaled principal components, each identified up to its sign: with a diagonal q no rotation of
    the latent space is as good. Away from it the bound is below the log-likelihood.

    Parameters
    ----------
    n_components : int, float, "mle" or None, default=2
        k, as :class:`PPCA` takes it.
    noise_variance : float, default=None
        sigma2 > 0, held fixed. None estimates it, down to 1e-12 of the average variance of a
        feature.
    noise_variance_init : float, default=None
        Where "adam" and "stochastic" start to learn sigma2; None: the maximum likelihood of pPCA
        with as many components, or a tenth of the average variance where that is 0.
    solver : {"em", "adam", "stochastic"}, default="em"
        "em": updates in closed form, of encoder, decoder, sigma2 and the rotation of the latent
        space, each to its maximum; ends at the global one. "adam": along the gradient of the
        bound, in the eigenbasis of the covariance; a step costs the same whatever the number of
        rows. "stochastic": as deep VAEs are trained, on draws of z and mini-batches of rows.
    parametrization : {"standard", "unit_encoder"}, default="standard"
        "unit_encoder": D = I, and p(z) = N(0, diag alpha2) with alpha2 learned, which is the same
        set of models. (With D = I and p(z) = N(0, I) the bound does not reach the likelihood, and
        every rotation is as good.)
    learning_rate : float, default=1e-3
        Of "adam" and "stochastic", for rows in units of their spread.
    max_iter : int, default=None
        Iterations of "em", steps of "adam", epochs of "stochastic"; None: 1000, 10000, 200.
    tol : float, default=1e-10
        "em" ends when less is left to gain, in nats per sample; "adam" when the average bound of
        100 steps and that of the 100 before differ by less, which says nothing of how far the
        maximum is: `entropy_gap_` does.
    batch_size : int, default=None
        Rows in a step of "stochastic"; None: all.
    n_mc_samples : int, default=1
        Draws of z for each row in a step of "stochastic".
    forgetting : float, default=1.0
        Of `partial_fit`, in (0, 1]: what all earlier rows count at each batch, of what they
        counted before. Rows of about 1 / (1 - forgetting) batches are remembered.
    device : str or torch.device, default="auto"
        Of "adam" and "stochastic"; "auto" takes CUDA where there is one. There "stochastic"
        multiplies in TF32.
    checkpoint : str or path-like, default=None
        Folder, made where it is missing, in which `fit` is saved: one that was killed goes on with
        the next `fit` of the same data and parameters, and ends bit for bit as if it had not been;
        of a finished one `fit` returns the model. One file for each data and parameters (README,
        "Long trainings"). `partial_fit` has no use for it.
    checkpoint_every : int, default=100
        Iterations, steps or epochs between two writes.
    verbose : int, default=0
        Above 0 "adam" and "stochastic" show their progress.
    random_state : int, RandomState instance or None, default=None
        Of the start, and of draws and batches.

    Attributes
    ----------
    mean_ : array of shape (d,)
        mu, the mean of the rows.
    loadings_ : array of shape (d, k)
        W; longest column first, its largest entry positive.
    components_ : array of shape (k, d)
        Orthonormal rows that span the loadings: principal components where W is at its maximum.
    encoder_weights_ : array of shape (k, d)
        V.
    encoder_variance_ : array of shape (k,)
        D.
    prior_variance_ : array of shape (k,)
        alpha2; ones unless `parametrization` is "unit_encoder".
    noise_variance_ : float
        sigma2.
    kl_per_dim_ : array of shape (k,)
        KL(q(z_h|x) || p(z_h)) averaged over the training rows, in nats.
    collapsed_dims_ : array of int
        Of "em" and `partial_fit`: the columns that are exactly zero. Else those dimensions whose
        KL exceeds 0.01 nats in at most 1 % of the training rows.
    elbo_ : float
        The bound of the training rows in closed form, in nats per sample; after `partial_fit` of
        the rows that it remembers.
    entropy_bound_ : float
        Sum of three entropies, from the k + 1 numbers |w_h|^2 / sigma2 (or D) and sigma2: equals
        `elbo_` at any stationary point, and at the maximum the log-likelihood.
    entropy_gap_ : EntropyGap
        `elbo_` less `entropy_bound_`, in parts.
    elbo_history_ : array of shape (n_iter_ + 1,) or (n_iter_,)
        The bound at the start and after each iteration of "em" or step of "adam"; of "stochastic"
        its estimate in each epoch. Each batch of `partial_fit` adds `elbo_`.
    history_ : dict of arrays
        That as "bound", and of the same steps "noise_variance" and the entropies, in nats per
        sample, whose sum the bound comes to: "posterior_entropy" H[q(z|x)] less "prior_entropy"
        H[p(z)] less "noise_entropy" H[p(x|z)]. Of "stochastic" H[q(z|x)] is an average over an
        epoch, as the bound is; sigma2 and the other entropies are those at its end.
    n_iter_ : int
        Iterations, steps or epochs, and batches of `partial_fit`.
    n_components_, n_features_in_ : int
        k and d.
    n_samples_ : float
        Training rows, or the sum of the weights that `partial_fit` leaves to those seen.
    feature_names_in_ : ndarray of shape (d,)
        Where X had feature names.

    See Also
    --------
    PPCA : The maximum in closed form.
    DeepGaussianVAE : Networks in the place of W and V.

    References
    ----------
    Lucas, Tucker, Grosse and Norouzi, "Don't Blame the ELBO! A Linear VAE Perspective on Posterior
    Collapse", NeurIPS 2019, eq. 9, Theorem 1 and appendices B and C; Lücke, Forster and Dai, "The
    Evidence Lower Bound of Variational Autoencoders Converges to a Sum of Three Entropies", eq. 33
    and 44.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA, LinearVAE
    >>> X = load_iris().data
    >>> vae = LinearVAE(n_components=2, random_state=0).fit(X)
    >>> print(f"{vae.elbo_:.8f} nats, of pPCA {PPCA(n_components=2).fit(X).elbo_:.8f}")
    -2.69975187 nats, of pPCA -2.69975187
    >>> vae.encoder_variance_.round(4)
    array([0.0121, 0.2103])
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

    def fit(self, X: Any, y: Any = None) -> LinearVAE:
        """Fit the model.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            At least two samples, not all the same. With solver "em" also a Dask array or
            DataFrame, of which only moments are gathered, as in :meth:`PPCA.fit`.
        y : Ignored

        Returns
        -------
        self

        Raises
        ------
        TypeError
            If X is a Dask array and the solver another than "em".
        ValueError
            If a parameter is out of its range, alone or for the shape of X, or X is not a finite
            matrix.
        MemoryError
            If the covariance, or where n < d the (n, n) Gram matrix, does not fit.
        FloatingPointError
            If training diverges. The model then has finite parameters of at most 100 steps, or
            one epoch, before, and all its methods work.
        """
        self._check_parameters()
        with all_or_nothing(self):
            if is_dask(X) and self.solver == "em":
                X = dask_moments(self, as_dask_array(self, X, reset=True))
                data = TrainingCovariance.from_moments(X)
            else:
                X = checked_data(self, X, ensure_min_samples=2)
                data = TrainingCovariance.from_data(X)
            k = data.count(self.n_components)
            file = Checkpoint.of(self, X)
            self.__dict__.pop("_stream", None)
            if self.solver == "em":
                self._ascend(data, k, file)
                return self
            error = self._train(data, k, file)
        if error is not None:
            raise error
        return self

    @available_if(_has_online_em)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any = None) -> LinearVAE:
        """Update the model with a batch of samples: online EM, in O(d k) memory.

        Earlier samples are remembered by their mean, the trace of their covariance and k + 8 of
        its eigenpairs, and count `forgetting` times what they counted before; for the first batch,
        or a `fit` with solver "em", these are exact. `entropy_bound_` tracks the log-likelihood
        without a second look at any sample: for samples to come, where the stream has not just
        changed, it is too high by about the number of free parameters over that of the samples
        remembered, half a nat for 500 samples of 30 features and k = 4. It means nothing while
        fewer than k + 2 are remembered. Where the (d, d) covariance can be kept, and nothing has to
        be forgotten, :meth:`PPCA.partial_fit` is exact.

        `n_components` must stay the same; other parameters may change between batches.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            One sample or more; in the first batch at least two, not all the same.
        y : Ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter or X is not valid, or the model comes from another solver. What was
            learned before is kept.
        AttributeError
            If `solver` is not "em".
        """
        self._check_parameters()
        first = not hasattr(self, "loadings_")
        if not first and not hasattr(self, "_stream"):
            raise ValueError(
                "partial_fit goes on from a fit with solver='em', but the model was trained with "
                "another. Call partial_fit from the start, on a clone."
            )
        with all_or_nothing(self):
            X = checked_data(self, X, ensure_min_samples=2 if first else 1, reset=first)
            k = self._count_of_stream(X.shape[1], first)
            batch = X.astype(np.float64, copy=False)
            if first:
                with np.errstate(over="ignore"):
                    check_spread(batch.var(axis=0), batch.mean(axis=0), X.dtype)
                m = min(k + SPARE_DIRECTIONS, X.shape[1])
                stream, dtype = RunningCovariance.of(batch, m), X.dtype
            else:
                stream = self._stream.add(batch, self.forgetting)
                dtype = np.result_type(self.loadings_.dtype, X.dtype)
            n_before, before = (0, {}) if first else (self.n_iter_, self.history_)
            self._follow(stream, dtype, k)
            # One of the two is ones.
            log_variance = _sum_of_logs(self.encoder_variance_ * self.prior_variance_)
            self._set_history(self.elbo_, self.noise_variance_, log_variance, before)
            self.n_iter_ = n_before + 1
        return self

    def _count_of_stream(self, n_features: int, first: bool) -> int:
        """k, which the first batch of a stream or the fit before it decides."""
        k: Any = self.n_components
        if not first:
            if is_integer(k) and k != self.n_components_:
                raise ValueError(
                    f"n_components must stay {self.n_components_}, as it was when the stream "
                    f"began, got {k}."
                )
            return self.n_components_
        if is_integer(k) and k <= n_features:
            return int(k)
        raise ValueError(
            f"n_components must be an integer between 1 and n_features = {n_features} for "
            f"partial_fit, got {k!r}."
        )

    def _ascend(self, data: TrainingCovariance, k: int, file: Checkpoint | None) -> None:
        """Fit by closed forms from a random start."""
        self._check_share(self._noise(), data.average_variance)
        random_state = random_state_of(self, file)
        m = min(k + SPARE_DIRECTIONS, data.n_samples, data.n_features)
        start = data.scale * random_state.standard_normal((data.n_features, m))
        history, last = self._climb(data, start, k, file)
        self.n_iter_ = len(history) - 1
        if not last.done:
            warnings.warn(
                f"LinearVAE has not converged in max_iter={self.n_iter_} iterations: the last one "
                f"raised the bound by {last.bound - history[-2][0]:.2g} nats. Raise max_iter or "
                "tol.",
                ConvergenceWarning,
                stacklevel=3,
            )
        p = self._in_parametrization(last.parameters, last.directions)
        self._set_fit(data, p, last.directions[:, :k].T, ())
        bound, noise, log_D = np.transpose(history)
        unit_encoder = self.parametrization == "unit_encoder"  # then alpha2 is 1 / D
        self._set_history(bound, noise, -log_D if unit_encoder else log_D)
        self.collapsed_dims_ = _empty_columns(p)
        total = data.elbo.total_variance
        self._stream = RunningCovariance(
            float(data.n_samples), data.mean, last.directions, last.values, total
        )

    def _climb(
        self, rows: TrainingCovariance, start: Array, k: int, file: Checkpoint | None
    ) -> tuple[list[tuple[float, float, float]], Ascent]:
        """History of bound, sigma2 and sum of log D, from the start on, and the last iteration."""
        first = with_best_encoder(start[:, :k], self._noise() or rows.average_variance)
        history = [(rows.elbo.value(first), first.noise_variance, _sum_of_logs(first.D))]
        resumed = None
        if file is not None:
            resumed = file.resume(
                lambda saved: _point(saved, rows.n_features, k),
                {"numbers": digest(rows.elbo.times(start))},
            )
        if resumed is not None:
            history, last = resumed
        finished = file is not None and file.finished
        for step in maximize(
            rows.elbo,
            start,
            k,
            self._noise(),
            least_noise=NOISE_FLOOR * rows.average_variance,
            tol=self.tol,
            max_iter=0 if finished else self._max_iter() - len(history) + 1,
            after=None if resumed is None else (last.directions, last.span),
        ):
            last, p = step, step.parameters
            history.append((last.bound, p.noise_variance, _sum_of_logs(p.D)))
            done = last.done or len(history) > self._max_iter()
            if file is not None and (done or (len(history) - 1) % file.every == 0):
                parameters = last.parameters._asdict()
                state = {**last._asdict(), "parameters": parameters}
                file.save({"history": history, "last": state}, finished=done)
        return history, last

    def _train(
        self, data: TrainingCovariance, k: int, file: Checkpoint | None
    ) -> FloatingPointError | None:
        """Fit by gradients; return the error if training diverged."""
        from sklearn_vae.linear.gradient_solver import Options, by_bound, by_draws

        if self.solver == "stochastic":
            in_a_step = min(self.batch_size or data.n_samples, data.n_samples)
            check_memory(
                8.0 * int(self.n_mc_samples) * int(in_a_step) * (k + data.n_features),
                f"A step draws n_mc_samples={self.n_mc_samples} latents and rows for each of "
                f"{in_a_step} rows",
                "Use smaller n_mc_samples or batch_size.",
            )
        average = data.average_variance
        start = self._noise() or self.noise_variance_init
        if start is None:
            start = data.spectrum.noise_variance(k)
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
        training = (by_bound if self.solver == "adam" else by_draws)(data, options, file)
        complete = training.error is None and not training.interrupted
        if file is not None and complete and not file.finished:
            parameters = training.parameters._asdict()
            file.save({**training._asdict(), "parameters": parameters}, finished=True)
        self.n_iter_ = len(training.bound) - (self.solver == "adam")
        if training.interrupted:
            warnings.warn(
                f"Training was interrupted after {self.n_iter_} iterations: LinearVAE keeps what "
                "it had learned.",
                stacklevel=3,
            )
        p = _by_length(training.parameters)
        W = p.W * np.sqrt(p.prior_variance)
        components = np.linalg.svd(W, full_matrices=False)[0].T
        self._set_fit(data, p, components, training.active_bounds)
        self._set_history(training.bound, training.noise_variance, training.log_variance)
        self.collapsed_dims_ = self._collapsed(data.centred @ p.V.T)
        return training.error

    def _set_fit(
        self,
        data: TrainingCovariance,
        p: LinearVAEParameters,
        components: Array,
        active_bounds: tuple[str, ...],
    ) -> None:
        self._set_model(p, data.mean, data.dtype, components)
        bounds = self._floor_if_held(data.average_variance) + active_bounds
        # Not that of the covariance, a difference, which loses digits.
        residual = residual_of_rows(data.centred, p)
        self._set_bound(residual, data.elbo.second_moment(p), bounds)
        self.n_samples_ = float(data.n_samples)

    def _follow(self, stream: RunningCovariance, dtype: Any, k: int) -> None:
        """Set the maximum for what is remembered of a stream."""
        average, d = stream.total_variance / len(stream.mean), len(stream.mean)
        self._check_share(self._noise(), average)
        values, directions = stream.values[:k], stream.directions[:, :k]
        elbo = LinearElbo(values, n_features=d, total_variance=stream.total_variance)
        p = elbo.best_along(np.eye(k), values, self._noise(), NOISE_FLOOR * average)
        p = self._in_parametrization(p, directions)
        W, V = directions @ p.W, p.V @ directions.T
        self._set_model(p._replace(W=W, V=V), stream.mean, dtype, directions.T)
        bounds = self._floor_if_held(average)
        self._set_bound(elbo.residual(p), elbo.second_moment(p), bounds)
        self.collapsed_dims_ = _empty_columns(p)
        self.n_samples_ = stream.n
        self._stream = stream

    def _in_parametrization(self, p: LinearVAEParameters, directions: Array) -> LinearVAEParameters:
        """Parameters with columns along `directions`, whose largest entries become positive."""
        if self.parametrization == "unit_encoder":
            p = with_unit_encoder(p)
        k = len(p.D)
        return with_latents(p, np.arange(k), peak_signs(directions[:, :k]))

    def _floor_if_held(self, average_variance: float) -> tuple[str, ...]:
        """Name of the bound of the noise variance, if it holds the fitted one."""
        least = NOISE_FLOOR * average_variance * (1.0 + 1e-9)
        held = self.noise_variance is None and self.noise_variance_ <= least
        return ("noise variance",) if held else ()

    def _set_history(
        self,
        bound: Any,
        noise_variance: Any,
        log_variance: Any,
        before: dict[str, Any] | None = None,
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
        if before is not None:
            history = {name: np.append(before.get(name, []), history[name]) for name in history}
        self.history_, self.elbo_history_ = history, history["bound"]

    @property
    def training_history(self) -> dict[str, Array]:
        step = "epoch" if self.solver == "stochastic" else "iteration"
        return numbered(self.history_, step, self.n_iter_)

    def _noise(self) -> float | None:
        return None if self.noise_variance is None else float(self.noise_variance)

    def _check_share(self, noise_variance: Any, average_variance: float) -> None:
        """Raise ValueError where products of noise variance and data variances overflow."""
        share = 1.0 if noise_variance is None else float(noise_variance) / average_variance
        if not 1.0 / NOISE_RANGE <= share <= NOISE_RANGE:
            name = "noise_variance" if self.noise_variance is not None else "noise_variance_init"
            raise ValueError(
                f"{name} must be within {NOISE_RANGE:.0e} times the average variance of a feature, "
                f"{average_variance:.3g}, and its inverse, got {noise_variance!r}."
            )

    def _max_iter(self) -> int:
        return int(self.max_iter or SOLVERS[self.solver])

    def _check_parameters(self) -> None:
        check_n_components(self.n_components, at_least=1)
        check_noise_variance(self.noise_variance)
        check_noise_variance(self.noise_variance_init, "noise_variance_init")
        if self.noise_variance is not None and self.noise_variance_init is not None:
            raise ValueError(
                "noise_variance_init is where learning starts, but noise_variance="
                f"{self.noise_variance!r} holds it fixed: leave one of them None."
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


def _point(saved: Any, d: int, k: int) -> tuple[list[tuple[float, float, float]], Ascent]:
    """History and last iteration of an ascent, as saved in a checkpoint."""
    history = [(float(a), float(b), float(c)) for a, b, c in saved["history"]]
    parameters = LinearVAEParameters(**saved["last"]["parameters"])
    last = Ascent(**{**saved["last"], "parameters": parameters})
    fits = len(last.directions) == len(last.span) == d and parameters.W.shape == (d, k)
    if not (fits and parameters.V.shape == (k, d) and type(last.done) is bool):
        raise ValueError(f"directions of shape {last.directions.shape}")
    return history, last


def _by_length(p: LinearVAEParameters) -> LinearVAEParameters:
    """Parameters with columns by descending length, the largest entry of each positive."""
    order = np.argsort(-(p.W**2).sum(axis=0) * p.prior_variance, kind="stable")
    return with_latents(p, order, peak_signs(p.W[:, order]))


def _empty_columns(p: LinearVAEParameters) -> Array:
    return np.flatnonzero(~p.W.any(axis=0))


def _sum_of_logs(variances: Array) -> float:
    return float(np.log(variances).sum())
