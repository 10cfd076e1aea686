"""What fedfit's language models are measured against: a plain PEFT loop, and TRL's trainers made anew for each device."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, PrinterCallback, TrainerCallback

from fedfit.data.tokenize import Samples
from fedfit.models.layers import select_layers
from fedfit.models.load import locate
from fedfit.settings import AdapterSettings

IGNORED = -100


@dataclass(frozen=True)
class Timed:
    """Seconds of each step, and of what a device costs beside its steps."""

    steps_s: list[float]
    setup_s: float = 0.0


def plain_model(name: str, adapter: AdapterSettings) -> Any:
    """Model and adapter as most people write it."""
    model = AutoModelForCausalLM.from_pretrained(locate(name), dtype=torch.float32)
    layers = select_layers(adapter.layers, model.config.num_hidden_layers)
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=adapter.rank,
        lora_alpha=int(adapter.alpha),
        target_modules=list(adapter.targets),
        layers_to_transform=list(layers),
        layers_pattern="layers",
    )
    return get_peft_model(model, lora)


def texts_of(samples: Samples, row: int) -> list[tuple[list[int], int]]:
    """Each continuation of a sample behind its prompt, as a text of its own, with the length of the prompt."""
    ids, segments = samples.ids_of(row), samples.segments_of(row)
    assert segments is not None
    prompt = ids[segments == 0].tolist()
    return [(prompt + ids[segments == branch].tolist(), len(prompt)) for branch in range(1, int(segments.max()) + 1)]


def padded(texts: Sequence[tuple[list[int], int]]) -> dict[str, Tensor]:
    """Ids, mask and labels, padded to the longest; the loss is on what follows the prompt."""
    longest = max(len(text) for text, _ in texts)
    ids, labels = torch.zeros(len(texts), longest, dtype=torch.long), torch.full((len(texts), longest), IGNORED)
    mask = torch.zeros_like(ids)
    for row, (text, prompt) in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
        mask[row, : len(text)] = 1
        labels[row, prompt : len(text)] = torch.tensor(text[prompt:])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def plain_steps(model: Any, samples: Samples, batches: Sequence[np.ndarray], rate: float) -> Timed:
    """A loop over ``batches``: forward through the whole model, cross-entropy of all logits, backward, AdamW."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, steps = torch.optim.AdamW(trained, lr=rate), []
    model.train()
    for batch in batches:
        started = time.perf_counter()
        loss = model(**padded([text for row in batch for text in texts_of(samples, row)])).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        steps.append(time.perf_counter() - started)
    return Timed(steps)


class _Clock(TrainerCallback):  # type: ignore[misc]
    """Seconds of every step of a trainer."""

    def __init__(self) -> None:
        self.steps_s: list[float] = []
        self._started = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._started = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.steps_s.append(time.perf_counter() - self._started)


def _in_order(trainer: type) -> Any:
    """``trainer`` over its samples in their order: the batches are then those of the others."""

    class Ordered(trainer):  # type: ignore[misc, valid-type]
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    return Ordered


def _timed(build: Any) -> Timed:
    """The steps of the trainer that ``build`` makes of a clock."""
    clock, started = _Clock(), time.perf_counter()
    trainer = build(clock)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return Timed(clock.steps_s, time.perf_counter() - started - sum(clock.steps_s))


def _common(folder: str, batches: Sequence[np.ndarray], rate: float) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "per_device_train_batch_size": len(batches[0]),
        "max_steps": len(batches),
        "learning_rate": rate,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }


def sft_steps(model: Any, tokenizer: Any, samples: Samples, batches: Sequence[np.ndarray], rate: float) -> Timed:
    """TRL's ``SFTTrainer``, loss on the response alone, made for this device."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    texts = [texts_of(samples, row)[0] for batch in batches for row in batch]
    rows = Dataset.from_dict(
        {"input_ids": [ids for ids, _ in texts], "completion_mask": [[0] * n + [1] * (len(ids) - n) for ids, n in texts]}
    )
    with tempfile.TemporaryDirectory() as folder:
        options = SFTConfig(**_common(folder, batches, rate), completion_only_loss=True, max_length=None)
        trainer = _in_order(SFTTrainer)
        return _timed(
            lambda clock: trainer(model=model, args=options, train_dataset=rows, processing_class=tokenizer, callbacks=[clock])
        )


def dpo_steps(model: Any, tokenizer: Any, samples: Samples, batches: Sequence[np.ndarray], rate: float) -> Timed:
    """TRL's ``DPOTrainer`` made for this device; its reference is the model without adapter, computed in every step."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows: dict[str, list[str]] = {"prompt": [], "chosen": [], "rejected": []}
    for batch in batches:
        for row in batch:
            (chosen, prompt), (rejected, _) = texts_of(samples, row)
            rows["prompt"].append(tokenizer.decode(chosen[:prompt]))
            # The end token is left out: the trainer adds it.
            rows["chosen"].append(tokenizer.decode(chosen[prompt:-1]))
            rows["rejected"].append(tokenizer.decode(rejected[prompt:-1]))
    with tempfile.TemporaryDirectory() as folder:
        options = DPOConfig(**_common(folder, batches, rate), beta=0.1, max_length=None)
        trainer = _in_order(DPOTrainer)
        timed = _timed(
            lambda clock: trainer(
                model=model, args=options, train_dataset=Dataset.from_dict(rows), processing_class=tokenizer, callbacks=[clock]
            )
        )
    model.delete_adapter("ref")  # the trainer's own; it refuses a model that has one
    model.set_adapter("default")
    return timed
