"""The codecs of ``[transport]``: one by itself, or a chain of stages; ``zstd`` behind either compresses its packets.

By itself stands ``plain``, or a codec of one's own: ``package.module:Codec`` names its class, and so does an entry point of
the group ``fedfit.codecs``. A chain is a list of stages, ``name`` or ``name:number``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from fedfit.codecs.chain import Chain
from fedfit.codecs.compressed import Compressed
from fedfit.codecs.contract import Codec
from fedfit.codecs.fedobd import FedOBD
from fedfit.codecs.low_rank import LowRank
from fedfit.codecs.normal_float import NormalFloat
from fedfit.codecs.picking import Delta, RandomK, TopK
from fedfit.codecs.plain import PlainCodec
from fedfit.codecs.rounding import Half, Quantize
from fedfit.codecs.scales import BLOCK, BLOCKS, Scales
from fedfit.codecs.stage import Stage
from fedfit.core.plugins import find
from fedfit.errors import choose

CODECS: dict[str, type[Codec]] = {"plain": PlainCodec}


@dataclass(frozen=True)
class StageEntry:
    """A stage as the table holds it.

    Args:
        make: the stage, from its number, 0 where it takes none, and from which numbers share a scale.
        number: what the number is, in words; empty for a stage without one.
        least, most: the range of the number; ``whole`` numbers alone.
    """

    make: Callable[[float, Scales], Stage]
    number: str = ""
    least: float = 0
    most: float = 1
    whole: bool = False


STAGES: Mapping[str, StageEntry] = {
    "delta": StageEntry(lambda number, scales: Delta()),
    "top_k": StageEntry(lambda number, scales: TopK(number), "the share of the numbers that is sent"),
    "random_k": StageEntry(lambda number, scales: RandomK(number), "the share of the numbers that is sent"),
    "low_rank": StageEntry(lambda number, scales: LowRank(int(number)), "the rank of two factors", 1, 256, whole=True),
    "fedobd": StageEntry(lambda number, scales: FedOBD(number), "the share of the numbers that may be left out", most=0.99),
    "fp16": StageEntry(lambda number, scales: Half(torch.float16)),
    "bf16": StageEntry(lambda number, scales: Half(torch.bfloat16)),
    "nf4": StageEntry(lambda number, scales: NormalFloat(scales)),
    "quantize": StageEntry(lambda number, scales: Quantize(int(number), scales), "the bits of a number", 1, 8, whole=True),
}
"""By name, in the order in which a chain may have them."""

ZSTD = "zstd"
"""Behind a chain or a codec: its packets are compressed."""

_WORDS = ("goes on with differences", "makes fewer numbers", "rounds the numbers")


def is_stage(name: str) -> bool:
    """Whether ``name`` is that of a stage, with or without a number."""
    return name.partition(":")[0] in STAGES


def has_scales(names: Sequence[str]) -> bool:
    """Whether a stage among ``names`` has scales for several numbers."""
    return any(name.partition(":")[0] in ("nf4", "quantize") for name in names)


def inner_names(names: Sequence[str]) -> Sequence[str]:
    """``names`` without a last ``zstd``; ``plain`` where nothing else is named."""
    return (names[:-1] or ("plain",)) if names and names[-1] == ZSTD else names


def make_codec(names: Sequence[str], *, feedback: bool = False, per: int | str = BLOCK) -> Codec:
    """The codec that ``names`` name.

    Args:
        feedback: gives a chain error feedback.
        per: which numbers share a scale where they are rounded: see ``codecs.scales.Scales``.

    Raises:
        LookupError: with the reason, for a name that leads to none, and for stages that make no chain.
    """
    inner = inner_names(names)
    if inner is not names and ZSTD not in inner:
        return Compressed(make_codec(inner, feedback=feedback, per=per))
    if ZSTD in names:
        raise LookupError(f"{ZSTD} compresses whole packets; it must stand last, once")
    if names and all(map(is_stage, names)):
        stages = _chain([make_stage(name, Scales(per)) for name in names], names)
        if not isinstance(per, int) and has_scales(names) and any(stage.order == 1 for stage in stages):
            raise LookupError(f'no whole tensors are left for a scale by {per}; set transport.scale_per to "block"')
        if feedback:
            stages = tuple(getattr(stage, "contraction", stage) for stage in stages)
        return Chain(stages, feedback)
    if len(names) != 1 or _is_slip(names[0]):
        strange = [name for name in names if not is_stage(name)]
        if not strange:
            raise LookupError("no codec is named; name one")
        known = (*CODECS, *STAGES, ZSTD)
        own = strange[0] in CODECS or (":" in strange[0] and not _is_slip(strange[0]))
        why = "stands by itself" if own else f"is no stage: {choose(strange[0].partition(':')[0], known)}"
        raise LookupError(f"{strange[0]} {why}; a chain has stages alone: {', '.join((*STAGES, ZSTD))}")
    kind: type[Codec] = find(names[0], CODECS, "fedfit.codecs", type)
    try:
        codec = kind()
    except TypeError as error:
        raise LookupError(f"{names[0]} is no codec: it cannot be made without arguments ({error})") from error
    if not isinstance(codec, Codec):
        missing = [name for name in ("bits_per_number", "encode", "decode", "most_bytes") if not hasattr(codec, name)]
        raise LookupError(f"{names[0]} is no codec: it lacks {', '.join(missing)}")
    return codec


def _is_slip(name: str) -> bool:
    """Whether ``name`` is a misspelt stage: a word and a number, as no module's name is."""
    word, colon, number = name.partition(":")
    return bool(colon) and word not in STAGES and number.replace(".", "", 1).isdigit()


def make_stage(name: str, scales: Scales = BLOCKS) -> Stage:
    """The stage ``name``, as ``name`` or ``name:number``; ``scales`` says which numbers share one.

    Raises:
        LookupError: for an unknown stage, and a number that is missing, not due, or out of range.
    """
    word, colon, given = name.partition(":")
    entry = STAGES[word]
    if not entry.number:
        if colon:
            raise LookupError(f"{name}: {word} takes no number; write {word}")
        return entry.make(0, scales)
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
    return entry.make(number, scales)


def _chain(stages: Sequence[Stage], names: Sequence[str]) -> tuple[Stage, ...]:
    """``stages``, of which one may be of each kind, in their order.

    Raises:
        LookupError: for two of a kind, or another order.
    """
    for place, (first, second) in enumerate(pairwise(stages)):
        if first.order <= second.order <= first.reaches:
            raise LookupError(f"{names[place]} and {names[place + 1]}: each {_WORDS[second.order]}; take one of them")
        if first.order > second.order:
            raise LookupError(f"{names[place + 1]} {_WORDS[second.order]}; it must stand before {names[place]}")
    return tuple(stages)
