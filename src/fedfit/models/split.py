"""The resident model, split: a frozen trunk below the lowest adapted layer, and the tail that trains.

Tail and trunk are the modules of one model in memory. A tail fed with the trunk's output is the whole model: the equality,
of losses and of every gradient, is tested for each family.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from peft import PeftModel
from torch import Tensor, nn

from fedfit.models.adapters import AdapterState, inject
from fedfit.models.families import Family, attention_mask, family_of
from fedfit.models.layers import select_layers
from fedfit.models.load import load_model
from fedfit.models.packed import can_pack, pack_frozen
from fedfit.models.resident_base import ResidentBase
from fedfit.randomness import derive_seed
from fedfit.records import Task
from fedfit.settings import AdapterSettings


class SplitModel:
    """One resident model. ``cut`` is the number of trunk layers; 0 leaves only the embeddings below."""

    def __init__(self, model: PeftModel, family: Family, layers: tuple[int, ...], device: torch.device) -> None:
        self.model = model.to(device)
        self.family = family
        self.device = device
        self.cut = layers[0]
        self.base: nn.Module = model.get_base_model()
        self.config = self.base.config
        self.hidden_size = int(self.config.hidden_size)  # type: ignore[union-attr, arg-type]
        self.adapter = AdapterState(model, family)
        self._encoder = family.encoder(self.base)
        stack = family.layers(self.base)
        self._trunk_layers = list(stack[: self.cut])
        self._tail_layers = list(stack[self.cut :])
        if can_pack(device):  # the tail alone: the trunk's rows must not depend on how many there are
            for layer in self._tail_layers:
                pack_frozen(layer)
        self._merged = ResidentBase(model)  # of the layers as they are now
        self.train_mode(False)

    def load(self, task: Task) -> None:
        """Adapter and frozen weights become those of ``task``.

        Raises:
            UpdateRefused: when they do not fit the model.
        """
        self._merged.load(task.base)
        self.adapter.load(task.update)

    @torch.no_grad()
    def trunk(self, ids: Tensor, types: Tensor | None) -> Tensor:
        """Token ids ``(batch, tokens)`` of one length → hidden states ``(batch, tokens, hidden)`` at the cut.

        The batch must not be padded. Then each row is a function of its sample alone, whatever its neighbours, and what a
        cache holds does not depend on who filled it.
        """
        hidden = self.family.embed(self._encoder, ids, types)
        for layer in self._trunk_layers:
            hidden = layer(hidden, None)
        return hidden

    def tail(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Hidden states at the cut ``(batch, tokens, hidden)``, padded at the end, and lengths ``(batch,)`` → logits.

        The head reads the first token alone, so the last layer computes that one only.
        """
        mask = attention_mask(lengths)
        for layer in self._tail_layers[:-1]:
            hidden = layer(hidden, mask)
        first = self.family.first_token_layer(self._tail_layers[-1], hidden, mask)
        return self.family.classify(self.base, first)

    def trunk_state(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor that the trunk's output depends on, by name."""
        embeddings: nn.Module = self._encoder.get_submodule("embeddings")
        yield from embeddings.state_dict(prefix="embeddings.").items()
        for number, layer in enumerate(self._trunk_layers):
            yield from layer.state_dict(prefix=f"layer.{number}.").items()

    def train_mode(self, training: bool, *, base_dropout: bool = False) -> None:
        """LoRA's own dropout follows ``training``; the frozen base's, in the tail alone, also needs ``base_dropout``."""
        self.model.train(False)
        if not training:
            return
        if base_dropout:
            for layer in self._tail_layers:
                layer.train(True)
            for name, child in self.base.named_children():
                if child is not self._encoder or name == "pooler":
                    child.train(True)
        for name, module in self.model.named_modules():
            if ".lora_dropout." in f"{name}.":
                module.train(True)


def build_split_model(
    name: str, labels: int, settings: AdapterSettings, seed: int, device: torch.device | None = None
) -> SplitModel:
    """Loads ``name``, injects LoRA and splits it. Head and factors are drawn from ``seed``.

    Raises:
        ModelError: when the model cannot be loaded or split.
        ValueError: for layers that the model does not have.
    """
    model = load_model(name, labels, derive_seed(seed, "head"))
    family = family_of(model.config.model_type)  # type: ignore[union-attr, arg-type]
    layers = select_layers(settings.layers, model.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]
    wrapped = inject(model, family, settings, layers, derive_seed(seed, "factors"))
    return SplitModel(wrapped, family, layers, device or torch.device("cpu"))
