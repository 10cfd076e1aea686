"""The columns of the tables of rounds, runs and devices: which there are, and how a cell is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedfit.reports.costs import energy_j, latency_s, rank_texts
from fedfit.reports.read import RunData, number
from fedfit.reports.style import binding_label
from fedfit.units import format_bytes, format_joules, format_seconds, format_simulated

ABSENT = "–"


@dataclass(frozen=True)
class Column:
    """``cell`` writes a row (a record, or a summary); ``total`` that of the foot, from the summary of the run."""

    heading: str
    cell: Callable[[Mapping[str, Any]], str]
    total: Callable[[Mapping[str, Any]], str] = lambda _: ""

    @classmethod
    def added_up(cls, heading: str, key: str, written: Callable[[Any], str]) -> Column:
        """A column of ``key``, with the key of the same name of the summary at its foot; a dash for what is not there."""

        def cell(row: Mapping[str, Any]) -> str:
            return ABSENT if row.get(key) is None else written(row[key])

        return cls(heading, cell, cell)


def round_columns(run: RunData, *, narrow: bool) -> list[Column]:
    """Columns of a round's record. Rank, simulated time and energy are there where the run has them.

    ``narrow`` is for 80 columns: those then take the places of macro-F1 and wall time, and a column for refused updates
    is there only when there are any.
    """
    ranks, simulated = rank_texts(run), is_simulated([run])
    short = narrow and (simulated or bool(ranks))
    columns = [
        Column("Round", lambda row: str(row["round"]), lambda _: "total"),
        *([Column("Rank", lambda row: ranks.get(row["round"], ABSENT))] if ranks else []),
        Column("Accuracy", lambda row: format_share(row["test_accuracy"])),
        *([] if short else [Column("Macro-F1", lambda row: format_share(row["test_macro_f1"]))]),
        Column("Test loss", lambda row: format_loss(row["test_loss"])),
        Column("Train loss", lambda row: format_loss(row["train_loss"])),
        *_sent_and_spent(simulated, wall_time=not short, narrow=narrow),
    ]
    return columns + _refused(any(row.get("refused", 0) for row in run.rounds) or not narrow)


def run_columns(runs: Sequence[RunData], refused: bool) -> list[Column]:
    """Columns of a run's summary after its name, for 80 columns.

    Where a run is simulated, its time and energy take the places of F1 and wall time.
    """
    simulated = is_simulated(runs)
    shares = [("Acc. %", "final_accuracy"), ("Best %", "best_accuracy"), *([] if simulated else [("F1 %", "macro_f1")])]
    return [
        Column("Rounds", lambda row: format_rounds(row).replace(" of ", "/")),
        Column("Devices", lambda row: format_count(row["devices"])),
        *(Column(heading, _bare_share(key)) for heading, key in shares),
        Column("Loss", lambda row: format_loss(row["test_loss"])),
        *_sent_and_spent(simulated, wall_time=not simulated, narrow=True),
        *_refused(refused),
    ]


def device_columns(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Columns of a device's record, the refusal last. What a plan adds is there where some row has it."""
    planned = [Column("Rank", lambda row: str(row["rank"] or ABSENT) if row.get("rank") is not None else ABSENT)]
    charged = [
        Column(
            "Frequency (GHz)",
            _cost(lambda cost: f"{number(cost['frequency_hz']) / 1e9:.3f}" if cost["frequency_hz"] else ABSENT),
        ),
        Column("Stops the next rank", _cost(lambda cost: binding_label(cost["binding"]))),
        Column("Latency, formula", _cost(lambda cost: format_simulated(latency_s(cost["formula"])))),
        Column("Latency, sent", _cost(lambda cost: format_simulated(latency_s(cost["sent"])))),
        Column("Energy, formula", _cost(lambda cost: format_joules(energy_j(cost["formula"])))),
        Column("Energy, sent", _cost(lambda cost: format_joules(energy_j(cost["sent"])))),
        Column("Energy, spent", _cost(lambda cost: format_joules(number(cost.get("spent_j"))))),
    ]
    return [
        Column("Device", lambda row: str(row["device"])),
        Column("Samples", lambda row: format_count(row["samples"])),
        Column("Steps", lambda row: format_count(row["steps"])),
        Column("Train loss", lambda row: format_loss(row["train_loss"])),
        Column("Uplink", lambda row: format_bytes(row["uplink_bytes"])),
        Column("Downlink", lambda row: format_bytes(row["downlink_bytes"])),
        Column("Time", lambda row: format_seconds(row["seconds"])),
        *(planned if any(row.get("rank") is not None for row in rows) else []),
        *(charged if any(row.get("cost") is not None for row in rows) else []),
        Column("Refused because", lambda row: str(row.get("refused") or "")),
    ]


def is_simulated(runs: Sequence[RunData]) -> bool:
    """Whether some round of some run was charged."""
    return any(row.get(key) is not None for run in runs for row in run.rounds for key in ("simulated_s", "simulated_j"))


def format_share(share: float | None) -> str:
    """``0.88534`` → ``'88.53 %'``; a dash for what was not measured."""
    return f"{100 * share:.2f} %" if share is not None and math.isfinite(share) else ABSENT


def format_loss(loss: float | None) -> str:
    """``0.34567`` → ``'0.3457'``; a dash for what was not measured."""
    return f"{loss:.4f}" if loss is not None and math.isfinite(loss) else ABSENT


def format_count(count: float) -> str:
    """``12000`` → ``'12,000'``."""
    return f"{count:,.0f}"


def format_rounds(summary: Mapping[str, Any]) -> str:
    """``'3 of 5'``, or ``'5'`` when that was all."""
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


def _refused(shown: bool) -> list[Column]:
    column = Column("Refused", lambda row: format_count(row.get("refused", 0)), lambda row: format_count(row["refused"]))
    return [column] if shown else []


def _bare_share(key: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda row: format_share(row[key]).removesuffix(" %")


def _cost(written: Callable[[Mapping[str, Any]], str]) -> Callable[[Mapping[str, Any]], str]:
    return lambda row: ABSENT if row.get("cost") is None else written(row["cost"])
