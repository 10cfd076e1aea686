"""From a TOML document to frozen dataclasses: shape and types of every key, with all faults at once."""

from __future__ import annotations

import tomllib
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from fedfit.errors import Fault, RecipeError, nearest
from fedfit.experiment.components import keys_of
from fedfit.experiment.key_places import key_places, rows_of
from fedfit.experiment.moved import MOVED
from fedfit.schema import DRAWS, Draw

_MISSING = object()
_NOT_TOML = (ValueError, RecursionError)  # tomllib's own error, a number of too many digits, brackets nested too deep

T = TypeVar("T")


def read_toml(text: str, origin: str, what: str = "recipe") -> dict[str, Any]:
    """The document in ``text``. ``what`` is the word for it in messages.

    Raises:
        RecipeError: when it is not TOML.
    """
    try:
        return tomllib.loads(text)
    except _NOT_TOML as error:
        raise RecipeError([Fault(what, origin, f"is not TOML: {error}")], f"the {what}") from error


def override(document: dict[str, Any], words: str, faults: list[Fault]) -> None:
    """Sets ``section.key=value`` in ``document``, the value in TOML; a bare word is a string. An empty value takes the key out
    of the document, which restores its default."""
    path, equals, raw = words.partition("=")
    *sections, last = _keys(path.strip())
    if not equals or not last:
        faults.append(Fault("override", words, "write section.key=value, for example federation.rounds=10"))
        return
    table = document
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            faults.append(Fault(path, raw, f"{section} is a key or a list of tables, not a section"))
            return
    if raw.strip():
        table[last] = _override_value(raw.strip())
    elif table.pop(last, _MISSING) is _MISSING:
        faults.append(Fault(path, "", "the recipe does not set it, so it cannot be taken out; write a value after the ="))


def _keys(path: str) -> list[str]:
    """The keys of ``a.b.c``; one that holds dots stands in quotes, ``federation."package.module:ENTRY".key``."""
    try:
        table: Any = tomllib.loads(f"{path} = 0")
    except _NOT_TOML:
        return path.split(".")
    keys = []
    while isinstance(table, dict):
        if len(table) != 1:  # a comment sign, or a line break with a second key
            return path.split(".")
        ((name, table),) = table.items()
        keys.append(name)
    return keys


def _override_value(raw: str) -> Any:
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except _NOT_TOML:
        return raw


def build_settings(kind: type[T], document: Mapping[str, Any], faults: list[Fault]) -> T:
    """Returns ``document`` as a ``kind``; faults are added to ``faults``, and a key at fault holds its default."""
    built = _Builder(kind, faults).table(kind, document, "")
    assert isinstance(built, kind)
    return built


class _Builder:
    """Walks a document beside its schema ``root``, whose keys also serve as guesses for misspelt ones."""

    def __init__(self, root: Any, faults: list[Fault]) -> None:
        self._root, self._faults = root, faults

    def table(self, kind: Any, table: Mapping[str, Any], prefix: str) -> Any:
        hints = get_type_hints(kind)
        options = next((item for item in fields(kind) if "options" in item.metadata), None)
        known = {item.name: item for item in fields(kind) if item is not options}
        values: dict[str, Any] = {} if options is None else {options.name: {}}
        for name in table:
            if name in known:
                continue
            if options is None or not self._option(values[options.name], options, name, table[name], prefix):
                self._fault(prefix + name, table[name], self._unknown(name, prefix, known))
        for name, item in known.items():
            given = table.get(name, _MISSING)
            rows = rows_of(hints[name])
            if is_dataclass(hints[name]):
                values[name] = self._section(hints[name], given, prefix + name)
            elif rows is not None:
                values[name] = self._rows(rows, given, prefix + name)
            elif given is not _MISSING:
                values[name] = self._value(given, hints[name], item, prefix + name)
        return kind(**values)

    def _option(self, built: dict[str, Any], item: Field[Any], name: str, given: Any, prefix: str) -> bool:
        """Adds the keys of the component ``name`` to ``built``; false where there is no such component."""
        if prefix + name in MOVED and not isinstance(given, dict):
            return False
        try:
            kind = keys_of(item.metadata["options"], name)
        except LookupError:
            return False
        if kind is None:
            self._fault(prefix + name, given, f"{name} has no keys of its own; remove it")
        else:
            built[name] = self._section(kind, given, prefix + name)
        return True

    def _section(self, kind: Any, given: Any, name: str) -> Any:
        if given is _MISSING:
            return kind()
        if not isinstance(given, dict):
            self._fault(name, given, f"{name} is a section; write [{name}] and its keys below")
            return kind()
        return self.table(kind, given, f"{name}.")

    def _rows(self, kind: Any, given: Any, name: str) -> tuple[Any, ...]:
        if given is _MISSING:
            return ()
        if not isinstance(given, list) or not all(isinstance(row, dict) for row in given):
            self._fault(name, given, f"{name} is a list of tables; write [[{name}]] and its keys below, once for each")
            return ()
        return tuple(self.table(kind, row, f"{name}[{number}].") for number, row in enumerate(given))

    def _value(self, given: Any, hint: Any, item: Field[Any], name: str) -> Any:
        accepted = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        for kind in accepted:
            value = _coerce(given, kind)
            if value is not _MISSING:
                return value
        wanted = " or ".join(_readable(kind) for kind in accepted if kind is not type(None))
        self._fault(name, given, f"must be {wanted}{_as_list(given, accepted, name)}")
        return item.default if item.default is not MISSING else None

    def _unknown(self, name: str, prefix: str, known: Iterable[str]) -> str:
        """The remedy: the new place of a key that has moved; the nearest name here and the same name elsewhere, else the
        nearest anywhere."""
        if prefix + name in MOVED:
            return f"unknown key; {MOVED[prefix + name]}"
        places = key_places(self._root)
        meant = [prefix + near for near in nearest(name, known)] + places.get(name, [])
        meant = meant or [key for near in nearest(name, places) for key in places[near]]
        if meant:
            return f"unknown key; did you mean {' or '.join(meant)}?"
        return f"unknown key; known here: {', '.join(known)}"

    def _fault(self, name: str, value: object, remedy: str) -> None:
        self._faults.append(Fault(name, value, remedy))


def _coerce(given: Any, kind: Any) -> Any:
    if get_origin(kind) is tuple:
        member = get_args(kind)[0]
        items = [given] if isinstance(given, str) and member is str else given
        parts = [_coerce(part, member) for part in items] if isinstance(items, list) else [_MISSING]
        return _MISSING if _MISSING in parts else tuple(parts)
    if kind is Draw:
        return _draw(given)
    if kind is float and type(given) is int and abs(given) < 2**53:  # beyond, not every whole number is a float
        return float(given)
    return given if type(given) is kind else _MISSING


def _as_list(given: Any, accepted: Iterable[Any], name: str) -> str:
    """``2,4,8`` or a number alone as the list that a key takes, quoted for a command line; empty for anything else."""
    written = f"[{given}]"
    lists = [kind for kind in accepted if get_origin(kind) is tuple]
    if isinstance(given, bool | list | dict) or not lists or _coerce(_override_value(written), lists[0]) is _MISSING:
        return ""
    return f"; write '{name}={written}'"


def _draw(given: Any) -> Any:
    if not isinstance(given, dict) or len(given) != 1:
        return _MISSING
    ((name, values),) = given.items()
    numbers = [_coerce(value, float) for value in values] if isinstance(values, list) else []
    few = len(numbers) != 2 if name != "choice" else not numbers
    if name not in DRAWS or few or _MISSING in numbers:
        return _MISSING
    return Draw(name, tuple(numbers))


def _readable(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return {str: "a list of strings", int: "a list of whole numbers", float: "a list of numbers"}[get_args(kind)[0]]
    if kind is Draw:
        return f"a distribution such as {{uniform = [low, high]}} ({', '.join(DRAWS)})"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}[kind]


def flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``section.key`` and value of every key of a TOML document; ``section[0].key`` in a list of tables."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for number, row in enumerate(value):
                yield from flat(row, f"{prefix}{name}[{number}].")
        else:
            yield f"{prefix}{name}", value


def to_plain(value: Any) -> Any:
    """Returns ``value`` as TOML can hold it; unset keys are left out."""
    if isinstance(value, Draw):
        return value.to_toml()
    if is_dataclass(value):
        given: dict[str, Any] = {}
        for item in fields(value):
            given |= getattr(value, item.name) if "options" in item.metadata else {item.name: getattr(value, item.name)}
        return {name: to_plain(item) for name, item in given.items() if item is not None}
    return [to_plain(item) for item in value] if isinstance(value, Sequence) and not isinstance(value, str) else value
