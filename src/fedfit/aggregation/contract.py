"""The contract of an aggregation rule: traits, a server's half and a device's half.

A rule is functions, state in and state out, with no state of their own. It is put together, not derived: the halves have the
defaults of FedAvg for all that a paper leaves unchanged. One update is in memory at a time, unless a rule says what it keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedfit.aggregation.resize import resize_update
from fedfit.core.update import AdapterSize, Job, Memory, ServerState, Update
from fedfit.errors import Fault
from fedfit.settings import Recipe


def _no_groups(round_number: int) -> frozenset[str]:
    return frozenset()


@dataclass(frozen=True)
class Traits:
    """What others must know of a rule before it runs. Plain values: nothing here names a tensor.

    Args:
        needs: ``pairs`` for a rule that works on LoRA factors, ``tensors`` for one that takes any group.
        mixed_ranks: devices may train at different ranks, up to the global one, in one round.
        fixed_rank: the global rank must stay that of the first round.
        uniform: devices weigh alike by default, in place of their samples.
        supports_server_optimizer: the state is the global adapter itself and each coordinate means the same from round to
            round, so that a server optimiser can keep moments of it.
        linear: the server's step is a weighted sum of the updates, as secure aggregation asks.
        shares: devices share something; false for a rule whose devices each train alone.
        private: groups that never leave a device. Each device then has a model of its own.
        derivable: dispatched groups that every device can derive from the model's own initial draw.
        exact: groups of the rule's own that no codec may round.
        frozen: groups that devices do not train in a round.
        recoded: groups that travel in a round in another form, as groups of the rule's own.
        downlink_density, uplink_density: the share of the pairs' numbers that is not zero, and travels.
    """

    needs: str = "tensors"
    mixed_ranks: bool = False
    fixed_rank: bool = False
    uniform: bool = False
    supports_server_optimizer: bool = True
    linear: bool = True
    shares: bool = True
    private: frozenset[str] = frozenset()
    derivable: frozenset[str] = frozenset()
    exact: frozenset[str] = frozenset()
    frozen: Callable[[int], frozenset[str]] = _no_groups
    recoded: Callable[[int], frozenset[str]] = _no_groups
    downlink_density: float = 1.0
    uplink_density: float = 1.0

    @property
    def personal(self) -> bool:
        """Whether each device has a model of its own, and none is global."""
        return bool(self.private) or not self.shares

    def trained(self, round_number: int, groups: frozenset[str]) -> frozenset[str]:
        """The groups, of the adapter's ``groups``, that devices train in this round."""
        return groups - self.frozen(round_number)

    def downlink_groups(self, round_number: int, groups: frozenset[str]) -> frozenset[str]:
        """The groups, of the adapter's ``groups``, that travel to devices."""
        return self._shared(groups) - self.derivable - self.recoded(round_number)

    def uplink_groups(self, round_number: int, groups: frozenset[str]) -> frozenset[str]:
        """The groups, of the adapter's ``groups``, that travel back."""
        return self._shared(self.trained(round_number, groups)) - self.recoded(round_number)

    def _shared(self, groups: frozenset[str]) -> frozenset[str]:
        return groups - self.private if self.shares else frozenset()


def _keep(state: ServerState, round_number: int) -> ServerState:
    return state


def _resize(state: ServerState, size: AdapterSize, seed: int) -> ServerState:
    adapter = resize_update(state.adapter, size, seed)
    return state if adapter is state.adapter else ServerState(adapter, state.tensors, state.numbers)


def _model(state: ServerState) -> Job:
    return Job(state.adapter)


def _max_rank(adapter: Update) -> int:
    return adapter.rank


def _reply_forms(sent: Update) -> Sequence[Update]:
    return (sent,)


def whole_adapter(state: ServerState, device: int, size: AdapterSize, seed: int) -> Update:
    """The global adapter as it is.

    Raises:
        ValueError: when ``size`` is not that of the global adapter; factors of different ranks have no mean.
    """
    check_size(state, size, "the global adapter must have the size of its devices; resize it first")
    return state.adapter


def same_size(state: ServerState, size: AdapterSize, seed: int) -> ServerState:
    """The state as it is; the ``resize`` of a rule whose rank is fixed.

    Raises:
        ValueError: for another size than the adapter's own.
    """
    check_size(state, size, "devices hold tensors of the first rank and scale")
    return state


def check_size(state: ServerState, size: AdapterSize, why: str) -> None:
    """Holds every pair of the global adapter to ``size``.

    Raises:
        ValueError: with ``why`` when a pair has another size.
    """
    if any(AdapterSize(len(pair.a), pair.scale) != size for pair in state.adapter.factors.values()):
        raise ValueError(f"{why}; {size} is another size")


def train_received(received: Update, memory: Memory | None) -> Job:
    """A job of the received update, as it is."""
    return Job(received)


def send_trained(job: Job, trained: Update, memory: Memory | None) -> tuple[Update, Memory | None]:
    """The trained update, as it is; the device keeps nothing."""
    return trained, None


@dataclass(frozen=True)
class ServerHalf:
    """What a rule does on the server. Every function is pure; the defaults are FedAvg's.

    Args:
        apply: the state after a round, from a stream of updates; the very same object when there is no update.
        init: the state before the first round, from the freshly drawn global adapter.
        begin: the state that a round goes on from. A failed round is retried from the same state, so whatever varies by round
            must follow from the round's number.
        resize: the state with the global adapter at another rank, from a seed.
        dispatch: the update that a device is sent, from the state, the device, its size and a seed. Groups beside the adapter's
            are the rule's own, and travel as they are. The size is the global adapter's, unless ranks may be mixed.
        reply_forms: the forms that a reply to an update may have, the largest first.
        model: what the global model is loaded with.
        max_rank: the highest rank that is ever loaded, from the freshly drawn adapter.
        downlink_extra_bytes, uplink_extra_bytes: the most that travels beside the groups of an adapter in one packet.
    """

    apply: Callable[[ServerState, Iterable[Update]], ServerState]
    init: Callable[[Update], ServerState] = ServerState
    begin: Callable[[ServerState, int], ServerState] = _keep
    resize: Callable[[ServerState, AdapterSize, int], ServerState] = _resize
    dispatch: Callable[[ServerState, int, AdapterSize, int], Update] = whole_adapter
    reply_forms: Callable[[Update], Sequence[Update]] = _reply_forms
    model: Callable[[ServerState], Job] = _model
    max_rank: Callable[[Update], int] = _max_rank
    downlink_extra_bytes: Callable[[Update], int] = field(default=lambda adapter: 0)
    uplink_extra_bytes: Callable[[Update], int] = field(default=lambda adapter: 0)


@dataclass(frozen=True)
class DeviceHalf:
    """What a rule does on a device.

    Args:
        receive: the device's job, from the received update and its memory (``None`` the first time). Refuses, with
            ``UpdateRefused``, what does not fit its memory.
        send: the update that goes back, and the next memory (``None`` to keep nothing), from the job, the trained update and
            the memory.
    """

    receive: Callable[[Update, Memory | None], Job] = train_received
    send: Callable[[Job, Update, Memory | None], tuple[Update, Memory | None]] = send_trained


@dataclass(frozen=True)
class Rule:
    """An aggregation rule, ready to run."""

    traits: Traits
    server: ServerHalf
    device: DeviceHalf = field(default_factory=DeviceHalf)


@dataclass(frozen=True)
class Context:
    """What a rule may depend on beside its keys: the run's seed, and the number of devices that hold data."""

    seed: int = 0
    holders: int = 1


def no_faults(recipe: Recipe, keys: Any) -> Iterator[Fault]:
    """No fault."""
    return iter(())


@dataclass(frozen=True)
class RuleEntry:
    """A rule as the table holds it.

    Args:
        make: the rule, from its keys and a context.
        keys: the dataclass of the keys in ``[federation.<name>]``; ``None`` for a rule without keys.
        faults: what must hold between the rule's keys and the rest of a recipe.
    """

    make: Callable[[Any, Context], Rule]
    keys: type[Any] | None = None
    faults: Callable[[Recipe, Any], Iterator[Fault]] = no_faults

    def default_keys(self) -> Any:
        """The keys at their defaults."""
        return None if self.keys is None else self.keys()

    def traits(self, keys: Any = None) -> Traits:
        """The traits of the rule that ``keys`` make; at the defaults when they are ``None``."""
        return self.make(keys if keys is not None else self.default_keys(), Context()).traits


def entry_of(rule: Rule) -> RuleEntry:
    """The entry of a rule without keys."""
    return RuleEntry(lambda keys, context: rule)
