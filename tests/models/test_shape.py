"""The shapes that the families make, held to the modules of transformers and to the configurations of well-known models."""

from pathlib import Path
from typing import Any

import pytest
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from fedfit.models.families import FAMILIES, TARGETS
from fedfit.models.shape import Matrix
from tests.builders import CLASSES, TINY_MODELS


def built(family: str) -> tuple[Any, Any]:
    config = TINY_MODELS[family]()
    config.num_labels = CLASSES
    return config, AutoModelForSequenceClassification.from_config(config)


def sizes(modules: list[nn.Module]) -> list[tuple[int, ...]]:
    """Of every linear map in ``modules``, output and input."""
    found = [each for module in modules for each in module.modules() if isinstance(each, nn.Linear)]
    return sorted((linear.out_features, linear.in_features, linear.bias is not None) for linear in found)


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
            assert shape.matrices[name] == Matrix(name, linear.out_features, linear.in_features, linear.bias is not None)
        assert sizes([layer]) == drawn(tuple(shape.matrices.values()))
    assert tuple(entry.targets) == tuple(shape.matrices)
    assert tuple(entry.targets)[:3] == tuple(matrix.name for matrix in shape.projections)
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
    size = layer.get_submodule(entry.attention).attention_head_size
    assert shape.heads * size == shape.width
    assert shape.key_value_heads * size == shape.projections[1].outputs == shape.projections[2].outputs
    assert isinstance(layer.get_submodule(entry.attention).dropout, nn.Dropout)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_longest_sample_is_read_and_one_more_token_is_not(family: str, tiny_models: dict[str, Path]) -> None:
    import torch

    _, model = built(family)
    longest = FAMILIES[family].shape(AutoConfig.from_pretrained(tiny_models[family]), CLASSES).longest
    model.eval()
    assert model(input_ids=torch.full((1, longest), 7)).logits.shape == (1, CLASSES)
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, longest + 1), 7))


def test_names_of_matrices_are_the_union_over_the_families() -> None:
    assert TARGETS == ("query", "key", "value", "attention_output", "intermediate", "output")
