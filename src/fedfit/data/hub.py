"""Data sets of the Hugging Face hub, or of its local cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedfit.data.table import Reading, Table, Tables, to_table
from fedfit.errors import DataError
from fedfit.hub_access import hub_or_cache


@dataclass(frozen=True)
class HubSet:
    """A data set of the hub: ``name`` is ``owner/name``, or ``owner/name:configuration`` if it has several.

    ``names`` gives the label's name by its number; without it the data set's own names are used, or the values.
    """

    name: str
    text: tuple[str, ...]
    label: str = "label"
    pair: str | None = None
    names: Mapping[str, str] | None = None


def read_hub(hub: HubSet) -> Tables:
    """Train and test; ``validation`` is the test where the test split is missing or hides its labels.

    Raises ``DataError`` where the hub cannot be reached, has no such data set, or the set has no such splits.
    """
    splits = _download(hub.name)
    if "train" not in splits:
        raise DataError(f"data.name = {hub.name!r} has no split called train; it has {', '.join(splits)}")
    for name in ("test", "validation"):
        if name in splits and _is_labelled(splits[name], hub.label):
            reading = Reading(hub.text, hub.label, hub.pair)
            return Tables(_read_split(hub, splits, "train"), _read_split(hub, splits, name), reading)
    raise DataError(
        f"data.name = {hub.name!r} has no labelled split called test or validation (it has {', '.join(splits)}; "
        f"data.label = {hub.label!r}): choose another data set, or save one as parquet and name the files"
    )


def _download(name: str) -> Mapping[str, Any]:
    # Here, not above: the library takes a second to load, and most runs read files.
    import datasets

    path, _, configuration = name.partition(":")
    try:
        with hub_or_cache():
            splits: Mapping[str, Any] = datasets.load_dataset(path, configuration or None)
    except datasets.exceptions.DatasetNotFoundError:
        raise DataError(f"data.name = {name!r}: the hub has no such data set, or it is gated; check the name") from None
    except ConnectionError:
        raise DataError(f"the hub cannot be reached, and its cache has no {name}") from None
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"data.name = {name!r} cannot be loaded ({reason}); if it has several configurations: owner/name:one"
        ) from None
    return splits


def _is_labelled(split: Any, label: str) -> bool:
    """A wrong column passes, for the error that lists the columns to be raised where they are read."""
    return label not in split.column_names or any(value not in (None, -1) for value in split[label])


def _read_split(hub: HubSet, splits: Mapping[str, Any], name: str) -> Table:
    split = splits[name]
    table = to_table(split.to_pandas(), f"the {name} split of {hub.name}")
    if hub.label not in table.columns:
        return table
    names = hub.names or _class_names(split.features[hub.label])
    return table.with_column(hub.label, [names.get(cell, "") for cell in table.columns[hub.label]]) if names else table


def _class_names(feature: Any) -> dict[str, str]:
    return {str(number): name for number, name in enumerate(getattr(feature, "names", ()))}
