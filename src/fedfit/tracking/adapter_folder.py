"""The folder of a saved adapter: PEFT's own files, a card, and the names of a classifier's classes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from fedfit.errors import RunFolderError

_LABELS, _CARD = "labels.json", "README.md"


def write_adapter(target: Path, save: Callable[[Path], None], labels: Sequence[str], card: str) -> Path:
    """Writes the folder ``target`` through ``save`` under another name, labels and card with it, then puts it in place."""
    beside = target.with_name(f".{target.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    save(beside)
    if labels:  # of a classifier
        (beside / _LABELS).write_bytes(json.dumps(list(labels), indent=2).encode() + b"\n")
    (beside / _CARD).write_text(card, encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    return beside.rename(target)


def check_free(folder: Path, option: str) -> None:
    """Refuses a place that holds something already.

    Raises:
        RunFolderError: which names the ``option`` that chose it.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunFolderError(f"{folder} {'holds files already' if folder.is_dir() else 'is a file'}; give another {option}")


def read_labels(adapter: Path) -> list[str]:
    """The names of the classes beside a saved adapter, in the order of the outputs.

    Raises:
        RunFolderError: when they cannot be read.
    """
    try:
        labels = json.loads((adapter / _LABELS).read_bytes())
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{adapter / _LABELS} cannot be read: {error}") from error
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise RunFolderError(f"{adapter / _LABELS} is not a list of names; restore it")
    return labels
