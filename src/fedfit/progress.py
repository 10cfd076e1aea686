"""The one bar of a run, with the task's first metric so far; without a terminal a line a round.

It looks at the run's counters; the run knows nothing of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from fedfit.reports.metrics import Measure
from fedfit.terminal import say

if TYPE_CHECKING:
    from fedfit.experiment.session import Session
    from fedfit.records import RoundResult


class _Headline(ProgressColumn):
    def __init__(self, measure: Measure) -> None:
        super().__init__()
        self._measure = measure

    def render(self, task: Task) -> Text:
        value = task.fields["value"]
        shown = f"{self._measure.word}  …" if value is None else _shown(self._measure, value)
        return Text(shown, style="bold green")


class Bar:
    """Advances by training steps, read from the running client whenever the bar is drawn."""

    def __init__(self, session: Session, screen: Console, *, hidden: bool) -> None:
        self._trainer = session.experiment.trainer
        self._steps_a_round = _steps_a_round(session)
        self._rounds = session.recipe.federation.rounds
        self._base = 0
        self._lines = None if hidden or screen.is_terminal else screen
        self._headline = Measure.of(f"test_{session.experiment.parts.task.headline}")
        shown = _Headline(self._headline)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), _Bar(self), shown, TimeElapsedColumn())
        self._progress = Progress(*columns, console=screen, disable=hidden or not screen.is_terminal, refresh_per_second=4)
        total = self._rounds * self._steps_a_round
        self._task = self._progress.add_task("the untrained model", total=total, value=None)
        if session.last is not None:
            self._take_over(session.last)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, result: RoundResult) -> None:
        """Takes over a finished round."""
        self._take_over(result)
        if self._lines is not None:
            value = result.record.value(self._headline.key)
            words = "" if value is None else f": {_shown(self._headline, value)}"
            say(self._lines, f"round {result.record.round}/{self._rounds}{words}")

    def _take_over(self, result: RoundResult) -> None:
        number = result.record.round
        following = f"round {min(number + 1, self._rounds)}/{self._rounds}"
        self._base = number * self._steps_a_round - self._trainer.steps_done
        self._progress.update(self._task, description=following, value=result.record.value(self._headline.key))

    def steps(self) -> float:
        """Steps done so far, of the whole run."""
        return self._base + self._trainer.steps_done


class _Bar(BarColumn):
    def __init__(self, owner: Bar) -> None:
        super().__init__()
        self._owner = owner

    def render(self, task: Task) -> Any:
        task.completed = min(self._owner.steps(), task.total or math.inf)
        return super().render(task)


def _shown(measure: Measure, value: float) -> str:
    return f"{measure.word} {value:.1%}" if measure.is_share else f"{measure.word} {value:.4g}"


def _steps_a_round(session: Session) -> int:
    """Steps in a round, about: devices differ in size, so the mean stands for those that are drawn."""
    training, held = session.recipe.training, session.experiment.parts.held
    sizes = [len(part) for part in held if len(part)]
    mean = sum(math.ceil(size / training.batch_size) for size in sizes) / len(sizes) * training.local_epochs
    return max(1, round((training.local_steps or mean) * session.recipe.federation.devices_per_round))
