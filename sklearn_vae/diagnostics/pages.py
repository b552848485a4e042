"""Reports of `diagnose` as Markdown and HTML."""

from __future__ import annotations

import html
from typing import Any

import numpy as np

from sklearn_vae.diagnostics.drawing import curve_chart, gap_chart, kl_chart, scale_chart

# Maximum number of dimensions in a table.
MAX_ROWS = 20

STYLE = (
    "body{font-family:sans-serif;max-width:820px;margin:2em auto;padding:0 1em;line-height:1.4}"
    "svg{margin:4px}details{margin:.6em 0}small{display:block;margin-top:1em}"
)


def markdown(report: Any) -> str:
    """Write a report in Markdown."""
    lines = [f"# {_plain(report.headline)}", ""]
    lines += [f"- [{'x' if v.holds else ' '}] {_plain(v.text)}" for v in report.verdicts]
    for finding in report.findings:
        lines += ["", f"## {_plain(finding.title)}", ""]
        lines += [f"- {_plain(sentence)}" for sentence in finding.evidence]
        if finding.advice:
            lines += ["", "Advice, the most promising first:", ""]
            lines += [f"{i}. {_plain(text)}" for i, text in enumerate(finding.advice, start=1)]
    lines += ["", *_numbers(report), *_dimensions(report)]
    lines += [f"*{_plain(text)}*" for text in report.not_applicable]
    return "\n".join(lines).rstrip() + "\n"


def fragment(report: Any) -> str:
    """Write a report as HTML for a notebook."""
    signs = {True: "\N{CHECK MARK}", False: "\N{BALLOT X}"}
    verdicts = [f"{signs[verdict.holds]} {verdict.text}" for verdict in report.verdicts]
    parts = [f"<h4>{_escape(report.headline)}</h4>"]
    if verdicts:
        parts.append(f"<p>{'<br/>'.join(map(_escape, verdicts))}</p>")
    parts.append(_elements("p", report.state[len(verdicts) :]))
    if charts := _charts(report):
        parts.append(f"<p>{' '.join(charts)}</p>")
    for finding in report.findings:
        advice = "".join(f"<li>{_escape(text)}</li>" for text in finding.advice)
        parts.append(
            f'<details open=""><summary><b>{_escape(finding.title)}</b></summary>'
            f"{_elements('p', finding.evidence)}<ul>{advice}</ul></details>"
        )
    parts.append(_elements("small", report.not_applicable))
    return f"<div>{''.join(parts)}</div>"


def document(report: Any) -> str:
    """Write a report as an HTML document."""
    title = _escape(f"diagnose: {report.estimator}")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body>{fragment(report)}</body></html>\n"
    )


def _charts(report: Any) -> list[str]:
    """Draw what is known about the latent dimensions."""
    if not report.n_components or report.collapse is None:
        return []
    charts = [kl_chart(report.collapse)]
    if report.curve is not None:
        charts.append(curve_chart(report.curve, report.collapse.epsilon))
    if report.scales is not None:
        charts.append(scale_chart(report.scales, report.collapse))
    if report.entropies is not None:
        charts.append(gap_chart(report.entropies))
    return charts


def _numbers(report: Any) -> list[str]:
    """Write the numbers of a report as a table."""
    if not report.numbers:
        return []
    rows = [f"| {name.replace('_', ' ')} | {value:.6g} |" for name, value in report.numbers.items()]
    return ["| number | value |", "|---|---|", *rows, ""]


def _dimensions(report: Any) -> list[str]:
    """Write the KL of the dimensions as a table, the largest first."""
    collapse = report.collapse
    if collapse is None or not collapse.n_components:
        return []
    order = np.argsort(-collapse.kl_per_dim, kind="stable")[:MAX_ROWS]
    has_scales = report.scales is not None
    title = "| dimension | KL (nats) |" + " posterior / prior scale |" * has_scales + " state |"
    rows = [title, "|---|---|" + "---|" * has_scales + "---|"]
    for h in order:
        state = "collapsed" if h in collapse.collapsed else "active"
        scale = f" {report.scales[h, 1]:.3g} |" if has_scales else ""
        rows.append(f"| {h} | {collapse.kl_per_dim[h]:.4g} |{scale} {state} |")
    if (more := collapse.n_components - len(order)) > 0:
        rows.append(f"| and {more} more |" + " |" * (2 + has_scales))
    return [*rows, ""]


def _plain(text: str) -> str:
    """Escape characters that Markdown would read as formats."""
    for character in "\\`*_|<>":
        text = text.replace(character, f"\\{character}")
    return text


def _elements(tag: str, texts: Any) -> str:
    return "".join(f"<{tag}>{_escape(text)}</{tag}>" for text in texts)


def _escape(text: str) -> str:
    return html.escape(text, quote=False)
