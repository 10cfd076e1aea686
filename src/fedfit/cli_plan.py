"""``fedfit plan``: ranks and frequencies for a fleet, without a model and without training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fedfit.terminal import SCREEN, Json, polite_errors, print_heads, print_json, say

if TYPE_CHECKING:
    from fedfit.experiment.plan_fleet import PlanOptions


def plan(
    fleet: Annotated[
        str | None, typer.Argument(help="A shipped fleet's name, or a TOML file; without one the shipped fleets are listed.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value …", metavar="[KEY=VALUE]...")] = None,
    solver: Annotated[str, typer.Option(help="exact, exhaustive, as_printed or random_frequency.")] = "exact",
    policy: Annotated[str, typer.Option(help="common: one rank for all; per_device: each its own.")] = "common",
    frequency: Annotated[str, typer.Option(help="least_energy or fastest, of those that the rank allows.")] = "least_energy",
    drop_infeasible: Annotated[
        bool, typer.Option("--drop-infeasible", help="Plan for the devices that can do rank 1.")
    ] = False,
    share_band_hz: Annotated[float | None, typer.Option(help="Share this band so that the common rank is highest.")] = None,
    for_rank: Annotated[int | None, typer.Option(help="Also say the least deadline and energy for this rank.")] = None,
    choose_layers: Annotated[bool, typer.Option("--choose-layers", help="Choose each device's layers with its rank.")] = False,
    round_number: Annotated[int, typer.Option("--round", help="Draw the fading of this round; 0: mean gains.")] = 0,
    transport: Annotated[
        list[str] | None,
        typer.Option(help="Codecs, UPLINK or UPLINK/DOWNLINK: delta,quantize:4/bf16. Several are compared."),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print the fleet's file, ready to be redirected, and plan nothing.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write plan.json and the figure there.")] = None,
    as_json: Json = False,
) -> None:
    """Choose LoRA rank and CPU frequency for every device of a fleet, under its deadline and energy."""
    if fleet is None:
        _list_fleets(as_json)
        return
    if show:
        _show(fleet)
        return
    from fedfit.experiment.fleet_file import read_fleet_file
    from fedfit.experiment.plan_fleet import PlanOptions, plan_fleet

    options = PlanOptions(
        solver=_word(solver),
        policy=_word(policy),
        frequency=_word(frequency),
        drop_infeasible=drop_infeasible,
        share_band_hz=share_band_hz,
        for_rank=for_rank,
        choose_layers=choose_layers,
        round=round_number,
        transport=transport[0] if transport else None,
    )
    with polite_errors(as_json):
        options.check()
        if transport and len(transport) > 1:
            _compare(fleet, overrides or [], options, transport, out, as_json)
            return
        found = plan_fleet(read_fleet_file(fleet, overrides or []), options)
        if out is not None:
            _write(found, out)
    _tell(found, options, as_json)
    if found["infeasible"] and not drop_infeasible:
        raise typer.Exit(2)


def _compare(fleet: str, overrides: list[str], options: PlanOptions, every: list[str], out: Path | None, as_json: bool) -> None:
    """Prints a line for each codec; with ``out`` writes them, and a figure of the rank over the deadline. The status is 2 where
    no codec lets all devices take part.
    """
    from fedfit.experiment.fleet_file import read_fleet_file
    from fedfit.experiment.plan_transport import compare_transports
    from fedfit.reports.transport_plans import transport_table, write_transport_figure

    found = compare_transports(read_fleet_file(fleet, overrides), options, every)
    if out is not None:
        _write_files(found, out, "transport.json", write_transport_figure)
    for warning in found["warnings"]:
        say(SCREEN, f"warning: {warning}")
    if as_json:
        print_json(found)
    else:
        Console().print(transport_table(found))
    rows = found["transports"]
    for row in rows if not options.drop_infeasible else []:
        if row["infeasible"]:
            say(SCREEN, f"{row['transport']}: {_refusal({**row, 'remedy': None})}")
    if all(row["infeasible"] for row in rows) and not options.drop_infeasible:
        raise typer.Exit(2)


def _list_fleets(as_json: bool) -> None:
    from fedfit.experiment.fleet_file import fleet_heads

    hints = (
        "fedfit plan NAME                          plans for one of them",
        "fedfit plan NAME --show > my-fleet.toml   prints one to start from",
    )
    print_heads(fleet_heads(), hints, as_json)


def _show(fleet: str) -> None:
    from fedfit.experiment.fleet_file import read_fleet_text

    with polite_errors():
        typer.echo(read_fleet_text(fleet), nl=False)


def _word(typed: str) -> str:
    """The word of a recipe's ``[plan]``; on a command line hyphens do as well."""
    return typed.replace("-", "_")


def _tell(found: dict[str, Any], options: PlanOptions, as_json: bool) -> None:
    from fedfit.reports.plan_summary import plan_summary
    from fedfit.reports.plan_table import plan_table

    for warning in found["warnings"]:
        say(SCREEN, f"warning: {warning}")
    if as_json:
        print_json(found)
    else:
        if found["devices"]:
            Console().print(plan_table(found))
        say(Console(), plan_summary(found))
        if options.for_rank is not None:
            say(Console(), _least_words(found["for_rank"]))
    if found["infeasible"] and not options.drop_infeasible:
        say(SCREEN, f"error: {_refusal(found)}")
    elif found["remedy"]:
        say(SCREEN, f"warning: no device can take part; {found['remedy']}")


def _refusal(found: dict[str, Any]) -> str:
    """Why there is no plan, and a way to have one."""
    first, count = found["infeasible"][0], len(found["infeasible"])
    if found["remedy"] and count > 1:
        return f"none of the {count:,} devices can do rank 1; {found['remedy']}"
    who = (
        first["id"] if count == 1 else f"{count:,} devices cannot take part, each for its own reason; the first, {first['id']}"
    )
    return f"{who}: {first['reason']}" + ("" if found["remedy"] else "; --drop-infeasible plans for the rest")


def _least_words(least: dict[str, Any]) -> str:
    from fedfit.planning.least import round_up

    deadline, energy = least["deadline_s"], least["energy_j"]
    in_time = f"{round_up(deadline)} s" if deadline is not None else "none, the budgets do not allow it"
    in_budget = f"{round_up(energy)} J" if energy is not None else "none, the deadline does not allow it"
    return f"rank {least['rank']} for all: least deadline {in_time}; least energy budget {in_budget}"


def _write(found: dict[str, Any], out: Path) -> None:
    from fedfit.reports.plan_figure import write_plan_figure

    _write_files(found, out, "plan.json", write_plan_figure)


def _write_files(found: dict[str, Any], out: Path, name: str, draw: Callable[[dict[str, Any], Path], list[Path]]) -> None:
    from fedfit.errors import RunFolderError

    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        written = draw(found, out)
    except OSError as error:
        raise RunFolderError(f"{out} cannot be written: {error.strerror or error}; choose another --out") from error
    for path in (out / name, *written):
        say(SCREEN, str(path))
