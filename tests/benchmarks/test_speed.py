"""The benchmark's own promise: every contender does the same work, or nothing is timed."""

import json
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.gradients import GradientsDiffer, check_gradients
from benchmarks.hotspots import profile_warm_steps
from benchmarks.measure import Field, assemble, measure
from benchmarks.meters import StepClock, count_flops
from benchmarks.plain import Plain, trainable
from benchmarks.report import show, to_json
from benchmarks.split import named
from benchmarks.work import Case, Work, lay_out
from rich.console import Console

from benchmarks import work as benchmark_work
from tests.builders import CLASSES, random_samples

NAMES = ["plain", "plain + deep copy", "Trainer", "fedfit cold", "fedfit warm"]


@pytest.fixture(scope="module")
def case(tiny_bert: Path) -> Case:
    return Case("tiny", str(tiny_bert), steps=3, devices=2, device_samples=16, batch_size=4, max_tokens=12)


@pytest.fixture(scope="module")
def work(case: Case) -> Work:
    return lay_out(case, random_samples(case.devices * case.device_samples), CLASSES)


@pytest.fixture(scope="module")
def contenders(case: Case, work: Work, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    clock = StepClock(case.torch_device)
    # Rates and B as in a real run hide nothing here: the tiny model's weights are large.
    yield assemble(case, work, clock, tmp_path_factory.mktemp("benchmark"))
    clock.close()


def test_all_contenders_take_the_same_steps_over_the_same_samples(contenders: Field, case: Case) -> None:
    for contender in contenders.contenders:
        block = contender.run(0)
        assert (len(block.steps_s), block.samples) == (case.steps, case.steps * case.batch_size), contender.name
        assert min(block.steps_s) > 0
        assert block.setup_s > 0


def test_plain_copy_and_fedfit_end_with_the_same_weights(contenders: Field) -> None:
    """Same batches, same start, no dropout: then three steps of AdamW lead to the same place."""
    plain, copied, _, cold, warm = contenders.contenders
    assert isinstance(plain, Plain)
    assert isinstance(copied, Plain)
    ends = []
    for contender in (plain, copied, cold, warm):
        contender.run(1)
        update = contenders.runner.trained
        source = trainable(contender.trained) if isinstance(contender, Plain) else named(update)
        ends.append({name: tensor.detach().clone() for name, tensor in source.items()})
    start = named(contenders.initial)
    for other in ends[1:]:
        assert other.keys() == start.keys()
        for name, tensor in ends[0].items():
            moved = (tensor - start[name]).norm()
            assert moved > 0, name
            assert (other[name] - tensor).norm() < 1e-2 * moved, name


def test_gradients_agree_and_a_wrong_scale_is_refused(contenders: Field, case: Case, work: Work) -> None:
    arguments = (work, contenders.model, contenders.plain, contenders.initial)
    assert check_gradients(case, *arguments) < 1e-5
    module = next(module for name, module in contenders.plain.named_modules() if name.endswith("3.attention.self.value"))
    module.scaling["default"] *= 1.01
    try:
        with pytest.raises(GradientsDiffer, match="differs by"):
            check_gradients(case, *arguments)
    finally:
        module.scaling["default"] /= 1.01


def test_a_whole_measurement_is_reported(case: Case, work: Work) -> None:
    result = measure(replace(case, dropout=True), work, lambda text: None)
    assert list(result.tallies) == NAMES
    assert [len(tally.steps_ms) for tally in result.tallies.values()] == [case.devices * case.steps] * 5
    assert all(tally.flops > 0 for tally in result.tallies.values())
    plain, cold, warm = (result.tallies[name] for name in ("plain", "fedfit cold", "fedfit warm"))
    assert warm.flops < cold.flops < plain.flops
    assert work.real_tokens <= warm.tokens <= plain.tokens == case.batch_size * case.max_tokens
    assert result.ratios("plain") == [1.0, 1.0]
    assert len(result.reuse) == case.devices
    console = Console(file=StringIO(), width=200)
    show(result, console)
    printed = json.loads(json.dumps(to_json([result], "random")))
    assert list(printed["cases"][0]["contenders"]) == NAMES


def test_the_batches_drawn_are_as_long_as_those_of_an_epoch(case: Case) -> None:
    samples = random_samples(case.devices * 64, shortest=3, longest=60)
    few = lay_out(replace(case, device_samples=64, steps=3), samples, CLASSES)
    whole = lay_out(replace(case, device_samples=64, steps=16), samples, CLASSES)
    assert few.padded_tokens == pytest.approx(whole.padded_tokens, rel=0.05)


def test_operations_of_packed_and_plain_products_are_counted_alike() -> None:
    weight = torch.randn(8, 16)
    rows = torch.randn(5, 16)
    assert count_flops(lambda: rows @ weight.t()) == 2 * 5 * 16 * 8
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this torch has no packed products")
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, 5)
    count = count_flops(lambda: torch.ops.mkldnn._linear_pointwise(rows, packed, None, "none", [], ""))
    assert count == 2 * 5 * 16 * 8


def test_attention_is_counted() -> None:
    query = torch.randn(2, 4, 10, 16)
    count = count_flops(lambda: torch.nn.functional.scaled_dot_product_attention(query, query, query))
    assert count == 2 * (2 * 2 * 4 * 10 * 10 * 16)


def test_the_profile_names_operators(case: Case, work: Work) -> None:
    text = profile_warm_steps(case, work, rows=5)
    assert "3 warm steps" in text
    assert "Self CPU" in text


def test_samples_of_one_device_are_its_own(work: Work) -> None:
    assert not np.intersect1d(work.parts[0], work.parts[1]).size
    for part, batches in zip(work.parts, work.batches, strict=True):
        assert np.isin(np.concatenate(batches), part).all()


def test_data_is_ag_news_only_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDFIT_DATA", str(tmp_path))
    assert benchmark_work.choose_data(None) == "pydocs"
    (tmp_path / "ag_news").mkdir()
    (tmp_path / "ag_news" / "train.csv").touch()
    assert benchmark_work.choose_data(None) == "ag_news"
    assert benchmark_work.choose_data("pydocs") == "pydocs"
