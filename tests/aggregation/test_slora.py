"""SLoRA against training of the weights themselves, its decomposition, its bytes, and where one stage ends."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from fedfit.aggregation.contract import Context, Rule
from fedfit.aggregation.rules.slora import SloraKeys
from fedfit.aggregation.server_optimizer import with_server_optimizer
from fedfit.aggregation.table import make_rule
from fedfit.codecs.plain import PlainCodec
from fedfit.core.update import (
    HEAD,
    LORA_A,
    LORA_B,
    AdapterSize,
    Factors,
    Job,
    ServerState,
    Update,
    named_tensors,
)
from fedfit.errors import UpdateRefused
from fedfit.experiment.build import Experiment
from fedfit.experiment.load import parse_recipe
from fedfit.experiment.validate import validate_offline
from fedfit.rounds.loop import initial_result, run_round
from fedfit.settings import FederationSettings, Recipe
from fedfit.simulation.traffic import downlink_traffic, uplink_traffic
from tests.aggregation.rewiring import connect
from tests.aggregation.watching import Spoiled, change_training, record
from tests.builders import link_of, lora_of, random_update, rule_of, same_bits, tiny_experiment, tiny_recipe

ALL = frozenset({LORA_A, LORA_B, HEAD})
VALUES = "values."
"""The beginning of the names under which ΔW on the mask is kept, and travels."""


def slora(seed: int = 0, rounds: int = 2, density: float | None = None) -> Rule:
    return rule_of("slora", Context(seed, 3), sparse_rounds=rounds, density=density)


def fresh(rank: int = 2, scale: float = 2.0) -> Update:
    """Two modules (5, 6) with B = 0, as a run begins."""
    update = random_update(99, rank=rank, scale=scale)
    return update.with_factors({n: replace(pair, b=pair.b * 0) for n, pair in update.factors.items()})


def mask_of(rule: Rule, adapter: Update) -> dict[str, Tensor]:
    """The mask that a device is given, by module."""
    sent = rule.server.dispatch(rule.server.init(adapter), 0, size_of(adapter), 0)
    return {name.removeprefix(f"{LORA_B}."): mask for name, mask in rule.device.receive(sent, None).mask.items()}


def size_of(adapter: Update) -> AdapterSize:
    pair = next(iter(adapter.factors.values()))
    return AdapterSize(len(pair.a), pair.scale)


# The mask


@pytest.mark.parametrize(("density", "ones"), [(None, 22), (0.5, 15), (0.01, 1), (1.0, 30), (0.34, 10)])
def test_the_mask_has_as_many_ones_as_are_due(density: float | None, ones: int) -> None:
    """Of 5 · 6 = 30: 2 · (5 + 6) = 22 as the factors of rank 2 have numbers, and 0.34 · 30 = 10.2."""
    for mask in mask_of(slora(0, 2, density), fresh()).values():
        assert mask.shape == (5, 6)
        assert set(mask.view(-1).tolist()) <= {0.0, 1.0}
        assert int(mask.sum()) == ones


def test_more_ones_than_places_are_all_places() -> None:
    """Rank 4 has 4 · 11 = 44 numbers."""
    assert all(bool(mask.all()) for mask in mask_of(slora(), fresh(rank=4)).values())


def test_each_module_has_a_mask_of_its_own_by_the_seed_alone() -> None:
    one, same, other = (mask_of(slora(seed, 2, 0.5), fresh()) for seed in (1, 1, 2))
    first, second = one
    assert not torch.equal(one[first], one[second])
    assert all(torch.equal(one[name], same[name]) and not torch.equal(one[name], other[name]) for name in one)


def test_every_place_is_as_likely() -> None:
    """1000 masks of 15 out of 30: a count is binomial, 500 ± 15.8; six deviations of it."""
    counts = sum(next(iter(mask_of(slora(seed, 2, 0.5), fresh()).values())) for seed in range(1000))
    assert isinstance(counts, Tensor)
    assert float((counts - 500).abs().max()) < 6 * math.sqrt(1000 / 4)


# Between the stages


def learned(rule: Rule, adapter: Update, seed: int = 3) -> tuple[ServerState, dict[str, Tensor]]:
    """A state after sparse rounds, with random values, and ΔW put together place by place."""
    state, generator = rule.server.init(adapter), torch.Generator().manual_seed(seed)
    values = {name: torch.randn(len(tensor), generator=generator) for name, tensor in state.tensors.items()}
    dense = {}
    for name, mask in mask_of(rule, adapter).items():
        change, left = torch.zeros(mask.shape), iter(values[VALUES + name].tolist())
        for row in range(len(mask)):
            for column in range(mask.shape[1]):
                if mask[row, column]:
                    change[row, column] = next(left)
        dense[name] = change
    return ServerState(adapter, values), dense


def test_the_global_adapter_is_the_sparse_change_itself() -> None:
    rule = slora(0, 2, 0.5)
    state, dense = learned(rule, fresh())
    adapter = rule.server.model(state).update
    for name, pair in adapter.factors.items():
        assert torch.equal(pair.scale * pair.b @ pair.a, dense[name])
    head = fresh().groups[HEAD]
    assert adapter.groups[HEAD].keys() == head.keys()
    assert all(torch.equal(tensor, head[name]) for name, tensor in adapter.groups[HEAD].items())


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_the_factors_are_those_of_the_decomposition(rank: int) -> None:
    """s·B0·A0 = U_r Σ_r V_rᵀ by numpy, rows of A0 orthonormal, columns of B0 orthogonal, of norm σ/s."""
    rule = slora(0, 2, 0.5)
    state, dense = learned(rule, fresh(rank, scale=3.0))
    assert rule.server.begin(state, 1) is state
    assert rule.server.begin(state, 2) is state
    begun = rule.server.begin(state, 3)
    assert begun.tensors == {}
    for name, pair in begun.adapter.factors.items():
        left, values, right = np.linalg.svd(dense[name].double().numpy())
        expected = (left[:, :rank] * values[:rank]) @ right[:rank]
        np.testing.assert_allclose(3.0 * pair.b.double().numpy() @ pair.a.double().numpy(), expected, atol=1e-5)
        np.testing.assert_allclose((pair.a @ pair.a.T).numpy(), np.eye(rank), atol=1e-5)
        np.testing.assert_allclose((pair.b.T @ pair.b).numpy(), np.diag((values[:rank] / 3.0) ** 2), atol=1e-5)
        assert pair.scale == 3.0
    assert rule.server.begin(begun, 4) is begun


def test_where_nothing_was_learned_the_factors_can_still_learn() -> None:
    """ΔW = 0 has no directions: B is zero, and A spans what the initial A did, so that B gets a gradient."""
    rule = slora()
    adapter = fresh()
    begun = rule.server.begin(rule.server.init(adapter), 3).adapter
    for name, pair in begun.factors.items():
        assert not pair.b.any()
        assert torch.linalg.matrix_rank(torch.cat([pair.a, adapter.factors[name].a])) == 2
        torch.testing.assert_close(pair.a @ pair.a.T, torch.eye(2), rtol=0, atol=1e-5)


def test_the_groups_go_by_the_number_of_the_round() -> None:
    rule = slora(0, 3)
    traits = rule.traits
    for number in (1, 2, 3):
        assert traits.trained(number, ALL) == {LORA_B, HEAD}
        assert traits.downlink_groups(number, ALL) == traits.uplink_groups(number, ALL) == {HEAD}
    assert traits.trained(4, ALL) == traits.downlink_groups(4, ALL) == traits.uplink_groups(4, ALL) == ALL
    assert rule.server.max_rank(fresh()) == 6
    assert (traits.needs, traits.fixed_rank, traits.mixed_ranks, traits.uniform) == ("pairs", True, False, False)
    with pytest.raises(ValueError, match="another size"):
        rule.server.resize(rule.server.init(fresh()), AdapterSize(1, 2.0), 0)
    with pytest.raises(ValueError, match="keeps no single adapter"):
        with_server_optimizer(rule, FederationSettings(server_optimizer="adam"))


@pytest.mark.parametrize(
    "values",
    [{"layer.0.query": torch.zeros(15)}, {"a": torch.zeros(15)}, {f"layer.{n}.query": torch.zeros(14 + n) for n in range(2)}],
)
def test_a_device_refuses_other_values_than_its_mask_has_places(values: dict[str, Tensor]) -> None:
    with pytest.raises(UpdateRefused, match="values"):
        slora(0, 2, 0.5).device.receive(fresh().with_groups({"values": values}), None)


# A real run


SGD = {"optimizer": "sgd", "learning_rate": 0.3, "weight_decay": 0.1, "max_grad_norm": 0.5, "local_steps": 2}


def simulation(
    folder: Path, training: dict[str, object] | None = None, keys: SloraKeys | None = None, **federation: object
) -> Experiment:
    options = {} if keys is None else {"slora": keys}
    settings = {"rule": "slora", "rounds": 4, "options": options, **federation}
    return tiny_experiment(tiny_recipe(folder, federation=settings, training=training or {"local_steps": 2}), None)


class OnTheWeights:
    """The slow twin of a device: W itself is a parameter, and what is off the mask is put back after each step."""

    def __init__(self, folder: Path, masks: dict[str, Tensor]) -> None:
        self.made = simulation(folder, SGD)
        self.parts = self.made.parts
        self.masks = masks

    def train(self, change: dict[str, Tensor], head: dict[str, Tensor], part: np.ndarray, number: int, device: int) -> Update:
        """ΔW and head after the device's steps, by plain autograd on W and plain SGD."""
        model, samples = self.parts.model, self.parts.train
        model.load(Job(self.made.initial.with_groups({HEAD: head}), change))
        linears = {name: self._linear(name) for name in self.masks}
        start = {name: linear.weight.detach().clone() for name, linear in linears.items()}
        kinds = {name: type(linear) for name, linear in linears.items()}
        heads = lora_of(model).head
        for linear in linears.values():
            linear.__class__ = torch.nn.Linear  # a plain map, whose weight has a gradient
            linear.weight.requires_grad_(True)
        for pair in lora_of(model).factors.values():
            pair[0].requires_grad_(False), pair[1].requires_grad_(False)
        for parameter in heads.values():
            parameter.requires_grad_(True)
        for batch in self._batches(part, number, device):
            states = self.parts.trunk.batch(samples, batch)
            loss = torch.nn.functional.cross_entropy(model.tail(states), torch.from_numpy(samples.classes[batch]))
            grads = torch.autograd.grad(loss, [*(linear.weight for linear in linears.values()), *heads.values()])
            masked = [grad * mask for grad, mask in zip(grads, self.masks.values(), strict=False)] + list(grads[len(linears) :])
            norm = math.sqrt(sum(float(grad.square().sum()) for grad in masked))
            shrink = min(1.0, 0.5 / (norm + 1e-6))
            with torch.no_grad():
                for (name, linear), grad in zip(linears.items(), masked, strict=False):
                    moved = linear.weight - start[name] + change[name]
                    linear.weight.sub_(0.3 * (grad * shrink + 0.1 * moved * self.masks[name]))
                for parameter, grad in zip(heads.values(), masked[len(linears) :], strict=True):
                    parameter.sub_(0.3 * (grad * shrink + 0.1 * parameter))
        ends = {name: (linear.weight - start[name] + change[name]).detach() for name, linear in linears.items()}
        for name, linear in linears.items():
            linear.weight.requires_grad_(False)
            with torch.no_grad():
                linear.weight.copy_(start[name])
            linear.__class__ = kinds[name]
        return Update({"W": ends, HEAD: {n: p.detach().clone() for n, p in heads.items()}})

    def _linear(self, name: str) -> torch.nn.Linear:
        module = self.parts.model.model.get_base_model().get_submodule(name)
        linear = module.get_base_layer()  # type: ignore[operator]
        assert isinstance(linear, torch.nn.Linear)
        return linear

    def _batches(self, part: np.ndarray, number: int, device: int) -> list[np.ndarray]:
        """Those of the real trainer, which draws them from (seed, round, device)."""
        from fedfit.data.batches import training_batches
        from fedfit.randomness import derive_seed

        settings, lengths = self.made.recipe.training, self.parts.train.lengths
        seed = derive_seed(self.made.recipe.seed, "batches", number, device)
        plan = training_batches(lengths[part], settings.batch_size, settings.local_epochs, settings.local_steps, seed)
        self.parts.trunk.prepare(self.parts.train, np.unique(part))
        return [part[batch] for batch in plan]


def test_the_sparse_rounds_train_the_weights_under_the_mask(tiny_bert: Path) -> None:
    """Two rounds, three devices, SGD with clipping and weight decay, which pulls ΔW to zero and so W to W0."""
    made = simulation(tiny_bert, SGD, SloraKeys(2, 0.3))
    state = list(islice(made.run(), 3))[-1].state
    twin = OnTheWeights(tiny_bert, mask_of(made.rule, made.initial))
    change = {name: torch.zeros(mask.shape) for name, mask in twin.masks.items()}
    head = dict(made.initial.groups[HEAD])
    for number in (1, 2):
        ends = [twin.train(change, head, rows, number, device).groups for device, rows in enumerate(made.parts.held)]
        change = {name: torch.stack([end["W"][name] for end in ends]).mean(dim=0) for name in change}
        head = {name: torch.stack([end[HEAD][name] for end in ends]).mean(dim=0) for name in head}
    found = made.rule.server.model(state).update
    for name, pair in found.factors.items():
        assert float(change[name].abs().max()) > 1e-3, "a test of nothing"
        assert not pair.b[twin.masks[name] == 0].any()
        torch.testing.assert_close(pair.b, change[name], rtol=1e-3, atol=2e-6)
    assert found.groups[HEAD].keys() == head.keys()
    for name, tensor in found.groups[HEAD].items():
        torch.testing.assert_close(tensor, head[name], rtol=1e-4, atol=1e-6)


def test_the_rounds_after_are_fedavg_from_the_decomposition(tiny_bert: Path) -> None:
    made, other = (
        simulation(tiny_bert, keys=SloraKeys(sparse_rounds=1), rounds=3),
        simulation(tiny_bert, rule="fedavg", rounds=3),
    )
    results = list(made.run())
    begun = made.rule.server.begin(results[1].state, 2)
    rest = list(other.run(last=replace(results[1], state=ServerState(begun.adapter))))
    for mine, theirs in zip(results[2:], rest, strict=True):
        assert same_bits(made.rule.server.model(mine.state).update, theirs.state.adapter)
        assert mine.record.value("test_loss") == theirs.record.value("test_loss") is not None


@pytest.mark.parametrize("failed", [(1,), (2,), (3,), (2, 3)])
def test_a_failed_round_moves_no_border(failed: tuple[int, ...], tiny_bert: Path) -> None:
    """With 2 sparse rounds of 5, rounds 3 to 5 train factors whatever failed: their packets hold A and B, the others none.

    What is decomposed is what the sparse rounds left, whether or not the last of them, or the first after them, failed.
    """

    def fail(number: int, device: int, update: Update) -> Update:
        if number in failed:
            raise UpdateRefused("not today")
        return update

    made = simulation(tiny_bert, rounds=5)
    change_training(made, fail)
    codec = record(made)
    results = list(made.run())
    assert [result.record.refused for result in results] == [0, *(3 * (number in failed) for number in range(1, 6))]
    place = 0
    for number in range(1, 6):
        count = 3 if number in failed else 6
        for packet in codec.packets[place : place + count]:
            names = load(packet.payload)
            assert any(name.startswith(LORA_A) for name in names) == (number > 2)
            assert any(name.startswith(VALUES) for name in names) == (number <= 2)
        place += count
    assert place == len(codec.packets)
    for number in failed:
        assert same_bits(results[number].state.adapter, results[number - 1].state.adapter)
        assert results[number].record.value("test_loss") == results[number - 1].record.value("test_loss")
    first = min(number for number in (3, 4) if number not in failed)  # the first round that leaves factors
    assert not results[first].state.tensors
    assert results[2].state.tensors


@pytest.mark.parametrize("density", [None, 0.1, 0.7])
def test_what_travels_is_counted_to_the_byte(density: float | None, tiny_bert: Path) -> None:
    """Four bytes a value and none for its place: 2 · (32 + 32) = 128 of the 1024 of a module, unless a density says more."""
    made = simulation(tiny_bert, keys=SloraKeys(density=density), rounds=3)
    codec = record(made)
    lines = [line for result in made.run() for line in result.devices]
    head_bytes = 4 * sum(tensor.numel() for tensor in made.initial.groups[HEAD].values())
    modules = len(made.initial.factors)
    traffic = [of(made.rule, PlainCodec(), made.initial, 3) for of in (downlink_traffic, uplink_traffic)]
    most = [(way.bits_fixed + made.initial.rank * way.bits_per_rank) / 8 for way in traffic]
    assert len(codec.packets) == 18
    for number, packet in enumerate(codec.packets):
        ones = 128 if number >= 12 or density is None else round(1024 * density)
        assert packet.size_bytes == 8 + int.from_bytes(packet.payload[:8], "little") + 4 * modules * ones + head_bytes
        line = lines[number // 2]
        assert packet.size_bytes == (line.uplink_bytes if number % 2 else line.downlink_bytes)
        assert packet.size_bytes <= most[number % 2]


def first_changed(change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    def spoil(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        first = sorted(tensors)[0]
        return {**tensors, first: change(tensors[first])}

    return spoil


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda tensors: tensors, None),
        (lambda tensors: {}, "the packet holds ['head'], wanted ['head', 'values']"),
        (lambda tensors: dict(sorted(tensors.items())[1:]), "missing ['values."),
        (lambda tensors: {**tensors, "stray": torch.zeros(2)}, "the packet holds ['head', 'stray', 'values']"),
        (lambda tensors: {**tensors, f"{VALUES}stray": torch.zeros(2)}, "unknown ['values.stray']"),
        (first_changed(lambda values: values[1:]), "got (127,) float32, wanted (128,) float32"),
        (first_changed(Tensor.double), "got (128,) float64, wanted (128,) float32"),
        (first_changed(lambda values: values * math.inf), "is not finite"),
    ],
)
def test_what_a_device_may_not_send_is_refused_and_the_round_goes_on(
    spoil: Callable[[dict[str, Tensor]], dict[str, Tensor]], reason: str | None, tiny_bert: Path
) -> None:
    made = simulation(tiny_bert)
    connect(made, Spoiled(link_of(made), spoil))
    result = run_round(made.federation, initial_result(made.federation, made.initial).state, 1)
    assert [device.refused is not None for device in result.devices] == [False, reason is not None, False]
    assert reason is None or reason in (result.devices[1].refused or "")


# The recipe


def test_a_recipe_sets_seed_rounds_and_density() -> None:
    """Masks of the made rule are those of the rule with the recipe's seed."""
    settings = FederationSettings(rule="slora", options={"slora": SloraKeys(sparse_rounds=3, density=0.5)})
    rule = make_rule(Recipe(seed=7, federation=settings), 3)
    assert rule.traits.trained(3, ALL) == {LORA_B, HEAD}
    assert rule.traits.trained(4, ALL) == ALL
    mine, theirs = mask_of(rule, fresh()), mask_of(slora(7, 3, 0.5), fresh())
    assert all(torch.equal(mask, theirs[name]) for name, mask in mine.items())


def faults(*overrides: str) -> list[tuple[str, str]]:
    recipe = parse_recipe("", [f"federation.{words}" for words in overrides])
    return [(fault.key, fault.remedy) for fault in validate_offline(recipe)]


def test_there_are_rounds_left_for_the_factors() -> None:
    assert faults("rule=slora", "rounds=3", "slora.sparse_rounds=2", "slora.density=0.1") == []
    remedy = "federation.rounds = 2, and the factors are trained after these; lower it, or raise rounds"
    assert faults("rule=slora", "rounds=2") == [("federation.slora.sparse_rounds", remedy)]


def test_its_keys_are_read_by_slora_alone() -> None:
    remedy = "federation.rule = 'flasc' does not read it; remove it, or choose rule slora"
    assert faults("rule=flasc", "slora.sparse_rounds=3") == [("federation.slora", remedy)]
    assert faults("rule=flasc", "slora.density=0.5") == [("federation.slora", remedy)]


def test_an_adapter_of_an_odd_start_goes_on_from_its_product() -> None:
    """A B that is not zero: its product is ΔW from the first, off the mask as well, on both sides."""
    rule, start = slora(0, 2, 0.3), random_update(99, rank=2)
    state = rule.server.init(start)
    job = rule.device.receive(rule.server.dispatch(state, 0, size_of(start), 0), None)
    model = named_tensors(rule.server.model(state).update)
    assert named_tensors(job.update).keys() == model.keys()
    for name, tensor in model.items():
        assert torch.equal(named_tensors(job.update)[name], tensor)
    for name, pair in job.update.factors.items():
        old: Factors = start.factors[name]
        torch.testing.assert_close(pair.b, old.scale * old.b @ old.a)
