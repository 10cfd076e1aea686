from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from fedfit.rounds.evaluate import evaluate
from tests.builders import TASK, padded_batch, random_samples, tiny_split, tiny_trunk


@pytest.mark.parametrize("rows", [None, np.array([3, 149, 7, 8, 60])], ids=["all", "some"])
def test_the_score_is_that_of_each_sample_alone(rows: np.ndarray | None, tiny_bert: Path, tmp_path: Path) -> None:
    """Of 150 samples, more than a batch holds, against the whole model one by one."""
    samples, split = random_samples(150, seed=8), tiny_split(tiny_bert)
    split.train_mode(True, base_dropout=True)
    score = evaluate(split, tiny_trunk(split, tmp_path), TASK, samples, rows=rows)
    chosen, right, loss = range(150) if rows is None else rows, 0, 0.0
    with torch.no_grad():
        for row in chosen:
            ids, mask, _ = padded_batch(samples, [row])
            logits = split.model(input_ids=ids, attention_mask=mask).logits
            right += int(logits.argmax()) == samples.classes[row]
            loss += float(functional.cross_entropy(logits, torch.tensor([samples.classes[row]])))
    assert score["accuracy"].value == right / len(chosen)
    assert score["loss"].value == pytest.approx(loss / len(chosen), rel=1e-5)
    assert 0 < score["macro_f1"].value <= 1
    assert not split.model.training
