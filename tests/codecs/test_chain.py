"""Chains of stages as a codec: what comes back, error feedback's sum, sizes, and hostile packets."""

import contextlib
from dataclasses import replace

import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedfit.codecs.chain import Chain
from fedfit.codecs.picking import RandomK
from fedfit.codecs.plain import PlainCodec
from fedfit.codecs.rounding import Quantize
from fedfit.codecs.stage import Known, Stage
from fedfit.codecs.table import make_codec, make_stage
from fedfit.core.messages import Packet
from fedfit.core.update import HEAD, LORA_A, LORA_B, Factors, Memory, Update, named_tensors, update_of, with_tensors
from fedfit.errors import UpdateRefused
from fedfit.randomness import derive_seed
from fedfit.simulation.traffic import uplink_traffic
from tests.builders import random_update, rule_of, same_bits

CHAINS = [
    ("delta",),
    ("fp16",),
    ("quantize:4",),
    ("nf4",),
    ("top_k:0.2",),
    ("delta", "random_k:0.5", "bf16"),
    ("delta", "top_k:0.1", "quantize:3"),
]
BY_NUMBERS = [("delta", "low_rank:1"), ("delta", "low_rank:1", "quantize:6"), ("delta", "fedobd:0.3")]
"""How long their packets are depends on shapes or on the numbers."""
SENT = replace(random_update(1, weight=7.0), facts={"steps": 3, "train_loss": 0.5})
REFERENCE = random_update(2)
every_chain = pytest.mark.parametrize("names", CHAINS, ids="+".join)
EVERY = CHAINS + BY_NUMBERS


def chain(*names: str, feedback: bool = False) -> Chain:
    codec = make_codec(names, feedback=feedback)
    assert isinstance(codec, Chain)
    return codec


def error_of(state: Memory | None) -> Tensor:
    """All errors of a sender, in the order of their tensors' names."""
    assert state is not None
    errors = sorted((name, tensor) for name, tensor in state.tensors.items() if name.startswith("error "))
    return torch.cat([tensor.reshape(-1) for _, tensor in errors])


def flat(update: Update) -> Tensor:
    return torch.cat([tensor.reshape(-1) for _, tensor in sorted(named_tensors(update).items())])


@pytest.mark.parametrize("names", EVERY, ids="+".join)
def test_there_and_back_is_stage_by_stage(names: tuple[str, ...]) -> None:
    """On the one vector of all tensors; names, shapes, scales, weight and facts come back as they were."""
    codec = chain(*names)
    packet, state = codec.encode(SENT, REFERENCE, seed=5)
    found = codec.decode(packet, REFERENCE)
    assert (state is None) == ("low_rank:1" not in names), "the factors of a low rank begin where the last packet ended"
    assert {name: t.shape for name, t in named_tensors(found).items()} == {n: t.shape for n, t in named_tensors(SENT).items()}
    assert (found.weight, found.facts, found.scales) == (SENT.weight, SENT.facts, SENT.scales)
    values, reference = flat(SENT), flat(REFERENCE)
    shapes = tuple(tuple(tensor.shape) for _, tensor in sorted(named_tensors(SENT).items()))
    steps = []
    for number, name in enumerate(names):
        stage, known = make_stage(name), Known(reference, derive_seed(5, "stage", number), shapes)
        shapes = () if stage.order == 1 else shapes
        coded = stage.encode(values, known)
        steps.append((stage, coded, len(values), known))
        values = coded.values
    for stage, coded, entries, known in reversed(steps):
        values = stage.decode(replace(coded, values=values), entries, known)
    assert torch.equal(flat(found), values)
    assert packet.size_bytes <= codec.most_bytes(SENT)


def test_exact_and_sparse_groups_travel_as_they_are() -> None:
    """And so does a tensor of another type, also in a group whose others are coded."""
    head = {**SENT.groups[HEAD], "counts": torch.tensor([5])}
    more = SENT.with_groups({"counts": {"seen": torch.tensor([3, 4])}, HEAD: head})
    for marked in (replace(more, exact=frozenset({LORA_A})), replace(more, sparse=frozenset({LORA_A, LORA_B}))):
        found = chain("quantize:2").decode(chain("quantize:2").encode(marked)[0])
        kept = (marked.exact | marked.sparse) | {"counts"}
        for name, tensor in named_tensors(marked).items():
            as_it_was = name.partition(".")[0] in kept or tensor.dtype != torch.float32
            assert torch.equal(named_tensors(found)[name], tensor) == as_it_was, name


def test_a_reference_of_another_shape_is_as_none() -> None:
    """On both sides: a rank may have changed since."""
    codec, other = chain("delta", "fp16"), random_update(2).without({HEAD})
    wide = other.with_groups({HEAD: {name: torch.ones(9, 9) for name in SENT.groups[HEAD]}})
    found = codec.decode(codec.encode(SENT, wide)[0], replace(wide, groups={**wide.groups}))
    for name, tensor in SENT.groups[HEAD].items():
        torch.testing.assert_close(found.groups[HEAD][name], tensor, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "names", [("delta", "top_k:0.1"), ("delta", "top_k:0.2", "quantize:2"), ("delta", "quantize:1"), *BY_NUMBERS]
)
def test_error_feedback_adds_up(names: tuple[str, ...]) -> None:
    """Over twelve packets: what was seen of the differences, and the error at the end, are all differences; without feedback
    most of them would be lost.
    """
    codec, state = chain(*names, feedback=True), None
    sent, seen = torch.zeros(len(flat(SENT))).double(), torch.zeros(len(flat(SENT))).double()
    for number in range(12):
        update = with_tensors(REFERENCE, {n: t + 0.1 * number for n, t in named_tensors(random_update(number)).items()})
        packet, state = codec.encode(update, REFERENCE, seed=number, state=state)
        sent += (flat(update) - flat(REFERENCE)).double()
        seen += (flat(codec.decode(packet, REFERENCE)) - flat(REFERENCE)).double()
    assert state is not None
    torch.testing.assert_close(seen + error_of(state).double(), sent, rtol=1e-4, atol=1e-3)
    assert float((seen - sent).norm()) > 0.01 * float(sent.norm())


def test_an_error_of_other_shapes_is_dropped_with_a_note(caplog: pytest.LogCaptureFixture) -> None:
    codec = chain("delta", "top_k:0.2", feedback=True)
    _, state = codec.encode(SENT, REFERENCE)
    less = SENT.without({HEAD})
    fresh, _ = codec.encode(less, REFERENCE)
    assert not caplog.text
    packet, after = codec.encode(less, REFERENCE, state=state)
    assert packet != fresh, "the error of the others goes on"
    assert after is not None
    assert len(error_of(after)) == len(flat(SENT)), "the head's waits until it is sent again"
    assert not caplog.text
    wide = SENT.with_groups({HEAD: {name: torch.ones(9, 9) for name in SENT.groups[HEAD]}})
    codec.encode(wide, REFERENCE, state=after)
    assert f"starts anew for {len(SENT.groups[HEAD])} tensors" in caplog.text


@every_chain
def test_the_planner_knows_its_bits(names: tuple[str, ...]) -> None:
    """Of 60,000 numbers, to 2 %: the packet less that of an update without numbers."""
    big = Update({HEAD: {"weight": torch.randn(60_000, generator=torch.Generator().manual_seed(0))}})
    none = Update({HEAD: {"weight": torch.zeros(0)}})
    codec = chain(*names)
    bits = 8 * (codec.encode(big)[0].size_bytes - codec.encode(none)[0].size_bytes)
    assert bits == pytest.approx(60_000 * codec.bits_per_number(), rel=0.02)


@every_chain
def test_a_plan_counts_what_is_sent(names: tuple[str, ...]) -> None:
    """Twelve modules of 384 by 384 at rank 8, and a head: at each rank within 2 % of the packet's bits."""
    generator = torch.Generator().manual_seed(1)

    def adapter(rank: int) -> Update:
        def pair(scale: float) -> Factors:
            return Factors(torch.randn(rank, 384, generator=generator), torch.randn(384, rank, generator=generator), scale)

        head = {"classifier.weight": torch.randn(4, 384, generator=generator)}
        return update_of({f"encoder.layer.{n}.query": pair(2 / 3) for n in range(12)}, {HEAD: head}, 300.0, SENT.facts)

    codec, rule = chain(*names), rule_of("fedavg")
    found = uplink_traffic(rule, codec, adapter(8), 3)
    for rank in (2, 8):
        sent = 8 * codec.encode(adapter(rank), adapter(rank), seed=3)[0].size_bytes
        assert found.bits_fixed + rank * found.bits_per_rank == pytest.approx(sent, rel=0.02)


@pytest.mark.parametrize("names", BY_NUMBERS, ids="+".join)
def test_a_plan_counts_the_most_that_may_be_sent(names: tuple[str, ...]) -> None:
    """How much less it is, the numbers alone tell."""
    codec = chain(*names)
    bits = 8 * codec.encode(SENT, REFERENCE)[0].size_bytes
    most = 8 * codec.encode(SENT.without({LORA_A, LORA_B, HEAD}), REFERENCE)[0].size_bytes + 8 * 200
    assert bits < most + codec.bits_per_number() * len(flat(SENT))


def test_low_rank_goes_on_from_the_last_packet() -> None:
    """The same differences again and again, without feedback: each packet comes nearer to the best of its rank, of the SVD."""
    codec, state, errors = chain("delta", "low_rank:2"), None, []
    matrix = torch.randn(40, 30, generator=torch.Generator().manual_seed(0)) * 0.8 ** torch.arange(30)
    same, zero = (Update({HEAD: {"weight": numbers}}) for numbers in (matrix, torch.zeros(40, 30)))
    for seed in range(40):
        packet, state = codec.encode(same, zero, seed=seed, state=state)
        errors.append(float((codec.decode(packet, zero).groups[HEAD]["weight"] - matrix).norm()))
    best = float(torch.linalg.svdvals(matrix)[2:].norm())
    assert errors[0] > 1.02 * best
    assert errors[-1] == pytest.approx(best, rel=1e-3)


LOSSY = [
    ("delta", "random_k:0.1"),
    ("delta", "random_k:0.5", "quantize:4"),
    *(("delta", f"quantize:{digits}") for digits in (1, 2, 3)),
    ("delta", "nf4"),
    ("delta", "top_k:0.05", "quantize:1"),
    ("delta", "low_rank:1"),
    ("delta", "low_rank:1", "quantize:4"),
    ("delta", "low_rank:1", "quantize:8"),
    ("delta", "fedobd:0.3"),
]


@pytest.mark.parametrize("size", [1.0, 1e-3])
@pytest.mark.parametrize("names", LOSSY, ids="+".join)
def test_the_error_stays_bounded(names: tuple[str, ...], size: float) -> None:
    """Of fresh differences in every packet, whatever their size. Were a stage no contraction, it would grow from packet to
    packet: unbiased random_k at a tenth has 17,000 times a packet's differences after ten.

    A contraction by 1 − δ keeps ‖e‖ below ‖x‖·√(1 − δ)/(1 − √(1 − δ)): for δ of a twentieth, the least here, 39 times.
    """
    codec, state, norms = chain(*names, feedback=True), None, []
    zero = with_tensors(REFERENCE, {name: torch.zeros_like(tensor) for name, tensor in named_tensors(REFERENCE).items()})
    for seed in range(60):
        made = {name: size * tensor for name, tensor in named_tensors(random_update(seed)).items()}
        _, state = codec.encode(with_tensors(zero, made), zero, seed=seed, state=state)
        norms.append(float(error_of(state).norm()) / (size * float(flat(random_update(seed)).norm())))
    assert norms[-1] < 39
    assert norms[-1] < 1.5 * norms[29] + 0.5, "it has come to rest"


@pytest.mark.parametrize("stage", [RandomK(0.1).contraction, *(Quantize(digits).contraction for digits in (1, 2, 3, 8))])
def test_a_stage_under_feedback_is_a_contraction(stage: Stage) -> None:
    """Of whatever vector: never farther from it than nothing is, and nearer where it is not zero."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(200, generator=generator) * torch.exp(2 * torch.randn(200, generator=generator))
        known = Known(torch.zeros(200), seed)
        seen = stage.decode(stage.encode(x, known), 200, known)
        assert float((x - seen).square().sum()) < float(x.square().sum())


@pytest.mark.parametrize("per", ["row", "tensor", 16])
def test_numbers_that_share_a_scale(per: int | str) -> None:
    """Each is off by at most its row's, its tensor's or its block's largest, divided by s = 7."""
    codec = make_codec(("quantize:4",), per=per)
    found = codec.decode(codec.encode(SENT, seed=3)[0])
    if isinstance(per, int):
        starts = range(0, len(flat(SENT)), per)
        pieces = [(flat(SENT)[n : n + per], flat(found)[n : n + per]) for n in starts]
    else:
        named = named_tensors(found)
        pairs = [(tensor, named[name]) for name, tensor in named_tensors(SENT).items()]
        rows = [
            (row, there) for x, y in pairs for row, there in zip(x.view(-1, x.shape[-1]), y.view(-1, y.shape[-1]), strict=True)
        ]
        pieces = pairs if per == "tensor" else rows
    largest = [float(x.abs().max()) / 7 for x, _ in pieces]
    for (x, y), most in zip(pieces, largest, strict=True):
        assert float((x - y).abs().max()) <= most * (1 + 1e-5)
    assert any(float((x - y).abs().max()) > 0.4 * most for (x, y), most in zip(pieces, largest, strict=True))


@pytest.mark.parametrize("names", [("zstd",), ("quantize:4", "zstd"), ("delta", "top_k:0.1", "zstd")], ids="+".join)
def test_zstandard_takes_nothing_away(names: tuple[str, ...]) -> None:
    """The codec inside says the same of its own packet; a cut, a flipped or a swollen one is refused."""
    codec, inner = make_codec(names), make_codec(names[:-1] or ("plain",))
    whole = replace(SENT, groups={**SENT.groups, HEAD: {n: torch.zeros_like(t) for n, t in SENT.groups[HEAD].items()}})
    packet, (plain, _) = codec.encode(whole, REFERENCE, seed=3)[0], inner.encode(whole, REFERENCE, seed=3)
    assert same_bits(codec.decode(packet, REFERENCE), inner.decode(plain, REFERENCE))
    assert packet.size_bytes <= codec.most_bytes(whole)
    assert getattr(codec, "refers", False) == ("delta" in names)
    for payload in (packet.payload[:-1], packet.payload + b"x", plain.payload, b""):
        with pytest.raises(UpdateRefused):
            codec.decode(Packet(payload), REFERENCE)


def test_a_bomb_is_refused_by_the_length_that_it_says() -> None:
    """A gigabyte of zeros in 33 kB: never unpacked."""
    bomb = zstandard.ZstdCompressor().compress(bytes(10**9))
    assert len(bomb) < make_codec(("zstd",)).most_bytes(SENT) * 100
    with pytest.raises(UpdateRefused, match="says that it holds 1000000000 bytes"):
        make_codec(("zstd",)).decode(Packet(bomb), REFERENCE)


def decode_or_refuse(codec: Chain, payload: bytes) -> None:
    with contextlib.suppress(UpdateRefused):
        codec.decode(Packet(payload), REFERENCE)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(EVERY) - 1), st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=3))
def test_flipped_bytes_are_refused_or_decoded_and_nothing_else(which: int, flips: list[tuple[float, int]]) -> None:
    codec = chain(*EVERY[which])
    payload = bytearray(codec.encode(SENT, REFERENCE)[0].payload)
    for place, mask in flips:
        payload[min(int(place * len(payload)), len(payload) - 1)] ^= mask
    decode_or_refuse(codec, bytes(payload))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(EVERY) - 1), st.floats(0, 0.999))
def test_cut_packets_are_refused(which: int, share: float) -> None:
    codec = chain(*EVERY[which])
    payload = codec.encode(SENT, REFERENCE)[0].payload
    with pytest.raises(UpdateRefused):
        codec.decode(Packet(payload[: int(share * len(payload))]), REFERENCE)


@pytest.mark.parametrize(
    "forms",
    [
        '{"head.classifier.weight": [2000000000, 2000000000]}',
        '{"head.unknown": [2]}',
        '{"head.classifier.weight": [-1, 3]}',
        '{"head.classifier.weight": [0, 2147483647, 2147483647, 2147483647]}',
        '{"head.classifier.weight": [' + ", ".join(["2147483647"] * 100_000) + "]}",
        '{"head.classifier.weight": [1e3]}',
        '{"head.' + "x" * 100_000 + '": [2]}',
        '{"head.classifier.weight": "many"}',
        "[]",
        "[" * 100_000,
        "nothing",
    ],
)
def test_shapes_that_are_not_due_are_refused_before_anything_is_made(forms: str) -> None:
    codec = chain("random_k:0.000001")
    wire = {"coded": {"values": torch.zeros(1), "0 seed": torch.tensor([1])}}
    packet, _ = PlainCodec().encode(Update(wire, facts={"coded": forms}))
    for each in (codec, chain("low_rank:1"), chain("fedobd:0.2"), chain("nf4")):
        with pytest.raises(UpdateRefused) as caught:
            each.decode(packet, REFERENCE)
        assert len(str(caught.value)) < 500


def test_where_the_reference_has_the_same_tensors_their_names_do_not_travel() -> None:
    """Neither names, shapes nor scales; and not where a shape, a scale or a name differs, or the receiver has another."""
    codec = chain("delta", "quantize:4")
    short = codec.encode(SENT, REFERENCE)[0]
    assert b"layer.0.query" not in short.payload
    found = codec.decode(short, REFERENCE)
    assert found.scales == SENT.scales
    assert list(found.factors) == list(SENT.factors)
    wide = REFERENCE.with_groups({HEAD: {name: torch.ones(9, 9) for name in SENT.groups[HEAD]}})
    others = [wide, replace(REFERENCE, scales=dict.fromkeys(SENT.scales, 0.7)), REFERENCE.without({HEAD}), None]
    for other in others:
        packet = codec.encode(SENT, other)[0]
        assert packet.size_bytes > short.size_bytes + 100
        assert codec.decode(packet, None if other is None else SENT).scales == SENT.scales
    with pytest.raises(UpdateRefused, match="and they are others"):
        codec.decode(short, wide)
    with pytest.raises(UpdateRefused, match="does not say which tensors"):
        codec.decode(short)


def test_a_plain_packet_is_no_chains() -> None:
    with pytest.raises(UpdateRefused, match="does not say which tensors were coded"):
        chain("fp16").decode(PlainCodec().encode(SENT)[0], REFERENCE)


def test_a_chain_without_loss_is_no_codec_to_float_tolerance() -> None:
    for names in (("top_k:1",), ("delta",)):
        found = chain(*names).decode(chain(*names).encode(SENT, REFERENCE)[0], REFERENCE)
        assert chain(*names).lossless
        torch.testing.assert_close(flat(found), flat(SENT), rtol=1e-6, atol=1e-6)
    assert same_bits(chain("top_k:1").decode(chain("top_k:1").encode(SENT)[0]), SENT)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "no codec is named"),
        (("plain", "fp16"), "plain stands by itself"),
        (("delta", "zip"), "zip is no stage"),
        (("dleta", "fp16"), "did you mean 'delta'"),
        (("delta", "delta"), "each goes on with differences; take one of them"),
        (("top_k:0.1", "random_k:0.1"), "each makes fewer numbers"),
        (("fp16", "quantize:4"), "each rounds the numbers"),
        (("quantize:4", "delta"), "delta goes on with differences; it must stand before quantize:4"),
        (("quantize:0",), "a whole number from 1 to 8, as in quantize:4"),
        (("quantize:9",), "from 1 to 8"),
        (("quantize:2.5",), "a whole number"),
        (("quantize",), "the bits of a number"),
        (("top_k:0",), "above 0 and at most 1, as in top_k:0.05"),
        (("top_k:1.5",), "at most 1"),
        (("random_k:nan",), "above 0"),
        (("top_k:some",), "the share of the numbers"),
        (("fp16:3",), "fp16 takes no number"),
        (("fedobd:0.2", "quantize:4"), "each rounds the numbers"),
        (("low_rank:2", "top_k:0.1"), "each makes fewer numbers"),
        (("low_rank:0",), "a whole number from 1 to 256, as in low_rank:4"),
        (("zstd", "fp16"), "it must stand last, once"),
        (("topk:0.1",), "is no stage: did you mean 'top_k'"),
        (("delta", "lowrank:2"), "is no stage: did you mean 'low_rank'"),
        (("fedobd:1",), "above 0 and at most 0.99"),
        (("zstd", "zstd"), "it must stand last, once"),
    ],
)
def test_stages_that_make_no_chain(names: tuple[str, ...], words: str) -> None:
    with pytest.raises(LookupError) as caught:
        make_codec(names)
    assert words in str(caught.value)


def test_a_chain_of_unbiased_stages_is_unbiased() -> None:
    """Each stage draws for itself: places and roundings from one seed would go together. 3,000 packets, six standard errors."""
    small = Update({HEAD: {"weight": torch.randn(40, generator=torch.Generator().manual_seed(3))}})
    codec, draws = chain("random_k:0.5", "quantize:2"), 3000
    found = torch.stack([flat(codec.decode(codec.encode(small, seed=seed)[0])) for seed in range(draws)]).double()
    error = (found.mean(dim=0) - flat(small).double()).abs()
    assert bool((error < 6 * found.std(dim=0) / draws**0.5).all())
