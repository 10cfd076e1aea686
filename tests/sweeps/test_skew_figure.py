"""The figure over the skew: where it is drawn, and at what heights."""

from dataclasses import replace
from pathlib import Path

import pytest

from fedfit.sweeps.comparison import Case
from fedfit.sweeps.personal import personal
from fedfit.sweeps.rows import Row
from fedfit.sweeps.skew_figure import skewed_sources, write_skew_figure

MADE = personal("small")


def rows(lines: tuple[str, ...]) -> list[Row]:
    """At α the final value is α/10 + seed/100, and 0.3 more for each further line."""
    return [
        Row(
            (("data", "ag_news"), ("alpha", alpha), ("method", line)),
            seed,
            (),
            line,
            None,
            "",
            {},
            (0.0, alpha / 10 + seed / 100 + 0.3 * place),
            (0.0, 1.0),
            0.25,
        )
        for place, line in enumerate(lines)
        for alpha in (0.2, 0.5, 5.0)
        for seed in range(3)
    ]


def test_it_is_drawn_for_three_concentrations_or_more() -> None:
    assert skewed_sources(MADE) == ["ag_news"]
    assert skewed_sources(replace(MADE, cases=MADE.cases[:2])) == []
    assert skewed_sources(replace(MADE, cases=(*MADE.cases, Case("sst2", 0.1)))) == ["ag_news"]
    assert skewed_sources(replace(MADE, cases=(Case("domains"), Case("bgl", variant="a"), Case("bgl", variant="b")))) == []
    assert write_skew_figure(replace(MADE, cases=MADE.cases[:2]), [], "", Path("nowhere")) == []


def test_heights_and_bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {}

    def keep(figure: object, path: Path) -> list[Path]:
        (panel,) = figure.axes  # type: ignore[attr-defined]
        for container in panel.containers:
            _, _, (bars,) = container.lines
            drawn[container.get_label()] = container.lines[0].get_ydata().tolist(), bars.get_segments()
        return [path]

    monkeypatch.setattr("fedfit.sweeps.skew_figure.save", keep)
    assert write_skew_figure(MADE, rows(("FDLoRA", "FedAvg")), "words", tmp_path) == [tmp_path / "personal-by-skew"]
    heights, bars = drawn["FedAvg"]
    # The mean over the seeds adds 0.01; the standard deviation of 0, 0.01 and 0.02 is 0.01, a point.
    assert heights == pytest.approx([33.0, 36.0, 81.0])
    assert [segment[1][1] - segment[0][1] for segment in bars] == pytest.approx([2.0] * 3)
    assert drawn.keys() == {"FDLoRA", "FedAvg"}
