"""Small things that many tests build: random models, samples, updates and whole federations."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MPNetConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
)

from fedfit.adapters.build import build_split_model
from fedfit.adapters.lora import LoraAdapter
from fedfit.aggregation.contract import Context, Rule
from fedfit.aggregation.table import rule_entry
from fedfit.codecs.plain import PlainCodec
from fedfit.core.messages import Packet
from fedfit.core.update import HEAD, Factors, Update, named_tensors, update_of
from fedfit.data.tokenize import Samples
from fedfit.experiment.build import Experiment, Parts, assemble
from fedfit.models.families import FAMILIES, GENERATING, family_of
from fedfit.models.load import load_config
from fedfit.models.split import SplitModel
from fedfit.models.trunk import Trunk, open_trunk
from fedfit.personalization.table import make_method
from fedfit.rounds.devices import Devices
from fedfit.settings import AdapterSettings, ModelSettings, Recipe, TrainingSettings, TrunkCacheSettings
from fedfit.tasks.classification import Classification

VOCABULARY = 200
HIDDEN = 32
LAYERS = 4
CLASSES = 3

# Weights of standard deviation 0.2, ten times the usual: with 0.02 a random attention is uniform, and the gradients of
# query and key are nothing but rounding.
_SHARED: dict[str, Any] = {"vocab_size": VOCABULARY, "initializer_range": 0.2, "pad_token_id": 0}
# Heads of 16: the trunk gives the same bits in any batch only where a head's row fills whole cache lines, as real ones do.
_SIZES = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 48}
# Decoders: the heads' width is not the hidden size where a family allows it, two queries share a key, and windows are shorter
# than texts.
_DECODER: dict[str, Any] = {
    **_SHARED,
    **_SIZES,
    "num_key_value_heads": 1,
    "max_position_embeddings": 80,
    "attention_dropout": 0.1,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
_WIDE: dict[str, Any] = {**_DECODER, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
TINY_MODELS: dict[str, Callable[[], Any]] = {
    "bert": lambda: BertConfig(**_SHARED, **_SIZES, max_position_embeddings=80),
    "roberta": lambda: RobertaConfig(
        **_SHARED, **_SIZES, max_position_embeddings=84, type_vocab_size=1, bos_token_id=2, eos_token_id=3
    ),
    "distilbert": lambda: DistilBertConfig(
        **_SHARED, dim=HIDDEN, n_layers=LAYERS, n_heads=2, hidden_dim=48, max_position_embeddings=80
    ),
    "mpnet": lambda: MPNetConfig(**_SHARED, **_SIZES, max_position_embeddings=82),
    "electra": lambda: ElectraConfig(**_SHARED, **_SIZES, embedding_size=24, max_position_embeddings=80),
    "llama": lambda: LlamaConfig(**_WIDE, tie_word_embeddings=True, mlp_bias=True, attention_bias=True),
    "mistral": lambda: MistralConfig(**_WIDE, sliding_window=4),
    "qwen2": lambda: Qwen2Config(**_DECODER, use_sliding_window=True, sliding_window=5, max_window_layers=3),
    "qwen3": lambda: Qwen3Config(**_WIDE),
    "gemma3_text": lambda: Gemma3TextConfig(
        **_WIDE,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention"] * 2,
        query_pre_attn_scalar=9,
        final_logit_softcapping=3.0,
    ),
    "gpt2": lambda: GPT2Config(
        **_SHARED, n_embd=HIDDEN, n_layer=LAYERS, n_head=2, n_inner=48, n_positions=80, bos_token_id=2, eos_token_id=3
    ),
}
"""Family → the configuration of a small random model of it; the tests run over every family of ``FAMILIES``."""

TAKES_SEGMENTS = tuple(name for name, config in TINY_MODELS.items() if getattr(config(), "type_vocab_size", 1) > 1)
"""The families whose tokens have a segment: first or second text."""

SIX = tuple(FAMILIES["bert"].targets)
"""The adaptable matrices of an encoder; a decoder has each of them under another name."""

EVERY: tuple[str, ...] = ("every",)
"""For ``tiny_split``: every adaptable matrix of the family."""


def save_tiny_model(family: str, folder: Path) -> Path:
    """A random model of ``family`` and a tokenizer, as the Auto classes of transformers load them. An encoder has no head, a
    decoder that of a language model."""
    decodes = family in GENERATING
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = (AutoModelForCausalLM if decodes else AutoModel).from_config(TINY_MODELS[family]())
        for name, parameter in model.named_parameters():
            if decodes and parameter.dim() == 1 and name.endswith("weight"):  # norms, all alike when fresh
                torch.nn.init.normal_(parameter, mean=float(parameter.data[0]), std=0.2)
            if name.endswith("bias"):  # zero when fresh, which would hide a bias that is left out
                torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    tiny_tokenizer(types=family in TAKES_SEGMENTS).save_pretrained(folder)
    return folder


def tiny_tokenizer(types: bool) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer whose words are letters and letter pairs, with ``[CLS]`` and ``[SEP]`` round each text."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    words += [first + second for first in "aeiou" for second in letters]
    vocabulary = {word: number for number, word in enumerate(words)}
    assert len(vocabulary) <= VOCABULARY
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = ["input_ids", "token_type_ids", "attention_mask"] if types else ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=names,
    )


CHAT_TEMPLATE = (
    "{% for message in messages %}[CLS] {{ message['role'] }} {{ message['content'] }} [SEP] {% endfor %}"
    "{% if add_generation_prompt %}[CLS] assistant {% endif %}"
)


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """The words of ``tiny_tokenizer`` for a language model: ``[CLS]`` begins and ``[SEP]`` ends a text; neither is added."""
    from tokenizers import processors

    tokenizer = tiny_tokenizer(types=False)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("$A", "$A $B", [])
    tokenizer.add_special_tokens({"bos_token": "[CLS]", "eos_token": "[SEP]"})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def random_samples(count: int, seed: int = 0, shortest: int = 3, longest: int = 12, types: bool = False) -> Samples:
    """``count`` random samples of mixed lengths; the class is that of the most frequent third of the vocabulary."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(shortest, longest + 1, count)
    labels = rng.integers(0, CLASSES, count).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    third = (VOCABULARY - 5) // CLASSES
    base = np.repeat(5 + labels * third, lengths)
    own = base + rng.integers(0, third, offsets[-1])
    noise = rng.integers(5, VOCABULARY, offsets[-1])
    ids = np.where(rng.random(offsets[-1]) < 0.7, own, noise).astype(np.int32)
    segments = rng.integers(0, 2, offsets[-1]).astype(np.int8) if types else None
    hashes = [xxhash.xxh3_128(ids[a:b].tobytes()).digest() for a, b in pairwise(offsets)]
    return Samples(ids, segments, offsets, labels, hashes)


def tiny_split(folder: Path | str, seed: int = 0, labels: int | None = CLASSES, **adapter: Any) -> SplitModel:
    """A split model whose LoRA B is not zero, so that a wrong scale, a lost factor or a wrong gradient shows."""
    if adapter.get("targets") == EVERY:
        adapter["targets"] = tuple(family_of(load_config(str(folder)).model_type).targets)
    settings = AdapterSettings(**{"rank": 3, "alpha": 7.0, "layers": "last:2", **adapter})
    split = build_split_model(str(folder), labels, settings, seed)
    randomise(split, seed)
    return split


def lora_of(split: SplitModel) -> LoraAdapter:
    """The adapter of ``split``, which is one of LoRA."""
    assert isinstance(split.adapter, LoraAdapter)
    return split.adapter


@torch.no_grad()
def randomise(split: SplitModel, seed: int) -> None:
    """Every LoRA B is drawn anew, as large as to matter."""
    generator = torch.Generator().manual_seed(seed + 1)
    for _, b, _ in lora_of(split).factors.values():
        b.copy_(torch.randn(b.shape, generator=generator) * 0.1)


def padded_batch(samples: Samples, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids and attention mask as Hugging Face takes them, padded at the end with 0, and the lengths."""
    lengths = torch.tensor([int(samples.lengths[row]) for row in rows])
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : lengths[number]] = torch.from_numpy(samples.ids_of(row)).long()
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return ids, mask, lengths


def random_update(seed: int = 0, weight: float = 1.0, rank: int = 2, scale: float = 2.0) -> Update:
    """Two adapted modules and a head, all random."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    factors = {f"layer.{n}.query": Factors(draw(rank, 6), draw(5, rank), scale) for n in range(2)}
    head = {"classifier.weight": draw(3, 6), "classifier.bias": draw(3)}
    return update_of(factors, {HEAD: head}, weight, {"steps": 4, "train_loss": 0.1 + seed})


def tiny_recipe(folder: Path, **sections: Any) -> Recipe:
    """A small federation on ``folder``; ``training={…}`` and the like change single keys of a section."""
    recipe = Recipe(
        name="tiny",
        model=ModelSettings(str(folder)),
        adapter=AdapterSettings(rank=2, alpha=4.0, layers="last:2"),
        training=TrainingSettings(batch_size=8, learning_rate=1e-2),
    )
    for section, keys in sections.items():
        value = replace(getattr(recipe, section), **keys) if isinstance(keys, dict) else keys
        recipe = replace(recipe, **{section: value})
    return recipe


def tiny_trunk(split: SplitModel, cache: Path | None, **settings: Any) -> Trunk:
    """The trunk of ``split`` with its cache in ``cache``, or without one."""
    return open_trunk(split, TrunkCacheSettings(enabled=cache is not None, **settings), cache or Path("not used"))


TASK = Classification(tuple(f"class {number}" for number in range(CLASSES)))


def tiny_experiment(
    recipe: Recipe,
    cache: Path | None,
    samples: int = 48,
    parts: list[np.ndarray] | None = None,
    own_tests: Sequence[np.ndarray] = (),
    few_shot: Sequence[np.ndarray] = (),
) -> Experiment:
    """A federation over random samples, spread in turn over the devices unless ``parts`` says otherwise."""
    model = build_split_model(recipe.model.name, CLASSES, recipe.adapter, recipe.seed)
    devices = recipe.federation.devices
    settings = replace(recipe.trunk_cache, enabled=cache is not None)
    held = parts if parts is not None else [np.arange(device, samples, devices) for device in range(devices)]
    trunk = open_trunk(model, settings, cache or Path("not used"))
    sets = {"test": random_samples(30, seed=2)}
    return assemble(Parts(recipe, model, trunk, TASK, random_samples(samples, seed=1), sets, held, own_tests, few_shot))


def link_of(made: Experiment, own: bool = True) -> Devices:
    """The link to its devices as they are now; without their ``own`` draw of the initial adapter, they have nothing."""
    parts, federation = made.parts, made.federation
    initial = made.initial if own else None
    return Devices(
        made.rule,
        made.trainer,
        federation.uplink,
        federation.downlink,
        parts.memories,
        initial,
        parts.train,
        parts.held,
        seed=made.recipe.seed,
        personal=make_method(made.recipe),
    )


def rule_of(name: str, context: Context | None = None, **keys: Any) -> Rule:
    """The rule ``name`` with ``keys``, the others at their defaults."""
    entry = rule_entry(name)
    return entry.make(None if entry.keys is None else entry.keys(**keys), context or Context(holders=3))


def packed(update: Update) -> Packet:
    """``update`` by the plain codec."""
    return PlainCodec().encode(update)[0]


def same_bits(left: Update, right: Update) -> bool:
    """Whether two updates have the same names and scales, and the same tensors to the bit."""
    mine, other = named_tensors(left), named_tensors(right)
    same_names = mine.keys() == other.keys() and left.scales == right.scales
    return same_names and all(torch.equal(tensor, other[name]) for name, tensor in mine.items())
