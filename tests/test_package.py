import ast
import inspect
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest
from PIL import Image
from sklearn.base import BaseEstimator

import sklearn_vae
from sklearn_vae import plot, public

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]


def run_python(code, folder=None):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=folder,
        env={
            **os.environ,
            "MPLBACKEND": "Agg",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        },
    )


def test_linear_models_their_files_and_datasets_do_not_import_torch(tmp_path):
    done = run_python(
        "import sys\n"
        "from sklearn_vae import PPCA, PPCACV, PPCAImputer, Moments, LowRankGaussian\n"
        "from sklearn_vae import BernoulliPPCA, LinearVAE, OutlierDetector\n"
        "X = [[0.0, 1.0], [1.0, 3.0], [2.0, 2.0], [3.0, 3.0], [4.0, 6.0]]\n"
        "OutlierDetector(PPCA(1, noise_variance=1.0), level=0.5, cv=2).fit(X).contributions(X)\n"
        "LinearVAE(1).fit([[0.0, 1.0], [1.0, 0.0], [2.0, 5.0]])\n"
        "ppca = PPCA(1).fit([[0.0, 1.0], [1.0, 3.0], [2.0, 2.0]])\n"
        "from sklearn_vae.serialization import load, save\n"
        "save(ppca, 'model')\n"
        "assert load('model').score([[0.0, 1.0]]) == ppca.score([[0.0, 1.0]])\n"
        "BernoulliPPCA(1).fit([[0, 1], [1, 0], [1, 1.0]])\n"
        "assert 'sklearn_vae.linear.ppca' in sys.modules\n"
        "from sklearn_vae import datasets\n"
        "datasets.load_digit_images(), datasets.make_missing(datasets.make_ppca()[0])\n"
        "heavy = {'torch', 'skorch', 'matplotlib', 'dask', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert all(hasattr(datasets, name) for name in datasets.__all__)\n",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr


def test_every_public_name_loads_and_is_listed():
    assert "PPCA" in sklearn_vae.__all__
    for name in sklearn_vae.__all__:
        assert getattr(sklearn_vae, name) is not None
        assert name in dir(sklearn_vae)
    with pytest.raises(AttributeError, match="no attribute 'PCCA'"):
        _ = sklearn_vae.PCCA


def test_the_list_says_which_public_names_are_estimators():
    for name, module in public.MODULES.items():
        value = getattr(sklearn_vae, name)
        assert value.__module__ == f"sklearn_vae.{module}"
        is_estimator = isinstance(value, type) and issubclass(value, BaseEstimator)
        assert is_estimator == (name in public.ESTIMATORS)


def public_methods():
    for name in public.MODULES:
        value = getattr(sklearn_vae, name)
        if isinstance(value, type):
            for attribute, member in inspect.getmembers(value):
                own = str(getattr(member, "__module__", "")).startswith("sklearn_vae")
                if own and not attribute.startswith("_"):
                    yield f"{name}.{attribute}", getattr(value, attribute)


def test_every_public_method_has_a_docstring_of_its_own_or_inherited():
    methods = dict(public_methods())
    assert len(methods) > 200
    assert not [name for name, method in methods.items() if not inspect.getdoc(method)]


def test_type_checkers_see_the_public_names():
    tree = ast.parse(Path(sklearn_vae.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {
        alias.asname: node.module.removeprefix("sklearn_vae.")
        for node in block.body
        for alias in node.names
        if alias.asname == alias.name  # which type checkers take for public
    }
    assert imported == public.MODULES


# They take half a second or more.
LONG_BLOCKS = {
    "deep_models-0",
    "coming_from-3",
    "diagnostics-0",
    "diagnostics-1",
    "how_many_dimensions-1",
    "faq-0",
    "index-0",
    "missing_values-1",
    "missing_values-2",
    "missing_values-3",
    "saving-1",
    "my_vae_collapsed-0",
    "my_vae_collapsed-1",
    "tables-0",
    "large_data-2",
    "factor_analysis-1",
    "README-1",
}


def code_blocks():
    """Each Python block of the README and the guides, as (where it is, code)."""
    for page in PAGES:
        for index, part in enumerate(page.read_text().split("```python\n")[1:]):
            where = f"{page.stem}-{index}"
            marks = [pytest.mark.slow] * (where in LONG_BLOCKS)
            yield pytest.param(part.split("```")[0], id=where, marks=marks)


@pytest.mark.parametrize("code", list(code_blocks()))
def test_every_code_block_of_the_readme_and_the_guides_runs_alone(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where it may leave files
    script = tmp_path / "block.py"
    script.write_text(code)
    matplotlib.use("Agg")
    runpy.run_path(str(script), run_name="__main__")
    plt.close("all")


def test_readme_is_short_and_opens_with_ten_lines_of_code():
    assert len(README.read_text().splitlines()) <= 150
    first = README.read_text().split("```python\n")[1].split("```")[0]
    assert len(first.strip().splitlines()) <= 10


def test_links_of_the_readme_and_the_guides_lead_to_files():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), (page, target)


def test_the_guide_has_a_line_on_every_display():
    guide = (ROOT / "docs" / "diagnostics.md").read_text()
    named = re.findall(r"^\| `(\w+Display)` \|", guide, re.MULTILINE)
    assert sorted(named) == sorted(plot.__all__)


def test_readme_and_guide_show_the_pictures_of_the_gallery():
    links = re.compile(
        r"\[!\[(.+?)\]\((?:\.\./)?examples/gallery/(\w+)\.png\)\]"
        r"\((?:\.\./)?(.+?)\)<br>(.+?): \[.+?\]\((?:\.\./)?(.+?)\)"
    )
    pages = (README, ROOT / "docs" / "examples.md")
    found = [link for page in pages for link in links.findall(page.read_text())]
    for _, name, of_picture, _, of_caption in found:
        assert of_picture == of_caption == f"examples/plot_{name}.py"
        assert (ROOT / of_caption).exists()
    names = [name for _, name, *_ in found]
    made = runpy.run_path(str(ROOT / "examples" / "make_gallery.py"))
    assert sorted(names) == sorted(made["PICTURES"])
    files = sorted((ROOT / "examples" / "gallery").iterdir())
    assert [file.name for file in files] == sorted(f"{name}.png" for name in names)
    assert sum(file.stat().st_size for file in files) < 200_000
    for file in files:
        assert file.stat().st_size < 40_000
        with Image.open(file) as image:
            assert image.width == made["WIDTH"]
