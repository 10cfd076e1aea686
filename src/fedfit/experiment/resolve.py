"""A recipe as a run folder keeps it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fedfit.aggregation.table import rule_keys
from fedfit.data_settings import FILE_SOURCES
from fedfit.personalization.table import method_keys
from fedfit.settings import Recipe


def resolve(recipe: Recipe) -> Recipe:
    """A valid recipe with absolute paths and with the keys of its rule, so that it means the same wherever it is resumed."""
    data, model, cache = recipe.data, recipe.model, recipe.trunk_cache
    if data.source in FILE_SOURCES:
        train, test, validation = (path and _absolute(path) for path in (data.train, data.test, data.validation))
        data = dataclasses.replace(data, train=train, test=test, validation=validation)
    if Path(model.name).is_dir():
        model = dataclasses.replace(model, name=_absolute(model.name))
    if cache.folder:
        cache = dataclasses.replace(cache, folder=_absolute(cache.folder))
    keys = rule_keys(recipe)
    options = {recipe.federation.rule: keys} if keys is not None else {}
    federation = dataclasses.replace(recipe.federation, options=options)
    own = method_keys(recipe)
    named = {recipe.personalization.method: own} if own is not None else {}
    personalization = dataclasses.replace(recipe.personalization, options=named)
    recipe = dataclasses.replace(recipe, data=data, model=model, trunk_cache=cache)
    return dataclasses.replace(recipe, federation=federation, personalization=personalization)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())
