"""The resident model of a recipe: loaded, adapted, split."""

from __future__ import annotations

import torch

from fedfit.adapters.table import adapter_kind
from fedfit.models.families import family_of
from fedfit.models.layers import select_layers
from fedfit.models.load import load_model
from fedfit.models.split import SplitModel
from fedfit.randomness import derive_seed
from fedfit.settings import AdapterSettings


def build_split_model(
    name: str, labels: int | None, settings: AdapterSettings, seed: int, device: torch.device | None = None
) -> SplitModel:
    """Loads ``name``, injects the adapter of ``settings`` and splits it. The adapter and a classifier's head are drawn from
    ``seed``.

    Args:
        labels: of a classifier; ``None``: a language model with its own head.

    Raises:
        ModelError: when the model cannot be loaded or split.
        LookupError: for an adapter kind that does not exist.
        ValueError: for layers or targets that the model does not have.
    """
    kind = adapter_kind(settings.kind)
    model = load_model(name, labels, derive_seed(seed, "head"))
    family = family_of(model.config.model_type)  # type: ignore[union-attr, arg-type]
    layers = select_layers(settings.layers, model.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]
    wrapped = kind.inject(model, family, settings, layers, derive_seed(seed, "factors"))
    return SplitModel(wrapped, family, kind, layers, device or torch.device("cpu"))
