"""Local fine-tuning: the rounds are the rule's, and the personal adapter is made anew wherever it is measured."""

from pathlib import Path

import pytest

from fedfit.core.update import Job
from fedfit.rounds.trainer import Part
from tests.personalization.federation import TESTS, TRAINING, federation


def test_the_personal_model_is_the_shared_one_trained_on(tiny_bert: Path) -> None:
    made = federation(tiny_bert, "fine_tune", {"steps": 3}, federation={"rounds": 2})
    result = list(made.run())[-1]
    for score in result.scores:
        part = Part(("fine-tune",), 3)
        rows = TRAINING[score.device]
        tuned = made.trainer.train(Job(result.state.adapter), made.parts.train, rows, 2, score.device, None, part)
        loss = made.trainer.loss(Job(tuned), made.parts.train, TESTS[score.device])
        assert score.metrics["personal_loss"].value == pytest.approx(loss, rel=1e-5)
        assert score.metrics["personal_loss"] != score.metrics["shared_loss"]
    assert made.parts.memories.read(0, 9) is None
