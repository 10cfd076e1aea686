import gc
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedfit.core.update import Update
from fedfit.experiment.build import Experiment, assemble
from fedfit.records import RoundResult
from fedfit.rounds.trainer import Trainer
from tests.builders import link_of, packed, random_samples, same_bits, tiny_experiment, tiny_recipe


def lines(results: list[RoundResult]) -> list[dict[str, Any]]:
    """Every line of ``rounds.jsonl`` and ``devices.jsonl``, but for the seconds."""
    records = [result.record.to_json() for result in results]
    records += [device.to_json() for result in results for device in result.devices]
    return [{name: value for name, value in record.items() if name not in ("seconds", "server_seconds")} for record in records]


def federation(folder: Path, cache: Path | None, **sections: Any) -> Experiment:
    return tiny_experiment(tiny_recipe(folder, **{"federation": {"rounds": 3, "devices_per_round": 2}, **sections}), cache)


def whole_run(folder: Path, cache: Path | None, **sections: Any) -> tuple[list[dict[str, Any]], Update]:
    results = list(federation(folder, cache, **sections).run())
    return lines(results), results[-1].state.adapter


NOISY = {"training": {"dropout": True}, "adapter": {"dropout": 0.2}}


@pytest.mark.parametrize("noise", [{}, NOISY], ids=["plain", "dropout"])
def test_a_run_repeats_to_the_bit_whatever_is_cached(
    noise: dict[str, Any], tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    """Cold, warm, without a cache, and with one that a run on other samples has half filled."""
    for family, folder in tiny_models.items():
        expected, adapter = whole_run(folder, tmp_path / family, **noise)
        assert len(expected) == 4 + 3 * 2
        half = tmp_path / f"{family}-half"
        federation(folder, half).parts.trunk.prepare(random_samples(48, seed=1), range(0, 48, 3))
        for cache in (tmp_path / family, None, half):
            again, same = whole_run(folder, cache, **noise)
            assert again == expected
            assert same_bits(same, adapter)
    assert len(list(tmp_path.glob("*/*/*.data"))) > 0


def test_a_run_repeats_on_the_real_minilm(tmp_path: Path) -> None:
    sections = {"adapter": {"layers": "last:1"}, "federation": {"rounds": 1}}
    expected, adapter = whole_run(Path("minilm"), tmp_path, **sections)
    for cache in (tmp_path, None):
        again, same = whole_run(Path("minilm"), cache, **sections)
        assert again == expected
        assert same_bits(same, adapter)


def test_another_seed_is_another_run(tiny_bert: Path) -> None:
    assert whole_run(tiny_bert, None, seed=0)[0] != whole_run(tiny_bert, None, seed=1)[0]


def test_a_run_learns(tiny_bert: Path) -> None:
    """Judged on the training set itself: the random encoder tells these random texts apart, and not much beyond."""
    sections = {"federation": {"rounds": 5, "devices": 3, "devices_per_round": 3}, "training": {"local_epochs": 3}}
    parts = tiny_experiment(tiny_recipe(tiny_bert, **sections), None).parts
    made = assemble(replace(parts, sets={"test": parts.train}))
    rounds = [result.record for result in made.run()]
    losses, accuracies = ([record.value(name) or 0 for record in rounds] for name in ("test_loss", "test_accuracy"))
    assert 0 < losses[-1] < 0.8 * losses[0]
    assert accuracies[-1] > accuracies[0]
    assert (rounds[-1].train_loss or 9) < 0.8 * (rounds[1].train_loss or 0)


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_run_goes_on_from_any_round_to_the_same_end(stop_after: int, tiny_bert: Path) -> None:
    noise: dict[str, Any] = NOISY
    whole = list(federation(tiny_bert, None, **noise).run())
    first = list(islice(federation(tiny_bert, None, **noise).run(), stop_after))
    rest = list(federation(tiny_bert, None, **noise).run(last=first[-1]))
    assert lines(first + rest) == lines(whole)
    assert same_bits(rest[-1].state.adapter, whole[-1].state.adapter)


def test_bytes_are_those_of_the_packets(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = federation(tiny_bert, None)
    plain = made.trainer.train
    sent = []

    def train(*arguments: Any) -> Update:
        update = plain(*arguments)
        sent.append(packed(update).size_bytes)
        return update

    monkeypatch.setattr(made.trainer, "train", train)
    results = list(made.run())
    assert [device.uplink_bytes for result in results for device in result.devices] == sent
    states = [result.state for result in results[:-1]]
    down = [2 * packed(state.adapter).size_bytes for state in states]
    assert [result.record.downlink_bytes for result in results[1:]] == down
    assert [result.record.uplink_bytes for result in results[1:]] == [sum(sent[:2]), sum(sent[2:4]), sum(sent[4:])]


def test_devices_without_samples_are_never_chosen(tiny_bert: Path) -> None:
    recipe = tiny_recipe(tiny_bert, federation={"devices": 4, "devices_per_round": 2, "rounds": 4})
    empty = np.empty(0, dtype=np.int64)
    made = tiny_experiment(recipe, None, parts=[empty, np.arange(9), empty, np.arange(9, 20)])
    devices = [device.device for result in made.run() for device in result.devices]
    assert devices == [1, 3] * 4


# Memory


def tensor_bytes() -> int:
    """Of every plain tensor that Python holds; views count once. (Weights packed for the CPU's kernels have no storage.)"""
    gc.collect()
    tensors: Iterator[torch.Tensor] = (thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter))
    plain = (tensor.untyped_storage() for tensor in tensors if not tensor.is_mkldnn)
    return sum({storage.data_ptr(): storage.nbytes() for storage in plain}.values())


def peak_memory(folder: Path, devices: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[int]]:
    """Peak of what Python and numpy hold of a federation and two rounds, and the tensors' bytes whenever a device starts."""
    recipe = tiny_recipe(folder, federation={"devices": devices, "devices_per_round": 10, "rounds": 2})
    model_and_data = tiny_experiment(recipe, None).parts
    census: list[int] = []
    plain = Trainer.train

    def train(self: Trainer, *arguments: Any) -> Update:
        if len(census) % 10 in (1, 9) or not census:  # the second and the last device of a round; taking it is slow
            census.append(tensor_bytes())
        else:
            census.append(census[-1])
        return plain(self, *arguments)

    gc.collect()
    tracemalloc.start()
    try:
        held = [np.array([device % 48, (device * 7 + 1) % 48]) for device in range(devices)]
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "train", train)
            assert len(list(assemble(replace(model_and_data, held=held)).run())) == 3
        return tracemalloc.get_traced_memory()[1], census
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_number_of_devices(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 devices cost their index arrays, a number of samples and a number to be drawn by, and nothing else.

    A device's index array is 112 bytes of numpy object, 16 of indices here, and 8 in the list: 136. Its number of samples
    is 8 bytes in a list; its own number as one of those to draw from 8 in a list, 32 as a Python int, and 8 each in the
    arrays of the draw and its permutation: 64. That is 200; a quarter more for what lists reserve in growing is 250. The
    least that could be kept by mistake is an update, of 2 modules · 2 layers · 2 · 32 · 2 numbers and a head: 2.4 kB.
    """
    peak_memory(tiny_bert, 10, monkeypatch)  # what is made once, at first use, is not the devices'
    few, few_tensors = peak_memory(tiny_bert, 10, monkeypatch)
    many, many_tensors = peak_memory(tiny_bert, 10_000, monkeypatch)
    assert (many - few) / 10_000 < 250
    assert many_tensors == few_tensors


def test_memory_does_not_grow_in_a_round_with_the_devices_before(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates are folded in as they come: when the tenth device starts, there is what there was when the second did."""
    _, tensors = peak_memory(tiny_bert, 10, monkeypatch)
    assert len(tensors) == 20
    assert tensors[9] == tensors[1]
    assert tensors[19] == tensors[11]


def test_the_link_keeps_nothing_of_a_reply(tiny_bert: Path) -> None:
    made = federation(tiny_bert, None)
    link = link_of(made)
    before = set(vars(link))
    made.federation = replace(made.federation, link=link)
    list(made.run())
    assert set(vars(link)) == before
