"""``fedfit chat``: the base and the tuned model of a finished run, asked the same and answering side by side."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedfit.cli_use import own_adapter
from fedfit.terminal import SCREEN, OwnDevice, Tokens, polite_errors, prepare_libraries, say, waiting

if TYPE_CHECKING:
    from fedfit.experiment.answering import LanguageModel, Turn

QUIT, CLEAR = "/quit", "/clear"
NAMES = ("base", "tuned")


def chat(
    folder: Annotated[Path, typer.Argument(help="The folder of a run of a language model.")],
    max_new_tokens: Tokens = None,
    device: OwnDevice = None,
    single: Annotated[bool, typer.Option("--single", help="Answer each line by itself, without what was said before.")] = False,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0 answers greedily; above, tokens are drawn, and 1 takes the model's probabilities.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the tokens that are drawn.")] = 0,
) -> None:
    """Talk to the base and the tuned model side by side; or read one line a turn from standard input."""
    with polite_errors():
        from fedfit.errors import DataError
        from fedfit.experiment.runs import is_language_run, recipe_of

        recipe = recipe_of(folder)
        if not is_language_run(recipe):
            raise DataError(f"{folder} is the run of a classifier, which gives no answers: use fedfit predict {folder}")
        with waiting("reading the model …", not SCREEN.is_terminal):
            prepare_libraries()
            from fedfit.experiment.answering import LanguageModel

            model = LanguageModel(folder, adapter=own_adapter(folder, device))
        talk = Talk(model, max_new_tokens, temperature, seed, single=single or model.plain)
        if sys.stdin.isatty():
            _converse(talk, Console())
        else:
            _answer_lines(talk)


class Talk:
    """A conversation with both models, each of which remembers its own answers."""

    def __init__(
        self, model: LanguageModel, max_new_tokens: int | None, temperature: float, seed: int, *, single: bool
    ) -> None:
        self._model, self._max_new_tokens = model, max_new_tokens
        self._temperature, self._seed, self._single = temperature, seed, single
        self._turns: tuple[list[Turn], list[Turn]] = ([], [])
        self._asked = 0

    def ask(self, line: str) -> tuple[str, str]:
        """The answers of the base and of the tuned model; drawn tokens depend on the seed and on the number of the line."""
        from fedfit.models.speaker import Sampling
        from fedfit.randomness import derive_seed

        sampling = Sampling(self._temperature, derive_seed(self._seed, "chat", self._asked)) if self._temperature else None
        self._asked += 1
        found = []
        for turns, base in zip(self._turns, (True, False), strict=True):
            answer = self._model.reply(turns, line, self._max_new_tokens, sampling, base=base)
            if not self._single:
                turns.append((line, answer))
            found.append(answer)
        return found[0], found[1]

    def forget(self) -> None:
        """Starts the conversation anew."""
        for turns in self._turns:
            turns.clear()


def _lines(read: Callable[[], str]) -> Iterator[str]:
    """Lines with text up to ``QUIT`` or the end of input."""
    while True:
        try:
            line = read()
        except EOFError:
            return
        if line.strip() == QUIT:
            return
        if line.strip():
            yield line.strip()


def _converse(talk: Talk, screen: Console) -> None:
    say(screen, f"{CLEAR} starts anew, {QUIT} or Ctrl-D ends")
    for line in _lines(lambda: screen.input("[bold]> [/]")):
        if line == CLEAR:
            talk.forget()
            continue
        with screen.status("…"):
            answers = talk.ask(line)
        screen.print(side_by_side(answers))


def side_by_side(answers: tuple[str, str]) -> Table:
    """Two columns of wrapped text."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, expand=True)
    for name in NAMES:
        table.add_column(name, ratio=1, overflow="fold")
    table.add_row(*map(Text, answers))
    return table


def _answer_lines(talk: Talk) -> None:
    """Plain text for a program: the line, and a line for each model."""
    for line in _lines(_read_standard_input):
        if line == CLEAR:
            talk.forget()
            continue
        answers = dict(zip(NAMES, talk.ask(line), strict=True))
        typer.echo(f"> {line}")
        for name, answer in answers.items():
            typer.echo(f"{name + ':':<6} {' '.join(answer.split())}")
        typer.echo()


def _read_standard_input() -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line
