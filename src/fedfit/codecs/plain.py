"""The plain codec: a safetensors file, with weight, facts and scales in its header. Lossless.

A tensor is named ``<group>.<name>``. The groups that an update marks ``sparse`` travel together as two tensors, the entries
that are not zero and their places (``codecs.sparse``), with the shapes in the header.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fedfit.codecs.sparse import pack, unpack
from fedfit.core.messages import Packet
from fedfit.core.update import LORA_A, LORA_B, Fact, Memory, Update, grouped, named_tensors
from fedfit.errors import UpdateRefused

_VALUES, _PLACES = "sparse values", "sparse places"
_FACTS_BYTES = 4096  # facts and weight of an update, with room to spare
_NAMING_BYTES = 160  # type, shape, offsets and scale of a tensor in the header, beside twice its name
_REFUSED = (SafetensorError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class PlainCodec:
    """Every number in its own type: 32 bits for float32."""

    def bits_per_number(self, density: float = 1.0) -> float:
        """32 bits for each number that travels; below density 1 its place as well, in a bitmap or as an index of 32 bits."""
        return 32.0 if density >= 1 else 32.0 * density + min(1.0, 32.0 * density)

    def encode(
        self, update: Update, reference: Update | None = None, seed: int = 0, state: Memory | None = None
    ) -> tuple[Packet, Memory | None]:
        """The bytes of a safetensors file; no state."""
        dense = named_tensors(update.without(update.sparse))
        facts: dict[str, Any] = {"scales": dict(update.scales), "weight": update.weight, "facts": dict(update.facts)}
        sparse = named_tensors(update.only(update.sparse))
        if sparse:
            facts["shapes"] = {name: list(tensor.shape) for name, tensor in sparse.items()}
            dense |= _packed(sparse)
        tensors = {name: tensor.contiguous() for name, tensor in dense.items()}
        return Packet(save(tensors, metadata={"fedfit": json.dumps(facts)})), state

    def decode(self, packet: Packet, reference: Update | None = None) -> Update:
        """The update in ``packet``; shapes of sparse groups are held to ``reference`` before anything is made of them.

        Raises:
            UpdateRefused: when the bytes are damaged, or a sparse group has another shape than ``reference``.
        """
        try:
            tensors = load(packet.payload)
            facts = json.loads(_metadata(packet.payload)["fedfit"])
            scales = {name: float(scale) for name, scale in _table(facts["scales"], int, float).items()}
            sparse = _unpacked(tensors, _table(facts.get("shapes", {}), list), reference)
            named = _table(facts["facts"], bool, int, float, str)
            groups = in_order(grouped(tensors | sparse), scales)
            update = Update(groups, scales, float(facts["weight"]), _in_range(named))
        except _REFUSED as error:
            raise UpdateRefused(f"the packet is not a whole update: {error}") from error
        _check_pairs(update)
        return update

    def most_bytes(self, form: Update) -> int:
        """Numbers, names and shapes of ``form``, a bitmap of the places should groups be sparse, and room for facts."""
        tensors = named_tensors(form)
        numbers = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        bitmap = -(-sum(tensor.numel() for tensor in tensors.values()) // 8)
        return numbers + bitmap + sum(2 * len(name.encode()) + _NAMING_BYTES for name in tensors) + _FACTS_BYTES


def _packed(sparse: Mapping[str, Tensor]) -> dict[str, Tensor]:
    flat = torch.cat([tensor.reshape(-1) for tensor in sparse.values()])
    places = flat.nonzero().squeeze(1)  # NaN is not zero: it is not hidden from a check
    return {_VALUES: flat[places], _PLACES: pack(places, len(flat))}


def _unpacked(tensors: dict[str, Tensor], shapes: Mapping[str, Any], reference: Update | None) -> dict[str, Tensor]:
    """The dense tensors of the sparse groups; ``tensors`` loses their packed form."""
    if not shapes:
        return {}
    if not all(type(size) is int and size >= 0 for shape in shapes.values() for size in shape):
        raise ValueError(f"shapes that are no shapes: {shapes}")
    if reference is not None:
        wanted = named_tensors(reference)
        other = {name: shape for name, shape in shapes.items() if list(wanted[name].shape) != shape}
        if other:
            raise ValueError(f"sparse tensors of other shapes: {other}")
    sizes = [math.prod(shape) for shape in shapes.values()]
    values, places = tensors.pop(_VALUES), tensors.pop(_PLACES)
    if values.dtype != torch.float32 or values.dim() != 1:
        raise ValueError(f"sparse values of type {values.dtype} and shape {tuple(values.shape)}")
    positions = unpack(places, sum(sizes), len(values))  # refuses shapes that do not fit the places, before they are made
    flat = torch.zeros(sum(sizes))
    flat[positions] = values
    pieces = torch.split(flat, sizes)
    return {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}


def in_order(groups: dict[str, dict[str, Tensor]], scales: Mapping[str, float]) -> dict[str, dict[str, Tensor]]:
    """Pairs first, in the order of ``scales``, which is the sender's: a file of safetensors is sorted by name."""
    for group in (LORA_B, LORA_A):
        if group in groups:
            found = groups.pop(group)
            known = {name: found.pop(name) for name in scales if name in found}
            groups = {group: known | found, **groups}
    return groups


def _check_pairs(update: Update) -> None:
    """A factor whose module has no scale could not be used."""
    for group in (LORA_A, LORA_B):
        strange = sorted(update.groups.get(group, {}).keys() ^ update.scales.keys())
        if group in update.groups and strange:
            raise UpdateRefused(f"the packet is not a whole update: {group} and scales differ in {strange}")


def _table(found: object, *kinds: type) -> dict[str, Any]:
    """A JSON object whose values are of ``kinds``.

    Raises:
        TypeError: for anything else.
    """
    if not isinstance(found, dict) or not all(type(value) in kinds for value in found.values()):
        raise TypeError(f"{found!r} is not a table of {', '.join(kind.__name__ for kind in kinds)}")
    return found


def _in_range(facts: dict[str, Fact]) -> dict[str, Fact]:
    """``facts`` whose integers fit into 64 bits: JSON knows larger ones, which no tensor, float or seed can hold.

    Raises:
        OverflowError: for an integer that does not.
    """
    for name, value in facts.items():
        if type(value) is int and not -(2**63) <= value < 2**63:
            raise OverflowError(f"the fact {name} is out of range")
    return facts


def _metadata(payload: bytes) -> dict[str, str]:
    """The header's metadata, which ``safetensors.torch.load`` does not return."""
    size = int.from_bytes(payload[:8], "little")
    found: dict[str, str] = json.loads(payload[8 : 8 + size])["__metadata__"]
    return found
