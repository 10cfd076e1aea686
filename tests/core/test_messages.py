"""The byte form of orders and replies: it comes back the same, and no bytes do anything else than parse or be refused."""

import json
import math
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfit.core.messages import MOST_HEADER_BYTES, Order, Packet, Reply
from fedfit.errors import UpdateRefused
from tests.builders import packed, random_update

numbers = st.integers(0, 2**63 - 1)
packets = st.binary(max_size=200).map(Packet)
orders = st.builds(Order, numbers, numbers, packets, st.frozensets(st.text(max_size=9), max_size=4))
replies = st.builds(
    Reply, numbers, numbers, st.none() | packets, st.none() | st.text(max_size=50), st.floats(0, allow_infinity=False)
)
ORDER = Order(3, 7, packed(random_update()), frozenset({"lora_A", "head"}))
REPLY = Reply(3, 7, packed(random_update()), None, 0.25)

Parse = Callable[[bytes], Order | Reply]
both = pytest.mark.parametrize("parse", [Order.from_bytes, Reply.from_bytes], ids=["order", "reply"])


def message(head: object, packet: bytes = b"") -> bytes:
    """By hand: four bytes of length, little-endian, then JSON, then the packet."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<I", len(text)) + text + packet


def order_head(**changes: Any) -> dict[str, Any]:
    return {"round": 3, "device": 7, "trains": ["head", "lora_A"], "packet": True, **changes}


def reply_head(**changes: Any) -> dict[str, Any]:
    return {"round": 3, "device": 7, "refusal": None, "seconds": 0.25, "packet": True, **changes}


@given(orders)
def test_an_order_comes_back(order: Order) -> None:
    assert Order.from_bytes(order.to_bytes()) == order


@given(replies)
def test_a_reply_comes_back(reply: Reply) -> None:
    assert Reply.from_bytes(reply.to_bytes()) == reply


def test_an_empty_packet_is_not_a_missing_one() -> None:
    for packet in (Packet(b""), None):
        reply = Reply(1, 2, packet, "why", 0.0)
        assert Reply.from_bytes(reply.to_bytes()).packet == packet


@pytest.mark.parametrize("letter", ["a", "ä", "\U0001f600"])
def test_a_refusal_that_names_a_thousand_tensors_is_cut_and_read(letter: str) -> None:
    """The other side would refuse a longer header, and the reason would be lost."""
    found = Reply.from_bytes(Reply(1, 2, None, letter * 100_000, 0.0).to_bytes())
    assert found.refusal == letter * 4000


def test_the_bytes_are_those_of_the_description() -> None:
    assert Order.from_bytes(message(order_head(), ORDER.packet.payload)) == ORDER
    assert ORDER.to_bytes()[4:].startswith(b'{"round": 3, "device": 7, "trains": ["head", "lora_A"], "packet": true}')
    assert Reply.from_bytes(message(reply_head(), packed(random_update()).payload)) == REPLY
    assert Reply.from_bytes(message(reply_head(packet=False, seconds=2))) == Reply(3, 7, None, None, 2.0)


def test_a_message_is_as_long_as_its_parts() -> None:
    """Framing costs four bytes and the header, which has fewer than 100 here."""
    for sent in (ORDER, REPLY):
        assert sent.packet is not None
        assert 4 < len(sent.to_bytes()) - sent.packet.size_bytes < 104


@both
@given(garbage=st.binary(max_size=300))
def test_any_bytes_parse_or_are_refused(parse: Parse, garbage: bytes) -> None:
    try:
        parse(garbage)
    except UpdateRefused:
        return
    raise AssertionError("garbage is no message")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@both
@given(data=st.data())
def test_a_header_with_any_value_in_one_place_parses_or_is_refused(parse: Parse, data: st.DataObject) -> None:
    """Random bytes hardly ever make a header; this is one with a single value spoilt."""
    head = order_head() if parse == Order.from_bytes else reply_head()
    name = data.draw(st.sampled_from(sorted(head)))
    spoilt = message({**head, name: data.draw(json_values)}, data.draw(st.binary(max_size=5)))
    try:
        found = parse(spoilt)
    except UpdateRefused:
        return
    assert parse(found.to_bytes()) == found


@given(st.sampled_from([ORDER, REPLY]), st.data())
def test_a_truncated_message_is_refused_unless_the_cut_is_in_the_packet(sent: Order | Reply, data: st.DataObject) -> None:
    """A cut packet is still a packet: the codec refuses that one. A header that is cut is no header."""
    whole, parse = sent.to_bytes(), type(sent).from_bytes
    assert sent.packet is not None
    start = len(whole) - sent.packet.size_bytes
    length = data.draw(st.integers(0, start - 1))
    with pytest.raises(UpdateRefused, match=r"cut short|claims a header"):
        parse(whole[:length])
    shorter = parse(whole[:start]).packet
    assert shorter == Packet(b"")


@both
@pytest.mark.parametrize("length", [MOST_HEADER_BYTES + 1, 2**31, 2**32 - 1])
def test_a_huge_header_length_is_refused_without_the_memory(parse: Parse, length: int) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(UpdateRefused, match=f"claims a header of {length} bytes and has 12"):
            parse(struct.pack("<I", length) + b"short header")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@both
def test_a_header_beyond_the_limit_is_refused_though_it_is_all_there(parse: Parse) -> None:
    head = order_head() if parse == Order.from_bytes else reply_head()
    text = json.dumps(head).encode()
    fits = text + b" " * (MOST_HEADER_BYTES - len(text))
    parse(message(fits))
    with pytest.raises(UpdateRefused, match="claims a header of 65537 bytes"):
        parse(message(fits + b" "))


def test_bytes_after_the_end_are_refused() -> None:
    with pytest.raises(UpdateRefused, match="4 bytes after its end"):
        Reply.from_bytes(message(reply_head(packet=False), b"more"))


@both
def test_a_nested_bomb_is_refused(parse: Parse) -> None:
    with pytest.raises(UpdateRefused, match="not JSON"):
        parse(message(b"[" * 60_000))


@both
@pytest.mark.parametrize("head", [[], 3, None, "round", {}], ids=str)
def test_json_that_is_no_header_is_refused(parse: Parse, head: object) -> None:
    with pytest.raises(UpdateRefused, match="another header than"):
        parse(message(head))


def test_one_kind_of_message_is_not_the_other() -> None:
    with pytest.raises(UpdateRefused, match="another header than"):
        Order.from_bytes(REPLY.to_bytes())
    with pytest.raises(UpdateRefused, match="another header than"):
        Reply.from_bytes(ORDER.to_bytes())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"round": -1}, "round = -1, not a whole number"),
        ({"round": 1.0}, "round = 1.0, not a whole number"),
        ({"round": True}, "round = True, not a whole number"),
        ({"device": "7"}, "device = '7', not a whole number"),
        ({"device": 2**63}, "device = 9223372036854775808, not a whole number"),
        ({"trains": "head"}, "trains = 'head'"),
        ({"trains": [1]}, r"trains = \[1\]"),
        ({"packet": False}, "it has no packet"),
        ({"packet": 1}, "another header than"),
        ({"more": 1}, "another header than"),
    ],
    ids=str,
)
def test_an_order_of_wrong_values_is_refused_in_words(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UpdateRefused, match=reason):
        Order.from_bytes(message(order_head(**changes)))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"refusal": 3}, "refusal = 3"),
        ({"seconds": -0.5}, "seconds = -0.5"),
        ({"seconds": math.nan}, "seconds = nan"),
        ({"seconds": math.inf}, "seconds = inf"),
        ({"seconds": True}, "seconds = True"),
        ({"seconds": "1"}, "seconds = '1'"),
        ({"seconds": 10**400}, "seconds = 1000"),
        ({"device": None}, "device = None, not a whole number"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_reply_of_wrong_values_is_refused_in_words(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UpdateRefused, match=reason):
        Reply.from_bytes(message(reply_head(**changes)))


def test_messages_start_without_torch() -> None:
    script = "import sys; import fedfit.core.messages; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
