"""OpenMP's threads must not spin while they wait, unless the user wants them to."""

import os
import subprocess
import sys

import pytest

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.mark.parametrize(
    ("given", "policy"),
    [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"), ({"GOMP_SPINCOUNT": "9"}, None)],
)
def test_the_policy_after_the_import(given: dict[str, str], policy: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in NAMES} | given
    script = "import os, fedfit; print(os.environ.get('OMP_WAIT_POLICY'))"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(policy)


def test_openmp_of_torch_reads_it() -> None:
    """libgomp shows its settings when it is loaded, which is after fedfit has set them."""
    environment = {name: value for name, value in os.environ.items() if name not in NAMES} | {"OMP_DISPLAY_ENV": "VERBOSE"}
    done = subprocess.run(
        [sys.executable, "-c", "import fedfit, torch"], env=environment, capture_output=True, text=True, check=True
    )
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("this torch has another OpenMP than libgomp")
    assert "GOMP_SPINCOUNT = '0'" in done.stderr
