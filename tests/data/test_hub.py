from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from fedfit.data.classification import build_corpus
from fedfit.data.hub import HubSet, read_hub
from fedfit.data.sources import load_corpus
from fedfit.data_settings import DataSettings
from fedfit.errors import DataError


def serve(monkeypatch: pytest.MonkeyPatch, splits: dict[str, Dataset] | Exception) -> None:
    def load_dataset(*_: object) -> Any:
        if isinstance(splits, Exception):
            raise splits
        return DatasetDict(splits)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)


def split(labels: list[Any], names: list[str] | None = None) -> Dataset:
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)}) if names else None
    return Dataset.from_dict({"text": [f"text {row}" for row in range(len(labels))], "label": labels}, features)


def test_class_names_of_the_data_set_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, {"train": split([0, 1], ["spam", "ham"]), "test": split([0], ["spam", "ham"])})
    corpus = load_corpus(DataSettings(source="hub", name="somebody/mail"), seed=0)
    assert corpus.label_names == ("ham", "spam")
    assert (corpus.train.classes.tolist(), corpus.test.classes.tolist()) == ([1, 0], [1])


@pytest.mark.parametrize("hidden", [[-1, -1], [None, None]])
def test_validation_stands_in_for_a_test_split_without_labels(
    monkeypatch: pytest.MonkeyPatch, hidden: list[int | None]
) -> None:
    serve(monkeypatch, {"train": split([0, 1]), "test": split(hidden), "validation": split([1, 1, 0])})
    test = read_hub(HubSet("somebody/set", ("text",))).test
    assert list(test.columns["label"]) == ["1", "1", "0"]


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"test": split([0, 1])}, "has no split called train; it has test"),
        ({"train": split([0, 1])}, "no labelled split called test or validation"),
        ({"train": split([0, 1]), "test": split([-1])}, "no labelled split called test or validation"),
        ({"train": split([0, -1], ["a", "b"]), "test": split([0])}, "no label in row 2"),
        (ConnectionError("no route"), "the hub cannot be reached"),
        (datasets.exceptions.DatasetNotFoundError("x"), "no such data set, or it is gated"),
        (ValueError("Config name is missing"), "Config name is missing.*owner/name:one"),
    ],
)
def test_what_the_hub_cannot_give_is_said(
    monkeypatch: pytest.MonkeyPatch, splits: dict[str, Dataset] | Exception, message: str
) -> None:
    serve(monkeypatch, splits)
    with pytest.raises(DataError, match=message):
        build_corpus(read_hub(HubSet("somebody/set", ("text",))))


def test_a_wrong_column_lists_those_there(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, {"train": split([0, 1]), "test": split([0])})
    with pytest.raises(DataError, match=r"data.label = 'labels': the train split of .*it has text, label: did you mean"):
        build_corpus(read_hub(HubSet("somebody/set", ("text",), label="labels")))
