"""The checkpoint of a rule that keeps tensors and numbers beside the global adapter."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import xxhash

from fedfit.core.update import ServerState
from fedfit.tracking.checkpoint import Checkpoints
from tests.builders import random_update, same_bits
from tests.tracking.results import result

ODD = torch.tensor([[float("nan"), -0.0, 1e-45, float("inf"), 3.4e38, 1 / 3]])
TENSORS = {
    "momentum lora_A.layer.0.query": ODD,
    "second moment head.classifier.bias": torch.arange(6, dtype=torch.float64).reshape(2, 3) / 7,
    "counts": torch.tensor([3, 0, 2**60]),
    "mask": torch.tensor([True, False]),
    "empty": torch.zeros(0, 4),
    "scalar": torch.tensor(0.1),
}
NUMBERS = {"steps": 3, "beta power": 0.1 + 0.2, "tiny": 5e-324, "huge": 1.7e308, "negative": -2.0}


def there_and_back(folder: Path, state: ServerState) -> ServerState:
    Checkpoints(folder).save(replace(result(4), state=state))
    found = Checkpoints(folder).latest()
    assert found is not None
    assert found.record == result(4).record
    return found.state


def bits(tensor: torch.Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    return tensor.dtype, tuple(tensor.shape), tensor.contiguous().numpy().tobytes()


@pytest.mark.parametrize(("tensors", "numbers"), [(TENSORS, NUMBERS), (TENSORS, {}), ({}, NUMBERS), ({}, {})], ids=str)
def test_everything_comes_back_to_the_bit(tensors: dict[str, torch.Tensor], numbers: dict[str, float], tmp_path: Path) -> None:
    found = there_and_back(tmp_path, ServerState(random_update(5), tensors, numbers))
    assert same_bits(found.adapter, random_update(5))
    assert {name: bits(tensor) for name, tensor in found.tensors.items()} == {n: bits(t) for n, t in tensors.items()}
    assert found.numbers == numbers
    assert [type(value) for value in found.numbers.values()] == [type(value) for value in numbers.values()]


def test_tensors_that_are_views_come_back_as_they_look(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    found = there_and_back(tmp_path, ServerState(random_update(5), {"turned": whole.T.contiguous(), "row": whole[1].clone()}))
    assert torch.equal(found.tensors["turned"], whole.T)
    assert torch.equal(found.tensors["row"], whole[1])


def test_numbers_that_are_not_finite_come_back(tmp_path: Path) -> None:
    found = there_and_back(tmp_path, ServerState(random_update(5), {}, {"up": math.inf, "none": math.nan}))
    assert found.numbers["up"] == math.inf
    assert math.isnan(found.numbers["none"])


@pytest.mark.parametrize("place", [-1, -40, 0])
def test_damage_to_the_tensors_gives_way_to_the_round_before(place: int, tmp_path: Path) -> None:
    """The last bytes are those of the tensors beside the adapter; the checksum covers them too."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(result(3))
    checkpoints.save(replace(result(4), state=ServerState(random_update(5), TENSORS, NUMBERS)))
    newest = tmp_path / "round-000004.checkpoint"
    raw = bytearray(newest.read_bytes())
    raw[place] ^= 1
    newest.write_bytes(bytes(raw))
    found = checkpoints.latest()
    assert found is not None
    assert found.record == result(3).record
    assert same_bits(found.state.adapter, result(3).state.adapter)


def test_without_the_tensors_it_is_not_whole(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(replace(result(4), state=ServerState(random_update(5), TENSORS, NUMBERS)))
    newest = tmp_path / "round-000004.checkpoint"
    newest.write_bytes(newest.read_bytes()[:-200])
    assert Checkpoints(tmp_path).latest() is None


def test_tensors_cut_under_a_checksum_that_fits(tmp_path: Path) -> None:
    """Damage made on purpose: the tensors beside the adapter are in safetensors' words no safetensors."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(result(3))
    checkpoints.save(replace(result(4), state=ServerState(random_update(5), TENSORS, NUMBERS)))
    newest = tmp_path / "round-000004.checkpoint"
    body = newest.read_bytes().partition(b"\n")[2][:-10]
    newest.write_bytes(xxhash.xxh3_64_hexdigest(body).encode() + b"\n" + body)
    found = checkpoints.latest()
    assert found is not None
    assert found.record == result(3).record
