"""The recipe that the comparisons of devices' own models share. This module runs nothing."""

from __future__ import annotations

from typing import Protocol

RANK = 8


class PersonalSize(Protocol):
    """What a comparison's size says. ``rounds`` and ``steps`` are those of a device that trains one adapter."""

    @property
    def devices(self) -> int:
        """Devices, all of them in every round."""

    @property
    def samples(self) -> int | None:
        """Training samples; all of the data set's where it is ``None``."""

    @property
    def test_samples(self) -> int | None:
        """Test samples, as ``samples``."""

    @property
    def rounds(self) -> int:
        """Rounds; the last one alone is measured."""

    @property
    def steps(self) -> int:
        """Steps of a device in a round."""

    @property
    def batch_size(self) -> int:
        """Samples in a step."""


def personal_base(size: PersonalSize, model: str, max_tokens: int, spread: str, *, task: str = "", evaluation: str = "") -> str:
    """A recipe in TOML.

    Args:
        spread: the table ``[partition]``.
        task: the table ``[task]``.
        evaluation: further keys of ``[evaluation]``.
    """
    counts = {"train_samples": size.samples, "test_samples": size.test_samples}
    samples = "".join(f"{key} = {count}\n" for key, count in counts.items() if count is not None)
    targets = '["q_proj", "v_proj"]' if model == "smollm2" else '["query", "value"]'
    return f"""
{task}
[data]
max_tokens = {max_tokens}
{samples}{spread}
[model]
name = "{model}"
[adapter]
rank = {RANK}
alpha = {RANK}
layers = "last:2"
targets = {targets}
[federation]
devices = {size.devices}
devices_per_round = {size.devices}
rounds = {size.rounds}
weighting = "samples"
max_failed_rounds = 1000
[training]
local_steps = {size.steps}
schedule = "linear"
batch_size = {size.batch_size}
[evaluation]
every = {size.rounds}
device_test_share = 0.3
{evaluation}
"""
