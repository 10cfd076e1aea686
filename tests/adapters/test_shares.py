"""Fixed shares of two pairs, and shares by sample: against one adapter for each sample, its products added up."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fedfit.core.update import HEAD, Factors, Job, Likeness, Update
from fedfit.models.speaker import ModelSpeaker
from fedfit.models.split import SplitModel
from fedfit.personalization.fusion import Weights, fuse
from tests.builders import EVERY, TASK, chat_tokenizer, lora_of, random_samples, tiny_split, tiny_trunk
from tests.models.language import batch_of, random_trees, read

SAMPLES = random_samples(8, seed=3)
ROWS = np.arange(8)
REFERENCES = [1, 4, 6]
MOST = 0.7


def two_adapters(split: SplitModel) -> tuple[Update, Update]:
    """Of ranks 3 and 2, both far from zero."""
    own = split.adapter.snapshot()
    generator = torch.Generator().manual_seed(5)
    other = {
        name: Factors(
            0.3 * torch.randn(2, pair.a.shape[1], generator=generator),
            0.3 * torch.randn(pair.b.shape[0], 2, generator=generator),
            1.7,
        )
        for name, pair in own.factors.items()
    }
    lora_of(split).reserve(5)
    return own, own.with_factors(other)


def stacked(own: Update, other: Update, weights: Weights) -> Job:
    """One adapter with both products at ``weights``, and the head of ``own``."""
    head = {HEAD: own.groups[HEAD]} if HEAD in own.groups else {}
    return Job(fuse(own, other, weights, products=True).with_groups(head))


def share_of(state: Tensor, references: list[Tensor]) -> float:
    """λ times the mean cosine, in float64, one reference after another."""
    x, like = state.double().numpy(), [each.double().numpy() for each in references]
    cosines = [float(x @ y) / float(np.linalg.norm(x) * np.linalg.norm(y)) for y in like]
    return MOST * max(0.0, sum(cosines) / len(cosines))


@pytest.mark.parametrize("family", ["bert", "mpnet", "llama"])
def test_fixed_shares_weigh_the_products(family: str, tiny_models: dict[str, Path]) -> None:
    """Loss and gradients: the own B is multiplied by its share in the stacked pair, so that its gradient is divided by it."""
    split = tiny_split(tiny_models[family])
    own, other = two_adapters(split)

    def loss(job: Job) -> Tensor:
        split.load(job)
        split.adapter.train_only(split.adapter.groups)
        split.model.zero_grad()
        targets = TASK.collate(SAMPLES, ROWS, split.device)
        found = TASK.loss(split.tail(tiny_trunk(split, None).batch(SAMPLES, ROWS), TASK.positions(targets)), targets)
        found.backward()  # type: ignore[no-untyped-call]
        return found.detach()

    expected = loss(stacked(own, other, (0.3, 0.9)))
    wanted = {name: p.grad.clone() for name, p in split.adapter.named_parameters().items() if p.grad is not None}
    found = loss(Job(own, beside=other.factors, shares=(0.3, 0.9)))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for name, pair in own.factors.items():
        a, b = (split.adapter.named_parameters()[f"{group}.{name}"].grad for group in ("lora_A", "lora_B"))
        torch.testing.assert_close(a, wanted[f"lora_A.{name}"][:3], rtol=1e-4, atol=1e-6)
        share = 0.3 * pair.scale / other.factors[name].scale
        torch.testing.assert_close(b, wanted[f"lora_B.{name}"][:, :3] * share, rtol=1e-4, atol=1e-6)
    assert split.adapter.groups == own.present, "there is no gate"


@pytest.mark.parametrize("targets", [("query", "value"), EVERY])
@pytest.mark.parametrize("family", ["bert", "roberta", "llama"])
def test_each_sample_has_shares_of_its_own(family: str, targets: tuple[str, ...], tiny_models: dict[str, Path]) -> None:
    split = tiny_split(tiny_models[family], targets=targets)
    own, other = two_adapters(split)
    states = [split.trunk(torch.from_numpy(SAMPLES.ids_of(int(row))).long()[None], None)[0].mean(dim=0) for row in ROWS]
    references = [states[row] for row in REFERENCES]
    trunk = tiny_trunk(split, None)
    with torch.no_grad():
        split.load(Job(own, beside=other.factors, shares=Likeness(torch.stack(references), MOST)))
        found = split.tail(trunk.batch(SAMPLES, ROWS))
        shares = [share_of(state, references) for state in states]
        for row, share in enumerate(shares):
            split.load(stacked(own, other, (share, 1 - share)))
            torch.testing.assert_close(found[row], split.tail(trunk.batch(SAMPLES, ROWS[[row]]))[0], rtol=1e-4, atol=1e-5)
    assert max(shares) - min(shares) > 0.01


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_a_text_is_known_by_its_prompt_alone(family: str, tiny_models: dict[str, Path]) -> None:
    """Trees with one to three continuations, whose read positions the last layer packs into one row of tokens."""
    split = tiny_split(tiny_models[family], labels=None, targets=EVERY)
    own, other = two_adapters(split)
    trees = random_trees(6, (2, 3, 1), seed=2)
    prompts = [split.trunk(torch.tensor(tree.prompt)[None], None)[0].mean(dim=0) for tree in trees]
    references = prompts[:2]
    with torch.no_grad():
        split.load(Job(own, beside=other.factors, shares=Likeness(torch.stack(references), MOST)))
        positions, wanted = read(trees)
        found = split.tail(batch_of(split, trees), positions).log_probs(wanted)
        start = 0
        for tree, prompt in zip(trees, prompts, strict=True):
            share = share_of(prompt, references)
            split.load(stacked(own, other, (share, 1 - share)))
            positions, wanted = read([tree])
            alone = split.tail(batch_of(split, [tree]), positions).log_probs(wanted)
            torch.testing.assert_close(found[start : start + len(wanted)], alone, rtol=1e-4, atol=1e-4)
            start += len(wanted)
        assert start == len(found)


def test_answers_are_those_of_each_prompts_own_adapter(tiny_models: dict[str, Path]) -> None:
    split = tiny_split(tiny_models["llama"], labels=None, targets=EVERY)
    own, other = two_adapters(split)
    speaker = ModelSpeaker(split, chat_tokenizer())
    prompts = [np.array(tree.prompt, dtype=np.int32) for tree in random_trees(6, (1,), seed=4)]
    states = [split.trunk(torch.from_numpy(ids).long()[None], None)[0].mean(dim=0) for ids in prompts]
    split.load(Job(own, beside=other.factors, shares=Likeness(torch.stack(states[:2]), 1.0)))
    found = speaker.answers(prompts, 8)
    alone = []
    for ids, state in zip(prompts, states, strict=True):
        share = share_of(state, states[:2]) / MOST
        split.load(stacked(own, other, (share, 1 - share)))
        alone += speaker.answers([ids], 8)
    assert found == alone
    split.load(stacked(own, other, (0.0, 1.0)))
    assert speaker.answers(prompts, 8) != found
