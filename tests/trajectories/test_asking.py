"""Language models from a recipe to a run folder: what was measured is what transformers and PEFT measure, text by text."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer

from fedfit.errors import TrainingStopped
from fedfit.experiment.session import Session
from fedfit.models.flops import step_flops
from fedfit.models.speaker import ModelSpeaker
from tests.builders import chat_tokenizer, tiny_split
from tests.trajectories.asking import ANSWERS, TASKS, Asking, distributions, log_probability
from tests.trajectories.world import lines, outcome, resume


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> Asking:
    return Asking.make(tmp_path_factory.mktemp("asking"), tiny_models["llama"])


def last(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = lines(run / "rounds.jsonl")[-1]
    return found


@pytest.mark.parametrize("rule", ["fedavg", "flora", "fedex_lora", "fslora"])
def test_instructions(rule: str, asking: Asking, tmp_path: Path) -> None:
    run = asking.run("instruction", tmp_path / "run", f"federation.rule={rule}")
    tuned, line = asking.tuned(run), last(run)
    nats = [-log_probability(tuned, asking.prompt(row), row["say"]) for row in asking.test]
    loss = float(torch.cat(nats).mean())
    assert line["test_loss"] == pytest.approx(loss, rel=1e-4)
    assert line["test_perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
    right = 0
    for row in asking.test:
        scores = {each: float(log_probability(tuned, asking.prompt(row), f"it is {each}").sum()) for each in ANSWERS.values()}
        right += max(scores, key=scores.__getitem__) == row["answer"]
    assert line["test_answer_accuracy"] == right / len(asking.test)


def test_answers_are_the_greedy_ones(asking: Asking, tmp_path: Path) -> None:
    run = asking.run("instruction", tmp_path / "run")
    tokenizer, scorer, scores = chat_tokenizer(), RougeScorer(["rougeL"], use_stemmer=True), []
    shown = json.loads((run / "evaluation.json").read_text())["answers"]
    assert len(shown) == 3
    for row, found in zip(asking.test, shown, strict=False):
        for key, model in (("before", asking.base()), ("after", asking.tuned(run))):
            ids = tokenizer(asking.prompt(row), add_special_tokens=False, return_tensors="pt")["input_ids"]
            whole = model.generate(input_ids=ids, max_new_tokens=4, do_sample=False, eos_token_id=3, pad_token_id=0)
            assert found[key] == tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True).strip()
        assert found["reference"] == row["say"]
        assert found["prompt"].startswith(row["ask"])
        scores.append(scorer.score(tokenizer.decode(tokenizer(row["say"])["input_ids"]), found["after"])["rougeL"].fmeasure)
    assert last(run)["test_rouge_l"] == pytest.approx(sum(scores) / 3)


def test_preferences(asking: Asking, tmp_path: Path) -> None:
    run = asking.run("preference", tmp_path / "run", "task.beta=0.3")
    tuned, base, line = asking.tuned(run), asking.base(), last(run)
    preferred, margins, divergences = 0, [], []
    for row in asking.test:
        ratios = []
        for response in (row["say"], row["other"]):
            mine, its = (distributions(model, asking.prompt(row), response)[0] for model in (tuned, base))
            divergences.append((mine.exp() * (mine - its)).sum(dim=1))
            mine, its = (log_probability(model, asking.prompt(row), response).sum() for model in (tuned, base))
            ratios.append((float(mine), float(mine - its)))
        preferred += ratios[0][0] > ratios[1][0]
        margins.append(0.3 * (ratios[0][1] - ratios[1][1]))
    assert line["test_preference_accuracy"] == preferred / len(asking.test)
    assert line["test_preference_margin"] == pytest.approx(sum(margins) / len(margins), rel=1e-3)
    assert line["test_kl"] == pytest.approx(float(torch.cat(divergences).mean()), rel=1e-3)
    loss = sum(math.log1p(math.exp(-margin)) for margin in margins) / len(margins)
    assert line["test_loss"] == pytest.approx(loss, rel=1e-4)


def test_plain_text(asking: Asking, tmp_path: Path) -> None:
    run = asking.run("language_modelling", tmp_path / "run")
    tuned, line = asking.tuned(run), last(run)
    texts = [f"{row['ask']} {row['say']}" for row in asking.test]
    nats = torch.cat([-log_probability(tuned, "", text) for text in texts])
    assert line["test_loss"] == pytest.approx(float(nats.mean()), rel=1e-4)
    bits = float(nats.sum()) / math.log(2) / sum(len(text.encode()) for text in texts)
    assert line["test_bits_per_byte"] == pytest.approx(bits, rel=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_a_run_that_was_stopped_ends_the_same_and_so_does_one_without_a_cache(
    task: str, asking: Asking, tmp_path: Path
) -> None:
    whole = outcome(asking.run(task, tmp_path / "whole"))
    assert outcome(resume(asking.run(task, tmp_path / "stopped", rounds=1))) == whole
    assert outcome(asking.run(task, tmp_path / "uncached", "trunk_cache.enabled=false"))["rounds"] == whole["rounds"]


def test_the_reference_is_the_frozen_base_or_what_the_device_received(asking: Asking, tmp_path: Path) -> None:
    """A model beside itself has no margin, and its DPO loss is ln 2: so in each round's only step where the reference is what
    was received, and in the first round alone where it is the base."""
    one_step = ["training.local_steps=1", "federation.rounds=3", "training.learning_rate=0.05"]
    for reference, ends in (("received", [True, True]), ("base", [False, False])):
        run = asking.run("preference", tmp_path / reference, f"task.reference={reference}", *one_step)
        losses = [line["train_loss"] for line in lines(run / "rounds.jsonl")[1:]]
        assert losses[0] == pytest.approx(math.log(2), rel=1e-5)
        assert [loss == pytest.approx(math.log(2), rel=1e-4) for loss in losses[1:]] == ends


def test_devices_are_measured_on_their_own_rows(asking: Asking, tmp_path: Path) -> None:
    keys = ["evaluation.models=both", "evaluation.device_test_share=0.25", "federation.rule=fedsa_lora"]
    run = asking.run("instruction", tmp_path / "run", *keys)
    scores, line = lines(run / "scores.jsonl"), last(run)
    accuracies = [score["personal_answer_accuracy"] for score in scores if score["round"] == 2]
    assert [score["samples"] for score in scores[:3]] == [2, 2, 2]
    assert line["personal_answer_accuracy_mean"] == pytest.approx(sum(accuracies) / 3)
    assert line["personal_answer_accuracy_worst"] == min(accuracies)
    perplexities = [score["personal_perplexity"] for score in scores if score["round"] == 2]
    assert line["personal_perplexity_worst"] == max(perplexities)
    partition = json.loads((run / "partition.json").read_text())
    assert (partition["kinds"], partition["labels"]) == ("who", ["p", "q", "r"])
    assert partition["counts"] == [[6, 0, 0], [0, 6, 0], [0, 0, 6]]


def test_the_data_and_the_weights_are_compared_when_a_run_goes_on(asking: Asking, tmp_path: Path) -> None:
    run = asking.run("instruction", tmp_path / "run", rounds=1)
    text = (run / "recipe.toml").read_text().replace("max_new_tokens = 4", "max_new_tokens = 5")
    (run / "recipe.toml").write_text(text)
    with pytest.raises(Exception, match=r"task\.max_new_tokens: 4 when the run began, 5 now"):
        Session.resume(run)


def test_a_plan_counts_the_positions_that_are_read(asking: Asking, tmp_path: Path) -> None:
    """The work of a device is the sum over its rows, each with its own tokens and its own response."""
    keys = ["plan.policy=joint", "plan.compute=flops", "plan.deadline_s=1e3", "fleet.battery_j=1e3", "federation.rounds=1"]
    run = asking.run("instruction", tmp_path / "run", *keys)
    session = Session.resume(run)
    session.folder.close()
    experiment = session.experiment
    assert experiment.clock is not None
    work, samples = experiment.clock.work, experiment.parts.train
    reads = experiment.parts.task.reads(samples)
    for device, rows in enumerate(experiment.parts.held):
        counts = [step_flops(work.shape, int(samples.lengths[row]), False, int(reads[row])) for row in rows]
        cycles = sum(count.fixed for count in counts) / work.fleet.operations_per_cycle[device]
        assert work.sent.cycles_fixed[device] == pytest.approx(cycles)
        assert sum(count.per_rank for count in counts) > 0
    assert last(run)["rank"] == 2


def test_a_loss_that_overflows_in_half_precision_is_refused_and_recorded(asking: Asking, tmp_path: Path) -> None:
    keys = ["training.precision=fp16", "training.learning_rate=1e6", "training.optimizer=sgd", "training.max_grad_norm=0"]
    with pytest.raises(
        TrainingStopped, match="no update of the last 3 rounds was usable; the first reason: the training loss became"
    ):
        asking.run("instruction", tmp_path / "run", *keys, "federation.rounds=5", "training.local_epochs=2")


def test_a_tokenizer_without_a_filler_answers_alike(asking: Asking, tmp_path: Path) -> None:
    """Answers are generated in batches that are filled up before the prompts; the mask leaves the filler out."""
    tokenizer = chat_tokenizer()
    split = tiny_split(asking.model, labels=None)
    prompts = [np.array(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in ("a b", "a b c d e f", "x")]
    alone = [ModelSpeaker(split, tokenizer).answers([prompt], 5)[0] for prompt in prompts]
    tokenizer.pad_token = None
    assert ModelSpeaker(split, tokenizer).answers(prompts, 5) == alone
