"""What tests share is as it is without patches, in any order of tests."""

import math

import pytest

from tests.sharing import made_once, shared


@shared
def pi(factor):
    return factor * math.pi


def test_what_is_shared_is_made_once_and_not_within_a_patch(monkeypatch):
    expected = pi(1.0)
    monkeypatch.setattr(math, "pi", 3.0)
    for factor in (1.0, 2.0):  # known or not
        with pytest.raises(RuntimeError, match=r"ask for pi\(.*\) before a patch, not in it"):
            pi(factor)
    monkeypatch.undo()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(math, "pi", 3.0)
        with pytest.raises(RuntimeError, match="ask for pi"):
            pi(1.0)
    assert pi(1.0) is expected
    assert pi(2.0) == 2.0 * expected


def test_a_folder_is_filled_once(tmp_path_factory):
    filled = []

    def fill(folder):
        (folder / "file").touch()
        filled.append(folder)

    # Its name is that of no other test, since workers share it.
    folders = {made_once(tmp_path_factory, "filled_once", fill) for _ in range(2)}
    assert len(folders) == 1
    assert len(filled) <= 1
    assert [path.name for path in folders.pop().iterdir()] == ["file"]
