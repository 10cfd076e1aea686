"""Models and tokenizers by alias, hub name or local directory."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from fedfit.errors import ModelError
from fedfit.hub_access import hub_or_cache
from fedfit.models.families import GENERATING, family_of
from fedfit.models.gguf_copy import converted_copy
from fedfit.models.packaged import PACKAGED, packaged_file

_FOLDER = "folder with config.json and weights"
_ALIAS = f"an alias ({', '.join(PACKAGED)})"
_HUB_NAME = "a hub name that can be reached or is in the local hub cache"


def locate(name: str) -> str:
    """The directory behind an alias; a local directory or a hub name as it is. A GGUF file is converted at its first use.

    Raises:
        ModelError: when the package of an alias is not installed or its GGUF cannot be converted, and for a path at which
            there is no folder of a model.
    """
    if name in PACKAGED:
        found = packaged_file(name)
        return str(converted_copy(name, found) if PACKAGED[name].is_gguf else found)
    folder = Path(name).expanduser()
    if not folder.is_dir() and (folder.exists() or _is_path(name)):
        fault = "is a file" if folder.exists() else f"is a path, and {_first_missing(folder)} does not exist"
        raise ModelError(f"the model {name!r} {fault}; give the {_FOLDER}, {_ALIAS}, or {_HUB_NAME}")
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ModelError(f"the folder {name!r} has no config.json; give the {_FOLDER}, {_ALIAS}, or {_HUB_NAME}")
    return str(folder) if folder.is_dir() else name


def public_name(name: str) -> str:
    """The name of a model on another machine: the hub's for an alias, the last part of a local directory's path."""
    if name in PACKAGED:
        return PACKAGED[name].hub_name
    folder = Path(name).expanduser()
    return folder.resolve().name if folder.is_dir() else name


def _is_path(name: str) -> bool:
    """Whether ``name`` can be nothing but a path: names on the hub are ``model`` or ``owner/model``."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1 or name.endswith("/") or "\\" in name


def _first_missing(path: Path) -> Path:
    return next((parent for parent in reversed(path.parents) if not parent.exists()), path)


def load_config(name: str, labels: int | None = 2) -> Any:
    """The model's configuration, for a family that can be split; with ``labels=None`` one that has a language-model head.

    Raises:
        ModelError: when it cannot be had, is of an unsupported family, or has a key by which its family is computed otherwise
            than here.
    """
    config = _from_pretrained(AutoConfig, name, **({} if labels is None else {"num_labels": labels}))
    family = family_of(config.model_type)
    if labels is None and family.decoder is None:
        raise ModelError(
            f"the model {name!r} is of the family {family.name!r}, an encoder, which generates no text; give a model of one of "
            f"{', '.join(GENERATING)}, or set task.kind to classification"
        )
    if fault := family.unlike(config):
        raise ModelError(f"the model {name!r} cannot be split: in its config.json {fault}")
    return config


def load_model(name: str, labels: int | None, seed: int) -> nn.Module:
    """A pretrained model in eval mode, float32, all frozen: a sequence classifier with ``labels`` outputs, or, with ``None``, a
    causal language model with its own head.

    A classifier's head is drawn from ``seed``: two calls give the same weights, and the caller's generator is left alone.
    """
    config = load_config(name, labels)
    with torch.random.fork_rng(), _quiet():
        torch.manual_seed(seed)
        model = _from_pretrained(
            AutoModelForCausalLM if labels is None else AutoModelForSequenceClassification,
            name,
            config=config,
            attn_implementation=family_of(config.model_type).kernel,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # a head saved for another number of labels is replaced by a fresh one
        )
    model.requires_grad_(False)
    frozen: nn.Module = model.eval()
    return frozen


def load_tokenizer(name: str) -> Any:
    """The model's fast tokenizer."""
    return _from_pretrained(AutoTokenizer, name, use_fast=True)


def _from_pretrained(factory: Any, name: str, **options: Any) -> Any:
    try:
        located = locate(name)
        with nullcontext() if Path(located).is_dir() else hub_or_cache():
            return factory.from_pretrained(located, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"the model {name!r} cannot be loaded ({reason}); give {_ALIAS}, {_HUB_NAME}, or a {_FOLDER}"
        ) from error


class _quiet:  # noqa: N801 - reads as a word at its call
    """Hides transformers' report of the fresh head and its loading bar: expected here, and not news to the user."""

    def __enter__(self) -> None:
        self.verbosity = transformers_logging.get_verbosity()
        self.bar = transformers_logging.is_progress_bar_enabled()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        transformers_logging.set_verbosity(self.verbosity)
        if self.bar:
            transformers_logging.enable_progress_bar()
