"""Files: written whole or not at all, and read by any reader of safetensors."""

import os
import stat

import pytest
from safetensors.numpy import load as load_tensors

import sklearn_vae
from sklearn_vae import PPCA
from sklearn_vae.serialization import load, save
from tests.serialization.files import unpacked
from tests.serialization.models import fitted


def test_a_file_is_replaced_only_by_a_whole_one(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save(PPCA(1), path)

    def fail(descriptor):
        raise OSError("full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="full"):
        save(PPCA(2), path)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == [path.name]
    assert load(str(path)).n_components == 1
    save(PPCA(2), str(path))
    assert load(path).n_components == 2
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.skipif(os.name == "nt", reason="of POSIX")
def test_a_file_is_as_others_are(tmp_path):
    link, path = tmp_path / "link", tmp_path / "model"
    (tmp_path / "plain").write_text("")
    link.symlink_to(path)
    save(PPCA(1), link)
    assert link.is_symlink()
    assert load(path).n_components == 1
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        save(PPCA(1), tmp_path / "none" / "model")
    with pytest.raises(IsADirectoryError):
        load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    for special in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ValueError, match="not a regular file"):
            load(special)


@pytest.mark.skipif(os.name == "nt", reason="of POSIX")
def test_who_may_read_a_file_may_read_the_next(tmp_path):
    path, before = tmp_path / "model", os.umask(0o022)
    try:
        for mode in (0o600, 0o664, 0o400):
            save(PPCA(1), path)
            path.chmod(mode)
            save(PPCA(2), path)
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(before)


def test_errors_name_the_path(tmp_path):
    (tmp_path / "folder").mkdir()
    for path, kind in [
        (tmp_path / "none" / "model", FileNotFoundError),
        (tmp_path / "folder", IsADirectoryError),
    ]:
        with pytest.raises(kind) as raised:
            save(PPCA(1), path)
        assert raised.value.filename == str(path)
        assert ".tmp" not in str(raised.value)
        assert "None" not in str(raised.value)
    assert os.listdir(tmp_path) == ["folder"]


def test_a_name_as_long_as_names_may_be(tmp_path):
    save(PPCA(1), tmp_path / ("n" * 250))
    assert load(tmp_path / ("n" * 250)).n_components == 1


def test_any_reader_of_safetensors_reads_it(tmp_path):
    path = tmp_path / "model"
    save(fitted("ppca"), path)
    header, _ = unpacked(path.read_bytes())
    metadata = header["__metadata__"]
    assert (metadata["format"], metadata["format_version"]) == ("sklearn_vae", "2")
    assert metadata["written_by"].startswith(f"sklearn_vae {sklearn_vae.__version__}, numpy ")
    means = [t for t in load_tensors(path.read_bytes()).values() if t.shape == (4,)]
    assert any((t == fitted("ppca").mean_).all() for t in means)
