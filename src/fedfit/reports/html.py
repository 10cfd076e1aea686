"""Writes a run's self-contained page. Every text of the run is escaped; figures are inlined as data."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from fedfit.atomic import write_atomic
from fedfit.reports.captions import CAPTIONS, caption
from fedfit.reports.closer import closer_look
from fedfit.reports.columns import device_columns, format_count, format_rounds, round_columns, shown_keys
from fedfit.reports.html_table import table
from fedfit.reports.losses import loss_words
from fedfit.reports.metrics import Measure, capital
from fedfit.reports.page import CSS, PAGE
from fedfit.reports.read import RunData
from fedfit.reports.recipe import recipe_section
from fedfit.reports.style import plain
from fedfit.reports.tables import status, summary_rows
from fedfit.units import format_bytes, format_joules, format_seconds, format_simulated

SHOWN_DEVICES = 50
MEDIA_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


def write_html(run: RunData, figures: Sequence[Path], path: Path) -> Path:
    """Write the report of ``run`` to ``path`` atomically; return ``path``.

    If a figure exists as SVG and PNG, the page shows the SVG.
    """
    page = PAGE.substitute(
        title=escape(run.name),
        css=CSS,
        state=_state(run),
        tiles=_tiles(run, summary_rows(run)),
        figures="\n".join(_figure(run, file) for file in _prefer_svg(figures)),
        closer=closer_look(run),
        rounds=table(round_columns(run, narrow=False), run.rounds),
        devices=_devices(run),
        recipe=recipe_section(run.recipe),
        environment=_environment(run.environment),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page.encode())
    return path


def _state(run: RunData) -> str:
    state = status(run)
    rounds = format_rounds(summary_rows(run))
    if state == "unfinished":
        remedy = "<code>fedfit resume</code> continues the run"
        return f'<strong class="open">Unfinished</strong>: {rounds} rounds so far; {remedy}.'
    return f"<strong>{state.capitalize()}</strong>: {rounds} rounds."


def _tiles(run: RunData, summary: Mapping[str, Any]) -> str:
    best_round = "" if summary["best_round"] is None else f"in round {summary['best_round']}"
    first, *others = map(Measure.of, shown_keys(run))
    last = f"after round {run.measured[-1]['round']}" if run.measured else ""
    tiles = (
        (capital(first.label), first.written(summary.get(first.key)), last),
        (f"Best {first.word}", first.written(summary[f"best_{first.name}"]), best_round),
        *((measure.heading, measure.written(summary.get(measure.key)), _unit(run, measure) or last) for measure in others),
        ("Devices", format_count(summary["devices"]), "with data"),
        ("Uplink", format_bytes(summary["uplink_bytes"]), "in total"),
        ("Downlink", format_bytes(summary["downlink_bytes"]), "in total"),
        *_simulated_tiles(summary),
        (
            "Time",
            format_seconds(summary["seconds"]),
            "in total" if summary["simulated_s"] is None else "wall time of the run",
        ),
        ("Refused updates", format_count(summary["refused"]), "left out of the average"),
    )
    return "\n".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for name, value, note in tiles
    )


def _unit(run: RunData, measure: Measure) -> str:
    """The unit below a metric's value; percent stands beside it."""
    return loss_words(run)[1] if measure.is_loss else measure.unit.strip("%")


def _simulated_tiles(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    tiles = []
    if summary["simulated_s"] is not None:
        tiles.append(("Simulated time", format_simulated(summary["simulated_s"]), "by the system model"))
    if summary["simulated_j"] is not None:
        tiles.append(("Energy", format_joules(summary["simulated_j"]), "of all devices, by the system model"))
    return tiles


def _prefer_svg(figures: Sequence[Path]) -> list[Path]:
    """One file per figure name: the SVG if it exists, else the PNG."""
    chosen: dict[str, Path] = {}
    for file in figures:
        if file.stem not in chosen or file.suffix == ".svg":
            chosen[file.stem] = file
    return list(chosen.values())


def _figure(run: RunData, file: Path) -> str:
    """The file as a data URI: an SVG in the page itself would share its ids with the other figures."""
    title, words = caption(run, file.stem)
    data = base64.b64encode(file.read_bytes()).decode("ascii")
    kind = ' class="wide"' if file.stem in CAPTIONS else ""
    alt = escape(f"{title}: {words}")
    image = f'<img alt="{alt}" src="data:{MEDIA_TYPES[file.suffix]};base64,{data}">'
    return f"<figure{kind}>{image}<figcaption><b>{escape(title)}</b>: {escape(words)}</figcaption></figure>"


def _devices(run: RunData) -> str:
    rows = run.last_devices()
    if not rows:
        return '<p class="note">No device has taken part in a finished round yet.</p>'
    among = f"The first {SHOWN_DEVICES} of {len(rows):,}" if len(rows) > SHOWN_DEVICES else f"All {len(rows)}"
    note = f'<p class="note">{among} devices that took part in round {run.rounds[-1]["round"]}; devices.jsonl lists all.</p>'
    column = plain(run.recipe.get("partition", {}).get("column", "Name"))
    return table(device_columns(rows, run.device_names, column), rows[:SHOWN_DEVICES]) + note


def _environment(environment: Mapping[str, Any]) -> str:
    if not environment:
        return '<p class="note">The run folder has no environment.json.</p>'
    rows = "\n".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in _flatten(environment))
    return f'<div class="scroll"><table class="text"><tbody>\n{rows}\n</tbody></table></div>'


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            yield f"{prefix}{name}", ", ".join(map(str, value))
        else:
            yield f"{prefix}{name}", str(value)
