"""From a validated recipe to the parts that run, and from a run folder to where it stopped."""

from __future__ import annotations

import dataclasses
import logging
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from fedfit.aggregation.rules import make_rule
from fedfit.codecs.safetensors import SafetensorsCodec
from fedfit.data.cache_folder import cache_folder
from fedfit.data.partition import label_counts, partition
from fedfit.data.sources import load_corpus
from fedfit.data.tokenize import tokenize
from fedfit.errors import Fault, RecipeError
from fedfit.experiment.fingerprint import data_digest
from fedfit.models.cost import adapted_shape
from fedfit.models.load import load_tokenizer
from fedfit.models.split import build_split_model
from fedfit.models.trunk import open_trunk
from fedfit.randomness import derive_seed
from fedfit.settings import FILE_SOURCES, Recipe
from fedfit.simulation.clock import FleetClock
from fedfit.simulation.run import Simulation
from fedfit.simulation.traffic import downlink_traffic, uplink_traffic
from fedfit.simulation.work import WorkModel, device_lengths
from fedfit.wireless.channel import mean_links
from fedfit.wireless.fleet import build_fleet
from fedfit.wireless.magnitudes import magnitude_warnings

log = logging.getLogger(__name__)

_PACKAGES = ("fedfit", "torch", "transformers", "peft", "numpy", "datasets", "flwr-datasets", "safetensors")


@dataclass
class Experiment:
    """A recipe, built: the simulation, and what the run folder says of it."""

    simulation: Simulation
    label_names: tuple[str, ...]
    partition: Mapping[str, Any]


def resolve_paths(recipe: Recipe) -> Recipe:
    """A valid recipe with absolute paths, so that it means the same wherever it is resumed."""
    data, model, cache = recipe.data, recipe.model, recipe.trunk_cache
    if data.source in FILE_SOURCES:
        train, test, validation = (path and _absolute(path) for path in (data.train, data.test, data.validation))
        data = dataclasses.replace(data, train=train, test=test, validation=validation)
    if Path(model.name).is_dir():
        model = dataclasses.replace(model, name=_absolute(model.name))
    if cache.folder:
        cache = dataclasses.replace(cache, folder=_absolute(cache.folder))
    return dataclasses.replace(recipe, data=data, model=model, trunk_cache=cache)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())


def build(recipe: Recipe, device: torch.device | None = None) -> Experiment:
    """Reads data and model and puts the parts together. Everything drawn is drawn from ``recipe.seed``.

    Raises:
        FedfitError: for data or a model that cannot be had, or that do not fit the recipe.
    """
    seed, federation = recipe.seed, recipe.federation
    device = device or pick_device()
    corpus = load_corpus(recipe.data, derive_seed(seed, "subset"))
    parts = partition(corpus.train, recipe.partition, federation.devices, derive_seed(seed, "partition"))
    holders = sum(len(part) > 0 for part in parts)
    if holders < federation.devices_per_round:
        remedy = f"only {holders} of {federation.devices} devices hold a sample after the partition; lower it, or skew less"
        raise RecipeError([Fault("federation.devices_per_round", federation.devices_per_round, remedy)])
    model = build_split_model(recipe.model.name, len(corpus.label_names), recipe.adapter, seed, device)
    tokenizer = load_tokenizer(recipe.model.name)
    train = tokenize(corpus.train, tokenizer, recipe.data.max_tokens)
    test = tokenize(corpus.test, tokenizer, recipe.data.max_tokens)
    folder = Path(recipe.trunk_cache.folder).expanduser() if recipe.trunk_cache.folder else cache_folder() / "trunk"
    simulation = Simulation(
        recipe=recipe,
        model=model,
        trunk=open_trunk(model, recipe.trunk_cache, folder, recipe.training.precision),
        train=train,
        test=test,
        parts=parts,
        rule=make_rule(recipe, holders),
        codec=SafetensorsCodec(),
    )
    if recipe.plan.policy != "none":
        simulation.clock = build_clock(simulation)
    counts = label_counts(parts, train.labels, len(corpus.label_names))
    facts: dict[str, Any] = {
        "labels": list(corpus.label_names),
        "counts": counts.tolist(),
        "data": data_digest(train, test, parts),
    }
    if recipe.partition.column:
        values = corpus.train.columns.get(recipe.partition.column)
        facts["devices"] = None if values is None else [sorted({values[index] for index in part}) for part in parts]
    return Experiment(simulation, corpus.label_names, facts)


def build_clock(simulation: Simulation) -> FleetClock:
    """The fleet of the recipe over the devices of the partition; values far from what is usual are told in the log."""
    recipe, model = simulation.recipe, simulation.model
    own, channel, count = recipe.device, recipe.channel, recipe.federation.devices
    fleet = build_fleet(recipe.fleet, own, channel, recipe.server, count, recipe.seed)
    fleet = fleet.with_samples([len(part) for part in simulation.parts])
    packets = simulation.rule, simulation.codec, simulation.initial, recipe.federation.rounds
    work = WorkModel(
        recipe=recipe,
        fleet=fleet,
        shape=adapted_shape(model.shape, recipe.adapter),
        lengths=device_lengths(simulation.train, simulation.parts),
        uplink=uplink_traffic(*packets),
        downlink=downlink_traffic(*packets),
    )
    bits = work.sent if recipe.plan.count == "sent" else work.formula
    rank_1 = bits.uplink_bits_fixed + bits.uplink_bits_per_rank, bits.downlink_bits_fixed + bits.downlink_bits_per_rank
    for warning in magnitude_warnings(fleet, mean_links(fleet), *(float(each.max()) for each in rank_1)):
        log.warning("%s", warning)
    return FleetClock(work)


def pick_device() -> torch.device:
    """A GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def environment(device: torch.device) -> dict[str, Any]:
    """What the run ran on; kept beside its results."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in _PACKAGES},
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "byte_order": sys.byteorder,
    }
