"""``python -m benchmarks.dropout``: what the frozen base's dropout does to accuracy, over several seeds."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.work import choose_data
from fedfit.experiment.build import build
from fedfit.experiment.load import parse_recipe, read_recipe
from fedfit.experiment.validate import validate
from fedfit.settings import Recipe

TRAIN_SAMPLES, TEST_SAMPLES, ROUNDS = 4000, 2000, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs each seed without and with dropout on the same data, and prints the accuracies and their differences."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dropout", description=__doc__)
    parser.add_argument("--data", choices=("ag_news", "pydocs"), help="default ag_news where $FEDFIT_DATA has it, else pydocs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the accuracies to this file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    console, started = Console(), time.perf_counter()
    recipe = small_recipe(choose_data(options.data))
    found: dict[str, list[float]] = {"false": [], "true": []}
    for seed in range(options.seeds):
        for dropout in (False, True):
            accuracy = final_accuracy(recipe, seed, dropout)
            found["true" if dropout else "false"].append(accuracy)
            console.print(f"seed {seed}, training.dropout = {str(dropout).lower()}: {accuracy:.4f}")
    console.print(_table(recipe, found))
    console.print(f"all in {time.perf_counter() - started:.0f} s")
    if options.json:
        options.json.write_text(json.dumps({"data": recipe.data.source, "accuracy": found}, indent=1) + "\n", encoding="utf-8")
    return 0


def small_recipe(source: str) -> Recipe:
    """``agnews-minilm`` with a third of its samples and fewer rounds; with ``pydocs``, which is smaller, all there is."""
    recipe = parse_recipe(read_recipe("agnews-minilm"))
    samples = (TRAIN_SAMPLES, TEST_SAMPLES) if source == "ag_news" else (None, None)
    return replace(
        recipe,
        data=replace(recipe.data, source=source, train_samples=samples[0], test_samples=samples[1]),
        federation=replace(recipe.federation, rounds=ROUNDS),
    )


def final_accuracy(recipe: Recipe, seed: int, dropout: bool) -> float:
    """Test accuracy after the last round."""
    recipe = replace(recipe, seed=seed, training=replace(recipe.training, dropout=dropout))
    validate(recipe)
    *_, last = build(recipe).run()
    return last.record.metrics["test_accuracy"].value


def _table(recipe: Recipe, found: dict[str, list[float]]) -> Table:
    seeds = len(found["true"])
    table = Table(title=f"{recipe.data.source}, {recipe.model.name}, {recipe.federation.rounds} rounds, {seeds} seeds")
    for column in ("training.dropout", "test accuracy", "standard deviation"):
        table.add_column(column)
    differences = [on - off for on, off in zip(found["true"], found["false"], strict=True)]
    for name, values in {**found, "true − false": differences}.items():
        spread = f"{statistics.stdev(values):.4f}" if seeds > 1 else "one seed"
        table.add_row(name, f"{statistics.fmean(values):.4f}", spread)
    return table


if __name__ == "__main__":
    raise SystemExit(main())
