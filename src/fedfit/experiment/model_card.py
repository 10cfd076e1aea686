"""The model card of a saved adapter: the ``README.md`` beside it, with the front matter that the Hugging Face hub reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from fedfit import __version__
from fedfit.data.named import NAMED_SETS
from fedfit.data_settings import FILE_SOURCES, DataSettings
from fedfit.experiment.card_code import classifier_code, language_code
from fedfit.experiment.runs import is_language_run
from fedfit.experiment.shared_part import shared_part
from fedfit.models.load import public_name
from fedfit.models.packaged import PACKAGED
from fedfit.records import RoundRecord
from fedfit.settings import Recipe
from fedfit.tasks.classification import DEFAULTS

_HUB_METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "accuracy",
    "macro_f1": "f1",
    "weighted_f1": "f1",
    "mcc": "matthews_correlation",
}
_LANGUAGE_METRICS = {
    "instruction": ["perplexity", "rouge", "accuracy"],
    "language_modelling": ["perplexity"],
    "preference": ["accuracy"],
}
"""Names on the hub of what a language model's tasks measure; of instructions the last two where the recipe measures them."""

_CARD = """---
{front_matter}
---
# {name}

{what} `{base_model}`, trained by federated fine-tuning with fedfit {version}.
{shared}
| | |
|---|---|
{facts}

## Metrics

{metrics}

## How to load

```python
{code}
```

`adapter` is this folder.{base_words} Texts were cut to {max_tokens} tokens.
`fedfit export RUN --merged DIR` writes the whole model, adapter merged, from the folder of the run.
"""


def model_card(recipe: Recipe, facts: Mapping[str, Any], records: Sequence[RoundRecord], whose: str | None = None) -> str:
    """The card's text.

    Args:
        facts: those of ``partition.json``: names of the classes, and each device's samples of each.
        records: every round so far.
        whose: a sentence in place of that on what the shared adapter lacks: of one device's own.
    """
    local, words = Path(recipe.model.name).is_dir(), whose or shared_part(recipe)
    language = is_language_run(recipe)
    return _CARD.format(
        front_matter=_front_matter(recipe, local),
        name=recipe.name,
        base_model=public_name(recipe.model.name),
        what="A LoRA adapter of the language model" if language else "A LoRA adapter with its head for",
        code=language_code(recipe) if language else classifier_code(recipe),
        base_words=" The base model was a local folder of that name: give the path of yours." if local else "",
        version=__version__,
        shared=f"\n{words.rstrip('.')}.\n" if words else "",
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
        metrics=_hub_metrics(recipe) or None,
        datasets=[data_set] if data_set else None,
        pipeline_tag=_pipeline(recipe),
        tags=["lora", "federated-learning", "fedfit", *([recipe.task.loss] if recipe.task.kind == "preference" else [])],
    ).to_yaml()
    return found


def _pipeline(recipe: Recipe) -> str | None:
    if is_language_run(recipe):
        return "text-generation"
    return "text-classification" if recipe.task.kind == "classification" else None


def _hub_metrics(recipe: Recipe) -> list[str]:
    task = recipe.task
    if is_language_run(recipe):
        absent = {"rouge"} if not task.generate_samples else set()
        absent |= {"accuracy"} if task.kind == "instruction" and recipe.data.answer is None else set()
        return [name for name in _LANGUAGE_METRICS.get(task.kind, []) if name not in absent]
    return list(dict.fromkeys(_HUB_METRICS[name] for name in task.metrics or DEFAULTS if name in _HUB_METRICS))


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
        "task": _task(recipe),
        "data": _data(recipe.data),
        "training samples": str(sum(map(sum, facts["counts"]))),
        **({} if is_language_run(recipe) else {"classes": ", ".join(f"`{label}`" for label in facts["labels"])}),
        "rule": federation.rule,
        "adapter": f"LoRA of rank {adapter.rank}, α = {adapter.alpha:g}, layers {layers}, {', '.join(adapter.targets)}",
        "devices": f"{federation.devices}, {federation.devices_per_round} a round",
        "rounds": str(records[-1].round if records else 0),
        "training on a device": f"{passes} a round, batches of {training.batch_size}, {training.optimizer}, "
        f"learning rate {training.learning_rate:g}",
    }


def _task(recipe: Recipe) -> str:
    """The task; of preferences with the loss, β and reference."""
    task = recipe.task
    if task.kind != "preference":
        return task.kind.replace("_", " ")
    reference = "the frozen base" if task.reference == "base" else "the model that each device received"
    return f"preference, by {task.loss.upper()} with β = {task.beta:g} against {reference}"


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
