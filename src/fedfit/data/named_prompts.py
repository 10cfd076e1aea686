"""The named data sets of language models: prompts with responses, pairs of responses, and plays by speaker.

Each has a column whose values are natural clients. Where a set has no official test part, a row's hash decides.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedfit.data.files import read_table
from fedfit.data.named_set import NamedSet, hash_share, held_out
from fedfit.data.table import Reading, Table, Tables
from fedfit.errors import DataError

TEST_SHARE = 0.2
"""Share of the rows that are the test part of a set without an official one."""

QUESTION_SETS = {"boolq": 5, "openbookqa": 3, "ARC-Easy": 2}
"""The sets of ``commonsense``, and the clients that each is cut into: ten of one kind each, 1,100 to 2,000 rows."""

TRAITS = ("agreeableness", "conscientiousness", "openness")
DOMAINS = {
    "code": (("instruction", "input"), "output"),
    "medical": (("instruction", "input"), "output"),
    "roleplay": (("instruction", "input"), "response"),
    "tools": (("instruction", "input"), "response"),
}
"""The kinds of ``domains`` in one file each, with their columns of prompt and response; ``math`` has two files."""

_FORMAT = re.compile(r"Answer format: (\S+)\s*$")
_SPEAKER = re.compile(r"(?:\A|\n\n)([^\n:]+):(?=\n|\Z)")
_KEY = "data.source"
_PARTS = ("train", "test")


def _read_commonsense(folder: Path) -> Tables:
    """Questions with exact answers. A prompt ends in its own possible answers (``Answer format: true/false``), so a row is
    scored over these: of a question with four answers, ``true`` is no wrong answer but none.
    """
    train, test = (
        _stack(f"{folder} ({part})", [_questions(folder / name / f"{part}.json", name) for name in QUESTION_SETS])
        for part in ("train", "test")
    )
    return Tables(train, test, Reading(prompt=("prompt",), response="response", answer="answer", choices="choices"))


def _questions(path: Path, name: str) -> Table:
    table = read_table(path, "json")
    prompts = table.texts(_KEY, ("instruction", "input"), "\n")
    clients = [f"{name} {1 + int(hash_share(prompt) * QUESTION_SETS[name])}" for prompt in prompts]
    columns = {
        "prompt": prompts,
        "response": table.column(_KEY, "output"),
        "answer": table.column(_KEY, "answer"),
        "choices": [_choices(prompt, path, row) for row, prompt in enumerate(prompts, start=1)],
        "task": [name] * len(table),
        "client": clients,
    }
    return Table(table.origin, columns)


def _choices(prompt: str, path: Path, row: int) -> str:
    found = _FORMAT.search(prompt)
    if found is None:
        raise DataError(f"{path}, row {row}: the prompt does not end in `Answer format: …`: restore the file")
    return found[1]


def _read_domains(folder: Path) -> Tables:
    """Instructions of several kinds; the test part of ``math`` is GSM8K's own, that of the others is drawn by hash."""
    cut = [
        held_out(_domain(read_table(folder / f"{name}.json", "json"), name, *columns), "prompt", TEST_SHARE)
        for name, columns in DOMAINS.items()
    ]
    sums = [_domain(read_table(folder / f"math_{part}.jsonl", "jsonl"), "math", ("question",), "answer") for part in _PARTS]
    train, test = ([*(pair[side] for pair in cut), sums[side]] for side in (0, 1))
    reading = Reading(prompt=("prompt",), response="response")
    return Tables(_stack(f"{folder} (train)", train), _stack(f"{folder} (test)", test), reading)


def _domain(table: Table, name: str, prompt: Sequence[str], response: str) -> Table:
    columns = {"prompt": table.texts(_KEY, prompt, "\n"), "response": table.column(_KEY, response)}
    return Table(table.origin, {**columns, "domain": [name] * len(table)})


def _read_truthfulqa(folder: Path) -> Tables:
    """The best answer to each question against one of its incorrect answers, which the question's hash draws."""
    table = read_table(folder / "TruthfulQA.csv", "csv")
    questions = table.column(_KEY, "Question")
    wrong = [[answer.strip() for answer in cell.split(";")] for cell in table.column(_KEY, "Incorrect Answers")]
    columns = {
        "prompt": questions,
        "chosen": table.column(_KEY, "Best Answer"),
        "rejected": [_drawn(question, answers) for question, answers in zip(questions, wrong, strict=True)],
        "category": table.column(_KEY, "Category"),
    }
    return _pairs(Table(table.origin, columns))


def _drawn(question: str, answers: Sequence[str]) -> str:
    """One of the answers; none, an empty text that the task leaves out, where there are none."""
    given = [answer for answer in answers if answer]
    return given[int(hash_share(f"rejected {question}") * len(given))] if given else ""


def _read_persona(folder: Path) -> Tables:
    """Would you say this? The answer that matches a trait against the one that does not; a file a trait, which two clients
    share by hash.
    """
    tables = []
    for trait in TRAITS:
        table = read_table(folder / f"{trait}.jsonl", "jsonl")
        names = {"prompt": "question", "chosen": "answer_matching_behavior", "rejected": "answer_not_matching_behavior"}
        columns = {role: table.texts(_KEY, (name,)) for role, name in names.items()}
        clients = [f"{trait} {1 + int(hash_share(f'client {prompt}') * 2)}" for prompt in columns["prompt"]]
        tables.append(Table(table.origin, {**columns, "trait": [trait] * len(table), "client": clients}))
    return _pairs(_stack(str(folder), tables))


def _pairs(table: Table) -> Tables:
    return Tables(*held_out(table, "prompt", TEST_SHARE), Reading(prompt=("prompt",), chosen="chosen", rejected="rejected"))


def _read_shakespeare(folder: Path) -> Tables:
    """Speeches by speaker, in the order of the plays; the last ``TEST_SHARE`` of each speaker's, rounded down, is the test."""
    path = folder / "input.txt"
    pieces = _SPEAKER.split(_text(path).strip())
    if len(pieces) < 3 or pieces[0]:
        raise DataError(f"{path}: it does not begin with `NAME:` and a speech: restore the file")
    speeches = [(name, text.strip()) for name, text in zip(pieces[1::2], pieces[2::2], strict=True) if text.strip()]
    total, seen = Counter(name for name, _ in speeches), defaultdict[str, int](int)
    parts: dict[bool, list[tuple[str, str]]] = {False: [], True: []}
    for name, text in speeches:
        parts[seen[name] >= total[name] - int(total[name] * TEST_SHARE)].append((name, text))
        seen[name] += 1
    train, test = (_speeches(f"{path} ({part})", parts[late]) for part, late in zip(_PARTS, (False, True), strict=True))
    return Tables(train, test, Reading(text=("text",)))


def _speeches(origin: str, rows: Sequence[tuple[str, str]]) -> Table:
    return Table(origin, {"text": [text for _, text in rows], "speaker": [name for name, _ in rows]})


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): restore the file") from None


def _stack(origin: str, tables: Sequence[Table]) -> Table:
    """Tables of the same columns one below another."""
    names = list(tables[0].columns)
    columns: Mapping[str, Sequence[str]] = {name: [cell for table in tables for cell in table.columns[name]] for name in names}
    return Table(origin, columns)


PROMPTED_SETS = {
    "commonsense": NamedSet(
        tuple(f"{name}/{part}.json" for name in QUESTION_SETS for part in _PARTS),
        _read_commonsense,
    ),
    "domains": NamedSet((*(f"{name}.json" for name in DOMAINS), "math_train.jsonl", "math_test.jsonl"), _read_domains),
    "truthfulqa": NamedSet(("TruthfulQA.csv",), _read_truthfulqa, folder="preference"),
    "persona": NamedSet(tuple(f"{trait}.jsonl" for trait in TRAITS), _read_persona, folder="preference"),
    "shakespeare": NamedSet(("input.txt",), _read_shakespeare),
}
"""By the names of ``data.source``; none has a copy on the hub in this form."""
