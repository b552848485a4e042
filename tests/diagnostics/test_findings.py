"""Each branch of the findings, by models in closed form whose state is set."""

import re

import numpy as np
import pytest

from sklearn_vae import BernoulliPPCA, LinearVAE
from sklearn_vae.diagnostics import diagnose, entropy_bound
from tests.diagnostics.models import Stranger, rows, with_covariance

VALUES = np.array([9, 4, 1, 0.25, 0.25, 0.25])
X = with_covariance(VALUES)
RISING, LEVEL = np.linspace(-20.0, -9.0, 100), np.full(100, -9.0)


class Posing(LinearVAE):
    """A linear VAE at its maximum that claims another training."""

    training_history = None
    stopped_early = False
    parameters = {}  # noqa: RUF012

    def pose(self, *, collapsed=(), latent=1.0, noise=1.0, free_bits=0.0, **claims):
        """Collapse dimensions; scale the variances of the latents, and of the noise."""
        for h in collapsed:
            self.loadings_[:, h] = self.encoder_weights_[h] = 0.0
            self.encoder_variance_[h] = 1.0
        self.encoder_variance_ *= latent
        self.noise_variance_ *= noise
        history = claims.pop("history", None)
        claims["training_history"] = None if history is None else {"bound": history}
        posed = type("Posed", (type(self),), {"free_bits": free_bits, **claims})
        self.__class__ = posed
        return self


# Nats that one dimension of variance a is worth over none, at a noise variance of 1/4.
def worth(a):
    return 0.5 * (a / 0.25 - 1.0 - np.log(a / 0.25))


@pytest.mark.parametrize(
    ("k", "pose", "categories"),
    [
        (3, {}, ()),
        (3, {"history": RISING}, ("unfinished",)),
        (3, {"kl_weight": 2.0}, ()),
        (3, {"free_bits": 0.5}, ()),
        (3, {"kl_weight": 0.5, "history": LEVEL}, ()),
        (5, {}, ("superfluous",)),
        (5, {"kl_weight": 9.0, "free_bits": 0.5}, ("superfluous",)),
        # Lost dimensions: of a trained model that stands still; of one that is not trained.
        (3, {"collapsed": [2], "history": LEVEL}, ("optimum",)),
        (3, {"collapsed": [2]}, ("noise",)),
        (3, {"collapsed": [2], "noise": 1.5}, ("optimum",)),  # its optimum without this dimension
        (3, {"collapsed": [0, 1, 2], "history": RISING}, ("ignored",)),  # the loadings are 0
        (3, {"collapsed": [2], "history": RISING}, ("unfinished",)),
        (3, {"collapsed": [2], "history": LEVEL[:9]}, ("unfinished",)),
        (3, {"collapsed": [2], "history": LEVEL[:10]}, ("optimum",)),
        # A latent variance that is wrong, and nothing collapsed.
        (3, {"latent": 8.0, "history": LEVEL}, ("optimum",)),
        (3, {"latent": 8.0, "history": RISING}, ("unfinished",)),
        (3, {"latent": 1.1, "history": LEVEL}, ()),
        # Other objectives.
        (3, {"latent": 8.0, "history": RISING, "free_bits": 0.5}, ("objective",)),
        (3, {"latent": 8.0, "history": RISING, "kl_weight": 0.5}, ("objective",)),
        (3, {"collapsed": [2], "history": RISING, "kl_weight": 1.05}, ("objective",)),
        (3, {"collapsed": [2], "history": RISING, "kl_weight": 1.15}, ("large_noise",)),
        # A noise variance that is too large, with and without collapse.
        (3, {"collapsed": [1, 2], "noise": 9.0, "history": RISING}, ("large_noise",)),
        (3, {"noise": 9.0}, ("noise",)),
        (3, {"noise": 0.1}, ("noise",)),
        (3, {"noise": 1.2}, ()),
        (5, {"noise": 9.0}, ("noise",)),  # what has collapsed is not there
    ],
)
def test_a_category_for_each_state(k, pose, categories):
    report = diagnose(Posing(k).fit(X).pose(**pose), X)
    assert report.categories == categories, str(report)
    assert report.healthy == (categories in [(), ("superfluous",)])


def test_numbers_of_findings_are_those_of_the_spectrum():
    report = diagnose(Posing(3).fit(X).pose(collapsed=[2], history=LEVEL), X)
    (found,) = report.findings
    assert found.numbers["short"] == pytest.approx(worth(1), rel=1e-9)
    mean = VALUES.mean()
    gain = 0.5 * (6 * np.log(mean) - np.log(VALUES).sum())
    assert report.numbers["margin"] == pytest.approx(0.02 * gain + 0.1, rel=1e-9)
    # Of 14.75 a dimension of 1 is left besides the noise.
    shares = [float(s) for s in re.findall(r"([\d.]+)%", found.evidence[-1])]
    numbers = report.numbers
    expected = [numbers["reconstruction_error"], numbers["pca_reconstruction_error"]]
    np.testing.assert_allclose(shares, 100 * np.array(expected) / mean, atol=5.1e-4)
    assert numbers["pca_reconstruction_error"] == pytest.approx(0.75 / 6)


def sentences(model, data=X):
    """Evidence of all findings of a model."""
    return " ".join(text for found in diagnose(model, data).findings for text in found.evidence)


@pytest.mark.parametrize(
    ("noise_variance", "free_bits", "optimum"),
    # Half of the directions have an average square of 0.25, the others of the noise variance.
    [(None, 0.0, 0.25), (0.01, 0.0, 0.13), (0.01, 0.5, 0.13)],
)
def test_a_noise_that_is_off_is_said_to_be_fixed_and_free_bits_to_hide_collapse(
    noise_variance, free_bits, optimum
):
    model = Posing(3, noise_variance=noise_variance).fit(X)
    model.pose(noise=1.0 if noise_variance else 0.04, free_bits=free_bits)
    assert [found.category for found in diagnose(model, X).findings] == ["noise"]
    text = sentences(model)
    assert ("The noise variance is fixed at 0.01." in text) == (noise_variance is not None)
    assert ("The noise variance is 0.01." in text) == (noise_variance is None)
    assert f"the optimum is {optimum}, which would add" in text
    assert ("free_bits=0.5 keeps dimensions from collapsing" in text) == (free_bits > 0)


@pytest.mark.parametrize("noise_variance", [None, 0.25])
def test_a_shortfall_is_said_to_be_at_the_same_noise_variance_if_that_is_fixed(noise_variance):
    model = Posing(3, noise_variance=noise_variance).fit(X)
    text = sentences(model.pose(latent=8.0, history=LEVEL))
    same = "pPCA with the same number of dimensions and noise variance and"
    assert (same in text) == (noise_variance is not None)
    assert ("pPCA with the same number of dimensions and -" in text) == (noise_variance is None)


@pytest.mark.parametrize("weak", [0, 1])
def test_dimensions_of_little_kl_are_counted_with_those_that_have_collapsed(weak):
    model = Posing(3).fit(X).pose(collapsed=[1], noise=9.0, history=RISING)
    if weak:  # a posterior near the prior: a KL of 0.045 nats
        model.encoder_variance_[2], model.encoder_weights_[2] = 0.9, 0.0
        model.encoder_weights_[2, 2] = 0.3
    (found,) = diagnose(model, X).findings
    assert found.category == "large_noise"
    text = "2 dimensions have a KL of at most 0.1 nats on average, and 1 of them have collapsed."
    assert (text in found.evidence) == bool(weak)


@pytest.mark.parametrize("weight", [1.15, 3.9, 4.1, 50.0])
def test_hidden_eigenvalues_are_those_below_the_weighted_noise(weight):
    model = Posing(3).fit(X).pose(collapsed=[2], history=RISING, kl_weight=weight)
    (found,) = diagnose(model, X).findings
    assert found.numbers["effective_noise_variance"] == pytest.approx(0.25 * weight)
    hidden = int((VALUES[:3] < 0.25 * weight).sum())
    assert found.numbers["hidden_eigenvalues"] == hidden
    assert any(f"{hidden} of the 3 largest" in text for text in found.evidence) == (hidden > 0)
    assert any(f"kl_weight={weight:g}" in text for text in found.evidence)
    lost = max(diagnose(model, X).numbers["tuned_elbo"] - model.score(X), worth(1))
    assert found.numbers["lost"] == pytest.approx(lost, rel=1e-6)


class Uneven(Stranger):
    """A model of another library, with these variances of p(x|z) about decoded means of 0."""

    def __init__(self, noise=None):
        self.noise = noise
        super().__init__(np.random.default_rng(0).normal(size=(len(noise), 2)), None)
        self.variance = np.full((len(noise), 2), 0.1)

    def conditional(self, Z):
        return np.zeros_like(self.noise), self.noise

    def score_samples(self, X):
        return np.full(len(X), 1e3)


def uneven(n=400, d=5, n_small=0, small=1e-5, rows_small=(), little=1e-5, level=1.0, copies=()):
    """Samples of unit variance, the variances of their features, and the finding about these."""
    X = np.random.default_rng(0).normal(size=(n, d))
    for one, other in copies:
        X[one] = X[other]
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    noise = np.full((n, d), level)
    noise.flat[: n_small * d : d] = small  # in as many rows
    noise[list(rows_small)] = little
    report = diagnose(Uneven(noise), X)
    return [f for f in report.findings if f.category == "degenerate"], report.numbers


@pytest.mark.parametrize(
    ("options", "harmful"),
    [
        ({}, None),
        # More than a hundredth of all variances: 20 of 2000.
        ({"n_small": 20}, None),
        ({"n_small": 21}, True),
        ({"n_small": 21, "small": 2e-4}, None),
        ({"n_small": 21, "small": 9e-5}, True),
        ({"n_small": 21, "small": 9e-5, "level": 0.08}, None),  # a thousandth of the median
        ({"n_small": 21, "small": 7e-5, "level": 0.08}, True),
        # Some rows, repeated or not.
        ({"rows_small": [7]}, False),
        ({"rows_small": [7], "little": 2e-3}, None),
        ({"rows_small": [7], "little": 9e-4}, False),
        ({"rows_small": [7], "little": 9e-4, "level": 0.02}, None),  # a thirtieth of the others
        ({"rows_small": [7], "little": 6e-4, "level": 0.02}, False),
        ({"rows_small": [7, 9]}, False),
        ({"rows_small": [7, 9], "copies": [(7, 9)]}, True),
        ({"rows_small": [7, 9], "copies": [(7, 8)]}, False),  # another row than the others
        ({"rows_small": [7, 9, 11, 12], "copies": [(7, 9)]}, True),
    ],
)
def test_variances_that_degenerate(options, harmful):
    found, numbers = uneven(**options)
    if harmful is None:
        assert not found
        return
    (found,) = found
    assert found.harmful == harmful
    rows_small, copies = options.get("rows_small", ()), options.get("copies", ())
    assert found.numbers["rows"] == len(rows_small)
    assert found.numbers["copies"] == 2 * (harmful and len(copies))
    n_small = options.get("n_small", 0) + 5 * len(rows_small) * (options.get("little", 0) < 1e-4)
    assert numbers["near_zero"] == found.numbers["near_zero"]
    assert numbers["near_zero"] == pytest.approx(n_small / 2000)
    assert any("repeated" in text for text in found.advice) == bool(found.numbers["copies"])
    assert any("Dequantizer" in text for text in found.advice) == harmful
    assert len(found.evidence) == 1 + bool(rows_small) + harmful
    assert f"{numbers['near_zero']:.1%}" in found.evidence[0]
    if rows_small:
        assert f"{len(rows_small)} of 400" in found.evidence[1]


def test_rows_of_little_noise_are_those_of_the_geometric_mean_over_features_that_vary():
    noise = np.ones((200, 4))
    noise[:, 3], noise[5, :2] = 1e-12, 1e-5  # (1e-5)^(2/3) = 4.6e-4 over three of them
    data = np.random.default_rng(0).normal(size=(200, 4))
    data = (data - data.mean(axis=0)) / data.std(axis=0)
    data[:, 3] = 7.0
    found = [f for f in diagnose(Uneven(noise), data).findings if f.category == "degenerate"]
    assert found[0].numbers["rows"] == 1
    noise[5, 1] = 1e-3  # 2.2e-3
    found = [f for f in diagnose(Uneven(noise), data).findings if f.category == "degenerate"]
    assert found[0].numbers["rows"] == 0


@pytest.mark.parametrize("factor", [0.5, 0.97, 1.03, 2.0])
def test_the_side_that_a_verdict_names_is_that_of_the_entropy(factor):
    bits = (rows() > rows().mean(axis=0)).astype(float)
    best = BernoulliPPCA(3, tol=1e-8, max_iter=500, random_state=0).fit(bits)
    before = entropy_bound(best, bits).decoder
    best.loadings_ *= factor
    best.intercept_ *= factor
    found = entropy_bound(best, bits, tolerance=0.0)
    side = "too little" if found.decoder < before else "too much"
    assert (found.decoder < before) == (factor > 1)
    (verdict,) = [text for text in found.verdicts if "logits" in text]
    assert side in verdict
    assert f"{found.noise_gain:.3g}" in verdict


@pytest.mark.parametrize(("off", "named"), [(1, 1), (4, 4), (5, 5), (6, 5), (9, 5)])
def test_a_text_names_the_costliest_verdicts_and_counts_the_others(off, named):
    data = with_covariance([*range(20, 11, -1), 1, 1, 1])
    model = LinearVAE(9).fit(data)
    factors = 2.0 + 0.1 * np.arange(9) * (np.arange(9) < off)
    factors[off:] = 1.0
    model.encoder_variance_ *= factors**2
    model.encoder_weights_ *= factors[:, None]
    model.loadings_ /= factors
    found = entropy_bound(model, data)
    assert [int(v.split()[1]) for v in found.verdicts] == list(range(off))[::-1]
    lines = str(found).splitlines()[1:]
    assert [line.lstrip("- ") for line in lines[:named]] == list(found.verdicts[:named])
    assert len(lines) == named + (off > named)
    if off > named:
        assert f"{off - named} more" in lines[-1]


@pytest.mark.parametrize("n", [1, 11, 12, 13, 20])
def test_a_report_names_so_many_collapsed_dimensions(n):
    data = with_covariance([9, 4, *[0.25] * 24])
    lines = str(diagnose(LinearVAE(2 + n).fit(data), data)).splitlines()
    (text,) = [line for line in lines if "have collapsed (" in line]
    names = [str(h) for h in range(2, 2 + n)]
    assert f"{n} of {n + 2}" in text
    assert text.endswith(": " + ", ".join(names[:12]) + (", ..." if n > 12 else "") + ".")


def test_noise_that_depends_on_z_hides_no_dimension():
    # Of which no noise variance can be said to be too large, whatever has collapsed.
    data = np.random.default_rng(0).normal(size=(100, 4))
    model = Uneven(np.full((100, 4), 2.0))
    model.mean[:, 1], model.variance[:, 1] = 0.0, 1.0
    report = diagnose(model, data)
    assert report.collapse.collapsed.tolist() == [1]
    assert report.categories == ("superfluous",)
    assert report.findings[0].numbers == {"collapsed": 1, "active": 1}
    assert report.advice == ("drop them to save time: 1 instead of 2",)
