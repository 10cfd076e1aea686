"""A fleet in a file of its own: read, checked, planned. Needs neither torch nor a model."""

from __future__ import annotations

from collections.abc import Sequence

from fedfit.errors import Fault, RecipeError, nearest
from fedfit.experiment.fleet_faults import file_faults
from fedfit.experiment.limits import limit_faults
from fedfit.experiment.shipped import read_shipped_or_file, shipped
from fedfit.experiment.tables import build_settings, override, read_toml
from fedfit.fleet_settings import FleetFile
from fedfit.wireless.fleet import Fleet, build_fleet


def shipped_fleets() -> dict[str, str]:
    """The text of every fleet that comes with the package, by name."""
    return shipped("fedfit.fleets")


def read_fleet_file(name_or_path: str, overrides: Sequence[str] = ()) -> FleetFile:
    """A shipped fleet by name, or the one in a file.

    Raises:
        RecipeError: with every fault found.
    """
    return parse_fleet(read_fleet_text(name_or_path), overrides, name_or_path)


def parse_fleet(text: str, overrides: Sequence[str] = (), origin: str = "the text") -> FleetFile:
    """A fleet of known keys, right types and sensible values.

    Raises:
        RecipeError: with every fault found.
    """
    document = read_toml(text, origin, "fleet")
    faults: list[Fault] = []
    of_a_recipe = [name for name in ("data", "model", "federation", "training") if name in document]
    if of_a_recipe:
        remedy = f"has [{of_a_recipe[0]}], so it is a recipe; `fedfit run` plans its rounds. `fedfit plan` takes a fleet file"
        raise RecipeError([Fault("fleet", origin, remedy)], "the fleet")
    for words in overrides:
        override(document, words, faults)
    faults += _keys_of_a_recipe(document.pop("plan", None))
    file = build_settings(FleetFile, document, faults)
    faults += limit_faults(file)
    if not faults:
        faults += file_faults(file)
    if faults:
        raise RecipeError(faults, "the fleet")
    return file


def fleet_heads() -> dict[str, str]:
    """The first comment line of every shipped fleet, by name."""
    return {name: text.partition("\n")[0].lstrip("# ") for name, text in shipped_fleets().items()}


def read_fleet_text(name_or_path: str) -> str:
    """The text of a shipped fleet by name, or of a file.

    Raises:
        RecipeError: when no such fleet or file exists.
    """
    return read_shipped_or_file(name_or_path, shipped_fleets(), "fleet", hint="; `fedfit plan` describes them")


_PLACES = {
    "deadline_s": "round.deadline_s",
    "energy_budget_j": "fleet.energy_budget_j",
    "bits_per_parameter": "adaptation.bits_per_parameter",
    "policy": "--policy (common or per_device)",
    "frequency": "--frequency (least_energy or fastest)",
}
"""Key of a recipe's ``[plan]`` → its like in a fleet file, or the option of ``fedfit plan``."""


def _keys_of_a_recipe(plan: object) -> list[Fault]:
    """The faults of a fleet file with the ``[plan]`` of a recipe."""
    if plan is None:
        return []
    if not isinstance(plan, dict):
        return [Fault("plan", plan, "a section of recipes; a fleet file has none like it")]
    faults = []
    for name, value in plan.items():
        meant = _PLACES.get(name) or next((_PLACES[near] for near in nearest(name, _PLACES)), None)
        like = f"did you mean {meant}?" if meant else "a fleet file has none like it"
        faults.append(Fault(f"plan.{name}", value, f"a key of recipes; {like}"))
    return faults


def fleet_of(file: FleetFile) -> Fleet:
    """The devices of ``file``, drawn where it says so."""
    count = file.fleet.devices or len(file.device)
    return build_fleet(file.fleet, file.device, file.channel, file.server, count, seed=0)
