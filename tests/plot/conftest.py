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
            figure = plt.figure(number)
            if not hasattr(figure.canvas, "renderer"):  # else the test has drawn it
                figure.draw_without_rendering()
    plt.close("all")
