"""FFA-LoRA: A stays as it was drawn, and B alone is trained.

Sun et al., "Improving LoRA in Privacy-preserving Federated Learning", ICLR 2024, arXiv 2403.12313.

    A = A0,   B = Σ p_i B_i,   head = Σ p_i head_i,   p_i = n_i / Σ n_j

Exact, since all devices share A0: ``s·(Σ p_i B_i)·A0 = Σ p_i s·B_i·A0``. A travels in neither direction: every device draws A0
itself from the recipe's seed. So B and the head are all that is sent, half the bytes of the factors where d = k. The price is
that ``ΔW`` never leaves the row space of A0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from fedfit.aggregation.fedavg import FedAvg
from fedfit.records import AdapterSize, Update


class FfaLora(FedAvg):
    """Sample-weighted mean of B and of the head; A is the initial one to the bit, for the whole run."""

    fixed_rank = True
    known = frozenset({"a"})

    def trains(self, round_number: int) -> frozenset[str]:
        """B and the head."""
        return frozenset({"b", "head"})

    def resize(self, state: Update, size: AdapterSize, seed: int) -> Update:
        """The state as it is, at its own size.

        Raises:
            ValueError: for any other size: devices hold the A of the first.
        """
        if any(AdapterSize(len(pair.a), pair.scale) != size for pair in state.factors.values()):
            raise ValueError(f"A stays as it was drawn, and its rank and scale with it; {size} is another")
        return state

    def apply(self, state: Update, updates: Iterable[Update]) -> Update:
        """FedAvg's mean of what was trained. A is not looked at, so that no rounding of a sum can move it."""
        trained = _without_a(state)
        mean = super().apply(trained, map(_without_a, updates))
        if mean is trained:
            return state
        return replace(mean, factors={name: replace(pair, a=state.factors[name].a) for name, pair in mean.factors.items()})


def _without_a(update: Update) -> Update:
    """``update`` with no row of A: views, and nothing to sum."""
    return replace(update, factors={name: replace(pair, a=pair.a[:0]) for name, pair in update.factors.items()})
