"""The comparison of dropout runs through the experiment, on the same recipe but for one key."""

from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.dropout import final_accuracy, small_recipe

from fedfit.data_settings import DataSettings
from fedfit.experiment.validate import validate_offline
from tests.builders import tiny_recipe


@pytest.mark.parametrize("source", ["ag_news", "pydocs"])
def test_the_recipe_is_valid(source: str) -> None:
    recipe = small_recipe(source)
    assert recipe.federation.rounds == 3
    assert not validate_offline(recipe)


def test_an_accuracy_is_found_with_and_without(tiny_bert: Path, tmp_path: Path) -> None:
    rows = ["text,label"] + [f"{'abc' if number % 2 else 'xyz'} e{number},{number % 2}" for number in range(24)]
    (tmp_path / "rows.csv").write_text("\n".join(rows) + "\n")
    path = str(tmp_path / "rows.csv")
    recipe = tiny_recipe(tiny_bert, federation={"rounds": 1})
    recipe = replace(recipe, data=DataSettings(source="csv", train=path, test=path, max_tokens=12))
    for dropout in (False, True):
        assert 0 <= final_accuracy(recipe, 0, dropout) <= 1
