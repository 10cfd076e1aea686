"""What is trained and what travels: named groups of named tensors.

A group is the unit of everything that a rule, a codec or an adapter says: it is trained or frozen, sent or private, exact or
rounded, as a whole. LoRA has two groups, ``lora_A`` and ``lora_B``, with one tensor a module each; ``Update.factors`` is the
view of their pairs. A head, biases or a prompt are groups like any other.

This file starts without torch: tensors are named in types only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LORA_A, LORA_B, HEAD, GATE = "lora_A", "lora_B", "head", "gate"
HOME_A, HOME_B = "home_A", "home_B"
PAIRS = frozenset({LORA_A, LORA_B})
"""The groups whose tensors are the two ends of a pair."""

HOME = frozenset({HOME_A, HOME_B})
"""The two ends of the pairs of layers that are no part of the shared adapter; rank and scale are the recipe's, always."""

Fact = bool | int | float | str
"""A typed value beside the tensors: an integer stays one on the wire."""


@dataclass(frozen=True)
class Factors:
    """The LoRA pair of one adapted matrix: ``W = W0 + scale · B @ A``.

    ``a`` is ``(rank, input)``, ``b`` is ``(output, rank)``, ``scale`` is α/r.
    """

    a: Tensor
    b: Tensor
    scale: float


@dataclass(frozen=True)
class AdapterSize:
    """The rank that is trained, and the scale s in ``W0 + s·B·A`` that goes with it."""

    rank: int
    scale: float


@dataclass(frozen=True)
class Origin:
    """The device that an update is from, and the seed that its dispatch was drawn from: a rule can draw the same again."""

    device: int
    seed: int


@dataclass(frozen=True)
class Update:
    """Tensors by group and name, with the weight of their device in a mean.

    Args:
        groups: group → name → tensor. A group without tensors does not count as present.
        scales: s of ``s·B·A`` by module, where there are pairs.
        weight: the device's share before normalisation; its number of samples.
        facts: typed values that a rule or a trainer sends beside the tensors.
        sparse: groups that are mostly zeros; a codec sends their other entries with their places.
        exact: groups that no codec may round.
        origin: set by the server on replies; it does not travel.
    """

    groups: Mapping[str, Mapping[str, Tensor]]
    scales: Mapping[str, float] = field(default_factory=dict)
    weight: float = 1.0
    facts: Mapping[str, Fact] = field(default_factory=dict)
    sparse: frozenset[str] = frozenset()
    exact: frozenset[str] = frozenset()
    origin: Origin | None = None

    @cached_property
    def factors(self) -> Mapping[str, Factors]:
        """The pairs of ``lora_A`` and ``lora_B`` by module; empty where either group is absent."""
        a, b = self.groups.get(LORA_A, {}), self.groups.get(LORA_B, {})
        return {name: Factors(tensor, b[name], self.scales[name]) for name, tensor in a.items() if name in b}

    @property
    def present(self) -> frozenset[str]:
        """The groups that hold at least one tensor."""
        return frozenset(name for name, tensors in self.groups.items() if tensors)

    @property
    def rank(self) -> int:
        """The highest rank of its pairs; 0 without pairs."""
        return max((len(pair.a) for pair in self.factors.values()), default=0)

    def with_factors(self, factors: Mapping[str, Factors]) -> Update:
        """The same update with other pairs; all else stays."""
        return replace(self, groups={**self.groups, **pair_groups(factors)}, scales=scales_of(factors))

    def with_groups(self, groups: Mapping[str, Mapping[str, Tensor]]) -> Update:
        """The same update with ``groups`` added, or in the place of those of the same name."""
        return replace(self, groups={**self.groups, **groups})

    def only(self, names: Iterable[str]) -> Update:
        """The same update with the groups ``names`` alone; scales and facts stay."""
        chosen = frozenset(names)
        return replace(self, groups={name: tensors for name, tensors in self.groups.items() if name in chosen})

    def without(self, names: Iterable[str]) -> Update:
        """The same update less the groups ``names``; scales and facts stay."""
        return self.only(self.groups.keys() - frozenset(names))


@dataclass(frozen=True)
class ServerState:
    """A rule's state: the global adapter, and the tensors and numbers that a rule keeps beside it."""

    adapter: Update
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    numbers: Mapping[str, int | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Memory:
    """What a device keeps from one of its rounds to the next."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    numbers: Mapping[str, int | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Penalty:
    """``strength · ‖B[:, first:]‖ · ‖A[first:]‖``, summed over the modules, as a term of a device's loss."""

    strength: float
    first: int


@dataclass(frozen=True)
class Likeness:
    """Shares by sample: an adapter's own pair has ``most`` times the mean cosine between the sample and ``references``, at
    least 0; a frozen pair beside it has the rest.

    A sample is known by its mean hidden state at the cut, over the tokens of its prompt where it has one.

    Args:
        references: ``(samples, hidden)``.
        most: λ, the share of a sample that is like all of them.
    """

    references: Tensor
    most: float


@dataclass(frozen=True)
class Job:
    """What the resident model is loaded with, and what acts on its gradients in training.

    Args:
        update: the adapter.
        merged_delta: the delta merged into the frozen weights, ``W0 + merged_delta``, ``(output, input)`` by module.
        mask: factors of gradients before they are clipped, by the names of ``named_tensors``.
        correction: terms added to gradients after they are clipped, by the same names.
        penalty: a term of the loss.
        beside: a frozen pair a module, beside the adapter's own.
        shares: of own and frozen pair, for all tokens or by sample. ``None``: ``update`` has a group ``gate``, ``(2, input)``
            each; the softmax of its products with a token's input gives the shares.
        kept: tensors of the rule's own that its ``send`` reads again; training does not look at them.
    """

    update: Update
    merged_delta: Mapping[str, Tensor] = field(default_factory=dict)
    mask: Mapping[str, Tensor] = field(default_factory=dict)
    correction: Mapping[str, Tensor] = field(default_factory=dict)
    penalty: Penalty | None = None
    beside: Mapping[str, Factors] = field(default_factory=dict)
    shares: tuple[float, float] | Likeness | None = None
    kept: Mapping[str, Tensor] = field(default_factory=dict)


def update_of(
    factors: Mapping[str, Factors],
    groups: Mapping[str, Mapping[str, Tensor]] | None = None,
    weight: float = 1.0,
    facts: Mapping[str, Fact] | None = None,
) -> Update:
    """An update of LoRA pairs and further ``groups``."""
    return Update({**pair_groups(factors), **(groups or {})}, scales_of(factors), weight, facts or {})


def pair_groups(factors: Mapping[str, Factors]) -> dict[str, dict[str, Tensor]]:
    """The two groups that hold ``factors``."""
    return {LORA_A: {name: pair.a for name, pair in factors.items()}, LORA_B: {name: pair.b for name, pair in factors.items()}}


def scales_of(factors: Mapping[str, Factors]) -> dict[str, float]:
    """The scale of each pair by module."""
    return {name: pair.scale for name, pair in factors.items()}


def named_tensors(update: Update) -> dict[str, Tensor]:
    """Every tensor of ``update`` as ``<group>.<name>``; nothing is copied."""
    return {f"{group}.{name}": tensor for group, tensors in update.groups.items() for name, tensor in tensors.items()}


def grouped(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The inverse of ``named_tensors``: group → name → tensor. A group's name has no dot."""
    groups: dict[str, dict[str, Tensor]] = {}
    for full, tensor in tensors.items():
        group, _, name = full.partition(".")
        groups.setdefault(group, {})[name] = tensor
    return groups


def with_tensors(like: Update, tensors: Mapping[str, Tensor]) -> Update:
    """``tensors`` by the names of ``named_tensors``, with the scales of ``like``, weight 1 and no facts."""
    return Update(grouped(tensors), like.scales)
