"""A table as a classifier gets it, without a training table beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedfit.data.classification import build_corpus
from fedfit.data.table import Reading, Table, Tables


@dataclass(frozen=True)
class NamedSamples:
    texts: Sequence[str]
    labels: Sequence[str]
    pairs: Sequence[str] | None
    columns: Mapping[str, Sequence[str]]


def samples_of(table: Table, reading: Reading) -> NamedSamples:
    """The samples of ``table`` with their labels as names, of which the training table has these and two more."""
    labels = {cell.strip() for cell in table.columns.get(reading.label, ())} - {""}
    names = ["one", "two", *labels]
    texts = {name: ["text"] * len(names) for name in (*reading.text, reading.pair) if name is not None}
    corpus = build_corpus(Tables(Table("train", {**texts, reading.label: names}), table, reading))
    test = corpus.test
    return NamedSamples(
        test.fields["text"], [corpus.label_names[label] for label in test.classes], test.fields.get("pair"), test.columns
    )
