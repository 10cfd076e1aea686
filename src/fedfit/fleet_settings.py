"""The schema of a fleet: devices, their radio, and the round they must keep to. In a recipe, or in a file of its own.

Symbols are those of the system model (``docs/system-model.md``). Units are part of a name.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from fedfit.schema import Draw, Number, key


@dataclass(frozen=True)
class HardwareSettings:
    """What a device is; common to `[fleet]` and `[[device]]`."""

    samples: Number | None = key(None, "its training samples; in a recipe the partition decides", minimum=1, whole=True)
    max_frequency_hz: Number | None = key(None, "f_max, the fastest that its CPU runs", above=0)
    operations_per_cycle: Number | None = key(None, "operations that the CPU does in a cycle; 1 is the paper's count", above=0)
    capacitance: Number | None = key(None, "Ω, effective capacitance in J·s²/cycle³", above=0)
    energy_budget_j: Number | None = key(None, "E_0, what it may spend in a round", above=0)
    battery_j: Number | None = key(None, "what it may spend in the whole run; unset for a mains supply", above=0)
    circuit_energy_j: Number | None = key(None, "ξ, spent in every round whatever is trained, reception included", minimum=0)
    transmit_power_w: Number | None = key(None, "P of the uplink", above=0)
    downlink_power_w: Number | None = key(None, "P of the server's downlink to this device", above=0)
    uplink_bandwidth_hz: Number | None = key(None, "B of its sub-band, uplink", above=0)
    downlink_bandwidth_hz: Number | None = key(None, "B of its sub-band, downlink", above=0)
    uplink_gain: Number | None = key(None, "h, mean channel power gain of the uplink, unless a distance is given", above=0)
    downlink_gain: Number | None = key(None, "h, mean channel power gain of the downlink, unless a distance is given", above=0)
    distance_m: Number | None = key(None, "from the only server; the path loss of `[channel]` then gives the gains", above=0)
    x_m: Number | None = key(None, "position, with `[[server]]`; the path loss of `[channel]` then gives the gains")
    y_m: Number | None = key(None, "position, with `[[server]]`")
    noise_w: Number | None = key(None, "N_0, noise power in the sub-band", above=0)
    layers: Number | None = key(
        None, "l, layers that it trains, in a fleet file; default that of `[adaptation]`", minimum=1, whole=True
    )


@dataclass(frozen=True)
class DeviceSettings(HardwareSettings):
    """A device. A key that is left out is that of `[fleet]`."""

    id: str | None = key(None, "its name in plans and figures; by default its number")


def _common(name: str, default: Number) -> Any:
    """A device's key with a default for the whole fleet."""
    metadata = next(item.metadata for item in fields(HardwareSettings) if item.name == name)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class FleetSettings(HardwareSettings):
    """What all devices have in common. A number may be a distribution that each device draws from:
    `{uniform = [0.2e-25, 1e-25]}`, `{loguniform = [low, high]}`, `{lognormal = [median, sigma]}`, `{choice = [1, 2]}`."""

    devices: int | None = key(
        None,
        "how many; by default as many as `[[device]]`, and in a recipe `federation.devices`",
        minimum=1,
        maximum=100_000_000,
    )
    seed: int | None = key(None, "of the drawn values; in a recipe by default that of the recipe, else 0", minimum=0)
    max_frequency_hz: Number | None = _common("max_frequency_hz", 2.0e9)
    operations_per_cycle: Number | None = _common("operations_per_cycle", 1.0)
    capacitance: Number | None = _common("capacitance", Draw("uniform", (0.2e-25, 1.0e-25)))
    energy_budget_j: Number | None = _common("energy_budget_j", 500.0)
    circuit_energy_j: Number | None = _common("circuit_energy_j", 0.1)
    transmit_power_w: Number | None = _common("transmit_power_w", Draw("uniform", (0.02, 0.1)))
    downlink_power_w: Number | None = _common("downlink_power_w", 1.0)
    uplink_bandwidth_hz: Number | None = _common("uplink_bandwidth_hz", 1.0e6)
    downlink_bandwidth_hz: Number | None = _common("downlink_bandwidth_hz", 1.0e6)
    uplink_gain: Number | None = _common("uplink_gain", 1.0e-7)
    downlink_gain: Number | None = _common("downlink_gain", 1.0e-7)
    noise_w: Number | None = _common("noise_w", 4.0e-15)


@dataclass(frozen=True)
class ChannelSettings:
    """The radio channel between devices and servers. Fading is drawn anew in every round and stays for its length."""

    fading: str = key("none", "block fading of the power gain, of mean 1", choices=("none", "rayleigh", "rician"))
    rician_factor: float = key(3.0, "K, power of the direct path over that of the scattered ones", minimum=0)
    reciprocal: bool = key(False, "uplink and downlink fade alike (time division)")
    antennas: int = key(1, "antennas of a server, combined for the greatest gain (maximum-ratio)", minimum=1, maximum=4096)
    reference_gain: float = key(1.0e-3, "power gain at 1 m, where gains come from distances", above=0)
    path_loss_exponent: float = key(3.0, "the gain falls with distance to this power", minimum=0)
    shadowing_db: float = key(0.0, "standard deviation of log-normal shadowing, drawn once for device and server", minimum=0)


@dataclass(frozen=True)
class ServerSettings:
    """A server; each device uses the one with the best channel in the round."""

    x_m: float = key(0.0, "position")
    y_m: float = key(0.0, "position")
    antennas: int | None = key(None, "its antennas; default `channel.antennas`", minimum=1, maximum=4096)


@dataclass(frozen=True)
class AdaptationSettings:
    """What is adapted, in a fleet file; in a recipe the model says so."""

    model: str | None = key(
        None,
        "the model that the sizes are those of: `smollm2`, `minilm`, `meta-llama/Llama-3.2-1B` and others by name, or a "
        "folder with a `config.json`",
    )
    targets: tuple[str, ...] = key((), "its adapted matrices, as in a recipe's `[adapter]`; default query and value")
    input_dim: int = key(768, "k, columns of an adapted matrix, without a model", minimum=1)
    output_dim: int = key(768, "d, rows of an adapted matrix, without a model", minimum=1)
    matrices_per_layer: int = key(2, "Â, adapted matrices in a layer, without a model", minimum=1)
    layers: int = key(3, "l, adapted layers", minimum=1)
    max_rank: int | None = key(None, "the highest rank to consider; default and limit the least min(d, k)", minimum=1)
    bits_per_parameter: float = key(32.0, "Q", above=0)
    head_parameters: int = key(0, "parameters of the head that are sent beside the factors; 0 reproduces eq. 5", minimum=0)


@dataclass(frozen=True)
class RoundSettings:
    """What every device must keep to, in a fleet file."""

    deadline_s: float = key(600.0, "T_0, for computing, uplink and downlink together", above=0)


@dataclass(frozen=True)
class PlanSettings:
    """How ranks and frequencies are chosen in every round of a run, and what devices are charged."""

    policy: str = key(
        "none",
        "`none`: ranks are given and nothing is charged; `fixed`: ranks are given (`adapter.rank`, or `federation.ranks`), "
        "and charged; `joint`: the highest common rank, with the frequencies; `random_frequency`: the paper's baseline; "
        "`per_device`: each device its own highest rank",
        choices=("none", "fixed", "joint", "random_frequency", "per_device"),
    )
    deadline_s: float | None = key(None, "T_0 of a round; unset for none", above=0)
    energy_budget_j: float | None = key(None, "E_0 of every device in a round, instead of `fleet.energy_budget_j`", above=0)
    compute: str = key(
        "paper", "cycles of a sample: eq. 2, or the floating-point operations of what really runs", choices=("paper", "flops")
    )
    count: str = key(
        "sent",
        "the count that plans and decides: everything `sent` (head, framing), or eq. 5's `formula`; both are recorded",
        choices=("sent", "formula"),
    )
    bits_per_parameter: float = key(32.0, 'Q of eq. 4; with `count = "sent"` the codec\'s 32', above=0)
    frequency: str = key("least_energy", "which of the frequencies that the rank allows", choices=("least_energy", "fastest"))
    random_frequency_low: float = key(0.1, "`random_frequency` draws from this share of f_max up to f_max", above=0, maximum=1)


@dataclass(frozen=True)
class FleetFile:
    """A fleet in a file of its own, for `fedfit plan`."""

    adaptation: AdaptationSettings = field(default_factory=AdaptationSettings)
    round: RoundSettings = field(default_factory=RoundSettings)
    fleet: FleetSettings = field(default_factory=FleetSettings)
    channel: ChannelSettings = field(default_factory=ChannelSettings)
    device: tuple[DeviceSettings, ...] = ()
    server: tuple[ServerSettings, ...] = ()
