"""The README's recipe runs as it is given, without a network."""

import re
from pathlib import Path

import pytest

from fedfit.experiment.load import parse_recipe
from fedfit.experiment.validate import validate

PAGE = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_recipe_holds_with_the_files_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's configuration is read too, which a name on the hub does not allow here."""
    monkeypatch.chdir(tmp_path)
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).touch()
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    validate(parse_recipe(text))


def test_the_library_example_runs_twice() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    calls = re.findall(r"fedfit\.(?:run|stream)\((.*?)\)", code)
    assert len(calls) == 2
    assert all("force=True" in call for call in calls)
