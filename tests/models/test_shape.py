"""The shapes that the families make, held to the modules of transformers and to the configurations of well-known models."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig
from transformers.pytorch_utils import Conv1D

from fedfit.models.families import FAMILIES, TARGETS
from fedfit.models.shape import Matrix
from fedfit.models.targets import resolve, resolve_all
from tests.builders import CLASSES, TINY_MODELS


def built(family: str) -> tuple[Any, Any]:
    config = TINY_MODELS[family]()
    config.num_labels = CLASSES
    return config, AutoModelForSequenceClassification.from_config(config)


def sizes(modules: list[nn.Module]) -> list[tuple[int, ...]]:
    """Of every linear map in ``modules``, output and input."""
    found = [each for module in modules for each in module.modules() if isinstance(each, nn.Linear | Conv1D)]
    return sorted(size_of(linear) for linear in found)


def size_of(linear: Any) -> tuple[int, int, bool]:
    """Output, input, and whether it has a bias."""
    outputs, inputs = reversed(linear.weight.shape) if isinstance(linear, Conv1D) else linear.weight.shape
    return outputs, inputs, linear.bias is not None


def drawn(matrices: tuple[Matrix, ...]) -> list[tuple[int, ...]]:
    return sorted((*matrix.size, matrix.bias) for matrix in matrices)


def test_the_table_and_the_small_models_have_the_same_families() -> None:
    assert FAMILIES.keys() == TINY_MODELS.keys()
    assert [family.name for family in FAMILIES.values()] == list(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_map_of_the_model_is_in_its_shape_once(family: str) -> None:
    entry = FAMILIES[family]
    config, model = built(family)
    shape = entry.shape(config, CLASSES)
    encoder = model.get_submodule(entry.encoder)
    layers = list(encoder.get_submodule(entry.layers).children())
    assert len(layers) == shape.layers
    for layer in layers:
        for name, module in entry.targets.items():
            linear = layer.get_submodule(module)
            assert shape.matrices[name] == Matrix(name, *size_of(linear))
        assert sizes([layer]) == drawn(tuple(shape.matrices.values()))
    assert tuple(entry.targets) == tuple(shape.matrices)
    assert entry.projections == tuple(matrix.name for matrix in shape.projections)
    assert list(entry.targets)[: len(shape.projections)] == list(entry.projections)
    assert sizes([model.get_submodule(name) for name in entry.head_modules]) == drawn(shape.head)
    assert sizes([encoder.get_submodule(entry.pooler)] if entry.pooler else []) == drawn(shape.pooler)
    everything = [*shape.embedding, *shape.pooler, *shape.head, *shape.layers * list(shape.matrices.values())]
    assert sizes([model]) == drawn(tuple(everything))


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_of_the_family_has_the_shapes_heads(family: str) -> None:
    entry = FAMILIES[family]
    config, model = built(family)
    shape = entry.shape(config, CLASSES)
    layer = next(iter(model.get_submodule(f"{entry.encoder}.{entry.layers}").children()))
    attention = layer.get_submodule(entry.attention)
    size = attention.attention_head_size if entry.decoder is None else attention.head_dim
    assert shape.heads * size == shape.width
    assert sum(matrix.outputs for matrix in shape.projections) == (shape.heads + 2 * shape.key_value_heads) * size
    if entry.decoder is None:
        assert isinstance(attention.dropout, nn.Dropout)
    assert shape.decoder == (entry.decoder is not None)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_longest_sample_is_read_and_one_more_token_is_not(family: str, tiny_models: dict[str, Path]) -> None:
    import torch

    _, model = built(family)
    longest = FAMILIES[family].shape(AutoConfig.from_pretrained(tiny_models[family]), CLASSES).longest
    model.eval()
    assert model(input_ids=torch.full((1, longest), 7)).logits.shape == (1, CLASSES)
    if hasattr(model.get_submodule(FAMILIES[family].encoder), "rotary_emb"):
        return  # rotary positions have no end but the one that the configuration names
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, longest + 1), 7))


def test_names_of_matrices_are_the_union_over_the_families() -> None:
    assert TARGETS[:6] == ("query", "key", "value", "attention_output", "intermediate", "output")
    assert TARGETS[6:13] == ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert TARGETS[13:] == ("c_attn", "attn_c_proj", "c_fc", "mlp_c_proj")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_language_model_has_a_frozen_head_of_the_vocabularys_size(family: str) -> None:
    entry, config = FAMILIES[family], TINY_MODELS[family]()
    if entry.decoder is None:
        return
    model = AutoModelForCausalLM.from_config(config)
    shape, classifier = entry.shape_of(config, None), entry.shape_of(config, CLASSES)
    assert sizes([model.get_submodule(entry.decoder.head)]) == drawn(shape.head)
    assert shape.language
    assert not classifier.language
    assert shape == replace(classifier, head=shape.head, language=True)


def test_well_known_decoders() -> None:
    """SmolLM2-135M (hidden 576, 9 heads of which 3 key-value, 49,152 words, tied) has 134,515,008 parameters, and Llama-3.2-1B
    (hidden 2048, 32 heads, 8 key-value, 128,256 words, tied) 1,235,814,400, as their model cards print: embeddings, layers
    with two norms each, and the last norm."""
    for hidden, layers, heads, groups, width, words, total in (
        (576, 30, 9, 3, 1536, 49152, 134_515_008),
        (2048, 16, 32, 8, 8192, 128256, 1_235_814_400),
    ):
        config = LlamaConfig(
            vocab_size=words,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=groups,
            intermediate_size=width,
        )
        shape = FAMILIES["llama"].shape_of(config, None)
        matrices = sum(matrix.parameters for matrix in shape.matrices.values())
        assert words * hidden + layers * (matrices + 2 * hidden) + hidden == total
        assert shape.head[0].size == (words, hidden)


def test_names_of_other_families_are_resolved_in_one_place() -> None:
    llama, bert, gpt2 = (tuple(FAMILIES[name].targets) for name in ("llama", "bert", "gpt2"))
    assert resolve_all(("query", "value"), llama) == ("q_proj", "v_proj")
    assert resolve_all(("q_proj", "down_proj"), bert) == ("query", "output")
    assert resolve_all(("query", "value"), gpt2) == ("c_attn",)  # one matrix for both
    assert resolve_all(("c_attn",), llama) == ("q_proj", "k_proj", "v_proj")
    assert resolve_all(("intermediate", "gate_proj"), llama) == ("up_proj", "gate_proj")
    assert resolve("gate_proj", bert) == ()
    for targets in (("gate_proj",), ("query", "query"), ("lm_head",)):
        with pytest.raises(ValueError, match="at most once"):
            resolve_all(targets, bert)
