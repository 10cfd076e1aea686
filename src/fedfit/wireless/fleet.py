"""A fleet as arrays, one entry a device, drawn from its settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from fedfit.fleet_settings import ChannelSettings, DeviceSettings, FleetSettings, HardwareSettings, ServerSettings
from fedfit.randomness import derive_seed
from fedfit.schema import Draw, Number


@dataclass(frozen=True)
class Fleet:
    """Arrays of float64, ``(devices,)``, by the names and units of ``[fleet]``; gains are means, ``(devices, servers)``.

    ``battery_j`` is infinite for a mains supply, ``layers`` is 0 where the device has no number of its own, ``samples`` is
    NaN where the partition decides. ``antennas`` is by server. A device without an id of its own is called by its number.
    """

    own_ids: tuple[str | None, ...]
    samples: np.ndarray
    max_frequency_hz: np.ndarray
    operations_per_cycle: np.ndarray
    capacitance: np.ndarray
    energy_budget_j: np.ndarray
    battery_j: np.ndarray
    circuit_energy_j: np.ndarray
    transmit_power_w: np.ndarray
    downlink_power_w: np.ndarray
    uplink_bandwidth_hz: np.ndarray
    downlink_bandwidth_hz: np.ndarray
    noise_w: np.ndarray
    layers: np.ndarray
    uplink_gain: np.ndarray
    downlink_gain: np.ndarray
    antennas: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.samples)

    def id_of(self, device: int) -> str:
        """The device's name, in plans and figures."""
        own = self.own_ids[device] if device < len(self.own_ids) else None
        return own if own is not None else f"device-{device}"

    def with_samples(self, samples: Sequence[float]) -> Fleet:
        """The same devices with other numbers of samples."""
        return replace(self, samples=np.asarray(samples, dtype=np.float64))

    def take(self, devices: Sequence[int] | np.ndarray) -> Fleet:
        """The fleet of ``devices`` alone, in that order."""
        rows = np.asarray(devices, dtype=np.int64)
        arrays = {item.name: getattr(self, item.name)[rows] for item in fields(self) if item.name not in _NOT_ROWS}
        return replace(self, own_ids=tuple(self.id_of(int(row)) for row in rows), **arrays)


_NOT_ROWS = ("own_ids", "antennas")
_DRAWN = tuple(item.name for item in fields(Fleet) if item.name not in (*_NOT_ROWS, "uplink_gain", "downlink_gain"))
_UNSET = {"samples": math.nan, "battery_j": math.inf, "layers": 0.0}


def build_fleet(
    common: FleetSettings,
    own: Sequence[DeviceSettings],
    channel: ChannelSettings,
    servers: Sequence[ServerSettings],
    count: int,
    seed: int,
) -> Fleet:
    """The fleet of ``count`` devices: ``own`` for the first of them, ``common`` for what those leave out.

    A drawn value depends on ``seed``, its key and the device's number alone: more devices change nothing for the first.
    """
    seed = common.seed if common.seed is not None else seed
    columns = {name: _column(name, common, own, count, seed) for name in _DRAWN}
    columns = {name: np.where(np.isnan(values), _UNSET.get(name, np.nan), values) for name, values in columns.items()}
    servers = servers or (ServerSettings(),)
    uplink, downlink = (
        _mean_gains(name, common, own, channel, servers, count, seed) for name in ("uplink_gain", "downlink_gain")
    )
    antennas = tuple(server.antennas or channel.antennas for server in servers)
    return Fleet(tuple(device.id for device in own), **columns, uplink_gain=uplink, downlink_gain=downlink, antennas=antennas)


def _column(name: str, common: FleetSettings, own: Sequence[DeviceSettings], count: int, seed: int) -> np.ndarray:
    """``name`` of every device, NaN where nothing says it."""
    values = draw_numbers(getattr(common, name), count, derive_seed(seed, "fleet", name))
    for device, settings in enumerate(own):
        if getattr(settings, name) is not None:
            values[device] = draw_numbers(getattr(settings, name), 1, derive_seed(seed, "fleet", name, device))[0]
    return np.maximum(np.rint(values), 1) if _whole(name) else values  # a log-normal value may round to none


def _whole(name: str) -> bool:
    return any(item.name == name and item.metadata.get("whole") for item in fields(HardwareSettings))


def draw_numbers(number: Number | None, count: int, seed: int) -> np.ndarray:
    """``count`` values of ``number``, float64: all the same, drawn from ``seed``, or NaN for none."""
    if not isinstance(number, Draw):
        return np.full(count, math.nan if number is None else float(number))
    generator, values = np.random.default_rng(seed), np.asarray(number.values, dtype=np.float64)
    if number.kind == "choice":
        return values[generator.integers(0, len(values), count)]
    first, second = values
    if number.kind == "lognormal":
        return np.asarray(first * np.exp(second * generator.standard_normal(count)))
    if number.kind == "loguniform":
        return np.asarray(np.exp(generator.uniform(np.log(first), np.log(second), count)))
    return generator.uniform(first, second, count)


def _mean_gains(
    name: str,
    common: FleetSettings,
    own: Sequence[DeviceSettings],
    channel: ChannelSettings,
    servers: Sequence[ServerSettings],
    count: int,
    seed: int,
) -> np.ndarray:
    """``(devices, servers)``: as given, or by path loss and shadowing where there is a distance or a position."""
    given = np.repeat(_column(name, common, own, count, seed)[:, None], len(servers), axis=1)
    x, y, distance = (_column(axis, common, own, count, seed) for axis in ("x_m", "y_m", "distance_m"))
    apart = np.hypot(x[:, None] - [s.x_m for s in servers], y[:, None] - [s.y_m for s in servers])
    apart = np.where(np.isnan(apart), distance[:, None], apart)
    # Below a metre the far-field law would give more than was sent.
    by_distance = channel.reference_gain * np.maximum(apart, 1.0) ** -channel.path_loss_exponent
    if channel.shadowing_db > 0:  # the same up and down: what stands in the way stands in both
        generator = np.random.default_rng(derive_seed(seed, "shadowing"))
        by_distance *= 10 ** (channel.shadowing_db * generator.standard_normal((count, len(servers))) / 10)
    return np.where(np.isnan(apart), given, by_distance)
