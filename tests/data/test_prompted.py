"""Tables read as prompts with responses, as pairs, and as plain text; what is at fault is told with its remedy."""

import logging
from dataclasses import replace

import pytest

from fedfit.data.prompted import build_instructions, build_plain_text, build_preferences
from fedfit.data.table import Reading, Table, Tables
from fedfit.data_settings import DataSettings
from fedfit.errors import DataError

COLUMNS = {
    "instruction": ["add", "name", "count"],
    "input": ["1 and 2", " ", ""],
    "output": ["it is 3", "Ada", "it is 2"],
    "answer": ["3", "Ada", "2"],
    "worse": ["it is 4", "Bob", "it is 9"],
    "topic": ["sums", "names", "sums"],
}
READING = Reading(prompt=("instruction", "input"), response="output", chosen="output", rejected="worse", text=("output",))


def tables(reading: Reading = READING, **test: list[str]) -> Tables:
    return Tables(Table("train.json", COLUMNS), Table("test.json", {**COLUMNS, **test}), reading)


def test_columns_of_a_prompt_are_joined_by_a_line_break_and_empty_ones_left_out() -> None:
    corpus = build_instructions(tables(), DataSettings())
    assert corpus.train.fields == {"prompt": ["add\n1 and 2", "name", "count"], "response": ["it is 3", "Ada", "it is 2"]}
    assert corpus.train.labels is None
    assert corpus.train.columns["topic"] == ["sums", "names", "sums"]
    assert corpus.choices == ()


def test_choices_are_the_answers_of_the_training_samples_or_those_given() -> None:
    reading = replace(READING, answer="answer")
    assert build_instructions(tables(reading), DataSettings()).choices == ("2", "3", "Ada")
    given = DataSettings(choices=("Ada", "3", "2", "1"))
    assert build_instructions(tables(reading), given).choices == ("Ada", "3", "2", "1")


def test_an_answer_that_is_not_among_the_given_choices() -> None:
    reading = replace(READING, answer="answer")
    with pytest.raises(DataError, match=r"train.json, row 2: the answer 'Ada' is not one of 2, 3 \(data.choices\): add it"):
        build_instructions(tables(reading), DataSettings(choices=("2", "3")))


def test_an_answer_that_no_training_sample_has_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    reading = replace(READING, answer="answer")
    with caplog.at_level(logging.WARNING):
        build_instructions(tables(reading, answer=["3", "Eve", "7"]), DataSettings())
    assert "test.json, row 2, and 1 more rows: the answer 'Eve' is not one of 2, 3, Ada" in caplog.text
    assert "count as wrong" in caplog.text


def test_answers_of_free_text_are_no_choices() -> None:
    many = {name: [f"{name} {row}" for row in range(101)] for name in COLUMNS}
    reading = replace(READING, answer="answer")
    with pytest.raises(DataError, match=r"101 different answers in the training samples; .* leave data.answer out"):
        build_instructions(Tables(Table("a", many), Table("b", many), reading), DataSettings())


def test_pairs_and_plain_text() -> None:
    pairs = build_preferences(tables(), DataSettings()).test.fields
    assert (pairs["chosen"][0], pairs["rejected"][0]) == ("it is 3", "it is 4")
    assert build_plain_text(tables(), DataSettings()).train.fields == {"text": ["it is 3", "Ada", "it is 2"]}


@pytest.mark.parametrize("build", [build_instructions, build_preferences, build_plain_text])
def test_tables_without_rows_and_unknown_columns(build) -> None:  # type: ignore[no-untyped-def]
    empty = Table("empty.json", {name: [] for name in COLUMNS})
    with pytest.raises(DataError, match=r"empty.json has no rows \(data.test\)"):
        build(replace(tables(), test=empty), DataSettings())
    missing = Reading(prompt=("nowhere",), text=("nowhere",), response="nowhere")
    with pytest.raises(DataError, match=r"data.(prompt|text) = 'nowhere': train.json has no such column; it has instruction"):
        build(tables(missing), DataSettings())
