"""Pairs as samples: two continuations of one prompt, and what says nothing is left out."""

import pytest

from fedfit.data.corpus import TextSet
from fedfit.errors import DataError
from fedfit.tasks.preference import Preference
from tests.builders import chat_tokenizer
from tests.tasks.prompted import asked, said

ROWS = TextSet(
    {
        "prompt": ["q", "q", "q", "", "q"],
        "chosen": ["b c", "b", "b", "b", "a a a a a a b"],
        "rejected": ["d", " b ", "", "d", "a a a a a a c"],
    }
)


def test_a_sample_is_the_prompt_the_chosen_and_the_rejected_response() -> None:
    found = Preference().encode(ROWS, chat_tokenizer(), 100)
    assert found.kept.tolist() == [0, 4]
    ids, segments = found.samples.ids_of(0), found.samples.segments_of(0)
    assert [ids[segments == branch].tolist() for branch in range(3)] == [asked("q"), said("b c"), said("d")]
    assert found.notes == [
        "2 rows without prompt, chosen or rejected response are left out",
        "1 rows whose chosen and rejected response are the same are left out",
    ]
    assert Preference().reads(found.samples).tolist() == [len(said("b c")) + len(said("d")), 2 * len(said("a a a a a a b"))]


def test_a_pair_that_is_cut_to_the_same_tokens_is_left_out() -> None:
    limit = len(asked("q")) + 6  # the last pair differs in its seventh token
    found = Preference().encode(ROWS, chat_tokenizer(), limit)
    assert found.kept.tolist() == [0]
    assert found.notes[-1] == f"1 rows without room for their responses within data.max_tokens = {limit} are left out"
    with pytest.raises(DataError, match=r"none of 5 rows has a prompt with two different responses"):
        Preference().encode(ROWS, chat_tokenizer(), len(asked("q")))
