"""From tables to the samples of a language model: prompts with responses, pairs of responses, or plain text."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from fedfit.data.classification import sort_label_names
from fedfit.data.corpus import CHOICE_SIGN, Corpus, TextSet
from fedfit.data.table import Reading, Table, Tables
from fedfit.data_settings import DataSettings
from fedfit.errors import DataError

log = logging.getLogger(__name__)

MOST_CHOICES = 100
"""Exact answers that a row is scored over."""


def build_instructions(tables: Tables, settings: DataSettings) -> Corpus:
    """Prompts and responses, and the exact answers where ``data.answer`` names a column.

    Raises ``DataError`` for a table without rows, an unknown column, an answer that is not among ``data.choices``, and more
    than ``MOST_CHOICES`` answers.
    """
    reading = tables.reading
    corpus = _corpus(tables, lambda table: _instructions(table, reading))
    if reading.answer is None:
        return corpus
    seen = sort_label_names(_possible(corpus.train, reading))
    choices = tuple(settings.choices) if settings.choices else tuple(answer for answer in seen if answer)
    if not 2 <= len(choices) <= MOST_CHOICES:
        raise DataError(
            f"data.answer = {reading.answer!r}: {len(choices)} different answers in the training samples; exact answers are "
            f"scored over 2 to {MOST_CHOICES}. Give data.choices, or leave data.answer out"
        )
    for texts, table in ((corpus.train, tables.train), (corpus.test, tables.test)):
        _check_answers(texts.fields["answer"], choices, table.origin, given=bool(settings.choices))
    return Corpus(corpus.train, corpus.test, validation=corpus.validation, choices=choices)


def build_preferences(tables: Tables, settings: DataSettings) -> Corpus:
    """Prompts with a better and a worse response each. Raises ``DataError`` for no rows and for an unknown column."""
    reading = tables.reading
    return _corpus(
        tables,
        lambda table: {
            "prompt": table.texts("data.prompt", reading.prompt, "\n"),
            "chosen": table.texts("data.chosen", [reading.chosen]),
            "rejected": table.texts("data.rejected", [reading.rejected]),
        },
    )


def build_plain_text(tables: Tables, settings: DataSettings) -> Corpus:
    """Texts to be continued. Raises ``DataError`` for no rows and for an unknown column."""
    return _corpus(tables, lambda table: {"text": table.texts("data.text", tables.reading.text)})


def _instructions(table: Table, reading: Reading) -> dict[str, Sequence[str]]:
    fields: dict[str, Sequence[str]] = {
        "prompt": table.texts("data.prompt", reading.prompt, "\n"),
        "response": table.texts("data.response", [reading.response]),
    }
    if reading.answer is not None:
        fields["answer"] = table.texts("data.answer", [reading.answer])
    if reading.choices is not None:
        fields["choices"] = table.texts("data.choices", [reading.choices])
    return fields


def _possible(texts: TextSet, reading: Reading) -> Sequence[str]:
    """The answers of the samples, or all that are possible where each row names its own."""
    if reading.choices is None:
        return texts.fields["answer"]
    return [choice for cell in dict.fromkeys(texts.fields["choices"]) for choice in cell.split(CHOICE_SIGN)]


def _corpus(tables: Tables, fields: Callable[[Table], dict[str, Sequence[str]]]) -> Corpus:
    parts = {"train": tables.train, "test": tables.test, "validation": tables.validation}
    sets = {}
    for part, table in parts.items():
        if table is None:
            continue
        if not len(table):
            raise DataError(f"{table.origin} has no rows (data.{part}): name a file or split that has some")
        sets[part] = TextSet(fields(table), columns=table.columns)
    return Corpus(sets["train"], sets["test"], validation=sets.get("validation"))


def _check_answers(answers: Sequence[str], choices: Sequence[str], origin: str, *, given: bool) -> None:
    unknown = [row for row, answer in enumerate(answers, start=1) if answer not in choices]
    if not unknown:
        return
    row = unknown[0]
    count = "" if len(unknown) == 1 else f", and {len(unknown) - 1} more rows"
    fault = f"{origin}, row {row}{count}: the answer {answers[row - 1]!r} is not one of {', '.join(choices)}"
    if given:
        raise DataError(f"{fault} (data.choices): add it there, or mend the row")
    log.warning("%s, the answers of the training samples; such rows count as wrong", fault)
