"""The plain codec: float32 tensors as safetensors, weight, metrics and scales in its header."""

from __future__ import annotations

import json

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from fedfit.errors import UpdateRefused
from fedfit.records import Factors, Packet, Update

_A, _B, _HEAD = ".lora_A", ".lora_B", "head."


class SafetensorsCodec:
    """Lossless. Adapter factors are ``<module>.lora_A`` and ``.lora_B``, head tensors ``head.<name>``."""

    def encode(self, update: Update) -> Packet:
        """The bytes of a safetensors file."""
        tensors: dict[str, torch.Tensor] = {}
        for name, factors in update.factors.items():
            tensors[name + _A], tensors[name + _B] = factors.a.contiguous(), factors.b.contiguous()
        for name, tensor in update.head.items():
            tensors[_HEAD + name] = tensor.contiguous()
        scales = {name: factors.scale for name, factors in update.factors.items()}
        facts = {"scales": scales, "weight": update.weight, "metrics": dict(update.metrics)}
        return Packet(save(tensors, metadata={"fedfit": json.dumps(facts)}))

    def decode(self, packet: Packet) -> Update:
        """The update in ``packet``.

        Raises:
            UpdateRefused: when the bytes are damaged or a factor has lost its partner.
        """
        try:
            tensors = load(packet.payload)
            facts = json.loads(_metadata(packet.payload)["fedfit"])
            scales = _numbers(facts["scales"])
            factors = {name: Factors(tensors.pop(name + _A), tensors.pop(name + _B), scales[name]) for name in scales}
            head = {name.removeprefix(_HEAD): tensors.pop(name) for name in list(tensors) if name.startswith(_HEAD)}
            weight, metrics = float(facts["weight"]), _numbers(facts["metrics"])
        except (SafetensorError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise UpdateRefused(f"the packet is not a whole update: {error}") from error
        if tensors:
            raise UpdateRefused(f"the packet has unknown tensors: {sorted(tensors)}")
        return Update(factors, head, weight, metrics)


def _numbers(found: object) -> dict[str, float]:
    """A JSON object whose values are numbers.

    Raises:
        TypeError: for anything else.
    """
    if not isinstance(found, dict) or not all(type(value) in (int, float) for value in found.values()):
        raise TypeError(f"{found!r} is not a table of numbers")
    return found


def _metadata(payload: bytes) -> dict[str, str]:
    """The header's metadata, which ``safetensors.torch.load`` does not return."""
    size = int.from_bytes(payload[:8], "little")
    found: dict[str, str] = json.loads(payload[8 : 8 + size])["__metadata__"]
    return found


CODECS = {"safetensors": SafetensorsCodec}
