"""The scenes of devices' own models: ``fedfit reproduce personal-logs``, ``personal-intents``, ``personal-log-questions`` and
``personal-trades``.

Logs and instructions of several trades are those of FDLoRA (arXiv 2406.07925), as far as there are open data. This module runs
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedfit.sweeps.comparison import Case, Comparison
from fedfit.sweeps.metric import OWN, Metric
from fedfit.sweeps.personal_base import personal_base
from fedfit.sweeps.personal_methods import MINILM, SCENE, SEARCH_SEED, SMOLLM2, WITH_HEADS, claims, methods, notes

SCALES = ("smoke", "small")
LOGS, INTENTS, QUESTIONS, TRADES = "personal-logs", "personal-intents", "personal-log-questions", "personal-trades"

APART, MIXED = "templates apart", "lines at random"
"""The two ways to cut the lines of a log into training and test."""


@dataclass(frozen=True)
class Size:
    """The size of a scene at one scale. ``rounds`` and ``steps`` are those of a device that trains one adapter."""

    devices: int
    samples: int | None
    test_samples: int | None
    rounds: int
    steps: int
    batch_size: int
    rates: tuple[float, ...]
    seeds: int


SIZES = {
    LOGS: {
        "smoke": Size(3, 120, 60, 2, 2, 4, (1e-2,), 1),
        "small": Size(10, None, None, 8, 8, 16, (1e-2, 3e-2), 3),
    },
    INTENTS: {
        "smoke": Size(2, 300, 60, 2, 2, 4, (1e-2,), 1),
        "small": Size(10, 6000, 600, 12, 16, 16, (1e-2, 3e-2), 3),
    },
    QUESTIONS: {
        "smoke": Size(3, 90, 30, 2, 2, 2, (1e-2,), 1),
        "small": Size(5, 800, 100, 6, 6, 8, (5e-3, 2e-2), 3),
    },
    TRADES: {
        "smoke": Size(5, 60, 10, 2, 2, 2, (1e-2,), 1),
        "small": Size(5, 400, 40, 6, 4, 8, (5e-3, 2e-2), 3),
    },
}
"""Scene → scale → size."""
OTHERS = {"smoke": 4, "small": 40}
"""Samples of other trades on which a device's model of instructions is measured."""


def logs(scale: str) -> Comparison:
    """Lines of a supercomputer's log, normal or an anomaly, by node; F1 of the anomalies.

    Lines repeat templates. Where these are kept apart, no line of the test has a template that any device has trained on.
    """
    size = SIZES[LOGS][scale]
    task = '[task]\nmetrics = ["f1", "accuracy"]\npositive = "anomaly"'
    spread = '[partition]\nkind = "by_column"\ncolumn = "Node"'
    base = personal_base(size, "minilm", 32, spread, task=task, evaluation='device_test_column = "EventId"')
    cases = (Case("bgl", variant=APART), Case("bgl", variant=MIXED, changes=("evaluation.device_test_column=",)))
    return _comparison(
        LOGS, "Anomalies in a log, by node", scale, base, cases, ("f1", "f1_worst", "f1_spread", "accuracy"), MINILM
    )


def intents(scale: str) -> Comparison:
    """Requests of a bank's customers in 77 intents; a device has shards of the requests sorted by intent."""
    size = SIZES[INTENTS][scale]
    spread = '[partition]\nkind = "shards"\nshards_per_device = 8'
    metrics = ("accuracy", "accuracy_worst", "accuracy_p10", "accuracy_spread")
    base = personal_base(size, "minilm", 24, spread)
    return _comparison(INTENTS, "Intents of a bank's customers, by shards", scale, base, (Case("banking77"),), metrics, MINILM)


def questions(scale: str) -> Comparison:
    """The log's lines as questions to a language model; F1 of its answer ``anomaly``."""
    size = SIZES[QUESTIONS][scale]
    task = '[task]\nkind = "instruction"\npositive = "anomaly"'
    spread = '[partition]\nkind = "by_column"\ncolumn = "Node"'
    base = personal_base(size, "smollm2", 96, spread, task=task, evaluation='device_test_column = "EventId"')
    metrics = ("answer_f1", "answer_f1_worst", "answer_f1_spread", "answer_accuracy", "loss")
    return _comparison(QUESTIONS, "Anomalies in a log, asked", scale, base, (Case("bgl-instruct"),), metrics, SMOLLM2)


def trades(scale: str) -> Comparison:
    """Instructions of five trades, a device each; the loss on a device's own, and on others'."""
    size = SIZES[TRADES][scale]
    spread = '[partition]\nkind = "by_column"\ncolumn = "domain"'
    task, others = '[task]\nkind = "instruction"', f"others_samples = {OTHERS[scale]}"
    base = personal_base(size, "smollm2", 128, spread, task=task, evaluation=others)
    metrics = ("loss", "loss_worst", "loss_spread", "others_loss")
    return _comparison(TRADES, "Instructions of five trades, a device each", scale, base, (Case("domains"),), metrics, SMOLLM2)


SCENES = {LOGS: logs, INTENTS: intents, QUESTIONS: questions, TRADES: trades}
"""The comparisons by name."""


def _comparison(
    name: str, title: str, scale: str, base: str, cases: tuple[Case, ...], metrics: tuple[str, ...], model: str
) -> Comparison:
    size, language = SIZES[name][scale], model == SMOLLM2
    every = methods(size.rounds, size.steps)
    names = [line for line in SCENE if not (language and line in WITH_HEADS)]
    spread = ("partition.kind", "partition.shards_per_device" if name == INTENTS else "partition.column")
    return Comparison(
        name=name,
        title=title,
        scale=scale,
        base=base,
        methods=tuple(every[line] for line in names),
        cases=cases,
        rates=size.rates,
        search_alpha=None,
        search_seed=SEARCH_SEED,
        targets={},
        claims=claims(names, metrics[0], metrics[1:]),
        notes=notes("open data", model, spread),
        seeds=tuple(range(size.seeds)),
        metric=Metric(metrics[0], OWN),
        beside=metrics[1:],
    )
