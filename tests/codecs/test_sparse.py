"""Groups that are mostly zeros: the places of their entries in the fewer bytes of two forms, and packets that hold them."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from fedfit.codecs.plain import PlainCodec
from fedfit.codecs.sparse import pack, positions_form, unpack
from fedfit.core.messages import Packet
from fedfit.core.update import HEAD, LORA_B, PAIRS, Update, grouped, named_tensors
from fedfit.errors import UpdateRefused
from tests.builders import packed, random_update, same_bits

CODEC = PlainCodec()


# Places


@pytest.mark.parametrize(("entries", "count"), [(1, 1), (8, 1), (9, 1), (32, 1), (33, 1), (100, 3), (100, 4), (1000, 30)])
def test_positions_travel_in_the_fewer_bytes(entries: int, count: int) -> None:
    """⌈n/8⌉ bytes of bits against 4k of indices: at k = 1 the switch lies between 32 entries and 33."""
    positions = torch.from_numpy(np.sort(np.random.default_rng(entries).permutation(entries)[:count]))
    packed = pack(positions, entries)
    assert (packed.shape[0], packed.dtype) == positions_form(entries, count)
    assert packed.numel() * packed.element_size() == min(math.ceil(entries / 8), 4 * count)
    assert torch.equal(unpack(packed, entries, count), positions)
    if packed.dtype == torch.uint8:
        bits = "".join(f"{byte:08b}" for byte in packed.tolist())
        assert [place for place, bit in enumerate(bits) if bit == "1"] == positions.tolist()


def ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize(
    "packed",
    [None, ints(1, 2), ints(1, 2, 3, 4), ints(3, 2, 5), ints(2, 2, 5), ints(-1, 2, 5), ints(1, 2, 100), ints(1, 2, 5).long()],
)
def test_indices_from_outside_are_held_to_what_they_may_be(packed: Tensor | None) -> None:
    assert unpack(ints(0, 2, 99), 100, 3).tolist() == [0, 2, 99]
    with pytest.raises(UpdateRefused, match="positions"):
        unpack(packed, 100, 3)


@pytest.mark.parametrize("packed", [[0b11100000], [0b11100000, 0, 0], [0b11110000, 0], [0b11000000, 0], [0b11000000, 1]])
def test_a_bitmap_from_outside_has_as_many_bits_as_are_due(packed: list[int]) -> None:
    """Of ten entries three: two bytes, whose last six bits are zero."""
    assert unpack(torch.tensor([0b10100000, 0b01000000], dtype=torch.uint8), 10, 3).tolist() == [0, 2, 9]
    with pytest.raises(UpdateRefused, match="positions"):
        unpack(torch.tensor(packed, dtype=torch.uint8), 10, 3)


# Packets


def cut(density: float, seed: int = 0) -> Update:
    """A random update whose pairs have kept a share of their numbers, marked as sparse."""
    update, generator = random_update(seed, weight=7.0), torch.Generator().manual_seed(seed)
    kept = {
        name: tensor * (torch.rand(tensor.shape, generator=generator) < density)
        for name, tensor in named_tensors(update.only(PAIRS)).items()
    }
    return replace(update.with_groups(grouped(kept)), sparse=PAIRS)


@pytest.mark.parametrize("density", [0.0, 0.02, 0.3, 1.0])
def test_there_and_back_to_the_bit(density: float) -> None:
    """All but the sign of a zero, which does not travel."""
    sent = cut(density)
    packet = packed(sent)
    received = CODEC.decode(packet, random_update(5))
    assert same_bits(received, sent)
    assert (received.weight, received.facts) == (sent.weight, sent.facts)
    assert list(received.factors) == list(sent.factors)
    flat = torch.cat([tensor.reshape(-1) for tensor in named_tensors(sent.only(PAIRS)).values()])
    count = int((flat != 0).sum())
    head_bytes = 4 * (3 * 6 + 3)
    header_bytes = 8 + int.from_bytes(packet.payload[:8], "little")
    assert packet.size_bytes == header_bytes + head_bytes + 4 * count + min(4 * count, math.ceil(len(flat) / 8))
    assert packet.size_bytes <= CODEC.most_bytes(sent)


def test_what_is_no_number_travels() -> None:
    """It is not zero, so that a check of the update sees it."""
    sent = cut(0.3)
    sent.groups[LORA_B]["layer.0.query"][0, 0] = math.nan
    assert math.isnan(float(CODEC.decode(packed(sent)).groups[LORA_B]["layer.0.query"][0, 0]))


def test_one_group_may_be_sparse_and_the_others_not() -> None:
    sent = replace(cut(0.3), sparse=frozenset({LORA_B}))
    packet = packed(sent)
    assert same_bits(CODEC.decode(packet), sent)
    assert {name.partition(".")[0] for name in load(packet.payload)} == {"lora_A", HEAD, "sparse values", "sparse places"}


def spoiled(changes: dict[str, Any]) -> Packet:
    """A packet of sparse pairs whose shapes are other ones."""
    payload = packed(cut(0.3)).payload
    size = int.from_bytes(payload[:8], "little")
    facts = json.loads(json.loads(payload[8 : 8 + size])["__metadata__"]["fedfit"])
    facts["shapes"] |= changes
    return Packet(save(load(payload), metadata={"fedfit": json.dumps(facts)}))


@pytest.mark.parametrize(
    "shape", [[6, 2], [2, 7], [12], [], [2**20, 2**20], [2**40, 2**40], [-2, -6], [2.0, 6], [True, 12], "26", None, {}], ids=str
)
def test_shapes_that_are_not_those_of_the_reference_are_refused(shape: object) -> None:
    """Before anything of that size is made. Without a reference, at the latest when it cannot be."""
    packet = spoiled({"lora_A.layer.0.query": shape})
    with pytest.raises(UpdateRefused):
        CODEC.decode(packet, random_update(5))
    if shape not in ([6, 2], [2, 7], [12]):  # as many numbers, or as many bytes of bitmap: only a reference can tell
        with pytest.raises(UpdateRefused):
            CODEC.decode(packet)


def test_a_tensor_that_the_reference_does_not_have_is_refused() -> None:
    with pytest.raises(UpdateRefused, match="stray"):
        CODEC.decode(spoiled({"lora_A.stray": [2, 6]}), random_update(5))


WHOLE = packed(cut(0.3)).payload


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(1, 255)), min_size=1, max_size=3))
def test_flipped_bytes_are_refused_or_decoded_and_nothing_else(flips: list[tuple[int, int]]) -> None:
    payload = bytearray(WHOLE)
    for position, mask in flips:
        payload[position] ^= mask
    for reference in (None, random_update(5)):
        try:
            CODEC.decode(Packet(bytes(payload)), reference)
        except UpdateRefused:
            continue
