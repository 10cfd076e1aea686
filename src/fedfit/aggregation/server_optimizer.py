"""Server optimisers: the round's mean change taken as a gradient.

Reddi et al., "Adaptive Federated Optimization", ICLR 2021, arXiv 2003.00295, Algorithm 2; ``momentum`` is FedAvgM: Hsu et al.,
"Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification", 2019, arXiv 1909.06335.

With x the global adapter, x' what the inner rule makes of it and of the round's updates, and ``Δ_t = x' - x``, by coordinate:

    sgd         x ← x + η Δ_t
    momentum    m_t = β1 m_{t-1} + Δ_t,   x ← x + η m_t
    the others  m_t = β1 m_{t-1} + (1 - β1) Δ_t,   x ← x + η m_t / (√v_t + τ),   with
      adagrad   v_t = v_{t-1} + Δ_t²
      adam      v_t = β2 v_{t-1} + (1 - β2) Δ_t²
      yogi      v_t = v_{t-1} - (1 - β2) Δ_t² sign(v_{t-1} - Δ_t²)

from ``m_{-1} = 0`` and ``v_{-1} = τ²``. As in the paper there is no bias correction; Adagrad with β1 = 0 is the usual one.

A tensor that no device changed in a round was not trained in it, and stays as it is together with its moments, which neither
decay nor move it: FFA-LoRA's A never moves, and each factor of RoLoRA has moments of its own rounds alone. Were momentum to
move the factor that devices did not train, RoLoRA's mean would be exact at a point where the server no longer is. (FLASC's
devices train all factors in every round, and all are stepped.)
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from fedfit.aggregation.base import Rule, named_tensors, with_tensors
from fedfit.records import AdapterSize, ServerState, Update

log = logging.getLogger(__name__)

KINDS = ("sgd", "momentum", "adagrad", "adam", "yogi")


class ServerOptimizer:
    """``rule`` with its result taken as a direction. What the rule says of ranks, weights and parts holds as it was.

    The state is a ``ServerState``: the adapter, and moments ``m …`` and ``v …`` by the names of ``named_tensors``, in float64;
    they are there from the first round that trains their tensor. Memory: that of the rule, and at most 5 times the adapter's.

    Args:
        kind: one of ``KINDS``; ``sgd`` with learning rate 1 is the inner rule to the bit.
        momentum: β1.

    Raises:
        ValueError: for an unknown kind, and for a rule that does not keep one pair of factors.
    """

    keeps_pair = True

    def __init__(
        self,
        rule: Rule,
        kind: str,
        learning_rate: float = 1.0,
        momentum: float = 0.9,
        beta2: float = 0.99,
        tau: float = 1e-3,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"{kind} is none of {', '.join(KINDS)}")
        if not rule.keeps_pair:
            raise ValueError(
                f"{type(rule).__name__} keeps no pair of factors; coordinates of two rounds have no common moments"
            )
        self._rule, self._kind, self._rate = rule, kind, learning_rate
        self._beta1, self._beta2, self._tau = momentum, beta2, tau
        self.mixed_ranks, self.fixed_rank = rule.mixed_ranks, rule.fixed_rank
        self.uniform, self.known, self.home = rule.uniform, rule.known, rule.home
        self.receive, self.send, self.expected = rule.receive, rule.send, rule.expected
        self.extra_downlink_bytes, self.extra_uplink_bytes = rule.extra_downlink_bytes, rule.extra_uplink_bytes
        self.gets, self.sends, self.room = rule.gets, rule.sends, rule.room

    def trains(self, round_number: int) -> frozenset[str]:
        """The inner rule's."""
        return self._rule.trains(round_number)

    def init(self, adapter: Update) -> ServerState:
        """The inner rule's, without moments."""
        return ServerState(self._rule.init(adapter))

    def begin(self, state: ServerState, round_number: int) -> ServerState:
        """The inner rule's, with the moments as they are."""
        begun = self._rule.begin(state.adapter, round_number)
        return state if begun is state.adapter else ServerState(begun, state.tensors, state.numbers)

    def resize(self, state: ServerState, size: AdapterSize, seed: int) -> ServerState:
        """The inner rule's. Moments of factors start anew when their size changes, for their coordinates have no meaning at
        another rank, and a line of the log says so; those of the head go on.
        """
        resized = self._rule.resize(state.adapter, size, seed)
        old, new = state.adapter.factors, resized.factors
        other = [name for name in new if (len(old[name].a), old[name].scale) != (len(new[name].a), new[name].scale)]
        gone = {f"{moment} {name} {factor}" for moment in "mv" for name in other for factor in "AB"}
        if gone & state.tensors.keys():
            log.info("the rank changes to %d: the moments of the factors start anew", size.rank)
        return ServerState(resized, {name: tensor for name, tensor in state.tensors.items() if name not in gone})

    def dispatch(self, state: ServerState, device: int, size: AdapterSize, seed: int) -> Update:
        """The inner rule's."""
        return self._rule.dispatch(state.adapter, device, size, seed)

    def apply(self, state: ServerState, updates: Iterable[Update]) -> ServerState:
        """One step in float64 along what the inner rule makes of ``updates``; the very same state when it makes nothing."""
        old, trained = named_tensors(state.adapter), set[str]()

        def watch(update: Update) -> Update:
            tensors = named_tensors(update)
            trained.update(
                name for name, tensor in old.items() if name not in trained and not torch.equal(tensors[name], tensor)
            )
            return update

        after = self._rule.apply(state.adapter, map(watch, updates))
        if after is state.adapter:
            return state
        if self._kind == "sgd" and self._rate == 1:  # x + (x' - x) may differ from x' by rounding
            return ServerState(after)
        new, moments = named_tensors(after), dict(state.tensors)
        for name in (name for name in old if name in trained):
            start = old[name].double()
            step = self._direction(name, new[name].double() - start, moments)
            new[name] = (start + self._rate * step).to(new[name].dtype)
        return ServerState(with_tensors(after, new), moments)

    def adapter(self, state: ServerState) -> Update:
        """The global adapter."""
        return self._rule.adapter(state.adapter)

    def base(self, state: ServerState) -> Mapping[str, Tensor]:
        """The inner rule's."""
        return self._rule.base(state.adapter)

    def _direction(self, name: str, change: Tensor, moments: dict[str, Tensor]) -> Tensor:
        """What η multiplies, from Δ_t and the moments of the tensor ``name``, which are brought up to date in ``moments``."""
        if self._kind == "sgd":
            return change
        fresh = change if self._kind == "momentum" else (1 - self._beta1) * change
        old = moments.get(f"m {name}")
        first = fresh if old is None else self._beta1 * old + fresh
        moments[f"m {name}"] = first.contiguous()  # as a checkpoint wants it
        if self._kind == "momentum":
            return first
        known = moments.get(f"v {name}")
        second = self._second(torch.full_like(change, self._tau**2) if known is None else known, change.square())
        moments[f"v {name}"] = second.contiguous()
        return first / (second.sqrt() + self._tau)

    def _second(self, old: Tensor, square: Tensor) -> Tensor:
        if self._kind == "adagrad":
            return old + square
        if self._kind == "adam":
            return self._beta2 * old + (1 - self._beta2) * square
        return old - (1 - self._beta2) * square * torch.sign(old - square)
