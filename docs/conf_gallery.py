"""Arguments of the examples when the gallery runs them."""

import ast
from pathlib import Path


def arguments_of_example(gallery_conf, script_vars):
    """Return the arguments of an example: a small version of it, and the path of its figure.

    The gallery runs examples with an empty `__doc__`. They need their own for the parser.
    """
    path = Path(script_vars["src_file"])
    script_vars["example_globals"]["__doc__"] = ast.get_docstring(ast.parse(path.read_text()))
    return ["--small", "--output", f"../docs/_build/figures/{path.stem}.png"]
