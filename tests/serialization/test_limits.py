"""Bounds of what a file may hold: values just within them load, those beyond are refused."""

import numpy as np
import pytest

from sklearn_vae.serialization import codec, load, save
from tests.serialization.files import change, packed, part_of, unpacked
from tests.serialization.models import fitted


def load_with(path, tree, **tensors):
    """The parameter `tol` of a model whose file has this tree in its place, and these tensors."""
    save(fitted("ppca"), path)
    header, payload = unpacked(path.read_bytes())
    for name, array in tensors.items():
        ends = [len(payload), len(payload) + array.nbytes]
        kind = {"u": "U", "f": "F"}[array.dtype.kind] + str(8 * array.itemsize)
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": ends}
        payload += array.tobytes()
    path.write_bytes(packed(header, payload))

    def put(model):
        part_of(model, "tol")[1] = tree
        return model

    change(path, put)
    return load(path).tol


@pytest.mark.parametrize("place", [0, 1, -1])
@pytest.mark.parametrize(
    ("code", "is_one"), [(0x10FFFF, True), (0x110000, False), (2**32 - 1, False)]
)
def test_code_points_end_where_unicode_does(code, is_one, place, tmp_path):
    codes = np.full((2, 3), ord("a"), dtype=np.uint32)
    codes.reshape(-1)[place] = code
    tree = {"text": {"array": ["codes", None]}}
    if is_one:
        text = load_with(tmp_path / "model", tree, codes=codes)
        assert text.tolist() == ["".join(map(chr, row)) for row in codes]
        return
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_with(tmp_path / "model", tree, codes=codes)


@pytest.mark.parametrize("n_bytes", [2**18, 2**20])
def test_a_tensor_may_be_named_some_times_and_not_many(n_bytes, tmp_path):
    # 16 times the file, and 16 MiB; each mention counts for two of the tensor's size.
    numbers = np.zeros(n_bytes // 8)
    tensor = {"tensor": [{"array": ["numbers", None]}, "cpu"]}
    most = (16 * n_bytes + 2**24) // (2 * n_bytes)
    for times in (1, most - 1):
        found = load_with(tmp_path / "model", [tensor] * times, numbers=numbers)
        assert len(found) == times
        assert len({id(part) for part in found}) == 1
    for times in (most + 1, 10 * most):
        with pytest.raises(ValueError, match="cannot be loaded"):
            load_with(tmp_path / "model", [tensor] * times, numbers=numbers)


@pytest.mark.parametrize("n_bytes", [0, 10_000])
@pytest.mark.parametrize("part", [[], {"tuple": []}], ids=["lists", "tuples"])
def test_many_small_values_count_for_what_they_take(n_bytes, part, monkeypatch):
    # About 100 bytes for each list, of 16 times the file and some.
    monkeypatch.setattr(codec, "FREE_BYTES", 2**17)

    def read(times):
        return codec.Reader({}, n_bytes).read([part] * times, "numbers")

    most = (16 * n_bytes + 2**17) // 100
    assert len(read(most // 2)) == most // 2
    with pytest.raises(ValueError, match="far more memory"):
        read(most + 1)
