from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fedfit.errors import RunFolderError
from fedfit.reports.chosen import choose_runs
from fedfit.reports.html import write_html
from fedfit.reports.page import CSS
from fedfit.reports.read import read_run
from fedfit.reports.report import write_comparison, write_report

from .conftest import MakeRun, plan_run


class Page(HTMLParser):
    """Collects the tags of a page and the resources that a browser would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.resources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.resources += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]


def page_of(folder: Path, figures: list[Path] | None = None) -> str:
    return write_html(read_run(folder), figures or [], folder / "report.html").read_text(encoding="utf-8")


def test_report_writes_figures_and_page_and_nothing_else(make_run: MakeRun) -> None:
    folder = make_run()
    before = {path.name for path in folder.iterdir()}
    paths = write_report(folder)
    assert all(path.is_file() for path in paths)
    assert paths[-1] == folder / "report.html"
    assert {path.name for path in folder.iterdir()} - before == {"figures", "report.html"}
    assert {path.parent for path in paths[:-1]} == {folder / "figures"}


def test_page_is_self_contained(make_run: MakeRun) -> None:
    page = Page(write_report(make_run())[-1].read_text(encoding="utf-8"))
    assert len(page.resources) == 5
    assert all(resource.startswith("data:image/svg+xml;base64,") for resource in page.resources)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)


def test_style_sheet_loads_nothing(make_run: MakeRun) -> None:
    assert not re.search(r"url\(|@import|https?://", page_of(make_run()))


def test_same_run_gives_the_same_bytes(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run()
    first, second = (write_report(folder, tmp_path / name) for name in ("first", "second"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert not (folder / "report.html").exists()


def test_page_has_the_numbers(make_run: MakeRun) -> None:
    text = page_of(make_run(planned=5, refused={1: "the loss is <nan>"}))
    for expected in ("85.00 %", "90.00 %", "in round 2", "8.0 kB", "18.0 kB", "3 of 5", "Unfinished", "All 3 devices"):
        assert expected in text
    assert "the loss is &lt;nan&gt;" in text
    assert "versions.torch" in text
    assert "target_accuracy = 0.0" in text


def test_text_of_the_run_is_escaped(make_run: MakeRun) -> None:
    folder = make_run(name="<script>alert('$title')</script> & co")
    (folder / "environment.json").write_text('{"<img src=x>": {"a": "<b onload=y>"}, "list": ["<i>"]}')
    page = Page(page_of(folder))
    assert not {"script", "img", "b", "i"} & set(page.tags)


def test_first_fifty_devices_are_shown(make_run: MakeRun) -> None:
    folder = make_run(devices=2_000, accuracies=(0.25, 0.5))
    text = page_of(folder)
    assert "The first 50 of 2,000 devices" in text
    device_rows = text.split("<h2>Devices</h2>")[1].split("</table>")[0].count("<tr>")
    assert device_rows == 1 + 50  # and the heading


def test_untrained_run_has_a_page(make_run: MakeRun) -> None:
    assert "No device has taken part" in page_of(make_run(accuracies=(0.25,)))


def test_png_is_taken_where_there_is_no_svg(make_run: MakeRun, tmp_path: Path) -> None:
    png = tmp_path / "extra.png"
    png.write_bytes(b"\x89PNG")
    (resource,) = Page(page_of(make_run(), [png])).resources
    assert resource.startswith("data:image/png;base64,")


def test_failed_write_leaves_the_old_page(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run()
    old = page_of(folder)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFolderError, match=r"No space left on device.*choose another folder"):
        write_report(folder)
    assert (folder / "report.html").read_text(encoding="utf-8") == old
    assert not list(folder.glob(".report*"))


def test_out_that_is_a_file_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="cannot be written"):
        write_comparison([read_run(make_run())], tmp_path / "file")


def test_compare_writes_its_figures(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [read_run(make_run("one")), read_run(make_run("two", accuracies=(0.3, 0.6)))]
    paths = write_comparison(runs, tmp_path / "out")
    assert {path.stem for path in paths} == {"compare_accuracy", "compare_loss", "compare_bytes"}
    assert all(path.is_file() for path in paths)


def test_compare_of_nothing_is_refused() -> None:
    with pytest.raises(RunFolderError, match="nothing to compare"):
        choose_runs([])


def test_the_package_imports_without_heavy_packages() -> None:
    code = (
        "import sys, fedfit.reports.report, fedfit.reports.tables; "
        "print(sorted({'torch', 'transformers', 'datasets', 'flwr', 'peft', 'pandas'} & set(sys.modules)), "
        "'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False"


def test_wide_tables_are_denser_and_headings_wrap_at_spaces_only(make_run: MakeRun) -> None:
    """Headings that wrapped after each letter once made the head of the Devices table 300 pixels tall."""
    text = page_of(plan_run(make_run(refused={1: "loss is nan"}), (4, 32, 0), ("energy", "max_rank", "deadline")))
    devices = text.split("<h2>Devices</h2>")[1].split("</table>")[0]
    assert '<table class="dense">' in devices
    assert '<th class="text">Refused because</th>' in devices
    breaking = [rule for rule in CSS.split("}") if "overflow-wrap: anywhere" in rule and "h1" not in rule]
    assert len(breaking) == 1
    assert not re.search(r"\bth\b", breaking[0])


def test_the_recipe_begins_with_what_was_changed(make_run: MakeRun) -> None:
    text = page_of(plan_run(make_run(planned=4), (4, 8, 8), ("energy",) * 3))
    changed, folded = text.split("<h2>Recipe</h2>")[1].split("<h2>Environment</h2>")[0].split("<details>")
    assert "rounds = 4" in changed
    assert "deadline_s = 25.0" in changed
    assert "target_accuracy" not in changed
    assert "target_accuracy = 0.0" in folded
    assert "rounds = 4" not in folded
    assert "5 keys at their defaults" in folded


def test_refused_has_an_explanation(make_run: MakeRun) -> None:
    rounds = page_of(make_run()).split("<h2>Rounds</h2>")[1]
    assert '<th title="Updates left out of the average: late, lost, not finite, or of another form">Refused</th>' in rounds


def test_refusals_have_a_column_only_if_an_update_was_refused(make_run: MakeRun) -> None:
    assert "Refused because" not in page_of(make_run())
