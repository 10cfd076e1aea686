"""A finished run put to use: predictions for rows of one's own, and a whole model with the adapter merged."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel

from fedfit.adapters.peft_files import labelled_config
from fedfit.data.batches import length_sorted_batches
from fedfit.errors import RunFolderError
from fedfit.experiment.build import pick_device
from fedfit.experiment.runs import adapter_of, recipe_of
from fedfit.experiment.shared_part import shared_part
from fedfit.models.load import load_model, load_tokenizer
from fedfit.tracking.adapter_folder import read_labels

log = logging.getLogger(__name__)

_BATCH_SIZE = 64


@dataclass(frozen=True)
class Prediction:
    """The most probable class of a text, and its probability."""

    label: str
    probability: float


class Predictor:
    """The model of a finished run: the base with the saved adapter.

    Raises:
        RunFolderError: for a folder without a saved adapter.
        ModelError: when the base model cannot be had.
    """

    def __init__(self, run: Path, device: torch.device | None = None) -> None:
        self.recipe = recipe_of(run)
        adapter = adapter_of(run)
        if words := shared_part(self.recipe):
            log.warning("%s", words)
        self.labels = read_labels(adapter)
        self.device = device or pick_device()
        base = load_model(self.recipe.model.name, len(self.labels), seed=0)
        base.config = labelled_config(base, self.labels)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of an attribute that PEFT asks transformers for
            self.model: Any = PeftModel.from_pretrained(base, str(adapter)).eval().to(self.device)
        self.tokenizer = load_tokenizer(self.recipe.model.name)

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Prediction]:
        """A prediction for each text, in their order; of a sentence pair the second is in ``pairs``."""
        found: list[Prediction | None] = [None] * len(texts)
        for rows, probabilities in self._probabilities(texts, pairs):
            for row, line in zip(rows, probabilities, strict=True):
                best = int(line.argmax())
                found[int(row)] = Prediction(self.labels[best], float(line[best]))
        return [prediction for prediction in found if prediction is not None]

    @torch.inference_mode()
    def _probabilities(self, texts: Sequence[str], pairs: Sequence[str] | None) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Rows and their class probabilities ``(rows, classes)``, texts of like length together."""
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        for rows in length_sorted_batches(lengths, _BATCH_SIZE):
            encoded = self.tokenizer(
                [texts[row] for row in rows],
                None if pairs is None else [pairs[row] for row in rows],
                truncation=True,
                max_length=self.recipe.data.max_tokens,
                padding=True,
                return_tensors="pt",
            )
            logits = self.model(**encoded.to(self.device)).logits
            yield rows, logits.float().softmax(dim=1).cpu()


def export_merged(run: Path, folder: Path) -> Path:
    """Writes the whole model with the adapter merged, and its tokenizer; plain transformers load it, classes named.

    Raises:
        RunFolderError: for a run without a saved adapter, and a folder that holds something already or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        fault = "holds files already" if folder.is_dir() else "is a file"
        raise RunFolderError(f"{folder} {fault}; give another --merged")
    predictor = Predictor(run, torch.device("cpu"))
    merged = predictor.model.merge_and_unload()
    try:
        merged.save_pretrained(str(folder))
        predictor.tokenizer.save_pretrained(str(folder))
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be written: {error.strerror or error}; choose another --merged") from error
    return folder
