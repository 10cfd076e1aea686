import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from fedfit.adapters.lora import save_adapter
from fedfit.core.task import Score
from fedfit.core.update import Job, Update
from fedfit.errors import UpdateRefused
from fedfit.experiment.build import Experiment
from fedfit.rounds import trainer
from fedfit.rounds.evaluate import evaluate
from fedfit.rounds.optimizers import rate_factor
from fedfit.settings import TrainingSettings
from tests.aggregation.watching import record
from tests.builders import CLASSES, TASK, lora_of, padded_batch, randomise, same_bits, tiny_experiment, tiny_recipe

NOISY = {"training": {"dropout": True}, "adapter": {"dropout": 0.3}}


def experiment(folder: Path, **sections: Any) -> Experiment:
    made = tiny_experiment(tiny_recipe(folder, **sections), cache=None)
    randomise(made.parts.model, seed=4)
    made.initial = made.parts.model.adapter.snapshot()
    return made


def train(made: Experiment, device: int = 0, round_number: int = 1, start: Update | None = None) -> Update:
    return made.trainer.train(Job(start or made.initial), made.parts.train, made.parts.held[device], round_number, device)


def score(made: Experiment, rows: np.ndarray | None = None) -> Score:
    """The adapter that the federation begins with, on training samples: all of them, or ``rows``."""
    made.parts.model.load(Job(made.initial))
    return evaluate(made.parts.model, made.parts.trunk, TASK, made.parts.train, rows=rows)


@pytest.mark.parametrize(
    ("progress", "warmup", "schedule", "factor"),
    [
        (0.0, 0.0, "constant", 1.0),
        (0.9, 0.0, "constant", 1.0),
        (0.0, 0.1, "constant", 0.0),
        (0.05, 0.1, "constant", 0.5),
        (0.1, 0.1, "constant", 1.0),
        (0.0, 0.0, "linear", 1.0),
        (0.25, 0.0, "linear", 0.75),
        (0.2, 0.2, "linear", 1.0),
        (0.6, 0.2, "linear", 0.5),  # half of the 0.8 that follow the warm-up
        (0.1, 0.2, "linear", 0.5),
        (0.0, 0.0, "cosine", 1.0),
        (0.5, 0.0, "cosine", 0.5),
        (0.25, 0.0, "cosine", (1 + math.sqrt(0.5)) / 2),
        (0.75, 0.5, "cosine", 0.5),
        (0.75, 1.0, "linear", 0.75),  # all of the run is warm-up
        (1.0, 1.0, "linear", 1.0),
    ],
)
def test_the_rate_over_the_run(progress: float, warmup: float, schedule: str, factor: float) -> None:
    assert rate_factor(progress, TrainingSettings(warmup=warmup, schedule=schedule)) == pytest.approx(factor, abs=1e-12)


def twin_step(made: Experiment, base: Path, folder: Path) -> dict[str, torch.Tensor]:
    """One full-batch SGD step by hand on the whole model that Hugging Face and PEFT make: value after, by PEFT's name."""
    settings = made.recipe.training
    save_adapter(made.parts.model.model, folder, str(base))
    fresh = AutoModelForSequenceClassification.from_pretrained(base, num_labels=CLASSES)
    whole = PeftModel.from_pretrained(fresh, str(folder), is_trainable=True).eval()
    rows = [int(row) for row in made.parts.held[0]]
    ids, mask, _ = padded_batch(made.parts.train, rows)
    labels = torch.from_numpy(made.parts.train.classes[rows])
    whole(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
    trained = {name: p for name, p in whole.named_parameters() if ".lora_" in name or ".modules_to_save." in name}
    norm = math.sqrt(sum(float(p.grad.pow(2).sum()) for p in trained.values()))
    shrink = min(1.0, settings.max_grad_norm / norm) if settings.max_grad_norm else 1.0
    rate, decay = settings.learning_rate, settings.weight_decay
    return {name: p.detach() - rate * (shrink * p.grad + decay * p.detach()) for name, p in trained.items()}


@pytest.mark.parametrize(
    "keys", [{}, {"max_grad_norm": 0.05}, {"weight_decay": 0.3}, {"schedule": "linear", "warmup": 0.0}], ids=str
)
def test_a_full_batch_step_of_sgd_is_that_step_on_the_whole_model(
    keys: dict[str, Any], tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    plain = {"optimizer": "sgd", "learning_rate": 0.5, "weight_decay": 0.0, "max_grad_norm": 0.0, "batch_size": 64}
    for family, folder in tiny_models.items():
        made = experiment(folder, training={**plain, **keys})
        expected = twin_step(made, folder, tmp_path / family)
        update = train(made)
        assert update.facts["steps"] == 1
        for module, pair in update.factors.items():
            start = made.initial.factors[module]
            for letter, after, before in (("A", pair.a, start.a), ("B", pair.b, start.b)):
                change = expected[f"base_model.model.{module}.lora_{letter}.default.weight"] - before
                assert change.norm() > 0
                # The gradients agree to 1e-5; a change is a difference of numbers some hundred times as large.
                assert float((after - before - change).norm() / change.norm()) < 3e-4
        for name, after in update.groups["head"].items():
            module, _, rest = name.partition(".")
            change = expected[f"base_model.model.{module}.modules_to_save.default.{rest}"] - made.initial.groups["head"][name]
            assert float((after - made.initial.groups["head"][name] - change).norm() / change.norm()) < 3e-4


def test_weight_and_facts(tiny_bert: Path) -> None:
    made = experiment(tiny_bert)
    before = score(made)
    update = train(made)
    # 48 samples over 3 devices are 16, in batches of 8.
    assert update.weight == 16.0
    assert update.facts["steps"] == 2
    assert 0 < float(update.facts["train_loss"]) < 10 * before["loss"].value
    assert made.trainer.steps_done == 2


@pytest.mark.parametrize(("keys", "steps"), [({"local_epochs": 3}, 6), ({"local_steps": 5}, 5), ({"local_steps": 1}, 1)])
def test_as_many_steps_as_asked(keys: dict[str, int], steps: int, tiny_bert: Path) -> None:
    made = experiment(tiny_bert, training=keys)
    assert train(made).facts["steps"] == steps
    assert made.trainer.steps_done == steps


def test_the_loss_is_the_mean_over_the_samples_seen(tiny_bert: Path) -> None:
    """With a rate near zero nothing moves, so the loss is that of the start, whatever the batches: 16 = 5 + 5 + 5 + 1."""
    made = experiment(tiny_bert, training={"learning_rate": 1e-20, "optimizer": "sgd", "batch_size": 5})
    loss = train(made).facts["train_loss"]
    assert loss == pytest.approx(score(made, made.parts.held[0])["loss"].value, rel=1e-5)


@pytest.mark.parametrize("noise", [{}, NOISY], ids=["without dropout", "with dropout"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_nothing_is_left_of_the_device_before(optimizer: str, noise: dict[str, Any], tiny_bert: Path) -> None:
    sections = {"training": {"optimizer": optimizer, "momentum": 0.9, **noise.get("training", {})}}
    sections |= {name: keys for name, keys in noise.items() if name != "training"}
    alone = train(experiment(tiny_bert, **sections), device=2)
    made = experiment(tiny_bert, **sections)
    torch.rand(7)  # nor does it matter what else has drawn
    other, after = train(made, device=0), train(made, device=2)
    assert same_bits(after, alone)
    assert after.facts == alone.facts
    assert not same_bits(other, alone)
    assert not torch.equal(after.groups["head"]["classifier.weight"], made.initial.groups["head"]["classifier.weight"])


def test_training_leaves_the_callers_generator_alone(tiny_bert: Path) -> None:
    made = experiment(tiny_bert, **NOISY)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    train(made)
    assert torch.equal(torch.rand(3), expected)


def test_rounds_and_devices_draw_differently(tiny_bert: Path) -> None:
    made = tiny_experiment(tiny_recipe(tiny_bert), cache=None, parts=[np.arange(16)] * 3)
    first, again, other_round, other_device = train(made), train(made), train(made, round_number=2), train(made, device=1)
    assert same_bits(first, again)
    assert not same_bits(first, other_round)
    assert not same_bits(first, other_device)


@pytest.mark.parametrize("noise", [{"training": {"dropout": True}}, {"adapter": {"dropout": 0.3}}], ids=["base", "lora"])
@pytest.mark.parametrize("other", [{"seed": 1}, {"round_number": 2}, {"device": 1}], ids=str)
def test_dropout_is_drawn_from_run_round_and_device(
    other: dict[str, int], noise: dict[str, Any], tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job, the samples and the batches are the same everywhere, so that nothing but dropout can make a difference."""
    monkeypatch.setattr(trainer, "training_batches", lambda *arguments: [np.arange(8), np.arange(8, 16)])
    job = Job(experiment(tiny_bert).initial)

    def trained(sections: dict[str, Any], seed: int = 0, round_number: int = 1, device: int = 0) -> Update:
        made = tiny_experiment(tiny_recipe(tiny_bert, seed=seed, **sections), cache=None)
        torch.rand(5)  # what the caller's generator has drawn is of no account
        return made.trainer.train(job, made.parts.train, np.arange(16), round_number, device)

    assert same_bits(trained({}), trained({}, **other))
    assert same_bits(trained(noise, **other), trained(noise, **other))
    assert not same_bits(trained(noise), trained(noise, **other))


def test_dropout_is_on_only_when_asked_for(tiny_bert: Path) -> None:
    plain = train(experiment(tiny_bert))
    assert not same_bits(train(experiment(tiny_bert, training={"dropout": True})), plain)
    assert not same_bits(train(experiment(tiny_bert, adapter={"dropout": 0.3})), plain)
    made = experiment(tiny_bert, **NOISY)
    train(made)
    assert score(made) == score(made), "training must leave the model in eval mode"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains_near_float32(precision: str, tiny_bert: Path) -> None:
    plain, mixed = train(experiment(tiny_bert)), train(experiment(tiny_bert, training={"precision": precision}))
    assert not same_bits(plain, mixed)
    # bfloat16 has 8 bits, so each number is off by up to 0.4 %; over four layers some of it adds up.
    assert mixed.facts["train_loss"] == pytest.approx(plain.facts["train_loss"], rel=0.05)
    assert all(pair.a.dtype == torch.float32 for pair in mixed.factors.values())


def test_a_frozen_head_is_neither_trained_nor_sent(tiny_bert: Path) -> None:
    made = experiment(tiny_bert, adapter={"head": "freeze"})
    head = made.parts.model.base.get_submodule("classifier").state_dict()
    before = {name: tensor.clone() for name, tensor in head.items()}
    update = train(made)
    assert "head" not in update.groups
    assert not same_bits(update, made.initial)
    assert all(torch.equal(head[name], tensor) for name, tensor in before.items())


def test_the_frozen_base_does_not_move(tiny_bert: Path) -> None:
    made = experiment(tiny_bert, **NOISY)
    mine = {parameter.data_ptr() for parameter in lora_of(made.parts.model).parameters()}
    frozen = {name: tensor for name, tensor in made.parts.model.model.state_dict().items() if tensor.data_ptr() not in mine}
    before = {name: tensor.clone() for name, tensor in frozen.items()}
    train(made)
    assert all(torch.equal(frozen[name], tensor) for name, tensor in before.items())


def test_the_schedule_runs_over_the_whole_run_and_not_over_the_round(tiny_bert: Path) -> None:
    """One SGD step a round: it is as long as the share of the rate at the round's start."""
    keys = {"optimizer": "sgd", "weight_decay": 0.0, "max_grad_norm": 0.0, "batch_size": 64, "schedule": "linear"}
    lengths = []
    for round_number in (1, 2, 5):
        made = experiment(tiny_bert, training={**keys, "learning_rate": 0.1})
        after = train(made, round_number=round_number)
        lengths.append(float((after.groups["head"]["classifier.bias"] - made.initial.groups["head"]["classifier.bias"]).norm()))
    # Five rounds: rounds 1, 2 and 5 start at 0, 0.2 and 0.8 of the run.
    assert [length / lengths[0] for length in lengths] == pytest.approx([1.0, 0.8, 0.2], rel=1e-4)


def test_a_rate_of_zero_at_the_start_of_the_warm_up_moves_nothing(tiny_bert: Path) -> None:
    made = experiment(tiny_bert, training={"warmup": 0.5, "local_steps": 1})
    assert same_bits(train(made), made.initial)


def test_a_loss_that_is_not_finite_is_refused_and_leaves_no_trace(tiny_bert: Path) -> None:
    expected = train(experiment(tiny_bert))
    made = experiment(tiny_bert, training={"learning_rate": 1e30, "optimizer": "sgd", "local_epochs": 3, "max_grad_norm": 0.0})
    with pytest.raises(UpdateRefused, match=r"training\.learning_rate"):
        train(made)
    sound = experiment(tiny_bert)
    made.trainer._settings = sound.recipe.training
    assert same_bits(train(made), expected)
    assert replace(expected, weight=1.0).weight == 1.0


def test_a_codecs_seed_is_of_its_own_for_each_packet_and_repeats(tiny_bert: Path) -> None:
    """Two rounds of two devices, down and up: eight seeds, the same in a second run and others under another seed."""

    def seeds(seed: int) -> list[int]:
        made = experiment(tiny_bert, federation={"devices": 2, "devices_per_round": 2, "rounds": 2}, seed=seed)
        codec = record(made)
        assert len(list(made.run())) == 3
        return codec.seeds

    first = seeds(0)
    assert len(set(first)) == len(first) == 8
    assert seeds(0) == first
    assert not set(seeds(1)) & set(first)
