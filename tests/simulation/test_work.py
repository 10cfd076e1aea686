"""Cycles of a round by the passes over a device's samples, worked out again from equation 2; and when a device is late."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedfit.simulation.clock import FleetClock
from tests.builders import tiny_experiment

from .test_clock import PRODUCTS, SAMPLES, planned

PLAN = {"policy": "fixed", "deadline_s": 1e4, "count": "formula"}


def clock_of(folder: Path, compute: str = "paper", parts: list[np.ndarray] | None = None, **training: Any) -> FleetClock:
    recipe = planned(folder, {**PLAN, "compute": compute}, training=training, channel={"fading": "none"})
    clock = tiny_experiment(recipe, None, parts=parts).clock
    assert clock is not None
    return clock


@pytest.mark.parametrize(
    ("training", "passes"),
    [
        ({"local_epochs": 1}, 1.0),
        ({"local_epochs": 3}, 3.0),
        ({"local_steps": 5, "batch_size": 8}, 5 * 8 / SAMPLES),
        ({"local_steps": 1, "batch_size": 4}, 4 / SAMPLES),
        ({"local_steps": 5, "batch_size": 8, "local_epochs": 3}, 5 * 8 / SAMPLES),  # steps take the place of epochs
    ],
)
@pytest.mark.parametrize("compute", ["paper", "flops"])
def test_cycles_are_those_of_all_passes(training: dict[str, Any], passes: float, compute: str, tiny_bert: Path) -> None:
    """Eq. 2: C·|D| = (2r − 1)·PRODUCTS for each sample that a round trains. Counted operations are as many times those of one
    epoch with the same batches.
    """
    work = clock_of(tiny_bert, compute, **training).work.formula
    if compute == "paper":
        fixed = np.full(3, -PRODUCTS * SAMPLES * passes)
        per_rank = -2 * fixed
    else:
        once = clock_of(tiny_bert, compute, batch_size=training.get("batch_size", 8), local_epochs=1).work.formula
        fixed, per_rank = once.cycles_fixed * passes, once.cycles_per_rank * passes
    np.testing.assert_allclose(work.cycles_fixed, fixed, rtol=1e-12)
    np.testing.assert_allclose(work.cycles_per_rank, per_rank, rtol=1e-12)


def test_passes_are_those_that_devices_really_make(tiny_bert: Path) -> None:
    """Steps of a device times the batch are its samples times the passes, for devices of 4, 12 and 32 samples."""
    parts = [np.arange(4), np.arange(4, 16), np.arange(16, 48)]
    work = clock_of(tiny_bert, parts=parts, local_steps=3, batch_size=4).work
    assert (work.passes * [4, 12, 32]).tolist() == [12, 12, 12]
    work = clock_of(tiny_bert, parts=parts, local_epochs=2).work
    assert work.passes.tolist() == [2, 2, 2]


@pytest.mark.parametrize("compute", ["paper", "flops"])
def test_a_device_without_samples_has_nothing_to_compute(compute: str, tiny_bert: Path) -> None:
    parts = [np.arange(0), np.arange(16), np.arange(16, 48)]
    work = clock_of(tiny_bert, compute, parts, local_steps=3, batch_size=4).work.formula
    assert work.cycles_fixed[0] == work.cycles_per_rank[0] == 0
    assert np.isfinite(work.cycles_per_rank).all()


def test_bits_of_the_formula_do_not_depend_on_the_passes(tiny_bert: Path) -> None:
    one, three = (clock_of(tiny_bert, local_epochs=epochs).work.formula for epochs in (1, 3))
    for name in ("uplink_bits_fixed", "uplink_bits_per_rank", "downlink_bits_fixed", "downlink_bits_per_rank"):
        assert getattr(one, name).tolist() == getattr(three, name).tolist()


@pytest.mark.parametrize(("over", "late"), [(0.0, False), (5e-10, False), (2e-9, True), (1e-3, True), (0.5, True)])
def test_a_sum_that_rounds_past_the_deadline_is_not_late(over: float, late: bool, tiny_bert: Path) -> None:
    """The frequency at which the round takes the deadline and ``over`` of it more, with a deadline of 60 s."""
    clock = tiny_experiment(planned(tiny_bert, {**PLAN, "deadline_s": 60.0}, channel={"fading": "none"}), None).clock
    assert clock is not None
    plan = clock.plan(1, [0])
    asked = plan.assignments[0]
    slow, _ = clock.charge(plan, 1, 0, 0, 0)
    cycles = slow.formula.compute_s * asked.frequency_hz
    radio_s = slow.formula.uplink_s + slow.formula.downlink_s
    at = replace(asked, frequency_hz=cycles / (60.0 * (1 + over) - radio_s))
    cost, refusal = clock.charge(replace(plan, assignments={0: at}), 1, 0, 0, 0)
    assert cost.formula.latency_s == pytest.approx(60.0 * (1 + over), rel=1e-14)
    assert (refusal is not None) == late
