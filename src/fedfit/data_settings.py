"""The sections of a recipe that say what is learned from: the data, and their spread over the devices."""

from __future__ import annotations

from dataclasses import dataclass

from fedfit.schema import key

CLASSIFIED_SOURCES = ("ag_news", "sst2", "mrpc", "bgl", "banking77", "pydocs")
INSTRUCTION_SOURCES = ("pydocs-instruct", "commonsense", "domains", "bgl-instruct")
PREFERENCE_SOURCES = ("truthfulqa", "persona")
TEXT_SOURCES = ("shakespeare",)
NAMED_SOURCES = (*CLASSIFIED_SOURCES, *INSTRUCTION_SOURCES, *PREFERENCE_SOURCES, *TEXT_SOURCES)
FILE_SOURCES = ("csv", "tsv", "json", "jsonl", "parquet")


@dataclass(frozen=True)
class DataSettings:
    """The source of the text, and how much of it is used."""

    source: str = key("pydocs", "a named data set, `hub`, or a file format", choices=(*NAMED_SOURCES, "hub", *FILE_SOURCES))
    name: str | None = key(None, 'name on the hub, with `source = "hub"`')
    train: str | None = key(None, "path of the training file, with a file format as source")
    test: str | None = key(None, "path of the test file, with a file format as source")
    validation: str | None = key(None, "path of the validation file, with a file format as source; devices never train on it")
    validation_share: float = key(
        0.0,
        "share of the training samples that is split off for validation before the partition, the same of each class, seeded",
        minimum=0,
        maximum=0.9,
    )
    columns: tuple[str, ...] | None = key(None, "column names of csv or tsv files without a header")
    text: tuple[str, ...] = key(("text",), "columns of the text, joined by a space and stripped")
    pair: str | None = key(None, "column of the second sentence, for sentence-pair tasks")
    label: str = key("label", "column of the label")
    prompt: tuple[str, ...] = key(
        ("prompt",), "for a language model: columns of the prompt, joined by a line break, empty ones left out"
    )
    response: str = key("response", "column of the response that is learned")
    answer: str | None = key(None, "column of the exact answer, scored by log-likelihood over `choices`")
    choices: tuple[str, ...] | None = key(None, "the possible answers; by default all answers of the training samples")
    chosen: str = key("chosen", "column of the better response, for preferences")
    rejected: str = key("rejected", "column of the worse response, for preferences")
    max_tokens: int = key(64, "longer texts are cut to this many tokens", minimum=4)
    train_samples: int | None = key(None, "take this many training samples, balanced over classes and seeded", minimum=1)
    test_samples: int | None = key(None, "take this many test samples, balanced over classes and seeded", minimum=1)


@dataclass(frozen=True)
class PartitionSettings:
    """How the training samples are spread over the devices."""

    kind: str = key("iid", "the rule, from flwr-datasets", choices=("iid", "dirichlet", "shards", "by_column"))
    alpha: float = key(0.5, "Dirichlet concentration; smaller is more skewed", above=0)
    shards_per_device: int = key(2, "label-sorted shards a device gets, with `shards`", minimum=1)
    column: str | None = key(None, "column whose values are the devices, with `by_column`")
