"""fedfit: fine-tunes one language model across many devices by federated split LoRA."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedfit.api import Run, load, plan, resume, run, stream
    from fedfit.errors import FedfitError, RecipeError

__all__ = ["FedfitError", "RecipeError", "Run", "load", "plan", "resume", "run", "stream"]

__version__ = "0.1.0"

# OpenMP's threads spin while they wait for one another, so two runs on one machine take each other's cores. Sleeping threads do
# not. torch reads the policy when it is imported: the earliest place is here. A choice of the user's stands.
if "GOMP_SPINCOUNT" not in os.environ:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def __getattr__(name: str) -> object:
    """The Python API (``fedfit.api``) and its errors, imported when they are first asked for."""
    if name in ("FedfitError", "RecipeError"):
        import fedfit.errors

        return getattr(fedfit.errors, name)
    if name in __all__:
        import fedfit.api

        return getattr(fedfit.api, name)
    raise AttributeError(f"module 'fedfit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
