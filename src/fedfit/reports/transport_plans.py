"""Plans under several codecs, as a table for a terminal and as a figure: the rank over the deadline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.ticker import FuncFormatter
from rich import box
from rich.table import Table

from fedfit.reports.style import WIDE_INCHES, blank, drawing, line_look, plain, save

TRANSPORT_FIGURE = "transport"


def transport_table(found: Mapping[str, Any]) -> Table:
    """A line for each codec: its bits a parameter, who can take part, and their ranks."""
    table = Table(title=f"ranks within {found['deadline_s']:g} s", box=box.SIMPLE, title_justify="left")
    table.add_column("Codecs, up/down", overflow="fold")
    for heading in ("Bits\nup", "Bits\ndown", "Devices\nable", "Common\nrank", "Own rank\nleast", "\nmean", "\nmost"):
        table.add_column(heading, justify="right")
    for row in found["transports"]:
        able = row["devices"]
        own = [f"{row['least']}", f"{row['mean']:.1f}", f"{row['most']}"] if able else ["–"] * 3
        bits = (f"{row[f'{way}_bits_per_parameter']:.4g}" for way in ("uplink", "downlink"))
        rank = "–" if row["rank"] is None else str(row["rank"])
        table.add_row(plain(row["transport"], 60), *bits, str(able), rank, *own)
    return table


def write_transport_figure(found: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draws the curves into ``folder`` as PNG and SVG; returns the paths."""
    with drawing():
        return save(draw_transports(found), folder / TRANSPORT_FIGURE)


def draw_transports(found: Mapping[str, Any]) -> Any:
    """A step for each codec: the rank over the deadline, and the fleet's own deadline as a line."""
    figure, axes = blank(WIDE_INCHES)
    curves = found["curves"]
    own, count = found["policy"] == "per_device", len(curves["rank"])
    for index, (name, ranks) in enumerate(curves["rank"].items()):
        # curves often coincide: the later, the narrower
        look = line_look(index, len(ranks)) | {"marker": None, "linewidth": 1.5 + 1.2 * (count - 1 - index)}
        axes.plot(curves["deadline_s"], ranks, label=plain(name, 48), drawstyle="default" if own else "steps-post", **look)
    axes.axvline(found["deadline_s"], color="0.6", linewidth=1, linestyle=":")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
    axes.set_xlabel("Deadline of a round (s)")
    axes.set_ylabel("Mean rank of the devices" if own else "Common rank")
    axes.set_title("The rank that fewer bits buy")
    figure.legend(loc="outside right upper", title="Codecs, up/down", alignment="left")
    return figure
