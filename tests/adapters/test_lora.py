from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, RobertaConfig

from fedfit.adapters.lora import LoraAdapter, inject, save_adapter
from fedfit.core.checks import check_form
from fedfit.core.update import HEAD, Factors, Job, Update, update_of
from fedfit.errors import UpdateRefused
from fedfit.models.families import FAMILIES, family_of
from fedfit.models.split import SplitModel
from fedfit.models.targets import resolve_all
from fedfit.settings import AdapterSettings
from tests.builders import CLASSES, EVERY, HIDDEN, SIX, lora_of, padded_batch, random_samples, same_bits, tiny_split, tiny_trunk

SAMPLES = random_samples(8, seed=3)


def logits(split: SplitModel) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = split.tail(tiny_trunk(split, None).batch(SAMPLES, np.arange(len(SAMPLES))))
        return found


def filled(update: Update) -> Update:
    """The same form with other numbers: 1, 2, 3, … over all tensors."""
    count = 0

    def fill(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += tensor.numel()
        return torch.arange(count - tensor.numel(), count, dtype=torch.float32).view_as(tensor) / 1000

    factors = {name: Factors(fill(pair.a), fill(pair.b), pair.scale) for name, pair in update.factors.items()}
    head = {name: fill(tensor) for name, tensor in update.groups.get(HEAD, {}).items()}
    return update_of(factors, {HEAD: head} if head else None, update.weight)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", ["train", "freeze"])
def test_what_is_loaded_is_read_back_to_the_bit(family: str, head: str, tiny_models: dict[str, Path]) -> None:
    split = tiny_split(tiny_models[family], head=head, targets=EVERY)
    wanted = filled(split.adapter.snapshot())
    split.adapter.load(Job(wanted))
    assert same_bits(split.adapter.snapshot(), wanted)
    assert (HEAD in wanted.present) == (head == "train")


def test_a_snapshot_is_a_copy_with_weight_and_facts(tiny_bert: Path) -> None:
    split = tiny_split(tiny_bert)
    before = split.adapter.snapshot(5.0, {"steps": 2})
    split.adapter.load(Job(filled(before)))
    assert same_bits(split.adapter.snapshot(), filled(before))
    assert not same_bits(before, filled(before))
    split.adapter.load(Job(before))
    assert same_bits(split.adapter.snapshot(), before)
    assert (before.weight, before.facts) == (5.0, {"steps": 2})


def test_load_copies_in_place_and_changes_nothing_else(tiny_bert: Path) -> None:
    split = tiny_split(tiny_bert)
    places = [parameter.data_ptr() for parameter in lora_of(split).parameters()]
    mine = {parameter.data_ptr() for parameter in lora_of(split).parameters()}
    rest = {name: tensor.clone() for name, tensor in split.model.state_dict().items() if tensor.data_ptr() not in mine}
    received = filled(split.adapter.snapshot())
    split.adapter.load(Job(received))
    assert [parameter.data_ptr() for parameter in lora_of(split).parameters()] == places
    after = split.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in rest.items())
    # 4 LoRA modules of 2 tensors, and the 2 of the head, are all that is not "the rest".
    assert len(after) - len(rest) == 4 * 2 + 2
    next(iter(lora_of(split).factors.values()))[0].data.zero_()
    assert same_bits(received, filled(received)), "the model must not share memory with what it was sent"


def broken(update: Update) -> dict[str, Update]:
    name, pair = next(iter(update.factors.items()))
    others = {other: factors for other, factors in update.factors.items() if other != name}
    head = dict(update.groups[HEAD])
    bias = head.pop("classifier.bias")

    def with_pair(factors: Factors) -> Update:
        return update.with_factors({**others, name: factors})

    return {
        "factor missing": update.with_factors(others),
        "factor unknown": update.with_factors({**update.factors, "bert.unknown": pair}),
        "factor misspelt": update.with_factors({**others, name + "_": pair}),
        "A transposed": with_pair(replace(pair, a=pair.a.T.contiguous())),
        "A of another rank than B": with_pair(replace(pair, a=pair.a[:1])),
        "rank above the resident": with_pair(replace(pair, a=torch.ones(4, HIDDEN), b=torch.ones(HIDDEN, 4))),
        "rank 0": with_pair(replace(pair, a=pair.a[:0], b=pair.b[:, :0])),
        "A of another width": with_pair(replace(pair, a=pair.a[:, 1:])),
        "A flat": with_pair(replace(pair, a=pair.a.flatten())),
        "A no matrix": with_pair(replace(pair, a=torch.tensor(1.0))),
        "B that would broadcast": with_pair(replace(pair, b=pair.b[:1])),
        "scale 0": with_pair(replace(pair, scale=0.0)),
        "scale negative": with_pair(replace(pair, scale=-1.0)),
        "scale not finite": with_pair(replace(pair, scale=float("inf"))),
        "scale no number": with_pair(replace(pair, scale=float("nan"))),
        "A of other type": with_pair(replace(pair, a=pair.a.double())),
        "B of other type": with_pair(replace(pair, b=pair.b.half())),
        "head missing": update.with_groups({HEAD: head}),
        "no head at all": update.without({HEAD}),
        "head unknown": update.with_groups({HEAD: {**update.groups[HEAD], "pooler.weight": bias}}),
        "head misshapen": update.with_groups({HEAD: {**head, "classifier.bias": bias[:1]}}),
        "head of other type": update.with_groups({HEAD: {**head, "classifier.bias": bias.half()}}),
    }


CASES = [
    "factor missing", "factor unknown", "factor misspelt", "A transposed", "A of another rank than B",
    "rank above the resident", "rank 0", "A of another width", "A flat", "A no matrix", "B that would broadcast", "scale 0",
    "scale negative", "scale not finite", "scale no number", "A of other type", "B of other type", "head missing",
    "no head at all", "head unknown", "head misshapen", "head of other type",
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_load_is_strict_and_a_refused_update_leaves_the_model_as_it_was(case: str, tiny_bert: Path) -> None:
    split = tiny_split(tiny_bert)
    before = split.adapter.snapshot()
    cases = broken(filled(before))
    assert list(cases) == CASES
    with pytest.raises(UpdateRefused):
        split.adapter.load(Job(cases[case]))
    assert same_bits(split.adapter.snapshot(), before)


def test_a_reply_must_have_the_rank_and_the_scale_that_were_sent(tiny_bert: Path) -> None:
    sent = tiny_split(tiny_bert).adapter.snapshot()
    check_form(filled(sent), [sent])
    name, pair = next(iter(sent.factors.items()))
    shorter, other_scale = Factors(pair.a[:2], pair.b[:, :2], pair.scale), replace(pair, scale=pair.scale * 2)
    for other, reason in ((shorter, r"lora_A.*got \(2, 32\) float32, wanted \(3, 32\)"), (other_scale, "scale of .*got 4.6")):
        with pytest.raises(UpdateRefused, match=reason):
            check_form(sent.with_factors({**sent.factors, name: other}), [sent])


def test_a_group_of_a_rules_own_must_have_the_form_that_is_expected(tiny_bert: Path) -> None:
    plain = tiny_split(tiny_bert).adapter.snapshot()
    own = {"x": torch.zeros(2, 3), "places": torch.zeros(4, dtype=torch.int32)}
    wanted = plain.with_groups({"own": own})
    same = {"places": torch.ones(4, dtype=torch.int32), "x": torch.ones(2, 3)}
    check_form(plain.with_groups({"own": same}), [wanted])
    check_form(plain.with_groups({"own": same}), [plain, wanted])  # either form will do
    others: dict[str, dict[str, torch.Tensor]] = {
        r"missing \['own.places', 'own.x'\], unknown nothing": {},
        r"missing \['own.places'\], unknown nothing": {"x": own["x"]},
        r"missing nothing, unknown \['own.more'\]": {**own, "more": torch.zeros(1)},
        r"own.x: got \(3, 2\) float32, wanted \(2, 3\) float32": {**own, "x": torch.zeros(3, 2)},
        r"own.x: got \(2, 3\) float64, wanted \(2, 3\) float32": {**own, "x": torch.zeros(2, 3, dtype=torch.float64)},
        r"own.places: got \(4,\) int64, wanted \(4,\) int32": {**own, "places": torch.zeros(4, dtype=torch.int64)},
    }
    for reason, other in others.items():
        with pytest.raises(UpdateRefused, match=reason):
            check_form(plain.with_groups({"own": other}), [wanted])
    with pytest.raises(UpdateRefused, match=r"unknown \['own.places', 'own.x'\]"):
        check_form(wanted, [plain])


def test_a_frozen_head_refuses_a_sent_one(tiny_bert: Path) -> None:
    with_head = tiny_split(tiny_bert).adapter.snapshot()
    with pytest.raises(UpdateRefused, match="head"):
        tiny_split(tiny_bert, head="freeze").adapter.load(Job(with_head))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adapter", [{}, {"head": "freeze"}, {"layers": (1, 3), "targets": EVERY}], ids=str)
def test_plain_peft_loads_the_saved_adapter(
    family: str, adapter: dict[str, Any], tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    split = tiny_split(tiny_models[family], **adapter)
    save_adapter(split.model, tmp_path, str(tiny_models[family]))
    torch.manual_seed(99)  # another fresh head than ours, which the saved one must replace
    base = AutoModelForSequenceClassification.from_pretrained(tiny_models[family], num_labels=CLASSES)
    loaded = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    ids, mask, _ = padded_batch(SAMPLES, list(range(len(SAMPLES))))
    with torch.no_grad():
        expected = loaded(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(logits(split), expected, rtol=1e-5, atol=1e-5)
    assert loaded.peft_config["default"].base_model_name_or_path == str(tiny_models[family])


def test_factors_are_drawn_from_the_seed_and_b_is_zero(tiny_bert: Path) -> None:
    models = iter([AutoModelForSequenceClassification.from_pretrained(tiny_bert) for _ in range(3)])
    family = family_of("bert")

    def drawn(seed: int) -> list[torch.Tensor]:
        model = next(models)
        state = LoraAdapter(inject(model, family, AdapterSettings(layers="last:2"), (2, 3), seed), family)
        assert all(not b.any() for _, b, _ in state.factors.values())
        return [a.detach().clone() for a, _, _ in state.factors.values()]

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = drawn(1), drawn(1), drawn(2)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(
    ("targets", "modules"),
    [
        (("query", "value"), 2 * 2),
        (("output",), 2),  # `output.dense` is the end of `attention.output.dense` as well: it must not be taken for it
        (("attention_output", "intermediate"), 2 * 2),
        (SIX, 6 * 2),
    ],
)
def test_the_targets_of_the_chosen_layers_are_adapted_and_no_others(
    targets: tuple[str, ...], modules: int, tiny_models: dict[str, Path]
) -> None:
    for family, folder in tiny_models.items():
        ends = [FAMILIES[family].targets[target] for target in resolve_all(targets, FAMILIES[family].targets)]
        stack = FAMILIES[family].layers.rpartition(".")[2]
        names = list(lora_of(tiny_split(folder, targets=targets, layers=(1, 3))).factors)
        assert len(names) == (2 * len(ends) if family == "gpt2" else modules)  # query, key and value are one matrix
        assert all(any(name.endswith((f"{stack}.1.{end}", f"{stack}.3.{end}")) for end in ends) for name in names)


def test_the_papers_parameter_total() -> None:
    """129,960,968 parameters, the total that the paper prints for RoBERTa-base, 4 labels, r = 128 (METHODS section 1).

    RoBERTa-base is 12 layers of width 768 and feed-forward 3072, 50,265 words, 514 positions, one token type:
    embeddings (50,265 + 514 + 1 + 2)·768 = 39,000,576 (the last 2 are the layer norm); a layer has 4·(768·768 + 768)
    + (768·3072 + 3072) + (3072·768 + 768) + 4·768 = 7,087,872, twelve 85,054,464; the classifier 768·768 + 768 +
    768·4 + 4 = 593,668. Together 124,648,708. PEFT keeps a second classifier, the one that trains; and LoRA's pairs are
    r·(768 + 768) on 2 matrices of 12 layers.
    """
    with torch.device("meta"):
        config = RobertaConfig(
            vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, num_labels=4, layer_norm_eps=1e-5
        )
        model = AutoModelForSequenceClassification.from_config(config)
        base = sum(parameter.numel() for parameter in model.parameters())
        model.requires_grad_(False)
        settings = AdapterSettings(rank=128, alpha=128, layers="all", targets=("query", "value"))
        wrapped = inject(model, family_of("roberta"), settings, tuple(range(12)), seed=0)
    total = sum(parameter.numel() for parameter in wrapped.parameters())
    trained = sum(parameter.numel() for parameter in wrapped.parameters() if parameter.requires_grad)
    lora = 128 * (768 + 768) * 2 * 12
    assert base == 39_000_576 + 12 * 7_087_872 + 593_668 == 124_648_708
    assert trained == 593_668 + lora
    assert total == 124_648_708 + 593_668 + lora == 129_960_968
