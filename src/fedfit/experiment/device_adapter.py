"""The adapter of one device of a finished run, where each device has a model of its own: an ordinary PEFT folder."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from fedfit.aggregation.table import rule_entry, rule_keys
from fedfit.core.personal import Models
from fedfit.errors import FedfitError, RunFolderError, choose
from fedfit.experiment.kept_adapter import is_kept, newest_checkpoint, note_kept
from fedfit.experiment.model_card import model_card
from fedfit.experiment.runs import recipe_of
from fedfit.experiment.session import Session
from fedfit.personalization.table import METHODS, NONE
from fedfit.rounds.evaluate import Policy
from fedfit.settings import Recipe
from fedfit.tracking.adapter_folder import check_free, write_adapter
from fedfit.tracking.memories import device_folder
from fedfit.tracking.run_folder import DEVICES_FOLDER

log = logging.getLogger(__name__)

FOLDER = "device-adapters"


def device_adapter(run: Path, device: int, model: str | None = None, out: Path | None = None) -> Path:
    """The folder of the adapter that ``device`` uses after the run's last round.

    It is made from the newest checkpoint and from what the device keeps; the run's data are read again. Without ``out`` it is
    kept in the run's folder, and made anew only when what it was made of has changed, or a file of its own.

    Args:
        model: another of the device's models: ``personal``, ``shared`` or ``fused``.
        out: a new folder, in place of one in the run's.

    Raises:
        FedfitError: for a run whose devices have no models of their own, an unknown device or model, and what ``fedfit resume``
            would refuse.
    """
    recipe = recipe_of(run)
    _check(run, recipe, device)
    if out is not None:
        check_free(out, "--out")
    target = out or run / FOLDER / f"device-{device:06d}-{model or 'own'}"
    sources = (newest_checkpoint(run), run / DEVICES_FOLDER / device_folder(device))
    if out is None and is_kept(target, sources):
        return target
    session = _session(run, device)
    try:
        found = _models(session, device)
        if model is not None and model not in found.jobs:
            raise RunFolderError(f"--model {model}: {choose(model, found.jobs)}")
        name = model or list(found.jobs)[-1]
        if found.jobs[name].beside:
            plain = [other for other, job in found.jobs.items() if not job.beside]
            remedy = f"export --model {plain[0]}" if plain else "what it reaches on its own test stands in scores.jsonl"
            weighs = "weighs two adapters anew for each token or text, which is no plain adapter"
            raise RunFolderError(f"{recipe.personalization.method} {weighs}; {remedy}")
        _write(session, device, name, found, target)
    finally:
        session.folder.close()
    if out is None:
        note_kept(target, sources)
    return target


def _session(run: Path, device: int) -> Session:
    """The run, as ``fedfit resume`` would go on with it; what that refuses is refused in the same words."""
    try:
        return Session.resume(run)
    except FedfitError as error:
        error.args = (f"{error}\n--device {device} makes the model of device {device} from the run and its data, as they were",)
        raise


def _check(run: Path, recipe: Recipe, device: int) -> None:
    traits = rule_entry(recipe.federation.rule).traits(rule_keys(recipe))
    if not traits.personal and recipe.personalization.method == NONE:
        raise RunFolderError(
            f"--device {device}: the devices of {run} have no models of their own; a recipe gives them some with "
            f"personalization.method ({', '.join(METHODS)}) or with federation.rule (fedsa_lora, local_only)"
        )
    if not 0 <= device < recipe.federation.devices:
        raise RunFolderError(f"--device {device}: there are the devices 0 to {recipe.federation.devices - 1}")


def _models(session: Session, device: int) -> Models:
    policy = session.experiment.federation.evaluator
    assert isinstance(policy, Policy)
    if session.last is None:
        raise RunFolderError(
            f"{session.folder.path} has no finished round yet; go on with `fedfit resume {session.folder.path}`"
        )
    number = session.last.record.round
    if not len(session.experiment.parts.held[device]):
        raise RunFolderError(f"--device {device}: it holds no samples, so it has no model")
    if (keepers := session.folder.memories.marks()) and device not in keepers:
        log.warning("device %d keeps nothing of its own yet: its models come from the shared one", device)
    return policy.models_of(device, session.experiment.rule.server.model(session.last.state), number)


def _write(session: Session, device: int, name: str, found: Models, target: Path) -> None:
    words = f"The {name} model of device {device}, after round {session.records[-1].round}."
    facts = [f" {key}: {value:.3g}." if isinstance(value, float) else f" {key}: {value}." for key, value in found.facts.items()]
    words += "".join(facts) if name == "fused" else ""
    card = model_card(session.recipe, session.experiment.facts, session.records, words)
    save: Callable[[Path], None] = session.saving(found.jobs[name])
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_adapter(target, save, session.experiment.label_names, card)
    except OSError as error:
        raise RunFolderError(f"{target} cannot be written: {error.strerror or error}; choose another --out") from error
