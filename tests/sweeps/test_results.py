"""Files written from finished runs, against numbers read from the run folders."""

import csv
import io
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedfit.errors import RecipeError, RunFolderError
from fedfit.sweeps.csv_files import rows_csv, summary_csv
from fedfit.sweeps.describe import caption, settings_text
from fedfit.sweeps.figure import write_figure
from fedfit.sweeps.figures import FIGURES
from fedfit.sweeps.reproduce import find_study, write_sweep
from fedfit.sweeps.rows import collect, summarise
from fedfit.sweeps.sweep import Point, Sweep
from tests.sweeps.conftest import SEEDS, row, run_sweep

WRITTEN = ["fig3.png", "fig3.svg", "fig3.csv", "fig3-summary.csv", "fig3-rounds.csv", "settings.md", "verdicts.md"]


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_rows_and_summary_equal_the_run_folders(sweep: Sweep, done: Path) -> None:
    """Means computed here; the standard deviation of two values is |a − b|/√2."""
    rows, summary = table(rows_csv(sweep, collect(sweep, done))), table(summary_csv(sweep, collect(sweep, done)))
    assert [(line["x"], line["seed"]) for line in rows] == [("1", "0"), ("1", "1"), ("4", "0"), ("4", "1")]
    assert [(line["x"], line["n"]) for line in summary] == [("1", "2"), ("4", "2")]
    for place, rank in enumerate((1, 4)):
        logs = [done / "runs" / f"last-2-layers-{rank}-seed{seed}" / "rounds.jsonl" for seed in range(SEEDS)]
        rounds = [[json.loads(line) for line in log.read_text().splitlines()] for log in logs]
        a, b = (run[-1]["test_accuracy"] for run in rounds)
        assert [float(line["final_accuracy"]) for line in rows[2 * place : 2 * place + 2]] == [a, b]
        assert float(summary[place]["final_accuracy_mean"]) == pytest.approx((a + b) / 2)
        assert float(summary[place]["final_accuracy_sd"]) == pytest.approx(abs(a - b) / 2**0.5)
        assert float(summary[place]["untrained_accuracy_mean"]) == pytest.approx(
            sum(run[0]["test_accuracy"] for run in rounds) / 2
        )
        for seed in range(SEEDS):
            found = rows[2 * place + seed]
            assert float(found["uplink_bytes"]) == sum(line["uplink_bytes"] for line in rounds[seed])
            assert float(found["wall_s"]) == pytest.approx(sum(line["seconds"] for line in rounds[seed]))
            assert float(found["final_macro_f1"]) == rounds[seed][-1]["test_macro_f1"]


def test_a_run_without_a_plan_has_blank_cells(sweep: Sweep, done: Path, tmp_path: Path) -> None:
    """A run without a plan records null in every round."""
    out = Path(shutil.copytree(done, tmp_path / "out"))
    for log in out.glob("runs/*/rounds.jsonl"):
        lines = [
            json.loads(line) | {"rank": None, "simulated_s": None, "simulated_j": None} for line in log.read_text().splitlines()
        ]
        log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for line in table(rows_csv(sweep, collect(sweep, out))):
        assert line["mean_rank"] == line["simulated_s"] == line["simulated_j"] == ""


def test_planned_rounds_give_rank_seconds_and_joules(sweep: Sweep, done: Path, tmp_path: Path) -> None:
    """Ranks 2, none, 6 in three rounds average to 4; 1.5 s and 2.5 s sum to 4 s, 10 J and 20 J to 30 J."""
    out = Path(shutil.copytree(done, tmp_path / "out"))
    log = out / "runs" / "last-2-layers-1-seed0" / "rounds.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    planned = [(None, None, None), (2, 1.5, 10.0), (None, None, None), (6, 2.5, 20.0)]
    for line, (rank, seconds, joules) in zip(lines, planned, strict=True):
        line.update(rank=rank, simulated_s=seconds, simulated_j=joules)
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    first = collect(sweep, out)[0]
    assert [first.values[name] for name in ("mean_rank", "simulated_s", "simulated_j")] == [4.0, 4.0, 30.0]


def test_one_seed_has_no_standard_deviation() -> None:
    (point,) = summarise([row("a", 1, 0, 0.5)])
    assert (point.n, point.mean["final_accuracy"], point.sd["final_accuracy"]) == (1, 0.5, None)


def test_everything_is_written_again_identically(sweep: Sweep, done: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(done, tmp_path / "out"))
    written = write_sweep(sweep, out)
    assert [path.name for path in written] == WRITTEN
    before = {path: path.read_bytes() for path in written}
    assert all(before.values())
    assert write_sweep(sweep, out) == written
    assert {path: path.read_bytes() for path in written} == before


def test_a_sweep_over_rounds_is_drawn(sweep: Sweep, tmp_path: Path) -> None:
    """Like Fig. 2: each point is a line, and the name of its run folder has no x."""
    lines = replace(sweep, name="fig2", points=(Point("all layers", None, ('adapter.layers="all"',)),), seeds=(0,))
    list(run_sweep(lines, tmp_path))
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["all-layers-seed0"]
    assert "all layers" in write_sweep(lines, tmp_path)[1].read_text()


@pytest.mark.parametrize(("untrained", "drawn"), [(0.85, True), (0.25, False)])
def test_the_untrained_accuracy_is_always_in_the_caption_and_drawn_if_it_fits(
    sweep: Sweep, untrained: float, drawn: bool, tmp_path: Path
) -> None:
    """Runs at 86 and 88 %: 85 % is just below them; 25 % would leave them a thirtieth of the axis."""
    rows = [row("a", 1, 0, 0.86, untrained), row("a", 4, 0, 0.88, untrained)]
    text = write_figure(sweep, rows, "a caption", tmp_path)[1].read_text()
    assert f"untrained model: {100 * untrained:.1f} %" in text
    assert "a caption" in text
    assert ("<!-- untrained -->" in text) == drawn


@pytest.mark.parametrize("log", [True, False])
def test_error_bars_at_one_x_lie_side_by_side(sweep: Sweep, log: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three lines at x = 1, 4: no two points coincide, all lie within 2 % of the axis from their x, and ticks are at x."""
    drawn: list[Any] = []
    monkeypatch.setattr("fedfit.sweeps.figure.save", lambda figure, _: drawn.append(figure))
    rows = [row(line, x, seed, 0.8 + seed / 100) for line in "abc" for x in (1, 4) for seed in (0, 1)]
    write_figure(replace(sweep, axis=replace(sweep.axis, log2=log)), rows, "", tmp_path)
    (axes,) = drawn[0].axes
    places = [list(container[0].get_xdata()) for container in axes.containers]
    assert len({round(x, 6) for found in places for x in found}) == 6
    for low, high in places:
        off = (math.log(low), math.log(high / 4)) if log else (low - 1, high - 4)
        assert max(map(abs, off)) <= 0.02 * (math.log(4) if log else 3)
    assert list(axes.get_xticks()) == [1, 4]


def test_a_single_line_is_not_moved(sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("fedfit.sweeps.figure.save", lambda figure, _: drawn.append(figure))
    write_figure(sweep, [row("a", x, seed, 0.8 + seed / 100) for x in (1, 4) for seed in (0, 1)], "", tmp_path)
    assert list(drawn[0].axes[0].containers[0][0].get_xdata()) == [1, 4]


def test_an_unfinished_sweep_has_no_results(sweep: Sweep, done: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(done, tmp_path / "out"))
    shutil.rmtree(out / "runs" / "last-2-layers-4-seed1")
    with pytest.raises(RunFolderError, match=r"1 of 4 runs are not finished .*last-2-layers-4-seed1"):
        write_sweep(sweep, out)
    assert [path.name for path in out.iterdir()] == ["runs"]


def test_settings_separate_printed_from_chosen(sweep: Sweep) -> None:
    printed, chosen = settings_text(sweep).split("## Not printed in the paper, chosen here")
    assert "| ranks | 1 to 32 | `adapter.rank` = 1, 4 |" in printed
    assert "| batch size | `training.batch_size` = 8 | small |" in chosen
    assert "differ in `adapter.rank`, `name` and `seed`" in chosen


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("scale", ["small", "paper"])
def test_settings_list_keys_that_the_paper_does_not_print(figure: str, scale: str) -> None:
    """Section 3 does not mention these keys; the last five are for the figures on resources."""
    chosen = settings_text(FIGURES[figure](scale)).split("## Not printed in the paper")[1].split("## The recipe")[0]
    keys = ["federation.rounds", "training.batch_size", "adapter.alpha", "data.max_tokens", "training.optimizer"]
    if figure in ("fig4", "fig5"):
        keys += ["fleet.max_frequency_hz", "fleet.noise_w", "fleet.circuit_energy_j", "plan.deadline_s", "plan.energy_budget_j"]
    assert [key for key in keys if f"`{key}`" not in chosen] == []


def test_caption() -> None:
    """Sizes in the recipes: 3,000 samples on three devices at scale small, all samples at scale paper."""
    assert caption(FIGURES["fig3"]("small").with_seeds(3)) == (
        "MiniLM, 3 × 1,000 AG News samples, 4 rounds, mean ± s.d. of 3 seeds; see settings.md"
    )
    assert (
        caption(FIGURES["fig3"]("paper").with_seeds(1))
        == "RoBERTa-base, all AG News samples on 3 devices, 10 rounds, 1 seed; see settings.md"
    )
    assert "1 round, 1 seed" in caption(FIGURES["fig3"]("smoke").with_seeds(1))


@pytest.mark.parametrize(
    ("figure", "scale", "seeds", "said"),
    [
        ("fig9", "small", 1, "figure = 'fig9'"),
        ("fig3", "smal", 1, "did you mean 'small'"),
        ("fig3", "small", 0, "--seeds = 0"),
    ],
)
def test_a_wrong_name_is_refused_at_once(figure: str, scale: str, seeds: int, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        find_study(figure, scale, seeds)
