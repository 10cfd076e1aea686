"""Linear maps over packed weights, with and without LoRA, held to ordinary ones: output and every gradient, the bias's too."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional

from fedfit.adapters.fused_lora import FusedLora
from fedfit.models.families import FAMILIES
from fedfit.models.packed import PackedLinear, can_pack, pack_frozen
from fedfit.models.split import SplitModel
from tests.builders import CLASSES, random_samples, tiny_split
from tests.models.whole import hidden_at_the_cut

SAMPLES = random_samples(12, seed=3)
pytestmark = pytest.mark.skipif(not can_pack(torch.device("cpu")), reason="this torch lacks oneDNN's packed operators")


def adapted(packed: bool, bias: bool, lora: bool) -> nn.Module:
    """A frozen map of 7 to 5 numbers, whose bias is trained."""
    torch.manual_seed(2)
    module: nn.Module = nn.Sequential(nn.Linear(7, 5, bias=bias))
    if lora:
        config = LoraConfig(r=2, target_modules=["0"], init_lora_weights=False)
        config._register_custom_module({nn.Linear: FusedLora})
        module = get_peft_model(module, config)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_("lora" in name or name.endswith("bias"))
    if packed:
        pack_frozen(module)
        assert any(isinstance(each, PackedLinear) for each in module.modules())
    return module


def output_and_gradients(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    result = module(x)
    (result * torch.arange(float(result.numel())).view_as(result)).sum().backward()
    found = {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert x.grad is not None
    return {"output": result.detach(), "input": x.grad, **found}


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "alone"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shape", [(4, 7), (3, 2, 7), (1, 1, 7)], ids=str)
def test_packed_is_plain_in_output_and_every_gradient(shape: tuple[int, ...], bias: bool, lora: bool) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = output_and_gradients(adapted(True, bias, lora), x)
    expected = output_and_gradients(adapted(False, bias, lora), x)
    assert found.keys() == expected.keys()
    assert any("bias" in name for name in found) == bias
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5)


def bias_gradients(split: SplitModel) -> dict[str, Tensor]:
    """Of every bias of the tail's linear maps, which all are trained here."""
    biases = {name: p for name, p in split.base.named_parameters() if name.endswith("bias") and "embeddings" not in name}
    for parameter in biases.values():
        parameter.requires_grad_()
    batch = hidden_at_the_cut(split, SAMPLES, list(range(12)))
    functional.cross_entropy(split.tail(batch), torch.arange(12) % CLASSES).backward()  # type: ignore[no-untyped-call]
    return {name: parameter.grad for name, parameter in biases.items() if parameter.grad is not None}


def test_trained_biases_have_the_same_gradients_packed_and_plain(
    tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for family, folder in tiny_models.items():
        if FAMILIES[family].decoder is not None and family != "llama":
            continue  # the maps of the other decoders have no bias but a few, or are no ``nn.Linear``
        packed = bias_gradients(tiny_split(folder))
        with monkeypatch.context() as patch:
            patch.setattr("fedfit.models.split.can_pack", lambda device: False)
            plain = bias_gradients(tiny_split(folder))
        assert packed.keys() == plain.keys()
        assert len(packed) > 12
        for name, gradient in plain.items():
            torch.testing.assert_close(packed[name], gradient, rtol=1e-4, atol=1e-5)
