"""The style of all figures, and saving them so that the same run gives the same bytes."""

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
"""Binding limit → its colour in every figure; no figure uses these colours for uplink or downlink."""
BINDING_LABELS = {
    "deadline": "deadline",
    "energy": "energy budget",
    "frequency": "maximum frequency",
    "max_rank": "maximum rank",
    "none": "nothing",
}
PART_COLOURS = {
    "compute": "#CC79A7",
    "uplink": "#0072B2",
    "downlink": "#D55E00",
    "circuit": "#AAAAAA",
}
"""Part of a device's time or energy → its colour; uplink and downlink as in the figure of bytes."""
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
    "font.family": "DejaVu Sans",  # shipped with matplotlib, so that every machine draws the same
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
    """A context that draws in the style of this module, regardless of the user's matplotlib settings."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        # Letters that the font lacks are drawn as boxes; a warning for each of them would not help.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def blank(size_inches: tuple[float, float], **panels: Any) -> tuple[Any, Any]:
    """A new figure and its axes, without pyplot and its shared state. ``panels`` goes to ``Figure.subplots``."""
    figure = Figure(figsize=size_inches, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(**panels)


def save(figure: Any, stem: Path) -> list[Path]:
    """Write ``stem`` as PNG and SVG, without a date; return the paths."""
    png, svg = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")
    figure.savefig(png, metadata={"Software": None})
    figure.savefig(svg, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return [png, svg]


def round_axis(axes: Any, rounds: Sequence[float], label: str = "Round") -> None:
    """Set up an x axis of whole numbers, with a margin so that a run of one round can be drawn."""
    low, high = min(rounds), max(rounds)
    margin = max(0.5, 0.02 * (high - low)) if low == high or len(rounds) > MARKED_POINTS else 0.25
    axes.set_xlim(low - margin, high + margin)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axes.set_xlabel(label)


def line_look(index: int, points: int) -> dict[str, Any]:
    """Colour, dash and marker of line ``index``; the dash changes after all colours have been used."""
    marker = MARKERS[index % len(MARKERS)] if points <= MARKED_POINTS else None
    turn = index // len(PALETTE) % len(DASHES)
    return {"color": PALETTE[index % len(PALETTE)], "linestyle": DASHES[turn], "marker": marker, "markeredgewidth": 0}


def bytes_scale(largest: float) -> tuple[float, str]:
    """Divisor and unit that make ``largest`` bytes easy to read."""
    for divisor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if largest >= divisor:
            return divisor, unit
    return 1.0, "bytes"


def seconds_scale(largest: float) -> tuple[float, str]:
    """Divisor and unit that make ``largest`` seconds easy to read."""
    if largest >= 2 * 3600:
        return 3600.0, "hours"
    return (60.0, "minutes") if largest >= 10 * 60 else (1.0, "seconds")


def binding_colour(word: str) -> str:
    """The colour of a binding limit; black for an unknown one, as a later version may record."""
    return BINDING_COLOURS.get(word, INK)


def binding_label(word: str) -> str:
    """The name of a binding limit in legends and tables."""
    return BINDING_LABELS.get(word, word)


def binding_order(words: Iterable[str]) -> list[str]:
    """Each of ``words`` once, in the order of ``BINDING_COLOURS``, unknown ones last."""
    known = list(BINDING_COLOURS)
    return sorted(set(words), key=lambda word: (known.index(word) if word in known else len(known), word))


def plain(text: object, longest: int = 32) -> str:
    """``text`` on one line, shortened in its middle since names often differ at their ends.

    Legends omit texts with a leading underscore, so such a text gets a space before it.
    """
    line = " ".join(str(text).split())
    if len(line) > longest:
        kept = (longest - 1) // 2
        line = f"{line[:kept]}…{line[-kept:]}"
    return f" {line}" if line.startswith("_") else line
