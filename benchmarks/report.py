"""Results as a table for people and as JSON for programs."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Result, Tally
from fedfit.units import format_bytes

_COLUMNS = (
    "contender",
    "ms a step\nmedian (10–90 %)",
    "times plain\nmedian (range)",
    "samples/s",
    "ms a device\nbeside steps",
    "tokens\na step",
    "GFLOP\na step",
    "of machine's\narithmetic",
    "memory\nabove rest",
)


def show(result: Result, console: Console) -> None:
    """The table of one case and what belongs to it."""
    case = result.case
    table = Table(title=_title(result), title_justify="left", title_style="bold")
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column == "contender" else "right", no_wrap=True)
    for name, tally in result.tallies.items():
        table.add_row(name, *_cells(result, name, tally))
    console.print(table)
    switch = result.switch
    parts = ", ".join(f"{name} {switch[name]:.2f}" for name in switch if name not in ("all", "packet_bytes"))
    console.print(
        f"device switch of fedfit: {switch['all']:.2f} ms ({parts}); a packet has {format_bytes(switch['packet_bytes'])}"
    )
    for reuse in result.reuse[:1]:
        console.print(
            f"trunk cache: {reuse.samples} samples in {format_bytes(reuse.size_bytes)} "
            f"({format_bytes(reuse.size_bytes / reuse.samples)} each); filled in {reuse.fill_s:.2f} s, "
            f"opened by a later run in {reuse.open_s:.3f} s, all samples found in {reuse.read_s:.3f} s"
        )
    console.print(
        f"tokens a step: {result.work.real_tokens:.0f} real, {result.work.padded_tokens:.0f} padded by fedfit, "
        f"{case.batch_size * case.max_tokens} padded to {case.max_tokens}"
    )
    console.print(
        f"machine: {result.peak / 1e9:.0f} GFLOP/s in a large {case.precision} product "
        f"({min(result.peaks) / 1e9:.0f}–{max(result.peaks) / 1e9:.0f} over the run); "
        f"gradients agree to {result.gradient_error:.1e}; peak memory {format_bytes(result.process_bytes)}\n"
    )


def _title(result: Result) -> str:
    case = result.case
    where = torch.cuda.get_device_name() if case.device == "cuda" else f"{torch.get_num_threads()} threads"
    return (
        f"{case.model}, adapted layers {case.adapter.layers}, {case.dropout_words} on both sides, "
        f"batch {case.batch_size}, {case.max_tokens} tokens, {case.precision}, {where}"
    )


def _cells(result: Result, name: str, tally: Tally) -> list[str]:
    steps, ratios = sorted(tally.steps_ms), result.ratios(name)
    return [
        f"{statistics.median(steps):.0f} ({_quantile(steps, 0.1):.0f}–{_quantile(steps, 0.9):.0f})",
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})",
        f"{tally.samples_per_s:.0f}",
        f"{tally.setup_ms:.1f}",
        f"{tally.tokens:.0f}",
        f"{tally.flops / 1e9:.1f}",
        f"{100 * _share(result, tally):.0f} %",
        "unknown" if tally.extra_bytes is None else format_bytes(tally.extra_bytes),
    ]


def _share(result: Result, tally: Tally) -> float:
    return tally.flops / (statistics.fmean(tally.steps_ms) / 1000) / result.peak


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[round(share * (len(ordered) - 1))]


def to_json(results: Sequence[Result], data: str) -> dict[str, Any]:
    """Everything that was measured, unrounded."""
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    versions = {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}
    return {"machine": machine, "versions": versions, "data": data, "cases": [_case(result) for result in results]}


def _case(result: Result) -> dict[str, Any]:
    contenders = {
        name: {
            "steps_ms": tally.steps_ms,
            "median_ms": statistics.median(tally.steps_ms),
            "ratios_to_plain": result.ratios(name),
            "ratio_to_plain": statistics.median(result.ratios(name)),
            "samples_per_s": tally.samples_per_s,
            "setup_ms": tally.setup_ms,
            "trunk_ms_a_step": [1000 * block.prepare_s for block in tally.blocks],
            "tokens_a_step": tally.tokens,
            "flops_a_step": tally.flops,
            "share_of_peak": _share(result, tally),
            "memory_above_rest_bytes": tally.extra_bytes,
        }
        for name, tally in result.tallies.items()
    }
    return {
        "case": asdict(result.case),
        "gradient_error": result.gradient_error,
        "real_tokens_a_step": result.work.real_tokens,
        "peak_flops": result.peak,
        "peaks_flops": result.peaks,
        "process_peak_bytes": result.process_bytes,
        "switch_ms": {name: value for name, value in result.switch.items() if name != "packet_bytes"},
        "packet_bytes": result.switch["packet_bytes"],
        "trunk_cache": [asdict(reuse) for reuse in result.reuse],
        "contenders": contenders,
    }
