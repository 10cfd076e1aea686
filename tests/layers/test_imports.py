"""A file imports lower layers or its own room; the command line's light commands import nothing heavy."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fedfit

SOURCE = Path(fedfit.__file__).parent

# docs/architecture.md: the number of a room is its layer. The files of layer 0 may import one another; what only the command
# line uses is its room.
LAYERS = {
    "atomic": 0, "data_settings": 0, "errors": 0, "fleet_settings": 0, "hub_access": 0, "metric_names": 0, "plans": 0,
    "randomness": 0, "records": 0, "schema": 0, "settings": 0, "units": 0,
    "core": 0,
    "data": 1, "models": 1, "wireless": 1, "codecs": 1, "aggregation": 1, "reports": 1,
    "adapters": 2, "personalization": 2, "planning": 2, "rounds": 2, "tasks": 2, "tracking": 2,
    "simulation": 3,
    "experiment": 4,
    "sweeps": 5,
    "cli": 6,
}  # fmt: skip
ROOM_OF_FILE = {
    "__main__": "cli",
    "progress": "cli",
    "doctor": "cli",
    "terminal": "cli",
    "cli_chat": "cli",
    "cli_evaluate": "cli",
    "cli_plan": "cli",
    "cli_reproduce": "cli",
    "cli_sweep": "cli",
    "cli_study": "cli",
    "cli_use": "cli",
    "api": "cli",
}


def files() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    relative = path.relative_to(SOURCE)
    return relative.parts[0] if len(relative.parts) > 1 else ROOM_OF_FILE.get(relative.stem, relative.stem)


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Absolute names, wherever in the file they are imported: in a function or for types alone counts too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            assert node.module is not None
            if node.module == "fedfit":
                yield from (f"fedfit.{alias.name}" for alias in node.names)
            else:
                yield node.module


def breaches(path: Path, text: str) -> list[str]:
    """The rooms that ``path`` imports and must not."""
    own = room_of(path)
    found = []
    for module in imported_modules(ast.parse(text)):
        if not module.startswith("fedfit."):
            continue
        room = ROOM_OF_FILE.get(module.split(".")[1], module.split(".")[1])
        if room in ("__version__", own) or room in ("recipes", "fleets"):
            continue
        if LAYERS[room] > LAYERS[own] or (LAYERS[room] == LAYERS[own] > 0):
            found.append(room)
    return found


def test_every_room_has_a_layer_and_every_layered_room_is_there() -> None:
    rooms = {room_of(path) for path in files()} - {"__init__", "recipes", "fleets"}
    assert rooms == set(LAYERS)


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_a_file_imports_lower_layers_or_its_own_room(path: Path) -> None:
    if room_of(path) in ("__init__", "recipes", "fleets"):
        assert breaches_of_nobody(path) == []
        return
    assert breaches(path, path.read_text()) == []


def breaches_of_nobody(path: Path) -> list[str]:
    """The package itself imports the Python API and its errors alone, when they are first asked for."""
    found = imported_modules(ast.parse(path.read_text()))
    return [module for module in found if module.startswith("fedfit.") and module not in ("fedfit.api", "fedfit.errors")]


@pytest.mark.parametrize(
    "line",
    [
        "from fedfit.simulation.clock import FleetClock",
        "import fedfit.simulation.clock",
        "from fedfit import simulation",
        "def f():\n    from fedfit.codecs import plain",
        "if TYPE_CHECKING:\n    from fedfit.cli import app",
    ],
)
def test_a_breach_is_seen(line: str) -> None:
    assert len(breaches(SOURCE / "models" / "split.py", line)) == 1


def test_what_is_allowed_is_not_a_breach() -> None:
    text = (
        "import torch\nfrom fedfit.errors import ModelError\nfrom fedfit.models.layers import select_layers\nimport fedfitter"
    )
    assert breaches(SOURCE / "models" / "split.py", text) == []


HEAVY = ("torch", "flwr", "flwr_datasets", "transformers", "peft", "datasets")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["report", "--help"],
        ["report", "/no/such/run"],
        ["recipes"],
        ["recipes", "show", "demo"],
        ["plan", "three-devices"],
        ["plan", "city", "--policy", "per-device", "--drop-infeasible", "--json"],
        ["compare", "/a", "/b"],
    ],
    ids=" ".join,
)
def test_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys\n"
        "from fedfit.cli import app\n"
        "try:\n"
        f"    app({arguments!r})\n"
        "except SystemExit:\n"
        "    pass\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "sys.exit(f'imported: {loaded}' if loaded else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout or "error" in done.stderr


def test_a_heavy_import_would_be_seen() -> None:
    """Of a module that does need torch, to know that the check above can fail."""
    script = "import sys; import fedfit.codecs.plain; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 1
