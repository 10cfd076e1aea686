"""Mixed precision by the name that a recipe gives it."""

from __future__ import annotations

import torch

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The autocast of ``training.precision``; none for fp32. Weights stay float32 either way."""
    return torch.autocast(device.type, dtype=_TYPES[precision], enabled=precision != "fp32")
