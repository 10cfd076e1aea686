"""``fedfit sweep``: a grid over any keys of a recipe as a study, with a table and a figure."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fedfit.experiment.load import parse_recipe
from fedfit.sweeps.describe import caption, seed_words, spread_text, table_text
from fedfit.sweeps.figure import write_figure
from fedfit.sweeps.grid import SEED, Grid
from fedfit.sweeps.metric import Metric
from fedfit.sweeps.pages import sweep_pages, write_pages
from fedfit.sweeps.rows import Row, collect, summarise
from fedfit.sweeps.runner import Stage
from fedfit.sweeps.study import Study
from fedfit.sweeps.sweep import Axis, Cell, Point, Setting, Sweep

NAME = "sweep"

_COSTS = ("mean_rank", "simulated_s", "simulated_j", "uplink_bytes", "downlink_bytes", "wall_s", "refused")
_SHOWN = {
    "mean_rank": ("mean rank", 1.0, 1),
    "uplink_bytes": ("uplink, MB", 1e-6, 2),
    "downlink_bytes": ("downlink, MB", 1e-6, 2),
    "simulated_s": ("simulated, s", 1.0, 1),
    "simulated_j": ("energy, J", 1.0, 1),
    "wall_s": ("wall time, s", 1.0, 1),
}
"""Columns of the table after the metric: measure → heading, factor, digits. A column without any value is omitted."""

_LOG_FROM = 8
"""The x axis is logarithmic if its smallest value is positive and its largest at least this many times the smallest."""

_LONGEST_SLUG = 120


def grid_study(recipe_text: str, grid: Grid, metric: str, origin: str = "the text") -> Study:
    """The study of ``grid`` over the recipe in ``recipe_text``; runs nothing.

    Args:
        metric: the name of the metric in table and figure.
        origin: the file or name of the recipe, for messages.

    Raises:
        RecipeError: for an invalid key or value in any cell.
    """
    sweep = grid_sweep(recipe_text, grid, Metric(metric), origin)
    for point in sweep.points:
        sweep.recipe(point, sweep.seeds[0])  # reports a fault of the last cell before any data are read
    return Study(
        NAME,
        Path("runs") / sweep.name,
        lambda out: [Stage.of(sweep, out)],
        partial(write_grid, sweep),
        sweep.metric,
        ("table.md",),
    )


def grid_sweep(recipe_text: str, grid: Grid, metric: Metric, origin: str = "the text") -> Sweep:
    """``grid`` over a recipe as a sweep: the first numeric key is x, all other keys together name the line.

    Without a numeric key, x is the round and each cell is a line.
    """
    recipe = parse_recipe(recipe_text, grid.fixed, origin)
    across = next((key for key, values in grid.axes if all(_number(value) is not None for value in values)), None)
    points = tuple(_point(cell, across, grid) for cell in grid.cells())
    swept = [key for key, _ in grid.axes]
    return Sweep(
        name=f"{NAME}-{recipe.name}",
        title=f"{recipe.name}: {metric.key.replace('_', ' ')} by {' and '.join(map(_last_part, swept)) or SEED}",
        axis=Axis(across or "Round", log2=_is_log([point.x for point in points if point.x is not None])),
        base=recipe_text,
        points=points,
        notes=tuple(Setting(key.rpartition(".")[2].replace("_", " "), (key,), None, "swept") for key in swept),
        seeds=grid.seeds or (recipe.seed,),
        metric=metric,
        measures=(*dict.fromkeys((f"final_{metric.name}", f"untrained_{metric.name}", *_COSTS)),),
        command=f"fedfit sweep {origin}",
    )


def write_grid(sweep: Sweep, out: Path) -> list[Path]:
    """Writes figure, table, CSV files and settings from the finished runs in ``out``; runs nothing. Returns the paths.

    Raises:
        FedfitError: for an unfinished run, a metric that a run did not measure, or a folder that cannot be written.
    """
    rows = collect(sweep, out)
    pages = {"table.md": table_page(sweep, rows)} | sweep_pages(sweep, rows)
    return write_pages(out, pages, lambda: write_figure(sweep, rows, caption(sweep), out))


def table_page(sweep: Sweep, rows: Sequence[Row]) -> str:
    """The text of ``table.md``: a line per cell of the grid, mean ± standard deviation over the seeds."""
    summaries = summarise(rows)
    shown = [name for name in _SHOWN if any(summary.mean[name] is not None for summary in summaries)]
    digits = 1 if sweep.metric.is_share else 4
    heading = sweep.metric.key.replace("_", " ") + (", %" if sweep.metric.is_share else "")
    head = (*(name for name, _ in summaries[0].columns), heading, *(_SHOWN[name][0] for name in shown))
    lines = [
        (
            *(str(cell) for _, cell in summary.columns),
            spread_text(summary, f"final_{sweep.metric.name}", sweep.metric.factor, digits),
            *(spread_text(summary, name, *_SHOWN[name][1:]) for name in shown),
        )
        for summary in summaries
    ]
    words = (
        f"Mean ± standard deviation over {seed_words(sweep.seeds)}, after the last round. Bytes, seconds and joules are "
        "totals of the run; 1 MB is a million bytes. Simulated seconds and energy are those of planned rounds."
    )
    return f"# {sweep.title}\n\n{words}\n\n{table_text(head, lines)}\n"


def _point(cell: Sequence[tuple[str, str]], across: str | None, grid: Grid) -> Point:
    given = dict(cell)
    x = None if across is None else _number(given[across])
    others = [f"{_last_part(key)} = {value}" for key, value in cell if key != across]
    return Point(
        line=", ".join(others) or (across or "all runs"),
        x=x,
        overrides=(*grid.fixed, *(f"{key}={value}" for key, value in cell)),
        columns=tuple((key, _cell(value)) for key, value in cell) or (("recipe", "as it is"),),
        folder=_folder(given),
    )


def _folder(given: Mapping[str, str]) -> str:
    """The folder name of a cell, such as ``rank-4-layers-last-3``; it depends on the cell alone, so that a grid can grow.

    A value that must be changed to fit a folder name is followed by a digest, so that no two cells share a folder.
    """
    short = {_last_part(key) for key in given}
    names = {key: _last_part(key) if len(short) == len(given) else key for key in given}
    slug = "-".join(f"{names[key]}-{_slug(value)}" for key, value in given.items()) or "all"
    return slug if len(slug) <= _LONGEST_SLUG else f"{slug[:_LONGEST_SLUG]}-{_digest(slug)}"


def _slug(value: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", value).strip("-.")
    return plain if plain == value else f"{plain}-{_digest(value)}".lstrip("-")


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=3).hexdigest()


def _last_part(key: str) -> str:
    return key.rpartition(".")[2]


def _number(value: str) -> float | None:
    """``value`` as a finite number, or ``None``."""
    try:
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _cell(value: str) -> Cell:
    """``value`` as a cell of a table: a whole number, another number, or the text without its quotes."""
    found: Any = _number(value)
    if found is None:
        return value.strip("\"'")
    return int(value) if re.fullmatch(r"-?\d+", value) else float(found)


def _is_log(xs: Sequence[float]) -> bool:
    return bool(xs) and min(xs) > 0 and max(xs) / min(xs) >= _LOG_FROM
