import errno
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedfit.models import cache_segment
from fedfit.models.trunk_cache import TrunkCache
from tests.models.cache_filler import HIDDEN, count_right, name_of, states_of

KEY, OTHER_KEY, THIRD_KEY = (f"{number:032x}" for number in (1, 2, 3))
HEADER = 16 + 16  # the magic line and the key's 16 bytes, in the data file and in the index
RECORD = 16 + 8 + 4 + 8 + 4  # sample, offset, tokens, checksum of the payload, checksum of the record
COUNT = 6


def open_cache(root: Path, key: str = KEY, max_bytes: int = 10**9, dtype: str = "float32") -> TrunkCache:
    return TrunkCache(root, key, HIDDEN, dtype, max_bytes)


def fill(root: Path, key: str = KEY, numbers: range = range(COUNT)) -> None:
    cache = open_cache(root, key)
    for number in numbers:
        cache.put(name_of(number), states_of(number))
    cache.close()


def files(root: Path, end: str) -> list[Path]:
    return sorted(root.rglob(f"*.{end}"))


def size_of(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def payload_bytes(number: int) -> int:
    return states_of(number).nbytes


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_was_put_comes_back_now_and_in_the_next_run(dtype: str, tmp_path: Path) -> None:
    cache = open_cache(tmp_path, dtype=dtype)
    for number in range(COUNT):
        cache.put(name_of(number), states_of(number))
    for reader in (cache, open_cache(tmp_path, dtype=dtype)):
        assert len(reader) == COUNT
        for number in range(COUNT):
            states = reader.get(name_of(number))
            assert states is not None
            assert states.dtype == np.dtype(dtype)
            np.testing.assert_array_equal(states, states_of(number).astype(dtype))
        assert reader.get(name_of(COUNT)) is None
        assert name_of(COUNT) not in reader


def test_float16_takes_half_the_space(tmp_path: Path) -> None:
    for dtype in ("float32", "float16"):
        open_cache(tmp_path / dtype, dtype=dtype).put(name_of(3), states_of(3))
    sizes = [files(tmp_path / dtype, "data")[0].stat().st_size - HEADER for dtype in ("float32", "float16")]
    assert sizes == [5 * HIDDEN * 4, 5 * HIDDEN * 2]  # sample 3 has five tokens


def test_a_second_put_of_a_sample_is_not_stored(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    cache.put(name_of(1), states_of(1))
    before = size_of(tmp_path)
    cache.put(name_of(1), states_of(2))
    assert size_of(tmp_path) == before == 2 * HEADER + RECORD + payload_bytes(1)


def test_keys_do_not_see_each_other(tmp_path: Path) -> None:
    fill(tmp_path)
    assert len(open_cache(tmp_path, OTHER_KEY)) == 0


# Damage


def flip_payload_byte(data: Path, index: Path) -> None:
    content = bytearray(data.read_bytes())
    content[HEADER + 10] ^= 1
    data.write_bytes(content)


def cut_data(data: Path, index: Path) -> None:
    os.truncate(data, data.stat().st_size - 1)


def empty_data(data: Path, index: Path) -> None:
    os.truncate(data, 0)


def flip_index_byte(data: Path, index: Path) -> None:
    content = bytearray(index.read_bytes())
    content[HEADER + RECORD + 20] ^= 1  # the second record's offset
    index.write_bytes(content)


def flip_sample_name(data: Path, index: Path) -> None:
    content = bytearray(index.read_bytes())
    content[HEADER + RECORD] ^= 1  # the second record's sample: the states themselves are sound
    index.write_bytes(content)


def cut_index_header(data: Path, index: Path) -> None:
    os.truncate(index, HEADER - 1)


def foreign_data_header(data: Path, index: Path) -> None:
    data.write_bytes(b"another program's" + data.read_bytes()[17:])


def key_of_another_model(data: Path, index: Path) -> None:
    for path in (data, index):
        path.write_bytes(path.read_bytes().replace(bytes.fromhex(KEY), bytes.fromhex(OTHER_KEY)))


DAMAGES = [
    flip_payload_byte, cut_data, empty_data, flip_index_byte, flip_sample_name, cut_index_header, foreign_data_header,
    key_of_another_model,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed_and_what_was_damaged_is_rebuilt(
    damage: Callable[[Path, Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path)
    (data,), (index,) = files(tmp_path, "data"), files(tmp_path, "index")
    damage(data, index)
    with caplog.at_level(logging.WARNING):
        cache = open_cache(tmp_path)
        right = count_right(cache, range(COUNT))
    wrong = [n for n in range(COUNT) if (s := cache.get(name_of(n))) is not None and not np.array_equal(s, states_of(n))]
    assert wrong == []
    assert right == 0
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert data.name in caplog.text
    assert not data.exists()
    assert not index.exists()
    for number in range(COUNT):
        cache.put(name_of(number), states_of(number))
    assert count_right(cache, range(COUNT)) == COUNT
    assert count_right(open_cache(tmp_path), range(COUNT)) == COUNT


def test_membership_alone_notices_a_damaged_payload(tmp_path: Path) -> None:
    fill(tmp_path)
    flip_payload_byte(files(tmp_path, "data")[0], files(tmp_path, "index")[0])
    assert name_of(0) not in open_cache(tmp_path)


def test_damage_to_one_segment_leaves_the_others(tmp_path: Path) -> None:
    fill(tmp_path, numbers=range(3))
    fill(tmp_path, numbers=range(3, COUNT))
    cut_data(files(tmp_path, "data")[0], files(tmp_path, "index")[0])
    assert len(open_cache(tmp_path)) == 3


def test_a_torn_last_record_costs_that_sample_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """So it looks when a process is killed while it writes a record; nothing is wrong then."""
    fill(tmp_path)
    index = files(tmp_path, "index")[0]
    os.truncate(index, index.stat().st_size - RECORD // 2)
    cache = open_cache(tmp_path)
    assert count_right(cache, range(COUNT)) == COUNT - 1
    assert cache.get(name_of(COUNT - 1)) is None
    assert caplog.records == []


def test_an_index_without_its_data_is_removed(tmp_path: Path) -> None:
    fill(tmp_path)
    files(tmp_path, "data")[0].unlink()
    assert len(open_cache(tmp_path)) == 0
    assert files(tmp_path, "index") == []


@pytest.mark.parametrize("mapped", [True, False])
def test_a_segment_that_another_run_deletes_meanwhile_is_rebuilt(mapped: bool, tmp_path: Path) -> None:
    fill(tmp_path)
    cache = open_cache(tmp_path)
    if mapped:
        assert count_right(cache, range(COUNT)) == COUNT
    for path in [*files(tmp_path, "data"), *files(tmp_path, "index")]:
        path.unlink()
    assert count_right(cache, range(COUNT)) == (COUNT if mapped else 0)  # a mapped file lives on
    for number in range(COUNT):
        cache.put(name_of(number), states_of(number))
    assert count_right(cache, range(COUNT)) == COUNT


def test_a_writer_whose_folder_another_run_deletes_goes_on(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    cache.put(name_of(0), states_of(0))
    open_cache(tmp_path, OTHER_KEY, max_bytes=1000)._make_room(900)  # evicts the first: 900 + its bytes are too many
    assert not (tmp_path / KEY).exists()
    for number in range(1, COUNT):
        cache.put(name_of(number), states_of(number))
    assert cache.get(name_of(0)) is None
    for number in range(1, COUNT):
        if (states := cache.get(name_of(number))) is not None:
            np.testing.assert_array_equal(states, states_of(number))
        cache.put(name_of(number), states_of(number))
    assert count_right(cache, range(1, COUNT)) == COUNT - 1
    assert count_right(open_cache(tmp_path), range(1, COUNT)) == COUNT - 1


# Several processes


def start_filler(root: Path, first: int, last: int, pause_s: float = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.models.cache_filler", str(root), KEY, str(first), str(last), str(pause_s)]
    repository = Path(__file__).parents[2]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=repository)


def test_two_processes_fill_one_cache_and_a_third_reads_all(tmp_path: Path) -> None:
    ranges = [(0, 60), (30, 90)]
    fillers = [start_filler(tmp_path, *bounds, pause_s=0.002) for bounds in ranges]
    for filler in fillers:
        out, err = filler.communicate(timeout=60)
        assert filler.returncode == 0, err
        assert err == ""
        assert out.splitlines()[-1] == "right: 60"
    assert count_right(open_cache(tmp_path), range(90)) == 90


def test_opening_while_another_run_has_just_opened_deletes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A reader comes after every single write of the other run's first ``put``."""
    seen = []
    write = cache_segment.write_all

    def then_read(*arguments: object) -> None:
        write(*arguments)  # type: ignore[arg-type]
        seen.append(len(open_cache(tmp_path)))

    monkeypatch.setattr(cache_segment, "write_all", then_read)
    cache = open_cache(tmp_path)
    cache.put(name_of(0), states_of(0))
    assert seen == [0, 0, 0, 1]  # two headers, the payload, the record
    assert count_right(cache, range(1)) == 1
    assert caplog.records == []


def test_a_killed_process_leaves_what_it_had_written(tmp_path: Path) -> None:
    filler = start_filler(tmp_path, 0, 10_000, pause_s=0.001)
    assert filler.stdout is not None
    for line in filler.stdout:
        if line.strip() == "20":
            break
    filler.send_signal(signal.SIGKILL)
    filler.communicate(timeout=30)
    assert filler.returncode == -signal.SIGKILL
    cache = open_cache(tmp_path)
    assert len(cache) >= 21
    assert count_right(cache, range(len(cache))) == len(cache)
    for number in range(len(cache), len(cache) + 5):
        cache.put(name_of(number), states_of(number))
    assert count_right(open_cache(tmp_path), range(len(cache))) == len(cache)


# Bound


def test_the_bound_is_kept_and_the_key_used_longest_ago_goes_first(tmp_path: Path) -> None:
    for age, key in ((200, OTHER_KEY), (100, THIRD_KEY)):
        fill(tmp_path, key)
        stamp = (tmp_path / key).stat().st_mtime - age
        os.utime(tmp_path / key, (stamp, stamp))
    one = size_of(tmp_path / OTHER_KEY)
    max_bytes = 2 * one + one // 2  # room for two of these keys and a half
    cache = open_cache(tmp_path, max_bytes=max_bytes)
    present = []
    for number in range(4 * COUNT):
        cache.put(name_of(number), states_of(number))
        assert size_of(tmp_path) <= max_bytes
        present.append(tuple((tmp_path / key).exists() for key in (OTHER_KEY, THIRD_KEY, KEY)))
    order = list(dict.fromkeys(present))
    assert order == [(True, True, True), (False, True, True), (False, False, True)]
    assert len(cache) > 2 * COUNT  # the whole room in the end
    assert count_right(cache, range(len(cache))) == len(cache)


def test_opening_a_key_is_using_it(tmp_path: Path) -> None:
    fill(tmp_path, OTHER_KEY)
    fill(tmp_path, THIRD_KEY)
    for key, age in ((OTHER_KEY, 200), (THIRD_KEY, 100)):
        stamp = (tmp_path / key).stat().st_mtime - age
        os.utime(tmp_path / key, (stamp, stamp))
    open_cache(tmp_path, OTHER_KEY)
    cache = open_cache(tmp_path, max_bytes=size_of(tmp_path))
    cache.put(name_of(0), states_of(0))
    assert (tmp_path / OTHER_KEY).exists()
    assert not (tmp_path / THIRD_KEY).exists()


@pytest.mark.parametrize(("room_for", "spare_bytes", "stored"), [(2, 0, 2), (2, -1, 1), (1, -1, 0)])
def test_a_full_cache_warns_once_and_keeps_its_own_key(
    room_for: int, spare_bytes: int, stored: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Room for so many samples and not a byte more: two headers, and for each a record and 2 tokens, or 3 for the second.
    max_bytes = 2 * HEADER + sum(RECORD + tokens * HIDDEN * 4 for tokens in (2, 3)[:room_for]) + spare_bytes
    cache = open_cache(tmp_path, max_bytes=max_bytes)
    for number in range(COUNT):
        cache.put(name_of(number), states_of(number))
    assert size_of(tmp_path) <= max_bytes
    assert not cache.writable
    assert count_right(cache, range(COUNT)) == stored
    assert len(caplog.records) == 1
    assert "trunk_cache.max_gigabytes" in caplog.text


def test_the_bound_counts_what_other_processes_add(tmp_path: Path) -> None:
    """Each of two writers sees its own bytes at once, and the other's after a hundredth of the bound at the latest."""
    max_bytes = 20_000
    writers = [open_cache(tmp_path, max_bytes=max_bytes) for _ in range(2)]
    for number in range(400):  # of some 152 bytes each: three times the bound
        writers[number % 2].put(name_of(number), states_of(number))
    assert max_bytes * 0.9 < size_of(tmp_path) <= max_bytes * 1.02


# Disk trouble


@pytest.mark.parametrize("writes_before", [0, 1, 2, 3, 6, 7])
def test_a_full_disk_is_a_warning_and_what_was_written_stays(
    writes_before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At any write: the headers are the first two, then payload and record in turn."""
    write, count = cache_segment.write_all, 0

    def until_full(file: object, payload: bytes) -> None:
        nonlocal count
        if count == writes_before:
            write(file, payload[: len(payload) // 2])  # type: ignore[arg-type]
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count += 1
        write(file, payload)  # type: ignore[arg-type]

    monkeypatch.setattr(cache_segment, "write_all", until_full)
    cache = open_cache(tmp_path)
    for number in range(COUNT):
        cache.put(name_of(number), states_of(number))
    stored = max(0, (writes_before - 2) // 2)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "No space left" in caplog.text
    assert not cache.writable
    assert count_right(cache, range(COUNT)) == stored
    caplog.clear()
    assert count_right(open_cache(tmp_path), range(COUNT)) == stored
    assert caplog.records == []


def test_a_file_size_limit_of_the_system_is_a_warning(tmp_path: Path) -> None:
    script = (
        "import resource, sys; from pathlib import Path; import tests.models.cache_filler as filler;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        f"filler.main({str(tmp_path)!r}, {KEY!r}, '0', '20')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True
    )
    assert "cannot be written" in done.stderr
    # 32 bytes of header, then 64, 96, 128, 160 by turns: 928 bytes after eight samples, 992 after nine.
    assert done.stdout.splitlines()[-1] == "right: 9"
    assert count_right(open_cache(tmp_path), range(20)) == 9


@pytest.mark.parametrize("where", ["root", "key"])
def test_a_file_where_the_folder_should_be_is_a_warning(where: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "cache"
    in_the_way = root if where == "root" else root / KEY
    in_the_way.parent.mkdir(exist_ok=True)
    in_the_way.write_text("in the way")
    cache = open_cache(root)
    cache.put(name_of(0), states_of(0))
    assert cache.get(name_of(0)) is None
    assert "cannot be opened" in caplog.text
    assert in_the_way.read_text() == "in the way"


def test_what_is_not_the_caches_is_never_deleted_to_make_room(tmp_path: Path) -> None:
    """``trunk_cache.folder`` may be a folder in which a user keeps other things."""
    own = tmp_path / "thesis" / "chapter.txt"
    own.parent.mkdir()
    own.write_bytes(b"x" * 5000)
    os.utime(own.parent, (0, 0))  # used longest ago
    fill(tmp_path, OTHER_KEY, range(1))
    fill_bytes = size_of(tmp_path / OTHER_KEY)
    cache = open_cache(tmp_path, max_bytes=fill_bytes + 100)  # room for one sample, once the other key is gone
    cache.put(name_of(0), states_of(0))
    assert len(cache) == 1
    assert not (tmp_path / OTHER_KEY).exists()
    assert own.read_bytes() == b"x" * 5000
