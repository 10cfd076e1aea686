"""First paragraphs of the docstrings in a source tree, read with ``ast``; nothing is imported or run."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from fedfit.errors import DataError

SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "testing", "_vendor", "__pycache__"}


def project_folder(project: str) -> Path:
    """Where the sources of an installed package lie, or of the standard library for ``python``."""
    if project == "python":
        return Path(sysconfig.get_paths()["stdlib"])
    # For a name without dots find_spec looks for the files only: it does not import the package.
    spec = importlib.util.find_spec(project)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f'data.source = "pydocs" reads the sources of {project}: install it, or choose another')
    return Path(spec.submodule_search_locations[0])


def first_paragraphs(folder: Path, max_files: int) -> Iterator[str]:
    """First paragraphs, one line each, of at most ``max_files`` files in the order of their relative paths' hashes."""
    for path in _source_files(folder)[:max_files]:
        tree = _parse(path)
        if tree is not None:
            yield from _paragraphs(tree)


def _source_files(folder: Path) -> list[Path]:
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        found.extend(Path(parent, name) for name in files if name.endswith(".py"))
    return sorted(found, key=lambda path: hashlib.blake2b(path.relative_to(folder).as_posix().encode()).digest())


def _parse(path: Path) -> ast.Module | None:
    """The syntax tree, or ``None`` for a file that this Python cannot read, such as a template or code for another version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            content = path.read_bytes()
            return ast.parse(content) if b'"""' in content or b"'''" in content else None
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
