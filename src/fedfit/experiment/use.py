"""A finished run put to use: predictions for rows of one's own, and a whole model with the adapter merged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from fedfit.data.batches import length_sorted_batches
from fedfit.errors import RunFolderError
from fedfit.experiment.answering import LanguageModel
from fedfit.experiment.tuned import Prediction, tuned
from fedfit.tracking.adapter_folder import check_free

_BATCH_SIZE = 64


class Predictor:
    """The model of a finished run: a classifier, or a language model.

    Args:
        adapter: the folder of another adapter than the run's: of one device's own.

    Raises:
        RunFolderError: for a folder without a saved adapter.
        ModelError: when the base model cannot be had.
    """

    def __init__(self, run: Path, device: torch.device | None = None, adapter: Path | None = None) -> None:
        self._tuned = tuned(run, device, adapter)
        self._language = None if self._tuned.labels else LanguageModel(run, self._tuned)

    def predict(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, max_new_tokens: int | None = None
    ) -> list[Prediction]:
        """A prediction for each text, in their order; of a sentence pair the second is in ``pairs``.

        Args:
            max_new_tokens: of a language model's answers; by default as the recipe has it.
        """
        if self._language is not None:
            return self._language.predict(texts, max_new_tokens)
        found: list[Prediction | None] = [None] * len(texts)
        for rows, probabilities in self._probabilities(texts, pairs):
            for row, line in zip(rows, probabilities, strict=True):
                best = int(line.argmax())
                found[int(row)] = Prediction(self._tuned.labels[best], float(line[best]))
        return [prediction for prediction in found if prediction is not None]

    @torch.inference_mode()
    def _probabilities(self, texts: Sequence[str], pairs: Sequence[str] | None) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Rows and their class probabilities ``(rows, classes)``, texts of like length together."""
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        for rows in length_sorted_batches(lengths, _BATCH_SIZE):
            encoded = self._tuned.tokenizer(
                [texts[row] for row in rows],
                None if pairs is None else [pairs[row] for row in rows],
                truncation=True,
                max_length=self._tuned.recipe.data.max_tokens,
                padding=True,
                return_tensors="pt",
            )
            logits = self._tuned.model(**encoded.to(self._tuned.device)).logits
            yield rows, logits.float().softmax(dim=1).cpu()


def export_merged(run: Path, folder: Path, adapter: Path | None = None) -> Path:
    """Writes the whole model with the adapter merged, and its tokenizer; plain transformers load it: a classifier with the
    names of its classes, a language model with its chat template. ``adapter`` is another than the run's: of one device's own.

    Raises:
        RunFolderError: for a run without a saved adapter, and a folder that holds something already or cannot be written.
    """
    check_free(folder, "--merged")
    found = tuned(run, torch.device("cpu"), adapter)
    merged = found.model.merge_and_unload()
    try:
        merged.save_pretrained(str(folder))
        found.tokenizer.save_pretrained(str(folder))
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be written: {error.strerror or error}; choose another --merged") from error
    return folder
