"""FLASC: dense training, sparse communication.

Kuo et al., "Federated LoRA with Sparse Communication", 2024, arXiv 2406.05233. With θ the factors of all modules as one flat
vector of n numbers, and top_d what is left of a vector when all but its round(d·n) largest by magnitude are set to zero:

    device gets      P = top_d↓(θ), trains all n numbers from it to P_i
    device sends     top_d↑(Δ_i),   Δ_i = P_i - P
    server           θ ← θ + Σ p_i top_d↑(Δ_i),   head = Σ p_i head_i,   p_i = n_i / Σ n_j

What is cut on the way down is cut for the device alone: the server keeps its θ, and what is cut on the way up counts as 0. The
paper's server takes the mean for a gradient and steps with Adam: that is ``federation.server_optimizer = "adam"``. There is no
error feedback, as in the paper. The head is sent whole, both ways.

With both densities 1 this is FedAvg but for rounding: the device rounds Δ_i to float32, and ``θ + (P_i - θ)`` need not be P_i.

On the wire: ``values``, and ``positions`` as a bitmap or as indices (``aggregation.sparse``); A and B themselves never travel.
So what the server sees of them in an update is empty: what changed is in the values alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from fedfit.aggregation.fedavg import FedAvg
from fedfit.aggregation.sparse import count_of, largest, pack, positions_form, unpack
from fedfit.errors import UpdateRefused
from fedfit.records import AdapterSize, Factors, Memory, Task, Update

_HEADER_BYTES = 128  # of a tensor in a packet, at most


class Flasc(FedAvg):
    """The server's dense factors plus the weighted mean of what is sent of the changes; weighted mean of the head.

    Args:
        download_density: d↓, above 0 and at most 1.
        upload_density: d↑, likewise.

    Raises:
        ValueError: for any other density.
    """

    known = frozenset({"a", "b"})

    def __init__(self, download_density: float = 1.0, upload_density: float = 1.0) -> None:
        if not (0 < download_density <= 1 and 0 < upload_density <= 1):
            raise ValueError(f"densities of {download_density} and {upload_density}; they must be above 0 and at most 1")
        self._down, self._up = download_density, upload_density

    def sends(self, round_number: int) -> frozenset[str]:
        """The head; of the factors, values travel."""
        return frozenset({"head"})

    def dispatch(self, state: Update, device: int, size: AdapterSize, seed: int) -> Update:
        """The largest numbers of the factors, which are empty themselves, and the rank.

        Raises:
            ValueError: when ``size`` is not that of the global adapter.
        """
        flat = _flat(super().dispatch(state, device, size, seed))
        empty = {name: Factors(pair.a[:0], pair.b[:, :0], pair.scale) for name, pair in state.factors.items()}
        return Update(empty, state.head, metrics={"rank": size.rank}, extra=_sparse(flat, self._down))

    def receive(self, received: Update, memory: Memory | None) -> Task:
        """What was sent at its place, and zeros.

        Raises:
            UpdateRefused: when rank, values and positions do not fit each other.
        """
        rank = received.metrics.get("rank", 0)
        if not float(rank).is_integer() or rank < 1:
            raise UpdateRefused(f"a rank of {rank}")
        entries = _entries(received, int(rank))
        count, values = count_of(entries, self._down), received.extra.get("values")
        if values is None or (values.shape, values.dtype) != ((count,), torch.float32):
            raise UpdateRefused(f"values: wanted {count} float32 numbers, of {entries} at rank {int(rank)}")
        flat = torch.zeros(entries)
        flat[unpack(received.extra.get("positions"), entries, count)] = values
        return Task(Update(_pairs(flat, received, int(rank)), received.head))

    def send(self, task: Task, trained: Update, memory: Memory | None) -> tuple[Update, Memory | None]:
        """The head, and the largest changes of the factors."""
        return replace(trained, extra=_sparse(_flat(trained) - _flat(task.update), self._up)), None

    def expected(self, sent: Update, came: Update) -> Update:
        """What was sent, and as many values as are due.

        Raises:
            UpdateRefused: when what came has other positions than it may.
        """
        entries = _entries(sent, int(sent.metrics["rank"]))
        count = count_of(entries, self._up)
        unpack(came.extra.get("positions"), entries, count)
        length, kind = positions_form(entries, count)
        return replace(sent, extra={"values": torch.empty(count), "positions": torch.empty(length, dtype=kind)})

    def apply(self, state: Update, updates: Iterable[Update]) -> Update:
        """The mean change in float64, as updates come; the head as in FedAvg."""
        flat, total = _flat(state).double(), 0.0
        changes = torch.zeros_like(flat)

        def add(update: Update) -> Update:
            nonlocal total
            total += update.weight
            values = update.extra["values"]
            changes[unpack(update.extra["positions"], len(flat), len(values))] += update.weight * values.double()
            return Update({}, update.head, update.weight)

        bare = Update({}, state.head)
        mean = super().apply(bare, map(add, updates))
        if mean is bare:
            return state
        rank = len(next(iter(state.factors.values())).a)
        return Update(_pairs(flat.add_(changes.div_(total)).float(), state, rank), mean.head)

    def extra_downlink_bytes(self, adapter: Update) -> int:
        """Values and positions of d↓."""
        return _sparse_bytes(adapter, self._down)

    def extra_uplink_bytes(self, adapter: Update) -> int:
        """Values and positions of d↑."""
        return _sparse_bytes(adapter, self._up)


def _sparse_bytes(adapter: Update, density: float) -> int:
    entries = sum(pair.a.numel() + pair.b.numel() for pair in adapter.factors.values())
    count = count_of(entries, density)
    length, kind = positions_form(entries, count)
    return 4 * count + length * kind.itemsize + 2 * _HEADER_BYTES


def _sparse(flat: Tensor, density: float) -> dict[str, Tensor]:
    positions = largest(flat, count_of(len(flat), density))
    return {"values": flat[positions], "positions": pack(positions, len(flat))}


def _flat(update: Update) -> Tensor:
    """``(n,)``: A and B of every module, by its name."""
    pairs = (update.factors[name] for name in sorted(update.factors))
    return torch.cat([tensor.reshape(-1) for pair in pairs for tensor in (pair.a, pair.b)])


def _entries(like: Update, rank: int) -> int:
    return sum(rank * (pair.a.shape[1] + len(pair.b)) for pair in like.factors.values())


def _pairs(flat: Tensor, like: Update, rank: int) -> dict[str, Factors]:
    """The inverse of ``_flat`` at ``rank``, with names, scales and outer sizes of ``like``."""
    sizes = [size for name in sorted(like.factors) for size in (like.factors[name].a.shape[1], len(like.factors[name].b))]
    pieces = iter(torch.split(flat, [rank * size for size in sizes]))
    pairs = {
        name: Factors(next(pieces).view(rank, -1).clone(), next(pieces).view(-1, rank).clone(), like.factors[name].scale)
        for name in sorted(like.factors)
    }
    return {name: pairs[name] for name in like.factors}
