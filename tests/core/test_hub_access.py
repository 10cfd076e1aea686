"""A hub that does not answer is asked once, and nobody waits for it."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from datasets import config
from huggingface_hub import constants

from fedfit.hub_access import hub_error, hub_or_cache


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if HF_HUB_OFFLINE were not set, and nothing were known of the hub yet."""
    for module in (constants, config):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    hub_error.cache_clear()
    yield
    hub_error.cache_clear()


def answer(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> list[str]:
    """Serves every request with ``error``, or with success; returns the addresses that are asked."""
    asked: list[str] = []

    class Session:
        def head(self, url: str, **_: Any) -> None:
            asked.append(url)
            if error is not None:
                raise error

    monkeypatch.setattr("huggingface_hub.get_session", Session)
    return asked


def test_a_hub_that_answers_is_asked_once_and_stays_online(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answer(monkeypatch, None)
    for _ in range(2):
        with hub_or_cache():
            assert (constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE) == (False, False)
    assert asked == [constants.ENDPOINT]


@pytest.mark.parametrize("error", [httpx.ConnectError("no route"), httpx.InvalidURL("no route"), OSError("no route")])
def test_without_an_answer_the_libraries_read_their_cache(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, error)
    assert hub_error() == "no route"
    with hub_or_cache():
        assert (constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE) == (True, True)
    assert (constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE) == (False, False)
    with pytest.raises(ValueError, match="inside"), hub_or_cache():
        raise ValueError("inside")
    assert (constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE) == (False, False)


def test_a_user_who_is_offline_on_purpose_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answer(monkeypatch, None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub_error() == "HF_HUB_OFFLINE is set"
    assert asked == []


@pytest.mark.parametrize("override", ["data.source=ag_news", "model.name=somebody/model"])
def test_a_run_without_a_network_ends_without_retries(override: str) -> None:
    """A port where nothing listens stands for the hub; the libraries alone would print retries for 23 s."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        hub = f"http://127.0.0.1:{closed.getsockname()[1]}"
    environment = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "FEDFIT_DATA")}
    command = [sys.executable, "-m", "fedfit.cli", "run", "demo", override, "--quiet"]
    done = subprocess.run(command, env=environment | {"HF_ENDPOINT": hub}, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Retrying" not in done.stderr
