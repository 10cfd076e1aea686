import json
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from fedfit.codecs.plain import PlainCodec
from fedfit.codecs.table import CODECS, make_codec
from fedfit.core.messages import Packet
from fedfit.core.update import HEAD, LORA_A, LORA_B, PAIRS, Factors, Update, update_of
from fedfit.errors import UpdateRefused
from tests.builders import packed, random_update, same_bits

CODEC = PlainCodec()
WHOLE = packed(random_update()).payload


@pytest.mark.parametrize("name", CODECS)
def test_there_and_back_to_the_bit(name: str) -> None:
    codec = CODECS[name]()
    odd = torch.tensor([[float("nan"), -0.0, 1e-45, float("inf"), 3.4e38, 1 / 3]])
    sent = update_of(
        {"layer.0.query": Factors(odd, odd.T.clone(), 16 / 3), "layer.10.query": Factors(odd * 2, odd.T * 3, 1e-7)},
        {HEAD: {"classifier.weight": odd + 1, "classifier.bias": torch.zeros(0)}},
        weight=40_000.0,
        facts={"steps": 7, "train_loss": 0.1 + 0.2, "pruned": True, "seed": 2**63 - 1, "note": "ünïcode"},
    )
    packet, state = codec.encode(sent)
    received = codec.decode(packet)
    assert state is None
    assert (received.weight, received.facts) == (sent.weight, sent.facts)
    assert {name: type(fact) for name, fact in received.facts.items()} == {n: type(fact) for n, fact in sent.facts.items()}
    assert [factors.scale for factors in received.factors.values()] == [16 / 3, 1e-7]
    assert list(received.factors) == list(sent.factors)
    for mine, theirs in ((sent.factors[n], received.factors[n]) for n in sent.factors):
        assert torch.equal(mine.a.view(torch.int32), theirs.a.view(torch.int32))
        assert torch.equal(mine.b.contiguous().view(torch.int32), theirs.b.contiguous().view(torch.int32))
    for name_, tensor in sent.groups[HEAD].items():
        assert torch.equal(tensor.view(torch.int32), received.groups[HEAD][name_].view(torch.int32))
    assert packet.size_bytes == len(packet.payload)
    assert codec.encode(sent) == (packet, None)


def test_a_codec_of_ones_own_and_names_that_lead_to_none() -> None:
    assert type(make_codec(("plain",))) is PlainCodec
    assert type(make_codec(("fedfit.codecs.plain:PlainCodec",))) is PlainCodec
    with pytest.raises(LookupError, match="plain stands by itself; a chain has stages alone"):
        make_codec(("plain", "plain"))
    with pytest.raises(LookupError, match=r"no fedfit\.codecs of this name"):
        make_codec(("plane",))
    with pytest.raises(LookupError, match="cannot be imported"):
        make_codec(("fedfit.codecs.plain:Nothing",))


def test_the_size_is_that_of_the_tensors_and_a_header() -> None:
    # Two modules of A 2·6 and B 5·2, a head of 3·6 and 3, four bytes each; the header names them in less than 1 kB.
    tensors = 4 * (2 * (2 * 6 + 5 * 2) + 3 * 6 + 3)
    assert tensors < len(WHOLE) < tensors + 1000


def test_an_update_without_a_head_travels() -> None:
    sent = random_update().without({HEAD})
    received = CODEC.decode(packed(sent))
    assert same_bits(received, sent)
    assert received.present == PAIRS


def test_transposed_tensors_travel_as_they_look() -> None:
    sent = random_update()
    turned = sent.with_groups({HEAD: {"classifier.weight": sent.groups[HEAD]["classifier.weight"].T}})
    received = CODEC.decode(packed(turned))
    assert torch.equal(received.groups[HEAD]["classifier.weight"], turned.groups[HEAD]["classifier.weight"])


def decode_or_refuse(payload: bytes) -> Update | None:
    try:
        return CODEC.decode(Packet(payload))
    except UpdateRefused:
        return None


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(1, 255)), min_size=1, max_size=3))
def test_flipped_bytes_are_refused_or_decoded_and_nothing_else(flips: list[tuple[int, int]]) -> None:
    payload = bytearray(WHOLE)
    for position, mask in flips:
        payload[position] ^= mask
    decode_or_refuse(bytes(payload))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(WHOLE) - 1), st.binary(max_size=8))
def test_cut_packets_are_refused(length: int, tail: bytes) -> None:
    cut = len(WHOLE) - length
    assert decode_or_refuse(WHOLE[:length] + tail[: cut - 1]) is None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
@example(b"")
@example(b"\xff" * 8)
@example((10**6).to_bytes(8, "little") + b"[" * 10**6)
def test_any_bytes_are_refused(payload: bytes) -> None:
    assert decode_or_refuse(payload) is None


def with_facts(**changes: Any) -> bytes:
    """A sound safetensors file whose facts are not what they should be."""
    size = int.from_bytes(WHOLE[:8], "little")
    facts = json.loads(json.loads(WHOLE[8 : 8 + size])["__metadata__"]["fedfit"])
    return save(load(WHOLE), metadata={"fedfit": json.dumps(facts | changes)})


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "changes",
    [
        {"facts": []}, {"facts": {"steps": None}}, {"facts": {"steps": [1]}}, {"facts": {"steps": {}}}, {"facts": "none"},
        {"facts": None}, {"weight": None}, {"weight": "heavy"}, {"weight": 10**400}, {"weight": [1]}, {"scales": None},
        {"scales": "layer.0.query"}, {"scales": ["layer.0.query", "layer.1.query"]}, {"facts": {"seed": 2**63}},
        {"scales": {"layer.0.query": "2", "layer.1.query": 2}}, {"scales": {"layer.0.query": 2}},
        {"scales": {"layer.0.query": True, "layer.1.query": 2}}, {"scales": {"layer.0.query": 10**400, "layer.1.query": 2}},
        {"scales": {"layer.0.query": 2, "layer.1.query": 2, "layer.2.query": 2}}, {"scales": {}},
        {"shapes": []}, {"shapes": {"lora_A.x": 3}}, {"shapes": {"lora_A.x": [2, 3]}}, {"shapes": {"lora_A.x": [-2]}},
        {"shapes": {"lora_A.x": [2.0]}}, {"shapes": {"lora_A.x": [2**62, 2**62]}}, {"shapes": None},
    ],
    ids=str,
)  # fmt: skip
def test_facts_that_are_not_those_of_an_update_are_refused(changes: dict[str, Any]) -> None:
    assert decode_or_refuse(with_facts()) is not None
    assert decode_or_refuse(with_facts(**changes)) is None


@pytest.mark.parametrize("facts", ["", "{", "3", "[]", "null", DEEP])
def test_a_header_that_is_not_ours_is_refused(facts: str) -> None:
    assert decode_or_refuse(save(load(WHOLE), metadata={"fedfit": facts})) is None
    assert decode_or_refuse(save(load(WHOLE), metadata={"other": "{}"})) is None
    assert decode_or_refuse(save(load(WHOLE))) is None


def test_a_tensor_more_or_less_is_refused() -> None:
    tensors = load(WHOLE)
    size = int.from_bytes(WHOLE[:8], "little")
    metadata = json.loads(WHOLE[8 : 8 + size])["__metadata__"]
    assert decode_or_refuse(save(tensors, metadata)) is not None
    for group in (LORA_A, LORA_B):
        with pytest.raises(UpdateRefused, match=r"layer\.2\.query"):
            CODEC.decode(Packet(save({**tensors, f"{group}.layer.2.query": torch.zeros(1)}, metadata)))
    for missing in ("lora_A.layer.0.query", "lora_B.layer.1.query"):
        fewer = {name: tensor for name, tensor in tensors.items() if name != missing}
        assert decode_or_refuse(save(fewer, metadata)) is None


OWN = {
    "step A layer.0.query": torch.tensor([[float("nan"), -0.0, 1e-45, float("inf"), 1 / 3]]),
    "head.": torch.arange(6, dtype=torch.float64).reshape(2, 3) / 7,
    "layer.0.query.lora_A": torch.tensor([1.5, -2.0], dtype=torch.float16),
    "own.": torch.tensor([1.5], dtype=torch.bfloat16),
    "places": torch.tensor([3, 0, 2**60]),
    "small": torch.tensor([-7, 255], dtype=torch.int32),
    "bytes": torch.tensor([0, 255], dtype=torch.uint8),
    "mask": torch.tensor([[True], [False]]),
    "empty": torch.zeros(0, 4),
    "scalar": torch.tensor(0.1),
    "": torch.ones(1),
}
"""Of every type, under names that could be taken for those of other tensors."""


@pytest.mark.parametrize(
    "groups", [{LORA_A, LORA_B, HEAD}, {LORA_A, HEAD}, {HEAD}, set[str]()], ids=lambda groups: "+".join(sorted(groups))
)
def test_a_group_of_the_rules_own_comes_back_to_the_bit_with_its_type(groups: set[str]) -> None:
    sent = random_update(2).only(groups).with_groups({"own": OWN})
    received = CODEC.decode(packed(sent))
    assert received.present == groups | {"own"}
    assert received.groups["own"].keys() == OWN.keys()
    for name, tensor in OWN.items():
        mine = received.groups["own"][name]
        assert (mine.dtype, mine.shape) == (tensor.dtype, tensor.shape)
        assert mine.view(torch.uint8).tolist() == tensor.view(torch.uint8).tolist() if tensor.dim() else mine == tensor
    assert same_bits(received.without({"own"}), sent.without({"own"}))


def test_a_group_costs_its_bytes_and_nothing_where_it_is_empty() -> None:
    plain = random_update()
    assert packed(plain.with_groups({"own": {}})).payload == WHOLE
    assert CODEC.decode(packed(plain)).present == PAIRS | {HEAD}
    more = packed(plain.with_groups({"own": {"x": torch.zeros(1000, dtype=torch.int32)}}))
    assert 4 * 1000 <= more.size_bytes - len(WHOLE) < 4 * 1000 + 100


def test_a_tensor_of_a_rule_that_is_a_view_travels_as_it_looks() -> None:
    turned = torch.arange(12.0).reshape(3, 4).T
    received = CODEC.decode(packed(random_update().with_groups({"own": {"x": turned}})))
    assert torch.equal(received.groups["own"]["x"], turned)


def test_a_number_that_no_float_can_hold_is_refused() -> None:
    """JSON can write it, and a comparison of it with floats would raise on the server."""
    sound = packed(random_update(1)).payload
    size = int.from_bytes(sound[:8], "little")
    header = json.loads(sound[8 : 8 + size])
    header["__metadata__"]["fedfit"] = header["__metadata__"]["fedfit"].replace('"steps": 4', '"steps": 1' + 400 * "0")
    text = json.dumps(header).encode()
    with pytest.raises(UpdateRefused, match="not a whole update"):
        PlainCodec().decode(Packet(len(text).to_bytes(8, "little") + text + sound[8 + size :]))
