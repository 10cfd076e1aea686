"""FLoRA: exactness over real rounds is in the battery; here what a step does, and what travels."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from fedfit.aggregation.rules.flora import FLORA
from fedfit.core.update import AdapterSize
from tests.aggregation.watching import uploads_of
from tests.builders import HIDDEN, random_update, tiny_experiment, tiny_recipe

RULE, TRAITS = FLORA.server, FLORA.traits
START = random_update(99, rank=4)
PLAIN = {"optimizer": "sgd", "learning_rate": 0.5, "weight_decay": 0.0, "max_grad_norm": 0.0, "batch_size": 64}


def test_what_it_says_of_itself() -> None:
    flags = (TRAITS.mixed_ranks, TRAITS.fixed_rank, TRAITS.uniform, TRAITS.supports_server_optimizer)
    assert flags == (True, False, False, False)
    groups = frozenset({"lora_A", "lora_B", "head"})
    assert TRAITS.downlink_groups(1, groups) == {"head"}
    assert TRAITS.trained(1, groups) == TRAITS.uplink_groups(1, groups) == groups


def test_every_device_starts_from_a_fresh_pair_of_its_own() -> None:
    """A as PEFT draws it, within ±1/√k, another for every device, module and round; B zero."""
    state = RULE.init(START)
    one, other = (RULE.dispatch(state, 0, AdapterSize(3, 2.0), seed) for seed in (1, 2))
    rows = [pair.a for update in (one, other) for pair in update.factors.values()]
    for index, a in enumerate(rows):
        assert a.shape == (3, 6)
        assert 0.5 / 6**0.5 < float(a.abs().max()) <= 1 / 6**0.5
        assert not any(torch.equal(a, b) for b in rows[index + 1 :])
    assert not any(pair.b.any() for pair in one.factors.values())
    again = RULE.dispatch(state, 0, AdapterSize(3, 2.0), 1)
    assert all(torch.equal(pair.a, again.factors[name].a) for name, pair in one.factors.items())


def test_what_was_there_before_the_first_round_is_merged() -> None:
    state = RULE.init(START)
    assert RULE.model(state).merged_delta.keys() == START.factors.keys()
    for name, moved in RULE.model(state).merged_delta.items():
        pair = START.factors[name]
        torch.testing.assert_close(moved, pair.scale * (pair.b @ pair.a), rtol=1e-5, atol=1e-6)
    assert not any(pair.b.any() for pair in state.adapter.factors.values())


def test_one_step_of_plain_sgd_on_equal_data(tiny_bert: Path) -> None:
    """From B = 0 a step gives B_i = −η s_i G A_iᵀ and leaves A_i, G = ∂ℓ/∂W of all; so W moves by −η G Σ p_i s_i² A_iᵀA_i.

    A device of full rank has an A that can be inverted, so its B says what G is: B = −η s G Aᵀ.
    """
    ranks = (2, 5, HIDDEN)
    recipe = tiny_recipe(
        tiny_bert,
        federation={"rule": "flora", "ranks": ranks, "rounds": 1},
        adapter={"rank": HIDDEN, "alpha": 8.0},
        training=PLAIN,
    )
    made = tiny_experiment(recipe, None, parts=[np.arange(16)] * 3)
    seen = uploads_of(made)
    first, last = islice(made.run(), 2)
    model = made.rule.server.model
    assert model(first.state).merged_delta == {}
    assert len(seen) == 3
    assert model(last.state).merged_delta.keys() == made.initial.factors.keys()
    rate, shares = 0.5, [1 / 3] * 3
    for name, moved in model(last.state).merged_delta.items():
        pairs = [update.factors[name] for update in seen]
        whole = pairs[2]
        gradient = -whole.b.double() @ torch.linalg.inv(whole.a.double()).t() / (rate * whole.scale)
        for pair in pairs[:2]:
            expected = -rate * pair.scale * gradient @ pair.a.double().t()
            assert float((pair.b.double() - expected).norm()) < 1e-3 * float(expected.norm())
        weights = sum(p * pair.scale**2 * pair.a.double().t() @ pair.a.double() for p, pair in zip(shares, pairs, strict=True))
        step = -rate * gradient @ weights
        assert float(step.norm()) > 1e-4, "a test of nothing"
        assert float((moved.double() - step).norm()) < 1e-3 * float(step.norm())


@pytest.mark.parametrize("rank", [1, 3])
def test_bytes_are_those_of_the_factors_up_and_of_the_stack_down(tiny_bert: Path, rank: int) -> None:
    """Up: r·(d + k) numbers a matrix. Down: nothing but the head in round 1, then a stack of 3·r, while 3·r·(d + k) < d·k."""
    recipe = tiny_recipe(
        tiny_bert,
        federation={"rule": "flora", "ranks": (rank,) * 3, "rounds": 2},
        adapter={"rank": 4},
        training={"local_steps": 1},
    )
    made = tiny_experiment(recipe, None)
    _, first, second = made.run()
    matrices = len(made.initial.factors)
    head = 4 * sum(tensor.numel() for tensor in made.initial.groups["head"].values())
    up, stack = 4 * matrices * rank * 2 * HIDDEN, 4 * matrices * 3 * rank * 2 * HIDDEN
    framing = 2500
    for device in first.devices:
        assert head <= device.downlink_bytes < head + framing
        assert up + head <= device.uplink_bytes < up + head + framing
    assert 3 * rank * 2 * HIDDEN < HIDDEN**2
    for device in second.devices:
        assert stack + head <= device.downlink_bytes < stack + head + framing
