"""Fitted models and folders that several tests share."""

import functools
import os

from filelock import FileLock

# Those of pytest that have replaced an attribute and not put it back; kept by conftest.py.
PATCHES = set()


def shared(function):
    """Cache of what a function of hashable arguments returns, which no test may change.

    Within a patch it is an error to ask for it, also where it is known: the first test to ask would
    decide whether all others see what the patch makes.
    """
    cached = functools.cache(function)

    @functools.wraps(function)
    def ask(*arguments):
        if PATCHES:
            raise RuntimeError(f"ask for {function.__name__}{arguments} before a patch, not in it.")
        return cached(*arguments)

    return ask


def watch_patches(kind):
    """Let `PATCHES` have what replaces attributes, of a class such as pytest.MonkeyPatch."""
    replace, undo = kind.setattr, kind.undo

    @functools.wraps(replace)
    def replace_and_note(patch, *arguments, **options):
        PATCHES.add(patch)
        replace(patch, *arguments, **options)

    @functools.wraps(undo)
    def undo_and_note(patch):
        undo(patch)
        PATCHES.discard(patch)

    kind.setattr, kind.undo = replace_and_note, undo_and_note


def made_once(tmp_path_factory, name, make):
    """Folder that `make(folder)` has filled, in one of the workers of pytest-xdist for all of them."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, done = root / name, root / f"{name}.done"
    with FileLock(root / f"{name}.lock"):
        if not done.exists():
            folder.mkdir()
            make(folder)
            done.touch()
    return folder
