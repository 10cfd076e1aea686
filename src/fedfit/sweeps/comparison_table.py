"""The table of a comparison as a page in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from fedfit.reports.metrics import ABSENT, capital
from fedfit.sweeps.comparison import Comparison
from fedfit.sweeps.describe import DATA_NAMES, spread_text, table_text
from fedfit.sweeps.metric import Metric
from fedfit.sweeps.rate_search import Trial, with_choice
from fedfit.sweeps.rows import Row, Summary, summarise

_LEGEND = """\
Mean ± standard deviation over the seeds, after the last round. Bytes are what was encoded, head and framing included, of the
whole run; 1 MB is a million bytes. Seconds and joules are simulated, of the round's slowest device and of all devices
together, {until}
Server seconds are the wall time of the rule's own work in the whole run. – is what a method
does not have: nothing need be exchanged by local only and centralised, and of the latter no devices are simulated."""

_TO_TARGET = (
    "to the end of the first round at the target or {better}; where not every seed got there, they are of those that did."
)
_IN_ALL = "over the whole run."


def table_page(comparison: Comparison, rows: Sequence[Row], trials: Sequence[Trial]) -> str:
    """The text of ``table.md``: one table per case, then the search for the learning rate."""
    groups = summarise(rows)
    metric = comparison.metric
    until = _TO_TARGET.format(better="above" if metric.higher_is_better else "below") if comparison.targets else _IN_ALL
    parts = [f"# {comparison.title}", _LEGEND.format(until=until)]
    for case in dict.fromkeys(group.panel for group in groups):
        parts += [f"## {case}", case_table([group for group in groups if group.panel == case], comparison.shown_metrics)]
    if trials:
        parts += ["## The search of the learning rate", _search_text(comparison, trials), _search_table(comparison, trials)]
    return "\n\n".join(parts) + "\n"


def case_table(groups: Sequence[Summary], metrics: Sequence[Metric]) -> str:
    """A table in Markdown with a line for each method of one case; the target is one of the first metric."""
    target = dict(groups[0].facts)["target"]
    assert target is None or isinstance(target, float)
    until = "" if target is None else f" to {metrics[0].factor * target:g}{' %' if metrics[0].is_share else ''}"
    head = (
        "method",
        "learning rate",
        *(metric.heading for metric in metrics),
        "uplink, MB",
        "downlink, MB",
        f"seconds{until}",
        f"joules{until}",
        "server, s",
    )
    return table_text(head, [_line(group, metrics, has_target=target is not None) for group in groups])


def _line(group: Summary, metrics: Sequence[Metric], *, has_target: bool) -> tuple[str, ...]:
    spent = _to_target if has_target else _in_all
    return (
        group.line,
        f"{dict(group.facts)['learning_rate']:g}",
        *(spread_text(group, f"final_{metric.name}", metric.factor, metric.digits) for metric in metrics),
        spread_text(group, "uplink_bytes", 1e-6, 2),
        spread_text(group, "downlink_bytes", 1e-6, 2),
        spent(group, "seconds_to_target", "simulated_s"),
        spent(group, "joules_to_target", "simulated_j"),
        spread_text(group, "server_s", 1, 2),
    )


def _in_all(group: Summary, measure: str, whole: str) -> str:
    """The cell of ``whole``, the total of a simulated run, where there is no target."""
    return spread_text(group, whole, 1, 0)


def _to_target(group: Summary, measure: str, whole: str) -> str:
    """The cell of ``measure``: ``not reached`` if no seed did, a dash without ``whole``, the total of a simulated run."""
    if group.mean[whole] is None:
        return ABSENT
    if not group.reached:
        return "not reached"
    some = f" ({group.reached} of {group.n} seeds)" if group.reached < group.n else ""
    return f"{spread_text(group, measure, 1, 0)}{some}"


def _search_text(comparison: Comparison, trials: Sequence[Trial]) -> str:
    metric, alpha = comparison.metric, comparison.search_alpha
    rows = " and ".join(dict.fromkeys(trial.metric.rows for trial in trials))
    unit = " in percent" if metric.is_share else f" in {metric.difference_unit}" if metric.difference_unit else ""
    spread = "" if alpha is None else f" at α = {alpha:g}"
    return (
        f"{capital(metric.word)}{unit} on {rows} after the last round. Every method was run at every rate, for each data "
        f"set{spread} with seed {comparison.search_seed}, which is none of those above. The best rate, in "
        "bold, is the method's on that data set throughout; of equal ones the lowest. A choice at either end of those "
        "tried may not be the best there is."
    )


def _search_table(comparison: Comparison, trials: Sequence[Trial]) -> str:
    metric, rates = comparison.metric, sorted({trial.rate for trial in trials})
    cells: dict[tuple[str, str], dict[float, str]] = {}
    for trial, chosen in with_choice(trials):
        mark, value = "**" if chosen else "", f"{metric.factor * trial.value:.{metric.digits}f}"
        cells.setdefault((trial.source, trial.method), {})[trial.rate] = f"{mark}{value}{mark}"
    lines = [
        (DATA_NAMES.get(source, source), method, *(row.get(rate, ABSENT) for rate in rates))
        for (source, method), row in cells.items()
    ]
    return table_text(("data", "method", *(f"{rate:g}" for rate in rates)), lines)
