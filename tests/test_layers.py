"""A package imports only from packages above it, has no cycle, and keeps its private members."""

import ast
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import sklearn_vae

ROOT = Path(sklearn_vae.__file__).parent

# From the bottom of the library to its top. `linear` and `deep` are siblings.
PACKAGES = [
    "public",
    "warning",
    "containers",
    "stored_rows",
    "validation",
    "state",
    "protocol",
    "gaussian",
    "tables",
    "nn",
    "serialization",
    "training",
    "linear",
    "deep",
    "preprocessing",
    "outliers",
    "datasets",
    "diagnostics",
    "adapters",
    "plot",
]
SIBLINGS = {"linear", "deep"}
FORBIDDEN = {
    "public": {"torch", "sklearn", "skorch", "numpy"},
    "warning": {"torch", "sklearn", "skorch", "numpy"},
    "containers": {"torch", "sklearn", "skorch"},
    "stored_rows": {"torch", "sklearn", "skorch"},
    "validation": {"torch", "skorch"},
    "state": {"torch", "skorch"},
    "protocol": {"torch", "skorch"},
    "gaussian": {"torch", "sklearn", "skorch"},
    "tables": {"torch", "skorch"},
    "nn": {"sklearn", "skorch"},
}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def package_of(name):
    return name.partition(".")[0]


def imported_modules(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield node.module
            # What is imported may be a module itself.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_modules(tree):
    """Names below `sklearn_vae` that a file imports from."""
    found = (module.partition(".") for module in imported_modules(tree))
    return {rest for own, _, rest in found if own == "sklearn_vae"}


def violations(name, tree):
    package = package_of(name)
    for module in own_modules(tree):
        other = package_of(module)
        if other not in PACKAGES:
            yield f"{name} imports sklearn_vae.{module}, which is in no package"
        elif other != package and PACKAGES.index(other) > PACKAGES.index(package):
            yield f"{name} imports sklearn_vae.{module}, which is below it"
        elif {package, other} == SIBLINGS:
            yield f"{name} imports sklearn_vae.{module}, its sibling"
    for module in imported_modules(tree):
        if package_of(module) in FORBIDDEN.get(package, ()):
            yield f"{name} imports {module}"


# Public methods of named tuples.
OF_NAMED_TUPLES = {"_asdict", "_fields", "_make", "_replace"}


def is_private(name):
    return name.startswith("_") and not name.endswith("__") and name not in OF_NAMED_TUPLES


def private_definitions(tree):
    """Names with an underscore that a file defines, of whatever object."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def private_uses(tree):
    """Private names that a file imports, or asks any object for, by name or by a string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("sklearn_vae"):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            named = node.func.id in ("getattr", "hasattr", "setattr") and len(node.args) > 1
            if named and isinstance(node.args[1], ast.Constant):
                yield node.args[1].value


def private_members_of_others(trees):
    """Uses of a private name that another package defines and one's own does not."""
    defined = defaultdict(set)
    for name, tree in trees.items():
        defined[package_of(name)] |= set(filter(is_private, private_definitions(tree)))
    for name, tree in trees.items():
        package = package_of(name)
        others = set().union(*(defined[other] for other in defined if other != package))
        for used in sorted(set(filter(is_private, private_uses(tree)))):
            if used in others and used not in defined[package]:
                yield f"{name} uses {used} of another package"


@pytest.fixture(scope="module")
def trees():
    found = {module_name(path): ast.parse(path.read_text()) for path in ROOT.rglob("*.py")}
    found.pop("")  # the package itself only names what is public
    assert len(found) > 50
    return found


def test_every_package_is_in_the_list(trees):
    assert {package_of(name) for name in trees} == set(PACKAGES)


def test_a_package_imports_only_from_packages_above_it(trees):
    found = [v for name, tree in sorted(trees.items()) for v in violations(name, tree)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_package_has_a_cycle(trees, package):
    names = {name for name in trees if package_of(name) == package}
    graph = {name: (own_modules(trees[name]) & names) - {name, package} for name in names}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_package_uses_private_members_of_another(trees):
    found = list(private_members_of_others(trees))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("gaussian.moments", "from sklearn_vae.linear.ppca import PPCA"),
        ("gaussian.moments", "import torch"),
        ("linear.ppca", "from sklearn_vae.deep import base"),
        ("deep.base", "def f():\n    from sklearn_vae.linear.ppca import PPCA"),
        ("validation", "import sklearn_vae.gaussian.arrays"),
        ("plot.base", "from sklearn_vae.elsewhere import thing"),
    ],
)
def test_the_rule_of_imports_is_able_to_fail(name, source):
    assert list(violations(name, ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    ["model._secret()", "getattr(model, '_secret')", "from sklearn_vae.deep import _secret"],
)
def test_the_rule_of_private_members_is_able_to_fail(source):
    own = {"deep.base": ast.parse("class A:\n    def _secret(self): pass")}
    other = {"plot.base": ast.parse(source)}
    assert list(private_members_of_others(own | other))
    assert not list(private_members_of_others(own | {"deep.more": ast.parse(source)}))
