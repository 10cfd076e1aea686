"""The adapter of one device of a finished run, where each device has a model of its own: an ordinary PEFT folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

from fedfit.aggregation.table import rule_entry, rule_keys
from fedfit.core.personal import Models
from fedfit.errors import RunFolderError, choose
from fedfit.experiment.model_card import model_card
from fedfit.experiment.runs import recipe_of
from fedfit.experiment.session import Session
from fedfit.personalization.table import NONE
from fedfit.rounds.evaluate import Policy
from fedfit.settings import Recipe
from fedfit.tracking.adapter_folder import write_adapter

log = logging.getLogger(__name__)

FOLDER = "device-adapters"
_MADE_OF = "made_of.json"


def device_adapter(run: Path, device: int, model: str | None = None, out: Path | None = None) -> Path:
    """The folder of the adapter that ``device`` uses after the run's last round.

    It is made from the newest checkpoint and from what the device keeps; the run's data are read again. Without ``out`` it is
    kept in the run's folder, and made anew only when there is another checkpoint.

    Args:
        model: another of the device's models: ``personal``, ``shared`` or ``fused``.
        out: a new folder, in place of one in the run's.

    Raises:
        FedfitError: for a run whose devices have no models of their own, an unknown device or model, and what ``fedfit resume``
            would refuse.
    """
    recipe = recipe_of(run)
    _check(run, recipe, device)
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunFolderError(
            f"{out} holds files already; give another --out" if out.is_dir() else f"{out} is a file; give another --out"
        )
    target = out or run / FOLDER / f"device-{device:06d}-{model or 'own'}"
    made_of = _checkpoint(run)
    if out is None and _is_made_of(target, made_of):
        return target
    session = Session.resume(run)
    try:
        found = _models(session, device)
        if model is not None and model not in found.jobs:
            raise RunFolderError(f"--model {model}: {choose(model, found.jobs)}")
        name = model or list(found.jobs)[-1]
        if found.jobs[name].beside:
            raise RunFolderError(
                f"{recipe.personalization.method} weighs two adapters token by token, which is no plain adapter"
            )
        _write(session, device, name, found, target)
    finally:
        session.folder.close()
    if out is None:
        (target / _MADE_OF).write_text(json.dumps(made_of), encoding="utf-8")
    return target


def _check(run: Path, recipe: Recipe, device: int) -> None:
    traits = rule_entry(recipe.federation.rule).traits(rule_keys(recipe))
    if not traits.personal and recipe.personalization.method == NONE:
        raise RunFolderError(
            f"--device {device}: the devices of {run} have no models of their own; a recipe with [personalization] gives them "
            "some, and the rules fedsa_lora and local_only do"
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
    if session.folder.memories.last_round(device, number + 1) is None:
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


def _checkpoint(run: Path) -> list[str]:
    """Name and first line, which holds a checksum, of the newest checkpoint; empty where there is none."""
    newest = max((run / "checkpoints").glob("round-*.checkpoint"), default=None)
    if newest is None:
        return []
    with newest.open("rb") as file:
        return [newest.name, file.readline(4096).hex()]


def _is_made_of(folder: Path, made_of: list[str]) -> bool:
    try:
        return bool(made_of) and json.loads((folder / _MADE_OF).read_text(encoding="utf-8")) == made_of
    except (OSError, ValueError):
        return False
