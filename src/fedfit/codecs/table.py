"""The codecs of ``[transport]``: one by itself, or a chain of stages.

By itself stands ``plain``, or a codec of one's own: ``package.module:Codec`` names its class, and so does an entry point of
the group ``fedfit.codecs``. A chain is a list of stages, ``name`` or ``name:number``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from fedfit.codecs.chain import Chain
from fedfit.codecs.contract import Codec
from fedfit.codecs.normal_float import NormalFloat
from fedfit.codecs.picking import Delta, RandomK, TopK
from fedfit.codecs.plain import PlainCodec
from fedfit.codecs.rounding import Half, Quantize
from fedfit.codecs.stage import Stage
from fedfit.core.plugins import find
from fedfit.errors import choose

CODECS: dict[str, type[Codec]] = {"plain": PlainCodec}


@dataclass(frozen=True)
class StageEntry:
    """A stage as the table holds it.

    Args:
        make: the stage, from its number; from 0 where it takes none.
        number: what the number is, in words; empty for a stage without one.
        least, most: the range of the number; ``whole`` numbers alone.
    """

    make: Callable[[float], Stage]
    number: str = ""
    least: float = 0
    most: float = 1
    whole: bool = False


STAGES: Mapping[str, StageEntry] = {
    "delta": StageEntry(lambda number: Delta()),
    "top_k": StageEntry(TopK, "the share of the numbers that is sent"),
    "random_k": StageEntry(RandomK, "the share of the numbers that is sent"),
    "fp16": StageEntry(lambda number: Half(torch.float16)),
    "bf16": StageEntry(lambda number: Half(torch.bfloat16)),
    "nf4": StageEntry(lambda number: NormalFloat()),
    "quantize": StageEntry(lambda number: Quantize(int(number)), "the bits of a number", 1, 8, whole=True),
}
"""By name, in the order in which a chain may have them."""

_WORDS = ("goes on with differences", "picks some of the numbers", "rounds the numbers")


def is_stage(name: str) -> bool:
    """Whether ``name`` is that of a stage, with or without a number."""
    return name.partition(":")[0] in STAGES


def make_codec(names: Sequence[str], *, feedback: bool = False) -> Codec:
    """The codec that ``names`` name; ``feedback`` gives a chain error feedback.

    Raises:
        LookupError: with the reason, for a name that leads to none, and for stages that make no chain.
    """
    if names and all(map(is_stage, names)):
        return Chain(_chain([make_stage(name) for name in names], names), feedback)
    if len(names) != 1:
        strange = [name for name in names if not is_stage(name)]
        if not strange:
            raise LookupError("no codec is named; name one")
        known = (*CODECS, *STAGES)
        why = "stands by itself" if strange[0] in CODECS or ":" in strange[0] else f"is no stage: {choose(strange[0], known)}"
        raise LookupError(f"{strange[0]} {why}; a chain has stages alone: {', '.join(STAGES)}")
    kind: type[Codec] = find(names[0], CODECS, "fedfit.codecs", type)
    try:
        codec = kind()
    except TypeError as error:
        raise LookupError(f"{names[0]} is no codec: it cannot be made without arguments ({error})") from error
    if not isinstance(codec, Codec):
        missing = [name for name in ("bits_per_number", "encode", "decode", "most_bytes") if not hasattr(codec, name)]
        raise LookupError(f"{names[0]} is no codec: it lacks {', '.join(missing)}")
    return codec


def make_stage(name: str) -> Stage:
    """The stage ``name``, as ``name`` or ``name:number``.

    Raises:
        LookupError: for an unknown stage, and a number that is missing, not due, or out of range.
    """
    word, colon, given = name.partition(":")
    entry = STAGES[word]
    if not entry.number:
        if colon:
            raise LookupError(f"{name}: {word} takes no number; write {word}")
        return entry.make(0)
    due = f"{word} takes {entry.number}, {'a whole number ' if entry.whole else ''}"
    due += f"from {entry.least:g} to {entry.most:g}" if entry.least else f"above 0 and at most {entry.most:g}"
    example = f"{word}:{4 if entry.whole else 0.05}"
    try:
        number = float(given)
    except ValueError:
        number = float("nan")
    fits = (entry.least <= number if entry.least else number > 0) and number <= entry.most
    if not fits or (entry.whole and number != int(number)):
        raise LookupError(f"{name}: {due}, as in {example}")
    return entry.make(number)


def _chain(stages: Sequence[Stage], names: Sequence[str]) -> tuple[Stage, ...]:
    """``stages``, of which one may be of each kind, in their order.

    Raises:
        LookupError: for two of a kind, or another order.
    """
    for place, (first, second) in enumerate(pairwise(stages)):
        if first.order == second.order:
            raise LookupError(f"{names[place]} and {names[place + 1]}: each {_WORDS[first.order]}; take one of them")
        if first.order > second.order:
            raise LookupError(f"{names[place + 1]} {_WORDS[second.order]}; it must stand before {names[place]}")
    return tuple(stages)
