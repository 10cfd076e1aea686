"""Frozen weights with something merged into them, against a model whose weights were changed by hand."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from fedfit.adapters.lora import lora_modules
from fedfit.core.update import Factors, Job, Update
from fedfit.errors import UpdateRefused
from fedfit.models.families import FAMILIES
from fedfit.models.packed import PackedLinear
from fedfit.models.split import SplitModel
from tests.builders import EVERY, HIDDEN, lora_of, random_samples, tiny_experiment, tiny_recipe, tiny_split, tiny_trunk

SAMPLES = random_samples(12, seed=3)
each_family = pytest.mark.parametrize("family", FAMILIES)
each_way = pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])


def split_of(folder: Path, packed: bool, **adapter: Any) -> SplitModel:
    with pytest.MonkeyPatch.context() as patch:
        if not packed:
            patch.setattr("fedfit.models.split.can_pack", lambda device: False)
        split = tiny_split(folder, targets=EVERY, **adapter)
    kinds = [type(linear) for linear in linears(split).values()]
    assert all(kind is Conv1D or issubclass(kind, PackedLinear) == packed for kind in kinds)
    return split


def linears(split: SplitModel) -> dict[str, nn.Linear]:
    return {name: cast(Any, module).get_base_layer() for name, module in lora_modules(split.model).items()}


def weight_of(linear: nn.Module) -> Tensor:
    """``(output, input)``, a view: GPT-2's maps have it the other way round."""
    weight = cast(Tensor, linear.weight)
    return weight.t() if isinstance(linear, Conv1D) else weight


def random_base(split: SplitModel, seed: int = 5, every: int = 1) -> dict[str, Tensor]:
    """``ΔW`` of every so many modules, as large as the weights are."""
    generator = torch.Generator().manual_seed(seed)
    chosen = list(linears(split).items())[::every]
    return {name: 0.2 * torch.randn(weight_of(linear).shape, generator=generator) for name, linear in chosen}


def changed_by_hand(split: SplitModel, base: dict[str, Tensor]) -> SplitModel:
    """``split`` with other weights in its plain layers: nothing of ``MergedWeights`` is used."""
    for name, linear in linears(split).items():
        if name in base:
            weight_of(linear).data.add_(base[name])
    return split


def logits_and_gradients(split: SplitModel) -> tuple[Tensor, dict[str, Tensor]]:
    split.adapter.train_only(split.adapter.groups)
    rows = np.arange(len(SAMPLES))
    logits = split.tail(tiny_trunk(split, None).batch(SAMPLES, rows))
    functional.cross_entropy(logits, torch.from_numpy(SAMPLES.classes[rows])).backward()  # type: ignore[no-untyped-call]
    named = split.adapter.named_parameters()
    found = {name: parameter.grad.clone() for name, parameter in named.items() if parameter.grad is not None}
    assert found.keys() == named.keys()
    split.model.zero_grad()
    return logits.detach(), found


def agree(left: tuple[Tensor, dict[str, Tensor]], right: tuple[Tensor, dict[str, Tensor]]) -> None:
    torch.testing.assert_close(left[0], right[0], rtol=1e-5, atol=1e-5)
    for name, gradient in left[1].items():
        torch.testing.assert_close(gradient, right[1][name], rtol=1e-4, atol=1e-5)


@each_family
@each_way
@pytest.mark.parametrize("every", [1, 3], ids=["all modules", "some modules"])
def test_logits_and_gradients_are_those_of_changed_weights(
    family: str, packed: bool, every: int, tiny_models: dict[str, Path]
) -> None:
    split = split_of(tiny_models[family], packed)
    before = logits_and_gradients(split)
    base = random_base(split, every=every)
    split.load(Job(split.adapter.snapshot(), base))
    merged = logits_and_gradients(split)
    agree(merged, logits_and_gradients(changed_by_hand(split_of(tiny_models[family], packed=False), base)))
    assert float((merged[0] - before[0]).abs().max()) > 0.1, "a base that changes nothing proves nothing"


@each_family
@each_way
def test_there_and_back_to_the_bit(family: str, packed: bool, tiny_models: dict[str, Path]) -> None:
    """From one base to the next, to part of it, and to none: each is W0 + ΔW, whatever was there before."""
    split = split_of(tiny_models[family], packed)
    adapter, original = split.adapter.snapshot(), {n: weight_of(linear).clone() for n, linear in linears(split).items()}
    places = {name: linear.weight.data_ptr() for name, linear in linears(split).items()}
    untouched = logits_and_gradients(split)
    for base in (random_base(split), random_base(split, 6), random_base(split, 6, every=3), random_base(split, 7, every=2), {}):
        split.load(Job(adapter, base))
        for name, linear in linears(split).items():
            assert torch.equal(weight_of(linear), original[name] + base[name] if name in base else original[name])
            assert linear.weight.data_ptr() == places[name]
    after = logits_and_gradients(split)
    assert torch.equal(after[0], untouched[0])
    assert all(torch.equal(gradient, untouched[1][name]) for name, gradient in after[1].items())


def test_equal_numbers_in_other_tensors_are_the_same_base(tiny_bert: Path) -> None:
    split = split_of(tiny_bert, packed=True)
    adapter, base = split.adapter.snapshot(), random_base(split)
    split.load(Job(adapter, base))
    first = logits_and_gradients(split)
    split.load(Job(adapter, {name: tensor.clone() for name, tensor in base.items()}))
    assert torch.equal(logits_and_gradients(split)[0], first[0])


@pytest.mark.parametrize("wrong", ["unknown", "shape", "flat"])
@each_way
def test_what_does_not_fit_is_refused_and_nothing_is_changed(wrong: str, packed: bool, tiny_bert: Path) -> None:
    split = split_of(tiny_bert, packed)
    adapter, base = split.adapter.snapshot(), random_base(split, 8)
    split.load(Job(adapter, random_base(split, every=2)))
    before, weights = logits_and_gradients(split), [linear.weight.clone() for linear in linears(split).values()]
    name = list(base)[-1]  # the last of them: those before it must not have been set
    spoilt = {
        "unknown": {**base, "bert.unknown": base[name]},
        "shape": {**base, name: base[name][:, 1:]},
        "flat": {**base, name: base[name].flatten()},
    }[wrong]
    with pytest.raises(UpdateRefused, match="can be merged there"):
        split.load(Job(adapter, spoilt))
    assert all(torch.equal(mine, linear.weight) for mine, linear in zip(weights, linears(split).values(), strict=True))
    assert torch.equal(logits_and_gradients(split)[0], before[0])


def test_the_trunk_does_not_follow(tiny_bert: Path) -> None:
    """Merging changes adapted modules alone, and they are all in the tail: what a cache holds stays right."""
    split = split_of(tiny_bert, packed=True)
    before = {name: tensor.clone() for name, tensor in split.trunk_state()}
    split.load(Job(split.adapter.snapshot(), random_base(split)))
    assert all(torch.equal(before[name], tensor) for name, tensor in split.trunk_state())


def test_packing_anew_follows_the_weight_for_the_map_and_its_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(12, 7).requires_grad_(False)
    packed, rows = PackedLinear(linear), torch.randn(5, 12, generator=generator)
    with torch.no_grad():
        packed.weight.copy_(torch.randn(7, 12, generator=generator))
    for agrees in (False, True):  # the packed copies do not follow by themselves
        mine, other = rows.clone().requires_grad_(), rows.clone().requires_grad_()
        left, right = packed(mine), functional.linear(other, packed.weight, packed.bias)
        (left.square().sum() + right.square().sum()).backward()
        assert mine.grad is not None
        assert other.grad is not None
        assert torch.allclose(left, right, rtol=1e-5, atol=1e-5) == agrees
        assert torch.allclose(mine.grad, other.grad, rtol=1e-4, atol=1e-4) == agrees
        packed.pack()


# Room for higher ranks


def widened(update: Update, rank: int) -> Update:
    """The same model at a higher rank: columns of B are zero there, rows of A are not."""
    generator = torch.Generator().manual_seed(3)
    factors = {}
    for name, pair in update.factors.items():
        more = rank - len(pair.a)
        a = torch.cat([pair.a, torch.randn(more, pair.a.shape[1], generator=generator) * 0.1])
        factors[name] = Factors(a, torch.cat([pair.b, torch.zeros(len(pair.b), more)], dim=1), pair.scale)
    return update.with_factors(factors)


@each_family
def test_room_keeps_the_values_and_takes_higher_ranks(family: str, tiny_models: dict[str, Path]) -> None:
    split = split_of(tiny_models[family], packed=True)
    before, small = logits_and_gradients(split), split.adapter.snapshot()
    wide = widened(small, 9)
    with pytest.raises(UpdateRefused, match="one rank from 1 to 3"):
        split.adapter.load(Job(wide))
    split.adapter.reserve(9)
    assert lora_of(split).rank == 9
    after = logits_and_gradients(split)
    assert torch.equal(after[0], before[0])
    assert all(torch.equal(gradient, before[1][name]) for name, gradient in after[1].items())
    split.adapter.load(Job(wide))
    loaded = logits_and_gradients(split)
    torch.testing.assert_close(loaded[0], before[0], rtol=1e-5, atol=1e-5)
    for name, gradient in before[1].items():
        if name.startswith("lora_A."):
            torch.testing.assert_close(loaded[1][name][:3], gradient, rtol=1e-4, atol=1e-5)
        elif name.startswith("lora_B."):
            torch.testing.assert_close(loaded[1][name][:, :3], gradient, rtol=1e-4, atol=1e-5)
            assert loaded[1][name][:, 3:].any(), "the new columns get a gradient"
    split.adapter.load(Job(small))
    assert torch.equal(logits_and_gradients(split)[0], before[0])
    with pytest.raises(UpdateRefused, match="one rank from 1 to 9"):
        split.adapter.load(Job(widened(small, 10)))


def test_less_room_than_there_is_changes_nothing(tiny_bert: Path) -> None:
    split = split_of(tiny_bert, packed=True)
    places = [parameter.data_ptr() for parameter in lora_of(split).parameters()]
    split.adapter.reserve(2)
    assert lora_of(split).rank == 3
    assert [parameter.data_ptr() for parameter in lora_of(split).parameters()] == places


def test_a_wider_adapter_trains(tiny_bert: Path) -> None:
    """The trainer at rank 6 on a model made for rank 2: every number of the pair moves, and as in a model made for 6."""
    made, other = (tiny_experiment(tiny_recipe(tiny_bert, adapter={"rank": rank}), None) for rank in (2, 6))
    wide = widened(made.initial, 6)
    made.parts.model.adapter.reserve(6)
    trained = made.trainer.train(Job(wide), made.parts.train, made.parts.held[0], 1, 0)
    again = other.trainer.train(Job(wide), other.parts.train, other.parts.held[0], 1, 0)
    for name, pair in trained.factors.items():
        assert pair.a.shape == (6, HIDDEN)
        assert bool((pair.a != wide.factors[name].a).all())
        assert bool((pair.b != wide.factors[name].b).any(dim=0).all())
        assert torch.equal(pair.a, again.factors[name].a)
        assert torch.equal(pair.b, again.factors[name].b)
