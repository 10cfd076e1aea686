"""Every tracker that a run can write to, and all those of one run together."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TypeVar

from fedfit.errors import FedfitError
from fedfit.records import RoundRecord
from fedfit.tracking.sinks.contract import Sink, TrackedRun

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class SinkKind:
    """Where a sink's class is, the ``packages`` that it imports, and the ``extra`` that installs them."""

    module: str
    class_name: str
    packages: tuple[str, ...] = ()
    extra: str = ""

    def is_installed(self) -> bool:
        """Whether its packages are there. A folder of that name, such as W&B makes, is no package."""
        specs = [importlib.util.find_spec(name) for name in self.packages]
        return all(spec is not None and spec.origin is not None for spec in specs)

    def open(self, run: TrackedRun) -> Sink:
        """The sink for ``run``; imports its packages."""
        sink: Sink = getattr(importlib.import_module(self.module), self.class_name)(run)
        return sink


class Sinks:
    """The sinks of one run, by name. One that fails is reported and left out: a tracker must not cost the run its results."""

    def __init__(self, names: Sequence[str], run: TrackedRun, earlier: Iterable[RoundRecord]) -> None:
        """Opens the sinks ``names`` of ``SINKS``, and writes what they lack of the rounds that are done."""
        self._open: dict[str, Sink] = {}
        for name in dict.fromkeys(names):
            opened = self._try(name, partial(SINKS[name].open, run))
            if opened is not None:
                self._open[name] = opened
        for record in earlier:
            self.write(record)

    def write(self, record: RoundRecord) -> None:
        """Adds one round to each."""
        for name, sink in list(self._open.items()):
            self._try(name, partial(sink.write, record))

    def close(self) -> None:
        """Closes each."""
        for name, sink in list(self._open.items()):
            self._try(name, sink.close)

    def _try(self, name: str, action: Callable[[], _Result]) -> _Result | None:
        try:
            return action()
        except FedfitError:
            raise
        except Exception as error:  # each tracker has errors of its own
            self._open.pop(name, None)
            log.warning(
                "%s failed (%s) and is left out from here; the run goes on, its numbers are in rounds.jsonl", name, error
            )
            return None


SINKS: Mapping[str, SinkKind] = MappingProxyType(
    {
        "tensorboard": SinkKind("fedfit.tracking.sinks.tensorboard", "TensorBoard"),
        "mlflow": SinkKind("fedfit.tracking.sinks.mlflow", "MLflow", ("mlflow", "sqlalchemy", "alembic"), "mlflow"),
        "wandb": SinkKind("fedfit.tracking.sinks.wandb", "WeightsAndBiases", ("wandb",), "wandb"),
    }
)
