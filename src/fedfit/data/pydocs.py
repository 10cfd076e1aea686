"""The embedded data set: docstrings of installed packages, each labelled with its project.

A sample is the first paragraph of a docstring, 60 to 400 characters and ten words or more, read with ``ast`` from the
sources: nothing is imported or run. Names of the projects are masked, and all five of them in every text: were only a
text's own project masked, any other name left standing would rule a class out. Terms such as ``DataFrame`` or
``tensor`` stay: they are the subject of the texts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from fedfit.data.docstrings import first_paragraphs, project_folder
from fedfit.data.docstrings_cache import Row
from fedfit.data.harvest import PROJECTS, balanced, cached_rows, letters, split_of, versions_key
from fedfit.data.table import Reading, Table, Tables
from fedfit.errors import DataError

HARVEST_VERSION = 1
"""Raise it with every change to the harvest: it is part of the cache's name."""

MAX_FILES = 1200
MAX_TEXTS = 1400
MIN_LETTERS, MAX_LETTERS, MIN_WORDS = 60, 400, 10
MASK = "[name]"

NAMES = re.compile(
    r"[a-z]*(?:python|torch|transformers|hugging ?face|pandas|matplotlib|pyplot|pylab)[a-z]*[0-9]*"
    r"|(?<![a-z])(?:stdlib|standard library|mpl|pd(?=\.)|plt(?=\.))(?![a-z])",
    re.IGNORECASE,
)
# A paragraph that is a list of parameters is no prose, and its layout alone gives the project away.
SECTION = re.compile(r"(?:[A-Z]\w+( \w+)? -{3,}|(?:Args|Arguments|Parameters|Params|Returns?|Raises|Yields|Example)s?: )")


def load_pydocs() -> Tables:
    """Five balanced classes, the same for the same versions of Python and the packages; harvested once, then cached.

    Raises ``DataError`` where a project's sources are not installed.
    """
    rows = cached_rows("pydocs", versions_key("pydocs", HARVEST_VERSION, PROJECTS), Row, harvest)
    return Tables(_part(rows, "train"), _part(rows, "test"), Reading(("text",), "label"))


def harvest() -> list[Row]:
    """Read the sources and make the balanced, deduplicated set; seconds of work."""
    texts = _deduplicate({project: _read_project(project) for project in PROJECTS})
    rows = [Row(text, label, split_of(text)) for label, part in texts.items() for text in part]
    return balanced(rows, PROJECTS, "label", "text")


def mask_names(text: str) -> str:
    """Replace every project's name, in any case and within longer words (``TorchScript``), by ``MASK``."""
    return NAMES.sub(MASK, text)


def _part(rows: Iterable[Row], split: str) -> Table:
    part = [row for row in rows if row.split == split]
    columns = {"text": [row.text for row in part], "label": [row.label for row in part]}
    return Table(f"the {split} split of pydocs", columns)


def _read_project(project: str) -> list[str]:
    """Up to ``MAX_TEXTS`` masked paragraphs, from files in the order of their paths' hashes: from all over it."""
    found: dict[str, None] = {}
    for paragraph in first_paragraphs(project_folder(project), MAX_FILES):
        if _is_prose(paragraph):
            found.setdefault(mask_names(paragraph))
        if len(found) >= MAX_TEXTS:
            break
    if not found:
        raise DataError(f'data.source = "pydocs": the sources of {project} hold no docstrings; choose another data.source')
    return list(found)


def _is_prose(paragraph: str) -> bool:
    long_enough = MIN_LETTERS <= len(paragraph) <= MAX_LETTERS and len(paragraph.split()) >= MIN_WORDS
    return long_enough and paragraph.isprintable() and not SECTION.match(paragraph)


def _deduplicate(texts: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Texts equal in their letters count once; those of two projects go altogether, since no label is right."""
    owners = Counter(key for part in texts.values() for key in {letters(text) for text in part})
    kept: dict[str, list[str]] = {}
    for label, part in texts.items():
        first = {letters(text): text for text in reversed(list(part))}
        kept[label] = [text for key, text in first.items() if owners[key] == 1]
    return kept
