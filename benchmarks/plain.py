"""The contenders that fedfit is measured against: a plain PEFT loop, a deep copy a device, a ``Trainer`` a device."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from benchmarks.meters import StepClock, synchronize
from benchmarks.work import Case, Work
from fedfit.models.layers import select_layers
from fedfit.models.load import locate
from fedfit.models.precision import autocast

_DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")


@dataclass(frozen=True)
class Block:
    """One contender on one device.

    ``steps_s`` are the seconds of each step. ``setup_s`` is what a device costs beside its steps; ``prepare_s`` what of
    each step's seconds is the trunk's share, when the cache is being filled. ``samples`` and ``tokens`` (padding
    included) are what went through the model.
    """

    steps_s: list[float]
    setup_s: float
    samples: int
    tokens: int
    prepare_s: float = 0.0


def build_plain(case: Case, labels: int) -> Any:
    """Model and adapter as most people write it. Without dropout, the base's probabilities are 0."""
    folder = locate(case.location)
    config = AutoConfig.from_pretrained(folder, num_labels=labels)
    if not case.dropout:
        for name in _DROPOUTS:
            setattr(config, name, 0.0)
    model = AutoModelForSequenceClassification.from_pretrained(folder, config=config, dtype=torch.float32)
    lora = LoraConfig(
        task_type="SEQ_CLS",
        r=case.adapter.rank,
        lora_alpha=case.adapter.alpha,
        target_modules=list(case.adapter.targets),
        layers_to_transform=list(select_layers(case.adapter.layers, config.num_hidden_layers)),
    )
    return get_peft_model(model, lora).to(case.torch_device)


def trainable(model: Any) -> dict[str, torch.nn.Parameter]:
    """Trainable parameters by their name in the base model: ``….query.lora_A``, ``classifier.weight``."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            short = name.removeprefix("base_model.model.").replace(".modules_to_save.default", "")
            found[short.removesuffix(".default.weight")] = parameter
    return found


@torch.no_grad()
def load(model: Any, tensors: Mapping[str, Tensor]) -> None:
    """Copies ``tensors`` into the trainable parameters of the same names; a stranger on either side is an error."""
    parameters = trainable(model)
    if parameters.keys() != tensors.keys():
        raise KeyError(f"trainable on one side alone: {sorted(parameters.keys() ^ tensors.keys())}")
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])


def padded(work: Work, indices: np.ndarray, max_tokens: int, pad: int) -> dict[str, Tensor]:
    """Samples as a tokenizer with ``padding="max_length"`` gives them."""
    ids = np.full((len(indices), max_tokens), pad, dtype=np.int64)
    for row, index in enumerate(indices):
        tokens = work.samples.ids_of(index)
        ids[row, : len(tokens)] = tokens
    mask = np.arange(max_tokens) < work.samples.lengths[indices][:, None]
    labels = work.samples.classes[indices]
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(mask.astype(np.int64)),
        "labels": torch.from_numpy(labels),
    }


class Plain:
    """One model; forward, backward, AdamW. With ``deep_copy``, on a copy of the whole model for each device.

    A copy is dropped after its block; who keeps one for every device also pays their memory.
    """

    def __init__(
        self,
        case: Case,
        work: Work,
        model: Any,
        initial: Mapping[str, Tensor],
        clock: StepClock,
        *,
        deep_copy: bool = False,
    ) -> None:
        self._case, self._work, self._initial, self._clock = case, work, initial, clock
        self._deep_copy = deep_copy
        self.name = "plain + deep copy" if deep_copy else "plain"
        self._model = model
        self.trained = model
        """The model of the last block, with what it learned in it."""

    def run(self, device: int, *, brief: bool = False) -> Block:
        """The device's batches; the first alone when ``brief``: padded to the same length, all cost the same."""
        load(self._model, self._initial)
        batches = self._work.batches[device][: 1 if brief else None]
        started = time.perf_counter()
        model = self.trained = copy.deepcopy(self._model) if self._deep_copy else self._model
        optimizer = torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=self._case.learning_rate,
            weight_decay=self._case.training.weight_decay,
        )
        model.train()
        synchronize(self._case.torch_device)
        setup_s = time.perf_counter() - started
        self._clock.start()
        for indices in batches:
            self._step(model, optimizer, indices)
        return _block(self._clock.stop(), setup_s, batches, self._case)

    def _step(self, model: Any, optimizer: torch.optim.Optimizer, indices: np.ndarray) -> None:
        batch = padded(self._work, indices, self._case.max_tokens, int(model.config.pad_token_id))
        batch = {name: tensor.to(self._case.torch_device) for name, tensor in batch.items()}
        with autocast(self._case.torch_device, self._case.precision):
            loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), self._case.training.max_grad_norm)
        optimizer.step()


class TrainerPerDevice:
    """A new Hugging Face ``Trainer`` for each device, on the one model, without logging, saving or evaluation.

    It shuffles the device's samples in its own way; padded to one length, that changes no cost.
    """

    name = "Trainer"

    def __init__(self, case: Case, work: Work, model: Any, initial: Mapping[str, Tensor], clock: StepClock) -> None:
        self._case, self._work, self._initial, self._clock = case, work, initial, clock
        self._model = model

    def run(self, device: int, *, brief: bool = False) -> Block:
        """The samples of the device's batches, one epoch."""
        load(self._model, self._initial)
        batches = self._work.batches[device][: 1 if brief else None]
        columns = padded(self._work, np.concatenate(batches), self._case.max_tokens, int(self._model.config.pad_token_id))
        rows = [{name: column[row] for name, column in columns.items()} for row in range(len(columns["labels"]))]
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            trainer = Trainer(
                model=self._model,
                args=self._arguments(folder),
                train_dataset=rows,
                callbacks=[_StartClock(self._clock)],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
            steps_s = self._clock.stop()
            setup_s = time.perf_counter() - started - sum(steps_s)
        return _block(steps_s, setup_s, batches, self._case)

    def _arguments(self, folder: str) -> TrainingArguments:
        case = self._case
        return TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=case.batch_size,
            num_train_epochs=1,
            learning_rate=case.learning_rate,
            weight_decay=case.training.weight_decay,
            max_grad_norm=case.training.max_grad_norm,
            lr_scheduler_type="constant",
            logging_strategy="no",
            save_strategy="no",
            eval_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=case.device == "cpu",
            bf16=case.precision == "bf16",
            fp16=case.precision == "fp16",
        )


class _StartClock(TrainerCallback):  # type: ignore[misc]
    """The first step begins when the Trainer says so; everything before it is set-up."""

    def __init__(self, clock: StepClock) -> None:
        self._clock = clock

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 0:
            self._clock.start()


def _block(steps_s: list[float], setup_s: float, batches: list[np.ndarray], case: Case) -> Block:
    samples = sum(map(len, batches))
    return Block(steps_s, setup_s, samples, samples * case.max_tokens)
