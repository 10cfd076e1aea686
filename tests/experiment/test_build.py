"""From a recipe to the parts that run: the facts of the run folder, the resolved recipe, the rows set apart."""

from pathlib import Path

import numpy as np
import pytest

from fedfit.aggregation.rules.krum import KrumKeys
from fedfit.aggregation.rules.slora import SloraKeys
from fedfit.data.corpus import TextSet
from fedfit.data_settings import DataSettings, PartitionSettings
from fedfit.errors import DataError
from fedfit.experiment.build import build
from fedfit.experiment.load import parse_recipe, to_toml
from fedfit.experiment.resolve import resolve
from fedfit.experiment.rows_of_devices import device_tests, set_apart, set_values_apart
from fedfit.settings import EvaluationSettings, FederationSettings, ModelSettings, Recipe


def test_by_column_says_which_values_are_behind_each_device(tiny_bert: Path, tmp_path: Path) -> None:
    """Sites a (3 rows), b (2), c (1) over two devices, dealt out largest first: a and c, then b."""
    rows = ["text,label,site"] + [
        f"{word},{label},{site}" for word, label, site in zip("abcdef", "xyxyxy", "aaabbc", strict=True)
    ]
    file = tmp_path / "rows.csv"
    file.write_text("\n".join(rows) + "\n")
    recipe = Recipe(
        data=DataSettings(source="csv", train=str(file), test=str(file)),
        partition=PartitionSettings(kind="by_column", column="site"),
        model=ModelSettings(name=str(tiny_bert)),
        federation=FederationSettings(devices=2, devices_per_round=2),
    )
    experiment = build(recipe)
    behind = experiment.facts["devices"]
    assert sorted(behind) == [["a", "c"], ["b"]]
    sizes = [len(part) for part in experiment.parts.held]
    assert sizes == [4 if sites == ["a", "c"] else 2 for sites in behind]
    assert experiment.federation.samples == sizes
    assert experiment.label_names == ("x", "y")
    assert experiment.facts["labels"] == ["x", "y"]
    assert [sum(counts) for counts in experiment.facts["counts"]] == sizes


def test_a_resolved_recipe_has_the_keys_of_its_rule_and_of_no_other() -> None:
    """Written out, it means the same should a default change."""
    slora = resolve(parse_recipe("", ["federation.rule=slora"]))
    assert slora.federation.options == {"slora": SloraKeys(sparse_rounds=2, density=None)}
    assert parse_recipe(to_toml(slora)) == slora
    given = resolve(parse_recipe("", ["federation.rule=krum", "federation.krum.byzantine=0"]))
    assert given.federation.options == {"krum": KrumKeys(0)}
    assert resolve(Recipe()).federation.options == {}


def test_a_device_sets_a_share_apart_and_keeps_a_sample_to_train_on() -> None:
    """Of 10 rows a quarter is 2.5, to the even number; of 1 nothing; of none nothing. No row is in both, none is lost."""
    held = [np.arange(10), np.array([12]), np.empty(0, dtype=np.int64), np.arange(20, 24)]
    train, tests = set_apart(held, 0.25, seed=3)
    assert [len(rows) for rows in tests] == [2, 0, 0, 1]
    for whole, left, right in zip(held, train, tests, strict=True):
        assert sorted([*left, *right]) == whole.tolist()
        assert left.tolist() == sorted(left)
        assert right.tolist() == sorted(right)
    again, other = set_apart(held, 0.25, seed=3)[1], set_apart(held, 0.25, seed=4)[1]
    assert all(np.array_equal(one, two) for one, two in zip(tests, again, strict=True))
    assert any(not np.array_equal(one, two) for one, two in zip(tests, other, strict=True))
    assert [len(rows) for rows in set_apart(held, 0.0, seed=3)[1]] == [0, 0, 0, 0]
    assert [len(rows) for rows in set_apart(held, 0.9, seed=3)[0]] == [1, 1, 0, 1]


def test_a_value_is_set_apart_on_all_devices_or_on_none(caplog: pytest.LogCaptureFixture) -> None:
    """Forty values of 1 to 12 samples over six devices: what one trains on is in no device's test."""
    rng = np.random.default_rng(0)
    values = [f"v{number}" for number in range(40) for _ in range(int(rng.integers(1, 13)))]
    held = [np.sort(rows) for rows in np.array_split(rng.permutation(len(values)), 6)]
    train, tests = set_values_apart(held, values, 0.3, seed=1)
    for rows, mine, own in zip(held, train, tests, strict=True):
        assert np.array_equal(np.sort(np.concatenate([mine, own])), rows)
    seen, unseen = ({values[row] for rows in part for row in rows} for part in (train, tests))
    assert not seen & unseen
    assert abs(sum(map(len, tests)) - 0.3 * len(values)) <= 12, "to within one value"
    again, other = set_values_apart(held, values, 0.3, seed=1)[1], set_values_apart(held, values, 0.3, seed=2)[1]
    assert all(map(np.array_equal, tests, again))
    assert not all(map(np.array_equal, tests, other))
    assert not caplog.text
    drawn = np.array([value == min(unseen) for value in values])
    train, tests = set_values_apart([np.flatnonzero(drawn), np.flatnonzero(~drawn)], values, 0.3, seed=1)
    assert not len(train[0])
    assert not len(tests[0])
    assert "device 0 has samples of the test's values alone; it takes no part" in caplog.text


def test_a_value_that_is_most_of_the_data_is_passed_over() -> None:
    """Of 100 samples 60 have one value: 30 are wanted, and all seeds find them among the other 40."""
    values = ["much"] * 60 + [f"v{number // 2}" for number in range(40)]
    for seed in range(8):
        _, tests = set_values_apart([np.arange(100)], values, 0.3, seed)
        assert len(tests[0]) == 30


def test_an_unknown_column_of_test_values_is_named() -> None:
    settings = EvaluationSettings(device_test_share=0.3, device_test_column="Event")
    texts = TextSet({"text": ["a", "b"]}, None, {"EventId": ["x", "y"]})
    with pytest.raises(DataError, match=r"evaluation.device_test_column = 'Event': no such column; did you mean 'EventId'"):
        device_tests([np.arange(2)], texts, settings, 0)
