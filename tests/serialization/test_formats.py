"""Files of other versions: what was written first is read for ever, what comes later is told so."""

from pathlib import Path

import numpy as np
import pytest

from sklearn_vae import PPCA, DeepGaussianVAE, Snapshot
from sklearn_vae.serialization import load, save
from tests.serialization.files import change, part_of, unpacked
from tests.serialization.models import IRIS, assert_same, fitted, model_of

DATA = Path(__file__).parent / "data"
ROWS = IRIS[::50]

# What the models in `data` gave when they were written.
PPCA_TRANSFORM = [
    [-1.301891727263941, 0.5791560478381407],
    [0.6231839222117955, 1.2423865091305297],
    [1.2277140982355785, -0.017859175033715754],
]
PPCA_SCORE = -2.6998440949611235
VAE_TRANSFORM = [
    [0.617436867516867, -0.06614201005004283],
    [0.6457379572669018, -0.33877792601341816],
    [0.6310128887568167, -0.19692534802689207],
]
VAE_SCORE, SNAPSHOT_SCORE = -6.056992635913857, -6.070541276155896
GENERATOR_SUM, NEXT_RANDOM = 322005, 305711


def first_models():
    """Of what the files in `data` were written, by version 0.1.0; they stay as they are."""
    yield "ppca", PPCA(2, noise_variance=0.05).partial_fit(IRIS[:100]).partial_fit(IRIS[100:])
    yield (
        "deep_gaussian_vae",
        DeepGaussianVAE(
            2,
            hidden_layer_sizes=(2,),
            noise_model="diagonal",
            prior="learned_variance",
            callbacks=[Snapshot([1])],
            max_epochs=2,
            warm_start=True,
            device="cpu",
            random_state=np.random.RandomState(0),
        ).fit(IRIS),
    )


def test_a_ppca_of_the_first_format():
    model = load(DATA / "ppca_format1.safetensors")
    assert model.get_params() == PPCA(2, noise_variance=0.05).get_params()
    np.testing.assert_allclose(model.transform(ROWS), PPCA_TRANSFORM, rtol=1e-9)
    np.testing.assert_allclose(model.score(IRIS), PPCA_SCORE, rtol=1e-9)
    assert model.partial_fit(ROWS).n_samples_ == 153


def test_a_deep_vae_of_the_first_format():
    model = load(DATA / "deep_gaussian_vae_format1.safetensors")
    assert (model.n_iter_, list(model.snapshots_), model.callbacks[0].epochs) == (2, [1], [1])
    np.testing.assert_allclose(model.transform(ROWS), VAE_TRANSFORM, rtol=1e-9)
    np.testing.assert_allclose(model.score(IRIS), VAE_SCORE, rtol=1e-9)
    np.testing.assert_allclose(model.snapshots_[1].score(IRIS), SNAPSHOT_SCORE, rtol=1e-9)
    assert model.net_.generator_.get_state().sum() == GENERATOR_SUM
    assert model.random_state.randint(10**6) == NEXT_RANDOM
    assert model.fit(IRIS).n_iter_ == 4


def test_the_first_files_have_the_attributes_that_there_are_now():
    for name, model in first_models():
        assert set(vars(load(DATA / f"{name}_format1.safetensors"))) == set(vars(model))


def test_a_later_format(tmp_path):
    path = tmp_path / "model"
    save(PPCA(1), path)
    change(path, format_version="2", libraries='{"sklearn_vae": "7.0"}')
    text = r"format 2, written by sklearn_vae 7\.0, .* reads formats up to 1\. Upgrade sklearn-vae"
    with pytest.raises(ValueError, match=text):
        load(path)
    change(path, format_version="2", libraries="{}", model=None)
    with pytest.raises(ValueError, match="format 2, written by"):
        load(path)


@pytest.mark.parametrize("version", ["0", "-1", "1.0", "\u0661", "1" * 9, " 1", "", None])
def test_versions_that_are_none(version, tmp_path):
    path = tmp_path / "model"
    save(PPCA(1), path)
    change(path, format_version=version)
    with pytest.raises(ValueError, match="format_version must be an integer >= 1"):
        load(path)


def test_a_parameter_that_a_file_does_not_have_yet_has_its_default(tmp_path):
    path = tmp_path / "model"
    save(model_of("ppca").set_params(coordinates="whitened", tol=0.5), path)

    def forget(tree):
        tree["estimator"][1].remove(part_of(tree, "coordinates"))
        return tree

    change(path, forget)
    assert load(path).get_params() == PPCA(2, tol=0.5).get_params()


def test_a_record_that_a_file_has_less_of(tmp_path):
    path = tmp_path / "model"
    save(fitted("linear"), path)

    def forget(tree):
        fields = part_of(tree, "entropy_gap_")[1]["record"][1]
        fields.remove(next(pair for pair in fields if pair[0] == "active_bounds"))
        return tree

    change(path, forget)
    assert load(path).entropy_gap_.active_bounds == ()


def test_a_parameter_that_networks_do_not_have_yet(tmp_path):
    path = tmp_path / "model"
    save(fitted("deep-gaussian"), path)

    def forget(tree):
        tree["estimator"][1].remove(part_of(tree, "prior"))
        of_fit = part_of(tree, "_networks_of_fit")[1]["dict"]
        of_fit.remove(next(pair for pair in of_fit if pair[0] == "prior"))
        return tree

    change(path, forget)
    loaded = load(path)
    model = model_of("deep-gaussian")
    assert loaded._networks_of_fit == model._networks_of_fit
    for one in (model, loaded):
        one.set_params(warm_start=True).fit(IRIS)
    assert_same(model.transform(IRIS), loaded.transform(IRIS))


def test_what_a_later_version_has_is_not_left_out(tmp_path):
    path = tmp_path / "model"
    for place, pair, text in [
        (
            1,
            ["robust", True],
            "parameter 'robust', which PPCA of this version does not know: upgrade",
        ),
        (2, ["later_", {"quaternion": [1, 0, 0, 0]}], "the tag 'quaternion'"),
        (2, ["later_", {"record": ["Later", []]}], "class 'Later', which this version"),
        (
            2,
            ["later_", {"record": ["EntropyGap", [["later", 1]]]}],
            "parameter 'later', which EntropyG",
        ),
        (2, ["score", 1.0], "PPCA cannot have an attribute 'score'"),
    ]:
        save(fitted("ppca"), path)
        change(path, lambda tree, place=place, pair=pair: put(tree, place, pair))
        with pytest.raises(ValueError, match=f"written by sklearn_vae .*{text}"):
            load(path)
    save(fitted("ppca"), path)
    change(path, lambda tree: put(tree, 2, ["later_", [1.5]]))
    assert load(path).later_ == [1.5]


def put(tree, place, pair):
    tree["estimator"][place].append(pair)
    return tree


def test_what_every_version_reads_first(tmp_path):
    path = tmp_path / "model"
    save(PPCA(1), path)
    metadata = unpacked(path.read_bytes())[0]["__metadata__"]
    assert set(metadata) == {"format", "format_version", "checksum", "libraries", "model"}
    assert (metadata["format"], len(metadata["checksum"])) == ("sklearn_vae", 64)
