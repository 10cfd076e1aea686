"""A fleet in a file of its own: read, checked, planned. Needs neither torch nor a model."""

from __future__ import annotations

from collections.abc import Sequence

from fedfit.errors import Fault, RecipeError
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
    return parse_fleet(read_shipped_or_file(name_or_path, shipped_fleets(), "fleet"), overrides, name_or_path)


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
    file = build_settings(FleetFile, document, faults)
    faults += limit_faults(file)
    if not faults:
        faults += file_faults(file)
    if faults:
        raise RecipeError(faults, "the fleet")
    return file


def fleet_of(file: FleetFile) -> Fleet:
    """The devices of ``file``, drawn where it says so."""
    count = file.fleet.devices or len(file.device)
    return build_fleet(file.fleet, file.device, file.channel, file.server, count, seed=0)
