"""MLflow: the store that ``MLFLOW_TRACKING_URI`` names, else ``run/mlflow/mlflow.db``.

``mlflow ui --backend-store-uri sqlite:///run/mlflow/mlflow.db`` shows the latter. The user interface is in the whole package
``mlflow``; the sink needs ``mlflow-skinny`` and what writes SQLite, a fraction of its size.
"""

from __future__ import annotations

import logging
import os
import re
import time

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from fedfit.records import RoundRecord
from fedfit.tracking.sinks.contract import Place, TrackedRun, numbers

_PARAMETERS_A_CALL = 100  # MLflow's limit
_LONGEST_VALUE = 500  # characters of a parameter; some servers take no more
_NOT_IN_NAMES = re.compile(r"[^\w./: -]+")


class MLflow:
    """One MLflow run for one run folder, in the experiment ``MLFLOW_EXPERIMENT_NAME``, else ``fedfit``."""

    def __init__(self, run: TrackedRun) -> None:
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # else it reports each table that it makes
        logging.getLogger("alembic").setLevel(logging.WARNING)
        folder = run.folder / "mlflow"
        folder.mkdir(exist_ok=True)
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve() / 'mlflow.db'}"
        self._client = MlflowClient(tracking_uri=uri)
        self._place = Place(folder)
        if self._place.run_id is None:
            self._place.note(self._begin(run), -1)
        else:
            self._client.update_run(self._place.run_id, status="RUNNING")

    def write(self, record: RoundRecord) -> None:
        """One round's metrics, in one call."""
        if record.round <= self._place.last_round or self._place.run_id is None:
            return
        now_ms = int(1000 * time.time())
        metrics = [Metric(_name(name), value, now_ms, record.round) for name, value in numbers(record).items()]
        self._client.log_batch(self._place.run_id, metrics=metrics)
        self._place.note(self._place.run_id, record.round)

    def close(self) -> None:
        """Marks the run as finished; going on marks it as running again."""
        self._client.set_terminated(self._place.run_id)

    def _begin(self, run: TrackedRun) -> str:
        """A new run at the store, with its parameters."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "fedfit")
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        run_id = str(self._client.create_run(experiment, run_name=run.name).info.run_id)
        parameters = [Param(_name(key), str(value)[:_LONGEST_VALUE]) for key, value in run.parameters.items()]
        for start in range(0, len(parameters), _PARAMETERS_A_CALL):
            self._client.log_batch(run_id, params=parameters[start : start + _PARAMETERS_A_CALL])
        return run_id


def _name(key: str) -> str:
    """``key`` in the characters that MLflow allows: ``device[0].id`` becomes ``device.0.id``."""
    return _NOT_IN_NAMES.sub(".", key).replace("..", ".")
