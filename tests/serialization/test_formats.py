"""Files of other versions: what they lack has its default, what is unknown is an error."""

import pytest

from sklearn_vae import PPCA
from sklearn_vae.serialization import load, save
from tests.serialization.files import change, part_of, unpacked
from tests.serialization.models import IRIS, assert_same, fitted, model_of


def test_a_later_format(tmp_path):
    path = tmp_path / "model"
    save(PPCA(1), path)
    change(path, format_version="3", written_by="sklearn_vae 7.0")
    text = r"format '3', written by sklearn_vae 7\.0, .* reads format 2\. Use another version"
    with pytest.raises(ValueError, match=text):
        load(path)
    change(path, format_version="3", written_by=None, tree=None)
    with pytest.raises(ValueError, match="format '3', written by"):
        load(path)


@pytest.mark.parametrize("version", ["0", "-1", "1.0", "\u0661", "1" * 9, " 1", "", None])
def test_versions_that_are_none(version, tmp_path):
    path = tmp_path / "model"
    save(PPCA(1), path)
    change(path, format_version=version)
    with pytest.raises(ValueError, match=r"has format .* this version reads format 2"):
        load(path)


def test_a_parameter_that_a_file_does_not_have_yet_has_its_default(tmp_path):
    path = tmp_path / "model"
    save(model_of("ppca").set_params(coordinates="whitened", tol=0.5), path)

    def forget(tree):
        tree["object"][1].remove(part_of(tree, "coordinates"))
        return tree

    change(path, forget)
    assert load(path).get_params() == PPCA(2, tol=0.5).get_params()


def test_a_record_that_a_file_has_less_of(tmp_path):
    path = tmp_path / "model"
    save(fitted("linear"), path)

    def forget(tree):
        fields = part_of(tree, "entropy_gap_")[1]["object"][1]
        fields.remove(next(pair for pair in fields if pair[0] == "active_bounds"))
        return tree

    change(path, forget)
    assert load(path).entropy_gap_.active_bounds == ()


def test_a_parameter_that_networks_do_not_have_yet(tmp_path):
    path = tmp_path / "model"
    save(fitted("deep-gaussian"), path)

    def forget(tree):
        tree["object"][1].remove(part_of(tree, "prior"))
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
    for pair, text in [
        (["robust", True], "no parameter and cannot have an attribute 'robust'. Upgrade"),
        (["later_", {"quaternion": [1, 0, 0, 0]}], "unknown tag 'quaternion'"),
        (["later_", {"object": ["Later", []]}], "does not load the class 'Later'"),
        (
            ["later_", {"object": ["EntropyGap", [["later", 1]]]}],
            "unexpected keyword argument 'later'",
        ),
        (["score", 1.0], "cannot have an attribute 'score'"),
    ]:
        save(fitted("ppca"), path)
        change(path, lambda tree, pair=pair: put(tree, pair))
        with pytest.raises(ValueError, match=f"written by sklearn_vae .*{text}"):
            load(path)
    save(fitted("ppca"), path)
    change(path, lambda tree: put(tree, ["later_", [1.5]]))
    assert load(path).later_ == [1.5]


def put(tree, pair):
    tree["object"][1].append(pair)
    return tree


def test_what_every_version_reads_first(tmp_path):
    path = tmp_path / "model"
    save(PPCA(1), path)
    metadata = unpacked(path.read_bytes())[0]["__metadata__"]
    assert set(metadata) == {
        "format", "format_version", "kind", "checksum", "written_by", "tree"
    }  # fmt: skip
    assert (metadata["format"], metadata["kind"]) == ("sklearn_vae", "model")
    assert len(metadata["checksum"]) == 64
