"""The Python API: run, watch, load and use a federation from a notebook or a program.

    import fedfit

    result = fedfit.run("demo", "federation.rounds=2")
    result.final["accuracy"], result.frame(), result.figures()

Everything here is also a command; a run folder is the same either way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from fedfit.experiment.tuned import Prediction
    from fedfit.records import DeviceRecord, RoundRecord, RoundResult


@dataclass(frozen=True)
class Run:
    """A run folder, as values."""

    path: Path

    @property
    def rounds(self) -> list[RoundRecord]:
        """Every round so far; round 0 is the untrained model."""
        from fedfit.records import RoundRecord
        from fedfit.tracking.lines import Lines

        return Lines(self.path / "rounds.jsonl", RoundRecord).read()

    @property
    def devices(self) -> list[DeviceRecord]:
        """Every device in every round so far."""
        from fedfit.records import DeviceRecord
        from fedfit.tracking.lines import Lines

        return Lines(self.path / "devices.jsonl", DeviceRecord).read()

    @property
    def final(self) -> Mapping[str, float]:
        """The metrics of the last evaluation on the test set, by their short names (``accuracy``)."""
        measured = [record.metrics for record in self.rounds if record.metrics]
        last = measured[-1] if measured else {}
        return {name.removeprefix("test_"): metric.value for name, metric in last.items() if name.startswith("test_")}

    @property
    def adapter(self) -> Path:
        """The folder of the adapter, in PEFT's format."""
        return self.path / "adapter"

    def frame(self) -> pd.DataFrame:
        """The rounds as a table, a row a round."""
        import pandas as pd

        return pd.DataFrame([record.to_json() for record in self.rounds])

    def figures(self) -> list[Path]:
        """Draws the figures and the report anew; their files."""
        from fedfit.reports.report import write_report

        return write_report(self.path)

    def predict(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        max_new_tokens: int | None = None,
        *,
        device: int | None = None,
    ) -> list[Prediction]:
        """The most probable class of each text, and its probability.

        Of a language model the most probable exact answer to each prompt, where the recipe has ``data.answer``; else the greedy
        answer, of at most ``max_new_tokens``, without a probability. ``device`` uses the own model of that device, where
        devices have models of their own.
        """
        from fedfit.experiment.use import Predictor

        if device is None:
            return Predictor(self.path).predict(texts, pairs, max_new_tokens)
        from fedfit.experiment.device_adapter import device_adapter

        return Predictor(self.path, adapter=device_adapter(self.path, device)).predict(texts, pairs, max_new_tokens)

    def answers(self, prompts: Sequence[str], max_new_tokens: int | None = None, *, base: bool = False) -> list[str]:
        """The greedy answers of a run's language model; with ``base`` those of the frozen base, before training.

        Args:
            max_new_tokens: longest answer; by default as the recipe has it.

        Raises:
            DataError: for the run of a classifier.
        """
        from fedfit.errors import DataError
        from fedfit.experiment.runs import is_language_run, recipe_of

        if not is_language_run(recipe_of(self.path)):
            raise DataError(f"{self.path} is the run of a classifier, which gives no answers: use predict(texts)")
        from fedfit.experiment.answering import LanguageModel

        return LanguageModel(self.path).answers(prompts, max_new_tokens, base=base)


def run(recipe: str = "demo", *overrides: str, out: str | Path | None = None, force: bool = False) -> Run:
    """Runs a recipe to its end.

    Args:
        recipe: a shipped recipe's name, or a TOML file.
        overrides: ``section.key=value``, as on the command line.
        out: the run folder; by default ``runs/<name of the recipe>``.
        force: replace an earlier run in that folder.

    Raises:
        FedfitError: for a recipe, data, model or folder that will not do.
    """
    started = Stream(recipe, overrides, out, force)
    for _ in started:
        pass
    return started.run


def stream(recipe: str = "demo", *overrides: str, out: str | Path | None = None, force: bool = False) -> Stream:
    """Returns the rounds of a recipe, one result at a time; each is on disk when it is yielded.

    To stop early, leave the loop: ``resume(stream.run.path)`` goes on from there. Arguments and errors as ``run`` has them.
    """
    return Stream(recipe, overrides, out, force)


class Stream:
    """The results of a run as they are made; ``run`` is its folder, which is let go when the loop over the stream ends."""

    def __init__(self, recipe: str, overrides: Sequence[str], out: str | Path | None, force: bool) -> None:
        from fedfit.errors import RunFolderError
        from fedfit.experiment.load import parse_recipe, read_recipe
        from fedfit.experiment.session import Session

        resolved = parse_recipe(read_recipe(recipe), list(overrides), recipe)
        path = Path(out) if out is not None else Path("runs") / resolved.name
        try:
            self._session = Session.start(resolved, path, force=force)
        except RunFolderError as error:
            raise RunFolderError(error.in_python) from error.__cause__
        self._results = self._session.results()
        self.run = Run(path)

    def __iter__(self) -> Iterator[RoundResult]:
        try:
            yield from self._results
        finally:
            self._results.close()  # type: ignore[attr-defined]
            self._session.folder.close()


def resume(path: str | Path) -> Run:
    """Goes on with a run where it stopped, to its end.

    Raises:
        FedfitError: when the folder is none of a run, or something that the run needs has changed.
    """
    from fedfit.experiment.session import Session

    session = Session.resume(Path(path))
    try:
        for _ in session.results():
            pass
    finally:
        session.folder.close()
    return Run(Path(path))


def load(path: str | Path) -> Run:
    """A run folder, as values.

    Raises:
        RunFolderError: when it is none.
    """
    from fedfit.experiment.runs import recipe_of

    recipe_of(Path(path))
    return Run(Path(path))


def plan(fleet: str, *overrides: str, **options: Any) -> dict[str, Any]:
    """Ranks and frequencies for a fleet, without a model; the keys are described in ``docs/plans.md``.

    Args:
        fleet: a shipped fleet's name, or a TOML file.
        overrides: ``section.key=value``.
        options: those of ``fedfit plan``, as ``policy="per_device"``.

    Raises:
        RecipeError: with every fault found.
    """
    from fedfit.errors import Fault, RecipeError, choose
    from fedfit.experiment.fleet_file import read_fleet_file
    from fedfit.experiment.plan_fleet import PlanOptions, plan_fleet

    known = [item.name for item in fields(PlanOptions)]
    faults = [Fault(name, value, choose(name, known)) for name, value in options.items() if name not in known]
    if faults:
        raise RecipeError(faults, "the plan")
    chosen = PlanOptions(**options)
    chosen.check()
    return plan_fleet(read_fleet_file(fleet, list(overrides)), chosen)
