"""The inner loop on a device: load what the server sent, train the tail, hand back the update."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch.nn import functional

from fedfit.data.batches import training_batches
from fedfit.data.tokenize import Samples
from fedfit.errors import UpdateRefused
from fedfit.models.precision import autocast
from fedfit.models.split import SplitModel
from fedfit.models.trunk import Trunk
from fedfit.randomness import derive_seed
from fedfit.records import PARTS, Task, Update
from fedfit.rounds.guide import Guide
from fedfit.settings import TrainingSettings


class Client:
    """Trains one device after another on the one resident model.

    A switch of device copies the trainable tensors in place and makes a new optimiser; nothing else is built, and nothing
    of the last device is left: every trainable tensor is overwritten, and the optimiser starts from zero.

    Args:
        seed: of the run; batches and dropout are drawn from (seed, round, device).
        rounds: of the whole run, over which the learning rate's schedule stretches.
    """

    def __init__(self, model: SplitModel, trunk: Trunk, settings: TrainingSettings, seed: int, rounds: int) -> None:
        self._model, self._trunk, self._settings = model, trunk, settings
        self._seed, self._rounds = seed, rounds
        self.steps_done = 0
        """Steps since this object was made; read by progress bars."""

    def train(
        self,
        task: Task,
        samples: Samples,
        indices: np.ndarray,
        round_number: int,
        device: int,
        parts: frozenset[str] = PARTS,
    ) -> Update:
        """One round on one device over ``samples[indices]``; only ``parts`` of ``a``, ``b`` and ``head`` are trained.

        Returns:
            The trained update: weight is the number of samples, metrics are ``steps`` and ``train_loss`` (mean
            cross-entropy in nats a sample seen, without the terms of ``training.proximal`` and of ``task.penalty``); with a
            ``task.correction`` also ``learning_rate_sum``, over the steps.

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
        model.load(task)
        trained = model.adapter.train_only(parts)
        guide = Guide(task, model.adapter)
        anchors = [parameter.detach().clone() for parameter in trained] if settings.proximal > 0 else []
        optimizer = make_optimizer(trained, settings)
        scaler = torch.amp.GradScaler(model.device.type, enabled=settings.precision == "fp16")
        model.train_mode(True, base_dropout=settings.dropout)
        total_loss, seen = torch.zeros((), device=model.device), 0
        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
            torch.manual_seed(derive_seed(self._seed, "dropout", round_number, device))
            for step, batch in enumerate(batches):
                progress = (round_number - 1 + step / len(batches)) / self._rounds
                for group in optimizer.param_groups:
                    group["lr"] = settings.learning_rate * rate_factor(progress, settings)
                total_loss += self._step(samples, batch, optimizer, scaler, anchors, guide) * len(batch)
                guide.rate_sum += optimizer.param_groups[0]["lr"]
                seen += len(batch)
                self.steps_done += 1
        model.train_mode(False)
        train_loss = float(total_loss) / seen
        if not math.isfinite(train_loss):
            raise UpdateRefused(f"the training loss became {train_loss}; a lower training.learning_rate may help")
        metrics = {"steps": len(batches), "train_loss": train_loss}
        if task.correction:
            metrics["learning_rate_sum"] = guide.rate_sum
        return model.adapter.snapshot(float(len(indices)), metrics)

    def _step(
        self,
        samples: Samples,
        batch: np.ndarray,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        anchors: Sequence[torch.Tensor],
        guide: Guide,
    ) -> torch.Tensor:
        model, settings = self._model, self._settings
        hidden, lengths = self._trunk.batch(samples, batch)
        labels = torch.from_numpy(samples.labels[batch]).to(model.device)
        with autocast(model.device, settings.precision):
            loss = functional.cross_entropy(model.tail(hidden, lengths).float(), labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if settings.proximal > 0 or settings.max_grad_norm > 0 or guide.acts:
            scaler.unscale_(optimizer)
        guide.before_clipping()
        if settings.proximal > 0:
            add_pull(trained_parameters(optimizer), anchors, settings.proximal)
        if settings.max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(trained_parameters(optimizer), settings.max_grad_norm)
        guide.after_clipping()
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()


def trained_parameters(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    """What ``optimizer`` steps, in its order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@torch.no_grad()
def add_pull(parameters: Sequence[torch.nn.Parameter], anchors: Sequence[torch.Tensor], strength: float) -> None:
    """Adds the gradient of FedProx's term: ``μ/2·‖θ − θ_received‖²`` pulls by ``μ·(θ − θ_received)``.

    Before clipping: what is clipped is the gradient of the whole objective, as in every other use of the optimiser.
    A parameter without a gradient is not stepped, so it has not left its anchor.

    Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, arXiv 1812.06127.

    Args:
        anchors: θ_received, in the order of ``parameters``.
        strength: μ.
    """
    for parameter, anchor in zip(parameters, anchors, strict=True):
        if parameter.grad is not None:
            parameter.grad.add_(parameter - anchor, alpha=strength)


def make_optimizer(parameters: Iterable[torch.nn.Parameter], settings: TrainingSettings) -> torch.optim.Optimizer:
    """A fresh optimiser; one fused kernel updates all tensors."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=settings.momentum, weight_decay=decay, fused=True)
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True)


def rate_factor(progress: float, settings: TrainingSettings) -> float:
    """The share of the peak learning rate at ``progress`` ∈ [0, 1) of the whole run: warm-up, then the decay."""
    if progress < settings.warmup:
        return progress / settings.warmup
    rest = (progress - settings.warmup) / (1 - settings.warmup) if settings.warmup < 1 else 0.0
    if settings.schedule == "linear":
        return 1 - rest
    if settings.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * rest))
    return 1.0
