"""A chain of stages as a codec: ``["delta", "top_k:0.01", "quantize:4"]``.

All float32 tensors of an update that may be rounded are one vector, in the order of their names, so that the largest entries
are the largest of all and a block of scales may span two tensors. Groups that an update marks ``exact`` or ``sparse``, and
tensors of other types, travel as the plain codec has them. The container is the plain codec's as well: safetensors, with names,
shapes and scales in the header; where these are the reference's, its groups and a digest alone.

Error feedback (Stich et al., arXiv 1809.07599; Karimireddy et al., arXiv 1901.09847) keeps what a packet left out: with e the
sender's state and x the differences, ``p = e + x`` is sent and ``e ← p − decode(encode(p))``. So what was sent in all, and e,
add up to all differences. The error stays bounded where each packet takes a part of what is due, ``‖p − decode(encode(p))‖² ≤
(1 − δ)·‖p‖²``: a contraction. Unbiased stages are none (``random_k`` at a tenth errs by 9·‖p‖²), and the error would grow from
packet to packet; ``make_codec`` puts their ``contraction`` in their place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedfit.codecs.described import describe, described
from fedfit.codecs.plain import PlainCodec, in_order
from fedfit.codecs.sender import Sender
from fedfit.codecs.stage import Coded, Known, Shapes, Stage
from fedfit.core.messages import Packet
from fedfit.core.update import Memory, Update, grouped, named_tensors
from fedfit.errors import UpdateRefused
from fedfit.randomness import derive_seed

_GROUP, _FACT, _VALUES = "coded", "coded", "values"
_PLAIN = PlainCodec()
_FORM_BYTES = 64  # of a tensor's shape in the header, beside its name
_BESIDE_BYTES = 4096  # names of the coded tensors


@dataclass(frozen=True)
class Chain:
    """The stages one after another; ``feedback``: whether the sender keeps what a packet left out."""

    stages: tuple[Stage, ...]
    feedback: bool = False

    @property
    def refers(self) -> bool:
        """Whether it needs what the receiver has to the bit: a decoder is then given the decoded order."""
        return any(stage.order == 0 for stage in self.stages)

    @property
    def lossless(self) -> bool:
        """Whether every number comes back."""
        return all(stage.lossless for stage in self.stages)

    @property
    def bound(self) -> Chain:
        """A chain whose packets are at least as long, by the tensors' shapes alone: what a plan counts with."""
        return replace(self, stages=tuple(stage for each in self.stages for stage in getattr(each, "bound", (each,))))

    def bits_per_number(self, density: float = 1.0) -> float:
        """See ``codecs.contract.Codec``; sparse groups travel as the plain codec has them."""
        if density < 1:
            return _PLAIN.bits_per_number(density)
        bits = 32.0
        for stage in reversed(self.stages):
            bits = stage.bits(bits)
        return bits

    def encode(
        self, update: Update, reference: Update | None = None, seed: int = 0, state: Memory | None = None
    ) -> tuple[Packet, Memory | None]:
        """See ``codecs.contract.Codec``. The state is the error, of the same names and shapes; another is dropped."""
        coded, rest = _parted(update)
        forms = {name: list(tensor.shape) for name, tensor in coded.items()}
        said, scales = describe(forms, update, rest, reference)
        vector, shapes = _joined(coded), tuple(forms.values())
        known = Known(_reference(coded, reference), shapes=shapes)
        sender = Sender.of(state)
        if self.feedback:
            vector = vector + sender.error(forms)
        wire, kept = self._coded(vector, known, seed, sender.kept(forms))
        facts = {**update.facts, _FACT: said}
        packet, _ = _PLAIN.encode(replace(rest, facts=facts, scales=scales).with_groups({_GROUP: wire}))
        error = vector - self._decoded(wire, len(vector), known) if self.feedback else None
        return packet, sender.after(forms, error, kept).memory()

    def decode(self, packet: Packet, reference: Update | None = None) -> Update:
        """See ``codecs.contract.Codec``."""
        found = _PLAIN.decode(packet, reference)
        wire, facts = found.groups.get(_GROUP, {}), dict(found.facts)
        forms, scales = described(facts.pop(_FACT, None), found.scales, reference)
        sizes = [math.prod(shape) for shape in forms.values()]
        self._check_length(wire, sum(sizes), tuple(forms.values()))
        empty = {name: torch.empty(shape, device="meta") for name, shape in forms.items()}
        vector = self._decoded(wire, sum(sizes), Known(_reference(empty, reference), shapes=tuple(forms.values())))
        pieces = torch.split(vector, sizes) if sizes else ()
        tensors = {name: piece.view(shape) for (name, shape), piece in zip(forms.items(), pieces, strict=True)}
        rest = named_tensors(found.without({_GROUP}))
        return replace(found, groups=in_order(grouped({**rest, **tensors}), scales), scales=scales, facts=facts)

    def most_bytes(self, form: Update) -> int:
        """See ``codecs.contract.Codec``: what the plain codec takes, with shapes, scales and places besides."""
        tensors = named_tensors(form)
        entries = sum(tensor.numel() for tensor in tensors.values())
        return _PLAIN.most_bytes(form) + entries + sum(len(name) + _FORM_BYTES for name in tensors) + _BESIDE_BYTES

    def _coded(
        self, vector: Tensor, known: Known, seed: int, kept: Mapping[int, Tensor]
    ) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
        """The tensors that travel, and those that the stages keep, each under its stage's number."""
        values, beside, keeps = vector, dict[str, Tensor](), dict[int, Tensor]()
        for number, (stage, shapes) in enumerate(zip(self.stages, self._shapes(known.shapes), strict=True)):
            own = replace(known, seed=derive_seed(seed, "stage", number), shapes=shapes, kept=kept.get(number))
            made = stage.encode(values, own)
            values = made.values
            beside |= {f"{number} {name}": tensor for name, tensor in made.beside.items()}
            if made.kept is not None:
                keeps[number] = made.kept
        return {_VALUES: values, **beside}, keeps

    def _shapes(self, shapes: Shapes) -> list[Shapes]:
        """Those that each stage may use: none behind a stage that makes fewer numbers, whose values are no whole tensors."""
        return [
            () if any(before.order == 1 for before in self.stages[:number]) else shapes for number in range(len(self.stages))
        ]

    def _lengths(self, wire: Mapping[str, Tensor], entries: int, shapes: Shapes) -> list[int]:
        """The entries before each stage, and the values after the last."""
        found = [entries]
        for number, (stage, own) in enumerate(zip(self.stages, self._shapes(shapes), strict=True)):
            found.append(stage.length(found[-1], own, _beside(wire, number)))
        return found

    def _check_length(self, wire: Mapping[str, Tensor], entries: int, shapes: Shapes) -> None:
        """Before a vector of ``entries`` is made, there must be as many values as the stages make of one."""
        there, length = wire.get(_VALUES), self._lengths(wire, entries, shapes)[-1]
        if there is None or tuple(there.shape) != (length,):
            raise UpdateRefused(f"values: got {None if there is None else tuple(there.shape)}, wanted {(length,)}")

    def _decoded(self, wire: Mapping[str, Tensor], entries: int, known: Known) -> Tensor:
        lengths, shapes = self._lengths(wire, entries, known.shapes), self._shapes(known.shapes)
        values = wire[_VALUES]
        for number in reversed(range(len(self.stages))):
            coded = Coded(values, _beside(wire, number))
            values = self.stages[number].decode(coded, lengths[number], replace(known, shapes=shapes[number]))
        return values


def _beside(wire: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """The tensors that a stage sent beside its values."""
    sign = f"{number} "
    return {name.removeprefix(sign): tensor for name, tensor in wire.items() if name.startswith(sign)}


def _parted(update: Update) -> tuple[dict[str, Tensor], Update]:
    """The tensors that the stages code, by full name, and the update without them."""
    kept = update.exact | update.sparse
    named = {
        name: tensor
        for name, tensor in named_tensors(update).items()
        if name.partition(".")[0] not in kept and tensor.dtype == torch.float32
    }
    rest = {name: tensor for name, tensor in named_tensors(update).items() if name not in named}
    return dict(sorted(named.items())), replace(update, groups=grouped(rest))


def _joined(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([torch.zeros(0), *(tensor.reshape(-1) for tensor in tensors.values())])


def _reference(tensors: Mapping[str, Tensor], reference: Update | None) -> Tensor:
    """The reference's entries for ``tensors``; zeros for a tensor that it lacks, or has in another shape."""
    there = {} if reference is None else named_tensors(reference)
    parts = []
    for name, tensor in tensors.items():
        other = there.get(name)
        fits = other is not None and other.shape == tensor.shape and other.dtype == torch.float32
        parts.append(other.reshape(-1) if fits and other is not None else torch.zeros(tensor.numel()))
    return torch.cat([torch.zeros(0), *parts])
