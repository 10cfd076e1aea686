"""From the recipe's ``[data]`` to a corpus, whatever the source."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fedfit.data.corpus import Corpus, LabelledTexts, TextSet, balanced_subset, build_corpus
from fedfit.data.files import read_table, to_labelled_texts
from fedfit.data.hub import HubSet, read_hub
from fedfit.data.named import NAMED_SETS, load_named
from fedfit.data.pydocs import load_pydocs
from fedfit.errors import DataError
from fedfit.randomness import derive_seed
from fedfit.settings import FILE_SOURCES, DataSettings


def load_corpus(settings: DataSettings, seed: int) -> Corpus:
    """Read the data set that ``settings`` names and draw the balanced subsets they ask for.

    Classes are numbered by their sorted names. Raises ``DataError``, naming the key or file and the remedy, for what
    cannot be read or learned from.
    """
    corpus = _load_whole(settings)
    return replace(
        corpus,
        train=_subset(corpus.train, settings.train_samples, derive_seed(seed, "train_samples"), "data.train_samples"),
        test=_subset(corpus.test, settings.test_samples, derive_seed(seed, "test_samples"), "data.test_samples"),
    )


def _load_whole(settings: DataSettings) -> Corpus:
    if settings.source == "pydocs":
        return load_pydocs()
    if settings.source in NAMED_SETS:
        return load_named(settings.source)
    if settings.source == "hub":
        if not settings.name:
            raise DataError('data.name = None: with data.source = "hub" name the data set, e.g. "fancyzhx/ag_news"')
        return build_corpus(*read_hub(HubSet(settings.name, settings.text, settings.label, settings.pair)))
    if settings.source in FILE_SOURCES:
        return build_corpus(_read_file(settings, "train"), _read_file(settings, "test"))
    raise DataError(
        f"data.source = {settings.source!r}: choose pydocs, {', '.join(NAMED_SETS)}, hub, or {', '.join(FILE_SOURCES)}"
    )


def _read_file(settings: DataSettings, key: str) -> LabelledTexts:
    path = settings.train if key == "train" else settings.test
    if not path:
        raise DataError(f"data.{key} = {path!r}: with data.source = {settings.source!r} give the path of the {key} file")
    frame = read_table(Path(path).expanduser(), settings.source, settings.columns)
    return to_labelled_texts(frame, settings.text, settings.pair, settings.label, f"{path} (data.{key})")


def _subset(texts: TextSet, samples: int | None, seed: int, key: str) -> TextSet:
    if samples is None:
        return texts
    return texts.select(balanced_subset(texts.labels, samples, seed, key))
