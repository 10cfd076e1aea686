"""Rules, tasks and codecs of a user's own: the code of docs/extending.md, run; and what does not work, in words."""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from fedfit.codecs.plain import PlainCodec
from fedfit.codecs.table import make_codec
from fedfit.core import plugins
from fedfit.core.update import ServerState, named_tensors
from fedfit.errors import RecipeError
from fedfit.experiment.load import parse_recipe, to_toml
from fedfit.experiment.validate import key_faults, validate_offline
from tests.builders import random_update, rule_of
from tests.cli.command import fedfit, refused
from tests.trajectories.world import World, lines, one_thread_only, outcome

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()
MODULES = ("mine", "mine_task", "mine_codec", "mine_method")
PLAIN = ("plan=", "fleet=", "channel=")


def code_of(module: str) -> str:
    """The first Python block after the first mention of the module's file."""
    (code,) = re.findall(rf"`{module}\.py`.*?```python\n(.*?)```", PAGE, re.DOTALL)[:1]
    return str(code)


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with the modules of the page."""
    for module in MODULES:
        (tmp_path / f"{module}.py").write_text(code_of(module))
    monkeypatch.chdir(tmp_path)
    with one_thread_only():
        yield tmp_path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> World:
    return World(tmp_path_factory.mktemp("world"), tiny_bert)


def test_a_rule_by_dotted_name_with_a_key_of_its_own(world: World, tmp_path: Path) -> None:
    (tables,) = re.findall(r"```toml\n(\[federation\].*?)```", PAGE, re.DOTALL)
    own, plain = tmp_path / "own.toml", world.recipe.read_text()
    own.write_text(plain.replace("[federation]", "[federation]\n" + tables.split("\n")[1]) + tables.partition("\n\n")[2])
    answer = fedfit("run", own, "--out", tmp_path / "run", *world.overrides, *PLAIN, "federation.rounds=2", "--json")
    assert answer.status == 0, answer.stderr
    assert '[federation."mine:ENTRY"]\nstep = 0.25' in (tmp_path / "run" / "recipe.toml").read_text()
    assert lines(tmp_path / "run" / "rounds.jsonl")[-1]["refused"] == 0
    assert fedfit("resume", tmp_path / "run", "--json").status == 0


def test_the_rule_goes_part_of_the_way() -> None:
    state, updates = ServerState(random_update(0)), [random_update(seed, weight=float(seed)) for seed in (1, 2)]
    moved = rule_of("mine:ENTRY", step=0.25).server.apply(state, updates)
    whole = rule_of("fedavg").server.apply(state, updates)
    for name, tensor in named_tensors(moved.adapter).items():
        old, new = named_tensors(state.adapter)[name], named_tensors(whole.adapter)[name]
        torch.testing.assert_close(tensor, 0.75 * old + 0.25 * new)
    assert rule_of("mine:ENTRY").server.apply(state, []) is state
    assert rule_of("mine:ENTRY").traits.uniform


def test_the_whole_way_is_fedavg_with_devices_alike(world: World, tmp_path: Path) -> None:
    own = world.run(
        tmp_path / "own", *PLAIN, "federation.rule=mine:ENTRY", "federation.mine:ENTRY.step=1.0", "federation.rounds=1"
    )
    plain = world.run(tmp_path / "plain", *PLAIN, "federation.weighting=uniform", "federation.rounds=1")
    mine, other = (lines(run / "rounds.jsonl")[-1] for run in (own, plain))
    assert mine["test_loss"] == pytest.approx(other["test_loss"], rel=1e-5)


def test_a_rules_key_is_checked_like_any_other() -> None:
    rule = "federation.rule=mine:ENTRY"
    (fault,) = validate_offline(parse_recipe("", [rule, "federation.mine:ENTRY.step=2.0"]))
    assert (fault.key, fault.value) == ("federation.mine:ENTRY.step", 2.0)
    with pytest.raises(
        RecipeError, match=r"federation.mine:ENTRY.stpe = 1.0: unknown key; did you mean federation.mine:ENTRY.step"
    ):
        parse_recipe("", [rule, "federation.mine:ENTRY.stpe=1.0"])
    with pytest.raises(RecipeError, match="must be a number"):
        parse_recipe("", [rule, "federation.mine:ENTRY.step=wide"])


def test_a_module_within_a_package_stands_in_quotes_on_the_command_line(mine: Path) -> None:
    (mine / "own_package").mkdir()
    (mine / "own_package" / "__init__.py").touch()
    (mine / "own_package" / "rules.py").write_text(code_of("mine"))
    name = "own_package.rules:ENTRY"
    recipe = parse_recipe("", [f"federation.rule={name}", f'federation."{name}".step=0.125'])
    assert recipe.federation.options[name].step == 0.125
    assert validate_offline(recipe) == []
    assert parse_recipe(to_toml(recipe)) == recipe


def test_a_metric_in_a_task_of_ones_own(world: World, tmp_path: Path) -> None:
    keys = [*PLAIN, "task.kind=mine_task:ENTRY", 'task.metrics=["accuracy"]', "federation.rounds=1"]
    last = lines(world.run(tmp_path / "run", *keys) / "rounds.jsonl")[-1]
    assert last["test_accuracy"] <= last["test_top_2"] <= 1
    assert "test_macro_f1" not in last


def test_a_codec_halves_the_uplink(world: World, tmp_path: Path) -> None:
    plain = world.run(tmp_path / "plain", *PLAIN)
    half = world.run(tmp_path / "half", *PLAIN, 'transport.uplink=["mine_codec:HalfCodec"]')
    (first, other) = (lines(run / "rounds.jsonl")[-1] for run in (plain, half))
    assert other["refused"] == 0
    assert first["downlink_bytes"] == other["downlink_bytes"]
    assert 0.5 < other["uplink_bytes"] / first["uplink_bytes"] < 0.75, "headers are not halved"
    assert other["test_loss"] == pytest.approx(first["test_loss"], rel=0.05)
    assert other["test_loss"] != first["test_loss"]


def test_a_method_of_ones_own_is_run_and_resumed(world: World, tmp_path: Path) -> None:
    """The first round's mean is what was trained; later it lags behind, so that the two models differ."""
    keys = [*PLAIN, "personalization.method=mine_method:ENTRY", "evaluation.device_test_share=0.4"]
    run = world.run(tmp_path / "run", *keys, "personalization.mine_method:ENTRY.share=0.25")
    last = lines(run / "rounds.jsonl")[-1]
    assert last["personal_loss_mean"] != last["shared_loss_mean"]
    assert '[personalization."mine_method:ENTRY"]\nshare = 0.25' in (run / "recipe.toml").read_text()
    assert last["refused"] == 0


def test_the_codec_rounds_what_it_may_round() -> None:
    from dataclasses import replace

    codec, update = make_codec(("mine_codec:HalfCodec",)), replace(random_update(1), exact=frozenset({"head"}))
    packet, _ = codec.encode(update)
    assert len(packet.payload) < len(PlainCodec().encode(update)[0].payload) <= codec.most_bytes(update)
    for name, tensor in named_tensors(codec.decode(packet)).items():
        given = named_tensors(update)[name]
        torch.testing.assert_close(tensor, given if name.startswith("head.") else given.half().float(), rtol=0, atol=0)


def entry_point(monkeypatch: pytest.MonkeyPatch, group: str, name: str, value: str) -> None:
    """An installed package with one entry point."""
    point = EntryPoint(name, value, group)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point] if group == point.group else [])


def test_components_by_entry_point(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sys.path.append(str(tmp_path))
    entry_point(monkeypatch, "fedfit.rules", "part_way", "mine:ENTRY")
    keys = ["federation.rule=part_way", "federation.part_way.step=1.0", "federation.rounds=1"]
    by_name = outcome(world.run(tmp_path / "named", *PLAIN, *keys))
    keys = ["federation.rule=mine:ENTRY", "federation.mine:ENTRY.step=1.0", "federation.rounds=1"]
    dotted = outcome(world.run(tmp_path / "dotted", *PLAIN, *keys))
    assert (by_name["rounds"], by_name["adapter"]) == (dotted["rounds"], dotted["adapter"])
    (fault,) = key_faults(parse_recipe("", ["federation.rule=part_wya"]))
    assert fault.remedy.startswith("did you mean 'part_way'? choose one of fedavg, ")
    entry_point(monkeypatch, "fedfit.tasks", "top_two", "mine_task:ENTRY")
    assert key_faults(parse_recipe("", ["task.kind=top_two"])) == []
    entry_point(monkeypatch, "fedfit.codecs", "half", "mine_codec:HalfCodec")
    assert key_faults(parse_recipe("", ["transport.uplink=half"])) == []
    entry_point(monkeypatch, "fedfit.codecs", "half", "mine_codec:Gone")
    (fault,) = key_faults(parse_recipe("", ["transport.uplink=half"]))
    assert fault.remedy.startswith("half of the package mine_codec:Gone fails to load: AttributeError: ")


@pytest.mark.parametrize(
    ("override", "key", "remedy"),
    [
        (
            "federation.rule=nowhere:ENTRY",
            "federation.rule",
            "No module named 'nowhere'; install its package, or run where its",
        ),
        ("federation.rule=mine:GONE", "federation.rule", "module 'mine' has no attribute 'GONE'"),
        ("federation.rule=mine:make", "federation.rule", "mine:make is a function, not a RuleEntry"),
        ("federation.rule=:ENTRY", "federation.rule", "cannot be imported: ValueError"),
        ("federation.rule=broken:ENTRY", "federation.rule", "cannot be imported: SyntaxError"),
        ("federation.rule=raising:ENTRY", "federation.rule", "cannot be imported: ZeroDivisionError: division by zero"),
        ("task.kind=mine:ENTRY", "task.kind", "mine:ENTRY is a RuleEntry, not a TaskEntry"),
        ("task.kind=clasification", "task.kind", "did you mean 'classification'?"),
        ('task.metrics=["accuracy", "macrof1"]', "task.metrics", "did you mean 'macro_f1'? choose one of accuracy, macro_f1"),
        ('task.metrics=["mcc", "mcc"]', "task.metrics", "name each metric once"),
        ("transport.uplink=plian", "transport.uplink", "did you mean 'plain'? choose one of plain"),
        ("transport.downlink=[]", "transport.downlink", "no codec is named; name one"),
        ('transport.uplink=["quantize:9"]', "transport.uplink", "a whole number from 1 to 8"),
        ('transport.uplink=["zip","delta"]', "transport.uplink", "zip is no stage"),
        ("transport.uplink=quantise:4", "transport.uplink", "did you mean 'quantize'"),
        ("transport.uplink=quantise", "transport.uplink", "did you mean 'quantize'"),
        ('transport.downlink=["delta"]', "transport.downlink", "is for what devices send"),
        ('transport.uplink=["zstd","delta"]', "transport.uplink", "zstd compresses whole packets; it must stand last"),
        ('transport.uplink=["low_rank:2"]', "transport.uplink", 'low_rank:2 is for changes; put "delta" before it'),
        ('transport.uplink=["fedobd:0.1","zstd"]', "transport.uplink", "fedobd:0.1 is for changes"),
        ('transport.downlink=["delta","zstd"]', "transport.downlink", "is for what devices send"),
        ('transport.downlink=["plian","zstd"]', "transport.downlink", "did you mean 'plain'"),
        ("transport.uplink=delta,quantize:4", "transport.uplink", 'write a list: ["delta", "quantize:4"]'),
        ("transport.scale_per=row", "transport.scale_per", "nothing has scales; add quantize or nf4"),
        ("transport.block=32", "transport.block", "nothing has scales"),
        ("transport.error_feedback=true", "transport.error_feedback", "plain leaves nothing out for it"),
        ("transport.downlink=mine:make", "transport.downlink", "mine:make is a function, not a type"),
        (
            "transport.downlink=json:JSONDecoder",
            "transport.downlink",
            "is no codec: it lacks bits_per_number, encode, most_bytes",
        ),
        ("transport.downlink=datetime:date", "transport.downlink", "is no codec: it cannot be made without arguments"),
    ],
)
def test_what_leads_to_no_component(override: str, key: str, remedy: str, mine: Path) -> None:
    (mine / "broken.py").write_text("def (")
    (mine / "raising.py").write_text("1 / 0")
    (fault,) = key_faults(parse_recipe("", [override]))
    assert fault.key == key
    assert remedy in fault.remedy


@pytest.mark.parametrize(
    ("uplink", "remedy"), [("fp16", "begin the uplink with delta"), ("delta", "the uplink leaves nothing out")]
)
def test_error_feedback_needs_differences_and_a_loss(uplink: str, remedy: str) -> None:
    (fault,) = key_faults(parse_recipe("", [f"transport.uplink={uplink}", "transport.error_feedback=true"]))
    assert (fault.key, fault.value) == ("transport.error_feedback", True)
    assert remedy in fault.remedy
    assert key_faults(parse_recipe("", ['transport.uplink=["delta", "bf16"]', "transport.error_feedback=true"])) == []


@pytest.mark.parametrize(
    ("keys", "key", "remedy"),
    [
        (("scale_per=row", "block=32"), "block", 'scale_per is "row"'),
        (('uplink=["delta","top_k:0.1","quantize:4"]', "scale_per=tensor"), "uplink", "no whole tensors are left for a scale"),
    ],
)
def test_scales_that_cannot_be(keys: tuple[str, ...], key: str, remedy: str) -> None:
    """Of several keys that do not go together; apart they do."""
    overrides = [f"transport.{words}" for words in ("uplink=quantize:4", *keys)]
    (fault,) = key_faults(parse_recipe("", overrides))
    assert fault.key == f"transport.{key}"
    assert remedy in fault.remedy
    for each in ("scale_per=tensor", "scale_per=row", "block=32"):
        assert key_faults(parse_recipe("", ["transport.uplink=quantize:4", f"transport.{each}"])) == []
    assert key_faults(parse_recipe("", ['transport.uplink=["zstd"]', 'transport.downlink=["bf16","zstd"]'])) == []


def test_a_fault_of_a_component_is_no_traceback(tmp_path: Path) -> None:
    refused(
        "run", "demo", "--out", tmp_path / "run", "task.kind=nowhere:X", "transport.uplink=zip", says=["task.kind", "transport"]
    )
