"""What must hold between the keys of a fleet, and between a recipe and its fleet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace

from fedfit.errors import Fault
from fedfit.experiment.adaptation import adaptation_faults
from fedfit.fleet_settings import FleetFile, HardwareSettings, PlanSettings
from fedfit.settings import Recipe

_CODEC_BITS = 32.0  # the key's default; with plan.count = "sent" the codecs of [transport] say their bits


def fleet_faults(settings: FleetFile | Recipe) -> Iterator[Fault]:
    """Faults between keys of ``[fleet]``, ``[[device]]`` and ``[[server]]``."""
    names = Counter(device.id or f"device-{number}" for number, device in enumerate(settings.device))
    for name in (name for name, count in names.items() if count > 1):
        yield Fault("device.id", name, "is the id of several devices; give each its own")
    placed = 0
    for number, device in enumerate(settings.device):
        yield from _place_faults(device, f"device[{number}].")
        yield from _gain_faults(device, f"device[{number}].")
        if device.distance_m is not None and settings.fleet.x_m is not None:
            remedy = "x_m and y_m of [fleet] give the distance already; remove one or the other"
            yield Fault(f"device[{number}].distance_m", device.distance_m, remedy)
        placed += device.x_m is not None
    yield from _place_faults(settings.fleet, "fleet.")
    everywhere = settings.fleet.x_m is not None or (placed and placed == len(settings.device))
    if len(settings.server) > 1 and not everywhere:
        yield Fault(
            "server", len(settings.server), "with several servers every device needs x_m and y_m (in [fleet], all at once)"
        )
    distance = [settings.fleet.distance_m, *(device.distance_m for device in settings.device)]
    if settings.server and any(value is not None for value in distance):
        yield Fault(
            "server", len(settings.server), "distance_m is from the one server that has no place; give x_m and y_m instead"
        )


def _place_faults(device: HardwareSettings, prefix: str) -> Iterator[Fault]:
    if (device.x_m is None) != (device.y_m is None):
        missing = "x_m" if device.x_m is None else "y_m"
        yield Fault(prefix + missing, None, "a position needs both x_m and y_m")
    if device.distance_m is not None and device.x_m is not None:
        yield Fault(prefix + "distance_m", device.distance_m, "x_m and y_m give the distance already; remove one or the other")


def _gain_faults(device: HardwareSettings, prefix: str) -> Iterator[Fault]:
    """A gain beside a place, in ``[[device]]``. In ``[fleet]`` gains have defaults, which a place takes over from."""
    place = "distance_m gives" if device.distance_m is not None else "x_m and y_m give" if device.x_m is not None else None
    for name in ("uplink_gain", "downlink_gain"):
        if place is not None and getattr(device, name) is not None:
            yield Fault(prefix + name, getattr(device, name), f"{place} the gain already; remove one or the other")


def file_faults(file: FleetFile) -> Iterator[Fault]:
    """Faults of a fleet file beyond those of single keys."""
    yield from fleet_faults(file)
    if file.fleet.devices is None and not file.device:
        yield Fault("fleet.devices", None, "say how many devices there are, or list them as [[device]]")
    if file.fleet.devices is not None and file.fleet.devices < len(file.device):
        yield Fault("fleet.devices", file.fleet.devices, f"{len(file.device)} are listed as [[device]]; raise it or remove it")
    listed = file.fleet.devices is None or file.fleet.devices == len(file.device)
    if file.fleet.samples is None and not (listed and all(device.samples is not None for device in file.device)):
        yield Fault("fleet.samples", None, "every device needs its number of training samples, here or in [[device]]")
    yield from adaptation_faults(file.adaptation)


def plan_faults(recipe: Recipe) -> Iterator[Fault]:
    """Faults between a recipe and its plan and fleet."""
    yield from fleet_faults(recipe)
    plan, devices = recipe.plan, recipe.federation.devices
    if plan.policy == "none":
        yield from _unused(recipe)
    if plan.count == "sent" and plan.bits_per_parameter != _CODEC_BITS:
        remedy = 'the codecs of [transport] say what is sent; set plan.count to "formula" to count with another number'
        yield Fault("plan.bits_per_parameter", plan.bits_per_parameter, remedy)
    if recipe.fleet.devices not in (None, devices):
        yield Fault("fleet.devices", recipe.fleet.devices, f"federation.devices = {devices} decides; remove it")
    if len(recipe.device) > devices:
        yield Fault("device", len(recipe.device), f"more are listed than federation.devices = {devices}; raise that")
    for prefix, device in (("fleet.", recipe.fleet), *((f"device[{n}].", d) for n, d in enumerate(recipe.device))):
        if device.samples is not None:
            yield Fault(prefix + "samples", device.samples, "the partition decides in a recipe; remove it")
        if device.layers is not None:
            yield Fault(prefix + "layers", device.layers, "a run trains adapter.layers on every device; remove it")


def _unused(recipe: Recipe) -> Iterator[Fault]:
    keys = [item.name for item in fields(PlanSettings) if getattr(recipe.plan, item.name) != item.default]
    plain = replace(Recipe(), plan=recipe.plan)
    sections = [name for name in ("fleet", "channel", "device", "server") if getattr(recipe, name) != getattr(plain, name)]
    unused = [*(f"plan.{key}" for key in keys), *sections]
    if unused:
        remedy = f"then nothing reads {', '.join(unused)}; choose fixed, joint, random_frequency or per_device"
        yield Fault("plan.policy", recipe.plan.policy, remedy)
