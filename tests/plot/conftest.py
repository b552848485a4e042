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
            canvas = plt.figure(number).canvas
            if not hasattr(canvas, "renderer"):  # else the test has drawn it
                canvas.draw()
    plt.close("all")
