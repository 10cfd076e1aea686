"""Shared by all commands: options, printing, and messages for a user's mistake."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Annotated, Any

import typer
from rich.console import Console

from fedfit.errors import ComponentError, FedfitError

SCREEN = Console(stderr=True)
"""Standard error, for everything but results."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Tokens = Annotated[
    int | None, typer.Option("--max-new-tokens", min=1, help="Longest answer of a language model; by default the recipe's.")
]
OwnDevice = Annotated[
    int | None,
    typer.Option("--device", help="Number of a device whose own model is used, of a run whose devices have their own."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]


@contextmanager
def polite_errors(as_json: bool = False) -> Iterator[None]:
    """Prints a user's mistake in words and exits with status 2, never with a traceback; ``as_json`` adds a JSON document.

    An exception inside a component of the user's own ends with status 1 and the frames of that component.
    """
    try:
        yield
    except FedfitError as error:
        if as_json:
            faults = [vars(fault) | {"value": str(fault.value)} for fault in getattr(error, "faults", ())]
            print_json({"error": str(error), "faults": faults})
        SCREEN.print("[bold red]error:[/] ", end="")
        say(SCREEN, str(error))
        raise typer.Exit(1 if isinstance(error, ComponentError) else 2) from error
    except KeyboardInterrupt:
        say(SCREEN, "\nstopped")
        raise typer.Exit(130) from None


def waiting(what: str, quiet: bool) -> AbstractContextManager[object]:
    """A spinner with ``what`` beside it, unless ``quiet`` or without a terminal to draw it on."""
    return nullcontext() if quiet or not SCREEN.is_terminal else SCREEN.status(what)


def say(screen: Console, text: str) -> None:
    """Prints ``text`` unchanged: rich would read square brackets in paths and values as markup."""
    screen.print(text, markup=False, highlight=False, soft_wrap=True)


def prepare_libraries() -> None:
    """Silences the libraries' own bars and hints, which would break into ours."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    from datasets.utils.logging import disable_progress_bar
    from transformers.utils import logging as transformers_logging

    disable_progress_bar()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")


def print_heads(heads: Mapping[str, str], hints: Sequence[str], as_json: bool) -> None:
    """Shipped files by name, each with its first line; below them what to do with one."""
    if as_json:
        print_json(heads)
        return
    width = max(map(len, heads))
    for name, head in heads.items():
        typer.echo(f"{name:<{width}}  {head}")
    typer.echo("\n" + "\n".join(hints))
