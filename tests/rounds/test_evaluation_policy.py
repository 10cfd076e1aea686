"""Which models are measured, on which rows and in which rounds; every number against an evaluation by hand."""

import json
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfit.core.task import Metric, Score
from fedfit.core.update import LORA_B, Job, Update
from fedfit.data_settings import DataSettings
from fedfit.experiment.build import Experiment, assemble, build
from fedfit.experiment.rows_of_devices import rows_of_others, set_apart
from fedfit.records import DeviceScore, RoundRecord, RoundResult
from fedfit.rounds.evaluate import evaluate, summary
from fedfit.settings import EvaluationSettings
from tests.builders import TASK, same_bits, tiny_experiment, tiny_recipe

SEED = 5
METRICS = ("accuracy", "macro_f1", "loss")

# Rows set apart


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.floats(0, 0.9), st.integers(0, 3))
def test_rows_set_apart_are_disjoint_and_complete(sizes: list[int], share: float, seed: int) -> None:
    bounds = np.cumsum([0, *sizes])
    rows = np.random.default_rng(0).permutation(bounds[-1])
    held = [np.sort(rows[a:b]) for a, b in pairwise(bounds)]
    train, tests = set_apart(held, share, seed)
    for before, own, test in zip(held, train, tests, strict=True):
        assert np.array_equal(np.sort(np.concatenate([own, test])), before), "each row is in one of the two, and once"
        assert len(test) == (min(round(share * len(before)), len(before) - 1) if len(before) else 0)
        assert bool((np.diff(own) > 0).all())
        assert bool((np.diff(test) > 0).all())
    again = set_apart(held, share, seed)
    assert all(np.array_equal(left, right) for left, right in zip([*train, *tests], [*again[0], *again[1]], strict=True))


def test_by_hand() -> None:
    """A quarter of 8 are 2; a device with one row trains on it; one without a row has none of either."""
    train, tests = set_apart([np.arange(8), np.array([8]), np.array([], dtype=np.int64)], 0.25, seed=0)
    assert [len(rows) for rows in tests] == [2, 0, 0]
    assert [len(rows) for rows in train] == [6, 1, 0]


def test_no_share_is_no_row() -> None:
    train, tests = set_apart([np.arange(8), np.arange(8, 20)], 0.0, seed=0)
    assert [len(rows) for rows in tests] == [0, 0]
    assert np.array_equal(train[1], np.arange(8, 20))


def test_devices_and_seeds_draw_differently() -> None:
    """Parts of one size: the same places would be drawn in both from one seed."""
    first, second = set_apart([np.arange(60), np.arange(60)], 0.5, seed=0)[1]
    (other, _) = set_apart([np.arange(60), np.arange(60)], 0.5, seed=1)[1]
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_the_recipes_share_reaches_the_devices(tiny_bert: Path, tmp_path: Path) -> None:
    """24 rows on 3 devices: 8 each, of which a quarter is set apart; only the others are trained, weighed and counted."""
    rows = ["text,label"] + [f"{'abc' if number % 2 else 'xyz'} e{number},{number % 2}" for number in range(24)]
    (tmp_path / "rows.csv").write_text("\n".join(rows) + "\n")
    path = str(tmp_path / "rows.csv")
    recipe = tiny_recipe(tiny_bert, evaluation={"device_test_share": 0.25, "models": "both"}, federation={"rounds": 1})
    made = build(replace(recipe, data=DataSettings(source="csv", train=path, test=path, max_tokens=12)))
    assert [len(part) for part in made.parts.held] == [6, 6, 6]
    assert [len(part) for part in made.parts.own_tests] == [2, 2, 2]
    assert sorted(np.concatenate([*made.parts.held, *made.parts.own_tests]).tolist()) == list(range(24))
    assert np.array(made.facts["counts"]).sum() == 18
    last = list(made.run())[-1]
    assert [line.samples for line in last.devices] == [6, 6, 6]
    assert [(score.device, score.samples) for score in last.scores] == [(0, 2), (1, 2), (2, 2)]


# Runs


@dataclass
class Watched:
    """A run, and what each device trained in each round."""

    made: Experiment
    results: list[RoundResult]
    trained: dict[tuple[int, int], Update]

    def newest(self, device: int, after_round: int) -> Update | None:
        """What ``device`` trained last, up to ``after_round``."""
        rounds = [number for number, who in self.trained if who == device and number <= after_round]
        return self.trained[max(rounds), device] if rounds else None

    def score(self, update: Update, rows: np.ndarray | None = None) -> Score:
        """By hand: ``update`` on training rows, or on the common test set."""
        parts = self.made.parts
        parts.model.load(Job(update))
        return evaluate(parts.model, parts.trunk, TASK, parts.sets["test"] if rows is None else parts.train, rows=rows)


def watched(
    folder: Path, rule: str = "fedavg", share: float = 0.25, every: int = 1, models: str = "auto", others: int = 0
) -> Watched:
    """Three rounds on four devices, two of which are asked in each: in round 1 two have never trained."""
    recipe = tiny_recipe(
        folder,
        seed=SEED,
        federation={"devices": 4, "devices_per_round": 2, "rounds": 3, "rule": rule},
        evaluation={"models": models, "every": every, "others_samples": others},
    )
    plain = tiny_experiment(recipe, None).parts
    held, tests = set_apart(plain.held, share, SEED)
    made = assemble(replace(plain, held=held, own_tests=tests))
    trained: dict[tuple[int, int], Update] = {}
    train = made.trainer.train

    def keep(job: Job, samples: Any, indices: Any, number: int, device: int, groups: Any = None) -> Update:
        trained[number, device] = train(job, samples, indices, number, device, groups)
        assert not set(indices.tolist()) & set(tests[device].tolist()), "trained on its own test rows"
        return trained[number, device]

    made.trainer.train = keep  # type: ignore[method-assign, assignment]
    return Watched(made, list(made.run()), trained)


def has(record: RoundRecord, prefix: str, score: Score) -> bool:
    """Whether ``record`` holds ``score`` under names that begin with ``prefix``, to the bit."""
    return all(record.metrics.get(f"{prefix}_{name}") == metric for name, metric in score.items())


def kinds(record: RoundRecord) -> set[str]:
    """The beginnings of the metrics' names."""
    return {name.partition("_")[0] for name in record.metrics}


def test_the_global_model_alone_is_the_default(tiny_bert: Path) -> None:
    run = watched(tiny_bert)
    for result in run.results:
        assert kinds(result.record) == {"test"}
        assert has(result.record, "test", run.score(result.state.adapter))
        assert result.scores == ()


def test_both_measures_the_global_model_on_the_common_rows_and_on_each_devices_own(tiny_bert: Path) -> None:
    run = watched(tiny_bert, models="both")
    for result in run.results:
        assert has(result.record, "test", run.score(result.state.adapter))
        assert kinds(result.record) == {"test", "shared"}
        assert [score.device for score in result.scores] == [0, 1, 2, 3]
        for score, rows in zip(result.scores, run.made.parts.own_tests, strict=True):
            by_hand = run.score(result.state.adapter, rows)
            assert (score.round, score.samples) == (result.record.round, len(rows))
            assert score.metrics == {f"shared_{name}": metric for name, metric in by_hand.items()}
    assert run.results[1].scores != run.results[3].scores


def test_devices_alone_leave_the_common_rows_out(tiny_bert: Path) -> None:
    run, both = watched(tiny_bert, models="devices"), watched(tiny_bert, models="both")
    for mine, other in zip(run.results, both.results, strict=True):
        assert kinds(mine.record) == {"shared"}
        assert mine.scores == other.scores
        assert mine.record.metrics.items() <= other.record.metrics.items()


def own_model(run: Watched, result: RoundResult, device: int) -> Update:
    """The device's model after a round: with local_only what it trained last; with FedSA-LoRA its last B under the global A
    and head. A device that has not trained yet has what all begin with."""
    newest = run.newest(device, result.record.round)
    if newest is None:
        return result.state.adapter if run.made.rule.traits.shares else run.made.initial
    if not run.made.rule.traits.shares:
        return newest
    return result.state.adapter.with_groups({LORA_B: newest.groups[LORA_B]})


@pytest.mark.parametrize("rule", ["fedsa_lora", "local_only"])
@pytest.mark.parametrize("models", ["auto", "devices", "both"])
def test_a_personal_model_is_measured_on_its_devices_own_rows(rule: str, models: str, tiny_bert: Path) -> None:
    run = watched(tiny_bert, rule, models=models)
    assert len({device for _, device in run.trained}) > 2
    for result in run.results:
        assert kinds(result.record) == ({"personal", "test"} if models == "both" else {"personal"})
        assert len(result.scores) == 4
        for score, rows in zip(result.scores, run.made.parts.own_tests, strict=True):
            by_hand = run.score(own_model(run, result, score.device), rows)
            assert score.metrics == {f"personal_{name}": metric for name, metric in by_hand.items()}
        if models == "both":
            assert has(result.record, "test", run.score(result.state.adapter))
    last = run.results[-1]
    models_then = [own_model(run, last, device) for device in range(4)]
    assert not same_bits(models_then[0], models_then[1]), "devices with one model would prove nothing"


@pytest.mark.parametrize("rule", ["fedsa_lora", "local_only"])
def test_without_rows_of_their_own_it_is_the_mean_over_the_devices_on_the_common_ones(rule: str, tiny_bert: Path) -> None:
    run = watched(tiny_bert, rule, share=0.0)
    for result in run.results:
        scores = [run.score(own_model(run, result, device)) for device in range(4)]
        assert kinds(result.record) == {"test"}
        assert result.scores == ()
        for name in METRICS:
            mean = fmean(score[name].value for score in scores)
            assert result.record.value(f"test_{name}") == pytest.approx(mean, rel=1e-12)


def test_a_device_without_test_rows_has_no_score(tiny_bert: Path) -> None:
    recipe = tiny_recipe(tiny_bert, federation={"rounds": 1}, evaluation={"models": "devices"})
    parts = tiny_experiment(recipe, None).parts
    tests = [np.array([1, 2]), np.array([], dtype=np.int64), np.array([5])]
    last = list(assemble(replace(parts, own_tests=tests)).run())[-1]
    assert [(score.device, score.samples) for score in last.scores] == [(0, 2), (2, 1)]


# Summaries


def test_a_personal_model_is_measured_on_samples_of_others(tiny_bert: Path) -> None:
    """Seven rows of the other three devices' tests, the same in every round; by hand from what each device trained last."""
    seen = watched(tiny_bert, rule="local_only", share=0.5, others=7)
    parts = seen.made.parts
    drawn = rows_of_others(parts.own_tests, 7, SEED)
    for device, rows in enumerate(drawn):
        assert len(set(rows.tolist())) == 7
        assert not set(rows.tolist()) & {*parts.own_tests[device].tolist(), *parts.held[device].tolist()}
        assert set(rows.tolist()) <= {row for tests in parts.own_tests for row in tests.tolist()}
    assert not np.array_equal(drawn[0], drawn[1])
    for result in seen.results:
        for score in result.scores:
            update = seen.newest(score.device, result.record.round) or seen.made.initial
            expected = seen.score(update, drawn[score.device])
            assert all(score.metrics[f"personal_others_{name}"] == metric for name, metric in expected.items())
        assert "personal_others_accuracy_mean" in result.record.metrics
    assert rows_of_others(parts.own_tests, 0, SEED) == []
    assert [len(rows) for rows in rows_of_others([np.arange(2), np.arange(2, 5)], 100, SEED)] == [3, 2]


def test_mean_worst_and_spread_by_hand() -> None:
    """Accuracies 0.5, 0.9, 1.0 and losses 0.4, 0.1, 0.1: the worst loss is the highest; the spread is √(Σ(x − x̄)²/n).
    Between three sorted values the tenth percentile from the worst lies a fifth of the way to the second."""
    values = [(0.5, 0.4), (0.9, 0.1), (1.0, 0.1)]
    scores = [
        DeviceScore(1, device, 3, {"personal_accuracy": Metric(accuracy), "personal_loss": Metric(loss, False)})
        for device, (accuracy, loss) in enumerate(values)
    ]
    found = summary(scores)
    expected = {
        "personal_accuracy_mean": (0.8, True),
        "personal_accuracy_worst": (0.5, True),
        "personal_accuracy_p10": (0.5 + 0.2 * 0.4, True),
        "personal_accuracy_spread": (((0.3**2 + 0.1**2 + 0.2**2) / 3) ** 0.5, False),
        "personal_loss_mean": (0.2, False),
        "personal_loss_worst": (0.4, False),
        "personal_loss_p10": (0.4 - 0.2 * 0.3, False),
        "personal_loss_spread": (((0.2**2 + 0.1**2 + 0.1**2) / 3) ** 0.5, False),
    }
    assert found.keys() == expected.keys()
    for name, (value, higher) in expected.items():
        assert found[name].value == pytest.approx(value, rel=1e-12), name
        assert found[name].higher_is_better is higher, name
    assert summary([]) == {}


@pytest.mark.parametrize("rule", ["fedavg", "local_only"])
def test_a_rounds_line_holds_the_summary_and_is_read_back_with_its_directions(rule: str, tiny_bert: Path) -> None:
    run = watched(tiny_bert, rule, models="both")
    for result in run.results:
        prefix = "shared" if rule == "fedavg" else "personal"
        for name in METRICS:
            values = [score.metrics[f"{prefix}_{name}"].value for score in result.scores]
            worst = max(values) if name == "loss" else min(values)
            assert result.record.value(f"{prefix}_{name}_mean") == pytest.approx(fmean(values), rel=1e-12)
            assert result.record.value(f"{prefix}_{name}_worst") == worst
            assert result.record.value(f"{prefix}_{name}_spread") == pytest.approx(pstdev(values), rel=1e-9, abs=1e-12)
        assert RoundRecord.from_json(json.loads(json.dumps(result.record.to_json()))) == result.record
        for score in result.scores:
            assert DeviceScore.from_json(json.loads(json.dumps(score.to_json()))) == score


# Every so many rounds


@pytest.mark.parametrize(("every", "measured"), [(1, [0, 1, 2, 3]), (2, [0, 2, 3]), (3, [0, 3]), (9, [0, 3])])
@pytest.mark.parametrize("rule", ["fedavg", "fedsa_lora"])
def test_every_so_many_rounds_and_always_the_first_and_the_last(
    rule: str, every: int, measured: list[int], tiny_bert: Path
) -> None:
    """What is measured is what an evaluation in every round would have found, and what is trained is the same."""
    run, whole = watched(tiny_bert, rule, every=every, models="both"), watched(tiny_bert, rule, models="both")
    for mine, other in zip(run.results, whole.results, strict=True):
        if mine.record.round in measured:
            assert (mine.record.metrics, mine.scores) == (other.record.metrics, other.scores)
        else:
            assert (dict(mine.record.metrics), mine.scores) == ({}, ())
            assert mine.record.value("test_accuracy") is None
        assert mine.record.train_loss == other.record.train_loss
        assert same_bits(mine.state.adapter, other.state.adapter)


def test_the_defaults() -> None:
    assert EvaluationSettings() == EvaluationSettings(models="auto", every=1, device_test_share=0.0)
