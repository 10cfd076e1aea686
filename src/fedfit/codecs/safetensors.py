"""The plain codec: float32 tensors as safetensors, weight, metrics and scales in its header."""

from __future__ import annotations

import json

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from fedfit.errors import UpdateRefused
from fedfit.records import PARTS, Factors, Packet, Update

_A, _B, _HEAD, _EXTRA = ".lora_A", ".lora_B", "head.", "extra."


class SafetensorsCodec:
    """Lossless. Adapter factors are ``<module>.lora_A`` and ``.lora_B``, head tensors ``head.<name>``, others
    ``extra.<name>``."""

    def encode(self, update: Update, parts: frozenset[str] = PARTS) -> Packet:
        """The bytes of a safetensors file."""
        tensors: dict[str, torch.Tensor] = {}
        for name, factors in update.factors.items():
            if "a" in parts:
                tensors[name + _A] = factors.a.contiguous()
            if "b" in parts:
                tensors[name + _B] = factors.b.contiguous()
        if "head" in parts:
            tensors |= {_HEAD + name: tensor.contiguous() for name, tensor in update.head.items()}
        tensors |= {_EXTRA + name: tensor.contiguous() for name, tensor in update.extra.items()}
        scales = {name: factors.scale for name, factors in update.factors.items()}
        facts: dict[str, object] = {"scales": scales, "weight": update.weight, "metrics": dict(update.metrics)}
        if parts != PARTS:
            facts["parts"] = sorted(parts)
        return Packet(save(tensors, metadata={"fedfit": json.dumps(facts)}))

    def decode(self, packet: Packet, base: Update | None = None, wanted: frozenset[str] | None = None) -> Update:
        """The update in ``packet``; ``wanted`` are the parts that must be what it holds, whatever it says when ``None``.

        Raises:
            UpdateRefused: when the bytes are damaged, a factor has lost its partner, or a part is not there nor in ``base``.
        """
        try:
            tensors = load(packet.payload)
            facts = json.loads(_metadata(packet.payload)["fedfit"])
            scales, parts = _numbers(facts["scales"]), frozenset(facts.get("parts", PARTS))
            if not parts <= PARTS or wanted not in (None, parts):
                raise ValueError(f"it holds {sorted(parts)}, wanted {sorted(wanted or PARTS)}")
            if parts != PARTS and base is None:
                raise ValueError(f"it holds {sorted(parts)} alone")
            factors = {
                name: Factors(
                    tensors.pop(name + _A) if "a" in parts else _of(base).factors[name].a,
                    tensors.pop(name + _B) if "b" in parts else _of(base).factors[name].b,
                    scales[name],
                )
                for name in scales
            }
            extra = {name.removeprefix(_EXTRA): tensors.pop(name) for name in list(tensors) if name.startswith(_EXTRA)}
            if "head" in parts:
                head = {name.removeprefix(_HEAD): tensors.pop(name) for name in list(tensors) if name.startswith(_HEAD)}
            else:
                head = dict(_of(base).head)
            weight, metrics = float(facts["weight"]), _numbers(facts["metrics"])
        except (SafetensorError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise UpdateRefused(f"the packet is not a whole update: {error}") from error
        if tensors:
            raise UpdateRefused(f"the packet has unknown tensors: {sorted(tensors)}")
        return Update(factors, head, weight, metrics, extra=extra)


def _of(base: Update | None) -> Update:
    if base is None:
        raise ValueError("there is nothing to take the other parts from")
    return base


def _numbers(found: object) -> dict[str, float]:
    """A JSON object whose values are numbers.

    Raises:
        TypeError: for anything else.
        OverflowError: for a number that no float can hold.
    """
    if not isinstance(found, dict) or not all(type(value) in (int, float) for value in found.values()):
        raise TypeError(f"{found!r} is not a table of numbers")
    for value in found.values():
        float(value)  # JSON knows whole numbers that no float can hold
    return found


def _metadata(payload: bytes) -> dict[str, str]:
    """The header's metadata, which ``safetensors.torch.load`` does not return."""
    size = int.from_bytes(payload[:8], "little")
    found: dict[str, str] = json.loads(payload[8 : 8 + size])["__metadata__"]
    return found


CODECS = {"safetensors": SafetensorsCodec}
