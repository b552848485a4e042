"""Reports of `diagnose`: findings with evidence and advice, as text, dict or HTML."""

from __future__ import annotations

import html
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from sklearn_vae.diagnostics.dimensions import Collapse
from sklearn_vae.diagnostics.drawing import gap_chart, kl_chart
from sklearn_vae.diagnostics.entropies import Entropies

# Most dimensions that a text names.
NAMED = 12


@dataclass(frozen=True, eq=False)
class Finding:
    """A finding about the latent space, with its evidence.

    Attributes
    ----------
    category : str
        Roman numeral of the taxonomy of Dai et al., or a word for what it does not cover:
        "unfinished", "objective", "noise".
    title : str
    harmful : bool
        Whether the model is worse for it.
    evidence : tuple of str
        Sentences.
    numbers : dict of str to float
        Numbers that they rest on.
    advice : tuple of str
        What to try, the most promising first.
    """

    category: str
    title: str
    harmful: bool
    evidence: tuple[str, ...]
    numbers: dict[str, float]
    advice: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class CollapseReport:
    """Report on the latent space of a fitted model.

    Attributes
    ----------
    estimator : str
        Name of its class.
    n_samples, n_features, n_components : int
    collapse : Collapse or None
        None for an autoencoder, which has no prior to collapse onto.
    entropies : Entropies or None
        None for an autoencoder.
    numbers : dict of str to float
        Numbers that the findings rest on: bounds in nats per sample, variances and errors in
        squared units of the data; where the model has a noise variance for each feature, in units
        of the features' variances.
    findings : tuple of Finding
        The most harmful first.
    not_applicable : tuple of str
        Categories that cannot occur, and why.
    """

    estimator: str
    n_samples: int
    n_features: int
    n_components: int
    collapse: Collapse | None
    entropies: Entropies | None
    numbers: dict[str, float]
    findings: tuple[Finding, ...]
    not_applicable: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        """Whether no finding is harmful."""
        return not any(finding.harmful for finding in self.findings)

    @property
    def categories(self) -> tuple[str, ...]:
        """Categories of the findings."""
        return tuple(finding.category for finding in self.findings)

    @property
    def advice(self) -> tuple[str, ...]:
        """Advice of all findings, each piece once."""
        return tuple(dict.fromkeys(text for finding in self.findings for text in finding.advice))

    def to_dict(self) -> dict[str, Any]:
        """The report as dicts, lists, strings and numbers, for JSON."""
        return {**_plain(self), "healthy": self.healthy, "advice": list(self.advice)}

    def __str__(self) -> str:
        lines = [self._headline(), *self._state()]
        for finding in self.findings:
            lines += ["", _titled(finding)]
            lines += [f"  {sentence}" for sentence in finding.evidence]
            lines += [f"  -> {text}" for text in finding.advice]
        return "\n".join([*lines, "", *self.not_applicable])

    def _repr_html_(self) -> str:
        parts = [f"<h4>{_escaped(self._headline())}</h4>", _items("p", self._state())]
        if self.n_components and self.collapse is not None and self.entropies is not None:
            parts.append(f"<p>{kl_chart(self.collapse)} {gap_chart(self.entropies)}</p>")
        for finding in self.findings:
            advice = "".join(f"<li>{_escaped(text)}</li>" for text in finding.advice)
            parts.append(
                f"<details open><summary><b>{_escaped(_titled(finding))}</b></summary>"
                f"{_items('p', finding.evidence)}<ul>{advice}</ul></details>"
            )
        parts.append(_items("small", self.not_applicable))
        return f"<div>{''.join(parts)}</div>"

    def _headline(self) -> str:
        verdict = "healthy" if self.healthy else "not healthy"
        return (
            f"{self.estimator}, {self.n_components} latent dimensions, on {self.n_samples} rows of "
            f"{self.n_features} features: {verdict}."
        )

    def _state(self) -> list[str]:
        if self.collapse is None or self.entropies is None:
            return []
        collapsed = self.collapse.collapsed
        definition = f"(epsilon {self.collapse.epsilon}, delta {self.collapse.delta})"
        text = f"No dimension has collapsed {definition}."
        if n := len(collapsed):
            names = ", ".join(map(str, collapsed[:NAMED])) + (", ..." * (n > NAMED))
            text = f"{n} of {self.n_components} dimensions have collapsed {definition}: {names}."
        return [text, *str(self.entropies).splitlines()]


def _titled(finding: Finding) -> str:
    roman = set(finding.category) <= set("iv")
    return f"({finding.category}) {finding.title}" if roman else finding.title


def _items(tag: str, texts: Any) -> str:
    return "".join(f"<{tag}>{_escaped(text)}</{tag}>" for text in texts)


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value
