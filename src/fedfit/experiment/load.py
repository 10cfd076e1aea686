"""From TOML and the command line to a ``Recipe``: shape and types of every key, with all faults at once."""

from __future__ import annotations

import difflib
import importlib.resources
import tomllib
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import tomli_w

from fedfit.errors import Fault, RecipeError
from fedfit.experiment.validate import key_faults
from fedfit.settings import SECTIONS, Recipe

_MISSING = object()
_NOT_TOML = (ValueError, RecursionError)  # tomllib's own error, a number of too many digits, brackets nested too deep


def shipped_recipes() -> dict[str, str]:
    """The text of every recipe that comes with the package, by name."""
    folder = importlib.resources.files("fedfit.recipes")
    found = {item.name.removesuffix(".toml"): item.read_text() for item in folder.iterdir() if item.name.endswith(".toml")}
    return dict(sorted(found.items()))


def recipe_heads() -> dict[str, str]:
    """The first comment line of every shipped recipe, by name."""
    return {name: text.partition("\n")[0].lstrip("# ") for name, text in shipped_recipes().items()}


def read_recipe(name_or_path: str) -> str:
    """The text of a shipped recipe by name, or of a file.

    Raises:
        RecipeError: when there is neither.
    """
    shipped = shipped_recipes()
    path = Path(name_or_path)
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError([Fault("recipe", name_or_path, f"cannot be read: {error}")]) from error
    if name_or_path in shipped:
        return shipped[name_or_path]
    near = difflib.get_close_matches(name_or_path, shipped, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise RecipeError([Fault("recipe", name_or_path, f"{hint}give a file, or one of {', '.join(shipped)}")])


def parse_recipe(text: str, overrides: Sequence[str] = (), origin: str = "the text") -> Recipe:
    """A recipe of known keys and right types; what else must hold is for ``experiment.validate``, and told with the rest.

    Args:
        overrides: ``section.key=value``, the value in TOML; a bare word is taken as a string.
        origin: the file or name that the text came from, for the message when it is not TOML.

    Raises:
        RecipeError: with every fault found.
    """
    try:
        document = tomllib.loads(text)
    except _NOT_TOML as error:
        raise RecipeError([Fault("recipe", origin, f"is not TOML: {error}")]) from error
    faults: list[Fault] = []
    for override in overrides:
        _apply_override(document, override, faults)
    recipe = _build(Recipe, document, "", faults)
    assert isinstance(recipe, Recipe)
    if faults:  # a key at fault holds its default now, so what is added is news
        raise RecipeError([*faults, *key_faults(recipe)])
    return recipe


def to_toml(recipe: Recipe) -> str:
    """The resolved recipe: every key with its value; those that are unset are left out."""
    return tomli_w.dumps(_plain(asdict(recipe)))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items() if item is not None}
    return list(value) if isinstance(value, tuple) else value


def _apply_override(document: dict[str, Any], override: str, faults: list[Fault]) -> None:
    path, equals, raw = override.partition("=")
    *sections, last = path.strip().split(".")
    if not equals or not last:
        faults.append(Fault("override", override, "write section.key=value, for example federation.rounds=10"))
        return
    table = document
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            faults.append(Fault(path, raw, f"{section} is a key, not a section"))
            return
    table[last] = _override_value(raw.strip())


def _override_value(raw: str) -> Any:
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except _NOT_TOML:
        return raw


def _build(kind: type[Any], table: Mapping[str, Any], prefix: str, faults: list[Fault]) -> Any:
    hints = get_type_hints(kind)
    known = {item.name: item for item in fields(kind)}
    for name in table:
        if name not in known:
            faults.append(Fault(prefix + name, table[name], _unknown(name, prefix, known)))
    values = {}
    for name, item in known.items():
        given = table.get(name, _MISSING)
        if is_dataclass(hints[name]):
            values[name] = _section(hints[name], given, prefix + name, faults)
        elif given is not _MISSING:
            values[name] = _value(given, hints[name], item, prefix + name, faults)
    return kind(**values)


def _section(kind: Any, given: Any, name: str, faults: list[Fault]) -> Any:
    if given is _MISSING:
        return kind()
    if not isinstance(given, dict):
        faults.append(Fault(name, given, f"{name} is a section; write [{name}] and its keys below"))
        return kind()
    return _build(kind, given, f"{name}.", faults)


def _unknown(name: str, prefix: str, known: Iterable[str]) -> str:
    """The remedy: the nearest name here and the same name elsewhere, else the nearest anywhere."""
    places = _places()
    here = difflib.get_close_matches(name, list(known), n=1)
    anywhere = difflib.get_close_matches(name, list(places), n=1)
    meant = [prefix + near for near in here] + places.get(name, [])
    meant = meant or [key for near in anywhere for key in places[near]]
    if meant:
        return f"unknown key; did you mean {' or '.join(meant)}?"
    return f"unknown key; known here: {', '.join(known)}"


def _places() -> dict[str, list[str]]:
    """Every key by its bare name; some are in several sections."""
    hints = get_type_hints(Recipe)
    places = {name: [name] for name in hints if name not in SECTIONS}
    for section in SECTIONS:
        for item in fields(hints[section]):
            places.setdefault(item.name, []).append(f"{section}.{item.name}")
    return places


def _value(given: Any, hint: Any, item: Field[Any], name: str, faults: list[Fault]) -> Any:
    accepted = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for kind in accepted:
        value = _coerce(given, kind)
        if value is not _MISSING:
            return value
    wanted = " or ".join(_readable(kind) for kind in accepted if kind is not type(None))
    faults.append(Fault(name, given, f"must be {wanted}"))
    return item.default if item.default is not MISSING else None


def _coerce(given: Any, kind: Any) -> Any:
    if get_origin(kind) is tuple:
        member = get_args(kind)[0]
        items = [given] if isinstance(given, str) and member is str else given
        if isinstance(items, list) and all(_coerce(part, member) is not _MISSING for part in items):
            return tuple(items)
        return _MISSING
    if kind is float and type(given) is int and abs(given) < 2**53:  # beyond, not every whole number is a float
        return float(given)
    return given if type(given) is kind else _MISSING


def _readable(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return {str: "a list of strings", int: "a list of whole numbers"}[get_args(kind)[0]]
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}[kind]
