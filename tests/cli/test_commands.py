"""Every command as a person and as a program calls it."""

import io
import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from rich.console import Console

from fedfit import cli, doctor, terminal
from fedfit.aggregation.table import RULES
from fedfit.experiment.load import shipped_recipes
from tests.cli.command import fedfit, refused
from tests.trajectories.world import World, lines

SUMMARY = {
    "name",
    "rounds",
    "rounds_planned",
    "devices",
    "final_accuracy",
    "best_accuracy",
    "uplink_bytes",
    "seconds",
    "refused",
}


def test_run_for_a_person(world: World, tmp_path: Path) -> None:
    answer = fedfit(*world.command(tmp_path / "run"))
    assert answer.status == 0, answer.stderr
    last = lines(tmp_path / "run" / "rounds.jsonl")[-1]
    assert f"{last['test_accuracy'] * 100:.2f} %" in answer.stdout
    for name in ("report.html", "figures", "adapter"):
        assert str(tmp_path / "run" / name) in answer.stdout
        assert (tmp_path / "run" / name).exists()
    assert "Traceback" not in answer.stderr


def test_run_for_a_program(world: World, tmp_path: Path) -> None:
    answer = fedfit(*world.command(tmp_path / "run", "--json", "--quiet", "federation.rounds=1"))
    assert answer.status == 0, answer.stderr
    assert answer.stderr == ""
    assert answer.json["summary"].keys() >= SUMMARY
    assert answer.json["summary"]["rounds"] == 1
    assert answer.json["folder"] == str(tmp_path / "run")
    assert Path(answer.json["report"]) == tmp_path / "run" / "report.html"


@pytest.mark.parametrize("quiet", [False, True])
def test_quiet_on_a_terminal(quiet: bool, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True)
    for module in (cli, terminal):
        monkeypatch.setattr(module, "SCREEN", screen)
    shutil.copytree(finished, tmp_path / "run")
    assert fedfit("resume", tmp_path / "run", *(["--quiet"] if quiet else [])).status == 0
    assert isinstance(screen.file, io.StringIO)
    assert (screen.file.getvalue() == "") == quiet


def test_run_goes_to_runs_by_the_name_of_the_recipe(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["run", str(world.recipe), *world.overrides, "name=mine", "federation.rounds=1", "--quiet"]
    assert fedfit(*command).status == 0
    before = (tmp_path / "runs" / "mine" / "rounds.jsonl").read_bytes()
    refused(*command, says=["runs/mine exists already", "--out", "fedfit resume runs/mine", "--force"])
    assert (tmp_path / "runs" / "mine" / "rounds.jsonl").read_bytes() == before
    assert fedfit(*command, "--force").status == 0


def test_a_folder_in_the_way_is_seen_before_any_work(world: World, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedfit.experiment import session

    def work(*_: object) -> None:
        raise AssertionError("data and model are read for nothing")

    monkeypatch.setattr(session, "build", work)
    refused(*world.command(finished), says=["exists already"])


def test_resume_of_a_finished_run(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    answer = fedfit("resume", tmp_path / "run", "--json")
    assert answer.status == 0, answer.stderr
    assert answer.json["summary"]["rounds"] == 3
    assert "is finished; its report is made anew" in answer.stderr
    assert (tmp_path / "run" / "report.html").is_file()
    assert (tmp_path / "run" / "rounds.jsonl").read_bytes() == (finished / "rounds.jsonl").read_bytes()


def test_report(finished: Path, tmp_path: Path) -> None:
    answer = fedfit("report", finished, "--out", tmp_path, "--json")
    assert answer.status == 0, answer.stderr
    assert answer.json["summary"].keys() >= SUMMARY
    assert all(Path(path).is_file() for path in answer.json["written"])
    assert not (finished / "report.html").exists()
    person = fedfit("report", finished, "--out", tmp_path)
    assert f"report: {tmp_path / 'report.html'}" in person.stdout


def test_compare(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "other")
    answer = fedfit("compare", finished, tmp_path / "other", "--out", tmp_path / "both", "--json")
    assert answer.status == 0, answer.stderr
    assert [run["rounds"] for run in answer.json["runs"]] == [3, 3]
    assert answer.json["written"]
    assert all(Path(path).parent == tmp_path / "both" for path in answer.json["written"])
    person = fedfit("compare", finished, tmp_path / "other", "--out", tmp_path / "both")
    assert f"figures: {tmp_path / 'both'}" in person.stdout


def test_recipes() -> None:
    names = list(shipped_recipes())
    assert list(fedfit("recipes", "--json").json) == names
    answer = fedfit("recipes")
    assert [line.split()[0] for line in answer.stdout.splitlines()[: len(names)]] == names
    assert "fedfit recipes show NAME > my-recipe.toml" in answer.stdout


@pytest.mark.parametrize("name", list(shipped_recipes()))
def test_recipes_show_can_be_redirected_to_a_file(name: str) -> None:
    assert fedfit("recipes", "show", name).stdout == shipped_recipes()[name]


def test_version() -> None:
    assert fedfit("--version").stdout == f"fedfit {version('fedfit')}\n"
    assert fedfit("--version", "no-such-command").status == 0
    assert "--version" in fedfit("--help").stdout


def test_doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ag_news").mkdir()
    for name in ("train.csv", "test.csv"):
        (tmp_path / "ag_news" / name).write_text("")
    (tmp_path / "sst2").mkdir()
    (tmp_path / "sst2" / "train.tsv").write_text("")  # half a data set is none
    monkeypatch.setenv("FEDFIT_DATA", str(tmp_path))
    found = fedfit("doctor", "--json").json
    assert found["data"]["ag_news"] == "in $FEDFIT_DATA"
    assert (found["data"]["sst2"], found["data"]["bgl"]) == ("from the hub", "needs $FEDFIT_DATA")
    assert found["software"]["python"].startswith("3.")
    assert found["hardware"]["cores"] >= 1
    assert "HF_HUB_OFFLINE" in found["reachable"]["model and data hub"]
    person = fedfit("doctor").stdout
    assert [line for line in person.splitlines() if not line.startswith(" ")] == list(found)
    assert "in $FEDFIT_DATA" in person


def test_doctor_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "hub_error", lambda: "no route")
    reachable = fedfit("doctor", "--json").json["reachable"]["model and data hub"]
    assert reachable.startswith("no (no route); ")


def test_what_needs_no_torch_does_not_load_it(finished: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from fedfit.cli import app\n"
        "for command in (['--help'], ['recipes'], ['report', sys.argv[1], '--out', sys.argv[2]]):\n"
        "    try: app(command)\n"
        "    except SystemExit as end: assert end.code == 0, command\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'flwr_datasets'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program, str(finished), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# --- mistakes


def test_a_wrong_recipe_tells_every_fault(world: World, tmp_path: Path) -> None:
    """Key, value and remedy of each, and nothing is written."""
    wrong = ["adapter.rank=99", "federation.rule=fedavgg", "federation.devices_per_round=9", "data.train=no.csv"]
    message = refused(*world.command(tmp_path / "run", *wrong), says=["the recipe has 4 faults:"])
    for line in (
        "adapter.rank = 99: the model's matrices have 32 rows; a higher rank than that adds nothing",
        f"federation.rule = 'fedavgg': did you mean 'fedavg'? choose one of {', '.join(RULES)}",
        "federation.devices_per_round = 9: there are 3 devices; lower it, or raise federation.devices",
        "data.train = 'no.csv': no such file; relative paths start at the working folder",
    ):
        assert f"  {line}\n" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("adapter.rnk=3", "adapter.rnk = 3: unknown key; did you mean adapter.rank?"),
        ("rounds", "override = 'rounds': write section.key=value"),
        ("adapter.rank=0", "adapter.rank = 0: must be at least 1"),
        ("adapter.layers=last:7", "adapter.layers = 'last:7': the model has 4 layers; k must lie between 1 and 4"),
        ("model.name=nowhere/nothing", "model.name = 'nowhere/nothing'"),
    ],
)
def test_a_wrong_override(override: str, says: str, world: World, tmp_path: Path) -> None:
    refused(*world.command(tmp_path / "run", override), says=[says])


def test_square_brackets_are_no_markup(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(*world.command(tmp_path / "run", "name='[red]x/'"), says=["name = '[red]x/'"])
    monkeypatch.chdir(tmp_path)
    out = Path("[red]a[/blue]")
    answer = fedfit(*world.command(out, "name='[red]x[blue]'", "federation.rounds=1"))
    assert answer.status == 0, answer.stderr
    assert "report:   [red]a[/blue]/report.html" in answer.stdout
    assert "report: [red]a[/blue]/report.html" in fedfit("report", out).stdout
    assert "figures: [blue]" in fedfit("compare", out, out, "--out", "[blue]").stdout


def test_wrong_names_and_folders(tmp_path: Path) -> None:
    refused("run", "dmeo", says=["recipe = 'dmeo': did you mean 'demo'?"])
    refused("recipes", "show", "dmeo", says=["did you mean 'demo'?"])
    refused("run", "agnews", says=["did you mean 'agnews-minilm' or 'agnews-noniid' or 'agnews-per-device' or "])
    refused("run", "colla", says=["recipe = 'colla': give a file, or one of ", "; `fedfit recipes` describes them"])
    refused("run", "pydoc", says=["recipe = 'pydoc': did you mean 'demo' or 'demo-llm'? give a file"])
    refused("resume", tmp_path, says=[f"{tmp_path} is not a run folder, it lacks recipe.toml and partition.json: name"])
    refused("report", tmp_path / "nothing", says=["does not exist"])
    refused("compare", tmp_path, says=[f"{tmp_path} is not a run folder"])


def test_a_damaged_run_folder(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "recipe.toml").write_bytes(b"name = '\xff'")
    refused("resume", run, says=["recipe.toml", "cannot be read"])
    shutil.copy(finished / "recipe.toml", run)
    (run / "partition.json").write_text("{")
    refused("resume", run, says=["partition.json cannot be read"])
    (run / "partition.json").write_text(json.dumps({"an": "older version"}))
    refused("resume", run, says=["partition.json does not describe the data that the recipe names"])


def test_a_full_disk_while_it_runs(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One message with the remedy; and when there is space, it goes on."""
    from fedfit.tracking import checkpoint

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomic", full)
        says = ["cannot be written: No space left on device; free some space, then `fedfit resume"]
        refused(*world.command(tmp_path / "run", "--quiet"), says=says)
    assert fedfit("resume", tmp_path / "run", "--json", "--quiet").json["summary"]["rounds"] == 3


def test_ctrl_c_before_the_first_round(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedfit.experiment import session

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "build", interrupted)
    answer = fedfit(*world.command(tmp_path / "run"))
    assert (answer.status, answer.stdout) == (130, "")
    assert "stopped" in answer.stderr
    assert not (tmp_path / "run").exists()


# --- a loss that is not finite


def test_a_loss_that_explodes_stops_with_the_reason(world: World, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = world.command(run, "training.learning_rate=1e30", "federation.rounds=5", "fleet.battery_j=9", "--quiet")
    message = refused(*command, says=["no update of the last 3 rounds was usable; the first reason: the training loss became"])
    assert "a lower training.learning_rate may help" in message
    devices, rounds = lines(run / "devices.jsonl"), lines(run / "rounds.jsonl")
    assert len(devices) == 6
    assert all("the training loss became nan" in row["refused"] and row["train_loss"] is None for row in devices)
    assert all((row["devices"], row["refused"]) == (2, 2) for row in rounds[1:])
    assert {row["test_loss"] for row in rounds} == {rounds[0]["test_loss"]}, "a refused update has changed the model"
    # With the remedy it begins anew: rounds at two rates would be no run of either.
    (run / "recipe.toml").write_text((run / "recipe.toml").read_text().replace("learning_rate = 1e+30", "learning_rate = 1e-2"))
    refused("resume", run, says=["training.learning_rate: 1e+30 when the run began, 0.01 now"])
    again = fedfit("run", run / "recipe.toml", "--out", run, "--force", "--json", "--quiet")
    assert again.json["summary"]["rounds"] == 5, again.stderr
    assert lines(run / "rounds.jsonl")[-1]["refused"] == 0


def test_one_step_at_such_a_rate_leaves_lines_that_are_json(world: World, tmp_path: Path) -> None:
    """The loss before the one step is finite, so the huge update counts; what it does to the test loss must be told."""
    run = tmp_path / "run"
    steps = ["training.local_steps=1", "training.learning_rate=1e30", "federation.max_failed_rounds=9"]
    answer = fedfit(*world.command(run, *steps, "--quiet", "--json"))
    assert answer.status == 0, answer.stderr
    rows = lines(run / "rounds.jsonl")
    assert rows[1]["refused"] == 0
    assert rows[1]["test_loss"] is None or rows[1]["test_loss"] > 1e3
    assert answer.json["summary"]["rounds"] == 3
