"""SLoRA against training of the weights themselves, its decomposition, its bytes, and where one stage ends."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from fedfit.aggregation.base import named_tensors
from fedfit.aggregation.rules import make_rule
from fedfit.aggregation.server_optimizer import ServerOptimizer
from fedfit.aggregation.slora import Slora
from fedfit.codecs.safetensors import SafetensorsCodec
from fedfit.data.tokenize import Samples
from fedfit.errors import UpdateRefused
from fedfit.experiment.load import parse_recipe
from fedfit.experiment.rule_faults import rule_faults
from fedfit.records import PARTS, AdapterSize, Factors, Packet, ServerState, Task, Update
from fedfit.rounds.client import Client
from fedfit.rounds.federation import Federation
from fedfit.rounds.round import initial_result, run_round
from fedfit.settings import FederationSettings, Recipe
from fedfit.simulation.run import Simulation, run
from fedfit.simulation.traffic import downlink_traffic, uplink_traffic
from tests.aggregation.watching import Spoiled
from tests.builders import link_of, random_update, same_bits, tiny_recipe, tiny_simulation

CODEC = SafetensorsCodec()


def fresh(rank: int = 2, scale: float = 2.0) -> Update:
    """Two modules (5, 6) with B = 0, as a run begins."""
    update = random_update(99, rank=rank, scale=scale)
    return replace(update, factors={n: replace(pair, b=pair.b * 0) for n, pair in update.factors.items()})


def mask_of(rule: Slora, adapter: Update) -> dict[str, Tensor]:
    """The mask that a device is given, by module."""
    sent = rule.dispatch(rule.init(adapter), 0, size_of(adapter), 0)
    return {name.removesuffix(" B"): mask for name, mask in rule.receive(sent, None).mask.items()}


def size_of(adapter: Update) -> AdapterSize:
    pair = next(iter(adapter.factors.values()))
    return AdapterSize(len(pair.a), pair.scale)


# The mask


@pytest.mark.parametrize(("density", "ones"), [(None, 22), (0.5, 15), (0.01, 1), (1.0, 30), (0.34, 10)])
def test_the_mask_has_as_many_ones_as_are_due(density: float | None, ones: int) -> None:
    """Of 5 · 6 = 30: 2 · (5 + 6) = 22 as the factors of rank 2 have numbers, and 0.34 · 30 = 10.2."""
    for mask in mask_of(Slora(0, 2, density), fresh()).values():
        assert mask.shape == (5, 6)
        assert set(mask.view(-1).tolist()) <= {0.0, 1.0}
        assert int(mask.sum()) == ones


def test_more_ones_than_places_are_all_places() -> None:
    """Rank 4 has 4 · 11 = 44 numbers."""
    assert all(bool(mask.all()) for mask in mask_of(Slora(), fresh(rank=4)).values())


def test_each_module_has_a_mask_of_its_own_by_the_seed_alone() -> None:
    one, same, other = (mask_of(Slora(seed, 2, 0.5), fresh()) for seed in (1, 1, 2))
    first, second = one
    assert not torch.equal(one[first], one[second])
    assert all(torch.equal(one[name], same[name]) and not torch.equal(one[name], other[name]) for name in one)


def test_every_place_is_as_likely() -> None:
    """1000 masks of 15 out of 30: a count is binomial, 500 ± 15.8; six deviations of it."""
    counts = sum(next(iter(mask_of(Slora(seed, 2, 0.5), fresh()).values())) for seed in range(1000))
    assert isinstance(counts, Tensor)
    assert float((counts - 500).abs().max()) < 6 * math.sqrt(1000 / 4)


# Between the stages


def learned(rule: Slora, adapter: Update, seed: int = 3) -> tuple[ServerState, dict[str, Tensor]]:
    """A state after sparse rounds, with random values, and ΔW put together place by place."""
    state, generator = rule.init(adapter), torch.Generator().manual_seed(seed)
    values = {name: torch.randn(len(tensor), generator=generator) for name, tensor in state.tensors.items()}
    dense = {}
    for name, mask in mask_of(rule, adapter).items():
        change, left = torch.zeros(mask.shape), iter(values[f"values {name}"].tolist())
        for row in range(len(mask)):
            for column in range(mask.shape[1]):
                if mask[row, column]:
                    change[row, column] = next(left)
        dense[name] = change
    return ServerState(adapter, values), dense


def test_the_global_adapter_is_the_sparse_change_itself() -> None:
    rule = Slora(0, 2, 0.5)
    state, dense = learned(rule, fresh())
    adapter = rule.adapter(state)
    for name, pair in adapter.factors.items():
        assert torch.equal(pair.scale * pair.b @ pair.a, dense[name])
    assert all(torch.equal(tensor, fresh().head[name]) for name, tensor in adapter.head.items())


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_the_factors_are_those_of_the_decomposition(rank: int) -> None:
    """s·B0·A0 = U_r Σ_r V_rᵀ by numpy, rows of A0 orthonormal, columns of B0 orthogonal, of norm σ/s."""
    rule = Slora(0, 2, 0.5)
    state, dense = learned(rule, fresh(rank, scale=3.0))
    assert rule.begin(state, 1) is state
    assert rule.begin(state, 2) is state
    begun = rule.begin(state, 3)
    assert begun.tensors == {}
    for name, pair in begun.adapter.factors.items():
        left, values, right = np.linalg.svd(dense[name].double().numpy())
        expected = (left[:, :rank] * values[:rank]) @ right[:rank]
        np.testing.assert_allclose(3.0 * pair.b.double().numpy() @ pair.a.double().numpy(), expected, atol=1e-5)
        np.testing.assert_allclose((pair.a @ pair.a.T).numpy(), np.eye(rank), atol=1e-5)
        np.testing.assert_allclose((pair.b.T @ pair.b).numpy(), np.diag((values[:rank] / 3.0) ** 2), atol=1e-5)
        assert pair.scale == 3.0
    assert rule.begin(begun, 4) is begun


def test_where_nothing_was_learned_the_factors_can_still_learn() -> None:
    """ΔW = 0 has no directions: B is zero, and A spans what the initial A did, so that B gets a gradient."""
    rule = Slora()
    adapter = fresh()
    begun = rule.begin(rule.init(adapter), 3).adapter
    for name, pair in begun.factors.items():
        assert not pair.b.any()
        assert torch.linalg.matrix_rank(torch.cat([pair.a, adapter.factors[name].a])) == 2
        torch.testing.assert_close(pair.a @ pair.a.T, torch.eye(2), rtol=0, atol=1e-5)


def test_the_parts_go_by_the_number_of_the_round() -> None:
    rule = Slora(0, 3)
    for number in (1, 2, 3):
        assert rule.trains(number) == {"b", "head"}
        assert rule.gets(number) == rule.sends(number) == {"head"}
    assert rule.trains(4) == rule.gets(4) == rule.sends(4) == PARTS
    assert rule.room(fresh()) == 6
    assert rule.fixed_rank
    with pytest.raises(ValueError, match="is another"):
        rule.resize(rule.init(fresh()), AdapterSize(1, 2.0), 0)
    with pytest.raises(ValueError, match="keeps no pair"):
        ServerOptimizer(rule, "adam")


@pytest.mark.parametrize("extra", [{"values layer.0.query": torch.zeros(15)}, {"a": torch.zeros(15)}])
def test_a_device_refuses_other_values_than_its_mask_has_places(extra: dict[str, Tensor]) -> None:
    with pytest.raises(UpdateRefused, match="values"):
        Slora(0, 2, 0.5).receive(replace(fresh(), extra=extra), None)


# A real run


class Listening(SafetensorsCodec):
    """Keeps every packet: an order, its reply, the next order."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []

    def encode(self, update: Update, parts: frozenset[str] = PARTS) -> Packet:
        self.packets.append(super().encode(update, parts))
        return self.packets[-1]


SGD = {"optimizer": "sgd", "learning_rate": 0.3, "weight_decay": 0.1, "max_grad_norm": 0.5, "local_steps": 2}


def simulation(folder: Path, training: dict[str, object] | None = None, **federation: object) -> Simulation:
    keys = {"rule": "slora", "rounds": 4, **federation}
    return tiny_simulation(tiny_recipe(folder, federation=keys, training=training or {"local_steps": 2}), None)


def rounds_of(made: Simulation, count: int) -> ServerState:
    state = list(islice(run(made), count + 1))[-1].state
    assert isinstance(state, ServerState)
    return state


class OnTheWeights:
    """The slow twin of a device: W itself is a parameter, and what is off the mask is put back after each step."""

    def __init__(self, folder: Path, masks: dict[str, Tensor]) -> None:
        self.made = simulation(folder, SGD)
        self.masks = masks

    def train(self, change: dict[str, Tensor], head: dict[str, Tensor], part: np.ndarray, number: int, device: int) -> Update:
        """ΔW and head after the device's steps, by plain autograd on W and plain SGD."""
        model, samples = self.made.model, self.made.train
        model.load(Task(replace(self.made.initial, head=head), base=change))
        linears = {name: self._linear(name) for name in self.masks}
        start = {name: linear.weight.detach().clone() for name, linear in linears.items()}
        kinds = {name: type(linear) for name, linear in linears.items()}
        heads = model.adapter.head
        for linear in linears.values():
            linear.__class__ = torch.nn.Linear  # a plain map, whose weight has a gradient
            linear.weight.requires_grad_(True)
        for pair in model.adapter.factors.values():
            pair[0].requires_grad_(False), pair[1].requires_grad_(False)
        for parameter in heads.values():
            parameter.requires_grad_(True)
        for batch in self._batches(part, number, device):
            hidden, lengths = self.made.trunk.batch(samples, batch)
            loss = torch.nn.functional.cross_entropy(model.tail(hidden, lengths), torch.from_numpy(samples.labels[batch]))
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
        return Update({}, {**{f"W {n}": t for n, t in ends.items()}, **{n: p.detach().clone() for n, p in heads.items()}})

    def _linear(self, name: str) -> torch.nn.Linear:
        module = self.made.model.model.get_base_model().get_submodule(name)
        linear = module.get_base_layer()  # type: ignore[operator]
        assert isinstance(linear, torch.nn.Linear)
        return linear

    def _batches(self, part: np.ndarray, number: int, device: int) -> list[np.ndarray]:
        """Those of the real client, which draws them from (seed, round, device)."""
        from fedfit.data.batches import training_batches
        from fedfit.randomness import derive_seed

        settings, lengths = self.made.recipe.training, self.made.train.lengths
        seed = derive_seed(self.made.recipe.seed, "batches", number, device)
        plan = training_batches(lengths[part], settings.batch_size, settings.local_epochs, settings.local_steps, seed)
        self.made.trunk.prepare(self.made.train, np.unique(part))
        return [part[batch] for batch in plan]


def test_the_sparse_rounds_train_the_weights_under_the_mask(tiny_bert: Path) -> None:
    """Two rounds, three devices, SGD with clipping and weight decay, which pulls ΔW to zero and so W to W0."""
    made = simulation(tiny_bert, SGD, sparse_rounds=2, sparse_density=0.3)
    state = rounds_of(made, 2)
    assert isinstance(made.rule, Slora)
    twin = OnTheWeights(tiny_bert, mask_of(made.rule, made.initial))
    change = {name: torch.zeros(mask.shape) for name, mask in twin.masks.items()}
    head = dict(made.initial.head)
    for number in (1, 2):
        ends = [twin.train(change, head, part, number, device).head for device, part in enumerate(made.parts)]
        change = {name: torch.stack([end[f"W {name}"] for end in ends]).mean(dim=0) for name in change}
        head = {name: torch.stack([end[name] for end in ends]).mean(dim=0) for name in head}
    found = made.rule.adapter(state)
    for name, pair in found.factors.items():
        assert float(change[name].abs().max()) > 1e-3, "a test of nothing"
        assert not pair.b[twin.masks[name] == 0].any()
        torch.testing.assert_close(pair.b, change[name], rtol=1e-3, atol=2e-6)
    for name, tensor in found.head.items():
        torch.testing.assert_close(tensor, head[name], rtol=1e-4, atol=1e-6)


def test_the_rounds_after_are_fedavg_from_the_decomposition(tiny_bert: Path) -> None:
    made, other = simulation(tiny_bert, sparse_rounds=1, rounds=3), simulation(tiny_bert, rule="fedavg", rounds=3)
    results = list(run(made))
    begun = made.rule.begin(results[1].state, 2)
    rest = list(run(other, last=replace(results[1], state=begun.adapter)))
    for mine, theirs in zip(results[2:], rest, strict=True):
        assert same_bits(made.rule.adapter(mine.state), theirs.state)
        assert mine.record.test_loss == theirs.record.test_loss


class Failing(Client):
    """Refuses every update of the rounds in ``failed``."""

    failed: Sequence[int] = ()

    def train(
        self, task: Task, samples: Samples, indices: np.ndarray, round_number: int, device: int, parts: frozenset[str] = PARTS
    ) -> Update:
        if round_number in self.failed:
            raise UpdateRefused("not today")
        return super().train(task, samples, indices, round_number, device, parts)


@pytest.mark.parametrize("failed", [(1,), (2,), (3,), (2, 3)])
def test_a_failed_round_moves_no_border(failed: tuple[int, ...], tiny_bert: Path) -> None:
    """With 2 sparse rounds of 5, rounds 3 to 5 train factors whatever failed: their packets hold A and B, the others none.

    What is decomposed is what the sparse rounds left, whether or not the last of them, or the first after them, failed.
    """
    made = simulation(tiny_bert, rounds=5)
    made.codec = codec = Listening()
    client = Failing(made.model, made.trunk, made.recipe.training, 0, 5)
    client.failed = failed
    made.client = client
    results = list(run(made))
    assert [result.record.refused for result in results] == [0, *(3 * (number in failed) for number in range(1, 6))]
    place = 0
    for number in range(1, 6):
        count = 3 if number in failed else 6
        for packet in codec.packets[place : place + count]:
            names = load(packet.payload)
            assert any(name.endswith("lora_A") for name in names) == (number > 2)
            assert any(name.startswith("extra.values") for name in names) == (number <= 2)
        place += count
    assert place == len(codec.packets)
    for number in failed:
        assert same_bits(results[number].state.adapter, results[number - 1].state.adapter)
        assert results[number].record.test_loss == results[number - 1].record.test_loss
    first = min(number for number in (3, 4) if number not in failed)  # the first round that leaves factors
    assert not results[first].state.tensors
    assert results[2].state.tensors


@pytest.mark.parametrize("density", [None, 0.1, 0.7])
def test_what_travels_is_counted_to_the_byte(density: float | None, tiny_bert: Path) -> None:
    """Four bytes a value and none for its place: 2 · (32 + 32) = 128 of the 1024 of a module, unless a density says more."""
    made = simulation(tiny_bert, sparse_density=density, rounds=3)
    made.codec = codec = Listening()
    lines = [line for result in run(made) for line in result.devices]
    head_bytes = 4 * sum(tensor.numel() for tensor in made.initial.head.values())
    modules = len(made.initial.factors)
    traffic = [way(made.rule, SafetensorsCodec(), made.initial, 3) for way in (downlink_traffic, uplink_traffic)]
    most = [(way.bits_fixed + 2 * way.bits_per_rank) / 8 for way in traffic]
    assert len(codec.packets) == 18
    for number, packet in enumerate(codec.packets):
        ones = 128 if number >= 12 or density is None else round(1024 * density)
        assert packet.size_bytes == 8 + int.from_bytes(packet.payload[:8], "little") + 4 * modules * ones + head_bytes
        line = lines[number // 2]
        assert packet.size_bytes == (line.uplink_bytes if number % 2 else line.downlink_bytes)
        assert packet.size_bytes <= most[number % 2]


def first_changed(change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    def spoil(extra: dict[str, Tensor]) -> dict[str, Tensor]:
        first = sorted(extra)[0]
        return {**extra, first: change(extra[first])}

    return spoil


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda extra: extra, None),
        (lambda extra: {}, "extra tensors"),
        (lambda extra: {**extra, "stray": torch.zeros(2)}, "extra tensors"),
        (first_changed(lambda values: values[1:]), "extra tensors"),
        (first_changed(Tensor.double), "extra tensors"),
        (first_changed(lambda values: values * math.inf), "is not finite"),
    ],
)
def test_what_a_device_may_not_send_is_refused_and_the_round_goes_on(
    spoil: Callable[[dict[str, Tensor]], dict[str, Tensor]], reason: str | None, tiny_bert: Path
) -> None:
    made = simulation(tiny_bert)
    link, samples = Spoiled(link_of(made), spoil, made.initial), [len(part) for part in made.parts]
    size = made.recipe.adapter.size
    whole = Federation(made.rule, made.codec, link, made.score, samples, 3, 0, size, [made.recipe.adapter.rank] * 3)
    result = run_round(whole, initial_result(whole, made.initial).state, 1)
    assert [device.refused is not None for device in result.devices] == [False, reason is not None, False]
    assert reason is None or reason in (result.devices[1].refused or "")


# The recipe


def test_a_recipe_sets_seed_rounds_and_density() -> None:
    """Masks of the made rule are those of the rule with the recipe's seed."""
    settings = FederationSettings(rule="slora", sparse_rounds=3, sparse_density=0.5)
    rule = make_rule(Recipe(seed=7, federation=settings), 3)
    assert isinstance(rule, Slora)
    assert rule.trains(3) == {"b", "head"}
    assert rule.trains(4) == PARTS
    mine, theirs = mask_of(rule, fresh()), mask_of(Slora(7, 3, 0.5), fresh())
    assert all(torch.equal(mask, theirs[name]) for name, mask in mine.items())


def faults(*overrides: str) -> list[tuple[str, str]]:
    recipe = parse_recipe("", [f"federation.{words}" for words in overrides])
    return [(fault.key, fault.remedy) for fault in rule_faults(recipe)]


def test_there_are_rounds_left_for_the_factors() -> None:
    assert faults("rule=slora", "rounds=3", "sparse_rounds=2", "sparse_density=0.1") == []
    remedy = "there are 2 rounds, and the factors are trained after these; lower it, or raise rounds"
    assert faults("rule=slora", "rounds=2") == [("federation.sparse_rounds", remedy)]


def test_its_keys_are_read_by_slora_alone() -> None:
    remedy = "rule = 'flasc' does not read it; remove it, or choose slora"
    assert faults("rule=flasc", "sparse_rounds=3") == [("federation.sparse_rounds", remedy)]
    assert faults("rule=flasc", "sparse_density=0.5") == [("federation.sparse_density", remedy)]


def test_an_adapter_of_an_odd_start_goes_on_from_its_product() -> None:
    """A B that is not zero: its product is ΔW from the first, off the mask as well, on both sides."""
    rule, start = Slora(0, 2, 0.3), random_update(99, rank=2)
    state = rule.init(start)
    task = rule.receive(rule.dispatch(state, 0, size_of(start), 0), None)
    for name, tensor in named_tensors(rule.adapter(state)).items():
        assert torch.equal(named_tensors(task.update)[name], tensor)
    for name, pair in task.update.factors.items():
        old: Factors = start.factors[name]
        torch.testing.assert_close(pair.b, old.scale * old.b @ old.a)
