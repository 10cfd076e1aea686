"""A quantised GGUF model as a folder of safetensors in the cache folder, converted once.

transformers reads a GGUF tensor by tensor in Python: 15 s and 1.2 GB for SmolLM2-135M. The copy holds the same float32
numbers and is read in about 1 s. Each process holds it to its checksums (xxh3: 0.1 s for 0.5 GB) once.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import importlib.util
import io
import json
import logging
import shutil
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import xxhash

from fedfit.core.cache_folder import cache_folder
from fedfit.errors import ModelError

CONVERSION_VERSION = 1
"""Raise it with every change to the conversion: it is part of the folder's name."""

_CHECKSUMS = "checksums.json"
_CHUNK_BYTES = 1 << 22

log = logging.getLogger(__name__)


def converted_copy(alias: str, gguf: Path) -> Path:
    """Folder with weights, configuration and tokenizer of ``gguf``; made if it is absent, damaged, or of another transformers.

    A process that finds another one at the conversion waits for it. One that is killed leaves nothing that counts.

    Raises:
        ModelError: when the conversion fails, or its result cannot be written.
    """
    folder = _folder_for(alias, gguf)
    if _is_whole(folder):
        return folder
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(f"model {alias!r} is read with the package gguf; install it: pip install gguf")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f".{folder.name}.lock")):
            if not _is_whole(folder):  # nor made by another process meanwhile
                _replace(folder, alias, gguf)
    except (OSError, ValueError, RuntimeError, LookupError, ImportError, struct.error) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"model {alias!r} cannot be converted into {folder} ({reason}); that takes 0.6 GB of space, in a folder that "
            f"FEDFIT_CACHE names; if {gguf.name} is damaged, install its package anew"
        ) from error
    return folder


def _folder_for(alias: str, gguf: Path) -> Path:
    stat = gguf.stat()
    key = f"{_digest(gguf, stat.st_size, stat.st_mtime_ns)[:16]}-transformers-{importlib.metadata.version('transformers')}"
    return cache_folder() / "models" / f"{alias}-v{CONVERSION_VERSION}-{key}"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the lock ``path``, which the system releases when the process ends, however it ends."""
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _replace(folder: Path, alias: str, gguf: Path) -> None:
    """Convert beside ``folder`` and rename. The lock is held, so what lies in the way is of a killed process, or damaged."""
    if folder.exists():
        log.warning("model %r: %s is damaged; it is made anew", alias, folder)
    log.warning("model %r is converted from its package's GGUF, once; about 15 s. Kept in %s", alias, folder)
    beside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir()
        convert(gguf, beside)
        checksums = {path.name: _digest_now(path) for path in sorted(beside.iterdir())}
        (beside / _CHECKSUMS).write_text(json.dumps(checksums, indent=1) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def convert(gguf: Path, folder: Path) -> None:
    """Write the causal language model in ``gguf`` as float32 safetensors into ``folder``, with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name, "local_files_only": True}
    # transformers' bar for GGUF files heeds none of its settings
    with contextlib.redirect_stderr(io.StringIO()):
        model = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**place)
    # The numbers are dequantised already; the marks of a quantised model would make save_pretrained refuse.
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized, model.quantization_method = None, False, None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _is_whole(folder: Path) -> bool:
    """Whether every file that the conversion wrote is there with its checksum."""
    try:
        checksums = json.loads((folder / _CHECKSUMS).read_text())
        return all(_digest_now(folder / name) == checksum for name, checksum in checksums.items()) and bool(checksums)
    except (OSError, ValueError, AttributeError):
        return False


def _digest_now(path: Path) -> str:
    stat = path.stat()
    return _digest(path, stat.st_size, stat.st_mtime_ns)


@cache
def _digest(path: Path, size_bytes: int, mtime_ns: int) -> str:
    """Of the content; computed once a process for a file that keeps its size and time."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
