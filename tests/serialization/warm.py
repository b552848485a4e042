"""Imports all that a fit imports on its way, so that a process forked from here begins at once."""

from sklearn.base import clone

from tests.serialization.checkpointed_models import DEEP, LINEAR, rows_of

for model in (DEEP[0], LINEAR[1]):
    clone(model).set_params(checkpoint=None).fit(rows_of(model))
