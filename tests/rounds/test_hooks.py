"""What a job does to the gradients of a device's training: each part by hand, their order, and all in the real trainer."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fedfit.adapters.lora import LoraAdapter
from fedfit.core.update import Job, Penalty, Update, named_tensors
from fedfit.data.batches import training_batches
from fedfit.experiment.build import Experiment
from fedfit.randomness import derive_seed
from fedfit.rounds.hooks import GradientHooks, add_penalty
from fedfit.rounds.optimizers import rate_factor
from tests.builders import lora_of, randomise, same_bits, tiny_experiment, tiny_recipe, tiny_split

SGD = {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 0.0, "max_grad_norm": 0.0, "local_steps": 4}
PENALTY = Penalty(strength=0.7, first=1)


def draws(like: Update, seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    """A random tensor of the form of each of ``like``."""
    generator = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(tensor.shape, generator=generator) for name, tensor in named_tensors(like).items()}


def masks(like: Update, seed: int = 5) -> dict[str, Tensor]:
    return {name: (tensor > 0).float() for name, tensor in draws(like, seed).items()}


def resident(folder: Path) -> LoraAdapter:
    """A resident adapter with a gradient of ones."""
    adapter = lora_of(tiny_split(folder))
    for parameter in adapter.parameters():
        parameter.grad = torch.ones_like(parameter)
    return adapter


def gradients(adapter: LoraAdapter) -> dict[str, Tensor]:
    return {
        name: parameter.grad.clone() for name, parameter in adapter.named_parameters().items() if parameter.grad is not None
    }


def test_a_plain_job_does_nothing(tiny_bert: Path) -> None:
    adapter = resident(tiny_bert)
    hooks = GradientHooks(Job(adapter.snapshot()), adapter)
    hooks.before_clipping()
    hooks.after_clipping()
    assert not hooks.acts
    assert hooks.rate_sum == 0
    assert all(bool((gradient == 1).all()) for gradient in gradients(adapter).values())


@pytest.mark.parametrize("what", ["mask", "correction", "penalty"])
def test_what_acts_says_so(what: str, tiny_bert: Path) -> None:
    adapter = resident(tiny_bert)
    start = adapter.snapshot()
    given: dict[str, Any] = {"mask": masks(start), "correction": draws(start, 1), "penalty": PENALTY}
    assert GradientHooks(Job(start, **{what: given[what]}), adapter).acts


def test_a_mask_comes_before_clipping_and_a_correction_after(tiny_bert: Path) -> None:
    """Gradients of ones become the mask, then the mask plus the correction; tensors that are not named stay as they are."""
    adapter = resident(tiny_bert)
    start = adapter.snapshot()
    mask, correction = masks(start), draws(start, 1)
    left = next(name for name in mask if name.startswith("lora_A."))
    del mask[left], correction[left]
    hooks = GradientHooks(Job(start, mask=mask, correction=correction), adapter)
    hooks.before_clipping()
    for name, gradient in gradients(adapter).items():
        assert torch.equal(gradient, mask.get(name, torch.ones_like(gradient)))
    hooks.after_clipping()
    for name, gradient in gradients(adapter).items():
        assert torch.equal(gradient, mask[name] + correction[name] if name != left else torch.ones_like(gradient))


def test_what_has_no_gradient_gets_none(tiny_bert: Path) -> None:
    """A group that is not trained: nothing is added to nothing."""
    adapter = resident(tiny_bert)
    start = adapter.snapshot()
    for parameter in adapter.parameters():
        parameter.grad = None
    hooks = GradientHooks(Job(start, mask=masks(start), correction=draws(start, 1), penalty=PENALTY), adapter)
    hooks.before_clipping()
    hooks.after_clipping()
    assert gradients(adapter) == {}


def test_an_unknown_name_is_an_error(tiny_bert: Path) -> None:
    adapter = resident(tiny_bert)
    start, stray = adapter.snapshot(), {"stray": torch.ones(1)}
    for job in (Job(start, mask=stray), Job(start, correction=stray)):
        with pytest.raises(KeyError, match="stray"):
            GradientHooks(job, adapter)


def term(a: Tensor, b: Tensor, strength: float, first: int) -> Tensor:
    """The penalty as it is written."""
    norms: Tensor = b[:, first:].norm() * a[first:].norm()
    return strength * norms


@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_the_penalty_is_the_gradient_of_its_term(first: int) -> None:
    """Rank 4; what is before ``first`` feels nothing."""
    generator = torch.Generator().manual_seed(first)
    a, b = (torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((4, 7), (5, 4)))
    expected = torch.autograd.grad(term(a, b, 0.7, first), (a, b))
    a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
    with torch.no_grad():
        add_penalty(a, b, first, 0.7)
    torch.testing.assert_close(a.grad - 1, expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(b.grad - 1, expected[1], rtol=1e-5, atol=1e-6)
    assert bool((a.grad[:first] == 1).all())
    assert bool((a.grad[first:] != 1).any())


def test_the_penalty_by_hand() -> None:
    """‖B[:, 1:]‖ = 5 from (3, 4), ‖A[1:]‖ = 2: strength 0.5 adds 0.5·5/2·A = 2.5 to A's, 0.5·2/5·(3, 4) = (0.6, 0.8) to B's."""
    a, b = torch.nn.Parameter(torch.tensor([[9.0], [2.0]])), torch.nn.Parameter(torch.tensor([[9.0, 3.0], [9.0, 4.0]]))
    a.grad, b.grad = torch.zeros_like(a), torch.zeros_like(b)
    with torch.no_grad():
        add_penalty(a, b, 1, 0.5)
    assert a.grad.tolist() == [[0.0], [2.5]]
    torch.testing.assert_close(b.grad, torch.tensor([[0.0, 0.6], [0.0, 0.8]]))


def test_where_a_norm_is_zero_the_penalty_is_smooth_enough() -> None:
    """B is zero in a fresh adapter: its norm has no gradient there, and 0 is one of its subgradients. A's is 0·A/‖A‖."""
    a, b = torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.zeros(4, 2))
    a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
    with torch.no_grad():
        add_penalty(a, b, 1, 0.7)
    assert bool((a.grad == 1).all())
    assert bool((b.grad == 1).all())


def test_a_pair_whose_tail_is_empty_feels_nothing() -> None:
    a, b = torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(4, 2))
    a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
    with torch.no_grad():
        add_penalty(a, b, 2, 0.7)
    assert bool((a.grad == 1).all())
    assert bool((b.grad == 1).all())


def test_masked_coordinates_feel_no_penalty(tiny_bert: Path) -> None:
    adapter = resident(tiny_bert)
    start = adapter.snapshot()
    mask = masks(start)
    hooks = GradientHooks(Job(start, mask=mask, penalty=PENALTY), adapter)
    hooks.before_clipping()
    found = gradients(adapter)
    for name, gradient in found.items():
        assert bool((gradient[mask[name] == 0] == 0).all())
    assert any(bool((gradient[mask[name] == 1] != 1).any()) for name, gradient in found.items()), "the penalty is there"


# In the real trainer


def experiment(folder: Path, **training: Any) -> Experiment:
    made = tiny_experiment(tiny_recipe(folder, training={**SGD, **training}), cache=None)
    randomise(made.parts.model, seed=4)
    made.initial = made.parts.model.adapter.snapshot()
    return made


def train(made: Experiment, job: Job, groups: frozenset[str] | None = None) -> Update:
    return made.trainer.train(job, made.parts.train, made.parts.held[0], 1, 0, groups)


def slow_twin(made: Experiment, job: Job) -> Update:
    """Every step as it is written: the objective differentiated as a whole, masked, clipped, corrected."""
    settings, model, indices = made.recipe.training, made.parts.model, made.parts.held[0]
    model.adapter.load(job)
    names, parameters = zip(*model.adapter.named_parameters().items(), strict=True)
    received = [parameter.detach().clone() for parameter in parameters]
    seed = derive_seed(made.recipe.seed, "batches", 1, 0)
    batches = training_batches(made.parts.train.lengths[indices], settings.batch_size, 1, settings.local_steps, seed)
    for step, batch in enumerate(batches):
        states = made.parts.trunk.batch(made.parts.train, indices[batch])
        labels = torch.from_numpy(made.parts.train.classes[indices[batch]])
        objective = functional.cross_entropy(model.tail(states), labels)
        if job.penalty is not None:
            for a, b, _ in lora_of(model).factors.values():
                objective = objective + term(a, b, job.penalty.strength, job.penalty.first)
        slopes = list(torch.autograd.grad(objective, parameters))
        slopes = [slope * job.mask.get(name, torch.ones(())) for name, slope in zip(names, slopes, strict=True)]
        moved = [(now - then).detach() for now, then in zip(parameters, received, strict=True)]
        slopes = [slope + settings.proximal * way for slope, way in zip(slopes, moved, strict=True)]
        if settings.max_grad_norm:
            norm = math.sqrt(sum(float(slope.square().sum()) for slope in slopes))
            slopes = [slope * min(1.0, settings.max_grad_norm / norm) for slope in slopes]
        progress = step / len(batches) / made.recipe.federation.rounds
        rate = settings.learning_rate * rate_factor(progress, settings)
        with torch.no_grad():
            for name, parameter, slope in zip(names, parameters, slopes, strict=True):
                parameter.sub_(rate * (slope + job.correction.get(name, torch.zeros(()))))
    return model.adapter.snapshot()


def distance(left: Update, right: Update) -> float:
    pairs = zip(named_tensors(left).values(), named_tensors(right).values(), strict=True)
    return math.sqrt(sum(float((mine - other).double().square().sum()) for mine, other in pairs))


@pytest.mark.parametrize(
    "training",
    [{}, {"max_grad_norm": 0.2}, {"max_grad_norm": 0.2, "proximal": 2.0}, {"schedule": "linear"}],
    ids=str,
)
@pytest.mark.parametrize("what", ["mask", "correction", "penalty", "all"])
def test_it_is_every_step_as_it_is_written(what: str, training: dict[str, Any], tiny_bert: Path) -> None:
    made = experiment(tiny_bert, **training)
    start = made.initial
    given: dict[str, Any] = {"mask": masks(start), "correction": draws(start, 1, scale=0.05), "penalty": PENALTY}
    job = Job(start, **(given if what == "all" else {what: given[what]}))
    expected = slow_twin(made, job)
    moved = distance(expected, start)
    assert distance(train(made, job), expected) < 1e-4 * moved
    assert distance(train(made, Job(start)), expected) > 0.02 * moved, "a test of nothing"


def test_what_is_clipped_is_not_the_correction(tiny_bert: Path) -> None:
    """One step with gradients clipped to next to nothing: it goes along the correction, at its full length."""
    made = experiment(tiny_bert, max_grad_norm=1e-9, local_steps=1)
    correction = draws(made.initial, 1)
    update = train(made, Job(made.initial, correction=correction))
    for name, tensor in named_tensors(update).items():
        torch.testing.assert_close(tensor, named_tensors(made.initial)[name] - 0.1 * correction[name], rtol=1e-6, atol=1e-6)


def test_what_is_masked_stays_to_the_bit(tiny_bert: Path) -> None:
    made = experiment(tiny_bert, max_grad_norm=0.2)
    mask = masks(made.initial)
    update, before = named_tensors(train(made, Job(made.initial, mask=mask))), named_tensors(made.initial)
    for name, tensor in update.items():
        assert torch.equal(tensor[mask[name] == 0], before[name][mask[name] == 0])
        assert not torch.equal(tensor, before[name])


def test_a_correction_reaches_trained_groups_alone(tiny_bert: Path) -> None:
    made = experiment(tiny_bert)
    job = Job(made.initial, correction=draws(made.initial, 1))
    update = named_tensors(train(made, job, frozenset({"lora_B"})))
    for name, tensor in named_tensors(made.initial).items():
        assert torch.equal(update[name], tensor) == (not name.startswith("lora_B."))


def test_nothing_of_the_hooks_is_left_for_the_next_device(tiny_bert: Path) -> None:
    made = experiment(tiny_bert)
    plain = train(made, Job(made.initial))
    start = made.initial
    train(made, Job(start, mask=masks(start), correction=draws(start, 1), penalty=PENALTY))
    assert same_bits(train(made, Job(start)), plain)


@pytest.mark.parametrize("with_correction", [True, False])
def test_the_sum_of_the_rates(with_correction: bool, tiny_bert: Path) -> None:
    """Linear over 5 rounds of 4 steps: 0.1·(1 - n/20) at step n of all; in round 1 n = 0 … 3, so 0.1·(4 - 6/20) = 0.37; in
    round 3 n = 8 … 11, so 0.1·(4 - 38/20) = 0.21."""
    made = experiment(tiny_bert, schedule="linear")
    correction = draws(made.initial, 1, scale=0.01) if with_correction else {}
    for number, expected in ((1, 0.37), (3, 0.21)):
        update = made.trainer.train(Job(made.initial, correction=correction), made.parts.train, made.parts.held[0], number, 0)
        if with_correction:
            assert update.facts["learning_rate_sum"] == pytest.approx(expected, rel=1e-12)
        else:
            assert update.facts.keys() == {"steps", "train_loss"}
