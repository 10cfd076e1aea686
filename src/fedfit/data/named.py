"""The named data sets: where their files lie under ``$FEDFIT_DATA``, where the hub has them, and what labels mean.

Both copies of a set give the same label names, so that a run from files and one from the hub share their classes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fedfit.data.corpus import Corpus, LabelledTexts, build_corpus
from fedfit.data.files import read_table, to_labelled_texts
from fedfit.data.hub import HubSet, read_hub
from fedfit.errors import DataError


@dataclass(frozen=True)
class NamedSet:
    """One data set. ``files`` lie in its folder; ``read`` turns that folder into train and test."""

    files: tuple[str, ...]
    read: Callable[[Path], tuple[LabelledTexts, LabelledTexts]]
    hub: HubSet | None


def load_named(name: str) -> Corpus:
    """The data set ``name``, from ``$FEDFIT_DATA/<name>`` where that has its files, else from the hub.

    Raises ``DataError`` with both remedies where neither can be had.
    """
    named = NAMED_SETS[name]
    root = os.environ.get("FEDFIT_DATA")
    folder = Path(root).expanduser() / name if root else None
    if folder is not None and all((folder / file).is_file() for file in named.files):
        return build_corpus(*named.read(folder))
    wanted = " and ".join(f"{name}/{file}" for file in named.files)
    remedy = f"set FEDFIT_DATA to a folder that has {wanted} ({_found(root)})"
    if named.hub is None:
        raise DataError(f"data.source = {name!r}: the hub has no copy of it; {remedy}")
    try:
        return build_corpus(*read_hub(named.hub))
    except DataError as error:
        raise DataError(
            f"data.source = {name!r}: {error}; either {remedy}, or connect to the hub with HF_HUB_OFFLINE unset"
        ) from None


def _found(root: str | None) -> str:
    return f"it is {root}, which lacks them" if root else "it is not set"


def _read_ag_news(folder: Path) -> tuple[LabelledTexts, LabelledTexts]:
    train, test = (_read_ag_news_file(folder / file) for file in ("train.csv", "test.csv"))
    return train, test


def _read_ag_news_file(path: Path) -> LabelledTexts:
    frame = read_table(path, "csv", ["label", "title", "description"])
    names = {"1": "World", "2": "Sports", "3": "Business", "4": "Sci/Tech"}
    return _rename(to_labelled_texts(frame, ["title", "description"], None, "label", str(path)), names)


def _read_sst2(folder: Path) -> tuple[LabelledTexts, LabelledTexts]:
    # The dev set is the test: the official test set comes without labels.
    train, test = (
        _rename(to_labelled_texts(read_table(path, "tsv"), ["sentence"], None, "label", str(path)), SST2_NAMES)
        for path in (folder / "train.tsv", folder / "dev.tsv")
    )
    return train, test


def _read_mrpc(folder: Path) -> tuple[LabelledTexts, LabelledTexts]:
    train, test = (
        _rename(to_labelled_texts(read_table(path, "tsv"), ["#1 String"], "#2 String", "Quality", str(path)), MRPC_NAMES)
        for path in (folder / "msr_paraphrase_train.txt", folder / "msr_paraphrase_test.txt")
    )
    return train, test


def _read_bgl(folder: Path) -> tuple[LabelledTexts, LabelledTexts]:
    """There is no official split: a quarter of the lines is the test, chosen by the hash of the line's number."""
    path = folder / "BGL_2k.log_structured.csv"
    frame = read_table(path, "csv")
    frame = frame.assign(Label=["normal" if label == "-" else "anomaly" for label in frame["Label"]])
    held_out = [_share(line) < 0.25 for line in frame["LineId"]]
    kept = frame[["Content", "Label", "Node", "Component", "EventId"]]
    parts = (kept[[not test for test in held_out]], kept[held_out])
    train, test = (to_labelled_texts(part, ["Content"], None, "Label", str(path)) for part in parts)
    return train, test


def _share(text: str) -> float:
    """A number in [0, 1) that depends on ``text`` alone."""
    return float(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")) / 2**32


def _rename(texts: LabelledTexts, names: Mapping[str, str]) -> LabelledTexts:
    for row, label in enumerate(texts.labels, start=1):
        if label not in names:
            known = ", ".join(names)
            raise DataError(f"{texts.origin}, row {row} has the label {label!r}, not one of {known}: restore the file")
    return replace(texts, labels=[names[label] for label in texts.labels])


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
    "bgl": NamedSet(files=("BGL_2k.log_structured.csv",), read=_read_bgl, hub=None),
}
