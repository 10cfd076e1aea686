"""Instructions as samples: what is asked, what is learned, and what is left out."""

import numpy as np
import pytest
import torch

from fedfit.data.corpus import TextSet
from fedfit.errors import DataError
from fedfit.tasks.answers import prompt_of, response_of
from fedfit.tasks.exact_answers import UNKNOWN, ChoiceScorer, answer_frame, predicted_choices
from fedfit.tasks.instruction import Instruction
from fedfit.tasks.token_targets import TokenTargets, token_targets
from tests.builders import chat_tokenizer
from tests.tasks.prompted import PROMPTS, RESPONSES, asked, instructions, said


def test_a_sample_is_the_prompt_and_its_response() -> None:
    found = Instruction().encode(instructions(), chat_tokenizer(), 200)
    assert found.kept.tolist() == [0, 3, 4]
    for number, row in enumerate(found.kept):
        assert prompt_of(found.samples, number).tolist() == asked(PROMPTS[row])
        assert response_of(found.samples, number).tolist() == said(RESPONSES[row])
    assert found.notes == ["2 rows without prompt or response are left out"]
    assert Instruction().reads(found.samples).tolist() == [len(said(RESPONSES[row])) for row in found.kept]


def test_what_does_not_fit_is_cut_or_left_out_and_counted() -> None:
    limit = len(asked(PROMPTS[4])) + 3
    assert len(asked(PROMPTS[3])) >= limit, "the long prompt leaves no room"
    found = Instruction().encode(instructions(), chat_tokenizer(), limit)
    assert found.kept.tolist() == [0, 4]
    assert response_of(found.samples, 1).tolist() == said(RESPONSES[4])[:3]
    assert found.notes[1:] == [
        f"1 rows whose prompt leaves no room within data.max_tokens = {limit} are left out",
        f"1 responses cut at data.max_tokens = {limit}",
    ]
    # One token of room is enough, none is not.
    assert Instruction().encode(instructions(), chat_tokenizer(), len(asked(PROMPTS[0])) + 1).kept.tolist() == [0, 4]
    with pytest.raises(DataError, match=r"none of 5 rows .* data.max_tokens = 9; raise it"):
        Instruction().encode(instructions(), chat_tokenizer(), min(9, len(asked(PROMPTS[0]))))


def test_choices_are_continuations_of_the_prompt_and_what_they_share() -> None:
    texts = TextSet(
        {"prompt": ["q", "p"], "response": ["it is b c", "free"], "answer": ["b c", "e"]},
        columns={},
    )
    found = Instruction(choices=("b c", "b d", "e f")).encode(texts, chat_tokenizer(), 100)
    scored = found.samples.scored
    assert scored.labels.tolist() == [0, UNKNOWN]
    # "it is" comes before every choice; of the second row's response no choice is a part, so the choices stand alone.
    tree = [scored.ids_of(0)[scored.segments_of(0) == branch].tolist() for branch in range(4)]
    assert tree == [asked("q") + said("it is")[:-1], said("b c"), said("b d"), said("e f")]
    tree = [scored.ids_of(1)[scored.segments_of(1) == branch].tolist() for branch in range(4)]
    assert tree == [asked("p"), said("b c"), said("b d"), said("e f")]
    assert found.samples.select(np.array([1])).scored.labels.tolist() == [UNKNOWN]


def test_a_row_with_choices_of_its_own_is_scored_over_these() -> None:
    texts = TextSet(
        {"prompt": ["q", "p"], "response": ["it is b", "it is f"], "answer": ["b", "f"], "choices": ["a/b", "c/e/f"]}
    )
    names = ("a", "b", "c", "e", "f")
    scored = Instruction(choices=names).encode(texts, chat_tokenizer(), 100).samples.scored
    assert scored.labels.tolist() == [1, 4]
    assert [sorted(set(scored.segments_of(row).tolist())) for row in range(2)] == [[0, 1, 2], [0, 3, 4, 5]]
    for row, place in ((0, 2), (1, 5)):
        assert scored.ids_of(row)[scored.segments_of(row) == place].tolist() == said(texts.fields["response"][row])[2:]
    targets = token_targets(scored, np.array([0, 1]), torch.device("cpu"))

    class Flat:
        """A readout that gives every token the probability 1/e: absent choices, without a token, must not win."""

        def log_probs(self, ids: torch.Tensor) -> torch.Tensor:
            return -torch.ones(len(ids))

    probabilities = predicted_choices(Flat(), targets, len(names))  # type: ignore[arg-type]
    assert [(row > 0).tolist() for row in probabilities] == [[True] * 2 + [False] * 3, [False] * 2 + [True] * 3]
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2))
    scorer = ChoiceScorer(len(names))
    scorer.add(Flat(), targets)  # type: ignore[arg-type]
    assert scorer.score()["answer_accuracy"].value == 0  # the first of equals is "a" and "c"


def test_the_f1_of_one_answer_by_hand() -> None:
    """Of "b" 2 of 3 are found, and 2 of 3 predictions are right: 2·2/(3 + 3); where it is nowhere, 1."""

    class Said:
        """A readout that finds the row's first or second choice more probable."""

        def __init__(self, second: list[bool]) -> None:
            self.second = second

        def log_probs(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.tensor([p for second in self.second for p in ([-2.0, -1.0] if second else [-1.0, -2.0])])

    def f1(true: list[int], second: list[bool]) -> tuple[float, float]:
        scorer = ChoiceScorer(2, positive=1)
        pieces = torch.arange(2 * len(true)) % 2
        rows = torch.arange(2 * len(true)) // 2
        nothing = torch.zeros(2 * len(true), dtype=torch.long)
        targets = TokenTargets(nothing, nothing, rows, pieces, len(true), torch.tensor(true))
        scorer.add(Said(second), targets)  # type: ignore[arg-type]
        score = scorer.score()
        return score["answer_accuracy"].value, score["answer_f1"].value

    assert f1([1, 1, 1, 0, 0], [True, True, False, True, False]) == pytest.approx((3 / 5, 2 / 3))
    assert f1([0, 0], [False, False]) == (1.0, 1.0)
    assert Instruction(choices=("a", "b"), positive="b").describe()["metrics"]["answer_f1"] == {"higher_is_better": True}
    with pytest.raises(DataError, match=r"task.positive = 'c': the data have no such answer; choose one of a, b"):
        Instruction(choices=("a", "b"), positive="c")
    with pytest.raises(DataError, match="has no exact answers; remove the key"):
        Instruction(positive="c")


def test_the_first_metric_is_that_of_the_answers_where_there_are_some() -> None:
    assert Instruction().headline == "perplexity"
    assert Instruction(choices=("a", "b")).headline == "answer_accuracy"
    described = Instruction(choices=("a", "b"), generate_samples=3).describe()["metrics"]
    assert {name: metric["higher_is_better"] for name, metric in described.items()} == {
        "loss": False,
        "perplexity": False,
        "rouge_l": True,
        "answer_accuracy": True,
    }


def test_the_frame_of_answers_is_that_of_most_responses() -> None:
    def frame(responses: list[str]) -> tuple[str, str]:
        return answer_frame(TextSet({"response": responses, "answer": ["b", "c", "b"]}))

    assert frame(["it is b.", "it is c.", "no idea"]) == ("it is ", ".")
    assert frame(["b and b!", "b and c!", "b"]) == ("b and ", "!"), "the last place where the answer stands"
    assert frame(["b", "so c", "then b"]) == ("", ""), "no frame that most rows share"
    assert frame(["", "", ""]) == ("", "")


def test_task_json_has_the_choices_and_their_frame() -> None:
    described = Instruction(choices=("b", "c"), frame=("it is ", ".")).describe()
    assert (described["choices"], described["answer_frame"]) == (["b", "c"], ["it is ", "."])
    assert "choices" not in Instruction().describe()
