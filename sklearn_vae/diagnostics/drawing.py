"""Charts of a report, as SVG."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from sklearn_vae.diagnostics.dimensions import Collapse, CollapseCurve
from sklearn_vae.diagnostics.entropies import Entropies
from sklearn_vae.gaussian.bounds import COLLAPSE_KL
from sklearn_vae.protocol import Array

# Size of a chart and edges of its axes, in pixels.
WIDTH, HEIGHT = 380, 170
LEFT, RIGHT, TOP, BOTTOM = 52.0, 370.0, 28.0, 146.0

# Maximum width of a bar and minimum distance of a tick from 0, in pixels.
MAX_BAR_WIDTH, MIN_TICK_DISTANCE = 56.0, 12.0

# Okabe-Ito colors, as in `sklearn_vae.plot`.
BLUE, PURPLE = "#0072b2", "#cc79a7"


def kl_chart(collapse: Collapse) -> str:
    """Draw the KL of each dimension in descending order, with collapsed ones on gray."""
    order = np.argsort(-collapse.kl_per_dim, kind="stable")
    kl, k = collapse.kl_per_dim[order], collapse.n_components
    kl = np.nan_to_num(kl, nan=0.0, posinf=np.inf)  # no bar for NaN
    unit = collapse.epsilon or COLLAPSE_KL
    finite = kl[np.isfinite(kl)]
    top = 1.5 * max([100 * unit, *finite])  # `finite` may be empty

    def height(value: Any) -> Any:
        share = np.log1p(np.minimum(value, top) / unit) / math.log1p(top / unit)
        return BOTTOM - (BOTTOM - TOP) * share

    width = (RIGHT - LEFT) / max(k, 1)
    centers = LEFT + width * (np.arange(k) + 0.5)
    collapsed = centers[np.isin(order, collapse.collapsed)]
    background = np.full(len(collapsed), BOTTOM)
    decades = 10.0 ** np.arange(math.ceil(math.log10(4 * unit)), math.log10(top))
    ticks = [0.0, unit, *decades]
    parts = [
        _bars(collapsed, TOP, background, min(width, MAX_BAR_WIDTH / 0.8), "#8884"),
        _bars(centers, BOTTOM, height(kl), _bar_width(width, k), BLUE),
        _ticks((float(height(tick)), f"{tick:g}") for tick in ticks),
        _horizontal_line(float(height(collapse.epsilon)), 'stroke-dasharray="4 3"'),
        _caption(f"{k} latent dimensions by KL, {len(collapsed)} collapsed (gray)"),
    ]
    return _svg("KL per dimension (nats), epsilon dashed", parts)


def curve_chart(curve: CollapseCurve, epsilon: float) -> str:
    """Draw the share of collapsed dimensions for every epsilon, on a logarithmic axis."""
    steps = curve.thresholds[np.isfinite(curve.thresholds) & (curve.thresholds > 0)]
    unit = epsilon or COLLAPSE_KL
    low, high = math.log10(min([unit, *steps]) / 3), math.log10(max([unit, *steps]) * 3)

    def across(value: float) -> float:
        return LEFT + (RIGHT - LEFT) * (math.log10(value) - low) / (high - low)

    def up(share: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * share

    path = f"M{LEFT} {up(float(curve.at(10**low))):.1f}"
    for value in np.unique(steps):
        path += f"H{across(value):.1f}V{up(float(curve.at(value))):.1f}"
    marks = [10.0**i for i in range(math.ceil(low), math.floor(high) + 1)]
    marks = marks[:: max(1, len(marks) // 5)]
    parts = [
        f'<path d="{path}H{RIGHT}" fill="none" stroke="{BLUE}" stroke-width="1.6"/>',
        _ticks((up(share), f"{share:.0%}") for share in (0.0, 0.5, 1.0)),
        _horizontal_line(BOTTOM),
        _vertical_line(across(unit), 'stroke-dasharray="4 3"'),
        *(
            f'<text x="{across(mark):.1f}" y="{BOTTOM + 13}" text-anchor="middle">{mark:g}</text>'
            for mark in marks
        ),
    ]
    return _svg("Collapsed dimensions by epsilon (nats)", parts)


def scale_chart(scales: Array, collapse: Collapse) -> str:
    """Draw 5 % to 95 % quantiles and medians of the posterior scales, in the order of the KL."""
    order = np.argsort(-collapse.kl_per_dim, kind="stable")
    scales, k = np.nan_to_num(scales[order]), len(order)
    top = max(1.1, float(scales.max()))
    width = (RIGHT - LEFT) / max(k, 1)
    centers = LEFT + width * (np.arange(k) + 0.5)
    heights = BOTTOM - (BOTTOM - TOP) * scales / top
    bar = _bar_width(width, k)
    spans = "".join(
        f"M{x:.1f} {a:.1f}V{b:.1f}"
        for x, a, b in zip(centers, heights[:, 0], heights[:, 2], strict=False)
    )
    medians = "".join(
        f"M{x - bar / 2:.1f} {y:.1f}h{bar:.1f}"
        for x, y in zip(centers, heights[:, 1], strict=False)
    )
    one = BOTTOM - (BOTTOM - TOP) / top
    parts = [
        f'<path d="{spans}" stroke="{BLUE}" stroke-opacity=".45" stroke-width="{bar:.2f}"/>',
        f'<path d="{medians}" stroke="{BLUE}" stroke-width="2"/>',
        _ticks([(BOTTOM, "0"), (one, "1")]),
        _horizontal_line(BOTTOM),
        _horizontal_line(one, 'stroke-dasharray="4 3"'),
        _caption("5 % to 95 % of the samples and medians; 1 is the prior"),
    ]
    return _svg("Standard deviation of q(z|x) / prior, dimensions by KL", parts)


def gap_chart(entropies: Entropies) -> str:
    """Draw the parts of ELBO minus sum of entropies: noise and latent dimensions."""
    heights = np.nan_to_num(np.append(entropies.gap.noise, entropies.gap.dimensions))
    k = len(heights) - 1
    # Gaps far below the tolerance should look like 0.
    least = 0.1 * entropies.tolerance or 1e-9
    low, high = min(-least, heights.min()), max(least, heights.max())
    scale = (BOTTOM - TOP) / (high - low)
    zero = TOP + high * scale
    # The noise bar is separate, and stays visible next to many dimensions.
    noise_width = min(MAX_BAR_WIDTH, max(12.0, 0.8 * (RIGHT - LEFT) / (k + 2.0)))
    width = (RIGHT - LEFT - 1.5 * noise_width) / max(k, 1)
    ends = zero - scale * heights
    centers = LEFT + 1.5 * noise_width + width * (np.arange(k) + 0.5)
    ticks = [0.0, *(t for t in (low, high) if abs(t) * scale > MIN_TICK_DISTANCE)]
    parts = [
        _bars(np.array([LEFT + noise_width / 2]), zero, ends[:1], noise_width, PURPLE),
        _bars(centers, zero, ends[1:], _bar_width(width, k), BLUE),
        _ticks((zero - scale * t, f"{t:.2g}") for t in ticks),
        _horizontal_line(zero),
        _caption(f"noise (left) {heights[0]:+.3f}, latent dimensions {heights[1:].sum():+.3f}"),
    ]
    return _svg(f"ELBO minus sum of entropies: {entropies.gap.total:+.3f} nats", parts)


def _bar_width(available: float, k: int) -> float:
    """Return the width of each of k bars, without gaps if there are many."""
    return min(0.8 * available, MAX_BAR_WIDTH) if k <= 50 else available


def _bars(x: Array, start: float, ends: Array, width: float, color: str) -> str:
    path = "".join(f"M{a:.1f} {start:.1f}V{b:.1f}" for a, b in zip(x, ends, strict=True))
    return f'<path d="{path}" stroke="{color}" stroke-width="{width:.2f}"/>'


def _ticks(ticks: Iterable[tuple[float, str]]) -> str:
    return "".join(
        f'<path d="M{LEFT - 4} {y:.1f}H{LEFT}" stroke="currentColor"/>'
        f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
        for y, text in ticks
    )


def _horizontal_line(y: float, style: str = "") -> str:
    return f'<path d="M{LEFT} {y:.1f}H{RIGHT}" stroke="currentColor" {style}/>'


def _vertical_line(x: float, style: str = "") -> str:
    return f'<path d="M{x:.1f} {TOP}V{BOTTOM}" stroke="currentColor" {style}/>'


def _caption(text: str) -> str:
    return f'<text x="{LEFT}" y="{HEIGHT - 8}">{html.escape(text)}</text>'


def _svg(title: str, parts: list[str]) -> str:
    title = html.escape(title)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'fill="currentColor" font-family="sans-serif" font-size="11">'
        f'<title>{title}</title><text x="{LEFT}" y="16">{title}</text>{"".join(parts)}</svg>'
    )
