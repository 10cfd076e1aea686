"""Packets that hold some of the groups; the receiver completes them with those that it holds itself."""

import json
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from safetensors.torch import load, save

from fedfit.codecs.table import CODECS
from fedfit.core.checks import check_form
from fedfit.core.messages import Packet
from fedfit.core.update import HEAD, LORA_A, LORA_B, Update, named_tensors
from fedfit.errors import UpdateRefused
from fedfit.rounds.devices import completed
from tests.builders import packed, random_update, same_bits

CODEC = CODECS["plain"]()
SENT, OWN = replace(random_update(1, weight=7.0), facts={"steps": 3}), random_update(2, weight=5.0)
ALL = frozenset({LORA_A, LORA_B, HEAD})
SUBSETS = [frozenset(some) for count in range(4) for some in combinations(sorted(ALL), count)]

every_subset = pytest.mark.parametrize("groups", SUBSETS, ids=lambda groups: "+".join(sorted(groups)) or "none")


def metadata_of(packet: Packet) -> dict[str, str]:
    size = int.from_bytes(packet.payload[:8], "little")
    found: dict[str, str] = json.loads(packet.payload[8 : 8 + size])["__metadata__"]
    return found


def mixed(groups: frozenset[str]) -> Update:
    """``groups`` of SENT, the rest of OWN; weight, facts and scales are those of SENT."""
    return replace(SENT, groups={name: (SENT if name in groups else OWN).groups[name] for name in ALL})


@pytest.mark.parametrize("name", CODECS)
@every_subset
def test_there_and_back_with_the_rest_from_the_receiver(name: str, groups: frozenset[str]) -> None:
    codec = CODECS[name]()
    packet, _ = codec.encode(SENT.only(groups))
    found = codec.decode(packet, SENT)
    assert found.present == groups
    received = completed(found, OWN)
    assert same_bits(received, mixed(groups))
    assert (received.weight, received.facts) == (7.0, {"steps": 3})
    assert received.origin is None


@every_subset
def test_only_the_groups_that_travel_are_paid_for(groups: frozenset[str]) -> None:
    """Two modules of A 2·6 and B 5·2, a head of 3·6 + 3; a header of less than a kilobyte, rounded up to 8 bytes."""
    numbers = {LORA_A: 2 * 2 * 6, LORA_B: 2 * 5 * 2, HEAD: 3 * 6 + 3}
    packet = packed(SENT.only(groups))
    assert sum(tensor.numel() for tensor in load(packet.payload).values()) == sum(numbers[group] for group in groups)
    tensors = 4 * sum(numbers[group] for group in groups)
    header = int.from_bytes(packet.payload[:8], "little")
    assert packet.size_bytes == 8 + header + tensors
    assert header < 1000
    assert packet.size_bytes <= CODEC.most_bytes(SENT.only(groups))


def test_a_whole_update_needs_nothing_of_the_receiver() -> None:
    found = CODEC.decode(packed(SENT))
    assert same_bits(found, SENT)
    assert completed(found, OWN) is found
    assert completed(found, None) is found


@pytest.mark.parametrize("groups", [subset for subset in SUBSETS if subset != ALL], ids=sorted)
def test_without_groups_of_its_own_a_receiver_sees_what_is_missing(groups: frozenset[str]) -> None:
    update = completed(CODEC.decode(packed(SENT.only(groups))), None)
    missing = sorted(name for name in named_tensors(SENT) if name.partition(".")[0] not in groups)
    with pytest.raises(UpdateRefused) as caught:
        check_form(update, [SENT])
    assert str(caught.value) == f"missing {missing}, unknown nothing"


@pytest.mark.parametrize("groups", [subset for subset in SUBSETS if subset != ALL], ids=sorted)
def test_a_tensor_of_a_group_that_does_not_travel_is_refused(groups: frozenset[str]) -> None:
    """One tensor too many, in the place of a group that the receiver holds: the rest of the group is then missing."""
    packet = packed(SENT.only(groups))
    tensors, whole = load(packet.payload), load(packed(SENT).payload)
    for stray in sorted(set(whole) - set(tensors)):
        spoiled = Packet(save({**tensors, stray: whole[stray]}, metadata_of(packet)))
        with pytest.raises(UpdateRefused, match=r"missing \[|differ in \["):
            check_form(completed(CODEC.decode(spoiled, SENT), OWN), [SENT])


@pytest.mark.parametrize("groups", [{LORA_A}, {LORA_B}, {LORA_A, LORA_B}], ids=sorted)
def test_a_factor_less_than_there_are_modules_is_refused(groups: set[str]) -> None:
    packet = packed(SENT.only(groups))
    tensors = load(packet.payload)
    for missing in tensors:
        fewer = {name: tensor for name, tensor in tensors.items() if name != missing}
        with pytest.raises(UpdateRefused, match="not a whole update"):
            CODEC.decode(Packet(save(fewer, metadata_of(packet))), SENT)


@pytest.mark.parametrize("place", ["pairs", "head"])
def test_a_tensor_that_the_receiver_does_not_know_is_refused(place: str) -> None:
    """Of a module that is not adapted, or of a head with one part more."""
    if place == "head":
        other = SENT.with_groups({HEAD: {**SENT.groups[HEAD], "stray": torch.zeros(2, 6)}})
    else:
        known = SENT.factors["layer.0.query"]
        pair = replace(known, a=known.a.clone(), b=known.b.clone())
        other = SENT.with_factors({**SENT.factors, "stray": pair})
    with pytest.raises(UpdateRefused, match="stray"):
        check_form(CODEC.decode(packed(other), SENT), [SENT])


def test_the_receivers_tensors_are_not_changed_nor_copied() -> None:
    received = completed(CODEC.decode(packed(SENT.only({LORA_B}))), OWN)
    assert all(pair.a is OWN.factors[name].a for name, pair in received.factors.items())
    assert same_bits(OWN, random_update(2))
