"""``fedfit`` called in this process."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from fedfit.cli import app


@dataclass(frozen=True)
class Answer:
    """What a command left behind. A traceback never gets here: it fails the test."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """Standard output, which must be one JSON value and nothing else."""
        return json.loads(self.stdout, parse_constant=_refuse)


def fedfit(*arguments: str | Path) -> Answer:
    """Runs a command."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Answer(result.exit_code, result.stdout, result.stderr)


def refused(*arguments: str | Path, says: Sequence[str]) -> str:
    """Runs a command that the user got wrong: status 2, the fragments ``says`` on standard error, and nothing on the other but
    the error as a document where ``--json`` asks for one.
    """
    answer = fedfit(*arguments)
    assert answer.status == 2, answer
    assert answer.json.keys() == {"error", "faults"} if "--json" in arguments else answer.stdout == ""
    assert answer.stderr.startswith("error: ")
    assert "Traceback" not in answer.stderr
    for fragment in says:
        assert fragment in answer.stderr
    return answer.stderr


def _refuse(word: str) -> None:
    raise AssertionError(f"{word} is not JSON")
