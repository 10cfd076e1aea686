"""The embedded instruction data: functions of installed packages, each with the first sentence of its docstring.

The prompt asks for a sentence and shows the function: its signature and the first lines of its body, without the
docstring, cut so that prompt, response and a chat template fit into 128 tokens of SmolLM2. The column ``project`` has natural
clients; names of projects are not masked, since no one is to guess them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fedfit.data.docstrings import Function, documented_functions, project_folder
from fedfit.data.harvest import PROJECTS, balanced, cached_rows, letters, split_of, versions_key
from fedfit.data.table import Reading, Table, Tables
from fedfit.errors import DataError

SOURCE = "pydocs-instruct"
HARVEST_VERSION = 1
"""Raise it with every change to the harvest: it is part of the cache's name."""

# Asked to write a docstring, untrained SmolLM2 goes on with code (ROUGE-L 0.13 to 0.15 on 24 test rows, three wordings);
# asked this, it answers in prose (0.20).
INSTRUCTION = "In one short sentence, what does this Python function do?"
MAX_FILES = 1200
MAX_ROWS = 1400
MAX_CODE_LETTERS, MAX_SIGNATURE_LETTERS = 165, 110
MIN_WORDS, MAX_PIECES, MAX_LETTERS = 3, 24, 120

ROLE = re.compile(r":[a-z:]+:`~?([^`<]*?)(?:\s*<[^`]*>)?`")
# The first full stop that ends a sentence: a following word has a capital, and the one before is no abbreviation.
SENTENCE_END = re.compile(r"(?<!e\.g)(?<!i\.e)(?<!etc)(?<!\bvs)(?<!\bcf)[.!?](?=\s+[A-Z`*\[(]|$)")

WORD = re.compile(r"[A-Za-z]{2,}")
# Most are one token of a language model, and few are more than two.
PIECE = re.compile(r"[A-Za-z]+|[0-9]+|[^A-Za-z0-9\s]+")
# The signature once more, as built-in functions have it, and a sentence that says nothing of the function.
NO_ANSWER = re.compile(r"->|\bdeprecated\b", re.IGNORECASE)


class Instruction(NamedTuple):
    """One prompt with its response, its project, and ``train`` or ``test``."""

    prompt: str
    response: str
    project: str
    split: str


def load_pydocs_instruct() -> Tables:
    """As many rows of each project, the same for the same versions of Python and the packages; harvested once, then cached.

    Raises ``DataError`` where a project's sources are not installed.
    """
    rows = cached_rows(SOURCE, versions_key(SOURCE, HARVEST_VERSION, PROJECTS), Instruction, harvest)
    return Tables(_part(rows, "train"), _part(rows, "test"), Reading(prompt=("prompt",), response="response"))


def harvest() -> list[Instruction]:
    """Read the sources and make the balanced, deduplicated set; seconds of work."""
    pairs = _deduplicate({project: _read_project(project) for project in PROJECTS})
    rows = [
        Instruction(prompt, response, project, split_of(response))
        for project, part in pairs.items()
        for prompt, response in part.items()
    ]
    return balanced(rows, PROJECTS, "project", "response")


def first_sentence(docstring: str) -> str:
    """The first sentence of ``docstring`` in one line, or all of its first paragraph where no sentence ends in that."""
    paragraph = " ".join(re.split(r"\n\s*\n", docstring.strip(), maxsplit=1)[0].split())
    end = SENTENCE_END.search(paragraph)
    return ROLE.sub(r"`\1`", paragraph[: end.end()] if end else paragraph)


def prompt_of(function: Function) -> str:
    """The instruction, the signature, and as many first lines of the body as there is room for."""
    signature = function.signature
    if len(signature) > MAX_SIGNATURE_LETTERS:
        start, comma, end = signature[:MAX_SIGNATURE_LETTERS].rpartition(",")
        signature = f"{start}, ...):" if comma else f"{end}..."
    lines, left = [signature], MAX_CODE_LETTERS - len(signature)
    for line in function.body:
        left -= len(line) + 5  # its break and its indentation
        if left < 0:
            break
        lines.append(f"    {line}")
    return "\n".join([INSTRUCTION, *lines])


def _part(rows: Iterable[Instruction], split: str) -> Table:
    part = [row for row in rows if row.split == split]
    columns = {name: [getattr(row, name) for row in part] for name in ("prompt", "response", "project")}
    return Table(f"the {split} split of {SOURCE}", columns)


def _read_project(project: str) -> dict[str, str]:
    """Up to ``MAX_ROWS`` responses by prompt, from files in the order of their paths' hashes: from all over it."""
    found: dict[str, str] = {}
    responses: set[str] = set()
    for function in documented_functions(project_folder(project, SOURCE), MAX_FILES):
        response = first_sentence(function.docstring)
        if letters(response) not in responses and _is_sentence(response) and _is_text(prompt := prompt_of(function)):
            responses.add(letters(response))
            found.setdefault(prompt, response)
        if len(found) >= MAX_ROWS:
            break
    if not found:
        raise DataError(f"data.source = {SOURCE!r}: the sources of {project} hold no docstrings; choose another data.source")
    return found


def _is_sentence(text: str) -> bool:
    long_enough = min(len(text.split()), len(WORD.findall(text))) >= MIN_WORDS
    short_enough = len(PIECE.findall(text)) <= MAX_PIECES and len(text) <= MAX_LETTERS
    says_something = text[:1].isalpha() and not text.endswith(":") and not NO_ANSWER.search(text)
    return long_enough and short_enough and says_something and _is_text(text)


def _is_text(text: str) -> bool:
    return text.isascii() and text.replace("\n", "").isprintable()


def _deduplicate(pairs: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Without prompts and responses that two projects share: a test row of the one would be trained on in the other."""
    prompts = Counter(prompt for part in pairs.values() for prompt in part)
    responses = Counter(letters(response) for part in pairs.values() for response in part.values())
    return {
        project: {
            prompt: response for prompt, response in part.items() if prompts[prompt] == 1 and responses[letters(response)] == 1
        }
        for project, part in pairs.items()
    }
