from __future__ import annotations

import time
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from fedfit.reports.figures import figures_of, write_figures
from fedfit.reports.labels import arrange, pool, to_shares
from fedfit.reports.overlay import comparisons, overlay
from fedfit.reports.read import read_run
from fedfit.reports.style import bytes_scale, drawing, plain, save, seconds_scale

from .conftest import LABELS, MakeRun

UNPLANNED = ["accuracy", "loss", "labels", "bytes", "seconds"]
UNPLANNED_COMPARISONS = ["compare_accuracy", "compare_loss", "compare_bytes"]
"""Figures of runs without a plan."""

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def check_files(paths: list[Path], names: list[str]) -> None:
    assert [path.name for path in paths] == [f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    for path in paths:
        content = path.read_bytes()
        assert content.startswith(PNG_MAGIC) if path.suffix == ".png" else b"<svg" in content


def test_every_figure_as_png_and_svg(make_run: MakeRun, tmp_path: Path) -> None:
    check_files(write_figures(read_run(make_run()), tmp_path / "out"), UNPLANNED)


def test_user_style_changes_nothing(make_run: MakeRun, tmp_path: Path) -> None:
    run = read_run(make_run())
    contents = []
    for size in (10, 30):
        with matplotlib.rc_context({"font.size": size, "axes.grid": size > 20}):
            with drawing():
                paths = save(figures_of(run)["loss"](run), tmp_path / str(size))
            assert matplotlib.rcParams["font.size"] == size
        contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("accuracies", [(0.25,), (0.25, 0.8), (None, None)])
def test_shortest_runs_draw(make_run: MakeRun, accuracies: tuple[float | None, ...]) -> None:
    run = read_run(make_run(accuracies=accuracies))
    with drawing():
        for name in UNPLANNED:
            figures_of(run)[name](run).canvas.draw()
        for name in UNPLANNED_COMPARISONS:
            comparisons([run])[name]([run]).canvas.draw()


@pytest.mark.filterwarnings("error")
def test_long_run_draws(make_run: MakeRun) -> None:
    run = read_run(make_run(accuracies=[0.5] * 300, devices=1))
    for name in UNPLANNED:
        figures_of(run)[name](run).canvas.draw()


def test_without_a_partition_labels_are_left_out(make_run: MakeRun) -> None:
    folder = make_run()
    (folder / "partition.json").unlink()
    assert figures_of(read_run(folder))["labels"](read_run(folder)) is None


@pytest.mark.parametrize("devices", [2_000, 10_000])
def test_many_devices_draw_fast(make_run: MakeRun, devices: int) -> None:
    """Bars would take minutes; the heat map has at most 800 columns. The bound leaves room for a loaded machine."""
    counts = [[device % 7, device % 3, 0, 1] for device in range(devices)]
    run = read_run(make_run(accuracies=(0.25, 0.5), devices=1, counts=counts))
    assert run.device_count == devices
    start = time.perf_counter()
    figures_of(run)["labels"](run).canvas.draw()
    assert time.perf_counter() - start < 5


def test_similar_devices_are_side_by_side() -> None:
    """Sorted by largest class, then by its falling share; the device without samples is last."""
    counts = np.array([[0.0, 4], [0, 0], [3, 1], [5, 0], [1, 3]])
    assert arrange(counts).tolist() == [[5, 0], [3, 1], [0, 4], [1, 3], [0, 0]]
    assert np.isnan(to_shares(arrange(counts))[-1]).all()


def test_pool_is_a_mean_of_neighbours() -> None:
    """Six devices in three columns: each column is the mean of two devices."""
    values = np.array([[0.0], [2], [4], [6], [8], [10]])
    assert pool(values, 3).tolist() == [[1], [5], [9]]
    assert pool(values, 6).tolist() == values.tolist()
    assert len(pool(np.zeros((10_007, 2)), 800)) == 800


@pytest.mark.filterwarnings("error")
def test_odd_label_names_draw(make_run: MakeRun) -> None:
    """In matplotlib a dollar sign starts a formula, and a leading underscore hides a name from the legend."""
    folder = make_run(name="_$x_{$ costs")
    partition = folder / "partition.json"
    text = partition.read_text()
    for label, odd in zip(LABELS, ("$5 {", "_hidden", "两\\n行", "long " * 40), strict=True):
        text = text.replace(label, odd)
    partition.write_text(text)
    run = read_run(folder)
    with drawing():
        figure = figures_of(run)["labels"](run)
        figure.canvas.draw()
        comparisons([run])["compare_loss"]([run]).canvas.draw()
    assert len(figure.legends[0].get_texts()) == 4


def test_overlay_has_a_line_a_run(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [read_run(make_run(f"run{index}", accuracies=(0.25, 0.5 + index / 100))) for index in range(6)]
    check_files(overlay(runs[:2], tmp_path / "out"), UNPLANNED_COMPARISONS)
    figure = comparisons(runs)["compare_accuracy"](runs)
    assert len(figure.axes[0].get_lines()) == 6
    assert figure.legends[0].get_texts()[5].get_text() == "agnews-minilm (run5)"


def test_accuracy_over_bytes_adds_both_directions(make_run: MakeRun) -> None:
    """A round sends 3 · 1,000 bytes up and 3 · 2,000 down: 0, 9, 18, 27 kB."""
    runs = [read_run(make_run())]
    (line,) = comparisons(runs)["compare_bytes"](runs).axes[0].get_lines()
    assert list(line.get_xdata()) == [0, 9, 18, 27]
    assert list(line.get_ydata()) == pytest.approx([25, 80, 90, 85])


def test_scales() -> None:
    assert bytes_scale(0) == (1, "bytes")
    assert bytes_scale(2.5e6) == (1e6, "MB")
    assert seconds_scale(30) == (1, "seconds")
    assert seconds_scale(1200) == (60, "minutes")


def test_names_are_shortened_in_their_middle() -> None:
    assert plain("_a\n b") == " _a b"
    assert plain("same (runs/first)", 9) == "same…rst)"
