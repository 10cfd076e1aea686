"""The settings of a figure: a caption of one line, and the page ``settings.md``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from fedfit.experiment.load import to_toml
from fedfit.reports.metrics import ABSENT
from fedfit.sweeps.rows import Summary
from fedfit.sweeps.sweep import Setting, Sweep

_MODELS = {"minilm": "MiniLM", "smollm2": "SmolLM2", "FacebookAI/roberta-base": "RoBERTa-base"}
DATA_NAMES = {
    "ag_news": "AG News",
    "sst2": "SST-2",
    "pydocs": "docstring",
    "commonsense": "commonsense",
    "domains": "instruction",
    "pydocs-instruct": "docstring instruction",
    "truthfulqa": "TruthfulQA",
    "persona": "persona",
    "bgl": "BGL",
    "bgl-instruct": "BGL question",
    "banking77": "Banking77",
}
"""Names of data sets in captions and tables."""


def caption(sweep: Sweep) -> str:
    """The settings in one line: ``MiniLM, 3 × 1,000 AG News samples, 4 rounds, mean ± s.d. of 3 seeds``."""
    recipe = sweep.recipe(sweep.points[0], 0)
    devices, samples = recipe.federation.devices, recipe.data.train_samples
    model = _MODELS.get(recipe.model.name, PurePath(recipe.model.name).name)
    source = " or ".join(DATA_NAMES.get(name, name) for name in sweep.values("data.source"))
    data = f"{devices} × {samples // devices:,} {source} samples" if samples else f"all {source} samples on {devices} devices"
    seeds = len(sweep.seeds)
    spread = f"mean ± s.d. of {seeds} seeds" if seeds > 1 else "1 seed"
    return f"{model}, {data}, {_rounds(sweep)}, {spread}; see settings.md"


def settings_text(sweep: Sweep) -> str:
    """The text of ``settings.md``: the settings that the paper prints beside those of the runs, other settings, the recipe."""
    printed = [note for note in sweep.notes if note.paper is not None]
    chosen = [note for note in sweep.notes if note.paper is None]
    lines = [(note.what, _recipe_values(sweep, note), note.why) for note in chosen]
    scale = f"Scale `{sweep.scale}`: " if sweep.scale else ""
    parts = [
        f"# {sweep.name}: {sweep.title}",
        f"{scale}{caption(sweep).removesuffix('; see settings.md')}. {seed_words(sweep.seeds).capitalize()}; a seed "
        "fixes the sample of the data, its spread over the devices, the initial adapter and head, the fleet and its channels.",
    ]
    if printed:
        rows = [(note.what, note.paper or "", _recipe_values(sweep, note), note.why) for note in printed]
        parts += ["## Printed in the paper", table_text(("setting", "paper", "here", "remark"), rows)]
        parts += ["## Not printed in the paper, chosen here", table_text(("setting", "here", "remark"), lines)]
    elif lines:
        parts += ["## Settings", table_text(("setting", "here", "remark"), lines)]
    swept = ", ".join(f"`{key}`" for key in [*_swept(sweep), "name"])
    parts += [
        "## The recipe of the first point",
        f"The others differ in {swept} and `seed`.",
        f"```toml\n{to_toml(sweep.recipe(sweep.points[0], sweep.seeds[0]))}```",
    ]
    return "\n\n".join(parts) + "\n"


def seed_words(seeds: Sequence[int]) -> str:
    """``seeds 0 to 2``, ``seeds 3, 7`` or ``seed 0``."""
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    in_turn = list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    return f"seeds {seeds[0]} to {seeds[-1]}" if in_turn else f"seeds {', '.join(map(str, seeds))}"


def _recipe_values(sweep: Sweep, note: Setting) -> str:
    return "; ".join(f"`{key}` = {_values_text(sweep.values(key))}" for key in note.keys)


def _values_text(values: Sequence[Any]) -> str:
    """The value of a key, or all values of a swept key."""
    return ", ".join(_value_text(value) for value in values)


def _value_text(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, tuple):
        return " and ".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:,}" if type(value) is int else f"{value:g}" if isinstance(value, float) else str(value)


def _swept(sweep: Sweep) -> list[str]:
    """The keys that have several values over the points."""
    keys = dict.fromkeys(override.partition("=")[0] for point in sweep.points for override in point.overrides)
    return [key for key in keys if len(sweep.values(key)) > 1]


def table_text(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, without a final newline."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def spread_text(summary: Summary, measure: str, factor: float, digits: int) -> str:
    """``84.1 ± 1.7``: mean and standard deviation, each times ``factor``; a dash for a measure that the runs lack."""
    mean, sd = summary.mean[measure], summary.sd[measure]
    if mean is None:
        return ABSENT
    spread = "" if sd is None else f" ± {factor * sd:,.{digits}f}"
    return f"{factor * mean:,.{digits}f}{spread}"


def _rounds(sweep: Sweep) -> str:
    several = sorted(set(sweep.values("federation.rounds")))
    return _count(several[0], "round") if len(several) == 1 else f"{' or '.join(map(str, several))} rounds"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
