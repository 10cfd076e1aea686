"""fedfit: fine-tunes one language model across many devices by federated split LoRA."""

import os

__version__ = "0.1.0"

# OpenMP's threads spin while they wait for one another, so two runs on one machine take each other's cores. Sleeping threads do
# not. torch reads the policy when it is imported: the earliest place is here. A choice of the user's stands.
if "GOMP_SPINCOUNT" not in os.environ:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_API = ("run", "stream", "resume", "load", "plan", "Run")


def __getattr__(name: str) -> object:
    """The Python API (``fedfit.api``), imported when it is first asked for."""
    if name in _API:
        import fedfit.api

        return getattr(fedfit.api, name)
    raise AttributeError(f"module 'fedfit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_API]
