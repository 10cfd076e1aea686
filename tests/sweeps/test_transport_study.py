"""The study of what travels: valid recipes that differ in ``[transport]`` alone, and the smallest scale end to end."""

from dataclasses import replace
from pathlib import Path

import pytest

from fedfit.codecs.table import make_codec
from fedfit.experiment.load import parse_recipe, to_toml
from fedfit.experiment.validate import validate_offline
from fedfit.settings import Recipe, TransportSettings
from fedfit.sweeps.comparison_pages import write_comparison
from fedfit.sweeps.comparison_run import comparison_stages
from fedfit.sweeps.reproduce import COMPARISONS
from fedfit.sweeps.runner import run_stages
from fedfit.sweeps.transport import CHAINS, FEDOBD, FLASC, FLASC_LESS, FLOAT32, FOUR, SCALES, transport
from tests.trajectories.world import lines


def recipes(scale: str) -> dict[str, Recipe]:
    made = transport(scale)
    return {run.point.line: run.recipe for run in made.main(made.cases[0], made.lowest_rates).with_seeds(1).runs()}


@pytest.mark.parametrize("scale", SCALES)
def test_every_run_is_valid(scale: str) -> None:
    made = transport(scale)
    assert {line for claim in made.claims for pair in claim.pairs for line in pair} <= {method.name for method in made.methods}
    assert COMPARISONS["transport"][0] is transport
    for recipe in recipes(scale).values():
        assert validate_offline(recipe) == []
        assert parse_recipe(to_toml(recipe)) == recipe


def test_chains_differ_in_what_travels_alone() -> None:
    found = recipes("small")
    plain = found.pop(FLOAT32)
    assert plain.transport == TransportSettings()
    assert set(found) == {*CHAINS, FLASC, FLASC_LESS}
    for line in CHAINS:
        assert replace(found[line], name="", transport=TransportSettings()) == replace(plain, name=""), line
        make_codec(found[line].transport.uplink)


def test_the_smallest_scale_runs(tmp_path: Path) -> None:
    """A few lines of it: their bytes are in the order that their names promise, and the pages are written."""
    made = transport("smoke")
    kept = tuple(method for method in made.methods if method.name in (FLOAT32, FOUR, FEDOBD))
    made = replace(made, methods=kept, claims=tuple(claim for claim in made.claims if claim.pairs == ((FEDOBD, FOUR),)))
    list(run_stages(list(comparison_stages(made, tmp_path))))
    names = {path.name for path in write_comparison(made, tmp_path)}
    assert {"table.md", "verdicts.md", "transport.png"} <= names
    runs = tmp_path / made.cases[0].slug / "runs"
    sent = {folder.name: sum(line["uplink_bytes"] for line in lines(folder / "rounds.jsonl")) for folder in runs.iterdir()}
    assert sent["fedobd-seed0"] < sent["4-bits-seed0"] < sent["float32-seed0"] / 6
    assert "FedOBD sends less" in (tmp_path / "verdicts.md").read_text()
