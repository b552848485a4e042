"""Why dimensions have collapsed, by the taxonomy of Dai, Wang and Wipf, and what to do about it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted, validate_data

from sklearn_vae.diagnostics.dimensions import Collapse, collapse
from sklearn_vae.diagnostics.entropies import Entropies, complete_rows, entropy_bound
from sklearn_vae.diagnostics.latents import check_model
from sklearn_vae.diagnostics.noise import with_tuned_noise
from sklearn_vae.diagnostics.reference import BernoulliReference, GaussianReference
from sklearn_vae.diagnostics.report import CollapseReport, Finding
from sklearn_vae.validation import FLOAT_DTYPES, check_bits, check_integer

# What a model may lack of a reference's bound without a finding: this share of what the reference
# gains over a model without latents, and so many nats.
SHARE_OF_GAIN = 0.02
NATS = 0.1

# How far above its optimum a noise variance may be.
NOISE_RATIO = 1.1

# Rise of the bound from the last tenth but one of the epochs to the last one, as a share of the
# reference's gain, above which training has not ended.
STILL_RISING = 0.005

# Variances of p(x|z) over those of the features that are near zero, and the factor from there to
# those of most rows.
NEAR_ZERO = 1e-3
SPREAD = 30.0

# Layers with weights, in encoder or decoder, from which on fewer of them are worth a try.
DEEP = 4

NOT_APPLICABLE = (
    "(iv), a decoder that models x without z: not applicable to decoders that factorise over the "
    "features, as those here do."
)


def diagnose(
    estimator: Any, X: Any, max_samples: int = 10_000, random_state: int = 0
) -> CollapseReport:
    """What a fitted model did with its latent space, why, and what to do about it.

    Each finding is one of the categories of Dai et al.: (i) superfluous dimensions that were
    pruned, which does no harm; (ii) a noise variance that is, or was, too large; (iii) a
    heteroscedastic decoder that degenerates; (v) a bad local optimum, worse than pPCA with as many
    dimensions, which the model contains or should beat. Besides: training that has not ended.

    Parameters
    ----------
    estimator : PPCA, PPCACV, LinearVAE, BernoulliPPCA, DeepGaussianVAE, DeepBernoulliVAE or \
            DeepAutoencoder
        Fitted.
    X : array-like of shape (n, d)
        The rows it was trained on, complete. pPCA is fitted to them, and to others the comparison
        would be unfair.
    max_samples : int, default=10000
        Rows, at random, that bounds are averaged over where there are more.
    random_state : int, default=0

    Returns
    -------
    CollapseReport

    Raises
    ------
    TypeError
        If the estimator is no such model.
    ValueError
        If X has missing values, or not the features of the fit.

    References
    ----------
    Dai, Wang and Wipf, "The Usual Suspects? Reassessing Blame for VAE Posterior Collapse" (2020),
    section 3.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.diagnostics import diagnose
    >>> X = load_iris().data
    >>> report = diagnose(PPCA(2, noise_variance=1.0).fit(X), X)
    >>> report.healthy, report.categories
    (False, ('ii',))
    """
    check_integer("max_samples", max_samples, at_least=2)
    check_integer("random_state", random_state, at_least=0)
    check_is_fitted(estimator)
    complete_rows(X, "diagnose")
    X, estimator = _rows(estimator, X), _unnamed(estimator)
    seen = X
    if len(X) > max_samples:
        chosen = np.random.default_rng(random_state).choice(len(X), max_samples, replace=False)
        seen = X[np.sort(chosen)]
    if not hasattr(estimator, "posterior"):
        return _diagnose_autoencoder(estimator, X, seen)
    check_model(estimator, "diagnose")
    case = _Case(estimator, X, seen)
    findings = [*_unfinished(case), *_degenerate(case), *_noise_too_large(case)]
    if not findings:
        findings += _bad_optimum(case)
    findings += _superfluous(case, findings)
    return CollapseReport(
        type(estimator).__name__,
        n_samples=X.shape[0],
        n_features=X.shape[1],
        n_components=case.k,
        collapse=case.collapse,
        entropies=case.entropies,
        numbers=case.numbers,
        findings=tuple(sorted(findings, key=lambda finding: not finding.harmful)),
        not_applicable=(NOT_APPLICABLE,),
    )


@dataclass
class _Case:
    """A model, rows, and what findings are decided on."""

    estimator: Any
    X: Any
    seen: Any
    numbers: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        model, seen = self.estimator, self.seen
        self.collapse: Collapse = collapse(model, seen)
        self.entropies: Entropies = entropy_bound(model, seen)
        self.k = self.collapse.n_components
        self.has_bits = hasattr(model, "binarize")
        self.held = getattr(model, "noise_variance", None)
        self.elbo = self.entropies.elbo
        self.reference = self._fit_reference()
        self.bar = self.reference.bound()
        # What a model can reach that may not choose its noise variance.
        self.own_bar = self.bar
        if self.held is not None:
            is_number = np.ndim(self.held) == 0
            self.own_bar = self.reference.bound(float(self.held)) if is_number else -np.inf
        self.gain = max(self.bar - self.reference.baseline, 0.0)
        self.margin = SHARE_OF_GAIN * self.gain + NATS
        self.numbers |= {
            "elbo": self.elbo,
            "reference": self.bar,
            "without_latents": self.reference.baseline,
            "margin": self.margin,
        }
        if not self.has_bits:
            self._compare_errors()

    def _fit_reference(self) -> Any:
        if self.has_bits:
            return BernoulliReference(check_bits(self.seen, self.estimator.binarize), self.k)
        return GaussianReference(self.X, self.seen, self.k)

    def _compare_errors(self) -> None:
        model, seen = self.estimator, self.seen
        decoded = model.conditional(model.posterior(seen)[0])[0]
        self.numbers |= {
            "reconstruction_error": float(np.mean((seen - decoded) ** 2)),
            "pca_reconstruction_error": self.reference.error,
            "reference_noise_variance": self.reference.noise_variance,
        }
        if hasattr(model, "noise_variance_"):
            tuned = with_tuned_noise(model, seen)
            self.noise = float(np.mean(model.noise_variance_))
            self.numbers |= {
                "noise_variance": self.noise,
                "tuned_noise_variance": float(np.mean(tuned.noise_variance_)),
                "tuned_elbo": tuned.score(seen),
            }

    @property
    def n_active(self) -> int:
        """Dimensions that have not collapsed."""
        return self.k - len(self.collapse.collapsed)

    @property
    def linear_model(self) -> str:
        """In words."""
        return f"{'logistic pPCA' if self.has_bits else 'pPCA'} with as many dimensions"

    @property
    def kl_weight(self) -> float:
        """beta."""
        return float(getattr(self.estimator, "kl_weight", 1.0))


def _unfinished(case: _Case) -> Iterator[Finding]:
    model = case.estimator
    history = getattr(model, "elbo_history_", None)
    if history is None:
        history = getattr(model, "history_", {}).get("bound", ())
    tenth = len(history) // 10
    short = case.own_bar - case.elbo
    if not len(history) or short <= case.margin:
        return
    if tenth:
        rise = float(np.mean(history[-tenth:]) - np.mean(history[-2 * tenth : -tenth]))
        if rise <= STILL_RISING * case.gain:
            return
        said = f"The bound rose by {rise:.3g} nats from the last tenth of the steps but one on."
    else:
        rise, said = np.nan, f"There were {len(history)} epochs, too few to tell."
    yield Finding(
        "unfinished",
        "Training has not ended.",
        True,
        (f"The bound is {short:.4g} nats below that of {case.linear_model}.", said),
        {"rise": rise, "short": short},
        ("train longer: more max_epochs or max_iter, or a larger learning_rate",),
    )


def _degenerate(case: _Case) -> Iterator[Finding]:
    model = case.estimator
    if case.has_bits or hasattr(model, "noise_variance_"):
        return
    variance = model.conditional(model.posterior(case.seen)[0])[1].astype(np.float64)
    of_features = case.X.var(axis=0, dtype=np.float64)
    varying = of_features > 0
    log_ratio = np.log(variance[:, varying] / of_features[varying]).mean(axis=1)
    typical = float(np.exp(np.median(log_ratio)))
    few = log_ratio < np.log(min(NEAR_ZERO, typical / SPREAD))
    if not few.any():
        return
    least = float(np.exp(log_ratio.min()))
    copies = _count_repeated(case.seen[few])
    yield Finding(
        "iii",
        "The decoder's variances degenerate.",
        True,
        (
            (
                f"On {few.sum()} of {len(few)} rows p(x|z) has variances near zero, down to "
                f"{least:.2g} of the features' own in geometric mean; the median of all rows is "
                f"{typical:.2g}."
            ),
            (
                f"{copies} of these rows are equal to others of them. A bound rises without limit "
                "where few points are reproduced without noise, whatever it says of all others."
            ),
        ),
        {
            "least_variance": least,
            "typical_variance": typical,
            "rows": int(few.sum()),
            "copies": copies,
        },
        (
            'one noise variance for all z: noise_model="scalar" or "diagonal"',
            "remove repeated rows, or add the noise that rounding has hidden (Dequantizer)",
        ),
    )


def _noise_too_large(case: _Case) -> Iterator[Finding]:
    found, beta = case.numbers, case.kl_weight
    if "noise_variance" not in found or not len(case.collapse.collapsed):
        return
    sigma2, best = beta * case.noise, found["tuned_noise_variance"]
    lost = max(case.bar, found["tuned_elbo"]) - case.elbo
    if sigma2 <= NOISE_RATIO * min(best, found["reference_noise_variance"]) or lost <= case.margin:
        return
    # One that was learned and has arrived is the consequence of collapse, not its cause.
    if case.held is None and beta <= 1 and case.noise <= NOISE_RATIO * best:
        return
    hidden = int((case.reference.eigenvalues <= sigma2).sum())
    evidence = [
        (
            f"The noise variance is {'held fixed at' if case.held is not None else 'now'} "
            f"{case.noise:.4g}; {best:.4g} is the best for what was learned, and would add "
            f"{found['tuned_elbo'] - case.elbo:.4g} nats."
        ),
        (
            f"pPCA of as many dimensions has a noise variance of "
            f"{found['reference_noise_variance']:.4g} and {case.bar - case.elbo:.4g} nats more."
        ),
    ]
    if beta > 1:
        evidence.append(f"kl_weight={beta:g} acts on the networks as {beta:g} times this noise.")
    if hidden:
        evidence.append(
            f"{hidden} of the {len(case.reference.eigenvalues)} largest eigenvalues of the data "
            f"are below {sigma2:.4g}: there even the best linear model has none of these "
            "dimensions."
        )
    yield Finding(
        "ii",
        "The noise variance is too large.",
        True,
        tuple(evidence),
        {"effective_noise_variance": sigma2, "hidden_eigenvalues": hidden, "lost": lost},
        tuple(_advice_on_noise(case)),
    )


def _advice_on_noise(case: _Case) -> Iterator[str]:
    if case.held is not None:
        yield "learn the noise variance: noise_variance=None"
        yield f"or hold it at a smaller value: {case.numbers['reference_noise_variance']:.3g} is pPCA's"
    elif getattr(case.estimator, "noise_update", None) == "gradient":
        yield 'set it to its optimum in each step: noise_update="closed_form"'
        yield "or start it at pPCA's: noise_variance_init=None"
    if case.kl_weight > 1:
        yield "weigh the KL by one: kl_weight=1"
    if _is_trained(case.estimator):
        yield from _advice_on_start(case.estimator)


def _bad_optimum(case: _Case) -> Iterator[Finding]:
    model, found, bar = case.estimator, case.numbers, case.own_bar
    short = bar - case.elbo
    if short <= case.margin or not _is_trained(model):
        return
    evidence = [
        (
            f"The bound is {case.elbo:.6g}, that of {case.linear_model}"
            f"{'' if case.held is None else ' and the same noise variance'} {bar:.6g}: {short:.4g} nats "
            f"more, where without latents it is {found['without_latents']:.6g}."
        )
    ]
    free_bits = getattr(model, "free_bits", 0.0)
    if case.kl_weight != 1 or free_bits:
        yield Finding(
            "objective",
            "Something else than the bound was maximised.",
            True,
            (*evidence, f"With kl_weight={case.kl_weight:g} and free_bits={free_bits:g}."),
            {"short": short},
            ("train on the bound: kl_weight=1, free_bits=0",),
        )
        return
    if "reconstruction_error" in found:
        evidence.append(
            f"The mean squared error of reconstructions is {found['reconstruction_error']:.4g}, "
            f"PCA's {found['pca_reconstruction_error']:.4g}."
        )
    yield Finding(
        "v",
        "A bad local optimum: worse than the linear model of as many dimensions.",
        True,
        tuple(evidence),
        {"short": short},
        tuple(_advice_on_optimum(model)),
    )


def _superfluous(case: _Case, others: list[Finding]) -> Iterator[Finding]:
    count = len(case.collapse.collapsed)
    if not count or any(finding.harmful for finding in others):
        return
    evidence = [
        (
            f"{count} of {case.k} dimensions tell nothing of the data, and the bound of {case.elbo:.6g} "
            f"is {case.elbo - case.bar:+.4g} nats from that of the linear model with all {case.k}."
        )
    ]
    if not case.has_bits:
        spread = case.reference.average_variance
        evidence.append(
            "Reconstructions leave "
            f"{case.numbers['reconstruction_error'] / spread:.3%} of the variance, PCA's "
            f"{case.numbers['pca_reconstruction_error'] / spread:.3%}."
        )
    n_active = max(case.n_active, 1)
    yield Finding(
        "i",
        "Superfluous dimensions were pruned, which does no harm.",
        False,
        tuple(evidence),
        {"collapsed": count, "active": case.n_active},
        (f"drop them, for speed: n_components={n_active}",),
    )


def _diagnose_autoencoder(estimator: Any, X: Any, seen: Any) -> CollapseReport:
    k = int(estimator.n_components_)
    reference = GaussianReference(X, seen, k)
    error, bar = -float(estimator.score(seen)), reference.error
    spread = reference.average_variance
    findings = []
    # The autoencoder's own part of category (v): Dai et al., section 4.
    if error - bar > SHARE_OF_GAIN * (spread - bar):
        findings.append(
            Finding(
                "v",
                "A bad local optimum: worse than PCA.",
                True,
                (
                    (
                        f"The mean squared error of reconstructions is {error:.4g}, PCA's with as many "
                        f"dimensions {bar:.4g}, of a variance of {spread:.4g}. A VAE of these networks "
                        "has no reason to do better, and collapses where it cannot."
                    ),
                ),
                {"short": error - bar},
                (*tuple(_advice_on_depth(estimator)), "train longer: more max_epochs"),
            )
        )
    numbers = {"reconstruction_error": error, "pca_reconstruction_error": bar, "variance": spread}
    return CollapseReport(
        type(estimator).__name__,
        n_samples=X.shape[0],
        n_features=X.shape[1],
        n_components=k,
        collapse=None,
        entropies=None,
        numbers=numbers,
        findings=tuple(findings),
        not_applicable=("(i) to (iv): an autoencoder has neither a prior nor noise.",),
    )


def _advice_on_optimum(estimator: Any) -> Iterator[str]:
    yield from _advice_on_start(estimator)
    yield from _advice_on_depth(estimator)
    yield "another random_state, or another learning_rate"


def _advice_on_start(estimator: Any) -> Iterator[str]:
    if _could_start_at_ppca(estimator):
        yield 'start at pPCA: init="ppca"'
    if getattr(estimator, "noise_variance_init", None) is not None:
        yield "start the noise variance at pPCA's: noise_variance_init=None"
    if getattr(estimator, "kl_warmup_epochs", None) == 0:
        yield (
            "anneal the KL while the noise variance is learned: kl_warmup_epochs of a tenth of "
            "max_epochs"
        )


def _could_start_at_ppca(estimator: Any) -> bool:
    if getattr(estimator, "init", "") is not None:
        return False
    from sklearn_vae.deep.ppca_start import check_init  # torch, which such an estimator has loaded

    twin = clone(estimator).set_params(init="ppca")
    try:
        check_init(twin, twin._hidden_layer_sizes())
    except ValueError:
        return False
    return True


def _advice_on_depth(estimator: Any) -> Iterator[str]:
    n_layers = _n_layers(estimator)
    if n_layers >= DEEP:
        yield f"fewer layers: a network here has {n_layers} with weights"


def _n_layers(estimator: Any) -> int:
    """Layers with a matrix of weights, of the deeper of encoder and decoder."""
    module = getattr(estimator, "module_", None)
    if module is None:
        return 0
    return max(
        sum(p.ndim >= 2 for p in network.parameters())
        for network in (module.encoder, module.decoder)
    )


def _is_trained(estimator: Any) -> bool:
    """Whether by steps from a start, so that it can stop at a bad optimum."""
    return hasattr(estimator, "history_") or hasattr(estimator, "elbo_history_")


def _unnamed(estimator: Any) -> Any:
    """A copy that takes arrays without names of features, and does not warn."""
    twin = copy.copy(estimator)
    vars(twin).pop("feature_names_in_", None)
    return twin


def _count_repeated(rows: Any) -> int:
    """How many of them are equal to another."""
    counts = np.unique(rows, axis=0, return_counts=True)[1]
    return int(counts[counts > 1].sum())


def _rows(estimator: Any, X: Any) -> Any:
    """X as a NumPy array, float64 or float32, with the features of the fit."""
    X = validate_data(
        estimator,
        X,
        reset=False,
        accept_sparse=True,
        dtype=list(FLOAT_DTYPES),
        ensure_min_samples=2,
    )
    return X.toarray() if sparse.issparse(X) else X
