"""Everything else that must hold of a recipe, checked before any work and reported all at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fedfit.data_settings import FILE_SOURCES
from fedfit.errors import Fault, ModelError, RecipeError, choose
from fedfit.experiment.component_faults import component_faults
from fedfit.experiment.fleet_faults import plan_faults
from fedfit.experiment.limits import limit_faults
from fedfit.experiment.personal_faults import home_faults, personal_faults
from fedfit.experiment.rank_faults import rank_faults
from fedfit.experiment.rule_faults import rule_faults
from fedfit.experiment.task_faults import task_faults
from fedfit.experiment.tracking_faults import missing_packages, unknown_sinks
from fedfit.settings import Recipe


def validate(recipe: Recipe) -> None:
    """Holds ``recipe`` to the limits of every key, to what fits together, and to the model's own shape.

    The model's configuration is read when it can be had; its weights and the data are not.

    Raises:
        RecipeError: with every fault found.
    """
    faults = [*validate_offline(recipe), *missing_packages(recipe)]
    reported = {fault.key for fault in faults}
    faults += [fault for fault in (*_missing_files(recipe), *_against_model(recipe)) if fault.key not in reported]
    if faults:
        raise RecipeError(faults)


def validate_offline(recipe: Recipe) -> list[Fault]:
    """The faults that can be seen without reading the model's configuration or any file."""
    return [
        *key_faults(recipe),
        *_data(recipe),
        *_federation(recipe),
        *_evaluation(recipe),
        *plan_faults(recipe),
        *rule_faults(recipe),
        *task_faults(recipe),
        *personal_faults(recipe),
    ]


def key_faults(recipe: Recipe) -> list[Fault]:
    """The faults of single keys, whatever the others hold."""
    faults = [*limit_faults(recipe), *_name(recipe), *component_faults(recipe), *_adapter(recipe), *_cache(recipe)]
    return [*faults, *unknown_sinks(recipe)]


def _name(recipe: Recipe) -> Iterator[Fault]:
    if recipe.name in ("", ".", "..") or "/" in recipe.name or not recipe.name.isprintable():
        yield Fault("name", recipe.name, "it names the run folder; give one word or several, without / and line breaks")


def _data(recipe: Recipe) -> Iterator[Fault]:
    data = recipe.data
    if data.source == "hub" and not data.name:
        yield Fault("data.name", data.name, 'source = "hub" needs the data set\'s name there')
    if data.source in FILE_SOURCES:
        for name in ("train", "test"):
            if not getattr(data, name):
                yield Fault(f"data.{name}", getattr(data, name), f'source = "{data.source}" needs the path of a file')
        if not data.text:
            yield Fault("data.text", list(data.text), "name at least one column")
    else:
        for name in ("train", "test", "validation", "pair"):
            if getattr(data, name) is not None and not (name == "pair" and data.source == "hub"):
                remedy = f'source = "{data.source}" does not read it; remove it, or set data.source to a file format'
                if name == "validation":
                    remedy = f'source = "{data.source}" has no such file; set data.validation_share instead'
                yield Fault(f"data.{name}", getattr(data, name), remedy)
    if data.validation is not None and data.validation_share:
        remedy = "data.validation is a file for the same purpose; remove one of the two"
        yield Fault("data.validation_share", data.validation_share, remedy)
    if data.name is not None and data.source != "hub":
        yield Fault("data.name", data.name, f'source = "{data.source}" does not read it; set data.source to "hub"')
    if data.columns is not None and data.source not in ("csv", "tsv"):
        yield Fault("data.columns", list(data.columns), "only csv and tsv files may lack a header; remove the key")
    if recipe.partition.kind == "by_column" and not recipe.partition.column:
        yield Fault("partition.column", recipe.partition.column, "by_column needs the column whose values are the devices")


def _evaluation(recipe: Recipe) -> Iterator[Fault]:
    evaluation = recipe.evaluation
    for name in ("device_test_column", "others_samples"):
        if getattr(evaluation, name) and not evaluation.device_test_share:
            remedy = "no device sets a test part apart; set evaluation.device_test_share to 0.3, for example, or remove it"
            yield Fault(f"evaluation.{name}", getattr(evaluation, name), remedy)


def _missing_files(recipe: Recipe) -> Iterator[Fault]:
    data = recipe.data
    if data.source in FILE_SOURCES:
        for name in ("train", "test", "validation"):
            path = getattr(data, name)
            if path is not None and not _is_file(path):
                yield Fault(f"data.{name}", path, "no such file; relative paths start at the working folder")


def _is_file(path: str) -> bool:
    expanded = _expanded(path)
    return expanded is not None and expanded.is_file()


def _expanded(path: str) -> Path | None:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # ~nobody
        return None


def _cache(recipe: Recipe) -> Iterator[Fault]:
    folder = recipe.trunk_cache.folder
    if folder is not None and ("\0" in folder or _expanded(folder) is None):
        yield Fault("trunk_cache.folder", folder, "give the path of a folder, or leave the key out")


def _joins(recipe: Recipe) -> Iterator[Fault]:
    devices, joins = recipe.federation.devices, recipe.federation.joins
    if joins is None:
        return
    if len(joins) != devices:
        yield Fault("federation.joins", list(joins), f"there are {devices} devices; give each the round in which it joins")
    elif min(joins) != 1:
        yield Fault("federation.joins", list(joins), "rounds count from 1, and one device at least must join in the first")


def _federation(recipe: Recipe) -> Iterator[Fault]:
    federation, training = recipe.federation, recipe.training
    if federation.devices_per_round > federation.devices:
        yield Fault(
            "federation.devices_per_round",
            federation.devices_per_round,
            f"there are {federation.devices} devices; lower it, or raise federation.devices",
        )
    yield from _joins(recipe)
    yield from rank_faults(recipe)
    if training.momentum and training.optimizer != "sgd":
        yield Fault("training.momentum", training.momentum, f"{training.optimizer} has none; set optimizer to sgd, or it to 0")
    train_samples = recipe.data.train_samples
    if train_samples is not None and 0 < train_samples < federation.devices:
        yield Fault(
            "federation.devices",
            federation.devices,
            f"data.train_samples = {train_samples} is fewer; not every device can have one",
        )


def _adapter(recipe: Recipe) -> Iterator[Fault]:
    from fedfit.models.families import TARGETS
    from fedfit.models.layers import select_layers
    from fedfit.models.targets import NOT_ADAPTABLE

    adapter = recipe.adapter
    if not adapter.targets:
        yield Fault("adapter.targets", [], f"name at least one of {', '.join(TARGETS)}")
    for target in adapter.targets:
        if target in NOT_ADAPTABLE:
            remedy = "embeddings and heads are not adapted; in many models both are one tensor"
            yield Fault("adapter.targets", target, f"{remedy}: {choose(target, TARGETS)}")
        elif target not in TARGETS:
            yield Fault("adapter.targets", target, choose(target, TARGETS))
    if len(set(adapter.targets)) != len(adapter.targets):
        yield Fault("adapter.targets", list(adapter.targets), "name each matrix once")
    try:
        select_layers(adapter.layers, 10_000)  # the words alone; the model's own count is checked later
    except ValueError as error:
        yield Fault("adapter.layers", adapter.layers, str(error))


def _against_model(recipe: Recipe) -> Iterator[Fault]:
    from fedfit.models.families import family_of
    from fedfit.models.layers import select_layers
    from fedfit.models.load import load_config
    from fedfit.models.targets import resolve

    try:
        config = load_config(recipe.model.name)
    except ModelError as error:
        yield Fault("model.name", recipe.model.name, str(error))
        return
    shape = family_of(config.model_type).shape(config, config.num_labels)
    try:
        yield from home_faults(recipe, len(select_layers(recipe.adapter.layers, shape.layers)))
    except ValueError as error:
        yield Fault("adapter.layers", recipe.adapter.layers, str(error))
    named = {target: resolve(target, shape.matrices) for target in recipe.adapter.targets}
    for target, found in named.items():
        if not found:
            yield Fault("adapter.targets", target, choose(target, tuple(shape.matrices)))
    sizes = [min(shape.matrices[name].size) for found in named.values() for name in found]
    if sizes and recipe.adapter.rank > max(sizes):
        remedy = f"the model's matrices have {max(sizes)} rows; a higher rank than that adds nothing"
        yield Fault("adapter.rank", recipe.adapter.rank, remedy)
    if recipe.data.max_tokens > shape.longest:
        yield Fault("data.max_tokens", recipe.data.max_tokens, f"the model reads at most {shape.longest} tokens")
