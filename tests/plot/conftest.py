import warnings

import matplotlib.pyplot as plt
import pytest


@pytest.fixture(autouse=True)
def drawn_without_warnings():
    """What a test has plotted can be drawn, and is closed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
        for number in plt.get_fignums():
            if plt.figure(number).stale:  # else it was drawn in the test, as it is
                plt.figure(number).canvas.draw()
    plt.close("all")
