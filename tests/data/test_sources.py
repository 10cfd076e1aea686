from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedfit.data.sources import load_corpus
from fedfit.data_settings import DataSettings
from fedfit.errors import DataError


@pytest.fixture
def csv_settings(tmp_path: Path) -> DataSettings:
    train = "".join(f"text {row},{'ab'[row % 3 == 0]}\n" for row in range(60))
    (tmp_path / "train.csv").write_text("text,label\n" + train)
    (tmp_path / "test.csv").write_text("text,label\nx,a\ny,b\nz,b\n")
    return DataSettings(source="csv", train=str(tmp_path / "train.csv"), test=str(tmp_path / "test.csv"))


def test_files_become_a_corpus(csv_settings: DataSettings) -> None:
    corpus = load_corpus(csv_settings, seed=0)
    assert (len(corpus.train), len(corpus.test), corpus.label_names) == (60, 3, ("a", "b"))
    assert list(corpus.test.fields["text"]) == ["x", "y", "z"]


def test_samples_are_drawn_in_balance_and_by_the_seed(csv_settings: DataSettings) -> None:
    settings = replace(csv_settings, train_samples=20, test_samples=2)
    corpus, again, other = (load_corpus(settings, seed) for seed in (0, 0, 1))
    assert np.bincount(corpus.train.classes).tolist() == [10, 10]
    assert np.bincount(corpus.test.classes).tolist() == [1, 1]
    assert list(corpus.train.fields["text"]) == list(again.train.fields["text"]) != list(other.train.fields["text"])


def test_a_share_of_the_training_samples_is_split_off_for_validation(csv_settings: DataSettings) -> None:
    whole, corpus, again, other = (
        load_corpus(replace(csv_settings, validation_share=share), seed)
        for share, seed in ((0.0, 0), (0.25, 0), (0.25, 0), (0.25, 1))
    )
    assert whole.validation is None
    assert corpus.validation is not None
    assert again.validation is not None
    assert other.validation is not None
    # 20 of "b", 40 of "a", in training: a quarter of each
    assert np.bincount(corpus.validation.classes).tolist() == [10, 5]
    assert sorted([*corpus.train.fields["text"], *corpus.validation.fields["text"]]) == sorted(whole.train.fields["text"])
    assert list(corpus.test.fields["text"]) == list(whole.test.fields["text"])
    assert (
        list(corpus.validation.fields["text"]) == list(again.validation.fields["text"]) != list(other.validation.fields["text"])
    )


def test_the_share_is_one_of_the_samples_that_are_taken(csv_settings: DataSettings) -> None:
    corpus = load_corpus(replace(csv_settings, train_samples=20, validation_share=0.2), seed=0)
    assert corpus.validation is not None
    assert (len(corpus.train), len(corpus.validation)) == (16, 4)
    assert set(load_corpus(replace(csv_settings, train_samples=20), seed=0).train.fields["text"]) == {
        *corpus.train.fields["text"],
        *corpus.validation.fields["text"],
    }


def test_a_validation_file_is_read(csv_settings: DataSettings, tmp_path: Path) -> None:
    (tmp_path / "dev.csv").write_text("text,label\nd,b\n")
    corpus = load_corpus(replace(csv_settings, validation=str(tmp_path / "dev.csv")), seed=0)
    assert corpus.validation is not None
    assert (list(corpus.validation.fields["text"]), corpus.validation.classes.tolist()) == (["d"], [1])
    assert len(corpus.train) == 60
    (tmp_path / "dev.csv").write_text("text,label\nd,c\n")
    with pytest.raises(DataError, match=r"dev.csv \(data.validation\) has the label 'c'"):
        load_corpus(replace(csv_settings, validation=str(tmp_path / "dev.csv")), seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_samples": 61}, "data.train_samples = 61: there are only 60"),
        ({"test_samples": 4}, "data.test_samples = 4: there are only 3"),
        ({"train": None}, "data.train = None: with data.source = 'csv' give the path"),
        ({"test": None}, "data.test = None"),
        ({"test": "nowhere.csv"}, "nowhere.csv: there is no such file"),
        ({"text": ("texts",)}, r"data.text = 'texts': .*train.csv \(data.train\) has no such column.*'text'"),
        ({"source": "hub"}, "data.name = None"),
        (
            {"source": "xml"},
            "data.source = 'xml': choose ag_news, .*, pydocs-instruct, .*, hub, csv, tsv, json",
        ),
    ],
)
def test_faults_name_the_key(csv_settings: DataSettings, changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_corpus(replace(csv_settings, **changes), seed=0)  # type: ignore[arg-type]


def test_faults_of_the_test_file_name_it(csv_settings: DataSettings) -> None:
    Path(str(csv_settings.test)).write_text("text,label\nx,c\n")
    with pytest.raises(DataError, match=r"test.csv \(data.test\) has the label 'c' \(row 1\)"):
        load_corpus(csv_settings, seed=0)


def test_one_class_only_is_refused(csv_settings: DataSettings) -> None:
    Path(str(csv_settings.train)).write_text("text,label\nx,a\ny,a\n")
    with pytest.raises(DataError, match="one class only, 'a'"):
        load_corpus(csv_settings, seed=0)
