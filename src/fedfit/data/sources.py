"""From the recipe's ``[data]`` to a corpus, whatever the source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedfit.data.classification import build_corpus
from fedfit.data.corpus import Corpus, TextSet, balanced_subset, random_subset, stratified_split
from fedfit.data.files import read_table
from fedfit.data.hub import HubSet, read_hub
from fedfit.data.named import NAMED_SETS, load_named
from fedfit.data.pydocs import load_pydocs
from fedfit.data.pydocs_instruct import load_pydocs_instruct
from fedfit.data.table import Reading, Table, Tables
from fedfit.data_settings import FILE_SOURCES, NAMED_SOURCES, DataSettings
from fedfit.errors import DataError
from fedfit.randomness import derive_seed

Read = Callable[[Tables, DataSettings], Corpus]


def load_corpus(settings: DataSettings, seed: int, read: Read = build_corpus) -> Corpus:
    """Read the data set that ``settings`` names, draw the subsets (balanced over classes), and split off the validation part.

    Args:
        read: makes a task's samples of the tables; by default a classifier's.

    Raises ``DataError``, naming the key or file and the remedy, for data that cannot be read or learned from.
    """
    corpus = read(load_tables(settings), settings)
    train = _subset(corpus.train, settings.train_samples, derive_seed(seed, "train_samples"), "data.train_samples")
    test = _subset(corpus.test, settings.test_samples, derive_seed(seed, "test_samples"), "data.test_samples")
    if not settings.validation_share:
        return replace(corpus, train=train, test=test)
    classes = train.labels if train.labels is not None else np.zeros(len(train), dtype=np.int64)
    held_out, kept = stratified_split(classes, settings.validation_share, derive_seed(seed, "validation_share"))
    return replace(corpus, train=train.select(kept), test=test, validation=train.select(held_out))


def load_tables(settings: DataSettings) -> Tables:
    """The rows of the data set that ``settings`` names, whatever a task makes of them. Raises ``DataError``."""
    if settings.source == "pydocs":
        return load_pydocs()
    if settings.source == "pydocs-instruct":
        return load_pydocs_instruct()
    if settings.source in NAMED_SETS:
        return load_named(settings.source)
    if settings.source == "hub":
        if not settings.name:
            raise DataError('data.name = None: with data.source = "hub" name the data set, e.g. "fancyzhx/ag_news"')
        return replace(
            read_hub(HubSet(settings.name, settings.text, settings.label, settings.pair)), reading=reading_of(settings)
        )
    if settings.source in FILE_SOURCES:
        validation = _read_file(settings, "validation") if settings.validation else None
        reading = reading_of(settings)
        return Tables(_read_file(settings, "train"), _read_file(settings, "test"), reading, validation)
    raise DataError(f"data.source = {settings.source!r}: choose {', '.join((*NAMED_SOURCES, 'hub', *FILE_SOURCES))}")


def reading_of(settings: DataSettings) -> Reading:
    """The columns that the recipe names, by role."""
    return Reading(
        text=settings.text,
        label=settings.label,
        pair=settings.pair,
        prompt=settings.prompt,
        response=settings.response,
        answer=settings.answer,
        chosen=settings.chosen,
        rejected=settings.rejected,
    )


def _read_file(settings: DataSettings, part: str) -> Table:
    path = getattr(settings, part)
    if not path:
        raise DataError(f"data.{part} = {path!r}: with data.source = {settings.source!r} give the path of the {part} file")
    return read_table(Path(path).expanduser(), settings.source, settings.columns, f"data.{part}")


def _subset(texts: TextSet, samples: int | None, seed: int, key: str) -> TextSet:
    if samples is None:
        return texts
    if texts.labels is None:
        return texts.select(random_subset(len(texts), samples, seed, key))
    return texts.select(balanced_subset(texts.labels, samples, seed, key))
