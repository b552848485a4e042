import importlib
import pkgutil
import re
import tomllib
from pathlib import Path

import pytest
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_html_repr

import sklearn_vae
from sklearn_vae import PPCA, Stationarity, public

ROOT = Path(__file__).parents[1]
REFERENCE = (ROOT / "docs" / "api.rst").read_text()


def listed_names():
    """Full names in the tables of the API reference."""
    module = ""
    for line in REFERENCE.splitlines():
        if line.startswith(".. currentmodule:: "):
            module = line.removeprefix(".. currentmodule:: ")
        elif re.fullmatch(r" {3}[\w.]+", line):
            yield f"{module}.{line.strip()}"


def value_of(name):
    """Object with a full name."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def public_names():
    packages = [module.name for module in pkgutil.iter_modules(sklearn_vae.__path__)]
    for package in ("", *packages):
        module = importlib.import_module(f"sklearn_vae.{package}".strip("."))
        for name in getattr(module, "__all__", ()):
            if name != "__version__":
                yield f"{package}.{name}".strip("."), getattr(module, name)


def test_the_reference_lists_every_public_name_once():
    listed, names = [value_of(name) for name in listed_names()], dict(public_names())
    assert len(names) > 100
    times = {name: sum(other is value for other in listed) for name, value in names.items()}
    assert times == dict.fromkeys(names, 1)


@pytest.mark.parametrize("name", list(public.ESTIMATORS))
def test_diagrams_of_estimators_link_to_pages_of_the_reference(name):
    estimator = getattr(sklearn_vae, name)
    model = estimator([("model", PPCA())]) if name == "DensityPipeline" else estimator()
    link = f"{public.DOCUMENTATION}/generated/sklearn_vae.{name}.html"
    assert f'href="{link}"' in estimator_html_repr(make_pipeline(model))
    assert f"sklearn_vae.{name}" in listed_names()  # whose page has this name


def test_a_class_of_a_user_has_no_page():
    class Own(PPCA):
        def __init__(self):
            super().__init__(1)

    assert public.DOCUMENTATION not in estimator_html_repr(Own())


def test_notebooks_show_certificates_as_html():
    certificate = PPCA(1).fit([[0.0, 1.0], [1.0, 3.0], [2.0, 2.0], [5.0, 1.0]]).certificate_
    assert str(certificate) in certificate._repr_html_()
    assert f"<td>{certificate.lower[0]:.12g}</td>" in certificate._repr_html_()
    iterative = Stationarity(0.1, 1.0, converged=False, is_exact=True, objective="x < y")
    assert "x &lt; y" in iterative._repr_html_()


def test_notebooks_show_all_results_that_have_a_text():
    classes = [value for name in listed_names() if isinstance(value := value_of(name), type)]
    own_text = [c for c in classes if "__str__" in vars(c)]
    assert len(own_text) > 5
    assert all(hasattr(c, "_repr_html_") for c in own_text)


def test_every_page_of_the_documentation_is_in_a_table_of_contents():
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} | {"api"}
    blocks = [
        block
        for page in (ROOT / "docs").glob("*.md")
        for block in re.findall(
            r"^```\{toctree\}$(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL
        )
    ]
    entries = [line for block in blocks for line in block.split() if not line.startswith(":")]
    assert pages - set(entries) == {"index", "examples"}  # the gallery replaces examples.md


def test_releases_name_one_version_and_the_python_versions_that_are_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    classified = {c.rpartition(" ")[2] for c in project["classifiers"] if ":: 3." in c}
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    (versions,) = re.findall(r"python: \[(.*?)\]", workflow)
    assert {version.strip(' "') for version in versions.split(",")} == classified
    assert f">={min(classified, key=lambda v: int(v[2:]))}" == project["requires-python"]
    assert f"version: {sklearn_vae.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    citation = (ROOT / "docs" / "cite.md").read_text()
    assert f"version = {{{sklearn_vae.__version__}}}" in citation
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert changes.startswith(f"# Changes\n\n## {sklearn_vae.__version__}")


def test_links_of_the_readme_lead_to_the_documentation_on_the_page_of_the_package():
    hatch = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]
    text = (ROOT / "README.md").read_text()
    for rule in hatch["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert targets
    pictures = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    for target in targets:
        assert target.startswith("https://"), target
        own = target.removeprefix(f"{public.DOCUMENTATION}/")
        if own.startswith("_images/"):  # the site has the pictures of its pages
            assert f"../examples/gallery/{own.removeprefix('_images/')}" in pictures
