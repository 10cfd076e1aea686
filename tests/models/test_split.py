"""A tail fed from the trunk is the whole model: the model that Hugging Face and PEFT make of the saved adapter."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForSequenceClassification

from fedfit.data.batches import length_sorted_batches
from fedfit.models.batch import Batch
from fedfit.models.families import FAMILIES, GENERATING
from fedfit.models.split import SplitModel
from tests.builders import CLASSES, EVERY, TAKES_SEGMENTS, lora_of, padded_batch, random_samples, tiny_split, tiny_trunk
from tests.models.whole import hidden_at_the_cut, peft_names, whole_model

SAMPLES = random_samples(16, seed=3)
MIXED = list(range(10))
ALL: dict[str, Any] = {"targets": EVERY}
CASES: dict[str, dict[str, Any]] = {
    "last:2": {"layers": "last:2"},
    "last:1": {"layers": "last:1"},
    "first:2": {"layers": "first:2"},
    "middle:2": {"layers": "middle:2"},
    "all": {"layers": "all"},
    "1 and 3": {"layers": (1, 3)},
    "last:2, every target": {"layers": "last:2", **ALL},
    "1 and 3, every target": {"layers": (1, 3), **ALL},
    "all, every target": {"layers": "all", **ALL},
    "frozen head": {"layers": "last:2", "head": "freeze"},
}
MINILM_CASES: dict[str, dict[str, Any]] = {
    "last:3": {"layers": "last:3", "rank": 8, "alpha": 16},
    "last:2, every target": {"layers": "last:2", **ALL},
    "first:2": {"layers": "first:2", "head": "freeze"},
}


def tail_from_trunk(split: SplitModel, rows: list[int]) -> torch.Tensor:
    found: torch.Tensor = split.tail(tiny_trunk(split, None).batch(SAMPLES, np.array(rows)))
    return found


def loss_and_gradients(whole: Any, rows: list[int]) -> tuple[float, dict[str, torch.Tensor]]:
    """Of Hugging Face's own forward pass over the padded batch; gradients by PEFT's names, in float64."""
    ids, mask, _ = padded_batch(SAMPLES, rows)
    loss = whole(input_ids=ids, attention_mask=mask, labels=torch.arange(len(rows)) % CLASSES).loss
    loss.backward()
    gradients = {name: p.grad.double() for name, p in whole.named_parameters() if p.grad is not None}
    whole.zero_grad()
    return loss.item(), gradients


def check_against_whole(split: SplitModel, base: Path, folder: Path, rows: list[int], tolerance: float = 1e-5) -> None:
    """The truth is the whole model in float64. A random attention is sharp, and the gradient of its query is then a
    difference of much larger numbers, so float32 alone may lose more than ``tolerance``: as much as the whole model
    loses itself in float32, thrice, is allowed as well."""
    whole = whole_model(split, base, folder)
    _, rounded = loss_and_gradients(whole, rows)
    expected, truth = loss_and_gradients(whole.double(), rows)
    labels = torch.arange(len(rows)) % CLASSES
    loss = functional.cross_entropy(split.tail(hidden_at_the_cut(split, SAMPLES, rows)), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(expected, rel=tolerance)
    ours = peft_names(split)
    assert ours.keys() == {name for name in truth if ".lora_" in name or (lora_of(split).head and ".modules_to_save." in name)}
    for name, parameter in ours.items():
        assert parameter.grad is not None
        size = float(truth[name].norm())
        assert size > 1e-6, f"{name} has no gradient, so nothing is compared"
        noise = float((rounded[name] - truth[name]).norm()) / size
        assert noise < 1e-3
        allowed = max(tolerance, 3 * noise) if parameter.dtype == torch.float32 else tolerance
        assert float((parameter.grad - truth[name]).norm()) / size < allowed, name
    assert all(p.grad is None for p in split.model.parameters() if not any(p is mine for mine in ours.values()))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_tail_is_the_whole_model_in_loss_and_every_gradient(
    family: str, case: str, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    split = tiny_split(tiny_models[family], **CASES[case])
    check_against_whole(split, tiny_models[family], tmp_path, MIXED)


@pytest.mark.parametrize("family", FAMILIES)
def test_so_it_is_to_ten_digits_in_float64(family: str, tiny_models: dict[str, Path], tmp_path: Path) -> None:
    split = tiny_split(tiny_models[family], layers="all", **ALL)
    split.model.double()
    check_against_whole(split, tiny_models[family], tmp_path, MIXED, tolerance=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
def test_so_it_is_where_no_sample_is_padded(family: str, tiny_models: dict[str, Path], tmp_path: Path) -> None:
    length = int(np.bincount(SAMPLES.lengths).argmax())
    rows = [int(row) for row in np.flatnonzero(SAMPLES.lengths == length)]
    assert len(rows) > 1
    check_against_whole(tiny_split(tiny_models[family], **ALL), tiny_models[family], tmp_path, rows)


@pytest.mark.parametrize("case", MINILM_CASES)
def test_so_it_is_for_the_real_minilm(case: str, minilm: Path, tmp_path: Path) -> None:
    check_against_whole(tiny_split("minilm", **MINILM_CASES[case]), minilm, tmp_path, MIXED)


@pytest.mark.parametrize("family", FAMILIES)
def test_so_it_is_for_sentence_pairs(family: str, tiny_models: dict[str, Path], tmp_path: Path) -> None:
    split = tiny_split(tiny_models[family])
    whole = whole_model(split, tiny_models[family], tmp_path)
    pairs = random_samples(6, seed=5, types=family in TAKES_SEGMENTS)
    rows = list(range(6))
    ids, mask, _ = padded_batch(pairs, rows)
    types = {}
    if pairs.segments is not None:
        types["token_type_ids"] = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            kinds = pairs.segments_of(row)
            assert kinds is not None
            types["token_type_ids"][number, : len(kinds)] = torch.from_numpy(kinds).long()
    logits = split.tail(tiny_trunk(split, None).batch(pairs, np.array(rows)))
    torch.testing.assert_close(logits, whole(input_ids=ids, attention_mask=mask, **types).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_scale_is_alpha_over_rank(family: str, tiny_models: dict[str, Path]) -> None:
    """Against a plain model without PEFT whose weights are ``W0 + (α/r)·B·A``, merged here by hand."""
    split = tiny_split(tiny_models[family], rank=3, alpha=7.0, layers="last:2", **ALL)
    plain = AutoModelForSequenceClassification.from_pretrained(tiny_models[family], num_labels=CLASSES).eval()
    update = split.adapter.snapshot()
    with torch.no_grad():
        for module, factors in update.factors.items():
            assert factors.scale == 7.0 / 3
            product = (7.0 / 3) * factors.b @ factors.a
            plain.get_submodule(module).weight += product.t() if family == "gpt2" else product
        for name, tensor in update.groups["head"].items():
            plain.get_parameter(name).copy_(tensor)
    ids, mask, _ = padded_batch(SAMPLES, MIXED)
    expected = plain(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(tail_from_trunk(split, MIXED), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_layer_at_its_first_token_is_the_plain_last_layer(
    family: str, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    """The tail is here the last layer alone, fed with what Hugging Face's own layers give below it."""
    split = tiny_split(tiny_models[family], layers="last:1", **ALL)
    whole = whole_model(split, tiny_models[family], tmp_path)
    ids, mask, lengths = padded_batch(SAMPLES, MIXED)
    expected = whole(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    logits = split.tail(Batch(expected.hidden_states[-2].detach(), lengths))
    torch.testing.assert_close(logits, expected.logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layers", ["last:2", "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_neither_padding_nor_batching_by_length_changes_a_samples_logits(
    family: str, layers: str, tiny_models: dict[str, Path]
) -> None:
    split = tiny_split(tiny_models[family], layers=layers)
    rows = list(range(len(SAMPLES)))
    with torch.no_grad():
        alone = torch.cat([tail_from_trunk(split, [row]) for row in rows])
        together = tail_from_trunk(split, rows)
        by_length = torch.empty_like(alone)
        for batch in length_sorted_batches(SAMPLES.lengths, 5):
            by_length[torch.from_numpy(batch)] = tail_from_trunk(split, [int(row) for row in batch])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(by_length, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_stands_in_the_padding_is_not_read(family: str, tiny_models: dict[str, Path]) -> None:
    split = tiny_split(tiny_models[family], layers="last:3")
    batch = tiny_trunk(split, None).batch(SAMPLES, np.array(MIXED))
    rubbish = batch.hidden.clone()
    rubbish[torch.arange(rubbish.shape[1]) >= batch.lengths[:, None]] = 100.0
    assert not torch.equal(rubbish, batch.hidden)
    with torch.no_grad():
        torch.testing.assert_close(split.tail(replace(batch, hidden=rubbish)), split.tail(batch), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [*FAMILIES, "minilm"])
def test_the_trunk_of_a_sample_does_not_depend_on_its_neighbours(
    name: str, tiny_models: dict[str, Path], request: pytest.FixtureRequest
) -> None:
    """To some float32 roundings; ``Trunk`` makes it equal to the bit, see ``test_trunk.py``."""
    split = tiny_split(tiny_models[name] if name in tiny_models else request.getfixturevalue("minilm"))
    ids = torch.randint(5, 199, (40, 11), generator=torch.Generator().manual_seed(0))
    together = split.trunk(ids, None)
    for row in (0, 17, 39):
        torch.testing.assert_close(split.trunk(ids[row : row + 1], None)[0], together[row], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(split.trunk(ids.flip(0), None).flip(0), together, rtol=1e-5, atol=1e-5)


def test_the_trunk_is_all_below_the_lowest_adapted_layer(tiny_bert: Path) -> None:
    specs = {"last:1": 3, "last:3": 1, "first:2": 0, "all": 0, "middle:2": 1, (1, 3): 1}
    assert {spec: tiny_split(tiny_bert, layers=spec).cut for spec in specs} == specs
    split = tiny_split(tiny_bert, layers=(1, 3))
    assert {name.split(".")[3] for name in lora_of(split).factors} == {"1", "3"}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_trunk_has_no_gradient_and_the_tail_trains_the_adapter_alone(family: str, tiny_models: dict[str, Path]) -> None:
    split = tiny_split(tiny_models[family], layers="last:2")
    assert not split.trunk(torch.full((2, 5), 7), None).requires_grad
    trained = {id(parameter) for parameter in split.model.parameters() if parameter.requires_grad}
    assert trained == {id(parameter) for parameter in lora_of(split).parameters()}


# Dropout


def draws(split: SplitModel, count: int, rows: int = 500) -> torch.Tensor:
    """``count`` logits of one sample, each under its own dropout mask."""
    one = tiny_trunk(split, None).batch(SAMPLES, np.zeros(1, dtype=np.int64))
    many = Batch(one.hidden.repeat(rows, 1, 1), one.lengths.repeat(rows))
    torch.manual_seed(0)
    with torch.no_grad():
        chunks = [split.tail(many) for _ in range(count // rows)]
    return torch.cat(chunks)


def is_random(split: SplitModel) -> bool:
    with torch.no_grad():
        return not torch.equal(tail_from_trunk(split, MIXED), tail_from_trunk(split, MIXED))


@pytest.mark.parametrize("family", FAMILIES)
def test_which_dropout_is_on(family: str, tiny_models: dict[str, Path]) -> None:
    plain = tiny_split(tiny_models[family])
    with_own = tiny_split(tiny_models[family], dropout=0.5)
    ids = torch.randint(5, 199, (4, 9))
    for split, own in ((plain, False), (with_own, True)):
        assert not is_random(split)
        split.train_mode(True)
        assert is_random(split) == own
        split.train_mode(True, base_dropout=True)
        assert is_random(split)
        torch.testing.assert_close(split.trunk(ids, None), split.trunk(ids, None), rtol=0, atol=0)
        split.train_mode(False)
        assert not is_random(split)
        split.train_mode(False, base_dropout=True)
        assert not is_random(split)


PLACES = {
    "attention": ({"attention_probs_dropout_prob": 0.4, "hidden_dropout_prob": 0.0}, 0.0),
    "hidden": ({"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.2}, 0.0),
    "lora": ({"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}, 0.5),
}
NAMES = {
    "distilbert": {"attention_probs_dropout_prob": "attention_dropout", "hidden_dropout_prob": "dropout"},
    "gpt2": {"attention_probs_dropout_prob": "attn_pdrop", "hidden_dropout_prob": "resid_pdrop"},
    **{name: {"attention_probs_dropout_prob": "attention_dropout"} for name in GENERATING if name != "gpt2"},
}
"""The names of the probabilities where they are not BERT's; a decoder with rotary positions has that of the attention alone."""


def with_dropout(base: Path, folder: Path, family: str, probabilities: dict[str, float]) -> Path:
    """A copy of the model with other dropout probabilities."""
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    if family in NAMES:
        names = NAMES[family]
        assert all(name in names or value == 0 for name, value in probabilities.items())
        probabilities = {names[name]: value for name, value in probabilities.items() if name in names}
    if family == "distilbert":
        probabilities["seq_classif_dropout"] = probabilities["dropout"]
    assert probabilities.keys() <= config.keys()
    (folder / "config.json").write_text(json.dumps(config | probabilities))
    return folder


@pytest.mark.parametrize(
    ("family", "place"),
    [(name, place) for name in FAMILIES for place in PLACES if place != "hidden" or len(NAMES.get(name, "two")) > 1],
)
def test_dropout_in_the_tail_is_that_of_the_whole_model(
    family: str, place: str, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    """Mean and spread of the logits agree with Hugging Face's own training mode, its layers below the cut held in eval.

    Of n = 4000 draws the mean is known to σ/√4000 = 0.016 σ and the spread to 1/√8000 = 1.1 %; five times the error of
    the difference of two such means is 0.11 σ, of two such spreads 8 %. One kind of dropout is on at a time, so that
    leaving it out somewhere shows.
    """
    probabilities, own = PLACES[place]
    base_folder = with_dropout(tiny_models[family], tmp_path / "base", family, probabilities)
    split = tiny_split(base_folder, layers="last:1", dropout=own, **ALL)
    split.train_mode(True, base_dropout=True)
    ours = draws(split, 4000)
    whole = whole_model(split, base_folder, tmp_path / "adapter").train()
    base = whole.get_base_model()
    encoder = base.get_submodule(split.family.encoder)
    for name, child in encoder.named_children():
        child.train(name == split.family.layers.partition(".")[0])
    for layer in list(encoder.get_submodule(split.family.layers).children())[:-1]:
        layer.eval()
    ids, mask, _ = padded_batch(SAMPLES, [0])
    with torch.no_grad():
        theirs = torch.cat([whole(input_ids=ids.repeat(500, 1), attention_mask=mask.repeat(500, 1)).logits for _ in range(8)])
    spread = theirs.std(dim=0)
    assert bool((spread > 1e-3).all())
    assert bool(((ours.mean(dim=0) - theirs.mean(dim=0)).abs() < 0.11 * spread).all())
    assert bool(((ours.std(dim=0) / spread - 1).abs() < 0.08).all())


def test_the_mean_under_loras_dropout_is_near_the_eval_output(tiny_bert: Path) -> None:
    """Dropout keeps the mean of a linear map; what follows is nearly linear for a small adapter.

    With p = 0.5 a forgotten 1/(1 − p) would halve the adapter's part, so a distance of a quarter of that part tells them
    apart.
    """
    split = tiny_split(tiny_bert, layers="last:1", targets=("output",), dropout=0.5)
    without = tiny_split(tiny_bert, layers="last:1", targets=("output",))
    with torch.no_grad():
        for _, b, _ in lora_of(split).factors.values():
            b.mul_(0.3)
        for _, b, _ in lora_of(without).factors.values():
            b.zero_()
        part = (tail_from_trunk(split, [0]) - tail_from_trunk(without, [0])).norm()
        expected = tail_from_trunk(split, [0])[0]
    split.train_mode(True)
    assert part > 0
    assert (draws(split, 4000).mean(dim=0) - expected).norm() < 0.25 * part
