"""How large the packets of a rule are, each direction by itself, affine in the rank."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from fedfit.aggregation.base import Rule
from fedfit.codecs.base import Codec
from fedfit.records import Factors, Update

_NUMBER_BITS = 32.0
"""Of a factor's number in a packet."""


@dataclass(frozen=True)
class Traffic:
    """The most bits of one packet in one direction, in any round of a run: ``bits_fixed + rank·bits_per_rank``."""

    bits_fixed: float
    bits_per_rank: float


def downlink_traffic(rule: Rule, codec: Codec, adapter: Update, rounds: int) -> Traffic:
    """What a device receives in a round of ``rounds``, at most; ``adapter`` is the freshly drawn global one."""
    parts = {rule.gets(number) for number in range(1, rounds + 1)}
    return _traffic(codec, adapter, parts, rule.extra_downlink_bytes)


def uplink_traffic(rule: Rule, codec: Codec, adapter: Update, rounds: int) -> Traffic:
    """What a device sends in a round of ``rounds``, at most; ``adapter`` is the freshly drawn global one."""
    parts = {rule.sends(number) for number in range(1, rounds + 1)}
    return _traffic(codec, adapter, parts, rule.extra_uplink_bytes)


def _traffic(codec: Codec, adapter: Update, rounds: Iterable[frozenset[str]], extra_bytes: Callable[[Update], int]) -> Traffic:
    """The greatest of all ``rounds``, each given by the parts that travel in it, with ``extra_bytes`` beside them."""
    fixed_bytes, bytes_per_rank = _extra(adapter, extra_bytes)
    overhead = max(overhead_bytes(codec, adapter, parts) for parts in rounds)
    numbers = max(_numbers_per_rank(adapter, parts) for parts in rounds)
    return Traffic(8.0 * (overhead + fixed_bytes), _NUMBER_BITS * numbers + 8.0 * bytes_per_rank)


def _extra(adapter: Update, extra_bytes: Callable[[Update], int]) -> tuple[float, float]:
    """``extra_bytes`` at any rank, and those for each rank up to that of ``adapter``, at most."""
    rank = max((len(pair.a) for pair in adapter.factors.values()), default=0)
    whole = extra_bytes(adapter)
    if rank < 2:
        return float(whole), 0.0
    first = {name: Factors(pair.a[:1], pair.b[:, :1], pair.scale) for name, pair in adapter.factors.items()}
    per_rank = max(0.0, (whole - extra_bytes(replace(adapter, factors=first))) / (rank - 1))
    return whole - rank * per_rank, per_rank


def _numbers_per_rank(adapter: Update, parts: frozenset[str]) -> int:
    pairs = adapter.factors.values()
    return sum(pair.a.shape[1] * ("a" in parts) + pair.b.shape[0] * ("b" in parts) for pair in pairs)


def overhead_bytes(codec: Codec, adapter: Update, parts: frozenset[str]) -> int:
    """The most that a packet of ``parts`` of ``adapter`` takes beside the factors' numbers, at any rank up to its own: the
    head, names and framing.

    Measured on an update whose scales, weight and metrics have as many digits as any can have.
    """
    wordy = 1 / 3
    factors = {name: Factors(pair.a, pair.b, wordy) for name, pair in adapter.factors.items()}
    metrics = {"steps": 1e15 + wordy, "train_loss": wordy}
    packet = codec.encode(Update(factors, adapter.head, 1e15 + wordy, metrics), parts)
    sent = (pair.a.numel() * ("a" in parts) + pair.b.numel() * ("b" in parts) for pair in adapter.factors.values())
    return packet.size_bytes - 4 * sum(sent) + 8  # the header is filled up to a multiple of 8
