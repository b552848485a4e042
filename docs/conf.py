"""Settings of the documentation site.

    python -m sphinx -W --keep-going -b html docs docs/_build/html

builds it without internet. Add `-D plot_gallery=0` to skip running the examples.
"""

import importlib
import importlib.util
import pkgutil
import re
import shutil
import sys
from functools import cache
from pathlib import Path

from docutils import nodes

import sklearn_vae
from sklearn_vae import protocol, state

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for conf_gallery
# The figures that the examples write themselves; the gallery shows those that they draw.
FIGURES = HERE / "_build" / "figures"
FIGURES.mkdir(parents=True, exist_ok=True)

project = "sklearn_vae"
author = "the sklearn_vae developers"
copyright = f"2026, {author}"
version = release = sklearn_vae.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
# The gallery replaces examples.md, which shows pictures of the repository.
exclude_patterns = ["_build", "_templates", "examples.md", "sg_execution_times.rst"]
templates_path = ["_templates"]
default_role = "code"
highlight_language = "none"  # formulas in docstrings are not Python
smartquotes = False  # they make one dash of two, also in options of commands
nitpicky = True  # each reference leads somewhere
# Members of scikit-learn's Pipeline, which `DensityPipeline` inherits.
nitpick_ignore = [("py:obj", "named_steps"), ("py:obj", "n_features_in_")]

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# Inherited members are listed up to the classes of other libraries, whose docstrings refer to pages
# of those libraries.
autodoc_default_options = {
    "members": True,
    "inherited-members": "BaseEstimator,ClassNamePrefixFeaturesOutMixin,TransformerMixin,"
    "OneToOneFeatureMixin,_SetOutputMixin,_MetadataRequester,Pipeline,Module,Callback,tuple,object",
}
autodoc_typehints = "none"
toc_object_entries_show_parents = "hide"
# Members of the base classes that have a place on the page of each estimator.
FOR_USERS = {
    *("transform", "inverse_transform", "posterior", "conditional"),
    *("sample", "score", "score_samples"),
}
autosummary_generate = True

# The page of the user guide for each public name, or for all others of its module.
GUIDES = {
    "ppca": "PPCA PPCACV Moments LowRankGaussian Certificate Stationarity Spectrum sample_spectrum "
    "StationaryPoint",
    "factor_analysis": "FactorAnalysis FactorAnalysisCV MixedFactorAnalysis",
    "tables": "TabularVAE sklearn_vae.tables",
    "missing_values": "GaussianImputer FactorAnalysisImputer PPCAImputer ImputationDisplay pool "
    "Pooled make_missing",
    "linear_vae": "LinearVAE",
    "bernoulli_ppca": "BernoulliPPCA",
    "deep_models": "DeepGaussianVAE DeepBernoulliVAE DeepAutoencoder ConvEncoder ConvDecoder "
    "PlainConvEncoder PlainConvDecoder ResidualEncoder ResidualDecoder SoftThresholdDecoder MLP "
    "TrainingDisplay ReconstructionDisplay LatentPlaneDisplay",
    "large_data": "Processes",
    "saving": "Snapshot sklearn_vae.serialization",
    "how_many_dimensions": "choose_dimensions DimensionChoice DimensionChoiceDisplay CVCurveDisplay "
    "bartlett_sphericity kmo SphericityTest SamplingAdequacy",
    "posterior_collapse": "SoftThresholdElbo SoftThresholdParameters make_collapse_trap CollapseTrap",
    "outliers": "OutlierDetector OutlierDisplay ContributionDisplay sklearn_vae.outliers",
    "densities": "DensityPipeline Dequantizer LogitTransformer",
    "diagnostics": "sklearn_vae.diagnostics sklearn_vae.plot",
    "my_vae_collapsed": "sklearn_vae.adapters",
    "datasets": "sklearn_vae.datasets",
}
autosummary_context = {"guides": {n: page for page, names in GUIDES.items() for n in names.split()}}
numpydoc_show_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": "/plot_",
    "ignore_pattern": "make_gallery",
    "copyfile_regex": "",
    "within_subsection_order": "conf_gallery.Order",
    "reset_argv": "conf_gallery.arguments_of_example",
    "backreferences_dir": None,
    "download_all_examples": False,
    "show_memory": False,
    "write_computation_times": False,
    "remove_config_comments": True,
    "abort_on_example_error": False,
    "only_warn_on_example_error": False,
}

html_theme = "pydata_sphinx_theme"
html_title = "sklearn_vae"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_context = {"default_mode": "auto"}
html_theme_options = {
    "logo": {"text": "sklearn_vae"},
    "header_links_before_dropdown": 6,
    "navbar_align": "left",
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# MathJax comes from a package, so that pages show formulas without internet.
mathjax_path = "mathjax/tex-chtml.js"
MATHJAX_FILES = ["tex-chtml.js", "output/chtml/fonts"]

# Links in Markdown lead to files of the repository, so that they also work there. On the site these
# files have pages.
PAGES_OF_FILES = [
    (r"\]\(\.\./examples/(plot_\w+)\.py\)", r"](auto_examples/\1.rst)"),
    (r"\]\(examples\.md\)", r"](auto_examples/index.rst)"),
    (r"\]\(\.\./benchmarks/README\.md(#[\w-]+)?\)", r"](benchmarks.md\1)"),
    (r"\]\(\.\./CHANGELOG\.md\)", r"](changelog.md)"),
    (r"\]\(\.\./CONTRIBUTING\.md\)", r"](contributing.md)"),
    (r"\]\(\.\./SECURITY\.md\)", r"](security.md)"),
]


@cache
def pages_of_names():
    """Return the full names of public classes and functions, by short name."""
    names = {name: f"sklearn_vae.{name}" for name in sklearn_vae.__all__}
    for package in pkgutil.iter_modules(sklearn_vae.__path__, "sklearn_vae."):
        for name in getattr(importlib.import_module(package.name), "__all__", ()):
            names.setdefault(name, f"{package.name}.{name}")
    return names


def link_pages(app, docname, source):
    """Link files of the repository, and public names in code, to their pages."""
    if not str(app.env.doc2path(docname)).endswith(".md"):
        return
    for file, page in PAGES_OF_FILES:
        source[0] = re.sub(file, page, source[0])
    names = pages_of_names()
    code = re.compile(r"(?<![`\[])`(" + "|".join(names) + r")(\(\))?`(?![`\]])")
    parts = re.split(r"(^```.*?^```$|^#.*?$)", source[0], flags=re.DOTALL | re.MULTILINE)
    parts[::2] = [
        code.sub(lambda match: f"{{py:obj}}`~{names[match[1]]}`", part) for part in parts[::2]
    ]
    source[0] = "".join(parts)


def escape_bars(app, kind, name, obj, options, lines):
    """Escape what reStructuredText would take for markup: |u| in prose, and `n_iter_` in shapes.

    Code is left unchanged: examples, and blocks that follow two colons.
    """
    block = None  # indentation of the line that announced a block of code
    for index, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if block is not None and line.strip() and indent <= block:
            block = None
        if block is None and not line.lstrip().startswith((">>>", "...")):
            escaped = re.sub(r"(^|[\s(\[{<:/'\"-])\|(?=[^\s|])", r"\1\|", line)
            lines[index] = re.sub(r"(?<=\()n_iter_(?= |,|\))", r"n_iter\_", escaped)
        if line.rstrip().endswith("::"):
            block = indent


@cache
def members_for_diagnostics():
    """Return the names of members that the diagnostics read, and that users do not need."""
    bases = [protocol.EncoderDecoder, protocol.LatentModel, state.Stateful]
    return {name for base in bases for name in vars(base)} - FOR_USERS


def skip_members(app, kind, name, member, skip, options):
    """Leave out members for the diagnostics, and methods that scikit-learn generates."""
    generated = re.fullmatch(r"set_\w+_request", name)
    return True if generated or name in members_for_diagnostics() else None


def find_reference(app, env, node, text):
    """Link classes of scikit-learn to its pages, and public names without a module to ours."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py":
        return None
    if target.startswith("sklearn."):
        page = f"https://scikit-learn.org/stable/modules/generated/{target}.html"
        return nodes.reference("", "", text, internal=False, refuri=page)
    name, dot, member = target.partition(".")
    full = f"{pages_of_names().get(name, name)}{dot}{member}"
    if full == target:
        return None
    python, page = env.domains["py"], node.get("refdoc", "index")
    return python.resolve_xref(env, page, app.builder, "obj", full, node, text)


def copy_mathjax(app, error):
    """Copy MathJax next to the pages."""
    if error is not None or app.builder.format != "html":
        return
    (package,) = importlib.util.find_spec("sphinx-mathjax-offline").submodule_search_locations
    for name in MATHJAX_FILES:
        source = Path(package) / "static" / "mathjax" / name
        target = Path(app.outdir) / "_static" / "mathjax" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy(source, target)


def setup(app):
    """Connect the functions above."""
    app.connect("source-read", link_pages)
    app.connect("autodoc-process-docstring", escape_bars, priority=100)
    app.connect("autodoc-skip-member", skip_members)
    app.connect("missing-reference", find_reference)
    app.connect("build-finished", copy_mathjax)
