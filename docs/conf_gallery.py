"""Order of the examples in the gallery, and their arguments when it runs them."""

import ast
from pathlib import Path

# From the first steps on. Others follow in alphabetical order.
FIRST = [
    "plot_ppca_replaces_pca",
    "plot_missing_values",
    "plot_grid_search_noise_variance",
    "plot_stationary_points",
    "plot_linear_vae_recovers_pca",
    "plot_deep_vae_digits",
    "plot_diagnose_your_own_vae",
    "plot_outliers",
]


class Order:
    """Sort key of examples in a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, name):
        """Return the key of a file name."""
        stem = Path(name).stem
        return (FIRST.index(stem) if stem in FIRST else len(FIRST), stem)


def arguments_of_example(gallery_conf, script_vars):
    """Return the arguments of an example: a small version of it, and the path of its figure.

    The gallery runs examples with an empty `__doc__`. They need their own for the parser.
    """
    path = Path(script_vars["src_file"])
    script_vars["example_globals"]["__doc__"] = ast.get_docstring(ast.parse(path.read_text()))
    return ["--small", "--output", f"../docs/_build/figures/{path.stem}.png"]
