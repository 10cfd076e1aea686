"""The package's own files, by name, and the user's, by path."""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedfit.errors import Fault, RecipeError, did_you_mean, nearest


def shipped(package: str) -> dict[str, str]:
    """The text of every TOML file in ``package``, by name."""
    folder = importlib.resources.files(package)
    found = {item.name.removesuffix(".toml"): item.read_text() for item in folder.iterdir() if item.name.endswith(".toml")}
    return dict(sorted(found.items()))


def read_shipped_or_file(
    name_or_path: str, names: Mapping[str, str], what: str, aliases: Mapping[str, Sequence[str]] | None = None, hint: str = ""
) -> str:
    """The text of a file, or of the shipped file with that name.

    Args:
        names: the text of each shipped file, by name.
        what: the word for such a file in messages.
        aliases: other words that a person may try, each with the names to propose.
        hint: the end of the message for an unknown name.

    Raises:
        RecipeError: when no such file or name exists.
    """
    path = Path(name_or_path)
    if _is_path(name_or_path) and not path.is_file():
        raise RecipeError([Fault(what, name_or_path, "no such file")], text=_no_file(path, name_or_path, names))
    try:
        if path.is_file():
            return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError([Fault(what, name_or_path, f"cannot be read: {error}")], f"the {what}") from error
    if name_or_path in names:
        return names[name_or_path]
    remedy = f"{did_you_mean(name_or_path, names, aliases)}give a file, or one of {', '.join(names)}{hint}"
    fault = Fault(what, name_or_path, remedy)
    raise RecipeError([fault], text=str(fault))


def _is_path(words: str) -> bool:
    """Whether a person means a file rather than a shipped name."""
    return words.endswith(".toml") or "/" in words or os.sep in words


def _no_file(path: Path, given: str, names: Mapping[str, str]) -> str:
    """The message for a file that does not exist: where it was looked for, and the nearest file or shipped name."""
    if path.is_dir():
        return f"{given} is a folder; name the file in it"
    where = "" if path.is_absolute() else f" (in the working folder {Path.cwd()})"
    if not path.parent.is_dir():
        return f"no such file: {given}{where}: no such folder {path.parent}"
    near = nearest(path.name, [item.name for item in path.parent.glob("*.toml")])
    guess = f"{path.parent / near[0]}" if near else f"{path.stem}, which is shipped" if path.stem in names else ""
    return f"no such file: {given}{where}" + (f"; did you mean {guess}?" if guess else "")
