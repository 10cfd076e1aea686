"""``python -m benchmarks.speed``: fedfit against a plain PEFT loop, a deep copy a device and a ``Trainer`` a device."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.status import Status
from transformers.utils import logging as transformers_logging

from benchmarks.gradients import GradientsDiffer
from benchmarks.hotspots import profile_warm_steps
from benchmarks.measure import Result, measure
from benchmarks.report import show, to_json
from benchmarks.work import MODELS, Case, Work, choose_data, lay_out, read_samples, save_random_roberta


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the cases that were asked for; without arguments all four: two models, without and with dropout."""
    options = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    if not torch.cuda.is_available():
        console.print("GPU benchmark not run: no GPU here")
        if options.device == "cuda":
            return 2
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", FutureWarning)  # of libraries among themselves
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    source, started = choose_data(options.data), time.perf_counter()
    console.print(f"data: {source}")
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="fedfit-bench-") as folder, console.status("") as status:
        try:
            for case, work in _cases(options, source, Path(folder)):
                if options.profile:
                    console.print(profile_warm_steps(case, work), soft_wrap=True, highlight=False)
                    continue
                results.append(measure(case, work, lambda text, case=case: _tell(status, case, text)))  # type: ignore[misc]
                show(results[-1], console)
        except GradientsDiffer as error:
            console.print(f"not timed: {error}")
            return 1
    console.print(f"all in {time.perf_counter() - started:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(to_json(results, source), indent=1) + "\n", encoding="utf-8")
        console.print(f"wrote {options.json}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--model", choices=tuple(MODELS), help="one model; default both")
    parser.add_argument("--steps", type=int, help="timed steps a device, for three devices; default by model")
    parser.add_argument("--dropout", action=argparse.BooleanOptionalAction, help="the base's dropout; default without and with")
    parser.add_argument("--data", choices=("ag_news", "pydocs"), help="default ag_news where $FEDFIT_DATA has it, else pydocs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--json", type=Path, help="write everything to this file")
    parser.add_argument("--profile", action="store_true", help="print where a warm step's time goes, and time nothing")
    return parser


def _cases(options: argparse.Namespace, source: str, folder: Path) -> Iterator[tuple[Case, Work]]:
    for model in [options.model] if options.model else MODELS:
        choice = MODELS[model]
        steps = options.steps or (choice.gpu_steps if options.device == "cuda" else choice.steps)
        location = save_random_roberta(folder / model) if model == "roberta-base-random" else model
        for dropout in (False, True) if options.dropout is None else (options.dropout,):
            case = Case(
                model=model,
                location=location,
                dropout=dropout,
                steps=steps,
                device_samples=max(choice.device_samples, steps * options.batch_size),
                batch_size=options.batch_size,
                max_tokens=options.tokens,
                device=options.device,
                precision=options.precision,
            )
            samples, labels = read_samples(source, case.devices * case.device_samples, case.max_tokens)
            yield case, lay_out(case, samples, labels)


def _tell(status: Status, case: Case, text: str) -> None:
    status.update(f"{case.model}, {case.dropout_words}: {text}")


if __name__ == "__main__":
    raise SystemExit(main())
