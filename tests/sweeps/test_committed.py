"""Tables, verdicts and drawings under ``docs/results`` equal those that the code makes from the committed rows."""

from pathlib import Path

import pytest

from fedfit.sweeps.figures import FIGURES
from tests.sweeps.committed import FOLDERS, PAPER, comparison_pages, draw_comparison, draw_paper, figure_pages


@pytest.mark.parametrize("figure", FIGURES)
def test_pages_of_the_papers_figures(figure: str) -> None:
    for name, text in figure_pages(figure).items():
        assert text == (PAPER / name).read_text(encoding="utf-8"), name


@pytest.mark.parametrize("comparison", FOLDERS)
def test_pages_of_a_comparison(comparison: str) -> None:
    pages = comparison_pages(comparison)
    assert len(pages) == (6 if (FOLDERS[comparison] / "rates.csv").exists() else 5)
    for name, text in pages.items():
        assert text == (FOLDERS[comparison] / name).read_text(encoding="utf-8"), name


def test_drawings_of_the_paper(tmp_path: Path) -> None:
    """Drawings are deterministic; tests and documents use the same pinned matplotlib."""
    _same_drawings(draw_paper(tmp_path), PAPER)


@pytest.mark.parametrize("comparison", FOLDERS)
def test_drawing_of_a_comparison(comparison: str, tmp_path: Path) -> None:
    _same_drawings(draw_comparison(comparison, tmp_path), FOLDERS[comparison])


def _same_drawings(drawn: list[Path], folder: Path) -> None:
    for path in drawn:
        if path.suffix == ".svg":
            assert path.read_text() == (folder / path.name).read_text(), path.name
