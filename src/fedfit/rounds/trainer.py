"""The devices' side of a round: read the order, train the tail, answer, remember."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch

from fedfit.aggregation.contract import Rule
from fedfit.codecs.contract import Codec
from fedfit.core.messages import Order, Reply
from fedfit.core.task import Task
from fedfit.core.update import Job, Memory, Update
from fedfit.data.batches import training_batches
from fedfit.data.tokenize import Samples
from fedfit.errors import UpdateRefused
from fedfit.models.precision import autocast
from fedfit.models.split import SplitModel
from fedfit.models.trunk import Trunk
from fedfit.randomness import derive_seed
from fedfit.rounds.hooks import GradientHooks
from fedfit.rounds.memories import Memories
from fedfit.rounds.optimizers import add_pull, make_optimizer, rate_factor, set_rate, trained_parameters
from fedfit.rounds.reference import ReferenceValues
from fedfit.settings import TrainingSettings


class Devices:
    """Every device of a federation in this process, one after another on the one resident model; also their link.

    A switch of device copies the trainable tensors in place and makes a new optimiser; nothing else is built, and nothing
    of the last device is left: every trainable tensor is overwritten, and the optimiser starts from zero.

    Args:
        parts: each device's indices into ``samples``.
        initial: the adapter that each device draws itself from the recipe's seed: a rule need not send it.
        seed: of the run; a codec's draws are from (seed, round, device).
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
    ) -> None:
        self._seed = seed
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
            memory = self._memories.read(order.device, order.round)
            received = self._downlink.decode(order.packet)
            job = self._rule.device.receive(completed(received, self._initial), memory)
            indices = self._parts[order.device]
            trained = self._trainer.train(job, self._samples, indices, order.round, order.device, order.trains)
            update, kept = self._rule.device.send(job, trained, memory)
            if kept is not None:
                _check_finite(kept)
            groups = job.update.present
            own = update.present - groups
            travels = self._rule.traits.uplink_groups(order.round, groups) | own
            seed = derive_seed(self._seed, "uplink", order.round, order.device)
            packet, _ = self._uplink.encode(update.only(travels), received, seed)
            if kept is not None:
                self._memories.write(order.device, order.round, kept)
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


class Trainer:
    """The inner loop: a job on one device's samples, on the resident model.

    Args:
        seed: of the run; batches and dropout are drawn from (seed, round, device).
        rounds: of the whole run, over which the learning rate's schedule stretches.
    """

    def __init__(self, model: SplitModel, trunk: Trunk, task: Task, settings: TrainingSettings, seed: int, rounds: int) -> None:
        self._model, self._trunk, self._task, self._settings = model, trunk, task, settings
        self._seed, self._rounds = seed, rounds
        self._reference = None if task.reference is None else ReferenceValues(model, trunk, task, settings.precision)
        self.steps_done = 0
        """Steps since this object was made; read by progress bars."""

    def train(
        self,
        job: Job,
        samples: Samples,
        indices: np.ndarray,
        round_number: int,
        device: int,
        groups: frozenset[str] | None = None,
    ) -> Update:
        """One round on one device over ``samples[indices]``; only ``groups`` of the adapter are trained, all when ``None``.

        Returns:
            The trained update: weight is the number of samples, facts are ``steps`` and ``train_loss`` (mean loss a sample,
            without the terms of ``training.proximal`` and of ``job.penalty``); with a ``job.correction`` also
            ``learning_rate_sum``, over the steps.

        Raises:
            UpdateRefused: when the loss is not finite.
        """
        settings, model = self._settings, self._model
        seed = derive_seed(self._seed, "batches", round_number, device)
        plan = training_batches(
            samples.lengths[indices], settings.batch_size, settings.local_epochs, settings.local_steps, seed
        )
        batches = [indices[batch] for batch in plan]
        self._trunk.prepare(samples, np.unique(np.concatenate(batches)))
        model.load(job)
        reference = None
        if self._reference is not None:
            reference = self._reference.values(samples, np.unique(np.concatenate(batches)))
        trained = model.adapter.train_only(model.adapter.groups if groups is None else groups)
        hooks = GradientHooks(job, model.adapter)
        step = _Step(self._model, self._trunk, self._task, settings, hooks, trained, reference)
        total_loss, seen = torch.zeros((), device=model.device), 0
        model.train_mode(True, base_dropout=settings.dropout)
        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
            torch.manual_seed(derive_seed(self._seed, "dropout", round_number, device))
            for number, batch in enumerate(batches):
                progress = (round_number - 1 + number / len(batches)) / self._rounds
                total_loss += step(samples, batch, settings.learning_rate * rate_factor(progress, settings)) * len(batch)
                seen += len(batch)
                self.steps_done += 1
        model.train_mode(False)
        train_loss = float(total_loss) / seen
        if not math.isfinite(train_loss):
            raise UpdateRefused(f"the training loss became {train_loss}; a lower training.learning_rate may help")
        facts: dict[str, int | float] = {"steps": len(batches), "train_loss": train_loss}
        if job.correction:
            facts["learning_rate_sum"] = step.hooks.rate_sum
        return model.adapter.snapshot(float(len(indices)), facts)


class _Step:
    """One optimiser step after another on the trained parameters of one device."""

    def __init__(
        self,
        model: SplitModel,
        trunk: Trunk,
        task: Task,
        settings: TrainingSettings,
        hooks: GradientHooks,
        trained: Sequence[torch.nn.Parameter],
        reference: Mapping[int, torch.Tensor] | None = None,
    ) -> None:
        self.hooks, self._reference = hooks, reference
        self._model, self._trunk, self._task, self._settings = model, trunk, task, settings
        self._anchors = [parameter.detach().clone() for parameter in trained] if settings.proximal > 0 else []
        self._optimizer = make_optimizer(trained, settings)
        self._scaler = torch.amp.GradScaler(model.device.type, enabled=settings.precision == "fp16")

    def __call__(self, samples: Samples, batch: np.ndarray, rate: float) -> torch.Tensor:
        """A step at the learning rate ``rate`` over ``samples[batch]``; returns the loss before it."""
        settings, optimizer, scaler = self._settings, self._optimizer, self._scaler
        set_rate(optimizer, rate)
        states = self._trunk.batch(samples, batch)
        targets = self._task.collate(samples, batch, self._model.device)
        if self._reference is not None and self._task.reference is not None:
            values = torch.stack([self._reference[row] for row in batch.tolist()])
            targets = self._task.reference.beside(targets, values)
        with autocast(self._model.device, settings.precision):
            loss = self._task.loss(self._model.tail(states, self._task.positions(targets)), targets)
        optimizer.zero_grad()
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if settings.proximal > 0 or settings.max_grad_norm > 0 or self.hooks.acts:
            scaler.unscale_(optimizer)
        self.hooks.before_clipping()
        if settings.proximal > 0:
            add_pull(trained_parameters(optimizer), self._anchors, settings.proximal)
        if settings.max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(trained_parameters(optimizer), settings.max_grad_norm)
        self.hooks.after_clipping()
        scaler.step(optimizer)
        scaler.update()
        self.hooks.rate_sum += rate
        return loss.detach()
