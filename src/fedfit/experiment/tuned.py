"""The model of a finished run: the base with the saved adapter, as PEFT loads it."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from fedfit.adapters.peft_files import labelled_config
from fedfit.experiment.build import pick_device
from fedfit.experiment.runs import adapter_of, is_language_run, recipe_of
from fedfit.experiment.shared_part import shared_part
from fedfit.models.load import load_model, load_tokenizer
from fedfit.settings import Recipe
from fedfit.tracking.adapter_folder import read_labels

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """The most probable class or exact answer to a text, with its probability; or a generated answer, without one."""

    label: str
    probability: float | None = None


@dataclass(frozen=True)
class Tuned:
    """Recipe, model and tokenizer of a run.

    Args:
        labels: the names of a classifier's classes; none of a language model.
    """

    recipe: Recipe
    model: Any
    tokenizer: Any
    labels: list[str]
    device: torch.device


def tuned(run: Path, device: torch.device | None = None, adapter: Path | None = None) -> Tuned:
    """The model of ``run`` on ``device``, by default a GPU if there is one. A rule that keeps parts on devices is named.

    Args:
        adapter: the folder of another adapter than the run's: of one device's own.

    Raises:
        RunFolderError: for a folder without a saved adapter.
        ModelError: when the base model cannot be had.
    """
    recipe, device = recipe_of(run), device or pick_device()
    if adapter is None:
        adapter = adapter_of(run)
        if words := shared_part(recipe):
            log.warning("%s", words)
    labels = [] if is_language_run(recipe) else read_labels(adapter)
    base = load_model(recipe.model.name, len(labels) if labels else None, seed=0)
    if labels:
        base.config = labelled_config(base, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of an attribute that PEFT asks transformers for
        model: Any = PeftModel.from_pretrained(base, str(adapter)).eval().to(device)
    return Tuned(recipe, model, load_tokenizer(recipe.model.name), labels, device)
