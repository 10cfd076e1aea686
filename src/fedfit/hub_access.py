"""Whether the Hugging Face hub answers; without an answer its libraries read their cache at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

TIMEOUT_S = 3.0


@contextmanager
def hub_or_cache() -> Iterator[None]:
    """Switches the hub's libraries to their cache while the hub does not answer: each would retry for 23 s otherwise."""
    if hub_error() is None:
        yield
        return
    from huggingface_hub import constants

    # Both libraries read their flag at each request; the environment variable is read at their import alone.
    modules: list[Any] = [constants, *(module for name, module in sys.modules.items() if name == "datasets.config")]
    before = [module.HF_HUB_OFFLINE for module in modules]
    try:
        for module in modules:
            module.HF_HUB_OFFLINE = True
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


@cache
def hub_error() -> str | None:
    """The reason why the hub does not answer, or ``None`` when it does. Asked once a process, through proxies as configured."""
    import httpx
    from huggingface_hub import constants, get_session

    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return str(error) or type(error).__name__
    return None
