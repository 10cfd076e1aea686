"""The resident model, split: a frozen trunk below the lowest adapted layer, and the tail that trains.

Tail and trunk are the modules of one model in memory. A tail fed with the trunk's output is the whole model: the equality,
of losses and of every gradient, is tested for each family.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn

from fedfit.core.update import Job
from fedfit.models.adapter import AdapterKind
from fedfit.models.batch import Batch, mean_states
from fedfit.models.decoder_layer import whole_layer
from fedfit.models.family import Family
from fedfit.models.fused_norm import fuse_norms
from fedfit.models.last_layer import Positions, last_layer, token_index
from fedfit.models.layer_inputs import layer_inputs, token_positions
from fedfit.models.packed import can_pack, pack_frozen
from fedfit.models.readout import Readout, vocabulary_head


class SplitModel:
    """One resident model. ``layers`` are the adapted ones; ``cut`` is the number of trunk layers, 0 leaves only the embeddings
    below.
    """

    def __init__(
        self, model: PeftModel, family: Family, kind: AdapterKind, layers: tuple[int, ...], device: torch.device
    ) -> None:
        self.model = model.to(device)
        self.family = family
        self.device = device
        self.layers, self.cut = layers, layers[0]
        self.base: nn.Module = model.get_base_model()
        self.config = self.base.config
        self.language = family.writes(self.base)
        """Whether the head is that of a language model, which is frozen; else a classifier's."""
        labels = None if self.language else int(self.config.num_labels)  # type: ignore[union-attr, arg-type]
        self.shape = family.shape_of(self.config, labels)
        self.hidden_size = self.shape.hidden
        self.kind, self.adapter = kind, kind.resident(model, family)
        self._encoder = self.base.get_submodule(family.encoder)
        stack = list(self._encoder.get_submodule(family.layers).children())
        self._trunk_layers, self._tail_layers = stack[: self.cut], stack[self.cut :]
        self._vocabulary = vocabulary_head(family, self.base) if self.language else None
        if can_pack(device):  # the tail alone: the trunk's rows must not depend on how many there are
            for layer in self._tail_layers:
                pack_frozen(layer)
                fuse_norms(layer)
        self.train_mode(False)

    def load(self, job: Job) -> None:
        """Adapter and frozen weights become those of ``job``.

        Raises:
            UpdateRefused: when they do not fit the model.
        """
        self.adapter.load(job)

    @torch.no_grad()
    def trunk(self, ids: Tensor, segments: Tensor | None) -> Tensor:
        """Token ids ``(batch, tokens)`` of one length → hidden states ``(batch, tokens, hidden)`` at the cut.

        The batch must not be padded. Then each row is a function of its sample alone, whatever its neighbours, and what a
        cache holds does not depend on who filled it.

        Args:
            segments: ``(batch, tokens)``, as the family's tokens have them (``data.tokenize.Samples``), or ``None``.
        """
        decodes = self.family.decoder is not None
        below = token_positions(segments, ids.shape[1], ids.device) if decodes else segments
        hidden = self.family.embed(self._encoder, ids, below)
        inputs = layer_inputs(self.family, self._encoder, hidden, None, segments)
        for layer, each in zip(self._trunk_layers, inputs, strict=False):
            hidden = whole_layer(self.family, layer, hidden, each)
        return hidden

    @torch.no_grad()
    def look_at(self, prompts: Sequence[np.ndarray]) -> None:
        """What a batch of ``prompts``, each token ids, is to the adapter when the whole model computes it."""

        def samples() -> Tensor:
            return torch.stack([self.trunk(ids[None], None)[0].mean(dim=0) for ids in found])

        found = [torch.from_numpy(ids.astype(np.int64)).to(self.device) for ids in prompts]
        self.adapter.look_at(samples)

    def tail(self, batch: Batch, positions: Positions | None = None) -> Any:
        """The head's output at the positions that the task reads; the last layer computes these alone.

        Args:
            batch: states at the cut, from ``Trunk.batch``.
            positions: that the task reads; by default the one that transformers' classifier of this family reads.

        Returns:
            Logits of a classifier, ``(batch, labels)`` for the first or the last token, ``(batch, positions, labels)`` for
            indices; of a language model the ``Readout`` of all positions, row by row, without those that are -1.
        """
        states = self.states(batch, positions)
        if self._vocabulary is not None:
            return Readout(self.family.pool(self.base, states), self._vocabulary)
        pooled = self.family.pool(self.base, states.view(-1, 1, states.shape[-1]))
        logits = self.family.head(self.base, pooled)
        return logits.view(*positions.shape, -1) if isinstance(positions, Tensor) else logits

    def states(self, batch: Batch, positions: Positions | None = None) -> Tensor:
        """The last layer's output at ``positions``, arguments as ``tail`` has them.

        Returns:
            ``(batch, positions, hidden)``; of a decoder ``(n, hidden)``, row by row, without the positions that are -1.
        """
        hidden = batch.hidden
        index = token_index(self.family.reads if positions is None else positions, batch.lengths)
        self.adapter.look_at(lambda: mean_states(batch), index)
        inputs = layer_inputs(self.family, self._encoder, hidden, batch.lengths, batch.segments)
        for layer, each in zip(self._tail_layers[:-1], inputs[self.cut :], strict=False):
            hidden = whole_layer(self.family, layer, hidden, each)
        return last_layer(self.family, self._tail_layers[-1], hidden, inputs[-1], index)

    def trunk_state(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor that the trunk's output depends on, by name: the encoder's, but for the tail's layers and the pooler."""
        above = [f"{self.family.layers}.{number}." for number in range(self.cut, self.shape.layers)]
        above += [f"{self.family.pooler}."] if self.family.pooler else []
        for name, tensor in self._encoder.state_dict().items():
            if not name.startswith(tuple(above)):
                yield name, tensor

    def train_mode(self, training: bool, *, base_dropout: bool = False) -> None:
        """LoRA's own dropout follows ``training``; the frozen base's, in the tail alone, also needs ``base_dropout``."""
        self.model.train(False)
        if not training:
            return
        if base_dropout:
            for layer in self._tail_layers:
                layer.train(True)
            for child in self.base.children():
                if child is not self._encoder:
                    child.train(True)
        for name, module in self.model.named_modules():
            if ".lora_dropout." in f"{name}.":
                module.train(True)
