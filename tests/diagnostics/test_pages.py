"""Reports as Markdown and as HTML."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch

from sklearn_vae import PPCA, DeepAutoencoder
from sklearn_vae.adapters import FunctionModel
from sklearn_vae.diagnostics import collapse_curve, diagnose
from sklearn_vae.diagnostics.drawing import BOTTOM, TOP, curve_chart, scale_chart
from tests.deep.data import SMALL, make_rows
from tests.sharing import shared

X = make_rows()


@shared
def report():
    return diagnose(PPCA(5, noise_variance=20.0).fit(X), X)


def counts():
    """A report without entropies."""
    rng = np.random.default_rng(0)
    A = rng.normal(size=(8, 2))
    return diagnose(
        FunctionModel(
            lambda x: (x @ A, np.zeros((len(x), 2))),
            lambda z: torch.distributions.Poisson(torch.from_numpy(np.exp(0.1 * z @ A.T))),
            likelihood="distribution",
            name="a<b>|c",
        ),
        np.abs(np.round(X)),
    )


def autoencoder():
    return diagnose(DeepAutoencoder(3, **SMALL).fit(X), X)


def test_markdown_has_every_verdict_finding_advice_and_dimension():
    text = report().to_markdown()
    assert text.startswith("# PPCA with 5 latent dimensions")
    for verdict in report().verdicts:
        assert f"- [{'x' if verdict.holds else ' '}] {verdict.text}" in text
    for finding in report().findings:
        assert f"## {finding.title}" in text
        for number, advice in enumerate(finding.advice, start=1):
            assert f"{number}. {advice}".replace("_", r"\_") in text
    rows = re.findall(r"^\| (\d+) \| .* \| (active|collapsed) \|$", text, re.MULTILINE)
    assert len(rows) == 5
    collapsed = sorted(int(index) for index, state in rows if state == "collapsed")
    np.testing.assert_array_equal(collapsed, report().collapse.collapsed)
    assert re.search(r"^\| elbo \| -\d", text, re.MULTILINE)


def test_tables_of_markdown_have_rows_of_one_width():
    for made in (report(), counts(), autoencoder()):
        blocks = made.to_markdown().split("\n\n")
        for block in (b for b in blocks if b.startswith("|")):
            widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
            assert len(widths) == 1


def test_names_are_escaped():
    made = counts()
    assert r"a\<b\>\|c" in made.to_markdown()
    assert "a&lt;b&gt;|c" in made.to_html()
    assert "<b>|c" not in made.to_html()


@pytest.mark.parametrize(
    ("make", "n_charts"), [(report, 4), (counts, 3), (autoencoder, 0)], ids=lambda v: str(v)[:12]
)
def test_the_document_has_the_charts_that_are_known(make, n_charts):
    made = make()
    text = made.to_html()
    assert text.startswith("<!doctype html>")
    # Nothing is loaded from elsewhere.
    assert not re.search(r"(?:src|href)=|url\(", text)
    charts = re.findall(r"<svg.*?</svg>", text)
    assert len(charts) == n_charts
    assert all(ET.fromstring(chart).tag.endswith("svg") for chart in charts)
    assert made._repr_html_() in text
    for verdict in made.verdicts:
        assert verdict.text.replace("<", "&lt;") in text
    ET.fromstring(made._repr_html_())


def test_the_curve_falls_from_all_to_none():
    curve = collapse_curve(PPCA(5, noise_variance=20.0).fit(X), X)
    svg = curve_chart(curve, 0.01)
    path = re.search(r'd="(M[^"]*H[^"]*V[^"]*)"', svg).group(1)
    heights = [float(y) for y in re.findall(r"(?:M[\d.]+ |V)([\d.]+)", path)]
    assert (np.diff(heights) < 0).all()
    start = BOTTOM - (BOTTOM - TOP) * curve.at(1e-9)
    assert heights[0] == pytest.approx(start, abs=0.06)
    assert heights[-1] == pytest.approx(TOP, abs=0.06)


@pytest.mark.parametrize("thresholds", [[0.0, 0.0], [np.inf, 0.1]])
def test_the_curve_of_extreme_thresholds_can_be_drawn(thresholds):
    curve = collapse_curve(PPCA(2).fit(X), X)
    curve = type(curve)(np.array(thresholds), 0.01, "share")
    for epsilon in (0.0, 0.01):
        assert ET.fromstring(curve_chart(curve, epsilon)).tag.endswith("svg")


def test_scales_are_drawn_in_the_order_of_the_kl():
    made = report()
    svg = scale_chart(made.scales, made.collapse)
    medians = re.search(r'd="((?:M[\d.]+ [\d.]+h[\d.]+)+)"', svg).group(1)
    heights = np.array([float(y) for y in re.findall(r"M[\d.]+ ([\d.]+)h", medians)])
    order = np.argsort(-made.collapse.kl_per_dim, kind="stable")
    top = max(1.1, made.scales.max())
    expected = BOTTOM - (BOTTOM - TOP) * made.scales[order, 1] / top
    np.testing.assert_allclose(heights, expected, atol=0.06)
    # The prior is where collapsed dimensions are.
    assert heights[-1] == pytest.approx(BOTTOM - (BOTTOM - TOP) / top, abs=0.06)


def test_scales_are_quantiles_over_samples():
    made = report()
    assert made.scales.shape == (5, 3)
    assert (np.diff(made.scales, axis=1) >= 0).all()
    assert made.to_dict()["scales"] == made.scales.tolist()
