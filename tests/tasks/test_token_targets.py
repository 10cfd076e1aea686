"""What a language model is to predict, beside a slow twin that walks token by token."""

import numpy as np
import pytest
import torch

from fedfit.tasks.token_targets import target_counts, token_targets
from fedfit.tasks.trees import common_prefix, tree_samples

TREES = [
    ([7, 8], [[1, 2, 3]]),
    ([9], [[4], [5, 6], [4, 4]]),
    ([1, 2, 3, 4], [[5, 6], [7]]),
]


def targets_of(rows: list[int]) -> list[tuple[int, int, int, int]]:
    """Row in the batch, continuation, place that is read, and token, walked token by token."""
    found = []
    for number, row in enumerate(rows):
        prompt, continuations = TREES[row]
        place = len(prompt)
        for branch, tokens in enumerate(continuations):
            for k, token in enumerate(tokens):
                found.append((number, branch, len(prompt) - 1 if k == 0 else place + k - 1, token))
            place += len(tokens)
    return found


@pytest.mark.parametrize("rows", [[0], [1], [2, 0], [1, 1, 2], [0, 1, 2]])
def test_targets_are_those_of_the_slow_twin(rows: list[int]) -> None:
    samples = tree_samples([prompt for prompt, _ in TREES], [parts for _, parts in TREES])
    targets, expected = token_targets(samples, np.array(rows), torch.device("cpu")), targets_of(rows)
    read = targets.index[targets.index >= 0]
    found = list(zip(targets.rows.tolist(), targets.segments.tolist(), read.tolist(), targets.ids.tolist(), strict=True))
    assert found == expected
    assert target_counts(samples)[rows].tolist() == [sum(map(len, TREES[row][1])) for row in rows]
    assert targets.index.shape == (len(rows), max(target_counts(samples)[rows]))


def test_sums_by_row_and_continuation() -> None:
    samples = tree_samples([prompt for prompt, _ in TREES], [parts for _, parts in TREES])
    targets = token_targets(samples, np.array([1, 0]), torch.device("cpu"))
    # Row 1 has continuations of 1, 2 and 2 tokens, row 0 one of 3; values are 1, 2, 3, … in the order of the targets.
    values = torch.arange(1.0, 9.0)
    assert targets.sums(values, 3).tolist() == [[1.0, 5.0, 9.0], [21.0, 0.0, 0.0]]
    assert targets.counts(3).tolist() == [[1.0, 2.0, 2.0], [3.0, 0.0, 0.0]]


def test_one_continuation_has_the_hash_of_its_tokens_and_a_tree_that_of_its_shape() -> None:
    whole, cut = tree_samples([[1, 2]], [[[3, 4]]]), tree_samples([[1]], [[[2, 3, 4]]])
    assert whole.hashes == cut.hashes, "hidden states do not depend on where the response begins"
    tree, other = tree_samples([[1, 2]], [[[3], [4]]]), tree_samples([[1]], [[[2, 3], [4]]])
    assert len({*whole.hashes, *tree.hashes, *other.hashes}) == 3


@pytest.mark.parametrize(
    ("parts", "length"),
    [([[1, 2, 3], [1, 2, 4]], 2), ([[1, 2], [1, 2, 3]], 1), ([[5], [6]], 0), ([[1, 1], [1, 1]], 1), ([[2], [2]], 0)],
)
def test_common_prefix_leaves_a_token_of_each(parts: list[list[int]], length: int) -> None:
    assert common_prefix(parts) == length
