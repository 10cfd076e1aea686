"""What devices keep between their rounds: read by round, forgotten when no run can go back to it, whole or not there."""

import gc
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from fedfit.core.update import Memory
from fedfit.errors import RunFolderError
from fedfit.tracking.memories import DeviceMemories

ODD = {
    "layer.0.query B": torch.tensor([[-0.0, 1e-45, 3.4e38, 1 / 3]]),
    "double": torch.arange(6, dtype=torch.float64).reshape(2, 3) / 7,
    "half": torch.tensor([1.5, -2.0], dtype=torch.float16),
    "counts": torch.tensor([3, 0, 2**60]),
    "small": torch.tensor([-7], dtype=torch.int32),
    "mask": torch.tensor([True, False]),
    "no rows": torch.zeros(0, 4),
    "no columns": torch.zeros(4, 0),
    "scalar": torch.tensor(0.1),
}
NUMBERS = {"version": 3, "third": 1 / 3, "tiny": 5e-324, "huge": 1.7e308, "negative": -2.0}


def of(number: float) -> Memory:
    return Memory({"x": torch.tensor([number])}, {"from": number})


def number_in(memory: Memory | None) -> float | None:
    assert memory is None or float(memory.tensors["x"]) == memory.numbers["from"]
    return None if memory is None else memory.numbers["from"]


@pytest.mark.parametrize("tensors", [ODD, {}], ids=["tensors", "none"])
@pytest.mark.parametrize("numbers", [NUMBERS, {}], ids=["numbers", "none"])
def test_everything_comes_back_to_the_bit(tensors: dict[str, torch.Tensor], numbers: dict[str, float], tmp_path: Path) -> None:
    DeviceMemories(tmp_path).write(3, 1, Memory(tensors, numbers))
    found = DeviceMemories(tmp_path).read(3, 2)
    assert found is not None
    assert found.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (found.tensors[name].dtype, found.tensors[name].shape) == (tensor.dtype, tensor.shape)
        assert found.tensors[name].numpy().tobytes() == tensor.numpy().tobytes()
    assert found.numbers == numbers
    assert [type(value) for value in found.numbers.values()] == [type(value) for value in numbers.values()]


def test_numbers_that_are_not_finite_and_tensors_that_are_views(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    DeviceMemories(tmp_path).write(0, 1, Memory({"turned": whole.T}, {"up": math.inf, "none": math.nan}))
    found = DeviceMemories(tmp_path).read(0, 2)
    assert found is not None
    assert torch.equal(found.tensors["turned"], whole.T)
    assert found.numbers["up"] == math.inf
    assert math.isnan(found.numbers["none"])


def test_what_is_read_does_not_change_with_what_is_written_later(tmp_path: Path) -> None:
    """A tensor must not be a window on its file."""
    memories = DeviceMemories(tmp_path)
    memories.write(0, 1, of(1))
    found = memories.read(0, 2)
    memories.write(0, 1, of(7))
    assert number_in(found) == 1
    assert number_in(memories.read(0, 2)) == 7, "a round that is run again overwrites"


def test_each_device_has_its_own_by_round(tmp_path: Path) -> None:
    memories = DeviceMemories(tmp_path)
    for device, number in ((0, 1), (0, 3), (1, 2), (1_000_000, 2)):
        memories.write(device, number, of(10 * device + number))
    assert [number_in(memories.read(0, before)) for before in range(6)] == [None, None, 1, 1, 3, 3]
    assert [memories.last_round(0, before) for before in range(6)] == [None, None, 1, 1, 3, 3]
    assert [number_in(memories.read(1, before)) for before in range(5)] == [None, None, None, 12, 12]
    assert number_in(memories.read(1_000_000, 9)) == 10_000_002
    assert memories.read(2, 9) is None


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(1, 12)))
def test_a_run_may_go_back_two_rounds(tmp_path_factory: pytest.TempPathFactory, rounds: set[int]) -> None:
    """After round n the checkpoints of n and n − 1 are there, and while it runs those of n − 1 and n − 2. So a run that goes
    on with round n − 1 or later must find what was kept before it; at most the files for that are there."""
    folder = tmp_path_factory.mktemp("memories")
    memories = DeviceMemories(folder)
    for number in range(1, 13):
        if number in rounds:
            memories.write(0, number, of(number))
            kept = sorted(int(path.stem.removeprefix("round-")) for path in folder.glob("device-000000/*"))
            assert len([other for other in kept if other <= number - 2]) <= 1
        for before in range(max(1, number - 1), number + 2):
            expected = max((other for other in rounds if other < before and other <= number), default=None)
            assert number_in(memories.read(0, before)) == expected


def test_rounds_that_never_counted_are_overwritten_not_read(tmp_path: Path) -> None:
    """Killed in round 5, gone on from the checkpoint of round 3: rounds 4 and 5 are there and are not those of this run."""
    memories = DeviceMemories(tmp_path)
    for number in range(1, 6):
        memories.write(0, number, of(number))
    assert number_in(memories.read(0, 4)) == 3
    memories.write(0, 4, of(40))
    assert number_in(memories.read(0, 5)) == 40
    assert number_in(memories.read(0, 6)) == 5
    memories.write(0, 5, of(50))
    assert number_in(memories.read(0, 6)) == 50


def test_a_torn_file_is_not_read(tmp_path: Path) -> None:
    memories = DeviceMemories(tmp_path)
    memories.write(0, 1, of(1))
    (file,) = (tmp_path / "device-000000").iterdir()
    for name in (".round-000002.safetensors.77.part", "round-000002.safetensors.part", "round-2.tmp", "round-.safetensors"):
        (file.parent / name).write_bytes(file.read_bytes()[:20])
    assert memories.last_round(0, 9) == 1
    assert number_in(memories.read(0, 9)) == 1


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memories = DeviceMemories(tmp_path)
    memories.write(0, 1, of(1))

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        for number in (1, 2):
            with pytest.raises(OSError, match="no space"):
                memories.write(0, number, of(9))
    assert number_in(memories.read(0, 9)) == 1
    assert [path.name for path in (tmp_path / "device-000000").iterdir()] == ["round-000001.safetensors"]


def test_without_a_folder_it_is_temporary_and_goes_with_the_object() -> None:
    memories, other = DeviceMemories(), DeviceMemories()
    memories.write(0, 1, of(1))
    folder = memories._folder
    assert number_in(memories.read(0, 2)) == 1
    assert other.read(0, 2) is None, "each has a folder of its own"
    assert [path.name for path in folder.iterdir()] == ["device-000000"]
    del memories
    gc.collect()
    assert not folder.exists()
    assert other._folder.exists()


def test_a_given_folder_stays(tmp_path: Path) -> None:
    memories = DeviceMemories(tmp_path / "devices")
    assert not (tmp_path / "devices").exists(), "nothing is made before something is kept"
    assert memories.read(0, 5) is None
    memories.write(0, 1, of(1))
    del memories
    gc.collect()
    assert number_in(DeviceMemories(tmp_path / "devices").read(0, 2)) == 1


# --- lost or damaged


def _flip(raw: bytes) -> bytes:
    return raw[:-1] + bytes([raw[-1] ^ 1])


def _numbers(raw: bytes) -> bytes:
    return raw.replace(b'from\\": 1', b'from\\": 2')


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda raw: raw[:-3],
    "cut in its head": lambda raw: raw[:20],
    "empty": lambda raw: b"",
    "a flipped bit": _flip,
    "another number": _numbers,
    "no text": lambda raw: b"\xff" * 100,
    "no checksum": lambda raw: save({"x": torch.tensor([1.0])}, {"numbers": "{}"}),
    "no numbers": lambda raw: save({"x": torch.tensor([1.0])}),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("fresh", [False, True])
def test_a_damaged_file_is_named(damage: str, fresh: bool, tmp_path: Path) -> None:
    """Whether the process wrote it itself or finds it."""
    memories = DeviceMemories(tmp_path / "devices")
    memories.write(7, 1, of(1))
    file = tmp_path / "devices" / "device-000007" / "round-000001.safetensors"
    assert DAMAGES[damage](file.read_bytes()) != file.read_bytes()
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    marks = memories.marks()
    memories = DeviceMemories(tmp_path / "devices") if fresh else memories
    with pytest.raises(RunFolderError, match=r"device-000007/round-000001.safetensors is damaged \(.*\); restore it, or start"):
        memories.read(7, 2)
    (said,) = memories.lost(marks).values()
    assert said.startswith("devices/device-000007/round-000001.safetensors is damaged")


def test_what_is_missing_is_named_while_the_run_goes_on(tmp_path: Path) -> None:
    """Not what the device kept before that, and not nothing."""
    memories = DeviceMemories(tmp_path)
    memories.write(0, 1, of(1))
    memories.write(0, 2, of(2))
    (tmp_path / "device-000000" / "round-000002.safetensors").unlink()
    assert number_in(memories.read(0, 2)) == 1
    with pytest.raises(RunFolderError, match=r"device-000000/round-000002.safetensors is missing; restore it"):
        memories.read(0, 3)


def test_marks_are_the_newest_of_each_device_and_need_no_file(tmp_path: Path) -> None:
    memories = DeviceMemories(tmp_path)
    assert memories.marks() == {}
    for device, number in ((0, 1), (1, 1), (0, 2), (0, 3), (0, 4)):
        memories.write(device, number, of(number))
    shutil.rmtree(tmp_path / "device-000000")
    marks = memories.marks()
    assert {device: mark.position for device, mark in marks.items()} == {0: 4, 1: 1}
    assert marks[0].checksum != marks[1].checksum
    (said,) = memories.lost(marks).values()
    assert said.endswith("device-000000/round-000004.safetensors is missing")


def test_a_memory_of_another_run_is_not_taken(tmp_path: Path) -> None:
    """Whole by its own checksum, and yet not what was written here."""
    mine, other = DeviceMemories(tmp_path / "mine"), DeviceMemories(tmp_path / "other")
    mine.write(0, 1, of(1))
    other.write(0, 1, of(2))
    name = Path("device-000000") / "round-000001.safetensors"
    shutil.copy(tmp_path / "other" / name, tmp_path / "mine" / name)
    resumed = DeviceMemories(tmp_path / "mine")
    (said,) = resumed.lost(mine.marks()).values()
    assert "another run" in said
    resumed.rewind(mine.marks())
    with pytest.raises(RunFolderError, match="another run"):
        resumed.read(0, 2)


@pytest.mark.parametrize("tensors", [ODD, {}], ids=["tensors", "none"])
def test_what_is_whole_is_not_lost(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    memories = DeviceMemories(tmp_path)
    memories.write(3, 1, Memory(tensors | {"bf16": torch.ones(3, dtype=torch.bfloat16)}, NUMBERS))
    assert DeviceMemories(tmp_path).lost(memories.marks()) == {}


def test_the_checksum_tells_names_types_and_shapes_apart(tmp_path: Path) -> None:
    """The same bytes each time."""
    memories = DeviceMemories(tmp_path)
    zeros = torch.zeros(4)
    kinds = [{"a": zeros}, {"b": zeros}, {"a": zeros.reshape(2, 2)}, {"a": zeros.view(torch.int32)}]
    for device, tensors in enumerate(kinds):
        memories.write(device, 1, Memory(tensors))
    assert len({mark.checksum for mark in memories.marks().values()}) == len(kinds)


def test_rewind_removes_later_rounds_and_devices_that_had_nothing_yet(tmp_path: Path) -> None:
    memories = DeviceMemories(tmp_path)
    memories.write(0, 1, of(1))
    marks = memories.marks()
    memories.write(0, 2, of(2))
    memories.write(5, 2, of(2))
    (tmp_path / "notes").mkdir()
    resumed = DeviceMemories(tmp_path)
    resumed.rewind(marks)
    assert resumed.marks() == marks
    assert number_in(resumed.read(0, 99)) == 1
    assert resumed.read(5, 99) is None
    assert (tmp_path / "notes").is_dir()
