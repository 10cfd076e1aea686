"""``federation.weighting``: by samples, alike, or as the rule's paper has it."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from fedfit.aggregation.table import RULES
from fedfit.core.update import Job
from fedfit.experiment.build import is_uniform
from fedfit.experiment.load import parse_recipe
from tests.builders import rule_of, tiny_experiment, tiny_recipe

PARTS = [np.arange(0, 4), np.arange(4, 16), np.arange(16, 48)]
SAMPLES = [4.0, 12.0, 32.0]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("weighting", ["rule", "samples", "uniform"])
def test_the_word_decides_and_else_the_rule(name: str, weighting: str) -> None:
    recipe = parse_recipe("", [f"federation.rule={name}", f"federation.weighting={weighting}"])
    rule = rule_of(name)
    assert is_uniform(recipe, rule) is {"rule": rule.traits.uniform, "samples": False, "uniform": True}[weighting]


def test_what_the_papers_say() -> None:
    """FSLoRA and SCAFFOLD average over the sampled devices; HetLoRA's weights are the norms alone, with pruning or without;
    the others weigh by samples."""
    uniform = {name for name, rule in RULES.items() if rule.traits().uniform}
    assert uniform == {"fslora", "hetlora", "hetlora_pruning", "scaffold"}


@pytest.mark.parametrize(("weighting", "weights"), [("rule", SAMPLES), ("samples", SAMPLES), ("uniform", [1.0, 1.0, 1.0])])
@pytest.mark.parametrize("name", ["fedavg", "ffa_lora", "rolora", "flexlora"])
def test_the_global_head_is_that_mean(name: str, weighting: str, weights: list[float], tiny_bert: Path) -> None:
    recipe = tiny_recipe(tiny_bert, federation={"rule": name, "weighting": weighting, "rounds": 1})
    made = tiny_experiment(recipe, None, parts=PARTS)
    after = made.rule.server.model(list(islice(made.run(), 2))[-1].state).update
    fresh = tiny_experiment(recipe, None, parts=PARTS)
    trained = fresh.rule.traits.trained(1, fresh.initial.present)
    updates = [
        fresh.trainer.train(Job(fresh.initial), fresh.parts.train, part, 1, device, trained)
        for device, part in enumerate(PARTS)
    ]
    for head, tensor in after.groups["head"].items():
        shares = zip(weights, updates, strict=True)
        mean = sum(weight / sum(weights) * update.groups["head"][head].double() for weight, update in shares)
        torch.testing.assert_close(tensor.double(), mean, rtol=1e-6, atol=1e-7)


def test_the_recorded_training_loss_is_by_samples_all_the_same(tiny_bert: Path) -> None:
    recipe = tiny_recipe(tiny_bert, federation={"weighting": "uniform", "rounds": 1})
    result = list(tiny_experiment(recipe, None, parts=PARTS).run())[-1]
    losses = [device.train_loss or 0.0 for device in result.devices]
    assert [device.samples for device in result.devices] == SAMPLES
    assert result.record.train_loss == pytest.approx(np.average(losses, weights=SAMPLES))
