"""Keys of a configuration that change attention or angles: each is computed as transformers does, or refused in words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from fedfit.errors import ModelError, RecipeError
from fedfit.experiment.load import parse_recipe
from fedfit.experiment.validate import validate
from fedfit.models.decoders.rotary import STEADY
from fedfit.models.families import GENERATING, family_of
from fedfit.models.load import load_config, load_model
from tests.builders import EVERY, TINY_MODELS, tiny_split, tiny_tokenizer
from tests.models.language import Tree, peft_log_probs, random_trees, whole_language_model
from tests.models.test_language import our_log_probs

ROTARY = [family for family in GENERATING if family != "gpt2"]
LONGEST = 80
"""Positions of the tiny models; the heads have 16 numbers, so 8 frequencies."""
KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 20},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "proportional": {"partial_rotary_factor": 0.5},
    "dynamic": {"factor": 4.0},
    "longrope": {
        "factor": 4.0,
        "original_max_position_embeddings": 10,
        "short_factor": [1.0] * 8,
        "long_factor": [3.0] * 8,
    },
}
"""``rope_type`` → keys with which it is none of the others, also for short texts; of ``longrope`` beyond ten tokens."""
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "no scale": ("gpt2", {"scale_attn_weights": False}),
    "scale by layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "upcast": ("gpt2", {"reorder_and_upcast_attn": True}),
    "no window": ("mistral", {"sliding_window": None}),
    "window unused": ("qwen2", {"use_sliding_window": False}),
    "some windows": ("qwen3", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}),
    "capped scores": ("gemma3_text", {"attn_logit_softcapping": 0.5}),
}
"""Other keys of the attention, each in a family that has it."""
LONG = [Tree(list(range(5, 45)), [list(range(50, 50 + more)) for more in (20, LONGEST - 40, 3)])]
"""A prompt of 40 tokens with three continuations, the second up to the last position: the tree has more tokens than that."""


def rope(family: str, kind: str) -> dict[str, Any]:
    """``rope_parameters`` of ``kind``; of Gemma 3 in its layers without a window alone."""
    given = {"rope_type": kind, "rope_theta": 10_000.0, **KINDS[kind]}
    if family != "gemma3_text":
        return {"rope_parameters": given}
    return {"rope_parameters": {"full_attention": given, "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}}}


def saved(family: str, changes: dict[str, Any], folder: Path) -> Path:
    """A random model of ``family`` with ``changes`` in its configuration."""
    plain = TINY_MODELS[family]()
    drop = {"layer_types"} if "max_window_layers" in changes or "use_sliding_window" in changes else set()
    config = type(plain)(**{key: value for key, value in plain.to_dict().items() if key not in drop} | changes)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny_tokenizer(types=False).save_pretrained(folder)
    return folder


def check_equal(folder: Path, work: Path) -> None:
    """Log-probabilities of short and long trees in one batch, in float64, are those of separate texts in transformers."""
    split = tiny_split(folder, labels=None, targets=EVERY)
    split.model.double()
    whole = whole_language_model(split, folder, work).double()
    trees = [*random_trees(4, (2, 3, 1)), *LONG]
    with torch.no_grad():
        torch.testing.assert_close(our_log_probs(split, trees), peft_log_probs(whole, trees), rtol=1e-6, atol=1e-6)


@torch.no_grad()
def logits(folder: Path, texts: list[list[int]], adjust: Callable[[Any], None] = lambda config: None) -> torch.Tensor:
    """Of transformers alone, in float64; ``adjust`` changes the configuration."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder)
    adjust(model.config)
    model = type(model).from_pretrained(folder, config=model.config).double().eval()
    found: torch.Tensor = model(torch.tensor(texts)).logits
    return found


def test_every_kind_of_transformers_is_known_here() -> None:
    assert {"default", *ROPE_INIT_FUNCTIONS} == set(KINDS)


@pytest.mark.parametrize("kind", STEADY)
@pytest.mark.parametrize("family", ROTARY)
def test_angles_of_the_position_alone_are_those_of_transformers(family: str, kind: str, tmp_path: Path) -> None:
    folder = saved(family, rope(family, kind), tmp_path / "model")
    if kind != "default":
        text = [[5, 6, 7, 8, 9]]
        plain = saved(family, rope(family, "default"), tmp_path / "plain")
        assert (logits(folder, text) - logits(plain, text)).abs().max() > 1e-3, "the kind makes a difference"
    check_equal(folder, tmp_path / "adapter")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in STEADY])
@pytest.mark.parametrize("family", ROTARY)
def test_angles_of_a_texts_neighbours_are_refused(family: str, kind: str, tmp_path: Path) -> None:
    folder = saved(family, rope(family, kind), tmp_path)
    place = "rope_parameters.full_attention.rope_type" if family == "gemma3_text" else "rope_parameters.rope_type"
    for labels in (None, 3):
        with pytest.raises(ModelError, match=rf"cannot be split: in its config\.json {place} = '{kind}': its angles") as caught:
            load_model(str(folder), labels, seed=0)
    remedy = 'up to 80 tokens, the most that are read, they are those of "default"'
    assert (remedy if kind == "dynamic" else "give a model with one of default, linear, yarn") in str(caught.value)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_a_neighbour_changes_a_text_in_transformers_itself(kind: str, tmp_path: Path) -> None:
    """The reason for the refusal. Behind the first five tokens, alone or with padding after them, nothing is different."""
    folder = saved("llama", rope("llama", kind), tmp_path)
    text, tokens = [5, 6, 7, 8, 9], LONGEST + 1 if kind == "dynamic" else 11
    padded = logits(folder, [text + [0] * (tokens - 5)])[:, :5]
    assert (padded - logits(folder, [text])).abs().max() > 1e-3
    within = logits(folder, [text + [0] * (tokens - 6)])[:, :5]
    torch.testing.assert_close(within, logits(folder, [text]))


def test_the_remedy_of_dynamic_gives_the_same_model(tmp_path: Path) -> None:
    folder, text = saved("llama", rope("llama", "dynamic"), tmp_path), [list(range(5, 5 + LONGEST))]

    def remedy(config: Any) -> None:
        config.rope_parameters["rope_type"] = "default"

    torch.testing.assert_close(logits(folder, text, remedy), logits(folder, text), rtol=1e-9, atol=1e-9)


def test_an_unknown_kind_is_refused() -> None:
    config = TINY_MODELS["llama"]()
    config.rope_parameters = {"rope_type": "spiral", "rope_theta": 1.0}
    fault = family_of("llama").unlike(config)
    assert fault is not None
    assert str(fault).startswith("rope_parameters.rope_type = 'spiral': its angles are not computed here; give a model with")


def test_attention_to_both_sides_is_refused_when_a_recipe_is_checked(tmp_path: Path) -> None:
    folder = saved("gemma3_text", {"use_bidirectional_attention": True}, tmp_path)
    words = "config.json use_bidirectional_attention = True: its tokens see those behind them"
    with pytest.raises(ModelError, match=words.replace(".", r"\.")):
        load_config(str(folder), None)
    with pytest.raises(RecipeError, match=words.replace(".", r"\.")) as caught:
        validate(parse_recipe("", [f"model.name={folder}"]))
    assert "model.name" in str(caught.value)


@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
def test_an_encoder_that_decodes_is_refused(family: str, tmp_path: Path) -> None:
    config = TINY_MODELS[family]()
    config.is_decoder = True
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"is_decoder = True: its tokens see those before them alone"):
        load_config(str(tmp_path))


@pytest.mark.parametrize("case", OTHERS)
def test_other_keys_of_the_attention_are_as_in_transformers(case: str, tmp_path: Path) -> None:
    family, changes = OTHERS[case]
    check_equal(saved(family, changes, tmp_path / "model"), tmp_path / "adapter")
