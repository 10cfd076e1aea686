"""The other processes of a cluster: each runs the same federation beside the one that writes, and leaves nothing behind."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from fedfit.experiment.session import Session
from fedfit.rounds.cluster import Cluster
from fedfit.settings import Recipe


def follow(cluster: Cluster, recipe: Recipe | None, run: Path) -> None:
    """Takes part in the run to its end, in a folder of its own.

    Args:
        recipe: of a new run; ``None`` goes on with ``run``, whose folder is copied before the first process touches it.
    """
    with tempfile.TemporaryDirectory(prefix="fedfit-") as folder:
        own = Path(folder) / "run"
        if recipe is None:
            shutil.copytree(run, own)
        cluster.wait()
        session = Session.start(recipe, own) if recipe is not None else Session.resume(own)
        try:
            for _ in session.results():
                pass
        finally:
            session.folder.close()
