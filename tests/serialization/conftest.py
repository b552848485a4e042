import os
from unittest import mock

import pytest


@pytest.fixture(scope="session", autouse=True)
def without_waiting_for_the_disk():
    """No test loses its power, and thousands of files wait long for the disk."""
    with mock.patch.object(os, "fsync"):
        yield
