"""Files that come with the package, by name, and the user's own, by path."""

from __future__ import annotations

import difflib
import importlib.resources
from collections.abc import Mapping
from pathlib import Path

from fedfit.errors import Fault, RecipeError


def shipped(package: str) -> dict[str, str]:
    """The text of every TOML file in ``package``, by name."""
    folder = importlib.resources.files(package)
    found = {item.name.removesuffix(".toml"): item.read_text() for item in folder.iterdir() if item.name.endswith(".toml")}
    return dict(sorted(found.items()))


def read_shipped_or_file(name_or_path: str, there: Mapping[str, str], what: str) -> str:
    """The text of a file, or of what is shipped under that name. ``what`` is the word for it in messages.

    Raises:
        RecipeError: when there is neither.
    """
    path = Path(name_or_path)
    try:
        if path.is_file():
            return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError([Fault(what, name_or_path, f"cannot be read: {error}")], f"the {what}") from error
    if name_or_path in there:
        return there[name_or_path]
    near = difflib.get_close_matches(name_or_path, there, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise RecipeError([Fault(what, name_or_path, f"{hint}give a file, or one of {', '.join(there)}")], f"the {what}")
