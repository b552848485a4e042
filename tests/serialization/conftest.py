import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def without_waiting_for_the_disk():
    """No test loses its power, and thousands of files wait long for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
