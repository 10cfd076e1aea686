"""The model card of a saved adapter: the ``README.md`` beside it, with the front matter that the Hugging Face hub reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from fedfit import __version__
from fedfit.data.named import NAMED_SETS
from fedfit.experiment.shared_part import shared_part
from fedfit.models.load import public_name
from fedfit.models.packaged import PACKAGED
from fedfit.records import RoundRecord
from fedfit.settings import FILE_SOURCES, DataSettings, Recipe
from fedfit.tasks.classification import DEFAULTS

_HUB_METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "accuracy",
    "macro_f1": "f1",
    "weighted_f1": "f1",
    "mcc": "matthews_correlation",
}

_CARD = """---
{front_matter}
---
# {name}

A LoRA adapter with its head for `{base_model}`, trained by federated fine-tuning with fedfit {version}.
{shared}
| | |
|---|---|
{facts}

## Metrics

{metrics}

## How to load

```python
from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

adapter, base_model = ".", {base_code}
config = AutoConfig.from_pretrained(adapter)
base = AutoModelForSequenceClassification.from_pretrained(base_model, config=config)
model = PeftModel.from_pretrained(base, adapter).eval()
tokens = AutoTokenizer.from_pretrained(base_model)("a text", return_tensors="pt")
print(config.id2label[int(model(**tokens).logits.argmax())])
```

`adapter` is this folder.{base_words} Texts were cut to {max_tokens} tokens.
`fedfit export RUN --merged DIR` writes the whole model, adapter merged, from the folder of the run.
"""


def model_card(recipe: Recipe, facts: Mapping[str, Any], records: Sequence[RoundRecord]) -> str:
    """The card's text.

    Args:
        facts: those of ``partition.json``: names of the classes, and each device's samples of each.
        records: every round so far.
    """
    local, words = Path(recipe.model.name).is_dir(), shared_part(recipe)
    return _CARD.format(
        front_matter=_front_matter(recipe, local),
        name=recipe.name,
        base_model=public_name(recipe.model.name),
        base_code=repr(public_name(recipe.model.name)),
        base_words=" The base model was a local folder of that name: give the path of yours." if local else "",
        version=__version__,
        shared=f"\n{words}.\n" if words else "",
        facts="\n".join(f"| {name} | {value} |" for name, value in _facts(recipe, facts, records).items()),
        metrics=_metrics(records),
        max_tokens=recipe.data.max_tokens,
    )


def _front_matter(recipe: Recipe, local: bool) -> str:
    packaged, data_set = PACKAGED.get(recipe.model.name), _hub_data_set(recipe.data)
    found: str = ModelCardData(
        base_model=None if local else public_name(recipe.model.name),
        library_name="peft",
        license=packaged.licence.lower() if packaged else None,
        metrics=list(dict.fromkeys(_HUB_METRICS[name] for name in recipe.task.metrics or DEFAULTS if name in _HUB_METRICS))
        or None,
        datasets=[data_set] if data_set else None,
        pipeline_tag="text-classification" if recipe.task.kind == "classification" else None,
        tags=["lora", "federated-learning", "fedfit"],
    ).to_yaml()
    return found


def _hub_data_set(data: DataSettings) -> str | None:
    """The data set's name on the hub."""
    named = NAMED_SETS.get(data.source)
    name = data.name if data.source == "hub" else named.hub.name if named and named.hub else None
    return name.partition(":")[0] if name else None


def _facts(recipe: Recipe, facts: Mapping[str, Any], records: Sequence[RoundRecord]) -> dict[str, str]:
    packaged, federation, training, adapter = (
        PACKAGED.get(recipe.model.name),
        recipe.federation,
        recipe.training,
        recipe.adapter,
    )
    layers = adapter.layers if isinstance(adapter.layers, str) else ", ".join(map(str, adapter.layers))
    count, what = (training.local_steps, "step") if training.local_steps else (training.local_epochs, "epoch")
    passes = f"{count} {what}" if count == 1 else f"{count} {what}s"
    return {
        "base model": f"`{public_name(recipe.model.name)}`",
        "licence of the base model": packaged.licence if packaged else "see the base model's page",
        "task": recipe.task.kind,
        "data": _data(recipe.data),
        "training samples": str(sum(map(sum, facts["counts"]))),
        "classes": ", ".join(f"`{label}`" for label in facts["labels"]),
        "rule": federation.rule,
        "adapter": f"LoRA of rank {adapter.rank}, α = {adapter.alpha:g}, layers {layers}, {', '.join(adapter.targets)}",
        "devices": f"{federation.devices}, {federation.devices_per_round} a round",
        "rounds": str(records[-1].round if records else 0),
        "training on a device": f"{passes} a round, batches of {training.batch_size}, {training.optimizer}, "
        f"learning rate {training.learning_rate:g}",
    }


def _data(data: DataSettings) -> str:
    """The source, without the paths of this machine."""
    if data.source in FILE_SOURCES:
        return f"{data.source} files `{Path(data.train or '').name}`, `{Path(data.test or '').name}`"
    return f"`{data.name}` from the hub" if data.source == "hub" else f"`{data.source}`"


def _metrics(records: Sequence[RoundRecord]) -> str:
    measured = [record for record in records if record.metrics]
    if not measured:
        return "None were measured."
    rows = [f"| {name} | {metric.value:.4f} |" for name, metric in measured[-1].metrics.items()]
    return "\n".join([f"After round {measured[-1].round}:", "", "| metric | value |", "|---|---|", *rows])
