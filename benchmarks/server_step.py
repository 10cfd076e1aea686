"""``python -m benchmarks.server_step``: every rule's server through one round on RoBERTa-base's shapes, and FlexLoRA's cut.

The first table has each rule in a process of its own. The second compares FlexLoRA's step on one matrix, from the factors, with
the SVD of the whole ``ΔW``: both on the same updates, in turns. ``local_only`` is left out: its server does nothing.

Seconds are CPU seconds, summed over the threads: with one thread, what an idle machine would take.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.server_round import Load, Measured, measure_rule
from benchmarks.truncation import Comparison, compare, fleets
from fedfit.aggregation.table import RULES
from fedfit.units import format_bytes

SHARING = tuple(name for name, entry in RULES.items() if entry.traits().shares)
_ROUNDS = {"slora": (2, 3)}  # its last round of sparse changes, and the first of factors, which begins with an SVD


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints both tables, each line as soon as it is known."""
    options = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 150)
    torch.set_num_threads(options.threads)
    rounds: list[tuple[Load, Measured]] = []
    with console.status("") as status:
        for load in loads(options):
            status.update(_name(load))
            rounds.append((load, _apart(load)))
            console.print(" | ".join(_cells(*rounds[-1])))
        if rounds:
            console.print(_rounds_table(rounds, options))
        cuts: list[Comparison] = []
        for ranks in fleets(options.devices, options.rank):
            status.update(f"FlexLoRA and dense, {_ranks(ranks)}")
            cuts.append(compare(ranks, options.rank, options.width, options.turns))
    console.print(_cuts_table(cuts, options))
    if options.json:
        options.json.write_text(json.dumps(_to_json(rounds, cuts), indent=1) + "\n", encoding="utf-8")
        console.print(f"wrote {options.json}")
    return 0


def loads(options: argparse.Namespace) -> Iterator[Load]:
    """Every rule at the whole rank, and those for mixed ranks at these too."""
    for name in options.rules:
        for mixed in (False, True) if RULES[name].traits().mixed_ranks else (False,):
            for number in _ROUNDS.get(name, (2,)):
                yield Load(
                    name,
                    mixed,
                    options.devices,
                    options.rank,
                    options.layers,
                    options.width,
                    number,
                    options.repeats,
                    options.threads,
                )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server_step", description=__doc__)
    parser.add_argument("--devices", type=int, default=50)
    parser.add_argument("--rank", type=int, default=64, help="the global one")
    parser.add_argument("--layers", type=int, default=12, help="query and value of each")
    parser.add_argument("--width", type=int, default=768, help="rows and columns of each matrix")
    parser.add_argument("--rules", nargs="*", choices=SHARING, default=SHARING, metavar="RULE")
    parser.add_argument("--repeats", type=int, default=3, help="of each rule's round")
    parser.add_argument("--turns", type=int, default=5, help="of FlexLoRA and the dense SVD")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write everything to this file")
    return parser


def _apart(load: Load) -> Measured:
    """In a fresh process: no rule's memory is what another has left behind."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure_rule, load).result()


def _name(load: Load) -> str:
    return load.rule + (f", round {load.round}" if load.rule in _ROUNDS else "")


def _ranks(ranks: Sequence[int]) -> str:
    return f"{len(ranks)} × {'/'.join(map(str, dict.fromkeys(ranks)))}"


def _rounds_table(rounds: Sequence[tuple[Load, Measured]], options: argparse.Namespace) -> Table:
    title = f"{2 * options.layers} matrices {options.width} × {options.width}, global rank {options.rank}"
    table = Table(title=f"{title}, {options.threads} threads", title_justify="left")
    for column in ("rule", "devices × ranks", "dispatch to all, CPU s", "apply, CPU s", "memory above rest", "uplink a device"):
        table.add_column(column, justify="left" if column == "rule" else "right")
    for load, found in rounds:
        table.add_row(*_cells(load, found))
    return table


def _cells(load: Load, found: Measured) -> tuple[str, ...]:
    memory = format_bytes(found.extra_bytes) if found.extra_bytes is not None else "not known"
    seconds = (f"{found.dispatch_s:.3f}", f"{found.apply_s:.2f}")
    return _name(load), _ranks(load.ranks), *seconds, memory, format_bytes(found.uplink_bytes)


def _cuts_table(cuts: Sequence[Comparison], options: argparse.Namespace) -> Table:
    title = f"one matrix {options.width} × {options.width} cut to rank {options.rank}, medians of {options.turns} turns"
    table = Table(title=f"{title}, {options.threads} threads", title_justify="left")
    for column in ("devices × ranks", "Σr", "dense SVD, CPU ms", "flexlora, CPU ms", "times faster (range)", "difference"):
        table.add_column(column, justify="right")
    for cut in cuts:
        dense_ms, ours_ms = (1000 * sorted(values)[len(values) // 2] for values in (cut.dense_s, cut.ours_s))
        times = f"{cut.ratio:.1f} ({min(cut.ratios):.1f}–{max(cut.ratios):.1f})"
        table.add_row(_ranks(cut.ranks), str(sum(cut.ranks)), f"{dense_ms:.0f}", f"{ours_ms:.1f}", times, f"{cut.error:.0e}")
    return table


def _to_json(rounds: Sequence[tuple[Load, Measured]], cuts: Sequence[Comparison]) -> dict[str, object]:
    return {
        "rounds": [asdict(load) | asdict(found) for load, found in rounds],
        "cuts": [asdict(cut) | {"sum_of_ranks": sum(cut.ranks), "ratio": cut.ratio} for cut in cuts],
    }


if __name__ == "__main__":
    raise SystemExit(main())
