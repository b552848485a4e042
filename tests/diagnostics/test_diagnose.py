"""Each category provoked by a real training, and healthy models that come out healthy."""

import json
import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.stats import norm
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_wine, make_s_curve
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import scale

from sklearn_vae import (
    PPCA,
    PPCACV,
    BernoulliPPCA,
    DeepAutoencoder,
    DeepBernoulliVAE,
    DeepGaussianVAE,
    LinearVAE,
    PPCAImputer,
    SoftThresholdDecoder,
)
from sklearn_vae.datasets import make_collapse_trap
from sklearn_vae.diagnostics import (
    CollapseReport,
    collapse_curve,
    decompose_kl,
    diagnose,
    tune_noise_variance,
)
from sklearn_vae.diagnostics.reference import GaussianReference
from tests.deep.data import SMALL
from tests.diagnostics.models import rows, train, with_covariance
from tests.helpers import exhaustive, slow

DIGITS = load_digits().data[:600]
DATA = {
    "digits": (DIGITS, 8),
    "breast cancer": (scale(load_breast_cancer().data), 4),
    "wine": (scale(load_wine().data), 3),
}


def finding(report, category):
    (found,) = [f for f in report.findings if f.category == category]
    assert found.evidence
    assert found.advice
    return found


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("model", [PPCA, LinearVAE], ids=lambda m: m.__name__)
def test_maximum_likelihood_is_healthy(model, name):
    X, k = DATA[name]
    report = diagnose(model(k).fit(X), X)
    assert report.healthy
    assert report.categories == ()
    assert report.entropies.converged


@pytest.mark.parametrize("name", ["wine", *exhaustive("digits", "breast cancer")])
def test_a_default_vae_is_healthy(name):
    X, k = DATA[name]
    held_out, train = X[::4], np.delete(X, np.s_[::4], axis=0)
    report = diagnose(DeepGaussianVAE(k, random_state=0).fit(train), train, X_held_out=held_out)
    assert report.healthy, str(report)
    assert report.numbers["elbo"] > report.numbers["reference"]
    assert [verdict.name for verdict in report.verdicts] == [
        "collapse",
        "linear",
        "noise",
        "scale",
        "convergence",
        "held_out",
    ]


@pytest.mark.slow
def test_category_i_superfluous_dimensions():
    X = with_covariance([9, 4, 1, 0.09, 0.09, 0.09, 0.09, 0.09], n=1000)
    vae = train(X, 6, max_epochs=150, batch_size=40)
    report = diagnose(vae, X)
    assert report.categories == ("superfluous",), str(report)
    assert report.healthy
    found = finding(report, "superfluous")
    assert found.numbers == {"collapsed": 3, "active": 3}
    assert found.advice == ("drop them to save time: n_components=3",)


def test_category_i_of_the_linear_model():
    X = with_covariance([9, 4, 1, 0.25, 0.25, 0.25])
    report = diagnose(PPCA(5).fit(X), X)
    assert report.categories == ("superfluous",)
    assert list(report.collapse.collapsed) == [3, 4]


@pytest.mark.parametrize("deep", [False, *slow(True)])
def test_category_ii_noise_variance_fixed_too_large(deep):
    X = with_covariance([9, 4, 1, 0.25, 0.25, 0.25], n=300)
    model = train(X, 3, noise_variance=5.0, max_epochs=60) if deep else PPCA(3, noise_variance=5.0)
    report = diagnose(model.fit(X), X)
    found = finding(report, "large_noise")
    assert not report.healthy
    assert found.numbers["hidden_eigenvalues"] == 2
    assert report.numbers["tuned_noise_variance"] < 2.5
    start = 'learn the noise variance, starting at pPCA: noise_variance=None, init="ppca"'
    assert found.advice[0] == (start if deep else "learn the noise variance: noise_variance=None")
    # The advice holds: with it the model is healthy.
    cured = (train(X, 3, max_epochs=60, init="ppca") if deep else PPCA(3)).fit(X)
    assert diagnose(cured, X).healthy


@pytest.mark.parametrize("max_epochs", [5, 60])
def test_category_ii_although_every_dimension_counts_as_active(max_epochs):
    # pPCA loses 3 of 8 dimensions at this noise variance; the VAE keeps all at a KL near 0.
    X = DATA["breast cancer"][0]
    variances = PPCA(8).fit(X).explained_variance_
    sigma2 = float(variances[4:6].mean())
    assert len(PPCA(8, noise_variance=sigma2).fit(X).collapsed_dims_) == 3
    vae = DeepGaussianVAE(8, hidden_layer_sizes=(32,), noise_variance=sigma2, random_state=0)
    report = diagnose(vae.set_params(max_epochs=max_epochs).fit(X), X)
    assert [finding.category for finding in report.findings] == ["large_noise"]
    assert "of them have collapsed" in " ".join(report.findings[0].evidence)


@pytest.mark.slow
def test_category_ii_by_the_weight_of_the_kl():
    X = with_covariance([9, 4, 1, 0.25, 0.25, 0.25])
    report = diagnose(train(X, 3, kl_weight=20.0, max_epochs=100), X)
    found = finding(report, "large_noise")
    assert found.advice[0] == "reduce the KL weight to 1: kl_weight=1"
    assert found.numbers["effective_noise_variance"] > 5


def test_category_ii_of_a_noise_variance_that_is_still_on_its_way():
    X = with_covariance([9, 4, 1, 0.25, 0.25, 0.25])
    options = {"noise_update": "gradient", "noise_variance_init": 300.0}
    report = diagnose(train(X, 3, max_epochs=40, **options), X)
    found = finding(report, "large_noise")
    assert found.advice[0].endswith(
        ': noise_update="closed_form", noise_variance_init=None, init="ppca"'
    )


@pytest.mark.slow
def test_category_iii_a_heteroscedastic_decoder_and_repeated_rows():
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(300, 2))
    X = np.tanh(Z @ rng.normal(size=(2, 6))) @ rng.normal(size=(6, 6))
    X += 0.3 * rng.normal(size=X.shape)
    options = {"hidden_layer_sizes": (64,), "max_epochs": 200, "kl_warmup_epochs": 20}
    options |= {"noise_model": "heteroscedastic", "batch_size": 60}
    repeated = np.concatenate([X, np.tile(X.mean(axis=0) + 4 * X.std(axis=0), (60, 1))])
    report = diagnose(train(repeated, 2, **options), repeated)
    found = finding(report, "degenerate")
    assert not report.healthy
    assert (found.numbers["rows"], found.numbers["copies"]) == (60, 60)
    without = diagnose(train(X, 2, **options), X)
    assert "degenerate" not in without.categories


@pytest.mark.slow
def test_category_v_a_network_that_is_too_deep():
    X = DIGITS
    deep = train(X, 8, hidden_layer_sizes=(64,) * 10, max_epochs=15, batch_size=50)
    report = diagnose(deep, X)
    found = finding(report, "optimum")
    assert not report.healthy
    assert report.collapse.percent == 100
    assert any("fewer layers: the deeper network has 11" in advice for advice in found.advice)
    assert 'start at pPCA: init="ppca"' in found.advice
    # So the autoencoder of the same shape.
    options = {"hidden_layer_sizes": (64,) * 10, "max_epochs": 15, "random_state": 0}
    autoencoder = diagnose(DeepAutoencoder(8, **options).fit(X), X)
    assert autoencoder.categories == ("optimum",)
    assert autoencoder.collapse is None
    options["hidden_layer_sizes"], options["max_epochs"] = (64,), 60
    assert diagnose(DeepAutoencoder(8, **options).fit(X), X).healthy


@pytest.mark.parametrize("max_epochs", [1, 12])
def test_an_autoencoder_that_still_learns_is_at_no_optimum(max_epochs):
    options = {"hidden_layer_sizes": (64,), "learning_rate": 1e-4, "random_state": 0}
    X = load_digits().data
    model = DeepAutoencoder(8, max_epochs=max_epochs, **options).fit(X)
    (found,) = diagnose(model, X).findings
    assert found.category == "unfinished"
    assert found.advice[0].startswith("train longer")
    if max_epochs == 1:
        assert "The number of epochs, 1, is too small" in found.evidence[1]
        return
    twice = clone(model).set_params(max_epochs=2 * max_epochs).fit(X)
    expected = float(re.search(r"lower it by about ([\d.]+)", found.evidence[1])[1])
    assert expected == pytest.approx(twice.score(X) - model.score(X), rel=0.5)


@dataclass(frozen=True)
class NearCollapse:
    """Factory of soft-threshold decoders whose weights begin near 0."""

    threshold: float

    def __call__(self, n_components, output_shape):
        decoder = SoftThresholdDecoder(self.threshold)(n_components, output_shape)
        with torch.no_grad():
            decoder.layer.weight.mul_(0.1)
        return decoder


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [1.0, 0.0])
def test_category_v_the_soft_threshold_decoder_at_its_bad_optimum(threshold):
    X = make_collapse_trap(20)[0]
    decoder = NearCollapse(threshold / X.var(axis=0).mean() ** 0.5)
    options = {"noise_update": "gradient", "noise_variance_init": 20 / 3, "batch_size": 30}
    vae = train(X, 1, hidden_layer_sizes=(16,), decoder=decoder, max_epochs=200, **options)
    report = diagnose(vae, X)
    if not threshold:  # without it, the same start is left
        assert len(report.collapse.collapsed) == 0
        return
    found = finding(report, "optimum")
    assert report.numbers["elbo"] == pytest.approx(-4.7349970513, abs=1e-3)
    assert report.collapse.percent == 100
    # A decoder that is not an MLP cannot start at pPCA.
    assert not any('init="ppca"' in advice for advice in found.advice)
    assert found.advice[0].endswith(': noise_update="closed_form", noise_variance_init=None')


def test_a_model_that_is_merely_untrained_is_not_called_a_bad_optimum():
    X = with_covariance([9, 4, 1, 0.01, 0.01, 0.01])
    report = diagnose(train(X, 3, max_epochs=20), X)
    assert report.categories == ("unfinished",)
    assert diagnose(train(X, 3, max_epochs=3), X).categories == ("unfinished",)


@pytest.mark.slow
def test_another_objective_is_said():
    X = with_covariance([9, 4, 1, 0.25, 0.25, 0.25], n=300)
    report = diagnose(train(X, 3, free_bits=3.0, max_epochs=100), X)
    found = finding(report, "objective")
    assert "free_bits=3" in found.evidence[-1]


def test_bits():
    X = (DIGITS > 7).astype(float)
    linear = BernoulliPPCA(2, random_state=0).fit(X)
    assert diagnose(linear, X).healthy
    options = {"hidden_layer_sizes": (64,) * 10, "max_epochs": 15, "random_state": 0}
    report = diagnose(DeepBernoulliVAE(2, **options).fit(X), X, max_samples=500)
    assert report.categories == ("optimum",)
    assert "logistic pPCA" in finding(report, "optimum").evidence[0]


def test_more_components_than_the_rank():
    X = np.repeat(np.random.default_rng(0).normal(size=(200, 2)), 3, axis=1)
    X += 1e-3 * np.random.default_rng(1).normal(size=X.shape)
    report = diagnose(PPCA(4, noise_variance=0.01).fit(X), X)
    assert report.categories == ("noise",)  # what has collapsed is not there
    vae = train(X, 8, max_epochs=3)
    assert np.isfinite(diagnose(vae, X).numbers["reference"])


def test_rows_of_every_kind():
    pd = pytest.importorskip("pandas")
    X = rows()
    frame = pd.DataFrame(X, columns=[f"f{i}" for i in range(8)])
    assert diagnose(PPCA(2).fit(frame), frame).healthy
    assert diagnose(PPCA(2).fit(X), X.tolist()).healthy
    assert diagnose(PPCA(2).fit(X), sparse.csr_array(X)).healthy
    with pytest.raises(ValueError, match="X has 7 features, but PPCA is expecting 8"):
        diagnose(PPCA(2).fit(X), X[:, :7])
    X[0, 0] = np.nan
    with pytest.raises(ValueError, match="X contains NaN, but diagnose needs data without"):
        diagnose(PPCA(2).fit(X), X)


def test_some_rows_stand_for_many():
    X = rows()
    whole = diagnose(PPCA(2).fit(X), X)
    some = diagnose(PPCA(2).fit(X), X, max_samples=75)
    assert some.numbers["elbo"] != whole.numbers["elbo"]
    assert some.numbers["elbo"] == pytest.approx(some.numbers["reference"], abs=1e-9)
    assert diagnose(PPCA(2).fit(X), X, max_samples=75).numbers == some.numbers


@pytest.mark.parametrize("report_of", ["healthy", "harmed", "autoencoder"])
def test_a_report_as_text_dict_and_html(report_of):
    X = with_covariance([9, 4, 1, 0.25, 0.25, 0.25])
    model = {
        "healthy": PPCA(2),
        "harmed": PPCA(3, noise_variance=5.0),
        "autoencoder": DeepAutoencoder(2, **SMALL),
    }[report_of].fit(X)
    report = diagnose(model, X)
    assert isinstance(report, CollapseReport)
    text, markup = str(report), report._repr_html_()
    assert ("not healthy" in text) == (not report.healthy)
    for found in report.findings:
        for part in (found.title, *found.evidence, *found.advice):
            assert part in text
            assert part.replace("<", "&lt;").replace(">", "&gt;") in markup
    content = json.loads(json.dumps(report.to_dict()))
    assert content["healthy"] == report.healthy
    assert content["advice"] == list(report.advice)
    assert [f["category"] for f in content["findings"]] == list(report.categories)
    if report.collapse is not None:
        assert content["collapse"]["collapsed"] == report.collapse.collapsed.tolist()


def test_the_model_is_as_it_was():
    X = rows()
    vae = DeepGaussianVAE(3, **SMALL).fit(X)
    before = vae.score_samples(X)
    diagnose(vae, X)
    np.testing.assert_array_equal(before, vae.score_samples(X))


@pytest.mark.slow
@pytest.mark.parametrize("noise_model", ["diagonal", "heteroscedastic"])
def test_collapse_is_found_whatever_the_noise_model(noise_model):
    options = {"noise_model": noise_model, "max_epochs": 30, "batch_size": 128}
    X = DIGITS
    report = diagnose(train(X, 8, hidden_layer_sizes=(64,) * 10, **options), X)
    assert report.collapse.percent > 80
    assert not report.healthy
    assert "optimum" in report.categories, str(report)
    assert "factor analysis" in finding(report, "optimum").evidence[0]


@pytest.mark.slow
@pytest.mark.parametrize("noise_model", ["heteroscedastic", "diagonal"])
def test_a_well_trained_vae_with_other_noise_is_healthy(noise_model):
    X = scale(load_wine().data)
    report = diagnose(DeepGaussianVAE(3, noise_model=noise_model, random_state=0).fit(X), X)
    assert report.healthy, str(report)


def test_more_latents_than_the_rank_are_superfluous_not_the_noise():
    X = np.random.default_rng(1).normal(size=(200, 2)) @ np.random.default_rng(2).normal(
        size=(2, 6)
    )
    report = diagnose(LinearVAE(3).fit(X), X)
    assert report.categories == ("superfluous",), str(report)
    report = diagnose(LinearVAE(3, noise_variance=1e-3).fit(X), X)
    assert report.categories == ("noise",), str(report)


def test_a_noise_variance_far_too_small_is_found():
    X = scale(load_wine().data)
    report = diagnose(PPCA(2, noise_variance=1e-6).fit(X), X)
    assert report.categories == ("noise",)
    assert finding(report, "noise").numbers["gain"] > 1e4
    assert "learn the noise variance: noise_variance=None" in report.advice


@pytest.mark.slow
def test_dimensions_lost_to_the_weight_of_the_kl_are_not_superfluous():
    X = make_s_curve(800, noise=0.05, random_state=0)[0]
    report = diagnose(train(X, 2, kl_weight=2.0, max_epochs=150, hidden_layer_sizes=(64,)), X)
    assert len(report.collapse.collapsed) == 1
    assert report.categories == ("objective",), str(report)


def test_early_stopping_is_not_told_to_train_longer():
    X = np.random.default_rng(0).normal(size=(60, 100))
    vae = train(X, 20, early_stopping=True, max_epochs=400, hidden_layer_sizes=(64,))
    assert vae.n_iter_ < 400
    for found in diagnose(vae, X).findings:
        assert not any("increase max_epochs" in advice for advice in found.advice)


@pytest.mark.slow
def test_rows_with_little_noise_of_their_own_are_no_harm():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(480, 6)), 6 + 0.02 * rng.normal(size=(120, 6))])
    vae = train(X, 2, noise_model="heteroscedastic", max_epochs=200, hidden_layer_sizes=(64,))
    report = diagnose(vae, X)
    if "degenerate" in report.categories:
        found = finding(report, "degenerate")
        assert not found.harmful
        assert found.numbers["copies"] == 0
        assert not any("repeated" in advice for advice in found.advice)


@pytest.mark.slow
def test_numbers_that_are_reproduced_without_noise_are_found_in_any_row():
    X = DIGITS[:500]  # pixels that are 0 in nearly all images
    options = {
        "noise_model": "heteroscedastic",
        "kl_warmup_epochs": 10,
        "hidden_layer_sizes": (64,),
    }
    report = diagnose(train(X, 8, max_epochs=400, **options), X)
    assert report.numbers["near_zero"] > 0.01
    assert finding(report, "degenerate").harmful


def test_no_latents_at_all():
    X = scale(load_wine().data)
    model = PPCACV([0], cv=3).fit(X)
    report = diagnose(model, X)
    assert (report.n_components, report.healthy) == (0, True)
    assert report.collapse.percent == 0
    assert collapse_curve(model, X).at(0.1) == 0
    assert str(report)


def test_models_without_noise_are_an_error():
    X = scale(load_wine().data)
    with pytest.raises(ValueError, match="noise variance must be positive"):
        diagnose(PPCA().fit(X), X)
    with pytest.raises(ValueError, match="positive variances"):
        decompose_kl(PPCA().fit(X), X)


@pytest.mark.parametrize(
    "stranger", [PCA(2), PPCAImputer(2), make_pipeline(PPCA(2)), PCA()], ids=str
)
def test_strangers_are_an_error(stranger):
    X = scale(load_wine().data)
    with pytest.raises(TypeError, match=f"diagnose requires .*{type(stranger).__name__} has no"):
        diagnose(stranger.fit(X), X)


def test_rows_that_are_all_the_same_are_an_error():
    X = np.ones((20, 3))
    with pytest.raises(ValueError, match="X must contain different samples, got 20"):
        diagnose(PPCA(1, noise_variance=1.0).fit(X), X)


def test_torch_arrays():
    X = torch.tensor(rows())
    with config_context(array_api_dispatch=True):
        model = PPCA(3, noise_variance=0.5).fit(X)
        report = diagnose(model, X)
        tuned = tune_noise_variance(model, X)
    expected = diagnose(PPCA(3, noise_variance=0.5).fit(X.numpy()), X.numpy())
    assert report.categories == expected.categories
    assert tuned.tuned_elbo == pytest.approx(expected.numbers["tuned_elbo"])


def test_the_bar_of_a_model_with_noise_for_each_feature():
    # Against a dense density, where features differ in scale and one is constant. Every feature
    # has noise: at a Heywood case the steps of scikit-learn do not converge.
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 2)) @ rng.normal(size=(2, 8)) + 0.7 * rng.normal(size=(150, 8))
    X *= np.geomspace(1, 100, 8)
    X[:, 3] = 7.0
    std = X.std(axis=0)
    std[3] = 1.0
    reference = GaussianReference(X, X, 2, std)
    fa = FactorAnalysis(2, max_iter=5000, tol=1e-8, svd_method="lapack").fit(X / std)
    psi = np.maximum(fa.noise_variance_, 1e-6)
    C = (fa.components_.T @ fa.components_ + np.diag(psi)) * np.outer(std, std)
    centred = X - X.mean(axis=0)
    squares = np.einsum("ij,ij->i", centred, np.linalg.solve(C, centred.T).T).mean()
    dense = -0.5 * (8 * np.log(2 * np.pi) + np.linalg.slogdet(C)[1] + squares)
    assert reference.bound == pytest.approx(dense, rel=1e-9)
    assert reference.bound > reference.bound_at(reference.noise_variance)
    independent = norm(X.mean(axis=0), np.where(std == 1.0, 1e-3, std)).logpdf(X).sum(axis=1)
    assert reference.baseline == pytest.approx(independent.mean(), rel=1e-9)
