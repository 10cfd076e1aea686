"""The resident model at ranks below the one that it was built with, held to models that were built with them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForSequenceClassification

from fedfit.adapters.lora import lora_modules, save_adapter
from fedfit.core.update import Factors, Job, Update
from fedfit.errors import UpdateRefused
from fedfit.models.families import FAMILIES
from fedfit.models.split import SplitModel
from fedfit.settings import AdapterSettings
from tests.builders import CLASSES, EVERY, lora_of, padded_batch, random_samples, same_bits, tiny_split, tiny_trunk

SAMPLES = random_samples(8, seed=3)
RESIDENT = 5
SCALINGS = ("alpha/r", "alpha/sqrt(r)", "constant")


def resident(folder: Path, **adapter: Any) -> SplitModel:
    return tiny_split(folder, rank=RESIDENT, **adapter)


def at_ranks(update: Update, ranks: list[int], scale: float = 1.5) -> Update:
    """The same names with random factors, of the ranks in turn."""
    generator = torch.Generator().manual_seed(11)
    factors = {}
    for number, (name, pair) in enumerate(update.factors.items()):
        rank = ranks[number % len(ranks)]
        a = torch.randn(rank, pair.a.shape[1], generator=generator) * 0.3
        b = torch.randn(pair.b.shape[0], rank, generator=generator) * 0.1
        factors[name] = Factors(a, b, scale + number)
    return update.with_factors(factors)


def logits(split: SplitModel) -> Tensor:
    found: Tensor = split.tail(tiny_trunk(split, None).batch(SAMPLES, np.arange(len(SAMPLES))))
    return found


def loss(split: SplitModel) -> Tensor:
    return functional.cross_entropy(logits(split), torch.from_numpy(SAMPLES.labels))


def gradients(split: SplitModel) -> list[Tensor]:
    torch.manual_seed(4)  # LoRA's dropout, where there is some
    return list(torch.autograd.grad(loss(split), lora_of(split).parameters()))


def plain_logits(folder: Path, adapter: Path) -> tuple[PeftModel, Tensor]:
    """What PEFT alone makes of the saved adapter."""
    torch.manual_seed(99)  # another fresh head than ours, which the saved one must replace
    base = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=CLASSES)
    loaded = PeftModel.from_pretrained(base, str(adapter)).eval()
    ids, mask, _ = padded_batch(SAMPLES, list(range(len(SAMPLES))))
    with torch.no_grad():
        return loaded, loaded(input_ids=ids, attention_mask=mask).logits


@pytest.mark.parametrize("rank", range(1, RESIDENT + 1))
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adapter", [{}, {"targets": EVERY, "dropout": 0.3}], ids=str)
def test_it_is_the_model_that_was_built_with_that_rank(
    family: str, rank: int, adapter: dict[str, Any], tiny_models: dict[str, Path]
) -> None:
    split = resident(tiny_models[family], **adapter)
    sent = at_ranks(split.adapter.snapshot(), [rank])
    split.adapter.load(Job(sent))
    twin = tiny_split(tiny_models[family], **{**adapter, "rank": rank})
    twin.adapter.load(Job(sent))
    for model in (split, twin):
        model.train_mode(True)
    mine, its = gradients(split), gradients(twin)
    assert [gradient.shape for gradient in mine] == [parameter.shape for parameter in lora_of(split).parameters()]
    for left, right in zip(mine, its, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-7)
    for model in (split, twin):
        model.train_mode(False)
    torch.testing.assert_close(logits(split), logits(twin), rtol=1e-6, atol=1e-6)


def test_a_step_of_the_optimiser_is_that_of_the_built_model(tiny_bert: Path) -> None:
    split, twin = resident(tiny_bert), tiny_split(tiny_bert, rank=2)
    sent = at_ranks(split.adapter.snapshot(), [2])
    for model in (split, twin):
        model.adapter.load(Job(sent))
        optimizer = torch.optim.AdamW(lora_of(model).parameters(), lr=1e-2, fused=True)
        for _ in range(3):
            optimizer.zero_grad()
            torch.autograd.backward(loss(model))
            optimizer.step()
    trained, its = split.adapter.snapshot(), twin.adapter.snapshot()
    for name, pair in trained.factors.items():
        torch.testing.assert_close(pair.a, its.factors[name].a, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(pair.b, its.factors[name].b, rtol=1e-5, atol=1e-6)
    assert not same_bits(trained, sent)


def test_tensors_have_the_rank_in_the_memory_that_was_there(tiny_bert: Path) -> None:
    split = resident(tiny_bert)
    parameters = lora_of(split).parameters()
    places = [parameter.data_ptr() for parameter in parameters]
    shapes = [parameter.shape for parameter in parameters]
    before = split.adapter.snapshot()
    for rank in (2, 1, 4, RESIDENT):
        sent = at_ranks(before, [rank])
        split.adapter.load(Job(sent))
        assert same_bits(split.adapter.snapshot(), sent)
        assert lora_of(split).rank == RESIDENT
        assert all(mine is old for mine, old in zip(lora_of(split).parameters(), parameters, strict=True))
        assert [parameter.data_ptr() for parameter in parameters] == places
        assert all(parameter.is_contiguous() for parameter in parameters)
        for a, b, _ in lora_of(split).factors.values():
            assert (a.shape[0], b.shape[1]) == (rank, rank)
        for pair in split.adapter.snapshot().factors.values():  # a copy takes no more memory than its numbers
            assert pair.a.untyped_storage().nbytes() == 4 * pair.a.numel()
            assert pair.b.untyped_storage().nbytes() == 4 * pair.b.numel()
    assert [parameter.shape for parameter in parameters] == shapes
    split.adapter.load(Job(before))
    assert same_bits(split.adapter.snapshot(), before)


def test_modules_may_differ_in_rank_and_scale(tiny_bert: Path, tmp_path: Path) -> None:
    split = resident(tiny_bert)
    sent = at_ranks(split.adapter.snapshot(), [1, 4, 2, 4])
    split.adapter.load(Job(sent))
    assert same_bits(split.adapter.snapshot(), sent)
    assert [(a.shape[0], scale) for a, _, scale in lora_of(split).factors.values()] == [(1, 1.5), (4, 2.5), (2, 3.5), (4, 4.5)]
    save_adapter(split.model, tmp_path, str(tiny_bert))
    _, expected = plain_logits(tiny_bert, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(logits(split), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [0.25, 1, 8.0])
def test_the_scale_is_that_of_the_last_load(scale: float, tiny_bert: Path) -> None:
    """Scale s with B equals scale 1 with s·B, forward; here s is a power of two, so that nothing rounds."""
    split = resident(tiny_bert)
    before = split.adapter.snapshot()
    scaled = {name: Factors(pair.a, pair.b, scale) for name, pair in before.factors.items()}
    plain = {name: Factors(pair.a, pair.b * scale, 1.0) for name, pair in before.factors.items()}
    found = []
    for factors in (scaled, plain):
        split.adapter.load(Job(before.with_factors(factors)))
        with torch.no_grad():
            found.append(logits(split))
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-6)


def test_gradients_of_another_rank_are_dropped_and_of_the_same_kept(tiny_bert: Path) -> None:
    split = resident(tiny_bert)
    before = split.adapter.snapshot()
    torch.autograd.backward(loss(split))
    split.adapter.load(Job(before))
    assert all(parameter.grad is not None for parameter in lora_of(split).parameters())
    split.adapter.load(Job(at_ranks(before, [2])))
    assert all(a.grad is None and b.grad is None for a, b, _ in lora_of(split).factors.values())


def test_a_loss_that_is_still_kept_does_not_stand_in_the_way(tiny_bert: Path) -> None:
    """Autograd remembers a parameter's shape for as long as a graph over it lives."""
    split = resident(tiny_bert)
    kept = loss(split)
    torch.autograd.backward(kept)
    split.adapter.load(Job(at_ranks(split.adapter.snapshot(), [2])))
    torch.autograd.backward(loss(split))
    assert all(a.grad is not None and a.grad.shape == a.shape for a, _, _ in lora_of(split).factors.values())


def test_an_update_refused_for_its_last_module_changes_no_module(tiny_bert: Path) -> None:
    split = resident(tiny_bert)
    before = split.adapter.snapshot()
    sent = at_ranks(before, [2, 2, 2, RESIDENT + 1])
    with pytest.raises(UpdateRefused, match=f"one rank from 1 to {RESIDENT}"):
        split.adapter.load(Job(sent))
    assert same_bits(split.adapter.snapshot(), before)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_built_model_has_the_size_that_the_settings_say(scaling: str, tiny_bert: Path) -> None:
    settings = AdapterSettings(rank=RESIDENT, alpha=7.0, scaling=scaling)
    for a, _, scale in lora_of(resident(tiny_bert, scaling=scaling)).factors.values():
        assert (a.shape[0], scale) == (RESIDENT, settings.size(RESIDENT).scale)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("rank", [1, 3, RESIDENT])
def test_plain_peft_loads_what_was_saved_at_another_rank(
    family: str, scaling: str, rank: int, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    split = resident(tiny_models[family], scaling=scaling, alpha=7.0)
    size = AdapterSettings(rank=RESIDENT, alpha=7.0, scaling=scaling).size(rank)
    sent = at_ranks(split.adapter.snapshot(), [rank])
    split.adapter.load(Job(sent.with_factors({n: replace(pair, scale=size.scale) for n, pair in sent.factors.items()})))
    save_adapter(split.model, tmp_path, str(tiny_models[family]))
    loaded, expected = plain_logits(tiny_models[family], tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(logits(split), expected, rtol=1e-5, atol=1e-5)
    assert loaded.peft_config["default"].r == rank
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["r"], config["use_rslora"], config["rank_pattern"], config["alpha_pattern"]) == (rank, False, {}, {})
    assert config["lora_alpha"] == pytest.approx(size.scale * rank, rel=1e-14)
    if scaling == "alpha/r":
        assert config["lora_alpha"] == 7.0  # to the digit: it is what people read
    scales = [module.scaling["default"] for module in lora_modules(loaded).values()]
    assert scales == pytest.approx([size.scale] * len(sent.factors), rel=1e-14)


def test_saving_at_several_ranks_in_turn(tiny_bert: Path, tmp_path: Path) -> None:
    """Nothing of one saving is left in the next, or in the model."""
    split = resident(tiny_bert)
    for number, ranks in enumerate(([2], [1, 3], [RESIDENT], [4])):
        split.adapter.load(Job(at_ranks(split.adapter.snapshot(), ranks)))
        before = split.adapter.snapshot()
        save_adapter(split.model, tmp_path / str(number), str(tiny_bert))
        assert same_bits(split.adapter.snapshot(), before)
        _, expected = plain_logits(tiny_bert, tmp_path / str(number))
        with torch.no_grad():
            torch.testing.assert_close(logits(split), expected, rtol=1e-5, atol=1e-5)
