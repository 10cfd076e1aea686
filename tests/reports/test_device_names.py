"""Devices by the values of a column: their names in the Devices table and below the bars of the figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedfit.reports.by_device import draw_by_device
from fedfit.reports.html import write_html
from fedfit.reports.labels import draw_labels
from fedfit.reports.read import read_run

from .conftest import MakeRun, write_lines

SITES = [["Bonn"], ["Graz", "Linz"], ["a", "b", "c", "d", "e"]]


def by_site(folder: Path, names: Any) -> Path:
    """The run in ``folder`` partitioned by the column ``site``, each device with test rows of its own."""
    partition = json.loads((folder / "partition.json").read_text())
    (folder / "partition.json").write_text(json.dumps(partition | {"devices": names}))
    with (folder / "recipe.toml").open("a") as recipe:
        recipe.write('[partition]\nkind = "by_column"\ncolumn = "site"\n')
    devices = len(partition["counts"])
    scores = [{"round": 3, "device": device, "samples": 5, "personal_accuracy": 0.5} for device in range(devices)]
    write_lines(folder / "scores.jsonl", scores)
    return folder


def ticks(figure: Any) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_xticklabels()]


def test_names_stand_in_the_table_and_below_the_bars(make_run: MakeRun, tmp_path: Path) -> None:
    run = read_run(by_site(make_run(), SITES))
    assert run.device_names == ["Bonn", "Graz, Linz", "a, b, c and 2 more"]
    devices = write_html(run, [], tmp_path / "page.html").read_text().split("<h2>Devices</h2>")[1].split("</table>")[0]
    assert '<th>Device</th><th class="label">site</th>' in devices
    assert '<td class="label">Graz, Linz</td>' in devices
    for draw in (draw_labels, draw_by_device):
        figure = draw(run)
        assert ticks(figure) == run.device_names
        assert figure.axes[0].get_xlabel() == "Device, by site"


@pytest.mark.parametrize("names", [None, [["Bonn"]], "Bonn"])
def test_without_a_name_for_each_device_there_are_numbers(names: Any, make_run: MakeRun, tmp_path: Path) -> None:
    run = read_run(by_site(make_run(), names))
    assert run.device_names is None
    assert "site</th>" not in write_html(run, [], tmp_path / "page.html").read_text()
    assert ticks(draw_by_device(run)) == ["0", "1", "2"]
    assert draw_labels(run).axes[0].get_xlabel() == "Device"


def test_many_devices_have_numbers_below_the_bars(make_run: MakeRun) -> None:
    run = read_run(by_site(make_run(devices=21), [[f"site {number}"] for number in range(21)]))
    assert draw_by_device(run).axes[0].get_xlabel() == "Device"
    assert run.device_names is not None
