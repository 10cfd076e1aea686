"""A run's model measured again: on the recipe's own sets, from its newest checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from fedfit.core.task import Score
from fedfit.errors import RunFolderError
from fedfit.experiment.session import Session
from fedfit.rounds.evaluate import Policy


@dataclass(frozen=True)
class Measured:
    """The metrics after ``round``: as they are ``now``, and as the run ``recorded`` them, none where it did not evaluate."""

    round: int
    now: Score
    recorded: Score


def measure_again(run: Path) -> Measured:
    """Measures the model of the newest checkpoint on the sets of the recipe, as the run itself did.

    Raises:
        FedfitError: for a folder that is no run, one without a finished round, and data, weights or records that have changed.
    """
    session = Session.resume(run)
    try:
        if session.last is None:
            raise RunFolderError(f"{run} has no finished round yet; go on with `fedfit resume {run}`")
        policy = session.experiment.federation.evaluator
        assert isinstance(policy, Policy)
        record = session.last.record
        now, _ = replace(policy, every=1).evaluate(session.last.state, record.round)
        return Measured(record.round, now, record.metrics)
    finally:
        session.folder.close()
