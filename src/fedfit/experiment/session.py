"""A run in its folder: started anew, or taken up where a killed process left it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fedfit.aggregation.merged_delta import folded
from fedfit.core.stopping import patience_ended, target_reached
from fedfit.core.update import Job
from fedfit.errors import RunFolderError
from fedfit.experiment.build import Experiment, build
from fedfit.experiment.details import evaluation_of, task_facts
from fedfit.experiment.environment import environment
from fedfit.experiment.fingerprint import changed_contents, changed_keys, fingerprint
from fedfit.experiment.load import parse_recipe, read_recipe, to_toml
from fedfit.experiment.model_card import model_card
from fedfit.experiment.own_faults import before_the_first_round, own_faults
from fedfit.experiment.resolve import resolve
from fedfit.experiment.validate import validate
from fedfit.metric_names import higher_is_better
from fedfit.models.load import public_name
from fedfit.models.split import SplitModel
from fedfit.personalization.table import NONE
from fedfit.records import RoundRecord, RoundResult
from fedfit.settings import Recipe
from fedfit.tracking.memories import DeviceMemories
from fedfit.tracking.needs import Fingerprint, Needs
from fedfit.tracking.run_folder import DEVICES_FOLDER, EVALUATION, TASK, RunFolder
from fedfit.tracking.sinks.contract import TrackedRun
from fedfit.tracking.sinks.table import Sinks

log = logging.getLogger(__name__)


class Session:
    """An experiment and its folder. Iterate ``results()`` to run it; each result is on disk when it is yielded.

    ``last`` is the last round that counts; ``records`` are those of every round so far.
    """

    def __init__(
        self,
        folder: RunFolder,
        experiment: Experiment,
        fingerprint: Fingerprint,
        last: RoundResult | None = None,
        earlier: Sequence[RoundRecord] = (),
    ) -> None:
        self.folder, self.experiment, self.fingerprint, self.last = folder, experiment, fingerprint, last
        self.recipe, self.records = experiment.recipe, list(earlier)

    @classmethod
    def start(cls, recipe: Recipe, path: Path, *, force: bool = False) -> Session:
        """Validates, builds, and only then touches ``path``: a recipe that cannot run leaves nothing behind.

        Raises:
            FedfitError: for a recipe, data, model or folder that will not do.
        """
        with own_faults(recipe, lambda: before_the_first_round(path)):
            validate(recipe)
            recipe = resolve(recipe)
            RunFolder.check_free(path, force=force)
            memories = DeviceMemories(path / DEVICES_FOLDER)
            experiment = build(recipe, memories=memories)
        folder = RunFolder.create(path, force=force, memories=memories)
        folder.write_object(TASK, task_facts(experiment.parts.task))
        folder.describe(to_toml(recipe), environment(experiment.parts.model.device), experiment.facts)
        return cls(folder, experiment, _fingerprint(experiment))

    @classmethod
    def resume(cls, path: Path, *, reset_personal: bool = False) -> Session:
        """Goes on from the newest checkpoint; lines of rounds that never finished are dropped.

        Args:
            reset_personal: devices whose own models are damaged or missing start anew, and each is named in the log.

        Raises:
            FedfitError: when the folder is none of a run or is in use, or when anything that the run needs has changed or is
                missing: recipe, data, weights, records, or what devices keep.
        """
        folder = RunFolder.open(path)
        try:
            file = str(path / "recipe.toml")
            recipe = parse_recipe(read_recipe(file), origin=file)
            last = folder.latest()
            needs = last.needs if last else Needs()
            if last:
                folder.refuse(changed_keys(needs.fingerprint, recipe))
            resettable = recipe.personalization.method != NONE  # beside a method a rule keeps nothing on devices
            if reset_personal and last:
                last = replace(last, needs=_without_lost(folder, needs, resettable))
                needs = last.needs
            with own_faults(recipe, lambda: _before_the_next_round(path, last)):
                validate(recipe)
                experiment = build(recipe, memories=folder.memories)
            now = _fingerprint(experiment)
            changed = changed_contents(needs.fingerprint, now) if last else []
            lost = folder.lost(needs)
            anew = f"; or let devices start anew whose own models are lost, with `fedfit resume {path} --reset-personal`"
            hint = anew if resettable and lost else ""
            folder.refuse([*(changed or _partition_lost(folder, experiment)), *lost], hint)
            _warn_of_changes(folder.read_object("environment.json"), environment(experiment.parts.model.device))
            rounds, devices = folder.rewind(last)
            if reset_personal and last:
                folder.checkpoints.save(last, needs)  # which no longer asks for what was lost
            folder.write_object(TASK, task_facts(experiment.parts.task))
            if experiment.clock is not None:
                experiment.clock.restore(devices)
            return cls(folder, experiment, now, last, rounds)
        except BaseException:
            folder.close()
            raise

    @property
    def finished(self) -> bool:
        """Whether the last round is done, the target accuracy reached, or patience at its end."""
        if self.last is None:
            return False
        training, metric = self.recipe.training, self.experiment.parts.task.headline
        rounds = [{name: each.value for name, each in record.metrics.items()} for record in self.records]
        return (
            self.last.record.round >= self.recipe.federation.rounds
            or target_reached(training.target_accuracy, rounds[-1])
            or patience_ended(training.patience, metric, higher_is_better(metric), rounds)
        )

    def results(self) -> Iterator[RoundResult]:
        """Runs what is left, writing each round before it is yielded, and the adapter at the end, however it ends.

        A closer look at the final model is written once the run is finished.

        Raises:
            ComponentError: for an exception inside a component of the user's own.
        """
        with own_faults(self.recipe, self._place):
            yield from self._results()

    def _place(self) -> tuple[str, str]:
        """The round that is being run, and what becomes of the folder if it fails."""
        if self.finished:
            return "after the last round", _remedy(self.folder.path, self.last)
        return f"in round {0 if self.last is None else self.last.record.round + 1}", _remedy(self.folder.path, self.last)

    def _results(self) -> Iterator[RoundResult]:
        tracked = TrackedRun(self.folder.path, self.recipe.name, self.fingerprint.recipe)
        sinks = Sinks(self.recipe.tracking.sinks, tracked, tuple(self.records))
        stream = iter(()) if self.finished else self.experiment.run(self.last, _failed(self.records))
        if not self.finished:
            self.folder.goes_on()
        try:
            for result in stream:
                self.folder.write(result, self.fingerprint)
                sinks.write(result.record)
                self.last = result
                self.records.append(result.record)
                yield result
                if self.finished:
                    break
            self._write_evaluation()
        finally:
            sinks.close()
            self.save_adapter()

    def _write_evaluation(self) -> None:
        """Looks closer at the model of the last round of a finished run."""
        if self.last is None:
            return
        evaluation = evaluation_of(self.experiment, self.last.state, self.last.record.round)
        if evaluation is not None:
            self.folder.write_object(EVALUATION, evaluation)

    def save_adapter(self) -> Path | None:
        """Writes the adapter of the last round that counts; ``None`` before round 0 is done."""
        if self.last is None:
            return None
        card = model_card(self.recipe, self.experiment.facts, self.records)
        save = self.saving(self.experiment.rule.server.model(self.last.state))
        return self.folder.save_adapter(save, self.experiment.label_names, card)

    def saving(self, job: Job) -> Callable[[Path], None]:
        """Loads ``job`` into the resident model; what is returned writes it as an adapter of the base model, into a folder."""
        model, whole = self.experiment.parts.model, folded(job.update, job.merged_delta)
        model.adapter.reserve(whole.rank)
        model.load(Job(whole))
        return partial(_save, model, public_name(self.recipe.model.name), self.experiment.label_names)


def _without_lost(folder: RunFolder, needs: Needs, resettable: bool) -> Needs:
    """``needs`` without the memories that are damaged or missing."""
    if not resettable:
        raise RunFolderError("--reset-personal: no method of personalisation keeps anything in this run; leave it out")
    lost = folder.memories.lost(needs.memories)
    for device, words in lost.items():
        log.warning("%s: device %d starts anew", words, device)
    return replace(needs, memories={device: mark for device, mark in needs.memories.items() if device not in lost})


def _before_the_next_round(path: Path, last: RoundResult | None) -> tuple[str, str]:
    return "before the next round", _remedy(path, last)


def _remedy(path: Path, last: RoundResult | None) -> str:
    goes_on = f"goes on from round {last.record.round}" if last is not None else "starts it"
    return f"mend it, then `fedfit resume {path}` {goes_on}"


def _save(model: SplitModel, base_model: str, labels: Sequence[str], folder: Path) -> None:
    model.kind.save(model.model, folder, base_model, labels)


def _fingerprint(experiment: Experiment) -> Fingerprint:
    return fingerprint(experiment.recipe, experiment.facts, experiment.parts.model)


def _partition_lost(folder: RunFolder, experiment: Experiment) -> list[str]:
    """Says that the file does not describe the data that were built, which a report would read from it."""
    same = folder.read_object("partition.json") == experiment.facts
    return [] if same else ["partition.json does not describe the data that the recipe names"]


def _warn_of_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Bits depend on the number of threads, the device and the libraries; a run may go on all the same."""
    changed = [name for name in ("device", "torch_threads", "packages") if before.get(name) != now[name]]
    if changed:
        log.warning("%s changed since the run began; results may differ in the last bits", ", ".join(changed))


def _failed(rounds: Sequence[RoundRecord]) -> int:
    """Rounds at the end, in a row, without one usable update."""
    used = [record.round for record in rounds if record.refused < record.devices]
    return rounds[-1].round - max(used, default=0) if rounds else 0
