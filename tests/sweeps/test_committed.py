"""Tables, verdicts and drawings under ``docs/results`` equal those that the code makes from the committed rows."""

from pathlib import Path

import pytest

from fedfit.sweeps.figures import FIGURES
from tests.sweeps.committed import MIXED_RANKS, PAPER, comparison_pages, draw, figure_pages


@pytest.mark.parametrize("figure", FIGURES)
def test_pages_of_the_papers_figures(figure: str) -> None:
    for name, text in figure_pages(figure).items():
        assert text == (PAPER / name).read_text(encoding="utf-8"), name


def test_pages_of_the_comparison() -> None:
    pages = comparison_pages()
    assert len(pages) == 6
    for name, text in pages.items():
        assert text == (MIXED_RANKS / name).read_text(encoding="utf-8"), name


def test_drawings(tmp_path: Path) -> None:
    """Drawings are deterministic; tests and documents use the same pinned matplotlib."""
    for path in draw(tmp_path, tmp_path):
        if path.suffix == ".svg":
            folder = MIXED_RANKS if path.stem == "mixed-ranks" else PAPER
            assert path.read_text() == (folder / path.name).read_text(), path.name
