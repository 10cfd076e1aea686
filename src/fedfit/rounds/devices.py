"""The devices' side of a round: read the order, train the tail, answer, remember."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from fedfit.aggregation.contract import Rule
from fedfit.codecs.contract import Codec
from fedfit.core.messages import Order, Reply
from fedfit.core.personal import Personal
from fedfit.core.update import Memory, Update
from fedfit.data.tokenize import Samples
from fedfit.errors import UpdateRefused
from fedfit.randomness import derive_seed
from fedfit.rounds.local import LocalRound
from fedfit.rounds.memories import Kept, Memories, joined, parted
from fedfit.rounds.trainer import Trainer


class Devices:
    """Every device of a federation in this process, one after another on the one resident model; also their link.

    A switch of device copies the trainable tensors in place and makes a new optimiser; nothing else is built, and nothing
    of the last device is left: every trainable tensor is overwritten, and the optimiser starts from zero.

    Args:
        parts: each device's indices into ``samples``.
        initial: the adapter that each device draws itself from the recipe's seed: a rule need not send it.
        seed: of the run; a codec's draws are from (seed, round, device).
        personal: a method by which devices have models of their own besides.
    """

    def __init__(
        self,
        rule: Rule,
        trainer: Trainer,
        uplink: Codec,
        downlink: Codec,
        memories: Memories,
        initial: Update | None,
        samples: Samples,
        parts: Sequence[np.ndarray],
        *,
        seed: int,
        personal: Personal | None = None,
    ) -> None:
        self._seed, self._personal = seed, personal
        self._rule, self._trainer, self._uplink, self._downlink = rule, trainer, uplink, downlink
        self._memories, self._initial, self._samples, self._parts = memories, initial, samples, parts

    def exchange(self, orders: Iterable[Order], deadline_s: float | None = None) -> Iterator[Reply]:
        """Trains each order's device when its reply is asked for. A device that takes longer than ``deadline_s`` is lost."""
        for order in orders:
            reply = self.answer(order)
            if deadline_s is None or reply.seconds <= deadline_s:
                yield reply

    def answer(self, order: Order) -> Reply:
        """One device's round. A device that cannot answer remembers nothing of the round.

        Its memory of an answer stays when the server then refuses that: the device is not notified.
        """
        started = time.perf_counter()
        packet, refusal = None, None
        try:
            kept = parted(self._memories.read(order.device, order.round))
            memory, own = kept.rule, kept.own
            received = self._downlink.decode(order.packet)
            job = self._rule.device.receive(completed(received, self._initial), memory)
            indices = self._parts[order.device]
            if self._personal is None:
                trained = self._trainer.train(job, self._samples, indices, order.round, order.device, order.trains)
            else:
                local = LocalRound(self._trainer, self._samples, indices, order.round, order.device, trains=order.trains)
                trained, own = self._personal.train(local, job, own)
                trained = local.counted(trained)
            update, memory = self._rule.device.send(job, trained, memory)
            groups = job.update.present
            extra = update.present - groups
            travels = self._rule.traits.uplink_groups(order.round, groups) | extra
            seed = derive_seed(self._seed, "uplink", order.round, order.device)
            made, state = self._uplink.encode(update.only(travels), received, seed, kept.codec)
            remembered = joined(Kept(memory, own, state))
            if remembered is not None:
                _check_finite(remembered)
                self._memories.write(order.device, order.round, remembered)
            packet = made
        except UpdateRefused as error:
            refusal = str(error)
        return Reply(order.round, order.device, packet, refusal, time.perf_counter() - started)


def completed(update: Update, reference: Update | None) -> Update:
    """``update`` with the groups of ``reference`` that it lacks: those that the receiver holds itself."""
    if reference is None:
        return update
    missing = {name: tensors for name, tensors in reference.groups.items() if name not in update.groups}
    return update.with_groups(missing) if missing else update


def _check_finite(memory: Memory) -> None:
    """Nobody else sees a memory, and a device whose numbers are not finite would never get out of it."""
    for name, tensor in memory.tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UpdateRefused(f"{name} is not finite; a lower training.learning_rate may help")
