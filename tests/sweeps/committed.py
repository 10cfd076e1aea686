"""Reads the results under ``docs/results`` back into rows, from their CSV files alone.

``python -m tests.sweeps.committed`` draws the figures and writes the pages again, after a change of their style or text.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedfit.sweeps.comparison import Case, Comparison
from fedfit.sweeps.comparison_pages import draw_comparison as draw
from fedfit.sweeps.comparison_pages import row_pages
from fedfit.sweeps.csv_files import rows_csv, summary_csv
from fedfit.sweeps.describe import caption
from fedfit.sweeps.figure import write_figure
from fedfit.sweeps.figures import FIGURES
from fedfit.sweeps.rate_search import Trial
from fedfit.sweeps.reproduce import COMPARISONS
from fedfit.sweeps.rows import Row
from fedfit.sweeps.verdicts import verdicts_text

RESULTS = Path(__file__).parents[2] / "docs" / "results"
PAPER = RESULTS / "paper"
FOLDERS = {
    "mixed-ranks": RESULTS / "mixed-ranks",
    **{name: RESULTS / "language-models" / name for name in ("commonsense", "instructions", "preferences")},
    "transport": RESULTS / "transport",
    "personal": RESULTS / "personal",
    "personal-logs": RESULTS / "personal" / "logs",
    "personal-intents": RESULTS / "personal" / "intents",
    "personal-trades": RESULTS / "personal" / "trades",
    "personal-log-questions": RESULTS / "personal" / "log-questions",
    "fdlora-ablations": RESULTS / "personal" / "ablations",
}
"""Comparison → the folder of its results at the scale ``small``."""
DRAWN = ("fig3", "fig4", "fig5")
"""The figures whose CSV files are enough to draw them; Fig. 2 is drawn over rounds, which its file omits."""

_CLASSES = 4
"""The classes of AG News."""


def figure_rows(figure: str) -> list[Row]:
    """The rows of a figure of the paper; a run's curve has only the untrained model and the last round."""
    found = []
    for line in _lines(PAPER / f"{figure}.csv"):
        values = _numbers(line)
        x, seed = values.get("x"), int(line["seed"])
        columns = (("figure", figure), ("line", line["line"]), ("x", x))
        curve = (values["untrained_accuracy"] or 0.0, values["final_accuracy"] or 0.0)
        found.append(Row(columns, seed, (), line["line"], x, "", values, curve, (0.0, 0.0), 1 / _CLASSES))
    return found


def comparison_rows(name: str) -> list[Row]:
    """The rows of a comparison, with their curves; rounds that were not measured are in no file."""
    made, curves = comparison(name), dict[tuple[str, ...], list[tuple[float, float]]]()
    for line in _lines(FOLDERS[name] / f"{name}-rounds.csv"):
        found = curves.setdefault(_run(line), [])
        found += [(math.nan, math.nan)] * (int(line["round"]) - len(found))
        found.append((float(line[made.metric.key]), float(line["sent_bytes"])))
    exchanges = {method.name: method.sends for method in made.methods}
    return [_comparison_row(line, curves[_run(line)], exchanges) for line in _lines(FOLDERS[name] / f"{name}.csv")]


def trials(name: str) -> list[Trial]:
    """The trials of the search for the learning rates; none where nothing was searched."""
    metric = comparison(name).metric
    if not comparison(name).searches:
        return []
    return [
        Trial(line["data"], line["method"], float(line["learning_rate"]), float(line[f"final_{metric.name}"]), metric)
        for line in _lines(FOLDERS[name] / "rates.csv")
    ]


def comparison(name: str) -> Comparison:
    """The comparison at the scale of its results."""
    return COMPARISONS[name][0]("small")


def figure_pages(figure: str) -> dict[str, str]:
    """File name under ``docs/results/paper`` → text of the pages of a figure that depend on rows alone."""
    sweep, rows = FIGURES[figure]("small"), figure_rows(figure)
    return {
        f"{figure}.csv": rows_csv(sweep, rows),
        f"{figure}-summary.csv": summary_csv(sweep, rows),
        f"{figure}-verdicts.md": verdicts_text(figure, rows),
    }


def comparison_pages(name: str) -> dict[str, str]:
    """File name → text of the pages of a comparison that depend on rows and trials alone."""
    return row_pages(comparison(name), comparison_rows(name), trials(name))


def draw_paper(folder: Path) -> list[Path]:
    """Draws every figure of the paper for which the CSV files are enough; returns the paths."""
    written = []
    for figure in DRAWN:
        sweep = FIGURES[figure]("small")
        written += write_figure(sweep, figure_rows(figure), caption(sweep), folder)
    return written


def draw_comparison(name: str, folder: Path) -> list[Path]:
    """Draws the figures of a comparison; returns the paths."""
    return draw(comparison(name), comparison_rows(name), folder)


def _comparison_row(line: Mapping[str, str], curve: Sequence[tuple[float, float]], exchanges: Mapping[str, bool]) -> Row:
    alpha, method = float(line["alpha"]) if "alpha" in line else None, line["method"]
    values, case = _numbers(line), Case(line["data"], alpha, line.get("case", ""))
    return Row(
        columns=(*case.columns, ("method", method)),
        seed=int(line["seed"]),
        facts=(("learning_rate", values["learning_rate"]), ("target", values["target"])),
        line=method,
        x=None,
        panel=case.label,
        values=values,
        curve=tuple(value for value, _ in curve),
        sent_bytes=tuple(sent for _, sent in curve),
        chance=None,
        exchanges=exchanges[method],
    )


def _run(line: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(line[name] for name in ("data", "alpha", "case", "method", "seed") if name in line)


def _lines(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(encoding="utf-8")))


def _numbers(line: Mapping[str, str]) -> dict[str, float | None]:
    """The cells that are numbers; whole ones stay whole."""
    names = [name for name in line if name not in ("figure", "line", "data", "alpha", "case", "method", "seed")]
    return {name: (int(line[name]) if line[name].isdigit() else float(line[name])) if line[name] else None for name in names}


def main() -> None:
    """Writes figures and pages into ``docs/results``."""
    for figure in FIGURES:
        for name, text in figure_pages(figure).items():
            (PAPER / name).write_text(text, encoding="utf-8")
    draw_paper(PAPER)
    for name, folder in FOLDERS.items():
        for file, text in comparison_pages(name).items():
            (folder / file).write_text(text, encoding="utf-8")
        draw_comparison(name, folder)


if __name__ == "__main__":
    main()
