"""Slips of a person's first hour, and the words that mend them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from fedfit.cli import app
from fedfit.experiment.fleet_file import shipped_fleets
from tests.cli.command import fedfit, refused
from tests.trajectories.world import World, lines

PLAIN = ("plan=", "fleet=", "channel=")
"""Overrides that take the plan out of the world's recipe."""

# --- compare


@pytest.fixture
def runs(finished: Path, tmp_path: Path) -> Path:
    """A folder as ``runs/`` looks after a week: runs, a sweep, a study of several, a file, and another folder."""
    folder = tmp_path / "runs"
    for name in ("one", "two", "sweep-demo/runs/8-seed0", "mixed-ranks-small/sst2-0.1/runs/a-seed0"):
        shutil.copytree(finished, folder / name)
    (folder / "notes").mkdir()
    (folder / "notes.txt").touch()
    shutil.copytree(finished, folder / "begun")
    (folder / "begun" / "rounds.jsonl").write_text("")
    return folder


def test_compare_skips_folders_that_are_no_run(runs: Path, tmp_path: Path) -> None:
    answer = fedfit("compare", *sorted(runs.iterdir()), "--out", tmp_path / "out", "--json")
    assert answer.status == 0, answer.stderr
    assert [Path(run["folder"]).name for run in answer.json["runs"]] == ["one", "two"]
    assert answer.stderr.splitlines() == answer.json["skipped"]
    assert answer.json["skipped"] == [
        f"skipped {runs}/begun: it has no finished round yet; `fedfit resume {runs}/begun` goes on with it",
        f"skipped {runs}/mixed-ranks-small: several sweeps; compare the runs of one with "
        f"{runs}/mixed-ranks-small/sst2-0.1/runs/*",
        f"skipped {runs}/notes: not a run folder, it lacks recipe.toml and rounds.jsonl",
        f"skipped {runs}/notes.txt: not a folder",
        f"skipped {runs}/sweep-demo: a sweep; compare its runs with {runs}/sweep-demo/runs/*",
    ]


def test_compare_of_no_run_is_an_error(runs: Path, tmp_path: Path) -> None:
    refused("compare", runs / "sweep-demo", says=[f"a sweep; compare its runs with {runs}/sweep-demo/runs/*"])
    refused("compare", runs / "notes", says=[f"{runs}/notes is not a run folder, it lacks recipe.toml"])
    refused("compare", runs / "notes", runs / "notes.txt", says=["no run among", f"{runs}/notes: ", f"{runs}/notes.txt: "])
    refused("compare", runs / "one", tmp_path / "nope", says=[f"{tmp_path}/nope does not exist"])


# --- paths and folders


def test_a_recipes_path_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tickets.toml").touch()
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.toml").touch()
    for given, says in (
        ("ticket.toml", f"no such file: ticket.toml (in the working folder {tmp_path}); did you mean tickets.toml?"),
        ("own/mien.toml", f"no such file: own/mien.toml (in the working folder {tmp_path}); did you mean own/mine.toml?"),
        ("demo.toml", f"no such file: demo.toml (in the working folder {tmp_path}); did you mean demo, which is shipped?"),
        ("nowhere/mine.toml", f"no such file: nowhere/mine.toml (in the working folder {tmp_path}): no such folder nowhere"),
        (str(tmp_path / "x.toml"), f"no such file: {tmp_path}/x.toml"),
        ("./own", "./own is a folder; name the file in it"),
    ):
        message = refused("run", given, says=[says])
        assert message.count("\n") == 1, message
    refused("plan", "ticket.toml", says=["no such file: ticket.toml", "did you mean tickets.toml?"])


def test_an_unknown_name_has_no_count_of_faults(tmp_path: Path) -> None:
    for command in (["recipes", "show", "demoo"], ["run", "demoo"], ["plan", "citty"]):
        message = refused(*command, says=["did you mean"])
        assert "fault" not in message


def test_a_folder_that_does_not_exist_gets_one_text(tmp_path: Path) -> None:
    merged: list[str | Path] = ["--merged", tmp_path / "merged"]
    says = ["nope does not exist: name the folder of a run, or make one with"]
    found = {refused(command, tmp_path / "nope", says=says) for command in ("resume", "report", "predict")}
    found.add(refused("export", tmp_path / "nope", *merged, says=says))
    assert len(found) == 1


# --- predict


@pytest.mark.parametrize("given", ["my wifi is down\n", "my wifi is down\nprinter on fire\n"])
def test_predict_says_that_the_first_line_is_the_header(given: str, finished: Path) -> None:
    result = CliRunner().invoke(app, ["predict", str(finished)], input=given)
    assert result.exit_code == 2
    assert "the first line, 'my wifi is down', was read as the header" in result.stderr
    assert f"printf 'text\\nmy wifi is down\\n' | fedfit predict {finished}" in result.stderr


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("text,label\n", "has no rows"),
        ("body,label\nab,art\n", "no such column; it has body, label"),
        ("txet\nab\n", "no such column; it has txet: did you mean 'txet'?"),
        ("text;label\nab;art\n", "separated by semicolons"),
        ("", "standard input is empty"),
    ],
)
def test_other_faults_of_standard_input_keep_their_words(given: str, says: str, finished: Path) -> None:
    result = CliRunner().invoke(app, ["predict", str(finished)], input=given)
    assert result.exit_code == 2
    assert says in result.stderr
    assert "printf" not in result.stderr


# --- plan


def test_plan_without_a_fleet_lists_the_shipped_ones() -> None:
    answer = fedfit("plan")
    assert answer.status == 0
    assert [line.split()[0] for line in answer.stdout.splitlines()[:2]] == ["city", "three-devices"]
    assert "fedfit plan NAME --show > my-fleet.toml" in answer.stdout
    assert list(fedfit("plan", "--json").json) == list(shipped_fleets())
    assert "fedfit plan" in fedfit("recipes").stdout.splitlines()[-1]


@pytest.mark.parametrize("name", list(shipped_fleets()))
def test_plan_show_can_be_redirected_to_a_file(name: str) -> None:
    assert fedfit("plan", "--show", name).stdout == shipped_fleets()[name]
    assert fedfit("plan", name, "--show").stdout == shipped_fleets()[name]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("plan.deadline_s=30", "plan.deadline_s = 30: a key of recipes; did you mean round.deadline_s?"),
        ("plan.energy_budget_j=3", "plan.energy_budget_j = 3: a key of recipes; did you mean fleet.energy_budget_j?"),
        ("plan.bits_per_parameter=8", "did you mean adaptation.bits_per_parameter?"),
        ("plan.policy=joint", "a key of recipes; did you mean --policy (common or per_device)?"),
        ("plan.frequency=fastest", "did you mean --frequency"),
        ("plan.compute=flops", "plan.compute = 'flops': a key of recipes; a fleet file has none like it"),
        ("plan.deadlin_s=30", "plan.deadlin_s = 30: a key of recipes"),
    ],
)
def test_a_recipes_key_in_a_fleet(override: str, says: str) -> None:
    refused("plan", "three-devices", override, says=[says])


# --- a component of one's own that raises


BROKEN = """
from dataclasses import replace
from fedfit.aggregation.rules.fedavg import ENTRY as FEDAVG
from fedfit.aggregation.weighted_mean import average

def step(state, updates):
    whole = average(state, updates)
    return helper(whole)

def helper(state):
    return state.adapter.no_such_thing

def make(keys, context):
    rule = FEDAVG.make(keys, context)
    return replace(rule, server=replace(rule.server, apply=step))

def unmade(keys, context):
    raise KeyError("bound")

ENTRY = replace(FEDAVG, make=make)
UNMADE = replace(FEDAVG, make=unmade)
"""


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_rule.py").write_text(BROKEN)
    return tmp_path / "broken_rule.py"


def test_an_exception_in_a_component_of_ones_own(world: World, broken: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    answer = fedfit(*world.command(run, *PLAIN, "federation.rule=broken_rule:ENTRY", "--quiet"))
    assert answer.status == 1
    first, *rest = answer.stderr.splitlines()
    assert first.startswith("error: the rule broken_rule:ENTRY failed in round 1: AttributeError: 'Update' object has no attr")
    assert first.endswith(f"; mend it, then `fedfit resume {run}` goes on from round 0")
    assert [line.strip() for line in rest if line.strip().startswith("File")] == [
        f'File "{broken}", line 8, in step',
        f'File "{broken}", line 11, in helper',
    ]
    assert "fedfit/src" not in answer.stderr
    sys.modules.pop("broken_rule")
    broken.write_text(BROKEN.replace("state.adapter.no_such_thing", "state"))
    os.utime(broken, (1, 1))  # else the byte code of the file before may be taken for this one's
    assert fedfit("resume", run, "--quiet").status == 0
    assert lines(run / "rounds.jsonl")[-1]["round"] == 3


def test_an_exception_before_the_first_round(world: World, broken: Path, tmp_path: Path) -> None:
    answer = fedfit(*world.command(tmp_path / "run", *PLAIN, "federation.rule=broken_rule:UNMADE", "--quiet"))
    assert answer.status == 1
    assert answer.stderr.startswith(
        f"error: the rule broken_rule:UNMADE failed before round 0: KeyError: 'bound'; {tmp_path}/run was not written\n"
    )
    assert f'File "{broken}", line 18, in unmade' in answer.stderr
    assert not (tmp_path / "run").exists()


def test_a_fault_of_ours_under_a_rule_of_ones_own_keeps_its_traceback(
    world: World, broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule pulls updates from the rounds: what fails below there is not the rule's."""
    from fedfit.rounds.trainer import Trainer

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Trainer, "train", fail)
    with pytest.raises(ZeroDivisionError):
        fedfit(*world.command(tmp_path / "run", *PLAIN, "federation.rule=broken_rule:ENTRY", "--quiet"))


def test_importing_the_package_is_quick_and_has_the_errors() -> None:
    script = (
        "import sys, fedfit; fedfit.FedfitError, fedfit.RecipeError\n"
        "assert issubclass(fedfit.RecipeError, fedfit.FedfitError)\n"
        "assert {'FedfitError', 'RecipeError', 'run'} <= set(fedfit.__all__)\n"
        "assert not {'torch', 'transformers', 'pandas', 'numpy', 'fedfit.api'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- help and progress


def test_help_begins_with_what_a_person_meets_first() -> None:
    group: Any = typer.main.get_command(app)
    shown = fedfit("--help").stdout
    found = [name for name in re.findall(r"^│ (\w+) ", shown, re.MULTILINE) if name in group.commands]
    assert found == [
        "run",
        "resume",
        "report",
        "compare",
        "sweep",
        "predict",
        "chat",
        "evaluate",
        "export",
        "reproduce",
        "plan",
        "recipes",
        "doctor",
    ]
    assert set(found) == set(group.commands)


def test_without_a_terminal_there_is_a_line_a_round(world: World, tmp_path: Path) -> None:
    answer = fedfit(*world.command(tmp_path / "run", *PLAIN, "federation.rounds=2"))
    assert answer.status == 0
    rows = lines(tmp_path / "run" / "rounds.jsonl")
    assert answer.stderr.splitlines() == [f"round {row['round']}/2: accuracy {row['test_accuracy']:.1%}" for row in rows]


def test_a_sweep_without_a_terminal_has_a_line_a_round(world: World, tmp_path: Path) -> None:
    keys = [*world.overrides, *PLAIN, "federation.rounds=1", "adapter.rank=2,4"]
    answer = fedfit("sweep", world.recipe, *keys, "--out", tmp_path / "sweep")
    assert answer.status == 0, answer.stderr
    shown = [line for line in answer.stderr.splitlines() if line.startswith("run ")]
    assert [line.rpartition(",")[0] for line in shown] == [
        f"run {number}/2: {name}-seed0, round {last}/1" for number, name in ((1, "rank-2"), (2, "rank-4")) for last in (0, 1)
    ]


# --- values


def test_a_list_is_shown_as_it_is_written(world: World, tmp_path: Path) -> None:
    keys = ["federation.rule=hetlora", "federation.ranks=2,4,4"]
    refused(*world.command(tmp_path / "run", *PLAIN, *keys), says=["write 'federation.ranks=[2,4,4]'"])
    refused(*world.command(tmp_path / "run", *PLAIN, "federation.ranks=2"), says=["write 'federation.ranks=[2]'"])


def test_a_bound_comes_with_an_example(world: World, tmp_path: Path) -> None:
    says = ["for example federation.norm_bound.bound=1.0"]
    refused(*world.command(tmp_path / "run", *PLAIN, "federation.rule=norm_bound"), says=says)


@pytest.mark.usefixtures("broken")
def test_a_name_that_a_module_lacks(world: World, tmp_path: Path) -> None:
    says = ["module 'broken_rule' has no attribute 'ENTR'; it has FEDAVG, ENTRY, UNMADE"]
    refused(*world.command(tmp_path / "run", *PLAIN, "federation.rule=broken_rule:ENTR"), says=says)
    says = ["module 'broken_rule' has no attribute 'X'; it has no TaskEntry"]
    refused(*world.command(tmp_path / "run", *PLAIN, "task.kind=broken_rule:X"), says=says)
