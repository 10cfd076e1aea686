"""The table of a comparison as a page in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from fedfit.sweeps.comparison import Comparison
from fedfit.sweeps.comparison_rows import Group, Outcome, group_outcomes
from fedfit.sweeps.describe import DATA_NAMES, table_text
from fedfit.sweeps.rate_search import Trial, with_choice

_NONE = "–"

_LEGEND = """\
Mean ± standard deviation over the seeds, after the last round. Bytes are what was encoded, head and framing included, of the
whole run; 1 MB is a million bytes. Seconds and joules are simulated, of the round's slowest device and of all devices
together, to the end of the first round at the target or above; where not every seed got there, they are of those that did.
Server seconds are the wall time of the rule's own work in the whole run. – is what a method
does not have: nothing need be exchanged by local only and centralised, and of the latter no devices are simulated."""


def table_page(comparison: Comparison, outcomes: Sequence[Outcome], trials: Sequence[Trial]) -> str:
    """``table.md``: a table a case, then the search of the learning rate."""
    groups = group_outcomes(outcomes)
    parts = [f"# {comparison.title}", _LEGEND]
    for case in dict.fromkeys(group.case for group in groups):
        rows = [group for group in groups if group.case == case]
        parts += [f"## {case.label}", case_table(rows)]
    parts += ["## The search of the learning rate", _search_words(comparison), _search_table(comparison, trials)]
    return "\n\n".join(parts) + "\n"


def case_table(groups: Sequence[Group]) -> str:
    """The methods of one case, a line each."""
    target = f"{100 * groups[0].target:g} %"
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


def _line(group: Group) -> tuple[str, ...]:
    return (
        group.method,
        f"{group.learning_rate:g}",
        _spread(group, "final_accuracy", 100, 1),
        _spread(group, "final_macro_f1", 100, 1),
        _spread(group, "uplink_bytes", 1e-6, 2),
        _spread(group, "downlink_bytes", 1e-6, 2),
        _to_target(group, "seconds_to_target", "simulated_s"),
        _to_target(group, "joules_to_target", "simulated_j"),
        _spread(group, "server_s", 1, 2),
    )


def _to_target(group: Group, measure: str, whole: str) -> str:
    """``not reached`` and ``not simulated`` are two things: ``whole`` is the total that only a simulated run has."""
    if group.mean[whole] is None:
        return _NONE
    if not group.reached:
        return "not reached"
    some = f" ({group.reached} of {group.n} seeds)" if group.reached < group.n else ""
    return f"{_spread(group, measure, 1, 0)}{some}"


def _spread(group: Group, measure: str, factor: float, digits: int) -> str:
    mean, sd = group.mean[measure], group.sd[measure]
    if mean is None:
        return _NONE
    spread = "" if sd is None else f" ± {factor * sd:,.{digits}f}"
    return f"{factor * mean:,.{digits}f}{spread}"


def _search_words(comparison: Comparison) -> str:
    return (
        "Accuracy in percent after the last round. Every method was run at every rate, for each data set at "
        f"α = {comparison.search_alpha:g} with seed {comparison.search_seed}, which is none of those above, on "
        "test rows as they are. The best rate, in "
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
