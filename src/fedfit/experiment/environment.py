"""The machine and the libraries that a run runs on."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import version
from typing import Any

import torch

_PACKAGES = ("fedfit", "torch", "transformers", "peft", "numpy", "datasets", "flwr-datasets", "safetensors")


def environment(device: torch.device) -> dict[str, Any]:
    """Machine and libraries; kept beside a run's results."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in _PACKAGES},
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "byte_order": sys.byteorder,
    }
