"""What differs between the encoder families: where their parts are, and the last layer read at its first token alone.

A family is data and four small functions over the modules of transformers, which stay as they are: PEFT has put its LoRA
modules in place of the adapted linear maps, and calling those is calling the adapted model. To add a family, add one entry
to ``FAMILIES`` and let ``tests/models/test_split.py`` run over it.

Shapes: hidden ``(batch, tokens, hidden)``; mask ``(batch, 1, 1, tokens)``, true where there is a token, or ``None`` where no
sample is padded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedfit.errors import ModelError
from fedfit.models.first_token import first_token_attention


@dataclass(frozen=True)
class Family:
    """One encoder family, as ``config.model_type`` of transformers names it."""

    name: str
    targets: Mapping[str, str]
    """Our name of an adapted matrix → the end of its module's name, after ``layer.N``."""
    head_modules: tuple[str, ...]
    """The modules above the encoder that are trained and sent as the head, as PEFT's ``modules_to_save``."""
    encoder: Callable[[nn.Module], nn.Module]
    layers: Callable[[nn.Module], nn.ModuleList]
    embed: Callable[[nn.Module, Tensor, Tensor | None], Tensor]
    first_token_layer: Callable[[nn.Module, Tensor, Tensor | None], Tensor]
    """The last layer for the first token only: ``(batch, tokens, hidden)`` → ``(batch, 1, hidden)``."""
    classify: Callable[[nn.Module, Tensor], Tensor]
    """``(batch, 1, hidden)`` → logits ``(batch, labels)``."""


def _bert_first_token_layer(layer: Any, hidden: Tensor, mask: Tensor | None) -> Tensor:
    context = first_token_attention(layer.attention.self, ("query", "key", "value"), hidden, mask)
    attended = layer.attention.output(context, hidden[:, :1])
    result: Tensor = layer.feed_forward_chunk(attended)
    return result


def _distilbert_first_token_layer(layer: Any, hidden: Tensor, mask: Tensor | None) -> Tensor:
    context = first_token_attention(layer.attention, ("q_lin", "k_lin", "v_lin"), hidden, mask)
    attended = layer.sa_layer_norm(layer.attention.out_lin(context) + hidden[:, :1])
    result: Tensor = layer.output_layer_norm(layer.ffn(attended) + attended)
    return result


def _bert_classify(model: Any, first: Tensor) -> Tensor:
    logits: Tensor = model.classifier(model.dropout(model.bert.pooler(first)))
    return logits


def _roberta_classify(model: Any, first: Tensor) -> Tensor:
    logits: Tensor = model.classifier(first)
    return logits


def _distilbert_classify(model: Any, first: Tensor) -> Tensor:
    logits: Tensor = model.classifier(model.dropout(functional.relu(model.pre_classifier(first[:, 0]))))
    return logits


def _embed_with_types(encoder: Any, ids: Tensor, types: Tensor | None) -> Tensor:
    embedded: Tensor = encoder.embeddings(input_ids=ids, token_type_ids=types)
    return embedded


def _embed_plain(encoder: Any, ids: Tensor, types: Tensor | None) -> Tensor:
    embedded: Tensor = encoder.embeddings(ids)
    return embedded


_BERT_TARGETS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
}
_DISTILBERT_TARGETS = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "attention_output": "attention.out_lin",
    "intermediate": "ffn.lin1",
    "output": "ffn.lin2",
}

_BERT = Family(
    name="bert",
    targets=_BERT_TARGETS,
    head_modules=("classifier",),
    encoder=lambda model: model.get_submodule("bert"),
    layers=lambda model: _module_list(model.get_submodule("bert.encoder.layer")),
    embed=_embed_with_types,
    first_token_layer=_bert_first_token_layer,
    classify=_bert_classify,
)

FAMILIES: dict[str, Family] = {
    "bert": _BERT,
    "roberta": replace(
        _BERT,
        name="roberta",
        encoder=lambda model: model.get_submodule("roberta"),
        layers=lambda model: _module_list(model.get_submodule("roberta.encoder.layer")),
        classify=_roberta_classify,
    ),
    "distilbert": Family(
        name="distilbert",
        targets=_DISTILBERT_TARGETS,
        head_modules=("pre_classifier", "classifier"),
        encoder=lambda model: model.get_submodule("distilbert"),
        layers=lambda model: _module_list(model.get_submodule("distilbert.transformer.layer")),
        embed=_embed_plain,
        first_token_layer=_distilbert_first_token_layer,
        classify=_distilbert_classify,
    ),
}

TARGETS = tuple(_BERT_TARGETS)


def _module_list(module: nn.Module) -> nn.ModuleList:
    assert isinstance(module, nn.ModuleList)
    return module


def family_of(model_type: str) -> Family:
    """The family by transformers' ``model_type``.

    Raises:
        ModelError: for a family that is not supported, with the list of those that are.
    """
    if model_type not in FAMILIES:
        raise ModelError(
            f"models of the family {model_type!r} cannot be split yet; supported: {', '.join(sorted(FAMILIES))}. "
            "Choose a [model] name of one of these, or add an entry to fedfit.models.families.FAMILIES."
        )
    return FAMILIES[model_type]


def attention_mask(lengths: Tensor) -> Tensor | None:
    """Which keys are tokens, ``(batch, 1, 1, tokens)``; ``None`` when no sample is padded (attention is faster then)."""
    longest = int(lengths.max())
    if int(lengths.min()) == longest:
        return None
    positions = torch.arange(longest, device=lengths.device)
    return (positions < lengths[:, None])[:, None, None, :]
