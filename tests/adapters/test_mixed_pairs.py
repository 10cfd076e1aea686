"""A frozen pair beside the trained one: against a loop over tokens, and at gates where it is something simpler."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedfit.adapters.mixed_pairs import Beside, Gate
from fedfit.core.update import GATE, Factors, Job, Update, named_tensors
from fedfit.errors import UpdateRefused
from fedfit.models.split import SplitModel
from fedfit.personalization.fusion import fuse
from tests.builders import TASK, lora_of, random_samples, same_bits, tiny_split, tiny_trunk

SAMPLES = random_samples(8, seed=3)
ROWS = np.arange(8)
FAMILIES = ["bert", "roberta", "mpnet", "llama", "gemma3_text"]


def loss_of(split: SplitModel, job: Job) -> torch.Tensor:
    split.load(job)
    split.adapter.train_only(split.adapter.groups)
    targets = TASK.collate(SAMPLES, ROWS, split.device)
    output = split.tail(tiny_trunk(split, None).batch(SAMPLES, ROWS), TASK.positions(targets))
    return TASK.loss(output, targets)


def pair_of(split: SplitModel) -> tuple[Update, Update]:
    """Two adapters of one model, of ranks 3 and 2."""
    own = split.adapter.snapshot()
    generator = torch.Generator().manual_seed(5)

    def like(tensor: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        return 0.3 * torch.randn(shape, generator=generator)

    other = {
        name: Factors(like(pair.a, (2, pair.a.shape[1])), like(pair.b, (pair.b.shape[0], 2)), 1.7)
        for name, pair in own.factors.items()
    }
    return own, own.with_factors(other)


def mixed(own: Update, other: Update, gate: torch.Tensor | float) -> Job:
    """Both with one gate for all: the same number in the first row of each, and its negative in the second."""
    gates = {}
    for name, pair in own.factors.items():
        row = torch.full((pair.a.shape[1],), float(gate)) if isinstance(gate, float) else gate[: pair.a.shape[1]]
        gates[name] = torch.stack([row, -row])
    return Job(own.with_groups({GATE: gates}), beside=other.factors)


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_shares_are_half_the_sum_of_the_products(family: str, tiny_models: dict[str, Path]) -> None:
    """The loss, and the gradient of what is trained, of the stacked pair at weights of one half: B is halved in it."""
    split = tiny_split(tiny_models[family], layers="last:2")
    own, other = pair_of(split)
    lora_of(split).reserve(5)
    stacked = fuse(own, other, (0.5, 0.5), products=True).with_groups({"head": own.groups["head"]})
    expected = loss_of(split, Job(stacked))
    expected.backward()  # type: ignore[no-untyped-call]
    wanted = {name: p.grad.clone() for name, p in split.adapter.named_parameters().items() if p.grad is not None}
    found = loss_of(split, mixed(own, other, 0.0))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    split.model.zero_grad()
    found.backward()  # type: ignore[no-untyped-call]
    for name, pair in own.factors.items():
        a, b = (split.adapter.named_parameters()[f"{group}.{name}"].grad for group in ("lora_A", "lora_B"))
        assert a is not None
        assert b is not None
        # The stacked scale is the other's: the first rows of its B are B_own · ½·s_own/s_other.
        torch.testing.assert_close(a, wanted[f"lora_A.{name}"][:3], rtol=1e-4, atol=1e-6)
        share = 0.5 * pair.scale / other.factors[name].scale
        torch.testing.assert_close(b, wanted[f"lora_B.{name}"][:, :3] * share, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_module_is_a_loop_over_its_tokens(family: str, tiny_models: dict[str, Path]) -> None:
    """Each token by itself, in plain Python floats of the formula."""
    split = tiny_split(tiny_models[family])
    own, other = pair_of(split)
    split.load(mixed(own, other, torch.linspace(-1, 1, 64)))
    for name, module in lora_of(split)._modules.items():
        width = own.factors[name].a.shape[1]
        x = torch.randn(2, 3, width, generator=torch.Generator().manual_seed(1))
        found = module(x).detach()  # type: ignore[operator]
        gate = split.adapter.named_parameters()[f"{GATE}.{name}"].detach().double()
        base = module.get_base_layer()
        for row in range(2):
            for token in range(3):
                t = x[row, token].double()
                first, second = (math.exp(float(gate[part] @ t)) for part in (0, 1))
                y = base.weight.double() @ t + (0 if base.bias is None else base.bias.double())
                for share, pair in ((first, own.factors[name]), (second, other.factors[name])):
                    y = y + share / (first + second) * pair.scale * (pair.b.double() @ (pair.a.double() @ t))
                torch.testing.assert_close(found[row, token].double(), y.detach(), rtol=1e-4, atol=1e-5)


def test_the_gradient_of_the_gate_is_that_of_small_steps() -> None:
    generator = torch.Generator().manual_seed(2)
    x, base = (torch.randn(4, width, generator=generator, dtype=torch.float64) for width in (6, 5))
    own = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    a, b = (
        torch.randn(2, 6, generator=generator, dtype=torch.float64),
        torch.randn(5, 2, generator=generator, dtype=torch.float64),
    )
    gate = nn.Parameter(torch.randn(2, 6, generator=generator, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda g: Beside(a, b, 1.3, Gate(g)).mixed(base, own, x), (gate,))


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_gate_far_to_one_side_leaves_one_pair(family: str, tiny_models: dict[str, Path]) -> None:
    """Inputs are positive here, so a gate of one sign takes one pair for every token."""
    split = tiny_split(tiny_models[family])
    own, other = pair_of(split)
    module = next(iter(lora_of(split)._modules.values()))
    name = next(iter(own.factors))
    x = torch.randn(5, own.factors[name].a.shape[1]).abs()
    for gate, alone in ((50.0, own), (-50.0, other)):
        split.load(mixed(own, other, gate))
        found = module(x).detach()  # type: ignore[operator]
        lora_of(split).load(Job(alone.with_groups({"head": own.groups["head"]})))
        torch.testing.assert_close(found, module(x).detach(), rtol=1e-4, atol=1e-5)  # type: ignore[operator]


def test_a_load_without_a_second_pair_leaves_nothing_of_it(tiny_bert: Path) -> None:
    split = tiny_split(tiny_bert)
    own, other = pair_of(split)
    before = float(loss_of(split, Job(own)).detach())
    job = mixed(own, other, 0.4)
    assert float(loss_of(split, job).detach()) != before
    assert same_bits(split.adapter.snapshot(), job.update)
    assert split.adapter.groups == {"lora_A", "lora_B", "head", GATE}
    assert float(loss_of(split, Job(own)).detach()) == before
    assert GATE not in split.adapter.groups
    assert same_bits(split.adapter.snapshot(), own)


def test_the_frozen_base_has_neither(tiny_bert: Path) -> None:
    split = tiny_split(tiny_bert)
    own, other = pair_of(split)
    batch = tiny_trunk(split, None).batch(SAMPLES, ROWS)
    with torch.no_grad(), split.adapter.disabled():
        plain = split.tail(batch)
    split.load(mixed(own, other, 0.4))
    with torch.no_grad(), split.adapter.disabled():
        torch.testing.assert_close(split.tail(batch), plain)


def test_what_does_not_fit_is_refused(tiny_bert: Path) -> None:
    split = tiny_split(tiny_bert)
    own, other = pair_of(split)
    job = mixed(own, other, 0.4)
    first = next(iter(job.beside))
    short = {name: pair for name, pair in job.beside.items() if name != first}
    wide = Factors(torch.zeros(2, 7), job.beside[first].b, 1.0)
    for wrong in (
        Job(own, beside=job.beside),
        Job(job.update),
        Job(job.update, beside=short),
        Job(job.update, beside={**job.beside, first: wide}),
    ):
        with pytest.raises(UpdateRefused):
            split.load(wrong)
    assert named_tensors(split.adapter.snapshot()).keys() == named_tensors(own).keys()


def test_gpt2_takes_none_and_says_so(tiny_models: dict[str, Path]) -> None:
    split = tiny_split(tiny_models["gpt2"], targets=("c_attn",))
    own, other = pair_of(split)
    with pytest.raises(UpdateRefused, match="takes no second pair; choose another model"):
        split.load(mixed(own, other, 0.0))
