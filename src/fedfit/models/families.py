"""The families whose models can be split: one row each, made in a file of its own. Starts without torch.

To add a family, write such a file, add its row here and a small model of it to ``TINY_MODELS`` of ``tests/builders.py``; the
tests run over this table (``docs/extending.md``).
"""

from __future__ import annotations

from fedfit.errors import ModelError
from fedfit.models.decoders.gemma3 import GEMMA3_TEXT
from fedfit.models.decoders.gpt2 import GPT2
from fedfit.models.decoders.rotary import LLAMA, MISTRAL, QWEN2, QWEN3
from fedfit.models.encoders.bert import BERT
from fedfit.models.encoders.distilbert import DISTILBERT
from fedfit.models.encoders.electra import ELECTRA
from fedfit.models.encoders.mpnet import MPNET
from fedfit.models.encoders.roberta import ROBERTA
from fedfit.models.family import Family

FAMILIES: dict[str, Family] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "distilbert": DISTILBERT,
    "mpnet": MPNET,
    "electra": ELECTRA,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "gemma3_text": GEMMA3_TEXT,
    "gpt2": GPT2,
}

GENERATING: tuple[str, ...] = tuple(name for name, family in FAMILIES.items() if family.decoder is not None)
"""The families that have a language-model head."""

TARGETS: tuple[str, ...] = tuple(dict.fromkeys(target for family in FAMILIES.values() for target in family.targets))
"""The names of adaptable matrices, of all families."""


def family_of(model_type: str) -> Family:
    """The family by transformers' ``model_type``.

    Raises:
        ModelError: for a family that is not supported, with the list of those that are.
    """
    if model_type not in FAMILIES:
        raise ModelError(
            f"models of the family {model_type!r} cannot be split yet; supported: {', '.join(sorted(FAMILIES))}. "
            "Choose a [model] name of one of these, or add a row to fedfit.models.families.FAMILIES."
        )
    return FAMILIES[model_type]
