"""The keys of a validation part: a file, or a share of the training samples, and never both."""

from pathlib import Path

import pytest

from fedfit.errors import Fault
from fedfit.experiment.load import parse_recipe
from fedfit.experiment.resolve import resolve
from fedfit.experiment.validate import validate_offline

FILES = ["data.source=csv", "data.train=a.csv", "data.test=b.csv"]


def faults(*overrides: str) -> dict[str, str]:
    found: list[Fault] = validate_offline(parse_recipe("", overrides))
    return {fault.key: fault.remedy for fault in found}


def test_a_file_or_a_share_will_do() -> None:
    assert faults(*FILES, "data.validation=dev.csv") == {}
    assert faults(*FILES, "data.validation_share=0.1") == {}
    assert faults("data.source=pydocs", "data.validation_share=0.1") == {}


def test_both_are_refused() -> None:
    found = faults(*FILES, "data.validation=dev.csv", "data.validation_share=0.1")
    assert found == {"data.validation_share": "data.validation is a file for the same purpose; remove one of the two"}


def test_a_file_needs_a_source_of_files() -> None:
    found = faults("data.source=pydocs", "data.validation=dev.csv")
    assert found == {"data.validation": 'source = "pydocs" has no such file; set data.validation_share instead'}


@pytest.mark.parametrize(("share", "remedy"), [("-0.1", "must be at least 0"), ("1", "must be at most 0.9")])
def test_a_share_leaves_training_samples(share: str, remedy: str) -> None:
    assert faults(f"data.validation_share={share}") == {"data.validation_share": remedy}


def test_its_path_means_the_same_wherever_a_run_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = resolve(parse_recipe("", [*FILES, "data.validation=dev.csv"])).data
    assert (data.train, data.validation) == (str(tmp_path / "a.csv"), str(tmp_path / "dev.csv"))
    assert resolve(parse_recipe("", FILES)).data.validation is None
