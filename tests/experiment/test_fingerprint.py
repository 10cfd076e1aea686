"""The fingerprint of a run: what changes it, and what does not."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedfit.data.tokenize import Samples
from fedfit.experiment.fingerprint import FREE_KEYS, changed_contents, changed_keys, data_digest, values_by_key
from fedfit.experiment.load import parse_recipe
from fedfit.models.digest import digest as tensor_digest
from fedfit.models.digest import frozen_digest
from fedfit.settings import PersonalizationSettings, Recipe
from fedfit.tracking.needs import Fingerprint


def samples(*hashes: bytes, labels: tuple[int, ...] = (0, 1, 2)) -> Samples:
    count = len(hashes)
    offsets = np.arange(count + 1, dtype=np.int64)
    return Samples(np.zeros(count, np.int32), None, offsets, np.array(labels[:count], dtype=np.int64), list(hashes))


A, B, C = (bytes([letter]) * 16 for letter in b"abc")
PARTS = (np.array([0, 2]), np.array([1]))
DATA: dict[str, Any] = {"train": samples(A, B, C), "test": samples(B, A), "parts": PARTS}
OTHER_DATA: dict[str, dict[str, Any]] = {
    "a training sample": {"train": samples(A, B, A)},
    "the order of the training samples": {"train": samples(B, A, C)},
    "one sample more": {"train": samples(A, B, C, C, labels=(0, 1, 2, 2))},
    "a training label": {"train": samples(A, B, C, labels=(0, 1, 1))},
    "a test sample": {"test": samples(B, C)},
    "the order of the test samples": {"test": samples(A, B)},
    "a test label": {"test": samples(B, A, labels=(0, 2))},
    "training and test swapped": {"train": samples(B, A), "test": samples(A, B, C)},
    "a device's samples": {"parts": (np.array([0, 1]), np.array([2]))},
    "their order": {"parts": (np.array([2, 0]), np.array([1]))},
    "the order of the devices": {"parts": PARTS[::-1]},
    "the border between devices": {"parts": (np.array([0]), np.array([2, 1]))},
    "a device without samples": {"parts": (*PARTS, np.array([], dtype=np.int64))},
}


def digest(train: Samples, test: Samples, parts: Sequence[np.ndarray]) -> str:
    return data_digest([train, test], parts)


def test_each_change_of_the_data_changes_the_digest() -> None:
    digests = {"as it is": digest(**DATA)} | {name: digest(**{**DATA, **new}) for name, new in OTHER_DATA.items()}
    assert len(set(digests.values())) == len(digests), digests
    assert digest(**DATA) == digests["as it is"]


def test_the_type_of_an_index_is_no_change() -> None:
    narrow = tuple(part.astype(np.int32) for part in PARTS)
    assert digest(DATA["train"], DATA["test"], narrow) == digest(**DATA)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.frozen, self.head = nn.Linear(3, 2).requires_grad_(False), nn.Linear(2, 2)
        self.register_buffer("positions", torch.arange(4))


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (lambda net: net.frozen.weight[0, 0].add_(1e-6), True),
        (lambda net: net.frozen.bias[1].add_(1e-6), True),
        (lambda net: net.positions[3].add_(1), True),
        (lambda net: net.frozen.weight.data.neg_().neg_(), False),
        (lambda net: net.head.weight.data.add_(1), False),
    ],
    ids=["weight", "bias", "buffer", "nothing", "trained"],
)
def test_weights_that_are_not_trained(change: Callable[[Any], object], seen: bool) -> None:
    net = Net()
    change(net)
    assert (frozen_digest(net) != frozen_digest(Net())) == seen


def test_a_digest_of_any_type_and_of_names() -> None:
    kinds = [torch.ones(2, dtype=kind) for kind in (torch.bfloat16, torch.float64, torch.bool)]
    kinds += [torch.zeros(0, 3), torch.tensor(0.0), torch.arange(6.0).reshape(2, 3).T]
    assert len({tensor_digest([("x", tensor)]) for tensor in kinds}) == len(kinds)
    assert tensor_digest([("x", torch.zeros(2))]) != tensor_digest([("y", torch.zeros(2))])


def began(*overrides: str) -> Fingerprint:
    return Fingerprint(values_by_key(parse_recipe("", overrides)))


def test_free_keys_are_keys_of_a_recipe() -> None:
    sections = {item.name: getattr(Recipe(), item.name) for item in fields(Recipe)}
    for name in FREE_KEYS:
        section, _, key = name.rpartition(".")
        assert hasattr(sections[section] if section else Recipe(), key), name


def test_lists_draws_and_tables_are_compared_by_key() -> None:
    before = began("federation.devices=2", "federation.ranks=[1, 2]", "fleet.battery_j={uniform = [1, 2]}", "plan.policy=fixed")
    now = parse_recipe(
        "[[device]]\nbattery_j = 3.0\n[[device]]\n",
        ("federation.devices=2", "federation.ranks=[1, 4]", "fleet.battery_j={uniform = [1, 3]}", "plan.policy=fixed"),
    )
    assert changed_keys(before, now) == [
        "federation.ranks: [1, 2] when the run began, [1, 4] now",
        "fleet.battery_j.uniform: [1.0, 2.0] when the run began, [1.0, 3.0] now",
        "device[0].battery_j: unset when the run began, 3.0 now",
    ]


def test_rounds_may_change_only_with_a_constant_rate() -> None:
    more = replace(Recipe(), federation=replace(Recipe().federation, rounds=9))
    assert changed_keys(began(), more) == []
    for override in ("training.schedule=cosine", "training.warmup=0.1"):
        now = parse_recipe("", (override, "federation.rounds=9"))
        assert changed_keys(began(override), now) == ["federation.rounds: 5 when the run began, 9 now"]


def test_contents_are_named_apart() -> None:
    before = Fingerprint({"model.name": "m"}, "data", "weights")
    assert changed_contents(before, before) == []
    (data,) = changed_contents(before, replace(before, data="other"))
    (weights,) = changed_contents(before, replace(before, weights="other"))
    assert "partition" in data
    assert "weights of the model 'm'" in weights
    assert changed_contents(before, Fingerprint({"model.name": "m"}, "", "")) == [data, weights]


def test_a_key_that_did_not_exist_then_was_at_its_default() -> None:
    """A run of an older version goes on, unless the new key now says something else than what all did before."""
    recipe = Recipe()
    old = {key: value for key, value in values_by_key(recipe).items() if not key.startswith("personalization.")}
    assert changed_keys(Fingerprint(old), recipe) == []
    other = replace(recipe, personalization=PersonalizationSettings("ditto"))
    assert changed_keys(Fingerprint(old), other) == ["personalization.method: none when the run began, ditto now"]
