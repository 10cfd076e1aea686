import logging

import numpy as np
import pytest

from fedfit.data.classification import build_corpus, sort_label_names
from fedfit.data.corpus import Corpus
from fedfit.data.table import Reading, Table, Tables
from fedfit.errors import DataError


def labelled(labels: list[str], origin: str = "file") -> Table:
    return Table(origin, {"text": [f"text {number}" for number in range(len(labels))], "label": labels})


def corpus_of(train: Table, test: Table, validation: Table | None = None) -> Corpus:
    return build_corpus(Tables(train, test, Reading(["text"], "label"), validation))


def test_classes_are_numbered_by_sorted_names() -> None:
    corpus = corpus_of(labelled(["Sports", "World", "Business", "World"]), labelled(["World"]))
    assert corpus.label_names == ("Business", "Sports", "World")
    assert corpus.train.classes.tolist() == [1, 2, 0, 2]
    assert corpus.test.classes.tolist() == [2]
    assert corpus.train.classes.dtype == np.int64


def test_whole_numbers_are_sorted_by_value_and_mixed_labels_as_strings() -> None:
    assert sort_label_names(["10", "9", "-1"]) == ("-1", "9", "10")
    assert sort_label_names(["10", "9", "x"]) == ("10", "9", "x")


def test_an_unknown_test_label_is_named_with_its_row() -> None:
    with pytest.raises(DataError, match=r"test.csv has the label 'c' \(row 3\).*'a', 'b'"):
        corpus_of(labelled(["a", "b"]), labelled(["a", "b", "c"], "test.csv"))


def test_one_class_only_is_refused() -> None:
    with pytest.raises(DataError, match=r"one class only, 'a'.*data.label"):
        corpus_of(labelled(["a", "a"]), labelled(["a"]))


@pytest.mark.parametrize(("train", "test", "key"), [([], ["a"], "data.train"), (["a", "b"], [], "data.test")])
def test_a_set_without_rows_is_refused(train: list[str], test: list[str], key: str) -> None:
    with pytest.raises(DataError, match=f"no rows .{key}"):
        corpus_of(labelled(train), labelled(test))


def test_a_validation_table_has_the_classes_of_the_training_table() -> None:
    corpus = corpus_of(labelled(["b", "a"]), labelled(["a"]), labelled(["a", "b"]))
    assert corpus.validation is not None
    assert corpus.validation.classes.tolist() == [0, 1]
    assert corpus_of(labelled(["b", "a"]), labelled(["a"])).validation is None
    with pytest.raises(DataError, match=r"dev.csv has the label 'c' \(row 1\)"):
        corpus_of(labelled(["b", "a"]), labelled(["a"]), labelled(["c"], "dev.csv"))
    with pytest.raises(DataError, match=r"no rows .data.validation"):
        corpus_of(labelled(["b", "a"]), labelled(["a"]), labelled([]))


def blanks(texts: list[str], pairs: list[str] | None = None) -> Tables:
    columns = {"text": texts, "label": ["a", "b"] * (len(texts) // 2)}
    other = Table("test.csv", {"text": ["x"], "pair": ["y"], "label": ["a"]})
    train = Table("train.csv", columns if pairs is None else {**columns, "pair": pairs})
    return Tables(train, other, Reading(["text"], "label", None if pairs is None else "pair"))


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        (blanks(["a", " ", "b", "c"]), "train.csv: row 2 has a blank text, 25.0 % of 4; "),
        (blanks(["a", "", "b", "\t"]), "train.csv: 2 rows (the first is row 2) have a blank text, 50.0 % of 4; "),
        (blanks(["a", "b"], ["x", " "]), "train.csv: row 2 has a blank text, 50.0 % of 2; "),
        (blanks(["", "b"], ["x", " "]), "train.csv: 2 rows (the first is row 1) have a blank text, 100.0 % of 2; "),
    ],
)
def test_blank_texts_are_counted_for_the_file(tables: Tables, says: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        build_corpus(tables)
    (record,) = caplog.records
    assert record.getMessage().startswith(says)
    assert "name other columns in data.text" in record.getMessage()


def test_texts_without_blanks_give_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    build_corpus(blanks(["a", "b"], ["x", "y"]))
    assert caplog.records == []
