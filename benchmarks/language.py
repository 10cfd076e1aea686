"""``python -m benchmarks.language``: fine-tuning SmolLM2, fedfit against a plain PEFT loop and TRL's trainers.

Last 6 of 30 layers, rank 8 on query and value, batches of 8, at most 128 tokens, loss on the response. Contenders take turns,
device by device; a ratio is that of the median steps on one device. TRL's rows are left out where ``trl`` is not installed.

The plain loop is timed twice: on fedfit's batches, which hold like lengths, and on random ones of the same samples, as a data
loader shuffles them; either way a batch is padded to its longest. TRL's trainers get fedfit's batches.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers.utils import logging as transformers_logging

from benchmarks.language_rivals import IGNORED, Timed, dpo_steps, padded, plain_model, plain_steps, sft_steps, texts_of
from fedfit.adapters.build import build_split_model
from fedfit.core.task import Task
from fedfit.core.update import Job
from fedfit.data.batches import training_batches
from fedfit.data.corpus import TextSet
from fedfit.data.pydocs_instruct import load_pydocs_instruct
from fedfit.data.tokenize import Samples
from fedfit.models.load import load_tokenizer
from fedfit.models.split import SplitModel
from fedfit.models.trunk import Trunk, open_trunk
from fedfit.randomness import derive_seed
from fedfit.rounds.trainer import Trainer
from fedfit.settings import AdapterSettings, TrainingSettings, TrunkCacheSettings
from fedfit.tasks.instruction import Instruction
from fedfit.tasks.preference import Preference

MODEL, SEED, RATE, MAX_TOKENS = "smollm2", 0, 1e-3, 128
ADAPTER = AdapterSettings(rank=8, alpha=16, layers="last:6", targets=("q_proj", "v_proj"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line a contender and device, and the medians of the ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.language", description=__doc__)
    parser.add_argument("--steps", type=int, default=6, help="timed steps a device")
    parser.add_argument("--devices", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--task", choices=("instruction", "preference"), default="instruction")
    parser.add_argument("--layers", default=ADAPTER.layers)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--memory", action="store_true", help="the peak memory of a step, each contender in its own process")
    parser.add_argument("--only", choices=("fedfit", "plain"), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write the ratios to this file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if options.only:
        print(*_peak_of_a_step(options))
        return 0
    if options.memory:
        return _memory(sys.argv[1:] if arguments is None else arguments)
    ratios = _Bench(options).run()
    if options.json:
        options.json.write_text(json.dumps(ratios, indent=1) + "\n", encoding="utf-8")
    return 0


class _Bench:
    """The resident model, the samples, and the batches of each device."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.adapter = AdapterSettings(**{**vars(ADAPTER), "layers": options.layers})
        self.training = TrainingSettings(
            batch_size=8, learning_rate=RATE, weight_decay=0.01, local_steps=options.steps, precision=options.precision
        )
        self.tokenizer = load_tokenizer(MODEL)
        self.task, self.samples = _samples(options.task, self.tokenizer, 8 * options.steps * options.devices)
        self.parts = np.array_split(np.arange(len(self.samples)), options.devices)
        self.model: SplitModel = build_split_model(MODEL, None, self.adapter, SEED)
        self.initial = self.model.adapter.snapshot()
        self.plain = plain_model(MODEL, self.adapter) if options.precision == "fp32" else None

    def batches(self, device: int) -> list[np.ndarray]:
        """What the trainer draws in round 1."""
        part, seed = self.parts[device], derive_seed(SEED, "batches", 1, device)
        plan = training_batches(self.samples.lengths[part], 8, 1, self.options.steps, seed)
        return [part[batch] for batch in plan]

    def split_steps(self, trainer: Trainer, device: int) -> Timed:
        """A round of fedfit's own trainer, without its set-up."""
        times: list[float] = []
        original = trainer._model.tail

        def marked(*given: Any) -> Any:
            times.append(time.perf_counter())
            return original(*given)

        started = time.perf_counter()
        trainer._model.tail = marked  # type: ignore[method-assign, assignment]
        try:
            trainer.train(Job(self.initial), self.samples, self.parts[device], 1, device)
        finally:
            trainer._model.tail = original  # type: ignore[method-assign]
        ended = time.perf_counter()
        marks = times[-self.options.steps :]  # a reference's passes come before the steps
        steps = [after - before for before, after in zip(marks, [*marks[1:], ended], strict=True)]
        return Timed(steps, marks[0] - started)

    def run(self) -> dict[str, Any]:
        """Every contender on every device in turn."""
        with tempfile.TemporaryDirectory(prefix="fedfit-bench-") as folder:
            trunk = open_trunk(self.model, TrunkCacheSettings(), Path(folder), self.options.precision)
            trainer = Trainer(self.model, trunk, self.task, self.training, SEED, 10)
            uncached = open_trunk(self.model, TrunkCacheSettings(enabled=False), Path(folder), self.options.precision)
            self.split_steps(Trainer(self.model, uncached, self.task, self.training, SEED, 10), 0)  # a process starts slowly
            if self.plain is not None and self.options.task == "instruction":
                print(
                    "largest error of a gradient against float64: fedfit {:.0e}, plain PEFT {:.0e}".format(*self._errors(trunk))
                )
            found: dict[str, list[float]] = {}
            for device in range(self.options.devices):
                for name, timed in self._turns(trainer, trunk, device).items():
                    median = statistics.median(timed.steps_s)
                    print(
                        f"device {device}  {name:<15} {1000 * median:8.0f} ms a step, set-up {timed.setup_s:6.2f} s", flush=True
                    )
                    found.setdefault(name, []).append(median)
        return _ratios(found)

    def _turns(self, trainer: Trainer, trunk: Trunk, device: int) -> dict[str, Timed]:
        rows = np.unique(np.concatenate(self.batches(device)))
        started = time.perf_counter()
        trunk.prepare(self.samples, rows)
        share = (time.perf_counter() - started) / self.options.steps
        warm = self.split_steps(trainer, device)
        found = {"fedfit warm": warm, "fedfit cold": Timed([step + share for step in warm.steps_s], warm.setup_s)}
        if self.plain is None:
            return found
        if self.options.task == "instruction":
            found["plain PEFT"] = plain_steps(self.plain, self.samples, self.batches(device), RATE)
            shuffled = np.random.default_rng(device).permutation(np.concatenate(self.batches(device)))
            batches = np.array_split(shuffled, self.options.steps)
            found["plain shuffled"] = plain_steps(self.plain, self.samples, batches, RATE)
        if importlib.util.find_spec("trl") is not None:
            rival = sft_steps if self.options.task == "instruction" else dpo_steps
            name = "TRL SFT" if self.options.task == "instruction" else "TRL DPO"
            found[name] = rival(self.plain, self.tokenizer, self.samples, self.batches(device), RATE)
        return found

    def _errors(self, trunk: Trunk) -> tuple[float, float]:
        """The largest error of a gradient on the first batch, ours and the plain loop's, as a share of its largest entry.

        The truth is the plain model in float64 with its cross-entropy in float64: transformers takes that in float32, whose
        logarithms are the plain loop's largest error.
        """
        assert self.plain is not None
        batch = self.batches(0)[0]
        self.model.load(Job(self.initial))
        ours = self.model.adapter.named_parameters()
        for parameter in ours.values():
            parameter.grad = None
        targets = self.task.collate(self.samples, batch, self.model.device)
        states = trunk.batch(self.samples, batch)
        self.task.loss(self.model.tail(states, self.task.positions(targets)), targets).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for name, parameter in _theirs(self.plain, ours).items():
                parameter.copy_(ours[name])
        given = padded([texts_of(self.samples, row)[0] for row in batch])
        self.plain(**given).loss.backward()
        exact: Any = copy.deepcopy(self.plain)
        exact.double()
        exact.zero_grad()
        logits = exact(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits[:, :-1]
        loss = functional.cross_entropy(logits.flatten(0, 1), given["labels"][:, 1:].flatten(), ignore_index=IGNORED)
        loss.backward()  # type: ignore[no-untyped-call]
        truth = {name: parameter.grad for name, parameter in _theirs(exact, ours).items()}
        return _largest_error(ours, truth), _largest_error(_theirs(self.plain, ours), truth)


def _largest_error(found: dict[str, Any], truth: dict[str, Any]) -> float:
    errors = [
        float((found[name].grad - exact).abs().max() / exact.abs().max())
        for name, exact in truth.items()
        if float(exact.abs().max()) > 0  # A's are 0 while B is
    ]
    return max(errors)


def _theirs(model: Any, ours: dict[str, Any]) -> dict[str, Any]:
    """PEFT's parameters by our names."""
    found = {}
    for name, parameter in model.named_parameters():
        for group in ("lora_A", "lora_B"):
            if f".{group}.default." in name:
                base = name.removeprefix("base_model.model.").partition(f".{group}.")[0]
                found[f"{group}.{base}"] = parameter
    assert found.keys() == ours.keys()
    return found


def _samples(task: str, tokenizer: Any, count: int) -> tuple[Task, Samples]:
    """``count`` functions with the first sentence of their docstrings; the rejected response is another function's."""
    table = load_pydocs_instruct().train
    rows = np.random.default_rng(SEED).permutation(len(table))[: 2 * count]
    prompts, responses = ([table.columns[name][row] for row in rows] for name in ("prompt", "response"))
    if task == "instruction":
        instruction: Task = Instruction()
        made = instruction.encode(TextSet({"prompt": prompts, "response": responses}), tokenizer, MAX_TOKENS)
    else:
        instruction = Preference()
        fields = {"prompt": prompts, "chosen": responses, "rejected": [*responses[1:], responses[0]]}
        made = instruction.encode(TextSet(fields), tokenizer, MAX_TOKENS)
    return instruction, made.samples.select(np.arange(count))


def _ratios(found: dict[str, list[float]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, medians in found.items():
        if name.startswith("fedfit"):
            continue
        for ours in ("fedfit warm", "fedfit cold"):
            each = [theirs / mine for theirs, mine in zip(medians, found[ours], strict=True)]
            result[f"{name} / {ours}"] = each
            print(f"{name} / {ours}: {statistics.median(each):.2f} ({min(each):.2f}–{max(each):.2f})")
    return result


def _memory(arguments: Sequence[str]) -> int:
    """The peak of one step, whole and beyond the loaded model, of each contender in a process of its own."""
    peaks: dict[str, list[float]] = {}
    for name in ("fedfit", "plain"):
        command = [sys.executable, "-m", "benchmarks.language", *arguments, "--only", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[name] = [float(word) for word in done.stdout.split()[-2:]]
        print("{:<8} {:6.0f} MB at the peak, {:6.0f} MB of them for the step".format(name, *peaks[name]))
    print("fedfit / plain: {:.2f} and {:.2f}".format(*(ours / plain for ours, plain in zip(*peaks.values(), strict=True))))
    return 0


def _peak_of_a_step(options: argparse.Namespace) -> tuple[float, float]:
    """Megabytes at the peak of a step over the largest batch, and those beyond what the loaded model takes."""
    tokenizer = load_tokenizer(MODEL)
    task, samples = _samples("instruction", tokenizer, 64)
    batch = np.argsort(samples.lengths)[-8:]
    adapter = AdapterSettings(**{**vars(ADAPTER), "layers": options.layers})
    step = _split_step(task, samples, batch, adapter) if options.only == "fedfit" else _plain_step(samples, batch, adapter)
    before = _resident_mb()
    step()
    peak = _resident_mb(reset=False)
    return peak, peak - before


def _split_step(task: Task, samples: Samples, batch: np.ndarray, adapter: AdapterSettings) -> Callable[[], None]:
    model = build_split_model(MODEL, None, adapter, SEED)
    with tempfile.TemporaryDirectory(prefix="fedfit-bench-") as folder:
        trunk = open_trunk(model, TrunkCacheSettings(), Path(folder))
        states = trunk.batch(samples, batch)

    def step() -> None:
        targets = task.collate(samples, batch, model.device)
        task.loss(model.tail(states, task.positions(targets)), targets).backward()  # type: ignore[no-untyped-call]

    return step


def _plain_step(samples: Samples, batch: np.ndarray, adapter: AdapterSettings) -> Callable[[], None]:
    model = plain_model(MODEL, adapter)

    def step() -> None:
        model(**padded([texts_of(samples, row)[0] for row in batch])).loss.backward()

    return step


def _resident_mb(*, reset: bool = True) -> float:
    """The process's largest size since the last ``reset``; loading a model needs more than keeping it."""
    if reset:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return float(status.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    sys.exit(main())
