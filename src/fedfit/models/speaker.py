"""The resident language model as one that answers prompts, greedily or by sampling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fedfit.models.split import SplitModel

_BATCH_SIZE = 16


@dataclass(frozen=True)
class Sampling:
    """Tokens are drawn, from ``seed``, with probabilities that ``temperature`` flattens (above 1) or sharpens (below)."""

    temperature: float
    seed: int


class ModelSpeaker:
    """Greedy answers of the model as it is when it is asked."""

    def __init__(self, model: SplitModel, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer

    def answers(self, prompts: Sequence[np.ndarray], max_new_tokens: int, sampling: Sampling | None = None) -> list[str]:
        """See ``core.task.Speaker``. Prompts of like length are answered together; greedily unless there is a ``sampling``."""
        found = [""] * len(prompts)
        self._model.train_mode(False)
        with torch.random.fork_rng() if sampling else nullcontext():
            if sampling:
                torch.manual_seed(sampling.seed)
            for rows, ids in self._generate(prompts, max_new_tokens, sampling):
                for row, text in zip(rows, self._tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
                    found[row] = text.strip()
        return found

    def text(self, ids: np.ndarray) -> str:
        """See ``core.task.Speaker``."""
        text: str = self._tokenizer.decode(ids.tolist(), skip_special_tokens=True)
        return text.strip()

    @torch.inference_mode()
    def _generate(
        self, prompts: Sequence[np.ndarray], max_new_tokens: int, sampling: Sampling | None
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Rows, and the token ids that follow their prompts."""
        device, end = self._model.device, self._tokenizer.eos_token_id
        filler = next((token for token in (self._tokenizer.pad_token_id, end) if token is not None), 0)
        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
        for start in range(0, len(order), _BATCH_SIZE):
            rows = order[start : start + _BATCH_SIZE]
            longest = len(prompts[rows[-1]])
            # The filler stands before the prompts, so that all answers begin at one place; the mask leaves it out.
            ids = torch.full((len(rows), longest), filler, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for number, row in enumerate(rows):
                ids[number, longest - len(prompts[row]) :] = torch.from_numpy(prompts[row].astype(np.int64))
                mask[number, longest - len(prompts[row]) :] = 1
            self._model.look_at([prompts[row] for row in rows])
            whole: torch.Tensor = self._model.model.generate(  # type: ignore[operator]
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=max_new_tokens,
                pad_token_id=filler,
                eos_token_id=end,
                do_sample=sampling is not None,
                temperature=sampling.temperature if sampling else None,
                top_p=None,
                top_k=None,
            )
            yield rows, whole[:, longest:]
