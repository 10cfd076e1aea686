"""What the battery over the table of rules must know of each, and how it compares models and states."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from fedfit.aggregation.contract import Context, Rule
from fedfit.aggregation.table import RULES
from fedfit.core.update import Factors, ServerState, Update
from tests.builders import rule_of, same_bits


@dataclass(frozen=True)
class Facts:
    """Where rules differ.

    ``equal``: with equal ranks, equal data and one step the global adapter has FedAvg's ``factors``; or another pair of
    factors with FedAvg's ``product`` and head; or those of FedAvg that were ``trained`` and sent, the rest as it was; or its
    ``own``, which a test of its own derives.
    ``exact``: the server's ``s·B·A`` is ``Σ p_i s_i B_iA_i``, where the global rank can hold it.
    ``by_norm``: a device's weight counts times ``‖s·B·A‖_F`` of its update.
    ``weighs``: the head is the mean by weights; else nothing weighs.
    ``still``: the global adapter stays when devices of mixed ranks return the update that they were sent.
    ``keeps``: the tensors of all updates of a round that it holds at once: ``nothing``, ``factors`` or ``all``.
    ``least``: the fewest updates that it makes a model of.
    ``copies``: how often the numbers of the head travel.
    ``keys``: of ``[federation.<rule>]``, with which all this holds.
    """

    equal: str
    exact: bool = False
    by_norm: bool = False
    weighs: bool = True
    still: bool = True
    keeps: str = "nothing"
    least: int = 1
    copies: int = 1
    keys: Mapping[str, Any] = field(default_factory=dict)


FACTS = {
    "fedavg": Facts("factors"),
    "ffa_lora": Facts("trained", exact=True),
    "rolora": Facts("trained", exact=True),
    "hetlora": Facts("factors", by_norm=True, still=False),
    "hetlora_pruning": Facts("factors", by_norm=True, still=False, keys={"penalty": 0.0}),
    "flexlora": Facts("product", exact=True, still=False, keeps="factors"),
    "fslora": Facts("factors"),
    "flora": Facts("own", exact=True, keeps="factors"),
    "fedex_lora": Facts("factors", exact=True, keeps="factors"),
    "fedsa_lora": Facts("trained"),
    "local_only": Facts("own"),
    "flasc": Facts("factors", keys={"download_density": 1.0, "upload_density": 1.0}),
    "slora": Facts("own"),
    "scaffold": Facts("factors", copies=2),
    "median": Facts("factors", weighs=False, keeps="all"),
    "trimmed_mean": Facts("factors", weighs=False, keeps="all"),
    "krum": Facts("factors", weighs=False, keeps="all", least=3, keys={"byzantine": 0}),
    "norm_bound": Facts("factors", keys={"bound": 1e3}),
}

SHARING = [name for name, entry in RULES.items() if entry.traits().shares]
"""The rules whose devices share something; local_only has tests of its own."""

each_rule = pytest.mark.parametrize("name", SHARING)


def made(name: str) -> Rule:
    """The rule ``name`` with the keys of its facts, for four devices."""
    return rule_of(name, Context(holders=4), **FACTS[name].keys)


def product(factors: Factors) -> Tensor:
    return factors.scale * factors.b.double() @ factors.a.double()


def whole(delta: Mapping[str, Tensor], update: Update) -> Update:
    """``update`` over the weights that ``delta`` was merged into, as one pair; itself where nothing was."""
    merged = {
        name: Factors(torch.eye(pair.a.shape[1], dtype=torch.float64), delta[name].double() + product(pair), 1.0)
        for name, pair in update.factors.items()
        if name in delta
    }
    return update.with_factors({**update.factors, **merged})


def model(rule: Rule, state: ServerState) -> Update:
    """The model of a state: its adapter, with the merged weights in its pairs."""
    job = rule.server.model(state)
    return whole(job.merged_delta, job.update)


def close(left: Update, right: Update, tolerance: float = 1e-6) -> None:
    """The same model: products, scales included, and heads."""
    assert left.factors.keys() == right.factors.keys()
    for name, pair in left.factors.items():
        difference = product(pair) - product(right.factors[name])
        assert float(difference.norm()) <= tolerance * float(product(pair).norm())
    for name, tensor in left.groups.get("head", {}).items():
        torch.testing.assert_close(tensor, right.groups["head"][name], rtol=tolerance, atol=tolerance)


def same_state(left: ServerState, right: ServerState) -> bool:
    if left.tensors.keys() != right.tensors.keys() or left.numbers != right.numbers:
        return False
    return all(torch.equal(t, right.tensors[n]) for n, t in left.tensors.items()) and same_bits(left.adapter, right.adapter)
