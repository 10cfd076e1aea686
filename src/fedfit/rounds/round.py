"""One round's exchange on the server: orders out, replies in, and which of them count."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from fedfit.core.checks import check_finite, check_form, check_weight
from fedfit.core.messages import Order, Packet, Reply
from fedfit.core.update import Fact, Origin, ServerState, Update, grouped, named_tensors
from fedfit.errors import UpdateRefused
from fedfit.plans import Plan
from fedfit.randomness import derive_seed
from fedfit.records import DeviceRecord
from fedfit.rounds.devices import completed
from fedfit.rounds.federation import Federation


def choose_devices(eligible: Sequence[int], count: int, seed: int, round_number: int) -> list[int]:
    """The devices of a round, ascending: ``count``, or all where there are fewer, drawn without replacement."""
    generator = np.random.default_rng(derive_seed(seed, "devices", round_number))
    return sorted(int(device) for device in generator.choice(eligible, size=min(count, len(eligible)), replace=False))


@dataclass(frozen=True)
class Sent:
    """An order as the server remembers it."""

    size_bytes: int
    update: Update
    packet: Packet | None = None
    """What was sent, where the uplink refers to it."""


class Exchange:
    """One round's exchange: a stream of usable updates, and a record of every device behind it.

    Without a ``plan`` nothing is charged, and every device trains the rank that the federation gives it. Each order has a
    reply, a refusal, or is lost, and each of these is recorded once. A second reply of a device, a reply of another round and
    one from a device that was not asked are recorded beside them, and never count.
    """

    def __init__(self, federation: Federation, round_number: int, plan: Plan | None) -> None:
        self._federation, self._round, self._plan = federation, round_number, plan
        self._sent: dict[int, Sent] = {}
        self._answered: set[int] = set()
        self.records: list[DeviceRecord] = []
        self.dispatch_seconds = 0.0

    def updates(self, state: ServerState, devices: Sequence[int]) -> Iterator[Update]:
        """Usable updates as they arrive; the others are recorded and left out."""
        asked = [device for device in devices if not self._left_out(device)]
        for device in devices:
            if self._left_out(device):
                self._record(Reply(self._round, device, None, None, 0.0), 0, {}, None)
        for reply in self._federation.link.exchange(self._orders(state, asked), self._federation.reply_deadline_s):
            stray = self._stray(reply)
            if stray is not None:
                self._record_stray(reply, stray)
                continue
            sent = self._sent.pop(reply.device)
            self._answered.add(reply.device)
            update, refusal = self._read(reply, sent)
            refusal = self._record(reply, sent.size_bytes, update.facts if update is not None else {}, refusal)
            del reply  # the packet, and below the update, before the next is made
            if update is not None and refusal is None:
                yield update
            del update
        for device, sent in sorted(self._sent.items()):
            self._record(Reply(self._round, device, None, None, 0.0), sent.size_bytes, {}, self._lost())
        self._sent.clear()

    def _left_out(self, device: int) -> bool:
        return self._plan is not None and self._plan.assignments[device].refusal is not None

    def _lost(self) -> str:
        deadline_s = self._federation.reply_deadline_s
        return "no reply" if deadline_s is None else f"no reply within {deadline_s:g} s"

    def _stray(self, reply: Reply) -> str | None:
        """The reason that a reply belongs to no order that is open; ``None`` where it does."""
        if reply.round != self._round:
            return f"a reply of round {reply.round}; this is round {self._round}"
        if reply.device in self._answered:
            return "a second reply; the first one decided"
        return None if reply.device in self._sent else "a reply that nobody asked for"

    def _record_stray(self, reply: Reply, reason: str) -> None:
        """A line of its own: the bytes were sent, and nothing is charged, since the device's own order is charged once."""
        uplink_bytes = reply.packet.size_bytes if reply.packet is not None else 0
        known = 0 <= reply.device < len(self._federation.samples)
        samples = self._federation.samples[reply.device] if known else 0
        self.records.append(
            DeviceRecord(self._round, reply.device, samples, 0, None, uplink_bytes, 0, reply.seconds, reason, stray=True)
        )

    def _record(self, reply: Reply, downlink_bytes: int, facts: Mapping[str, Fact], refusal: str | None) -> str | None:
        """Charges and records one device; returns the reason that its update does not count, if there is one."""
        uplink_bytes = reply.packet.size_bytes if reply.packet is not None else 0
        cost, rank = None, None
        clock = self._federation.clock
        if clock is not None and self._plan is not None:
            cost, late = clock.charge(self._plan, self._round, reply.device, downlink_bytes, uplink_bytes)
            refusal, rank = refusal or late, self._plan.assignments[reply.device].rank
        train_loss = facts.get("train_loss")
        self.records.append(
            DeviceRecord(
                round=self._round,
                device=reply.device,
                samples=self._federation.samples[reply.device],
                steps=int(facts.get("steps", 0)),
                train_loss=None if train_loss is None else float(train_loss),
                uplink_bytes=uplink_bytes,
                downlink_bytes=downlink_bytes,
                seconds=reply.seconds,
                refused=refusal,
                rank=rank,
                cost=cost,
            )
        )
        return refusal

    def _orders(self, state: ServerState, devices: Sequence[int]) -> Iterator[Order]:
        federation, traits = self._federation, self._federation.rule.traits
        trains = traits.trained(self._round, federation.groups)
        for device in devices:
            rank = federation.ranks[device] if self._plan is None else self._plan.assignments[device].rank
            origin = Origin(device, derive_seed(federation.seed, "dispatch", self._round, device))
            started = time.perf_counter()
            update = federation.rule.server.dispatch(state, device, federation.size(rank), origin.seed)
            self.dispatch_seconds += time.perf_counter() - started
            own = update.present - federation.groups
            travels = traits.downlink_groups(self._round, federation.groups) | own
            seed = derive_seed(federation.seed, "downlink", self._round, device)
            packet, _ = federation.downlink.encode(update.only(travels), seed=seed)
            kept = packet if getattr(federation.uplink, "refers", False) else None
            self._sent[device] = Sent(packet.size_bytes, replace(update, origin=origin), kept)
            yield Order(self._round, device, packet, trains)

    def _read(self, reply: Reply, order: Sent) -> tuple[Update | None, str | None]:
        """The reply's update, or the reason that it does not count."""
        if reply.packet is None:
            return None, reply.refusal or "the device sent nothing"
        federation, sent = self._federation, order.update
        forms = federation.rule.server.reply_forms(sent)
        try:
            most_bytes = federation.uplink.most_bytes(forms[0])
            if reply.packet.size_bytes > most_bytes:
                raise UpdateRefused(f"the packet has {reply.packet.size_bytes} bytes; the order allows {most_bytes}")
            seen = None if order.packet is None else federation.downlink.decode(order.packet)
            found = federation.uplink.decode(reply.packet, forms[0] if seen is None else overlaid(forms[0], seen))
            self._check_groups(found, forms[0])
            update = completed(found, forms[0])
            check_form(update, forms)
            check_finite(update)
            check_weight(update, federation.samples[reply.device])
            _check_facts(update)
        except UpdateRefused as refusal:
            return None, str(refusal)
        weight = 1.0 if federation.uniform else update.weight
        return replace(update, weight=weight, origin=sent.origin), None

    def _check_groups(self, found: Update, form: Update) -> None:
        """Holds a reply to the groups that are due: a group that is missing must not be taken from the order."""
        federation = self._federation
        due = federation.rule.traits.uplink_groups(self._round, federation.groups) | (form.present - federation.groups)
        if found.present != due & form.present:
            raise UpdateRefused(f"the packet holds {sorted(found.present)}, wanted {sorted(due & form.present)}")


def overlaid(form: Update, seen: Update) -> Update:
    """The tensors of ``form`` with what the device has ``seen`` of them: zeros where that is nothing, or of another shape."""
    there = named_tensors(seen)
    groups = {
        name: there[name] if name in there and there[name].shape == tensor.shape else torch.zeros_like(tensor)
        for name, tensor in named_tensors(form).items()
    }
    return replace(form, groups=grouped(groups))


def _check_facts(update: Update) -> None:
    """Holds the facts that are recorded to their types."""
    steps, loss = update.facts.get("steps", 0), update.facts.get("train_loss", 0.0)
    if type(steps) is not int or steps < 0:
        raise UpdateRefused(f"the fact steps is {steps!r}, not a number of steps")
    if type(loss) not in (int, float):
        raise UpdateRefused(f"the fact train_loss is {loss!r}, not a number")
