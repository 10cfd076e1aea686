"""How every figure looks, and how it is saved so that the same run gives the same bytes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#6A3D9A", "#666666")
"""Okabe and Ito's colours for every kind of colour blindness; violet and grey for their yellow and black."""
INK, FAINT, GRID = "#222222", "#777777", "#DDDDDD"
BINDING_COLOURS = {
    "deadline": "#6A3D9A",
    "energy": "#E69F00",
    "frequency": "#009E73",
    "max_rank": "#56B4E9",
    "none": "#666666",
}
"""What binds has one colour in every figure; none of them means a direction of the link anywhere."""
BINDING_LABELS = {
    "deadline": "deadline",
    "energy": "energy budget",
    "frequency": "highest CPU frequency",
    "max_rank": "highest rank allowed",
    "none": "nothing",
}
PART_COLOURS = {
    "compute": "#CC79A7",
    "uplink": "#0072B2",
    "downlink": "#D55E00",
    "circuit": "#AAAAAA",
}
"""Parts of a device's time and energy; the directions as in the figure of bytes."""
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")

SINGLE_INCHES = (6.4, 4.0)
WIDE_INCHES = (9.6, 4.0)
MARKED_POINTS = 40
"""Lines with more points than this are drawn without markers."""

STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": INK,
    "axes.labelsize": 11,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "figure.dpi": 100,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same
    "font.size": 10,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "legend.handlelength": 2.8,  # long enough to show a dash
    "lines.linewidth": 2.0,
    "lines.markersize": 5,
    "savefig.dpi": 200,
    "svg.hashsalt": "fedfit",  # ids in the file are random otherwise
    "text.color": INK,
    "text.parse_math": False,  # a label may hold a dollar sign
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
}


@contextmanager
def drawing() -> Iterator[None]:
    """Draw in the house style, whatever the user's own matplotlib settings are."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        # A script that the font lacks shows as boxes; a warning for every letter of it helps nobody.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def blank(size_inches: tuple[float, float], **panels: Any) -> tuple[Any, Any]:
    """A figure and its axes, outside pyplot so that no state is shared. ``panels`` goes to ``Figure.subplots``."""
    figure = Figure(figsize=size_inches, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(**panels)


def save(figure: Any, stem: Path) -> list[Path]:
    """Write ``stem`` as PNG and SVG, without a date."""
    png, svg = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")
    figure.savefig(png, metadata={"Software": None})
    figure.savefig(svg, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return [png, svg]


def round_axis(axes: Any, rounds: Sequence[float], label: str = "Round") -> None:
    """Whole numbers along x, with air around them so that a run of one round draws as well."""
    low, high = min(rounds), max(rounds)
    margin = max(0.5, 0.02 * (high - low)) if low == high or len(rounds) > MARKED_POINTS else 0.25
    axes.set_xlim(low - margin, high + margin)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axes.set_xlabel(label)


def line_look(index: int, points: int) -> dict[str, Any]:
    """Colour, dash and marker of line ``index``; the dash changes when the colours are used up."""
    marker = MARKERS[index % len(MARKERS)] if points <= MARKED_POINTS else None
    turn = index // len(PALETTE) % len(DASHES)
    return {"color": PALETTE[index % len(PALETTE)], "linestyle": DASHES[turn], "marker": marker, "markeredgewidth": 0}


def bytes_scale(largest: float) -> tuple[float, str]:
    """What to divide by so that ``largest`` bytes read well, and the unit then."""
    for divisor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if largest >= divisor:
            return divisor, unit
    return 1.0, "bytes"


def seconds_scale(largest: float) -> tuple[float, str]:
    """What to divide by so that ``largest`` seconds read well, and the unit then."""
    if largest >= 2 * 3600:
        return 3600.0, "hours"
    return (60.0, "minutes") if largest >= 10 * 60 else (1.0, "seconds")


def binding_colour(word: str) -> str:
    """The colour of what binds; of a word that only a later version knows, black."""
    return BINDING_COLOURS.get(word, INK)


def binding_label(word: str) -> str:
    """What binds, as legends and tables say it."""
    return BINDING_LABELS.get(word, word)


def binding_order(words: Iterable[str]) -> list[str]:
    """Each of ``words`` once, in the order of ``BINDING_COLOURS``, unknown ones last."""
    known = list(BINDING_COLOURS)
    return sorted(set(words), key=lambda word: (known.index(word) if word in known else len(known), word))


def plain(text: object, longest: int = 32) -> str:
    """``text`` on one line, cut in its middle (names often differ at their ends).

    A leading underscore would keep it out of a legend, so a space goes before it.
    """
    line = " ".join(str(text).split())
    if len(line) > longest:
        kept = (longest - 1) // 2
        line = f"{line[:kept]}…{line[-kept:]}"
    return f" {line}" if line.startswith("_") else line
