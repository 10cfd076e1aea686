"""The work that all contenders do: one model, the same samples in the same batches, the same adapter and rate."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from transformers import RobertaConfig, RobertaModel

from fedfit.data.batches import training_batches
from fedfit.data.sources import load_corpus
from fedfit.data.tokenize import Samples, tokenize
from fedfit.data_settings import DataSettings
from fedfit.models.load import load_tokenizer
from fedfit.randomness import derive_seed
from fedfit.settings import AdapterSettings, TrainingSettings

SEED = 0
_ROUNDS_TRIED = 64


@dataclass(frozen=True)
class Case:
    """One table: a model on a device, with or without dropout.

    ``steps`` are timed on each of ``devices`` federated devices, each of which holds ``device_samples``. ``location`` is
    what is loaded (an alias or a folder), ``model`` its name in the table.
    """

    model: str
    location: str
    dropout: bool = False
    steps: int = 8
    devices: int = 3
    device_samples: int = 512
    batch_size: int = 32
    max_tokens: int = 64
    device: str = "cpu"
    precision: str = "fp32"
    learning_rate: float = 1e-3
    adapter: AdapterSettings = field(default_factory=lambda: AdapterSettings(rank=8, alpha=16.0, layers="last:3"))

    @property
    def training(self) -> TrainingSettings:
        """The inner loop, as fedfit's recipe says it; the others are built to do the same."""
        return TrainingSettings(
            local_steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            dropout=self.dropout,
            precision=self.precision,
        )

    @property
    def dropout_words(self) -> str:
        """For people."""
        return f"dropout {'on' if self.dropout else 'off'}"

    @property
    def torch_device(self) -> torch.device:
        """Where it runs."""
        return torch.device(self.device)


@dataclass(frozen=True)
class Work:
    """Tokenized samples and who does which of them.

    ``parts[d]`` are device d's samples, ``rounds[d]`` the round that it plays, and ``batches[d]`` what fedfit's own plan
    draws in that round, which the others are given too.
    """

    samples: Samples
    labels: int
    parts: list[np.ndarray]
    rounds: list[int]
    batches: list[list[np.ndarray]]

    @cached_property
    def real_tokens(self) -> float:
        """Mean tokens a step, before any padding."""
        counts = [self.samples.lengths[batch].sum() for device in self.batches for batch in device]
        return float(np.mean(counts))

    @cached_property
    def padded_tokens(self) -> float:
        """Mean tokens a step when a batch is padded to its longest sample."""
        counts = [len(batch) * self.samples.lengths[batch].max() for device in self.batches for batch in device]
        return float(np.mean(counts))


def lay_out(case: Case, samples: Samples, labels: int) -> Work:
    """Spreads ``samples`` over the devices and draws their batches."""
    parts = [np.arange(device, case.devices * case.device_samples, case.devices) for device in range(case.devices)]
    rounds = [_typical_round(case, samples, part, device) for device, part in enumerate(parts)]
    batches = [_batches(case, samples, part, rounds[d], d) for d, part in enumerate(parts)]
    return Work(samples, labels, parts, rounds, batches)


def _batches(case: Case, samples: Samples, part: np.ndarray, round_number: int, device: int) -> list[np.ndarray]:
    """What ``rounds.trainer`` draws; that it does is checked when it runs."""
    seed = derive_seed(SEED, "batches", round_number, device)
    plan = training_batches(samples.lengths[part], case.batch_size, 1, case.steps, seed)
    return [part[batch] for batch in plan]


def _typical_round(case: Case, samples: Samples, part: np.ndarray, device: int) -> int:
    """The round whose few batches are as long, on the mean, as those of a whole epoch.

    fedfit's steps take as long as their texts; a handful of steps could be short or long by chance.
    """

    def tokens(batches: list[np.ndarray]) -> float:
        return float(np.mean([len(batch) * samples.lengths[batch].max() for batch in batches]))

    seed = derive_seed(SEED, "batches", 1, device)
    whole = tokens([part[batch] for batch in training_batches(samples.lengths[part], case.batch_size, 1, None, seed)])
    candidates = range(1, _ROUNDS_TRIED + 1)
    return min(candidates, key=lambda number: abs(tokens(_batches(case, samples, part, number, device)) - whole))


def choose_data(asked: str | None) -> str:
    """``ag_news`` where ``$FEDFIT_DATA`` has it, else ``pydocs``, unless one is asked for."""
    if asked:
        return asked
    root = os.environ.get("FEDFIT_DATA")
    return "ag_news" if root and (Path(root).expanduser() / "ag_news" / "train.csv").is_file() else "pydocs"


def read_samples(source: str, samples: int, max_tokens: int) -> tuple[Samples, int]:
    """A class-balanced subset in random order, tokenized as MiniLM does, and the number of classes.

    The random RoBERTa reads these ids as well: it has no tokenizer of its own, and a larger vocabulary.
    """
    corpus = load_corpus(DataSettings(source=source, train_samples=samples), SEED)
    order = np.random.default_rng(SEED).permutation(len(corpus.train))
    return tokenize(corpus.train.select(order), load_tokenizer("minilm"), max_tokens), len(corpus.label_names)


def save_random_roberta(folder: Path) -> str:
    """A model of RoBERTa-base's size (12 layers, 124.6 million parameters) with random weights, without a head; no download.

    Weights have RoBERTa's own standard deviation of 0.02. With 0.05 the tokens of a sample collapse into one vector: query's
    gradient is then 1e-7, rounding alone, on which neither fedfit nor the plain loop agrees with float64.
    """
    config = RobertaConfig(
        vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5, initializer_range=0.02
    )
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    return str(folder)


@dataclass(frozen=True)
class ModelChoice:
    """A model of the benchmark and how long it is timed: steps a device on the CPU and on a GPU."""

    steps: int
    gpu_steps: int
    device_samples: int


MODELS: Mapping[str, ModelChoice] = {
    "minilm": ModelChoice(steps=8, gpu_steps=50, device_samples=512),
    "roberta-base-random": ModelChoice(steps=3, gpu_steps=30, device_samples=384),
}
