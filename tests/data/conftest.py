from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def minilm_tokenizer(minilm: Path) -> Any:
    """The tokenizer of the embedded default model; its files lie in a pip package, so no network is needed."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(minilm, local_files_only=True)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDFIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
