"""Counts held to torch's own counter on the real model, to the integer, and parameters to the real tensors."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode, addmm_flop, sdpa_backward_flop_count, sdpa_flop_count

from fedfit.models import families
from fedfit.models.batch import Batch
from fedfit.models.cost import AdaptedShape, adapted_matrices, adapted_shape, factor_parameters, head_parameters
from fedfit.models.families import GENERATING
from fedfit.models.flops import Affine, batch_flops, step_flops, trunk_flops
from fedfit.models.last_layer import Positions
from fedfit.models.load import load_model
from fedfit.models.shape import ModelShape
from fedfit.models.split import SplitModel
from fedfit.settings import AdapterSettings
from tests.builders import CLASSES, EVERY, HIDDEN, LAYERS, SIX, lora_of, tiny_split

FAMILIES = sorted(families.FAMILIES)
KINDS = ("bert", "mpnet", "llama", "gpt2")
"""A family of each way of counting: an encoder with a fused attention and one without, a decoder with a matrix each for query,
key and value, and one with a single matrix. The others differ from one of these in sizes alone."""
LAYER_CHOICES: dict[str, Any] = {
    "last:1": "last:1",
    "last:2": "last:2",
    "first:2": "first:2",
    "all": "all",
    "1 and 3": (1, 3),
}
TARGET_CHOICES: dict[str, tuple[str, ...]] = {
    **{target: (target,) for target in SIX},
    "query, value": ("query", "value"),
    "value, output": ("value", "output"),
    "every": EVERY,
}
FEW_TARGETS = ("key", "value, output", "every")
"""One in the attention, one on either side of it, and all."""
# Rank 1, one between, one as large as the hidden size; the head trained and frozen.
SIZES: list[tuple[int, str]] = [(1, "train"), (3, "freeze"), (8, "train"), (HIDDEN, "freeze")]


def cases() -> Iterator[tuple[str, str, str, bool]]:
    """Family, layers, targets, and whether weights are packed. Every family has every target, and so each of its sizes, at one
    place of the cut, and all targets at every place; each of ``KINDS`` a few more at every place."""
    for family in FAMILIES:
        few = FEW_TARGETS if family in KINDS else ("every",)
        for layers in LAYER_CHOICES:
            yield from ((family, layers, targets, True) for targets in (TARGET_CHOICES if layers == "last:2" else few))
        yield from ((family, "1 and 3", targets, False) for targets in few)


def some_targets(layers: Sequence[str]) -> list[tuple[str, str, str]]:
    """Family, layers, targets: a few targets of each of ``KINDS``, all targets of the others."""
    return [
        (family, at, name) for family in FAMILIES for at in layers for name in FEW_TARGETS if family in KINDS or name == "every"
    ]


@pytest.fixture(scope="module", autouse=True)
def bases_in_memory() -> Iterator[None]:
    """Each base model is read once and copied: no count depends on its weights."""
    loaded = cache(load_model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedfit.adapters.build.load_model", lambda name, labels, seed: deepcopy(loaded(name, labels, 0)))
        yield


def _linear_pointwise_flop(rows: Any, weight: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    """``(…, in)`` by a packed ``(out, in)``: two operations for each number of the output and each input."""
    assert out_shape[-1] == weight[0]
    assert rows[-1] == weight[1]
    return 2 * int(np.prod(out_shape)) * int(rows[-1])


_forward_flop: Callable[..., int] = sdpa_flop_count
_backward_flop: Callable[..., int] = sdpa_backward_flop_count


def counter() -> FlopCounterMode:
    """Torch's counter, told of operators that it does not know: ``addmm`` in place, oneDNN's packed product, and the fused
    attention of the CPU, which it knows by the names of the GPU's."""
    aten, mkldnn = torch.ops.aten, torch.ops.mkldnn
    known: dict[Any, Callable[..., int]] = {
        aten.addmm_: lambda into, left, right, **_: addmm_flop(into, left, right),
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: _forward_flop(q, k, v),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: _backward_flop(g, q, k, v),
    }
    if hasattr(mkldnn, "_linear_pointwise"):
        known[mkldnn._linear_pointwise] = _linear_pointwise_flop
    return FlopCounterMode(display=False, custom_mapping=known)


def positions_of(lengths: list[int], count: int) -> Positions:
    """The first token, or ``count`` tokens by index."""
    return "first" if count == 1 else torch.arange(count).expand(len(lengths), -1)


def counted_step(
    split: SplitModel, lengths: list[int], *, trunk: bool = True, dropout: bool = False, positions: int = 1
) -> int:
    """Torch's count of the real forward and backward pass, with or without the trunk."""
    ids = torch.randint(5, 100, (len(lengths), max(lengths)))
    hidden = split.trunk(ids, None)
    labels = torch.arange(len(lengths)) % CLASSES
    split.train_mode(True, base_dropout=dropout)
    for parameter in lora_of(split).parameters():
        parameter.grad = None
    with counter() as count:
        if trunk:
            hidden = split.trunk(ids, None)
        logits = split.tail(Batch(hidden, torch.tensor(lengths)), positions_of(lengths, positions))
        loss = functional.cross_entropy(logits.view(-1, CLASSES), labels.repeat_interleave(positions))
        loss.backward()  # type: ignore[no-untyped-call]
    split.train_mode(False)
    return int(count.get_total_flops())


def shape_of(split: SplitModel, **adapter: Any) -> AdaptedShape:
    if adapter.get("targets") == EVERY:
        adapter["targets"] = tuple(split.family.targets)
    return adapted_shape(split.shape, AdapterSettings(**{"layers": "last:2", **adapter}))


def check_parameters(split: SplitModel, shape: AdaptedShape, rank: int) -> None:
    """Parameters and matrices of ``shape`` are those of the resident model."""
    real = lora_of(split)
    assert factor_parameters(shape, rank) == sum(a.numel() + b.numel() for a, b, _ in real.factors.values())
    assert head_parameters(shape) == sum(parameter.numel() for parameter in real.head.values())
    dimensions = [(b.shape[0], a.shape[1]) for a, b, _ in real.factors.values()]
    assert sorted(matrix.size for matrix in adapted_matrices(shape)) == sorted(dimensions)


@pytest.mark.parametrize(("family", "layers", "targets", "packed"), cases())
def test_counts_are_those_of_torch_and_parameters_those_of_the_resident_model(
    tiny_models: dict[str, Path], family: str, layers: str, targets: str, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not packed:  # then PEFT's own layers run, as on a GPU
        monkeypatch.setattr("fedfit.models.split.can_pack", lambda device: False)
    turn = FAMILIES.index(family) + list(LAYER_CHOICES).index(layers) + list(TARGET_CHOICES).index(targets)
    rank, head = SIZES[turn % 4]
    adapter = {"layers": LAYER_CHOICES[layers], "targets": TARGET_CHOICES[targets], "head": head}
    split = tiny_split(tiny_models[family], rank=rank, **adapter)
    shape = shape_of(split, **adapter)
    samples, tokens = 3, 7
    step = samples * step_flops(shape, tokens, trunk=True).at(rank) + batch_flops(shape).at(rank)
    assert step == counted_step(split, [tokens] * samples)
    check_parameters(split, shape, rank)


@pytest.mark.parametrize("tokens", [1, 2, 40])
@pytest.mark.parametrize("samples", [1, 5])
def test_counts_hold_at_other_sizes(tiny_bert: Path, samples: int, tokens: int) -> None:
    adapter: dict[str, Any] = {"layers": (1, 3), "targets": EVERY}
    split = tiny_split(tiny_bert, rank=2, **adapter)
    shape = shape_of(split, **adapter)
    tail = samples * step_flops(shape, tokens, trunk=False).at(2) + batch_flops(shape).at(2)
    assert tail == counted_step(split, [tokens] * samples, trunk=False)
    assert tail + samples * trunk_flops(shape, tokens) == counted_step(split, [tokens] * samples)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_sample_costs_as_much_as_the_longest(tiny_models: dict[str, Path], family: str) -> None:
    split = tiny_split(tiny_models[family], rank=3)
    shape = shape_of(split)
    expected = 3 * step_flops(shape, 9, trunk=False).at(3) + batch_flops(shape).at(3)
    assert expected == counted_step(split, [9, 4, 6], trunk=False)


@pytest.mark.parametrize(("family", "layers", "targets"), some_targets(("last:1", "all")))
def test_counts_where_several_positions_of_a_row_are_read(
    tiny_models: dict[str, Path], family: str, layers: str, targets: str
) -> None:
    head = "train" if targets == "key" else "freeze"
    adapter: dict[str, Any] = {"layers": layers, "targets": TARGET_CHOICES[targets], "head": head}
    split = tiny_split(tiny_models[family], rank=3, **adapter)
    shape = shape_of(split, **adapter)
    step = 2 * step_flops(shape, 7, trunk=True, positions=3).at(3) + batch_flops(shape, positions=3).at(3)
    assert step == counted_step(split, [7, 7], positions=3)


@pytest.mark.parametrize(("family", "layers", "targets"), some_targets(("last:1", "last:2", "first:2")))
def test_dropout_of_the_factors_input_makes_keys_and_values_in_full(
    tiny_models: dict[str, Path], family: str, layers: str, targets: str
) -> None:
    """Of the last layer, so what counts is whether it is adapted, and a layer below it."""
    adapter: dict[str, Any] = {"layers": layers, "targets": TARGET_CHOICES[targets], "dropout": 0.5}
    split = tiny_split(tiny_models[family], rank=3, **adapter)
    shape = shape_of(split, **adapter)
    assert 2 * step_flops(shape, 7, trunk=True).at(3) + batch_flops(shape).at(3) == counted_step(split, [7, 7])


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_of_the_base_keeps_the_scores_on_a_cpu(tiny_models: dict[str, Path], family: str) -> None:
    """Then attention is not fused. With ``all`` of 4 layers it runs over all tokens in the lower 3, and each does without the
    second product of the scores, 2·n²·hidden. The lowest does without the key's gradient as well, which nothing asks for: 4.
    A family without a fused kernel keeps the scores in any case. A decoder's last layer is such an attention as well, of one
    query, and how much its kernel leaves out depends on the groups of its heads: never more than this."""
    split = tiny_split(tiny_models[family], rank=3, layers="all")
    shape = shape_of(split, layers="all")
    expected = 2 * step_flops(shape, 7, trunk=True).at(3) + batch_flops(shape).at(3)
    if split.shape.decoder:
        most = 2 * (LAYERS * 2 * 7 * 7 + 2 * 7) * split.shape.width
        assert expected - most <= counted_step(split, [7, 7], dropout=True) < expected
        return
    if split.shape.fused:
        expected -= 2 * (LAYERS - 1 + 1) * 2 * 7 * 7 * HIDDEN
    assert counted_step(split, [7, 7], dropout=True) == expected


@pytest.mark.parametrize(("layers", "targets"), [("last:1", "query"), ((1, 3), "value, output"), ("all", "every")], ids=str)
@pytest.mark.parametrize("family", GENERATING)
def test_counts_of_a_language_model(tiny_models: dict[str, Path], family: str, layers: Any, targets: str) -> None:
    """Its layers are those of the classifier. Its head is frozen, and the product of the logits' gradient is made with them."""
    adapter = {"layers": layers, "targets": TARGET_CHOICES[targets]}
    split = tiny_split(tiny_models[family], labels=None, **adapter)
    shape = shape_of(split, **adapter)
    check_parameters(split, shape, 3)
    assert head_parameters(shape) == 0
    ids = torch.randint(5, 100, (2, 7))
    for positions in (1, 3):
        index = torch.arange(positions).expand(2, -1) + 7 - positions
        with counter() as count:
            batch = Batch(split.trunk(ids, None), torch.tensor([7, 7]))
            found = split.tail(batch, index).log_probs(ids.flatten()[: 2 * positions])
            found.sum().backward()
        expected = 2 * step_flops(shape, 7, trunk=True, positions=positions).at(3) + batch_flops(shape, positions).at(3)
        assert count.get_total_flops() == expected


@pytest.mark.parametrize("trunk", [True, False])
def test_an_array_of_tokens_gives_one_count_a_sample(tiny_bert: Path, trunk: bool) -> None:
    shape = shape_of(tiny_split(tiny_bert), layers="last:1", targets=("query",))
    tokens = np.array([1, 7, 64], dtype=np.int32)
    counts = step_flops(shape, tokens, trunk=trunk)
    ones = [step_flops(shape, int(number), trunk=trunk) for number in tokens]
    np.testing.assert_array_equal(counts.fixed, [one.fixed for one in ones])
    np.testing.assert_array_equal(counts.per_rank, [one.per_rank for one in ones])
    np.testing.assert_array_equal(counts.at(4), [one.at(4) for one in ones])
    np.testing.assert_array_equal(trunk_flops(shape, tokens), [trunk_flops(shape, int(number)) for number in tokens])


def test_long_samples_of_a_large_model_do_not_overflow() -> None:
    """RoBERTa-base at 512 tokens: 12·512²·768·2 > 2³¹ in one layer's attention alone."""
    adapter = AdapterSettings(layers="last:3")
    shape = adapted_shape(roberta_shape(), adapter)
    tokens = np.full(2, 512, dtype=np.int32)
    assert list(step_flops(shape, tokens, trunk=True).at(8)) == [step_flops(shape, 512, trunk=True).at(8)] * 2
    # A trunk of 9 layers: 4 square maps, 2 of the feed-forward part, and scores and mix of attention, a token.
    assert list(trunk_flops(shape, tokens)) == [9 * 512 * 2 * (4 * 768**2 + 2 * 768 * 3072 + 2 * 512 * 768)] * 2


def test_below_a_cut_of_0_only_the_maps_of_the_embeddings_cost(tiny_models: dict[str, Path]) -> None:
    """ELECTRA's embeddings of 24 numbers become the hidden state by one map; the other families have none."""
    for family in FAMILIES:
        shape = shape_of(tiny_split(tiny_models[family], layers="all"), layers="all")
        below = 7 * 2 * 24 * HIDDEN if family == "electra" else 0
        assert trunk_flops(shape, 7) == below
        assert step_flops(shape, 7, trunk=True).fixed == step_flops(shape, 7, trunk=False).fixed + below


def test_affine() -> None:
    assert (Affine(3, 2) + Affine(10, 5)).at(4) == 13 + 7 * 4


def roberta_base() -> Any:
    """RoBERTa-base's configuration with AG News's 4 labels."""
    from transformers import RobertaConfig

    return RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, num_labels=4)


def roberta_shape() -> ModelShape:
    return families.family_of("roberta").shape(roberta_base(), 4)


def test_the_papers_total_is_that_of_lora_and_not_of_its_equation_5() -> None:
    """129,960,968 parameters in the paper: RoBERTa-base with its 4-label head, 124,648,708; the head's copy, 768² + 768 +
    4·768 + 4 = 593,668; and LoRA of rank 128 on query and value of 12 layers, 128·(768 + 768)·2·12. Equation 5 as printed
    gives (128 + 768)·768·2·12 for the last."""
    from peft import LoraConfig, get_peft_model
    from transformers import RobertaForSequenceClassification

    config = roberta_base()
    with torch.device("meta"):
        model = RobertaForSequenceClassification(config)
        bare = sum(parameter.numel() for parameter in model.parameters())
        wrapped = get_peft_model(
            model, LoraConfig(r=128, target_modules=["query", "value"], modules_to_save=["classifier"], task_type="SEQ_CLS")
        )
    trained, total = wrapped.get_nb_trainable_parameters()
    shape = adapted_shape(roberta_shape(), AdapterSettings(rank=128, layers="all", targets=("query", "value")))
    assert bare == 124_648_708
    assert head_parameters(shape) == 593_668
    assert factor_parameters(shape, 128) == 128 * (768 + 768) * 2 * 12
    assert trained == head_parameters(shape) + factor_parameters(shape, 128)
    assert total == 129_960_968 == bare + head_parameters(shape) + factor_parameters(shape, 128)


def test_an_adapter_that_does_not_fit_a_shape() -> None:
    shape = roberta_shape()
    with pytest.raises(ValueError, match="queri"):
        adapted_shape(shape, AdapterSettings(targets=("queri",)))
    with pytest.raises(ValueError, match="at most once"):
        adapted_shape(shape, AdapterSettings(targets=("query", "query")))
    with pytest.raises(ValueError, match="between 1 and 12"):
        adapted_shape(shape, AdapterSettings(layers="last:13"))


def test_counting_imports_nothing_heavy() -> None:
    script = "import sys, fedfit.models.flops; sys.exit(str({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.strip() == "set()"
