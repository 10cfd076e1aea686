"""Server optimisers: the round's mean change taken as a gradient.

Reddi et al., "Adaptive Federated Optimization", ICLR 2021, arXiv 2003.00295, Algorithm 2; ``momentum`` is FedAvgM: Hsu et
al., "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification", 2019, arXiv 1909.06335.
``nesterov`` is the outer step of DiLoCo (Douillard et al., 2023, arXiv 2311.08105) and FDLoRA (arXiv 2406.07925).

With x the global adapter, x' what the inner rule makes of it and of the round's updates, and ``Δ_t = x' - x``, by coordinate:

    sgd         x ← x + η Δ_t
    momentum    m_t = β1 m_{t-1} + Δ_t,   x ← x + η m_t
    nesterov    m_t = β1 m_{t-1} + Δ_t,   x ← x + η (β1 m_t + Δ_t)
    the others  m_t = β1 m_{t-1} + (1 - β1) Δ_t,   x ← x + η m_t / (√v_t + τ),   with
      adagrad   v_t = v_{t-1} + Δ_t²
      adam      v_t = β2 v_{t-1} + (1 - β2) Δ_t²
      yogi      v_t = v_{t-1} - (1 - β2) Δ_t² sign(v_{t-1} - Δ_t²)

from ``m_{-1} = 0`` and ``v_{-1} = τ²``. As in the paper no bias is corrected; Adagrad with β1 = 0 is the usual one.

A tensor that no device changed in a round was not trained in it, and stays as it is together with its moments, which neither
decay nor move it: FFA-LoRA's A never moves, and each factor of RoLoRA has moments of its own rounds alone. Were momentum to
move the factor that devices did not train, RoLoRA's mean would be exact at a point where the server no longer is. (FLASC's
devices train all factors in every round, and all are stepped.)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedfit.aggregation.contract import Rule, ServerHalf
from fedfit.core.update import PAIRS, AdapterSize, Job, ServerState, Update, named_tensors, with_tensors
from fedfit.settings import FederationSettings

log = logging.getLogger(__name__)

KINDS = ("sgd", "momentum", "nesterov", "adagrad", "adam", "yogi")


def with_server_optimizer(rule: Rule, settings: FederationSettings) -> Rule:
    """``rule`` with its result taken as a direction; itself where ``settings`` ask for no server optimiser.

    Raises:
        ValueError: for a rule whose state is more than one adapter.
    """
    if settings.server_optimizer == "none":
        return rule
    optimizer = ServerOptimizer(
        rule.server,
        settings.server_optimizer,
        settings.server_learning_rate,
        settings.server_momentum,
        settings.server_beta2,
        settings.server_tau,
    )
    if not rule.traits.supports_server_optimizer:
        raise ValueError("the rule keeps no single adapter; coordinates of two rounds have no common moments")
    return Rule(replace(rule.traits, linear=False), optimizer.half(), rule.device)


@dataclass(frozen=True)
class ServerOptimizer:
    """Wraps the server's half ``inner``.

    The state's tensors are the moments ``m …`` and ``v …`` by the names of ``named_tensors``, in float64, from
    the first round on that trains their tensor. Memory: that of the rule, and at most 5 times the adapter's.

    Args:
        kind: one of ``KINDS``; ``sgd`` with learning rate 1 is the inner rule to the bit.
        momentum: β1.

    Raises:
        ValueError: for an unknown kind.
    """

    inner: ServerHalf
    kind: str
    learning_rate: float = 1.0
    momentum: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind} is none of {', '.join(KINDS)}")

    def half(self) -> ServerHalf:
        """The server's half around the inner one."""
        bare: Callable[[ServerState], ServerState] = lambda state: ServerState(state.adapter)  # noqa: E731
        dispatch: Callable[[ServerState, int, AdapterSize, int], Update] = lambda state, *rest: self.inner.dispatch(  # noqa: E731
            bare(state), *rest
        )
        model: Callable[[ServerState], Job] = lambda state: self.inner.model(bare(state))  # noqa: E731
        forms: Callable[[Update], Sequence[Update]] = self.inner.reply_forms
        return replace(
            self.inner,
            apply=self.apply,
            begin=self.begin,
            resize=self.resize,
            dispatch=dispatch,
            model=model,
            reply_forms=forms,
        )

    def begin(self, state: ServerState, round_number: int) -> ServerState:
        """The inner half's, with the moments as they are."""
        inner = ServerState(state.adapter)
        begun = self.inner.begin(inner, round_number)
        return state if begun is inner else ServerState(begun.adapter, state.tensors, state.numbers)

    def resize(self, state: ServerState, size: AdapterSize, seed: int) -> ServerState:
        """The inner half's. Moments of factors start anew when their size changes, for their coordinates have no meaning at
        another rank, and a line of the log says so; those of other groups go on.
        """
        inner = ServerState(state.adapter)
        resized = self.inner.resize(inner, size, seed)
        if resized is inner:
            return state
        old, new = state.adapter.factors, resized.adapter.factors
        other = [name for name in new if (len(old[name].a), old[name].scale) != (len(new[name].a), new[name].scale)]
        gone = {f"{moment} {group}.{name}" for moment in "mv" for name in other for group in PAIRS}
        if gone & state.tensors.keys():
            log.info("the rank changes to %d: the moments of the factors start anew", size.rank)
        kept = {name: tensor for name, tensor in state.tensors.items() if name not in gone}
        return ServerState(resized.adapter, kept, state.numbers)

    def apply(self, state: ServerState, updates: Iterable[Update]) -> ServerState:
        """One step in float64 along the inner half's result of ``updates``; the very same state when that has none."""
        old, trained = named_tensors(state.adapter), set[str]()

        def watch(update: Update) -> Update:
            tensors = named_tensors(update)
            trained.update(
                name for name, tensor in old.items() if name not in trained and not torch.equal(tensors[name], tensor)
            )
            return update

        inner = ServerState(state.adapter)
        after = self.inner.apply(inner, map(watch, updates))
        if after is inner:
            return state
        if self.kind == "sgd" and self.learning_rate == 1:  # x + (x' - x) may differ from x' by rounding
            return ServerState(after.adapter, numbers=state.numbers)
        new, moments = named_tensors(after.adapter), dict(state.tensors)
        for name in (name for name in old if name in trained):
            start = old[name].double()
            step = self._direction(name, new[name].double() - start, moments)
            new[name] = (start + self.learning_rate * step).to(new[name].dtype)
        return ServerState(with_tensors(after.adapter, new), moments, state.numbers)

    def _direction(self, name: str, change: Tensor, moments: dict[str, Tensor]) -> Tensor:
        """What η multiplies, from Δ_t and the moments of the tensor ``name``, which are brought up to date in ``moments``."""
        if self.kind == "sgd":
            return change
        plain = self.kind in ("momentum", "nesterov")
        fresh = change if plain else (1 - self.momentum) * change
        old = moments.get(f"m {name}")
        first = fresh if old is None else self.momentum * old + fresh
        moments[f"m {name}"] = first.contiguous()  # as a checkpoint wants it
        if plain:
            return first if self.kind == "momentum" else self.momentum * first + change
        known = moments.get(f"v {name}")
        second = self._second(torch.full_like(change, self.tau**2) if known is None else known, change.square())
        moments[f"v {name}"] = second.contiguous()
        return first / (second.sqrt() + self.tau)

    def _second(self, old: Tensor, square: Tensor) -> Tensor:
        if self.kind == "adagrad":
            return old + square
        if self.kind == "adam":
            return self.beta2 * old + (1 - self.beta2) * square
        return old - (1 - self.beta2) * square * torch.sign(old - square)
