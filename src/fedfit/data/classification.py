"""From tables to a classifier's samples: texts, pairs, and labels as class numbers."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from fedfit.data.corpus import Corpus, TextSet
from fedfit.data.table import Reading, Table, Tables
from fedfit.data_settings import DataSettings
from fedfit.errors import DataError

log = logging.getLogger(__name__)


def build_corpus(tables: Tables, settings: DataSettings | None = None) -> Corpus:
    """Numbers the classes by the sorted label names of the training table.

    Blank texts are kept, and a warning counts them. Raises ``DataError`` for a table without rows, an unknown column, a row
    without a label, a single class, and a label that the training table lacks.
    """
    reading, parts = tables.reading, {"train": tables.train, "test": tables.test, "validation": tables.validation}
    labels = {part: _labels(table, reading.label, f"data.{part}") for part, table in parts.items() if table is not None}
    names = sort_label_names(labels["train"])
    if len(names) < 2:
        raise DataError(
            f"{tables.train.origin} has one class only, {names[0]!r} (data.label): "
            "a classifier needs at least two; check that data.label names the right column"
        )
    sets = {part: _text_set(table, labels[part], reading, names) for part, table in parts.items() if table is not None}
    return Corpus(sets["train"], sets["test"], names, sets.get("validation"))


def sort_label_names(labels: Sequence[str]) -> tuple[str, ...]:
    """The distinct labels: by value when all are whole numbers, so that 10 follows 9, and as strings otherwise."""
    distinct = set(labels)
    try:
        return tuple(sorted(distinct, key=lambda name: (int(name), name)))
    except ValueError:
        return tuple(sorted(distinct))


def _labels(table: Table, column: str, key: str) -> list[str]:
    if not len(table):
        raise DataError(f"{table.origin} has no rows ({key}): name a file or split that has some")
    labels = [label.strip() for label in table.column("data.label", column)]
    missing = [row for row, label in enumerate(labels, start=1) if not label]
    if missing:
        count = "" if len(missing) == 1 else f", and {len(missing) - 1} more rows"
        raise DataError(
            f"data.label = {column!r}: {table.origin} has no label in row {missing[0]}{count} "
            "(the first sample is row 1): label them or take them out"
        )
    return labels


def _text_set(table: Table, labels: Sequence[str], reading: Reading, names: tuple[str, ...]) -> TextSet:
    """``table`` with its labels as numbers; all columns but the texts are kept for a partition by column."""
    texts = table.texts("data.text", reading.text)
    pairs = None if reading.pair is None else table.texts("data.pair", [reading.pair])
    _warn_of_blanks(table.origin, texts, pairs)
    spent = {*reading.text, reading.pair}
    columns = {name: cells for name, cells in table.columns.items() if name not in spent}
    fields = {"text": texts} if pairs is None else {"text": texts, "pair": pairs}
    return TextSet(fields, _numbers(table.origin, labels, names), columns)


def _warn_of_blanks(origin: str, texts: Sequence[str], pairs: Sequence[str] | None) -> None:
    blank = [row for row, text in enumerate(texts, start=1) if not text or (pairs is not None and not pairs[row - 1])]
    if blank:
        rows = f"row {blank[0]} has" if len(blank) == 1 else f"{len(blank)} rows (the first is row {blank[0]}) have"
        log.warning(
            "%s: %s a blank text, %.1f %% of %d; they are used with their labels. Take them out, or name other columns in %s",
            *(
                origin,
                rows,
                100 * len(blank) / len(texts),
                len(texts),
                "data.text" if pairs is None else "data.text, data.pair",
            ),
        )


def _numbers(origin: str, labels: Sequence[str], names: tuple[str, ...]) -> np.ndarray:
    numbers = {name: number for number, name in enumerate(names)}
    unknown = sorted(set(labels) - set(names))
    if unknown:
        row = labels.index(unknown[0]) + 1
        raise DataError(
            f"{origin} has the label {unknown[0]!r} (row {row}), which the training set does not have "
            f"(it has {', '.join(map(repr, names[:20]))}): add training samples of it, or take those rows out"
        )
    return np.array([numbers[label] for label in labels], dtype=np.int64)
