"""The figure, the table and the summary of ``fedfit plan``."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
from matplotlib.colors import to_hex

from fedfit.reports.plan_figure import draw_plan, write_plan_figure
from fedfit.reports.plan_summary import highest_ranks, plan_summary
from fedfit.reports.plan_table import plan_table, share_of
from fedfit.reports.style import BINDING_COLOURS
from fedfit.units import duration_scale, energy_scale, format_joules, format_simulated

from .conftest import plan_json
from .test_tables import shown

THREE = ([16, 12, 24], ["energy", "deadline", "max_rank"])


def test_bars_are_sorted_and_coloured(tmp_path: Path) -> None:
    plan = plan_json(*THREE, infeasible=2)
    assert [path.name for path in write_plan_figure(plan, tmp_path / "out")] == ["plan.png", "plan.svg"]
    (axes,) = draw_plan(plan).axes
    assert [bar.get_height() for bar in axes.containers[0]] == [12, 16, 24]
    colours = [to_hex(bar.get_facecolor()).upper() for bar in axes.containers[0]]
    assert colours == [BINDING_COLOURS[word].upper() for word in ("deadline", "energy", "max_rank")]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["phone-1", "phone-0", "phone-2"]
    assert list(axes.get_lines()[0].get_ydata()) == [12, 12]
    assert "common rank 12" in axes.get_title()
    assert "2 more cannot take part" in axes.get_title()


@pytest.mark.filterwarnings("error")
def test_large_fleet_is_counted_by_rank() -> None:
    """Device i has rank 1 + i mod 5, and energy stops every other device: of 1,000, 100 share each rank and limit."""
    plan = plan_json([1 + device % 5 for device in range(1000)], ["deadline", "energy"] * 500)
    figure = draw_plan(plan)
    (axes,) = figure.axes
    assert [[bar.get_height() for bar in bars] for bars in axes.containers] == [[100] * 5] * 2
    assert [bar.get_x() + bar.get_width() / 2 for bar in axes.containers[0]] == [1, 2, 3, 4, 5]
    figure.canvas.draw()


def test_wide_ranges_share_bars_and_lose_no_device() -> None:
    """Ranks 1 to 768 in at most 80 bars: 10 ranks each, so 77 of them."""
    (axes,) = draw_plan(plan_json(list(range(1, 769)), ["deadline"] * 768)).axes
    (bars,) = axes.containers
    assert [bar.get_height() for bar in bars] == [10] * 76 + [8]


def test_hundred_thousand_devices_are_fast() -> None:
    """The bound leaves room for a loaded machine; a bar for each device would take minutes."""
    plan = plan_json([1 + device % 300 for device in range(100_000)], ["deadline", "energy"] * 50_000)
    start = time.perf_counter()
    draw_plan(plan).canvas.draw()
    plan_summary(plan)
    assert time.perf_counter() - start < 8


@pytest.mark.filterwarnings("error")
def test_plan_without_a_feasible_device(tmp_path: Path) -> None:
    plan = plan_json([], [], infeasible=2)
    write_plan_figure(plan, tmp_path)
    assert plan_table(plan).row_count == 0
    assert plan_summary(plan).splitlines()[0] == "no device can take part"
    assert len(highest_ranks(plan)[0]) == 0


def test_summary_names_who_stops_the_next_rank() -> None:
    assert plan_summary(plan_json(*THREE)) == "rank 12 for all 3 devices; phone-1 stops rank 13: deadline"
    words = plan_summary(plan_json(*THREE, infeasible=5)).splitlines()[1]
    assert words.startswith("5 cannot take part: watch-0 (rank 1 takes longer than the deadline), watch-1")
    assert words.endswith("and 2 more")


def test_summary_counts_in_a_large_fleet() -> None:
    """Ranks 1 to 5, 200 devices each; half of the devices of rank 1 have even numbers, half odd ones."""
    ranks, words = [1 + device % 5 for device in range(1000)], ["deadline", "energy"] * 500
    assert plan_summary(plan_json(ranks, words)) == (
        "rank 1 for all 1,000 devices; 200 of them stop rank 2: deadline 100, energy budget 100"
    )
    assert plan_summary(plan_json(ranks, words, common=False)) == (
        "ranks 1 to 5 (median 3) for all 1,000 devices; the next rank is stopped by: deadline 500, energy budget 500"
    )


def test_table_shows_shares_and_fits(tmp_path: Path) -> None:
    """Device 1 needs 11 + 2 + 1 of 25 s, and 5 + 0.5 + 0.1 of 20 J."""
    text = shown(plan_table(plan_json(*THREE)), width=80)
    assert "14/25 s" in text
    assert "5.6/20 J" in text
    assert "1.250–2.000" in text
    assert "…" not in text


def test_limits_are_in_words() -> None:
    table = plan_table(plan_json([8, 8, 8, 8], ["deadline", "energy", "frequency", "max_rank"]))
    assert str(table.columns[-1].header) == "Next rank\nlimited by"
    assert list(table.columns[-1].cells) == ["deadline", "energy", "max. freq.", "max. rank"]


def test_large_fleet_leaves_out_its_middle() -> None:
    table = plan_table(plan_json([8] * 1000, ["deadline"] * 1000))
    names = [str(cell) for cell in table.columns[0].cells]
    assert names == [f"phone-{i}" for i in range(20)] + ["…"] + [f"phone-{i}" for i in (997, 998, 999)]
    assert "1,000 devices" in str(table.title)


def test_shares_take_the_unit_of_the_limit() -> None:
    assert share_of(589.1, 1200, duration_scale) == "9.818/20 min"
    assert share_of(0.5, 2000, energy_scale) == "0.0005/2 kJ"
    assert share_of(12.5, None, duration_scale) == share_of(12.5, math.inf, duration_scale) == "12.5 s"


def test_units() -> None:
    assert [format_joules(value) for value in (0.0125, 3e-6, 4.6, 12_345, 0)] == [
        "12.5 mJ",
        "3.00 µJ",
        "4.60 J",
        "12.3 kJ",
        "0 J",
    ]
    assert [format_simulated(value) for value in (0.0125, 75.2, 750, 9000, 0)] == [
        "12.5 ms",
        "75.2 s",
        "12.5 min",
        "2.50 h",
        "0 s",
    ]
    assert [format_simulated(value) for value in (math.inf, math.nan)] == ["∞ s", "– s"]
