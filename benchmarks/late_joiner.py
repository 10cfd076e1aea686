"""What a device that joins late has after one round: its own test accuracy, beside that of devices that were there all along.

``python -m benchmarks.late_joiner``: the federation of ``fedfit reproduce personal`` at α = 0.5 with a constant learning rate,
where the last three of ten devices join in the last round. Prints a table in Markdown. Needs ``FEDFIT_DATA``.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from pathlib import Path

from fedfit.experiment.build import build
from fedfit.experiment.load import parse_recipe
from fedfit.experiment.validate import validate
from fedfit.records import DeviceScore
from fedfit.sweeps.personal import SIZES, base
from fedfit.sweeps.personal_methods import FDLORA, FEDAVG, FEDREP, FINE_TUNED, methods
from fedfit.tracking.memories import DeviceMemories

LINES = (FEDAVG, FINE_TUNED, FDLORA, "Ditto", FEDREP, "FedALT", "FedDPA", "PFTT")
RATE = 1e-2
LATE = (7, 8, 9)


def accuracies(line: str, late: bool, seed: int) -> tuple[float, float]:
    """Of the three devices after the last round, in percent: of the shared model, NaN where there is none, and of their own."""
    size = SIZES["small"]
    overrides = methods(size.rounds, size.steps)[line].overrides
    joins = [size.rounds if device in LATE and late else 1 for device in range(size.devices)]
    fixed = [f'data.source="{size.source}"', "partition.alpha=0.5", 'training.schedule="constant"', f"seed={seed}"]
    chosen = [*overrides, f"federation.rounds={size.rounds}", f"training.learning_rate={RATE}"]
    recipe = parse_recipe(base(size), [*fixed, *chosen, f"federation.joins={joins}"])
    validate(recipe)
    with tempfile.TemporaryDirectory() as folder:
        *_, last = build(recipe, memories=DeviceMemories(Path(folder))).run()
    scores = [score for score in last.scores if score.device in LATE]
    return _mean(scores, "shared"), _mean(scores, "")


def _mean(scores: list[DeviceScore], model: str) -> float:
    """The mean over ``scores`` of the accuracy of ``model``, or of the last of the models that a device has."""
    found = []
    for score in scores:
        names = [name for name in score.metrics if name.endswith("_accuracy") and name.startswith(model)]
        found.append(100 * score.metrics[names[-1]].value if names else float("nan"))
    return statistics.fmean(found)


def _cell(values: list[float]) -> str:
    if any(map(math.isnan, values)):
        return "–"
    return f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lines", nargs="*", default=LINES)
    asked = parser.parse_args()
    print("| method | joined in the last round: shared | own | there from the first: own |\n|---|---|---|---|")
    for line in asked.lines:
        late = [accuracies(line, True, seed) for seed in range(asked.seeds)]
        always = [accuracies(line, False, seed)[1] for seed in range(asked.seeds)]
        columns = [[shared for shared, _ in late], [own for _, own in late], always]
        print(f"| {line} | {' | '.join(map(_cell, columns))} |", flush=True)


if __name__ == "__main__":
    main()
