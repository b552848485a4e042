"""The pictures of a report, as SVG."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from sklearn_vae.diagnostics.dimensions import Collapse
from sklearn_vae.diagnostics.entropies import Entropies
from sklearn_vae.gaussian.bounds import COLLAPSE_KL
from sklearn_vae.protocol import Array

# Size of a picture, and the edges of its axes, in pixels.
WIDTH, HEIGHT = 380, 170
LEFT, RIGHT, TOP, BOTTOM = 52.0, 370.0, 28.0, 146.0

# Greatest width of a bar, and least distance between the numbers of an axis.
WIDEST, APART = 56.0, 12.0

# Colours of Okabe and Ito, as in `sklearn_vae.plot`.
BLUE, PURPLE = "#0072b2", "#cc79a7"


def kl_chart(collapse: Collapse) -> str:
    """KL per dimension, the largest first, on grey where collapsed; linear, then logarithmic."""
    order = np.argsort(-collapse.kl_per_dim, kind="stable")
    kl, k = collapse.kl_per_dim[order], collapse.n_components
    kl = np.nan_to_num(kl, nan=0.0, posinf=np.inf)  # no bar for an unknown KL
    unit = collapse.epsilon or COLLAPSE_KL
    finite = kl[np.isfinite(kl)]
    top = 1.5 * max([100 * unit, *finite])  # every KL may be infinite

    def height(value: Any) -> Any:
        share = np.log1p(np.minimum(value, top) / unit) / math.log1p(top / unit)
        return BOTTOM - (BOTTOM - TOP) * share

    wide = (RIGHT - LEFT) / max(k, 1)
    middle = LEFT + wide * (np.arange(k) + 0.5)
    gone = middle[np.isin(order, collapse.collapsed)]
    decades = 10.0 ** np.arange(math.ceil(math.log10(4 * unit)), math.log10(top))
    ticks = [0.0, unit, *decades]
    parts = [
        _bars(gone, TOP, np.full(len(gone), BOTTOM), min(wide, WIDEST / 0.8), "#8884"),
        _bars(middle, BOTTOM, height(kl), _filled(wide, k), BLUE),
        _ticks((float(height(tick)), f"{tick:g}") for tick in ticks),
        _rule(float(height(collapse.epsilon)), 'stroke-dasharray="4 3"'),
        _below(f"latent dimensions by KL, {k}; on grey collapsed, {len(collapse.collapsed)}"),
    ]
    return _svg("KL per dimension (nats); dashed: epsilon", parts)


def gap_chart(entropies: Entropies) -> str:
    """Parts of the difference between bound and sum of entropies: noise and dimensions."""
    heights = np.nan_to_num(np.append(entropies.gap.noise, entropies.gap.dimensions))
    k = len(heights) - 1
    # Bars far below the tolerance should look like nothing.
    least = 0.1 * entropies.tolerance or 1e-9
    low, high = min(-least, heights.min()), max(least, heights.max())
    scale = (BOTTOM - TOP) / (high - low)
    zero = TOP + high * scale
    # The bar of the noise stands apart, and is wide enough to be seen.
    first = min(WIDEST, max(12.0, 0.8 * (RIGHT - LEFT) / (k + 2.0)))
    wide = (RIGHT - LEFT - 1.5 * first) / max(k, 1)
    ends = zero - scale * heights
    middle = LEFT + 1.5 * first + wide * (np.arange(k) + 0.5)
    ticks = [0.0, *(t for t in (low, high) if abs(t) * scale > APART)]
    parts = [
        _bars(np.array([LEFT + first / 2]), zero, ends[:1], first, PURPLE),
        _bars(middle, zero, ends[1:], _filled(wide, k), BLUE),
        _ticks((zero - scale * t, f"{t:.2g}") for t in ticks),
        _rule(zero),
        _below(f"noise (left) {heights[0]:+.3f}, latent dimensions {heights[1:].sum():+.3f}"),
    ]
    return _svg(f"Bound less sum of entropies {entropies.gap.total:+.3f}, in parts (nats)", parts)


def _filled(wide: float, k: int) -> float:
    """Width of each of k bars."""
    return min(0.8 * wide, WIDEST) if k <= 50 else wide


def _bars(x: Array, start: float, ends: Array, width: float, color: str) -> str:
    path = "".join(f"M{a:.1f} {start:.1f}V{b:.1f}" for a, b in zip(x, ends, strict=True))
    return f'<path d="{path}" stroke="{color}" stroke-width="{width:.2f}"/>'


def _ticks(ticks: Iterable[tuple[float, str]]) -> str:
    return "".join(
        f'<path d="M{LEFT - 4} {y:.1f}H{LEFT}" stroke="currentColor"/>'
        f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
        for y, text in ticks
    )


def _rule(y: float, style: str = "") -> str:
    return f'<path d="M{LEFT} {y:.1f}H{RIGHT}" stroke="currentColor" {style}/>'


def _below(text: str) -> str:
    return f'<text x="{LEFT}" y="{HEIGHT - 8}">{html.escape(text)}</text>'


def _svg(title: str, parts: list[str]) -> str:
    title = html.escape(title)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'fill="currentColor" font-family="sans-serif" font-size="11">'
        f'<title>{title}</title><text x="{LEFT}" y="16">{title}</text>{"".join(parts)}</svg>'
    )
