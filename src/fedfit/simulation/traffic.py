"""How large the packets of a rule are, each direction by itself, affine in the rank."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import torch

from fedfit.aggregation.contract import Rule
from fedfit.codecs.contract import Codec
from fedfit.core.update import PAIRS, Factors, Update, grouped, named_tensors


@dataclass(frozen=True)
class Traffic:
    """The most bits of one packet in one direction, in any round of a run: ``bits_fixed + rank·bits_per_rank``."""

    bits_fixed: float
    bits_per_rank: float


def downlink_traffic(rule: Rule, codec: Codec, adapter: Update, rounds: int) -> Traffic:
    """The traffic to a device in a round of ``rounds``, at most; ``adapter`` is the freshly drawn global one."""
    traits = rule.traits
    travels = {(traits.downlink_groups(number, adapter.present), None) for number in range(1, rounds + 1)}
    return _traffic(codec, adapter, travels, traits.downlink_density, rule.server.downlink_extra_bytes)


def uplink_traffic(rule: Rule, codec: Codec, adapter: Update, rounds: int) -> Traffic:
    """The traffic from a device in a round of ``rounds``, at most; ``adapter`` is the freshly drawn global one."""
    traits = rule.traits
    present, travels = adapter.present, set[tuple[frozenset[str], frozenset[str] | None]]()
    for number in range(1, rounds + 1):
        up, recoded = traits.uplink_groups(number, present), traits.recoded(number)
        # what travels in a form of the rule's own is named, as the groups in whose place it does would be
        travels.add((up | recoded, None) if recoded else (up, traits.downlink_groups(number, present)))
    return _traffic(codec, adapter, travels, traits.uplink_density, rule.server.uplink_extra_bytes)


_Ways = Collection[tuple[frozenset[str], frozenset[str] | None]]
"""The groups that travel in a round, with those that the sender has from the receiver."""


def _traffic(codec: Codec, adapter: Update, travels: _Ways, density: float, extra_bytes: Callable[[Update], int]) -> Traffic:
    """The greatest of all rounds, each given by the groups that travel in it, with ``extra_bytes`` beside them."""
    codec = getattr(codec, "bound", codec)
    fixed_bytes, bytes_per_rank = _extra(adapter, extra_bytes)
    overhead = max(overhead_bytes(codec, adapter, groups, density, received) for groups, received in travels)
    numbers = max(_numbers_per_rank(adapter, groups) for groups, _ in travels)
    return Traffic(8.0 * (overhead + fixed_bytes), codec.bits_per_number(density) * numbers + 8.0 * bytes_per_rank)


def _extra(adapter: Update, extra_bytes: Callable[[Update], int]) -> tuple[float, float]:
    """``extra_bytes`` at any rank, and those for each rank up to that of ``adapter``, at most."""
    whole = extra_bytes(adapter)
    if adapter.rank < 2:
        return float(whole), 0.0
    first = {name: Factors(pair.a[:1], pair.b[:, :1], pair.scale) for name, pair in adapter.factors.items()}
    per_rank = max(0.0, (whole - extra_bytes(adapter.with_factors(first))) / (adapter.rank - 1))
    return whole - adapter.rank * per_rank, per_rank


def _numbers_per_rank(adapter: Update, groups: frozenset[str]) -> int:
    tensors = named_tensors(adapter.only(groups & PAIRS))
    return sum(tensor.numel() for tensor in tensors.values()) // max(1, adapter.rank)


def overhead_bytes(
    codec: Codec, adapter: Update, groups: frozenset[str], density: float = 1.0, received: frozenset[str] | None = None
) -> int:
    """The most that a packet of ``groups`` of ``adapter`` takes beside the pairs' numbers, at any rank up to its own: the other
    groups, names and framing. A sender that ``received`` groups need not name their tensors again.

    Measured on an update whose scales, weight and facts have as many digits as any can have. Sparse pairs are all zeros there,
    so that neither numbers nor places are in the packet.
    """
    wordy = 1 / 3
    facts = {"steps": 10**15, "train_loss": wordy}
    whole = replace(adapter, scales=dict.fromkeys(adapter.scales, wordy), weight=1e15 + wordy, facts=facts)
    sent, reference = whole.only(groups), None if received is None else whole.only(received)
    pairs = named_tensors(sent.only(PAIRS))
    if density < 1:
        zeros = grouped({name: torch.zeros_like(tensor) for name, tensor in pairs.items()})
        packet, _ = codec.encode(replace(sent.with_groups(zeros), sparse=PAIRS & sent.present), reference)
        return packet.size_bytes + 8
    packet, _ = codec.encode(sent, reference)
    numbers_bytes = codec.bits_per_number() / 8 * sum(tensor.numel() for tensor in pairs.values())
    return packet.size_bytes - int(numbers_bytes) + 8  # the header is filled up to a multiple of 8
