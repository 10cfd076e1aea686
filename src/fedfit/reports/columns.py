"""Columns of the tables of rounds, runs and devices: their headings and the text of their cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fedfit.metric_names import MODELS
from fedfit.reports.costs import energy_j, latency_s, rank_texts
from fedfit.reports.metrics import ABSENT, Measure, format_loss
from fedfit.reports.read import RunData, number
from fedfit.reports.style import binding_label, plain
from fedfit.units import format_bytes, format_joules, format_seconds, format_simulated


@dataclass(frozen=True)
class Column:
    """A table column. ``cell`` formats a row (a record or a summary), ``total`` the footer from the run's summary.

    ``kind`` says where a cell may wrap: nowhere in a number, between the words of a label, anywhere in a text. ``hint``
    explains the heading on a page.
    """

    heading: str
    cell: Callable[[Mapping[str, Any]], str]
    total: Callable[[Mapping[str, Any]], str] = lambda _: ""
    kind: Literal["number", "label", "text"] = "number"
    hint: str = ""

    @classmethod
    def added_up(cls, heading: str, key: str, written: Callable[[Any], str]) -> Column:
        """A column of ``key`` whose footer is the same key of the summary; a dash for a missing value."""

        def cell(row: Mapping[str, Any]) -> str:
            return ABSENT if row.get(key) is None else written(row[key])

        return cls(heading, cell, cell)


def round_columns(run: RunData, *, narrow: bool) -> list[Column]:
    """Columns of a round's record; rank, simulated time and energy only if the run has them.

    With ``narrow`` the table fits 80 characters: rank, simulated time and energy then replace the second metric and wall time,
    and refused updates have a column only if there were any.
    """
    ranks, simulated = rank_texts(run), is_simulated([run])
    short = narrow and (simulated or bool(ranks))
    columns = [
        Column("Round", lambda row: str(row["round"]), lambda _: "total"),
        *([Column("Rank", lambda row: ranks.get(row["round"], ABSENT))] if ranks else []),
        *(_metric_column(key) for key in (_narrow_keys(run, short) if narrow else shown_keys(run))),
        Column("Train loss", lambda row: format_loss(row["train_loss"])),
        *_sent_and_spent(simulated, wall_time=not short, narrow=narrow),
    ]
    return columns + _refused_columns(any(row.get("refused", 0) for row in run.rounds) or not narrow)


def shown_keys(run: RunData) -> list[str]:
    """The run's metrics, the headline first; only the headline's metric has its worst device and spread as well.

    Percentiles stand in the table of the devices' own models.
    """
    name = Measure.of(run.headline).name
    measures = [Measure.of(key) for key in run.keys if key != run.headline]
    measures = [found for found in measures if found.ending != "p10"]
    return [run.headline, *(found.key for found in measures if found.ending in ("", "mean") or found.name == name)]


def run_columns(runs: Sequence[RunData], metric: str, refused: bool) -> list[Column]:
    """Columns of a run's summary without its name, ``metric`` first; the table fits 80 characters.

    If a run is simulated, simulated time and energy replace the second metric and wall time.
    """
    simulated = is_simulated(runs)
    second, loss = _second_metric(runs[0], metric), _loss_metric(runs[0], metric)
    return [
        Column("Rounds", lambda row: format_rounds(row).replace(" of ", "/")),
        Column("Devices", lambda row: format_count(row["devices"])),
        _summary_column(metric, metric, "Final"),
        _summary_column(metric, "best", "Best"),
        *([] if simulated or second is None else [_summary_column(second, second, _short_heading(second))]),
        *([] if loss is None else [_summary_column(loss, loss, "Loss")]),
        *_sent_and_spent(simulated, wall_time=not simulated, narrow=True),
        *_refused_columns(refused),
    ]


def device_columns(rows: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None, column: str = "") -> list[Column]:
    """Columns of a device's record, refusals last. Columns of a plan and of refusals appear only if some row has a value.

    ``names`` of the devices, by number, have a column with the heading ``column``.
    """
    named = [Column(column, lambda row: _name_of(names or (), row["device"]), kind="label")] if names else []
    refused = [Column("Refused because", lambda row: str(row.get("refused") or ""), kind="text")]
    planned = [Column("Rank", lambda row: str(row["rank"] or ABSENT) if row.get("rank") is not None else ABSENT)]
    charged = [
        Column(
            "Frequency (GHz)",
            _cost_cell(lambda cost: f"{number(cost['frequency_hz']) / 1e9:.3f}" if cost["frequency_hz"] else ABSENT),
        ),
        Column("Next rank limited by", _cost_cell(lambda cost: binding_label(cost["binding"])), kind="label"),
        Column("Latency, formula", _cost_cell(lambda cost: format_simulated(latency_s(cost["formula"])))),
        Column("Latency, sent", _cost_cell(lambda cost: format_simulated(latency_s(cost["sent"])))),
        Column("Energy, formula", _cost_cell(lambda cost: format_joules(energy_j(cost["formula"])))),
        Column("Energy, sent", _cost_cell(lambda cost: format_joules(energy_j(cost["sent"])))),
        Column("Energy, spent", _cost_cell(lambda cost: format_joules(number(cost.get("spent_j"))))),
    ]
    return [
        Column("Device", lambda row: str(row["device"])),
        *named,
        Column("Samples", lambda row: format_count(row["samples"])),
        Column("Steps", lambda row: format_count(row["steps"])),
        Column("Train loss", lambda row: format_loss(row["train_loss"])),
        Column("Uplink", lambda row: format_bytes(row["uplink_bytes"])),
        Column("Downlink", lambda row: format_bytes(row["downlink_bytes"])),
        Column("Time", lambda row: format_seconds(row["seconds"])),
        *(planned if any(row.get("rank") is not None for row in rows) else []),
        *(charged if any(row.get("cost") is not None for row in rows) else []),
        *(refused if any(row.get("refused") for row in rows) else []),
    ]


def is_simulated(runs: Sequence[RunData]) -> bool:
    """Whether any round of any run has simulated time or energy."""
    return any(row.get(key) is not None for run in runs for row in run.rounds for key in ("simulated_s", "simulated_j"))


def format_count(count: float) -> str:
    """``12000`` → ``'12,000'``."""
    return f"{count:,.0f}"


def format_rounds(summary: Mapping[str, Any]) -> str:
    """``'3 of 5'``, or ``'5'`` if all planned rounds are done."""
    done, planned = summary["rounds"], summary["rounds_planned"]
    return str(done) if planned in (None, done) else f"{done} of {planned}"


def _sent_and_spent(simulated: bool, *, wall_time: bool, narrow: bool) -> list[Column]:
    time = "Simul. time" if narrow else "Simulated time"
    return [
        Column.added_up("Uplink", "uplink_bytes", format_bytes),
        Column.added_up("Downlink", "downlink_bytes", format_bytes),
        *([Column.added_up(time, "simulated_s", format_simulated)] if simulated else []),
        *([Column.added_up("Energy", "simulated_j", format_joules)] if simulated else []),
        *([Column.added_up("Time" if not simulated else "Wall time", "seconds", format_seconds)] if wall_time else []),
    ]


def _refused_columns(shown: bool) -> list[Column]:
    column = Column(
        "Refused",
        lambda row: format_count(row.get("refused", 0)),
        lambda row: format_count(row["refused"]),
        hint="Updates left out of the average: late, lost, not finite, or of another form",
    )
    return [column] if shown else []


def _metric_column(key: str) -> Column:
    measure = Measure.of(key)
    return Column(measure.heading, lambda row: measure.written(row.get(key)))


def _summary_column(metric: str, key: str, heading: str) -> Column:
    """A column of the summary's ``key`` in the format of ``metric``, with the unit in the heading."""
    measure = Measure.of(metric)
    unit = " %" if measure.is_share else ""
    return Column(heading + unit, lambda row: measure.bare(row.get(key)))


def _short_heading(key: str) -> str:
    """A short heading: ``F1`` for macro-F1."""
    return {"macro_f1": "F1", "accuracy": "Acc."}.get(Measure.of(key).name, Measure.of(key).heading)


def _narrow_keys(run: RunData, short: bool) -> list[str]:
    """The headline, a second metric unless ``short``, and the loss; where devices have several models, mean and worst device of
    the one that they use.
    """
    own = [f"{model}_{Measure.of(run.headline).name}_mean" for model in MODELS]
    own = [key for key in own if key in run.keys and key != run.headline]
    if len(own) > 1:
        return [run.headline, own[-1], f"{own[-1].removesuffix('_mean')}_worst"]
    second, loss = _second_metric(run, run.headline), _loss_metric(run, run.headline)
    return [run.headline, *([] if short or second is None else [second]), *([] if loss is None else [loss])]


def _second_metric(run: RunData, first: str) -> str | None:
    """The metric to show after ``first``: its value on the worst device, else the next metric on the same part."""
    leading = Measure.of(first)
    others = [found for found in map(Measure.of, run.keys) if found.key != first and found.part == leading.part]
    worst = [found.key for found in others if found.name == leading.name and found.ending == "worst"]
    like = [found for found in others if not found.is_loss and found.ending == leading.ending]
    like.sort(key=lambda found: found.name == "perplexity")  # says no more than the loss, which has a column
    return next(iter([*worst, *(found.key for found in like)]), None)


def _loss_metric(run: RunData, first: str) -> str | None:
    leading = Measure.of(first)
    losses = [found for found in map(Measure.of, run.keys) if found.is_loss and found.key != first]
    like = [found.key for found in losses if (found.part, found.ending) == (leading.part, leading.ending)]
    return next(iter(like), None)


def _name_of(names: Sequence[str], device: int) -> str:
    return plain(names[device], 60) if 0 <= device < len(names) else ABSENT


def _cost_cell(written: Callable[[Mapping[str, Any]], str]) -> Callable[[Mapping[str, Any]], str]:
    return lambda row: ABSENT if row.get("cost") is None else written(row["cost"])
