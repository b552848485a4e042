"""Reports of `diagnose` as text, dict and HTML."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from sklearn_vae.diagnostics import pages
from sklearn_vae.diagnostics.advice import Remedy
from sklearn_vae.diagnostics.dimensions import Collapse, CollapseCurve
from sklearn_vae.diagnostics.entropies import Entropies
from sklearn_vae.protocol import Array

# Maximum number of dimensions listed in a text.
MAX_LISTED = 12


@dataclass(frozen=True, eq=False)
class Verdict:
    """Verdict of :func:`diagnose` on one aspect of a model.

    Attributes
    ----------
    name : {"collapse", "linear", "noise", "scale", "convergence", "held_out"}
        Aspect: harmful collapse, comparison with the linear model, optimum of the noise variance,
        scales of the features, convergence of training, comparison with held-out samples.
    holds : bool
        Whether the verdict is good.
    text : str
        The verdict in one sentence, with its evidence.

    See Also
    --------
    diagnose : Diagnose posterior collapse, and suggest remedies.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.diagnostics import diagnose
    >>> X = load_iris().data
    >>> report = diagnose(PPCA(2, noise_variance=1.0).fit(X), X)
    >>> [verdict.name for verdict in report.verdicts if not verdict.holds]
    ['collapse', 'noise']
    """

    name: str
    holds: bool
    text: str


@dataclass(frozen=True, eq=False)
class Finding:
    """Finding of :func:`diagnose` with evidence and advice.

    Attributes
    ----------
    category : str
        Short name of the cause, one of those listed in :func:`diagnose`.
    title : str
        The finding in one sentence.
    harmful : bool
        Whether it makes the model worse.
    evidence : tuple of str
        Sentences that support the finding.
    numbers : dict of str to float
        Numbers that support the finding.
    remedies : tuple of Remedy
        Suggested remedies, the most promising first.
    advice : tuple of str
        The remedies in words.
    changes : dict
        Parameters that the first remedy changes: `estimator.set_params(**finding.changes)`.

    See Also
    --------
    diagnose : Diagnose posterior collapse, and suggest remedies.
    Remedy : Remedy in words and as changes of parameters.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.diagnostics import diagnose
    >>> X = load_iris().data
    >>> finding = diagnose(PPCA(2, noise_variance=1.0).fit(X), X).findings[0]
    >>> finding.title
    'The noise variance is too large, which hides dimensions.'
    >>> finding.advice[0], finding.changes
    ('learn the noise variance: noise_variance=None', {'noise_variance': None})
    """

    category: str
    title: str
    harmful: bool
    evidence: tuple[str, ...]
    numbers: dict[str, float]
    remedies: tuple[Remedy, ...]

    @property
    def advice(self) -> tuple[str, ...]:
        """The remedies in words."""
        return tuple(remedy.text for remedy in self.remedies)

    @property
    def changes(self) -> dict[str, Any]:
        """Parameters that the first remedy changes."""
        return self.remedies[0].changes if self.remedies else {}


@dataclass(frozen=True, eq=False)
class CollapseReport:
    """Report of :func:`diagnose` on a fitted model.

    Printing it shows all findings. A notebook shows them as HTML with charts.

    Attributes
    ----------
    estimator : str
        Class name of the model.
    n_samples, n_features, n_components : int
        Size of the data and of the latent space.
    collapse : Collapse or None
        Collapsed dimensions. None for an autoencoder, which has no prior.
    entropies : Entropies or None
        Sum of entropies and its gap to the ELBO. None for an autoencoder.
    numbers : dict of str to float
        Numbers that support the findings. Bounds are in nats per sample. Variances and errors are
        in squared units of the data, or in units of the feature variances if the model has a noise
        variance per feature.
    verdicts : tuple of Verdict
        Verdicts on the aspects that apply to the model. It is healthy only if all of them hold.
    findings : tuple of Finding
        Findings, the harmful one first.
    not_applicable : tuple of str
        Categories that cannot occur and results that are unknown, with the reason.
    curve : CollapseCurve or None
        Share of collapsed dimensions for every epsilon.
    scales : ndarray of shape (n_components, 3) or None
        Quantiles over samples, 5 %, 50 % and 95 %, of the standard deviation of q(z|x), in units of
        the prior.

    See Also
    --------
    diagnose : Diagnose posterior collapse, and suggest remedies.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_vae import PPCA
    >>> from sklearn_vae.diagnostics import diagnose
    >>> X = load_iris().data
    >>> report = diagnose(PPCA(2).fit(X), X)
    >>> report.healthy, report.findings, report.collapse.percent
    (True, (), 0.0)
    """

    estimator: str
    n_samples: int
    n_features: int
    n_components: int
    collapse: Collapse | None
    entropies: Entropies | None
    numbers: dict[str, float]
    verdicts: tuple[Verdict, ...]
    findings: tuple[Finding, ...]
    not_applicable: tuple[str, ...]
    curve: CollapseCurve | None = None
    scales: Array | None = None

    @property
    def healthy(self) -> bool:
        """Whether all verdicts hold and no finding is harmful."""
        harmful = any(finding.harmful for finding in self.findings)
        return not harmful and all(verdict.holds for verdict in self.verdicts)

    @property
    def categories(self) -> tuple[str, ...]:
        """Categories of the findings."""
        return tuple(finding.category for finding in self.findings)

    @property
    def advice(self) -> tuple[str, ...]:
        """Advice of all findings without repetition."""
        return tuple(dict.fromkeys(text for finding in self.findings for text in finding.advice))

    @property
    def changes(self) -> dict[str, Any]:
        """Parameters that the first remedy of the harmful finding changes; empty if healthy."""
        return next((finding.changes for finding in self.findings if finding.harmful), {})

    def to_dict(self) -> dict[str, Any]:
        """Convert the report to built-in types that JSON can encode.

        Returns
        -------
        dict
            Fields of the report, "healthy", "advice" and "changes".
        """
        further = {name: getattr(self, name) for name in ("healthy", "advice", "changes")}
        return {**_as_builtin(self), **_as_builtin(further)}

    def __str__(self) -> str:
        lines = [self.headline, *self.state]
        for finding in self.findings:
            lines += ["", finding.title]
            lines += [f"  {sentence}" for sentence in finding.evidence]
            lines += [f"  -> {text}" for text in finding.advice]
        return "\n".join([*lines, "", *self.not_applicable])

    def to_markdown(self) -> str:
        """Write the report in Markdown, for example for a pull request.

        Returns
        -------
        str
            Verdicts, findings with their advice, and the KL of each dimension.
        """
        return pages.markdown(self)

    def to_html(self) -> str:
        """Write the report as an HTML document with charts, which needs no other files.

        Returns
        -------
        str
            Document. A notebook shows the same without the frame of a document.
        """
        return pages.document(self)

    def _repr_html_(self) -> str:
        return pages.fragment(self)

    @property
    def headline(self) -> str:
        """Model, size of the data, and whether the model is healthy."""
        verdict = "healthy" if self.healthy else "not healthy"
        return (
            f"{self.estimator} with {self.n_components} latent dimension"
            f"{'s' * (self.n_components != 1)}, {self.n_samples} "
            f"samples, {self.n_features} features: {verdict}."
        )

    @property
    def state(self) -> list[str]:
        """Verdicts, collapsed dimensions, and entropies, one sentence each."""
        lines = [f"{'ok ' if v.holds else 'BAD'} {v.text}" for v in self.verdicts]
        if self.collapse is None or self.entropies is None:
            return lines
        collapsed = self.collapse.collapsed
        definition = (
            f"KL of at most {self.collapse.epsilon:g} nats for {1.0 - self.collapse.delta:.0%} of "
            "the samples"
        )
        text = f"No dimension has collapsed ({definition})."
        if n := len(collapsed):
            listed = ", ".join(map(str, collapsed[:MAX_LISTED])) + (", ..." * (n > MAX_LISTED))
            text = f"{n} of {self.n_components} dimensions have collapsed ({definition}): {listed}."
        entropies = str(self.entropies).splitlines()[0]
        return [*lines, text, f"{entropies} At an optimum of training, both are equal."]


def _as_builtin(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _as_builtin(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: _as_builtin(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_as_builtin(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value
