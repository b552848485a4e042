"""Check the English of the library: odd phrases and names, numpydoc sections, examples.

    python .ci/words.py                         # counts; fails above the limits
    python .ci/words.py --list sklearn_vae/nn   # each finding below a path
    python .ci/words.py --errors                # every error message and warning, to read aloud

Docstrings are read from the sources; public objects and their inherited docstrings are imported.
The checks of numpydoc are those listed in pyproject.toml.
"""

import argparse
import ast
import dataclasses
import importlib
import inspect
import itertools
import re
import sys
import tokenize
import tomllib
from functools import cache
from pathlib import Path

from numpydoc.validate import validate

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
PACKAGES = [
    "sklearn_vae",
    *(
        f"sklearn_vae.{name}"
        for name in (
            "adapters",
            "datasets",
            "diagnostics",
            "gaussian",
            "nn",
            "outliers",
            "plot",
            "preprocessing",
        )
    ),
    "sklearn_vae.serialization",
]
# Maximum shares of texts with a phrase of the list, and of names in a list, in percent.
LIMITS = {"docstrings": 1.0, "messages": 0.5, "comments": 1.0, "names": 0.0}

UNIT = "batch|call|column|component|dimension|epoch|feature|fold|image|name|row|sample|step|unit"
OPENINGS = r"(?:^|(?<=[.:;] ))(?:Of|What|That of|Those|Which|As many|As much|Whose|Not [a-z]+:)\b"
PHRASES = [
    OPENINGS,
    r"\b(?:but for|save for|as many|as much|beside|besides|likewise|lest|anew|foretold|for want of)\b",
    r"\b(?:thereof|therein|whereof|wherein|wherefore|hence|thus far|whatever the|the likes?)\b",
    r"\b(?:goes|go|went|gone|going) on\b(?! to)",
    r"\b(?:is|are|be|was|were) (?:none|but|had|told|said|nothing|no more|of no|of use|due|gone)\b",
    r"\b(?:it|so|this|that) (?:is|was) (?:said|told|so)\b|\bsays? so\b",
    r"\bgiven? back\b|\bhas no use\b|\bits? stead\b|\bleft (?:alone|out of)\b|\bof neither\b",
    r"\bwithout a (?:price|word)\b|\bby way of\b|\bto its end\b|\bin its way\b|\bwith naught\b",
    rf"\b(?:one|numbers?|values?|nats|entry|entries|times|once|seconds?|parameters?) an? (?:{UNIT})\b",
    r"\b(?:content|value|file|text|name)s? (?:is|are) odd\b|\bodd (?:content|value|text)\b",
    r"\bno (?:place|room) (?:for|to)\b|\btakes? (?:its|their) place\b|\bin the place of\b",
    r"\brows? of (?:data|the data|X)\b|\bthe rows (?:given|seen|held out)\b|\bper row\b|\ba row\b",
    r"\b(?:held fixed|holds? \S+ fixed|from which on|to be gained|had learned|begin of)\b",
    r"\b(?:of (?:its|our|their) own|as it is|as they are|stands? for)\b(?! in\b)",
    r"\b(?:unlike|lost|has) another one\b|\bmet an?\b|\b(?:goes|went) wrong\b",
    r"\b(?:maximis|minimis|optimis|normalis|initialis|standardis|regularis|parametris)\w*|\bcentred\b",
    r"\b(?:colour|behaviour|neighbour|grey|towards|whilst|learnt)\w*",
]
# Names that do not say what a variable, an argument or a function holds or does.
NAMES = {
    "found",
    "told",
    "said",
    "twin",
    "place",
    "places",
    "whose",
    "which",
    "thing",
    "both",
    "such",
}
ODD = re.compile("|".join(PHRASES), re.MULTILINE)
SHORT_SHAPE = re.compile(r"\([nkd], [nkd]\)(?!`)")  # in docstrings, (n_samples, n_features)
NO_VERB = re.compile(
    r"(?:An?|All|And|As|At|Both|By|Each|For|From|How|If|Its?|In|Is|No|Not|Of|On|One|Only|Or|Same"
    r"|Some|Such|That|The|These|They|This|Those|To|What|When|Where|Whether|Which|Whose?|With|Yes)\b"
)


def once(function):
    """Keep what a generator yields as a list, since it is asked for twice."""
    return cache(lambda: list(function()))


@once
def docstrings():
    """Yield path, line, qualified name, node and text of every docstring."""
    for path in sorted((ROOT / "sklearn_vae").rglob("*.py")):
        pending = [("", ast.parse(path.read_text()))]
        while pending:
            prefix, node = pending.pop()
            for child in ast.iter_child_nodes(node):
                name = getattr(child, "name", "")
                pending.append((f"{prefix}.{name}" if name else prefix, child))
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text:
                    yield path, node.body[0].lineno, prefix.strip("."), node, text


def prose(text):
    """Return a docstring on one line, without examples and code."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith((">>>", "..."))]
    return " ".join(re.sub(r"``.*?``", "", " ".join(lines)).split())


def is_property(node):
    """Return whether a function is a property, whose summary may be a noun."""
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    return any("property" in d or d.endswith("setter") for d in decorators)


def odd_docstrings():
    """Yield path, line and finding of each docstring that has a phrase of the list."""
    for path, line, name, node, text in docstrings():
        finding = ODD.search(prose(text)) or SHORT_SHAPE.search(prose(text))
        if finding:
            yield path, line, f"{name or 'module'}: {finding.group()!r} in {prose(text)[:100]!r}"
        elif isinstance(node, ast.FunctionDef) and NO_VERB.match(text) and not is_property(node):
            yield path, line, f"{name}: no verb first: {text.splitlines()[0]!r}"


def template(node):
    """Return the text of a string expression, its values in braces; None for other expressions."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            part.value if isinstance(part, ast.Constant) else f"{{{ast.unparse(part.value)}}}"
            for part in node.values
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = template(node.left), template(node.right)
        return "".join(side or "{...}" for side in sides) if any(sides) else None
    return None


@once
def messages():
    """Yield path, line and text of every error message and warning."""
    for path in sorted((ROOT / "sklearn_vae").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            call = node.exc if isinstance(node, ast.Raise) else node
            if not isinstance(call, ast.Call) or not call.args:
                continue
            function = ast.unparse(call.func)
            if isinstance(node, ast.Raise) or function in {"warnings.warn", "warn"}:
                text = template(call.args[0])
                if text and len(text.split()) > 2:
                    yield path, call.lineno, " ".join(text.split())


def odd_messages():
    """Yield path, line and finding of each message that has a phrase of the list."""
    for path, line, text in messages():
        finding = ODD.search(text)
        if finding:
            yield path, line, f"{finding.group()!r} in {text!r}"


@once
def comments():
    """Yield path, line and text of every comment, consecutive lines joined."""
    for path in sorted((ROOT / "sklearn_vae").rglob("*.py")):
        first, last, words = 0, -2, []
        with path.open("rb") as file:
            tokens = [t for t in tokenize.tokenize(file.readline) if t.type == tokenize.COMMENT]
        for token in tokens:
            line, text = token.start[0], token.string.lstrip("# ")
            if line != last + 1 and words:
                yield path, first, " ".join(words)
                words = []
            first, last = first if words else line, line
            words.append(text)
        if words:
            yield path, first, " ".join(words)


def odd_comments():
    """Yield path, line and finding of each comment that has a phrase of the list."""
    for path, line, text in comments():
        finding = ODD.search(text)
        if finding:
            yield path, line, f"comment: {finding.group()!r} in {text!r}"


@once
def names():
    """Yield path, line and name of every function, class, argument and assigned variable."""
    for path in sorted((ROOT / "sklearn_vae").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield path, node.lineno, node.name
            elif isinstance(node, ast.arg):
                yield path, node.lineno, node.arg
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield path, node.lineno, node.id


def odd_names():
    """Yield path, line and finding of each name in the list."""
    for path, line, name in names():
        if name.strip("_") in NAMES:
            yield path, line, f"name: {name}"


def exports():
    """Yield module and name of each exported class or function, each object once."""
    seen = set()
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value) and id(value) not in seen:
                seen.add(id(value))
                yield package, name, value


def methods(cls):
    """Yield each public method of a class that this library defines."""
    for name, member in inspect.getmembers(cls, inspect.isroutine):
        own = str(getattr(member, "__module__", "")).startswith("sklearn_vae")
        if own and not name.startswith("_"):
            yield name, member


def documented_in(cls, method):
    """Return the class of this library whose docstring a method has, by inheritance if need be."""
    for base in cls.__mro__:
        if base.__module__.startswith("sklearn_vae") and getattr(
            base.__dict__.get(method), "__doc__", None
        ):
            return base
    return cls


def returns_something(member):
    """Return whether the annotation of a method names a result."""
    annotation = inspect.signature(member).return_annotation
    return annotation not in (None, "None", inspect.Signature.empty)


def public_findings(checks):
    """Yield path, line and finding of numpydoc's checks, of missing Returns and examples."""
    for package, name, value in exports():
        yield from numpydoc_findings(f"{package}.{name}", value, checks)
        if not inspect.isclass(value):
            continue
        for method, member in methods(value):
            own = checks - {"EX01", "SA01"}
            if not returns_something(member):
                own = own - {"RT01"}
            owner = documented_in(value, method)
            yield from numpydoc_findings(
                f"{owner.__module__}.{owner.__qualname__}.{method}", getattr(owner, method), own
            )


def numpydoc_findings(name, value, checks):
    """Yield path, line and finding of each check of numpydoc that an object fails."""
    if dataclasses.is_dataclass(value):
        checks = checks - {"PR01"}  # whose fields are attributes
    if inspect.getdoc(value):
        checks = checks - {"GL08"}  # numpydoc misses some docstrings that are inherited
    for code, text in errors_of(name):
        if code in checks:
            path, line = Path(inspect.getsourcefile(value)), inspect.getsourcelines(value)[1]
            yield path, line, f"{name}: {code} {text}"


@cache
def errors_of(name):
    """Return code and text of each error that numpydoc finds; classes share inherited methods."""
    return validate(name)["errors"]


def main():
    """Count, or list, what is found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", metavar="PATH", help="print each finding below PATH")
    parser.add_argument("--errors", action="store_true", help="print every message")
    arguments = parser.parse_args()
    if arguments.errors:
        for path, line, text in messages():
            print(f"{path.relative_to(ROOT)}:{line}: {text}")
        return 0
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    checks = set(config["tool"]["numpydoc_validation"]["checks"])
    public = list(dict.fromkeys(public_findings(checks)))
    odd = {
        "docstrings": list(odd_docstrings()),
        "messages": list(odd_messages()),
        "comments": list(odd_comments()),
        "names": list(odd_names()),
    }
    if arguments.list:
        below = (ROOT / arguments.list).resolve()
        for path, line, text in [*itertools.chain(*odd.values()), *public]:
            if path.resolve().is_relative_to(below):
                print(f"{path.resolve().relative_to(ROOT.resolve())}:{line}: {text}")
        return 0
    texts = {"docstrings": docstrings, "messages": messages, "comments": comments, "names": names}
    totals = {kind: len(function()) for kind, function in texts.items()}
    failed = bool(public)
    for kind, limit in LIMITS.items():
        share = 100 * len(odd[kind]) / totals[kind]
        failed |= share > limit
        print(
            f"{kind} with an odd word or phrase: {len(odd[kind])} of {totals[kind]}, "
            f"{share:.1f} % (at most {limit} %)"
        )
    for code in ("RT01", "EX01"):
        count = sum(f": {code} " in text for *_, text in public)
        print(
            f"{code} ({'no Returns' if code == 'RT01' else 'no example'}): {count} (none allowed)"
        )
    print(f"findings of numpydoc: {len(public)} (none allowed)")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
