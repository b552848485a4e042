import dataclasses
import functools
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from sklearn_vae import PPCA, DeepAutoencoder, DeepGaussianVAE
from sklearn_vae.diagnostics import Collapse, collapse, diagnose, entropy_bound
from sklearn_vae.diagnostics.drawing import BOTTOM, LEFT, RIGHT, TOP, gap_chart, kl_chart
from sklearn_vae.gaussian.bounds import EntropyGap
from tests.deep.data import SMALL, make_rows

X = make_rows()


def paths(svg):
    """Of each path its colour, and starts and ends of its vertical strokes."""
    for path in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}path"):
        strokes = re.findall(r"M([\d.]+) ([\d.]+)V([\d.]+)", path.get("d"))
        yield path.get("stroke"), np.array(strokes, dtype=float).reshape(-1, 3)


def stroke_widths(svg):
    """Width of the strokes of each path that has one."""
    elements = ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}path")
    return [float(e.get("stroke-width")) for e in elements if e.get("stroke-width")]


def ticks(svg):
    """Heights and texts of the ticks."""
    found = re.findall(r'<path d="M48.0 ([\d.]+)H52.0".*?/><text (.*?)>(.*?)</text>', svg)
    for y, place, _ in found:  # right of the text, and at its middle
        assert place == f'x="45.0" y="{float(y) + 4:.1f}" text-anchor="end"'
    return {text: float(y) for y, _, text in found}


@functools.cache
def _entropies():
    return entropy_bound(PPCA(2, noise_variance=1.0).fit(X), X)


def gap_of(noise, *dimensions, tolerance=0.1):
    """Entropies with these parts of their gap."""
    gap = EntropyGap(noise, np.array(dimensions, dtype=float))
    return dataclasses.replace(_entropies(), gap=gap, tolerance=tolerance)


def made(k, n_active):
    kl = np.r_[np.zeros(k - n_active), np.linspace(0.1, 5.0, n_active)]
    return Collapse(0.01, 0.01, "share", kl, np.zeros(k), np.flatnonzero(kl == 0))


@pytest.mark.parametrize(("k", "n_active"), [(1, 0), (1, 1), (5, 3), (200, 37)])
def test_bars_fall_and_grey_is_what_has_collapsed(k, n_active):
    svg = kl_chart(made(k, n_active))
    (_, grey), (_, bars), *_ = paths(svg)
    assert len(bars) == k
    assert len(grey) == k - n_active
    assert (np.diff(bars[:, 2]) >= 0).all()  # downwards
    np.testing.assert_array_equal(bars[n_active:, 2], BOTTOM)
    np.testing.assert_array_equal(bars[n_active:, 0], grey[:, 0])
    assert bars[:, 2].min() >= TOP


@pytest.mark.parametrize(
    ("k", "bar", "behind"),
    [(1, 56, 70), (4, 56, 70), (5, 50.88, 63.6), (9, 28.27, 35.33), (50, 5.09, 6.36),
     (51, 6.24, 6.24), (200, 1.59, 1.59)],
)  # fmt: skip
def test_bars_of_the_kl_fill_the_axis(k, bar, behind):
    # Four fifths of their share of 318 pixels, at most 56, but no gaps beyond 50 dimensions.
    svg = kl_chart(made(k, 1))
    (_, _), (_, bars), *_ = paths(svg)
    centers = LEFT + (RIGHT - LEFT) * (np.arange(k) + 0.5) / k
    np.testing.assert_allclose(bars[:, 0], centers, atol=0.0501)
    np.testing.assert_allclose(stroke_widths(svg), [behind, bar], atol=0.0051)


@pytest.mark.parametrize(
    ("k", "noise", "bar"),
    [(1, 56, 56), (2, 56, 56), (3, 50.88, 56), (8, 25.44, 27.98), (50, 12, 4.8), (51, 12, 5.88)],
)
def test_bars_of_the_gap_fill_the_axis_with_noise_apart(k, noise, bar):
    # Noise has the width of one of k + 2 bars, from 12 to 56 pixels, and half of it follows.
    svg = gap_chart(gap_of(1.0, *np.ones(k)))
    (_, first), (_, others), *_ = paths(svg)
    assert first[0, 0] == pytest.approx(LEFT + noise / 2, abs=0.0501)
    start = LEFT + 1.5 * noise
    centers = start + (RIGHT - start) * (np.arange(k) + 0.5) / k
    np.testing.assert_allclose(others[:, 0], centers, atol=0.0501)
    np.testing.assert_allclose(stroke_widths(svg), [noise, bar], atol=0.0051)


@pytest.mark.parametrize(
    ("gap", "expected"),
    [
        ((2.0, 1.0, -2.0), {"0": 87.0, "-2": 146.0, "2": 28.0}),
        ((2.0, 0.5), {"0": 145.41, "2": 28.0}),  # down to a tenth of the tolerance, as 0
        ((-3.0,), {"0": 28.39, "-3": 146.0}),
        # 12 pixels of 118 are as near as a tick may be to that of 0.
        ((0.5, -0.0565), {"0": 134.02, "0.5": 28.0}),
        ((0.5, -0.0567), {"0": 133.98, "0.5": 28.0, "-0.057": 146.0}),
        ((0.0, 0.0), {"0": 87.0, "-0.01": 146.0, "0.01": 28.0}),
    ],
)
def test_ticks_of_the_gap_are_0_and_its_ends(gap, expected):
    found = ticks(gap_chart(gap_of(*gap)))
    assert found.keys() == expected.keys()
    for text, height in expected.items():
        assert found[text] == pytest.approx(height, abs=0.0501)


def test_ticks_of_a_gap_without_tolerance_are_those_of_its_rounding():
    found = ticks(gap_chart(gap_of(0.0, 0.0, tolerance=0.0)))
    assert found == {"0": 87.0, "-1e-09": 146.0, "1e-09": 28.0}


def test_a_gap_says_its_parts():
    svg = gap_chart(gap_of(0.12345, 1.5, -0.25))
    assert "ELBO minus sum of entropies: +1.373 nats" in svg
    assert "noise (left) +0.123, latent dimensions +1.250" in svg


def test_ticks_of_the_kl_are_0_epsilon_and_decades_beyond_4_times_epsilon():
    def marked(epsilon, *kl):
        kl = np.array(kl)
        chart = kl_chart(Collapse(epsilon, 0.01, "share", kl, np.zeros(len(kl)), kl[:0]))
        return list(ticks(chart))

    assert marked(0.01, 0.0) == ["0", "0.01", "0.1", "1"]  # up to 150 times epsilon
    assert marked(0.01, 5.0) == ["0", "0.01", "0.1", "1"]
    assert marked(0.01, 7.0) == ["0", "0.01", "0.1", "1", "10"]
    assert marked(0.02, 0.5) == ["0", "0.02", "0.1", "1"]
    assert marked(0.03, 0.5) == ["0", "0.03", "1"]
    assert marked(0.0, 0.5) == ["0", "0.01", "0.1", "1"]


def test_a_kl_says_how_many_have_collapsed():
    svg = kl_chart(made(5, 3))
    assert "5 latent dimensions by KL, 2 collapsed (gray)" in svg
    # The line of epsilon is dashed, at the tick of epsilon.
    (dashed,) = re.findall(r'<path d="M52.0 ([\d.]+)H370.0" [^>]*stroke-dasharray', svg)
    assert float(dashed) == ticks(svg)["0.01"]


def test_an_infinite_kl_reaches_the_top():
    kl = np.array([np.inf, 1.0])
    _, (_, bars), *_ = paths(kl_chart(Collapse(0.0, 0.01, "share", kl, np.zeros(2), kl[:0])))
    assert bars[0, 2] == TOP < bars[1, 2]


def test_bars_of_the_gap_are_its_parts():
    found = entropy_bound(DeepGaussianVAE(3, **SMALL).fit(X), X)
    (_, noise), (_, dimensions), *_ = paths(gap_chart(found))
    strokes = np.vstack([noise, dimensions])
    drawn = strokes[:, 1] - strokes[:, 2]
    parts = np.append(found.gap.noise, found.gap.dimensions)
    scale = drawn @ parts / (parts @ parts)
    np.testing.assert_allclose(drawn, scale * parts, atol=0.11)  # written to a tenth of a pixel
    assert scale > 0
    assert strokes[:, 1:].min() >= TOP - 0.1
    assert strokes[:, 1:].max() <= BOTTOM + 0.1


def test_nothing_is_made_of_a_gap_far_below_the_tolerance():
    model = PPCA(2).fit(X)
    (_, noise), (_, dimensions), *_ = paths(gap_chart(entropy_bound(model, X)))
    assert np.abs(noise[:, 1] - noise[:, 2]).max() <= 0.1
    assert np.abs(dimensions[:, 1] - dimensions[:, 2]).max() <= 0.1


def test_a_report_holds_both_and_stays_small():
    model = DeepGaussianVAE(200, **SMALL).fit(X)
    report = diagnose(model, X)
    markup = report._repr_html_()
    assert len(markup) < 20_000
    for svg in re.findall("<svg.*?</svg>", markup):
        ET.fromstring(svg)  # closed and escaped
    assert kl_chart(collapse(model, X)) in markup
    assert gap_chart(report.entropies) in markup
    assert "<svg" not in diagnose(DeepAutoencoder(2, **SMALL).fit(X), X)._repr_html_()


def test_numbers_of_the_axis_stand_at_their_heights():
    epsilon = 0.01
    svg = kl_chart(made(5, 3))
    found = ticks(svg)
    values, heights = np.array([float(text) for text in found]), np.array(list(found.values()))
    assert len(values) >= 3
    (_, _), (_, bars), *_ = paths(svg)
    # Linear, then logarithmic: the scale is fixed by its largest bar.
    scale = (BOTTOM - bars[0, 2]) / np.log1p(5.0 / epsilon)
    np.testing.assert_allclose(BOTTOM - heights, scale * np.log1p(values / epsilon), atol=0.11)


@pytest.mark.parametrize("kl", [[np.inf, np.inf], [np.nan, 1.0], [np.nan], []])
def test_kl_that_has_no_number(kl):
    kl = np.array(kl)
    svg = kl_chart(Collapse(0.01, 0.01, "share", kl, np.zeros(len(kl)), np.array([], dtype=int)))
    assert "nan" not in svg
    _, (_, bars), *_ = paths(svg)
    np.testing.assert_array_equal(bars[kl == np.inf, 2], TOP)
    assert (bars[len(kl) - np.isnan(kl).sum() :, 2] == BOTTOM).all()


def test_no_dimensions_have_no_charts():
    report = diagnose(PPCA(0).fit(X), X)
    assert "<svg" not in report._repr_html_()
    ET.fromstring(gap_chart(report.entropies))
