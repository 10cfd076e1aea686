"""FedEx-LoRA: what is merged is what FedAvg misses, in as few numbers as it has."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedfit.aggregation.rules.fedavg import FEDAVG
from fedfit.aggregation.rules.fedex_lora import FEDEX_LORA
from fedfit.core.update import AdapterSize, ServerState
from tests.builders import random_update, tiny_experiment, tiny_recipe

RULE, TRAITS = FEDEX_LORA.server, FEDEX_LORA.traits
WEIGHTS = (3.0, 5.0, 11.0)
UPDATES = [random_update(number, weight, rank=1) for number, weight in enumerate(WEIGHTS)]
START = random_update(9, rank=1)


def test_what_it_says_of_itself() -> None:
    flags = (TRAITS.mixed_ranks, TRAITS.fixed_rank, TRAITS.uniform, TRAITS.supports_server_optimizer)
    assert flags == (False, False, False, False)
    groups = frozenset({"lora_A", "lora_B", "head"})
    assert TRAITS.trained(1, groups) == TRAITS.downlink_groups(1, groups) == TRAITS.uplink_groups(1, groups) == groups
    assert TRAITS.exact == {"delta", "step_A", "step_B"}


def test_factors_and_head_are_fedavgs() -> None:
    mine = RULE.apply(RULE.init(START), UPDATES).adapter
    theirs = FEDAVG.server.apply(ServerState(START), UPDATES).adapter
    for name, pair in mine.factors.items():
        torch.testing.assert_close(pair.a, theirs.factors[name].a, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(pair.b, theirs.factors[name].b, rtol=1e-6, atol=1e-7)
    assert all(torch.equal(tensor, theirs.groups["head"][name]) for name, tensor in mine.groups["head"].items())


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_residual_is_the_covariance_and_has_its_rank(count: int) -> None:
    """½ Σ_ij p_i p_j (B_i − B_j)(A_i − A_j) is the same sum, without a mean; of I devices at rank 1 it has rank I − 1."""
    updates = UPDATES[:count]
    shares = [update.weight / sum(update.weight for update in updates) for update in updates]
    state = RULE.apply(RULE.init(START), updates)
    for name, merged in RULE.model(state).merged_delta.items():
        own = [update.factors[name] for update in updates]
        expected = torch.zeros(5, 6, dtype=torch.float64)
        for p, one in zip(shares, own, strict=True):
            for q, other in zip(shares, own, strict=True):
                expected += 0.5 * p * q * one.scale * (one.b - other.b).double() @ (one.a - other.a).double()
        torch.testing.assert_close(merged.double(), expected, rtol=1e-5, atol=1e-6)
        assert state.tensors[f"step_A.{name}"].shape == (count - 1, 6)
        assert state.tensors[f"step_B.{name}"].shape == (5, count - 1)
        assert (float(expected.norm()) > 0.1) == (count > 1)


def test_a_rank_that_changes_keeps_what_is_merged() -> None:
    state = RULE.apply(RULE.init(START), UPDATES)
    grown = RULE.resize(state, AdapterSize(3, 1.0), 0)
    before, after = RULE.model(state).merged_delta, RULE.model(grown).merged_delta
    assert before.keys() == after.keys() == START.factors.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert {len(pair.a) for pair in grown.adapter.factors.values()} == {3}
    for name, pair in grown.adapter.factors.items():
        old = state.adapter.factors[name]
        torch.testing.assert_close(pair.scale * pair.b @ pair.a, old.scale * old.b @ old.a, rtol=1e-5, atol=1e-6)


def test_it_is_another_model_than_fedavg_and_the_bytes_say_why(tiny_bert: Path) -> None:
    """From round 2 on the residual comes down: 2·r·(d + k) numbers a matrix of three devices. Up goes what FedAvg sends."""
    losses, lines = {}, {}
    for rule in ("fedavg", "fedex_lora"):
        recipe = tiny_recipe(tiny_bert, federation={"rule": rule, "rounds": 2}, training={"learning_rate": 0.05})
        rounds = list(tiny_experiment(recipe, None).run())
        losses[rule] = [result.record.metrics["test_loss"].value for result in rounds]
        lines[rule] = rounds[-1].devices
        matrices = len(recipe.adapter.targets) * 2
    assert losses["fedavg"][0] == losses["fedex_lora"][0]
    assert abs(losses["fedavg"][1] - losses["fedex_lora"][1]) > 1e-4
    residual = 4 * matrices * 2 * recipe.adapter.rank * 2 * 32
    for mine, other in zip(lines["fedex_lora"], lines["fedavg"], strict=True):
        assert residual < mine.downlink_bytes - other.downlink_bytes < residual + 2500
        assert abs(mine.uplink_bytes - other.uplink_bytes) <= 64
    assert all(math.isfinite(loss) for loss in losses["fedex_lora"])


def test_updates_that_agree_leave_nothing_to_merge() -> None:
    same = [replace(UPDATES[0], weight=weight) for weight in WEIGHTS]
    state = RULE.apply(RULE.init(START), same)
    merged = RULE.model(state).merged_delta
    assert merged.keys() == START.factors.keys()
    assert not any(delta.any() for delta in merged.values())
