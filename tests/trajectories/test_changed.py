"""Whatever a resumed run needs and has no more is named and refused, and the folder is left as it is."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from fedfit.errors import RunFolderError
from fedfit.experiment.session import Session
from tests.trajectories.test_rules import stopped
from tests.trajectories.world import World, lines, outcome, resume


@pytest.fixture
def run(reference: Path, tmp_path: Path) -> Path:
    """A copy of a run of three rounds, to spoil."""
    return Path(shutil.copytree(reference, tmp_path / "run"))


def edit(run: Path, before: str, after: str) -> None:
    recipe = run / "recipe.toml"
    assert recipe.read_text().count(before) == 1, before
    recipe.write_text(recipe.read_text().replace(before, after))


def refused(run: Path) -> list[str]:
    """What is named, a line each, by a refusal that changes no file and holds no lock afterwards."""
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for _ in range(2):
        with pytest.raises(RunFolderError) as error:
            resume(run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    first, *named, last = str(error.value).splitlines()
    assert first == f"{run} cannot go on, since what it needs has changed:"
    assert last == f"restore it, or start anew: fedfit run {run}/recipe.toml --out {run} --force"
    return [line.strip() for line in named]


EDITS = {
    "learning rate": (
        "learning_rate = 0.01",
        "learning_rate = 0.1",
        "training.learning_rate: 0.01 when the run began, 0.1 now",
    ),
    "rule": ('rule = "fedavg"', 'rule = "hetlora"', "federation.rule: fedavg when the run began, hetlora now"),
    "server optimiser": (
        'server_optimizer = "none"',
        'server_optimizer = "adam"',
        "federation.server_optimizer: none when the run began, adam now",
    ),
    "rank": ("\nrank = 4", "\nrank = 8", "adapter.rank: 4 when the run began, 8 now"),
    "a rank that cannot be": ("\nrank = 4", "\nrank = 400", "adapter.rank: 4 when the run began, 400 now"),
    "battery": ("battery_j = 0.3\n", "", "fleet.battery_j: 0.3 when the run began, unset now"),
    "seed": ("seed = 0", "seed = 1", "seed: 0 when the run began, 1 now"),
}


@pytest.mark.parametrize("edited", EDITS)
def test_an_edited_recipe_is_named_key_by_key(edited: str, run: Path) -> None:
    before, after, said = EDITS[edited]
    edit(run, before, after)
    assert refused(run) == [said]


def test_all_edited_keys_are_named_at_once(run: Path) -> None:
    edit(run, "seed = 0", "seed = 1")
    edit(run, "batch_size = 8", "batch_size = 4")
    assert [line.partition(":")[0] for line in refused(run)] == ["seed", "training.batch_size"]


def test_more_rounds_where_the_rate_depends_on_their_number(world: World, tmp_path: Path) -> None:
    for name, more in (("decay", "training.schedule=linear"), ("warm-up", "training.warmup=0.5")):
        run = world.run(tmp_path / name, "federation.rounds=1", more)
        edit(run, "\nrounds = 1", "\nrounds = 2")
        assert refused(run) == ["federation.rounds: 1 when the run began, 2 now"]


def test_keys_that_decide_no_round_may_change(world: World, reference: Path, tmp_path: Path) -> None:
    """Stopped after round 2; then the data and the model are elsewhere, and the run ends where it always would."""
    run = world.run(tmp_path / "run", "federation.rounds=2")
    copies = [shutil.copy(path, tmp_path / path.name) for path in (world.train, world.test)]
    recipe = run / "recipe.toml"
    recipe.write_text(recipe.read_text().replace(str(world.folder), str(tmp_path)))
    assert all(str(copy) in recipe.read_text() for copy in copies)
    edit(run, "\nrounds = 2", "\nrounds = 3")
    edit(run, "max_gigabytes = 20.0", "max_gigabytes = 1.0")
    edit(run, 'name = "tiny"', 'name = "other"')
    edit(run, "max_failed_rounds = 3", "max_failed_rounds = 4")
    resumed, whole = outcome(resume(run)), outcome(reference)
    assert resumed.pop("recipe") != whole.pop("recipe")
    assert resumed == whole


def test_changed_weights(world: World, tiny_bert: Path, tmp_path: Path) -> None:
    """One bit of one embedding, which no device ever trains."""
    model = Path(shutil.copytree(tiny_bert, tmp_path / "model"))
    run = world.run(tmp_path / "run", f"model.name={model}", "federation.rounds=1")
    resume(run)
    tensors = load_file(model / "model.safetensors")
    name = next(name for name in tensors if "word_embeddings" in name)
    tensors[name][-1, -1] += 1e-6
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    assert refused(run) == [f"the weights of the model '{model}' are not those that the run began with"]


def test_changed_configuration_of_the_model(world: World, tiny_bert: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_bert, tmp_path / "model"))
    run = world.run(tmp_path / "run", f"model.name={model}", "federation.rounds=1")
    config = model / "config.json"
    assert '"gelu"' in config.read_text()
    config.write_text(config.read_text().replace('"gelu"', '"relu"'))
    assert refused(run) == [f"the weights of the model '{model}' are not those that the run began with"]


@pytest.mark.parametrize("name", ["rounds.jsonl", "devices.jsonl"])
def test_records_that_are_lost(name: str, run: Path) -> None:
    """Else a run would end with rounds 4, 5, 6 alone, and with batteries that are full again."""
    whole = (run / name).read_bytes()
    (run / name).write_bytes(whole[whole.index(b"\n") + 1 :])
    (said,) = refused(run)
    assert said.startswith(f"{name} has lost lines")
    (run / name).unlink()
    assert refused(run) == [f"{name} is missing"]
    (run / name).write_bytes(whole.replace(b'"round": 1', b'"round": 2'))
    (said,) = refused(run)
    assert said.startswith(f"{name} was changed")
    (run / name).write_bytes(whole)
    resume(run)


def test_all_that_is_lost_is_named_at_once(run: Path) -> None:
    (run / "devices.jsonl").unlink()
    (run / "rounds.jsonl").unlink()
    (run / "partition.json").write_text("{}")
    described = "partition.json does not describe the data that the recipe names"
    assert refused(run) == [described, "rounds.jsonl is missing", "devices.jsonl is missing"]


@pytest.mark.parametrize("name", ["partition.json", "environment.json"])
@pytest.mark.parametrize("text", ["[]", "{", "[" * 100_000], ids=["a list", "torn", "a bomb"])
def test_files_that_hold_no_object(name: str, text: str, run: Path) -> None:
    (run / name).write_text(text)
    with pytest.raises(RunFolderError, match=rf"{name} cannot be read .*; restore it, or start anew: fedfit run"):
        Session.resume(run)


@pytest.mark.parametrize("damage", ["emptied", "deleted"])
def test_without_any_checkpoint_the_rounds_are_not_dropped(damage: str, run: Path) -> None:
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(b"") if damage == "emptied" else path.unlink()
    with pytest.raises(RunFolderError, match=r"no checkpoint of .* can be read; restore it, or start anew"):
        resume(run)
    assert len(lines(run / "rounds.jsonl")) == 4


@pytest.mark.parametrize("damage", ["deleted", "truncated", "flipped", "all deleted"])
@pytest.mark.parametrize("rule", ["fedsa_lora", "local_only"])
def test_memories_that_are_lost(rule: str, damage: str, world: World, tiny_bert: Path, tmp_path: Path) -> None:
    run = stopped(world, tmp_path / "run", rule, 2, tiny_bert)
    newest = sorted(run.glob("devices/device-*/round-*"))[-1]
    whole = newest.read_bytes()
    if damage == "deleted":
        newest.unlink()
    elif damage == "truncated":
        newest.write_bytes(whole[:-7])
    elif damage == "flipped":
        newest.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    else:
        devices = len(list((run / "devices").iterdir()))
        shutil.rmtree(run / "devices")
        assert len(refused(run)) == devices > 1
        return
    (said,) = refused(run)
    assert said.startswith(f"devices/{newest.parent.name}/{newest.name} is ")
    newest.write_bytes(whole)
    resume(run)


def test_start_anew_as_the_refusal_says(run: Path) -> None:
    """The recipe is read before the folder that it lies in is cleared."""
    from typer.testing import CliRunner

    from fedfit.cli import app

    edit(run, "learning_rate = 0.01", "learning_rate = 0.02")
    command = "".join(refused_with_remedy(run)).partition("fedfit ")[2].split()
    done = CliRunner().invoke(app, [*command, "federation.rounds=1", "--quiet"])
    assert done.exit_code == 0, done.output
    assert [row["round"] for row in lines(run / "rounds.jsonl")] == [0, 1]
    assert "learning_rate = 0.02" in (run / "recipe.toml").read_text()


def refused_with_remedy(run: Path) -> list[str]:
    with pytest.raises(RunFolderError) as error:
        resume(run)
    return str(error.value).splitlines()[-1:]
