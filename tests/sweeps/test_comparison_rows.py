"""Rows and summaries of runs, on made-up rounds."""

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes

from fedfit.reports.read import RunData
from fedfit.sweeps.comparison import Case, Comparison, Method
from fedfit.sweeps.comparison_figure import write_comparison_figure
from fedfit.sweeps.comparison_table import case_table, table_page
from fedfit.sweeps.csv_files import rounds_csv, rows_csv, summary_csv
from fedfit.sweeps.metric import Metric
from fedfit.sweeps.rate_search import Trial
from fedfit.sweeps.rows import Row, row_of, summarise
from fedfit.sweeps.sweep import Sweep

CASE = Case("ag_news", 0.5)
ACCURACIES = (0.25, 0.6, 0.8, 0.7, 0.9)
"""Accuracies of rounds 0 to 4."""


def made_up_run(accuracies: tuple[float, ...] = ACCURACIES, **every_round: Any) -> RunData:
    """A run: round n sends 100·n bytes up and 10·n down, takes n simulated seconds and 2·n joules; the server works n/4 s."""
    rounds = [
        {
            "round": n,
            "test_accuracy": accuracy,
            "test_macro_f1": accuracy - 0.1,
            "uplink_bytes": 100 * n,
            "downlink_bytes": 10 * n,
            "seconds": 1.0,
            "refused": n % 2,
            "simulated_s": float(n) if n else None,
            "simulated_j": 2.0 * n if n else None,
            "server_seconds": n / 4,
            **every_round,
        }
        for n, accuracy in enumerate(accuracies)
    ]
    return RunData(Path("run"), "run", {"training": {"learning_rate": 1e-3}}, {}, rounds, [], None)


def main(case: Case = CASE, method: str = "a", target: float = 0.8) -> Sweep:
    """The main runs of one method in one case."""
    methods = (Method(method, (), sends=method != "alone"),)
    meeting = Comparison("c", "Title", "tiny", "", methods, (case,), (1e-3, 3e-3), 0.5, 1000, {case.source: target})
    return meeting.main(case, {method: 1e-3})


def outcome(seed: int = 0, method: str = "a", target: float = 0.8, case: Case = CASE, run: RunData | None = None) -> Row:
    sweep = main(case, method, target)
    return row_of(sweep, sweep.points[0], seed, run or made_up_run())


def values(row: Row, *names: str) -> tuple[float | None, ...]:
    return tuple(row.values[name] for name in names)


def comparison() -> Comparison:
    return Comparison("c", "Title", "tiny", "", (Method("a", ()),), (CASE,), (1e-3, 3e-3), 0.5, 1000, {"ag_news": 0.8})


def test_totals_of_a_run() -> None:
    """Every total is a multiple of 1 + 2 + 3 + 4 = 10; rounds 1 and 3 refuse an update."""
    found = outcome()
    assert values(found, "final_accuracy", "final_macro_f1") == (0.9, 0.8)
    assert values(found, "uplink_bytes", "downlink_bytes") == (1000, 100)
    assert values(found, "simulated_s", "simulated_j", "server_s") == (10.0, 20.0, 2.5)
    assert values(found, "wall_s", "refused") == (5.0, 2)
    assert found.facts == (("learning_rate", 1e-3), ("target", 0.8))
    assert found.sent_bytes == (0, 110, 330, 660, 1100)


@pytest.mark.parametrize(
    ("target", "rounds", "seconds", "joules"),
    [
        (0.8, 2, 3.0, 6.0),  # reached exactly, in round 2: 1 + 2
        (0.81, 4, 10.0, 20.0),
        (0.95, None, None, None),
        (0.2, 0, 0.0, 0.0),  # the untrained model is above it already
    ],
)
def test_to_the_target(target: float, rounds: int | None, seconds: float | None, joules: float | None) -> None:
    """The first round at the target or above counts, even if a later round is below it."""
    found = outcome(target=target)
    assert values(found, "rounds_to_target", "seconds_to_target", "joules_to_target") == (rounds, seconds, joules)


def test_a_run_without_a_plan_has_rounds_to_the_target_but_no_seconds() -> None:
    found = outcome(run=made_up_run(simulated_s=None, simulated_j=None))
    assert values(found, "rounds_to_target", "seconds_to_target", "joules_to_target") == (2, None, None)
    assert values(found, "simulated_s", "simulated_j") == (None, None)


def test_a_run_that_did_not_record_the_servers_seconds() -> None:
    run = made_up_run()
    for line in run.rounds:
        del line["server_seconds"]
    assert outcome(run=run).values["server_s"] is None
    assert outcome(run=made_up_run(server_seconds=None)).values["server_s"] is None


def test_a_method_that_needs_no_exchange_has_no_bytes() -> None:
    found = outcome(method="alone")
    assert values(found, "uplink_bytes", "downlink_bytes") == (None, None)
    assert found.sent_bytes == (0, 0, 0, 0, 0)


def test_a_group_by_hand() -> None:
    """Final accuracies 90 and 70 %: mean 80, s = 20/√2. Only the first run reaches 80 %, after 3 s."""
    rows = [outcome(0), outcome(1, run=made_up_run((0.25, 0.6, 0.7)))]
    (group,) = summarise(rows)
    assert (group.n, group.reached) == (2, 1)
    assert group.mean["final_accuracy"] == pytest.approx(0.8)
    assert group.sd["final_accuracy"] == pytest.approx(0.2 / 2**0.5)
    assert (group.mean["seconds_to_target"], group.sd["seconds_to_target"]) == (3.0, None)
    assert group.mean["simulated_s"] == (10 + 3) / 2


def test_methods_and_cases_are_kept_apart() -> None:
    other = Case("ag_news", 0.1)
    rows = [outcome(0, "a"), outcome(1, "a"), outcome(0, "b"), outcome(0, "a", case=other)]
    assert [(g.panel, g.line, g.n) for g in summarise(rows)] == [
        (CASE.label, "a", 2),
        (CASE.label, "b", 1),
        (other.label, "a", 1),
    ]


def test_the_table_shows_reached_not_reached_and_not_simulated() -> None:
    """Bytes are in MB, and 1,000 B would be 0.00; so one run has 10^4 times as many, 10.00 and 1.00 MB."""
    big = made_up_run()
    for line in big.rounds:
        line["uplink_bytes"] *= 10_000
        line["downlink_bytes"] *= 10_000
    never, unplanned = made_up_run((0.25, 0.3)), made_up_run(simulated_s=None, simulated_j=None, server_seconds=None)
    rows = [
        outcome(0, "a", run=big), outcome(1, "a", run=big),
        outcome(0, "b"), outcome(1, "b", run=never),
        outcome(0, "c", run=never),
        outcome(0, "alone", run=unplanned),
    ]  # fmt: skip
    lines = case_table(summarise(rows), comparison().shown_metrics).splitlines()
    assert lines[0].endswith("| seconds to 80 % | joules to 80 % | server, s |")
    assert lines[2] == ("| a | 0.001 | 90.0 ± 0.0 | 80.0 ± 0.0 | 10.00 ± 0.00 | 1.00 ± 0.00 | 3 ± 0 | 6 ± 0 | 2.50 ± 0.00 |")
    assert "| 3 (1 of 2 seeds) | 6 (1 of 2 seeds) |" in lines[3]
    assert "| not reached | not reached |" in lines[4]
    assert lines[5] == "| alone | 0.001 | 90.0 | 80.0 | – | – | – | – | – |"


def lower(values: tuple[float, ...], target: float | None = 2.0) -> tuple[Comparison, Row]:
    """A comparison by the loss, beside it ROUGE-L, and the row of one run with these losses."""
    made = Comparison(
        "c", "Title", "tiny", "", (Method("a", ()),), (Case("domains"),), (1e-3, 3e-3), None, 1000,
        {} if target is None else {"domains": target}, metric=Metric("loss"), beside=("rouge_l",),
    )  # fmt: skip
    sweep = made.main(made.cases[0], {"a": 1e-3})
    run = made_up_run(values)
    for line, value in zip(run.rounds, values, strict=True):
        line |= {"test_loss": value, "test_rouge_l": 0.25}
    return made, row_of(sweep, sweep.points[0], 0, run)


def test_a_loss_reaches_its_target_from_above() -> None:
    _, found = lower((3.0, 2.5, 2.0, 2.1))
    assert values(found, "final_loss", "rounds_to_target", "seconds_to_target") == (2.1, 2, 3.0)
    assert values(lower((3.0, 2.5))[1], "rounds_to_target") == (None,)


def test_the_table_of_a_loss() -> None:
    made, found = lower((3.0, 2.5, 2.0))
    page = table_page(
        made, [found], [Trial("domains", "a", 1e-3, 2.0, Metric("loss")), Trial("domains", "a", 3e-3, 3.0, Metric("loss"))]
    )
    assert "## instruction" in page
    assert (
        "| method | learning rate | loss, nats | ROUGE-L, % | uplink, MB | downlink, MB | seconds to 2 | joules to 2 |" in page
    )
    assert "| a | 0.001 | 2.000 | 25.0 | 0.00 | 0.00 | 3 | 6 |" in page
    assert "at the target or below" in page
    assert "Loss in nats on test rows after the last round. Every method was run at every rate, for each data set with" in page
    assert "| instruction | a | **2.000** | 3.000 |" in page


def test_without_a_target_seconds_and_joules_are_those_of_the_whole_run() -> None:
    made, found = lower((3.0, 2.5, 2.0), None)
    page = table_page(made, [found], [Trial("domains", "a", 1e-3, 2.0, Metric("loss"))])
    assert "| seconds | joules |" in page
    assert "| a | 0.001 | 2.000 | 25.0 | 0.00 | 0.00 | 3 | 6 |" in page
    assert "together, over the whole run." in page


def test_a_case_of_natural_clients_has_no_concentration() -> None:
    made, found = lower((3.0, 2.0))
    assert (made.cases[0].slug, made.cases[0].overrides) == ("domains", ('data.source="domains"',))
    assert found.columns == (("data", "domains"), ("method", "a"))
    assert made.search("domains").points[0].overrides == (
        'data.source="domains"',
        "training.learning_rate=0.001",
    )


def test_the_page_has_a_table_a_case_and_the_search() -> None:
    trials = [Trial("ag_news", "a", 1e-3, 0.5), Trial("ag_news", "a", 3e-3, 0.612)]
    page = table_page(comparison(), [outcome()], trials)
    assert "## AG News, α = 0.5" in page
    assert "| data | method | 0.001 | 0.003 |" in page
    assert "| AG News | a | 50.0 | **61.2** |" in page


def test_the_csv_files_hold_the_values_of_the_rows() -> None:
    rows = [outcome(0), outcome(1, run=made_up_run((0.25, 0.6)))]
    runs, groups, curves = (
        list(csv.DictReader(io.StringIO(write(main(), rows)))) for write in (rows_csv, summary_csv, rounds_csv)
    )
    assert [(line["data"], line["alpha"], line["seed"], line["seconds_to_target"]) for line in runs] == [
        ("ag_news", "0.5", "0", "3.0"),
        ("ag_news", "0.5", "1", ""),
    ]
    assert [(line["n"], line["reached"], line["rounds_to_target_mean"]) for line in groups] == [("2", "1", "2.0")]
    assert [(line["seed"], line["round"], line["sent_bytes"]) for line in curves[-3:]] == [
        ("0", "4", "1100.0"), ("1", "0", "0.0"), ("1", "1", "110.0"),
    ]  # fmt: skip


def test_rounds_without_an_evaluation_are_left_out_of_csv_and_figure(tmp_path: Path) -> None:
    run = made_up_run((0.25, 0.6, 0.7, 0.8))
    for key in ("test_accuracy", "test_macro_f1"):
        del run.rounds[1][key]
    found = outcome(run=run)
    lines = list(csv.DictReader(io.StringIO(rounds_csv(main(), [found]))))
    assert [(line["round"], line["test_accuracy"]) for line in lines] == [("0", "0.25"), ("2", "0.7"), ("3", "0.8")]
    with pytest.MonkeyPatch.context() as patch:
        drawn: list[list[float]] = []
        patch.setattr(Axes, "plot", lambda self, x, y, **look: drawn.append([*y]))
        write_comparison_figure(comparison(), [found], "", tmp_path)
    assert drawn == [[70.0, 80.0]]


def test_a_rate_of_its_own_is_searched_and_a_single_one_is_not() -> None:
    methods = (Method("a", ()), Method("b", (), rates=(0.1, 0.2)), Method("c", (), rates=(0.5,)))
    made = Comparison("c", "Title", "tiny", "", methods, (CASE,), (1e-3, 3e-3), 0.5, 1000, {"ag_news": 0.8})
    tried = [(point.line, point.x) for point in made.search("ag_news").points]
    assert tried == [("a", 1e-3), ("a", 3e-3), ("b", 0.1), ("b", 0.2)]
    assert made.lowest_rates == {"a": 1e-3, "b": 0.1, "c": 0.5}
    assert made.searches
    assert not replace(made, rates=(1e-3,), methods=(methods[0], methods[2])).searches
    assert {0.1, 0.2, 1e-3, 3e-3} < set(made.whole().values("training.learning_rate"))
    trials = [Trial("ag_news", "a", 1e-3, 0.5), Trial("ag_news", "a", 3e-3, 0.6), Trial("ag_news", "b", 0.1, 0.7)]
    page = table_page(made, [outcome()], trials)
    assert "| data | method | 0.001 | 0.003 | 0.1 |" in page
    assert "| AG News | a | 50.0 | **60.0** | – |" in page
    assert "| AG News | b | – | – | **70.0** |" in page
