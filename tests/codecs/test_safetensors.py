import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from fedfit.codecs.safetensors import CODECS, SafetensorsCodec
from fedfit.errors import UpdateRefused
from fedfit.records import Factors, Packet, Update
from tests.builders import random_update, same_bits

CODEC = SafetensorsCodec()
WHOLE = CODEC.encode(random_update()).payload


@pytest.mark.parametrize("name", CODECS)
def test_there_and_back_to_the_bit(name: str) -> None:
    codec = CODECS[name]()
    odd = torch.tensor([[float("nan"), -0.0, 1e-45, float("inf"), 3.4e38, 1 / 3]])
    sent = Update(
        factors={"layer.0.query": Factors(odd, odd.T.clone(), 16 / 3), "layer.10.query": Factors(odd * 2, odd.T * 3, 1e-7)},
        head={"classifier.weight": odd + 1, "classifier.bias": torch.zeros(0)},
        weight=40_000.0,
        metrics={"steps": 7, "train_loss": 0.1 + 0.2},
    )
    packet = codec.encode(sent)
    received = codec.decode(packet)
    assert (received.weight, received.metrics) == (sent.weight, sent.metrics)
    assert [factors.scale for factors in received.factors.values()] == [16 / 3, 1e-7]
    assert list(received.factors) == list(sent.factors)
    for mine, theirs in ((sent.factors[n], received.factors[n]) for n in sent.factors):
        assert torch.equal(mine.a.view(torch.int32), theirs.a.view(torch.int32))
        assert torch.equal(mine.b.contiguous().view(torch.int32), theirs.b.view(torch.int32))
    for name_, tensor in sent.head.items():
        assert torch.equal(tensor.view(torch.int32), received.head[name_].view(torch.int32))
    assert packet.size_bytes == len(packet.payload)
    assert codec.encode(sent) == packet


def test_the_size_is_that_of_the_tensors_and_a_header() -> None:
    # Two modules of A 2·6 and B 5·2, a head of 3·6 and 3, four bytes each; the header names them in less than 1 kB.
    tensors = 4 * (2 * (2 * 6 + 5 * 2) + 3 * 6 + 3)
    assert tensors < len(WHOLE) < tensors + 1000


def test_an_update_without_a_head_travels() -> None:
    sent = replace(random_update(), head={})
    assert same_bits(CODEC.decode(CODEC.encode(sent)), sent)


def test_transposed_tensors_travel_as_they_look() -> None:
    sent = random_update()
    turned = replace(sent, head={"classifier.weight": sent.head["classifier.weight"].T})
    assert torch.equal(CODEC.decode(CODEC.encode(turned)).head["classifier.weight"], turned.head["classifier.weight"])


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
        {"metrics": []}, {"metrics": {"steps": "many"}}, {"metrics": {"steps": None}}, {"metrics": {"steps": True}},
        {"metrics": "none"}, {"weight": None}, {"weight": "heavy"}, {"weight": 10**400}, {"weight": [1]}, {"scales": None},
        {"scales": "layer.0.query"}, {"scales": ["layer.0.query", "layer.1.query"]},
        {"scales": {"layer.0.query": "2", "layer.1.query": 2}}, {"scales": {"layer.0.query": 2}},
        {"scales": {"layer.0.query": 2, "layer.1.query": 2, "layer.2.query": 2}}, {"scales": {}},
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
    for extra in ("stray", "layer.2.query.lora_A", "layer.0.query.lora_E"):
        with pytest.raises(UpdateRefused, match=extra):
            CODEC.decode(Packet(save({**tensors, extra: torch.zeros(1)}, metadata)))
    for missing in ("layer.0.query.lora_A", "layer.1.query.lora_B"):
        fewer = {name: tensor for name, tensor in tensors.items() if name != missing}
        assert decode_or_refuse(save(fewer, metadata)) is None


EXTRA = {
    "step A layer.0.query": torch.tensor([[float("nan"), -0.0, 1e-45, float("inf"), 1 / 3]]),
    "head.": torch.arange(6, dtype=torch.float64).reshape(2, 3) / 7,
    "layer.0.query.lora_A": torch.tensor([1.5, -2.0], dtype=torch.float16),
    "extra.": torch.tensor([1.5], dtype=torch.bfloat16),
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
    "parts", [frozenset({"a", "b", "head"}), frozenset({"a", "head"}), frozenset({"head"}), frozenset[str]()], ids=sorted
)
def test_what_travels_beside_comes_back_to_the_bit_with_its_type(parts: frozenset[str]) -> None:
    base, sent = random_update(1), replace(random_update(2), extra=EXTRA)
    received = CODEC.decode(CODEC.encode(sent, parts), base, parts)
    assert received.extra.keys() == EXTRA.keys()
    for name, tensor in EXTRA.items():
        mine = received.extra[name]
        assert (mine.dtype, mine.shape) == (tensor.dtype, tensor.shape)
        assert mine.view(torch.uint8).tolist() == tensor.view(torch.uint8).tolist() if tensor.dim() else mine == tensor
    assert received.factors.keys() == sent.factors.keys()
    for group, wanted in (("a", sent if "a" in parts else base), ("b", sent if "b" in parts else base)):
        assert all(torch.equal(getattr(p, group), getattr(wanted.factors[n], group)) for n, p in received.factors.items())
    assert received.head.keys() == sent.head.keys()


def test_tensors_beside_cost_their_bytes_and_nothing_where_there_are_none() -> None:
    plain = random_update()
    assert CODEC.encode(replace(plain, extra={})) == CODEC.encode(plain)
    assert CODEC.decode(CODEC.encode(plain)).extra == {}
    more = CODEC.encode(replace(plain, extra={"x": torch.zeros(1000, dtype=torch.int32)}))
    assert 4 * 1000 <= more.size_bytes - len(WHOLE) < 4 * 1000 + 100


def test_a_tensor_beside_that_is_a_view_travels_as_it_looks() -> None:
    turned = torch.arange(12.0).reshape(3, 4).T
    assert torch.equal(CODEC.decode(CODEC.encode(replace(random_update(), extra={"x": turned}))).extra["x"], turned)


def test_a_number_that_no_float_can_hold_is_refused() -> None:
    """JSON can write it; a comparison of it with floats would raise on the server."""
    sound = SafetensorsCodec().encode(random_update(1)).payload
    size = int.from_bytes(sound[:8], "little")
    header = json.loads(sound[8 : 8 + size])
    header["__metadata__"]["fedfit"] = header["__metadata__"]["fedfit"].replace('"steps": 4', '"steps": 1' + 400 * "0")
    text = json.dumps(header).encode()
    with pytest.raises(UpdateRefused, match="not a whole update"):
        SafetensorsCodec().decode(Packet(len(text).to_bytes(8, "little") + text + sound[8 + size :]))
