"""The named data sets: their files under ``$FEDFIT_DATA``, their names on the hub, and the names of their labels.

Those of classes are read here, those of language models in ``named_prompts``. Both copies of a set give the same label names,
so that a run from files and one from the hub share their classes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from fedfit.data.files import read_table
from fedfit.data.hub import HubSet, read_hub
from fedfit.data.named_prompts import PROMPTED_SETS
from fedfit.data.named_set import NamedSet, held_out
from fedfit.data.table import Reading, Table, Tables
from fedfit.errors import DataError


def load_named(name: str) -> Tables:
    """The data set ``name``, from ``$FEDFIT_DATA/<name>`` if that has its files, else from the hub.

    Raises ``DataError`` with both remedies where neither is available.
    """
    named = NAMED_SETS[name]
    root = os.environ.get("FEDFIT_DATA")
    if is_present(name):
        assert root is not None
        return named.read(Path(root).expanduser() / (named.folder or name))
    wanted = " and ".join(named.paths(name))
    remedy = f"set FEDFIT_DATA to a folder that has {wanted} ({_found(root)})"
    if named.hub is None:
        raise DataError(f"data.source = {name!r}: the hub has no copy of it; {remedy}")
    try:
        return read_hub(named.hub)
    except DataError as error:
        raise DataError(
            f"data.source = {name!r}: {error}; either {remedy}, or connect to the hub with HF_HUB_OFFLINE unset"
        ) from None


def is_present(name: str) -> bool:
    """Whether ``$FEDFIT_DATA`` has all files of the data set ``name``."""
    root = os.environ.get("FEDFIT_DATA")
    return bool(root) and all((Path(root or "").expanduser() / path).is_file() for path in NAMED_SETS[name].paths(name))


def _found(root: str | None) -> str:
    return f"it is {root}, which lacks them" if root else "it is not set"


def _read_ag_news(folder: Path) -> Tables:
    columns = ("label", "title", "description")
    names = {"1": "World", "2": "Sports", "3": "Business", "4": "Sci/Tech"}
    train, test = (_rename(read_table(folder / file, "csv", columns), "label", names) for file in ("train.csv", "test.csv"))
    return Tables(train, test, Reading(("title", "description"), "label"))


def _read_sst2(folder: Path) -> Tables:
    # The dev set is the test: the official test set has no labels.
    train, test = (_rename(read_table(folder / file, "tsv"), "label", SST2_NAMES) for file in ("train.tsv", "dev.tsv"))
    return Tables(train, test, Reading(("sentence",), "label"))


def _read_mrpc(folder: Path) -> Tables:
    train, test = (
        _rename(read_table(folder / f"msr_paraphrase_{part}.txt", "tsv"), "Quality", MRPC_NAMES) for part in ("train", "test")
    )
    return Tables(train, test, Reading(("#1 String",), "Quality", "#2 String"))


def _read_bgl(folder: Path) -> Tables:
    """No official split exists: a quarter of the lines is the test, chosen by the hash of the line's number."""
    table = read_table(folder / "BGL_2k.log_structured.csv", "csv")
    labels = ["normal" if label == "-" else "anomaly" for label in table.column("data.source", "Label")]
    columns = ("LineId", "Content", "Node", "Component", "EventId")
    named = Table(table.origin, {name: table.column("data.source", name) for name in columns}).with_column("Label", labels)
    train, test = (part.without_column("LineId") for part in held_out(named, "LineId", 0.25))
    return Tables(train, test, Reading(("Content",), "Label"))


def _read_bgl_instruct(folder: Path) -> Tables:
    """The lines of ``bgl`` as questions to a language model."""
    tables = _read_bgl(folder)
    train, test = (
        table.with_column("prompt", [f"{BGL_QUESTION}\n{line}" for line in table.column("data.source", "Content")])
        for table in (tables.train, tables.test)
    )
    return Tables(train, test, Reading(prompt=("prompt",), response="Label", answer="Label"))


def _read_banking77(folder: Path) -> Tables:
    train, test = (read_table(folder / f"{part}.csv", "csv") for part in ("train", "test"))
    return Tables(train, test, Reading(("text",), "category"))


def _rename(table: Table, column: str, names: Mapping[str, str]) -> Table:
    labels = [label.strip() for label in table.column("data.source", column)]
    for row, label in enumerate(labels, start=1):
        if label not in names:
            known = ", ".join(names)
            raise DataError(f"{table.origin}, row {row} has the label {label!r}, not one of {known}: restore the file")
    return table.with_column(column, [names[label] for label in labels])


BGL_QUESTION = "Is this line of a supercomputer's log normal or an anomaly?"
AG_NEWS_NAMES = {"0": "World", "1": "Sports", "2": "Business", "3": "Sci/Tech"}
SST2_NAMES = {"0": "negative", "1": "positive"}
MRPC_NAMES = {"0": "different", "1": "paraphrase"}

NAMED_SETS = {
    "ag_news": NamedSet(
        files=("train.csv", "test.csv"),
        read=_read_ag_news,
        hub=HubSet("fancyzhx/ag_news", text=("text",), names=AG_NEWS_NAMES),
    ),
    "sst2": NamedSet(
        files=("train.tsv", "dev.tsv"),
        read=_read_sst2,
        hub=HubSet("stanfordnlp/sst2", text=("sentence",), names=SST2_NAMES),
    ),
    "mrpc": NamedSet(
        files=("msr_paraphrase_train.txt", "msr_paraphrase_test.txt"),
        read=_read_mrpc,
        hub=HubSet("nyu-mll/glue:mrpc", text=("sentence1",), pair="sentence2", names=MRPC_NAMES),
    ),
    "bgl": NamedSet(files=("BGL_2k.log_structured.csv",), read=_read_bgl),
    "bgl-instruct": NamedSet(files=("BGL_2k.log_structured.csv",), read=_read_bgl_instruct, folder="bgl"),
    "banking77": NamedSet(files=("train.csv", "test.csv"), read=_read_banking77),
    **PROMPTED_SETS,
}
