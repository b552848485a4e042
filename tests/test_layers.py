"""A file imports only from names above it in the listing of the library's layout."""

import ast
from pathlib import Path

import sklearn_vae

ROOT = Path(sklearn_vae.__file__).parent

# From the bottom of the library to its top; a folder without a list is one name.
LAYOUT = [
    "files",
    "validation",
    "fingerprint",
    "checkpoint",
    "gaussian.arrays",
    "gaussian.rows",
    "gaussian.shifted",
    "gaussian.lowrank",
    "gaussian.moments",
    "gaussian.spectrum",
    "gaussian.missing",
    "gaussian.em",
    "gaussian.landscape",
    "gaussian.bounds",
    "gaussian.linear_elbo",
    "gaussian.ascent",
    "gaussian.online",
    "gaussian.softplus",
    "gaussian.bernoulli_elbo",
    "gaussian.soft_threshold",
    "gaussian",
    "linear.weights",
    "linear.solvers",
    "linear.seen",
    "linear.tree",
    "linear.blocks",
    "linear.base",
    "linear.closed_form",
    "linear.incomplete",
    "linear.ppca",
    "linear.folds",
    "linear.ppca_cv",
    "linear.imputer",
    "nn.distributions",
    "nn.flows",
    "nn.activations",
    "nn.images",
    "nn.convolutional",
    "nn.networks",
    "nn.posteriors",
    "nn.likelihoods",
    "nn.module",
    "nn.objectives",
    "nn.adam",
    "nn",
    "deep.processes",
    "deep.devices",
    "deep.units",
    "deep.batches",
    "deep.monitors",
    "deep.capture",
    "deep.keeper",
    "deep.net",
    "deep.callbacks",
    "deep.base",
    "deep.noise",
    "deep.ppca_start",
    "deep.vae",
    "deep.gaussian_vae",
    "deep.bernoulli_vae",
    "deep.autoencoder",
    "deep",
    "linear.covariance",
    "linear.encoded",
    "linear.trained",
    "linear.linear_vae",
    "linear.bernoulli_fit",
    "linear.bernoulli",
    "linear",
    "diagnostics.latents",
    "diagnostics.dimensions",
    "diagnostics.information",
    "diagnostics.entropies",
    "diagnostics.noise",
    "diagnostics.drawing",
    "diagnostics.report",
    "diagnostics.reference",
    "diagnostics.evidence",
    "diagnostics.advice",
    "diagnostics.taxonomy",
    "diagnostics",
    "plot.base",
    "plot.collapse",
    "plot.tiles",
    "plot.reconstruction",
    "plot.latent_plane",
    "plot.surface",
    "plot.cv_curve",
    "plot.imputation",
    "plot.kl",
    "plot.posterior_scale",
    "plot.histories",
    "plot.training",
    "plot.entropy",
    "plot",
    "datasets.generators",
    "datasets.collapse_trap",
    "datasets.missing",
    "datasets.formats",
    "datasets.sources",
    "datasets.images",
    "datasets",
    "preprocessing.checks",
    "preprocessing.dequantizer",
    "preprocessing.logit",
    "preprocessing.log_determinants",
    "preprocessing.density",
    "preprocessing",
    "persistence.container",
    "persistence.encode",
    "persistence.decode",
    "persistence.fitted",
    "persistence.models",
    "persistence.nets",
    "persistence",
    "model_selection",
    "",
]
FORBIDDEN = {"gaussian": {"torch", "sklearn", "skorch"}, "nn": {"sklearn", "skorch"}}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            # What is imported may be a module itself.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rank(name):
    """Place in the layout of the longest prefix of `name` that stands there."""
    while name and name not in LAYOUT:
        name = name.rpartition(".")[0]
    return LAYOUT.index(name)


def violations(name, imports):
    for module in imports:
        own, _, rest = module.partition(".")
        if own == "sklearn_vae" and rank(rest) >= rank(name) and name:
            yield f"{name} imports {module}, which stands below it"
        if module.partition(".")[0] in FORBIDDEN.get(name.partition(".")[0], ()):
            yield f"{name} imports {module}"


def test_every_file_imports_only_from_above_it():
    files = sorted(ROOT.rglob("*.py"))
    assert len(files) > 5
    found = [v for path in files for v in violations(module_name(path), imported_modules(path))]
    assert not found, "\n".join(found)


def test_every_file_stands_in_the_layout():
    folders = {name.partition(".")[0] for name in LAYOUT if "." in name}
    unknown = [
        name
        for name in map(module_name, ROOT.rglob("*.py"))
        if (name if name.partition(".")[0] in folders else name.partition(".")[0]) not in LAYOUT
    ]
    assert not unknown


def test_the_rule_is_able_to_fail():
    assert list(violations("gaussian.lowrank", ["sklearn_vae.gaussian.moments"]))
    assert list(violations("validation", ["sklearn_vae.gaussian.arrays"]))
    assert list(violations("gaussian.bounds", ["sklearn_vae", "sklearn_vae.PPCA"]))
    assert list(violations("gaussian.moments", ["torch"]))
    assert not list(violations("linear.ppca", ["sklearn_vae.gaussian.moments", "sklearn.base"]))
