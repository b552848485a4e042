import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from sklearn_vae import PPCA, DeepAutoencoder, DeepGaussianVAE
from sklearn_vae.diagnostics import Collapse, collapse, diagnose, entropy_bound
from sklearn_vae.diagnostics.drawing import BOTTOM, TOP, gap_chart, kl_chart
from tests.deep.data import SMALL, make_rows

X = make_rows()


def paths(svg):
    """Of each path its colour, and starts and ends of its vertical strokes."""
    for path in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}path"):
        strokes = re.findall(r"M([\d.]+) ([\d.]+)V([\d.]+)", path.get("d"))
        yield path.get("stroke"), np.array(strokes, dtype=float).reshape(-1, 3)


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
    marks = re.findall(r'<path d="M48.0 ([\d.]+)H52.0".*?/><text .*?>(.*?)</text>', svg)
    values = np.array([float(text) for _, text in marks])
    heights = np.array([float(y) for y, _ in marks])
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
