"""Reports of planned runs: simulated seconds and joules, ranks, binding limits, and the charge of each device."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex

from fedfit.errors import RunFolderError
from fedfit.plans import Charge, DeviceCost, LinkState
from fedfit.records import DeviceRecord, RoundRecord
from fedfit.reports.captions import CAPTIONS, caption
from fedfit.reports.columns import device_columns
from fedfit.reports.costs import ledger, rank_texts, since_the_start
from fedfit.reports.figures import FIGURES, figures_of
from fedfit.reports.overlay import comparisons
from fedfit.reports.ranks import REFUSED_LABEL
from fedfit.reports.read import RunData, read_run
from fedfit.reports.report import write_report
from fedfit.reports.style import BINDING_COLOURS, BINDING_LABELS
from fedfit.reports.tables import compare_table, run_table, summary_rows

from .conftest import MakeRun, charge, plan_run, planned_device_line, write_lines
from .test_tables import shown

RANKS, WORDS = (4, 32, 8), ("energy", "max_rank", "deadline")


def planned(
    make_run: MakeRun, folder: str = "run", *, count: str = "sent", common: bool = False, ranks: tuple[int, ...] = RANKS
) -> RunData:
    return read_run(plan_run(make_run(folder), ranks, WORDS, count=count, common=common))


def test_lines_made_by_hand_equal_those_of_the_records() -> None:
    """The tests here read the format that ``records`` writes."""
    line = planned_device_line(1, 2, 8, "deadline")
    cost = DeviceCost(1.2e9, "deadline", LinkState(1e-7, 1e-7, 1e6, 2e6), Charge(**charge(2)), Charge(**charge(2, 2.0)), 7.5)
    record = DeviceRecord(1, 2, 102, 4, 0.5, 1_000, 2_000, 0.6, rank=8, cost=cost)
    assert record.to_json() == line


def test_time_and_energy_add_up_from_round_0(make_run: MakeRun) -> None:
    """Three rounds of 20 s and 50 J."""
    run = planned(make_run)
    assert since_the_start(run, "simulated_s") == [0, 20, 40, 60]
    assert since_the_start(run, "simulated_j") == [0, 50, 100, 150]
    summary = summary_rows(run)
    assert (summary["simulated_s"], summary["simulated_j"]) == (60, 150)
    for name, ends in (("accuracy_time", 60), ("loss_energy", 150)):
        axes = figures_of(run)[name](run).axes[0]
        assert list(axes.get_lines()[0].get_xdata())[::3] == [0, ends]
    assert figures_of(run)["accuracy_time"](run).axes[0].get_xlabel() == "Simulated time (s)"
    assert figures_of(run)["accuracy_energy"](run).axes[0].get_xlabel() == "Energy of all devices (J)"


def test_folder_without_the_keys_of_a_plan_has_no_figures_of_it(make_run: MakeRun) -> None:
    folder = make_run()
    for name in ("rounds.jsonl", "devices.jsonl"):
        rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        write_lines(
            folder / name,
            [{k: v for k, v in row.items() if k not in ("rank", "cost", "simulated_s", "simulated_j")} for row in rows],
        )
    run = read_run(folder)
    assert [name for name, draw in figures_of(run).items() if draw(run) is None] == [
        *(f"{what}_{over}" for over in ("time", "energy") for what in ("accuracy", "loss")),
        *("confusion", "own_models", "own_gain", "by_device", "ranks", "ledger"),
    ]  # fmt: skip
    assert "Energy" not in shown(run_table(run))
    assert "Rank" not in [column.heading for column in device_columns(run.last_devices())]


def test_records_of_unplanned_rounds_are_null_there(make_run: MakeRun) -> None:
    assert RoundRecord(0, {}, None, 0, 0, 1.0).to_json()["simulated_s"] is None
    assert summary_rows(read_run(make_run()))["simulated_j"] is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rank": "8"}, "`rank`"),
        ({"cost": 5}, "`cost`"),
        ({"cost": {"binding": "deadline", "frequency_hz": 1e9, "formula": charge(0)}}, "cost.sent"),
        (
            {
                "cost": {
                    "binding": "deadline",
                    "frequency_hz": 1e9,
                    "sent": charge(0),
                    "formula": {**charge(0), "uplink_s": "1"},
                }
            },
            "cost.formula",
        ),
    ],
)
def test_damaged_cost_is_named(make_run: MakeRun, change: dict[str, object], named: str) -> None:
    folder = make_run()
    line = {**planned_device_line(3, 2, 8, "deadline"), **change}
    with (folder / "devices.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    with pytest.raises(RunFolderError, match=rf"devices\.jsonl, line 10 is damaged.*{named}"):
        read_run(folder)


@pytest.mark.parametrize(("count", "factor"), [("formula", 1), ("sent", 2)])
def test_ledger_sums_the_charge_that_decides(make_run: MakeRun, count: str, factor: int) -> None:
    """Device i in three rounds: 3·(10 + i), 6 and 3 s; 3·(4 + i), 1.5 and 0.3 J; the charge ``sent`` is twice as much."""
    run = planned(make_run, count=count)
    charged = ledger(run)
    assert charged is not None
    expected = [[3 * (10 + i), 6, 3, 3 * (4 + i), 1.5, 0.3] for i in range(3)]
    np.testing.assert_allclose(charged[1], factor * np.array(expected))
    time, energy = FIGURES["ledger"](run).axes
    heights = [[bar.get_height() for bar in bars] for bars in time.containers]
    np.testing.assert_allclose(np.transpose(heights), factor * np.array(expected)[:, :3])
    assert energy.containers[0][2].get_height() == factor * 18
    assert ("eq. 5" in caption(run, "ledger")[1]) == ("eq. 5" in time.get_title()) == (count == "formula")


def test_device_without_a_link_adds_its_finite_parts(make_run: MakeRun) -> None:
    """An infinite uplink time is null in the file: it adds nothing to the sum and is a dash in the table."""
    folder = plan_run(make_run(), RANKS, WORDS)
    text = (folder / "devices.jsonl").read_text().replace('"uplink_s": 4.0', '"uplink_s": null')
    (folder / "devices.jsonl").write_text(text)
    run = read_run(folder)
    charged = ledger(run)
    assert charged is not None
    assert charged[1][0].tolist() == pytest.approx([60, 0, 6, 24, 3, 0.6])
    latency = next(column for column in device_columns(run.last_devices()) if column.heading == "Latency, sent")
    assert latency.cell(run.last_devices()[0]) == "– s"


def test_dots_have_the_colour_of_the_binding_limit(make_run: MakeRun) -> None:
    run = planned(make_run)
    dots = {dot.get_label(): dot for dot in FIGURES["ranks"](run).axes[0].collections}
    assert {name: to_hex(dot.get_facecolors()[0]).upper() for name, dot in dots.items()} == {
        BINDING_LABELS[word]: BINDING_COLOURS[word].upper() for word in WORDS
    }
    for rank, word in zip(RANKS, WORDS, strict=True):
        assert dots[BINDING_LABELS[word]].get_offsets()[:, 1].tolist() == [rank] * 3
    assert rank_texts(run) == {1: "4–32", 2: "4–32", 3: "4–32"}


def test_common_rank_is_a_line(make_run: MakeRun) -> None:
    run = planned(make_run, common=True)
    (line,) = FIGURES["ranks"](run).axes[0].get_lines()
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([1, 2, 3], [4, 4, 4])
    assert rank_texts(run) == {1: "4", 2: "4", 3: "4"}


def test_device_that_cannot_take_part_is_a_cross_without_a_rank(make_run: MakeRun) -> None:
    run = planned(make_run, ranks=(4, 0, 8))
    names = [dot.get_label() for dot in FIGURES["ranks"](run).axes[0].collections]
    assert REFUSED_LABEL in names
    assert BINDING_LABELS["max_rank"] not in names
    assert rank_texts(run)[1] == "4–8"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("common", [False, True])
def test_thousand_devices_draw_shares_of_the_binding_limits(make_run: MakeRun, common: bool) -> None:
    """The deadline stops half of the devices; the ranks are 1 to 10, their median 5.5."""
    ranks, words = [1 + device % 10 for device in range(1000)], ["deadline", "energy"] * 500
    run = read_run(plan_run(make_run(devices=1000, accuracies=(0.25, 0.5)), ranks, words, common=common))
    figure = FIGURES["ranks"](run)
    top, below = figure.axes
    assert [bars[0].get_height() for bars in below.containers] == [50, 50]
    if not common:
        assert [patch.get_data().values.tolist() for patch in top.patches] == [[10], [5.5]]
    figure.canvas.draw()
    FIGURES["ledger"](run).canvas.draw()


def test_comparison_leaves_out_runs_that_were_not_simulated(make_run: MakeRun) -> None:
    runs = [planned(make_run, "new"), read_run(make_run("old")), planned(make_run, "newer")]
    axes = comparisons(runs)["compare_accuracy_time"](runs).axes[0]
    assert [len(line.get_xdata()) for line in axes.get_lines()] == [4, 0, 4]
    assert "not simulated" in axes.get_legend().get_texts()[1].get_text()
    colours = [
        [line.get_color() for line in comparisons(runs)[name](runs).axes[0].get_lines()]
        for name in ("compare_accuracy", "compare_accuracy_time")
    ]
    assert colours[0][2] == colours[1][2]
    assert comparisons(runs[1:2])["compare_accuracy_time"](runs[1:2]) is None


def test_tables_fit_eighty_columns(make_run: MakeRun) -> None:
    """Tables at their widest: hours, kilojoules, a range of ranks with three digits, and a refusal."""
    folder = plan_run(make_run(refused={1: "loss is nan"}), (64, 768, 128), WORDS)
    rows = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    wide = {"uplink_bytes": 888_800_000, "downlink_bytes": 888_800_000, "simulated_s": 3599.0, "simulated_j": 888_800.0}
    write_lines(folder / "rounds.jsonl", [{**row, **(wide if row["round"] else {})} for row in rows])
    run = read_run(folder)
    text = shown(run_table(run), width=80)
    assert "64–768" in text
    assert "889 kJ" in text
    assert "60.0 min" in text
    for table in (text, shown(compare_table([run, run]), width=80)):
        assert "Refused" in table
        assert "…" not in table
        assert max(map(len, table.splitlines())) <= 80


def test_page_has_figures_and_cells(make_run: MakeRun) -> None:
    """Device 2 at 1.2 GHz: 13 + 2 s and 4.6 + 2 J by the charge ``formula``, twice as much by ``sent``."""
    run = planned(make_run)
    page = write_report(run.folder)[-1].read_text(encoding="utf-8")
    for cell in ("1.200", "15.0 s", "30.0 s", "6.60 J", "13.2 J", "7.50 J", "deadline", "4–32", "60.0 s", "150 J"):
        assert f">{cell}<" in page
    for name in ("accuracy", "loss", "accuracy_time", "loss_energy", "ranks", "ledger", "labels", "bytes", "seconds"):
        assert f"<b>{caption(run, name)[0]}</b>" in page, name


def test_every_figure_has_a_caption() -> None:
    assert FIGURES.keys() == CAPTIONS.keys()


def test_refusal_is_in_the_device_table(make_run: MakeRun, tmp_path: Path) -> None:
    run = planned(make_run, ranks=(4, 0, 8))
    columns = device_columns(run.last_devices())
    cells = {column.heading: column.cell(run.last_devices()[1]) for column in columns}
    assert (cells["Rank"], cells["Frequency (GHz)"], cells["Refused because"]) == ("–", "–", "its battery is empty")
    assert columns[-1].heading == "Refused because"
