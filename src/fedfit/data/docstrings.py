"""The docstrings in a source tree, read with ``ast``; nothing is imported or run."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import re
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fedfit.errors import DataError

SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "testing", "_vendor", "__pycache__"}


def project_folder(project: str, source: str = "pydocs") -> Path:
    """Where the sources of an installed package lie, or of the standard library for ``python``; ``source`` is the data set."""
    if project == "python":
        return Path(sysconfig.get_paths()["stdlib"])
    # For a name without dots find_spec looks for the files only: it does not import the package.
    spec = importlib.util.find_spec(project)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f'data.source = "{source}" reads the sources of {project}: install it, or choose another')
    return Path(spec.submodule_search_locations[0])


def first_paragraphs(folder: Path, max_files: int) -> Iterator[str]:
    """First paragraphs, one line each, of at most ``max_files`` files in the order of their relative paths' hashes."""
    for tree, _ in _trees(folder, max_files):
        yield from _paragraphs(tree)


class Function(NamedTuple):
    """A function or method: its first line, its body's lines without docstring, comments and indentation, its docstring."""

    signature: str
    body: tuple[str, ...]
    docstring: str


def documented_functions(folder: Path, max_files: int) -> Iterator[Function]:
    """Functions and methods with a docstring, of the files that ``first_paragraphs`` reads."""
    for tree, source in _trees(folder, max_files):
        lines = source.split("\n")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (docstring := ast.get_docstring(node)):
                yield Function(_signature(node), _body(node, lines), docstring)


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    keyword = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returned = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{keyword} {node.name}({ast.unparse(node.args)}){returned}:"


def _body(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> tuple[str, ...]:
    """Source lines from the end of the docstring on."""
    body = textwrap.dedent("\n".join(lines[node.body[0].end_lineno : node.end_lineno]))
    return tuple(line.rstrip() for line in body.split("\n") if line.strip() and not line.lstrip().startswith("#"))


def _trees(folder: Path, max_files: int) -> Iterator[tuple[ast.Module, str]]:
    for path in _source_files(folder)[:max_files]:
        parsed = _parse(path)
        if parsed is not None:
            yield parsed


def _source_files(folder: Path) -> list[Path]:
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        found.extend(Path(parent, name) for name in files if name.endswith(".py"))
    return sorted(found, key=lambda path: hashlib.blake2b(path.relative_to(folder).as_posix().encode()).digest())


def _parse(path: Path) -> tuple[ast.Module, str] | None:
    """The syntax tree and the source; ``None`` for a file that this Python cannot read, such as code for another version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            content = path.read_bytes()
            if b'"""' not in content and b"'''" not in content:
                return None
            return ast.parse(content), importlib.util.decode_source(content)
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def _paragraphs(node: ast.AST) -> Iterator[str]:
    """Of the module, its classes and functions, in the order of the file."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        docstring = ast.get_docstring(node)
        if docstring:
            yield " ".join(re.split(r"\n\s*\n", docstring.strip(), maxsplit=1)[0].split())
    for child in getattr(node, "body", []):
        yield from _paragraphs(child)
