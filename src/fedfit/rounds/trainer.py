"""The inner loop: a job on one device's samples, on the resident model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fedfit.core.personal import Pull
from fedfit.core.task import Task
from fedfit.core.update import Job, Update
from fedfit.data.batches import length_sorted_batches, training_batches
from fedfit.data.tokenize import Samples
from fedfit.errors import UpdateRefused
from fedfit.models.batch import mean_states
from fedfit.models.precision import autocast
from fedfit.models.split import SplitModel
from fedfit.models.trunk import Trunk
from fedfit.randomness import derive_seed
from fedfit.rounds.cluster import Cluster
from fedfit.rounds.hooks import GradientHooks
from fedfit.rounds.optimizers import add_pull, make_optimizer, pulled_to, rate_factor, set_rate, trained_parameters
from fedfit.rounds.reference import ReferenceValues
from fedfit.settings import TrainingSettings

_LOSS_BATCH = 32


@dataclass(frozen=True)
class Part:
    """One training of several that a device does in a round.

    Args:
        name: in the seeds of batches and dropout; none for the one that every device does.
        steps: in place of those of the recipe.
        pull: in place of ``training.proximal``.
    """

    name: tuple[str, ...] = ()
    steps: int | None = None
    pull: Pull | None = None


WHOLE = Part()


class Trainer:
    """Trains and measures jobs on one device's samples.

    Args:
        seed: of the run; batches and dropout are drawn from (seed, round, device).
        rounds: of the whole run, over which the learning rate's schedule stretches.
        cluster: the processes that train each batch together, if there are others.
    """

    def __init__(
        self,
        model: SplitModel,
        trunk: Trunk,
        task: Task,
        settings: TrainingSettings,
        seed: int,
        rounds: int,
        cluster: Cluster | None = None,
    ) -> None:
        self._cluster = cluster
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
        part: Part = WHOLE,
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
        seed = derive_seed(self._seed, "batches", round_number, device, *part.name)
        steps = part.steps or settings.local_steps
        plan = training_batches(samples.lengths[indices], settings.batch_size, settings.local_epochs, steps, seed)
        batches = [indices[batch] for batch in plan]
        self._trunk.prepare(samples, np.unique(np.concatenate(batches)))
        model.load(job)
        reference = None
        if self._reference is not None:
            reference = self._reference.values(samples, np.unique(np.concatenate(batches)))
        trained = model.adapter.train_only(model.adapter.groups if groups is None else groups)
        hooks = GradientHooks(job, model.adapter)
        pull = None
        if part.pull is not None:
            pull = part.pull.strength, pulled_to(part.pull.anchor, model.adapter.named_parameters(), trained)
        elif settings.proximal > 0:
            pull = settings.proximal, [parameter.detach().clone() for parameter in trained]
        step = _Step(self._model, self._trunk, self._task, settings, hooks, trained, reference, pull, self._cluster)
        total_loss, seen = torch.zeros((), device=model.device), 0
        model.train_mode(True, base_dropout=settings.dropout)
        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
            torch.manual_seed(derive_seed(self._seed, "dropout", round_number, device, *part.name))
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

    @torch.no_grad()
    def references(self, samples: Samples, indices: np.ndarray, device: int, count: int) -> torch.Tensor:
        """See ``core.personal.Local``; drawn from the run's seed and ``device``, ``(samples, hidden)`` on the CPU."""
        generator = np.random.default_rng(derive_seed(self._seed, "references", device))
        rows = np.sort(generator.choice(indices, min(count, len(indices)), replace=False))
        self._trunk.prepare(samples, rows)
        return torch.cat([mean_states(self._trunk.batch(samples, rows[[place]])).cpu() for place in range(len(rows))])

    @torch.no_grad()
    def loss(self, job: Job, samples: Samples, rows: np.ndarray) -> float:
        """The mean loss a sample of ``job`` over ``samples[rows]``, as training has it, without dropout."""
        model, total = self._model, 0.0
        self._trunk.prepare(samples, rows)
        model.load(job)
        reference = None if self._reference is None else self._reference.values(samples, rows)
        model.train_mode(False)
        for batch in length_sorted_batches(samples.lengths[rows], _LOSS_BATCH):
            chosen = rows[batch]
            found = batch_loss(model, self._trunk, self._task, samples, chosen, self._settings.precision, reference)
            total += float(found) * len(chosen)
        return total / len(rows)


def batch_loss(
    model: SplitModel,
    trunk: Trunk,
    task: Task,
    samples: Samples,
    batch: np.ndarray,
    precision: str,
    reference: Mapping[int, torch.Tensor] | None,
) -> torch.Tensor:
    """The mean loss of the resident model over ``samples[batch]``; ``reference`` holds the values of each row, if needed."""
    states = trunk.batch(samples, batch)
    targets = task.collate(samples, batch, model.device)
    if reference is not None and task.reference is not None:
        values = torch.stack([reference[row] for row in batch.tolist()])
        targets = task.reference.beside(targets, values)
    with autocast(model.device, precision):
        return task.loss(model.tail(states, task.positions(targets)), targets)


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
        pull: tuple[float, Sequence[torch.Tensor]] | None = None,
        cluster: Cluster | None = None,
    ) -> None:
        self.hooks, self._reference, self._pull, self._cluster = hooks, reference, pull, cluster
        self._model, self._trunk, self._task, self._settings = model, trunk, task, settings
        self._optimizer = make_optimizer(trained, settings)
        self._scaler = torch.amp.GradScaler(model.device.type, enabled=settings.precision == "fp16")

    def __call__(self, samples: Samples, batch: np.ndarray, rate: float) -> torch.Tensor:
        """A step at the learning rate ``rate`` over ``samples[batch]``; returns the loss before it."""
        settings, optimizer, scaler = self._settings, self._optimizer, self._scaler
        set_rate(optimizer, rate)
        optimizer.zero_grad()
        loss = self._backward(samples, batch)
        if self._pull is not None or settings.max_grad_norm > 0 or self.hooks.acts:
            scaler.unscale_(optimizer)
        self.hooks.before_clipping()
        if self._pull is not None:
            strength, anchors = self._pull
            add_pull(trained_parameters(optimizer), anchors, strength)
        if settings.max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(trained_parameters(optimizer), settings.max_grad_norm)
        self.hooks.after_clipping()
        scaler.step(optimizer)
        scaler.update()
        self.hooks.rate_sum += rate
        return loss

    def _backward(self, samples: Samples, batch: np.ndarray) -> torch.Tensor:
        """Puts the gradients of the batch's loss in place, scaled where the precision asks for it; returns the loss."""
        cluster, task = self._cluster, self._task
        mine = batch if cluster is None else cluster.part(batch)
        loss = torch.zeros((), device=self._model.device)
        if len(mine):
            found = batch_loss(self._model, self._trunk, task, samples, mine, self._settings.precision, self._reference)
            loss = found if cluster is None else found * share_of(task, samples, mine, batch)
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if cluster is None:
            return loss.detach()
        cluster.sum_gradients(trained_parameters(self._optimizer))
        return cluster.sum(loss.detach())


def share_of(task: Task, samples: Samples, part: np.ndarray, batch: np.ndarray) -> float:
    """The weight of a part's loss in that of the batch: a mean over the positions that are read, or over rows where the loss
    compares with a reference.
    """
    if task.reference is not None:
        return len(part) / len(batch)
    reads = task.reads(samples)
    return float(reads[part].sum() / reads[batch].sum())
