"""Shapes of models by name, or by the ``config.json`` of a folder, for plans that load no model. Starts without torch.

The sizes are those of the published configurations. A run reads its model's own configuration, and never this table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

from fedfit.errors import ModelError, did_you_mean
from fedfit.models.families import GENERATING, family_of
from fedfit.models.packaged import PACKAGED
from fedfit.models.shape import ModelShape


def _encoder(kind: str, hidden: int, intermediate: int, layers: int, heads: int, positions: int) -> Mapping[str, Any]:
    return _decoder(kind, hidden, intermediate, layers, heads, heads, 0, positions) | {"pad_token_id": 1}


def _decoder(
    kind: str, hidden: int, intermediate: int, layers: int, heads: int, groups: int, words: int, positions: int
) -> dict[str, Any]:
    return {
        "model_type": kind,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "vocab_size": words,
        "max_position_embeddings": positions,
    }


KNOWN: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "sentence-transformers/all-MiniLM-L6-v2": _encoder("bert", 384, 1536, 6, 12, 512),
        "FacebookAI/roberta-base": _encoder("roberta", 768, 3072, 12, 12, 514),
        "FacebookAI/roberta-large": _encoder("roberta", 1024, 4096, 24, 16, 514),
        "HuggingFaceTB/SmolLM2-135M-Instruct": _decoder("llama", 576, 1536, 30, 9, 3, 49_152, 8_192),
        "HuggingFaceTB/SmolLM2-360M-Instruct": _decoder("llama", 960, 2560, 32, 15, 5, 49_152, 8_192),
        "HuggingFaceTB/SmolLM2-1.7B-Instruct": _decoder("llama", 2048, 8192, 24, 32, 32, 49_152, 8_192),
        "meta-llama/Llama-3.2-1B": _decoder("llama", 2048, 8192, 16, 32, 8, 128_256, 131_072),
        "meta-llama/Llama-3.2-3B": _decoder("llama", 3072, 8192, 28, 24, 8, 128_256, 131_072),
        "meta-llama/Llama-2-7b-hf": _decoder("llama", 4096, 11_008, 32, 32, 32, 32_000, 4_096),
    }
)
"""Name on the hub → the keys of its configuration that the sizes depend on."""

_SAME = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
}
"""Keys of GPT-2 and DistilBERT → the common ones."""


def named_shape(name: str) -> ModelShape:
    """The shape of a model by a recipe's ``model.name``: an alias, a name in ``KNOWN`` with or without its owner and
    ``-Instruct``, or a folder with a ``config.json``. That of a decoder is its language model's.

    Raises:
        ModelError: for a name that is not known, and a configuration that cannot be read or does not say enough.
    """
    keys = _known(name)
    if keys is None:
        keys = _read(name)
    kind = str(keys.get("model_type"))
    family = family_of(kind)
    config = SimpleNamespace(**{_SAME.get(key, key): value for key, value in keys.items()}, **_defaults(kind, keys))
    try:
        return family.shape_of(config, None if kind in GENERATING else 1)
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelError(f"the configuration of {name!r} does not tell the sizes of a {kind}: {error}") from error


def _known(name: str) -> Mapping[str, Any] | None:
    hub_name = PACKAGED[name].hub_name if name in PACKAGED else name
    short = {_short(known): keys for known, keys in KNOWN.items()}
    return short.get(_short(hub_name))


def _short(name: str) -> str:
    """A name without its owner, and without the word for instruction tuning, which changes no size."""
    return name.rpartition("/")[2].lower().removesuffix("-instruct")


def _defaults(kind: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    """GPT-2 leaves the width of its feed-forward part out where it is the usual one."""
    return {"n_inner": None} if kind == "gpt2" and "n_inner" not in keys else {}


def _read(name: str) -> Mapping[str, Any]:
    folder = Path(name)
    if not folder.is_dir():
        names = (*PACKAGED, *KNOWN)
        hint = did_you_mean(name, names) or f"known are {', '.join(names)}; "
        raise ModelError(f"no model of this name is known; {hint}or give a folder with the model's config.json")
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / 'config.json'} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{folder / 'config.json'} is not the configuration of a model")
    return found
