"""Faults of ``[transport]``: names that lead to no codec, chains that do not suit their direction, scales of nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedfit.errors import Fault
from fedfit.experiment.name_fault import name_fault
from fedfit.settings import TransportSettings


def transport_faults(transport: TransportSettings) -> Iterator[Fault]:
    """All of them."""
    for direction in ("uplink", "downlink"):
        yield from _codec_faults(transport, direction)
    yield from _scale_faults(transport)


def _codec_faults(transport: TransportSettings, direction: str) -> Iterator[Fault]:
    """Names that lead to no codec, and chains that do not suit their direction."""
    from fedfit.codecs.table import CODECS, STAGES, ZSTD, inner_names, is_stage, make_codec

    key, chosen, feedback = f"transport.{direction}", getattr(transport, direction), transport.error_feedback
    joined = [name for name in chosen if "," in name or " " in name]
    if joined:
        stages = joined[0].replace(",", " ").split()
        listed = ", ".join(f'"{stage}"' for stage in stages)
        yield Fault(key, list(chosen), f"is one name; write a list: [{listed}]")
        return
    inner = inner_names(chosen)
    if len(inner) == 1 and not is_stage(inner[0]) and inner[0] != ZSTD:
        if direction == "uplink" and feedback:
            remedy = f'{inner[0]} leaves nothing out for it; remove it, or give a chain such as ["delta", "quantize:4"]'
            yield Fault("transport.error_feedback", True, remedy)
        known = {**CODECS, **STAGES, ZSTD: None}
        yield from name_fault(key, inner[0], known, "fedfit.codecs", lambda name: make_codec((name,)))
        return
    try:
        make_codec(chosen, per=transport.per)
    except LookupError as error:
        yield Fault(key, list(chosen), str(error))
        return
    yield from _chain_faults(transport, direction, inner)


def _chain_faults(transport: TransportSettings, direction: str, names: Sequence[str]) -> Iterator[Fault]:
    """What a chain must be for its direction, and for error feedback."""
    from fedfit.codecs.table import make_stage

    feedback = transport.error_feedback
    stages = [make_stage(name) for name in names]
    if direction == "downlink":
        other = [name for name, stage in zip(names, stages, strict=True) if stage.order < 2]
        if other:
            remedy = f"{other[0]} is for what devices send, against what they were sent; a downlink may round: bf16, quantize:8"
            yield Fault("transport.downlink", list(names), remedy)
        return
    if feedback and stages[0].order != 0:
        yield Fault("transport.error_feedback", feedback, "it adds up what differences leave out; begin the uplink with delta")
    elif feedback and all(stage.lossless for stage in stages):
        yield Fault("transport.error_feedback", feedback, "the uplink leaves nothing out; remove it, or add quantize or top_k")
    for name in names:
        if name.partition(":")[0] in _OF_CHANGES and stages[0].order != 0:
            yield Fault("transport.uplink", list(names), f'{name} is for changes; put "delta" before it')


_OF_CHANGES = ("low_rank", "fedobd")
"""Stages that make no sense of the numbers themselves: what is left out would be a factor of zeros."""


def _scale_faults(transport: TransportSettings) -> Iterator[Fault]:
    """Keys of scales without a stage that has any."""
    from fedfit.codecs.table import has_scales

    if not has_scales((*transport.uplink, *transport.downlink)):
        for key, value, default in (("scale_per", transport.scale_per, "block"), ("block", transport.block, 64)):
            if value != default:
                yield Fault(f"transport.{key}", value, "nothing has scales; add quantize or nf4 to a direction, or remove it")
    elif transport.scale_per != "block" and transport.block != 64:
        yield Fault("transport.block", transport.block, f'scale_per is "{transport.scale_per}"; remove one of them')
