"""The table of a comparison as a page in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from fedfit.reports.metrics import ABSENT
from fedfit.sweeps.comparison import Comparison
from fedfit.sweeps.describe import DATA_NAMES, spread_text, table_text
from fedfit.sweeps.rate_search import Trial, with_choice
from fedfit.sweeps.rows import Row, Summary, summarise

_LEGEND = """\
Mean ± standard deviation over the seeds, after the last round. Bytes are what was encoded, head and framing included, of the
whole run; 1 MB is a million bytes. Seconds and joules are simulated, of the round's slowest device and of all devices
together, to the end of the first round at the target or above; where not every seed got there, they are of those that did.
Server seconds are the wall time of the rule's own work in the whole run. – is what a method
does not have: nothing need be exchanged by local only and centralised, and of the latter no devices are simulated."""


def table_page(comparison: Comparison, rows: Sequence[Row], trials: Sequence[Trial]) -> str:
    """The text of ``table.md``: one table per case, then the search for the learning rate."""
    groups = summarise(rows)
    parts = [f"# {comparison.title}", _LEGEND]
    for case in dict.fromkeys(group.panel for group in groups):
        parts += [f"## {case}", case_table([group for group in groups if group.panel == case])]
    parts += ["## The search of the learning rate", _search_text(comparison, trials), _search_table(comparison, trials)]
    return "\n\n".join(parts) + "\n"


def case_table(groups: Sequence[Summary]) -> str:
    """A table in Markdown with a line for each method of one case."""
    share = dict(groups[0].facts)["target"]
    assert isinstance(share, float)
    target = f"{100 * share:g} %"
    head = (
        "method",
        "learning rate",
        "accuracy, %",
        "macro-F1, %",
        "uplink, MB",
        "downlink, MB",
        f"seconds to {target}",
        f"joules to {target}",
        "server, s",
    )
    return table_text(head, [_line(group) for group in groups])


def _line(group: Summary) -> tuple[str, ...]:
    return (
        group.line,
        f"{dict(group.facts)['learning_rate']:g}",
        spread_text(group, "final_accuracy", 100, 1),
        spread_text(group, "final_macro_f1", 100, 1),
        spread_text(group, "uplink_bytes", 1e-6, 2),
        spread_text(group, "downlink_bytes", 1e-6, 2),
        _to_target(group, "seconds_to_target", "simulated_s"),
        _to_target(group, "joules_to_target", "simulated_j"),
        spread_text(group, "server_s", 1, 2),
    )


def _to_target(group: Summary, measure: str, whole: str) -> str:
    """The cell of ``measure``: ``not reached`` if no seed did, a dash without ``whole``, the total of a simulated run."""
    if group.mean[whole] is None:
        return ABSENT
    if not group.reached:
        return "not reached"
    some = f" ({group.reached} of {group.n} seeds)" if group.reached < group.n else ""
    return f"{spread_text(group, measure, 1, 0)}{some}"


def _search_text(comparison: Comparison, trials: Sequence[Trial]) -> str:
    part = " and ".join(dict.fromkeys(trial.part for trial in trials))
    return (
        f"Accuracy in percent on {part} rows after the last round. Every method was run at every rate, for each data set at "
        f"α = {comparison.search_alpha:g} with seed {comparison.search_seed}, which is none of those above. The best rate, in "
        "bold, is the method's on that data set throughout; of equal ones the lowest. A choice at either end of those "
        "tried may not be the best there is."
    )


def _search_table(comparison: Comparison, trials: Sequence[Trial]) -> str:
    cells: dict[tuple[str, str], list[str]] = {}
    for trial, chosen in with_choice(trials):
        mark = "**" if chosen else ""
        cells.setdefault((trial.source, trial.method), []).append(f"{mark}{100 * trial.accuracy:.1f}{mark}")
    head = ("data", "method", *(f"{rate:g}" for rate in sorted(comparison.rates)))
    return table_text(head, [(DATA_NAMES.get(source, source), method, *row) for (source, method), row in cells.items()])
