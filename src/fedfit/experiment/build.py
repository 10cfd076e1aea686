"""From a validated recipe to the parts that run. Every part is made and wired here, once."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedfit.adapters.build import build_split_model
from fedfit.aggregation.contract import Rule
from fedfit.aggregation.table import make_rule
from fedfit.codecs.contract import Codec
from fedfit.codecs.table import make_codec
from fedfit.core.cache_folder import cache_folder
from fedfit.core.task import Task
from fedfit.core.update import Update
from fedfit.data.corpus import TextSet
from fedfit.data.partition import group_counts, partition
from fedfit.data.sources import load_corpus
from fedfit.data.tokenize import Samples
from fedfit.experiment.fingerprint import data_digest
from fedfit.experiment.rows_of_devices import check_holders, device_tests, encode, rows_of_others, set_apart
from fedfit.models.cost import adapted_shape
from fedfit.models.load import load_tokenizer
from fedfit.models.speaker import ModelSpeaker
from fedfit.models.split import SplitModel
from fedfit.models.trunk import Trunk, open_trunk
from fedfit.personalization.contract import Method
from fedfit.personalization.table import make_method
from fedfit.randomness import derive_seed
from fedfit.records import RoundResult
from fedfit.rounds.cluster import this_cluster
from fedfit.rounds.devices import Devices
from fedfit.rounds.evaluate import Policy
from fedfit.rounds.federation import Federation
from fedfit.rounds.loop import run
from fedfit.rounds.own_models import OwnModels
from fedfit.rounds.trainer import Trainer
from fedfit.settings import Recipe
from fedfit.simulation.clock import FleetClock
from fedfit.simulation.ranks import device_ranks
from fedfit.simulation.traffic import downlink_traffic, uplink_traffic
from fedfit.simulation.work import WorkModel, by_device
from fedfit.tasks.table import make_task, task_entry
from fedfit.tracking.memories import DeviceMemories
from fedfit.wireless.channel import mean_links
from fedfit.wireless.fleet import build_fleet
from fedfit.wireless.magnitudes import magnitude_warnings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """What a federation is made of: the resident model, the task, and the samples.

    Args:
        sets: the samples that the global model is measured on, by prefix: ``test``, perhaps ``validation``.
        train: the samples that devices hold.
        held: each device's rows of ``train``.
        own_tests: the rows that each device sets apart for itself.
        few_shot: the rows that each device sets apart for a method of personalisation.
        tokenizer: the model's; only a language model's answers need it.
    """

    recipe: Recipe
    model: SplitModel
    trunk: Trunk
    task: Task
    train: Samples
    sets: Mapping[str, Samples]
    held: Sequence[np.ndarray]
    own_tests: Sequence[np.ndarray] = ()
    few_shot: Sequence[np.ndarray] = ()
    memories: DeviceMemories = dataclasses.field(default_factory=DeviceMemories)
    tokenizer: Any = None


@dataclass
class Experiment:
    """A federation, ready to run, with the parts that others read.

    Args:
        facts: what the run folder says of the data.
        test_texts: the texts of the test set, to be quoted.
    """

    parts: Parts
    rule: Rule
    trainer: Trainer
    devices: Devices
    federation: Federation
    initial: Update
    clock: FleetClock | None = None
    label_names: tuple[str, ...] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    test_texts: TextSet | None = None

    @property
    def recipe(self) -> Recipe:
        """The recipe that it was built from."""
        return self.parts.recipe

    def run(self, last: RoundResult | None = None, failed: int = 0) -> Iterator[RoundResult]:
        """Round 0 and every round after it, or those after ``last``; see ``rounds.loop.run``."""
        return run(self.federation, self.initial, self.recipe.federation.rounds, last, failed)


def build(recipe: Recipe, device: torch.device | None = None, memories: DeviceMemories | None = None) -> Experiment:
    """Reads data and model and puts the parts together. Everything drawn is drawn from ``recipe.seed``.

    Raises:
        FedfitError: for data or a model that cannot be had, or that do not fit the recipe.
    """
    seed, federation = recipe.seed, recipe.federation
    corpus = load_corpus(recipe.data, derive_seed(seed, "subset"), task_entry(recipe.task.kind).read)
    task, tokenizer = make_task(recipe.task, corpus), load_tokenizer(recipe.model.name)
    corpus, sets = encode(task, corpus, tokenizer, recipe.data.max_tokens)
    train = sets.pop("train")
    cut = derive_seed(seed, "partition")
    held = partition(corpus.train, recipe.partition, federation.devices, cut, federation.devices_per_round)
    held, own_tests = device_tests(held, corpus.train, recipe.evaluation, seed)
    method = make_method(recipe)
    few_share = recipe.personalization.few_shot_share if method is not None and method.few_shot else 0.0
    held, few_shot = set_apart(held, few_share, seed, "few-shot", at_least=1)
    check_holders(held, federation)
    model = build_split_model(recipe.model.name, task.outputs, recipe.adapter, seed, device or pick_device())
    folder = Path(recipe.trunk_cache.folder).expanduser() if recipe.trunk_cache.folder else cache_folder() / "trunk"
    trunk = open_trunk(model, recipe.trunk_cache, folder, recipe.training.precision)
    kept = memories or DeviceMemories()
    experiment = assemble(Parts(recipe, model, trunk, task, train, sets, held, own_tests, few_shot, kept, tokenizer))
    experiment.label_names, experiment.test_texts = corpus.label_names, corpus.test
    labels, counts = group_counts(held, corpus.train, corpus.label_names, recipe.partition.column)
    facts: dict[str, Any] = {
        "labels": list(labels),
        "counts": counts.tolist(),
        "data": data_digest([train, *sets.values()], held),
    }
    if corpus.train.labels is None:
        facts["kinds"] = recipe.partition.column if recipe.partition.kind == "by_column" else ""
    if recipe.partition.column:
        values = corpus.train.columns.get(recipe.partition.column)
        facts["devices"] = None if values is None else [sorted({values[index] for index in part}) for part in held]
    experiment.facts = facts
    return experiment


def assemble(parts: Parts) -> Experiment:
    """The federation of ``parts``."""
    recipe, model = parts.recipe, parts.model
    settings, training = recipe.federation, recipe.training
    rule, method = make_rule(recipe, sum(len(part) > 0 for part in parts.held)), make_method(recipe)
    if method is not None:
        rule = method.rule(rule)
        if method.home_layers:
            model.adapter.keep_at_home(model.layers[-method.home_layers :])
    transport = recipe.transport
    uplink = make_codec(transport.uplink, feedback=transport.error_feedback, per=transport.per)
    downlink = make_codec(transport.downlink, per=transport.per)
    initial = model.adapter.snapshot()
    model.adapter.reserve(rule.server.max_rank(initial) * (method.rank_factor if method is not None else 1))
    trainer = Trainer(model, parts.trunk, parts.task, training, recipe.seed, settings.rounds, this_cluster())
    kept, rows = parts.memories, parts.held
    devices = Devices(rule, trainer, uplink, downlink, kept, initial, parts.train, rows, seed=recipe.seed, personal=method)
    passes = method.passes if method is not None else 1.0
    clock = build_clock(parts, rule, uplink, downlink, initial, passes) if recipe.plan.policy != "none" else None
    federation = Federation(
        rule=rule,
        groups=initial.present,
        uplink=uplink,
        downlink=downlink,
        link=devices,
        evaluator=_policy(parts, rule, trainer, method),
        samples=[len(part) for part in parts.held],
        devices_per_round=settings.devices_per_round,
        seed=recipe.seed,
        size=recipe.adapter.size,
        ranks=device_ranks(recipe),
        joins=settings.joins or (),
        uniform=is_uniform(recipe, rule),
        clock=clock,
        reply_deadline_s=settings.reply_deadline_s,
        max_failed_rounds=settings.max_failed_rounds,
    )
    return Experiment(parts, rule, trainer, devices, federation, initial, clock)


def _policy(parts: Parts, rule: Rule, trainer: Trainer, method: Method | None) -> Policy:
    evaluation = parts.recipe.evaluation
    models = evaluation.models
    if models == "auto":
        models = "devices" if rule.traits.personal else "global" if method is None else "both"
    few_shot = parts.few_shot or [np.zeros(0, dtype=np.int64)] * len(parts.held)
    own = None if method is None else OwnModels(method, trainer, parts.train, parts.held, few_shot)
    return Policy(
        rule=rule,
        model=parts.model,
        trunk=parts.trunk,
        task=parts.task,
        memories=parts.memories,
        sets=parts.sets,
        train=parts.train,
        holders=[device for device, part in enumerate(parts.held) if len(part)],
        tests=parts.own_tests,
        models=models,
        every=evaluation.every,
        rounds=parts.recipe.federation.rounds,
        precision=parts.recipe.training.precision,
        speaker=ModelSpeaker(parts.model, parts.tokenizer),
        own=own,
        others=rows_of_others(parts.own_tests, evaluation.others_samples, parts.recipe.seed),
    )


def is_uniform(recipe: Recipe, rule: Rule) -> bool:
    """Whether devices weigh alike: as the recipe says, else as the rule's paper has it."""
    return rule.traits.uniform if recipe.federation.weighting == "rule" else recipe.federation.weighting == "uniform"


def build_clock(
    parts: Parts, rule: Rule, uplink: Codec, downlink: Codec, initial: Update, trainings: float = 1.0
) -> FleetClock:
    """The fleet of the recipe over the devices of the partition; values far from the usual are reported in the log.

    Args:
        trainings: of a device in a round, each as long as the recipe's.
    """
    recipe = parts.recipe
    fleet = build_fleet(recipe.fleet, recipe.device, recipe.channel, recipe.server, recipe.federation.devices, recipe.seed)
    fleet = fleet.with_samples([len(part) for part in parts.held])
    work = WorkModel(
        recipe=recipe,
        fleet=fleet,
        shape=adapted_shape(parts.model.shape, recipe.adapter),
        lengths=by_device(parts.train.lengths, parts.held),
        reads=by_device(parts.task.reads(parts.train), parts.held) if parts.task.outputs is None else None,
        uplink=uplink_traffic(rule, uplink, initial, recipe.federation.rounds),
        downlink=downlink_traffic(rule, downlink, initial, recipe.federation.rounds),
        trainings=trainings,
    )
    bits = work.sent if recipe.plan.count == "sent" else work.formula
    rank_1 = bits.uplink_bits_fixed + bits.uplink_bits_per_rank, bits.downlink_bits_fixed + bits.downlink_bits_per_rank
    for warning in magnitude_warnings(fleet, mean_links(fleet), *(float(each.max()) for each in rank_1)):
        log.warning("%s", warning)
    return FleetClock(work)


def pick_device() -> torch.device:
    """A GPU if the machine has one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
