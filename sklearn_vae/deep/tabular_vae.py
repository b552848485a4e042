"""Deep VAE of tables with columns of several types."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils import Tags

from sklearn_vae.deep.base import Array
from sklearn_vae.deep.choices import LARGE_SAMPLES, TABLE_FOLDS, chosen_values_of_table
from sklearn_vae.deep.outcome import LinearFit
from sklearn_vae.deep.ppca_start import can_start, check_init
from sklearn_vae.deep.table_codes import Codes
from sklearn_vae.deep.table_linear import mixed_fit
from sklearn_vae.deep.table_methods import TableMethods
from sklearn_vae.deep.table_start import TableStart
from sklearn_vae.deep.training_data import TrainingData
from sklearn_vae.deep.vae import DeepVAE
from sklearn_vae.nn.columns import MixedLikelihood
from sklearn_vae.nn.likelihoods import Likelihood
from sklearn_vae.nn.module import VAEModule
from sklearn_vae.nn.tables import accept_missing_values, build_table_vae
from sklearn_vae.tables import TableCodec
from sklearn_vae.tables.checks import checked_table, used_samples
from sklearn_vae.training.devices import torch_defaults
from sklearn_vae.training.distributed import Reducer
from sklearn_vae.training.learning_rate_limit import LearningRateLimit
from sklearn_vae.training.scaling import center_and_scale
from sklearn_vae.validation import check_choice, has_nan


class TabularVAE(TableMethods, DeepVAE):  # type: ignore[misc]  # impute returns tables
    """Variational autoencoder (VAE) of tables with columns of several types, and missing values.

    The model is p(z) = N(0, I), and given z the columns are independent, each with the distribution
    of its type, whose parameters a network computes from z:

    - "real": normal, with a noise variance per column,
    - "positive": log-normal, for positive skewed numbers,
    - "heavy_tailed": Student's t, for numbers with outliers,
    - "count": negative binomial,
    - "binary", "categorical": probabilities of the categories,
    - "ordinal": cumulative logits with thresholds, for ordered categories.

    The table may be a DataFrame of pandas or polars or an array. Cells may be missing, in `fit` and in
    every method; the bound is that of the observed cells. All results that are tables have the
    container, the names and the dtypes of the training samples.

    The networks see standardized numbers, in logarithms for "positive" and "count", and one-hot codes,
    in which pPCA fills missing values. They start at this pPCA, and training is automatic
    if `max_epochs="auto"`, as in :class:`DeepGaussianVAE`: the number of epochs is the one that is best
    for validation samples, which are a tenth to a fifth of all. With fewer than 5000 samples the
    networks of this number of epochs are then trained on all samples, for a fifth of that number and
    at least 8 epochs. Networks of larger tables start again, and so do those whose training samples had a
    column that is constant or lacks a category. `is_linear_` tells that no epoch was better than the
    start.

    Parameters
    ----------
    n_components : int, default=8
        Number of latent dimensions.
    column_types : "auto" or dict, default="auto"
        Types of columns by name, or by index if no name is an integer. A list of categories in
        ascending order, or an ordered dtype of pandas, is a type, too: "ordinal" with this order.
        The types of other columns are inferred: booleans are "binary"; text and dtypes of categories
        are "categorical", or "ordinal" if the dtype is ordered; integers with 2 to 10 different
        values, and at least two samples per value, are "ordinal"; each of them is "binary" if there
        are two values. Other integers are "count" if none is negative, one is 0, and their variance
        is not below their mean. Positive numbers with a skewness above 1, which the logarithm at least halves, are
        "positive". Others with an excess kurtosis above 10 are "heavy_tailed" if their quartiles
        differ, and all others "real".
    handle_unknown : {"error", "missing"}, default="error"
        Whether categories that are not among `categories_` are errors, or missing values. Unused
        labels of a dtype of categories are missing values in both cases.
    hidden_layer_sizes : int or sequence of int or "auto", default="auto"
        Number of units in each hidden layer of the encoder. The decoder uses the reverse order.
        "auto" is one layer of 32 units, 256 from 5000 samples on, and at least 2 * n_components.
        Without automatic training it is (512, 256).
    activation : str, default="auto"
        Activation function of the hidden layers: "relu", "leaky_relu", "elu", "gelu", "silu",
        "softplus", "sigmoid" or "tanh". "auto" is "silu". Without automatic training it is "relu".
    init : {"auto", None, "ppca"}, default="auto"
        Initialization of the networks: random if None, or pPCA of the standardized inputs, to
        first order. "auto" is "ppca" in automatic training, and None otherwise.
    objective : {"elbo", "iwae"}, default="elbo"
        Training objective: the ELBO, or the importance-weighted bound with `n_mc_samples` draws.
        The method `score` returns the ELBO in both cases.
    n_mc_samples : int or "auto", default="auto"
        Number of draws of z per sample in each training step. "auto" is 2, with opposite noise.
        Without automatic training it is 1.
    kl_weight : float, default=1.0
        Weight of the KL divergence, known as beta. The objective is the ELBO only if it is 1.
    kl_warmup_epochs : int, default=0
        Number of epochs over which the KL weight increases linearly to `kl_weight`.
    free_bits : float, default=0.0
        KL per dimension, in nats, below which no penalty applies.
    learning_rate : float or "auto", default="auto"
        Learning rate of the Adam optimizer. "auto" is 8e-2, and 2e-3 from 5000 samples on. Without
        automatic training it is 1e-3.
    max_epochs : int or "auto", default="auto"
        Maximum number of epochs. "auto" trains automatically, see above. Where that does not apply
        it is 100.
    batch_size : int or "auto", default="auto"
        Maximum number of samples per batch. "auto" is 256, and 128 from 5000 samples on. Without
        automatic training it is 128.
    early_stopping : bool, default=False
        Whether to hold out validation samples and stop when the objective on them has not
        improved by `tol` for `n_iter_no_change` epochs after the KL warm-up. The best parameters
        are then restored. Automatic training has its own validation samples.
    validation_fraction : float or "auto", default="auto"
        Fraction of the samples that early stopping, or each fold of automatic training, holds out.
        "auto" is 0.2, and for 150 to 5000 samples less, so that there are about 30, but at least 0.1.
        Without automatic training it is 0.1.
    n_iter_no_change : int, default=10
        Number of epochs without improvement after which early stopping ends training.
    tol : float, default=1e-4
        Smallest change that early stopping counts as an improvement, in nats per sample.
    device : str or torch.device, default="auto"
        Device for the networks. "auto" selects CUDA if available and the CPU otherwise.
    precision : {"auto", "float32", "float64", "tf32", "bf16"}, default="auto"
        Floating-point precision. "auto" uses float64 on the CPU, float32 for arrays of float32,
        and float32 with TF32 matrix products on CUDA.
    callbacks : list of skorch callbacks, default=None
        Callbacks for training. They are copied before each fit.
    warm_start : bool, default=False
        Whether to continue from the result of the last fit, for `max_epochs` more epochs.
    checkpoint : str or path-like, default=None
        Folder in which the state of training is saved. If training is interrupted, the next `fit`
        with the same data and parameters resumes it, and gives the same result as without the
        interruption.
    checkpoint_every : int, default=10
        Number of epochs between checkpoints.
    verbose : int, default=0
        Verbosity level. With 1 or more a progress bar is shown.
    random_state : int, RandomState instance or None, default=None
        Seed or generator for the initial weights, the validation split, the order of samples and
        the draws of z. The global generators of torch are not changed.

    Attributes
    ----------
    column_types_ : dict
        Type of each column, by name, or by index in arrays.
    categories_ : dict
        Categories of each column of type "binary", "categorical" or "ordinal".
    column_gains_ : dict
        E_q log p(x_j|z) of each column minus the log-likelihood of the column without latent
        dimensions, averaged over its observed values, in nats. Columns about which z tells nothing
        have a gain of 0.
    elbo_ : float
        ELBO of the observed cells of the training samples, in nats per sample.
    kl_per_dim_ : ndarray of shape (n_components,)
        KL divergence of each latent dimension, averaged over the training samples, in nats.
    collapsed_dims_ : ndarray of int
        Indices of the dimensions whose KL divergence is at most 0.01 nats for at least 99 % of
        the training samples.
    history_ : dict of ndarray of shape (n_iter_,)
        Values recorded in each epoch, see :class:`DeepGaussianVAE`.
    mean_, scale_ : ndarray of shape (n_features,)
        Units of the networks: mean and standard deviation of "real" columns, median and spread of
        "heavy_tailed", 0 and geometric mean of "positive", 0 and 1 of all others. They are those of
        the samples without the validation samples if training continues networks of these.
    net_ : skorch.NeuralNet
        Net that trains and holds the module.
    module_ : torch.nn.Module
        Trained module, which takes codes minus `mean_`, divided by `scale_`.
    n_components_ : int
        Number of latent dimensions.
    n_iter_ : int
        Number of epochs of the training on all samples, 0 if the model is the linear start.
    is_linear_ : bool
        Whether automatic training kept the start.
    n_features_in_ : int
        Number of columns seen during `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns seen during `fit`, if all are strings.

    See Also
    --------
    DeepGaussianVAE : VAE for real numbers.
    DeepBernoulliVAE : VAE for binary data.

    References
    ----------
    Nazabal, Olmos, Ghahramani and Valera, "Handling Incomplete Heterogeneous Data Using VAEs" (2020).

    Mattei and Frellsen, "MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets"
    (2019), eq. 12.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from sklearn_vae import TabularVAE
    >>> rng = np.random.default_rng(0)
    >>> size = rng.normal(size=300)
    >>> X = pd.DataFrame({
    ...     "length": size + 0.1 * rng.normal(size=300),
    ...     "species": np.where(size > 0, "large", "small"),
    ... })
    >>> X.loc[0, "species"] = None
    >>> vae = TabularVAE(1, max_epochs=5, random_state=0).fit(X)
    >>> vae.column_types_
    {'length': 'real', 'species': 'binary'}
    >>> vae.impute(X).isna().any().any()
    np.False_
    """

    observation_family = "mixed"
    encoder = decoder = "mlp"
    image_shape = None
    prior = "standard"
    variational_family = "diagonal"
    _most_folds = TABLE_FOLDS
    _epochs_at_once = 10

    _baseline: Array
    _marginals: dict[str, Array]  # quantile functions by the index of columns of numbers
    _reference: dict[str, Array] | None  # quantiles under the model of these columns, if needed yet

    _fitted_state: ClassVar = {
        **DeepVAE._fitted_state,
        "_baseline": "d finite",
        "_marginals": "any optional",
        "_reference": "any optional",
        "_table": "any",
        "column_gains_": "any",
    }

    def __init__(
        self,
        n_components: int = 8,
        *,
        column_types: Any = "auto",
        handle_unknown: str = "error",
        hidden_layer_sizes: int | Sequence[int] | str = "auto",
        activation: str = "auto",
        init: str | None = "auto",
        objective: str = "elbo",
        n_mc_samples: int | str = "auto",
        kl_weight: float = 1.0,
        kl_warmup_epochs: int = 0,
        free_bits: float = 0.0,
        learning_rate: float | str = "auto",
        max_epochs: int | str = "auto",
        batch_size: int | str = "auto",
        early_stopping: bool = False,
        validation_fraction: float | str = "auto",
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        device: Any = "auto",
        precision: str = "auto",
        callbacks: list[Any] | None = None,
        warm_start: bool = False,
        checkpoint: Any = None,
        checkpoint_every: int = 10,
        verbose: int = 0,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.column_types = column_types
        self.handle_unknown = handle_unknown
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.init = init
        self.objective = objective
        self.n_mc_samples = n_mc_samples
        self.kl_weight = kl_weight
        self.kl_warmup_epochs = kl_warmup_epochs
        self.free_bits = free_bits
        self.learning_rate = learning_rate
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.device = device
        self.precision = precision
        self.callbacks = callbacks
        self.warm_start = warm_start
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.verbose = verbose
        self.random_state = random_state

    def fit(  # type: ignore[override]  # in a single process
        self, X: Any, y: Any = None, sample_weight: Any = None
    ) -> TabularVAE:
        """Infer the types of columns and train the networks.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Training samples. Cells may be missing.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Finite weights >= 0, of which at least two are positive, see :class:`DeepGaussianVAE`.

        Returns
        -------
        self : TabularVAE
            Fitted estimator.

        Raises
        ------
        ValueError
            If a parameter, `sample_weight` or a column is invalid. The message names the column.
        FloatingPointError
            If training diverges. The estimator keeps its last finite parameters and can be used.
        """
        X, sample_weight = used_samples(self, X, sample_weight)
        if not (self.warm_start and hasattr(self, "net_")):  # encode once
            X = copy.copy(self)._check_samples(X, ensure_min_samples=2, reset=True)
        fitted: TabularVAE = super().fit(X, y, sample_weight)
        return fitted

    @property
    def is_comparable(self) -> bool:
        return False

    def observations(self, X: Any) -> Array:
        """Return the codes of a table.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Table.

        Returns
        -------
        codes : ndarray of shape (n_samples, n_features)
            Codes, NaN where values are missing.
        """
        return np.asarray(self._check_samples(X, reset=False))

    def with_dimensions(self, kept: Any) -> None:
        return None

    def can_start_at_ppca(self) -> bool:
        return can_start(self)

    def _can_start_linear(self) -> bool:
        return super()._can_start_linear() and can_start(self)

    def _chosen_values(self, n_samples: int, n_features: int) -> dict[str, Any]:
        values = super()._chosen_values(n_samples, n_features)
        return chosen_values_of_table(n_samples, int(self.n_components), values)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_choice("handle_unknown", self.handle_unknown, ("error", "missing"))
        check_init(self, self._hidden_layer_sizes())

    def _check_samples(self, X: Any, **options: Any) -> Array:
        """Return X as codes; learn the types of columns if `reset`."""
        reset: bool = options["reset"]
        if isinstance(X, Codes) and X.table is not None:  # a fold of samples that are encoded
            codes = X
        else:
            X = checked_table(self, X, **options)
            if reset:
                codec = TableCodec(self.column_types, self.handle_unknown).fit(X)
                self._table = codec.get_state()
            codec = self.codec
            is_single = isinstance(X, np.ndarray) and X.dtype == np.float32
            values = codec.encode(X).astype(np.float32 if is_single else np.float64, copy=False)
            codes = Codes.of(values, self._table)
        if reset:
            self._table, self.n_features_in_ = codes.table, codes.shape[1]
            names = vars(self.codec).get("feature_names_in_")
            self.__dict__.pop("feature_names_in_", None)
            if names is not None:
                self.feature_names_in_ = names
        return codes

    def _center_and_scale(
        self, X: Array, indices: Array, reducer: Reducer, weights: Array | None
    ) -> tuple[Array, Any]:
        X = np.asarray(X)
        d, types = X.shape[1], np.array(list(self.column_types_.values()))
        mean, scale = np.zeros(d), np.ones(d)
        real, heavy, positive = (types == t for t in ("real", "heavy_tailed", "positive"))
        if real.any():
            units = center_and_scale(X[:, real], indices, True, reducer, weights)
            mean[real], scale[real] = units
        for j in np.flatnonzero(heavy | positive):
            x = X[indices, j].astype(np.float64)
            x = x[~np.isnan(x)]
            if not x.size:  # a fold that does not observe the column
                continue
            if positive[j]:
                scale[j] = np.exp(np.log(x).mean())
            else:
                low, mean[j], high = np.quantile(x, [0.25, 0.5, 0.75])
                scale[j] = (high - low) or x.std() or 1.0
        return mean, scale

    def _can_continue(self, X: Array, held_out: Array) -> bool:
        """Return whether there are few samples, and the others have all categories and no constants."""
        if len(X) >= LARGE_SAMPLES:
            return False
        kept = np.delete(np.asarray(X), held_out, axis=0)
        different = [len(np.unique(x[~np.isnan(x)])) for x in kept.T]
        least = [len(column.categories or (0, 1)) for column in self.codec.columns_]
        return bool(np.greater_equal(different, least).all())

    def _module_factory(self, dtype: torch.dtype) -> Callable[..., VAEModule]:
        columns = self.codec.columns_
        return partial(
            build_table_vae,
            [column.type for column in columns],
            [len(column.categories or ()) for column in columns],
            int(self.n_components),
            hidden_layer_sizes=self._hidden_layer_sizes(),
            activation=self.activation,
            dtype=dtype,
            missing=vars(self).get("_missing"),
        )

    @property
    def _likelihood_class(self) -> type[Likelihood]:
        return MixedLikelihood

    def _set_start(self, data: TrainingData) -> None:
        train: Any = data.train  # codes, which are in memory
        start = TableStart(self.module_, train, data.weights)
        self._baseline, self._initial_nats = start.baseline, None
        if self.init == "ppca":
            self._initial_nats = start.set_networks()
        else:
            start.set_filling()

    def _training_callbacks(self) -> list[Any]:
        nats = vars(self).get("_initial_nats")
        if nats is None:
            return super()._training_callbacks()
        limit = LearningRateLimit(nats, falls=not self._starts_linear)
        return [*super()._training_callbacks(), limit]

    @torch_defaults()
    def _module_for(self, X: Array) -> Any:
        return accept_missing_values(self.module_) if has_nan(X) else self.module_

    def _bound_without_latents(self, data: TrainingData) -> float:
        return float(self._baseline.sum()) - self._log_scale(self._observed_share)

    def _linear_fits(
        self, data: TrainingData, baseline: float
    ) -> tuple[LinearFit | None, LinearFit | None]:
        columns = self.codec.columns_
        return mixed_fit(data, columns, int(self.n_components), self._in_data_units), None

    @torch.no_grad()
    def _set_diagnostics(self, data: TrainingData) -> None:
        super()._set_diagnostics(data)
        x, weights = data.train, data.weights
        codes = self._in_data_units(x).cpu().double().numpy()
        self._set_marginals(codes, None if weights is None else weights.cpu().numpy())

    def _use_statistics(self, statistics: Array) -> None:
        shares = np.ones(1) if self._observed_share is None else self._observed_share
        gains = (statistics[:-1] - self._baseline) / shares
        self.column_gains_ = dict(zip(self.column_types_, gains.tolist(), strict=True))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = tags.input_tags.string = True
        return tags
