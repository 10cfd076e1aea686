from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedfit.models import cache_segment
from fedfit.models.families import FAMILIES
from fedfit.models.split import SplitModel
from fedfit.models.trunk import Trunk, equal_length_chunks, trunk_key
from fedfit.models.trunk_cache import TrunkCache
from tests.builders import HIDDEN, TAKES_SEGMENTS, random_samples, tiny_split, tiny_trunk

SAMPLES = random_samples(40, seed=3)
ROWS = np.array([5, 0, 17, 3])


def states(trunk: Trunk, rows: np.ndarray = ROWS) -> torch.Tensor:
    return trunk.batch(SAMPLES, rows).hidden


class Counting:
    """A split model that counts how often each sample goes through its trunk."""

    def __init__(self, split: SplitModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.samples: Counter[tuple[int, ...]] = Counter()
        plain = split.trunk

        def counted(ids: torch.Tensor, types: torch.Tensor | None) -> torch.Tensor:
            self.samples.update({tuple(row.tolist()) for row in ids})
            return plain(ids, types)

        monkeypatch.setattr(split, "trunk", counted)


@pytest.mark.parametrize("name", [*FAMILIES, "minilm"])
def test_states_are_the_same_bits_whatever_is_computed_with_them(
    name: str, tiny_models: dict[str, Path], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Alone, in a batch, in another order, from a cache filled at once, and from one filled in two halves."""
    split = tiny_split(tiny_models[name] if name in tiny_models else request.getfixturevalue("minilm"))
    every = np.arange(len(SAMPLES))
    plain = tiny_trunk(split, None)
    together = states(plain, every)
    for row in every:
        alone = states(plain, every[row : row + 1])[0]
        assert torch.equal(alone, together[row, : len(alone)])
    assert torch.equal(states(plain, every[::-1].copy()).flip(0), together)
    at_once, in_halves = tiny_trunk(split, tmp_path / "a"), tiny_trunk(split, tmp_path / "b")
    at_once.prepare(SAMPLES, every)
    in_halves.prepare(SAMPLES, every[::2])
    in_halves.prepare(SAMPLES, every)
    assert torch.equal(states(at_once, every), together)
    assert torch.equal(states(in_halves, every), together)


def test_a_batch_is_padded_with_zeros(tiny_bert: Path, tmp_path: Path) -> None:
    for trunk in (tiny_trunk(tiny_split(tiny_bert), None), tiny_trunk(tiny_split(tiny_bert), tmp_path)):
        trunk.prepare(SAMPLES, ROWS)
        batch = trunk.batch(SAMPLES, ROWS)
        hidden, lengths = batch.hidden, batch.lengths
        assert batch.segments is None
        assert lengths.tolist() == SAMPLES.lengths[ROWS].tolist()
        assert hidden.shape == (4, max(lengths.tolist()), HIDDEN)
        assert hidden.dtype == torch.float32
        for row, length in enumerate(lengths.tolist()):
            assert not hidden[row, length:].any()
            assert bool(hidden[row, :length].any(dim=1).all())


def test_a_sample_may_come_twice_in_a_batch(tiny_bert: Path) -> None:
    hidden = states(tiny_trunk(tiny_split(tiny_bert), None), np.array([4, 4, 1]))
    assert torch.equal(hidden[0], hidden[1])
    assert hidden[0].any()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_cold_and_warm_are_the_same_bits_and_float16_is_rounded_once(dtype: str, tiny_bert: Path, tmp_path: Path) -> None:
    split = tiny_split(tiny_bert)
    cold = tiny_trunk(split, tmp_path, dtype=dtype)
    before = states(cold)  # nothing is in the cache yet
    cold.prepare(SAMPLES, ROWS)
    warm = tiny_trunk(split, tmp_path, dtype=dtype)
    assert torch.equal(states(cold), before)
    assert torch.equal(states(warm), before)
    exact = states(tiny_trunk(split, None))
    expected = exact if dtype == "float32" else exact.half().float()
    assert torch.equal(before, expected)


def test_each_sample_is_computed_once_in_all_runs(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = tiny_split(tiny_bert)
    counting = Counting(split, monkeypatch)
    for _ in range(2):
        trunk = tiny_trunk(split, tmp_path)
        for _ in range(3):
            trunk.prepare(SAMPLES, range(20))
            states(trunk)
    assert set(counting.samples.values()) == {1}
    assert len(counting.samples) == 20


def test_a_full_disk_costs_time_and_nothing_else(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = tiny_split(tiny_bert)
    expected = states(tiny_trunk(split, None))

    def full(file: object, payload: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_segment, "write_all", full)
    trunk = tiny_trunk(split, tmp_path)
    trunk.prepare(SAMPLES, range(40))
    counting = Counting(split, monkeypatch)
    trunk.prepare(SAMPLES, range(40))  # would be thrown away
    assert not counting.samples
    assert torch.equal(states(trunk), expected)


def test_a_damaged_cache_gives_the_right_states_and_is_filled_again(tiny_bert: Path, tmp_path: Path) -> None:
    split = tiny_split(tiny_bert)
    first = tiny_trunk(split, tmp_path)
    first.prepare(SAMPLES, ROWS)
    expected = states(first)
    (data,) = tmp_path.rglob("*.data")
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 0x40
    data.write_bytes(content)
    assert torch.equal(states(tiny_trunk(split, tmp_path)), expected)
    again = tiny_trunk(split, tmp_path)
    again.prepare(SAMPLES, ROWS)
    assert torch.equal(states(again), expected)
    assert [path != data for path in tmp_path.rglob("*.data")] == [True]


@pytest.mark.parametrize("layers", ["all", "first:2"])
def test_without_a_trunk_there_is_no_cache(layers: str, tiny_bert: Path, tmp_path: Path) -> None:
    trunk = tiny_trunk(tiny_split(tiny_bert, layers=layers), tmp_path / "cache", dtype="float16")
    trunk.prepare(SAMPLES, ROWS)
    exact = states(tiny_trunk(tiny_split(tiny_bert, layers=layers), None))
    assert torch.equal(states(trunk), exact)  # nothing is stored, so nothing is rounded
    assert not (tmp_path / "cache").exists()


def test_a_disabled_cache_leaves_no_folder(tiny_bert: Path, tmp_path: Path) -> None:
    from fedfit.models.trunk import open_trunk
    from fedfit.settings import TrunkCacheSettings

    open_trunk(tiny_split(tiny_bert), TrunkCacheSettings(enabled=False), tmp_path / "cache").prepare(SAMPLES, ROWS)
    assert not (tmp_path / "cache").exists()


# The key


def test_the_key_is_that_of_the_weights_below_the_cut_and_of_how_they_are_used(tiny_models: dict[str, Path]) -> None:
    bert = tiny_models["bert"]
    plain = trunk_key(tiny_split(bert, layers="last:2"), "float32")
    assert len(bytes.fromhex(plain)) == 16
    others = {
        "cut": trunk_key(tiny_split(bert, layers="last:1"), "float32"),
        "stored type": trunk_key(tiny_split(bert), "float16"),
        "precision": trunk_key(tiny_split(bert), "float32", "bf16"),
        "model": trunk_key(tiny_split(tiny_models["roberta"]), "float32"),
    }
    for name in (
        "embeddings.word_embeddings.weight",
        "encoder.layer.0.attention.self.query.bias",
        "encoder.layer.1.output.dense.weight",
    ):
        changed = tiny_split(bert)
        with torch.no_grad():
            changed.base.get_parameter(f"bert.{name}").view(-1)[-1] += 1e-3
        others[name] = trunk_key(changed, "float32")
    for attribute, value in {"layer_norm_eps": 1e-5, "hidden_act": "relu", "num_attention_heads": 4}.items():
        changed = tiny_split(bert)
        setattr(changed.config, attribute, value)
        others[attribute] = trunk_key(changed, "float32")
    assert len({plain, *others.values()}) == 1 + len(others)


def test_the_key_depends_on_the_version_of_torch_whose_kernels_may_round_otherwise(
    tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = tiny_split(tiny_bert)
    plain = trunk_key(split, "float32")
    monkeypatch.setattr(torch, "__version__", "0.0.1+other")
    assert trunk_key(split, "float32") != plain


@pytest.mark.parametrize("family", FAMILIES)
def test_the_key_depends_on_every_tensor_that_the_trunk_reads_and_on_no_other(
    family: str, tiny_models: dict[str, Path]
) -> None:
    """A tensor belongs to the key if the trunk's output changes with it; found by trying each."""
    split = tiny_split(tiny_models[family], layers="last:2")
    ids = torch.arange(5, 60).view(1, -1)
    before, key = split.trunk(ids, torch.zeros_like(ids) if family in TAKES_SEGMENTS else None), trunk_key(split, "float32")
    for name, parameter in split.base.named_parameters():
        kept = parameter.data.clone()
        parameter.data.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        after = split.trunk(ids, torch.zeros_like(ids) if family in TAKES_SEGMENTS else None)
        assert (trunk_key(split, "float32") != key) == (not torch.equal(after, before)), name
        parameter.data.copy_(kept)
    assert trunk_key(split, "float32") == key


@pytest.mark.parametrize(
    "same", [{"seed": 5}, {"labels": 7}, {"rank": 1}, {"layers": (2,)}, {"targets": ("key",)}, {"head": "freeze"}], ids=str
)
def test_the_key_does_not_depend_on_what_lies_above_the_cut(same: dict[str, Any], tiny_bert: Path) -> None:
    assert trunk_key(tiny_split(tiny_bert, **same), "float32") == trunk_key(tiny_split(tiny_bert), "float32")


def test_two_models_share_a_folder_and_not_their_states(tiny_bert: Path, tmp_path: Path) -> None:
    for layers in ("last:2", "last:1"):
        trunk = tiny_trunk(tiny_split(tiny_bert, layers=layers), tmp_path)
        trunk.prepare(SAMPLES, ROWS)
        assert torch.equal(states(trunk), states(tiny_trunk(tiny_split(tiny_bert, layers=layers), None)))
    assert len(list(tmp_path.iterdir())) == 2


def test_chunks_are_of_one_length_and_bounded() -> None:
    lengths = np.array([3, 5, 3, 3, 9, 5, 3])
    # Of 9 tokens none is small enough and one is taken; 2 · 5 ≤ 10; three of 3 are 9 ≤ 10, four were 12.
    assert list(equal_length_chunks(lengths, list(range(7)), 10)) == [[4], [1, 5], [0, 2, 3], [6]]
    assert list(equal_length_chunks(lengths, [], 10)) == []
    assert list(equal_length_chunks(lengths, [4], 2)) == [[4]]


def test_the_cache_is_a_trunk_cache_of_the_models_key(tiny_bert: Path, tmp_path: Path) -> None:
    split = tiny_split(tiny_bert)
    tiny_trunk(split, tmp_path).prepare(SAMPLES, ROWS)
    cache = TrunkCache(tmp_path, trunk_key(split, "float32"), HIDDEN, "float32", 10**9)
    assert all(SAMPLES.hashes[row] in cache for row in ROWS)
