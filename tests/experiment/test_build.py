"""What the run folder says of the devices."""

from pathlib import Path

from fedfit.experiment.build import build
from fedfit.settings import DataSettings, FederationSettings, ModelSettings, PartitionSettings, Recipe


def test_by_column_says_which_values_are_behind_each_device(tiny_bert: Path, tmp_path: Path) -> None:
    """Sites a (3 rows), b (2), c (1) over two devices, dealt out largest first: a and c, then b."""
    rows = ["text,label,site"] + [
        f"{word},{label},{site}" for word, label, site in zip("abcdef", "xyxyxy", "aaabbc", strict=True)
    ]
    file = tmp_path / "rows.csv"
    file.write_text("\n".join(rows) + "\n")
    recipe = Recipe(
        data=DataSettings(source="csv", train=str(file), test=str(file)),
        partition=PartitionSettings(kind="by_column", column="site"),
        model=ModelSettings(name=str(tiny_bert)),
        federation=FederationSettings(devices=2, devices_per_round=2),
    )
    experiment = build(recipe)
    behind = experiment.partition["devices"]
    assert sorted(behind) == [["a", "c"], ["b"]]
    sizes = [len(part) for part in experiment.simulation.parts]
    assert sizes == [4 if sites == ["a", "c"] else 2 for sites in behind]
