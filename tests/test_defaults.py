"""Defaults are what the documentation says."""

import ast
import inspect
import re

import pytest

import sklearn_vae
from sklearn_vae import datasets, diagnostics, plot, public

DEFAULT = re.compile(r"^ *([\w, *]+) : .*?default=(.+)$", re.MULTILINE)


def documented(text):
    """Names of parameters and the text of their default."""
    text = re.sub(r"\\\n\s*", "", text or "").split("Attributes\n")[0]
    return {
        name.strip(" *"): value.rstrip(".")
        for names, value in DEFAULT.findall(text)
        for name in names.split(",")
    }


def callables():
    """Every public class, function and method of its own, with its parameters and its text."""
    for module in (sklearn_vae, datasets, diagnostics, plot):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isfunction(value):
                yield name, value, value.__doc__
            elif inspect.isclass(value):
                if "__init__" in vars(value) and "Parameters\n" in (value.__doc__ or ""):
                    yield name, value.__init__, value.__doc__
                for attribute, member in vars(value).items():
                    function = getattr(member, "__func__", member)
                    if inspect.isfunction(function) and not attribute.startswith("_"):
                        yield (
                            f"{name}.{attribute}",
                            function,
                            inspect.getdoc(getattr(value, attribute)),
                        )


CALLABLES = {name: (function, text) for name, function, text in callables()}


def as_value(text):
    return float("nan") if text == "np.nan" else ast.literal_eval(text)


def is_value(text):
    return not text.endswith("()")


@pytest.mark.parametrize("name", CALLABLES)
def test_defaults_are_those_of_the_docstring(name):
    function, text = CALLABLES[name]
    said = documented(text)
    for parameter in inspect.signature(function).parameters.values():
        is_given = parameter.default is not inspect.Parameter.empty
        if is_given and is_value(said.get(parameter.name, "()")):
            value = as_value(said[parameter.name])
            assert repr(parameter.default) == repr(value) or parameter.default == value, parameter
            assert type(parameter.default) is type(value), parameter


@pytest.mark.parametrize("name", public.ESTIMATORS)
def test_every_default_of_an_estimator_is_documented(name):
    estimator = getattr(sklearn_vae, name)
    said = documented(estimator.__doc__)
    for parameter in inspect.signature(estimator).parameters.values():
        if parameter.default is not inspect.Parameter.empty and name != "DensityPipeline":
            assert parameter.name in said, parameter.name
