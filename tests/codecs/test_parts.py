"""Packets that hold some of ``a``, ``b`` and ``head``; the rest is what the other side has."""

import json
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from safetensors.torch import load, save

from fedfit.codecs.safetensors import CODECS, SafetensorsCodec
from fedfit.errors import UpdateRefused
from fedfit.records import PARTS, Packet, Update
from tests.builders import random_update, same_bits

CODEC = SafetensorsCodec()
SENT, BASE = replace(random_update(1, weight=7.0), metrics={"steps": 3}), random_update(2, weight=5.0)
SUBSETS = [frozenset(some) for count in range(4) for some in combinations(sorted(PARTS), count)]

every_subset = pytest.mark.parametrize("parts", SUBSETS, ids=lambda parts: "+".join(sorted(parts)) or "none")


def facts_of(packet: Packet) -> dict[str, object]:
    size = int.from_bytes(packet.payload[:8], "little")
    found: dict[str, object] = json.loads(json.loads(packet.payload[8 : 8 + size])["__metadata__"]["fedfit"])
    return found


def packet_of(tensors: dict[str, torch.Tensor], facts: dict[str, object]) -> Packet:
    return Packet(save(tensors, metadata={"fedfit": json.dumps(facts)}))


def mixed(parts: frozenset[str]) -> Update:
    """``parts`` of SENT, the rest of BASE; weight, metrics and scales are those of SENT."""
    factors = {
        name: replace(
            pair, a=(SENT if "a" in parts else BASE).factors[name].a, b=(SENT if "b" in parts else BASE).factors[name].b
        )
        for name, pair in SENT.factors.items()
    }
    return replace(SENT, factors=factors, head=(SENT if "head" in parts else BASE).head)


@pytest.mark.parametrize("name", CODECS)
@every_subset
def test_there_and_back_with_the_rest_from_the_base(name: str, parts: frozenset[str]) -> None:
    codec = CODECS[name]()
    received = codec.decode(codec.encode(SENT, parts), BASE)
    assert same_bits(received, mixed(parts))
    assert (received.weight, received.metrics) == (7.0, {"steps": 3})
    assert received.origin is None


@every_subset
def test_only_the_parts_are_paid_for(parts: frozenset[str]) -> None:
    """Two modules of A 2·6 and B 5·2, a head of 3·6 + 3; a header of less than a kilobyte, rounded up to 8 bytes."""
    numbers = {"a": 2 * 2 * 6, "b": 2 * 5 * 2, "head": 3 * 6 + 3}
    packet = CODEC.encode(SENT, parts)
    assert sum(tensor.numel() for tensor in load(packet.payload).values()) == sum(numbers[part] for part in parts)
    tensors = 4 * sum(numbers[part] for part in parts)
    header = int.from_bytes(packet.payload[:8], "little")
    assert packet.size_bytes == 8 + header + tensors
    assert header < 1000


def test_all_parts_need_no_word_and_no_base() -> None:
    packet = CODEC.encode(SENT, PARTS)
    assert packet == CODEC.encode(SENT)
    assert "parts" not in facts_of(packet)
    assert same_bits(CODEC.decode(packet), SENT)
    assert same_bits(CODEC.decode(packet, BASE), SENT), "nothing of the base where all is there"


@pytest.mark.parametrize("parts", [subset for subset in SUBSETS if subset != PARTS], ids=sorted)
def test_without_a_base_parts_are_refused(parts: frozenset[str]) -> None:
    with pytest.raises(UpdateRefused, match=r"it holds .* alone"):
        CODEC.decode(CODEC.encode(SENT, parts))


@pytest.mark.parametrize("parts", [subset for subset in SUBSETS if subset != PARTS], ids=sorted)
def test_a_tensor_of_a_part_that_is_not_said_is_refused(parts: frozenset[str]) -> None:
    """One tensor of a part too many, which would else be dropped without a word."""
    packet = CODEC.encode(SENT, parts)
    tensors, whole = load(packet.payload), load(CODEC.encode(SENT).payload)
    for stray in sorted(set(whole) - set(tensors)):
        with pytest.raises(UpdateRefused, match="unknown tensors"):
            CODEC.decode(packet_of({**tensors, stray: whole[stray]}, facts_of(packet)), BASE)


@pytest.mark.parametrize("parts", [frozenset("a"), frozenset("b"), frozenset({"a", "b"})], ids=sorted)
def test_a_factor_less_than_said_is_refused(parts: frozenset[str]) -> None:
    packet = CODEC.encode(SENT, parts)
    tensors = load(packet.payload)
    for missing in tensors:
        fewer = {name: tensor for name, tensor in tensors.items() if name != missing}
        with pytest.raises(UpdateRefused, match="not a whole update"):
            CODEC.decode(packet_of(fewer, facts_of(packet)), BASE)


def test_a_module_that_the_base_does_not_have_is_refused() -> None:
    packet = CODEC.encode(SENT, frozenset("b"))
    bare = replace(BASE, factors={"layer.0.query": BASE.factors["layer.0.query"]})
    with pytest.raises(UpdateRefused, match=r"layer\.1\.query"):
        CODEC.decode(packet, bare)


@pytest.mark.parametrize("word", [["a", "b"], "ab", ["a", "b", "head", "tail"], [], None, 3, [["a"]], {"a": 1}], ids=str)
def test_a_word_about_the_parts_that_does_not_fit_the_tensors_is_refused(word: object) -> None:
    """A whole packet that says it holds less, or something else: what it says decides, and the rest is too much."""
    whole = CODEC.encode(SENT)
    with pytest.raises(UpdateRefused):
        CODEC.decode(packet_of(load(whole.payload), {**facts_of(whole), "parts": word}), BASE)


def test_the_base_is_not_changed_nor_copied() -> None:
    received = CODEC.decode(CODEC.encode(SENT, frozenset("b")), BASE)
    assert all(pair.a is BASE.factors[name].a for name, pair in received.factors.items())
    assert same_bits(BASE, random_update(2))
